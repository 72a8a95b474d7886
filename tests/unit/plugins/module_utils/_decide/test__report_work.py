# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.virtops.qmp.plugins.module_utils._decide._felt import Felt
from ansible_collections.virtops.qmp.plugins.module_utils._decide._outcome import Outcome, untouched
from ansible_collections.virtops.qmp.plugins.module_utils._decide._report_work import (
    Populated,
    diff_of,
    has_changed,
    outcome_to_result,
)
from ansible_collections.virtops.qmp.plugins.module_utils._decide._verdict import Verdict
from ansible_collections.virtops.qmp.plugins.module_utils._model._errors import Failure
from ansible_collections.virtops.qmp.plugins.module_utils._model._latency import Paced
from ansible_collections.virtops.qmp.tests.unit.builders import asking, disk, target


def outcome(**members: Any) -> Outcome:
    return untouched(target(), asking())._replace(**members)


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
    assert [each["monitor"] for each in told["vms"]] == ["/vms/vm0.qmp"]


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


def test_what_a_guest_felt() -> None:
    """Latencies are told in milliseconds, and the disk by the name that people use."""
    felt = Felt(5_000_000, 7.04, 4_812_345.0, "/machine/peripheral/vda/virtio-backend", "write")
    felt = felt._replace(paced=Paced(9, None, 1.0, 5.0, 60.0, 60.0, (("/m", "vda", "read", 4),)))
    told = outcome_to_result(untouched(target(), asking())._replace(felt=felt), {}, ())["guest_latency"]
    paced = told.pop("paced")
    assert told == {
        "target": 5.0,
        "now": 4.81,
        "measure": "p95",
        "disk": "vda",
        "kind": "write",
        "by_itself": False,
        "held_back": 7.0,
    }
    assert paced == {
        "limit": 9,
        "knee": None,
        "low_for": 1.0,
        "doubt": 5.0,
        "again_in": 60.0,
        "again_after": 60.0,
        "lifted": [["/m", "vda", "read", 4]],
    }


def test_what_an_idle_guest_felt() -> None:
    """Nothing; and a device that is no disk any more has no other name."""
    outcome = untouched(target(), asking())
    told = outcome_to_result(outcome._replace(felt=Felt(5_000_000, 0.0)), {}, ())["guest_latency"]
    assert (told["now"], told["disk"], told["kind"]) == (None, None, None)
    gone = Felt(5_000_000, 0.0, 1e6, "gone", "read", is_mean=True)
    told = outcome_to_result(outcome._replace(felt=gone), {}, ())["guest_latency"]
    assert (told["disk"], told["measure"]) == ("gone", "mean")
    assert outcome_to_result(outcome, {}, ())["guest_latency"] is None
