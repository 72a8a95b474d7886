# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the guest and its owner do while a stream runs, and between two runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from lab import MonitorError, Scene, Vm, disks, images, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Boot = Callable[..., Vm]

KiB, MiB = images.KiB, images.MiB


def test_the_guest_writes_meanwhile(disk: Scene) -> None:
    """What the guest writes during the stream, before, at and behind the cursor, is there after the task and a kill."""
    waiter = disk.begin()
    model = bytearray(disk.chain.expected)
    # In the first chunk, which is copied; inside data of the base that is not; in holes; at the very end.
    whole = [(offset, 64 * KiB) for offset in (0, 256 * KiB, 5 * MiB, 9 * MiB, 16 * MiB - 64 * KiB)]
    parts = [(offset, 4 * KiB) for offset in (132 * KiB, 6 * MiB + 512, 11 * MiB, 16 * MiB - 4 * KiB)]
    for number, (offset, size) in enumerate([*whole, *parts]):
        disk.vm.guest_write("vda", offset, size, number + 1)
        model[offset : offset + size] = bytes([number + 1]) * size
    disk.vm.hasten()
    Scene(disk.vm, images.Chain(disk.chain.images, bytes(model))).assert_done(waiter.result())


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        pytest.param("block_resize", {"device": "drive0", "size": 32 * MiB}, id="resize"),
        pytest.param("blockdev-snapshot-sync", {"device": "drive0", "snapshot_file": "snapshot.qcow2"}, id="snapshot"),
    ],
)
def test_resize_or_snapshot_in_a_stream(disk: Scene, command: str, arguments: dict[str, Any], folder: Path) -> None:
    """QEMU refuses both while a stream runs or is pending; ours is not disturbed and ends populated."""
    values = {key: str(folder / value) if key == "snapshot_file" else value for key, value in arguments.items()}
    waiter = disk.begin()
    with pytest.raises(MonitorError, match=r"busy|in use"):
        disk.vm.command(command, **values)
    disk.vm.hasten()
    disk.assert_done(waiter.result())


def test_a_disk_grows_between_two_runs(disk: Scene) -> None:
    """A disk that is resized after an aborted stream is populated over its new size."""
    disk.start()
    disk.stream(state="aborted")
    disk.vm.command("block_resize", device="drive0", size=24 * MiB)
    grown = images.Chain(disk.chain.images, disk.chain.expected + bytes(8 * MiB))
    Scene(disk.vm, grown).assert_done(disk.stream())


def test_a_snapshot_between_two_runs(disk: Scene, folder: Path) -> None:
    """A snapshot after an aborted stream is a new top; the rerun gives it all data, the old top's included."""
    disk.start()
    disk.stream(state="aborted")
    new = folder / "snapshot.qcow2"
    disk.vm.command("blockdev-snapshot-sync", device="drive0", snapshot_file=str(new), format="qcow2")
    disk.vm.guest_write("vda", 9 * MiB, 64 * KiB, 7)
    model = bytearray(disk.chain.expected)
    model[9 * MiB : 9 * MiB + 64 * KiB] = b"\7" * (64 * KiB)
    Scene(disk.vm, images.Chain((new, *disk.chain.images), bytes(model))).assert_done(disk.stream())


@pytest.fixture
def guest(folder: Path, boot: Boot) -> Callable[..., Scene]:
    """A VM whose processor runs, in the firmware."""

    def make(*words: str) -> Scene:
        chain = images.chain(folder, layers=2)
        return Scene(boot(*disks.drive(chain.top, id="drive0", qdev="vda"), *words, running=True), chain)

    return make


def test_the_guest_is_reset(guest: Callable[..., Scene]) -> None:
    """A reset in the middle of a stream disturbs nothing."""
    disk = guest()
    waiter = disk.begin()
    disk.vm.command("system_reset")
    disk.vm.wait_event("RESET")
    disk.vm.hasten()
    disk.assert_done(waiter.result())


def test_the_guest_is_powered_off_and_qemu_stays(guest: Callable[..., Scene]) -> None:
    """A guest that is off in a QEMU that stays (`-no-shutdown`) is populated all the same."""
    disk = guest("-no-reboot", "-no-shutdown")
    waiter = disk.begin()
    disk.vm.command("system_reset")
    disk.vm.wait_event("SHUTDOWN")
    wait_until(lambda: bool(disk.vm.command("query-status")["status"] == "shutdown"), "the guest is off")
    disk.vm.hasten()
    disk.assert_done(waiter.result())


def test_the_guest_is_powered_off_and_qemu_ends(guest: Callable[..., Scene], boot: Boot) -> None:
    """A QEMU that ends with its guest fails the task, which claims nothing; started again, the rerun is done."""
    disk = guest("-no-reboot")
    waiter = disk.begin()
    disk.vm.command("system_reset")
    result = waiter.result(timeout=20)
    assert result.failed
    assert result.get("finished", False) is False
    for word in ("vm0", "vda", "QEMU"):
        assert word in result["msg"]
    disk.vm.kill()
    assert images.backing(disk.chain.top) is not None
    again = Scene(boot(*disks.drive(disk.chain.top, id="drive0", qdev="vda"), name="again"), disk.chain)
    again.assert_done(again.stream())


def test_the_disk_is_unplugged(folder: Path, boot: Boot) -> None:
    """A disk that is taken out of the VM in the middle of its stream is told as gone, never as populated."""
    chain = images.chain(folder)
    vm = boot(
        *disks.frontend("virtio-scsi-pci", "scsi0"),
        *disks.node(chain.top, node_name="top", qdev="sda", device="scsi-hd"),
    )
    waiter = Scene(vm, chain).begin(disks=["sda"])
    (job,) = vm.jobs()
    vm.command("device_del", id="sda")
    vm.wait_event("DEVICE_DELETED", device="sda")
    vm.hasten()
    result = waiter.result()
    assert (result.failed, result["finished"]) == (True, False), result
    for word in ("sda", "gone", job):
        assert word in result["msg"]
