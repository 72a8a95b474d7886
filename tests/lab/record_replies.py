# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Record what a real QEMU answers, as data for the unit tests of the parts that only read.

    PYTHONPATH=tests python -m lab.record_replies

writes `tests/unit/plugins/module_utils/replies/qemu-VERSION-SCENE.json` for the QEMU that is installed, or that
QEMU_SYSTEM names. The folder of the images becomes `/vms`, and the numbers that QEMU makes up are counted from 1, so
that a new recording differs from an old one only where QEMU does.
"""

from __future__ import annotations

import json
import re
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from . import disks, images
from .nbd import NbdServer
from .process import lab_folder
from .vm import Vm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

REPLIES = Path(__file__).resolve().parents[1] / "unit" / "plugins" / "module_utils" / "replies"
COMMANDS = (
    "query-name",
    "query-uuid",
    "query-version",
    "query-chardev",
    "query-iothreads",
    "query-block-exports",
    "query-status",
    "query-block",
    "query-block-jobs",
    "x-debug-query-block-graph",
)
SLOWLY = {"speed": 65536, "auto_finalize": False}


class Stage:
    """A folder with one VM in it, gone at the end."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self._stack = stack

    def chain(self, name: str = "", **options: object) -> images.Chain:
        return images.chain(self.folder, prefix=name, **options)  # type: ignore[arg-type]

    def boot(self, *words: str) -> Vm:
        return self._stack.enter_context(Vm(self.folder, *words, cwd=self.folder))

    def serve(self, image: Path) -> str:
        return self._stack.enter_context(NbdServer(image, self.folder / "nbd.sock")).address


def drive(stage: Stage) -> Vm:
    """`-drive` style, with an empty drive, a read-only disk and a drive without a device beside it."""
    for name in ("a-", "ro-", "unused-"):
        stage.chain(name, layers=2 if name == "a-" else 1)
    return stage.boot(
        *disks.drive(stage.folder / "a-top.qcow2", id="drive0", qdev="vda"),
        *disks.drive(stage.folder / "ro-top.qcow2", id="drive1", qdev="vdb", read_only="on"),
        *disks.drive(stage.folder / "unused-top.qcow2", id="unused", device=None),
        *disks.empty_cdrom("cd0"),
    )


def blockdev(stage: Stage) -> Vm:
    """`-blockdev` style: the top has a name, QEMU finds the rest; virtio, SCSI, and a device without an id."""
    for name in ("a-", "b-", "c-"):
        stage.chain(name)
    return stage.boot(
        *disks.frontend("virtio-scsi-pci", "scsi0"),
        *disks.node(stage.folder / "a-top.qcow2", node_name="node-a", qdev="vda"),
        *disks.node(stage.folder / "b-top.qcow2", node_name="node-b", qdev="sda", device="scsi-hd"),
        *disks.node(stage.folder / "c-top.qcow2", node_name="node-c"),
    )


def named_nodes(stage: Stage) -> Vm:
    """Every node of the chain is named."""
    chain = stage.chain(layers=2)
    return stage.boot(*disks.named_nodes(chain.images, names=["top", "mid", "base"], qdev="vda"))


def libvirt(stage: Stage) -> Vm:
    """Node names as libvirt gives them."""
    chain = stage.chain()
    return stage.boot(*disks.named_nodes(chain.images, names=["libvirt-1-format", "libvirt-2-format"], qdev="vda"))


def charmonitor(stage: Stage) -> Vm:
    """A monitor named as libvirt names its own."""
    own = ["-chardev", "socket,id=charmonitor,path=libvirt.qmp,server=on,wait=off", "-mon", "chardev=charmonitor"]
    return stage.boot(*own, *disks.drive(stage.chain().top, id="drive0", qdev="vda"))


def filters(stage: Stage) -> Vm:
    """Two filters on one disk, one on another."""
    for name in ("a-", "b-"):
        stage.chain(name)
    return stage.boot(
        "-object",
        "throttle-group,id=group0",
        *disks.node(stage.folder / "a-top.qcow2", node_name="node-a", device=None),
        *disks.blockdev("throttle", "slow-a", throttle_group="group0", file="node-a"),
        *disks.blockdev("copy-on-read", "cor-a", file="slow-a"),
        *disks.frontend("virtio-blk-pci", "vda", drive="cor-a"),
        *disks.node(stage.folder / "b-top.qcow2", node_name="node-b", device=None),
        *disks.blockdev("throttle", "slow-b", throttle_group="group0", file="node-b"),
        *disks.frontend("virtio-blk-pci", "vdb", drive="slow-b"),
    )


def raw_over_chain(stage: Stage) -> Vm:
    """A raw node above a qcow2 node that has a backing image, and a raw disk that has none."""
    images.create(stage.folder / "alone.raw", images.MiB, format="raw")
    return stage.boot(
        *disks.node(stage.chain().top, node_name="below", device=None),
        *disks.blockdev("raw", "above", file="below"),
        *disks.frontend("virtio-blk-pci", "vda", drive="above"),
        *disks.drive(stage.folder / "alone.raw", id="drive0", qdev="vdb", format="raw"),
    )


def json_names(stage: Stage) -> Vm:
    """A chain that differs from its headers: file names become `json:`."""
    chain = stage.chain()
    return stage.boot(
        *disks.failing_reads(chain.base, node_name="base", sector=1),
        *disks.blockdev("qcow2", "top", file={"driver": "file", "filename": str(chain.top)}, backing="base"),
        *disks.frontend("virtio-blk-pci", "vda", drive="top"),
    )


def nbd(stage: Stage) -> Vm:
    """The base comes over NBD."""
    chain = stage.chain(base_format="raw", serve=stage.serve)
    return stage.boot(*disks.drive(chain.top, id="drive0", qdev="vda"))


