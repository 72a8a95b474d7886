# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Top images that are not what they seem: temporary, deleted, replaced, renamed, or with internal snapshots."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
from lab import Scene, Vm, disks, images
from lab.process import run

from .conftest import assert_claims_nothing, assert_left_out, assert_populated, assert_refused, free_paths, warnings_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Boot = Callable[..., Vm]


@pytest.fixture
def disk(folder: Path, boot: Boot) -> Scene:
    """`vda` over one base."""
    chain = images.chain(folder)
    return Scene(boot(*disks.drive(chain.top, id="drive0", qdev="vda")), chain)


# -- Temporary: QEMU's -snapshot puts an unlinked file above the VM's own disk -----------------------------------------


@pytest.fixture(params=["-snapshot", "snapshot=on"])
def temporary(request: pytest.FixtureRequest, folder: Path, boot: Boot) -> Scene:
    """`vda` whose top is a file in /var/tmp that has no name any more; what is below is the VM's disk."""
    chain = images.chain(folder)
    options = {"snapshot": "on"} if request.param == "snapshot=on" else {}
    more = ["-snapshot"] if request.param == "-snapshot" else []
    return Scene(boot(*disks.drive(chain.top, id="drive0", qdev="vda", **options), *more), chain)


def test_a_temporary_top_is_refused(temporary: Scene) -> None:
    """Populating it would leave the VM's disk unused, and the data in a file that is gone when the VM ends."""
    for check in (False, True):
        result = temporary.stream(check=check)
        assert free_paths(result) == []
        assert_refused(result, temporary.vm, "vda", str(temporary.chain.top))
    assert temporary.depth == 2


def test_a_temporary_top_alone_is_refused_of_all_disks(temporary: Scene) -> None:
    """`"*"` that leaves nothing to do is no success, and calls no image free."""
    result = temporary.stream(disks=["*"])
    assert free_paths(result) == []
    assert_refused(result, temporary.vm, "vda", str(temporary.chain.top))
    assert temporary.depth == 2


def test_a_temporary_top_beside_a_good_disk(folder: Path, boot: Boot) -> None:
    """`"*"` populates the good one."""
    chain, good = images.chain(folder), images.chain(folder, prefix="good-")
    vm = boot(
        *disks.drive(chain.top, id="drive0", qdev="vda", snapshot="on"),
        *disks.drive(good.top, id="drive1", qdev="vdb"),
    )
    result = Scene(vm, chain).stream(disks=["*"])
    assert free_paths(result) == [str(good.base)]
    assert_left_out(result, vm, "vda", depth=2)
    Scene(vm, good).assert_safe_after_kill()


# -- Deleted, replaced, renamed ----------------------------------------------------------------------------------------


def delete(top: Path) -> None:
    top.unlink()


def replace_by_overlay(top: Path) -> None:
    """A restore puts another overlay in its place."""
    images.create(top.with_name("new.qcow2"), backing=top.with_name("base.qcow2")).rename(top)


def replace_by_image(top: Path) -> None:
    """A restore puts an image that needs no other in its place."""
    images.create(top.with_name("new.qcow2"), 16 * images.MiB).rename(top)


def replace_by_copy(top: Path) -> None:
    """As rsync does: the same bytes in another file."""
    copy = top.with_name("copy.qcow2")
    shutil.copy(top, copy)
    copy.rename(top)


@pytest.mark.parametrize("lose", [delete, replace_by_overlay, replace_by_image, replace_by_copy])
def test_a_top_that_lost_its_name(disk: Scene, lose: Callable[[Path], None]) -> None:
    """Nothing is populated or free where the next start of the VM finds another file, or none; the message says so."""
    lose(disk.chain.top)
    result = disk.stream()
    assert_claims_nothing(result)
    assert str(disk.chain.top) in result["msg"]
    assert "restart the VM" not in result["msg"]  # it would boot from the other file
    assert_claims_nothing(disk.stream())


