# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Everything that cannot be right, against real QEMUs: refused with disk, reason and remedy, and nothing is started."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pytest
from lab import Vm, disks, images, lab_folder, peers, product

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Site:
    """The VMs and the other things that the rows point at; no row changes any of them."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self._stack = stack
        self.chains = {name: images.chain(folder, layers=2, prefix=f"{name}-", seed=ord(name)) for name in "abcdefgh"}
        (folder / "directory").mkdir()
        (folder / "file").write_text("")
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(folder / "left"))
        stack.enter_context(peers.Peer(folder / "agent", peers.guest_agent))

    def _boot(self, name: str, *words: str) -> Vm:
        return self._stack.enter_context(Vm(self.folder, *words, name=name))

    @cached_property
    def web(self) -> Vm:
        """`vda` and `vdb` are good; two answer to `twin`; the others cannot be streamed. It has a human monitor too."""
        tops = {name: chain.top for name, chain in self.chains.items()}
        raw_file = {"driver": "qcow2", "file": {"driver": "file", "filename": str(tops["f"])}}
        return self._boot(
            "web",
            *disks.drive(tops["a"], id="drive-a", qdev="vda"),
            *disks.node(tops["b"], node_name="node-b", qdev="vdb"),
            *disks.drive(tops["c"], id="twin", qdev="vdc"),
            *disks.drive(tops["d"], id="drive-d", qdev="twin"),
            *disks.drive(tops["e"], id="drive-e", qdev="golden", read_only="on"),
            *disks.blockdev("raw", "over", file=raw_file),
            *disks.frontend("virtio-blk-pci", "vdf", drive="over"),
            *disks.empty_cdrom("cd0"),
            *("-monitor", f"unix:{self.folder}/web.human,server=on,wait=off"),
            *("-serial", f"unix:{self.folder}/web.serial,server=on,wait=off"),
        )

    @cached_property
    def incoming(self) -> Vm:
        """Waits for a migration."""
        return self._boot("incoming", *disks.drive(self.chains["g"].top, id="drive0", qdev="vda"), "-incoming", "defer")

    @cached_property
    def by_monitor(self) -> Vm:
        """Has libvirt's monitor."""
        return self._boot(
            "by_monitor",
            *disks.drive(self.chains["h"].top, id="drive0", qdev="vda"),
            *("-chardev", f"socket,id=charmonitor,path={self.folder}/libvirt.sock,server=on,wait=off"),
            *("-mon", "chardev=charmonitor,mode=control"),
        )

    @cached_property
    def by_nodes(self) -> Vm:
        """Has libvirt's names of nodes."""
        names = [f"libvirt-{number}-format" for number in (1, 2, 3)]
        chain = images.chain(self.folder, layers=2, prefix="nodes-")
        return self._boot("by_nodes", *disks.named_nodes(chain.images, names=names, qdev="vda"))


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with lab_folder() as folder, ExitStack() as stack:
        yield Site(folder, stack)


@dataclass(frozen=True)
class Row:
    """One thing that is wrong with a call.

    `{folder}` stands for the folder of the images. `words` are in the message, `told` are the disks in the result.
    """

    id: str
    options: dict[str, Any]
    words: tuple[str, ...]
    vm: str = "web"
    told: tuple[str, ...] = ()

    def filled(self, value: Any, folder: Path) -> Any:
        if isinstance(value, list):
            return [self.filled(each, folder) for each in value]
        return value.replace("{folder}", str(folder)) if isinstance(value, str) else value


def disk(name: str, **options: Any) -> dict[str, Any]:
    return {"disks": [name], **options}


ALL_NAMES = ("vda", "drive-a", "vdb", "node-b", "twin", "golden", "cd0", "a-top.qcow2", "web")

