# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Streams that somebody else started: followed, finalized, dismissed, and never mistaken."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lab import disks, images, product

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from lab import Vm

    from .conftest import Disk


def test_a_running_job_is_joined(disk: Disk) -> None:
    """A foreign stream that runs is not started again but followed, and finalized after a flush."""
    disk.start_foreign_job(speed=1, auto_finalize=False)
    result = disk.stream(speed="0")
    assert (result.failed, result["changed"], result["finished"]) == (False, True, True), result
    assert result["disks"][0]["action"] in ("joined", "retuned")
    disk.assert_safe_after_kill()


def test_a_job_that_finalizes_itself_is_flushed(disk: Disk) -> None:
    """A foreign stream with QEMU's defaults is followed to its end; when the task returns, a kill loses nothing."""
    disk.start_foreign_job(speed=1)
    result = disk.stream(speed="0")
    assert (result.failed, result["finished"], disk.vm.jobs()) == (False, True, {}), result
    disk.assert_safe_after_kill()


def test_a_pending_job_is_finished(disk: Disk) -> None:
    """A foreign stream that waits to be finalized is flushed and finalized."""
    disk.start_foreign_job(auto_finalize=False)
    disk.vm.wait_event("BLOCK_JOB_PENDING", id="foreign")
    result = disk.stream()
    assert (result.failed, result["changed"], result["finished"], disk.vm.jobs()) == (False, True, True, {}), result
    disk.assert_safe_after_kill()


def test_a_concluded_job_is_dismissed(disk: Disk) -> None:
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


def test_a_paused_job_is_resumed(disk: Disk) -> None:
    """A stream that somebody paused is resumed and followed to its end."""
    disk.start_foreign_job(speed=1, auto_finalize=False)
    disk.vm.command("job-pause", id="foreign")
    result = disk.stream(speed="0")
    assert (result.failed, result["finished"], result["disks"][0]["action"]) == (False, True, "resumed"), result
    disk.assert_safe_after_kill()


def test_a_job_cancelled_while_we_wait_is_no_success(disk: Disk) -> None:
    """A stream that somebody cancels under the waiting task makes the task fail and name the disk."""
    options = {"monitors": [disk.vm.monitor], "disks": ["vda"], "speed": "1"}
    waiter = product.Running("block_stream", options)
    job = disk.vm.wait_event("JOB_STATUS_CHANGE", status="running")["id"]
    disk.vm.command("job-cancel", id=job)
    result = waiter.result()
    assert result.failed
    assert "vda" in result["msg"]
    assert "cancel" in result["msg"]
    assert (disk.depth, disk.vm.jobs()) == (2, {})


def test_a_job_of_another_kind_is_left_alone(disk: Disk, folder: Path) -> None:
    """A disk that a backup job is copying is refused with the job's kind, and the backup goes on."""
    disk.vm.command(
        "drive-backup", job_id="nightly", device="drive0", target=str(folder / "backup.qcow2"), sync="full", speed=1
    )
    result = disk.stream()
    assert result.failed
    assert "vda" in result["msg"]
    assert "backup" in result["msg"]
    assert list(disk.vm.jobs()) == ["nightly"]
