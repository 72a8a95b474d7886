# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Proxmox' "snapshot as volume chain": the images below a VM's disk are the user's snapshots.

Their names say so: `snap-NAME-vm-100-disk-0.qcow2` in a folder, `snap_vm-100-disk-0_NAME.qcow2` as a logical volume. To
populate such a disk leaves the snapshots without a disk above them, and Proxmox knows nothing of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from lab import Scene, Vm, disks, images

from .conftest import assert_left_out, assert_populated, assert_refused, free_paths

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Boot = Callable[..., Vm]

SIZE = 16 * images.MiB
TEMPLATE = "base-9000-disk-0.qcow2"


@dataclass(frozen=True)
class Style:
    """How a kind of storage calls a VM's disk and its snapshots, the oldest first."""

    top: str
    snapshots: tuple[str, ...]
    are_devices: bool = False


FOLDER = Style("vm-100-disk-0.qcow2", ("snap-before-vm-100-disk-0.qcow2", "snap-after-vm-100-disk-0.qcow2"))
# Names in /dev are links to nodes of other names: what the name says is lost where only the file is looked at.
VOLUME_GROUP = Style(
    "vm-100-disk-0.qcow2", ("snap_vm-100-disk-0_before.qcow2", "snap_vm-100-disk-0_after.qcow2"), are_devices=True
)


def build(folder: Path, style: Style, *more: str) -> images.Chain:
    """A linked clone of a template with these snapshots; `more` are images between the newest one and the top."""
    model = bytearray(SIZE)
    made: list[Path] = []
    for layer, name in enumerate((TEMPLATE, *style.snapshots, *more, style.top)):
        writes = images.layer_writes(layer, SIZE, seed=1) if layer < 3 else []
        path = folder / name
        if style.are_devices:
            path.symlink_to(f"dm-{layer}")
        images.create(path, SIZE, backing=made[0] if made else None, writes=writes)
        made.insert(0, path)
        for each in writes:
            model[each.offset : each.offset + each.size] = each.content
    return images.Chain(tuple(made), bytes(model))


@pytest.fixture(params=[FOLDER, VOLUME_GROUP], ids=["folder", "volume group"])
def snapshots(request: pytest.FixtureRequest, folder: Path, boot: Boot) -> Scene:
    """`vda`, the VM's disk above its snapshots `before` and `after`, above a template."""
    chain = build(folder, request.param)
    return Scene(boot(*disks.drive(chain.top, id="drive0", qdev="vda"), name="100"), chain)


def test_a_disk_above_snapshots_is_refused(snapshots: Scene) -> None:
    """Nothing is begun, and the reason names the snapshots."""
    for check in (False, True):
        result = snapshots.stream(check=check)
        assert_refused(result, snapshots.vm, "vda", "snapshot", "before", "after")
        assert free_paths(result) == []
    assert snapshots.depth == 3


def test_a_base_below_a_snapshot_is_refused(snapshots: Scene) -> None:
    """What is to go holds a snapshot still, and the reason names it."""
    assert_refused(snapshots.stream(base=str(snapshots.chain.images[2])), snapshots.vm, "vda", "after")
    assert_refused(snapshots.stream(base=str(snapshots.chain.base)), snapshots.vm, "vda", "before", "after")
    assert snapshots.depth == 3


def test_a_disk_above_snapshots_is_left_out_of_all_disks(snapshots: Scene, folder: Path, boot: Boot) -> None:
    """`"*"` passes it by with a warning that names the snapshots, and populates the VM beside it."""
    good = images.chain(folder, prefix="good-")
    other = boot(*disks.drive(good.top, id="drive0", qdev="vdb"), name="101")
    result = snapshots.stream(disks=["*"], monitors=[snapshots.vm.monitor, other.monitor])
    assert free_paths(result) == [str(good.base)]
    assert_left_out(result, snapshots.vm, "vda", depth=3)
    for word in ("before", "after"):
        assert word in str(result["warnings"])
    Scene(other, good).assert_safe_after_kill()


def test_what_is_told_of_a_disk_above_snapshots(snapshots: Scene) -> None:
    """block_stream_info says that it is not populated, and why nobody should."""
    said = snapshots.info()
    assert said["populated"] is False
    for word in ("snapshot", "before", "after"):
        assert word in said.get("reason", "")


@pytest.mark.parametrize("style", [FOLDER, VOLUME_GROUP], ids=["folder", "volume group"])
def test_what_is_above_the_snapshots_may_go(folder: Path, boot: Boot, style: Style) -> None:
    """With the newest snapshot as `base` an image that is none is dropped, and all snapshots stay in the chain."""
    chain = build(folder, style, "extra.qcow2")
    disk = Scene(boot(*disks.drive(chain.top, id="drive0", qdev="vda"), name="100"), chain)
    result = disk.stream(base=str(chain.images[2]))
    assert (result.failed, result["finished"], disk.depth) == (False, True, 3), result.get("msg")
    disk.vm.kill()
    chain.images[1].unlink()
    assert images.differences(chain.expected, images.content(chain.top)) == []


def test_a_linked_clone_without_snapshots(folder: Path, boot: Boot) -> None:
    """It is populated from its template, as ever."""
    chain = build(folder, Style(FOLDER.top, ()))
    disk = Scene(boot(*disks.drive(chain.top, id="drive0", qdev="vda"), name="100"), chain)
    assert_populated(disk.stream())
    disk.assert_safe_after_kill()


@pytest.mark.parametrize("name", ["snapshot-1.qcow2", "snap.qcow2", "web01-snap-before.qcow2", "snap-web01.qcow2"])
def test_other_images_may_be_called_snapshots(folder: Path, boot: Boot, name: str) -> None:
    """Layers that only sound alike are what this collection is for, and are populated."""
    chain = build(folder, Style("web01.qcow2", (name,)))
    disk = Scene(boot(*disks.drive(chain.top, id="drive0", qdev="vda")), chain)
    assert_populated(disk.stream())
    disk.assert_safe_after_kill()
