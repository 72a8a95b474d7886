# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""A VM in whose state QEMU cannot write to its images: it was saved, is about to leave, has left, or has not come yet.

Its jobs stay, and what finalizes one, or flushes after a cancel, ends QEMU by an assertion.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest
from lab import Proxy, disks, product, wait_until

from .conftest import Disk, dense_chain

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from lab import Vm


def saved(disk: Disk) -> None:
    disk.vm.save()


def about_to_leave(disk: Disk) -> None:
    disk.vm.migrate("exec:cat > /dev/null", "pause-before-switchover")
    disk.vm.wait_migration("pre-switchover")


def not_come_yet(disk: Disk) -> None:
    """It was booted so."""


STATES = [
    pytest.param("postmigrate", saved, (), "saved", id="postmigrate"),
    pytest.param("finish-migrate", about_to_leave, (), "migrat", id="finish-migrate"),
    pytest.param("inmigrate", not_come_yet, ("-incoming", "defer"), "incoming migration", id="inmigrate"),
]


@pytest.mark.parametrize(("state", "lead_there", "words", "told"), STATES)
def test_nothing_is_started(
    folder: Path,
    boot: Callable[..., Vm],
    state: str,
    lead_there: Callable[[Disk], None],
    words: tuple[str, ...],
    told: str,
) -> None:
    """The task is refused with the reason, in check mode too, and no job is left."""
    chain = dense_chain(folder)
    disk = Disk(boot(*disks.drive(chain.top, id="drive0", qdev="vda"), *words, running=not words), chain)
    lead_there(disk)
    assert disk.vm.status == state
    for check in (True, False):
        result = product.module("block_stream", check=check, monitors=[disk.vm.monitor], disks=["vda"])
        disk.assert_claims_nothing(result, told)
        assert disk.vm.jobs() == {}
    assert disk.job_ends() == []


def test_a_saved_vm_that_goes_on_is_populated(running: Callable[..., Disk]) -> None:
    """What the refusal says to do is enough: the VM gets `cont`, and the same task does it all."""
    disk = running()
    disk.vm.save()
    assert "`cont`" in disk.stream()["msg"]
    disk.assert_goes_on_and_finishes()


@pytest.mark.parametrize("options", [{}, {"wait": False}], ids=["waits", "does not wait"])
def test_a_job_at_its_end_is_not_finalized(saveable: Callable[..., Disk], options: dict[str, object]) -> None:
    """The migration is complete and a job is left: the task says that the VM left, and where to go on."""
    disk = saveable()
    job = disk.start()
    disk.vm.save()
    disk.complete(job)
    result = disk.stream(**options)
    disk.assert_claims_nothing(result, "saved", "destination", "`cont`")
    assert disk.vm.jobs()[job]["status"] == "pending"
    disk.vm.command("cont")
    disk.assert_streamed_again(disk.stream())


@pytest.mark.parametrize("at_its_end", [False, True], ids=["running", "pending"])
@pytest.mark.parametrize("state", ["aborted", "paused"])
def test_no_other_wish_ends_qemu(saveable: Callable[..., Disk], state: str, *, at_its_end: bool) -> None:
    """Whatever the task makes of it: QEMU lives, the VM can go on, and then the disk is populated."""
    disk = saveable()
    job = disk.start()
    disk.vm.save()
    if at_its_end:
        disk.complete(job)
    disk.stream(state=state)
    assert disk.vm.status == "postmigrate"
    disk.assert_goes_on_and_finishes(speed="0")


def test_a_run_that_waits_while_the_vm_leaves(saveable: Callable[..., Disk]) -> None:
    """The migration completes and the job comes to its end before the VM goes on: QEMU lives, nothing is claimed."""
    disk = saveable()
    task = disk.begin()
    (job,) = disk.vm.jobs()
    disk.vm.save()
    if job in disk.vm.jobs():
        disk.vm.command("block-job-set-speed", device=job, speed=0)
    disk.assert_claims_nothing(task.result(), "saved")
    disk.assert_goes_on_and_finishes(speed="0")


def test_a_save_that_comes_between_the_flush_and_the_end_of_the_job(saveable: Callable[..., Disk]) -> None:
    """What was true when the job was at its end is asked once more, right before it is finished: QEMU lives."""
    disk = saveable()
    flushed = []

    def save_once(word: str) -> None:
        # The first flush is that before the stream.
        flushed.extend([word] * (word == "return human-monitor-command" and bool(disk.vm.jobs())))
        if flushed == [word]:
            disk.vm.save()

    with Proxy(disk.vm.monitor, disk.vm.folder / "proxy.qmp", save_once) as proxy:
        result = disk.stream(monitors=[proxy.path])
    assert ("job-finalize" in proxy.commands, disk.vm.status) == (False, "postmigrate")
    disk.assert_claims_nothing(result, "saved", "`cont`")
    disk.assert_goes_on_and_finishes()


def test_a_migration_that_is_under_way_is_sat_out(saveable: Callable[..., Disk]) -> None:
    """The job is at its end while the VM migrates: the task asks how that goes, and is done when the VM has stayed."""
    disk = saveable()
    disk.complete(disk.start())
    with socket.socket(socket.AF_UNIX) as nobody, Proxy(disk.vm.monitor, disk.vm.folder / "proxy.qmp") as proxy:
        nobody.bind(str(disk.vm.folder / "nobody"))
        nobody.listen(1)  # takes what fits into a buffer, and no more
        disk.vm.migrate(f"unix:{disk.vm.folder}/nobody")
        disk.vm.wait_migration("active")
        task = product.Running("block_stream", {"monitors": [proxy.path], "disks": ["vda"]})
        wait_until(lambda: proxy.commands.count("query-migrate") >= 3, "the task waits for the end of the migration")
        before = list(proxy.commands)
        disk.vm.command("migrate_cancel")
        result = task.result()
    assert "job-finalize" not in before
    assert (result.failed, result["finished"]) == (False, True), result
    disk.assert_safe_after_kill()


def test_info_tells_of_the_job(saveable: Callable[..., Disk]) -> None:
    """block_stream_info only looks, and does not take the job's end for success."""
    disk = saveable()
    job = disk.start()
    disk.vm.save()
    disk.complete(job)
    result = product.module("block_stream_info", monitors=[disk.vm.monitor])
    (said,) = result["disks"]
    assert (said["populated"], said["job"]["status"], result["vms"][0]["status"]) == (False, "pending", "postmigrate")
    assert disk.vm.status == "postmigrate"