def relative_names(stage: Stage) -> Vm:
    """File names relative to QEMU's own working directory, and links in the headers relative to the images."""
    stage.chain(relative=True, layers=2)
    return stage.boot(*disks.drive("top.qcow2", id="drive0", qdev="vda"))


def shared_base(stage: Stage) -> Vm:
    """Two disks over one named base node."""
    base = stage.chain().base
    words = disks.blockdev("file", "base-file", filename=str(base), read_only=True)
    words += disks.blockdev("qcow2", "base", file="base-file", read_only=True)
    for name in ("a", "b"):
        top = images.create(stage.folder / f"{name}.qcow2", backing=base)
        words += disks.blockdev(
            "qcow2", f"top-{name}", file={"driver": "file", "filename": str(top)}, backing="base"
        ) + disks.frontend("virtio-blk-pci", f"vd{name}", drive=f"top-{name}")
    return stage.boot(*words)


def running(stage: Stage) -> Vm:
    """A stream that runs."""
    vm = drive(stage)
    vm.command("block-stream", job_id="job0", device="drive0", **SLOWLY)
    return vm


def running_under_filters(stage: Stage) -> Vm:
    """A stream that runs under two filters: QEMU puts a filter of its own between them and the image."""
    vm = filters(stage)
    vm.command("block-stream", job_id="job0", device="node-a", **SLOWLY)
    return vm


def paused(stage: Stage) -> Vm:
    """A stream that somebody paused."""
    vm = running(stage)
    vm.command("job-pause", id="job0")
    vm.wait_event("JOB_STATUS_CHANGE", status="paused")
    return vm


def held(stage: Stage) -> Vm:
    """A stream that an I/O error stopped."""
    chain = stage.chain()
    vm = stage.boot(
        *disks.failing_reads(chain.base, node_name="base", sector=images.last_data_sector(chain.base)),
        *disks.blockdev("qcow2", "top", file={"driver": "file", "filename": str(chain.top)}, backing="base"),
        *disks.frontend("virtio-blk-pci", "vda", drive="top"),
    )
    vm.command("block-stream", job_id="job0", device="top", on_error="stop", auto_finalize=False)
    vm.wait_event("JOB_STATUS_CHANGE", status="paused")
    return vm


def pending(stage: Stage) -> Vm:
    """A stream that has copied everything and waits to be finalized; every node of the chain is named."""
    vm = named_nodes(stage)
    vm.command("block-stream", job_id="job0", device="top", base_node="base", auto_finalize=False)
    vm.wait_event("BLOCK_JOB_PENDING", id="job0")
    return vm


def concluded(stage: Stage) -> Vm:
    """A stream that is over and waits to be dismissed; every node of the chain is named."""
    vm = named_nodes(stage)
    vm.command("block-stream", job_id="job0", device="top", auto_dismiss=False)
    vm.wait_event("JOB_STATUS_CHANGE", status="concluded")
    return vm


def cancelled(stage: Stage) -> Vm:
    """A stream that was cancelled and waits to be dismissed, with its error."""
    vm = drive(stage)
    vm.command("block-stream", job_id="job0", device="drive0", auto_dismiss=False, **SLOWLY)
    vm.command("job-cancel", id="job0")
    vm.wait_event("JOB_STATUS_CHANGE", status="concluded")
    return vm


def mirror(stage: Stage) -> Vm:
    """A job of another type on the disk."""
    vm = drive(stage)
    target = str(stage.folder / "copy.qcow2")
    vm.command("drive-mirror", job_id="job0", device="drive0", target=target, sync="full", speed=65536)
    return vm


def incoming(stage: Stage) -> Vm:
    """A VM that waits for an incoming migration, with a name of no VM."""
    return stage.boot("-incoming", "defer", *disks.drive(stage.chain().top, id="drive0", qdev="vda"))


def diskless(stage: Stage) -> Vm:
    """No disk at all, and a UUID."""
    return stage.boot("-uuid", "5bd0c5a9-6c57-4e4c-8d0f-6f4a3c1f7a11")


SCENES: tuple[Callable[[Stage], Vm], ...] = (
    drive,
    blockdev,
    named_nodes,
    libvirt,
    charmonitor,
    filters,
    raw_over_chain,
    json_names,
    nbd,
    relative_names,
    shared_base,
    running,
    running_under_filters,
    paused,
    held,
    pending,
    concluded,
    cancelled,
    mirror,
    incoming,
    diskless,
)


def normal(text: str, folder: Path) -> str:
    """Without what differs from run to run: the folder, and QEMU's own numbers."""
    numbers: dict[str, str] = {}
    text = text.replace(str(folder), "/vms")
    return re.sub(r"#block\d+", lambda match: numbers.setdefault(match[0], f"#block{len(numbers) + 1:03}"), text)


def record(scene: Callable[[Stage], Vm]) -> tuple[str, str]:
    """The version of QEMU, and its answers in one scene."""
    with lab_folder() as folder, ExitStack() as stack:
        vm = scene(Stage(folder, stack))
        answers = {command: vm.command(command) for command in COMMANDS}
        return "{}.{}".format(*vm.version), normal(json.dumps(answers, indent=1), folder)


def record_all() -> Iterator[Path]:
    """Record every scene, each with a QEMU of its own."""
    REPLIES.mkdir(exist_ok=True)
    for scene in SCENES:
        version, text = record(scene)
        path = REPLIES / f"qemu-{version}-{scene.__name__.replace('_', '-')}.json"
        path.write_text(text + "\n")
        yield path


if __name__ == "__main__":
    for written in record_all():
        print(written)
