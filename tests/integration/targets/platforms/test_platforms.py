# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""QEMU as platforms start it: their own words for disks, users, sandboxes and names, populated by the module.

The words are those of Proxmox VE's qemu-server, Incus' driver_qemu.go, Ganeti's hv_kvm and libvirt's qemuxml2argv,
without what only a patched QEMU knows, and with `accel=tcg`. The laboratory's monitor is the second one, that each
platform has a way to add.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from lab import Scene, Vm, disks, images, product
from lab.process import run, tool

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

NOBODY = 65534
SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"


@dataclass(frozen=True)
class Start:
    """How a platform starts a VM with this chain: the words, the disk's name, and what else `Vm` is told."""

    words: Sequence[str]
    disk: str
    options: dict[str, Any] = field(default_factory=dict)


def in_volumes(folder: Path) -> images.Chain:
    """A linked clone as Proxmox VE makes it: each volume in the folder of its VM, the base by a relative name."""
    for name in ("8000", "101"):
        (folder / name).mkdir()
    size = 16 * images.MiB
    writes = images.layer_writes(0, size, 1), images.layer_writes(1, size, 1)
    base = images.create(folder / "8000" / "base-8000-disk-0.qcow2", size, writes=writes[0])
    top = folder / "101" / "vm-101-disk-0.qcow2"
    images.create(top, size, backing="../8000/base-8000-disk-0.qcow2", writes=writes[1])
    model = bytearray(size)
    for each in (*writes[0], *writes[1]):
        model[each.offset : each.offset + each.size] = each.content
    return images.Chain((top, base), bytes(model))


def in_one_folder(folder: Path) -> images.Chain:
    return images.chain(folder, layers=2)


def by_relative_names(folder: Path) -> images.Chain:
    return images.chain(folder, layers=2, relative=True)


def proxmox(chain: images.Chain) -> list[str]:
    """What both have beside the disk."""
    words = "-no-shutdown -smp 1,sockets=1,cores=1,maxcpus=1 -boot menu=on,strict=on,reboot-timeout=1000 -daemonize"
    devices = [
        "pci-bridge,id=pci.1,chassis_nr=1,bus=pci.0,addr=0x1e",
        "piix3-usb-uhci,id=uhci,bus=pci.0,addr=0x1.0x2",
        "usb-tablet,id=tablet,bus=uhci.0,port=1",
        "virtio-balloon-pci,id=balloon0,bus=pci.0,addr=0x3",
        "virtio-scsi-pci,id=scsihw0,bus=pci.0,addr=0x5",
    ]
    monitor = f"socket,id=qmp,path={chain.top.parent}/101.qmp,server=on,wait=off"
    words = f"{words} -machine type=pc -chardev {monitor} -mon chardev=qmp,mode=control"
    return [*words.split(), *(word for device in devices for word in ("-device", device))]


def proxmox_8(chain: images.Chain) -> Start:
    drive = f"file={chain.top},if=none,id=drive-scsi0,cache=none,format=qcow2,aio=threads,detect-zeroes=on"
    device = "scsi-hd,bus=scsihw0.0,channel=0,scsi-id=0,lun=0,drive=drive-scsi0,id=scsi0,bootindex=100"
    return Start([*proxmox(chain), "-drive", drive, "-device", device], "scsi0")


def proxmox_9(chain: images.Chain) -> Start:
    common = {
        "cache": {"direct": True, "no-flush": False},
        "detect-zeroes": "on",
        "discard": "ignore",
        "read-only": False,
    }
    file = {
        **common,
        "driver": "file",
        "filename": str(chain.top),
        "aio": "threads",
        "node-name": "ef6d87b01b7bb888b84",
    }
    format = {**common, "driver": "qcow2", "file": file, "node-name": "ff6d87b01b7bb888b84"}
    group = "throttle-group,id=throttle-drive-scsi0"  # Proxmox VE writes it as JSON, which QEMU 5.2 cannot read
    top = {"driver": "throttle", "file": format, "node-name": "drive-scsi0", "throttle-group": "throttle-drive-scsi0"}
    device = (
        "scsi-hd,bus=scsihw0.0,scsi-id=0,device_id=drive-scsi0,drive=drive-scsi0,id=scsi0,bootindex=100,write-cache=on"
    )
    words = ["-object", group, "-blockdev", json.dumps(top), "-device", device]
    return Start([*proxmox(chain), *words], "drive-scsi0")


