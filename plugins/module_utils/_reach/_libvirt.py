# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""libvirt's guests: the verbs of a VM through libvirt's own connection. The only place that knows libvirt-python.

QEMU is spoken to through ``virDomainQemuMonitorCommand``, in the same words as over a monitor of its own. Only what
changes libvirt's view of a chain is libvirt's to do: a backing link is removed by its own pull, and its own jobs are
ended by it. Calls of libvirt cannot be interrupted, so each has a thread of its own and a deadline.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import threading
import traceback
from typing import Any, AsyncIterator, Callable, Iterator, Mapping, Sequence, cast
from urllib.parse import urlsplit

from .._model._address import DomainName
from .._model._disk import Disk, Image, is_local
from .._model._domain import (
    DomainDisk,
    Listed,
    Needed,
    Plans,
    as_libvirt_knows,
    index_of_node,
    is_behind,
    read_domain,
    sources_in,
    target_of_job,
)
from .._model._errors import (
    CommandRefused,
    HostSilent,
    MonitorError,
    MonitorLost,
    MonitorMissing,
    MonitorSilent,
    MonitorUnusable,
    QmpError,
    WrongRequest,
)
from .._model._job import Job
from .._model._peer import Owner, Peer
from .._model._seams import OtherRuns
from .._model._vm import Identity, Sight
from ._process import Turn, find_guest
from ._qemu import QemuLink
from ._qmp import REPLY_SECONDS, USUAL_REPLY_SECONDS, check_size
from ._threads import away

LIBVIRT_IMPORT_ERROR: str | None
try:
    import libvirt
    import libvirt_qemu
except ImportError:
    LIBVIRT_IMPORT_ERROR = traceback.format_exc()
else:
    LIBVIRT_IMPORT_ERROR = None

# What a job's watcher needs to know. Once a job is dismissed it is "null": that is the end of one of libvirt's.
_EVENTS = "^(BLOCK_JOB_(PENDING|COMPLETED|CANCELLED|ERROR)|JOB_STATUS_CHANGE)$"
_LOST = (
    "the guest stopped, or libvirt ended the connection. If the guest lives, its jobs go on; if not, what was copied "
    "is kept. Run the task again when libvirt answers and the guest is up"
)
# A pull that finds nothing left to copy takes some tens of milliseconds, and longer only over millions of clusters.
_PULL_SECONDS = 600.0
# The event of a pull's end may have been missed, as over a restart of libvirt.
_PULL_POLL_SECONDS = 1.0
# libvirt brings its view of a chain up to date, and closes the files that left it, right after its own pull.
_SETTLE_SECONDS = 1.0
_CLOSE_SECONDS = 5.0
_POLL_SECONDS = 0.05
_NOTICE_SECONDS = 0.2
# Hundreds of domains with their snapshots take a second.
_PLANS_SECONDS = 60.0


def check_uri(uri: str) -> None:
    """Check that a connection leads to the guests of this very host.

    :raise WrongRequest: it does not, or not for sure.
    """
    try:
        words = urlsplit(uri)
    except ValueError as error:
        raise WrongRequest(f"uri is {uri!r}, which is none ({error}). Use qemu:///system or qemu:///session") from error
    driver, _plus, transport = words.scheme.partition("+")
    if driver != "qemu" or words.path not in ("/system", "/session"):
        raise WrongRequest(
            f"uri is {uri!r}, which is no connection to QEMU's guests. Use qemu:///system or qemu:///session"
        )
    if words.netloc or transport not in ("", "unix"):
        raise WrongRequest(
            f"uri is {uri!r}, which leads to another host: what QEMU has open, and which images are free, can be seen "
            "on that host only. Run the task there, with qemu:///system"
        )


