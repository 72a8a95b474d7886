# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""An event source for ansible-rulebook: what becomes of the streams of running VMs, told as it happens.

ansible-rulebook runs this one file by its path, and `via` runs its text on a hypervisor. So it imports nothing of this
collection, and what it shares with `plugins/module_utils` (`printable`, what a monitor may send) is written here again.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import glob
import json
import logging
import math
import os
import re
import shlex
import shutil
import socket
import stat
import sys
import time
from dataclasses import dataclass, field
from typing import Any, AsyncIterator, Awaitable, Callable, Iterable, Mapping, NoReturn, Sequence

DOCUMENTATION = r"""
---
short_description: Tell when a disk of a running VM is populated, or could not be
description:
  - Listens to the QMP monitors of running VMs and sends an event at each turn of a C(block-stream) job, whoever started
    it.
  - It only looks. It starts, finishes, pauses and cancels nothing.
  - It holds each monitor that it listens to, and a monitor serves one client at a time. Give it monitors that nobody
    else uses, such as C(-qmp unix:/run/vms/web01.events,server=on,wait=off) beside the one of the modules.
  - An event is a reason to look and no proof. C(completed) says that the chain no longer has the old images; whether
    the disk is on the storage and the images are free is told by M(virtops.qmp.block_stream) and
    M(virtops.qmp.image_info).
  - What a VM says may be a lie of its guest. It is checked, cut to a length, and shown so that neither a terminal nor a
    template of Ansible executes it. A VM that tells too much is slowed down, and no other VM with it.
  - Each event is a dictionary with the key C(stream), and with C(meta.hosts) if O(host) is set, so that actions run
    there. The guide B(Events) and C(extensions/eda/schemas/stream.json) describe it.
requirements:
  - qemu.qmp 0.0.3 or newer and Python 3.8 or newer where the monitors are.
options:
  monitors:
    description:
      - The VMs' QMP monitors where the source listens - paths of UNIX sockets, globs (V(/run/vms/*.events)), abstract
        sockets (V(@web01)) or V(host:port).
      - A socket that a glob finds and nobody serves belongs to a VM that is off, and is tried again. One that is named
        outright is told as C(monitor_lost).
    type: list
    elements: str
    required: true
  via:
    description:
      - The beginning of a command that runs a line of shell on the hypervisor, such as
        V([ssh, -oBatchMode=yes, root@hv1]).
      - This source is then run there, and ends with the connection. Nothing is installed on the hypervisor.
      - Without it the monitors are those of this machine.
    type: list
    elements: str
  host:
    description:
      - The name of the hypervisor in the inventory. Set it, so that the actions of a rule run on this host only.
    type: str
  python:
    description:
      - The command that is Python at the other end of O(via), in the words of its shell. Change it if qemu.qmp is in a
        virtual environment, or if it takes V(sudo -n python3) to open the monitors.
    type: str
    default: python3
  progress:
    description:
      - Seconds between two C(progress) events of a job that runs. V(0) for none. Set it where a rule needs it only, for
        each event is held against every rule.
    type: float
    default: 0
  rescan:
    description:
      - Seconds between two looks for new monitors, and the longest time between two attempts to reach one that is lost.
      - Raise it where a folder has thousands of files.
    type: float
    default: 2
  connect_timeout:
    description:
      - Seconds after which a monitor that does not greet is told as C(monitor_busy). The source stays in its queue.
    type: float
    default: 10
"""

EXAMPLES = r"""
- name: The VMs of this machine
  hosts: localhost
  sources:
    - virtops.qmp.jobs:
        monitors: [/run/vms/*.events]
  rules:
    - name: Tell what failed
      condition: event.stream.event == "failed"
      action:
        debug:
          msg: "{{ event.stream.vm }}: {{ event.stream.error }}"

- name: The VMs of a hypervisor, from elsewhere
  hosts: hypervisors
  sources:
    - virtops.qmp.jobs:
        monitors: [/run/vms/*.events]
        via: [ssh, -oBatchMode=yes, root@hv1.example.org]
        host: hv1
        python: /opt/virtops-qmp/bin/python
  rules:
    - name: Finish what was started with wait false
      condition: event.stream.event == "pending"
      action:
        run_playbook:
          name: virtops.qmp.populate
          extra_vars:
            populate_hosts: hv1
            populate_monitors: ["{{ event.stream.monitor | replace('.events', '.qmp') }}"]
"""

LOG = logging.getLogger("virtops.qmp.jobs")

# What a stream says of itself, and the end of a VM. QEMU tells every monitor of it.
JOB_EVENTS = (
    "JOB_STATUS_CHANGE",
    "BLOCK_JOB_PENDING",
    "BLOCK_JOB_COMPLETED",
    "BLOCK_JOB_CANCELLED",
    "BLOCK_JOB_ERROR",
    "SHUTDOWN",
)

# Every event has every member; None is what it does not tell. The types hold for what `via` brings, too.
MEMBERS: Mapping[str, type | tuple[type, ...]] = {
    "event": str,
    "host": str,
    "vm": str,
    "uuid": str,
    "monitor": str,
    "disk": dict,
    "job": str,
    "cur": int,
    "end": int,
    "percent": (int, float),
    "speed": int,
    "chain": list,
    "left_chain": list,
    "jobs": list,
    "error": str,
    "at": (int, float),
}
EVENTS = (
    "found",
    "started",
    "progress",
    "pending",
    "held",
    "io_error",
    "completed",
    "failed",
    "cancelled",
    "vm_shutdown",
    "monitor_lost",
    "monitor_back",
    "monitor_busy",
)
DISK_MEMBERS = ("label", "device", "qdev", "node_name", "path")

