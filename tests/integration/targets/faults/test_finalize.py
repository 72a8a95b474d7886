# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""The last write of all fails: QEMU drops the backing chain in memory, and the header on the storage still names it."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import pytest
from lab import Scene, disks, images, product

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from lab import Vm

# What blkdebug lets fail on the top's file: the header itself, or the tables that must be there before it.
FAULTS = [
    pytest.param({"event": "none", "iotype": "write", "sector": 0, "errno": 5}, id="header"),
    pytest.param({"event": "l2_update", "errno": 28}, id="tables"),
]


def header_names_a_backing_image(top: Path) -> bool:
    """The header as it is on the storage, which only QEMU's next start reads."""
    with top.open("rb") as file:
        magic, _version, offset = struct.unpack(">4sIQ", file.read(16))
    assert magic == b"QFI\xfb"
    return bool(offset)


@pytest.fixture
def unfinalizable(folder: Path, boot: Callable[..., Vm]) -> Callable[[dict[str, Any]], Scene]:
    """`vda` on whose top image one kind of write fails for ever."""

    def make(fault: dict[str, Any]) -> Scene:
        chain = images.chain(folder)
        words = disks.blockdev("file", "file", filename=str(chain.top))
        words += disks.blockdev("blkdebug", "faults", image="file", inject_error=[{"once": False, **fault}])
        words += disks.blockdev("qcow2", "top", file="faults")
        return Scene(boot(*words, *disks.frontend("virtio-blk-pci", "vda", drive="top")), chain)

    return make


@pytest.mark.parametrize("fault", FAULTS)
def test_the_base_of_a_failed_finalize_is_not_free(
    unfinalizable: Callable[[dict[str, Any]], Scene], fault: dict[str, Any]
) -> None:
    """The task fails, does not say that it finished, and calls no file free that the header still names."""
    disk = unfinalizable(fault)
    result = disk.stream()
    assert header_names_a_backing_image(disk.chain.top)
    assert (result.failed, result["finished"]) == (True, False), result["msg"]
    assert [file["path"] for file in result["disks"][0]["released"] if file["free"]] == []


@pytest.mark.parametrize("fault", FAULTS)
def test_a_rerun_after_a_failed_finalize_claims_nothing(
    unfinalizable: Callable[[dict[str, Any]], Scene], fault: dict[str, Any]
) -> None:
    """As long as the header names a backing image, no run says populated: without that image the disk is lost.

    Tables that cannot be written are told by the flush before the job is finalized, so the job waits still.
    """
    disk = unfinalizable(fault)
    disk.stream()
    again = disk.stream()
    assert header_names_a_backing_image(disk.chain.top)
    assert (again.failed, again["finished"]) == (True, False), again
    (seen,) = product.module("block_stream_info", monitors=[disk.vm.monitor], disks=["vda"])["disks"]
    assert seen["populated"] is False
    if fault["event"] == "l2_update":
        assert (seen["stale_header"], seen["job"]["status"], len(seen["chain"])) == (None, "pending", 2)
    else:
        assert (seen["stale_header"], seen["job"]) == (str(disk.chain.base), None)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_failed_finalize_is_cured_by_a_restart(
    unfinalizable: Callable[[dict[str, Any]], Scene], fault: dict[str, Any], boot: Callable[..., Vm]
) -> None:
    """As the message says: the storage is well again, the VM is restarted, the task runs again, and nothing is lost."""
    broken = unfinalizable(fault)
    assert broken.stream().failed
    assert "restart the VM" in broken.stream()["msg"]
    broken.vm.kill()
    healed = Scene(boot(*disks.drive(broken.chain.top, id="drive0", qdev="vda"), name="healed"), broken.chain)
    result = healed.stream()
    assert (result.failed, result["finished"]) == (False, True), result
    healed.vm.kill()
    for below in broken.chain.images[1:]:
        below.unlink()
    assert images.differences(broken.chain.expected, images.content(broken.chain.top)) == []
