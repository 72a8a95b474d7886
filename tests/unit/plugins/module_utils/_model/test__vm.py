# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import re
from typing import Any

import pytest
from ansible_collections.virtops.qmp.plugins.module_utils._model._errors import MonitorUnusable
from ansible_collections.virtops.qmp.plugins.module_utils._model._graph import Graph
from ansible_collections.virtops.qmp.plugins.module_utils._model._peer import Peer
from ansible_collections.virtops.qmp.plugins.module_utils._model._reader import DISKS, EDGES, NODES
from ansible_collections.virtops.qmp.plugins.module_utils._model._vm import (
    Identity,
    Migration,
    read_disks,
    read_fdsets,
    read_migration,
    read_name,
    read_uuid,
)
from ansible_collections.virtops.qmp.tests.unit.builders import (
    NO_GRAPH,
    disk,
    identity,
    job,
    qemu_process,
    recorded,
    recorded_vm,
    vm,
)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        pytest.param("qemu-7.2-drive", identity(), id="name"),
        pytest.param("qemu-7.2-diskless", identity(uuid="5bd0c5a9-6c57-4e4c-8d0f-6f4a3c1f7a11"), id="name and UUID"),
        pytest.param("qemu-7.2-libvirt", identity(is_libvirts=True), id="libvirt's node names"),
        pytest.param("qemu-7.2-charmonitor", identity(is_libvirts=True), id="libvirt's monitor"),
    ],
)
def test_identity(name: str, expected: Identity) -> None:
    """The identity is what QEMU says of itself, and libvirt's VMs are recognized."""
    assert recorded_vm(name).identity == expected


def test_a_vm_without_a_name() -> None:
    """Where QEMU was given no name its monitor stands for it."""
    assert read_name({}) is None
    assert identity(name=None).label == "/vms/vm0.qmp"


@pytest.mark.parametrize(
    ("given", "uuid"),
    [
        pytest.param("00000000-0000-0000-0000-000000000000", None, id="none"),
        pytest.param("5bd0c5a9-6c57-4e4c-8d0f-6f4a3c1f7a11", "5bd0c5a9-6c57-4e4c-8d0f-6f4a3c1f7a11", id="one"),
    ],
)
def test_uuid(given: str, uuid: str | None) -> None:
    """QEMU's word for no UUID is none."""
    assert read_uuid({"UUID": given}) == uuid


def medium(node: str, file: str = "/vms/top.qcow2") -> dict[str, Any]:
    image = {"format": "qcow2", "filename": file, "virtual-size": 1}
    return {"node-name": node, "ro": False, "image": image}


def test_fdsets() -> None:
    """The descriptors of each set are known by its id."""
    sets = [{"fdset-id": 2, "fds": [{"fd": 7, "opaque": "ro"}, {"fd": 8}]}, {"fdset-id": 3, "fds": []}]
    assert read_fdsets(sets) == {2: [7, 8], 3: []}


def test_two_disks_of_one_name_are_none() -> None:
    """A disk is found again by its name, so a VM that gives one to two disks is no QEMU."""
    entry = {"device": "d", "inserted": medium("n")}
    with pytest.raises(MonitorUnusable, match="two disks that are called 'd'"):
        read_disks([entry, entry], NO_GRAPH)


def test_empty_drives_need_no_name_of_their_own() -> None:
    """What has no medium is nothing to be found again."""
    assert len(read_disks([{"device": ""}, {"device": ""}], NO_GRAPH)) == 2


def test_many_disks_on_the_same_nodes_are_refused_before_they_take_memory() -> None:
    """Each disk may stand on all nodes of the graph, but not all disks on all of them."""
    hub = {f"part{number}": f"part{number}" for number in range(NODES)}
    disks = [{"device": f"d{number}", "inserted": medium(f"n{number}")} for number in range(DISKS)]
    graph = Graph({f"n{number}": {"file": "hub"} for number in range(DISKS)}, {}, {})
    graph.below["hub"] = hub  # type: ignore[index]
    with pytest.raises(MonitorUnusable, match=f"more than {EDGES} images and nodes"):
        read_disks(disks, graph)


def test_label() -> None:
    """A VM is called by its name."""
    assert identity(name="web01").label == "web01"


@pytest.mark.parametrize(
    ("peer", "pid"),
    [
        pytest.param(qemu_process(), 100, id="QEMU"),
        pytest.param(qemu_process(serves=None), 100, id="QEMU, and it is not told what it serves"),
        pytest.param(qemu_process(program="socat"), None, id="a proxy"),
        pytest.param(qemu_process(serves=False), None, id="QEMU made the socket for somebody else"),
        pytest.param(qemu_process(program=None), None, id="it must not be seen"),
        pytest.param(None, None, id="TCP"),
    ],
)
def test_the_process_whose_files_are_the_vms(peer: Peer | None, pid: int | None) -> None:
    """Only QEMU's own process tells what QEMU has open and where it resolves names."""
    assert identity(peer=peer).pid == pid


