# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""What one can ask of one disk: base, wait, time-outs, speed, joining, aborting."""

from __future__ import annotations

import pytest
from lab import Scene, images


@pytest.mark.parametrize("by", ["path", "node"])
def test_base_stays_as_the_backing_image(disk: Scene, by: str) -> None:
    """With `base` only the images above it leave the chain; it holds after a kill, and a second run is done."""
    base = str(disk.chain.base) if by == "path" else base_node(disk)
    result = disk.stream(base=base)
    assert (result.failed, result["changed"], result["finished"]) == (False, True, True), result
    assert disk.vm.chain("vda") == [str(disk.chain.top), str(disk.chain.base)]
    assert disk.chain.images[1] not in disk.vm.open_files()
    again = disk.stream(base=base)
    assert (again.failed, again["changed"], again["finished"]) == (False, False, True), again
    disk.vm.kill()
    disk.chain.images[1].unlink()
    assert images.differences(disk.chain.expected, images.content(disk.chain.top)) == []


def base_node(disk: Scene) -> str:
    """The name of the format node that shows the base; this query is safe while no job is concluded."""
    nodes = disk.vm.command("query-named-block-nodes", flat=True)
    return str(next(n["node-name"] for n in nodes if (n["file"], n["drv"]) == (str(disk.chain.base), "qcow2")))


def test_base_then_everything(disk: Scene) -> None:
    """A disk populated down to a base is populated fully by the next task, which asks for it."""
    assert not disk.stream(base=str(disk.chain.base)).failed
    result = disk.stream()
    assert (result.failed, result["changed"]) == (False, True), result
    disk.assert_safe_after_kill()


def test_without_wait_the_job_goes_on_and_a_rerun_ends_it(disk: Scene) -> None:
    """`wait: false` returns while QEMU copies; all copied, the job waits; the rerun finalizes it, safe after a kill."""
    # The limit holds QEMU after its first step: without it a fast one may have copied all before the first look.
    result = disk.stream(wait=False, speed="1")
    assert (result.failed, result["changed"], result["finished"]) == (False, True, False), result
    assert result["disks"][0]["action"] == "started"
    (job,) = disk.vm.jobs()
    disk.vm.hasten()
    disk.vm.wait_event("BLOCK_JOB_PENDING", id=job)
    assert disk.depth == 2
    again = disk.stream()
    assert (again.failed, again["changed"], again["finished"]) == (False, True, True), again
    assert again["disks"][0]["action"] == "joined"
    disk.assert_safe_after_kill()


def test_without_wait_twice(disk: Scene) -> None:
    """A second `wait: false` finds the job running, starts no other and changes nothing."""
    assert disk.stream(wait=False, speed="1")["changed"] is True
    before = list(disk.vm.jobs())
    result = disk.stream(wait=False, speed="1")
    assert (result.failed, result["changed"], result["finished"]) == (False, False, False), result
    assert list(disk.vm.jobs()) == before


def test_a_time_out_fails_and_leaves_the_job(disk: Scene) -> None:
    """`wait_timeout` over: the task fails and names the disk, the job goes on, a rerun without the limit joins it."""
    result = disk.stream(speed="1", wait_timeout=1)
    assert result.failed
    assert "vda" in result["msg"]
    assert result["disks"][0]["job"]["status"] == "running"
    (job,) = disk.vm.jobs().values()
    assert (job["status"], disk.depth) == ("running", 2)
    again = disk.stream(speed="0")
    assert (again.failed, again["finished"]) == (False, True), again
    disk.assert_safe_after_kill()


def test_speed_is_set_kept_and_changed(disk: Scene) -> None:
    """`speed` is QEMU's, live: the same value changes nothing, another one retunes the running job."""
    disk.stream(wait=False, speed="64K")
    assert [job["speed"] for job in disk.vm.jobs().values()] == [64 * 1024]
    same = disk.stream(wait=False, speed="64K")
    assert (same["changed"], same["disks"][0]["job"]["speed"]) == (False, 64 * 1024)
    check = disk.stream(check=True, wait=False, speed="128K")
    assert check["changed"] is True
    assert [job["speed"] for job in disk.vm.jobs().values()] == [64 * 1024]
    other = disk.stream(wait=False, speed="128K")
    assert (other["changed"], other["disks"][0]["action"]) == (True, "retuned")
    assert [job["speed"] for job in disk.vm.jobs().values()] == [128 * 1024]
    unsaid = disk.stream(wait=False)
    assert unsaid["changed"] is False
    assert [job["speed"] for job in disk.vm.jobs().values()] == [128 * 1024]


def test_a_killed_waiter_loses_nothing(disk: Scene) -> None:
    """The module killed in the middle of a stream leaves the job in QEMU, and the next run ends it."""
    waiter = disk.begin()
    waiter.kill()
    assert [job["status"] for job in disk.vm.jobs().values()] == ["running"]
    result = disk.stream(speed="0")
    assert (result.failed, result["finished"]) == (False, True), result
    disk.assert_safe_after_kill()


def test_aborted_ends_a_running_job(disk: Scene) -> None:
    """`state: aborted` ends the job and keeps the chain; check mode leaves the job; without a job nothing changes."""
    disk.stream(wait=False, speed="1")
    check = disk.stream(check=True, state="aborted")
    assert (check.failed, check["changed"], len(disk.vm.jobs())) == (False, True, 1), check
    result = disk.stream(state="aborted")
    assert (result.failed, result["changed"], result["disks"][0]["action"]) == (False, True, "stopped"), result
    assert (disk.vm.jobs(), disk.depth) == ({}, 2)
    again = disk.stream(state="aborted")
    assert (again.failed, again["changed"], again["disks"][0]["action"]) == (False, False, "none"), again
    assert images.differences(disk.chain.expected, disk.vm.content("vda")) == []


def test_aborted_ends_a_pending_job_of_which_nothing_is_final(disk: Scene) -> None:
    """A job that has copied everything and waits can still be aborted, and its disk be populated after all."""
    disk.start_pending()
    result = disk.stream(state="aborted")
    assert (result["changed"], disk.vm.jobs(), disk.depth) == (True, {}, 2)
    assert not disk.stream().failed
    disk.assert_safe_after_kill()


def test_a_disk_without_backing_image_is_done(disk: Scene) -> None:
    """A disk that stands on its own is reported populated and untouched, also when it is named outright."""
    assert not disk.stream().failed
    result = disk.stream()
    assert (result["changed"], result["finished"], result["disks"][0]["action"]) == (False, True, "none")
    assert (result["disks"][0]["populated"], result["disks"][0]["cursor"]) == (True, 16 * images.MiB)