class Domains:
    """The guests of one connection to libvirt; its bound methods are a ``ListDomains`` and an ``OpenLink``.

    :param timeout: seconds to wait for libvirt, and for the turn on a guest.
    :param owner: the user who must run a guest's QEMU.
    :param takes_turns: whether to be the only one of this collection at a guest, as on a monitor.
    """

    def __init__(self, uri: str, timeout: float, owner: Owner | None, *, takes_turns: bool):
        self._uri = uri
        self._timeout = timeout
        self._owner = owner
        self._takes_turns = takes_turns
        self._is_prepared = False

    async def list(self) -> Sequence[Listed]:
        """All guests of the connection, by name.

        :raise MonitorError: the leaf says why libvirt does not tell.
        """
        async with self._connected() as connection:
            listed: Sequence[Listed] = await self._ask(_list, connection)
        return listed

    async def plans(self) -> Plans:
        """What the definitions and the snapshots of all domains need; see ``_seams.AskPlans``."""
        try:
            async with self._connected() as connection:
                plans: Plans = await _ask(_plans, connection, seconds=_PLANS_SECONDS)
        except QmpError as error:
            return Plans(unknown=str(error))
        return plans

    @contextlib.asynccontextmanager
    async def open(self, address: str) -> AsyncIterator[DomainLink]:
        """Connect to libvirt for one guest.

        :raise MonitorError: the leaf says why the guest cannot be asked.
        """
        async with contextlib.AsyncExitStack() as stack:
            connection = await stack.enter_async_context(self._connected())
            guest = Guest(connection, DomainName(address))
            stack.push_async_callback(guest.leave, self._timeout)
            await guest.meet(self._timeout)
            # Not before: from here on an event tells when the guest stops, and another process may take its place.
            guest.peer = await self._peer(address, guest.uuid)
            if self._owner is not None:
                refusal = self._owner.refusal(_known(guest.peer))
                if refusal is not None:
                    raise MonitorUnusable(refusal)
            if self._takes_turns:
                await self._take_turn(_known(guest.peer), stack)
            guest.check()
            yield DomainLink(guest)

    async def _peer(self, name: str, uuid: str) -> Peer | None:
        try:
            return await away(find_guest, name, uuid, seconds=self._timeout, what="/proc")
        except HostSilent:
            return None

    async def _take_turn(self, peer: Peer, stack: contextlib.AsyncExitStack) -> None:
        """Be the only run of this collection at a guest, as who holds a monitor is, until the stack is left."""
        turn = stack.enter_context(Turn(cast("int", peer.pid)))
        deadline = asyncio.get_running_loop().time() + self._timeout
        while not await away(turn.try_to_take, seconds=self._timeout, what="/proc"):
            if asyncio.get_running_loop().time() >= deadline:
                holder = await away(turn.holder, seconds=self._timeout, what="/proc")
                raise MonitorSilent(
                    f"another run of this collection works on the domain for {self._timeout:g} s: {holder}"
                )
            await asyncio.sleep(_POLL_SECONDS)

    @contextlib.asynccontextmanager
    async def _connected(self) -> AsyncIterator[Any]:
        if not self._is_prepared:
            # libvirt writes every error to stderr otherwise; who needs to know is told by an exception.
            libvirt.registerErrorHandler(_drop, None)
            # Not libvirtaio: libvirt lets go of a connection when its last reference goes, which may be after the loop.
            libvirt.virEventRegisterDefaultImpl()
            threading.Thread(target=_run_events, name="libvirt's events", daemon=True).start()
            self._is_prepared = True
        connection = await self._ask(_open, self._uri)
        try:
            yield connection
        finally:
            with contextlib.suppress(QmpError):
                await self._ask(connection.close)

    async def _ask(self, function: Callable[..., Any], *arguments: object) -> Any:
        return await _ask(function, *arguments, seconds=self._timeout)


def _known(peer: Peer | None) -> Peer:
    if peer is None:
        raise MonitorUnusable(
            "which process is the domain's QEMU cannot be told: this user must not see it, or another process was "
            "started with the same -name and -uuid. Run the task with become, or end that one"
        )
    return peer


def _drop(_context: object, _error: object) -> None:
    pass


def _run_events() -> None:
    """Serve libvirt's events as long as the process lives. Without them every wait still has its poll."""
    with contextlib.suppress(libvirt.libvirtError):
        while True:
            libvirt.virEventRunDefaultImpl()


def _open(uri: str) -> Any:
    try:
        return libvirt.open(uri)
    except libvirt.libvirtError as error:
        raise MonitorUnusable(
            f"libvirt cannot be reached: {error}. Is libvirtd, or virtqemud, running, and may this user use it? Run "
            "the task with become, or set uri"
        ) from error


