# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the hypervisor knows beside its monitors: files, file systems, processes, and who is at the ends of a socket."""

from __future__ import annotations

import contextlib
import glob
import os
import re
import resource
import stat
from typing import TYPE_CHECKING, Callable, Collection, Mapping, Sequence, Tuple

from .._model._address import UnixAddress
from .._model._errors import HostSilent
from .._model._files import Bound, FreeSpace, Granted, KnownFile, Lease, Survey, Users
from .._model._header import Reading
from ._descriptors import reopen, survey
from ._header import read_header
from ._mounts import read_mounts, read_text
from ._runs import NAME_OF_OURS
from ._threads import away
from ._writeback import WriteBack

if TYPE_CHECKING:
    from .._model._images import Search
    from .._model._map import Layer, MapTotals, NoMap

# A look at files takes milliseconds, unless their storage hangs.
_ANSWER_SECONDS = 30.0
# A map takes milliseconds as well, unless an image has millions of fragments.
_MAP_SECONDS = 120.0
# Thousands of headers take a second, unless their storage is slow.
_SEARCH_SECONDS = 300.0
# As long as QEMU itself may take for a flush.
_WRITE_OUT_SECONDS = 600.0
# A folder of sockets is in memory, and a listing of all sockets takes milliseconds.
_FOLDER_SECONDS = 30.0
_SS_SECONDS = 5.0

# What hundreds of streams at a time take: each a monitor, its images, and what writes them out. A process may have 1024
# unless it asks for more.
_DESCRIPTORS = 16_384

# Runs a command, and returns its exit code, stdout and stderr.
RunCommand = Callable[[Sequence[str]], Tuple[int, str, str]]


class LinuxHost:
    """The machine that this runs on, through the calls of the system and /proc; see ``_observe.Host``."""

    def __init__(self, run_command: RunCommand):
        self._run_command = run_command

    def make_ready(self) -> None:
        """Load what the end of a stream takes, so that nobody waits for it then."""
        from . import _lease, _map, _users  # noqa: F401

    async def expand(self, pattern: str) -> Sequence[str] | None:
        """The sockets that a glob finds."""
        return await away(_expand, pattern, seconds=_FOLDER_SECONDS, what=f"the folder of {pattern}")

    async def survey(self, pid: int | None, names: Collection[str], fdsets: Mapping[int, Sequence[int]]) -> Survey:
        """What a process has open, and what file names mean to it and to this host."""
        what = "what QEMU has open" if pid is None else f"the storage of what process {pid} has open"
        return await away(survey, pid, names, fdsets, seconds=_ANSWER_SECONDS, what=what)

    async def headers(self, pid: int | None, images: Sequence[tuple[Bound, str]]) -> Sequence[Reading]:
        """What the headers of images say."""
        return await away(_read_headers, pid, images, seconds=_ANSWER_SECONDS, what="the storage of the active images")

    async def free_space(self, pid: int | None, bound: Bound) -> FreeSpace | None:
        """The file system of a regular file."""
        try:
            return await away(_free_space, pid, bound, seconds=_ANSWER_SECONDS)
        except HostSilent:
            return None

    async def hold(self, pid: int | None, files: Sequence[Bound], name: str) -> HeldFiles | None:
        """Open the files of an image by QEMU's own descriptors."""
        if pid is None or any(bound.inode is None for bound in files):
            return None
        try:
            return await away(HeldFiles, pid, files, name, seconds=_ANSWER_SECONDS)
        except (OSError, HostSilent):
            return None

    async def read_map(self, pid: int | None, layers: Sequence[Layer], base_depth: int | None) -> MapTotals | NoMap:
        """Ask qemu-img, which runs as QEMU's own user."""
        # Loaded while a stream runs, as below: what is populated already has no need of it.
        from .._model._map import NoMap
        from ._map import read_map, user_of

        if pid is None:
            return NoMap("the process behind this monitor is not known")
        try:
            user = await away(user_of, pid, seconds=_ANSWER_SECONDS, what=f"/proc/{pid}")
        except OSError:
            return NoMap("QEMU has ended")
        return await read_map(pid, layers, base_depth=base_depth, user=user, seconds=_MAP_SECONDS)

    async def remote_devices(self) -> Collection[int]:
        """The file systems that are other hosts', by their device numbers; none where that cannot be told."""
        try:
            return await away(_remote_devices, seconds=_ANSWER_SECONDS, what="/proc")
        except HostSilent:
            return ()

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
        return describe_socket(listing, address, _is_stopped)

    async def leases(self, files: Collection[KnownFile]) -> Mapping[KnownFile, Lease]:
        """Ask the kernel whether the files are open anywhere."""
        from ._lease import try_leases

        try:
            return await away(try_leases, files, seconds=_ANSWER_SECONDS)
        except HostSilent as error:
            return {file: Lease(Granted.UNKNOWN, why=str(error)) for file in files}

    async def users(self, files: Collection[KnownFile]) -> Mapping[KnownFile, Users]:
        """Find who has the files open, in one walk through /proc."""
        from ._users import find_users

        try:
            return await away(find_users, files, seconds=_ANSWER_SECONDS)
        except HostSilent:
            return {}

    async def search(self, files: Collection[KnownFile], folders: Sequence[str]) -> Search:
        """Read the headers of all images in the folders."""
        # Loaded here, and only here: most tasks do without.
        from .._model._images import Asked, Search, Unread
        from ._images import search

        what = "the storage of the images"
        # It ends by itself, unless the storage hangs.
        seconds = _SEARCH_SECONDS + _ANSWER_SECONDS
        try:
            return await away(search, files, folders, _SEARCH_SECONDS, seconds=seconds, what=what)
        except HostSilent as error:
            unread = [Unread(folder, str(error)) for folder in folders]
            return Search(tuple(folders), dict.fromkeys(files, Asked()), tuple(unread), len(unread))


