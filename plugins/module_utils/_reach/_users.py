# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Who has a file open: names for a message, and no proof. That nobody has only the kernel knows (``_lease``)."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import os
import re
import struct
from typing import Collection, Iterable, Iterator

from .._model._files import FileId, KnownFile, Users
from ._mounts import Mount, read_mounts, read_text, unescape

# A descriptor with this flag names a file, and does not have it open.
_O_PATH = os.O_PATH


def find_users(files: Collection[KnownFile]) -> dict[KnownFile, Users]:
    """The users of files, in one walk through /proc."""
    wanted = _by_every_id(files)
    if not wanted:
        return {}
    processes: dict[FileId, dict[int, str]] = {each: {} for each in wanted.values()}
    saw_all = True
    pids = map(int, filter(str.isdigit, os.listdir("/proc")))
    for pid in pids:
        saw_all = saw_all and _may_look(pid)
        for each in opened_by(pid, wanted) | _mapped_by(pid, wanted):
            processes[wanted[each]][pid] = _process_name(pid)
    kernel = _kernel_users()
    found: dict[KnownFile, Users] = {}
    for file in files:
        if file.id is not None:
            devices = kernel.get(file.id, [])
            found[file] = Users(processes[file.id], tuple(devices), saw_all)
    return found


def opened_by(pid: int, wanted: Collection[FileId]) -> set[FileId]:
    """Which of these files a process has open; none where it has ended, or may not be looked at."""
    found: set[FileId] = set()
    for table in _descriptor_tables(pid):
        for descriptor in _list(table):
            each = file_id(f"{table}/{descriptor}")
            if each is None or each in found or each not in wanted:
                continue
            # The costly look comes last: hardly any descriptor gets here.
            if _is_open(table, descriptor):
                found.add(each)
    return found


def _may_look(pid: int) -> bool:
    try:
        # The kernel asks for the same rights here as for the descriptors.
        os.readlink(f"/proc/{pid}/root")
    except PermissionError:
        return False
    except OSError:
        # It has ended, and so uses nothing.
        return True
    return True


def _descriptor_tables(pid: int) -> Iterator[str]:
    """The tables of a process: one for all its threads; but that of its first thread is empty once this has ended."""
    if _list(f"/proc/{pid}/fd"):
        yield f"/proc/{pid}/fd"
        return
    for thread in _list(f"/proc/{pid}/task"):
        yield f"/proc/{pid}/task/{thread}/fd"


def _is_open(table: str, descriptor: str) -> bool:
    details = read_text(f"{table}info/{descriptor}")
    flags = re.search(r"^flags:\s*([0-7]+)", details, re.MULTILINE)
    # Better a user too many than one too few.
    return flags is None or not int(flags[1], 8) & _O_PATH


def _mapped_by(pid: int, wanted: Collection[FileId]) -> set[FileId]:
    """Which of these files a process has mapped into its memory, where no descriptor is needed any more.

    A line is ``7f00-7f80 r--s 00000000 fd:00 2146631    /vms/base``. On btrfs and overlays its device is not the one
    that stat() tells; then only the link in map_files, which not everybody may follow, leads to the file.
    """
    inodes = "|".join(str(each.inode) for each in wanted)
    found: set[FileId | None] = set()
    for line in re.finditer(rf"^(\S+) \S+ \S+ (\w+):(\w+) ({inodes})\b", _maps(pid), re.MULTILINE):
        device = os.makedev(int(line[2], 16), int(line[3], 16))
        found.add(FileId(device, int(line[4])))
        found.add(file_id(f"/proc/{pid}/map_files/{line[1]}"))
    return set(wanted).intersection(found)


def _maps(pid: int) -> str:
    """What a process has mapped. Every thread tells the same, but nothing once it has ended, as the first may have."""
    own = read_text(f"/proc/{pid}/maps")
    if own:
        return own
    text = ""
    for thread in _list(f"/proc/{pid}/task"):
        text += read_text(f"/proc/{pid}/task/{thread}/maps")
    return text


def _process_name(pid: int) -> str:
    return read_text(f"/proc/{pid}/comm").strip() or "a process"


def _kernel_users() -> dict[FileId, list[str]]:
    """The files that the kernel itself has open, each with what for."""
    users: dict[FileId, list[str]] = {}
    for name, each in [*_loop_devices(), *_swap_files()]:
        users.setdefault(each, []).append(name)
    return users


def _loop_devices() -> Iterator[tuple[str, FileId]]:
    """The loop devices and their files: the kernel has them open, no process does.

    LOOP_GET_STATUS64 answers with the file's device and inode first. The name in /sys leads nowhere where the device
    was attached in another mount namespace.
    """
    for path in glob.glob("/dev/loop[0-9]*"):
        # One that has no file answers ENXIO; that says nothing of the others.
        with contextlib.suppress(OSError), open(path, "rb") as device:
            status = fcntl.ioctl(device, 0x4C05, bytes(232))
            yield os.path.basename(path), FileId(*struct.unpack("QQ", status[:16]))


def _swap_files() -> Iterator[tuple[str, FileId]]:
    """The files that the kernel swaps to, by the names that they had then."""
    # The first line has the titles.
    for line in read_text("/proc/swaps").splitlines()[1:]:
        each = file_id(unescape(line.split()[0]))
        if each is not None:
            yield "swap", each


def _by_every_id(files: Collection[KnownFile]) -> dict[FileId, FileId]:
    """What the files are as themselves, and as seen through the overlays above them, which number them anew."""
    ids: dict[FileId, FileId] = {}
    for file in files:
        if file.id is not None:
            ids[file.id] = file.id
    # A host of containers has thousands of mounts, which need not be read for nothing.
    if not ids:
        return ids
    for mount, layer in _layers_of_overlays():
        for file in files:
            seen = _seen_through(mount, layer, file)
            if seen is not None and file.id is not None:
                ids.setdefault(seen, file.id)
    return ids


def _layers_of_overlays() -> Iterator[tuple[Mount, str]]:
    for mount in read_mounts():
        for layer in mount.layers:
            yield mount, layer


def _seen_through(mount: Mount, layer: str, file: KnownFile) -> FileId | None:
    """What a file of a layer is in the overlay, unless a layer further up has another one of that name."""
    folder = layer.rstrip("/")
    if not file.path.startswith(f"{folder}/"):
        return None
    inside = file.path[len(folder) :]
    if _shown_by(mount.layers, inside) != file.id:
        return None
    return file_id(f"{mount.point}{inside}")


def _shown_by(layers: Iterable[str], inside: str) -> FileId | None:
    """What the upper one of the layers has by this name, which hides what the others have."""
    found = filter(None, (file_id(f"{layer}{inside}") for layer in layers))
    return next(found, None)


def file_id(path: str) -> FileId | None:
    """What has a name now; None where nothing has, or it cannot be reached."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return FileId(status.st_dev, status.st_ino)


def _list(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []
