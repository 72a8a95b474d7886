# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""`check_space`: refused with the figures before anything is started, unless the user knows better."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from lab import Scene, Vm, disks, host, images, product

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def space_of(disk: Scene) -> dict[str, int]:
    """What block_stream_info says of the disk."""
    (found,) = product.module("block_stream_info", monitors=[disk.vm.monitor], disks=["vda"])["disks"]
    space: dict[str, int] = found["space"]
    return space


def test_too_little_room_is_refused_with_the_figures(crowded: Scene, small: host.FileSystem) -> None:
    """The same refusal in check mode and without: what may be written, what is free, and the way out."""
    space = space_of(crowded)
    assert space["free"] == small.free < space["needed"] <= crowded.chain.base.stat().st_blocks * 512
    for check in (True, False):
        result = crowded.stream(check=check)
        assert (result.failed, result["changed"], result["finished"]) == (True, False, False), result
        for word in ("vda", str(space["needed"]), str(space["free"]), "check_space"):
            assert word in result["msg"]
        assert result["disks"][0]["space"] == space
    assert (crowded.vm.job_events(), crowded.depth) == ([], 1)


def test_check_mode_shows_the_figures_of_what_fits(crowded: Scene, small: host.FileSystem) -> None:
    """Where there is room, check mode shows what may be written and what is free, and the run keeps the bound."""
    small.resize(64 * images.MiB)
    checked = crowded.stream(check=True)
    assert (checked.failed, checked["changed"]) == (False, True), checked
    space = checked["disks"][0]["space"]
    assert space == space_of(crowded)
    assert space["free"] == small.free
    assert not crowded.stream().failed
    assert small.free >= space["free"] - space["needed"]


def test_who_knows_better_goes_on(crowded: Scene) -> None:
    """`check_space: false` starts the stream, and QEMU says when the file system is full."""
    result = crowded.stream(check_space=False)
    assert result.failed
    assert "No space left on device" in result["msg"]
    assert crowded.vm.job_events() != []


def test_a_base_that_stays_needs_no_room(crowded: Scene) -> None:
    """Only what is dropped counts: with `base` as the image right below there is nothing to copy, and no refusal."""
    result = crowded.stream(base=str(crowded.chain.base))
    assert (result.failed, result["changed"], result["finished"]) == (False, False, True), result


def test_a_stream_that_runs_is_not_refused(crowded: Scene) -> None:
    """A job that is there already is joined, whatever the figures say."""
    crowded.start(check_space=False)
    result = crowded.stream(wait=False)
    assert (result.failed, result["disks"][0]["action"]) == (False, "joined"), result


@pytest.fixture
def two(folder: Path, small: host.FileSystem) -> Any:
    """Two disks with their tops on one file system, which has room for either of them, but not for both."""
    chains = [images.chain(folder, layers=0, prefix=f"{letter}-") for letter in "ab"]
    tops = [
        images.create(small.path / f"{letter}.qcow2", backing=chain.base)
        for letter, chain in zip("ab", chains, strict=True)
    ]
    small.resize(6 * images.MiB)
    words = [
        word
        for letter, top in zip("ab", tops, strict=True)
        for word in disks.drive(top, id=f"drive-{letter}", qdev=f"vd{letter}")
    ]
    with Vm(folder, *words) as vm:
        yield vm


def test_all_disks_of_a_file_system_count_together(two: Vm) -> None:
    """Two disks that fit one by one are refused together, both named; either alone is done."""
    both = product.module("block_stream", monitors=[two.monitor], disks=["vda", "vdb"])
    assert (both.failed, both["changed"], two.job_events()) == (True, False, []), both
    needed = sum(disk["space"]["needed"] for disk in both["disks"])
    for word in ("vda", "vdb", str(needed)):
        assert word in both["msg"]
    assert not product.module("block_stream", monitors=[two.monitor], disks=["vda"]).failed


def test_disks_of_two_file_systems_count_apart(crowded: Scene, folder: Path, boot: Callable[..., Vm]) -> None:
    """The disk on the roomy file system does not make up for the full one: nothing is started, only one is named."""
    chain = images.chain(folder, prefix="roomy-")
    roomy = boot(*disks.drive(chain.top, id="drive0", qdev="vdr"), name="roomy")
    result = product.module("block_stream", monitors=[crowded.vm.monitor, roomy.monitor], disks=["vda", "vdr"])
    assert (result.failed, result["changed"]) == (True, False), result
    assert "vda" in result["msg"]
    assert "vdr" not in result["msg"]
    assert (crowded.vm.job_events(), roomy.job_events()) == ([], [])
