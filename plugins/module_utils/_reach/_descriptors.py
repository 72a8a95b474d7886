# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a QEMU has open, and what the file names that it reports mean to it.

QEMU may live in a root, a working directory and a mount namespace of its own, and its guest may own it. So nothing here
follows a name as the host would: each is walked link by link from the process's own root, with descriptors that only
stand for a place (O_PATH) and open nothing, and the result is only ever compared with what QEMU has open.

Everything here may block where storage hangs: call it through ``_threads.away``.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import re
import stat
from collections import deque
from typing import Collection, Iterator, Mapping, Sequence

from .._model._disk import is_local
from .._model._files import Bound, Descriptor, FileId, Inode, Kind, Named, Survey

MOST_DESCRIPTORS = 65_536
MOST_NAMES = 65_536
# Components of all names of a survey, links included.
MOST_STEPS = 500_000
# Linux gives up after so many, too.
_MOST_LINKS = 40
_LONGEST_NAME = 4095
_LONGEST_FDINFO = 64 * 1024
_LONGEST_MOUNTINFO = 4 * 1024 * 1024
_PROCESSES = "/proc"
_DELETED = " (deleted)"
# What a name must not lead through, by the type of the file system.
_AVOIDED = {"proc": "it leads through /proc, which shows each process another one"}
# To pass through an automount would have the kernel mount what the name says.
AVOIDED_IN_HEADERS = {**_AVOIDED, "autofs": "it leads through an automount, which is not followed"}
_PLACE = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
_REOPEN = os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
_FDSET = re.compile(r"/dev/fdset/([0-9]{1,9})")
# QEMU's locks lie on single bytes: 100 and up for what it does with an image, 200 and up for what others must not.
_FLAGS = re.compile(r"^flags:\s*([0-7]+)$", re.MULTILINE)
_FILE = re.compile(r"^(?:mnt_id|ino):\s*\d+$", re.MULTILINE)
_LOCK = re.compile(r"^lock:.*\bOFDLCK\b.* (?:1[0-5][0-9]|2[0-5][0-9]) [0-9]+$", re.MULTILINE)


class _Unknown(Exception):
    """A name cannot be followed; the text says why."""


def survey(pid: int | None, names: Collection[str], fdsets: Mapping[int, Sequence[int]]) -> Survey:
    """Look at the descriptors of a process, and follow each name once.

    :param pid: None where the process cannot be told, as behind a TCP monitor.
    :param fdsets: the descriptors of each set, by its id, as ``query-fdsets`` tells.
    """
    sets: dict[str, tuple[int, ...]] = {}
    here: dict[str, Named] = {}
    for name in names:
        numbers = _fdset(name, fdsets)
        if numbers is None:
            here[name] = _here(name)
        else:
            sets[name] = numbers
    if pid is None:
        return _blind("the process behind this monitor is not known", here, sets)
    with contextlib.ExitStack() as stack:
        try:
            process = open_into(stack, f"{_PROCESSES}/{pid}", os.O_PATH | os.O_DIRECTORY)
            descriptors = tuple(_descriptors(process))
            walk = Walk(stack, process, _AVOIDED)
        except _Unknown as error:
            return _blind(str(error), here, sets)
        except OSError as error:
            return _blind(f"what process {pid} has open cannot be seen: {error.strerror}", here, sets)
        found = {name: walk.find(name, seen_here) for name, seen_here in here.items()}
        return Survey(descriptors, found, sets)


def _blind(why: str, here: Mapping[str, Named], sets: Mapping[str, tuple[int, ...]]) -> Survey:
    return Survey(None, here, sets, why)


def _fdset(name: str, fdsets: Mapping[int, Sequence[int]]) -> tuple[int, ...] | None:
    match = _FDSET.fullmatch(name)
    if match is None:
        return None
    # A set that QEMU does not tell of has no descriptors any more; its name stays no file name.
    numbers = fdsets.get(int(match.group(1)), ())
    return tuple(numbers)


def open_into(stack: contextlib.ExitStack, path: str, flags: int, at: int | None = None) -> int:
    """Open a file until the stack is closed; ``at`` is the folder that a relative path begins in."""
    descriptor = os.open(path, flags | os.O_CLOEXEC, dir_fd=at)
    stack.callback(os.close, descriptor)
    return descriptor


def read_inode(status: os.stat_result) -> Inode:
    """What ``stat`` says, as far as it tells files apart."""
    kind: Kind = "other"
    number = 0
    if stat.S_ISREG(status.st_mode):
        kind = "regular"
    elif stat.S_ISBLK(status.st_mode):
        kind = "block"
        number = status.st_rdev
    file_id = FileId(status.st_dev, status.st_ino)
    return Inode(file_id, kind, number, deleted=status.st_nlink == 0)


def _inode_at(path: str) -> Inode | None:
    """What this host has there."""
    try:
        return read_inode(os.stat(path))
    # ValueError: what cannot be a file name
    except (OSError, ValueError):
        return None


def _here(name: str) -> Named:
    """What this host finds by an absolute name."""
    if _fault_of(name) or not name.startswith("/"):
        return Named()
    inode = _inode_at(name)
    if inode is None:
        return Named()
    return Named(here=os.path.realpath(name), inode_here=inode)


