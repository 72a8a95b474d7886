# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path

import pytest
from ansible_collections.virtops.qmp.plugins.module_utils._reach import _sockets
from ansible_collections.virtops.qmp.plugins.module_utils._reach._sockets import (
    LISTENS,
    NAME,
    SHOW_NAME,
    ask,
    list_sockets,
    numbers,
    read_answer,
)


def message(*attributes: tuple[int, bytes], inode: int = 4711, kind: int = 20) -> bytes:
    """A message as of include/uapi/linux/unix_diag.h."""
    content = struct.pack("=BBBxIII", 1, 1, 1, inode, 0, 0)
    for type, data in attributes:
        content += struct.pack("=HH", len(data) + 4, type) + data + bytes(-len(data) % 4)
    return struct.pack("=IHHII", 16 + len(content), kind, 0, 1, 0) + content


DONE = struct.pack("=IHHIIi", 20, 3, 0, 1, 0, 0)


@pytest.mark.parametrize(
    ("answer", "found", "more"),
    [
        pytest.param(message((2, b"abcd")), [(4711, {2: b"abcd"})], True, id="one"),
        pytest.param(message((5, b"\0"), (2, b"abcd")), [(4711, {5: b"\0", 2: b"abcd"})], True, id="unaligned"),
        pytest.param(message() + message(inode=7) + DONE, [(4711, {}), (7, {})], False, id="the end of a list"),
        pytest.param(message() + message(inode=7), [(4711, {}), (7, {})], True, id="a piece of a list"),
        pytest.param(message(kind=2), [], False, id="an error"),
        pytest.param(message()[:24], [], False, id="half of it"),
        pytest.param(message() + message()[:20], [(4711, {})], False, id="one and a half"),
        pytest.param(message()[:-8] + bytes(8), [(4711, {})], True, id="cookie"),
        pytest.param(struct.pack("=IHHII", 40, 20, 0, 1, 0) + bytes(24), [(0, {0: b""})], True, id="no length"),
        pytest.param(b"", [], True, id="nothing"),
    ],
)
def test_read_answer(answer: bytes, found: list[tuple[int, dict[int, bytes]]], more: bool) -> None:
    """Each message is a socket with its attributes; what is none ends the answer."""
    assert read_answer(answer) == (found, more)


@pytest.mark.parametrize(
    ("attribute", "found"),
    [
        pytest.param(struct.pack("=II", 1, 2), (1, 2), id="two"),
        pytest.param(b"", (), id="none"),
        pytest.param(struct.pack("=I", 1) + b"ab", (1,), id="and a half"),
    ],
)
def test_numbers(attribute: bytes, found: tuple[int, ...]) -> None:
    """What is too short for a number is none."""
    assert numbers(attribute) == found


def test_the_real_table(folder: Path) -> None:
    """A socket that listens is found by its inode and in the list, by its name, among many others."""
    path = str(folder / "socket")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen(1)
        others = [socket.socketpair() for _number in range(250)]
        inode = os.fstat(server.fileno()).st_ino
        own, listed = ask(inode, SHOW_NAME), dict(list_sockets(_sockets.CONNECTED | LISTENS, SHOW_NAME))
        for one, other in others:
            one.close()
            other.close()
    if own is None:
        pytest.skip("this kernel or sandbox has no table of sockets")
    assert own[NAME] == listed[inode][NAME] == path.encode() + b"\0"
    assert len(listed) > 500
    assert ask(inode, SHOW_NAME) is None


def test_without_the_table_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that was built without the table refuses the question, and that is no error."""
    monkeypatch.setattr(_sockets, "_NETLINK_SOCK_DIAG", 31)
    assert (ask(1, SHOW_NAME), list_sockets(LISTENS, SHOW_NAME)) == (None, [])
