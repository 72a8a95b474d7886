# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""libvirt at the seam to its bindings: the modules `libvirt` and `libvirt_qemu`, and a daemon with guests.

As with the real ones every call blocks the thread that makes it, an event comes from another thread, and a connection
is open as long as anybody refers to it or to a domain of it. The guests' QEMUs are `FakeQemu`s, whose nodes bear the
names that libvirt gives them.
"""

# ruff: noqa: N802, N815  # the names are libvirt's

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

from ansible_collections.virtops.qmp.plugins.module_utils._model._errors import CommandRefused
from ansible_collections.virtops.qmp.tests.unit import clock
from ansible_collections.virtops.qmp.tests.unit.fake_qemu import FakeJob, FakeQemu

# No call of a test takes so long; it is the end of a test that hangs.
_PATIENCE = 10.0

CLOSED = "internal error: client socket is closed"
NOT_RUNNING = "Requested operation is not valid: domain is not running"


class LibvirtError(Exception):
    """`libvirt.libvirtError`."""

    def __init__(self, code: int, message: str):
        super().__init__(message)
        self._code = code

    def get_error_code(self) -> int:
        return self._code


class Guest:
    """A guest as the daemon knows it; its `chains` are libvirt's view of its disks, by their targets."""

    def __init__(self, name: str, uuid: str, *, is_on: bool = True, pid: int = 100):
        self.name, self.uuid, self.is_on = name, uuid, is_on
        self.qemu = FakeQemu(name, pid, uuid)
        self.targets: dict[str, str] = {}
        self.chains: dict[str, list[str]] = {}
        # What it starts with the next time, if it is defined, and the XML of its snapshots.
        self.definition: str | None = None
        self.snapshots: dict[str, str] = {}

    def add(self, target: str, *files: str) -> None:
        """A disk over these files of /vms, the top first."""
        first = 1 + sum(map(len, self.chains.values()))
        nodes = [f"libvirt-{first + place}-format" for place in range(len(files))]
        self.qemu.add(f"virtio-{target}", *(f"{node}.qcow2" for node in nodes), named=True)
        for node, file in zip(nodes, files):  # noqa: B905  # Python 3.8
            self.qemu.nodes[node].filename = self.qemu.nodes[f"{node}-file"].filename = f"/vms/{file}"
        self.targets[target], self.chains[target] = nodes[0], nodes

    def xml(self) -> str:
        return f"<domain><devices>{''.join(map(self._disk, self.chains))}</devices></domain>"

    def _disk(self, target: str) -> str:
        top, *below = self.chains[target]
        layers = "<backingStore/>"
        for node in reversed(below):
            source = f"<source file={quoteattr(self.qemu.nodes[node].filename)}/>"
            layers = f"<backingStore type='file' index='{_index(node)}'>{source}{layers}</backingStore>"
        names = f"<target dev='{target}'/><alias name='virtio-{target}'/>"
        return f"<disk type='file'><source file='/x' index='{_index(top)}'/>{layers}{names}</disk>"

    def job(self, target: str) -> FakeJob | None:
        """libvirt's own job on a disk."""
        own = f"-{target}-{self.targets[target]}"
        return next((job for job in self.qemu.jobs.values() if job.id.endswith(own)), None)


def _index(node: str) -> str:
    return node.split("-")[1]


class Processes:
    """A /proc with the processes that a test puts there, each of which calls itself QEMU."""

    def __init__(self, folder: Path):
        self.folder = folder
        (folder / "uptime").write_text("")

    def add(self, pid: int, *words: str, program: str = "/usr/bin/qemu-system-x86_64") -> Path:
        own = self.folder / str(pid)
        own.mkdir()
        (own / "cmdline").write_bytes(b"".join(word.encode() + b"\0" for word in (program, *words)))
        (own / "stat").write_text(f"{pid} (a) b) S {'0 ' * 18}{pid * 10} 0\n")
        (own / "status").write_text("Name:\tx\nUid:\t1\t64055\t1\t1\nGid:\t1\t64056\t1\t1\n")
        (own / "environ").write_text("")
        (own / "exe").symlink_to(program)
        return own

    def add_guest(self, guest: Guest) -> Path:
        """The process that libvirt starts for a guest."""
        words = ("-name", f"guest={guest.name},debug-threads=on", "-S", "-uuid", guest.uuid)
        return self.add(guest.qemu.pid, *words)


