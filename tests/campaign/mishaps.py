# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Rounds in which nobody is killed during the first run: what QEMU and the storage say is well, and is not."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

from lab import MonitorError, product, wait_until

from .bench import END_SECONDS, Bench

if TYPE_CHECKING:
    from lab import Vm

    from .guest import Guest


def _claims(result: product.Result) -> bool:
    return not result.failed and bool(result["finished"])


def _arguments(bench: Bench, vm: Vm, **more: Any) -> dict[str, Any]:
    return {"monitors": [vm.monitor], "disks": ["vda"], "speed": bench.report.round.speed, **more}


def _check_alive(bench: Bench, vm: Vm) -> None:
    if not vm.is_alive:
        bench.report.wrong.append("QEMU died")


def save_in_the_middle(bench: Bench, vm: Vm, guest: Guest) -> bool:
    """Save the VM while the task waits, and have it go on; whether the task said that the disk is populated."""
    round = bench.report.round
    task = product.Running("block_stream", _arguments(bench, vm))
    if round.speed in ("2M", "4M"):
        wait_until(vm.jobs, "the task has started a stream", END_SECONDS)
    time.sleep(round.delay)  # not to make time pass: it is the moment of the save that is drawn
    with guest.held():
        try:
            vm.save()
        except OSError:  # of its own, now and then: a stream that writes while QEMU gives its images away
            bench.report.first = "QEMU died"
            return _claims(task.result(END_SECONDS))
        with contextlib.suppress(OSError):  # it dies if the task does now what it must not
            time.sleep(round.hold)
            vm.command("cont")
    result = task.result(END_SECONDS)
    _check_alive(bench, vm)
    bench.report.first = "failed" if result.failed else "done"
    return _claims(result)


def run_out_of_room(bench: Bench, vm: Vm) -> bool:
    """Populate on storage that is full, and perhaps again with room; whether a task said that the disk is populated."""
    claimed = _claims(result := product.module("block_stream", timeout=END_SECONDS, **_arguments(bench, vm)))
    bench.report.first = "failed" if result.failed else "done"
    for _rerun in range(bench.report.round.reruns):
        bench.repair_storage()
        again = product.module("block_stream", timeout=END_SECONDS, **_arguments(bench, vm))
        claimed = claimed or _claims(again)
    return claimed


def leave(bench: Bench, vm: Vm) -> Vm:
    """Migrate the VM with a job left behind, and run the task where it was; the VM where it is now."""
    round = bench.report.round
    result = product.module("block_stream", **_arguments(bench, vm, wait=False))
    with bench.guest(vm) as guest:
        time.sleep(round.delay)  # the moment is drawn
        with guest.held():
            try:
                state = vm.save()
            except OSError:  # of its own, now and then: a stream that writes while QEMU gives its images away
                return _after_its_death(bench, vm)
    _hurry(vm)
    there = bench.boot("-incoming", f"exec:cat {state}")
    there.wait_migration("completed")
    there.command("cont")
    with bench.guest(there):
        result = product.module("block_stream", timeout=END_SECONDS, **_arguments(bench, vm))
        _check_alive(bench, vm)
        if _claims(result):
            bench.report.wrong.append("said that the disk of a VM that has left is populated")
        bench.report.first = "failed" if result.failed else "done"
        vm.kill()
    return there


def _after_its_death(bench: Bench, vm: Vm) -> Vm:
    """No task was there, so this is a crash as any other: nothing is lost, and the VM is started anew."""
    vm.kill()
    bench.report.first = "QEMU died"
    bench.judge_after_a_crash("after QEMU died of the save")
    return bench.boot()


def _hurry(vm: Vm) -> None:
    """Have every job come to its end, as one does that nobody watches."""
    for job in vm.jobs():
        try:
            vm.command("block-job-set-speed", device=job, speed=0)
        except MonitorError:
            continue  # it has
        wait_until(lambda: all(each["status"] == "pending" for each in vm.jobs().values()), "the job is at its end")
