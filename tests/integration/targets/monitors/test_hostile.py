# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Peers that speak QMP badly, on purpose or because they are broken: a clear failure, in time, in little memory."""

from __future__ import annotations

import contextlib
import json
import random
import select
import socket
import time
from typing import TYPE_CHECKING, Any

import pytest
from lab import peers, product

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Talk = Callable[[socket.socket], None]

SECONDS = 3
# A module uses about 30 MiB. Whoever has no more than this ends with a traceback, which `product` does not let pass.
UNDER = ("prlimit", f"--data={384 << 20}")
MODULES = [
    pytest.param("block_stream", {"disks": ["*"]}, id="block_stream"),
    pytest.param("block_stream_info", {}, id="block_stream_info"),
]
EVENT = b'{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "RESUME", "data": {}}\r\n'


def noise(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def replies(*lines: Callable[[Any], bytes], hangs_up: bool = False) -> Talk:
    """Greet, take the negotiation, and answer every command with all of these, which are made from the command's id.

    With `hangs_up` it says no more after the first one: who waits for an answer would wait for the whole deadline.
    """

    def talk(client: socket.socket) -> None:
        client.sendall(peers.GREETING + b"\r\n")
        text, is_negotiated = "", False
        while received := client.recv(1 << 16):
            text += received.decode()
            with contextlib.suppress(ValueError):
                while text := text.lstrip():
                    message, end = json.JSONDecoder().raw_decode(text)
                    text = text[end:]
                    makers = lines if is_negotiated else (lambda id: as_json({"return": {}, "id": id}),)
                    for make in makers:
                        client.sendall(make(message.get("id")) + b"\r\n")
                    if is_negotiated and hangs_up:
                        return
                    is_negotiated = True

    return talk


def as_json(message: Any) -> bytes:
    return json.dumps(message).encode()


def returns(content: Any) -> Talk:
    """Answer every command with this."""
    return replies(lambda id: as_json({"return": content, "id": id}))


def endless(start: bytes, more: bytes) -> Talk:
    """Begin to speak, and go on for ever as fast as the client reads."""

    def talk(client: socket.socket) -> None:
        client.sendall(start)
        while True:
            client.sendall(more)

    return talk


def drop_by_drop(client: socket.socket) -> None:
    """A greeting that makes progress all the time, and has no end."""
    while not select.select([client], [], [], 0.02)[0]:
        client.sendall(b" ")


PEERS = [
    pytest.param(peers.says(noise(4096)), id="noise"),
    pytest.param(peers.says(peers.GREETING, noise(4096)), id="noise in the negotiation"),
    pytest.param(peers.says(b'{"QMP": {"ver'), id="truncated greeting"),
    pytest.param(replies(lambda _id: b'{"return": {"na', lambda _id: b'{"return"'), id="truncated replies"),
    pytest.param(peers.says(b'{"QMP": {"version": "' + b"x" * (32 << 20) + b'"}}'), id="oversized greeting"),
    pytest.param(replies(lambda id: as_json({"return": "x" * (32 << 20), "id": id})), id="oversized replies"),
    pytest.param(endless(b"", b"x" * 65536), id="endless noise"),
    pytest.param(endless(b'{"QMP": "', b"x" * 65536), id="endless greeting"),
    pytest.param(endless(b"", EVENT * 100), id="endless events"),
    pytest.param(drop_by_drop, id="drop by drop"),
    pytest.param(peers.says(b"[" * 100_000), id="deep greeting"),
    pytest.param(replies(lambda _id: b'{"return": ' + b"[" * 100_000), id="deep replies"),
    pytest.param(peers.says(EVENT + peers.GREETING), id="event before the greeting"),
    pytest.param(peers.says(b'{"QMP": {}}'), id="empty greeting"),
    pytest.param(peers.says(peers.GREETING, b'{"return": {}, "error": {}}'), id="both return and error"),
    pytest.param(returns({}), id="empty objects"),
    pytest.param(returns([]), id="empty lists"),
    pytest.param(returns([{}]), id="lists of empty objects"),
    pytest.param(returns(None), id="null"),
    pytest.param(returns("text"), id="text"),
    pytest.param(returns(1e999), id="no JSON number"),
    pytest.param(returns([{"device": 1, "inserted": {"image": {}}}]), id="half an image"),
    pytest.param(replies(lambda _id: b'{"return": ' + b"9" * 10_000 + b"}"), id="a number of 10,000 digits"),
    pytest.param(replies(lambda id: as_json({"id": id})), id="neither return nor error"),
    pytest.param(replies(lambda id: as_json({"id": id, "error": {}})), id="empty errors"),
    pytest.param(replies(lambda id: as_json({"id": id, "error": "no"})), id="errors that are text"),
    pytest.param(
        replies(lambda _id: as_json({"id": "other", "return": {}}), hangs_up=True), id="replies to somebody else"
    ),
    pytest.param(replies(lambda _id: as_json({"return": {}}), hangs_up=True), id="replies without an id"),
    pytest.param(replies(lambda _id: b"\xff\xfe\x00"), id="no UTF-8"),
    pytest.param(replies(lambda _id: as_json({"event": None}), hangs_up=True), id="an event without a name"),
    pytest.param(replies(lambda _id: as_json(["event"])), id="a list in place of a message"),
    pytest.param(
        replies(lambda _id: EVENT * 100_000, lambda id: as_json({"id": id, "error": {"class": "X", "desc": "no"}})),
        id="100,000 events before each reply",
    ),
]


@pytest.mark.parametrize("talk", PEERS)
@pytest.mark.parametrize(("module", "arguments"), MODULES)
def test_a_hostile_peer(module: str, arguments: dict[str, Any], talk: Talk, folder: Path) -> None:
    """One failure that names the monitor, no traceback, no success, within the deadlines and a bound of memory."""
    began = time.monotonic()
    with peers.Peer(folder / "peer.qmp", talk) as peer:
        running = product.Running(
            module, {"monitors": [peer.path], "connect_timeout": SECONDS, **arguments}, under=UNDER
        )
        result = running.result(timeout=60)
    spent = time.monotonic() - began
    assert result.failed
    assert peer.path in result["msg"]
    assert len(result["msg"]) < 2000, result["msg"][:2000]
    assert "exception" not in result
    assert result.get("finished", False) is False
    assert spent < 25, f"{spent:.1f} s"
