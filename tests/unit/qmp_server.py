# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""A QMP server on a real socket, in the event loop of the test: so both ends live in the time that jumps."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any, AsyncIterator, Awaitable, Callable  # noqa: UP035  # Python 3.8

from ansible_collections.virtops.qmp.plugins.module_utils._model._errors import CommandRefused
from ansible_collections.virtops.qmp.tests.unit.fake_qemu import FakeQemu

GREETING = {"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": ""}, "capabilities": []}}


class Client:
    """The server's end of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        self._reader, self._writer = reader, writer
        self._unread = ""

    def send(self, *messages: Any) -> None:
        """Send messages in one go, each as a line; bytes go out as they are."""
        lines = (each if isinstance(each, bytes) else json.dumps(each).encode() + b"\r\n" for each in messages)
        self._writer.write(b"".join(lines))

    async def receive(self) -> dict[str, Any]:
        """The next message of the client, which ends with its last brace; ConnectionError when the client left."""
        while True:
            try:
                message, end = json.JSONDecoder().raw_decode(self._unread)
            except ValueError:
                received = await self._reader.read(65536)
                if not received:
                    raise ConnectionError("the client left") from None
                self._unread = (self._unread + received.decode()).lstrip()
            else:
                self._unread = self._unread[end:].lstrip()
                return dict(message)

    def answer(self, message: dict[str, Any], reply: Any, *more: Any) -> None:
        """Answer a message, and send more in the same go; the negotiation has no id."""
        self.send({"return": reply, **{key: message[key] for key in ("id",) if key in message}}, *more)

    def refuse(self, message: dict[str, Any], reason: str) -> None:
        own = {key: message[key] for key in ("id",) if key in message}
        self.send({"error": {"class": "GenericError", "desc": reason}, **own})

    async def shake_hands(self) -> None:
        """The greeting, and the negotiation of capabilities."""
        self.send(GREETING)
        self.answer(await self.receive(), {})


Talk = Callable[[Client], Awaitable[None]]


@contextlib.asynccontextmanager
async def serving(talk: Talk, path: str | None = None) -> AsyncIterator[str]:
    """Serve on a UNIX socket, or on a port of 127.0.0.1; when `talk` returns the client is hung up on."""
    conversations: list[asyncio.Task[None]] = []
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        conversations.append(asyncio.current_task())  # type: ignore[arg-type]
        writers.append(writer)
        try:
            await talk(Client(reader, writer))
        except ConnectionError:
            pass
        finally:
            writer.close()

    if path is None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        address = f"{host}:{port}"
    else:
        server = await asyncio.start_unix_server(serve, path)
        address = path
    try:
        yield address
    finally:
        for _step in range(9):
            await asyncio.sleep(0)  # who is about to be accepted comes in, so as to be sent away
        server.close()
        for conversation in conversations:
            conversation.cancel()
        await asyncio.gather(*conversations, return_exceptions=True)
        for writer in writers:
            with contextlib.suppress(AttributeError):  # of Python 3.11, where all was written when it was closed
                writer.transport.abort()  # also what was never read
        await asyncio.sleep(0)


async def silence(client: Client) -> None:
    """Read until the client leaves, and say nothing."""
    while True:
        await client.receive()


def acting_as(qemu: FakeQemu) -> Talk:
    """Serve a fake QEMU; its events go out, too."""

    class Listener:
        def __init__(self, client: Client):
            self._client = client

        def hear(self, event: dict[str, Any] | None) -> None:
            if event is not None:
                self._client.send({**event, "timestamp": {"seconds": 1, "microseconds": 2}})

    async def talk(client: Client) -> None:
        listener = Listener(client)
        await client.shake_hands()
        qemu.listeners.append(listener)  # type: ignore[arg-type]
        try:
            while True:
                message = await client.receive()
                try:
                    client.answer(message, qemu.serve(message["execute"], message.get("arguments", {})))
                except CommandRefused as error:
                    client.refuse(message, error.reason)
        finally:
            qemu.listeners.remove(listener)  # type: ignore[arg-type]

    return talk
