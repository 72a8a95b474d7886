# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""The proof that everything is copied: after a flush nothing that is to go is needed, whatever the job says."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from lab import NbdServer, Vm, disks, host, images, wait_until
from lab.images import KiB, MiB, Write
from lab.process import run, tool

from .conftest import Disk, NoMap, User

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Boot = Callable[..., Vm]

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root sees what a QEMU has open")

# The data of the base, in 64 MiB.
DATA = (Write(0, 4 * MiB, 1), Write(20 * MiB, 3 * MiB, 2), Write(50 * MiB, 64 * KiB, 3))


def qemu_io(image: Path, *commands: str) -> None:
    words = [word for command in commands for word in ("-c", command)]
    run([tool("QEMU_IO", "qemu-io"), "-f", "qcow2", *words, image])


def based(folder: Path, base: Path | str, format: str, size: int) -> Path:
    """A top of a size, with data of its own, over a middle image over the base."""
    middle = images.create(
        folder / "middle.qcow2", 64 * MiB, backing=base, backing_format=format, writes=[Write(8 * MiB, MiB, 4)]
    )
    return images.create(folder / "top.qcow2", size, backing=middle, writes=[Write(MiB, 128 * KiB, 5)])


def assert_proves_a_stream(boot: Boot, top: Path, base_depth: int | None = None, **options: str) -> None:
    """The map says that something is left before the flush, and nothing after it; and so it is."""
    expected = images.content(top)
    disk = Disk(boot(*disks.drive(top, id="drive0", qdev="vda")))
    assert disk.left(base_depth) > 0
    disk.stream_to_pending(**options)
    assert disk.left(base_depth) > 0
    disk.flush()
    assert disk.left(base_depth) == 0
    disk.finalize()
    disk.vm.kill()
    assert images.differences(expected, images.content(top)) == []


@pytest.mark.parametrize("size", [64 * MiB, 80 * MiB, 40 * MiB], ids=["as large", "larger", "smaller"])
@pytest.mark.parametrize("format", ["qcow2", "raw"])
def test_a_stream_leaves_nothing(folder: Path, boot: Boot, format: str, size: int) -> None:
    """Over a base with zeros and discarded clusters, as large as the top or not, nothing is left."""
    base = images.create(folder / f"base.{format}", 64 * MiB, format=format, writes=DATA)
    if format == "qcow2":
        qemu_io(base, "write -z 30M 2M", "write -z -u 34M 2M", "discard 20M 1M")
    top = based(folder, base, format, size)
    assert_proves_a_stream(boot, top)


def test_a_base_over_nbd(folder: Path, boot: Boot) -> None:
    """A raw base over a protocol is not looked into, and a stream leaves nothing to be known of it."""
    base = images.create(folder / "base.raw", 64 * MiB, format="raw", writes=DATA)
    with NbdServer(base, folder / "base.nbd") as server:
        top = based(folder, server.address, "raw", 80 * MiB)
        assert_proves_a_stream(boot, top)


@pytest.mark.skipif(not host.has_loop_devices(), reason="this host gives no loop device")
def test_a_base_on_a_device(folder: Path, boot: Boot) -> None:
    """A base on a block device is looked into."""
    base = images.create(folder / "base.qcow2", 64 * MiB, writes=DATA)
    with host.loop_device(base) as device:
        top = based(folder, device, "qcow2", 64 * MiB)
        assert_proves_a_stream(boot, top)


def test_a_top_with_a_data_file(folder: Path, boot: Boot) -> None:
    """An external data file is given as QEMU has it open; where it is not known, nothing is proven."""
    base = images.create(folder / "base.qcow2", 64 * MiB, writes=DATA)
    top, data = folder / "top.qcow2", folder / "top.raw"
    options = f"data_file={data},backing_file={base},backing_fmt=qcow2"
    run([images.qemu_img(), "create", "-q", "-f", "qcow2", "-o", options, top])
    disk = Disk(boot(*disks.drive(top, id="drive0", qdev="vda")))
    disk.stream_to_pending()
    disk.flush()
    assert disk.left(data_file=str(data)) == 0
    assert isinstance(disk.map(), NoMap)