class FakeLibvirt:
    """Both modules, and the daemon behind them. `log` has what was asked of it beside QEMU's commands."""

    VIR_ERR_INTERNAL_ERROR = 1
    VIR_ERR_SYSTEM_ERROR = 38
    VIR_ERR_RPC = 39
    VIR_ERR_NO_DOMAIN = 42
    VIR_ERR_OPERATION_INVALID = 55
    VIR_ERR_OPERATION_TIMEOUT = 68
    VIR_DOMAIN_EVENT_ID_LIFECYCLE = 0
    VIR_DOMAIN_EVENT_ID_BLOCK_JOB_2 = 16
    VIR_DOMAIN_EVENT_STARTED = 2
    VIR_DOMAIN_EVENT_STOPPED = 5
    VIR_DOMAIN_EVENT_CRASHED = 8
    VIR_DOMAIN_BLOCK_JOB_COMPLETED = 0
    VIR_DOMAIN_BLOCK_JOB_FAILED = 1
    VIR_DOMAIN_BLOCK_REBASE_RELATIVE = 16
    VIR_DOMAIN_XML_INACTIVE = 2
    VIR_CONNECT_DOMAIN_QEMU_MONITOR_EVENT_REGISTER_REGEX = 1
    libvirtError = LibvirtError

    def __init__(self, *guests: Guest):
        self.guests = list(guests)
        self.virDomain = FakeDomain
        self.log: list[tuple[Any, ...]] = []
        self.open_connections = 0
        self.closed_in: list[str] = []
        self.callbacks: dict[int, tuple[str, Callable[..., None]]] = {}
        self.before: dict[str, list[Callable[[], object]]] = {}
        self.refuses: dict[str, LibvirtError] = {}
        self.hangs: set[str] = set()
        self.answers: dict[str, str] = {}
        self.tells_ends = self.tells_in_threads = True
        self.is_up = True
        self.over = threading.Event()
        self._asked: list[str] = []
        self._numbers = iter(range(1, 10**6))
        self._loop: asyncio.AbstractEventLoop | None = None

    def serve(self) -> None:
        """Begin to serve from the event loop that runs now."""
        self._loop = asyncio.get_running_loop()
        for guest in self.guests:
            guest.qemu.listeners.append(_Forwarder(self, guest))  # type: ignore[arg-type]

    def end(self) -> None:
        """Let go of whoever hangs, and of the thread that serves events."""
        self.over.set()

    def act_before(self, call: str, act: Callable[[], object]) -> None:
        """Let something happen just before the next such call."""
        self.before.setdefault(call, []).append(act)

    # The modules

    def registerErrorHandler(self, handler: Callable[..., None], context: object) -> None:
        handler(context, None)

    def virEventRegisterDefaultImpl(self) -> None:
        self.log.append(("events",))

    def virEventRunDefaultImpl(self) -> None:
        self.over.wait()
        raise LibvirtError(self.VIR_ERR_INTERNAL_ERROR, "no events any more")

    def open(self, uri: str) -> FakeConnection:
        return self.do("open", lambda: FakeConnection(self), needs_daemon=False)  # type: ignore[no-any-return]

    def qemuMonitorCommand(self, domain: FakeDomain, line: str, flags: int) -> str:
        message = json.loads(line)
        command = message["execute"]
        # The real one takes several at once, and lets them in as it likes.
        assert not self._asked or self._asked[-1] in self.hangs, f"{self._asked[-1]} may come after {command}"
        self._asked.append(command)

        def execute() -> str:
            self._asked.clear()
            if not domain.guest.is_on:
                raise LibvirtError(self.VIR_ERR_OPERATION_INVALID, NOT_RUNNING)
            if command in self.answers:
                return self.answers[command]
            try:
                reply = domain.guest.qemu.serve(command, message.get("arguments", {}))
            except CommandRefused as error:
                return json.dumps({"id": "libvirt-7", "error": {"class": "GenericError", "desc": error.reason}})
            return json.dumps({"return": reply, "id": "libvirt-7"})

        return self.do(command, execute)  # type: ignore[no-any-return]

    def qemuMonitorCommandWithFiles(
        self, domain: FakeDomain, line: str, files: list[int], flags: int
    ) -> tuple[str, list[int]]:
        (domain.guest.qemu.passed,) = files
        return self.qemuMonitorCommand(domain, line, flags), []

    def qemuMonitorEventRegister(  # libvirt's signature
        self, connection: FakeConnection, domain: FakeDomain, pattern: str, callback: Any, opaque: None, flags: int
    ) -> int:
        return connection.register(f"qemu {domain.guest.name}", callback)

    def qemuMonitorEventDeregister(self, connection: FakeConnection, number: int) -> None:
        connection.domainEventDeregisterAny(number)

    # The daemon

    def do(self, call: str, function: Callable[[], Any], *, needs_daemon: bool = True) -> Any:
        """Do something in the event loop, for a thread that waits for it."""
        assert self._loop is not None
        assert threading.current_thread() is not threading.main_thread(), f"{call} holds the event loop up"
        if call in self.hangs:
            self.over.wait(_PATIENCE)
            raise LibvirtError(self.VIR_ERR_INTERNAL_ERROR, CLOSED)
        return asyncio.run_coroutine_threadsafe(self._do(call, function, needs_daemon), self._loop).result(_PATIENCE)

    async def _do(self, call: str, function: Callable[[], Any], needs_daemon: bool) -> Any:
        for act in self.before.pop(call, []):
            act()
        if needs_daemon and not self.is_up:
            raise LibvirtError(self.VIR_ERR_INTERNAL_ERROR, CLOSED)
        if call in self.refuses:
            # Anew each time: an error refers to whoever it passed.
            raise LibvirtError(self.refuses[call].get_error_code(), str(self.refuses[call]))
        return function()

    def tell(self, kind: str, *details: object) -> None:
        """Call whoever listens to events of this kind, from a thread as libvirt does."""
        for each, callback in list(self.callbacks.values()):
            if each == kind:
                self._call(callback, None, None, *details, None)

    def _call(self, callback: Callable[..., None], *words: object) -> None:
        if not self.tells_in_threads:
            return callback(*words)
        thread = threading.Thread(target=callback, args=words, name=clock.WAITED_FOR)
        thread.start()
        thread.join(_PATIENCE)
        return None

    def stop(self, guest: Guest, event: int = VIR_DOMAIN_EVENT_STOPPED) -> None:
        """The guest ends; started anew it is another QEMU."""
        guest.is_on = guest.qemu.alive = False
        self.tell(f"{self.VIR_DOMAIN_EVENT_ID_LIFECYCLE} {guest.name}", event, 0)

    def die(self) -> None:
        """The daemon ends, and the guests live on."""
        self.is_up = False
        for _kind, callback in [each for each in self.callbacks.values() if each[0] == "close"]:
            self._call(callback, None, 1, None)

    def pulled(self, guest: Guest, job: FakeJob) -> None:
        """libvirt's own job is over: bring the view up to date, close what is left over, dismiss it and tell."""
        target = next(target for target in guest.targets if guest.job(target) is job)
        has_failed = job.error is not None
        if not has_failed:
            for node in job.nodes[1:]:
                guest.chains[target].remove(node)
                del guest.qemu.nodes[guest.qemu.nodes.pop(node).children["file"]]
        del guest.qemu.jobs[job.id]
        if self.tells_ends:
            status = self.VIR_DOMAIN_BLOCK_JOB_FAILED if has_failed else self.VIR_DOMAIN_BLOCK_JOB_COMPLETED
            self.tell(f"{self.VIR_DOMAIN_EVENT_ID_BLOCK_JOB_2} {guest.name}", target, 1, status)


