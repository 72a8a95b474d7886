# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Every way to name a disk, and every name that is refused before anything is started."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from lab import Vm, disks, images, product

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def vm(folder: Path, boot: Callable[..., Vm]) -> Vm:
    """Disks of every style: `a` -drive virtio, `b` -blockdev virtio, `c` scsi, and some to refuse beside them."""
    for name in ("a", "b", "c", "ro", "unused"):
        images.chain(folder, prefix=f"{name}-", relative=True, seed=ord(name[0]))
    (folder / "link.qcow2").symlink_to("b-top.qcow2")
    return boot(
        *disks.drive("a-top.qcow2", id="drive-a", qdev="disk-a"),
        *disks.node("./b-top.qcow2", node_name="node-b", qdev="disk-b"),
        *disks.frontend("virtio-scsi-pci", "scsi0"),
        *disks.drive(folder / "c-top.qcow2", id="drive-c", qdev="disk-c", device="scsi-hd"),
        *disks.drive("ro-top.qcow2", id="drive-ro", qdev="disk-ro", read_only="on"),
        *disks.drive("unused-top.qcow2", id="drive-unused", device=None),
        *disks.empty_cdrom("cd0"),
        cwd=folder,
    )


@pytest.mark.parametrize(
    ("name", "found"),
    [
        pytest.param("{folder}/a-top.qcow2", "disk-a", id="absolute path of a relative name"),
        pytest.param("a-top.qcow2", "disk-a", id="relative path"),
        pytest.param("{folder}/../{base}/b-top.qcow2", "disk-b", id="path with dots"),
        pytest.param("{folder}/link.qcow2", "disk-b", id="symbolic link"),
        pytest.param("disk-a", "disk-a", id="qdev id of a virtio disk"),
        pytest.param("/machine/peripheral/disk-a/virtio-backend", "disk-a", id="qdev path"),
        pytest.param("disk-c", "disk-c", id="qdev id of a scsi disk"),
        pytest.param("drive-c", "disk-c", id="device name"),
        pytest.param("node-b", "disk-b", id="node name"),
    ],
)
def test_a_name_finds_its_disk(vm: Vm, folder: Path, name: str, found: str) -> None:
    """Each name of a disk populates this disk and no other."""
    named = name.format(folder=folder, base=folder.name)
    result = product.module("block_stream", monitors=[vm.monitor], disks=[named])
    assert (result.failed, result["changed"]) == (False, True), result
    depths = {disk: vm.inserted(disk)["backing_file_depth"] for disk in ("disk-a", "disk-b", "disk-c", "disk-ro")}
    assert depths == {disk: int(disk != found) for disk in depths}


def test_two_names_of_one_disk_are_one_disk(vm: Vm) -> None:
    """A disk that is named twice is populated once and reported once."""
    result = product.module("block_stream", monitors=[vm.monitor], disks=["disk-a", "drive-a"])
    assert (result.failed, len(result["disks"])) == (False, 1), result


@pytest.mark.parametrize(
    ("name", "words"),
    [
        pytest.param("nosuch", ["nosuch", "disk-a", "drive-a", "node-b", "a-top.qcow2"], id="unknown"),
        pytest.param("cd0", ["cd0", "medium"], id="empty drive"),
        pytest.param("disk-ro", ["disk-ro", "read-only"], id="read-only disk"),
        pytest.param("drive-ro", ["disk-ro", "read-only"], id="read-only disk by device name"),
    ],
)
def test_a_name_is_refused(vm: Vm, name: str, words: list[str]) -> None:
    """The error names the disk and the reason, and a good disk beside it is not started either."""
    for check in (True, False):
        result = product.module("block_stream", check=check, monitors=[vm.monitor], disks=["disk-a", name])
        assert result.failed
        for word in words:
            assert word in result["msg"]
    assert vm.inserted("disk-a")["backing_file_depth"] == 1
    assert [event for event in vm.judge.events if event["event"].startswith(("JOB", "BLOCK_JOB"))] == []


def test_an_ambiguous_name_is_refused(folder: Path, boot: Callable[..., Vm]) -> None:
    """A word that is the qdev id of one disk and the drive of another is refused, and both are listed."""
    for name in ("a", "b"):
        images.chain(folder, prefix=f"{name}-")
    vm = boot(
        *disks.drive(folder / "a-top.qcow2", id="data", qdev="vda"),
        *disks.drive(folder / "b-top.qcow2", id="other", qdev="data"),
    )
    result = product.module("block_stream", monitors=[vm.monitor], disks=["data"])
    assert result.failed
    for word in ("data", "a-top.qcow2", "b-top.qcow2"):
        assert word in result["msg"]
    assert [vm.inserted(disk)["backing_file_depth"] for disk in ("vda", "other")] == [1, 1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        pytest.param(
            {"base": "/nosuch.qcow2"}, ["/nosuch.qcow2", "disk-a", "a-base.qcow2"], id="base not in the chain"
        ),
        pytest.param({"base": "{folder}/a-top.qcow2"}, ["base", "disk-a"], id="base is the top"),
        pytest.param({"speed": "fast"}, ["speed", "fast"], id="speed is no size"),
        pytest.param({"speed": "-1"}, ["speed", "-1"], id="negative speed"),
        pytest.param({"state": "done"}, ["state", "done"], id="unknown state"),
        pytest.param({"wait_timeout": -5}, ["wait_timeout", "-5"], id="negative time-out"),
        pytest.param({"disks": []}, ["disks"], id="no disk"),
        pytest.param({"disks": ["", ""]}, ["disks is empty"], id="no disk, in empty strings"),
        pytest.param({"monitors": []}, ["monitors"], id="no monitor"),
        pytest.param({"parallel": 0}, ["parallel"], id="nothing in parallel"),
        pytest.param({"connect_timeout": 0}, ["connect_timeout"], id="no time to connect"),
    ],
)
def test_a_bad_option_starts_nothing(vm: Vm, folder: Path, options: dict[str, Any], words: list[str]) -> None:
    """A bad option is named with its value before anything is started."""
    arguments: dict[str, Any] = {"monitors": [vm.monitor], "disks": ["disk-a"], **options}
    if "base" in options:
        arguments["base"] = options["base"].format(folder=folder)
    result = product.module("block_stream", **arguments)
    assert result.failed
    for word in words:
        assert word in result["msg"]
    assert vm.inserted("disk-a")["backing_file_depth"] == 1
    assert [event for event in vm.judge.events if event["event"].startswith(("JOB", "BLOCK_JOB"))] == []
