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
import re
import socket
import stat
import struct
import traceback
from typing import Any, AsyncIterator, Iterator, Mapping

from .._model._errors import CommandRefused, MonitorError, MonitorLost, MonitorMissing, MonitorSilent, MonitorUnusable

# asyncio warns on stderr when a peer dies while it is spoken to. Whoever needs the connection is told by an exception.
logging.getLogger("asyncio").addHandler(logging.NullHandler())

# QEMU answers within milliseconds unless it hangs. A flush waits for the storage, with all that the guest has written.
_REPLY_SECONDS = {"human-monitor-command": 600.0}
_USUAL_REPLY_SECONDS = 30.0

_LOST = (
    "QEMU died, quit, or closed the monitor. If it lives, its jobs go on; if not, what was copied is kept. Run the "
    "task again when the VM is up"
)

# The most that one line may be, and the objects and lists in it. `query-block` takes 105 KiB for a disk whose chain is
# 200 deep (QEMU 7.2; a third more on 11.1): so this is 30 such disks, or 120 whose chains are 50 deep. The block graph
# has most objects, 8 for each image of 385 bytes. What Python makes of a line takes 15 times as much memory at most;
# without the second limit it would be 60 times.
_MOST_REPLY = 4 * 2**20
_MOST_OBJECTS = 2**17

# What a stream needs to know. BLOCK_JOB_ERROR comes for every failing chunk, so of a kind not yet read one is kept.
_JOB_EVENTS = ("BLOCK_JOB_PENDING", "BLOCK_JOB_COMPLETED", "BLOCK_JOB_CANCELLED", "BLOCK_JOB_ERROR")


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
        """A client that knows why it stopped to understand its peer: the library says that the session ended."""

        def __init__(self) -> None:
            super().__init__(readbuflen=_MOST_REPLY)
            self.events.event_filter = lambda event: False  # else it keeps every event for ever
            self.complaint = ""

        async def _do_recv(self) -> Message:
            try:
                line = await self._readline()
                _check_size(line)
                message = Message(line, eager=True)
                _check_routing(message)
            except (QMPError, RecursionError, ValueError) as error:
                self.complaint = _complaint(error)
                raise
            return message

        def _cb_inbound(self, msg: Message) -> Message:
            # The library's own writes every message out for a log that nobody keeps: 8 s for a line of 4 MiB.
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

    def __init__(self, client: _Client, address: str, pid: int | None):
        self._client = client
        self.address = address
        self.pid = pid

    async def execute(self, command: str, arguments: Mapping[str, Any] | None = None) -> Any:
        """Send one command."""
        seconds = _REPLY_SECONDS.get(command, _USUAL_REPLY_SECONDS)
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

    @contextlib.contextmanager
    def listen(self, job_id: str) -> Iterator[QmpEvents]:
        """Collect the events of one job."""
        events = QmpEvents(self._client, job_id)
        with self._client.listen(events.listener):
            yield events


@contextlib.asynccontextmanager
async def open_connection(address: str, timeout: float) -> AsyncIterator[QmpConnection]:
    """Connect to the monitor at ``address``: the path of a UNIX socket, or ``host:port``.

    :param timeout: seconds to wait for the greeting, which comes at once unless the monitor serves another client.
    :raise MonitorError: the leaf says why there is no session.
    """
    client = _Client()
    try:
        try:
            pid = await asyncio.wait_for(_connect(client, address), timeout)
        except asyncio.TimeoutError as error:
            raise MonitorSilent(f"no greeting from the monitor within {timeout:g} s. {_BUSY}") from error
        except ConnectError as error:
            raise _no_greeting(error, client.complaint) from error
        except AssertionError as error:  # qemu.qmp's way to say that the session was over as soon as it began
            raise MonitorLost("the connection ended right after the greeting: QEMU died or quit") from error
        except OSError as error:
            raise _unconnected(error) from error
        yield QmpConnection(client, address, pid)
    finally:
        if client.runstate is not Runstate.IDLE:
            # It raises why the session ended; whoever needed the session has been told already.
            with contextlib.suppress(Exception):
                await asyncio.wait_for(client.disconnect(), timeout)


_BUSY = (
    "A monitor serves one client at a time and is silent to the others (a guest agent's socket is silent, too): try "
    "again when the other client is gone, or give Ansible a monitor of its own"
)


async def _connect(client: QMPClient, address: str) -> int | None:
    """Connect and shake hands; return the pid of the process that serves a UNIX socket."""
    endpoint = split_address(address)
    if not isinstance(endpoint, str):
        # qemu.qmp wraps every error of a connection; only it knows how to open a TCP one for every Python.
        try:
            await client.connect(endpoint)
        except ConnectError as error:
            raise (error.exc if isinstance(error.exc, OSError) else error) from error
        return None
    if not stat.S_ISSOCK(os.stat(endpoint).st_mode):
        raise OSError(errno.ENOTSOCK, "it is not a socket")
    peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with contextlib.ExitStack() as on_failure:
        on_failure.callback(peer.close)
        # Not through the event loop: a UNIX socket connects at once or never, and EAGAIN tells of a full queue.
        peer.setblocking(False)
        peer.connect(endpoint)
        pid: int = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))[0]
        await client.connect(peer)
        on_failure.pop_all()
    return pid or None  # 0: a process of another pid namespace


def split_address(address: str) -> str | tuple[str, int]:
    """Tell ``host:port`` from the path of a socket: no slash, and a port number behind the last colon."""
    tcp = re.match(r"^\[?([^/\[\]]+)\]?:(\d{1,5})$", address)
    return (tcp.group(1), int(tcp.group(2))) if tcp else address


def _unconnected(error: OSError) -> MonitorError:
    if error.errno == errno.ENOENT:
        return MonitorMissing(
            "there is no such socket. Is the VM running, and is this the path of its -qmp or -mon option?"
        )
    if error.errno == errno.ECONNREFUSED:
        return MonitorMissing("the connection was refused: the VM is off, or the QEMU that made the socket died")
    if error.errno == errno.EAGAIN:
        return MonitorSilent(f"the queue of the clients that wait for it is full. {_BUSY}")
    if error.errno == errno.ENOTSOCK:
        return MonitorUnusable("this is not a socket. Name the socket of QEMU's -qmp or -mon option")
    remedy = ". Run the task with become, or give this user the right to write to the socket"
    return MonitorUnusable(f"cannot connect: {error.strerror or error}{remedy if error.errno == errno.EACCES else ''}")


def _no_greeting(error: ConnectError, complaint: str) -> MonitorError:
    if isinstance(error.exc, (EOFError, ConnectionError)):
        return MonitorLost("the connection ended before the greeting: QEMU is quitting, or this is not a QMP monitor")
    return MonitorUnusable(
        f"what answers there does not speak QMP ({complaint or error.error_message}). Is it a human monitor, a console "
        "or a guest agent?"
    )


def _check_size(line: bytes) -> None:
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
    if isinstance(error.__context__, asyncio.LimitOverrunError):
        return f"it sends a line of more than {_MOST_REPLY // 2**20} MiB"
    if isinstance(error, RecursionError):
        return "it sends a line that is nested too deep"
    return "it sends a line that is no message of QMP, or none that a QEMU sends"
