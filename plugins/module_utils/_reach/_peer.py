# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Who is at the other end of a UNIX socket, as the kernel tells it.

SO_PEERCRED names the process that called ``listen()``, which need not be the one that answers: a launcher may have
passed the socket on, and may be gone. The kernel's table of sockets has the inode of the other end of a connection, and
whoever serves it has that inode open. All of this may block: keep it off the event loop.
"""

from __future__ import annotations

import os
import pwd
import socket
import struct

from .._model._errors import WrongRequest
from .._model._peer import Owner, Peer, is_loader, read_program, read_start, read_user
from ._sockets import PEER, SHOW_PEER, ask, numbers

_PROCESSES = "/proc"
_ANY = 2**32 - 1


def made_by(end: socket.socket) -> Peer:
    """Who made the socket that ``end`` is connected to: all that is known before anybody answers."""
    words = end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("iII"))
    pid, uid, gid = struct.unpack("iII", words)
    return Peer(pid or None, uid, gid, None, None, uid, None)  # 0: a process of another pid namespace


def served_by(end: socket.socket) -> Peer:
    """Who serves the connection of ``end``. Ask when it has answered: until then nobody may have accepted it."""
    maker = made_by(end)
    if maker.pid is None:
        return maker
    pid, serves = _find_server(maker.pid, other_inode(end))
    user = read_user(_read(pid, "status")) if serves is not False else None
    uid, gid = user or (maker.uid, maker.gid)
    return Peer(pid, uid, gid, read_start(_read(pid, "stat")), _program(pid), maker.uid, serves)


def process(pid: int) -> Peer:
    """A process by its number, as if it served a monitor that root had made for it."""
    uid, gid = read_user(_read(pid, "status")) or (_ANY, _ANY)
    return Peer(pid, uid, gid, read_start(_read(pid, "stat")), _program(pid), 0, True)


def is_accepted(end: socket.socket) -> bool | None:
    """Whether somebody accepted the connection, or it still waits in the queue; None where the kernel does not say."""
    inode = other_inode(end)
    return None if inode is None else inode != 0


def find_owner(name: str) -> Owner:
    """The user of this host that is called so, or has this uid.

    :raise WrongRequest: there is none.
    """
    if name.isascii() and name.isdigit() and int(name) < _ANY:
        return Owner(name, int(name))
    try:
        return Owner(name, pwd.getpwnam(name).pw_uid)
    except (KeyError, ValueError) as error:
        raise WrongRequest(
            f"monitor_owner is {name!r}, which is no user of this host. Give a user name or a uid"
        ) from error


def other_inode(end: socket.socket) -> int | None:
    """The inode of the other end of a connection, 0 while it waits to be accepted; None where it is not told."""
    own = ask(os.fstat(end.fileno()).st_ino, SHOW_PEER)
    found = () if own is None else numbers(own.get(PEER, b""))
    return found[0] if found else None


def _find_server(maker: int, inode: int | None) -> tuple[int, bool | None]:
    """The process that has a socket open: first the one that made it, then all; and whether that is known."""
    has_it = None if not inode else _has_open(maker, inode)
    if not inode or has_it is not False:
        return maker, has_it
    others = [pid for pid in pids_of_host() if _has_open(pid, inode)]
    # Of several nobody knows which one answers.
    return (others[0], True) if len(others) == 1 else (maker, False)


def pids_of_host() -> list[int]:
    """Every process that this one sees."""
    return [int(name) for name in os.listdir(_PROCESSES) if name.isdigit()]


def _has_open(pid: int, inode: int) -> bool | None:
    """Whether a process has a socket open; None where we must not look."""
    folder = f"{_PROCESSES}/{pid}/fd"
    try:
        return any(_target(f"{folder}/{number}") == f"socket:[{inode}]" for number in os.listdir(folder))
    except PermissionError:
        return None
    except OSError:  # it has ended
        return False


def _target(link: str) -> str | None:
    try:
        return os.readlink(link)
    except OSError:
        return None


def _program(pid: int) -> str | None:
    """The name of the executable; the name of the process, which it may choose, where we must not see the former."""
    path = _target(f"{_PROCESSES}/{pid}/exe")
    if path is None:
        return _read(pid, "comm").strip() or None
    if is_loader(os.path.basename(path)):
        path = read_program(_read(pid, "maps")) or path
    name = os.path.basename(path)
    deleted = " (deleted)"  # a package was updated while the VM ran
    return name[: -len(deleted)] if name.endswith(deleted) else name


def _read(pid: int, name: str) -> str:
    try:
        with open(f"{_PROCESSES}/{pid}/{name}", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
