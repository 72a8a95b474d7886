# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is read ahead is what a plain stream copies, byte by byte and no more, while a guest writes everywhere."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from lab import Vm, WebServer, can_qemu_read_it, disks, images, product, wait_until
from lab.process import run

from .conftest import Far

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MiB = images.MiB


@pytest.mark.parametrize("base_format", ["raw", "qcow2"])
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_chains(far: Callable[..., Far], layers: int, base_format: str) -> None:
    """Whatever the chain is made of, the disk reads as before, with all that the guest wrote meanwhile."""
    disk = far(layers=layers, base_format=base_format)
    with disk.guest():
        result = disk.read_ahead()
    disk.assert_populated(result)


@pytest.mark.parametrize("options", ["cluster_size=512", "cluster_size=4k", "cluster_size=2M", "compat=0.10"])
def test_kinds_of_tops(far: Callable[..., Far], options: str) -> None:
    """The same with small and large clusters, with the old format."""
    disk = far(layers=2, base_format="qcow2", options=options)
    with disk.guest():
        result = disk.read_ahead(read_ahead=16)
    disk.assert_populated(result)


def test_subclusters(far: Callable[..., Far]) -> None:
    """The same with subclusters, where QEMU may stream into such an image."""
    disk = far(base_format="qcow2", options="extended_l2=on,cluster_size=128k")
    if disk.vm.version < (8, 2):
        result = disk.read_ahead()
        assert "extended_l2" in result["msg"]
        assert disk.vm.is_alive
        return
    with disk.guest():
        result = disk.read_ahead()
    disk.assert_populated(result)


def test_above_a_base(far: Callable[..., Far]) -> None:
    """What the base has stays there: none of its data is fetched, and the disk reads as before."""
    disk = far(layers=3, delay=0.001)
    before = disk.link.answered
    with disk.guest():
        result = disk.read_ahead(base=disk.link.address.replace("///", "//"))
    assert (result.failed, result["finished"]) == (False, True), result
    assert disk.chain.images[1].name not in str(result["disks"][0]["chain"])
    disk.vm.kill()
    assert disk.model.losses(images.content(disk.chain.top), crashed=True) == []
    # The guest's own writes fetch the rest of their clusters.
    assert disk.link.answered - before < 4 * MiB


@pytest.mark.parametrize("base_format", ["raw", "qcow2"])
def test_no_more_than_a_plain_stream(folder: Path, far: Callable[..., Far], base_format: str) -> None:
    """The image takes up what it takes up after a plain stream, and a sparse disk stays sparse."""
    disk = far(layers=2, base_format=base_format, size=64 * MiB)
    result = disk.read_ahead()
    disk.assert_populated(result)
    plain = images.chain(folder, layers=2, base_format=base_format, size=64 * MiB, prefix="plain-")
    with Vm(folder, *disks.drive(plain.top, id="drive0", qdev="vda"), name="plain") as vm:
        product.module("block_stream", monitors=[vm.monitor], disks=["vda"])
        vm.kill()
    sizes = [images.info(top)["actual-size"] for top in (disk.chain.top, plain.top)]
    assert sizes[0] <= sizes[1] + MiB // 4


def test_a_disk_that_is_longer_than_its_base(folder: Path, far: Callable[..., Far]) -> None:
    """Behind the end of a raw base nothing is read, and nothing is written there."""
    disk = far(size=16 * MiB)
    disk.vm.kill()
    run([images.qemu_img(), "resize", "-q", disk.chain.top, str(64 * MiB)])
    with Vm(folder, *disks.drive(disk.chain.top, id="drive0", qdev="vda"), name="vm1") as vm:
        result = product.module("block_stream", monitors=[vm.monitor], disks=["vda"], read_ahead=8)
        assert (result.failed, result["finished"]) == (False, True), result
        vm.kill()
    content = images.content(disk.chain.top)
    assert content[: 16 * MiB] == disk.chain.expected
    assert not any(content[16 * MiB :])
    assert images.info(disk.chain.top)["actual-size"] < 18 * MiB


