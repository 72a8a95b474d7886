# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""What holds over many looks of one task: times, reasons, the limit of all streams, the line on all disks."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

import pytest
from lab import Task, Vm, disks, images, wait_until

from .test_watch import moments

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Watch = Callable[..., Task]
    Boot = Callable[..., Vm]


def test_a_connection_that_stands_still_spoils_no_figure(watch: Watch, vm: Vm) -> None:
    """TIME is how long the stream ran by QEMU's own clock, though the controller stood still for a while of it."""
    task = watch(vm, speed="192K")
    wait_until(lambda: task.lines, "first line")
    before, worker = len(task.lines), task.worker()
    os.kill(worker, signal.SIGSTOP)
    time.sleep(6)
    os.kill(worker, signal.SIGCONT)
    wait_until(lambda: len(task.lines) >= before + 2, "lines after it")
    vm.hasten()
    (disk,) = task.end()[1]["disks"]
    (began,), (ended,) = moments(vm, "created"), moments(vm, "concluded")
    assert disk["seconds"] == pytest.approx(ended - began, abs=1.5)
    assert not any("stalled" in line["words"] for line in task.lines)
    rates = [line["words"].split("  ")[2] for line in task.lines[before:]]
    assert all(100 <= float(rate.split()[0]) <= 300 for rate in rates if rate.endswith("KiB/s")), rates


def test_reasons_are_the_same_after_many_looks(watch: Watch, folder: Path, boot: Boot, vm: Vm) -> None:
    """Who still has the old image open is called by the name of its VM, which only the first look has visited."""
    golden = images.create(folder / "golden.qcow2", 16 * images.MiB, writes=images.layer_writes(0, 16 * images.MiB, 1))
    started = []
    for name in ("web02", "db01"):
        top = images.create(folder / f"{name}.qcow2", backing=golden)
        started.append(boot(*disks.drive(top, id="drive0", qdev="vda"), name=name))
    web, other = started
    task = watch(vm, monitors=[vm.monitor, web.monitor, other.monitor], vms=["web02"], speed="128K")
    wait_until(lambda: len(task.lines) >= 3, "third line")
    web.hasten()
    result = task.end()[1]
    (released,) = [image for image in result["released"] if image["path"] == str(golden)]
    assert (released["free"], released["reason"]) == (False, f"it is still open in VM db01 (pid {other.pid})")


def test_one_limit_over_many_looks(watch: Watch, folder: Path, boot: Boot) -> None:
    """Every look of a task keeps the limit, and the next disk gets the part of one that is through."""
    words = []
    for letter in "abc":
        chain = images.chain(folder, prefix=f"{letter}-", seed=ord(letter))
        words += disks.drive(chain.top, id=f"drive-{letter}", qdev=f"vd{letter}")
    vm = boot(*words, name="web01")

    def speeds() -> dict[str, int]:
        return {job_id[-3:]: job["speed"] for job_id, job in vm.jobs().items() if job["status"] == "running"}

    task = watch(vm, total_speed="128K", parallel=2)
    wait_until(lambda: speeds() == {"vda": 65536, "vdb": 65536}, "two streams")
    wait_until(lambda: len(task.lines) >= 6, "three looks")
    assert speeds() == {"vda": 65536, "vdb": 65536}
    vm.command("block-job-set-speed", device=next(job for job in vm.jobs() if "vda" in job), speed=0)
    wait_until(lambda: speeds() == {"vdb": 65536, "vdc": 65536}, "the third in the place of the first")
    seen = task.stderr.count("localhost  1 of 3 disks  ")
    wait_until(lambda: task.stderr.count("localhost  1 of 3 disks  ") > seen, "a line on all disks")
    vm.command("block-job-set-speed", device=next(job for job in vm.jobs() if "vdb" in job), speed=0)
    wait_until(lambda: speeds() == {"vdc": 131072}, "the last one with all of it")
    vm.hasten()
    assert task.end()[1]["finished"] is True
    assert "localhost  0 of 3 disks  " in task.stderr