Event = Mapping[str, Any]
Put = Callable[[Event], Awaitable[None]]


class Lost(Exception):
    """Nobody is listened to at a monitor; the text says why."""


class Absent(Lost):
    """There is no such socket, or nobody serves it: the VM is off."""


class Unfit(Lost):
    """What answers there is no QEMU, or one whose guest owns it."""


# --- what leaves the source -------------------------------------------------------------------------------------

MOST_SHOWN = 4096
# As in module_utils/_model/_text. An event ends up in variables of Ansible, which treats "{{" and "{%" in them as
# templates and executes them: of two characters that begin one the first is escaped, too.
_UNSHOWN = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ud800-\udfff\ufeff\ufff9-\ufffb\ufffe\uffff]"
    r"|\{(?=[{%#])"
)


def printable(text: str) -> str:
    """The text as a terminal shows it and a template leaves it: ``\\x0a``, ``\\x7b{``; the end of a long one is cut."""
    shown = _UNSHOWN.sub(_escaped, text[:MOST_SHOWN])
    left = len(text) - MOST_SHOWN
    return shown if left <= 0 else f"{shown}... ({left} more characters)"


def _escaped(character: re.Match[str]) -> str:
    code = ord(character.group())
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def presentable(value: Any) -> Any:
    """The same of every text in an event; its keys are ours."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {key: presentable(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [presentable(each) for each in value]
    return value


def relayed(line: bytes) -> dict[str, Any] | None:
    """The event in a line that the other end of `via` sent; None if it is none of ours."""
    try:
        told = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(told, dict) or set(told) != set(MEMBERS) or told["event"] not in EVENTS:
        return None
    if not all(told[name] is None or _is(told[name], kind) for name, kind in MEMBERS.items()):
        return None
    if told["disk"] is not None and not _are_texts(told["disk"].values(), told["disk"], DISK_MEMBERS):
        return None
    lists = (told[name] or () for name in ("chain", "left_chain", "jobs"))
    if told["at"] is None or not all(_are_texts(each) for each in lists):
        return None
    shown: dict[str, Any] = presentable(told)
    return shown


def _is(value: object, kind: type | tuple[type, ...]) -> bool:
    """Whether a value of JSON is of that kind. To Python true is a number, and so is what JSON does not have."""
    if isinstance(value, bool) or (isinstance(value, float) and not math.isfinite(value)):
        return False
    return isinstance(value, kind)


def _are_texts(values: Iterable[object], keys: Iterable[str] = (), wanted: Iterable[str] = ()) -> bool:
    return set(keys) == set(wanted) and all(value is None or isinstance(value, str) for value in values)


# --- what QEMU says ---------------------------------------------------------------------------------------------

# One message, and the objects and lists in it: as in module_utils/_reach/_qmp, where the reasons are.
_MOST_REPLY = 4 * 2**20
_MOST_OBJECTS = 2**17
_MOST_TEXT = 16384  # a message of QEMU; names and paths are shorter
_MOST_ENTRIES = 2**16
_MOST_LAYERS = 512
_MOST_JOBS = 1024
_MOST_CHAIN = 2**18  # characters of a chain: 512 images of 512 characters
_MOST_NUMBER = 2**63 - 1
# A filter that QEMU puts over a disk for each stream, and those of the user.
_MOST_FILTERS = 16
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", re.ASCII)


def member(reply: object, name: str, kind: type, missing: object = None) -> Any:
    """A member of an object that QEMU sent, or `missing` where it is left out and may be.

    :raise Unfit: it is of another kind, or larger than any QEMU sends.
    """
    if not isinstance(reply, dict):
        raise Unfit(f"a reply that should have {name!r} is no object")
    value = reply.get(name, missing)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise Unfit(f"{name!r} of a reply is no {kind.__name__}")
    if isinstance(value, int) and not 0 <= value <= _MOST_NUMBER:
        raise Unfit(f"{name!r} of a reply is out of range")
    if isinstance(value, str) and len(value) > _MOST_TEXT:
        raise Unfit(f"{name!r} of a reply has more than {_MOST_TEXT} characters")
    if isinstance(value, list) and len(value) > _MOST_ENTRIES:
        raise Unfit(f"{name!r} of a reply has more than {_MOST_ENTRIES} entries")
    return value


def entries(reply: object) -> list[Any]:
    """A reply that is a list."""
    found: list[Any] = member({"reply": reply}, "reply", list)
    return found


@dataclass(frozen=True)
class Disk:
    """One entry of ``query-block``. ``chain`` are the file names of its images as QEMU spells them, the top first."""

    device: str
    qdev: str
    node_name: str
    path: str
    chain: tuple[str, ...] = ()

    @classmethod
    def from_qmp(cls, block: object) -> Disk | None:
        """Read one entry; None for a drive without a medium."""
        device, qdev = member(block, "device", str), member(block, "qdev", str, "")
        inserted = member(block, "inserted", dict, {})
        if not inserted:
            return None
        chain: list[str] = []
        image = member(inserted, "image", dict)
        while image:
            chain.append(member(image, "filename", str))
            if len(chain) > _MOST_LAYERS or sum(map(len, chain)) > _MOST_CHAIN:
                raise Unfit("a backing chain is longer than any that QEMU opens")
            image = member(image, "backing-image", dict, {})
        return cls(device, qdev, member(inserted, "node-name", str), member(inserted, "file", str), tuple(chain))

    @property
    def key(self) -> str:
        """What it is known by, also after its VM was started anew; QEMU gives other node names then."""
        return printable(self.qdev or self.device or self.node_name)

    @property
    def label(self) -> str:
        """The shortest name that a person gave it, else the path of its image: as the modules call it."""
        qdev = re.sub(r"^/machine/peripheral/([^/]+)(/virtio-backend)?$", r"\1", self.qdev)
        if qdev and not qdev.startswith("/"):
            return qdev
        if self.device or not self.node_name.startswith("#"):
            return self.device or self.node_name
        return self.path

    def told(self) -> dict[str, str]:
        """What an event says of it."""
        values = (self.label, self.device, self.qdev, self.node_name, self.path)
        return dict(zip(DISK_MEMBERS, values))


Disks = Mapping[str, Disk]


def disks_of(reply: object) -> Disks:
    """Read the reply of ``query-block``."""
    found = (Disk.from_qmp(block) for block in entries(reply))
    return {disk.key: disk for disk in found if disk is not None}


def disk_of_job(job_id: str, graph: object, disks: Disks) -> Disk | None:
    """The disk that a job writes to, by ``x-debug-query-block-graph``; None where that is not clear.

    The node is QEMU 5.2's "main node" of the job, and later ones' "active node"; these put a filter above it, the "main
    node". The user's own filters may stand above both.
    """
    names: dict[int, str] = {}
    job = -1
    for each in member(graph, "nodes", list):
        number, name = member(each, "id", int), member(each, "name", str)
        if member(each, "type", str) == "block-job":
            job = number if name == job_id else job
        else:
            names[number] = name
    written: set[str] = set()
    below: dict[str, str] = {}
    for edge in member(graph, "edges", list):
        parent, child, role = (
            member(edge, "parent", int),
            names.get(member(edge, "child", int)),
            member(edge, "name", str),
        )
        if child is None:
            continue
        if parent == job and role in ("main node", "active node"):
            written.add(child)
        elif parent in names and role == "file":
            below[names[parent]] = child
    found = [disk for disk in disks.values() if _stands_on(disk.node_name, written, below)]
    return found[0] if len(found) == 1 else None


def _stands_on(node: str | None, written: set[str], below: Mapping[str, str]) -> bool:
    for _filter in range(_MOST_FILTERS):
        if node is None or node in written:
            break
        node = below.get(node)
    return node in written


def streams_of(reply: object) -> dict[str, dict[str, Any]]:
    """The streams in a reply of ``query-block-jobs``, by id; one that is over and was not dismissed is none."""
    found = {}
    for job in entries(reply):
        status = member(job, "status", str)
        if member(job, "type", str) == "stream" and status not in ("concluded", "null"):
            found[member(job, "device", str)] = {
                "numbers": numbers_of(job),
                "status": status,
                "io_status": member(job, "io-status", str, "ok"),
            }
    return found


def numbers_of(reply: object) -> dict[str, Any]:
    """Where a job is: ``cur`` of ``end`` is a position in the disk in bytes; 0 of 0 is 100 per cent."""
    cur, end = member(reply, "offset", int), member(reply, "len", int)
    return {
        "cur": cur,
        "end": end,
        "percent": round(100 * cur / end, 2) if end else 100.0,
        "speed": member(reply, "speed", int, 0),
    }


def uuid_of(reply: object) -> str:
    """Read the reply of ``query-uuid``. Rules match VMs by it, so a pattern is none."""
    uuid: str = member(reply, "UUID", str)
    if not _UUID.fullmatch(uuid):
        raise Unfit("the UUID is none")
    return uuid


def moment_of(event: object) -> float:
    """When QEMU says that something happened, in seconds since 1970."""
    stamp = member(event, "timestamp", dict)
    return float(member(stamp, "seconds", int) + member(stamp, "microseconds", int) / 1e6)


@dataclass(frozen=True)
class Vm:
    """Who answers at a monitor."""

    name: str | None = None
    uuid: str | None = None


def ending_of(name: str, details: object) -> tuple[str, str]:
    """How a stream ended, and QEMU's reason: one that failed *completes*, with an error."""
    error = member(details, "error", str, "")
    if name == "BLOCK_JOB_CANCELLED":
        return "cancelled", error
    return ("failed" if error else "completed"), error


