# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""A top with `extended_l2=on`: before QEMU 8.2, to stream one that is partly written ends the VM by an assertion."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from lab import Scene, Vm, disks, images, product
from lab.process import run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# Where a guest writes one subcluster of a cluster, and no more.
WRITES = [images.Write(images.MiB, 4096, seed=7), images.Write(1056 * images.KiB, 4096, seed=8)]


def partly_written(path: Path, base: images.Chain) -> images.Chain:
    """Such an image over a base."""
    options = "extended_l2=on,cluster_size=128k"
    run([images.qemu_img(), "create", "-q", "-f", "qcow2", "-o", options, "-b", base.base, "-F", "qcow2", path])
    images.write(path, WRITES)
    model = bytearray(base.expected)
    for each in WRITES:
        model[each.offset : each.offset + each.size] = each.content
    return images.Chain((path, *base.images), bytes(model))


@pytest.fixture
def extended(folder: Path, boot: Callable[..., Vm]) -> Scene:
    """`vda` with such a top."""
    chain = partly_written(folder / "extended.qcow2", images.chain(folder, layers=0))
    return Scene(boot(*disks.drive(chain.top, id="drive0", qdev="vda")), chain)


def test_it_is_refused_where_it_ends_the_vm(extended: Scene) -> None:
    """Named outright, the disk is refused with the reason before anything begins; a newer QEMU populates it."""
    result = extended.stream()
    if extended.vm.version >= (8, 2):
        assert (result.failed, result["finished"]) == (False, True), result
        extended.assert_safe_after_kill()
        return
    assert (extended.vm.jobs(), extended.depth) == ({}, 1)
    assert (result.failed, result["finished"], result["changed"]) == (True, False, False), result
    for word in ("vda", "extended_l2", "8.2"):
        assert word in result["msg"]


def test_it_is_refused_in_check_mode_too(extended: Scene) -> None:
    """A dry run says what the real one would."""
    result = product.module("block_stream", check=True, monitors=[extended.vm.monitor], disks=["vda"])
    assert result.failed == (extended.vm.version < (8, 2))


def test_every_disk_leaves_it_out(folder: Path, boot: Callable[..., Vm]) -> None:
    """`*` populates the other disk, and warns of this one."""
    plain = images.chain(folder)
    chain = partly_written(folder / "extended.qcow2", images.chain(folder, layers=0, prefix="x"))
    vm = boot(
        *disks.drive(plain.top, id="drive0", qdev="vda"),
        *disks.drive(chain.top, id="drive1", qdev="vdb"),
    )
    result = product.module("block_stream", monitors=[vm.monitor], disks=["*"])
    is_left_out = vm.version < (8, 2)
    assert (vm.jobs(), len(vm.chain("vda")), len(vm.chain("vdb"))) == ({}, 1, 2 if is_left_out else 1)
    assert (result.failed, result["finished"]) == (False, True), result
    warnings = map(str, result.get("warnings", []))
    told = [warning for warning in warnings if "vdb" in warning and "extended_l2" in warning]
    assert bool(told) == is_left_out
    Scene(vm, plain).assert_safe_after_kill()


def test_such_an_image_below_the_top_is_streamed(folder: Path, boot: Callable[..., Vm]) -> None:
    """Only the top is written by the stream: an extended one below it is no reason to refuse."""
    below = partly_written(folder / "mid.qcow2", images.chain(folder, layers=0))
    top = images.create(folder / "top.qcow2", backing=below.top)
    scene = Scene(boot(*disks.drive(top, id="drive0", qdev="vda")), images.Chain((top, *below.images), below.expected))
    result = scene.stream()
    assert (result.failed, result["finished"]) == (False, True), result
    scene.assert_safe_after_kill()