@pytest.mark.parametrize(
    ("later", "words"),
    [
        pytest.param({}, None, id="the same"),
        pytest.param({"peer": qemu_process(uid=0)}, None, id="another user: it dropped its rights"),
        pytest.param({"name": "vm1"}, "another VM, vm1, answers", id="another name"),
        pytest.param({"uuid": "1"}, "another VM, vm0, answers", id="another UUID"),
        pytest.param({"pid": 101}, r"another process, qemu-system-x86_64 \(pid 101\), answers", id="another process"),
        pytest.param({"peer": qemu_process(started=8)}, "another process", id="the same pid, given again"),
        pytest.param({"pid": None}, "another process, None", id="no process"),
    ],
)
def test_successor(later: dict[str, Any], words: str | None) -> None:
    """A VM is still the one that was planned for if name, UUID and process are; all else is said."""
    found = identity().successor(identity(**later))
    assert found is None if words is None else re.match(words, found or "")


def test_over_tcp_the_name_must_do() -> None:
    """Where no process can be seen, name and UUID tell whether the VM is another one."""
    assert identity(pid=None).successor(identity(pid=None)) is None


@pytest.mark.parametrize(
    ("name", "jobs"),
    [
        pytest.param("running", {"vda": "job0"}, id="running"),
        pytest.param("paused", {"vda": "job0"}, id="paused"),
        pytest.param("held", {"vda": "job0"}, id="held"),
        pytest.param("pending", {"vda": "job0"}, id="pending"),
        pytest.param("concluded", {"vda": "job0"}, id="concluded"),
        pytest.param("cancelled", {"vda": "job0"}, id="cancelled"),
        pytest.param("mirror", {"vda": "job0"}, id="of another type"),
        pytest.param("drive", {}, id="none"),
    ],
)
def test_job_on(name: str, jobs: dict[str, str]) -> None:
    """A job is found on its disk by the graph, whoever started it, and on no other disk."""
    seen = recorded_vm(f"qemu-7.2-{name}")
    found = {each.label: seen.job_on(each) for each in seen.disks}
    assert {label: each.id for label, each in found.items() if each} == jobs


@pytest.mark.parametrize(
    ("kind", "nodes", "found"),
    [
        pytest.param("stream", ("other-top", "top"), False, id="a stream that only reads it"),
        pytest.param("stream", ("top", "base"), True, id="a stream that writes to it"),
        pytest.param("backup", ("target", "top"), True, id="another job that uses it"),
        pytest.param("backup", ("target",), False, id="another job that does not"),
        pytest.param("stream", (), False, id="a job that the graph does not show"),
    ],
)
def test_job_on_tells_writing_from_reading(kind: str, nodes: tuple[str, ...], found: bool) -> None:
    """A stream belongs to the disk that it writes to, although it holds images that other disks share."""
    subject = disk()
    owner = vm(subject, jobs=(job(type=kind),))
    owner.graph.jobs["populate-vda"] = nodes  # type: ignore[index]
    assert (owner.job_on(subject) is not None) is found


def test_no_job_is_on_an_empty_drive() -> None:
    """An empty drive has no node that a job could work on."""
    seen = recorded_vm("qemu-7.2-running")
    assert seen.job_on(next(each for each in seen.disks if each.label == "cd0")) is None


def test_status() -> None:
    """The status is QEMU's."""
    assert recorded_vm("qemu-7.2-incoming").status == recorded("qemu-7.2-incoming")["query-status"]["status"]


def test_a_disk_is_found_again_by_its_key() -> None:
    """The key finds a disk, and None is the answer for one that is gone."""
    seen = recorded_vm("qemu-7.2-drive")
    assert [seen.disk(each.key) for each in seen.disks] == list(seen.disks)
    assert seen.disk("nosuch") is None


@pytest.mark.parametrize(
    ("reply", "migration"),
    [
        pytest.param({}, Migration("", False), id="never"),
        pytest.param({"status": "none"}, Migration("", False), id="none"),
        pytest.param({"status": "completed", "total-time": 7}, Migration("completed-7", False), id="completed"),
        pytest.param({"status": "failed"}, Migration("failed-0", False), id="failed"),
        pytest.param({"status": "cancelled"}, Migration("cancelled-0", False), id="cancelled"),
        pytest.param({"status": "cancelling"}, Migration("cancelling-0", True), id="not yet cancelled"),
        pytest.param({"status": "active", "total-time": 1}, Migration("active-1", True), id="under way"),
        pytest.param({"status": "pre-switchover"}, Migration("pre-switchover-0", True), id="it halts half-way"),
        pytest.param({"status": "teleporting"}, Migration("teleporting-0", True), id="what nobody knows yet"),
    ],
)
def test_read_migration(reply: dict[str, Any], migration: Migration) -> None:
    """Only what is known to be over is over."""
    assert read_migration(reply) == migration