def ending_unheard(before: Disk | None, now: Disk | None, *, is_same_vm: bool) -> tuple[str, str]:
    """How a stream ended that nobody listened to: only a chain that lost images tells of success."""
    if not is_same_vm:
        return "failed", "its VM ended, and another one has its monitor"
    if before is None or now is None:
        return "failed", "it ended while nobody listened, and its disk is not known"
    if left_chain(before, now):
        return "completed", ""
    return "failed", "it ended while nobody listened, and its chain is as before: it failed, or was cancelled"


def left_chain(before: Disk, now: Disk) -> list[str]:
    """The images that a disk no longer stands on. What is remembered of another run is as it was shown."""
    kept = {printable(name) for name in now.chain}
    return [name for name in before.chain if printable(name) not in kept]


# --- one monitor ------------------------------------------------------------------------------------------------

_REPLY_SECONDS = 30.0
_FIRST_PAUSE = 0.2
_PAUSE_OF_UNFIT = 60.0
# How long to stay outside a queue that is full: two clients wait in it, and connecting fails at once.
_QUEUE_SECONDS = 0.1
# Events of a monitor that wait to be read. One that tells more is left, and looked at anew.
_MOST_UNREAD = 4096
# Events that a monitor sends on: so many at once, and so many a second.
_BURST, _RATE = 500, 50

QEMU_QMP_MISSING = ""
try:
    from qemu.qmp import EventListener, ExecuteError, Message, QMPClient, QMPError, Runstate
