# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""The images that left a chain: who still has them open, by whatever name, and what is really free to delete."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from lab import NbdServer, Scene, Vm, aliases, disks, host, images, product
from lab.holders import OPENS, assert_in_use, assert_unknown, holder, opening, released, who_has_open

if TYPE_CHECKING:
    from collections.abc import Callable

    Boot = Callable[..., Vm]

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount, and see what all processes have open")
needs_loop = pytest.mark.skipif(not host.has_loop_devices(), reason="this host gives no loop device")

pytestmark = needs_root


# -- Free --------------------------------------------------------------------------------------------------------------


def test_files_that_nobody_has_open_are_free(disk: Scene) -> None:
    """Each image that left the chain is told once, top down, as free; and so it is."""
    result = disk.stream()
    assert [(each["path"], each["free"], each["pids"], each["reason"]) for each in result["disks"][0]["released"]] == [
        (str(image), True, [], None) for image in disk.chain.images[1:]
    ]
    assert [who_has_open(image) for image in disk.chain.images[1:]] == [set(), set()]
    assert disk.stream()["disks"][0]["released"] == []


@pytest.mark.parametrize("delay", [pytest.param(0, id="at once"), pytest.param(1, id="after a second")])
@pytest.mark.parametrize("style", ["drive", "blockdev", "named"])
def test_free_means_that_it_may_be_deleted(folder: Path, boot: Boot, style: str, delay: int) -> None:
    """What is told as free is deleted, QEMU gets a SIGKILL, and every byte is in the top."""
    chain = images.chain(folder, layers=2)
    words = {
        "drive": disks.drive(chain.top, id="drive0", qdev="vda"),
        "blockdev": disks.node(chain.top, node_name="top", qdev="vda"),
        "named": disks.named_nodes(chain.images, names=["top", "middle", "base"], qdev="vda"),
    }[style]
    disk = Scene(boot(*words), chain)
    free = [each["path"] for each in disk.stream()["disks"][0]["released"] if each["free"]]
    assert free == [str(image) for image in chain.images[1:]]
    for path in free:
        os.unlink(path)
    time.sleep(delay)  # an idle second is what is tested here: QEMU may use it to write in the wrong order
    disk.vm.kill()
    assert images.backing(chain.top) is None
    assert images.differences(chain.expected, images.content(chain.top)) == []


def test_a_pending_job_releases_nothing(disk: Scene) -> None:
    """As long as the chain is what it was, and after a stop as well, no file is told as released."""
    disk.start_pending()
    for options in ({"check": True}, {"state": "paused"}, {"state": "aborted"}):
        assert disk.stream(**options)["disks"][0]["released"] == []
    assert disk.vm.pid in who_has_open(disk.chain.base)


def test_a_base_that_stays_is_not_released(disk: Scene) -> None:
    """With `base` only what was above it is told."""
    result = disk.stream(base=str(disk.chain.base))
    assert [(each["path"], each["free"]) for each in result["disks"][0]["released"]] == [
        (str(disk.chain.images[1]), True)
    ]


# -- Used by VMs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("known", [True, False], ids=["of this call", "unknown to the task"])
def test_a_second_vm_on_the_base(disk: Scene, folder: Path, boot: Boot, known: bool) -> None:
    """The base of two VMs is not free while the second one runs; its pid is told, and its name where it is known."""
    other = boot(*disks.drive(images.create(folder / "o.qcow2", backing=disk.chain.base), id="drive0"), name="web02")
    monitors = [disk.vm.monitor, *([other.monitor] if known else [])]
    files = released(disk.stream(monitors=monitors, disks=[str(disk.chain.top)]))
    name = "VM web02" if known else Path(f"/proc/{other.pid}/comm").read_text().strip()
    assert_in_use(files["base.qcow2"], {other.pid}, f"{name} (pid {other.pid})")
    assert files["mid1.qcow2"]["free"] is True


