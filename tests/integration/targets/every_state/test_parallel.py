# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Never more streams than asked, never two that share a node, and monitors that are free while their VM waits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from lab import Monitor, Vm, disks, images, product, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    Boot = Callable[..., Vm]


def two_disks(boot: Boot, folder: Path, name: str) -> Vm:
    chains = [images.chain(folder, prefix=f"{name}-{letter}-") for letter in "ab"]
    words = [
        word
        for letter, chain in zip("ab", chains, strict=True)
        for word in disks.drive(chain.top, id=f"drive-{letter}", qdev=f"vd{letter}")
    ]
    return boot(*words, name=name)


def most_at_once(vms: Sequence[Vm]) -> int:
    """How many jobs there were at the same time at most, by the times that QEMU gives to its events."""
    changes = []
    for vm in vms:
        vm.command("query-status")  # all events that there are come before its answer
        for event in vm.judge.events:
            if event["event"] == "JOB_STATUS_CHANGE" and event["data"]["status"] in ("created", "null"):
                when = event["timestamp"]["seconds"] * 1_000_000 + event["timestamp"]["microseconds"]
                changes.append((when, 1 if event["data"]["status"] == "created" else -1))
    alive = most = 0
    for _when, change in sorted(changes):
        alive += change
        most = max(most, alive)
    assert alive == len([job for vm in vms for job in vm.jobs()])
    return most


@pytest.mark.parametrize("parallel", [1, 2, 3])
def test_never_more_than_asked(boot: Boot, folder: Path, parallel: int) -> None:
    """Four disks of two VMs, slow enough to overlap: exactly so many jobs at once as were asked for, and all done."""
    vms = [two_disks(boot, folder, name) for name in ("web1", "web2")]
    result = product.module(
        "block_stream", monitors=[vm.monitor for vm in vms], disks=["*"], parallel=parallel, speed="16M"
    )
    assert (result.failed, result["finished"], len(result["disks"])) == (False, True, 4), result
    assert most_at_once(vms) == parallel


def test_disks_in_parallel(folder: Path, boot: Boot) -> None:
    """Four disks over one base *file*, all at once: each has its own nodes, and each ends whole."""
    base = images.chain(folder, layers=0)
    tops = [images.create(folder / f"{number}.qcow2", backing=base.base) for number in range(4)]
    words = [word for n, top in enumerate(tops) for word in disks.drive(top, id=f"drive{n}", qdev=f"vd{n}")]
    vm = boot(*words)
    result = product.module("block_stream", monitors=[vm.monitor], disks=["*"], parallel=4, speed="16M")
    assert (result.failed, result["finished"]) == (False, True), result
    vm.kill()
    base.base.unlink()
    for top in tops:
        assert images.differences(base.expected, images.content(top)) == []


def test_reruns_side_by_side(boot: Boot, folder: Path) -> None:
    """Runs that meet at the same VMs, each in another order, wait for each other a moment, and none of them fails."""
    vms = [two_disks(boot, folder, f"web{number}") for number in range(6)]
    monitors = [vm.monitor for vm in vms]
    done = product.module("block_stream", monitors=monitors, disks=["*"], parallel=4)
    assert (done.failed, done["finished"]) == (False, True), done
    orders = [monitors, monitors[::-1], monitors[3:] + monitors[:3]]
    runs = [product.Running("block_stream", {"monitors": order, "disks": ["*"]}) for order in orders]
    for run in runs:
        again = run.result()
        assert (again.failed, again["changed"], again["finished"], len(again["disks"])) == (False, False, True, 12), (
            again
        )
    assert [vm.inserted(disk)["backing_file_depth"] for vm in vms for disk in ("vda", "vdb")] == [0] * 12


def test_streams_that_run_already_count(boot: Boot, folder: Path) -> None:
    """With one place, taken by a stream that runs, no other is started, however long the task waits."""
    vms = [two_disks(boot, folder, name) for name in ("web1", "web2")]
    options: dict[str, Any] = {"monitors": [vm.monitor for vm in vms], "speed": "1"}
    product.module("block_stream", **{**options, "monitors": [vms[1].monitor]}, disks=["vdb"], wait=False)
    result = product.module("block_stream", **options, disks=["*"], wait_timeout=1, on_timeout="leave")
    assert (result.failed, result["changed"], result["finished"]) == (False, False, False), result
    assert [disk["action"] for disk in result["disks"]] == ["none", "none", "none", "joined"]
    assert (most_at_once(vms), vms[0].jobs()) == (1, {})