def reopen(pid: int, bound: Bound) -> int:
    """A read-only descriptor of our own of the file that QEMU has open, whatever it is called; the caller closes it.

    Whoever owns QEMU may put a terminal, a pipe or a watchdog behind the number, where opening alone does harm. So we
    first take the place only, look what it is, and open that.

    :raise OSError: it is not open any more, or may not be opened; ``strerror`` is meant for people.
    """
    error = OSError(errno.EBADF, "QEMU has closed it")
    for number in bound.descriptors:
        with contextlib.ExitStack() as stack:
            try:
                place = open_into(stack, f"{_PROCESSES}/{pid}/fd/{number}", os.O_PATH)
                found = read_inode(os.fstat(place))
                # QEMU may have closed the number, and got another file by it.
                if bound.inode is not None and found.identity == bound.inode.identity:
                    return os.open(f"/proc/self/fd/{place}", _REOPEN)
            except OSError as refused:
                error = refused
    raise error


# -- Descriptors -------------------------------------------------------------------------------------------------------


def _descriptors(process: int) -> Iterator[Descriptor]:
    """Each descriptor of a process that is not closed while we look."""
    with contextlib.ExitStack() as stack:
        numbers = open_into(stack, "fd", os.O_RDONLY | os.O_DIRECTORY, process)
        details = open_into(stack, "fdinfo", os.O_RDONLY | os.O_DIRECTORY, process)
        with os.scandir(numbers) as entries:
            found = [entry.name for entry in itertools.islice(entries, MOST_DESCRIPTORS + 1)]
        if len(found) > MOST_DESCRIPTORS:
            raise _Unknown(f"it has more than {MOST_DESCRIPTORS} files open")
        for number in found:
            # It was closed since the folder was read.
            with contextlib.suppress(FileNotFoundError):
                yield _descriptor(number, numbers, details)


def _descriptor(number: str, numbers: int, details: int) -> Descriptor:
    """One descriptor: what the kernel says of it, and of a place that we hold meanwhile."""
    inode = read_inode(os.stat(number, dir_fd=numbers))
    # No image can be on it: what it is called is enough, for messages.
    if inode.kind == "other":
        return Descriptor(int(number), inode, os.readlink(number, dir_fd=numbers))
    with contextlib.ExitStack() as stack:
        place = open_into(stack, number, os.O_PATH, numbers)
        inode = read_inode(os.fstat(place))
        path, unlinked = _place_of(_target(place), inode)
        text = _read(number, details, _LONGEST_FDINFO)
        flags = _flags(text, _read(f"/proc/self/fdinfo/{place}", None, _LONGEST_FDINFO))
    found_here = _inode_at(path)
    is_here = found_here is not None and found_here.identity == inode.identity
    # With O_PATH the kernel takes no notice of the access mode: nothing can be written through it.
    path_only = bool(flags & os.O_PATH)
    is_read_only = flags & os.O_ACCMODE == os.O_RDONLY
    return Descriptor(
        number=int(number),
        inode=inode,
        path=path,
        unlinked=unlinked,
        here=path if is_here else None,
        path_only=path_only,
        writable=not path_only and not is_read_only,
        locked=_LOCK.search(text) is not None,
    )


def _flags(theirs: str, ours: str) -> int:
    """The flags in the fdinfo of a descriptor, if it is of the same inode as our own; else those that prove nothing.

    Whoever owns QEMU may put another file behind the number between two looks. Linux before 5.14 tells no inode here,
    and ``stat`` cannot serve for it: overlayfs has another number there.
    """
    match = _FLAGS.search(theirs)
    is_same_file = _FILE.findall(theirs) == _FILE.findall(ours)
    if match is None or not is_same_file:
        return os.O_PATH
    return int(match.group(1), 8)


def _place_of(target: str, inode: Inode) -> tuple[str, bool]:
    """Take the kernel's `` (deleted)`` off, unless it belongs to the name of a file that is there."""
    if not target.endswith(_DELETED):
        return target, False
    # The name alone proves nothing: who owns QEMU can put a file of that name there.
    if not inode.deleted and _inode_at(target) == inode:
        return target, False
    return target[: -len(_DELETED)], True


def _target(descriptor: int) -> str:
    """What the kernel calls the place of one of our own descriptors."""
    return os.readlink(f"/proc/self/fd/{descriptor}")


def _read(path: str, folder: int | None, most: int) -> str:
    """The beginning of a file of /proc."""
    with contextlib.ExitStack() as stack:
        file = open_into(stack, path, _READ, folder)
        parts = []
        # /proc gives a page or so at a time, also to who asks for more.
        while most > 0:
            part = os.read(file, most)
            if not part:
                break
            parts.append(part)
            most -= len(part)
    return b"".join(parts).decode(errors="replace")


# -- Names -------------------------------------------------------------------------------------------------------------


