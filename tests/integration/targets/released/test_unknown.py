# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""What cannot be known is neither free nor in use, and says why."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from lab import LabError, Scene, Vm, disks, host, images, product
from lab.holders import NOBODY, READS, assert_in_use, assert_unknown, opening, released

if TYPE_CHECKING:
    from collections.abc import Callable

    Boot = Callable[..., Vm]

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount, and be several users")

# As READS, and with the right to look into every process.
SEES = (*NOBODY, *(f"--{kind}-caps=-all,+dac_read_search,+sys_ptrace" for kind in ("inh", "ambient")))


def as_somebody(disk: Scene, under: tuple[str, ...]) -> product.Result:
    """The task as another user than root, who may use the monitor."""
    disk.vm.folder.chmod(0o755)
    os.chmod(disk.vm.monitor, 0o666)
    return disk.stream(under=under)


@pytest.mark.parametrize("is_held", [True, False], ids=["held", "not held"])
def test_who_cannot_see_what_qemu_has_open_says_so(disk: Scene, is_held: bool) -> None:
    """Without the right to see which files QEMU has open it is unknown which file its name means, held or not."""
    with contextlib.ExitStack() as stack:
        if is_held:
            stack.enter_context(opening(disk.chain.base))
        files = released(as_somebody(disk, READS))
    assert set(files) == {"mid1.qcow2", "base.qcow2"}
    for file in files.values():
        assert_unknown(file, "only root sees that")
        assert (file["pids"], file["device"], file["inode"]) == (None, None, None)


def test_who_may_not_ask_the_kernel_says_so(disk: Scene) -> None:
    """Without the right to a lease on others' files it is unknown whether a file is open, unless a user is seen."""
    with opening(disk.chain.base) as pid:
        files = released(as_somebody(disk, SEES))
    assert_in_use(files["base.qcow2"], {pid}, f"pid {pid}")
    assert_unknown(files["mid1.qcow2"], "only its owner and root (CAP_LEASE) may ask the kernel")
    assert files["mid1.qcow2"]["pids"] is None


def test_the_owner_may_ask_the_kernel(disk: Scene) -> None:
    """The user to whom the images belong needs no other right."""
    for image in disk.chain.images:
        os.chown(image, 65534, 65534)
    files = released(as_somebody(disk, SEES))
    assert [file["free"] for file in files.values()] == [True, True]


def test_over_tcp_it_is_not_known_which_files_qemu_has(folder: Path, boot: Boot) -> None:
    """Behind a port may be any host: what lies here under that name is not called free."""
    chain = images.chain(folder)
    words = ("-chardev", "socket,id=tcp,host=127.0.0.1,port=0,server=on,wait=off", "-mon", "chardev=tcp,mode=control")
    disk = Scene(boot(*disks.drive(chain.top, id="drive0", qdev="vda"), *words), chain)
    (chardev,) = [entry for entry in disk.vm.command("query-chardev") if entry["label"] == "tcp"]
    port = chardev["filename"].split(":")[3].split(",")[0]
    assert_unknown(released(disk.stream(monitors=[f"127.0.0.1:{port}"]))["base.qcow2"], "not over TCP")


def test_an_overlay_file_system(folder: Path, boot: Boot) -> None:
    """On an overlay the kernel grants a lease though the file of the layer is open: it is never called free."""
    (folder / "layer").mkdir()
    below = images.chain(folder / "layer", layers=0)
    with host.overlay(folder / "layer", folder / "container") as merged:
        top = images.create(folder / "top.qcow2", backing=merged / "base.qcow2")
        vm = boot(*disks.drive(top, id="drive0", qdev="vda"))
        with opening(below.base):
            file = released(Scene(vm, images.Chain((top, below.base), below.expected)).stream())["base.qcow2"]
        vm.kill()
    assert_unknown(file, "overlay")
    assert file["pids"] is None


def test_a_fuse_file_system(folder: Path, boot: Boot) -> None:
    """Of FUSE nobody knows what is behind it, though the kernel grants a lease there."""
    chain = images.chain(folder, layers=0, base_format="raw")
    (folder / "mounted").touch()
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(host.fuse(chain.base, folder / "mounted"))
        except (LabError, FileNotFoundError) as error:
            pytest.skip(f"no FUSE here: {error}")
        top = images.create(folder / "top.qcow2", backing=folder / "mounted", backing_format="raw")
        vm = boot(*disks.drive(top, id="drive0", qdev="vda"))
        file = released(Scene(vm, images.Chain((top, chain.base), chain.expected)).stream())["mounted"]
        vm.kill()
    assert_unknown(file, "it lies on fuse, and other hosts may use it")


def test_a_small_file_system_in_memory(folder: Path, boot: Boot) -> None:
    """tmpfs is this host's own: the kernel's word counts, both ways."""
    with host.file_system(folder / "memory", 64 * images.MiB) as memory:
        chain = images.chain(memory.path, layers=2)
        vm = boot(*disks.drive(chain.top, id="drive0", qdev="vda"))
        with opening(chain.base) as pid:
            files = released(Scene(vm, chain).stream())
        vm.kill()
    assert_in_use(files["base.qcow2"], {pid})
    assert files["mid1.qcow2"]["free"] is True


def test_internal_snapshots_still_need_the_base(folder: Path, boot: Boot) -> None:
    """A snapshot inside the top reads from the base for as long as it exists: the base is not free."""
    chain = images.chain(folder)
    subprocess.run([images.qemu_img(), "snapshot", "-c", "before", chain.top], check=True)
    vm = boot(*disks.drive(chain.top, id="drive0", qdev="vda"))
    file = released(Scene(vm, chain).stream())["base.qcow2"]
    assert_in_use(file, set(), f"the internal snapshot of {chain.top} still needs it")