class _Forwarder:
    """Tells libvirt's clients of QEMU's events, and does libvirt's part when its own job is over."""

    def __init__(self, libvirt: FakeLibvirt, guest: Guest):
        self._libvirt, self._guest = libvirt, guest

    def hear(self, event: Mapping[str, Any] | None) -> None:
        if event is None:
            return
        data = event["data"]
        self._libvirt.tell(f"qemu {self._guest.name}", event["event"], 0, 0, json.dumps(data))
        job = self._guest.qemu.jobs.get(data.get("id", ""))
        if job is not None and not job.auto_dismiss and data.get("status") == "concluded":
            asyncio.get_running_loop().call_soon(self._libvirt.pulled, self._guest, job)


class FakeConnection:
    """`libvirt.virConnect`; the daemon ends it when nobody refers to it any more."""

    def __init__(self, libvirt: FakeLibvirt):
        self._libvirt = libvirt
        self._references = 1
        libvirt.open_connections += 1

    def refer(self) -> None:
        self._references += 1

    def let_go(self) -> None:
        self._references -= 1
        if self._references == 0:
            self._libvirt.closed_in.append(threading.current_thread().name)
            self._libvirt.open_connections -= 1

    def close(self) -> None:
        if "close" in self._libvirt.hangs:
            self._libvirt.over.wait(_PATIENCE)
        self.let_go()

    def isAlive(self) -> bool:
        return self._libvirt.is_up

    def listAllDomains(self, flags: int) -> list[FakeDomain]:
        return self._libvirt.do("listAllDomains", lambda: [*map(self._domain, self._libvirt.guests)])  # type: ignore[no-any-return]

    def lookupByName(self, name: str) -> FakeDomain:
        def look_up() -> FakeDomain:
            for guest in self._libvirt.guests:
                if guest.name == name:
                    return self._domain(guest)
            raise LibvirtError(self._libvirt.VIR_ERR_NO_DOMAIN, f"Domain not found: no domain with name '{name}'")

        return self._libvirt.do("lookupByName", look_up)  # type: ignore[no-any-return]

    def _domain(self, guest: Guest) -> FakeDomain:
        return FakeDomain(self._libvirt, self, guest)

    def register(self, kind: str, callback: Callable[..., None]) -> int:
        def note() -> int:
            number = next(self._libvirt._numbers)
            self._libvirt.callbacks[number] = (kind, callback)
            self.refer()
            return number

        return self._libvirt.do(f"register {kind.split()[0]}", note)  # type: ignore[no-any-return]

    def domainEventRegisterAny(self, domain: FakeDomain, kind: int, callback: Any, opaque: None) -> int:
        return self.register(f"{kind} {domain.guest.name}", callback)

    def domainEventDeregisterAny(self, number: int) -> None:
        del self._libvirt.callbacks[number]
        self.let_go()
        self._libvirt.do("deregister", lambda: None)

    def registerCloseCallback(self, callback: Any, opaque: None) -> None:
        self._closing = self.register("close", callback)

    def unregisterCloseCallback(self) -> None:
        self.domainEventDeregisterAny(self._closing)


