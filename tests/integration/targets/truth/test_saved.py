# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""The VM's state is saved in the middle of a stream, as `virsh save` and checkpoints do, and the VM goes on.

From the save to `cont` the VM is in `postmigrate`. QEMU's job goes on there: its position moves, nothing is copied, and
at the end it looks like any other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lab import images, wait_until

from .conftest import SIZE, SPEED, Disk

if TYPE_CHECKING:
    from collections.abc import Callable


def test_a_run_that_waits_all_the_while(saveable: Callable[..., Disk]) -> None:
    """The task that started the stream finds out, and is done when every byte is copied."""
    disk = saveable()
    task = disk.begin()
    (job,) = disk.vm.jobs()
    disk.save_and_lose(job, speed=SPEED)
    disk.assert_streamed_again(task.result())


def test_a_run_that_joins_later(saveable: Callable[..., Disk]) -> None:
    """The save is over when the task comes, and the stream is not: it starts anew."""
    disk = saveable()
    disk.save_and_lose(disk.start())
    disk.assert_streamed_again(disk.stream(speed="0"))


def test_a_run_that_finds_the_job_at_its_end(saveable: Callable[..., Disk]) -> None:
    """The save is over, and the job waits to be finalized: it is not."""
    disk = saveable()
    disk.start_and_lose_all()
    disk.assert_streamed_again(disk.stream())


def test_several_saves(saveable: Callable[..., Disk]) -> None:
    """Two checkpoints, with true copying before, between and after them."""
    disk = saveable()
    task = disk.begin()
    (job,) = disk.vm.jobs()
    for fifth in (1, 3):
        disk.pass_over(job, fifth * SIZE // 5, speed=SPEED)
        disk.vm.save()
        disk.pass_over(job, (fifth + 1) * SIZE // 5, speed=SPEED)
        disk.vm.command("cont")
    disk.assert_streamed_again(task.result())


def test_above_a_base(saveable: Callable[..., Disk]) -> None:
    """With `base`, what lies between the top and the base is copied; the base stays."""
    disk = saveable(layers=2)
    base = str(disk.chain.base)
    disk.save_and_lose(disk.start(base=base), 5 * images.MiB)
    result = disk.stream(base=base, speed="0")
    assert (result.failed, result["finished"], disk.vm.jobs()) == (False, True, {}), result
    ends = disk.job_ends()
    disk.assert_right_above_base()
    assert ends == ["BLOCK_JOB_CANCELLED", "BLOCK_JOB_COMPLETED"]


def test_a_save_that_was_long_ago(saveable: Callable[..., Disk]) -> None:
    """What QEMU still says of a save before the stream is no reason to distrust it: one job does all."""
    disk = saveable()
    disk.vm.save()
    disk.vm.command("cont")
    result = disk.stream()
    assert (result.failed, result["finished"]) == (False, True), result
    assert disk.job_ends() == ["BLOCK_JOB_COMPLETED"]
    disk.assert_safe_after_kill()


def test_a_job_of_somebody_else(saveable: Callable[..., Disk]) -> None:
    """A job that finalizes itself would drop the link before anybody can look: it is given up in time, and told."""
    disk = saveable()
    disk.start_foreign_job(speed=1)
    disk.save_and_lose("foreign", speed=SPEED // 8)  # so that the task comes before its end
    result = disk.stream()
    disk.assert_streamed_again(result)
    assert any("foreign" in warning for warning in map(str, result["warnings"])), result


def test_a_job_of_somebody_else_that_is_followed(saveable: Callable[..., Disk]) -> None:
    """The save comes while the task follows it: given up in time, or gone before anybody can look and not believed."""
    disk = saveable()
    disk.start_foreign_job(speed=1)
    task = disk.begin()
    wait_until(lambda: disk.position("foreign") >= SIZE // 8, "the task has come, and follows the job")
    disk.vm.save()
    wait_until(lambda: disk.position("foreign") >= SIZE // 2, "the stream has passed over what it did not copy")
    disk.vm.command("cont")
    result = task.result()
    if not result.failed:
        disk.assert_streamed_again(result)
        return
    (said,) = result["disks"]
    assert (result["finished"], said["populated"] is True) == (False, False), result
    assert [each["path"] for each in said["released"] if each["free"]] == []
    assert "saved" in result["msg"]


def test_a_job_of_somebody_else_that_waits_to_be_finalized(saveable: Callable[..., Disk]) -> None:
    """Whoever started it: it is not finalized."""
    disk = saveable()
    disk.start_foreign_job(speed=1, auto_finalize=False)
    disk.vm.save()
    disk.complete("foreign")
    disk.vm.command("cont")
    disk.assert_streamed_again(disk.stream())


def test_a_stopped_run_keeps_what_was_copied(saveable: Callable[..., Disk]) -> None:
    """`on_timeout: stop` in the middle of it claims nothing, and the next run copies what is missing."""
    disk = saveable()
    disk.save_and_lose(disk.start())
    result = disk.stream(wait_timeout=1, on_timeout="stop")
    assert (result.failed, result["finished"], disk.vm.jobs(), disk.depth) == (False, False, {}, 1), result
    again = disk.stream(speed="0")
    assert (again.failed, again["finished"]) == (False, True), again
    disk.assert_safe_after_kill()
