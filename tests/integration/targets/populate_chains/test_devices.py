# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Devices of every kind, filters between them and the disk, and the bitmaps that a backup keeps in an image."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import pytest
from lab import Scene, Vm, disks, images, product

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Boot = Callable[..., Vm]

KiB, MiB = images.KiB, images.MiB


def throttled_drive(chain: images.Chain) -> list[str]:
    return disks.drive(chain.top, id="drive0", qdev="vda", **{"throttling.bps-total": str(64 * MiB)})


def throttle_group(chain: images.Chain) -> list[str]:
    words = ["-object", f"throttle-group,id=slow,x-bps-total={64 * MiB}"]
    words += disks.blockdev("qcow2", "top", file={"driver": "file", "filename": str(chain.top)})
    words += disks.blockdev("throttle", "limit", throttle_group="slow", file="top")
    return words + disks.frontend("virtio-blk-pci", "vda", drive="limit")


def copy_on_read_drive(chain: images.Chain) -> list[str]:
    return disks.drive(chain.top, id="drive0", qdev="vda", copy_on_read="on")


def copy_on_read_filter(chain: images.Chain) -> list[str]:
    words = disks.blockdev("qcow2", "top", file={"driver": "file", "filename": str(chain.top)})
    words += disks.blockdev("copy-on-read", "cor", file="top")
    return words + disks.frontend("virtio-blk-pci", "vda", drive="cor")


def two_filters(chain: images.Chain) -> list[str]:
    words = ["-object", f"throttle-group,id=slow,x-bps-total={64 * MiB}"]
    words += disks.blockdev("qcow2", "top", file={"driver": "file", "filename": str(chain.top)})
    words += disks.blockdev("copy-on-read", "cor", file="top")
    words += disks.blockdev("throttle", "limit", throttle_group="slow", file="cor")
    return words + disks.frontend("virtio-blk-pci", "vda", drive="limit")


def iothread(chain: images.Chain) -> list[str]:
    words = ["-object", "iothread,id=io0"]
    return words + [
        word.replace("virtio-blk-pci,", "virtio-blk-pci,iothread=io0,")
        for word in disks.drive(chain.top, id="drive0", qdev="vda")
    ]


def scsi_iothread(chain: images.Chain) -> list[str]:
    words = ["-object", "iothread,id=io0", *disks.frontend("virtio-scsi-pci", "scsi0", iothread="io0")]
    return words + disks.node(chain.top, node_name="top", qdev="vda", device="scsi-hd")


def ide(chain: images.Chain) -> list[str]:
    return disks.drive(chain.top, id="drive0", qdev="vda", device="ide-hd")


def unused(chain: images.Chain) -> list[str]:
    return disks.drive(chain.top, id="vda", device=None)


@pytest.mark.parametrize(
    "words",
    [
        throttled_drive,
        throttle_group,
        copy_on_read_drive,
        copy_on_read_filter,
        two_filters,
        iothread,
        scsi_iothread,
        ide,
        unused,
    ],
)
def test_every_kind_of_device(folder: Path, boot: Boot, words: Callable[[images.Chain], list[str]]) -> None:
    """Under filters, limits and threads of its own: QEMU lives, the disk is populated, and the rerun is unchanged."""
    chain = images.chain(folder, layers=2)
    disk = Scene(boot(*words(chain)), chain)
    result = disk.stream()
    assert (result.failed, result["changed"], result["finished"]) == (False, True, True), result
    assert not set(chain.images[1:]) & disk.vm.open_files()
    again = disk.stream()
    assert (again.failed, again["changed"], again["finished"]) == (False, False, True), again
    disk.assert_safe_after_kill()


@pytest.mark.parametrize("words", [copy_on_read_filter, two_filters, iothread])
def test_a_stream_under_a_filter_is_seen_joined_and_ended(
    folder: Path, boot: Boot, words: Callable[[images.Chain], list[str]]
) -> None:
    """The job under a filter belongs to the disk above: paused, resumed and aborted as any other."""
    disk = Scene(boot(*words(images.chain(folder))), images.chain(folder, prefix="unused-"))
    disk.start()
    for options, action in (
        ({"state": "paused"}, "paused"),
        ({"wait": False}, "resumed"),
        ({"state": "aborted"}, "stopped"),
        ({"state": "aborted"}, "none"),
    ):
        result = disk.stream(**options)
        assert (result.failed, result["disks"][0]["action"]) == (False, action), result
    assert disk.vm.jobs() == {}


def test_disks_with_threads_of_their_own_in_parallel(folder: Path, boot: Boot) -> None:
    """Two disks in two iothreads at once, killed right after the task: nothing is lost."""
    chains = [images.chain(folder, prefix=f"{number}-", seed=number) for number in range(2)]
    words = []
    for number, chain in enumerate(chains):
        words += ["-object", f"iothread,id=io{number}"]
        words += disks.node(chain.top, node_name=f"node{number}", device=None)
        words += disks.frontend("virtio-blk-pci", f"vd{number}", drive=f"node{number}", iothread=f"io{number}")
    vm = boot(*words)
    result = product.module("block_stream", monitors=[vm.monitor], disks=["*"], parallel=2)
    vm.kill()
    assert (result.failed, result["finished"]) == (False, True), result
    for chain in chains:
        chain.take_away()
        assert images.differences(chain.expected, images.content(chain.top)) == []


def test_dirty_bitmaps_are_kept(disk: Scene) -> None:
    """A persistent bitmap of a backup survives with what the guest wrote and nothing else, in QEMU and in the image."""

    def bitmap() -> dict[str, Any]:
        (found,) = disk.vm.inserted("vda")["dirty-bitmaps"]
        return {key: found[key] for key in ("name", "count", "persistent", "recording")}

    node = disk.vm.inserted("vda")["node-name"]
    disk.vm.command("block-dirty-bitmap-add", node=node, name="nightly", persistent=True)
    disk.vm.guest_write("vda", 9 * MiB, 64 * KiB, 7)
    before = bitmap()
    assert before["count"] == 64 * KiB
    result = disk.stream()
    assert (result.failed, result["finished"]) == (False, True), result
    assert bitmap() == before
    disk.vm.kill(signal.SIGTERM)  # as `quit` does: QEMU writes the bitmap, and ends
    (kept,) = images.info(disk.chain.top)["format-specific"]["data"]["bitmaps"]
    assert (kept["name"], kept["flags"]) == ("nightly", ["auto"])
