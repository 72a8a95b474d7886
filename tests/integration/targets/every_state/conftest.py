# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Fixtures of this target: one VM with one disk, in several conditions."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from lab import Scene, Vm, disks, host, images

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Boot = Callable[..., Vm]


@pytest.fixture
def unreadable(folder: Path, boot: Boot) -> Callable[..., Scene]:
    """`vda` over a base of which one sector cannot be read: `once`, or for ever."""

    def make(*, once: bool, name: str = "vm0") -> Scene:
        chain = images.chain(folder, prefix=f"{name}-")
        words = disks.failing_reads(chain.base, node_name="bad", sector=images.last_data_sector(chain.base), once=once)
        words += disks.blockdev("qcow2", "top", file={"driver": "file", "filename": str(chain.top)}, backing="bad")
        return Scene(boot(*words, *disks.frontend("virtio-blk-pci", "vda", drive="top"), name=name), chain)

    return make


@pytest.fixture
def small(folder: Path) -> Iterator[host.FileSystem]:
    """A file system of 2 MiB: too small for what the base of a chain holds."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a file system")
    with host.file_system(folder / "small", 2 * images.MiB) as mounted:
        yield mounted


@pytest.fixture
def crowded(folder: Path, small: host.FileSystem) -> Iterator[Scene]:
    """`vda` whose top lies on the small file system, and its base elsewhere."""
    below = images.chain(folder, layers=0)
    top = images.create(small.path / "top.qcow2", backing=below.base)
    with Vm(folder, *disks.drive(top, id="drive0", qdev="vda")) as vm:
        yield Scene(vm, images.Chain((top, below.base), below.expected))