def _list(connection: Any) -> list[Listed]:
    """All guests. One that goes away meanwhile is none any more."""
    found: list[Listed] = []
    for domain in connection.listAllDomains(0):
        with contextlib.suppress(libvirt.libvirtError):
            found.append(Listed(domain.name(), domain.UUIDString(), bool(domain.isActive())))
    return sorted(found, key=_name_of)


def _plans(connection: Any) -> Plans:
    needed: list[Needed] = []
    unknown = ""
    for domain in connection.listAllDomains(0):
        try:
            needed += _needed_by(domain)
        except libvirt.libvirtError as error:
            traceback.clear_frames(error.__traceback__)  # they refer to the domain
            # One that goes away meanwhile has no plans.
            if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
                unknown = str(_as_error(error))
        except MonitorUnusable as error:
            traceback.clear_frames(error.__traceback__)
            unknown = str(error)
    return Plans(tuple(needed), unknown)


def _needed_by(domain: Any) -> list[Needed]:
    """What a domain starts with the next time, and what its snapshots would revert to."""
    # Loaded here, and only here, as above.
    from ._users import file_id

    name, needed = domain.name(), []
    if domain.isPersistent():
        for path in sources_in(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)):
            needed.append(Needed(path, file_id(path), f"the definition of domain {name} names it as a disk"))
    for snapshot in domain.listAllSnapshots(0):
        for path in sources_in(snapshot.getXMLDesc(0)):
            needed.append(Needed(path, file_id(path), f"snapshot {snapshot.getName()} of domain {name} needs it"))
    return needed


def _name_of(guest: Listed) -> str:
    return guest.name


async def _ask(function: Callable[..., Any], *arguments: object, seconds: float) -> Any:
    """Call libvirt in a thread.

    :raise MonitorSilent: there is no answer in time.
    :raise MonitorLost: the guest, or the connection, is no more.
    :raise MonitorUnusable: libvirt refuses.
    """
    try:
        return await away(function, *arguments, seconds=seconds, what="libvirt")
    except HostSilent as error:
        raise MonitorSilent(f"{error}: it hangs, or another program holds the domain") from error
    except libvirt.libvirtError as error:
        raise _as_error(error) from error


def _as_error(error: Any) -> MonitorError:
    code = error.get_error_code()
    if code == libvirt.VIR_ERR_OPERATION_TIMEOUT:
        return MonitorSilent(f"libvirt gave up: {error}. Another program holds the domain; run the task again")
    if code in (libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_RPC, libvirt.VIR_ERR_SYSTEM_ERROR):
        return MonitorLost(f"{error}: {_LOST}")
    return MonitorUnusable(f"libvirt refuses: {error}")


class DomainEvents:
    """The events of one job as QEMU sends them; see ``_seams.RawEvents``."""

    def __init__(self, guest: Guest, job_id: str):
        self._guest = guest
        self._job_id = job_id
        self._unread: dict[str, Mapping[str, Any]] = {}
        self._news = asyncio.Event()

    def put(self, name: str, data: Mapping[str, Any]) -> None:
        """Take an event, if it is of this job. Of a kind that is not yet read, one is kept."""
        if self._job_id not in (data.get("device"), data.get("id")):
            return
        if name == "JOB_STATUS_CHANGE" and data.get("status") != "null":
            return
        self._unread.setdefault(name, {"event": name, "data": data})
        self._news.set()

    def wake(self) -> None:
        """Tell that the connection has ended."""
        self._news.set()

    async def next(self, timeout: float) -> Mapping[str, Any] | None:
        """The next event within ``timeout`` seconds, or None."""
        if not self._unread and not self._guest.is_lost and timeout > 0:
            self._news.clear()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._news.wait(), timeout)
        if self._unread:
            return self._unread.pop(next(iter(self._unread)))
        self._guest.check()
        return None


