# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is not in the top keeps the link, whatever made a job say that all is copied: the map of the chain tells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from lab import NbdServer, Scene, disks, images, wait_until

from .conftest import SIZE, Disk

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from lab import Vm


def saved_and_forgotten(disk: Disk) -> None:
    """The VM was saved, and what QEMU says of its latest migration is that it failed, and nothing of a save."""
    disk.start_and_lose_all()
    disk.vm.migrate("exec:false")
    disk.vm.wait_migration("failed")
    wait_until(lambda: disk.vm.status == "running", "the VM goes on")


def stream_on_inactive_images(disk: Disk) -> None:
    """A job that comes to its end while QEMU may not write to the images; they are inactive until the VM goes on."""
    if disk.vm.version < (10, 0):
        pytest.skip("this QEMU has no blockdev-set-active")
    job = disk.start()
    disk.vm.command("stop")
    disk.vm.command("blockdev-set-active", active=False)
    disk.complete(job)


def made_inactive(disk: Disk) -> None:
    """The images were inactive for a while, without any migration: QEMU 10.0 has a command for it, and no event."""
    stream_on_inactive_images(disk)
    disk.vm.command("cont")
    assert disk.vm.command("query-migrate") == {}


@pytest.mark.parametrize("cause", [saved_and_forgotten, made_inactive])
def test_what_was_not_copied_keeps_the_link(saveable: Callable[..., Disk], cause: Callable[[Disk], None]) -> None:
    """Nothing that QEMU says gives the job away: the task warns, gives it up and streams again."""
    disk = saveable()
    cause(disk)
    assert [(job["status"], job["offset"]) for job in disk.vm.jobs().values()] == [("pending", SIZE)]
    result = disk.stream()
    disk.assert_streamed_again(result)
    assert any("vda" in warning and "again" in warning for warning in map(str, result["warnings"])), result
    assert result["disks"][0]["proof"] == "map"


def test_images_that_are_still_inactive(running: Callable[..., Disk]) -> None:
    """A job at its end on images that QEMU may not write to, in no migration: the task fails, and QEMU lives."""
    disk = running()
    stream_on_inactive_images(disk)
    disk.assert_claims_nothing(disk.stream(), "inactive")
    disk.vm.command("cont")
    disk.assert_streamed_again(disk.stream())


@pytest.mark.parametrize("layers", [2, 34])
def test_a_job_to_a_base_is_not_the_whole_way(running: Callable[..., Disk], layers: int) -> None:
    """Somebody else's job had a base, and this task has none: what is below that base is copied, too.

    Of a long chain qemu-img is asked in pieces, and the base is in another one than the top.
    """
    disk = running(layers)
    disk.start_foreign_job(base=str(disk.chain.base), auto_finalize=False)
    disk.vm.wait_event("BLOCK_JOB_PENDING", id="foreign")
    result = disk.stream()
    assert (result.failed, result["finished"], disk.vm.jobs()) == (False, True, {}), result
    assert result["disks"][0]["proof"] == "map"
    disk.assert_safe_after_kill()


def test_a_job_of_the_whole_way_serves_a_base(running: Callable[..., Disk]) -> None:
    """The other way round: the job goes further than the task asks for, and loses nothing."""
    disk = running(2)
    disk.start_foreign_job(auto_finalize=False)
    disk.vm.wait_event("BLOCK_JOB_PENDING", id="foreign")
    result = disk.stream(base=str(disk.chain.base))
    assert (result.failed, result["finished"], disk.vm.jobs()) == (False, True, {}), result
    disk.vm.kill()
    assert images.differences(disk.chain.expected, images.content(disk.chain.top)) == []


@pytest.fixture(params=["qcow2", "raw", "nbd"])
def over(request: pytest.FixtureRequest, folder: Path, boot: Callable[..., Vm]) -> Scene:
    """`vda` over each kind of base."""

    def serve(image: Path) -> str:
        server = NbdServer(image, folder / "base.nbd")
        request.addfinalizer(server.kill)
        return server.start().address

    base_format = "qcow2" if request.param == "qcow2" else "raw"
    chain = images.chain(folder, layers=2, base_format=base_format, serve=serve if request.param == "nbd" else None)
    return Scene(boot(*disks.drive(chain.top, id="drive0", qdev="vda")), chain)


def test_the_map_is_the_proof(over: Scene) -> None:
    """A stream is proven by the map; a run that finds nothing to do rests on the chain."""
    result = over.stream()
    assert (result.failed, result["finished"]) == (False, True), result
    assert result["disks"][0]["proof"] == "map"
    assert over.stream()["disks"][0]["proof"] == "chain"
    over.assert_safe_after_kill()


def test_the_map_ends_at_the_base(running: Callable[..., Disk]) -> None:
    """With `base`, the base's own data is none that is missing."""
    disk = running(2)
    result = disk.stream(base=str(disk.chain.base))
    assert (result.failed, result["finished"]) == (False, True), result
    assert result["disks"][0]["proof"] == "map"
    disk.assert_right_above_base()


def test_the_last_increment_is_proven(running: Callable[..., Disk]) -> None:
    """Unfinished ones claim nothing; the last one rests on the map."""
    disk, cursor = running(), 0
    for _increment in range(8):
        result = disk.stream(increment="4M", cursor=cursor)
        assert not result.failed, result
        proof = result["disks"][0]["proof"]
        if result["finished"]:
            break
        assert proof is None
        cursor = result["disks"][0]["cursor"]
    assert (result["finished"], proof) == (True, "map")
    disk.assert_safe_after_kill()