def test_disks_over_one_node_take_turns(boot: Boot, folder: Path) -> None:
    """Two disks over one named base node are both done by one call, one after the other, whatever `parallel` says."""
    base = images.chain(folder, layers=0)
    tops = [images.create(folder / f"{letter}.qcow2", backing=base.base) for letter in "ab"]
    words = disks.named_nodes([base.base], names=["golden"], device=None)
    for letter, top in zip("ab", tops, strict=True):
        inner = {"driver": "file", "filename": str(top)}
        words += disks.blockdev("qcow2", f"top-{letter}", file=inner, backing="golden")
        words += disks.frontend("virtio-blk-pci", f"vd{letter}", drive=f"top-{letter}")
    vm = boot(*words)
    result = product.module("block_stream", monitors=[vm.monitor], disks=["*"], parallel=4, speed="16M")
    assert (result.failed, result["finished"]) == (False, True), result
    assert most_at_once([vm]) == 1
    assert not any(base.base in {path} for path in vm.open_files())
    vm.kill()
    base.base.unlink()
    for top in tops:
        assert images.differences(base.expected, images.content(top)) == []


def test_a_monitor_is_free_while_its_vm_waits_and_when_it_is_done(boot: Boot, folder: Path) -> None:
    """With one place for two VMs each monitor is held only while its VM's disk is worked on."""
    first, second = (two_disks(boot, folder, name) for name in ("web1", "web2"))
    arguments = {"monitors": [first.monitor, second.monitor], "disks": ["vda"], "speed": "1"}
    waiter = product.Running("block_stream", arguments)
    assert is_greeted(second, while_job_of=first)
    assert second.jobs() == {}

    (job,) = first.jobs()
    first.command("block-job-set-speed", device=job, speed=0)
    assert is_greeted(first, while_job_of=second)
    (job,) = second.jobs()
    second.command("block-job-set-speed", device=job, speed=0)
    assert waiter.result()["finished"] is True


def is_greeted(vm: Vm, *, while_job_of: Vm) -> bool:
    """Whether the product's monitor of a VM has time for us while a job of another VM runs."""
    wait_until(lambda: any(job["status"] == "running" for job in while_job_of.jobs().values()), "a job runs")
    visitor = Monitor(vm.folder / f"{vm.name}.qmp", timeout=5)
    visitor.close()
    return [job["status"] for job in while_job_of.jobs().values()] == ["running"]


@pytest.fixture
def three(boot: Boot, folder: Path) -> tuple[Vm, list[images.Chain]]:
    chains = [images.chain(folder, prefix=f"{letter}-", seed=ord(letter)) for letter in "abc"]
    words = [
        word
        for letter, chain in zip("abc", chains, strict=True)
        for word in disks.drive(chain.top, id=f"drive-{letter}", qdev=f"vd{letter}")
    ]
    return boot(*words), chains


def stream(vm: Vm, **options: Any) -> product.Result:
    result = product.module("block_stream", monitors=[vm.monitor], disks=["*"], **options)
    assert not result.failed, result
    return result


def test_without_wait_so_many_are_started(three: tuple[Vm, list[images.Chain]]) -> None:
    """`wait: false` starts `parallel` disks; runs while they run start no other and change nothing."""
    vm, _chains = three
    first = stream(vm, wait=False, parallel=2, speed="1")
    assert [disk["action"] for disk in first["disks"]] == ["started", "started", "none"]
    before = list(vm.jobs())
    again = stream(vm, wait=False, parallel=2, speed="1")
    assert (again["changed"], [disk["action"] for disk in again["disks"]]) == (False, ["joined", "joined", "none"])
    assert (list(vm.jobs()), most_at_once([vm])) == (before, 2)
    assert [disk["action"] for disk in stream(vm, wait=False, parallel=3, speed="1")["disks"]][2] == "started"


def test_without_wait_each_run_goes_on(three: tuple[Vm, list[images.Chain]]) -> None:
    """Runs with `wait: false`, each when QEMU has copied all that was started, populate all disks one by one."""
    vm, chains = three
    done = []
    for _visit in range(12):
        result = stream(vm, wait=False)
        done.append([disk["populated"] for disk in result["disks"]].count(True))
        if result["finished"]:
            break
        wait_until(lambda: all(job["status"] == "pending" for job in vm.jobs().values()), "all is copied")
    assert result["finished"] is True
    assert done == sorted(done)
    assert most_at_once([vm]) == 1
    assert stream(vm, wait=False)["changed"] is False
    vm.kill()
    for chain in chains:
        chain.take_away()
        assert images.differences(chain.expected, images.content(chain.top)) == []


@pytest.mark.parametrize("round_", range(4))
def test_two_tasks_at_the_same_moment_are_one_stream(boot: Boot, folder: Path, round_: int) -> None:
    """Two tasks on two monitors of one VM: QEMU refuses the second stream, its task joins the first, both succeed."""
    chain = images.chain(folder, prefix=f"{round_}-")
    other = str(folder / "other.qmp")
    vm = boot(
        *disks.drive(chain.top, id="drive0", qdev="vda"), *("-qmp", f"unix:{other},server=on,wait=off"), name="vm0"
    )
    tasks = [product.Running("block_stream", {"monitors": [path], "disks": ["vda"]}) for path in (vm.monitor, other)]
    results = [task.result() for task in tasks]
    assert [(result.failed, result["finished"]) for result in results] == [(False, True)] * 2, results
    assert vm.jobs() == {}
    vm.kill()
    chain.take_away()
    assert images.backing(chain.top) is None
    assert images.differences(chain.expected, images.content(chain.top)) == []
