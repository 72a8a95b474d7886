# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Encrypted images, of which a file shows no more than its header and its tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from lab import Scene, Vm, disks, images
from lab.process import LabError, run

from .conftest import assert_populated, free_paths

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SIZE, WRITES = 8 * images.MiB, [images.Write(0, images.MiB, seed=1), images.Write(5 * images.MiB, 65536, seed=2)]
SECRET = "secret,id=key,data=a passphrase"
KEY = {"encrypt": {"format": "luks", "key-secret": "key"}}


def qemu_img(*words: str | Path) -> None:
    """Run qemu-img with the secret, again where it could not measure how fast a busy processor is."""
    command, *others = words
    for attempts_left in reversed(range(10)):
        try:
            run([images.qemu_img(), command, "--object", SECRET, *others])
            return
        except LabError as error:
            if not attempts_left or "accurate CPU usage" not in str(error):
                raise


def options(*more: str) -> str:
    return ",".join(["encrypt.format=luks,encrypt.key-secret=key,encrypt.iter-time=50", *more])


@pytest.mark.parametrize("encrypted_base", [False, True], ids=["plain base", "encrypted base"])
def test_an_encrypted_disk(folder: Path, boot: Callable[..., Vm], encrypted_base: bool) -> None:
    base = plain = images.create(folder / "plain.qcow2", SIZE, writes=WRITES)
    expected, below = images.content(plain), {}
    if encrypted_base:
        base, below = folder / "base.qcow2", KEY
        qemu_img("convert", "-O", "qcow2", "-o", options(), plain, base)
    top = folder / "top.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-o", options(f"backing_file={base}", "backing_fmt=qcow2"), top, str(SIZE))
    words = ["-object", SECRET]
    words += disks.blockdev("qcow2", "low", file={"driver": "file", "filename": str(base)}, **below)
    words += disks.blockdev("qcow2", "high", file={"driver": "file", "filename": str(top)}, backing="low", **KEY)
    vm = boot(*words, *disks.frontend("virtio-blk-pci", "vda", drive="high"))
    disk = Scene(vm, images.Chain((top, base), expected))
    assert disk.info()["populated"] is False
    result = disk.stream()
    assert_populated(result)
    # Only QEMU has the key, so there is no map of the chain.
    assert result["disks"][0]["proof"] == "job"
    assert free_paths(result) == [str(base)]

    vm.kill()
    disk.chain.take_away()
    assert images.backing(top) is None
    whole = folder / "whole.raw"
    source = f"driver=qcow2,file.filename={top},encrypt.format=luks,encrypt.key-secret=key"
    qemu_img("convert", "--image-opts", "-O", "raw", source, whole)
    assert images.differences(expected, whole.read_bytes()) == []
