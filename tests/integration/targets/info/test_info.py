# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""block_stream_info: everything that a play may want to know, held against QEMU, qemu-img and the host."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
from lab import NbdServer, Vm, disks, images, product

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Boot = Callable[..., Vm]

UUID = "9d1b1f0e-6a1c-4a53-9f3e-0d4d6f0c7a11"
VM_MEMBERS = {"monitor", "name", "uuid", "status", "qemu_version", "pid"}
DISK_MEMBERS = {
    "vm",
    "monitor",
    "device",
    "qdev",
    "node_name",
    "path",
    "format",
    "virtual_size",
    "read_only",
    "populated",
    "chain",
    "space",
    "job",
}
JOB_MEMBERS = {"id", "status", "cur", "end", "percent", "speed", "paused", "io_status", "error"}


@pytest.fixture
def chain(folder: Path) -> images.Chain:
    return images.chain(folder, layers=2)


@pytest.fixture
def vm(chain: images.Chain, folder: Path, boot: Boot) -> Vm:
    """`vda` over a chain, `vdb` on its own, `vdc` read-only over a chain, an empty `cd0`."""
    alone = images.create(folder / "alone.raw", 8 * images.MiB, format="raw")
    read_only = images.chain(folder, prefix="ro-")
    return boot(
        *disks.drive(chain.top, id="drive0", qdev="vda"),
        *disks.node(alone, node_name="alone", qdev="vdb", format="raw"),
        *disks.drive(read_only.top, id="drive2", qdev="vdc", read_only="on"),
        *disks.empty_cdrom(),
        *("-uuid", UUID),
        name="web01",
    )


def info(vm: Vm, **options: Any) -> product.Result:
    """What the module says of a VM; it never changes anything, in check mode as well as without."""
    found = product.module("block_stream_info", monitors=[vm.monitor], **options)
    assert not found.failed, found
    assert found["changed"] is False
    return found


def one(vm: Vm, disk: str) -> dict[str, Any]:
    (found,) = info(vm, disks=[disk])["disks"]
    assert set(found) >= DISK_MEMBERS
    return dict(found)


def test_the_vm(vm: Vm) -> None:
    """A VM comes with its name, uuid, status, version and pid, as QEMU and the host say."""
    (found,) = info(vm)["vms"]
    assert set(found) >= VM_MEMBERS
    version = vm.judge.greeting["QMP"]["version"]["qemu"]
    assert found["monitor"] == vm.monitor
    assert found["name"] == "web01"
    assert found["uuid"] == UUID
    assert found["status"] == vm.command("query-status")["status"] == "prelaunch"
    assert found["qemu_version"].startswith(f"{version['major']}.{version['minor']}.{version['micro']}")
    assert found["pid"] == vm.pid


def test_a_disk_over_a_chain(vm: Vm, chain: images.Chain) -> None:
    """A disk comes with all its names, its size and its chain, the top first, and is not populated."""
    found = one(vm, "vda")
    node = vm.inserted("vda")["node-name"]
    assert (found["vm"], found["monitor"], found["device"], found["node_name"]) == ("web01", vm.monitor, "drive0", node)
    assert found["qdev"] in ("vda", "/machine/peripheral/vda/virtio-backend")
    assert (found["path"], found["format"]) == (str(chain.top), "qcow2")
    assert (found["virtual_size"], found["read_only"], found["populated"]) == (16 * images.MiB, False, False)
    assert [(image["path"], image["format"]) for image in found["chain"]] == [
        (str(path), "qcow2") for path in chain.images
    ]
    for image, path in zip(found["chain"], chain.images, strict=True):
        assert image["allocated"] == os.stat(path).st_blocks * 512
    assert found["job"] is None


def test_the_space_of_a_disk(vm: Vm, chain: images.Chain) -> None:
    """`needed` is an upper bound that the stream keeps, no larger than the disk; `free` is what the file system has."""
    space = one(vm, "vda")["space"]
    below = sum(os.stat(path).st_blocks * 512 for path in chain.images[1:])
    assert 0 < space["needed"] <= min(below + images.MiB, 17 * images.MiB)
    stat = os.statvfs(chain.top)
    assert space["free"] == pytest.approx(stat.f_bavail * stat.f_frsize, rel=0.2)
    before = os.stat(chain.top).st_blocks * 512
    product.module("block_stream", monitors=[vm.monitor], disks=["vda"])
    assert os.stat(chain.top).st_blocks * 512 - before <= space["needed"]
    assert one(vm, "vda")["space"]["needed"] == 0


def test_disks_that_need_nothing(vm: Vm) -> None:
    """A disk on its own is populated; a read-only one says so; an empty drive has no path and no chain."""
    assert {disk["qdev"].split("/")[-2 if "/" in disk["qdev"] else 0] for disk in info(vm)["disks"]} == {
        "vda",
        "vdb",
        "vdc",
        "cd0",
    }
    alone = one(vm, "vdb")
    assert (alone["populated"], alone["read_only"], len(alone["chain"]), alone["device"]) == (True, False, 1, "")
    read_only = one(vm, "vdc")
    assert (read_only["read_only"], read_only["populated"], len(read_only["chain"])) == (True, False, 2)
    empty = one(vm, "cd0")
    assert (empty["path"], empty["chain"], empty["job"]) == (None, [], None)