ROWS = [
    # Disks
    Row("unknown disk", disk("nosuch"), ("'nosuch'", *ALL_NAMES)),
    Row("unknown disk beside a good one", {"disks": ["vda", "nosuch"]}, ("'nosuch'", *ALL_NAMES)),
    Row("unknown disk beside all", {"disks": ["*", "nosuch"]}, ("'nosuch'", *ALL_NAMES)),
    Row("no name", disk(""), ("disks is empty", "'*'")),
    Row("path of a backing image", disk("{folder}/a-base.qcow2"), ("a-base.qcow2", "a-top.qcow2", "vda")),
    Row("path of nothing", disk("/nosuch/top.qcow2"), ("/nosuch/top.qcow2", "a-top.qcow2")),
    Row("job id", disk("populate-vda"), ("populate-vda", "vda")),
    Row("two disks of one name", disk("twin"), ("'twin'", "2 disks", "c-top.qcow2", "d-top.qcow2", "use a name")),
    Row("empty drive", disk("cd0"), ("cd0", "empty", "insert a medium")),
    Row("empty drive beside a good one", {"disks": ["vda", "cd0"]}, ("cd0", "empty"), told=("vda", "cd0")),
    Row("read-only disk", disk("golden"), ("golden", "read-only", "attach it writable"), told=("golden",)),
    Row("read-only disk by its path", disk("{folder}/e-top.qcow2"), ("golden", "read-only"), told=("golden",)),
    Row("raw node over a chain", disk("vdf"), ("vdf", "raw", "without the node above"), told=("vdf",)),
    Row("no disks", {"disks": []}, ("disks is empty", "'*'")),
    Row("disks left out", {}, ("disks",)),
    # Bases
    Row("base not in the chain", disk("vda", base="/nosuch.qcow2"), ("vda", "/nosuch.qcow2", "a-base.qcow2")),
    Row("base of another disk", disk("vda", base="{folder}/b-base.qcow2"), ("vda", "b-base.qcow2", "a-base.qcow2")),
    Row("base is the top", disk("vda", base="{folder}/a-top.qcow2"), ("vda", "active image", "a-base.qcow2")),
    Row("base is the node of the top", disk("vdb", base="node-b"), ("vdb", "active image", "b-mid1.qcow2")),
    # VMs
    Row("incoming migration", disk("vda"), ("vda", "incoming migration", "after the migration"), vm="incoming"),
    Row(
        "libvirt by its monitor",
        disk("vda"),
        ("vda", "libvirt", "Name the VM in `domains`"),
        vm="by_monitor",
        told=("vda",),
    ),
    Row(
        "libvirt by its nodes",
        disk("vda"),
        ("vda", "libvirt", "Name the VM in `domains`"),
        vm="by_nodes",
        told=("vda",),
    ),
    Row("libvirt's stream to abort", disk("vda", state="aborted"), ("vda", "libvirt"), vm="by_nodes"),
    # Choices, sizes and numbers
    Row("unknown state", disk("vda", state="done"), ("state", "done", "populated", "paused", "aborted")),
    Row("unknown on_timeout", disk("vda", on_timeout="kill"), ("on_timeout", "kill", "leave")),
    Row("unknown on_error", disk("vda", on_error="auto"), ("on_error", "auto", "enospc")),
    Row("unknown option", disk("vda", bandwidth=1), ("bandwidth", "speed")),
    Row("speed is no size", disk("vda", speed="fast"), ("speed", "fast", "512M")),
    Row("speed below nothing", disk("vda", speed="-1"), ("speed", "-1", "512M")),
    Row("speed beyond QEMU's numbers", disk("vda", speed="8E"), ("speed", "8E")),
    Row("increment is no size", disk("vda", increment="much"), ("increment", "much", "512M")),
    Row("increment of nothing", disk("vda", increment="0"), ("increment", "0", "1GiB")),
    Row("increment below nothing", disk("vda", increment="-1G"), ("increment", "-1G")),
    Row("cursor below nothing", disk("vda", cursor=-1), ("cursor", "-1", "from 0")),
    Row("cursor beyond QEMU's numbers", disk("vda", cursor=2**63), ("cursor", str(2**63))),
    Row("cursor is no number", disk("vda", cursor="1M"), ("cursor", "convert", "int")),
    Row("time-out below nothing", disk("vda", wait_timeout=-1), ("wait_timeout", "-1", "from 0")),
    Row("time-out with a unit", disk("vda", wait_timeout="1h"), ("wait_timeout", "convert", "int")),
    Row("nothing in parallel", disk("vda", parallel=0), ("parallel", "0", "from 1")),
    Row("progress below nothing", disk("vda", progress=-1), ("progress", "-1", "from 0")),
    Row("no time to connect", disk("vda", connect_timeout=0), ("connect_timeout", "0")),
    Row("endless time to connect", disk("vda", connect_timeout="inf"), ("connect_timeout", "inf", "86400")),
    Row("no number of seconds to connect", disk("vda", connect_timeout="nan"), ("connect_timeout", "nan")),
    # Combinations
    Row("increment without wait", disk("vda", increment="1M", wait=False), ("increment", "wait")),
    Row("increment to pause", disk("vda", increment="1M", state="paused"), ("increment", "state")),
    Row("increment to abort", disk("vda", increment="1M", state="aborted"), ("increment", "state")),
    # Monitors
    Row("monitor is a directory", {**disk("vda"), "monitors": ["{folder}/directory"]}, ("directory", "not a socket")),
    Row("monitor is a file", {**disk("vda"), "monitors": ["{folder}/file"]}, ("file", "not a socket")),
    Row("monitor is missing", {**disk("vda"), "monitors": ["{folder}/nosuch"]}, ("nosuch", "no such socket", "-qmp")),
    Row("monitor of a dead VM", {**disk("vda"), "monitors": ["{folder}/left"]}, ("left", "refused", "off")),
    Row(
        "monitor is a guest agent",
        {**disk("vda"), "monitors": ["{folder}/agent"], "connect_timeout": 0.5},
        ("agent", "no greeting", "0.5 s", "guest agent"),
    ),
    Row("monitor for people", {**disk("vda"), "monitors": ["{folder}/web.human"]}, ("web.human", "human monitor")),
    Row(
        "monitor is a serial port",
        {**disk("vda"), "monitors": ["{folder}/web.serial"], "connect_timeout": 0.5},
        ("web.serial", "no greeting"),
    ),
    Row("port that nobody serves", {**disk("vda"), "monitors": ["127.0.0.1:1"]}, ("127.0.0.1:1", "refused")),
    Row("port beyond the last", {**disk("vda"), "monitors": ["127.0.0.1:70000"]}, ("127.0.0.1:70000", "65535")),
    Row("no host of this name", {**disk("vda"), "monitors": ["nosuch.invalid:4444"]}, ("nosuch.invalid:4444",)),
    Row("no monitors", {**disk("vda"), "monitors": []}, ("neither monitors nor domains", "glob")),
    Row("no path", {**disk("vda"), "monitors": [""]}, ("neither monitors nor domains", "glob")),
]


