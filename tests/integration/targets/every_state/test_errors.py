# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""`on_error` in all four policies, on a base that cannot be read and on a file system that is full."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest
from lab import Proxy, Scene, Vm, disks, host, images, product, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Unreadable = Callable[..., Scene]


def assert_held(disk: Scene, result: product.Result, io_status: str, words: list[str]) -> None:
    """The task failed and says why; the job is held by an error in QEMU, in the result, and in nobody's way."""
    assert (result.failed, result["finished"]) == (True, False), result
    for word in ["vda", "paused", "run the task again", "aborted", *words]:
        assert word in result["msg"]
    (job,) = disk.vm.jobs().values()
    assert (job["status"], job["paused"], job["io-status"]) == ("paused", True, io_status)
    (told,) = result["disks"]
    assert (told["job"]["paused"], told["job"]["io_status"]) == (True, io_status)
    assert told["cursor"] == told["job"]["cur"] == job["offset"] > 0
    assert told["error"] == result["msg"]
    assert disk.depth == 1


def assert_failed(disk: Scene, result: product.Result, reason: str) -> None:
    """The task failed with QEMU's reason; no job is left, the chain is as it was, and what was copied is told."""
    assert (result.failed, result["changed"], result["finished"]) == (True, True, False), result
    for word in ("vda", reason, "still needs its backing images", "run the task again"):
        assert word in result["msg"]
    assert (disk.vm.jobs(), disk.depth) == ({}, 1)
    (told,) = result["disks"]
    assert (told["job"], told["populated"], told["action"]) == (None, False, "started")
    assert [image["path"] for image in told["chain"]][-1] == str(disk.chain.base)


def assert_finished(disk: Scene, result: product.Result, action: str) -> None:
    assert (result.failed, result["changed"], result["finished"]) == (False, True, True), result
    assert result["disks"][0]["action"] == action
    disk.assert_safe_after_kill()


@pytest.mark.parametrize("policy", ["report", "enospc"])
def test_an_unreadable_base_ends_the_stream(unreadable: Unreadable, policy: str) -> None:
    """`report`, and `enospc` with another error than a full file system: failed with QEMU's reason; a rerun is done."""
    disk = unreadable(once=True)
    assert_failed(disk, disk.stream(on_error=policy), "Input/output error")
    assert_finished(disk, disk.stream(on_error=policy), "started")


def test_what_was_copied_before_the_error_is_kept(unreadable: Unreadable) -> None:
    """A stream that failed near the end of the disk leaves all before that in the top."""
    disk = unreadable(once=False)
    disk.stream(on_error="report")
    end = disk.vm.wait_event("BLOCK_JOB_COMPLETED")["offset"]
    disk.vm.kill(signal.SIGTERM)
    assert end > 15 * images.MiB
    assert images.read_from_below(disk.chain.top, end) == []


def test_what_was_copied_before_the_error_is_kept_over_a_kill(unreadable: Unreadable) -> None:
    """What a failed stream copied is flushed when the task returns: a SIGKILL does not cost it."""
    disk = unreadable(once=False)
    disk.stream(on_error="report")
    end = disk.vm.wait_event("BLOCK_JOB_COMPLETED")["offset"]
    disk.vm.kill()
    assert images.read_from_below(disk.chain.top, end) == []


def test_the_cursor_of_a_failed_stream_is_where_it_failed(unreadable: Unreadable) -> None:
    """The message and the cursor tell the position that QEMU tells with the error."""
    disk = unreadable(once=False)
    result = disk.stream(on_error="report", speed="4M")  # so that it is looked at long before it fails
    end = disk.vm.wait_event("BLOCK_JOB_COMPLETED")["offset"]
    assert f"failed at {end} of" in result["msg"]
    assert result["disks"][0]["cursor"] == end


def test_an_unreadable_base_holds_the_stream(unreadable: Unreadable) -> None:
    """`stop`: the job is held and told apart from a user's pause; the rerun resumes it once the cause is gone."""
    disk = unreadable(once=True)
    assert_held(disk, disk.stream(on_error="stop"), "failed", ["held by an I/O error"])
    assert_finished(disk, disk.stream(on_error="stop"), "resumed")