def test_a_running_job(vm: Vm) -> None:
    """A job is told with its cursor as QEMU has it."""
    product.module("block_stream", monitors=[vm.monitor], disks=["vda"], wait=False, speed="1")
    (job,) = vm.jobs().values()
    found = one(vm, "vda")["job"]
    assert set(found) >= JOB_MEMBERS
    assert (found["id"], found["status"], found["speed"]) == (job["device"], "running", 1)
    assert (found["paused"], found["io_status"], found["error"]) == (False, "ok", None)
    assert (found["cur"], found["end"]) == (job["offset"], job["len"])
    assert found["percent"] == pytest.approx(100 * job["offset"] / job["len"], abs=1)
    vm.command("job-pause", id=job["device"])
    assert one(vm, "vda")["job"]["paused"] is True
    assert one(vm, "vdb")["job"] is None


def test_a_pending_job(vm: Vm) -> None:
    """A job that waits to be finalized is shown as that: not populated yet, though the cursor is at the end."""
    # Limited at first: a fast QEMU may otherwise have copied all, and the task finished it, at the first look.
    product.module("block_stream", monitors=[vm.monitor], disks=["vda"], wait=False, speed="1")
    (job,) = vm.jobs()
    vm.command("block-job-set-speed", device=job, speed=0)
    vm.wait_event("BLOCK_JOB_PENDING", id=job)
    found = one(vm, "vda")
    assert (found["populated"], found["job"]["status"], found["job"]["percent"]) == (False, "pending", 100)


def test_a_foreign_job_belongs_to_its_disk(vm: Vm) -> None:
    """A stream with a name of somebody else's is found at its disk, and only there."""
    vm.command("block-stream", job_id="somebody", device="drive0", speed=1)
    assert one(vm, "vda")["job"]["id"] == "somebody"
    assert [disk["job"] for disk in info(vm)["disks"] if disk["device"] != "drive0"] == [None, None, None]


def test_a_job_stopped_by_an_error(folder: Path, boot: Boot) -> None:
    """A job that QEMU stopped on an error is told apart from a user's pause by its io_status."""
    chain = images.chain(folder)
    vm = boot(
        *disks.failing_reads(chain.base, node_name="bad", sector=images.last_data_sector(chain.base)),
        *disks.blockdev("qcow2", "top", file={"driver": "file", "filename": str(chain.top)}, backing="bad"),
        *disks.frontend("virtio-blk-pci", "vda", drive="top"),
    )
    vm.command("block-stream", job_id="job", device="top", on_error="stop")
    vm.wait_event("JOB_STATUS_CHANGE", id="job", status="paused")
    found = one(vm, "top")
    assert (found["job"]["paused"], found["job"]["io_status"]) == (True, "failed")
    assert found["path"] == str(chain.top)


def test_a_concluded_job_kills_nobody(vm: Vm) -> None:
    """A foreign job that failed or ended and was never dismissed is shown with its status, and QEMU lives on."""
    vm.command("block-stream", job_id="somebody", device="drive0", auto_dismiss=False)
    vm.wait_event("JOB_STATUS_CHANGE", id="somebody", status="concluded")
    for _visit in range(3):
        assert one(vm, "vda")["job"]["status"] == "concluded"
    assert list(vm.jobs()) == ["somebody"]


def test_a_base_over_nbd(folder: Path, boot: Boot) -> None:
    """A remote base is told as QEMU names it; its allocation is not known from here."""
    base = images.chain(folder, layers=1, base_format="raw").base
    with NbdServer(base, folder / "nbd") as server:
        top = images.create(folder / "over.qcow2", 16 * images.MiB, backing=server.address, backing_format="raw")
        vm = boot(*disks.drive(top, id="drive0", qdev="vda"))
        remote = one(vm, "vda")["chain"][-1]
        assert remote["path"] == vm.chain("vda")[-1]
        assert remote["path"].startswith("nbd+unix:")
        assert (remote["format"], remote["allocated"]) == ("raw", None)
        vm.kill()


def test_several_vms(folder: Path, boot: Boot) -> None:
    """A glob answers for every VM that runs; one that is off is told; each disk names its VM."""
    for number in range(3):
        chain = images.chain(folder, prefix=f"{number}-")
        boot(*disks.drive(chain.top, id="drive0", qdev="vda"), name=f"web{number}")
    off = boot(name="off")
    off.kill()
    found = product.module("block_stream_info", monitors=[str(folder / "*.qmp")])
    assert not found.failed, found
    assert [vm["name"] for vm in found["vms"]] == ["web0", "web1", "web2"]
    assert [disk["vm"] for disk in found["disks"]] == ["web0", "web1", "web2"]
    assert "off.qmp" in str(found)


def test_a_vm_without_disks(boot: Boot) -> None:
    """A VM that has no disk is told as a VM with no disks, and is no error."""
    found = info(boot(name="bare"))
    assert ([vm["name"] for vm in found["vms"]], found["disks"]) == (["bare"], [])


def test_an_unknown_disk_lists_what_there_is(vm: Vm) -> None:
    """A name that fits no disk is an error with every disk and its names."""
    found = product.module("block_stream_info", monitors=[vm.monitor], disks=["nosuch"])
    assert found.failed
    for word in ("nosuch", "vda", "drive0", "vdb", "alone", "vdc", "cd0"):
        assert word in found["msg"]


def test_check_mode_answers_alike(vm: Vm) -> None:
    """Check mode of a module that only reads is the module itself."""
    checked, real = info(vm, check=True)["disks"], info(vm)["disks"]
    for disk in (*checked, *real):
        # Other processes write to this file system, too.
        if disk["space"]:
            del disk["space"]["free"]
    assert checked == real


def test_it_leaves_no_trace(vm: Vm) -> None:
    """Asking starts no job, opens no file and sends no command that could hold QEMU up."""
    files = vm.open_files()
    info(vm)
    assert (vm.jobs(), vm.open_files()) == ({}, files)
    assert vm.judge.events == []
