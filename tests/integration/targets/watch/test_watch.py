# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""A long stream watched by the real Ansible: its lines, its slices, its end."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest
from lab import NbdServer, Task, Vm, disks, images, product, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def moments(vm: Vm, status: str) -> list[float]:
    """When a job came to this status, in QEMU's own time."""
    vm.jobs()  # so that every event has come
    events = [event for event in vm.judge.events if event.get("data", {}).get("status") == status]
    return [event["timestamp"]["seconds"] + event["timestamp"]["microseconds"] / 1e6 for event in events]


@pytest.mark.parametrize("callback", ["minimal", "oneline", "default"])
def test_lines_go_to_stderr_and_nothing_else_changes(watch: Callable[..., Task], vm: Vm, callback: str) -> None:
    """A line per slice, of at most 80 columns, whose bytes grow; what is on stdout is the callback's alone."""
    task = watch(vm, speed="192K", environ={"ANSIBLE_STDOUT_CALLBACK": callback, "ANSIBLE_LOAD_CALLBACK_PLUGINS": "1"})
    wait_until(lambda: len(task.lines) >= 3, "third line")
    vm.hasten()
    if callback == "minimal":
        word, result = task.end()
        assert (word, result["finished"]) == ("CHANGED", True)
    task.wait()
    assert "web01 vda" not in task.stdout
    assert all(len(line[0]) <= 80 for line in task.lines)
    percents = [int(line["words"].split("%")[0]) for line in task.lines]
    assert percents == sorted(percents)
    assert " left" in task.lines[-1]["words"]
    assert (vm.jobs(), vm.inserted("vda")["backing_file_depth"]) == ({}, 0)


def test_without_progress_nothing_is_printed(watch: Callable[..., Task], vm: Vm) -> None:
    """`progress: 0` runs the module once, with the whole wait."""
    task = watch(vm, speed="1", progress=0)
    vm.wait_event("JOB_STATUS_CHANGE", status="running")
    module = task.module()
    with pytest.raises(AssertionError):
        wait_until(lambda: task.module() != module, "another module", timeout=3)
    vm.hasten()
    assert (task.end()[0], task.lines) == ("CHANGED", [])


def test_the_end_is_noticed_within_a_slice(watch: Callable[..., Task], vm: Vm) -> None:
    """A slice ends with the job, not after its time."""
    task = watch(vm, speed="1", progress=3600)
    vm.wait_event("JOB_STATUS_CHANGE", status="running")
    vm.hasten()
    task.end(timeout=30)
    (ended,) = moments(vm, "concluded")
    assert time.time() - ended < 15


@pytest.mark.parametrize(
    ("on_timeout", "word", "jobs", "message"),
    [("fail", "FAILED!", 1, "when wait_timeout was over"), ("leave", "CHANGED", 1, ""), ("stop", "CHANGED", 0, "")],
)
def test_the_wait_is_the_users(
    watch: Callable[..., Task], vm: Vm, on_timeout: str, word: str, jobs: int, message: str
) -> None:
    """Over all slices `wait_timeout` is kept, and at its end the job fares as `on_timeout` says."""
    began = time.time()
    task = watch(vm, speed="256K", wait_timeout=4, on_timeout=on_timeout)
    said, result = task.end()
    assert (said, result["finished"], len(vm.jobs())) == (word, False, jobs)
    assert message in result.get("msg", "")
    assert task.lines
    if on_timeout == "stop":
        (ended,) = moments(vm, "aborting")
        assert (ended - began > 4, len(moments(vm, "created"))) == (True, 1)


def test_increments_go_over_slices(watch: Callable[..., Task], vm: Vm) -> None:
    """An increment that takes several slices ends where it should, once, and is not begun anew."""
    result = watch(vm, speed="512K", increment="1536K").end()[1]
    assert (result["finished"], vm.jobs()) == (False, {})
    assert 1536 * 1024 <= result["disks"][0]["cursor"] <= 3 * 1024 * 1024
    assert len(moments(vm, "created")) == 1


def test_a_failing_disk_ends_no_other(watch: Callable[..., Task], folder: Path, boot: Callable[..., Vm]) -> None:
    """Its stream is not started again, the others are seen through, and the task fails once with its reason."""
    good, bad = (images.chain(folder, prefix=prefix, seed=seed) for seed, prefix in enumerate(("good-", "bad-")))
    words = disks.drive(good.top, id="drive0", qdev="vda")
    words += disks.failing_reads(bad.base, node_name="bad", sector=images.last_data_sector(bad.base))
    words += disks.blockdev("qcow2", "top", file={"driver": "file", "filename": str(bad.top)}, backing="bad")
    vm = boot(*words, *disks.frontend("virtio-blk-pci", "vdb", drive="top"), name="web01")
    task = watch(vm, speed="64K", parallel=2, progress=5)
    job = wait_until(lambda: [job for job in vm.jobs() if "vdb" in job], "stream of vdb")[0]
    vm.command("block-job-set-speed", device=job, speed=0)
    wait_until(lambda: any("vdb  failed" in line[0] for line in task.lines), "word of the failure")
    seen = len(task.lines)
    wait_until(lambda: len(task.lines) > seen, "a line on the other after it")
    vm.hasten()
    word, result = task.end()
    assert (word, result["msg"].count("disk vdb")) == ("FAILED!", 1)
    assert {disk["qdev"].split("/")[3]: disk["finished"] for disk in result["disks"]} == {"vda": True, "vdb": False}
    assert (len(moments(vm, "created")), vm.jobs()) == (2, {})
    assert vm.inserted("vda")["backing_file_depth"] == 0


