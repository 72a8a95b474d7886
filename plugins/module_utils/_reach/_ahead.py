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
from typing import AsyncIterator, Iterator, Protocol

from .._model._errors import CommandRefused, HostSilent, ReadAheadFailed
from .._model._serving import EXPORT, Serving
from ._nbd import NbdClient
from ._threads import away

# QEMU greets at once, unless its storage holds it up.
_GREETING_SECONDS = 30.0
# An export goes when the requests are through that it has begun: some of 512 KiB over a slow link.
_END_SECONDS = 60.0
_POLL_SECONDS = 0.05
_SOCKET_SECONDS = 10.0


class Server(Protocol):
    """What QEMU is told about its export."""

    async def serving(self) -> Serving:
        """What it serves now."""

    async def start_server(self, listener: int) -> None:
        """Start its NBD server on an open socket."""

    async def add_export(self, node: str) -> bool:
        """Let a node be read, and tell whether QEMU can give the image away meanwhile."""

    async def forbid_migration(self, image: int) -> None:
        """Have QEMU refuse to migrate. It refuses that while a migration is under way."""

    async def allow_migration(self) -> None:
        """Let it migrate again."""

    async def delete_export(self) -> None:
        """Hang up on the client of our export, which then goes."""

    async def stop_server(self) -> None:
        """Stop the NBD server."""


class Exporter:
    """The export of one connection to a VM.

    One at a time: QEMU has one NBD server, and 11.1 stands still when a second image is exported that is streamed while
    a first one is read ahead.
    """

    def __init__(self, server: Server):
        self._server = server
        self._is_used = False

    @contextlib.asynccontextmanager
    async def export(self, node: str) -> AsyncIterator[NbdClient]:
        """Have a node exported, and be connected to it.

        :raise ReadAheadFailed: QEMU cannot be reached so.
        :raise CommandRefused: QEMU refuses.
        """
        if self._is_used:
            raise ReadAheadFailed("another disk of this VM is being read ahead, and one is at a time")
        async with contextlib.AsyncExitStack() as stack:
            self._is_used = True
            stack.callback(setattr, self, "_is_used", False)
            listener, place = await _listen()
            stack.enter_context(listener)
            stack.enter_context(place)
            await self._server.start_server(listener.fileno())
            stack.push_async_callback(self._end, is_own=True)
            if not await self._server.add_export(node):
                # It would die if it gave its images away meanwhile.
                with _empty_vdi() as image:
                    await self._server.forbid_migration(image)
            client = await NbdClient.connect(f"/proc/self/fd/{place.fileno()}", EXPORT, _GREETING_SECONDS)
            stack.push_async_callback(client.close)
            yield client

    async def end_stale(self) -> None:
        """End what a task has left behind, unless it is this one's.

        :raise ReadAheadFailed: the export does not go.
        """
        if not self._is_used:
            await self._end(is_own=False)

    async def _end(self, *, is_own: bool) -> None:
        """Have the export end, and the server after it, and let QEMU migrate again.

        While an export has requests under way QEMU stands still in ``nbd-server-stop``, and its guest with it.
        """
        had_export = True
        try:
            await self._server.delete_export()
        except CommandRefused:  # it is gone already, or never was
            had_export = False
        patience = asyncio.get_running_loop().time() + _END_SECONDS
        serving = await self._server.serving()
        while serving.has_ours:
            if asyncio.get_running_loop().time() >= patience:
                raise ReadAheadFailed(
                    f"the export {EXPORT} does not end within {_END_SECONDS:g} s, and a later run ends it. Does the "
                    "storage of the images answer?"
                )
            await asyncio.sleep(_POLL_SECONDS)
            serving = await self._server.serving()
        # Somebody else may use the server by now, or have one that is not ours.
        if (is_own or had_export) and not serving.has_nbd:
            with contextlib.suppress(CommandRefused):
                await self._server.stop_server()
        await self._server.allow_migration()


async def _listen() -> tuple[socket.socket, io.FileIO]:
    try:
        return await away(_nameless_socket, seconds=_SOCKET_SECONDS, what="the folder of the socket")
    except (OSError, HostSilent) as error:
        raise ReadAheadFailed(f"no socket can be made for QEMU: {error}") from error


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
