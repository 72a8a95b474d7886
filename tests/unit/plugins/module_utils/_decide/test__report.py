# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.virtops.qmp.plugins.module_utils._decide._report import (
    disk_to_result,
    vm_to_result,
)
from ansible_collections.virtops.qmp.plugins.module_utils._model._files import Bound, FreeSpace
from ansible_collections.virtops.qmp.tests.unit.builders import (
    EMPTY,
    HELD,
    bound_to,
    disk,
    identity,
    image,
    job,
    recorded_vm,
    vm,
)


def test_a_vm() -> None:
    """A VM is told with who it is and how it is."""
    assert vm_to_result(vm(disk(), status="paused")) == {
        "monitor": "/vms/vm0.qmp",
        "domain": None,
        "name": "vm0",
        "uuid": None,
        "status": "paused",
        "qemu_version": "7.2.22",
        "pid": 100,
        "started": 7,
        "uid": 64055,
    }


def test_a_vm_over_tcp() -> None:
    """Who runs a VM that is reached over TCP is not known."""
    told = vm_to_result(vm(identity=identity(pid=None)))
    assert (told["pid"], told["started"], told["uid"]) == (None, None, None)


def test_a_disk() -> None:
    """A disk is told with its chain, its space and its job."""
    subject = disk(image(nodes=("top",), path="top.qcow2"), "base", device="drive0")
    running = vm(subject, jobs=(job(offset=1, len=3, speed=9),))
    assert disk_to_result(running, subject, {("/vms/vm0.qmp", subject.key): FreeSpace(1, 77)}) == {
        "label": "vda",
        "key": "/machine/peripheral/vda/virtio-backend",
        "vm": "vm0",
        "monitor": "/vms/vm0.qmp",
        "domain": None,
        "names": list(subject.names),
        "device": "drive0",
        "qdev": "/machine/peripheral/vda/virtio-backend",
        "node_name": "top",
        "path": "/vms/top.qcow2",
        "filename": "top.qcow2",
        "format": "qcow2",
        "virtual_size": 1000,
        "read_only": False,
        "populated": False,
        "reason": "it still needs /vms/base.qcow2",
        "snapshots": 0,
        "same_file": True,
        "stale_header": None,
        "chain": [
            {
                "node_name": "top",
                "path": "/vms/top.qcow2",
                "filename": "top.qcow2",
                "format": "qcow2",
                "allocated": 100,
            },
            {
                "node_name": "base",
                "path": "/vms/base.qcow2",
                "filename": "/vms/base.qcow2",
                "format": "qcow2",
                "allocated": 100,
            },
        ],
        "space": {"needed": 100, "free": 77},
        "job": {
            "id": "populate-vda",
            "type": "stream",
            "status": "running",
            "cur": 1,
            "end": 3,
            "percent": 33.3,
            "speed": 9,
            "paused": False,
            "io_status": "ok",
            "error": None,
        },
    }


@pytest.mark.parametrize(
    ("bound", "path", "same_file"),
    [
        pytest.param(bound_to("/vms/new.qcow2"), "/vms/new.qcow2", True, id="renamed"),
        pytest.param(bound_to("/x")._replace(file=None), "top.qcow2", False, id="no name on this host"),
        pytest.param(Bound(same_file=False), "top.qcow2", False, id="not what QEMU has open"),
        pytest.param(Bound(file="/vms/top.qcow2"), "/vms/top.qcow2", None, id="unknown"),
    ],
)
def test_the_path_of_a_disk(bound: Bound, path: str, same_file: bool | None) -> None:
    """The path is that of the file on this host, beside QEMU's own name; whether it is the very file is told."""
    subject = disk(image(path="top.qcow2", bound=bound))
    found = disk_to_result(vm(subject), subject, {})
    assert (found["path"], found["filename"], found["same_file"]) == (path, "top.qcow2", same_file)
    assert (found["chain"][0]["path"], found["chain"][0]["filename"]) == (path, "top.qcow2")


def test_why_a_disk_cannot_be_populated() -> None:
    """Where a stream would be refused, that is part of the reason."""
    subject = disk(image(format="vmdk"), "base")
    reason = disk_to_result(vm(subject), subject, {})["reason"]
    assert reason.startswith("it still needs /vms/base.qcow2. It cannot be populated: its active image is vmdk")


def test_an_empty_drive() -> None:
    """A drive without a medium has no path, no chain and no job."""
    found = disk_to_result(vm(EMPTY), EMPTY, {})
    assert (found["path"], found["filename"], found["format"]) == (None, None, None)
    assert (found["chain"], found["job"]) == ([], None)
    assert (found["virtual_size"], found["populated"], found["space"]) == (0, False, {"needed": 0, "free": None})


@pytest.mark.parametrize(
    ("top", "free_spaces"),
    [
        pytest.param(image(file=None), {}, id="no local file"),
        pytest.param(image(), {}, id="not looked at"),
        pytest.param(image(), {"/vms/top.qcow2": None}, id="a device"),
    ],
)
def test_free_space_that_cannot_be_told(top: Any, free_spaces: Any) -> None:
    """Where the free space is unknown it is null, not 0."""
    subject = disk(top, "base")
    assert disk_to_result(vm(subject), subject, free_spaces)["space"] == {"needed": 100, "free": None}


def test_a_held_job_tells_why() -> None:
    """A job that an error holds differs from a pause in its io_status."""
    subject = disk()
    found = disk_to_result(vm(subject, jobs=(HELD,)), subject, {})
    assert (found["job"]["paused"], found["job"]["io_status"]) == (True, "failed")


def test_every_disk_of_every_recording_can_be_told() -> None:
    """Whatever a real QEMU shows becomes a result without an error."""
    for name in (
        "drive",
        "blockdev",
        "filters",
        "json-names",
        "nbd",
        "raw-over-chain",
        "held",
        "concluded",
        "incoming",
    ):
        seen = recorded_vm(f"qemu-7.2-{name}")
        assert all(disk_to_result(seen, each, {})["vm"] == "vm0" for each in seen.disks)
