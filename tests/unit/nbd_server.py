# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""QEMU's NBD server as far as reading ahead needs it, on a real socket, in the event loop of the test."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from dataclasses import dataclass, field
from typing import Dict, List, Tuple  # noqa: UP035  # Python 3.8

GO, STRUCTURED_REPLY, SET_META_CONTEXT = 7, 8, 10
CACHE, BLOCK_STATUS = 5, 7
OPTION_REPLY, REQUEST, SIMPLE, STRUCTURED = 0x3E889045565A9, 0x25609513, 0x67446698, 0x668E33EF


@dataclass
class FakeExport:
    """An image that is served: `depths` are lengths and depths, one behind the other; a request takes `seconds`.

    `copied` are the requests for copying that are done, `asked` all of them; `most` was under way at a time. `error` is
    the errno of an answer, and `garbage` is what is said in the place of one.
    """

    depths: List[Tuple[int, int]]  # noqa: UP006  # Python 3.8
    seconds: float = 0.02
    copied: List[Tuple[int, int]] = field(default_factory=list)  # noqa: UP006
    asked: List[Tuple[int, int]] = field(default_factory=list)  # noqa: UP006
    most: int = 0
    error: int = 0
    garbage: bytes = b""
    refused_option: int = 0
    under_way: int = 0

    def part(self, offset: int, length: int) -> list[tuple[int, int]]:
        """The extents of a range."""
        found, position = [], 0
        for size, depth in self.depths:
            overlap = min(position + size, offset + length) - max(position, offset)
            if overlap > 0:
                found.append((overlap, depth))
            position += size
        return found


class NbdServer:
    """A server on a socket that somebody else has made."""

    def __init__(self, descriptor: int, greeting: bytes = b"NBDMAGICIHAVEOPT\0\3"):
        self.exports: Dict[str, FakeExport] = {}  # noqa: UP006
        self.greeting = greeting
        self.talks: list[_Talk] = []
        self._listener = socket.socket(fileno=os.dup(descriptor))
        self._listener.setblocking(False)
        asyncio.get_running_loop().add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        connection, _address = self._listener.accept()
        talk = _Talk(self, connection)
        self.talks.append(talk)

    def hang_up(self, export: str) -> None:
        for talk in self.talks:
            if talk.export is self.exports.get(export):
                talk.close()

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._listener)
        self._listener.close()
        for talk in self.talks:
            talk.close()


class _Talk:
    """One client. Without tasks, so that none can be left behind."""

    def __init__(self, server: NbdServer, connection: socket.socket):
        self._server, self._connection = server, connection
        self._unread = b""
        self.export: FakeExport | None = None
        self.is_open = True
        self._has_flags = False
        connection.setblocking(False)
        connection.send(server.greeting)
        asyncio.get_running_loop().add_reader(connection, self._read)

    def close(self) -> None:
        if self.is_open:
            self.is_open = False
            asyncio.get_running_loop().remove_reader(self._connection)
            self._connection.close()

    def _read(self) -> None:
        received = self._connection.recv(65536)
        if not received:
            self.close()
        self._unread += received
        while self.is_open and self._take():
            pass

    def _take(self) -> bool:
        """Take one message off what was read; whether there was one."""
        if not self._has_flags:
            self._has_flags = len(self._unread) >= 4
            self._unread = self._unread[4:] if self._has_flags else self._unread
            return self._has_flags
        if self.export is None:
            return self._take_option()
        if len(self._unread) < 28:
            return False
        magic, _flags, command, cookie, offset, length = struct.unpack(">IHHQQI", self._unread[:28])
        assert magic == REQUEST
        self._unread = self._unread[28:]
        if command == CACHE:
            self.export.asked.append((offset, length))
            self.export.under_way += 1
            self.export.most = max(self.export.most, self.export.under_way)
            asyncio.get_running_loop().call_later(self.export.seconds, self._copied, cookie, offset, length)
        elif command == BLOCK_STATUS:
            self._tell_depths(cookie, offset, length)
        else:
            self.close()
        return True

    def _take_option(self) -> bool:
        if len(self._unread) < 16:
            return False
        magic, option, length = struct.unpack(">8sII", self._unread[:16])
        assert magic == b"IHAVEOPT"
        if len(self._unread) < 16 + length:
            return False
        payload, self._unread = self._unread[16 : 16 + length], self._unread[16 + length :]
        name = payload[4 : 4 + int.from_bytes(payload[:4], "big")].decode()
        export = self._server.exports.get(name)
        if option == SET_META_CONTEXT:
            assert payload.endswith(b"qemu:allocation-depth")
            self._reply(option, 4, b"\0\0\0\1qemu:allocation-depth")
        if option == GO:
            if export is None or export.refused_option:
                self._reply(option, 0x80000006, b"no such export")
                return True
            self._reply(option, 3, struct.pack(">HQH", 0, 64 * 2**20, 0))
            self.export = export
        self._reply(option, 1, b"")
        return True

    def _reply(self, option: int, kind: int, payload: bytes) -> None:
        self._connection.send(struct.pack(">QIII", OPTION_REPLY, option, kind, len(payload)) + payload)

    def _copied(self, cookie: int, offset: int, length: int) -> None:
        assert self.export is not None
        self.export.under_way -= 1
        if not self.export.error:
            self.export.copied.append((offset, length))
        if self.is_open:
            answer = struct.pack(">IIQ", SIMPLE, 0, cookie)
            if self.export.error:
                answer = struct.pack(">IHHQIIH", STRUCTURED, 1, 0x8001, cookie, 6, self.export.error, 0)
            self._connection.send(self.export.garbage or answer)

    def _tell_depths(self, cookie: int, offset: int, length: int) -> None:
        assert self.export is not None
        extents = b"".join(struct.pack(">II", *extent) for extent in self.export.part(offset, length))
        kind, payload = (5, b"\0\0\0\1" + extents) if extents else (0, b"")
        self._connection.send(struct.pack(">IHHQI", STRUCTURED, 1, kind, cookie, len(payload)) + payload)
