# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Other runs of this collection at a monitor: who waits for it, so that who holds it can give way.

Every connection that this collection makes has a name, which the kernel shows to whoever asks. It is an abstract one,
so it needs no file and goes with the connection. Whoever may connect to a monitor may do with the VM as he likes, so
somebody else's name that looks like ours can do no more harm than that.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import socket
from typing import Iterator, Optional, Tuple

from ._sockets import (
    CONNECTED,
    LISTENS,
    NAME,
    PEER,
    QUEUE,
    SHOW_NAME,
    SHOW_PEER,
    SHOW_QUEUE,
    SHOW_VFS,
    VFS,
    Attributes,
    ask,
    list_sockets,
    numbers,
)

# `ss` and /proc/net/unix show the NUL as @.
Place = Tuple[Optional[bytes], Optional[bytes]]

NAME_OF_OURS = "\0virtops.qmp/"

_numbers = itertools.count()
# What tells this process from every other one, also from one with the same pid in another PID namespace.
_this_process = f"{os.getpid()}-{os.urandom(8).hex()}"


def call_by_name(end: socket.socket) -> None:
    """Give a connection that is about to be made the name of one of ours; where that cannot be, it has none."""
    with contextlib.suppress(OSError):
        end.bind(f"{NAME_OF_OURS}{_this_process}/{next(_numbers)}")


def is_another_run(name: bytes) -> bool:
    """Whether a connection is that of another process of this collection, by its name."""
    prefix = NAME_OF_OURS.encode()
    return name.startswith(prefix) and not name.startswith(prefix + _this_process.encode() + b"/")


class RunsAt:
    """The other runs at the socket of a monitor; see ``_seams.OtherRuns``."""

    def __init__(self, place: Place):
        """:param place: what the socket and all connections that it has accepted have in common: its name and file."""
        self._place = place

    def is_waiting(self) -> bool:
        """Whether one waits to be served, or one that gave up is still in the queue, where it keeps others out."""
        return any(inode == 0 or _is_another(inode) for inode in self._queue())

    def is_there(self) -> bool:
        """Whether one waits or is served."""
        return any(map(_is_another, self._queue())) or any(map(_is_another, self._served()))

    def _queue(self) -> tuple[int, ...]:
        """The clients that wait, by the inodes of their ends; 0 for one that gave up."""
        listener = ask(self._listener, SHOW_QUEUE) if self._listener else None
        return () if listener is None else numbers(listener.get(QUEUE, b""))

    @functools.cached_property
    def _listener(self) -> int:
        """The inode of the socket itself; 0 where the kernel does not tell.

        Most visits never ask: found for each, it would have a call for hundreds of VMs list hundreds of sockets for
        each of them.
        """
        listeners = list_sockets(LISTENS, SHOW_NAME | SHOW_VFS)
        return next((inode for inode, attributes in listeners if _place_of(attributes) == self._place), 0)

    def _served(self) -> Iterator[int]:
        for _inode, attributes in list_sockets(CONNECTED, SHOW_NAME | SHOW_VFS | SHOW_PEER):
            if _place_of(attributes) == self._place:
                yield from numbers(attributes.get(PEER, b""))


def find_runs(server: int | None) -> RunsAt | None:
    """The other runs at the monitor that has accepted a connection; None where the kernel does not tell.

    :param server: the inode of the server's end of the connection.
    """
    accepted = ask(server, SHOW_NAME | SHOW_VFS) if server else None
    return None if accepted is None else RunsAt(_place_of(accepted))


def _place_of(attributes: Attributes) -> Place:
    return attributes.get(NAME), attributes.get(VFS)


def _is_another(inode: int) -> bool:
    client = ask(inode, SHOW_NAME)
    return client is not None and is_another_run(client.get(NAME, b""))