def test_several_disks_at_once(folder: Path, far: Callable[..., Far], boot: Callable[..., Vm]) -> None:
    """QEMU has one NBD server for all disks of a VM, which begin and end when they like, and never stands still."""
    disk = far(dense=16 * MiB, delay=0.02)
    disk.vm.kill()
    tops = [disk.chain.top]
    for name in ("other", "third"):
        tops.append(images.create(folder / f"{name}.qcow2", 16 * MiB, backing=disk.link.address, backing_format="raw"))
    words: list[str] = []
    for number, top in enumerate(tops):
        words += disks.drive(top, id=f"drive{number}", qdev=f"vd{number}")
    vm = boot(*words, name="vm1")
    result = product.module("block_stream", monitors=[vm.monitor], disks=["*"], read_ahead=4, parallel=2)
    assert (result.failed, result["finished"], result.get("warnings")) == (False, True, None), result
    assert vm.command("query-block-exports") == []
    vm.command("query-status")
    ended = [event["data"]["id"] for event in vm.judge.events if event["event"] == "BLOCK_EXPORT_DELETED"]
    assert len(ended) == 3
    assert "populate-ahead-1" in ended
    vm.kill()
    disk.chain.take_away()
    for top in tops:
        assert images.content(top) == disk.chain.expected


def test_several_vms_at_once(folder: Path, far: Callable[..., Far], boot: Callable[..., Vm]) -> None:
    """Each VM is read ahead by an export of its own, all of them at the same time."""
    disk = far(dense=16 * MiB, delay=0.02)
    top = images.create(folder / "other.qcow2", 16 * MiB, backing=disk.link.address, backing_format="raw")
    other = replace(disk, vm=boot(*disks.drive(top, id="drive0", qdev="vda"), name="vm1"))
    monitors = [disk.vm.monitor, other.vm.monitor]
    task = product.Running("block_stream", {"monitors": monitors, "disks": ["*"], "read_ahead": 4, "parallel": 2})
    wait_until(lambda: disk.exports == other.exports == ["populate-ahead-0"], "both are read ahead")
    result = task.result()
    assert (result.failed, result["finished"], result.get("warnings")) == (False, True, None), result
    disk.assert_clean()
    other.assert_clean()
    other.vm.kill()
    disk.assert_nothing_is_lost()
    assert images.content(top) == disk.chain.expected


@pytest.mark.parametrize("base_format", ["raw", "qcow2"])
def test_a_base_on_a_web_server(folder: Path, boot: Callable[..., Vm], base_format: str) -> None:
    """A golden image behind HTTP is read ahead as one behind NBD is, and no more is fetched than by a plain stream."""
    size = 16 * MiB
    content = images.Write(0, size, 7)
    base = images.create(folder / "base", size, format=base_format, writes=[content])
    with WebServer(base, delay=0.02) as server:
        if not can_qemu_read_it(server):
            pytest.skip("this QEMU reads no image over HTTP (Debian has that in qemu-block-extra)")
        top = images.create(folder / "top.qcow2", size, backing=server.address, backing_format=base_format)
        vm = boot(*disks.drive(top, id="drive0", qdev="vda"))
        before = server.answered
        result = product.module("block_stream", monitors=[vm.monitor], disks=["vda"], read_ahead=8)
        assert (result.failed, result["finished"], result.get("warnings")) == (False, True, None), result
        assert (vm.command("query-block-exports"), vm.inserted("vda")["backing_file_depth"]) == ([], 0)
        vm.command("query-status")
        assert "BLOCK_EXPORT_DELETED" in [event["event"] for event in vm.judge.events]
        # QEMU's driver for HTTP fetches 256 KiB more than it is asked for, each time.
        assert server.answered - before < 1.6 * size
        vm.kill()
    assert images.content(top) == content.content
