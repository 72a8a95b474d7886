# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whoever waits is killed, at many moments: the job goes on or waits in QEMU, and the next run finishes it."""

from __future__ import annotations

import os
import random
import signal
from typing import TYPE_CHECKING

import pytest
from lab import Task, Vm, images, product, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable


def kill_in_the_middle(task: Task, vm: Vm, victim: str, cursor: int) -> None:
    """Kill once the stream has come so far; it goes no further, so that it still runs however long the kill takes."""
    (job,) = wait_until(vm.jobs, "stream")
    wait_until(lambda: vm.jobs()[job]["offset"] >= cursor, f"cursor at {cursor}")
    vm.command("block-job-set-speed", device=job, speed=1)
    if victim == "module":
        task.kill_module()
    else:
        task.kill_controller()


def kill_at_pending(task: Task, vm: Vm, victim: str) -> None:
    """Hold the module, let QEMU copy everything, and kill while the job waits to be finalized."""
    vm.wait_event("JOB_STATUS_CHANGE", status="running")
    module = wait_until(task.module, "module")
    os.kill(module, signal.SIGSTOP)
    vm.command("block-job-set-speed", device=next(iter(vm.jobs())), speed=0)
    vm.wait_event("BLOCK_JOB_PENDING")
    if victim == "controller":
        task.kill_controller()
    os.kill(module, signal.SIGKILL)


@pytest.mark.parametrize("stage", ["running", "pending"])
@pytest.mark.parametrize("victim", ["controller", "module"])
@pytest.mark.parametrize("seed", range(3))
def test_a_killed_waiter_loses_nothing(
    watch: Callable[..., Task], vm: Vm, chain: images.Chain, victim: str, stage: str, seed: int
) -> None:
    """The job is there after the kill, block_stream_info shows it as it is, a rerun ends it, and every byte is kept."""
    cursor = random.Random(f"{victim}{seed}").randrange(512 * images.KiB, 4 * images.MiB)
    task = watch(vm, speed="512K")
    if stage == "pending":
        kill_at_pending(task, vm, victim)
    else:
        kill_in_the_middle(task, vm, victim, cursor)
    assert [job["status"] for job in vm.jobs().values()] == [stage]
    found = product.module("block_stream_info", monitors=[vm.monitor])
    assert [disk["job"]["status"] for disk in found["disks"]] == [stage], found
    created = len([event for event in vm.judge.events if event.get("data", {}).get("status") == "created"])
    again = product.adhoc("block_stream", monitors=[vm.monitor], disks=["vda"], speed="0")
    assert "CHANGED" in again.stdout, again.stdout + again.stderr
    assert (vm.jobs(), vm.inserted("vda")["backing_file_depth"], created) == ({}, 0, 1)
    starts = [event for event in vm.judge.events if event.get("data", {}).get("status") == "created"]
    assert len(starts) == 1, "the job was not joined, but started anew"
    vm.kill()
    chain.take_away()
    assert images.differences(chain.expected, images.content(chain.top)) == []


def test_a_module_that_nobody_reads_leaves_the_monitor_and_the_job(vm: Vm, chain: images.Chain) -> None:
    """Its connection is gone: it ends without waiting for the stream, and the next run joins that."""
    task = product.Running("block_stream", {"monitors": [vm.monitor], "disks": ["vda"], "speed": "64K"})
    wait_until(lambda: any(job["offset"] for job in vm.jobs().values()), "the stream copies, and the task waits for it")
    assert task.is_alive
    task.hang_up()
    assert task.wait() == 1
    assert [job["status"] for job in vm.jobs().values()] == ["running"]
    result = product.module("block_stream", monitors=[vm.monitor], disks=["vda"], speed="0")
    assert (result.failed, result["finished"], result["disks"][0]["action"]) == (False, True, "retuned"), result
    assert (vm.jobs(), vm.inserted("vda")["backing_file_depth"]) == ({}, 0)
    vm.kill()
    chain.take_away()
    assert images.differences(chain.expected, images.content(chain.top)) == []
