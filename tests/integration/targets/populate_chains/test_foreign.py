# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Streams that somebody else started: followed, finalized, dismissed, and never mistaken."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from lab import Scene, disks, images, product, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from lab import Vm

    Boot = Callable[..., Vm]


def test_a_running_job_is_joined(disk: Scene) -> None:
    """A foreign stream that runs is not started again but followed, and finalized after a flush."""
    disk.start_foreign_job(speed=1, auto_finalize=False)
    result = disk.stream(speed="0")
    assert (result.failed, result["changed"], result["finished"]) == (False, True, True), result
    assert result["disks"][0]["action"] in ("joined", "retuned")
    disk.assert_safe_after_kill()


def test_a_job_that_finalizes_itself_is_flushed(disk: Scene) -> None:
    """A foreign stream with QEMU's defaults is followed to its end; when the task returns, a kill loses nothing."""
    disk.start_foreign_job(speed=1)
    result = disk.stream(speed="0")
    assert (result.failed, result["finished"], disk.vm.jobs()) == (False, True, {}), result
    disk.assert_safe_after_kill()


def test_a_pending_job_is_finished(disk: Scene) -> None:
    """A foreign stream that waits to be finalized is flushed and finalized."""
    disk.start_foreign_job(auto_finalize=False)
    disk.vm.wait_event("BLOCK_JOB_PENDING", id="foreign")
    result = disk.stream()
    assert (result.failed, result["changed"], result["finished"], disk.vm.jobs()) == (False, True, True, {}), result
    disk.assert_safe_after_kill()


def test_a_concluded_job_is_dismissed(disk: Scene) -> None:
    """A foreign stream that succeeded and was never dismissed: dismissed, told, its base closed, safe after a kill."""
    disk.start_foreign_job(auto_dismiss=False)
    disk.vm.wait_event("JOB_STATUS_CHANGE", id="foreign", status="concluded")
    result = disk.stream()
    assert (result.failed, result["finished"], disk.vm.jobs()) == (False, True, {}), result
    assert "foreign" in str(result.get("warnings", "")) + str(result.get("msg", "")) + str(result["disks"])
    assert not set(disk.chain.images[1:]) & disk.vm.open_files()
    disk.assert_safe_after_kill()


def test_a_failed_job_that_nobody_dismissed(folder: Path, boot: Callable[..., Vm]) -> None:
    """A foreign stream that failed and was never dismissed is told with QEMU's reason, and the disk populated anew."""
    chain = images.chain(folder, layers=1)
    vm = boot(
        *disks.failing_reads(chain.base, node_name="bad", sector=images.last_data_sector(chain.base), once=True),
        *disks.blockdev("qcow2", "top", file={"driver": "file", "filename": str(chain.top)}, backing="bad"),
        *disks.frontend("virtio-blk-pci", "vda", drive="top"),
    )
    vm.command("block-stream", job_id="foreign", device="top", auto_dismiss=False)
    vm.wait_event("JOB_STATUS_CHANGE", id="foreign", status="concluded")
    assert vm.jobs()["foreign"]["error"] == "Input/output error"
    result = product.module("block_stream", monitors=[vm.monitor], disks=["vda"])
    assert (result.failed, result["changed"], result["finished"], vm.jobs()) == (False, True, True, {}), result
    assert "Input/output error" in str(result)
    vm.kill()
    chain.take_away()
    assert images.differences(chain.expected, images.content(chain.top)) == []


def test_a_paused_job_is_resumed(disk: Scene) -> None:
    """A stream that somebody paused is resumed and followed to its end."""
    disk.start_foreign_job(speed=1, auto_finalize=False)
    disk.vm.command("job-pause", id="foreign")
    result = disk.stream(speed="0")
    assert (result.failed, result["finished"], result["disks"][0]["action"]) == (False, True, "resumed"), result
    disk.assert_safe_after_kill()


