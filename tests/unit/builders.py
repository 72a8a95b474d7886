# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Values for tables of cases: a row names only what it is about."""

from __future__ import annotations

import json
import posixpath
from dataclasses import replace
from pathlib import Path
from typing import Any

from ansible_collections.virtops.qmp.plugins.module_utils._model._disk import Disk, Image
from ansible_collections.virtops.qmp.plugins.module_utils._model._graph import Graph
from ansible_collections.virtops.qmp.plugins.module_utils._model._job import Job
from ansible_collections.virtops.qmp.plugins.module_utils._model._peer import Peer
from ansible_collections.virtops.qmp.plugins.module_utils._model._request import Request, Waiting
from ansible_collections.virtops.qmp.plugins.module_utils._model._target import Target
from ansible_collections.virtops.qmp.plugins.module_utils._model._vm import Identity, Sight, Vm, read_identity

REPLIES = Path(__file__).parent / "plugins" / "module_utils" / "replies"
NO_GRAPH = Graph({}, {}, {})


def recorded(name: str) -> dict[str, Any]:
    """What a QEMU answered, by command: the recording `NAME.json`."""
    answers: dict[str, Any] = json.loads((REPLIES / f"{name}.json").read_text())
    return answers


def in_vms(path: str) -> str | None:
    """The absolute path of a file for a QEMU whose working directory is `/vms`."""
    return None if ":" in path else posixpath.normpath(posixpath.join("/vms", path))


def vm_from(answers: dict[str, Any]) -> Vm:
    """The VM that gave these answers."""
    who = [answers[command] for command in ("query-name", "query-uuid", "query-version", "query-chardev")]
    identity = read_identity("/vms/vm0.qmp", qemu_process(), *who, blocks=answers["query-block"])
    state = ("query-status", "query-block-jobs", "x-debug-query-block-graph", "query-block")
    sight = Sight.from_qmp(*(answers[command] for command in state))
    disks = tuple(disk.located(in_vms) for disk in sight.disks)
    return Vm(identity, sight.status, disks, sight.jobs, sight.graph)


def recorded_vm(name: str) -> Vm:
    """The VM of a recording."""
    return vm_from(recorded(name))


def image(name: str = "top", **members: Any) -> Image:
    """An image whose nodes are `NAME` and `NAME-file`."""
    values: dict[str, Any] = {
        "path": f"/vms/{name}.qcow2",
        "file": f"/vms/{name}.qcow2",
        "format": "qcow2",
        "virtual_size": 1000,
        "allocated": 100,
        "node_name": name,
        "nodes": (name, f"{name}-file"),
    }
    return Image(**{**values, **members})


def disk(*images: Image | str, **members: Any) -> Disk:
    """A writable disk `vda` with this chain; without images one over a base."""
    chain = tuple(image(each) if isinstance(each, str) else each for each in images or ("top", "base"))
    values: dict[str, Any] = {
        "device": "",
        "qdev": "/machine/peripheral/vda/virtio-backend",
        "node_name": chain[0].node_name,
        "read_only": False,
        "chain": chain,
    }
    return Disk(**{**values, **members})


EMPTY = Disk(device="", qdev="cd0", node_name=None, read_only=False, chain=())


def job(status: str = "running", **members: Any) -> Job:
    """A stream of ours at 40 of 100 bytes."""
    values: dict[str, Any] = {
        "id": "populate-vda",
        "type": "stream",
        "status": status,
        "offset": 40,
        "len": 100,
        "speed": 0,
        "paused": status == "paused",
        "io_status": "ok",
        "auto_finalize": False,
        "error": None,
    }
    return Job(**{**values, **members})


HELD = job("paused", io_status="failed")


def qemu_process(pid: int | None = 100, **members: Any) -> Peer | None:
    """The QEMU that serves a monitor; None for a pid that is None, as over TCP."""
    if pid is None:
        return None
    peer = Peer(pid=pid, uid=64055, gid=64055, started=7, program="qemu-system-x86_64", maker_uid=64055, serves=True)
    return replace(peer, **members)


def identity(**members: Any) -> Identity:
    """The VM `vm0`."""
    values: dict[str, Any] = {
        "monitor": "/vms/vm0.qmp",
        "name": "vm0",
        "uuid": None,
        "qemu_version": "7.2.22",
        "peer": qemu_process(members.pop("pid", 100)),  # a row may say `pid`, and mean all of it
        "is_libvirts": False,
    }
    return Identity(**{**values, **members})


def vm(*disks: Disk, jobs: tuple[Job, ...] = (), **members: Any) -> Vm:
    """A VM with these disks; each job works on the top of the disk at its place."""
    works_on = {each.id: (owner.chain[0].nodes[0],) for each, owner in zip(jobs, disks)}  # noqa: B905  # Python 3.8
    values: dict[str, Any] = {
        "identity": identity(),
        "status": "running",
        "disks": disks,
        "jobs": jobs,
        "graph": Graph({}, {}, works_on),
    }
    return Vm(**{**values, **members})


def asking(**members: Any) -> Request:
    """What a user asks for, as the options have it: `wait_timeout` and the like belong to the waiting."""
    names = {"wait": "wait", "wait_timeout": "timeout", "on_timeout": "on_timeout", "poll_interval": "poll_interval"}
    names = {**names, "increment": "increment", "cursor": "cursor"}
    waiting = {names[name]: value for name, value in members.items() if name in names}
    return Request(**{name: value for name, value in members.items() if name not in names}, waiting=Waiting(**waiting))


def target(
    subject: Disk | None = None, running: Job | None = None, base_index: int | None = None, **members: Any
) -> Target:
    """A selected disk, with a job where one is given."""
    chosen = disk() if subject is None else subject
    owner = vm(chosen, jobs=() if running is None else (running,), **members)
    return Target(owner, chosen, len(chosen.chain) if base_index is None else base_index)
