# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""`space` where the base is a block device, and where the data of the top lies in another file than its header."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from lab import Scene, Vm, disks, host, images
from lab.process import run

from .conftest import assert_populated, assert_refused, needs_root

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = needs_root

SIZE = 16 * images.MiB


@pytest.fixture
def small(folder: Path) -> Iterator[host.FileSystem]:
    """A file system of 2 MiB: too small for what the base holds."""
    with host.file_system(folder / "small", 2 * images.MiB) as mounted:
        yield mounted


@pytest.fixture
def on_a_device(folder: Path, small: host.FileSystem) -> Iterator[Scene]:
    """`vda` with its top on the small file system, and its base on a block device."""
    if not host.has_loop_devices():
        pytest.skip("this host gives us no loop devices")
    base = images.chain(folder, layers=0, base_format="raw")
    with host.loop_device(base.base) as device:
        top = images.create(small.path / "top.qcow2", backing=device, backing_format="raw")
        with Vm(folder, *disks.drive(top, id="drive0", qdev="vda")) as vm:
            yield Scene(vm, images.Chain((top, base.base), base.expected))


def test_a_device_counts_with_its_size(on_a_device: Scene) -> None:
    """Of a block device nobody knows what it holds: all of it may be written."""
    assert on_a_device.info()["space"]["needed"] >= SIZE


def test_a_device_that_does_not_fit_is_refused(on_a_device: Scene, small: host.FileSystem) -> None:
    """Nothing is begun, and the file system is as full as before."""
    free = small.free
    result = on_a_device.stream()
    assert small.free == free
    assert_refused(result, on_a_device.vm, "vda", str(free), "check_space")


def test_a_device_that_fits_is_populated(on_a_device: Scene, small: host.FileSystem) -> None:
    """With room for all of it nothing is refused."""
    small.resize(2 * SIZE)
    assert_populated(on_a_device.stream())
    on_a_device.assert_safe_after_kill()


def with_data_file(top: Path, data: Path, base: Path) -> None:
    """A qcow2 overlay whose clusters lie in a file of their own."""
    options = ["-o", f"data_file={data}", "-b", str(base), "-F", "qcow2"]
    run([images.qemu_img(), "create", "-q", "-f", "qcow2", *options, top])


@pytest.fixture
def data_on_small(folder: Path, small: host.FileSystem) -> Iterator[Scene]:
    """`vda` with the header of its top where there is room, and its data file where there is not."""
    below = images.chain(folder, layers=0)
    with_data_file(folder / "top.qcow2", small.path / "data.raw", below.base)
    with Vm(folder, *disks.drive(folder / "top.qcow2", id="drive0", qdev="vda")) as vm:
        yield Scene(vm, images.Chain((folder / "top.qcow2", below.base), below.expected))


def test_the_space_is_that_of_the_data_file(data_on_small: Scene, small: host.FileSystem) -> None:
    """What is told and what is checked is the file system that the clusters are written to."""
    free = small.free
    space = data_on_small.info()["space"]
    result = data_on_small.stream()
    assert small.free == free
    assert space["free"] == free < space["needed"]
    assert_refused(result, data_on_small.vm, "vda", str(free), "check_space")


def test_a_header_needs_no_room_for_the_data(folder: Path, small: host.FileSystem) -> None:
    """The other way round: the header lies where there is little room, and the disk is populated."""
    below = images.chain(folder, layers=0)
    top = small.path / "top.qcow2"
    with_data_file(top, folder / "data.raw", below.base)
    with Vm(folder, *disks.drive(top, id="drive0", qdev="vda")) as vm:
        disk = Scene(vm, images.Chain((top, below.base), below.expected))
        assert_populated(disk.stream())
        disk.assert_safe_after_kill()