class FakeDomain:
    """`libvirt.virDomain`."""

    def __init__(self, libvirt: FakeLibvirt, connection: FakeConnection, guest: Guest):
        self._libvirt, self._connection, self.guest = libvirt, connection, guest
        connection.refer()

    def __del__(self) -> None:
        self._connection.let_go()

    def _do(self, call: str, function: Callable[[], Any]) -> Any:
        return self._libvirt.do(call, function)

    def name(self) -> str:
        return self.guest.name

    def UUIDString(self) -> str:
        return self.guest.uuid

    def isActive(self) -> int:
        return self._do("isActive", lambda: int(self.guest.is_on))  # type: ignore[no-any-return]

    def isPersistent(self) -> int:
        return int(self.guest.definition is not None)

    def XMLDesc(self, flags: int) -> str:
        if flags == self._libvirt.VIR_DOMAIN_XML_INACTIVE:
            return self._do("XMLDesc", lambda: self.guest.definition)  # type: ignore[no-any-return]
        return self._do("XMLDesc", self.guest.xml)  # type: ignore[no-any-return]

    def listAllSnapshots(self, flags: int) -> list[FakeSnapshot]:
        return self._do(  # type: ignore[no-any-return]
            "listAllSnapshots", lambda: [FakeSnapshot(self, *each) for each in self.guest.snapshots.items()]
        )

    def blockJobInfo(self, target: str, flags: int) -> dict[str, Any]:
        return self._do("blockJobInfo", lambda: {"cur": 0} if self.guest.job(target) else {})  # type: ignore[no-any-return]

    def blockPull(self, target: str, bandwidth: int, flags: int) -> None:
        self._do("blockPull", lambda: self._stream(("blockPull", target, bandwidth, flags), target, {}))

    def blockRebase(self, target: str, base: str, bandwidth: int, flags: int) -> None:
        node = f"libvirt-{base[:-1].split('[')[1]}-format"
        self._do(
            "blockRebase",
            lambda: self._stream(("blockRebase", target, base, bandwidth, flags), target, {"base-node": node}),
        )

    def _stream(self, call: Sequence[Any], target: str, options: Mapping[str, Any]) -> None:
        self._libvirt.log.append(tuple(call))
        node = self.guest.targets[target]
        words = {"job-id": f"pull-{target}-{node}", "device": node, "auto-dismiss": False, **options}
        try:
            self.guest.qemu._block_stream(words)
        except CommandRefused as error:
            raise LibvirtError(self._libvirt.VIR_ERR_INTERNAL_ERROR, error.reason) from error

    def blockJobAbort(self, target: str, flags: int) -> None:
        def abort() -> None:
            self._libvirt.log.append(("blockJobAbort", target, flags))
            job = self.guest.job(target)
            if job is None:
                raise LibvirtError(self._libvirt.VIR_ERR_OPERATION_INVALID, f"disk {target} has no active block job")
            self.guest.qemu.serve("job-cancel", {"id": job.id})

        self._do("blockJobAbort", abort)


class FakeSnapshot:
    """`libvirt.virDomainSnapshot`, which refers to its domain."""

    def __init__(self, domain: FakeDomain, name: str, text: str):
        self._domain, self._name, self._text = domain, name, text

    def getName(self) -> str:
        return self._name

    def getXMLDesc(self, flags: int) -> str:
        return self._text
