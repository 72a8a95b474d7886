# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""A QEMU and its host at the seams: it streams in virtual time, and refuses what QEMU 7.2 refuses.

It knows what a crash would cost: clusters that a stream copied are only in memory until somebody flushes the image, and
so is a header whose backing link was removed.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import posixpath
import re
import zlib
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from ansible_collections.virtops.qmp.plugins.module_utils._model._errors import (
    CommandRefused,
    HostSilent,
    MonitorLost,
    MonitorMissing,
    MonitorSilent,
    QmpError,
    WriteBackFailed,
)
from ansible_collections.virtops.qmp.plugins.module_utils._model._files import (
    Bound,
    Descriptor,
    FileId,
    FreeSpace,
    Granted,
    Inode,
    KnownFile,
    Lease,
    Named,
    Survey,
    Users,
)
from ansible_collections.virtops.qmp.plugins.module_utils._model._header import Header, NoHeader, Reading
from ansible_collections.virtops.qmp.plugins.module_utils._model._images import Asked, Search, Unread
from ansible_collections.virtops.qmp.plugins.module_utils._model._map import Layer, MapTotals, NoMap
from ansible_collections.virtops.qmp.plugins.module_utils._model._peer import Peer
from ansible_collections.virtops.qmp.plugins.module_utils._model._seams import Find, OtherRuns
from ansible_collections.virtops.qmp.plugins.module_utils._reach._qemu import QemuLink
from ansible_collections.virtops.qmp.plugins.module_utils._run._observe import find_monitors
from ansible_collections.virtops.qmp.tests.unit.nbd_server import FakeExport, NbdServer

MIB = 1024 * 1024
SIZE = 64 * MIB
# A stream without a limit copies SIZE in 6.4 s, a tenth of a second at a time.
TICK = 0.1
CHUNK = MIB
NO_SPACE = "No space left on device"
IO_ERROR = "Input/output error"


class Node:
    """A block node."""

    def __init__(self, name: str, driver: str, filename: str, **children: str):
        self.name, self.driver, self.filename, self.children = name, driver, filename, children


class FakeJob:
    """A block job; `nodes` is what it holds, the one that it writes to first."""

    def __init__(self, arguments: Mapping[str, Any], nodes: Sequence[str], *, type: str = "stream"):
        self.id, self.type = arguments["job-id"], type
        self.nodes, self.filter = list(nodes), f"#filter-{arguments['job-id']}"
        self.base: str | None = arguments.get("base-node")
        self.speed: int = arguments.get("speed", 0)
        self.on_error: str = arguments.get("on-error", "report")
        self.auto_finalize: bool = arguments.get("auto-finalize", True)
        self.auto_dismiss: bool = arguments.get("auto-dismiss", True)
        self.status, self.offset, self.len = "running", 0, SIZE
        self.paused, self.io_status = False, "ok"
        self.error: str | None = None

    @property
    def top(self) -> str:
        return self.nodes[0]

    @property
    def streams(self) -> bool:
        return self.status == "running" and not self.paused

    def reply(self) -> dict[str, Any]:
        own = {"error": self.error} if self.error else {}
        return {
            "device": self.id,
            "type": self.type,
            "status": self.status,
            "offset": self.offset,
            "len": self.len,
            "speed": self.speed,
            "paused": self.paused,
            "io-status": self.io_status,
            "auto-finalize": self.auto_finalize,
            "auto-dismiss": self.auto_dismiss,
            "busy": self.streams,
            "ready": False,
            **own,
        }