def test_a_second_disk_of_the_vm_on_the_base(folder: Path, boot: Boot) -> None:
    """The base of two disks of one VM is free only when both are populated; in one call, for both at its end."""
    base = images.chain(folder, layers=0).base
    tops = [images.create(folder / f"{letter}.qcow2", backing=base) for letter in "abc"]
    words = [w for n, top in enumerate(tops) for w in disks.drive(top, id=f"drive{n}", qdev=f"vd{'abc'[n]}")]
    vm = boot(*words, name="web01")

    def stream(*names: str) -> product.Result:
        return product.module("block_stream", monitors=[vm.monitor], disks=list(names))

    assert_in_use(released(stream("vda"))["base.qcow2"], {vm.pid}, "VM web01")
    last = stream("vdb", "vdc")
    assert [released(last, place)["base.qcow2"]["free"] for place in (0, 1)] == [True, True]
    assert who_has_open(base) == set()


def test_nodes_that_are_kept(folder: Path, boot: Boot) -> None:
    """With `release: false` the VM itself still has the files of explicitly named nodes open, and is told."""
    chain = images.chain(folder)
    vm = boot(*disks.named_nodes(chain.images, names=["top", "base"], qdev="vda"), name="web01")
    files = released(Scene(vm, chain).stream(release=False))
    assert_in_use(files["base.qcow2"], {vm.pid}, "VM web01")
    assert who_has_open(chain.base) == {vm.pid}


def test_a_node_that_another_device_shows(folder: Path, boot: Boot) -> None:
    """A base that the same VM shows as a read-only disk as well is not free."""
    chain = images.chain(folder)
    words = disks.named_nodes(chain.images, names=["top", "base"], qdev="vda")
    words += disks.frontend("virtio-blk-pci", "vdb", drive="base")
    vm = boot(*words, name="web01")
    files = released(Scene(vm, chain).stream())
    assert_in_use(files["base.qcow2"], {vm.pid}, "VM web01")


# -- Used under another name -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [aliases.hard_link, aliases.symbolic_link, aliases.by_bind_mount])
def test_a_process_that_has_it_open_under_another_name(
    disk: Scene, name: Callable[[Path, contextlib.ExitStack], Path]
) -> None:
    """A file that a process opened by a link or through another mount is the same file, and not free."""
    with contextlib.ExitStack() as stack:
        pid = stack.enter_context(opening(name(disk.chain.base, stack)))
        files = released(disk.stream())
    assert_in_use(files["base.qcow2"], {pid}, "python", f"pid {pid}")
    assert files["mid1.qcow2"]["free"] is True


def test_a_process_in_another_mount_namespace(disk: Scene) -> None:
    """A container that has the file open under a mount that this host does not see is found as well."""
    script = f'mount --bind {disk.chain.base.parent} /mnt && exec {sys.executable} -c "$0" /mnt/{disk.chain.base.name}'
    with holder("unshare", "--mount", "sh", "-c", script, OPENS) as pid:
        files = released(disk.stream())
    assert_in_use(files["base.qcow2"], {pid}, f"pid {pid}")


def test_a_process_that_inherited_it(disk: Scene) -> None:
    """A process that only got the open file from its parent is named, with its pid."""
    with holder(stdin=disk.chain.base) as pid:
        files = released(disk.stream())
    assert_in_use(files["base.qcow2"], {pid}, f"sleep (pid {pid})")


def test_an_nbd_server(disk: Scene, folder: Path) -> None:
    """A base that is also served over NBD is not free while the server runs."""
    with NbdServer(disk.chain.base, folder / "nbd", format="qcow2") as server:
        files = released(disk.stream())
        assert_in_use(files["base.qcow2"], {server.pid}, f"pid {server.pid}")


def test_the_chain_names_a_link(folder: Path, boot: Boot) -> None:
    """Where the chain names a symbolic link, the file behind it is told, and who has that open."""
    below = images.chain(folder, layers=0)
    (folder / "current").symlink_to("base.qcow2")
    top = images.create(folder / "top.qcow2", backing=folder / "current")
    disk = Scene(boot(*disks.drive(top, id="drive0", qdev="vda")), images.Chain((top, below.base), below.expected))
    with opening(below.base) as pid:
        files = released(disk.stream())
    assert_in_use(files["base.qcow2"], {pid}, f"pid {pid}")


