# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""The headers of images that qemu-img made, read as they are told by qemu-img itself."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from lab import LabError, Vm, disks, images
from lab.images import MiB
from lab.process import run

from .conftest import Disk

from ansible_collections.virtops.qmp.plugins.module_utils._model._header import Header, parse_header  # isort: skip
from ansible_collections.virtops.qmp.plugins.module_utils._reach._header import read_header  # isort: skip

if TYPE_CHECKING:
    from collections.abc import Callable


def made(folder: Path, *options: str, format: str = "qcow2") -> Path:
    image = folder / "image"
    try:
        run([images.qemu_img(), "create", "-q", "-f", format, *options, image, str(8 * MiB)])
    except LabError as error:
        if "Invalid parameter 'zstd'" not in str(error):
            raise
        pytest.skip("this qemu-img is built without zstd")
    return image


@pytest.mark.parametrize(
    ("options", "format"),
    [
        pytest.param([], "qcow2", id="qcow2"),
        pytest.param(["-o", "compat=0.10"], "qcow2", id="version 2"),
        pytest.param(["-b", "base.qcow2", "-F", "qcow2"], "qcow2", id="a backing image"),
        pytest.param(["-o", "compat=0.10", "-b", "base.qcow2", "-F", "qcow2"], "qcow2", id="version 2 with one"),
        pytest.param(["-o", "cluster_size=512", "-b", "base.qcow2", "-F", "qcow2"], "qcow2", id="small clusters"),
        pytest.param(["-o", "cluster_size=2M,extended_l2=on"], "qcow2", id="extended L2"),
        pytest.param(["-o", "data_file=data.raw"], "qcow2", id="a data file"),
        pytest.param(["-o", "compression_type=zstd"], "qcow2", id="another compression"),
        pytest.param(["-b", "base.raw", "-F", "raw"], "qed", id="qed"),
        pytest.param([], "qed", id="qed without a backing image"),
    ],
)
def test_headers(folder: Path, options: list[str], format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What qemu-img wrote is read from the first bytes."""
    monkeypatch.chdir(folder)
    images.create(folder / "base.qcow2", 8 * MiB)
    images.create(folder / "base.raw", 8 * MiB, format="raw")
    image = made(folder, *options, format=format)
    told = images.info(image)
    found = parse_header(format, image.read_bytes())
    assert isinstance(found, Header)
    specific = told.get("format-specific", {}).get("data", {})
    assert found.backing == told.get("backing-filename", "")
    # qemu-img takes the format of a qed image's backing one from a bit that only stands for raw.
    assert found.backing_format == told.get("backing-filename-format", "")
    assert (1 << found.cluster_bits, found.virtual_size) == (told["cluster-size"], told["virtual-size"])
    assert (found.data_file, found.extended_l2) == (specific.get("data-file"), specific.get("extended-l2", False))
    assert found.snapshots == 0


def test_snapshots(folder: Path) -> None:
    """Internal snapshots are counted."""
    image = made(folder)
    for name in "abc":
        run([images.qemu_img(), "snapshot", "-c", name, image])
    found = parse_header("qcow2", image.read_bytes())
    assert isinstance(found, Header)
    assert found.snapshots == len(images.info(image)["snapshots"]) == 3


@pytest.mark.skipif(os.geteuid() != 0, reason="only root sees what a QEMU has open")
def test_the_header_of_what_qemu_has_open(folder: Path, boot: Callable[..., Vm]) -> None:
    """The header is that of QEMU's own file, though another one has its name; and after a stream it names nothing."""
    chain = images.chain(folder)
    disk = Disk(boot(*disks.drive(chain.top, id="drive0", qdev="vda")))
    chain.top.unlink()
    images.create(chain.top, 8 * MiB)

    def backing() -> str:
        found = read_header(disk.vm.pid, disk.bound()[0], "qcow2")
        assert isinstance(found, Header)
        return found.backing

    assert backing() == str(chain.base)
    disk.stream_to_pending()
    disk.finalize()
    assert backing() == ""