except ImportError as missing:
    QEMU_QMP_MISSING = (
        f"qemu.qmp is missing in {sys.executable}: {missing}. Install it there, or name the Python that has it"
    )
else:

    class Client(QMPClient):
        """A client that reads no more than a QEMU sends."""

        def __init__(self) -> None:
            super().__init__("events", readbuflen=_MOST_REPLY)
            self.logger.setLevel(logging.CRITICAL)  # it would quote what it cannot read, megabytes of a guest's
            self.events.event_filter = lambda _event: False  # else it keeps every event for ever
            self.is_unfit = False

        async def _do_recv(self) -> Message:
            line = await self._readline()
            try:
                return _read_message(line)
            except (QMPError, RecursionError, ValueError):
                self.is_unfit = line.endswith(b"\n")  # else QEMU died in the middle of it
                raise

        def _cb_inbound(self, msg: Message) -> Message:
            return msg  # the library's own writes every message out for a log that nobody keeps

        def ended(self, when: str = "") -> Lost:
            """Why there is no session any more."""
            if self.is_unfit:
                return Unfit("what answers there does not speak as QEMU does")
            return Lost(f"QEMU died, quit, or closed the monitor{when}")

    def _read_message(line: bytes) -> Message:
        if line.count(b"{") + line.count(b"[") > _MOST_OBJECTS:
            raise ValueError("too many objects")
        message = Message(line, eager=True)
        # The library would stumble over these when it looks for whom they are.
        if not isinstance(message.get("event", ""), str) or not isinstance(message.get("id", ""), (str, int)):
            raise ValueError("for nobody")
        return message

    class Unread(EventListener):
        """The events that wait, of which there are never more than so many; the library's own keeps all for ever."""

        def __init__(self) -> None:
            super().__init__(JOB_EVENTS)
            self._unread: asyncio.Queue[Message] = asyncio.Queue(_MOST_UNREAD)
            self.is_overrun = False

        async def put(self, event: Message) -> None:
            if not self.accept(event):
                return
            try:
                self._unread.put_nowait(event)
            except asyncio.QueueFull:
                self.is_overrun = True

        async def get(self) -> Message:
            return await self._unread.get()

        def empty(self) -> bool:
            return self._unread.empty()


_HOST_AND_PORT = re.compile(r"(?:\[([^\[\]]+)\]|([^/\[\]*?@\s:]+)):(\d{1,5})", re.ASCII)


def _entered(path: str) -> socket.socket:
    """A connection to a UNIX socket, which comes about at once or never.

    :raise BlockingIOError: its queue is full.
    """
    if not path.startswith("@") and not stat.S_ISSOCK(os.stat(path).st_mode):
        raise OSError(errno.ENOTSOCK, "it is no socket")
    end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # Not through the event loop: there a full queue would look like a connection that is about to come.
        end.setblocking(False)
        end.connect(f"\0{path[1:]}" if path.startswith("@") else path)
    except BaseException:
        end.close()
        raise
    return end


async def _greeted(client: Client, address: str) -> None:
    """Connect, wait for the greeting for as long as it takes, and shake hands."""
    place = _HOST_AND_PORT.fullmatch(address)
    if place:
        await client.connect((place[1] or place[2], int(place[3])))
        return
    while True:
        try:
            end = _entered(address)
            break
        except BlockingIOError:
            await asyncio.sleep(_QUEUE_SECONDS)
    try:
        await client.connect(end)
    except BaseException:
        end.close()  # the library closes it unless it is cancelled
        raise


def _unconnected(error: BaseException) -> Lost:
    """Why there is no connection, in words."""
    cause = getattr(error, "exc", error)
    if isinstance(cause, (FileNotFoundError, ConnectionRefusedError)):
        return Absent("nobody serves this socket: the VM is off")
    if isinstance(cause, (EOFError, ConnectionError, AssertionError)):  # qemu.qmp asserts that there still is a session
        return Lost("the connection ended at the greeting: QEMU is quitting")
    if isinstance(cause, OSError):
        return Lost(f"cannot connect: {cause.strerror or cause}")
    return Unfit("what answers there does not speak QMP")