def test_a_file_that_was_renamed(disk: Scene) -> None:
    """A base that was moved away below a running VM is told by its path of today, and is as free as any."""
    disk.chain.base.rename(disk.chain.base.with_name("archived"))
    files = released(disk.stream())
    assert "base.qcow2" not in files
    assert files["archived"]["free"] is True, files


def test_a_file_that_was_renamed_meanwhile(disk: Scene) -> None:
    """Of a base that was moved away while the stream ran nothing is known under the name that it no longer has."""
    waiter = disk.begin()
    disk.chain.base.rename(disk.chain.base.with_name("archived"))
    disk.vm.hasten()
    assert_unknown(released(waiter.result())["base.qcow2"], "no such file")


def test_a_file_that_was_replaced_meanwhile(disk: Scene) -> None:
    """A new golden image that took the old one's name while the stream ran is never told as free."""
    waiter = disk.begin()
    disk.chain.base.rename(disk.chain.base.with_name("old"))
    disk.chain.base.write_bytes(b"the new one")
    disk.vm.hasten()
    assert_unknown(released(waiter.result())["base.qcow2"], "another file has its name")


def test_a_file_that_was_replaced_before(disk: Scene) -> None:
    """A new golden image that took the old one's name before the task is not what left the chain: the old one is."""
    disk.chain.base.rename(disk.chain.base.with_name("old"))
    disk.chain.base.write_bytes(b"the new one")
    files = released(disk.stream())
    assert "base.qcow2" not in files
    assert files["old"]["free"] is True, files


# -- Used by the kernel, and what cannot be told -----------------------------------------------------------------------


@needs_loop
def test_a_loop_device(disk: Scene) -> None:
    """A base behind a loop device is open in the kernel, where no process shows it."""
    with host.loop_device(disk.chain.base) as device:
        file = released(disk.stream())["base.qcow2"]
        assert_in_use(file, set(), device.removeprefix("/dev/"))


@needs_loop
def test_a_loop_device_of_another_name(disk: Scene) -> None:
    """A loop device whose file was attached by a hard link, or by a mount of another namespace, is found as well."""
    link = disk.chain.base.with_name("hard-link")
    link.hardlink_to(disk.chain.base)
    with host.loop_device(link) as device:
        assert_in_use(released(disk.stream())["base.qcow2"], set(), device.removeprefix("/dev/"))


@needs_loop
def test_a_loop_device_of_another_namespace(disk: Scene) -> None:
    """A loop device that was attached through a mount that this host does not see is found as well."""
    base = disk.chain.base
    script = f"mount --bind {base.parent} /mnt && losetup --find --show /mnt/{base.name}"
    device = subprocess.run(["unshare", "--mount", "sh", "-c", script], capture_output=True, text=True, check=True)
    try:
        file = released(disk.stream())["base.qcow2"]
    finally:
        subprocess.run(["losetup", "--detach", device.stdout.strip()], check=True)
    assert_in_use(file, set(), device.stdout.strip().removeprefix("/dev/"))


@needs_loop
def test_a_block_device_as_base(folder: Path, boot: Boot) -> None:
    """Of a device nobody can tell who uses it: that is unknown."""
    raw = images.chain(folder, layers=0, base_format="raw")
    with host.loop_device(raw.base) as device:
        top = images.create(folder / "top.qcow2", backing=device, backing_format="raw")
        vm = boot(*disks.drive(top, id="drive0", qdev="vda"))
        (file,) = released(Scene(vm, images.Chain((top, raw.base), raw.expected)).stream()).values()
        vm.kill()
    assert file["path"] == device
    assert_unknown(file, "not a regular file")


def test_a_base_over_nbd(folder: Path, boot: Boot) -> None:
    """What is reached over the network is told as that: not decidable from here."""
    with contextlib.ExitStack() as stack:

        def serve(base: Path) -> str:
            return stack.enter_context(NbdServer(base, folder / "nbd")).address

        chain = images.chain(folder, base_format="raw", serve=serve)
        disk = Scene(boot(*disks.drive(chain.top, id="drive0", qdev="vda")), chain)
        (file,) = released(disk.stream()).values()
        disk.vm.kill()
    assert file["path"].startswith("nbd+unix:")
    assert file["pids"] is None
    assert_unknown(file, "protocol")
