# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""What only the kernel knows: an image that /proc does not show as open is not free, and free once its user is gone."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from lab import Scene, Vm, disks, host, images
from lab.holders import (
    MAPS,
    NAMES,
    NOBODY,
    OPENS,
    OUTLIVES,
    SENDS,
    assert_in_use,
    holder,
    opening,
    released,
    who_has_open,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Boot = Callable[..., Vm]
    # What the task must say while the file is in use: the processes (None: it cannot tell which), and a word.
    Expected = tuple["set[int] | None", str]
    Use = Callable[[Path], contextlib.AbstractContextManager[Expected]]

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount, and be several users")
needs_loop = pytest.mark.skipif(not host.has_loop_devices(), reason="this host gives no loop device")
SOMEWHERE = "somewhere"


def stream_anew(folder: Path, boot: Boot, base: Path) -> Scene:
    """A new disk on an old base."""
    top = images.create(folder / "again.qcow2", backing=base, backing_format=images.info(base)["format"])
    return Scene(boot(*disks.drive(top, id="drive0", qdev="vda"), name="again"), images.Chain((top, base), b""))


# -- Ways to have a file open ------------------------------------------------------------------------------------------


@contextlib.contextmanager
def by_another_user(base: Path) -> Iterator[Expected]:
    with holder(*NOBODY, "sh", "-c", "echo ready; exec sleep 1000", stdin=base) as pid:
        yield {pid}, f"sleep (pid {pid})"


@contextlib.contextmanager
def by_a_mapping(base: Path) -> Iterator[Expected]:
    with opening(base, program=MAPS) as pid:
        assert who_has_open(base) - {pid} == who_has_open(base)
        yield {pid}, f"(pid {pid})"


@contextlib.contextmanager
def by_a_descriptor_in_flight(base: Path) -> Iterator[Expected]:
    with opening(base, program=SENDS):
        yield None, SOMEWHERE


@contextlib.contextmanager
def by_a_process_without_its_first_thread(base: Path) -> Iterator[Expected]:
    with opening(base, program=OUTLIVES) as pid:
        assert pid not in who_has_open(base)
        yield {pid}, f"(pid {pid})"


@contextlib.contextmanager
def through_an_overlay(base: Path) -> Iterator[Expected]:
    with host.overlay(base.parent, base.parent / "container") as merged, opening(merged / base.name) as pid:
        assert os.stat(merged / base.name).st_dev != base.stat().st_dev
        yield {pid}, f"(pid {pid})"


@contextlib.contextmanager
def through_an_overlay_of_a_container(base: Path) -> Iterator[Expected]:
    """An overlay that is only mounted in a mount namespace of its own."""
    folder = base.with_name("hidden")
    mount = host.overlay_command(base.parent, folder)
    script = f'{mount} && exec {sys.executable} -c "$0" {folder}/root/{base.name}'
    with holder("unshare", "--mount", "sh", "-c", script, OPENS):
        yield None, SOMEWHERE


@contextlib.contextmanager
def by_a_link_that_was_renamed(base: Path) -> Iterator[Expected]:
    link = base.with_name("link")
    link.hardlink_to(base)
    with opening(link) as pid:
        link.rename(base.with_name("renamed"))
        yield {pid}, f"(pid {pid})"


@contextlib.contextmanager
def by_a_loop_device(base: Path) -> Iterator[Expected]:
    with host.loop_device(base) as device:
        yield set(), device.removeprefix("/dev/")


WAYS = [
    by_another_user,
    by_a_mapping,
    by_a_descriptor_in_flight,
    pytest.param(
        by_a_process_without_its_first_thread,
        marks=pytest.mark.skipif(
            platform.machine() not in ("x86_64", "aarch64"), reason="the number of the system call is not known here"
        ),
    ),
    through_an_overlay,
    through_an_overlay_of_a_container,
    by_a_link_that_was_renamed,
    pytest.param(by_a_loop_device, marks=needs_loop),
]


@pytest.mark.parametrize("way", WAYS)
def test_a_file_in_use_is_not_free_and_free_once_it_is_not(disk: Scene, folder: Path, boot: Boot, way: Use) -> None:
    """However the file is in use, it is not free, and its user is named where that can be found; then it is free."""
    base = disk.chain.base
    with way(base) as (pids, word):
        files = released(disk.stream())
    assert_in_use(files["base.qcow2"], pids, word)
    assert files["mid1.qcow2"]["free"] is True
    again = released(stream_anew(folder, boot, base).stream())["base.qcow2"]
    assert (again["free"], again["reason"], again["pids"]) == (True, None, [])
    assert (again["device"], again["inode"]) == (base.stat().st_dev, base.stat().st_ino)


def test_a_swap_file(folder: Path, boot: Boot) -> None:
    """What the kernel swaps to is not free."""
    base = folder / "swap.raw"
    base.write_bytes(bytes(images.MiB))
    base.chmod(0o600)
    subprocess.run(["mkswap", "--quiet", base], check=True)
    with contextlib.ExitStack() as stack:
        if subprocess.run(["swapon", base], capture_output=True, check=False).returncode:
            pytest.skip("this kernel does not swap to a file here")
        stack.callback(lambda: subprocess.run(["swapoff", base], check=True))
        file = released(stream_anew(folder, boot, base).stream())["swap.raw"]
    assert_in_use(file, set(), "it is still open in swap")


def test_who_only_names_a_file_does_not_use_it(disk: Scene) -> None:
    """A descriptor by O_PATH can neither read nor write: the file is free."""
    with opening(disk.chain.base, program=NAMES) as pid:
        assert who_has_open(disk.chain.base) >= {pid}
        assert released(disk.stream())["base.qcow2"]["free"] is True


# -- Where the module does not see the user ----------------------------------------------------------------------------


def test_in_a_pid_namespace_that_does_not_show_the_user(
    folder: Path, boot: Boot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a container with its VMs, the module does not see a reader of the host, and the kernel does."""
    with contextlib.ExitStack() as stack:
        script = "echo ready; exec sleep 1000"
        alone = ("unshare", "--pid", "--kill-child", "--mount-proc")  # whose end is that of all in it
        outer = stack.enter_context(holder(*alone, "sh", "-c", script))
        inner = Path(f"/proc/{outer}/task/{outer}/children").read_text().strip()
        inside = ["nsenter", "--target", inner, "--pid", "--mount"]
        emulator = os.environ.get("QEMU_SYSTEM", "qemu-system-x86_64")
        monkeypatch.setenv("QEMU_SYSTEM", str(script_of(folder / "qemu", [*inside, emulator])))
        chain = images.chain(folder, layers=2)
        disk = Scene(boot(*disks.drive(chain.top, id="drive0", qdev="vda")), chain)
        with opening(chain.base):
            files = released(disk.stream(under=inside))
        stack.callback(disk.vm.kill)
    assert_in_use(files["base.qcow2"], None, SOMEWHERE)
    assert files["mid1.qcow2"]["free"] is True


def test_without_the_right_to_look_into_other_processes(
    folder: Path, boot: Boot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root without CAP_SYS_PTRACE, as in many containers and units, does not see a reader, and the kernel does."""
    fewer = ["setpriv", "--bounding-set=-sys_ptrace", "--inh-caps=-sys_ptrace"]
    emulator = os.environ.get("QEMU_SYSTEM", "qemu-system-x86_64")
    monkeypatch.setenv("QEMU_SYSTEM", str(script_of(folder / "qemu", [*fewer, emulator])))
    chain = images.chain(folder, layers=2)
    disk = Scene(boot(*disks.drive(chain.top, id="drive0", qdev="vda")), chain)
    with holder(*NOBODY, "sh", "-c", "echo ready; exec sleep 1000", stdin=chain.base):
        files = released(disk.stream(under=fewer))
    assert_in_use(files["base.qcow2"], None, SOMEWHERE, "CAP_SYS_PTRACE")
    assert files["mid1.qcow2"]["free"] is True


def script_of(path: Path, words: list[str]) -> Path:
    """A program that runs these words with its arguments."""
    path.write_text(f'#!/bin/sh\nexec {" ".join(words)} "$@"\n')
    path.chmod(0o755)
    return path