class FakeQemu:
    """One VM. `log` holds its commands, `harm` what a client did that could cost data."""

    def __init__(self, name: str = "vm0", pid: int = 100, uuid: str = "00000000-0000-0000-0000-000000000000"):
        self.name, self.pid, self.uuid = name, pid, uuid
        self.started = 7
        self.address = f"/vms/{name}.qmp"
        self.status = "running"
        self.nodes: dict[str, Node] = {}
        self.disks: list[dict[str, Any]] = []
        self.jobs: dict[str, FakeJob] = {}
        self.log: list[tuple[str, dict[str, Any]]] = []
        self.harm: list[str] = []
        self.only_in_memory: dict[str, str] = {}
        self.faults: dict[str, tuple[int, str]] = {}
        self.before: dict[str, list[Callable[[], object]]] = {}
        self.refuses: dict[str, str] = {}
        self.losing: tuple[int, bool] | None = None
        self.flush_fails = False
        self.tells_beside_jobs = True
        self.migration: dict[str, Any] = {}
        self.alive = True
        self.deaf = False
        self.iothreads: list[str] = []
        self.gives_images_away = False  # as QEMU does since 10.0, also while something is read ahead
        self.exports: dict[str, str] = {}
        self.stuck: set[str] = set()  # exports that do not end
        self.descriptors: dict[str, int] = {}
        self.passed: int | None = None
        self.nbd: NbdServer | None = None
        self.ahead = FakeExport([(SIZE, 2)])
        self.populated: dict[str, Sequence[tuple[int, int]]] = {}
        # What the guest has waited for each read so far, in nanoseconds, and what it waits between two looks.
        self.reads: dict[str, list[int]] = {}
        self.guest: Callable[[FakeQemu], Sequence[int]] = lambda _qemu: ()
        # The boundaries of a device's histograms, and how many reads there were before.
        self.histograms: dict[str, tuple[list[int], int]] = {}
        self.listeners: list[FakeEvents] = []
        self.runs: OtherRuns | None = None
        self.on_change: Callable[[], None] = lambda: None

    # Building

    def add(self, qdev: str, *files: str, named: bool = False, read_only: bool = False, device: str = "") -> str:
        """A disk over these files of /vms, the top first; returns its top node."""
        below: str | None = None
        for depth, file in reversed(list(enumerate(files))):
            stem = file.split(".")[0]
            name = stem if named or depth == 0 else f"#{stem}"
            if name not in self.nodes:
                protocol = f"{name}-file" if named or depth == 0 else f"#{stem}-file"
                self.nodes[protocol] = Node(protocol, "file", f"/vms/{file}")
                backing = {"backing": below} if below else {}
                self.nodes[name] = Node(name, "qcow2", f"/vms/{file}", file=protocol, **backing)
            below = name
        path = f"/machine/peripheral/{qdev}/virtio-backend"
        self.disks.append({"device": device, "qdev": path, "root": below, "ro": read_only})
        return below or ""

    def remove(self, qdev: str) -> None:
        self.disks = [disk for disk in self.disks if qdev not in disk["qdev"]]

    def put_filter(self, qdev: str, driver: str) -> None:
        """Put a filter node on top of a disk."""
        disk = self._disk(qdev)
        name = f"{driver}-{qdev}"
        self.nodes[name] = Node(name, driver, "json:{}", file=disk["root"])
        disk["root"] = name

    def _disk(self, qdev: str) -> dict[str, Any]:
        return next(disk for disk in self.disks if qdev in disk["qdev"])

    def stream(self, device: str, job_id: str = "theirs", **options: Any) -> FakeJob:
        """A stream that somebody else starts, with QEMU's defaults."""
        words = {key.replace("_", "-"): value for key, value in options.items()}
        self._block_stream({"job-id": job_id, "device": device, **words})
        return self.jobs[job_id]

    def other_job(self, node: str, type: str = "mirror") -> FakeJob:
        self.jobs["theirs"] = job = FakeJob({"job-id": "theirs"}, [node], type=type)
        return job

    # What the world shows

    @property
    def commands(self) -> list[str]:
        return [command for command, _arguments in self.log]

    @property
    def acts(self) -> list[str]:
        """The commands that do something."""
        return [command for command in self.commands if not command.startswith(("query-", "x-debug-"))]

    def chain(self, qdev: str = "vda") -> list[str]:
        node: str | None = self._disk(qdev)["root"]
        names = []
        while node is not None:
            each = self.nodes[node]
            names += [posixpath.basename(each.filename)] if each.driver == "qcow2" else []
            node = each.children.get("backing" if each.driver == "qcow2" else "file")
        return names

    def act_before(self, command: str, act: Callable[[], object]) -> None:
        """Let something happen just before the next such command is executed."""
        self.before.setdefault(command, []).append(act)

    def lose_at(self, number: int, *, executed: bool) -> None:
        """Break the connection at the so-many-th command from now, before or after it takes effect."""
        self.losing = (len(self.log) + number, executed)

    def die(self) -> None:
        self.alive = False
        self.tell_all(None)

    # Commands

    def serve(self, command: str, arguments: Mapping[str, Any]) -> Any:
        if not self.alive:
            raise MonitorLost(f"the connection ended at {command}")
        for act in self.before.pop(command, []):
            act()
        self.log.append((command, dict(arguments)))
        is_last = self.losing is not None and len(self.log) == self.losing[0]
        if is_last and self.losing is not None and not self.losing[1]:
            self.die()
            raise MonitorLost(f"the connection ended at {command}")
        if command in self.refuses:
            raise CommandRefused(command, self.refuses[command])
        handler = getattr(self, "_" + command.replace("-", "_"), None)
        if handler is None:
            raise CommandRefused(command, f"The command {command} has not been found")
        try:
            reply = handler(arguments)
        except CommandRefused:
            if not is_last:
                raise
        if is_last:
            self.die()
            raise MonitorLost(f"the connection ended at {command}")
        return {} if reply is None else reply

    def _query_name(self, arguments: Any) -> Any:
        return {"name": self.name}

    def _query_uuid(self, arguments: Any) -> Any:
        return {"UUID": self.uuid}

    def _query_version(self, arguments: Any) -> Any:
        return {"qemu": {"major": 7, "minor": 2, "micro": 22}, "package": ""}

    # The guest's requests

    def _query_blockstats(self, arguments: Any) -> Any:
        devices = [{"qdev": disk["qdev"], "stats": self._stats(disk["qdev"])} for disk in self.disks]
        return [*devices, {"node-name": "no device uses it", "stats": {}}]

    def _stats(self, qdev: str) -> dict[str, Any]:
        reads = self.reads.setdefault(qdev, [])
        reads += self.guest(self)
        stats: dict[str, Any] = {}
        for prefix, taken in (("rd", reads), ("wr", []), ("flush", [])):
            stats[f"{prefix}_operations"], stats[f"{prefix}_total_time_ns"] = len(taken), sum(taken)
            if qdev in self.histograms:
                boundaries, since = self.histograms[qdev]
                bins = [0] * (len(boundaries) + 1)
                for each in taken[since:]:
                    bins[sum(each >= boundary for boundary in boundaries)] += 1
                stats[f"{prefix}_latency_histogram"] = {"boundaries": boundaries, "bins": bins}
        return stats

    def _block_latency_histogram_set(self, arguments: Any) -> None:
        is_known = any(disk["qdev"] == arguments["id"] for disk in self.disks)
        self._refuse_unless(is_known, "Device not found", "block-latency-histogram-set")
        self.histograms.pop(arguments["id"], None)
        if "boundaries" in arguments:
            self.histograms[arguments["id"]] = arguments["boundaries"], len(self.reads[arguments["id"]])

    # Exports

    def _query_iothreads(self, arguments: Any) -> Any:
        return [{"id": name, "thread-id": 1} for name in self.iothreads]

    def _query_block_exports(self, arguments: Any) -> Any:
        return [
            {"id": id, "type": kind, "node-name": "top", "shutting-down": False} for id, kind in self.exports.items()
        ]

    def _getfd(self, arguments: Any) -> None:
        self._refuse_unless(self.passed is not None, "No file descriptor supplied via SCM_RIGHTS", "getfd")
        self.descriptors[arguments["fdname"]] = self.passed or -1
        self.passed = None

    def _closefd(self, arguments: Any) -> None:
        self._refuse_unless(arguments["fdname"] in self.descriptors, "File descriptor not found", "closefd")
        del self.descriptors[arguments["fdname"]]

    def _nbd_server_start(self, arguments: Any) -> None:
        self._refuse_unless(self.nbd is None, "NBD server already running", "nbd-server-start")
        assert arguments["addr"]["type"] == "fd"
        self.nbd = NbdServer(self.descriptors.pop(arguments["addr"]["data"]["str"]))

    def _block_export_add(self, arguments: Any) -> None:
        assert self.nbd is not None
        assert arguments["allocation-depth"]
        self._refuse_unless(
            self.gives_images_away or "allow-inactive" not in arguments,
            "Parameter 'allow-inactive' is unexpected",
            "block-export-add",
        )
        id = arguments["id"]
        self._refuse_unless(id not in self.exports, f"Block export id '{id}' is already in use", "block-export-add")
        self.exports[id] = "nbd"
        self.nbd.exports[arguments["name"]] = self.ahead
        # A stream passes over what was read ahead of it.
        self.populated[arguments["node-name"]] = self.ahead.copied

    def _add_fd(self, arguments: Any) -> Any:
        assert self.passed is not None
        assert os.pread(self.passed, 8, 0x40) == bytes.fromhex("7f10dabe01000100")  # the magic and version of vdi
        self.descriptors["0"], self.passed = self.passed, None
        return {"fdset-id": 0, "fd": 12}

    def _remove_fd(self, arguments: Any) -> None:
        del self.descriptors[str(arguments["fdset-id"])]

    def _blockdev_add(self, arguments: Any) -> None:
        name = arguments["node-name"]
        self._refuse_unless(name not in self.nodes, f"Duplicate nodes with node-name='{name}'", "blockdev-add")
        if arguments["driver"] == "null-co":
            assert arguments["read-only"]  # else nobody can take a snapshot of the VM
            self.nodes[name] = Node(name, "null-co", "null-co://")
            return
        assert arguments["file"]["filename"] == "/dev/fdset/0"
        migrates = self.migration.get("status") == "active"
        self._refuse_unless(
            not migrates, "disallowing migration blocker (migration/snapshot in progress)", "blockdev-add"
        )
        self.nodes[name] = Node(name, arguments["driver"], "/dev/fdset/0")

    def _block_export_del(self, arguments: Any) -> None:
        id = arguments["id"]
        self._refuse_unless(id in self.exports, f"Export '{id}' is not found", "block-export-del")
        if self.nbd is not None:
            self.nbd.hang_up(id)
        if id not in self.stuck:
            asyncio.get_running_loop().call_later(TICK, self.exports.pop, id, None)

    def _nbd_server_stop(self, arguments: Any) -> None:
        if "nbd" in self.exports.values():
            self.harm.append("the NBD server was stopped while there were exports")
        self._refuse_unless(self.nbd is not None, "NBD server not running", "nbd-server-stop")
        if self.nbd is not None:
            self.nbd.close()
        self.nbd = None

    def _query_chardev(self, arguments: Any) -> Any:
        return [{"label": "compat_monitor0", "filename": f"unix:{self.address}", "frontend-open": True}]

    def _query_status(self, arguments: Any) -> Any:
        return {"status": self.status, "running": self.status == "running", "singlestep": False}

    def _query_block(self, arguments: Any) -> Any:
        return [self._block(disk) for disk in self.disks]

    def _block(self, disk: Mapping[str, Any]) -> dict[str, Any]:
        entry = {"device": disk["device"], "qdev": disk["qdev"], "type": "unknown", "removable": False, "locked": False}
        if disk["root"] is None:
            return entry
        root = self.nodes[disk["root"]]
        entry["io-status"] = disk.get("io-status", "ok")
        medium = {
            **({} if disk.get("active", True) else {"active": False}),  # told since QEMU 10.0
            "node-name": root.name,
            "drv": root.driver,
            "cache": {"writeback": True, "direct": False, "no-flush": disk.get("no-flush", False)},
            "ro": disk["ro"],
            "file": root.filename,
        }
        return {**entry, "inserted": {**medium, "image": self._image(root.name)}}

    def _image(self, name: str) -> dict[str, Any]:
        node = self.nodes[name]
        values: dict[str, Any] = {"filename": node.filename, "format": node.driver, "virtual-size": SIZE}
        values["actual-size"] = 10 * MIB
        below = node.children.get("backing" if node.driver == "qcow2" else "file")
        return {**values, "backing-image": self._image(below)} if below else values

    def _query_block_jobs(self, arguments: Any) -> Any:
        return [job.reply() for job in self.jobs.values()]

    def _x_debug_query_block_graph(self, arguments: Any) -> Any:
        # A stream has a filter of its own between the image and all that uses it.
        streams = [job for job in self.jobs.values() if job.type == "stream" and job.status != "concluded"]
        filters = {job.top: job.filter for job in streams}
        graph = _Graph([*self.nodes, *(job.filter for job in self.jobs.values())])
        for node in self.nodes.values():
            for role, child in node.children.items():
                graph.edge(node.name, role, filters.get(child, child))
        for job in streams:
            graph.edge(job.filter, "file", job.top)
        for job in self.jobs.values():
            graph.member(job.id, "block-job")
            graph.edge(job.id, "main node", job.filter)
            for place, name in enumerate(job.nodes):
                graph.edge(job.id, "intermediate node" if place else "active node", name)
        for disk in self.disks:
            device = graph.member(disk["device"] or disk["qdev"], "block-backend")
            if disk["root"] is not None:
                graph.edge(device, "root", filters.get(disk["root"], disk["root"]))
        return {"nodes": graph.nodes, "edges": graph.edges}

    def _block_stream(self, arguments: Mapping[str, Any]) -> None:
        known = {"job-id", "device", "base-node", "backing-file", "speed", "on-error", "auto-finalize", "auto-dismiss"}
        for word in arguments:
            self._refuse_unless(word in known, f"Parameter '{word}' is unexpected")
        device, job_id = arguments["device"], arguments["job-id"]
        self._refuse_unless(
            device in self.nodes, f"Cannot find device='{device}' nor node-name='{device}'", "block-stream"
        )
        self._refuse_unless(bool(re.match(r"[A-Za-z][\w.-]*$", job_id)), f"Invalid job ID '{job_id}'")
        self._refuse_unless(self.nodes[device].driver == "qcow2", f"Permission conflict on node '{device}'")
        held = [device, *self._between(device, arguments.get("base-node"))]
        for job in self.jobs.values():
            busy = next((name for name in held if name in job.nodes), None)
            self._refuse_unless(busy is None, f"Node '{busy}' is busy: block device is in use by block job: {job.type}")
        self._refuse_unless(job_id not in self.jobs, f"Job ID '{job_id}' already in use")
        self.jobs[job_id] = job = FakeJob(arguments, held)
        job.len = SIZE if len(held) > 1 else 0
        self._change(job, "running")
        asyncio.get_running_loop().call_later(TICK, self._tick, job)

    def _between(self, top: str, base: str | None) -> Iterator[str]:
        node = self.nodes[top].children.get("backing")
        while node is not None and node != base:
            yield node
            node = self.nodes[node].children.get("backing")
        self._refuse_unless(node == base, f"Node '{base}' is not a backing image of '{top}'")

    def _refuse_unless(self, good: bool, reason: str, command: str = "block-stream") -> None:
        if not good:
            raise CommandRefused(command, reason)

    def _job(self, arguments: Mapping[str, Any], command: str, *able: str) -> FakeJob:
        job = self.jobs.get(arguments["id"])
        if job is None:
            raise CommandRefused(command, "Job not found")
        verb = command.split("-")[1]
        self._refuse_unless(
            job.status in able, f"Job '{job.id}' in state '{job.status}' cannot accept command verb '{verb}'", command
        )
        return job

    def _job_pause(self, arguments: Any) -> None:
        job = self._job(arguments, "job-pause", "created", "running", "paused")
        self._refuse_unless(not job.paused, "Job is already paused", "job-pause")
        job.paused = True
        self._change(job, "paused")

    def _job_resume(self, arguments: Any) -> None:
        job = self._job(arguments, "job-resume", "created", "running", "paused")
        self._refuse_unless(job.paused, "Can't resume a job that was not paused", "job-resume")
        job.paused, job.io_status = False, "ok"
        self._change(job, "running")

    def _block_job_set_speed(self, arguments: Any) -> None:
        job = self.jobs.get(arguments["device"])
        self._refuse_unless(job is not None, f"Block job '{arguments['device']}' not found", "block-job-set-speed")
        assert job is not None
        job.speed = arguments["speed"]
        self.on_change()

    def _job_finalize(self, arguments: Any) -> None:
        job = self._job(arguments, "job-finalize", "pending")
        if job.top in self.only_in_memory:
            self.harm.append(f"{job.id} was finalized, and what it copied was only in memory")
        self._finish(job)

    def _job_cancel(self, arguments: Any) -> None:
        job = self._job(arguments, "job-cancel", "created", "running", "paused", "pending")
        job.error = "Operation canceled"
        self._conclude(job, "BLOCK_JOB_CANCELLED")

    def _job_dismiss(self, arguments: Any) -> None:
        self._forget(self._job(arguments, "job-dismiss", "concluded"))

    def _human_monitor_command(self, arguments: Any) -> str:
        words = arguments["command-line"].split()
        if words[0] != "qemu-io" or words[2:] != ["flush"]:
            return f"unknown command: '{words[0]}'\r\n"
        tops = {job.filter: job.top for job in self.jobs.values()}
        node = tops.get(words[1], words[1])
        if node not in self.nodes:
            return f"Error: Cannot find device='' nor node-name='{node}'\r\n"
        self.only_in_memory.pop(node, None)
        return ""

    def _blockdev_snapshot(self, arguments: Any) -> None:
        """It flushes, and fails: the test asks for one onto a node that does not exist."""
        node = arguments["node"]
        busy = any(node in job.nodes for job in self.jobs.values())
        busy = busy or bool(self.jobs and not self.tells_beside_jobs)
        self._refuse_unless(not busy, f"Node '{node}' is busy: block device is in use", "blockdev-snapshot")
        self._refuse_unless(not self.flush_fails, "An IO error has occurred", "blockdev-snapshot")
        self.only_in_memory.pop(node, None)
        reason = f"Cannot find device='' nor node-name='{arguments['overlay']}'"
        self._refuse_unless(arguments["overlay"] in self.nodes, reason, "blockdev-snapshot")

    def _query_migrate(self, arguments: Any) -> Any:
        return self.migration

    def _blockdev_del(self, arguments: Any) -> None:
        name = arguments["node-name"]
        self._refuse_unless(name in self.nodes, f"Failed to find node with node-name='{name}'", "blockdev-del")
        for node in self.nodes.values():
            for role, child in node.children.items():
                words = f"Node {name} is in use: node is used as {role} of '{node.name}'"
                self._refuse_unless(child != name, words, "blockdev-del")
        del self.nodes[name]

    # Jobs in time

    def _tick(self, job: FakeJob) -> None:
        if self.jobs.get(job.id) is not job or job.status not in ("running", "paused") or not self.alive:
            return
        asyncio.get_running_loop().call_later(TICK, self._tick, job)
        if job.paused or job.type != "stream":
            return
        where, reason = self.faults.get(job.top, (SIZE + 1, ""))
        if job.len:
            self.only_in_memory[job.top] = "copied clusters"
        job.offset = self._behind_populated(job)
        job.offset = min(job.offset + (int(job.speed * TICK) if job.speed else CHUNK), job.len)
        if job.offset >= where and self._fails(job, where, reason):
            return
        if job.offset == job.len:
            self._end(job)

    def _behind_populated(self, job: FakeJob) -> int:
        offset = job.offset
        for begin, length in sorted(self.populated.get(job.top, ())):
            if begin <= offset < begin + length:
                offset = begin + length
        return offset

    def _fails(self, job: FakeJob, where: int, reason: str) -> bool:
        """An I/O error; whether it is the end of the job, or holds it."""
        holds = job.on_error == "stop" or (job.on_error == "enospc" and reason == NO_SPACE)
        action = "stop" if holds else "ignore" if job.on_error == "ignore" else "report"
        self._tell(job, "BLOCK_JOB_ERROR", device=job.id, operation="read", action=action)
        if action != "ignore":
            job.offset = where
        if holds:
            job.paused, job.io_status = True, "nospace" if reason == NO_SPACE else "failed"
            self._change(job, "paused")
            return True
        job.error = reason
        if action == "ignore" and job.offset < job.len:
            return False
        self._conclude(job, "BLOCK_JOB_COMPLETED", error=reason)
        return True

    def _end(self, job: FakeJob) -> None:
        self._change(job, "waiting")
        self._change(job, "pending")
        if job.auto_finalize:
            self._finish(job)
        else:
            self._tell(job, "BLOCK_JOB_PENDING", type=job.type, id=job.id)

    def _finish(self, job: FakeJob) -> None:
        """Remove the backing link."""
        children = self.nodes[job.top].children
        children.pop("backing", None)
        if job.base is not None:
            children["backing"] = job.base
        if job.len:
            self.only_in_memory.setdefault(job.top, "the header")
        self._conclude(job, "BLOCK_JOB_COMPLETED")

    def _conclude(self, job: FakeJob, event: str, **error: str) -> None:
        job.paused = False
        self._tell(job, event, device=job.id, type=job.type, len=job.len, offset=job.offset, speed=job.speed, **error)
        self._change(job, "concluded")
        if job.auto_dismiss:
            self._forget(job)

    def _forget(self, job: FakeJob) -> None:
        """What nobody named and nobody uses any more goes with the job."""
        del self.jobs[job.id]
        for name in job.nodes[1:]:
            users = [node for node in self.nodes.values() if name in node.children.values()]
            if name.startswith("#") and not users:
                del self.nodes[self.nodes.pop(name).children["file"]]
        self._change(job, "null")

    def _change(self, job: FakeJob, status: str) -> None:
        job.status = status
        self._tell(job, "JOB_STATUS_CHANGE", id=job.id, status=status)
        self.on_change()

    def _tell(self, job: FakeJob, event: str, **details: Any) -> None:
        if not self.deaf:
            self.tell_all({"event": event, "data": details})

    def tell_all(self, event: dict[str, Any] | None) -> None:
        """Send an event to everybody who listens; None tells of the end of the connection."""
        for listener in self.listeners:
            listener.hear(event)