@dataclass
class Monitor:
    """What is remembered of one monitor while nobody is connected, too.

    ``jobs``: the streams that are known, with their disks as they were at the beginning. ``disks``: as last seen.
    ``changed``: those whose chains changed, as they were before, and no job has been told as the cause yet.
    """

    address: str
    options: Options
    put: Put
    is_named: bool
    jobs: dict[str, Disk | None] = field(default_factory=dict)
    vm: Vm = field(default_factory=Vm)
    disks: Disks = field(default_factory=dict)
    changed: dict[str, Disk] = field(default_factory=dict)
    is_lost: bool = False
    due: float = -math.inf

    async def run(self) -> None:
        """Listen, and come back when the connection ends; return when the socket that a glob found is gone."""
        pause = _FIRST_PAUSE
        while True:
            failure = await self._listen()
            if not self.is_lost:
                pause = _FIRST_PAUSE
            await self._lose(failure)
            if isinstance(failure, Absent) and not self.is_named:
                return
            if isinstance(failure, Unfit):
                pause = _PAUSE_OF_UNFIT
            await asyncio.sleep(pause)
            pause = max(pause, min(2 * pause, self.options.rescan))

    async def _listen(self) -> Lost:
        """Listen for as long as it can be; return why that is over."""
        try:
            async with opened(self) as session:
                await session.listen()
        except Lost as error:
            return error
        except Exception as error:  # whatever one VM sends, the others are listened to
            LOG.exception("%s", printable(self.address))
            return Unfit(f"unexpected: {type(error).__name__}")

    async def _lose(self, failure: Lost) -> None:
        """Tell of it once. Of a VM that is off, and that nobody named or heard, nothing is told."""
        LOG.info("%s: %s", printable(self.address), failure)
        is_off = isinstance(failure, Absent) and not self.is_named and not self.jobs and self.vm == Vm()
        if not is_off and not self.is_lost:
            self.is_lost = True
            await self.tell("monitor_lost", error=str(failure), jobs=sorted(self.jobs))

    async def tell(self, event: str, at: float | None = None, disk: Disk | None = None, **more: Any) -> None:
        """Send an event, not faster than a monitor may."""
        now = asyncio.get_running_loop().time()
        self.due = max(self.due, now - _BURST / _RATE) + 1 / _RATE
        if self.due > now:
            await asyncio.sleep(self.due - now)
        told = {
            **dict.fromkeys(MEMBERS),
            "event": event,
            "vm": self.vm.name,
            "uuid": self.vm.uuid,
            "monitor": self.address,
            "at": time.time() if at is None else at,
            **more,
        }
        if disk is not None:
            told["disk"], told["chain"] = disk.told(), list(disk.chain)
        await self.put(presentable(told))

    def see(self, disks: Disks) -> None:
        """Take in the disks as they are now, and note whose chains are not as they were."""
        for key, disk in disks.items():
            if key in self.disks and self.disks[key].chain != disk.chain:
                # As it was before the first change that no job accounts for.
                self.changed.setdefault(key, self.disks[key])
        self.disks = disks


@contextlib.asynccontextmanager
async def opened(monitor: Monitor) -> AsyncIterator[Session]:
    """Connect to a monitor; one that does not greet is told, and its queue is not left.

    Who leaves the queue of a monitor keeps a dead place in it, and two of these close it to everybody.
    """
    client = Client()
    connecting = asyncio.ensure_future(_greeted(client, monitor.address))
    try:
        done, _waiting = await asyncio.wait({connecting}, timeout=monitor.options.connect_timeout)
        if not done and not monitor.is_lost:
            monitor.is_lost = True
            await monitor.tell("monitor_busy", jobs=sorted(monitor.jobs))
        try:
            await connecting
        except (QMPError, OSError, AssertionError) as error:
            raise _unconnected(error) from error
        listener = Unread()
        with client.listen(listener):
            yield Session(client, listener, monitor)
    finally:
        connecting.cancel()
        await asyncio.gather(connecting, return_exceptions=True)
        # It raises why the session ended, which has been told.
        with contextlib.suppress(Exception):
            await asyncio.wait_for(client.disconnect(), 2)


