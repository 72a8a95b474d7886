# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from pathlib import Path
from typing import Awaitable, Callable  # noqa: UP035  # Python 3.8

import pytest
from ansible_collections.virtops.qmp.plugins.module_utils._model._errors import ReadAheadFailed
from ansible_collections.virtops.qmp.plugins.module_utils._reach._nbd import NbdClient
from ansible_collections.virtops.qmp.tests.unit import clock
from ansible_collections.virtops.qmp.tests.unit.nbd_server import STRUCTURED, FakeExport, NbdServer

MIB = 1024 * 1024
EXTENTS = [(MIB, 2), (2 * MIB, 0), (MIB, 1)]
Talk = Callable[[NbdClient], Awaitable[object]]


def talk(folder: Path, export: FakeExport, what: Talk, greeting: bytes = b"NBDMAGICIHAVEOPT\0\3") -> object:
    """Connect to a server with this export, and talk to it."""

    async def work() -> object:
        path = str(folder / "nbd")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen()
            server = NbdServer(listener.fileno(), greeting)
            server.exports["disk"] = export
            try:
                client = await NbdClient.connect(path, "disk", 5.0)
                try:
                    return await what(client)
                finally:
                    await client.close()
            finally:
                server.close()

    return clock.run(work())


def test_many_requests_are_under_way(tmp_path: Path) -> None:
    """Requests do not wait for each other, and each is answered when it is done."""
    export = FakeExport(EXTENTS)

    async def copy_all(client: NbdClient) -> float:
        began = asyncio.get_running_loop().time()
        await asyncio.gather(*(client.copy(number * MIB, MIB) for number in range(8)))
        return asyncio.get_running_loop().time() - began

    assert talk(tmp_path, export, copy_all) == pytest.approx(export.seconds, abs=0.001)
    assert (sorted(export.copied), export.most) == ([(number * MIB, MIB) for number in range(8)], 8)


@pytest.mark.parametrize(
    ("offset", "length", "extents"),
    [(0, 4 * MIB, EXTENTS), (MIB // 2, 3 * MIB // 2, [(MIB // 2, 2), (MIB, 0)])],
    ids=["all", "a part"],
)
def test_depths(tmp_path: Path, offset: int, length: int, extents: list[tuple[int, int]]) -> None:
    """Where data lies is told by extents, of the range that was asked for."""
    assert talk(tmp_path, FakeExport(EXTENTS), lambda client: client.depths(offset, length)) == extents


def test_no_depths(tmp_path: Path) -> None:
    """An answer without an extent would lead nowhere."""
    with pytest.raises(ReadAheadFailed, match="does not tell where data lies"):
        talk(tmp_path, FakeExport([]), lambda client: client.depths(0, MIB))


def test_an_error_is_told(tmp_path: Path) -> None:
    """What QEMU cannot copy it tells, in the system's words."""
    with pytest.raises(ReadAheadFailed, match="No space left on device"):
        talk(tmp_path, FakeExport(EXTENTS, error=errno.ENOSPC), lambda client: client.copy(0, MIB))


@pytest.mark.parametrize(
    "garbage",
    [
        pytest.param(b"HTTP/1.1 400 Bad Request\r\n", id="another protocol"),
        pytest.param(struct.pack(">IIQ", 0x67446698, 0, 99), id="an answer to nobody"),
        pytest.param(struct.pack(">IHHQI", STRUCTURED, 1, 5, 1, 2**31), id="an answer without end"),
        pytest.param(struct.pack(">IHHQI", STRUCTURED, 1, 5, 1, 7) + b"1234567", id="half an extent"),
        pytest.param(2 * (struct.pack(">IHHQI", STRUCTURED, 0, 5, 1, 12) + 12 * b"\1"), id="two lists of extents"),
        pytest.param(struct.pack(">IHHQI", STRUCTURED, 1, 0x8001, 1, 2) + b"12", id="half an error"),
    ],
)
def test_garbage(tmp_path: Path, garbage: bytes) -> None:
    """A server that speaks otherwise is not listened to any more, whatever it says."""
    with pytest.raises(ReadAheadFailed, match="closed the connection"):
        talk(tmp_path, FakeExport(EXTENTS, garbage=garbage), lambda client: client.copy(0, MIB))


def test_after_the_end(tmp_path: Path) -> None:
    """Nobody waits for an answer that cannot come, and nothing is asked any more."""
    export = FakeExport(EXTENTS, seconds=9.0)

    async def lose(client: NbdClient) -> None:
        asyncio.get_running_loop().call_later(1.0, client._writer.close)
        for _attempt in range(2):
            with pytest.raises(ReadAheadFailed, match="closed the connection"):
                await client.copy(0, MIB)

    talk(tmp_path, export, lose)


def test_a_request_that_is_given_up(tmp_path: Path) -> None:
    """The answer to who does not wait any more disturbs nobody."""
    export = FakeExport(EXTENTS)

    async def give_up(client: NbdClient) -> None:
        first = asyncio.ensure_future(client.copy(0, MIB))
        await asyncio.sleep(0.01)
        first.cancel()
        await client.copy(MIB, MIB)
        with pytest.raises(asyncio.CancelledError):
            await first

    talk(tmp_path, export, give_up)
    assert export.copied == [(0, MIB), (MIB, MIB)]


@pytest.mark.parametrize(
    ("greeting", "refused"),
    [
        pytest.param(b"NBDMAGICIHAVEOPT\0\3", 7, id="it refuses the export"),
        pytest.param(b"220 smtp.example.org ESMTP\r\n", 0, id="another protocol"),
        pytest.param(b"NBD", 0, id="it is silent"),
    ],
)
def test_no_agreement(tmp_path: Path, greeting: bytes, refused: int) -> None:
    """A server that does not agree is left alone, in time."""
    with pytest.raises(ReadAheadFailed, match="does not answer"):
        talk(tmp_path, FakeExport(EXTENTS, refused_option=refused), lambda client: client.copy(0, 1), greeting)


def test_nobody_there(tmp_path: Path) -> None:
    """A socket that nobody serves is an error at once."""
    with pytest.raises(ReadAheadFailed, match="cannot be reached"):
        clock.run(NbdClient.connect(str(tmp_path / "nbd"), "disk", 5.0))