def test_a_pause_by_somebody_else_is_respected(watch: Callable[..., Task], vm: Vm) -> None:
    """The task does not resume what another one paused, and says so."""
    task = watch(vm, speed="128K", progress=5)
    vm.wait_event("JOB_STATUS_CHANGE", status="running")
    (job,) = vm.jobs()
    vm.command("job-pause", id=job)
    word, result = task.end()
    assert (word, "paused" in result["msg"]) == ("FAILED!", True)
    assert [each["paused"] for each in vm.jobs().values()] == [True]


def test_two_controllers_follow_one_stream(watch: Callable[..., Task], folder: Path, vm: Vm) -> None:
    """Each has its looks and its lines, neither fails, and both see the end; the stream is started once."""
    one = watch(vm, speed="32K", progress=3)
    wait_until(lambda: one.lines, "a line of the first")
    other = Task(folder, {"monitors": [vm.monitor], "disks": ["vda"], "progress": 3}, name="other")
    try:
        wait_until(lambda: len(one.lines) >= 3 and len(other.lines) >= 2, "lines of both in turn", timeout=90)
        vm.hasten()
        ends = [task.end() for task in (one, other)]
    finally:
        other.stop()
    assert [(word == "FAILED!", result["finished"]) for word, result in ends] == [(False, True)] * 2
    assert (len(moments(vm, "created")), vm.jobs(), vm.inserted("vda")["backing_file_depth"]) == (1, {}, 0)


def test_a_stream_that_was_cancelled_between_two_looks_is_told(watch: Callable[..., Task], vm: Vm) -> None:
    """Whoever cancels the stream while nobody looks is contradicted aloud."""
    task = watch(vm, speed="256K")
    wait_until(lambda: task.lines, "first line")
    worker = task.worker()
    os.kill(worker, signal.SIGSTOP)
    try:
        wait_until(lambda: not task.has_children(worker), "end of the slice")
        (job,) = vm.jobs()
        vm.command("job-cancel", id=job)
    finally:
        os.kill(worker, signal.SIGCONT)
    wait_until(lambda: len(moments(vm, "created")) == 2, "a second stream")
    vm.hasten()
    assert (task.end()[0], "was gone" in task.stderr) == ("CHANGED", True)


def test_slow_is_not_stalled_but_stalled_is(watch: Callable[..., Task], folder: Path, boot: Callable[..., Vm]) -> None:
    """A stream that takes 8 s for a step is slow; one whose NBD server hangs is stalled until it goes on."""
    with NbdServer(images.create(folder / "b.raw", 4 * images.MiB, format="raw"), folder / "n.sock") as server:
        images.write(folder / "b.raw", [images.Write(0, 4 * images.MiB, 1)], format="raw")
        top = images.create(folder / "top.qcow2", 4 * images.MiB, backing=server.address, backing_format="raw")
        vm = boot(*disks.drive(top, id="drive0", qdev="vda"), name="web01")
        task = watch(vm, speed="64K", progress=2)
        wait_until(lambda: any(job["offset"] > 524288 for job in vm.jobs().values()), "a second step")
        os.kill(server.pid, signal.SIGSTOP)
        try:
            assert not any("stalled" in line[0] for line in task.lines)
            wait_until(lambda: any("stalled for" in line[0] for line in task.lines), "a stall", timeout=60)
        finally:
            os.kill(server.pid, signal.SIGCONT)
        vm.hasten()
        assert task.end()[0] == "CHANGED"


def play(vm: Vm, **options: Any) -> product.AnsibleRun:
    """A play over two hosts whose task is delegated, looped, and watched each second."""
    text = """
- hosts: all
  gather_facts: false
  module_defaults:
    group/virtops.qmp.qmp: {monitors: ["{{ monitor }}"]}
  tasks:
    - name: populate
      virtops.qmp.block_stream: {disk: "{{ item }}", speed: 2M, progress: 1}
      loop: [vda, vdb]
      delegate_to: localhost
      register: result
      until: result is success
"""
    return product.playbook(text, "-i", "hv1,", "--limit", "hv1", extra={"monitor": vm.monitor, **options})


def test_loops_until_and_delegation(folder: Path, boot: Callable[..., Vm]) -> None:
    """A watched task gets along with loop, until, delegate_to and module_defaults; its lines bear the host's name."""
    chains = [images.chain(folder, prefix=f"{number}-", seed=number) for number in range(2)]
    pairs = zip(chains, ("vda", "vdb"), strict=True)
    words = [word for chain, qdev in pairs for word in disks.drive(chain.top, id=f"drive-{qdev}", qdev=qdev)]
    vm = boot(*words, name="web01")
    run = play(vm)
    assert run.code == 0, run.stdout + run.stderr
    assert [each["finished"] for each in run.result("populate", "hv1")["results"]] == [True, True]
    assert any(line.startswith("hv1 web01 vda  ") for line in run.stderr.splitlines()), run.stderr
    assert not any(line.startswith("hv1 web01") for line in run.stdout.splitlines()), run.stdout
    assert [vm.inserted(name)["backing_file_depth"] for name in ("vda", "vdb")] == [0, 0]
