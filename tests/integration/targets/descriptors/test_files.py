# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which file a real QEMU has open behind each name, whatever becomes of the names meanwhile."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from lab import Vm, disks, host, images
from lab.process import run, tool

from .conftest import Disk, identity

if TYPE_CHECKING:
    from collections.abc import Callable

    Boot = Callable[..., Vm]

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root sees what a QEMU has open")


def facts(disk: Disk) -> list[tuple[tuple[int, int] | None, bool | None, str | None]]:
    """Of each image: the inode, whether the name leads there, and the path on this host."""
    return [
        (None if each.id is None else (each.id.device, each.id.inode), each.same_file, each.file)
        for each in disk.bound()
    ]


def wrapped(monkeypatch: pytest.MonkeyPatch, folder: Path, script: str) -> None:
    """Have QEMU started by a script that ends in `exec "$qemu" "$@"`."""
    program = folder / "wrapped-qemu"
    program.write_text(f"#!/bin/bash\nset -e\nqemu={tool('QEMU_SYSTEM', 'qemu-system-x86_64')}\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("QEMU_SYSTEM", str(program))


@pytest.mark.parametrize("style", ["drive", "blockdev", "named"])
def test_every_image_is_found(folder: Path, boot: Boot, style: str) -> None:
    """In each style of the command line every image is bound to its file."""
    chain = images.chain(folder, layers=3, base_format="raw")
    words = {
        "drive": disks.drive(chain.top, id="drive0", qdev="vda"),
        "blockdev": disks.node(chain.top, node_name="top", qdev="vda"),
        "named": disks.named_nodes(chain.images, names=["top", "m1", "m2", "base"], qdev="vda"),
    }[style]
    assert facts(Disk(boot(*words))) == [(identity(image), True, str(image)) for image in chain.images]


def test_relative_names(folder: Path, boot: Boot) -> None:
    """Names that are relative to QEMU's working directory, and to the image that names them, are found."""
    chain = images.chain(folder, layers=2, relative=True)
    (folder / "link.qcow2").symlink_to("top.qcow2")
    disk = Disk(boot(*disks.drive("link.qcow2", id="drive0", qdev="vda"), cwd=folder))
    assert facts(disk) == [(identity(image), True, str(image)) for image in chain.images]


def test_a_top_that_was_deleted(folder: Path, boot: Boot) -> None:
    """The file that QEMU still has is found, and that its name leads nowhere is told."""
    chain = images.chain(folder)
    disk = Disk(boot(*disks.drive(chain.top, id="drive0", qdev="vda")))
    inode = identity(chain.top)
    chain.top.unlink()
    assert facts(disk) == [(inode, False, None), (identity(chain.base), True, str(chain.base))]
    chain.top.write_bytes(b"another one")
    assert facts(disk)[0] == (inode, False, None)


def test_a_top_that_was_renamed(folder: Path, boot: Boot) -> None:
    """The file is found under its new name, also when another file has the old one."""
    chain = images.chain(folder)
    disk = Disk(boot(*disks.drive(chain.top, id="drive0", qdev="vda")))
    moved = chain.top.rename(folder / "moved")
    assert facts(disk)[0] == (identity(moved), False, str(moved))
    chain.top.write_bytes(b"another one")
    assert facts(disk)[0] == (identity(moved), False, str(moved))


def test_two_images_that_were_renamed(folder: Path, boot: Boot) -> None:
    """Where two names are left without a file, and two files without a name, nobody guesses."""
    chain = images.chain(folder)
    disk = Disk(boot(*disks.drive(chain.top, id="drive0", qdev="vda")))
    for image in chain.images:
        image.rename(image.with_suffix(".moved"))
    assert facts(disk) == [(None, False, None)] * 2


def test_a_base_in_the_place_of_its_top(folder: Path, boot: Boot) -> None:
    """A link to the base that took the top's name is not taken for the top."""
    chain = images.chain(folder)
    disk = Disk(boot(*disks.drive(chain.top, id="drive0", qdev="vda")))
    chain.top.unlink()
    chain.top.hardlink_to(chain.base)
    assert facts(disk)[0] == (None, None, None)


def test_images_that_were_exchanged(folder: Path, boot: Boot) -> None:
    """The top is never taken for a file that QEMU cannot write to."""
    chain = images.chain(folder)
    disk = Disk(boot(*disks.drive(chain.top, id="drive0", qdev="vda")))
    chain.top.rename(folder / "between")
    chain.base.rename(chain.top)
    (folder / "between").rename(chain.base)
    assert facts(disk)[0] == (None, None, None)


def test_another_mount_namespace(folder: Path, boot: Boot, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a QEMU in a mount namespace of its own has open is found, and this host's file of that name is not it."""
    inside = folder / "inside"
    inside.mkdir()
    chain = images.chain(folder / "inside", relative=True)
    outside = folder / "outside"
    outside.mkdir()
    other = images.chain(outside, relative=True, seed=2)
    wrapped(
        monkeypatch,
        folder,
        f'exec unshare --mount bash -c \'mount --bind {inside} {outside}; exec "$0" "$@"\' $qemu "$@"',
    )
    disk = Disk(boot(*disks.drive(other.top, id="drive0", qdev="vda")))
    assert facts(disk) == [(identity(image), True, None) for image in chain.images]


def test_another_root(folder: Path, boot: Boot, monkeypatch: pytest.MonkeyPatch) -> None:
    """A QEMU that changed its root has its names followed there, and its files told by their paths on this host."""
    with host.copy_of_host(folder / "copy") as root:
        place = root / "vms"
        place.mkdir()
        chain = images.chain(place, relative=True)
        (place / "link").symlink_to("/vms/top.qcow2")
        (root / folder.relative_to("/")).mkdir(parents=True, exist_ok=True)
        run(["mount", "--bind", folder, root / folder.relative_to("/")])
        try:
            wrapped(monkeypatch, folder, f'exec chroot {root} $qemu "$@"')
            disk = Disk(boot(*disks.drive("/vms/link", id="drive0", qdev="vda")))
            assert facts(disk) == [(identity(image), True, str(image)) for image in chain.images]
            disk.vm.kill()
        finally:
            run(["umount", root / folder.relative_to("/")])


def test_sets_of_descriptors(folder: Path, boot: Boot, monkeypatch: pytest.MonkeyPatch) -> None:
    """A QEMU that got its images as open files has them told by their paths on this host."""
    chain = images.chain(folder)
    wrapped(monkeypatch, folder, f'exec 20<>{chain.top} 21<{chain.base}; exec $qemu "$@"')
    words = ["-add-fd", "fd=20,set=1", "-add-fd", "fd=21,set=2"]
    words += disks.named_nodes(["/dev/fdset/1", "/dev/fdset/2"], names=["top", "base"], qdev="vda")
    disk = Disk(boot(*words))
    assert facts(disk) == [(identity(image), True, str(image)) for image in chain.images]
    chain.top.rename(folder / "moved")
    assert facts(disk)[0] == (identity(folder / "moved"), True, str(folder / "moved"))


@pytest.mark.skipif(not host.has_loop_devices(), reason="this host gives no loop device")
def test_a_block_device(folder: Path, boot: Boot) -> None:
    """A device is bound by whatever file stands for it."""
    chain = images.chain(folder)
    with host.loop_device(chain.top) as device:
        status = os.stat(device)
        other = folder / "device"
        os.mknod(other, 0o600 | 0o060000, status.st_rdev)
        disk = Disk(boot(*disks.drive(other, id="drive0", qdev="vda")))
        (top, _base) = disk.bound()
        disk.vm.kill()
    assert top.inode is not None
    assert (top.inode.kind, top.inode.number, top.same_file, top.file) == ("block", status.st_rdev, True, str(other))
