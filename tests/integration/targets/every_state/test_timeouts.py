# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""What happens when `wait_timeout` is over, in all three ways."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from lab import Scene, Vm, disks, images, product

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# Slow enough that a second is not enough, fast enough that it copies more than one step.
SLOWLY = {"speed": "1M", "wait_timeout": 1}


def test_fail(disk: Scene) -> None:
    """`fail`: the task fails with the disk, the limit and the job as it is now; the job goes on in QEMU."""
    result = disk.stream(**SLOWLY, on_timeout="fail")
    assert (result.failed, result["changed"], result["finished"]) == (True, True, False)
    for word in ("vda", "when wait_timeout was over", "running", "run the task again"):
        assert word in result["msg"]
    ((job_id, job),) = disk.vm.jobs().items()
    (told,) = result["disks"]
    assert (job["status"], told["job"]["id"], told["job"]["status"]) == ("running", job_id, "running")
    assert 0 < told["cursor"] <= job["offset"]
    assert [image["path"] for image in told["chain"]] == disk.vm.chain("vda")
    assert told["error"] in result["msg"]


def test_leave(disk: Scene) -> None:
    """`leave`: the task succeeds, is not finished, and the job goes on; the next visit joins it and changes nothing."""
    result = disk.stream(**SLOWLY, on_timeout="leave")
    assert (result.failed, result["changed"], result["finished"]) == (False, True, False)
    assert [job["status"] for job in disk.vm.jobs().values()] == ["running"]
    again = disk.stream(speed="1M", wait_timeout=0, on_timeout="leave")
    assert (again.failed, again["changed"], again["finished"]) == (False, False, False)
    assert again["disks"][0]["action"] == "joined"
    assert again["disks"][0]["cursor"] >= result["disks"][0]["cursor"] > 0


def test_stop_keeps_what_was_copied_over_a_kill(disk: Scene) -> None:
    """`stop`: the task succeeds, no job is left, and after a SIGKILL the top holds all that the cursor passed."""
    result = disk.stream(**SLOWLY, on_timeout="stop")
    disk.vm.kill()
    assert (result.failed, result["changed"], result["finished"]) == (False, True, False), result
    (told,) = result["disks"]
    assert (told["action"], told["job"], told["populated"], told["error"]) == ("stopped", None, False, None)
    assert told["cursor"] >= images.MiB // 2
    assert images.read_from_below(disk.chain.top, told["cursor"]) == []
    assert images.read_from_below(disk.chain.top, 16 * images.MiB) != []
    assert images.differences(disk.chain.expected, images.content(disk.chain.top)) == []


def test_the_same_window_each_night(disk: Scene) -> None:
    """The same task with `stop`, again and again, ends with a populated disk; the night after that changes nothing."""
    cursors = []
    for _night in range(6):
        result = disk.stream(speed="2M", wait_timeout=1, on_timeout="stop")
        assert (result.failed, disk.vm.jobs()) == (False, {}), result
        cursors.append(result["disks"][0]["cursor"])
        if result["finished"]:
            break
    assert cursors == sorted(set(cursors))
    assert len(cursors) > 1
    assert cursors[-1] == 16 * images.MiB
    again = disk.stream(speed="2M", wait_timeout=1, on_timeout="stop")
    assert (again.failed, again["changed"], again["finished"]) == (False, False, True)
    disk.assert_safe_after_kill()


def test_stop_finishes_what_is_copied(disk: Scene) -> None:
    """A job that already waits with everything copied is finished, not thrown away, even if no time is left."""
    disk.start_pending()
    result = disk.stream(wait_timeout=0, on_timeout="stop")
    assert (result.failed, result["finished"]) == (False, True), result
    disk.assert_safe_after_kill()


@pytest.mark.parametrize(
    ("on_timeout", "fails", "jobs"),
    [
        pytest.param("fail", True, 1, id="fail"),
        pytest.param("leave", False, 1, id="leave"),
        pytest.param("stop", False, 0, id="stop"),
    ],
)
def test_a_disk_whose_turn_did_not_come(
    folder: Path, boot: Callable[..., Vm], on_timeout: str, fails: bool, jobs: int
) -> None:
    """The disk that waited for its turn was never started; it is told, and an error only where a time-out is one."""
    chains = [images.chain(folder, prefix=f"{disk}-") for disk in "ab"]
    vm = boot(
        *(
            word
            for letter, chain in zip("ab", chains, strict=True)
            for word in disks.drive(chain.top, id=f"drive-{letter}", qdev=f"vd{letter}")
        )
    )
    result = product.module(
        "block_stream", monitors=[vm.monitor], disks=["*"], speed="1", wait_timeout=1, on_timeout=on_timeout
    )
    assert (result.failed, result["finished"]) == (fails, False), result
    assert ("its turn did not come" in result.get("msg", "")) is fails
    waited = result["disks"][1]
    assert (waited["action"], waited["job"], waited["populated"]) == ("none", None, False)
    assert len(vm.jobs()) == jobs
    began = {event["data"]["id"] for event in vm.judge.events if event["event"] == "JOB_STATUS_CHANGE"}
    assert len(began) == 1


def test_check_mode_of_a_window_stops_nothing(disk: Scene) -> None:
    """Check mode neither waits nor stops: a running job is as it was."""
    disk.start()
    result = disk.stream(check=True, wait_timeout=0, on_timeout="stop")
    assert not result.failed, result
    assert [job["status"] for job in disk.vm.jobs().values()] == ["running"]
