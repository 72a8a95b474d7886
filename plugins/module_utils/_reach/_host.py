# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the hypervisor knows beside its monitors: files, file systems, processes, and who is at the ends of a socket."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import glob
import os
import re
import stat
import struct
from typing import Callable, Collection, Iterator, Mapping, Sequence, Tuple

from .._model._address import UnixAddress
from .._model._errors import HostSilent
from .._model._files import FileId, FreeSpace, Traces
from ._threads import away

# As long as QEMU itself may take for a flush.
_WRITE_OUT_SECONDS = 600.0
# A folder of sockets is in memory, and a listing of all sockets takes milliseconds.
_FOLDER_SECONDS = 30.0
_SS_SECONDS = 5.0

# Runs a command, and returns its exit code, stdout and stderr.
RunCommand = Callable[[Sequence[str]], Tuple[int, str, str]]


class LinuxHost:
    """The machine that this runs on, through the calls of the system and /proc; see ``_observe.Host``."""

    def __init__(self, run_command: RunCommand):
        self._run_command = run_command

    async def expand(self, pattern: str) -> Sequence[str] | None:
        """The sockets that a glob finds."""
        return await away(_expand, pattern, seconds=_FOLDER_SECONDS, what=f"the folder of {pattern}")

    def working_directory(self, pid: int | None) -> str | None:
        """Where a process resolves relative names."""
        if pid is None:
            return None
        try:
            return os.readlink(f"/proc/{pid}/cwd")
        except OSError:
            return None

    def real_path(self, path: str, directory: str | None) -> str | None:
        """The absolute path without links."""
        if directory is None and not os.path.isabs(path):
            return None
        return os.path.realpath(os.path.join(directory or "/", path))

    def header_backing(self, file: str) -> str | None:
        """The backing image that a qcow2 header names; magic, version, the name's place and its length come first."""
        try:
            with open(file, "rb") as image:
                magic, _version, place, length = struct.unpack(">4sIQI", image.read(20))
                if magic != b"QFI\xfb":
                    return None
                image.seek(place)
                return image.read(length if place else 0).decode(errors="surrogateescape")
        except (OSError, ValueError, struct.error):
            return None

    def free_space(self, file: str) -> FreeSpace | None:
        """The file system of a regular file."""
        status = _stat(file)
        if status is None or not stat.S_ISREG(status.st_mode):
            return None
        free = os.statvfs(file)
        return FreeSpace(status.st_dev, free.f_bavail * free.f_frsize)

    async def write_out(self, file: str) -> bool:
        """Write out a regular file, in a process of its own: if the storage hangs, only that process hangs with it."""
        status = _stat(file)
        if status is None or not stat.S_ISREG(status.st_mode):
            return True
        nothing = asyncio.subprocess.DEVNULL
        try:
            process = await asyncio.create_subprocess_exec(
                "sync", "--data", file, stdin=nothing, stdout=nothing, stderr=nothing
            )
        except OSError:  # there is no such program, and QEMU's flush has to do it all
            return True
        end = asyncio.ensure_future(process.wait())
        try:
            await asyncio.wait({end}, timeout=_WRITE_OUT_SECONDS)
            return end.done()
        finally:
            if not end.done():
                with contextlib.suppress(ProcessLookupError):  # it has just ended
                    process.kill()
                await asyncio.wait({end}, timeout=1)  # and no longer: where storage hangs, no signal reaches it

    async def who_serves(self, address: str) -> str:
        """The processes at both ends of a UNIX socket, as ``ss`` (package iproute2) tells them."""
        try:
            return await away(self._who_serves, address, seconds=_SS_SECONDS, what="ss")
        except HostSilent:
            return ""

    def _who_serves(self, address: str) -> str:
        try:
            _code, listing, _stderr = self._run_command(["ss", "-xanpH"])
        except OSError:
            return ""
        return describe_socket(listing, address, _runs_block_stream)

    def opened_files(self, pid: int | None, files: Collection[str]) -> Mapping[str, FileId]:
        """The identity of files. A name alone proves little: another file may have it by now."""
        named = {file: each for file in files for each in [_file_id(file)] if each is not None}
        if pid is None or not os.access(f"/proc/{pid}/fd", os.R_OK):
            return named  # only root may look
        opened = set(_opened_by(pid))
        return {file: each for file, each in named.items() if each in opened}

    def traces(self, files: Mapping[str, FileId]) -> Mapping[str, Traces]:
        """Who has the files open, in one walk through /proc. Only root sees what other users' processes have open."""
        present = {file: each for file, each in files.items() if _file_id(file) == each}
        if not present:
            return {}
        processes: dict[FileId, dict[int, str]] = {each: {} for each in present.values()}
        for pid in (int(name) for name in os.listdir("/proc") if name.isdigit()):
            for each in processes.keys() & set(_opened_by(pid)):
                processes[each][pid] = _process_name(pid)
        sees_all = os.geteuid() == 0
        loops = dict(_loop_devices())
        mounts = _mounts()
        return {
            file: Traces(
                is_regular=os.path.isfile(file),
                file_system=next((kind for point, kind in mounts if _is_below(file, point)), "unknown"),
                processes=processes[each] if sees_all else None,
                devices=[loop for loop, held in loops.items() if held == each],
            )
            for file, each in present.items()
        }