def incus(chain: images.Chain) -> Start:
    """The top as an open file; QEMU as another user, who may read the images below."""
    top = os.open(chain.top, os.O_RDWR)
    file = {"driver": "file", "filename": "/dev/fdset/1", "locking": "off", "aio": "threads", "discard": "unmap"}
    words = "-no-user-config -sandbox on,obsolete=deny,elevateprivileges=allow,spawn=allow,resourcecontrol=deny"
    words = f"{words} -machine q35 -device virtio-scsi-pci,id=qemu_scsi -daemonize -add-fd fd={top},set=1"
    device = "scsi-hd,bus=qemu_scsi.0,channel=0,scsi-id=0,lun=1,drive=incus_root,id=dev-incus_root,serial=incus_root"
    node = disks.blockdev("qcow2", "incus_root", file=file, discard="unmap")
    return Start([*words.split(), *as_nobody(), *node, "-device", device], "dev-incus_root", {"descriptors": [top]})


def as_nobody() -> list[str]:
    """QEMU 10 has dropped -runas."""
    has_runas = "-runas" in run([tool("QEMU_SYSTEM", "qemu-system-x86_64"), "-help"])
    return ["-runas", "nobody"] if has_runas else ["-run-with", "user=nobody"]


def ganeti(chain: images.Chain) -> Start:
    """The disk by a link with a colon in its name, which would be a protocol if it were not absolute."""
    links = chain.top.parent / "instance-disks"
    links.mkdir()
    link = links / "web01:0"
    link.symlink_to(chain.top)
    drive = f"file={link},format=qcow2,if=none,cache=none,aio=threads,id=disk-5b4b0c9a,auto-read-only=off"
    device = "virtio-blk-pci,id=disk-5b4b0c9a,drive=disk-5b4b0c9a,bus=pci.0,addr=0xc"
    words = f"-machine pc -smp 1 -boot c -daemonize -usb -monitor unix:{links}/web01.monitor,server=on,wait=off"
    return Start([*words.split(), "-drive", drive, "-device", device], "disk-5b4b0c9a")


def microvm(chain: images.Chain) -> Start:
    words = "-M microvm,rtc=on,x-option-roms=off -no-user-config -no-reboot"
    drive = f"id=root,file={chain.top},format=qcow2,if=none"
    return Start([*words.split(), "-drive", drive, "-device", "virtio-blk-device,drive=root,id=vda"], "vda")


def unit(chain: images.Chain, file: str) -> Start:
    """The guide's unit, with User=, UMask=, WorkingDirectory= and a sandbox."""
    words = [*disks.drive(file, id="drive0", qdev="vda"), "-sandbox", SANDBOX]
    under = [
        "setpriv",
        f"--reuid={NOBODY}",
        f"--regid={NOBODY}",
        "--clear-groups",
        "sh",
        "-c",
        'umask 7; exec "$@"',
        "sh",
    ]
    return Start(words, "vda", {"cwd": chain.top.parent, "under": under})


def systemd(chain: images.Chain) -> Start:
    return unit(chain, str(chain.top))


def systemd_relative(chain: images.Chain) -> Start:
    return unit(chain, chain.top.name)


def relative_daemon(chain: images.Chain) -> Start:
    """The working directory is / once QEMU is a daemon."""
    words = [*disks.drive(chain.top.name, id="drive0", qdev="vda"), "-daemonize", "-sandbox", "on"]
    return Start(words, str(chain.top), {"cwd": chain.top.parent})


def sets_of_descriptors(chain: images.Chain) -> Start:
    """Every image as an open file: what QEMU gives up is held by its set."""
    opened = [os.open(image, os.O_RDONLY if place else os.O_RDWR) for place, image in enumerate(chain.images)]
    words = [word for place, each in enumerate(opened) for word in ("-add-fd", f"fd={each},set={place}")]
    for place in reversed(range(len(opened))):
        file = {"driver": "file", "filename": f"/dev/fdset/{place}", "read-only": place > 0}
        below = {"backing": f"n{place + 1}"} if place + 1 < len(opened) else {}
        words += disks.blockdev("qcow2", f"n{place}", file=file, read_only=place > 0, **below)
    words += disks.frontend("virtio-blk-pci", "vda", drive="n0")
    return Start(words, "vda", {"descriptors": opened})


