# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""An NBD client for two things: have QEMU copy a range of an image by itself, and ask at which depth its data lies.

No data crosses the connection: ``NBD_CMD_CACHE`` has QEMU's server read the range with copy-on-read, and drop it. The
server belongs to a guest that may own its QEMU, so nothing is read of it that has no limit. The protocol is that of
https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md, with all numbers as they are called there.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import struct
from typing import List, Tuple

from .._model._errors import ReadAheadFailed

_GREETING = b"NBDMAGICIHAVEOPT"
_CLIENT_FLAGS = 0b11  # fixed newstyle, and no zeroes behind the answer
_OPT_GO, _OPT_STRUCTURED_REPLY, _OPT_SET_META_CONTEXT = 7, 8, 10
_OPT_REPLY_MAGIC, _REP_ACK, _REP_ERROR = 0x3E889045565A9, 1, 1 << 31
_REQUEST_MAGIC, _SIMPLE_MAGIC, _STRUCTURED_MAGIC = 0x25609513, 0x67446698, 0x668E33EF
_CMD_DISC, _CMD_CACHE, _CMD_BLOCK_STATUS = 2, 5, 7
_FLAG_DONE, _TYPE_BLOCK_STATUS, _TYPE_ERROR = 1, 5, 1 << 15
_DEPTHS = b"qemu:allocation-depth"
# QEMU sends 1 MiB of extents at most, behind the number of their kind.
_MOST_PAYLOAD = 4 + 2**20

Extents = List[Tuple[int, int]]


class NbdClient:
    """A connection to an export; see ``_seams.Ahead``."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        self._reader, self._writer = reader, writer
        self._waiting: dict[int, tuple[asyncio.Future[Extents], Extents]] = {}
        self._last_cookie = 0
        self._listening = asyncio.ensure_future(self._listen())

    @classmethod
    async def connect(cls, path: str, export: str, seconds: float) -> NbdClient:
        """Connect to a UNIX socket, and agree on an export of which the depths can be asked.

        :raise ReadAheadFailed: the server does not answer in time, or not as QEMU does.
        """
        try:
            reader, writer = await asyncio.wait_for(asyncio.open_unix_connection(path), seconds)
        except (OSError, asyncio.TimeoutError) as error:
            raise ReadAheadFailed(f"QEMU's NBD server cannot be reached: {error or 'it does not answer'}") from error
        try:
            await asyncio.wait_for(_agree(reader, writer, export.encode()), seconds)
        except (OSError, EOFError, asyncio.TimeoutError) as error:
            writer.close()
            raise ReadAheadFailed("QEMU's NBD server does not answer, or not as one does") from error
        return cls(reader, writer)

    async def copy(self, offset: int, length: int) -> None:
        """Have QEMU copy a range into the image, as far as it is not there.

        :raise ReadAheadFailed: QEMU could not, or the connection ended.
        """
        await self._ask(_CMD_CACHE, offset, length)

    async def depths(self, offset: int, length: int) -> Extents:
        """Lengths and depths of what lies in a range, or in the first part of it: 1 is the image itself, 0 is nowhere.

        :raise ReadAheadFailed: QEMU does not tell, or the connection ended.
        """
        extents = await self._ask(_CMD_BLOCK_STATUS, offset, length)
        if not extents:
            raise ReadAheadFailed("QEMU's NBD server does not tell where data lies")
        return extents

    async def close(self) -> None:
        """End the connection. QEMU finishes what it has begun."""
        self._listening.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._listening
        with contextlib.suppress(OSError):
            self._send(_CMD_DISC, 0, 0, 0)
        self._writer.close()

    def _send(self, command: int, cookie: int, offset: int, length: int) -> None:
        self._writer.write(struct.pack(">IHHQQI", _REQUEST_MAGIC, 0, command, cookie, offset, length))

    async def _ask(self, command: int, offset: int, length: int) -> Extents:
        if self._listening.done():
            raise _ended()
        self._last_cookie += 1
        answer: asyncio.Future[Extents] = asyncio.get_running_loop().create_future()
        self._waiting[self._last_cookie] = answer, []
        self._send(command, self._last_cookie, offset, length)
        return await answer

    async def _listen(self) -> None:
        """Hand out the answers until the connection ends; then nobody waits any more."""
        try:
            while True:
                await self._read_answer()
        # A cookie or a number of extents that makes no sense is as bad as no answer.
        except (OSError, EOFError, KeyError, struct.error):
            pass
        finally:
            for answer, _extents in self._waiting.values():
                if not answer.done():
                    answer.set_exception(_ended())
            self._waiting.clear()

    async def _read_answer(self) -> None:
        (magic,) = struct.unpack(">I", await self._reader.readexactly(4))
        if magic == _SIMPLE_MAGIC:
            code, cookie = struct.unpack(">IQ", await self._reader.readexactly(12))
            self._answer(cookie, code)
            return
        flags, kind, cookie, length = struct.unpack(">HHQI", await self._reader.readexactly(16))
        if magic != _STRUCTURED_MAGIC or length > _MOST_PAYLOAD:
            raise EOFError
        payload = await self._reader.readexactly(length)
        if kind == _TYPE_BLOCK_STATUS:
            extents = self._waiting[cookie][1]
            # One answer has one list, and none of its extents is empty.
            if extents:
                raise EOFError
            extents += [(size, depth) for size, depth in struct.iter_unpack(">II", payload[4:]) if size]
        code = struct.unpack(">I", payload[:4])[0] if kind & _TYPE_ERROR else 0
        if code or flags & _FLAG_DONE:
            self._answer(cookie, code)

    def _answer(self, cookie: int, code: int) -> None:
        answer, extents = self._waiting.pop(cookie)
        # Whoever was cancelled does not wait any more.
        if answer.done():
            return
        if code:
            answer.set_exception(ReadAheadFailed(f"QEMU cannot read ahead: {os.strerror(code)}"))
        else:
            answer.set_result(extents)


def _ended() -> ReadAheadFailed:
    return ReadAheadFailed("QEMU closed the connection by which it was told to read ahead")


async def _agree(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, export: bytes) -> None:
    """The handshake: on an export, and on being told its depths.

    :raise EOFError: the server does not agree, or is none.
    """
    if await reader.readexactly(len(_GREETING)) != _GREETING:
        raise EOFError
    await reader.readexactly(2)
    writer.write(struct.pack(">I", _CLIENT_FLAGS))
    name = struct.pack(">I", len(export)) + export
    for option, payload in (
        (_OPT_STRUCTURED_REPLY, b""),
        (_OPT_SET_META_CONTEXT, name + struct.pack(">II", 1, len(_DEPTHS)) + _DEPTHS),
        (_OPT_GO, name + struct.pack(">H", 0)),
    ):
        writer.write(b"IHAVEOPT" + struct.pack(">II", option, len(payload)) + payload)
        kind = 0
        while kind != _REP_ACK:
            magic, _option, kind, length = struct.unpack(">QIII", await reader.readexactly(20))
            if magic != _OPT_REPLY_MAGIC or kind & _REP_ERROR or length > _MOST_PAYLOAD:
                raise EOFError
            await reader.readexactly(length)