@pytest.mark.parametrize("lose", [delete, replace_by_overlay, replace_by_image, replace_by_copy])
def test_a_top_that_lost_its_name_is_told(disk: Scene, lose: Callable[[Path], None]) -> None:
    """block_stream_info says that the path is not the file that QEMU has open, before a stream and after one."""
    lose(disk.chain.top)
    before = disk.info()
    disk.start_foreign_job()
    disk.vm.wait_event("BLOCK_JOB_COMPLETED", device="foreign")
    looks = [before, disk.info()]
    assert [said["populated"] for said in looks if said["populated"]] == []
    for said in looks:
        assert (said.get("same_file"), said["stale_header"]) == (
            False,
            None,
        )  # the header of the other file is not ours
        assert str(disk.chain.top) in said["reason"]


def test_a_top_that_was_renamed(disk: Scene, folder: Path) -> None:
    """It still is the file that QEMU has open: it is populated, and the results call it by its name of today."""
    renamed = disk.chain.top.rename(folder / "renamed.qcow2")
    result = disk.stream()
    assert_populated(result)
    assert not images.is_linked(renamed)
    (told,) = result["disks"]
    assert (told["path"], told["chain"][0]["path"]) == (str(renamed), str(renamed))
    assert (told["filename"], told["same_file"]) == (str(disk.chain.top), True)
    Scene(disk.vm, images.Chain((renamed, disk.chain.base), disk.chain.expected)).assert_safe_after_kill()


# -- Internal snapshots, whose clusters are read from the base as well -------------------------------------------------


def by_qmp(vm: Vm) -> None:
    vm.command("blockdev-snapshot-internal-sync", device="drive0", name="second")


def with_state(vm: Vm) -> None:
    assert vm.hmp("savevm second") == ""


@pytest.mark.parametrize("take", [by_qmp, with_state])
def test_the_base_of_internal_snapshots_is_not_free(folder: Path, boot: Boot, take: Callable[[Vm], None]) -> None:
    """The disk is populated, but its snapshots read the base: it is not free, and the way back to them is told."""
    chain = images.chain(folder)
    run([images.qemu_img(), "snapshot", "-c", "first", chain.top])
    disk = Scene(boot(*disks.drive(chain.top, id="drive0", qdev="vda")), chain)
    take(disk.vm)
    result = disk.stream()
    assert_populated(result)
    (released,) = result["disks"][0]["released"]
    assert (released["free"], "2 internal snapshots" in released["reason"]) == (False, True), released
    assert f"qemu-img rebase -u -b {chain.base} -F qcow2 {chain.top}" in warnings_of(result)
    assert disk.info()["snapshots"] == 2
    assert free_paths(disk.stream()) == []
    disk.vm.kill()
    # A header that names no base makes zeros of what the snapshots read from it. The way back needs the base.
    run([images.qemu_img(), "rebase", "-u", "-b", chain.base, "-F", "qcow2", chain.top])
    assert images.differences(chain.expected, images.snapshot_content(chain.top, "first")) == []


def test_internal_snapshots_are_left_alone_by_all_disks(folder: Path, boot: Boot) -> None:
    """`"*"` passes such a disk by with the same words, and populates the one beside it."""
    chain, good = images.chain(folder), images.chain(folder, prefix="good-")
    run([images.qemu_img(), "snapshot", "-c", "first", chain.top])
    vm = boot(
        *disks.drive(chain.top, id="drive0", qdev="vda"),
        *disks.drive(good.top, id="drive1", qdev="vdb"),
    )
    result = Scene(vm, chain).stream(disks=["*"])
    assert free_paths(result) == [str(good.base)]
    assert_left_out(result, vm, "vda", depth=1)
    assert "qemu-img rebase" in warnings_of(result)
    Scene(vm, good).assert_safe_after_kill()


def test_how_many_internal_snapshots_there_are(disk: Scene) -> None:
    """block_stream_info counts them as they come."""
    assert disk.info().get("snapshots") == 0
    by_qmp(disk.vm)
    assert disk.info()["snapshots"] == 1