class _Graph:
    """A reply of `x-debug-query-block-graph` in the making."""

    def __init__(self, drivers: Sequence[str]):
        self.nodes: list[dict[str, Any]] = []
        self.edges: list[dict[str, Any]] = []
        for name in drivers:
            self.member(name, "block-driver")

    def member(self, name: str, kind: str) -> str:
        self.nodes.append({"id": len(self.nodes) + 1, "name": name, "type": kind})
        return name

    def edge(self, parent: str, role: str, child: str) -> None:
        ids = {node["name"]: node["id"] for node in self.nodes}
        ends = {"parent": ids[parent], "child": ids[child]}
        self.edges.append({**ends, "name": role, "perm": [], "shared-perm": []})


class FakeEvents:
    """The events of one job, as `_seams.RawEvents`."""

    KINDS = ("BLOCK_JOB_PENDING", "BLOCK_JOB_COMPLETED", "BLOCK_JOB_CANCELLED", "BLOCK_JOB_ERROR")

    def __init__(self, qemu: FakeQemu, job_id: str):
        self._qemu, self._job_id = qemu, job_id
        self._unread: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()

    def hear(self, event: dict[str, Any] | None) -> None:
        if event is None or (
            event["event"] in self.KINDS and self._job_id in (event["data"].get("id"), event["data"].get("device"))
        ):
            self._unread.put_nowait(event)

    async def next(self, timeout: float) -> Mapping[str, Any] | None:
        if self._unread.empty() and not self._qemu.alive:
            raise MonitorLost("the connection ended")
        try:
            event = (
                self._unread.get_nowait()
                if timeout <= 0 or not self._unread.empty()
                else await asyncio.wait_for(self._unread.get(), timeout)
            )
        except (asyncio.TimeoutError, asyncio.QueueEmpty):
            return None
        if event is None:
            raise MonitorLost("the connection ended")
        return event


