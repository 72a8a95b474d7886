# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The verbs of a VM over QMP: every command that this collection sends is spelled here, and nowhere else.

Two of them are debug interfaces, because nothing else tells or does it:

- ``x-debug-query-block-graph`` (QEMU 4.0 to 11.1): which node stands on which, and which job works on which node.
  ``query-named-block-nodes`` would tell, but kills QEMU 7.2 while any stream is concluded and not dismissed, and holds
  QEMU for seconds on deep chains. Should it go: ``query-block`` of QEMU 11.1 has ``children`` for the first question,
  and job ids made from the disk answer the second for streams of ours.
- ``qemu-io NODE flush`` through ``human-monitor-command``: no QMP command flushes an image that a job works on. Should
  it go: a ``stop`` flushes every disk, and holds the guest meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from typing import (
    TYPE_CHECKING,
    Any,
    AsyncContextManager,
    AsyncIterator,
    Callable,
    Iterator,
    Mapping,
    Sequence,
    TypeVar,
)

from .._model._disk import Disk
from .._model._errors import AnswersDiffer, CommandRefused, MonitorUnusable, QmpError, WriteBackFailed
from .._model._graph import Graph
from .._model._job import Job, JobEvent, Stream
from .._model._latency import GuestDevice, read_guest_devices
from .._model._peer import Owner
from .._model._reader import Members, text_of
from .._model._seams import Ahead, Connection, Pull, RawEvents
from .._model._serving import LOCK, Export, Serving, read_exports, read_iothreads
from .._model._vm import (
    Identity,
    Migration,
    Sight,
    is_libvirts,
    read_chardevs,
    read_disks,
    read_fdsets,
    read_jobs,
    read_migration,
    read_name,
    read_status,
    read_uuid,
    read_version,
)
from ._qmp import open_connection

if TYPE_CHECKING:
    from ._ahead import Exporter

T = TypeVar("T")

# What QEMU knows of a VM, and qemu-storage-daemon does not.
_OF_VMS_ONLY = ("query-name", "query-uuid", "query-status")
# A name that no node can have.
_NO_NODE = "/no such node/"
# What our open socket is called until QEMU's NBD server takes it.
_SOCKET = "populate-ahead"
# What QEMU says of a snapshot whose flush failed: before 10.0, and since.
_FLUSH_FAILED = ("An IO error has occurred", "Write to node")


class QemuEvents:
    """The events of one job; see ``_seams.JobEvents``."""

    def __init__(self, events: RawEvents):
        self._events = events

    async def next(self, timeout: float) -> JobEvent | None:
        """The next event within ``timeout`` seconds, or None."""
        event = await self._events.next(timeout)
        return None if event is None else JobEvent.from_qmp(event)


