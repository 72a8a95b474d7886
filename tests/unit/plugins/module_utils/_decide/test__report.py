# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.virtops.qmp.plugins.module_utils._decide._outcome import Outcome, untouched
from ansible_collections.virtops.qmp.plugins.module_utils._decide._report import (
    Populated,
    address_to_result,
    diff_of,
    disk_to_result,
    failure_to_result,
    has_changed,
    in_one_message,
    outcome_to_result,
    vm_to_result,
)
from ansible_collections.virtops.qmp.plugins.module_utils._decide._verdict import Verdict
from ansible_collections.virtops.qmp.plugins.module_utils._model._address import DomainName
from ansible_collections.virtops.qmp.plugins.module_utils._model._errors import Failure
from ansible_collections.virtops.qmp.plugins.module_utils._model._files import Bound, FreeSpace
from ansible_collections.virtops.qmp.tests.unit.builders import (
    EMPTY,
    HELD,
    asking,
    bound_to,
    disk,
    identity,
    image,
    job,
    recorded_vm,
    target,
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
        pytest.param(replace(bound_to("/x"), file=None), "top.qcow2", False, id="no name on this host"),
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


def outcome(**members: Any) -> Outcome:
    return replace(untouched(target(), asking()), **members)


def test_an_outcome() -> None:
    """What was done is told beside the disk as it is now."""
    verdicts = [
        Verdict("/vms/base.qcow2", True, None, pids=(), device=1, inode=2),
        Verdict("/vms/mid.qcow2", False, "it is still open in x (pid 7)", pids=(7, 8), device=1, inode=3),
        Verdict("nbd://host/x", None, "only its server can know"),
    ]
    found = outcome_to_result(outcome(action="started", cursor=5, error=Failure("StreamFailed", "why")), {}, verdicts)
    assert {key: found[key] for key in ("action", "finished", "cursor", "error", "error_kind", "vm")} == {
        "action": "started",
        "finished": False,
        "cursor": 5,
        "error": "why",
        "error_kind": "StreamFailed",
        "vm": "vm0",
    }
    assert found["released"] == [
        {"path": "/vms/base.qcow2", "free": True, "reason": None, "pids": [], "device": 1, "inode": 2},
        {
            "path": "/vms/mid.qcow2",
            "free": False,
            "reason": "it is still open in x (pid 7)",
            "pids": [7, 8],
            "device": 1,
            "inode": 3,
        },
        {
            "path": "nbd://host/x",
            "free": None,
            "reason": "only its server can know",
            "pids": None,
            "device": None,
            "inode": None,
        },
    ]


def test_an_error_tells_what_it_is_about() -> None:
    """Nobody has to read the message to know the VM and the disk; what an error is not about is null."""
    failed = outcome(error=Failure("StreamFailed", "why", "/vms/vm0.qmp"))
    silent = Failure("MonitorSilent", "no greeting", "/vms/vm1.qmp")
    told = Populated((failed.vm,), (failed,), ((),), (), (silent,), {}).to_result()
    nothing = {"vm": None, "disk": None, "key": None}
    assert told["errors"] == [
        {"kind": "MonitorSilent", "msg": "no greeting", "monitor": "/vms/vm1.qmp", "domain": None, **nothing},
        {
            "kind": "StreamFailed",
            "msg": "why",
            "vm": "vm0",
            "disk": "vda",
            "monitor": "/vms/vm0.qmp",
            "domain": None,
            "key": "/machine/peripheral/vda/virtio-backend",
        },
    ]
    assert failure_to_result(Failure("X", "y")) == {"kind": "X", "msg": "y", "monitor": None, "domain": None, **nothing}
    assert [each["monitor"] for each in told["vms"]] == ["/vms/vm0.qmp"]


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        pytest.param(["why"], "why", id="one is told as it is"),
        pytest.param(["why", "how"], "2 failures:\n- why\n- how", id="several are counted, each in a line"),
    ],
)
def test_failures_in_one_message(messages: list[str], message: str) -> None:
    """All failures are in the message of the task."""
    assert in_one_message(messages) == message


@pytest.mark.parametrize(
    ("members", "after"),
    [
        pytest.param({}, ["/vms/top.qcow2", "/vms/base.qcow2"], id="nothing changed"),
        pytest.param({"disk": disk("top")}, ["/vms/top.qcow2"], id="populated"),
        pytest.param({"forecast": ("/vms/top.qcow2",)}, ["/vms/top.qcow2"], id="check mode"),
    ],
)
def test_diff(members: dict[str, Any], after: list[str]) -> None:
    """The chains before and after, by VM and disk."""
    assert diff_of([outcome(**members)]) == {
        "before": {"vm0 vda": ["/vms/top.qcow2", "/vms/base.qcow2"]},
        "after": {"vm0 vda": after},
    }


@pytest.mark.parametrize(
    ("members", "changed"),
    [
        pytest.param({}, False, id="nothing"),
        pytest.param({"action": "joined"}, False, id="joined, and it still runs"),
        pytest.param({"action": "joined", "disk": disk("top")}, True, id="joined, and the chain is another"),
        pytest.param({"action": "started"}, True, id="started"),
        pytest.param({"action": "paused"}, True, id="paused"),
        pytest.param({"released_nodes": ("base",)}, True, id="nodes were deleted"),
        pytest.param({"forecast": ("/vms/top.qcow2",)}, True, id="check mode: it would change"),
        pytest.param({"forecast": ("/vms/top.qcow2", "/vms/base.qcow2")}, False, id="check mode: it would not"),
    ],
)
def test_has_changed(members: dict[str, Any], changed: bool) -> None:
    """A disk has changed if something was done to it, or its chain is another."""
    assert has_changed(outcome(**members)) is changed


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


@pytest.mark.parametrize(
    ("address", "monitor", "domain"),
    [
        pytest.param("/vms/vm0.qmp", "/vms/vm0.qmp", None, id="a monitor"),
        pytest.param(DomainName("web01"), None, "web01", id="a domain"),
        pytest.param(None, None, None, id="none"),
    ],
)
def test_an_address(address: str | None, monitor: str | None, domain: str | None) -> None:
    """A VM was reached by its monitor or as a domain, never by both."""
    assert address_to_result(address) == {"monitor": monitor, "domain": domain}
    assert type(address_to_result(address)["domain"]) in (str, type(None))