def _expand(pattern: str) -> Sequence[str] | None:
    if os.path.lexists(pattern):
        return None  # web[0].qmp is a name that a socket may have
    return [str(UnixAddress(path)) for path in sorted(glob.glob(pattern)) if _is_socket(path)]


def _runs_block_stream(pid: int) -> bool:
    """Whether a process is a run of this collection: Ansible's wrapper, or the module by its file or name."""
    words = _read(f"/proc/{pid}/cmdline").split("\0")
    return any(re.search(r"(^|[/.]|AnsiballZ_)block_stream(_info)?(\.py)?$", word) for word in words)


def _is_socket(path: str) -> bool:
    status = _stat(path)
    return status is not None and stat.S_ISSOCK(status.st_mode)


def _stat(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except OSError:
        return None


def _read(path: str) -> str:
    try:
        with open(path, errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def _file_id(path: str) -> FileId | None:
    status = _stat(path)
    return None if status is None else FileId(status.st_dev, status.st_ino)


def _opened_by(pid: int) -> Iterator[FileId]:
    """Every open file of a process; nothing where it ended meanwhile, or may not be looked at."""
    try:
        descriptors = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return
    for descriptor in descriptors:
        each = _file_id(f"/proc/{pid}/fd/{descriptor}")
        if each is not None:
            yield each


def _process_name(pid: int) -> str:
    return _read(f"/proc/{pid}/comm").strip() or "a process"


def _loop_devices() -> Iterator[tuple[str, FileId]]:
    """The loop devices and their files: the kernel has them open, no process does.

    LOOP_GET_STATUS64 answers with the file's device and inode first. The name in /sys leads nowhere where the device
    was attached in another mount namespace.
    """
    for path in glob.glob("/dev/loop[0-9]*"):
        with contextlib.suppress(OSError), open(path, "rb") as device:
            status = fcntl.ioctl(device, 0x4C05, bytes(232))
            yield os.path.basename(path), FileId(*struct.unpack("QQ", status[:16]))


def _mounts() -> list[tuple[str, str]]:
    """The mount points and the types of their file systems, those further down first.

    A line of mountinfo is ``36 35 98:0 / /mnt/parent rw - ext4 /dev/root rw``, with octal escapes for blanks.
    """
    lines = [line.split(" ") for line in _read("/proc/self/mountinfo").splitlines()]
    unescaped = ((re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), words[4]), words) for words in lines)
    found = [(point, words[words.index("-") + 1]) for point, words in unescaped]
    found.reverse()  # of two mounts on one point the later one is seen
    return sorted(found, key=lambda mount: len(mount[0]), reverse=True)


def _is_below(file: str, point: str) -> bool:
    return file == point or file.startswith(point.rstrip("/") + "/")


def describe_socket(listing: str, address: str, is_ours: Callable[[int], bool] = lambda pid: False) -> str:
    """Find in the output of ``ss -xanpH`` who owns a UNIX socket and which client it serves.

    A line is: ``u_str ESTAB 0 0 PATH INODE * PEER users:(("NAME",pid=PID,fd=FD))``. A server's end bears the path, the
    client's end is the line whose inode is the peer. Clients in the queue are connected, too, but no process has their
    server's end open.

    :param is_ours: whether a process is another run of this collection.
    """
    lines = [line.split() for line in listing.splitlines()]
    rows = [(row[1], row[4], row[5], row[7], _user(row[8] if len(row) > 8 else "")) for row in lines if len(row) >= 8]
    owner = next(
        (user for state, path, _inode, _peer, user in rows if state == "LISTEN" and path == address and user), None
    )
    served = {peer for state, path, _inode, peer, user in rows if state == "ESTAB" and path == address and user}
    client = next((user for _state, _path, inode, _peer, user in rows if inode in served and user), None)
    if owner is None:
        return ""
    if client is None or client[1] == os.getpid():
        return f"{_named(owner)} owns the socket"
    whose = ", another run of this collection" if is_ours(client[1]) else ""
    return f"{_named(owner)} owns the socket and serves {_named(client)}{whose}"


def _named(user: tuple[str, int]) -> str:
    return f"{user[0]} (pid {user[1]})"


def _user(field: str) -> tuple[str, int] | None:
    match = re.search(r'\("([^"]+)",pid=(\d+)', field)
    return (match.group(1), int(match.group(2))) if match else None
