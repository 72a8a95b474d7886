# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""The last write of a stream fails, and the header that still names the base cannot be read by the name of the file.

QEMU has dropped the chain in memory, so its word is "no backing image", then and for ever. Only the header knows
better, and only QEMU's own descriptor is sure to lead to it.
"""

from __future__ import annotations

import os
import resource
from typing import TYPE_CHECKING, Any

import pytest
from lab import Scene, disks, host, images

from .conftest import assert_claims_nothing, needs_root

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from lab import Vm

    Boot = Callable[..., Vm]

pytestmark = needs_root

OFFSET = 64 * images.KiB


def unwritable(image: dict[str, Any], *, sector: int = 0) -> dict[str, Any]:
    """A node over an image on which no write to this sector succeeds."""
    fault = {"event": "none", "iotype": "write", "sector": sector, "errno": 5, "once": False}
    return {"driver": "blkdebug", "image": image, "inject-error": [fault]}


def vda(file: dict[str, Any]) -> list[str]:
    return disks.blockdev("qcow2", "top", file=file) + disks.frontend("virtio-blk-pci", "vda", drive="top")


def in_another_namespace(folder: Path, boot: Boot) -> Scene:
    """This host has nothing under the name that QEMU knows."""
    inside, path = folder / "inside", folder / "pool"
    inside.mkdir()
    path.mkdir()
    chain = images.chain(inside)
    words = vda(unwritable({"driver": "file", "filename": str(path / "top.qcow2")}))
    return Scene(boot(*words, under=host.elsewhere(inside, path)), chain)


def another_file_there(folder: Path, boot: Boot) -> Scene:
    """This host has another image under the name that QEMU knows, and that one needs no base."""
    disk = in_another_namespace(folder, boot)
    images.create(folder / "pool" / "top.qcow2", 16 * images.MiB)
    return disk


def by_descriptor(folder: Path, boot: Boot) -> Scene:
    """QEMU got the top as an open file."""
    chain = images.chain(folder)
    descriptor = os.open(chain.top, os.O_RDWR)
    try:
        words = ["-add-fd", f"fd={descriptor},set=1"]
        words += vda(unwritable({"driver": "file", "filename": "/dev/fdset/1"}))
        return Scene(boot(*words, descriptors=[descriptor]), chain)
    finally:
        os.close(descriptor)


def behind_an_offset(folder: Path, boot: Boot) -> Scene:
    """The image begins somewhere within its file."""
    chain = images.chain(folder)
    chain.top.write_bytes(bytes(OFFSET) + chain.top.read_bytes())
    os.truncate(chain.top, 64 * images.MiB)
    file = unwritable({"driver": "file", "filename": str(chain.top)}, sector=OFFSET // 512)
    return Scene(boot(*vda({"driver": "raw", "offset": OFFSET, "size": 48 * images.MiB, "file": file})), chain)


@pytest.mark.parametrize(
    ("make", "offset"),
    [(in_another_namespace, 0), (another_file_there, 0), (by_descriptor, 0), (behind_an_offset, OFFSET)],
)
def test_a_rerun_reads_the_header_that_qemu_has_open(
    folder: Path, boot: Boot, make: Callable[[Path, Boot], Scene], offset: int
) -> None:
    """As long as the header names the base, no run says populated, and no image is free."""
    disk = make(folder, boot)
    disk.stream()
    assert_claims_nothing_while_linked(disk, offset)


def assert_claims_nothing_while_linked(disk: Scene, offset: int = 0) -> None:
    result = disk.stream()
    said = disk.info()
    assert (disk.depth, images.is_linked(disk.chain.top, offset)) == (0, True)
    assert_claims_nothing(result)
    assert result.failed, result
    assert not said["populated"], said
    assert said["reason"]


def limit_writes(vm: Vm, size: int) -> None:
    """From now on this process cannot write behind `size` in any file."""
    resource.prlimit(vm.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def test_a_qed_header_is_read_as_well(folder: Path, boot: Boot) -> None:
    """The same for the other format that can drop its link: no write succeeds just when the link should go."""
    below = images.chain(folder, layers=0)
    top = images.create(folder / "top.qed", format="qed", backing=below.base)
    survives_the_limit = ["sh", "-c", 'trap "" XFSZ; exec "$@"', "sh"]
    vm = boot(*disks.drive(top, id="drive0", qdev="vda", format="qed"), under=survives_the_limit)
    disk = Scene(vm, images.Chain((top, below.base), below.expected))
    disk.start_pending()
    limit_writes(vm, 0)
    failed = disk.stream()
    limit_writes(vm, resource.RLIM_INFINITY)
    assert failed.failed, failed
    assert_claims_nothing_while_linked(disk)


@pytest.mark.parametrize("make", [in_another_namespace, by_descriptor])
def test_a_failed_finalize_claims_nothing(folder: Path, boot: Boot, make: Callable[[Path, Boot], Scene]) -> None:
    """The run that failed does not say in its result that the disk is populated."""
    disk = make(folder, boot)
    result = disk.stream()
    assert images.is_linked(disk.chain.top)
    assert_claims_nothing(result)
    assert result.failed, result
