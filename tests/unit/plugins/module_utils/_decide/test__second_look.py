# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.virtops.qmp.plugins.module_utils._decide._outcome import Outcome, untouched
from ansible_collections.virtops.qmp.plugins.module_utils._decide._second_look import confirm, is_claim
from ansible_collections.virtops.qmp.plugins.module_utils._model._disk import Disk
from ansible_collections.virtops.qmp.plugins.module_utils._model._errors import Failure
from ansible_collections.virtops.qmp.plugins.module_utils._model._target import Target
from ansible_collections.virtops.qmp.plugins.module_utils._model._vm import Vm
from ansible_collections.virtops.qmp.tests.unit.builders import asking, disk, identity, image, qemu_process, target, vm

THROUGH = disk("top")
SILENT = Failure("MonitorSilent", "/vms/vm0.qmp: no greeting", "/vms/vm0.qmp")


def claim(base: str | None = None) -> Outcome:
    """The outcome of a disk that is said to be populated."""
    before = target(disk("top", "mid", "base"))
    end = disk("top", "base") if base else THROUGH
    return untouched(before, asking()).seen(vm(end), end, 1)


@pytest.mark.parametrize(
    ("before", "after", "error", "expected"),
    [
        pytest.param(target(), THROUGH, None, True, id="populated by this task"),
        pytest.param(target(), disk(), None, False, id="not finished"),
        pytest.param(target(), THROUGH, Failure("X", "why"), False, id="failed"),
        pytest.param(target(THROUGH), THROUGH, None, False, id="populated when the task looked first"),
        pytest.param(target(base_index=1), disk(), None, False, id="on its base when the task looked first"),
    ],
)
def test_what_is_asked_again(before: Target, after: Disk, error: Failure | None, expected: bool) -> None:
    """Only what is said to be otherwise than the first look saw it needs a second one."""
    outcome = untouched(before, asking(), error).seen(
        vm(after), after, 1 if before.base_index == 1 else len(after.chain)
    )
    assert is_claim(before, outcome) is expected


def asked_again(subject: Outcome, *vms: Vm, base: str | None = None, **more: Any) -> Outcome:
    return confirm(subject, vms, (SILENT,), base)


def test_what_the_second_look_shows_stands() -> None:
    """An outcome that is shown to be so stays as it is."""
    subject = claim()
    assert asked_again(subject, vm(THROUGH)) is subject


@pytest.mark.parametrize("base", ["base", "/vms/base.qcow2", "base.qcow2"])
def test_a_disk_on_its_base_is_confirmed(base: str) -> None:
    """Down to a base, by whatever name, the disk is done."""
    subject = claim(base)
    assert asked_again(subject, vm(disk("top", "base")), base=base) is subject
    assert asked_again(subject, vm(disk("top", "mid", "base")), base=base).error is not None


@pytest.mark.parametrize(
    "now",
    [
        pytest.param(vm(disk("top", "mid", "base")), id="the chain is as it was"),
        pytest.param(vm(disk(image("new"), "top")), id="somebody made a snapshot"),
        pytest.param(vm(disk("top", stale_header="/vms/base.qcow2")), id="the header still names the base"),
        pytest.param(vm(disk("top", hidden_backing="below")), id="a chain is hidden"),
        pytest.param(vm(), id="the disk is gone"),
        pytest.param(vm(disk("top", chain=())), id="the medium is gone"),
    ],
)
def test_what_the_second_look_does_not_show_is_a_failure(now: Vm) -> None:
    """What was said is not believed, and the disk is told as it is now."""
    found = asked_again(claim(), now)
    assert found.error == Failure(
        "StreamFailed",
        "vm0: disk vda: said to be populated, but QEMU, asked again, does not show it",
        "/vms/vm0.qmp",
    )
    assert (found.is_finished, found.is_unknown, found.vm) == (False, False, now)


@pytest.mark.parametrize(
    ("now", "kind", "words"),
    [
        pytest.param((), "MonitorSilent", "/vms/vm0.qmp: no greeting", id="no answer"),
        pytest.param(
            (vm(THROUGH, identity=identity(pid=101)),),
            "MonitorUnusable",
            "another process, qemu-system-x86_64 (pid 101),",
            id="another process",
        ),
        pytest.param(
            (vm(THROUGH, identity=identity(peer=qemu_process(started=8))),),
            "MonitorUnusable",
            "another process, qemu-system-x86_64 (pid 100),",
            id="the pid was given again",
        ),
        pytest.param(
            (vm(THROUGH, identity=identity(name="vm7")),), "MonitorUnusable", "another VM, vm7,", id="another name"
        ),
        pytest.param((vm(THROUGH, identity=identity(uuid="u")),), "MonitorUnusable", "another VM", id="another UUID"),
        pytest.param(
            (vm(THROUGH, identity=identity(monitor="/vms/vm1.qmp")),), "MonitorSilent", "no greeting", id="only another"
        ),
    ],
)
def test_a_vm_that_does_not_answer_any_more(now: tuple[Vm, ...], kind: str, words: str) -> None:
    """Nobody knows whether its disks are populated, and that is a failure, too."""
    found = asked_again(claim(), *now)
    assert found.error is not None
    assert found.error.kind == kind
    assert found.error.message.startswith(
        "vm0: disk vda: said to be populated, but QEMU, asked again, does not answer: "
    )
    assert words in found.error.message
    assert (found.is_finished, found.is_unknown) == (False, True)