class Session:
    """One connection to a monitor."""

    def __init__(self, client: Client, listener: Unread, monitor: Monitor) -> None:
        self._client = client
        self._listener = listener
        self._monitor = monitor
        self._complained: set[str] = set()

    async def _ask(self, command: str) -> Any:
        try:
            return await asyncio.wait_for(self._client.execute(command), _REPLY_SECONDS)
        except asyncio.TimeoutError as error:
            raise Lost(f"no answer to {command} within {_REPLY_SECONDS:g} s: QEMU hangs, or is stopped") from error
        except ExecuteError as error:
            raise Lost(f"QEMU refused {command}: {error}") from error
        except QMPError as error:
            raise self._client.ended(f" at {command}") from error

    async def listen(self) -> NoReturn:
        """Tell what is there, then what happens, until the connection ends."""
        await self._catch_up()
        loop = asyncio.get_running_loop()
        every = self._monitor.options.progress or math.inf
        progress_at = loop.time() + every
        while True:
            event = await self._next(progress_at - loop.time())
            if event is not None:
                await self._on_event(event)
            if loop.time() >= progress_at:
                progress_at = loop.time() + every
                await self._tell_progress()

    async def _next(self, seconds: float) -> Event | None:
        """The next event within so many seconds, or None."""
        if self._listener.is_overrun:
            raise Lost(f"it told {_MOST_UNREAD} events at once, and what came after them was not read")
        heard = asyncio.ensure_future(self._listener.get())
        over = asyncio.ensure_future(self._client.runstate_changed())
        try:
            if self._client.runstate is Runstate.RUNNING or not self._listener.empty():
                timeout = None if math.isinf(seconds) else max(0.0, seconds)
                await asyncio.wait({heard, over}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if heard.done():
                return dict(heard.result())
            if self._client.runstate is not Runstate.RUNNING:
                raise self._client.ended()
            return None
        finally:
            heard.cancel()
            over.cancel()
            await asyncio.gather(heard, over, return_exceptions=True)

    async def _catch_up(self) -> None:
        """Tell which streams there are, and how those ended that were known and are no more."""
        monitor = self._monitor
        vm = Vm(
            printable(member(await self._ask("query-name"), "name", str, "")) or None,
            uuid_of(await self._ask("query-uuid")),
        )
        is_same_vm = monitor.vm in (vm, Vm())
        present = streams_of(await self._ask("query-block-jobs"))
        disks = disks_of(await self._ask("query-block"))
        if monitor.is_lost:
            monitor.is_lost = False
            before, monitor.vm = monitor.vm, vm
            await monitor.tell("monitor_back")
            monitor.vm = before if before != Vm() else vm
        for job_id in sorted(set(monitor.jobs) - set(present)) if is_same_vm else sorted(monitor.jobs):
            await self._tell_unheard(job_id, disks, is_same_vm=is_same_vm)
        monitor.vm, monitor.disks, monitor.changed = vm, disks, {}
        for job_id, job in present.items():
            await self._know(job_id)
            await self._tell_of("found", job_id, job)
            if job["status"] == "pending":
                await self._tell_of("pending", job_id, job)
            if job["io_status"] != "ok":
                await self._tell_of("held", job_id, job, error=_held(job["io_status"]))

    async def _tell_unheard(self, job_id: str, disks: Disks, *, is_same_vm: bool) -> None:
        before = self._monitor.jobs.pop(job_id)
        now = disks.get(before.key) if before is not None else None
        event, error = ending_unheard(before, now, is_same_vm=is_same_vm)
        left = left_chain(before, now) if before and now and is_same_vm else None
        shown = now if is_same_vm else before
        await self._monitor.tell(event, job=job_id, disk=shown or before, error=error, left_chain=left)

    async def _tell_of(self, event: str, job_id: str, job: Mapping[str, Any] | None, **more: Any) -> None:
        """Send an event of a stream that is there."""
        numbers = job["numbers"] if job is not None else {}
        await self._monitor.tell(event, job=job_id, disk=self._monitor.jobs.get(job_id), **numbers, **more)

    async def _know(self, job_id: str) -> None:
        """Find out which disk a stream works on, unless that is known."""
        monitor = self._monitor
        if monitor.jobs.get(job_id) is not None:
            return
        monitor.see(disks_of(await self._ask("query-block")))
        monitor.jobs[job_id] = disk_of_job(job_id, await self._ask("x-debug-query-block-graph"), monitor.disks)
        if len(monitor.jobs) > _MOST_JOBS:
            raise Unfit(f"it has more than {_MOST_JOBS} streams")

    async def _tell_progress(self) -> None:
        if not self._monitor.jobs:
            return
        for job_id, job in streams_of(await self._ask("query-block-jobs")).items():
            if job_id in self._monitor.jobs and job["status"] == "running":
                await self._tell_of("progress", job_id, job)

    async def _on_event(self, event: Event) -> None:
        name, at = member(event, "event", str), moment_of(event)
        details = member(event, "data", dict, {})
        if name == "SHUTDOWN":
            reason = member(details, "reason", str, "")
            await self._monitor.tell("vm_shutdown", at, error=reason, jobs=sorted(self._monitor.jobs))
            return
        # QEMU calls the id of a job so, or so.
        job_id = member(details, "id", str, "") or member(details, "device", str, "")
        if name == "JOB_STATUS_CHANGE":
            if member(details, "status", str) == "running" and job_id not in self._monitor.jobs:
                await self._on_start(job_id, at)
        elif job_id in self._monitor.jobs or member(details, "type", str, "") == "stream":
            await self._on_stream(name, job_id, details, at)

    async def _on_start(self, job_id: str, at: float) -> None:
        """A job of any type runs; whether it is a stream is told by its entry, if it is not over already."""
        job = streams_of(await self._ask("query-block-jobs")).get(job_id)
        if job is not None:
            await self._know(job_id)
            await self._tell_of("started", job_id, job, at=at)

    async def _on_stream(self, name: str, job_id: str, details: object, at: float) -> None:
        if name == "BLOCK_JOB_PENDING":
            await self._on_pending(job_id, at)
        elif name == "BLOCK_JOB_ERROR":
            await self._on_error(job_id, details, at)
        else:
            await self._on_end(name, job_id, details, at)

    async def _on_pending(self, job_id: str, at: float) -> None:
        job = streams_of(await self._ask("query-block-jobs")).get(job_id)
        await self._know(job_id)
        await self._tell_of("pending", job_id, job, at=at)

    async def _on_error(self, job_id: str, details: object, at: float) -> None:
        """An error that holds the job, or the first of those that do not; they come for each chunk that fails."""
        operation, action = member(details, "operation", str), member(details, "action", str)
        if action == "stop":
            job = streams_of(await self._ask("query-block-jobs")).get(job_id)
            error = f"{operation} error: {_held(job['io_status'] if job else 'failed')}"
            await self._tell_of("held", job_id, job, at=at, error=error)
        elif job_id not in self._complained:
            self._complained.add(job_id)
            await self._tell_of(
                "io_error", job_id, None, at=at, error=f"{operation} error: QEMU goes by its policy, {action}"
            )

    async def _on_end(self, name: str, job_id: str, details: object, at: float) -> None:
        monitor = self._monitor
        event, error = ending_of(name, details)
        before = monitor.jobs.pop(job_id, None)
        self._complained.discard(job_id)
        monitor.see(disks_of(await self._ask("query-block")))
        if before is None and len(monitor.changed) == 1:
            # It was over before it could be looked at: it is known by what it changed.
            (before,) = monitor.changed.values()
        now = None
        if before is not None:
            monitor.changed.pop(before.key, None)
            now = monitor.disks.get(before.key)
        left = left_chain(before, now) if before and now else None
        numbers = numbers_of(details)
        await monitor.tell(event, at, disk=now or before, job=job_id, error=error, left_chain=left, **numbers)


def _held(io_status: str) -> str:
    reasons = {"nospace": "there is no space left on the storage"}
    return f"{reasons.get(io_status, 'the storage failed')}, and QEMU holds the job until it is resumed"


# --- all monitors -----------------------------------------------------------------------------------------------

# A folder that a guest can write to may fill with sockets.
_MOST_MONITORS = 4096


@dataclass(frozen=True)
class Options:
    """The options of the source, checked."""

    monitors: tuple[str, ...]
    via: tuple[str, ...] = ()
    host: str | None = None
    python: str = "python3"
    progress: float = 0.0
    rescan: float = 2.0
    connect_timeout: float = 10.0

    @classmethod
    def from_arguments(cls, arguments: Mapping[str, Any]) -> Options:
        """Read what the rulebook says; ansible-rulebook adds arguments of its own, which begin with ``eda_``.

        :raise ValueError: in words for whoever wrote the rulebook.
        """
        given = {name: value for name, value in arguments.items() if not name.startswith("eda_") and value is not None}
        known = cls.__dataclass_fields__
        if unknown := sorted(set(given) - set(known)):
            raise ValueError(f"unknown option {', '.join(unknown)}; there are {', '.join(known)}")
        for name in ("monitors", "via"):
            given[name] = _texts(name, given.get(name, ()))
        if given["via"] and shutil.which(given["via"][0]) is None:
            raise ValueError(f"via: there is no program {given['via'][0]}")
        for name in ("host", "python"):
            if not isinstance(given.get(name, "-"), str) or given.get(name) == "":
                raise ValueError(f"{name} must be a text, and not empty")
        for name, least in (("progress", 0.0), ("rescan", 0.1), ("connect_timeout", 0.1)):
            given[name] = _seconds(name, given.get(name, known[name].default), least)
        if not given["monitors"]:
            raise ValueError("monitors is missing: name at least one, such as /run/vms/*.events")
        return cls(**given)


def _texts(name: str, value: object) -> tuple[str, ...]:
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, (list, tuple)) or not all(isinstance(each, str) and each for each in values):
        raise ValueError(f"{name} must be a list of texts, none of them empty")
    return tuple(values)


