# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The way to a VM's QEMU on which it is told to read ahead: an export of the active image, which nobody else can reach.

QEMU gets the socket of its NBD server as an open descriptor, so it needs no right to a folder. The name that the kernel
wants for it is gone before QEMU sees it: by what is left of it, a descriptor of this process, we connect. So a process
that is killed leaves nothing in the file system, and an export that the next run finds.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import socket
import struct
import tempfile
from typing import AsyncIterator, Iterator, Protocol, Sequence

from .._model._errors import CommandRefused, HostSilent, ReadAheadFailed
from .._model._serving import Serving, export_id
from ._nbd import NbdClient
from ._threads import away

# QEMU greets at once, unless its storage holds it up.
_GREETING_SECONDS = 5.0
# And answers at once.
_ANSWER_SECONDS = 1.0
# An export goes when the requests are through that it has begun: some of 512 KiB over a slow link.
_END_SECONDS = 60.0
_POLL_SECONDS = 0.05
_SOCKET_SECONDS = 10.0


class Server(Protocol):
    """What QEMU is told about its exports. While ``alone`` is held it is told nothing else that changes anything."""

    alone: asyncio.Lock

    async def serving(self) -> Serving:
        """What it serves now."""

    async def start_server(self, listener: int) -> None:
        """Start its NBD server on an open socket."""

    async def add_export(self, export: str, node: str) -> bool:
        """Let a node be read, under this name, and tell whether QEMU can give the image away meanwhile."""

    async def forbid_migration(self, image: int) -> None:
        """Have QEMU refuse to migrate. It refuses that while a migration is under way."""

    async def allow_migration(self) -> None:
        """Let it migrate again."""

    async def delete_export(self, export: str) -> None:
        """Hang up on the clients of an export, which then goes."""

    async def stop_server(self) -> None:
        """Stop the NBD server."""


class Exporter:
    """The exports of one connection to a VM. They have one server together, for QEMU has one at most.

    QEMU 11.1 stands still, and its guest with it, if a client comes to an export while it waits for all requests to be
    through, as it does before it changes what images belong together. It goes on when the client leaves. So nothing is
    changed while one comes, and if QEMU does not answer then, because of what others have told it, the client leaves.
    """

    def __init__(self, server: Server):
        self._server = server
        self._one_at_a_time = asyncio.Lock()
        self._used: set[str] = set()
        self._listener = contextlib.ExitStack()
        self._path = ""
        self._forbids = False

    @contextlib.asynccontextmanager
    async def export(self, node: str) -> AsyncIterator[NbdClient]:
        """Have a node exported, and be connected to it.

        :raise ReadAheadFailed: QEMU cannot be reached so.
        :raise CommandRefused: QEMU refuses.
        """
        async with contextlib.AsyncExitStack() as stack:
            async with self._one_at_a_time:
                if not self._used:
                    await self._start()
                name = self._unused_name()
                self._used.add(name)
                stack.push_async_callback(self._end, name)
                if not await self._server.add_export(name, node):
                    await self._forbid_migration()
                client = await self._connect(stack, name)
            yield client

    def _unused_name(self) -> str:
        number = 0
        while export_id(number) in self._used:
            number += 1
        return export_id(number)

    async def _connect(self, stack: contextlib.AsyncExitStack, name: str) -> NbdClient:
        async with self._server.alone:
            client = await NbdClient.connect(self._path, name, _GREETING_SECONDS)
            stack.push_async_callback(client.close)
            try:
                await asyncio.wait_for(self._server.serving(), _ANSWER_SECONDS)
            except asyncio.TimeoutError as error:
                raise ReadAheadFailed(
                    "QEMU stood still when it was to begin, and a later attempt may succeed"
                ) from error
        return client

    async def _start(self) -> None:
        with contextlib.ExitStack() as stack:
            try:
                listener, place = await away(_nameless_socket, seconds=_SOCKET_SECONDS, what="the folder of the socket")
            except (OSError, HostSilent) as error:
                raise ReadAheadFailed(f"no socket can be made for QEMU: {error}") from error
            stack.enter_context(listener)
            stack.enter_context(place)
            self._path = f"/proc/self/fd/{place.fileno()}"
            await self._server.start_server(listener.fileno())
            self._listener = stack.pop_all()

    async def _forbid_migration(self) -> None:
        """Keep a QEMU from giving its images away that would die of it while something is read ahead."""
        if not self._forbids:
            with _empty_vdi() as image:
                await self._server.forbid_migration(image)
            self._forbids = True

    async def _end(self, name: str) -> None:
        async with self._one_at_a_time:
            self._used.discard(name)
            if not self._used:
                self._listener.close()
            await self._end_all([name])

    async def end_but_own(self, names: Sequence[str]) -> None:
        """Have exports end that a task has left behind, but for those that are used."""
        async with self._one_at_a_time:
            await self._end_all([name for name in names if name not in self._used])

    async def _end_all(self, names: Sequence[str]) -> None:
        """Have exports end, and the server after the last one.

        While an export has requests under way QEMU stands still in ``nbd-server-stop``, and its guest with it.

        :raise ReadAheadFailed: one does not go.
        """
        serving = await self._end_exports(names)
        # Somebody else may use the server by now.
        if names and not serving.has_nbd:
            with contextlib.suppress(CommandRefused):
                await self._server.stop_server()
        if not self._used:
            self._forbids = False
            await self._server.allow_migration()

    async def _end_exports(self, names: Sequence[str]) -> Serving:
        for name in names:
            with contextlib.suppress(CommandRefused):  # it is gone already
                await self._server.delete_export(name)
        patience = asyncio.get_running_loop().time() + _END_SECONDS
        serving = await self._server.serving()
        while set(names).intersection(serving.ours):
            if asyncio.get_running_loop().time() >= patience:
                raise ReadAheadFailed(
                    f"the export {', '.join(names)} does not end within {_END_SECONDS:g} s, and a later run ends it. "
                    "Does the storage of the images answer?"
                )
            await asyncio.sleep(_POLL_SECONDS)
            serving = await self._server.serving()
        return serving


def _nameless_socket() -> tuple[socket.socket, io.FileIO]:
    """A UNIX socket that listens, and what is left of its name: a descriptor to connect by, which only we have."""
    with contextlib.ExitStack() as on_failure:
        listener = on_failure.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        with tempfile.TemporaryDirectory(prefix="populate-") as folder:
            path = os.path.join(folder, "nbd")
            listener.bind(path)
            place = on_failure.enter_context(io.FileIO(os.open(path, os.O_PATH)))
        listener.listen()
        on_failure.pop_all()
    return listener, place


@contextlib.contextmanager
def _empty_vdi() -> Iterator[int]:
    """An image without a size, open for reading: the header of VirtualBox's format, as QEMU's block/vdi.c reads it."""
    header = struct.pack("<64s5I", b"<<< QEMU VM Virtual Disk Image >>>\n", 0xBEDA107F, 0x00010001, 0x180, 2, 0)
    header += bytes(256) + struct.pack("<7IQ4I", 512, 1024, 0, 0, 0, 512, 0, 0, 2**20, 0, 0, 0)
    memory = os.memfd_create("populate-ahead")
    try:
        os.write(memory, header.ljust(1024, b"\0"))
        # QEMU takes a descriptor only for what it was opened for.
        image = os.open(f"/proc/self/fd/{memory}", os.O_RDONLY)
        try:
            yield image
        finally:
            os.close(image)
    finally:
        os.close(memory)