class QemuLink:
    """A VM behind a QMP session; see ``_seams.Link``."""

    pull: Pull | None = None

    def __init__(self, connection: Connection):
        self._connection = connection
        self.address = connection.address
        self.peer = connection.peer
        self.runs = connection.runs
        self.alone = asyncio.Lock()

    @functools.cached_property
    def _exporter(self) -> Exporter:
        # Loaded here, and only here: most tasks read nothing ahead.
        from ._ahead import Exporter

        return Exporter(self)

    # -- Looking -------------------------------------------------------------------------------------------------------

    # What one look asks is sent at once: QEMU answers in this order, and none waits for the other between two answers.
    # Each answer is read and let go by who asked: a guest that owns its QEMU can make each as large as is taken at all.

    async def identify(self) -> tuple[Identity, Sight]:
        """Who the VM is, and what it looks like now."""
        try:
            return await self._identify()
        except CommandRefused as error:
            raise _no_vm(error) from error

    async def _identify(self) -> tuple[Identity, Sight]:
        name, uuid, version, chardevs, serving, sight = await asyncio.gather(
            self._ask("query-name", read_name),
            self._ask("query-uuid", read_uuid),
            self._ask("query-version", read_version),
            self._ask("query-chardev", read_chardevs),
            self.serving(),
            self.look(),
        )
        managed = is_libvirts(chardevs, sight.disks)
        return Identity(self.address, name, uuid, version, self.peer, managed), sight._replace(serving=serving)

    async def look(self) -> Sight:
        """The disks and jobs of the VM as they are now."""
        with contextlib.suppress(AnswersDiffer):
            return await self._look()
        return await self._look()

    async def _look(self) -> Sight:
        # The chains come last. A job that ends in between is then seen beside the chain that it left, and never the
        # other way round: an old chain without its job would be streamed again.
        status, jobs, (graph, disks) = await asyncio.gather(self.status(), self.jobs(), self._chains())
        sight = Sight(status, disks, jobs, graph)
        if not sight.uses_fdsets:
            return sight
        return sight._replace(fdsets=await self._ask("query-fdsets", read_fdsets))

    async def _chains(self) -> tuple[Graph, tuple[Disk, ...]]:
        graph, reply = await asyncio.gather(
            self._ask("x-debug-query-block-graph", Graph.from_qmp), self._connection.execute("query-block")
        )
        return graph, read_disks(reply, graph)

    async def jobs(self) -> tuple[Job, ...]:
        """The block jobs alone."""
        return await self._ask("query-block-jobs", read_jobs)

    async def status(self) -> str:
        """The run state of the VM alone."""
        return await self._ask("query-status", read_status)

    async def migration(self) -> Migration:
        """The last migration. QEMU keeps its total time until the next one begins."""
        return await self._ask("query-migrate", read_migration)

    async def serving(self) -> Serving:
        """What QEMU serves to others, and whether it has iothreads. Before 5.2 it has no exports."""
        has_iothreads, exports = await asyncio.gather(self._ask("query-iothreads", read_iothreads), self._exports())
        return Serving(has_iothreads, exports)

    async def _exports(self) -> tuple[Export, ...]:
        try:
            return await self._ask("query-block-exports", read_exports)
        except CommandRefused:
            return ()

    @contextlib.contextmanager
    def listen(self, job_id: str) -> Iterator[QemuEvents]:
        """Collect the events of a job from now on."""
        with self._connection.listen(job_id) as events:
            yield QemuEvents(events)

    async def _ask(self, command: str, read: Callable[[Any], T]) -> T:
        return read(await self._connection.execute(command))

    # -- Acting --------------------------------------------------------------------------------------------------------

    async def start(self, stream: Stream) -> None:
        """Start a stream that cannot vanish: with ``auto-finalize`` off, one that succeeded waits at ``pending``.

        ``auto-dismiss`` is left on: a job that waits to be dismissed keeps the node busy and the base open when its
        waiter has died. A ``filter-node-name`` would show the job's own filter in ``query-block``.
        """
        arguments: dict[str, Any] = {
            "job-id": stream.job_id,
            "device": stream.node,
            "auto-finalize": False,
            "on-error": stream.on_error,
        }
        if stream.base_node is not None:
            arguments["base-node"] = stream.base_node
        if stream.backing_file is not None:
            arguments["backing-file"] = stream.backing_file
        if stream.speed is not None:
            arguments["speed"] = stream.speed
        await self._tell("block-stream", arguments)

    async def set_speed(self, job_id: str, speed: int) -> None:
        """Limit a job. The newer ``job-*`` commands have nothing for it."""
        await self._tell("block-job-set-speed", {"device": job_id, "speed": speed})

    async def guest_devices(self) -> tuple[GuestDevice, ...]:
        """The devices of the guest, and how long its requests took. On a deep chain QEMU takes some milliseconds."""
        return await self._ask("query-blockstats", read_guest_devices)

    async def set_histograms(self, qdev: str, boundaries: Sequence[int]) -> None:
        """Count from now on how many requests take how long. QEMU knows the device by what it calls ``qdev`` only."""
        arguments: dict[str, Any] = {"id": qdev}
        if boundaries:
            arguments["boundaries"] = list(boundaries)
        await self._tell("block-latency-histogram-set", arguments)

    async def pause(self, job_id: str) -> None:
        """Hold a job."""
        await self._tell("job-pause", {"id": job_id})

    async def resume(self, job_id: str) -> None:
        """Let a held job go on."""
        await self._tell("job-resume", {"id": job_id})

    async def cancel(self, job_id: str) -> None:
        """Stop a job. ``block-job-cancel`` refuses a paused one; ``job-cancel`` does not, on any QEMU."""
        await self._tell("job-cancel", {"id": job_id})

    async def finish(self, job_id: str) -> None:
        """Let a job that has copied everything remove the backing link."""
        await self._tell("job-finalize", {"id": job_id})

    async def dismiss(self, job_id: str) -> None:
        """Let go of a job that is over."""
        await self._tell("job-dismiss", {"id": job_id})

    async def flush(self, node: str, beneath: Sequence[str]) -> bool:
        """Have QEMU write out what it holds of an image, and tell whether the storage took it.

        A snapshot begins with a flush, and fails if that does; onto a node that does not exist it ends right after it.
        A node that a job works on cannot have one. The human monitor flushes that, and answers with nothing, or with a
        text if the node is unknown: it does not tell an I/O error. But QEMU remembers one of a file until it opens it
        anew, and the nodes beneath can be asked beside a job, too.
        """
        if await self._ask_flush(node):
            return True
        line = f"qemu-io {node} flush"
        async with self.alone:
            reply = await self._connection.execute("human-monitor-command", {"command-line": line})
        text = text_of(reply, line).strip()
        if text:
            raise CommandRefused(line, text)
        for each in beneath:
            if not await self._ask_flush(each):
                return False
        return bool(beneath)

    async def _ask_flush(self, node: str) -> bool:
        """Whether QEMU tells that it could flush a node; False where it does not tell.

        :raise WriteBackFailed: it tells that it could not, now or since it opened the file.
        """
        try:
            await self._tell("blockdev-snapshot", {"node": node, "overlay": _NO_NODE})
        except CommandRefused as error:
            if any(words in error.reason for words in _FLUSH_FAILED):
                raise WriteBackFailed(
                    f"QEMU cannot flush the image: an Input/output error, or no space left ({error.reason})"
                ) from error
            return _NO_NODE in error.reason
        return False

    async def delete_node(self, node: str) -> None:
        """Close a block node that nothing uses."""
        await self._tell("blockdev-del", {"node-name": node})

    async def leave_mark(self, node: str) -> None:
        """Leave an empty node, which is in the block graph from now on. One that can be written has no snapshots."""
        with contextlib.suppress(CommandRefused):
            await self._tell("blockdev-add", {"driver": "null-co", "node-name": node, "read-only": True})

    # -- Reading ahead -------------------------------------------------------------------------------------------------

    def read_ahead(self, node: str) -> AsyncContextManager[Ahead]:
        """Let a format node be read ahead of its stream."""
        return self._exporter.export(node)

    async def end_exports_but_own(self, exports: Sequence[str]) -> None:
        """Have QEMU end exports of ours that this link does not use, and its NBD server if none is left."""
        await self._exporter.end_but_own(exports)

    async def start_server(self, listener: int) -> None:
        """Start QEMU's NBD server on an open socket. QEMU refuses if it has one."""
        await self._connection.execute("getfd", {"fdname": _SOCKET}, listener)
        try:
            await self._tell("nbd-server-start", {"addr": {"type": "fd", "data": {"str": _SOCKET}}})
        except CommandRefused:
            with contextlib.suppress(CommandRefused):  # QEMU has taken it before it refused
                await self._tell("closefd", {"fdname": _SOCKET})
            raise

    async def add_export(self, export: str, node: str) -> bool:
        """Let a node be read over NBD, under this name; also where its data lies.

        Before 10.0 QEMU dies if it is to copy something when it gives an image away, as it does at the end of a
        migration. Since then it ends what is under way before, and copies nothing afterwards.

        :return: whether this QEMU can give the image away meanwhile.
        """
        values = {"type": "nbd", "id": export, "name": export, "node-name": node, "allocation-depth": True}
        try:
            await self._tell("block-export-add", {**values, "allow-inactive": True})
        except CommandRefused as error:
            if "allow-inactive" not in error.reason:
                raise
            await self._tell("block-export-add", values)
            return False
        return True

    async def forbid_migration(self, image: int) -> None:
        """Have QEMU refuse to migrate, and to save its state, while it has a node of a format that cannot be migrated.

        QEMU refuses the node while a migration is under way.

        :param image: an empty image of the format vdi, open for reading.
        """
        reply = await self._connection.execute("add-fd", {"opaque": LOCK}, image)
        fdset = Members(reply, "add-fd").size("fdset-id")
        file = {"driver": "file", "filename": f"/dev/fdset/{fdset}", "read-only": True, "locking": "off"}
        try:
            await self._tell("blockdev-add", {"driver": "vdi", "node-name": LOCK, "read-only": True, "file": file})
        finally:
            await self._tell("remove-fd", {"fdset-id": fdset})  # the node keeps it open

    async def allow_migration(self) -> None:
        """Let QEMU migrate again."""
        with contextlib.suppress(CommandRefused):  # it was never forbidden
            await self._tell("blockdev-del", {"node-name": LOCK})

    async def delete_export(self, export: str) -> None:
        """Hang up on the clients of an export. It goes when what they have asked for is done."""
        await self._tell("block-export-del", {"id": export, "mode": "hard"})

    async def stop_server(self) -> None:
        """Stop QEMU's NBD server."""
        await self._tell("nbd-server-stop", {})

    async def _tell(self, command: str, arguments: Mapping[str, Any]) -> None:
        """Send a command that changes something: one at a time, as QEMU takes them anyway."""
        async with self.alone:
            await self._connection.execute(command, arguments)


@contextlib.asynccontextmanager
async def open_link(address: str, timeout: float, owner: Owner | None = None) -> AsyncIterator[QemuLink]:
    """Connect to the monitor at ``address``; see ``_qmp.open_connection``."""
    async with open_connection(address, timeout, owner) as connection:
        yield QemuLink(connection)


def _no_vm(error: CommandRefused) -> QmpError:
    """Of all that QEMU brings, qemu-storage-daemon speaks QMP as well, and has images but no VM."""
    if error.command not in _OF_VMS_ONLY:
        return error
    return MonitorUnusable(
        f"this is no VM: it does not know {error.command}, as qemu-storage-daemon does not. Leave it out of monitors"
    )
