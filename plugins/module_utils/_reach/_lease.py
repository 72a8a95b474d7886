# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Ask the kernel whether a file is open anywhere on this host.

A walk through /proc proves nothing: it misses other users' processes without CAP_SYS_PTRACE, other PID namespaces,
descriptors in flight, and all that the kernel itself has open. The kernel counts: it grants a write lease on a file
(``F_SETLEASE``) only to the one and only open file on it, whoever has the others open and by whatever name.

While the lease is held, who opens the file waits (at most ``/proc/sys/fs/lease-break-time``, 45 s), and the holder gets
a signal, SIGIO unless told otherwise, which would end the process. Kernels before 5.3 look at the directory entry, too,
and refuse more often than they need to.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import stat
import time
from typing import Collection, Iterator

from .._model._files import FileId, Granted, KnownFile, Lease
from ._descriptors import open_into
from ._mounts import file_system_of, read_text

# Who has just closed the file, or asks the same question at the same moment, is no user: 0.3 s in all.
PAUSES = (0.01, 0.02, 0.04, 0.08, 0.15)

# Where an administrator can switch leases off, which reads like a file system that knows none.
_SWITCH = "/proc/sys/fs/leases-enable"

# What file systems say that know no leases.
_NO_LEASES = (errno.EINVAL, errno.ENOLCK, errno.EOPNOTSUPP)
_NO_RIGHT = (errno.EACCES, errno.EPERM)


class LeasedFile:
    """A file that nobody else can open while ``lease`` is granted; then ``descriptor`` is open on it, for reading."""

    def __init__(self, lease: Lease, descriptor: int = -1):
        self.lease = lease
        self.descriptor = descriptor

    def is_awaited(self) -> bool:
        """Whether somebody waits to open the file: who has passed the check of its rights before they were changed."""
        return fcntl.fcntl(self.descriptor, fcntl.F_GETLEASE) != fcntl.F_WRLCK


@contextlib.contextmanager
def hold_lease(file: KnownFile) -> Iterator[LeasedFile]:
    """Try to have a file for this process alone, until the block ends."""
    with contextlib.ExitStack() as opened:
        try:
            leased = _take(file, opened)
        except (FileNotFoundError, NotADirectoryError):
            leased = LeasedFile(Lease(Granted.GONE))
        except OSError as error:
            leased = LeasedFile(Lease(Granted.UNKNOWN, why=f"the file cannot be reached: {error.strerror}"))
        yield leased


def try_lease(file: KnownFile) -> Lease:
    """Whether a file is open anywhere, at this moment."""
    with hold_lease(file) as leased:
        return leased.lease


def try_leases(files: Collection[KnownFile]) -> dict[KnownFile, Lease]:
    """The same for several files; those that are refused are tried again for a moment, all together."""
    leases = {file: try_lease(file) for file in files}
    for pause in PAUSES:
        refused = [file for file, lease in leases.items() if lease.granted is Granted.NO]
        if not refused:
            break
        time.sleep(pause)
        for file in refused:
            leases[file] = try_lease(file)
    return leases


def _take(file: KnownFile, opened: contextlib.ExitStack) -> LeasedFile:
    # To open something can block (a FIFO), or act (a watchdog device). O_PATH does neither, and the second open goes
    # by the first, so that nobody can put another file there in between.
    place = open_into(opened, file.path, os.O_PATH | os.O_NOFOLLOW)
    status = os.fstat(place)
    if FileId(status.st_dev, status.st_ino) != file.id:
        return LeasedFile(Lease(Granted.OTHER, file_system_of(place)))
    if not stat.S_ISREG(status.st_mode):
        return LeasedFile(Lease(Granted.NOT_REGULAR, file_system_of(place)))
    return take_lease(place, opened)


def take_lease(place: int, opened: contextlib.ExitStack) -> LeasedFile:
    """Try to have a regular file for this process alone, until ``opened`` is closed.

    :param place: a descriptor with O_PATH on it, so that its name, and what is there now, do not matter.
    """
    file_system = file_system_of(place)
    try:
        descriptor = open_into(opened, f"/proc/self/fd/{place}", os.O_RDONLY | os.O_NONBLOCK)
    # Somebody else holds a lease, and so has it open.
    except BlockingIOError:
        return LeasedFile(Lease(Granted.NO, file_system))
    except OSError as error:
        return LeasedFile(Lease(Granted.UNKNOWN, file_system, f"it cannot be opened: {error.strerror}"))
    try:
        # Ignored unless somebody asks for it, in any thread, and no handler has to be set and restored.
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    except BlockingIOError:
        return LeasedFile(Lease(Granted.NO, file_system))
    except OSError as error:
        return LeasedFile(Lease(Granted.UNKNOWN, file_system, _why_unknown(error, file_system)))
    # To close it may not be enough: a process that is being started shares it until it has become another program.
    opened.callback(fcntl.fcntl, descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return LeasedFile(Lease(Granted.YES, file_system), descriptor)


def _why_unknown(error: OSError, file_system: str) -> str:
    if error.errno in _NO_RIGHT:
        return "only its owner and root (CAP_LEASE) may ask the kernel"
    if error.errno not in _NO_LEASES:
        return f"the kernel grants no lease on it: {error.strerror}"
    if _are_switched_off():
        return "leases are switched off on this host (fs.leases-enable is 0)"
    return f"{file_system} grants no leases"


def _are_switched_off() -> bool:
    return read_text(_SWITCH).strip() == "0"