def _fault_of(name: str) -> str:
    """Why a name cannot be that of a file, if so."""
    if not is_local(name):
        return "it is reached by a protocol, not as a file"
    try:
        encoded = os.fsencode(name)
    except UnicodeEncodeError:
        return "it is no file name"
    if not encoded or b"\0" in encoded or len(encoded) > _LONGEST_NAME:
        return "it is no file name"
    return ""


class Walk:
    """Follows names from the root and the working directory of a process.

    :param avoided: types of file systems that it does not pass through, and why.
    """

    def __init__(self, stack: contextlib.ExitStack, process: int, avoided: Mapping[str, str]):
        self._root = open_into(stack, "root", os.O_PATH | os.O_DIRECTORY, process)
        self._directory = open_into(stack, "cwd", os.O_PATH | os.O_DIRECTORY, process)
        self._avoided = _avoided_devices(_read("mountinfo", process, _LONGEST_MOUNTINFO), avoided)
        self._names_left = MOST_NAMES
        self._steps_left = MOST_STEPS

    def find(self, name: str, here: Named) -> Named:
        """Where a name leads."""
        self._names_left -= 1
        fault = _fault_of(name)
        if fault:
            return Named(why=fault)
        if self._names_left < 0:
            return Named(why=f"there are more than {MOST_NAMES} names")
        with contextlib.ExitStack() as stack:
            try:
                inode, path = self._follow(name, stack)
            except _Unknown as error:
                return Named(why=str(error), here=here.here, inode_here=here.inode_here)
            except OSError as error:
                why = f"it cannot be followed: {error.strerror}"
                return Named(why=why, here=here.here, inode_here=here.inode_here)
        return Named(inode, path, here=here.here, inode_here=here.inode_here)

    def _follow(self, name: str, stack: contextlib.ExitStack) -> tuple[Inode | None, str]:
        """The inode at the end of a name, and where the kernel says that it is."""
        place = _Place(self._start_of(name))
        stack.callback(place.close)
        parts = deque(name.split("/"))
        links = 0
        while parts:
            part = self._next(parts)
            # As for the kernel: above the root of a process is its root, whatever the host has there.
            is_above_root = part == ".." and place.is_at(self._root)
            if part in ("", ".") or is_above_root:
                continue
            try:
                text = place.enter(part)
            except FileNotFoundError:
                return None, _missing(place.path, part, parts)
            why = self._avoided.get(place.status.st_dev)
            if why is not None:
                raise _Unknown(why)
            if text is not None:
                # A link stands for its text, which begins again at the root where it is absolute.
                links += 1
                parts.extendleft(reversed(text.split("/")))
                if text.startswith("/"):
                    place.jump(self._root)
            if links > _MOST_LINKS:
                raise _Unknown(f"it leads through more than {_MOST_LINKS} links")
        return read_inode(place.status), place.path

    def _start_of(self, name: str) -> int:
        return self._root if name.startswith("/") else self._directory

    def _next(self, parts: deque[str]) -> str:
        self._steps_left -= 1
        if self._steps_left < 0:
            raise _Unknown(f"all names together have more than {MOST_STEPS} parts")
        return parts.popleft()


class _Place:
    """A place in the tree of files, that opens nothing but stays what it is when names change."""

    def __init__(self, start: int):
        self._descriptor = os.dup(start)

    @property
    def status(self) -> os.stat_result:
        return os.fstat(self._descriptor)

    @property
    def path(self) -> str:
        """What the kernel calls it, in the words of every other link in /proc."""
        return _target(self._descriptor)

    def is_at(self, other: int) -> bool:
        return os.path.samestat(self.status, os.fstat(other))

    def enter(self, part: str) -> str | None:
        """Take one step. A link is not followed: its text is returned, and the place stays."""
        step = os.open(part, _PLACE, dir_fd=self._descriptor)
        if stat.S_ISLNK(os.fstat(step).st_mode):
            try:
                return os.readlink("", dir_fd=step)
            finally:
                os.close(step)
        self._move(step)
        return None

    def jump(self, to: int) -> None:
        self._move(os.dup(to))

    def close(self) -> None:
        os.close(self._descriptor)

    def _move(self, descriptor: int) -> None:
        os.close(self._descriptor)
        self._descriptor = descriptor


def _missing(folder: str, part: str, rest: Collection[str]) -> str:
    """What the kernel would call a file that is not there; a folder above it may be missing as well."""
    if ".." in rest:
        raise _Unknown("it leads through a folder that is not there, and back")
    parts = [folder.rstrip("/"), part]
    for each in rest:
        if each not in ("", "."):
            parts.append(each)
    return "/".join(parts)


def _avoided_devices(mounts: str, avoided: Mapping[str, str]) -> dict[int, str]:
    """The device numbers of every /proc, and the like, in sight; ``36 35 98:0 / /proc rw - proc proc rw`` is a line."""
    found: dict[int, str] = {}
    for match in re.finditer(r"^\S+ \S+ (\d+):(\d+) .* - (\S+) ", mounts, re.MULTILINE):
        if match.group(3) in avoided:
            found[os.makedev(int(match.group(1)), int(match.group(2)))] = avoided[match.group(3)]
    # Also where the list of mounts does not show it.
    found[os.stat("/proc").st_dev] = avoided["proc"]
    return found
