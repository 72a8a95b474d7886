# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""A guest with an operating system of its own, at work on its file system while the role populates its disk."""

from __future__ import annotations

import hashlib
import mmap
import os
import random
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from lab import disks, guest_system, images, product
from lab.guest_system import Guest
from lab.process import run

if TYPE_CHECKING:
    from pathlib import Path

PLAYBOOK = product.COLLECTION / "playbooks" / "populate.yml"
SBIN = f"{os.environ['PATH']}:/usr/sbin:/sbin"  # where a plain user does not look
KEPT, OVERWRITTEN = 32, 64  # files of the golden image
SPEED = 2 * images.MiB  # nine seconds


@dataclass(frozen=True)
class Golden:
    """The golden image: an ext4 file system, with the checksums of its files."""

    path: Path
    checksums: dict[str, str]
    damage: tuple[str, int]  # one of them, and where on the disk it begins


@pytest.fixture(scope="module")
def accel() -> str:
    """What runs the guest."""
    try:
        guest_system.prepare()
    except guest_system.Unavailable as reason:
        pytest.skip(str(reason))
    return guest_system.accelerator()


@pytest.fixture
def golden(folder: Path, accel: str) -> Golden:  # noqa: ARG001  # skipped before 16 MiB are made for nothing
    """16 MiB of files that stay, and small ones to be overwritten, on a disk with room for much more."""
    if shutil.which("mke2fs", path=SBIN) is None:
        pytest.skip("there is no mke2fs to make the file system with (apt-get install e2fsprogs)")
    tree, raw, path = folder / "tree", folder / "golden.raw", folder / "golden.qcow2"
    for name in ("golden", "old", "new"):
        (tree / name).mkdir(parents=True)
    sizes = {f"golden/{number}": 512 * images.KiB for number in range(KEPT)}
    sizes |= {f"old/{number}": 40 * images.KiB for number in range(OVERWRITTEN)}
    contents = {name: random.Random(name).randbytes(size) for name, size in sizes.items()}
    for name, content in contents.items():
        (tree / name).write_bytes(content)
    images.create(raw, 1024 * images.MiB, format="raw")
    run([str(shutil.which("mke2fs", path=SBIN)), "-q", "-t", "ext4", "-d", tree, raw])
    with raw.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as disk:
        damage = ("golden/7", disk.find(contents["golden/7"][: 64 * images.KiB]))
    run([images.qemu_img(), "convert", "-f", "raw", "-O", "qcow2", raw, path])
    raw.unlink()
    # MD5 takes a guest without KVM half the time of anything better, and nobody here wants to deceive it.
    return Golden(path, {name: hashlib.md5(content).hexdigest() for name, content in contents.items()}, damage)


def assert_sound(*command: str | Path) -> None:
    """A tool of the host finds nothing wrong."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_guest_works_while_its_disk_is_populated(folder: Path, golden: Golden, accel: str) -> None:
    """What a guest synced, and all that it was given, is there after SIGKILL and a boot from its own disk alone."""
    top = images.create(folder / "top.qcow2", backing=golden.path)
    disk = disks.drive(top, id="drive0", qdev="vda")
    with Guest(folder, "work", *disk, accel=accel, expected=golden.checksums) as guest, ThreadPoolExecutor(1) as pool:
        guest.wait_until(lambda: guest.rounds > 0, "the guest works")
        monitors = {"populate_hosts": "all", "populate_monitors": [guest.vm.monitor]}
        role = pool.submit(product.playbook, PLAYBOOK, timeout=300, extra={**monitors, "populate_speed": str(SPEED)})
        guest.vm.judge.wait_event("JOB_STATUS_CHANGE", lambda job: job["status"] == "running", timeout=120)
        before = guest.rounds
        guest.vm.judge.wait_event("BLOCK_JOB_PENDING", timeout=120)
        after = guest.rounds
        left = role.result().result("virtops.qmp.populate : Leave the result")["ansible_facts"]["populate_result"]
        assert (left["failures"], left["finished"]) == ([], True)
        assert guest.vm.open_files() & {top, golden.path} == {top}
        golden.path.rename(folder / "taken-away.qcow2")
        alone = guest.rounds
        guest.wait_until(lambda: guest.rounds > alone + 1, "the guest works on its own disk", 30)
        guest.vm.kill()
    print(f"{accel}: {after - before} rounds of the guest during the stream, {guest.rounds} in all")
    assert guest.complaints == []
    assert after - before >= 5
    expected = guest.files_from(golden.checksums)
    assert len(expected) >= KEPT + OVERWRITTEN + guest.rounds - 2

    assert images.backing(top) is None
    # A QEMU that was killed may leave clusters that nothing uses, which are no loss.
    assert_sound(images.qemu_img(), "check", "-r", "leaks", top)
    with Guest(folder, "verify", *disk, accel=accel, name="again", expected=expected) as again:
        again.wait_for("over")
    assert again.complaints == []
    assert f"verified {len(expected)}" in again.said
    raw = folder / "top.raw"
    run([images.qemu_img(), "convert", "-f", "qcow2", "-O", "raw", top, raw])
    assert_sound(str(shutil.which("e2fsck", path=SBIN)), "-f", "-n", raw)


def test_the_guest_sees_damage(folder: Path, golden: Golden, accel: str) -> None:
    """The control: of a disk that differs in 16 bytes, the same guest names the one file that is not as it was."""
    name, offset = golden.damage
    assert offset > 0
    top = images.create(folder / "top.qcow2", backing=golden.path, writes=[images.Write(offset + 5000, 16, seed=1)])
    disk = disks.drive(top, id="drive0", qdev="vda")
    with Guest(folder, "verify", *disk, accel=accel, expected=golden.checksums) as guest:
        guest.wait_for("over")
    assert [line for line in guest.complaints if "FAILED" in line] == [f"bad {name}: FAILED"]
    assert f"verified {KEPT + OVERWRITTEN - 1}" in guest.said