def test_a_job_cancelled_while_we_wait_is_no_success(disk: Scene) -> None:
    """A stream that somebody cancels under the waiting task makes the task fail and name the disk."""
    waiter = disk.begin()
    (job,) = disk.vm.jobs()
    disk.vm.command("job-cancel", id=job)
    result = waiter.result()
    assert result.failed
    assert "vda" in result["msg"]
    assert "cancel" in result["msg"]
    assert (disk.depth, disk.vm.jobs()) == (2, {})


def test_a_job_of_another_kind_is_left_alone(disk: Scene, folder: Path) -> None:
    """A disk that a backup job is copying is refused with the job's kind, and the backup goes on."""
    disk.vm.command(
        "drive-backup", job_id="nightly", device="drive0", target=str(folder / "backup.qcow2"), sync="full", speed=1
    )
    result = disk.stream()
    assert result.failed
    assert "vda" in result["msg"]
    assert "backup" in result["msg"]
    assert list(disk.vm.jobs()) == ["nightly"]


# -- Further down the chain --------------------------------------------------------------------------------------------


@pytest.fixture
def deep(folder: Path, boot: Boot) -> Scene:
    """`vda` over four images."""
    chain = images.chain(folder, layers=4)
    return Scene(boot(*disks.drive(chain.top, id="drive0", qdev="vda")), chain)


def node_of(disk: Scene, place: int) -> str:
    """The node of an image of the chain, 0 for the top; this query is safe while no job is concluded."""
    nodes = disk.vm.command("query-named-block-nodes", flat=True)
    names = (n["node-name"] for n in nodes if (n["file"], n["drv"]) == (str(disk.chain.images[place]), "qcow2"))
    return str(next(names))


def finish(disk: Scene, job: str) -> None:
    disk.vm.command("block-job-set-speed", device=job, speed=0)
    disk.vm.wait_event("BLOCK_JOB_COMPLETED", device=job)
    wait_until(lambda: disk.vm.jobs() == {}, "the job is gone")


def test_a_stream_into_a_middle_image(deep: Scene) -> None:
    """A stream of somebody else further down the chain refuses ours; it is not disturbed, and the rerun is done."""
    deep.vm.command("block-stream", job_id="lower-down", device=node_of(deep, 1), speed=1)
    result = deep.stream()
    assert (result.failed, result["finished"]) == (True, False), result
    for word in ("vda", "busy", "stream"):
        assert word in result["msg"]
    assert (list(deep.vm.jobs()), deep.depth) == (["lower-down"], 4)
    finish(deep, "lower-down")
    deep.assert_done(deep.stream())


def test_a_stream_above_a_base_does_not_touch_a_job_below(deep: Scene) -> None:
    """A stream down to `base` and a stream of somebody else below that base do not meet: both are done."""
    deep.vm.command("block-stream", job_id="lower-down", device=node_of(deep, 3), speed=1)
    result = deep.stream(base=str(deep.chain.images[2]))
    assert (result.failed, result["finished"]) == (False, True), result
    assert list(deep.vm.jobs()) == ["lower-down"]
    finish(deep, "lower-down")
    deep.assert_done(deep.stream())


@pytest.mark.parametrize(
    ("top", "base"), [pytest.param(1, 2, id="in the middle"), pytest.param(0, 1, id="of the active image")]
)
def test_a_commit_by_somebody_else(deep: Scene, top: int, base: int) -> None:
    """A commit job that works on the chain is left alone, and the disk is refused with what holds it."""
    nodes = {"top_node": node_of(deep, top), "base_node": node_of(deep, base)}
    deep.vm.command("block-commit", job_id="nightly", device="drive0", speed=1, **nodes)
    result = deep.stream()
    assert (result.failed, result["finished"]) == (True, False), result
    for word in ("vda", "commit"):
        assert word in result["msg"]
    assert list(deep.vm.jobs()) == ["nightly"]
    deep.vm.command("job-cancel", id="nightly")
    wait_until(lambda: deep.vm.jobs() == {}, "the commit is gone")
    deep.assert_done(deep.stream())