def own(chain: images.Chain) -> None:
    """Let nobody have the images."""
    for path in [chain.top.parent, *chain.images]:
        os.chown(path, NOBODY, NOBODY)


def libvirt(chain: images.Chain) -> Start:
    """Its monitor is called so, and its nodes."""
    monitor = f"socket,id=charmonitor,path={chain.top.parent}/monitor.sock,server=on,wait=off"
    words = f"-no-user-config -machine pc -sandbox {SANDBOX} -chardev {monitor} -mon chardev=charmonitor,mode=control"
    names = [f"libvirt-{len(chain.images) - place}-format" for place in range(len(chain.images))]
    nodes = disks.named_nodes(chain.images, names=names, device=None)
    device = f"virtio-blk-pci,bus=pci.0,addr=0x4,drive={names[0]},id=virtio-disk0,bootindex=1"
    return Start([*words.split(), *nodes, "-device", device], "virtio-disk0")


PLATFORMS = [
    pytest.param(in_volumes, proxmox_8, True, id="Proxmox VE 8"),
    pytest.param(in_volumes, proxmox_9, True, id="Proxmox VE 9"),
    pytest.param(in_one_folder, incus, True, id="Incus"),
    pytest.param(in_one_folder, ganeti, True, id="Ganeti"),
    pytest.param(in_one_folder, microvm, True, id="microvm"),
    pytest.param(in_one_folder, systemd, True, id="a systemd unit"),
    pytest.param(by_relative_names, systemd_relative, True, id="a systemd unit with relative names"),
    pytest.param(by_relative_names, relative_daemon, True, id="relative names and -daemonize"),
    pytest.param(in_one_folder, sets_of_descriptors, False, id="every image as a descriptor"),
]


@pytest.fixture
def start(folder: Path, boot: Callable[..., Vm]) -> Callable[..., tuple[Scene, str]]:
    """Start a VM as a platform does; what was handed over to it is closed here, as launchers do."""

    def started(make: Callable[[Path], images.Chain], how: Callable[[images.Chain], Start]) -> tuple[Scene, str]:
        images_folder = folder / "images"
        images_folder.mkdir()
        chain = make(images_folder)
        if os.geteuid() == 0:
            folder.chmod(0o777)
            own(chain)
        found = how(chain)
        try:
            return Scene(boot(*found.words, **found.options), chain), found.disk
        finally:
            for descriptor in found.options.get("descriptors", ()):
                os.close(descriptor)

    return started


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("setpriv") is None, reason="only root can become another user")
@pytest.mark.parametrize(("make", "how", "frees"), PLATFORMS)
def test_a_platform(
    start: Callable[..., tuple[Scene, str]],
    make: Callable[[Path], images.Chain],
    how: Callable[[images.Chain], Start],
    frees: bool,
) -> None:
    """Its disk is populated: paths and verdicts are right, and every byte is there after a kill without the base."""
    scene, disk = start(make, how)
    before = product.module("block_stream_info", monitors=[scene.vm.monitor], disks=[disk])
    assert [image["path"] for image in before["disks"][0]["chain"]] == [str(image) for image in scene.chain.images]
    result = scene.stream(disks=[disk])
    assert not result.failed, result["msg"]
    (done,) = result["disks"]
    assert (done["populated"], done["proof"], done["path"]) == (True, "map", str(scene.chain.top))
    free = {image["path"]: image["free"] for image in done["released"]}
    still_open = scene.vm.open_files()
    assert free == {str(image): image not in still_open for image in scene.chain.images[1:]}
    assert all(free.values()) == frees
    assert scene.stream(disks=[disk])["changed"] is False
    scene.assert_done(result)


def test_libvirt(start: Callable[..., tuple[Scene, str]]) -> None:
    """What libvirt manages is refused before anything is begun, and shown."""
    scene, disk = start(in_one_folder, libvirt)
    result = scene.stream(disks=[disk])
    assert result.failed
    assert "libvirt manages this VM" in result["msg"]
    assert scene.vm.job_events() == []
    shown = product.module("block_stream_info", monitors=[scene.vm.monitor], disks=[disk])
    assert shown["disks"][0]["path"] == str(scene.chain.top)
