# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The QMP connection: the only place that knows the qemu.qmp library. Every wait has a deadline.

What qemu.qmp leaves to its users is done here: a connection attempt never times out by itself, a listener never learns
that QEMU died, and who waits for an answer never learns that it could not be read.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
import stat
import traceback
from typing import Any, AsyncIterator, Iterator, Mapping

from .._model._address import TcpAddress, UnixAddress, read_address
from .._model._errors import CommandRefused, MonitorError, MonitorLost, MonitorMissing, MonitorSilent, MonitorUnusable
from .._model._peer import Owner, Peer
from .._model._seams import OtherRuns
from ._peer import is_accepted, made_by, other_inode, served_by
from ._runs import call_by_name, find_runs
from ._threads import away

# asyncio warns on stderr when a peer dies while it is spoken to. Whoever needs the connection is told by an exception.
logging.getLogger("asyncio").addHandler(logging.NullHandler())

# QEMU answers within milliseconds unless it hangs. A flush waits for the storage, with all that the guest has written.
REPLY_SECONDS = {"human-monitor-command": 600.0}
USUAL_REPLY_SECONDS = 30.0

# How long to stay outside a queue that is full before the next try.
_QUEUE_SECONDS = 0.1

# What the host itself may take, beside what a monitor may take.
_LEAST_HOST_SECONDS = 1.0

_LOST = (
    "QEMU died, quit, or closed the monitor. If it lives, its jobs go on; if not, what was copied is kept. Run the "
    "task again when the VM is up"
)

# The most that one message may be, and the objects and lists in it. `query-block` takes 105 KiB for a disk whose chain
# is 200 deep (QEMU 7.2; a third more on 11.1): so this is 30 such disks, or 120 whose chains are 50 deep. The block
# graph has most objects, 8 for each image of 385 bytes. What Python makes of a line takes 15 times as much memory at
# most; without the second limit it would be 60 times.
_MOST_REPLY = 4 * 2**20
_MOST_OBJECTS = 2**17

# What a stream needs to know. BLOCK_JOB_ERROR comes for every failing chunk, so of a kind not yet read one is kept.
_JOB_EVENTS = ("BLOCK_JOB_PENDING", "BLOCK_JOB_COMPLETED", "BLOCK_JOB_CANCELLED", "BLOCK_JOB_ERROR")


class _TooLong(ValueError):
    """A message of many lines that are too much together."""


QEMU_QMP_IMPORT_ERROR: str | None
try:
    from qemu.qmp import (
        ConnectError,
        EventListener,
        ExecInterruptedError,
        ExecuteError,
        Message,
        QMPClient,
        QMPError,
        Runstate,
        StateError,
    )
except ImportError:
    QEMU_QMP_IMPORT_ERROR = traceback.format_exc()
else:
    QEMU_QMP_IMPORT_ERROR = None

    class _Client(QMPClient):
        """A client that reads ``-qmp-pretty``, too, and knows why it stopped to understand its peer.

        The library says that the session ended.
        """

        def __init__(self) -> None:
            super().__init__(readbuflen=_MOST_REPLY)
            self.events.event_filter = lambda _event: False  # else it keeps every event for ever
            self.complaint = ""

        async def _do_recv(self) -> Message:
            try:
                text = await self._read_text()
                check_size(text)
                message = Message(text, eager=True)
                _check_routing(message)
            except (QMPError, RecursionError, ValueError) as error:
                self.complaint = _complaint(error)
                raise
            return message

        async def _read_text(self) -> bytes:
            """The text of a message: a line, or from a line that is a brace to the next line that begins with one."""
            text = await self._readline()
            if text.strip() != b"{":
                return text
            lines, size = [text], len(text)
            while not lines[-1].startswith(b"}"):
                lines.append(await self._readline())
                size += len(lines[-1])
                if size > _MOST_REPLY:
                    raise _TooLong
            return b"".join(lines)

        # The library's own write every message out for a log that nobody keeps: 8 s for a line of 4 MiB.

        def _cb_inbound(self, msg: Message) -> Message:
            return msg

        def _cb_outbound(self, msg: Message) -> Message:
            return msg

        def ended(self, when: str) -> MonitorError:
            """The error for a session that is no more."""
            if self.complaint:
                return MonitorUnusable(f"what answers at this monitor does not speak as QEMU does: {self.complaint}")
            return MonitorLost(f"the connection ended{when}: {_LOST}")


