# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""The files that a populated disk gave up, as every user is told of them; only root learns who has them open."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from lab import Vm, disks, host, images, product

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Boot = Callable[..., Vm]


def populate(vm: Vm, *names: str, **options: Any) -> dict[str, list[int]]:
    """Populate the disks; return the pids that the result tells for each released file, by file name.

    A file is called free only if it is known that nobody has it open, and one that is not has a reason.
    """
    result = product.module("block_stream", monitors=[vm.monitor], disks=list(names), **options)
    assert not result.failed, result
    released = [each for disk in result["disks"] for each in disk["released"]]
    for each in released:
        assert each["free"] == (each["pids"] == []) == (each["reason"] is None), each
    return {each["path"].rsplit("/", 1)[-1]: each["pids"] for each in released}


def overlay(folder: Path, name: str, base: Path) -> Path:
    return images.create(folder / name, backing=base)


@pytest.fixture
def golden(folder: Path) -> Path:
    writes = images.layer_writes(0, 16 * images.MiB, 1)
    return images.create(folder / "golden.qcow2", 16 * images.MiB, writes=writes)


@pytest.mark.parametrize("style", ["drive", "named"])
def test_the_whole_chain_is_released(folder: Path, boot: Boot, style: str) -> None:
    """Every image below the top is told as in use by nobody, QEMU has closed it; a second run has released nothing."""
    chain = images.chain(folder, layers=2)
    if style == "drive":
        vm = boot(*disks.drive(chain.top, id="drive0", qdev="vda"))
    else:
        vm = boot(*disks.named_nodes(chain.images, names=["top", "mid", "base"], qdev="vda"))
    assert populate(vm, "vda") == {path.name: host.told_pids() for path in chain.images[1:]}
    assert not set(chain.images[1:]) & vm.open_files()
    assert populate(vm, "vda") == {}


def test_a_base_that_another_vm_needs_is_not_free(folder: Path, boot: Boot, golden: Path) -> None:
    """The golden image of two VMs is told with the pid of the second until the second is populated, too."""
    vms = [
        boot(*disks.drive(overlay(folder, f"{name}.qcow2", golden), id="drive0", qdev="vda"), name=name)
        for name in ("web1", "web2")
    ]
    assert populate(vms[0], "vda") == {"golden.qcow2": host.told_pids(vms[1].pid)}
    assert populate(vms[1], "vda") == {"golden.qcow2": host.told_pids()}