class HeldFiles:
    """The files of an image, open since before a stream began; see ``_seams.Held``."""

    def __init__(self, pid: int, files: Sequence[Bound], name: str):
        self._files = [WriteBack.open(pid, bound, name) for bound in files]

    async def flush(self) -> None:
        """Have the kernel bring all that was written to the storage."""
        for file in self._files:
            await file.flush(_WRITE_OUT_SECONDS)

    def forget(self) -> None:
        """Have the kernel drop what it keeps in its memory of the files."""
        for file in self._files:
            file.forget_cache()

    def close(self) -> None:
        """Let go of the files."""
        for file in self._files:
            file.close()


def allow_descriptors() -> None:
    """Let this process have as many open files as it may need, or as many as it may have at all."""
    soft, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if most == resource.RLIM_INFINITY else min(_DESCRIPTORS, most)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


def _read_headers(pid: int | None, images: Sequence[tuple[Bound, str]]) -> list[Reading]:
    return [read_header(pid, bound, format) for bound, format in images]


def _free_space(pid: int | None, bound: Bound) -> FreeSpace | None:
    """By QEMU's own descriptor, or else by the name: nothing is decided by it but whether there is room."""
    try:
        if pid is None or bound.inode is None:
            return None if bound.file is None else _room_at(bound.file)
        descriptor = reopen(pid, bound)
    except OSError:
        return None
    try:
        with contextlib.suppress(OSError):
            return _room_at(descriptor)
    finally:
        os.close(descriptor)
    return None


def _room_at(file: int | str) -> FreeSpace | None:
    status = os.stat(file)
    if not stat.S_ISREG(status.st_mode):
        return None
    free = os.statvfs(file)
    return FreeSpace(status.st_dev, free.f_bavail * free.f_frsize)


def _remote_devices() -> set[int]:
    return {mount.device for mount in read_mounts() if mount.is_remote}


def _expand(pattern: str) -> Sequence[str] | None:
    if os.path.lexists(pattern):
        return None  # web[0].qmp is a name that a socket may have
    return [str(UnixAddress(path)) for path in sorted(glob.glob(pattern)) if _is_socket(path)]


def _is_stopped(pid: int) -> bool:
    """Whether a process was stopped: by SIGSTOP, or with Ctrl-Z."""
    return read_text(f"/proc/{pid}/stat").rpartition(")")[2].split()[:1] == ["T"]


def _is_socket(path: str) -> bool:
    status = _stat(path)
    return status is not None and stat.S_ISSOCK(status.st_mode)


def _stat(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except OSError:
        return None


def describe_socket(listing: str, address: str, is_stopped: Callable[[int], bool] = lambda _pid: False) -> str:
    """Find in the output of ``ss -xanpH`` who owns a UNIX socket and which client it serves.

    A line is: ``u_str ESTAB 0 0 PATH INODE * PEER users:(("NAME",pid=PID,fd=FD))``. A server's end bears the path, the
    client's end is the line whose inode is the peer. Clients in the queue are connected, too, but no process has their
    server's end open.

    :param is_stopped: whether a process is stopped.
    """
    owner: tuple[str, int] | None = None
    users: dict[str, tuple[str, int]] = {}
    served: list[str] = []
    ours: set[str] = set()
    for line in listing.splitlines():
        row = line.split()
        user = _user(row[8]) if len(row) > 8 else None
        if user is None:
            continue
        state, path, inode, peer = row[1], row[4], row[5], row[7]
        users[inode] = user
        if path.startswith(NAME_OF_OURS.replace("\0", "@")):
            ours.add(inode)
        if path != address:
            continue
        if state == "LISTEN" and owner is None:
            owner = user
        if state == "ESTAB":
            served.append(peer)
    # Who has the other end of the connection that is served.
    client = next((peer for peer in served if peer in users), None)
    if owner is None:
        return ""
    if client is None or users[client][1] == os.getpid():
        return f"{_named(owner)} owns the socket"
    told = f"{_named(owner)} owns the socket and serves {_named(users[client])}"
    return told + _why_held(users[client][1], is_stopped) if client in ours else told


def _why_held(pid: int, is_stopped: Callable[[int], bool]) -> str:
    """Why a run of this collection has not given way to this one, as it does where it can."""
    if is_stopped(pid):
        return f", an earlier run of this collection that is stopped: end it, or let it go on (kill -CONT {pid})"
    return ", an earlier run of this collection that is busy with what it must not break off, such as a flush"


def _named(user: tuple[str, int]) -> str:
    return f"{user[0]} (pid {user[1]})"


def _user(field: str) -> tuple[str, int] | None:
    match = re.search(r'\("([^"]+)",pid=(\d+)', field)
    return (match.group(1), int(match.group(2))) if match else None
