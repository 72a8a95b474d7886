# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""A QEMU that sees other files than this host under the same names: a container, a chroot, a unit's PrivateMounts."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
from lab import Scene, Vm, disks, host, images
from lab.process import run, tool

from .conftest import assert_populated, free_paths, needs_root

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Boot = Callable[..., Vm]

pytestmark = needs_root


@pytest.fixture
def disk(folder: Path, boot: Boot) -> Scene:
    """`vda`, whose images QEMU knows in the folder `pool`, where this host has none; they lie in `inside`."""
    inside, pool = folder / "inside", folder / "pool"
    inside.mkdir()
    pool.mkdir()
    chain = images.chain(inside, relative=True)
    words = disks.drive(pool / "top.qcow2", id="drive0", qdev="vda")
    return Scene(boot(*words, under=host.elsewhere(inside, pool)), chain)


def overlay(pool: Path) -> None:
    """Another VM's overlay, which QEMU's names would mean on this host, on a base of the same name."""
    images.chain(pool, relative=True, seed=2)


def standing_alone(pool: Path) -> None:
    """Images that need no other."""
    for name in ("top.qcow2", "base.qcow2"):
        images.create(pool / name, 16 * images.MiB, writes=[images.Write(0, images.MiB, seed=3)])


OTHERS = [overlay, standing_alone]


def stamps(pool: Path) -> dict[str, Any]:
    """What would show that somebody touched the files."""
    return {
        each.name: (each.stat().st_mtime_ns, each.stat().st_ctime_ns, each.stat().st_mode) for each in pool.iterdir()
    }


def assert_no_other_is_free(disk: Scene, result: Any) -> None:
    """What may be deleted is what the VM had, and not what its name means here."""
    for each in result["disks"][0]["released"]:
        if each["free"]:
            assert os.path.samefile(each["path"], disk.chain.base), each


@pytest.mark.parametrize("other", OTHERS)
def test_other_files_of_the_same_names(disk: Scene, folder: Path, other: Callable[[Path], None]) -> None:
    """The VM's own files are populated and judged, a rerun agrees, and the others are not touched or called free."""
    other(folder / "pool")
    before = stamps(folder / "pool")
    result = disk.stream()
    assert_no_other_is_free(disk, result)
    assert_populated(result)
    again = disk.stream()
    assert_populated(again)
    assert again["changed"] is False
    assert stamps(folder / "pool") == before
    disk.assert_safe_after_kill()


@pytest.mark.parametrize("other", OTHERS)
def test_what_is_told_of_such_a_disk(disk: Scene, folder: Path, other: Callable[[Path], None]) -> None:
    """The path leads to the VM's file, or is said not to; no stale header is seen in a file that is not the VM's."""
    other(folder / "pool")
    said = disk.info()
    assert (said["populated"], said["stale_header"]) == (False, None), said
    assert said.get("same_file") == os.path.samefile(said["path"], disk.chain.top), said
    assert said.get("filename") == str(folder / "pool" / "top.qcow2")


def test_the_space_is_that_of_the_vms_file(folder: Path) -> None:
    """The file system of the VM's top is too small, and the one of the other file is not: refused."""
    with host.file_system(folder / "inside", 2 * images.MiB) as small:
        (folder / "pool").mkdir()
        below = images.chain(folder, layers=0)
        top = images.create(small.path / "top.qcow2", backing=below.base)
        images.create(folder / "pool" / "top.qcow2", 16 * images.MiB)
        words = disks.drive(folder / "pool" / "top.qcow2", id="drive0", qdev="vda")
        with Vm(folder, *words, under=host.elsewhere(small.path, folder / "pool")) as vm:
            disk = Scene(vm, images.Chain((top, below.base), below.expected))
            free = small.free
            result = disk.stream()
            assert (vm.job_events(), small.free) == ([], free)
            assert result.failed, result
            assert "check_space" in result["msg"]


def test_nothing_of_the_same_names(disk: Scene) -> None:
    """The same where this host has no file of the name: populated, and nothing that does not exist is free."""
    result = disk.stream()
    assert_no_other_is_free(disk, result)
    assert_populated(result)
    disk.assert_safe_after_kill()


def test_a_qemu_in_a_chroot(folder: Path, boot: Boot) -> None:
    """It opened its images before, by the names of this host: they are told, populated and free as ever."""
    jail = folder / "jail"
    jail.mkdir()
    has_option = "-chroot dir" in run([tool("QEMU_SYSTEM", "qemu-system-x86_64"), "-help"])
    words = ["-chroot", str(jail)] if has_option else ["-run-with", f"chroot={jail}"]  # since QEMU 9.0
    chain = images.chain(folder)
    disk = Scene(boot(*disks.drive(chain.top, id="drive0", qdev="vda"), *words), chain)
    assert os.readlink(f"/proc/{disk.vm.pid}/root") == str(jail)
    result = disk.stream(disks=[str(chain.top)])
    assert_populated(result)
    assert (result["disks"][0]["path"], free_paths(result)) == (str(chain.top), [str(chain.base)])
    disk.assert_safe_after_kill()


def test_a_disk_of_the_same_name(disk: Scene, folder: Path, boot: Boot) -> None:
    """Another VM of this host runs the other file: both are populated, each as its own."""
    chain = images.chain(folder / "pool", seed=2)
    other = Scene(boot(*disks.drive(chain.top, id="drive0", qdev="vda"), name="other"), chain)
    result = disk.stream(monitors=[disk.vm.monitor, other.vm.monitor], disks=["*"])
    assert [each["populated"] for each in result["disks"]] == [True, True], result
    assert (result.failed, result["finished"]) == (False, True)
    for each in (disk, other):
        each.assert_safe_after_kill()