class QmpEvents:
    """The events of one job, from the moment of ``QmpConnection.listen``."""

    def __init__(self, client: _Client, job_id: str):
        self._client = client
        self._job_id = job_id
        self._unread: set[str] = set()
        self.listener = EventListener(_JOB_EVENTS, self._accept)

    def _accept(self, event: Mapping[str, Any]) -> bool:
        details = event.get("data")
        if not isinstance(details, dict):
            return False
        new = self._job_id in (details.get("device"), details.get("id")) and event["event"] not in self._unread
        if new:
            self._unread.add(event["event"])
        return new

    async def next(self, timeout: float) -> Mapping[str, Any] | None:
        """The next event within ``timeout`` seconds, or None."""
        if timeout <= 0 and self.listener.empty() and self._client.runstate is Runstate.RUNNING:
            return None
        heard = asyncio.ensure_future(self.listener.get())
        over = asyncio.ensure_future(self._client.runstate_changed())
        waits = {heard, over}
        try:
            if self._client.runstate is Runstate.RUNNING or not self.listener.empty():
                await asyncio.wait(waits, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if heard.done():
                self._unread.discard(heard.result()["event"])
                return dict(heard.result())
            if self._client.runstate is not Runstate.RUNNING:
                raise self._client.ended("")
            return None
        finally:
            for wait in waits:
                wait.cancel()


class QmpConnection:
    """An open monitor; see ``_seams.Connection``."""

    def __init__(self, client: _Client, address: str, peer: Peer | None, runs: OtherRuns | None):
        self._client = client
        self.address = address
        self.peer = peer
        self.runs = runs

    async def execute(
        self, command: str, arguments: Mapping[str, Any] | None = None, descriptor: int | None = None
    ) -> Any:
        """Send one command."""
        if descriptor is not None:
            self._send_descriptor(descriptor)
        seconds = REPLY_SECONDS.get(command, USUAL_REPLY_SECONDS)
        try:
            return await asyncio.wait_for(
                self._client.execute(command, dict(arguments) if arguments else None), seconds
            )
        except ExecuteError as error:
            raise CommandRefused(command, str(error)) from error
        except asyncio.TimeoutError as error:
            raise MonitorSilent(f"no answer to {command} within {seconds:g} s: QEMU hangs, or is stopped") from error
        except (ExecInterruptedError, StateError) as error:
            raise self._client.ended(f" at {command}") from error
        except QMPError as error:
            raise MonitorUnusable(f"the answer to {command} is neither a result nor an error of QEMU") from error

    def _send_descriptor(self, descriptor: int) -> None:
        """QEMU keeps it for the next command that takes one."""
        try:
            self._client.send_fd_scm(descriptor)
        except (OSError, QMPError) as error:
            raise MonitorUnusable(f"no file descriptor can be passed to QEMU: {error}") from error

    @contextlib.contextmanager
    def listen(self, job_id: str) -> Iterator[QmpEvents]:
        """Collect the events of one job."""
        events = QmpEvents(self._client, job_id)
        with self._client.listen(events.listener):
            yield events


@contextlib.asynccontextmanager
async def open_connection(address: str, timeout: float, owner: Owner | None = None) -> AsyncIterator[QmpConnection]:
    """Connect to the monitor at ``address``, in any spelling that ``read_address`` knows.

    :param timeout: seconds to wait for the greeting, which comes at once unless the monitor serves another client.
    :param owner: the user who must run the QEMU behind it.
    :raise MonitorError: the leaf says why there is no session.
    """
    client = _Client()
    place = read_address(address)
    try:
        peer: Peer | None = None
        runs: OtherRuns | None = None
        try:
            if isinstance(place, TcpAddress):
                await _connect_tcp(client, place, timeout, owner)
            else:
                peer, runs = await _connect_unix(client, place, timeout, owner)
        except ConnectError as error:
            raise _no_greeting(error, client.complaint) from error
        except AssertionError as error:  # qemu.qmp's way to say that the session was over as soon as it began
            raise MonitorLost("the connection ended right after the greeting: QEMU died or quit") from error
        except OSError as error:
            raise _unconnected(error) from error
        yield QmpConnection(client, address, peer, runs)
    finally:
        if client.runstate is not Runstate.IDLE:
            # It raises why the session ended; whoever needed the session has been told already.
            with contextlib.suppress(Exception):
                await asyncio.wait_for(client.disconnect(), timeout)


_BUSY = (
    "A monitor serves one client at a time and is silent to the others: try again when the other client is gone, or "
    "give Ansible a monitor of its own"
)
_MUTE = (
    "What made the socket accepted the connection and says nothing: it is the socket of a guest agent or a serial "
    "line, or QEMU hangs"
)
_BUSY_OR_MUTE = f"{_BUSY}. A guest agent's socket is silent, too"


async def _connect_tcp(client: _Client, place: TcpAddress, timeout: float, owner: Owner | None) -> None:
    """Connect and shake hands; nobody can tell who is at the other end."""
    _hold_to(owner, None)
    # qemu.qmp wraps every error of a connection; only it knows how to open a TCP one for every Python.
    try:
        await asyncio.wait_for(client.connect((place.host, place.port)), timeout)
    except asyncio.TimeoutError as error:
        raise MonitorSilent(f"no greeting from the monitor within {timeout:g} s. {_BUSY_OR_MUTE}") from error
    except ConnectError as error:
        raise (error.exc if isinstance(error.exc, OSError) else error) from error


async def _connect_unix(
    client: _Client, place: UnixAddress, timeout: float, owner: Owner | None
) -> tuple[Peer, OtherRuns | None]:
    """Connect and shake hands; return who serves, and how to see who else of this collection comes."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    end = await _enter_queue(place, timeout)
    with contextlib.ExitStack() as on_failure, end.dup() as witness:  # for qemu.qmp closes its own when it gives up
        on_failure.callback(end.close)
        if owner is not None and not owner.may_have_made(made_by(witness).maker_uid):
            _hold_to(owner, made_by(witness))  # and not a word is said to it
        try:
            await asyncio.wait_for(client.connect(end), max(0.0, deadline - loop.time()))
        except asyncio.TimeoutError as error:
            why = {True: _MUTE, False: _BUSY, None: _BUSY_OR_MUTE}[is_accepted(witness)]
            raise MonitorSilent(f"no greeting from the monitor within {timeout:g} s. {why}") from error
        peer = await away(served_by, witness, seconds=max(timeout, _LEAST_HOST_SECONDS), what="/proc")
        _hold_to(owner, peer)
        runs = find_runs(other_inode(witness))
        on_failure.pop_all()
    return peer, runs


def _hold_to(owner: Owner | None, peer: Peer | None) -> None:
    refusal = None if owner is None else owner.refusal(peer)
    if refusal is not None:
        raise MonitorUnusable(refusal)


async def _enter_queue(place: UnixAddress, timeout: float) -> socket.socket:
    """Connect to a UNIX socket, and wait outside while its queue is full.

    QEMU's queue holds two. A client that gave up keeps its place in it until QEMU is free, accepts it and drops it at
    once: with 7.2 the way was clear again a millisecond after the client that was served had left.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    while True:
        try:
            seconds = max(timeout, _LEAST_HOST_SECONDS)
            return await away(_connected, place, seconds=seconds, what="the folder of the socket")
        except BlockingIOError as error:
            if loop.time() + _QUEUE_SECONDS >= deadline:
                words = f"the queue of the clients that wait for it was full for {timeout:g} s"
                raise MonitorSilent(f"{words}. {_BUSY}") from error
        await asyncio.sleep(_QUEUE_SECONDS)


def _connected(place: UnixAddress) -> socket.socket:
    """A connection to a UNIX socket, which comes about at once or never."""
    if not place.is_abstract and not stat.S_ISSOCK(os.stat(place.path).st_mode):
        raise OSError(errno.ENOTSOCK, "it is not a socket")
    end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with contextlib.ExitStack() as on_failure:
        on_failure.callback(end.close)
        call_by_name(end)
        # Not through the event loop: there EAGAIN, which tells of a full queue, would wait for what never comes.
        end.setblocking(False)
        end.connect(place.path)
        on_failure.pop_all()
    return end


def _unconnected(error: OSError) -> MonitorError:
    if error.errno == errno.ENOENT:
        return MonitorMissing(
            "there is no such socket. Is the VM running, and is this the path of its -qmp or -mon option?"
        )
    if error.errno == errno.ECONNREFUSED:
        return MonitorMissing("the connection was refused: the VM is off, or the QEMU that made the socket died")
    if error.errno == errno.ENOTSOCK:
        return MonitorUnusable("this is not a socket. Name the socket of QEMU's -qmp or -mon option")
    remedy = ". Run the task with become, or give this user the right to write to the socket"
    return MonitorUnusable(f"cannot connect: {error.strerror or error}{remedy if error.errno == errno.EACCES else ''}")


def _no_greeting(error: ConnectError, complaint: str) -> MonitorError:
    if isinstance(error.exc, (EOFError, ConnectionError)):
        return MonitorLost("the connection ended before the greeting: QEMU is quitting, or this is not a QMP monitor")
    if "monitor - type 'help'" in str(error.exc):
        return MonitorUnusable(
            "this is QEMU's human monitor (HMP). Name the socket of -qmp, or of a -mon with mode=control"
        )
    return MonitorUnusable(
        f"what answers there does not speak QMP ({complaint or error.error_message}). Is it a human monitor, a console "
        "or a guest agent?"
    )


def check_size(line: bytes) -> None:
    """Refuse a line that is short and takes much memory.

    :raise ValueError: it holds more objects than any QEMU tells of.
    """
    if line.count(b"{") + line.count(b"[") > _MOST_OBJECTS:
        raise ValueError("too many objects")


def _check_routing(message: Message) -> None:
    """Refuse what the library would stumble over when it looks for whom a message is.

    :raise ValueError: its event has no name, or its id is none.
    """
    if "event" in message and not isinstance(message["event"], str):
        raise ValueError("an event without a name")
    if not isinstance(message.get("id", ""), (str, int)):
        raise ValueError("an answer to nobody")


def _complaint(error: Exception) -> str:
    """Why a line is none of QMP; nothing where its end is missing, because QEMU died in the middle of it.

    What it holds is not repeated: it may be as large as a line can be.
    """
    if not getattr(error, "raw", b"\n").endswith(b"\n"):
        return ""
    if isinstance(error, _TooLong) or isinstance(error.__context__, asyncio.LimitOverrunError):
        return f"it sends a message of more than {_MOST_REPLY // 2**20} MiB"
    if isinstance(error, RecursionError):
        return "it sends a line that is nested too deep"
    return "it sends a line that is no message of QMP, or none that a QEMU sends"
