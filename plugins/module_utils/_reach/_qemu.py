# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The verbs of a VM over QMP: every command that this collection sends is spelled here, and nowhere else.

Two of them are debug interfaces, because nothing else tells or does it:

- ``x-debug-query-block-graph`` (QEMU 4.0 to 11.1): which node stands on which, and which job works on which node.
  ``query-named-block-nodes`` would tell, but kills QEMU 7.2 while any stream is concluded and not dismissed, and holds
  QEMU for seconds on deep chains. Should it go: ``query-block`` of QEMU 11.1 has ``children`` for the first question,
  and job ids made from the disk answer the second for streams of ours.
- ``qemu-io NODE flush`` through ``human-monitor-command``: no QMP command flushes an image. Should it go: a `stop`
  flushes every disk, and holds the guest meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, AsyncIterator, Callable, Iterator, Mapping, TypeVar

from .._model._errors import CommandRefused, MonitorUnusable, QmpError
from .._model._job import Job, JobEvent, Stream
from .._model._peer import Owner
from .._model._seams import Connection, RawEvents
from .._model._vm import Identity, Sight, read_identity
from ._qmp import open_connection

T = TypeVar("T")

_IDENTITY = ("query-name", "query-uuid", "query-version", "query-chardev")
_OF_VMS_ONLY = ("query-name", "query-uuid", "query-status")
# The chains come last. A job that ends in between is then seen beside the chain that it left, and never the other way
# round: an old chain without its job would be streamed again.
_STATE = ("query-status", "query-block-jobs", "x-debug-query-block-graph", "query-block")


class QemuEvents:
    """The events of one job; see ``_seams.JobEvents``."""

    def __init__(self, events: RawEvents):
        self._events = events

    async def next(self, timeout: float) -> JobEvent | None:
        """The next event within ``timeout`` seconds, or None."""
        event = await self._events.next(timeout)
        return None if event is None else read_reply(lambda: JobEvent.from_qmp(event))


class QemuLink:
    """A VM behind a QMP session; see ``_seams.Link``."""

    def __init__(self, connection: Connection):
        self._connection = connection
        self.address = connection.address
        self.peer = connection.peer

    # -- Looking -------------------------------------------------------------------------------------------------------

    async def identify(self) -> tuple[Identity, Sight]:
        """Who the VM is, and what it looks like now."""
        try:
            replies = await self._ask(*_IDENTITY, *_STATE)
        except CommandRefused as error:
            raise _no_vm(error) from error
        who, state = replies[: len(_IDENTITY)], replies[len(_IDENTITY) :]
        identity = read_reply(lambda: read_identity(self.address, self.peer, *who, blocks=state[-1]))
        return identity, read_reply(lambda: Sight.from_qmp(*state))

    async def look(self) -> Sight:
        """The disks and jobs of the VM as they are now."""
        state = await self._ask(*_STATE)
        return read_reply(lambda: Sight.from_qmp(*state))

    async def jobs(self) -> tuple[Job, ...]:
        """The block jobs alone."""
        (entries,) = await self._ask("query-block-jobs")
        return read_reply(lambda: tuple(Job.from_qmp(entry) for entry in entries))

    @contextlib.contextmanager
    def listen(self, job_id: str) -> Iterator[QemuEvents]:
        """Collect the events of a job from now on."""
        with self._connection.listen(job_id) as events:
            yield QemuEvents(events)

    async def _ask(self, *commands: str) -> list[Any]:
        """Send queries in one go; QEMU answers them one after the other."""
        return list(await asyncio.gather(*(self._connection.execute(command) for command in commands)))

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
        if stream.speed is not None:
            arguments["speed"] = stream.speed
        await self._tell("block-stream", arguments)

    async def set_speed(self, job_id: str, speed: int) -> None:
        """Limit a job. The newer ``job-*`` commands have nothing for it."""
        await self._tell("block-job-set-speed", {"device": job_id, "speed": speed})

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

    async def flush(self, node: str) -> None:
        """Have QEMU write out what it holds of an image.

        The human monitor answers with nothing, or with a text if the node is unknown. It does not tell an I/O error.
        """
        line = f"qemu-io {node} flush"
        text = str(await self._connection.execute("human-monitor-command", {"command-line": line})).strip()
        if text:
            raise CommandRefused(line, text)

    async def delete_node(self, node: str) -> None:
        """Close a block node that nothing uses."""
        await self._tell("blockdev-del", {"node-name": node})

    async def _tell(self, command: str, arguments: Mapping[str, Any]) -> None:
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


def read_reply(read: Callable[[], T]) -> T:
    """Turn a reply that lacks what every QEMU sends into an error that says so."""
    try:
        return read()
    except (AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise MonitorUnusable(
            f"the answers lack what every QEMU since 4.0 sends ({type(error).__name__}: {error})"
        ) from error