class Guest:
    """A running guest at the other end of libvirt's connection; as a ``_seams.Connection`` it speaks to its QEMU.

    libvirt ends a connection when nobody refers to it, or to a domain of it, any more, and waits for its daemon then.
    So nothing but this object refers to either, and it lets go of both in a thread.
    """

    def __init__(self, connection: Any, address: DomainName):
        self._connection = connection
        self._domain: Any = None
        self.address: str = address
        self.uuid = ""
        self.peer: Peer | None = None
        self.runs: OtherRuns | None = None  # libvirt serves any number of clients side by side
        self.is_lost = False
        self._listeners: list[DomainEvents] = []
        self._loop = asyncio.get_running_loop()
        self._undo: list[Callable[[], object]] = []
        # The ends of libvirt's own jobs, by the disk: what it says of each.
        self._ends: dict[str, asyncio.Future[int]] = {}
        self._in_order = asyncio.Lock()

    async def meet(self, seconds: float) -> None:
        """Find the guest, and have libvirt tell of its events.

        :raise MonitorMissing: there is none, or it is off.
        """
        await _ask(self._meet, seconds=seconds)

    def _meet(self) -> None:
        try:
            self._domain = self._connection.lookupByName(self.address)
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
                raise
            raise MonitorMissing("libvirt has no such domain on this host") from error
        self.uuid = self._domain.UUIDString()
        self._call(self._subscribe)
        # The event of an earlier end has not been heard.
        if not self._call(libvirt.virDomain.isActive):
            raise MonitorMissing("the domain is off")

    def _subscribe(self, domain: Any) -> None:
        connection = self._connection
        for kind, callback in (
            (libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._on_lifecycle),
            (libvirt.VIR_DOMAIN_EVENT_ID_BLOCK_JOB_2, self._on_block_job),
        ):
            number = connection.domainEventRegisterAny(domain, kind, callback, None)
            self._undo.append(functools.partial(connection.domainEventDeregisterAny, number))
        flags = libvirt_qemu.VIR_CONNECT_DOMAIN_QEMU_MONITOR_EVENT_REGISTER_REGEX
        number = libvirt_qemu.qemuMonitorEventRegister(connection, domain, _EVENTS, self._on_event, None, flags)
        self._undo.append(functools.partial(libvirt_qemu.qemuMonitorEventDeregister, connection, number))
        connection.registerCloseCallback(self._on_close, None)
        self._undo.append(connection.unregisterCloseCallback)

    async def leave(self, seconds: float) -> None:
        """Let go of the guest and its events, without which libvirt keeps the connection open."""
        with contextlib.suppress(QmpError):
            await _ask(self._leave, seconds=seconds)

    def _leave(self) -> None:
        for undo in self._undo:
            with contextlib.suppress(libvirt.libvirtError):
                undo()
        self._undo.clear()
        self._domain = self._connection = None

    def check(self) -> None:
        """Make sure that it is still the same guest: started again, it is another one of the same name.

        :raise MonitorLost: it has ended.
        """
        if self.is_lost:
            raise MonitorLost(_LOST)

    async def _ask(self, function: Callable[..., Any], *arguments: object, seconds: float = USUAL_REPLY_SECONDS) -> Any:
        """Call libvirt about the guest."""
        self.check()
        try:
            answer = await _ask(self._call, function, *arguments, seconds=seconds)
        except MonitorUnusable:
            # On a busy host libvirt takes a moment to notice that the guest has ended, which is why it refuses then.
            await asyncio.sleep(_NOTICE_SECONDS)
            self.check()
            raise
        self.check()
        return answer

    def _call(self, function: Callable[..., Any], *arguments: object) -> Any:
        """Call a function of the domain, and tell when it fails because the guest, or the connection, is gone.

        libvirt has a code for some of these errors only, and its texts are translated.
        """
        try:
            return function(self._domain, *arguments)
        except libvirt.libvirtError as error:
            traceback.clear_frames(error.__traceback__)  # they refer to the domain
            if self._is_gone():
                raise MonitorLost(f"{error}: {_LOST}") from error
            raise

    def _is_gone(self) -> bool:
        try:
            return not (self._connection.isAlive() and self._domain.isActive())
        except libvirt.libvirtError:
            return True

    # libvirt calls these from the thread of its events.

    def _post(self, function: Callable[..., object], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self._loop.call_soon_threadsafe(function, *arguments)

    def _on_lifecycle(self, _connection: object, _domain: object, event: int, _detail: int, _opaque: object) -> None:
        if event in (libvirt.VIR_DOMAIN_EVENT_STOPPED, libvirt.VIR_DOMAIN_EVENT_CRASHED):
            self._post(self._lose)

    def _on_close(self, _connection: object, _reason: int, _opaque: object) -> None:
        self._post(self._lose)

    def _on_block_job(  # libvirt's signature
        self, _connection: object, _domain: object, target: str, _type: int, status: int, _opaque: object
    ) -> None:
        self._post(self._take_end, target, status)

    def _on_event(  # libvirt's signature
        self,
        _connection: object,
        _domain: object,
        name: str,
        _seconds: int,
        _micros: int,
        details: str | None,
        _opaque: object,
    ) -> None:
        # A guest that owns its QEMU sends what it likes; what is no event of a job's wakes nobody.
        with contextlib.suppress(ValueError, RecursionError):
            check_size((details or "").encode())
            self._post(self._take_event, name, json.loads(details or "{}"))

    # And these are called in the event loop.

    def _take_event(self, name: str, data: object) -> None:
        if isinstance(data, dict):
            for listener in self._listeners:
                listener.put(name, data)

    def _take_end(self, target: str, status: int) -> None:
        end = self._ends.get(target)
        if end is not None and not end.done():
            end.set_result(status)

    def _lose(self) -> None:
        self.is_lost = True
        for listener in self._listeners:
            listener.wake()
        for end in self._ends.values():
            end.cancel()

    async def execute(
        self, command: str, arguments: Mapping[str, Any] | None = None, descriptor: int | None = None
    ) -> Any:
        """Send one command to QEMU."""
        seconds = REPLY_SECONDS.get(command, USUAL_REPLY_SECONDS)
        line = json.dumps({"execute": command, **({"arguments": dict(arguments)} if arguments else {})})
        # libvirt lets in one at a time, whoever it likes of those that wait; a monitor answers in the order of asking.
        async with self._in_order:
            if descriptor is None:
                text = await self._ask(libvirt_qemu.qemuMonitorCommand, line, 0, seconds=seconds)
            else:
                text = await self._execute_with(line, descriptor, seconds)
        return _read_reply(text, command)

    async def _execute_with(self, line: str, descriptor: int, seconds: float) -> str:
        """libvirt can pass a descriptor on since 8.2."""
        try:
            send = libvirt_qemu.qemuMonitorCommandWithFiles
        except AttributeError as error:
            raise MonitorUnusable("no file descriptor can be passed to QEMU by a libvirt before 8.2") from error
        text, _files = await self._ask(send, line, [descriptor], 0, seconds=seconds)
        return str(text)

    @contextlib.contextmanager
    def listen(self, job_id: str) -> Iterator[DomainEvents]:
        """Collect the events of one job."""
        events = DomainEvents(self, job_id)
        self._listeners.append(events)
        try:
            yield events
        finally:
            self._listeners.remove(events)

    async def disks(self) -> tuple[DomainDisk, ...]:
        """What libvirt knows of the disks now."""
        return read_domain(await self._ask(libvirt.virDomain.XMLDesc, 0))

    async def abort(self, target: str) -> None:
        """Have libvirt end its own job on a disk."""
        await self._tell("blockJobAbort", libvirt.virDomain.blockJobAbort, target, 0)

    async def pull(self, target: str, index: str, *, is_relative: bool) -> None:
        """Have libvirt stream a disk, down to the image of a number if there is one, and wait for its end."""
        end = self._ends[target] = self._loop.create_future()
        try:
            if index:
                flags = libvirt.VIR_DOMAIN_BLOCK_REBASE_RELATIVE if is_relative else 0
                base = f"{target}[{index}]"
                await self._tell("blockRebase", libvirt.virDomain.blockRebase, target, base, 0, flags)
            else:
                await self._tell("blockPull", libvirt.virDomain.blockPull, target, 0, 0)
            status = await self._end(end, target)
        finally:
            del self._ends[target]
        if status not in (None, libvirt.VIR_DOMAIN_BLOCK_JOB_COMPLETED):
            raise CommandRefused("blockPull", "its job failed or was cancelled")

    async def _end(self, end: asyncio.Future[int], target: str) -> int | None:
        """How libvirt says that its job ended; None if the job is gone without a word."""
        deadline = self._loop.time() + _PULL_SECONDS
        while self._loop.time() < deadline:
            await asyncio.wait({end}, timeout=_PULL_POLL_SECONDS)
            self.check()
            if end.done():
                return end.result()
            if not await self._ask(libvirt.virDomain.blockJobInfo, target, 0):
                return None
        raise MonitorSilent(f"libvirt's pull of {target} has no end within {_PULL_SECONDS:g} s")

    async def _tell(self, command: str, function: Callable[..., Any], *arguments: object) -> None:
        try:
            await self._ask(function, *arguments)
        except MonitorUnusable as error:
            raise CommandRefused(command, str(error)) from error


def _read_reply(text: str, command: str) -> Any:
    try:
        check_size(text.encode())
        reply = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MonitorUnusable(f"the answer to {command} is none that a QEMU sends") from error
    if isinstance(reply, dict) and "return" in reply:
        return reply["return"]
    details = reply.get("error") if isinstance(reply, dict) else None
    if not isinstance(details, dict) or not isinstance(details.get("desc"), str):
        raise MonitorUnusable(f"the answer to {command} is neither a result nor an error of QEMU")
    raise CommandRefused(command, details["desc"])


class DomainLink(QemuLink):
    """A guest of libvirt; see ``_seams.Link``."""

    def __init__(self, guest: Guest):
        super().__init__(guest)
        self._guest = guest
        # libvirt's pulls end one after the other, or QEMU 7.2 dies.
        self._one_at_a_time = asyncio.Lock()

    async def identify(self) -> tuple[Identity, Sight]:
        """Who the guest is, as libvirt has it, and what it looks like now."""
        identity, sight = await super().identify()
        return identity._replace(name=str(self.address), uuid=self._guest.uuid, is_libvirts=True), sight

    async def look(self) -> Sight:
        """The disks and jobs of the guest as they are now, with libvirt's names for the disks.

        libvirt brings its view up to date some milliseconds after the end of a job of its own.
        """
        patience = asyncio.get_running_loop().time() + _SETTLE_SECONDS
        while True:
            sight = await super().look()
            disks = as_libvirt_knows(sight.disks, await self._guest.disks())
            if not is_behind(disks) or asyncio.get_running_loop().time() >= patience:
                return sight._replace(disks=disks)
            await asyncio.sleep(_POLL_SECONDS)

    async def jobs(self) -> tuple[Job, ...]:
        """The block jobs alone, and which of them libvirt has started."""
        return tuple(job._replace(is_libvirts=bool(target_of_job(job.id))) for job in await super().jobs())

    async def cancel(self, job_id: str) -> None:
        """Stop a job, libvirt's own through libvirt."""
        target = target_of_job(job_id)
        if not target:
            return await super().cancel(job_id)
        # libvirt looks at all nodes when one of its jobs ends.
        async with self._one_at_a_time:
            return await self._guest.abort(target)

    async def delete_node(self, node: str) -> None:
        """libvirt closes the nodes that its own pull has left over; see that it did."""
        patience = asyncio.get_running_loop().time() + _CLOSE_SECONDS
        while node in (await super().look()).graph.below:
            if asyncio.get_running_loop().time() >= patience:
                raise CommandRefused("blockdev-del", f"libvirt keeps it, {_CLOSE_SECONDS:g} s after its pull")
            await asyncio.sleep(_POLL_SECONDS)

    async def pull(self, disk: Disk, base: Image | None) -> None:
        """Have libvirt remove a backing link; see ``_seams.Pull``."""
        place = None if base is None else disk.chain.index(base)
        name = "" if place is None else disk.chain[place - 1].backing_name
        is_relative = bool(name) and is_local(name) and not name.startswith("/")
        index = "" if base is None else index_of_node(base.node_name)
        if not disk.target or (base is not None and not index):
            raise CommandRefused("blockPull", "libvirt does not know this disk, or its base, by a name")
        async with self._one_at_a_time:
            await self._guest.pull(disk.target, index, is_relative=is_relative)
