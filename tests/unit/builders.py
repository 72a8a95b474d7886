# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Values for tables of cases: a row names only what it is about."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any, Dict  # noqa: UP035  # Python 3.8

from ansible_collections.virtops.qmp.plugins.module_utils._model._disk import Disk, Image
from ansible_collections.virtops.qmp.plugins.module_utils._model._files import Bound, Named
from ansible_collections.virtops.qmp.plugins.module_utils._model._graph import Graph
from ansible_collections.virtops.qmp.plugins.module_utils._model._job import Job
from ansible_collections.virtops.qmp.plugins.module_utils._model._peer import Peer
from ansible_collections.virtops.qmp.plugins.module_utils._model._request import Request, Waiting
from ansible_collections.virtops.qmp.plugins.module_utils._model._target import Target
from ansible_collections.virtops.qmp.plugins.module_utils._model._vm import (
    Identity,
    Vm,
    is_libvirts,
    read_chardevs,
    read_disks,
    read_jobs,
    read_name,
    read_status,
    read_uuid,
    read_version,
)
from ansible_collections.virtops.qmp.tests.unit.fake_qemu import in_vms, inode_of, named

REPLIES = Path(__file__).parent / "plugins" / "module_utils" / "replies"
NO_GRAPH = Graph({}, {}, {})


def recorded(name: str) -> dict[str, Any]:
    """What a QEMU answered, by command: the recording `NAME.json`."""
    answers: dict[str, Any] = json.loads((REPLIES / f"{name}.json").read_text())
    # None of these QEMUs had any.
    return {"query-iothreads": [], "query-block-exports": [], **answers}


def vm_from(answers: dict[str, Any]) -> Vm:
    """The VM that gave these answers."""
    graph = Graph.from_qmp(answers.get("x-debug-query-block-graph"))
    disks = read_disks(answers.get("query-block"), graph)
    who = Identity(
        "/vms/vm0.qmp",
        read_name(answers.get("query-name")),
        read_uuid(answers.get("query-uuid")),
        read_version(answers.get("query-version")),
        qemu_process(),
        is_libvirts(read_chardevs(answers.get("query-chardev")), disks),
    )
    status, jobs = read_status(answers.get("query-status")), read_jobs(answers.get("query-block-jobs"))
    return Vm(who, status, tuple(_located(disk) for disk in disks), jobs, graph, meanings=Meanings())


class Meanings(Dict[str, Named]):  # noqa: UP006  # Python 3.8
    """What every name means to a QEMU in `/vms`."""

    def get(self, name: str, default: Any = None) -> Any:
        return named(name)


def _located(disk: Disk) -> Disk:
    return disk._replace(chain=tuple(image._replace(bound=bound_to(image.path)) for image in disk.chain))


def bound_to(path: str) -> Bound:
    """The file that a QEMU in `/vms` has open by this name."""
    file = in_vms(path)
    return Bound() if file is None else Bound(inode_of(file), (10,), same_file=True, file=file)


def recorded_vm(name: str) -> Vm:
    """The VM of a recording."""
    return vm_from(recorded(name))


def image(name: str = "top", **members: Any) -> Image:
    """An image whose nodes are `NAME` and `NAME-file`."""
    values: dict[str, Any] = {
        "path": f"/vms/{name}.qcow2",
        "format": "qcow2",
        "virtual_size": 1000,
        "allocated": 100,
        "node_name": name,
        "nodes": (name, f"{name}-file"),
    }
    values = {**values, **members}
    values.setdefault("filename", values["path"])
    # A file is given by its path here, and None where the image is no file of this host.
    file = values.pop("file", values["path"])
    return Image(**{"bound": Bound() if file is None else bound_to(file), **values})


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
    return peer._replace(**members)


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
        "meanings": Meanings(),
    }
    return Vm(**{**values, **members})


def asking(**members: Any) -> Request:
    """What a user asks for, as the options have it: `wait_timeout` and the like belong to the waiting."""
    names = {"wait": "wait", "wait_timeout": "timeout", "on_timeout": "on_timeout", "poll_interval": "poll_interval"}
    names = {**names, "until": "until", "increment": "increment", "cursor": "cursor"}
    waiting = {names[name]: value for name, value in members.items() if name in names}
    return Request(**{name: value for name, value in members.items() if name not in names}, waiting=Waiting(**waiting))


def target(
    subject: Disk | None = None, running: Job | None = None, base_index: int | None = None, **members: Any
) -> Target:
    """A selected disk, with a job where one is given."""
    chosen = disk() if subject is None else subject
    owner = vm(chosen, jobs=() if running is None else (running,), **members)
    return Target(owner, chosen, len(chosen.chain) if base_index is None else base_index)


def extension(kind: int, content: bytes, length: int | None = None) -> bytes:
    given = len(content) if length is None else length
    return struct.pack(">II", kind, given) + content + bytes(-len(content) % 8)


def qcow2(  # noqa: PLR0913  # a field of the header each, with its usual value
    backing: bytes = b"",
    *extensions: bytes,
    magic: bytes = b"QFI\xfb",
    version: int = 3,
    features: int = 0,
    snapshots: int = 0,
    cluster_bits: int = 16,
    header_length: int = 104,
    place: int | None = None,
    length: int | None = None,
) -> bytes:
    """The first bytes of a qcow2 file; ``place`` and ``length`` are what it claims of its backing name."""
    tail = b"".join(extensions) + (extension(0, b"") if extensions else b"")
    start = (104 if version == 3 else 72) + len(tail)
    claimed = (start if backing else 0) if place is None else place
    size = len(backing) if length is None else length
    head = struct.pack(">4sIQIIQ", magic, version, claimed, size, cluster_bits, 1 << 30)
    head += bytes(60 - len(head)) + struct.pack(">IQ", snapshots, 0)
    if version == 3:
        head += struct.pack(">QQQII", features, 0, 0, 4, header_length)
    return head + tail + backing + bytes(512)


def qed(
    backing: bytes = b"",
    *,
    magic: bytes = b"QED\0",
    features: int | None = None,
    cluster_size: int = 65536,
    place: int = 64,
    length: int | None = None,
) -> bytes:
    bits = (1 if backing else 0) if features is None else features
    size = len(backing) if length is None else length
    head = struct.pack("<4sIIIQQQQQII", magic, cluster_size, 4, 1, bits, 0, 0, 65536, 1 << 30, place, size)
    return head + backing