def test_a_cause_that_stays_holds_again(unreadable: Unreadable) -> None:
    """A rerun that meets the same error fails with the same words, again and again, and never with another job."""
    disk = unreadable(once=False)
    disk.stream(on_error="stop")
    before = list(disk.vm.jobs())
    for _attempt in range(2):
        assert_held(disk, disk.stream(on_error="stop"), "failed", ["held by an I/O error"])
    assert list(disk.vm.jobs()) == before


def test_a_held_disk_takes_no_place(unreadable: Unreadable, folder: Path, boot: Callable[..., Vm]) -> None:
    """With one disk at a time, a disk that an error holds lets the next one begin; the task fails with the first."""
    bad = unreadable(once=False, name="bad")
    chain = images.chain(folder, prefix="good-")
    good = boot(*disks.drive(chain.top, id="drive0", qdev="vda"), name="good")
    result = product.module(
        "block_stream", monitors=[bad.vm.monitor, good.monitor], disks=["vda"], parallel=1, on_error="stop"
    )
    assert result.failed
    assert [(disk["vm"], disk["populated"]) for disk in result["disks"]] == [("bad", False), ("good", True)]
    assert "good" not in result["msg"]
    assert len(good.chain("vda")) == 1


def test_a_users_pause_is_no_error(disk: Scene, folder: Path) -> None:
    """A job that somebody pauses while we wait is waited for, neither failed nor resumed against their will."""
    job = disk.start()
    options = {"speed": "2", "wait_timeout": 3, "on_timeout": "leave"}
    with Proxy(disk.vm.monitor, folder / "proxy.qmp") as proxy:
        waiter = product.Running("block_stream", {"monitors": [proxy.path], "disks": ["vda"], **options})

        def waits() -> bool:
            """It set the speed, looked at everything once more, and then at the job alone."""
            _before, *after = " ".join(proxy.commands).split("block-job-set-speed")
            return bool(after) and after[0].count("query-block-jobs") > 1

        wait_until(waits, "the task waits for the job")
        disk.vm.command("job-pause", id=job)
        result = waiter.result()
    assert (result.failed, result["finished"]) == (False, False), result
    assert (disk.vm.jobs()[job]["paused"], disk.vm.jobs()[job]["io-status"]) == (True, "ok")


def test_ignored_errors_are_no_success(unreadable: Unreadable) -> None:
    """`ignore`: the job runs to 100 % behind the error, and the task fails; all that can be read was copied."""
    disk = unreadable(once=False)
    result = disk.stream(on_error="ignore")
    assert_failed(disk, result, "Input/output error")
    completed = disk.vm.wait_event("BLOCK_JOB_COMPLETED")
    assert completed["offset"] == completed["len"]
    disk.vm.kill(signal.SIGTERM)
    left = images.read_from_below(disk.chain.top, 16 * images.MiB)
    assert 0 < sum(extent["length"] for extent in left) <= images.MiB


@pytest.mark.parametrize("policy", ["report", "ignore"])
def test_a_full_file_system_ends_the_stream(crowded: Scene, small: host.FileSystem, policy: str) -> None:
    """`report` and `ignore`: failed with "No space left on device"; with room, the rerun is done."""
    assert_failed(crowded, crowded.stream(check_space=False, on_error=policy), "No space left on device")
    small.resize(64 * images.MiB)
    assert_finished(crowded, crowded.stream(), "started")


@pytest.mark.parametrize("policy", ["stop", "enospc"])
def test_a_full_file_system_holds_the_stream(crowded: Scene, small: host.FileSystem, policy: str) -> None:
    """`stop` and `enospc`: held for lack of space, once more while there is none; with room, the rerun resumes."""
    options = {"check_space": False, "on_error": policy}
    for _attempt in range(2):
        assert_held(crowded, crowded.stream(**options), "nospace", ["no space left"])
    small.resize(64 * images.MiB)
    assert_finished(crowded, crowded.stream(**options), "resumed")


@pytest.mark.parametrize("policy", ["report", "stop", "enospc", "ignore"])
def test_qemu_gets_the_policy(disk: Scene, policy: str) -> None:
    """Without any error each policy populates the disk."""
    assert_finished(disk, disk.stream(on_error=policy), "started")
