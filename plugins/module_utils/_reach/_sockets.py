# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The kernel's table of UNIX sockets (``NETLINK_SOCK_DIAG``, what ``ss`` reads). No rights are needed to read it.

It is that of this network namespace. The kernel answers from memory: 20 microseconds for one socket, 3 milliseconds
for a list among 1000 (Linux 6.18). Nothing is told by a kernel without UNIX_DIAG, and in a sandbox without netlink.
"""

from __future__ import annotations

import socket
import struct
from typing import Iterator, Mapping, Tuple

# include/uapi/linux: netlink.h, sock_diag.h, unix_diag.h. Not all of it is in Python's socket.
_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLM_F_REQUEST = 1
_NLM_F_DUMP = 0x300
_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, number, port
_QUESTION = struct.Struct("=BBHIIIII")  # unix_diag_req: family, protocol, -, states, inode, what to show, cookie
_FACTS = struct.Struct("=BBBxIII")  # unix_diag_msg: family, type, state, -, inode, cookie
_ATTRIBUTE = struct.Struct("=HH")  # nlattr: length, type
_ANY = 2**32 - 1
_MOST_BYTES = 2**18  # the kernel sends a list in pieces of 32 KiB at most

# What to show, as bits of the question, and as the attribute of the answer. A name begins with NUL if it is abstract.
SHOW_NAME, SHOW_VFS, SHOW_PEER, SHOW_QUEUE = 1, 2, 4, 8
NAME, VFS, PEER, QUEUE = 0, 1, 2, 3

# include/net/tcp_states.h, as bits.
CONNECTED, LISTENS = 1 << 1, 1 << 10

Attributes = Mapping[int, bytes]
Socket = Tuple[int, Attributes]  # its inode, and what it is


def ask(inode: int, show: int) -> Attributes | None:
    """What the kernel knows of one socket; None where there is none, or it does not tell."""
    return next((attributes for _inode, attributes in _answers(_ANY, inode, show, 0)), None)


def list_sockets(states: int, show: int) -> list[Socket]:
    """All sockets in one of these states; none where the kernel does not tell."""
    return list(_answers(states, 0, show, _NLM_F_DUMP))


def numbers(attribute: bytes) -> tuple[int, ...]:
    """An attribute that is a list of 32-bit numbers."""
    return struct.unpack(f"={len(attribute) // 4}I", attribute[: len(attribute) // 4 * 4])


def _answers(states: int, inode: int, show: int, flags: int) -> Iterator[Socket]:
    question = _QUESTION.pack(socket.AF_UNIX, 0, 0, states, inode, show, _ANY, _ANY)
    header = _HEADER.pack(_HEADER.size + len(question), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST | flags, 1, 0)
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as kernel:
            kernel.setblocking(False)  # the answer is there before the question is sent off
            kernel.send(header + question)
            more = True
            while more:
                found, more = read_answer(kernel.recv(_MOST_BYTES))
                yield from found
                more = more and bool(flags)
    except OSError:
        return


def read_answer(answer: bytes) -> tuple[list[Socket], bool]:
    """The sockets in a piece of an answer, and whether a list goes on behind it."""
    found: list[Socket] = []
    place = 0
    while place + _HEADER.size <= len(answer):
        length, kind = _HEADER.unpack_from(answer, place)[:2]
        end = place + length
        if kind != _SOCK_DIAG_BY_FAMILY or length < _HEADER.size + _FACTS.size or end > len(answer):
            return found, False  # the end of a list, an error, or half a message
        inode = _FACTS.unpack_from(answer, place + _HEADER.size)[3]
        found.append((inode, _read_attributes(answer[place + _HEADER.size + _FACTS.size : end])))
        place = _aligned(end)
    return found, True


def _read_attributes(content: bytes) -> Attributes:
    found: dict[int, bytes] = {}
    place = 0
    while place + _ATTRIBUTE.size <= len(content):
        length, kind = _ATTRIBUTE.unpack_from(content, place)
        found[kind] = content[place + _ATTRIBUTE.size : place + length]
        place += max(_aligned(length), _ATTRIBUTE.size)
    return found


def _aligned(length: int) -> int:
    """Each message and each attribute begins at a multiple of four."""
    return length + 3 & ~3