def _seconds(name: str, value: object, least: float) -> float:
    seconds = math.nan
    if isinstance(value, (int, float, str)) and not isinstance(value, bool):
        with contextlib.suppress(ValueError):
            seconds = float(value)
    if not least <= seconds < math.inf:
        raise ValueError(f"{name} must be a number of seconds, {least:g} or more")
    return seconds


def sockets_of(names: Sequence[str]) -> dict[str, bool]:
    """The monitors that are meant, and whether each was named outright: of globs, the sockets that there are now."""
    named = dict.fromkeys((name for name in names if not glob.has_magic(name) or os.path.exists(name)), True)
    found: dict[str, bool] = {}
    for name in names:
        if name not in named:
            found.update(dict.fromkeys(filter(_is_socket, sorted(glob.glob(name))), False))
    if len(found) > _MOST_MONITORS:
        LOG.warning("%d sockets were found, and %d of them are listened to", len(found), _MOST_MONITORS)
    return {**dict(list(found.items())[:_MOST_MONITORS]), **named}


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        return False


async def listen(options: Options, put: Put, remembered: Iterable[Event] = ()) -> None:
    """Listen to every monitor that there is, now and later. It ends only by being cancelled.

    :param remembered: the last events of streams that were known to somebody else, who could not listen for a while.
    """
    loop = asyncio.get_running_loop()
    monitors = _remembering(options, put, remembered)
    tasks: dict[str, asyncio.Future[None]] = {}
    addresses = dict.fromkeys(monitors, False)
    try:
        while True:
            addresses.update(await loop.run_in_executor(None, sockets_of, options.monitors))
            for address, is_named in addresses.items():
                if address not in tasks or tasks[address].done():
                    monitor = monitors.setdefault(address, Monitor(address, options, put, is_named))
                    tasks[address] = asyncio.ensure_future(monitor.run())
            await asyncio.sleep(options.rescan)
            over = [address for address, task in tasks.items() if task.done() and not monitors[address].jobs]
            for address in over[_MOST_MONITORS:]:
                del tasks[address], monitors[address]
            addresses = {}
    finally:
        for task in tasks.values():
            task.cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)


def _remembering(options: Options, put: Put, events: Iterable[Event]) -> dict[str, Monitor]:
    """Monitors that know of streams already."""
    monitors: dict[str, Monitor] = {}
    for event in events:
        monitor = monitors.setdefault(event["monitor"], Monitor(event["monitor"], options, put, is_named=False))
        monitor.vm = Vm(event["vm"], event["uuid"])
        disk = event["disk"]
        if disk is not None:
            own = {name: disk[name] for name in DISK_MEMBERS if name != "label"}
            disk = Disk(**own, chain=tuple(event["chain"] or ()))
        monitor.jobs[event["job"]] = disk
    return monitors


# --- the VMs of another host ------------------------------------------------------------------------------------

# Both ends say something that often, and take the other for gone after that long.
_BEAT_SECONDS, _GONE_SECONDS = 10.0, 60.0
_MOST_LINE = 4 * 2**20
_MOST_REMEMBERED = 2**16
_LONGEST_PAUSE = 30.0
# Reads as many bytes of code as the first line says, and is that program from then on.
_BOOT = "import sys;s=sys.stdin.buffer;exec(compile(s.read(int(s.readline())),'jobs.py','exec'))"