class FakeConnection:
    """A QMP session, as `_seams.Connection`."""

    def __init__(self, qemu: FakeQemu):
        self._qemu = qemu
        self.address = qemu.address
        self.peer: Peer | None = Peer(qemu.pid, 64055, 64055, qemu.started, "qemu-system-x86_64", 64055, True)
        self.runs = qemu.runs
        self.is_open = True

    async def execute(
        self, command: str, arguments: Mapping[str, Any] | None = None, descriptor: int | None = None
    ) -> Any:
        assert self.is_open, f"{command} was sent to a monitor that is closed"
        await asyncio.sleep(0)
        if descriptor is not None:
            self._qemu.passed = descriptor
        return self._qemu.serve(command, arguments or {})

    @contextlib.contextmanager
    def listen(self, job_id: str) -> Iterator[FakeEvents]:
        events = FakeEvents(self._qemu, job_id)
        self._qemu.listeners.append(events)
        try:
            yield events
        finally:
            self._qemu.listeners.remove(events)


class FakeHost:
    """The hypervisor of some VMs, as `_seams.Host`, and the way to their monitors, as `_seams.OpenLink`."""

    def __init__(self, *qemus: FakeQemu):
        self.qemus = {qemu.address: qemu for qemu in qemus}
        self.globs: dict[str, list[str] | None] = {}
        self.headers_saying: dict[str, str] = {}
        self.unopenable: dict[str, QmpError] = {}
        self.maps: list[MapTotals | NoMap] = []
        self.held: list[FakeHeld] = []
        self.forgotten: list[str] = []
        self.unwritable = False
        # Files that QEMU is not seen to have open, whose header cannot be read, or that were deleted; misleading names.
        self.unseen: set[str] = set()
        self.unreadable: set[str] = set()
        self.deleted: set[str] = set()
        self.misleading: set[str] = set()
        # Who names an image in its header, and what cannot be read, in the folders that were searched.
        self.named_by: dict[str, tuple[str, ...]] = {}
        self.unread: list[Unread] = []
        self.searched: list[tuple[str, ...]] = []
        self.free = 1000 * MIB
        # The devices that are other hosts' file systems; all files of /vms lie on device 1.
        self.remote: set[int] = set()
        # What had been done to the VMs whenever somebody made ready for the end of a stream.
        self.acts_when_ready: list[list[str]] = []
        self.open: list[str] = []
        self.most_open = 0
        self.opened: list[str] = []
        self.most_streams = 0
        # The most that all streams together were ever allowed to copy per second; infinite without a limit.
        self.most_speed = 0.0
        for qemu in qemus:
            qemu.on_change = self._count

    def begin_to_count(self) -> None:
        """Forget what was opened so far; what runs counts."""
        self.opened.clear()
        self.most_open = self.most_streams = 0
        self.most_speed = 0.0
        self._count()

    def _count(self) -> None:
        streams = [job for qemu in self.qemus.values() for job in qemu.jobs.values() if job.streams]
        self.most_streams = max(self.most_streams, len(streams))
        self.most_speed = max(self.most_speed, sum(job.speed or float("inf") for job in streams))

    def finds(self, patterns: Sequence[str]) -> Find:
        """The monitors that a call is given."""
        return functools.partial(find_monitors, patterns, self)

    @contextlib.asynccontextmanager
    async def open_link(self, address: str) -> AsyncIterator[QemuLink]:
        """One client at a time."""
        await asyncio.sleep(0)
        if address in self.unopenable:
            raise self.unopenable[address]
        if address not in self.qemus or not self.qemus[address].alive:
            raise MonitorMissing("nobody is there")
        if address in self.open:
            raise MonitorSilent("no greeting")
        self.opened.append(address)
        self.open.append(address)
        self.most_open = max(self.most_open, len(self.open))
        connection = FakeConnection(self.qemus[address])
        try:
            yield QemuLink(connection)
        finally:
            connection.is_open = False
            self.open.remove(address)

    async def expand(self, pattern: str) -> Sequence[str] | None:
        return self.globs.get(pattern, [])

    async def survey(self, pid: int | None, names: Collection[str], fdsets: Mapping[int, Sequence[int]]) -> Survey:
        """Every QEMU of this pid has the files of its nodes open; a name is taken from /vms."""
        files = [node.filename for qemu in self._of(pid) for node in qemu.nodes.values() if node.driver == "file"]
        opened = [path for path in dict.fromkeys(map(in_vms, files)) if path is not None and path not in self.unseen]
        descriptors = [
            Descriptor(10 + place, inode_of(path), path, here=path, writable=True) for place, path in enumerate(opened)
        ]
        for place, each in enumerate(descriptors):
            if each.path in self.deleted:
                inode = each.inode._replace(deleted=True)
                descriptors[place] = each._replace(inode=inode, here=None, unlinked=True)
        meanings = {name: Named(path=in_vms(name)) if in_vms(name) in self.deleted else named(name) for name in names}
        return Survey(tuple(descriptors), {**meanings, **{name: named("/elsewhere") for name in self.misleading}})

    async def headers(self, pid: int | None, images: Sequence[tuple[Bound, str]]) -> Sequence[Reading]:
        """What the test says, else what QEMU would have written there."""
        written: dict[str | None, Header | NoHeader] = {}
        for qemu in self._of(pid):
            for node in qemu.nodes.values():
                below = qemu.nodes.get(node.children.get("backing", ""))
                if node.driver == "qcow2":
                    written[in_vms(node.filename)] = Header(backing=below.filename if below else "")
        known: dict[str | None, Header | NoHeader] = dict(written)
        known.update((path, Header(backing=name)) for path, name in self.headers_saying.items())
        known = {path: header for path, header in known.items() if path not in self.unreadable}
        return [known.get(bound.file, NoHeader("nobody knows it")) for bound, _format in images]

    def _of(self, pid: int | None) -> list[FakeQemu]:
        return [qemu for qemu in self.qemus.values() if qemu.pid == pid]

    async def free_space(self, pid: int | None, bound: Bound) -> FreeSpace | None:
        return FreeSpace(1, self.free) if bound.file else None

    async def hold(self, pid: int | None, files: Sequence[Bound], name: str) -> FakeHeld | None:
        """The files of an image, if they are files."""
        return FakeHeld(self, name) if all(bound.inode is not None for bound in files) else None

    def make_ready(self) -> None:
        self.acts_when_ready.append([act for qemu in self.qemus.values() for act in qemu.acts])

    async def write_out(self, file: str) -> bool:
        """Whether the storage answers; what it says is `unwritable`."""
        return True

    async def read_map(self, pid: int | None, layers: Sequence[Layer], base_depth: int | None) -> MapTotals | NoMap:
        """All is in the top, unless the test says otherwise."""
        return self.maps.pop(0) if self.maps else MapTotals({(0, True): SIZE})

    async def remote_devices(self) -> Collection[int]:
        return self.remote

    async def who_serves(self, address: str) -> str:
        return f"pid 100 owns {address}"

    async def leases(self, files: Collection[KnownFile]) -> Mapping[KnownFile, Lease]:
        return {file: Lease(Granted.NO if self._holders(file.path) else Granted.YES, "ext4") for file in files}

    async def users(self, files: Collection[KnownFile]) -> Mapping[KnownFile, Users]:
        return {file: Users(self._holders(file.path)) for file in files}

    async def search(self, files: Collection[KnownFile], folders: Sequence[str]) -> Search:
        """What the test says of these folders."""
        self.searched.append(tuple(folders))
        asked: dict[KnownFile, Asked] = {}
        for file in files:
            asked[file] = Asked(inode_of(file.path), named_by=self.named_by.get(file.path, ()))
        return Search(tuple(folders), asked, tuple(self.unread), len(self.unread))

    def _holders(self, file: str) -> dict[int, str]:
        return {
            qemu.pid: "qemu"
            for qemu in self.qemus.values()
            if any(node.driver == "file" and node.filename == file for node in qemu.nodes.values())
        }


class FakeHeld:
    """The files of an image, as `_seams.Held`."""

    def __init__(self, host: FakeHost, name: str):
        self._host, self._name = host, name
        self.is_open = True
        host.held.append(self)

    async def flush(self) -> None:
        assert self.is_open
        if not await self._host.write_out(self._name):
            raise HostSilent(f"the storage of {self._name} does not answer")
        if self._host.unwritable:
            raise WriteBackFailed(f"what was written to {self._name} did not reach the storage")

    def forget(self) -> None:
        self._host.forgotten.append(self._name)

    def close(self) -> None:
        self.is_open = False


def in_vms(path: str) -> str | None:
    """The absolute path of a file for a QEMU whose working directory is `/vms`."""
    return None if ":" in path else posixpath.normpath(posixpath.join("/vms", path))


def inode_of(path: str) -> Inode:
    """A file of its own for each path."""
    return Inode(FileId(1, zlib.crc32(path.encode())), "regular")


def named(name: str) -> Named:
    """What a name means to a QEMU in `/vms`, and to its host."""
    path = in_vms(name)
    if path is None:
        return Named(why="it is reached by a protocol, not as a file")
    return Named(inode_of(path), path, here=path, inode_here=inode_of(path))
