# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Formats whose header cannot change its backing link, and nodes that QEMU does not stream."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from lab import Scene, Vm, disks, images

from .conftest import assert_claims_nothing, assert_left_out, assert_populated, assert_refused, free_paths

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Boot = Callable[..., Vm]

# Small: a qcow (version 1) is written cluster by cluster, and its table after each.
SIZE, WRITES = 2 * images.MiB, [images.Write(0, 256 * images.KiB, seed=1)]

# The format of the top, and that of its base. QEMU writes no other than a vmdk base into the header of a vmdk top.
LINKED_BY_HEADER = [("vmdk", "vmdk"), ("qcow", "raw"), ("qcow", "qcow2")]
LINKED_BY_OPTION = [("vmdk", "raw"), ("vmdk", "qcow2")]


def overlay(folder: Path, format: str, base_format: str) -> tuple[images.Chain, list[str]]:
    """A top of this format on a base, and the words for it."""
    base = images.create(folder / f"base.{base_format}", SIZE, format=base_format, writes=WRITES)
    top = folder / f"odd.{format}"
    if (format, base_format) in LINKED_BY_OPTION:
        images.create(top, SIZE, format=format)
        words = disks.blockdev(base_format, "base", file={"driver": "file", "filename": str(base)})
        words += disks.blockdev(format, "odd", file={"driver": "file", "filename": str(top)}, backing="base")
    else:
        images.create(top, format=format, backing=base, backing_format=base_format)
        words = disks.blockdev(format, "odd", file={"driver": "file", "filename": str(top)})
    return images.Chain((top, base), WRITES[0].content.ljust(SIZE, b"\0")), [
        *words,
        *disks.frontend("virtio-blk-pci", "vda", drive="odd"),
    ]


@pytest.mark.parametrize(("format", "base_format"), LINKED_BY_HEADER + LINKED_BY_OPTION)
def test_a_format_that_keeps_its_link_is_refused(folder: Path, boot: Boot, format: str, base_format: str) -> None:
    """QEMU copies all of it and then fails at the header, or at once: it is not even tried."""
    chain, words = overlay(folder, format, base_format)
    disk = Scene(boot(*words), chain)
    for check in (False, True):
        result = disk.stream(check=check)
        assert_claims_nothing(result)
        assert_refused(result, disk.vm, "vda", format)
    said = disk.info()
    assert (said["populated"], format in said["reason"], disk.depth) == (False, True, 1), said


@pytest.mark.parametrize(("format", "base_format"), LINKED_BY_HEADER)
def test_what_somebody_else_tried_is_not_populated(folder: Path, boot: Boot, format: str, base_format: str) -> None:
    """After a stream of somebody else QEMU shows no chain, but the header has its link: that is not populated."""
    chain, words = overlay(folder, format, base_format)
    disk = Scene(boot(*words), chain)
    disk.start_foreign_job()
    assert disk.vm.wait_event("BLOCK_JOB_COMPLETED")["error"] == "Operation not supported"
    assert (disk.depth, images.is_linked(chain.top)) == (0, True)
    said = disk.info()
    assert not said["populated"], said
    assert said["reason"]
    assert_claims_nothing(disk.stream())


def test_all_disks_but_one_whose_format_keeps_its_link(folder: Path, boot: Boot) -> None:
    """`"*"` leaves it out with a warning, and populates the good one."""
    _chain, words = overlay(folder, "vmdk", "vmdk")
    good = images.chain(folder)
    vm = boot(*words, *disks.drive(good.top, id="drive1", qdev="vdb"))
    result = Scene(vm, good).stream(disks=["*"])
    assert_left_out(result, vm, "vda", depth=1)
    assert free_paths(result) == [str(good.base)]
    Scene(vm, good).assert_safe_after_kill()


@pytest.mark.parametrize("base_format", ["raw", "qcow2"])
def test_a_qed_top_is_populated(folder: Path, boot: Boot, base_format: str) -> None:
    """QED can drop its link; the header says so, and every byte is there."""
    chain, words = overlay(folder, "qed", base_format)
    disk = Scene(boot(*words), chain)
    assert_populated(disk.stream())
    assert not images.is_linked(chain.top)
    disk.assert_safe_after_kill()


# -- Quorum: each child has a chain of its own -------------------------------------------------------------------------


@pytest.fixture
def quorum(folder: Path, boot: Boot) -> Scene:
    """`vda` is a good disk, `vdb` a quorum of two overlays."""
    good, below = images.chain(folder), images.chain(folder, prefix="below-")
    words = disks.drive(good.top, id="drive0", qdev="vda")
    for name in ("one", "two"):
        top = images.create(folder / f"{name}.qcow2", backing=below.base)
        words += disks.blockdev("qcow2", name, file={"driver": "file", "filename": str(top)})
    words += disks.blockdev("quorum", "both", children=["one", "two"], vote_threshold=2)
    return Scene(boot(*words, *disks.frontend("virtio-blk-pci", "vdb", drive="both")), good)


def test_a_quorum_is_refused(quorum: Scene) -> None:
    """Named outright it is refused with the reason, and the good one beside it is not begun."""
    assert_refused(quorum.stream(disks=["vda", "vdb"]), quorum.vm, "vdb", "quorum")
    assert quorum.depth == 1


def test_all_disks_but_a_quorum(quorum: Scene) -> None:
    """`"*"` leaves it out with a warning, and populates the good one."""
    result = quorum.stream(disks=["*"])
    assert_left_out(result, quorum.vm, "vdb", depth=0)
    assert "quorum" in str(result["warnings"])
    quorum.assert_safe_after_kill()