class Relay:
    """This source, run at the other end of a command, whose events are passed on."""

    def __init__(self, options: Options, put: Put) -> None:
        self._options = options
        self._put = put
        self._remembered: dict[tuple[str, str], Event] = {}
        self._is_lost = False
        self._last_words = ""

    async def run(self) -> None:
        """Pass on, and start anew when the other end is gone. It ends only by being cancelled."""
        pause = 1.0
        while True:
            self._last_words = ""
            try:
                why = await self._talk()
            except OSError as error:
                why = f"cannot run it: {error.strerror or error}"
            if not self._is_lost:
                self._is_lost = True
                pause = 1.0
                words = f"nobody listens there: {self._options.via[0]}: {self._last_words or why}"
                await self._tell("monitor_lost", error=words, jobs=sorted({job for _monitor, job in self._remembered}))
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _tell(self, event: str, **more: Any) -> None:
        await self._put(presentable({**dict.fromkeys(MEMBERS), "event": event, "at": time.time(), **more}))

    def order(self) -> bytes:
        """What the other end reads: the length of the code, the code, and what to do."""
        with open(__file__, "rb") as file:
            code = file.read()
        names = ("monitors", "progress", "rescan", "connect_timeout")
        options = {name: getattr(self._options, name) for name in names}
        order = json.dumps({"options": options, "remembered": list(self._remembered.values())})
        return b"%d\n%s%s\n" % (len(code), code, order.encode())

    async def _talk(self) -> str:
        """One run of the other end; return why it is over."""
        command = f"exec {self._options.python} -c {shlex.quote(_BOOT)}"
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *self._options.via, command, stdin=pipe, stdout=pipe, stderr=pipe, limit=_MOST_LINE
        )
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        last_words = asyncio.ensure_future(self._keep_last_words(process.stderr))
        beside = [asyncio.ensure_future(_send(process.stdin, self.order())), last_words]
        try:
            why = await self._receive(process.stdout)
            await asyncio.wait({last_words}, timeout=1)
            return why
        finally:
            process.stdin.close()
            await _end(process)
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)

    async def _keep_last_words(self, stderr: asyncio.StreamReader) -> None:
        while words := await stderr.read(4096):
            self._last_words = (self._last_words + words.decode(errors="replace")).rstrip().split("\n")[-1][-1000:]

    async def _receive(self, stdout: asyncio.StreamReader) -> str:
        """Pass on what it says, until it ends; return why."""
        while True:
            try:
                line = await asyncio.wait_for(stdout.readline(), _GONE_SECONDS)
            except asyncio.TimeoutError:
                return f"nothing came for {_GONE_SECONDS:g} s"
            except ValueError:
                return f"a line of more than {_MOST_LINE // 2**20} MiB came"
            if not line:
                return "it ended"
            event = relayed(line)
            if (event is not None or not line.strip()) and self._is_lost:
                self._is_lost = False
                await self._tell("monitor_back")
            if event is not None:
                self._remember(event)
                await self._put(event)

    def _remember(self, event: Event) -> None:
        """Keep what is known of a stream, so that its end is told also if it comes while nobody listens."""
        if event["job"] is None or event["monitor"] is None:
            return
        key = event["monitor"], event["job"]
        self._remembered.pop(key, None)
        if event["event"] not in ("completed", "failed", "cancelled"):
            self._remembered[key] = event
        if len(self._remembered) > _MOST_REMEMBERED:
            del self._remembered[next(iter(self._remembered))]


async def _send(stdin: asyncio.StreamWriter, order: bytes) -> None:
    """Give an order, and say again and again that we are there."""
    with contextlib.suppress(ConnectionError):  # told by the end of what the other end says
        stdin.write(order)
        while True:
            await stdin.drain()
            await asyncio.sleep(_BEAT_SECONDS)
            stdin.write(b"\n")


async def _end(process: asyncio.subprocess.Process) -> None:
    """End a process, kindly at first."""
    for end in (process.terminate, process.kill):
        with contextlib.suppress(ProcessLookupError):
            end()
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(process.wait(), 5)
            return


async def serve(order: Mapping[str, Any], caller: asyncio.StreamReader, write: Callable[[bytes], object]) -> None:
    """The other end: listen, and write each event as a line, until the caller is gone.

    :param write: may wait, for it is called beside the loop.
    """
    loop, turn = asyncio.get_running_loop(), asyncio.Lock()

    async def put_line(line: bytes) -> None:
        async with turn:
            await loop.run_in_executor(None, write, line + b"\n")

    async def put(event: Event) -> None:
        await put_line(json.dumps(event).encode())

    async def beat() -> None:
        while True:
            await put_line(b"")
            await asyncio.sleep(_BEAT_SECONDS)

    async def wait_for_the_end() -> None:
        with contextlib.suppress(asyncio.TimeoutError):
            while await asyncio.wait_for(caller.read(4096), _GONE_SECONDS):
                pass

    options = Options.from_arguments(order["options"])
    tasks = [
        asyncio.ensure_future(each) for each in (wait_for_the_end(), beat(), listen(options, put, order["remembered"]))
    ]
    done, others = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    for task in done:
        with contextlib.suppress(OSError):  # nobody reads any more
            task.result()


async def _serve_stdin() -> None:
    order = json.loads(sys.stdin.buffer.readline())
    caller = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(caller), sys.stdin)
    await serve(order, caller, _write)
    os._exit(0)  # a write to nobody may hang in its thread, and Python would wait for it


def _write(line: bytes) -> None:
    sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()


async def main(queue: asyncio.Queue[Any], args: Mapping[str, Any]) -> None:
    """What ansible-rulebook calls. It ends only by being cancelled.

    :raise ValueError: an option is wrong.
    :raise ModuleNotFoundError: qemu.qmp is missing where it is needed.
    """
    options = Options.from_arguments(args)
    meta = {"meta": {"hosts": [options.host]}} if options.host else {}

    async def put(event: Event) -> None:
        await queue.put({"stream": {**event, "host": options.host}, **meta})

    if options.via:
        await Relay(options, put).run()
    elif QEMU_QMP_MISSING:
        raise ModuleNotFoundError(QEMU_QMP_MISSING)
    else:
        await listen(options, put)


if __name__ == "__main__":
    if QEMU_QMP_MISSING:
        raise SystemExit(QEMU_QMP_MISSING)
    asyncio.run(_serve_stdin())