def state_of(vm: Vm) -> tuple[dict[str, Any], list[list[str]]]:
    """The jobs and the chain of every disk."""
    entries = vm.command("query-block")
    chains: list[list[str]] = []
    for entry in entries:
        image = entry.get("inserted", {}).get("image")
        chains.append([])
        while image is not None:
            chains[-1].append(image["filename"])
            image = image.get("backing-image")
    return vm.jobs(), chains


@pytest.mark.parametrize(
    "row",
    [pytest.param(row, id=row.id) for row in ROWS],
)
def test_refused(site: Site, row: Row) -> None:
    """The task fails with the words that help, changes nothing, starts no job, and leaves every chain as it was."""
    vm: Vm = getattr(site, row.vm)
    before = state_of(vm)
    options = {"monitors": [vm.monitor], **row.options}
    result = product.module("block_stream", **{key: row.filled(value, site.folder) for key, value in options.items()})
    if vm.jobs():
        vm.command("job-cancel", id=next(iter(vm.jobs())))
        pytest.fail(f"a stream was started: {result}")
    assert (result.failed, result.get("changed", False), result.get("finished", False)) == (True, False, False), result
    for word in row.words:
        assert word in result["msg"]
    if row.told:
        assert tuple(each["qdev"].replace("/virtio-backend", "").split("/")[-1] for each in result["disks"]) == row.told
    assert (state_of(vm), before[0]) == (before, {})
    assert [event for event in vm.judge.events if "JOB" in event["event"]] == []


@pytest.mark.parametrize(
    "row", [row for row in ROWS if row.id in ("unknown disk", "read-only disk", "base is the top")]
)
def test_refused_in_check_mode_too(site: Site, row: Row) -> None:
    """Check mode says what the run would say."""
    options = {key: row.filled(value, site.folder) for key, value in row.options.items()}
    real, checked = (
        product.module("block_stream", check=check, monitors=[site.web.monitor], **options) for check in (False, True)
    )
    assert (checked.failed, checked["msg"], checked["changed"]) == (True, real["msg"], False)


@pytest.mark.parametrize("name", ["by_monitor", "by_nodes", "incoming"])
def test_a_vm_that_is_refused_is_shown(site: Site, name: str) -> None:
    """block_stream_info answers for the VMs whose disks block_stream leaves alone."""
    vm: Vm = getattr(site, name)
    result = product.module("block_stream_info", monitors=[vm.monitor], disks=["vda"])
    assert (result.failed, result["vms"][0]["status"]) == (False, vm.command("query-status")["status"])
    assert [image["path"] for image in result["disks"][0]["chain"]] == vm.chain("vda")


def test_a_good_vm_waits_for_the_name_of_another(site: Site) -> None:
    """What is refused for one VM starts nothing on another VM of the same call."""
    result = product.module("block_stream", monitors=[site.web.monitor, site.by_nodes.monitor], disks=["vda"])
    assert (result.failed, result["changed"]) == (True, False), result
    assert [(each["vm"], each["action"], each["job"]) for each in result["disks"]] == [
        ("web", "none", None),
        ("by_nodes", "none", None),
    ]
    assert (site.web.jobs(), site.by_nodes.jobs()) == ({}, {})
