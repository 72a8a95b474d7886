# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the hypervisor knows beside its monitors: files, file systems, processes, and who is at the ends of a socket."""

from __future__ import annotations

import glob
import os
import re
import stat
import subprocess
from typing import Iterator, Mapping, Sequence

from ._disk import Room


class LinuxHost:
    """The machine that this runs on, through the calls of the system and /proc; see ``_observe.Host``."""

    def expand(self, pattern: str) -> Sequence[str] | None:
        """The sockets that a glob finds."""
        if not glob.has_magic(pattern):
            return None
        return [path for path in sorted(glob.glob(pattern)) if _is_socket(path)]

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

    def room(self, file: str) -> Room | None:
        """The file system of a regular file."""
        try:
            status = os.stat(file)
            free = os.statvfs(file)
        except OSError:
            return None
        return Room(status.st_dev, free.f_bavail * free.f_frsize) if stat.S_ISREG(status.st_mode) else None

    def who_serves(self, address: str) -> str:
        """The processes at both ends of a UNIX socket, as ``ss`` (package iproute2) tells them."""
        try:
            listing = subprocess.run(
                ["ss", "-xanpH"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=5, check=True
            )
        except (OSError, subprocess.SubprocessError):
            return ""
        return describe_socket(listing.stdout.decode(errors="replace"), address)

    def holders(self, files: Sequence[str]) -> Mapping[str, tuple[int, ...] | None]:
        """The processes that have each file open, whatever name they opened it by.

        Only root sees what other users' processes have open. For anybody else, and for a file that is gone, the answer
        is None.
        """
        wanted: dict[tuple[int, int], set[int]] = {}
        identities = {file: _identity(file) for file in files}
        for identity in identities.values():
            if identity is not None:
                wanted[identity] = set()
        for pid, identity in _open_files() if wanted else ():
            if identity in wanted:
                wanted[identity].add(pid)
        sees_all = os.geteuid() == 0
        return {
            file: tuple(sorted(wanted[identity])) if identity and sees_all else None
            for file, identity in identities.items()
        }


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        return False


def _identity(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _open_files() -> Iterator[tuple[int, tuple[int, int]]]:
    """Every open file of every process, as pid and identity; processes that end meanwhile are passed over."""
    for pid in (int(name) for name in os.listdir("/proc") if name.isdigit()):
        try:
            descriptors: list[str] = os.listdir(f"/proc/{pid}/fd")
        except OSError:
            continue
        for descriptor in descriptors:
            identity = _identity(f"/proc/{pid}/fd/{descriptor}")
            if identity is not None:
                yield pid, identity


def describe_socket(listing: str, address: str) -> str:
    """Find in the output of ``ss -xanpH`` who owns a UNIX socket and which client it serves.

    A line is: ``u_str ESTAB 0 0 PATH INODE * PEER users:(("NAME",pid=PID,fd=FD))``. A server's end bears the path, the
    client's end is the line whose inode is the peer. Clients in the queue are connected, too, but no process has their
    server's end open.
    """
    lines = [line.split() for line in listing.splitlines()]
    rows = [(row[1], row[4], row[5], row[7], _user(row[8] if len(row) > 8 else "")) for row in lines if len(row) >= 8]
    owner = next(
        (user for state, path, _inode, _peer, user in rows if state == "LISTEN" and path == address and user), ""
    )
    served = {peer for state, path, _inode, peer, user in rows if state == "ESTAB" and path == address and user}
    client = next((user for _state, _path, inode, _peer, user in rows if inode in served and user), "")
    if owner and client:
        return f"{owner} owns the socket and serves {client}"
    return f"{owner} owns the socket" if owner else ""


def _user(field: str) -> str:
    match = re.search(r'\("([^"]+)",pid=(\d+)', field)
    return f"{match.group(1)} (pid {match.group(2)})" if match else ""