@pytest.mark.parametrize("base_size", [32 * MiB, 64 * MiB], ids=["shorter", "as large"])
def test_a_base_that_stays(folder: Path, boot: Boot, base_size: int) -> None:
    """Down to a base: its data stays, and the zeros above it that hide some of it must be copied like data."""
    base = images.create(folder / "base.qcow2", base_size, writes=DATA[:2])
    top = based(folder, base, "qcow2", 80 * MiB)
    qemu_io(folder / "middle.qcow2", "write -z 1M 1M", "write -z 21M 1M", "discard 8M 1M", "write -z 8M 1M")
    assert_proves_a_stream(boot, top, 2, base=str(base))
    assert images.backing(top) == str(base)


def test_zeros_over_a_base_that_stays(folder: Path, boot: Boot) -> None:
    """Zeros that hide data of the base are told as left; without a base to stay they need nobody."""
    base = images.create(folder / "base.qcow2", 64 * MiB, writes=DATA)
    middle = images.create(folder / "middle.qcow2", backing=base)
    qemu_io(middle, "write -z 1M 1M", "write -z 51M 1M")
    top = images.create(folder / "top.qcow2", backing=middle)
    disk = Disk(boot(*disks.drive(top, id="drive0", qdev="vda")))
    assert disk.left(2) == 2 * MiB
    assert disk.left() == sum(write.size for write in DATA) - MiB


def test_a_stream_that_copied_nothing(folder: Path, boot: Boot) -> None:
    """A job whose VM was saved and continued meanwhile comes to its end without its data: the map tells."""
    base = images.create(folder / "base.qcow2", 64 * MiB, writes=[Write(0, 24 * MiB, 1)])
    top = images.create(folder / "top.qcow2", backing=base)
    disk = Disk(boot(*disks.drive(top, id="drive0", qdev="vda"), running=True))
    if disk.vm.version < (7, 0):
        pytest.skip("this QEMU does not save a VM while a job runs")
    disk.start(speed=4 * MiB)
    wait_until(lambda: disk.vm.jobs()["job"]["offset"] > 0, "something is copied")
    disk.vm.command("migrate", uri=f"exec:cat > {folder}/saved")
    wait_until(lambda: disk.vm.command("query-status")["status"] == "postmigrate", "the VM is saved")
    disk.vm.command("block-job-set-speed", device="job", speed=0)
    disk.vm.wait_event("BLOCK_JOB_PENDING", id="job")
    disk.vm.command("cont")
    job = disk.vm.jobs()["job"]
    assert job["offset"] == job["len"]
    disk.flush()
    assert disk.left() >= MiB
    disk.vm.command("job-cancel", id="job")


def test_no_name_is_followed(folder: Path, boot: Boot) -> None:
    """What the headers name is never opened: the chain is what QEMU has open."""
    os.mkfifo(folder / "trap")  # who opens it waits for ever
    base = images.create(folder / "base.qcow2", 8 * MiB, writes=[Write(0, MiB, 1)])
    top = images.create(folder / "top.qcow2", 8 * MiB)
    for image in (base, top):
        run([images.qemu_img(), "rebase", "-u", "-f", "qcow2", "-b", folder / "trap", "-F", "raw", image])
    disk = Disk(boot(*disks.named_nodes([top, base], names=["top", "base"], qdev="vda")))
    assert disk.left() == MiB


def test_another_user(folder: Path, boot: Boot) -> None:
    """qemu-img runs as whom it is told: what that user may not read is not known."""
    chain = images.chain(folder)
    disk = Disk(boot(*disks.drive(chain.top, id="drive0", qdev="vda")))
    nobody = User(65534, 65534)
    chain.top.chmod(0o600)
    found = disk.map(user=nobody)
    assert isinstance(found, NoMap)
    assert "Permission denied" in found.why
    for image in chain.images:
        image.chmod(0o644)
    assert disk.left(user=nobody) == disk.left()
