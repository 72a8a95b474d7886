# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Somebody else at the monitor, at its socket, at the process and at the disk during a stream, while a guest writes."""

from __future__ import annotations

import os
import re
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from lab import Monitor, MonitorError, Proxy, disks, images, product, wait_until

from .conftest import Busy, assert_failed, assert_idle

if TYPE_CHECKING:
    from collections.abc import Callable

    from lab import Vm


@pytest.fixture
def disk(busy: Callable[..., Busy], folder: Path) -> Busy:
    """`vda` over one base."""
    return busy(images.chain(folder))


def test_the_monitor_is_held_by_somebody_else_for_a_while(disk: Busy) -> None:
    """Who comes while another client holds the monitor is told, harms no stream, and finishes it later."""
    with disk.guest():
        job = disk.start_pending()
        holder = Monitor(Path(disk.vm.monitor))
        result = disk.stream(connect_timeout=0.5)
        assert result.failed
        assert "one client" in result["msg"]
        assert f"pid {os.getpid()}" in result["msg"]
        holder.close()
        assert (disk.info()["job"]["status"], disk.info()["populated"]) == ("pending", False)
        result = disk.stream()
        assert (result.failed, result["finished"], result["disks"][0]["action"]) == (False, True, "joined"), result
        assert job not in disk.vm.jobs()
    disk.assert_nothing_is_lost()


def test_the_socket_is_removed_while_the_task_waits(disk: Busy) -> None:
    """The open connection finishes the disk; but a VM that cannot be asked a second time has not proven it."""
    with disk.guest():
        task = disk.begin()
        Path(disk.vm.monitor).unlink()
        disk.vm.hasten()
        result = task.result()
        assert_failed(result, "asked again, does not answer")
        assert (result["finished"], len(disk.vm.chain("vda"))) == (False, 1)
    disk.assert_nothing_is_lost()


def test_the_socket_is_replaced_by_that_of_another_vm(
    busy: Callable[..., Busy], boot: Callable[..., Vm], folder: Path
) -> None:
    """A task that has to connect anew, and meets another VM with such a disk, touches nothing there and says so."""
    chain = images.chain(folder)
    disk = busy(chain)
    foreign = images.chain(folder, prefix="other-")
    other = boot(*disks.drive(foreign.top, id="drive0", qdev="vda"), name="other")
    with disk.guest():
        # Between its looks a task that polls leaves the monitor to others.
        task = disk.begin(poll_interval=1)
        os.rename(other.monitor, disk.vm.monitor)
        assert_failed(task.result(), "another VM, other, answers")
        assert (other.jobs(), len(other.chain("vda"))) == ({}, 2)
        assert [job["status"] for job in disk.vm.jobs().values()] == ["running"]
    disk.vm.kill()
    assert disk.model.losses(images.content(chain.top), crashed=True) == []


def test_qemu_is_stopped_while_it_is_asked(disk: Busy, folder: Path) -> None:
    """A QEMU that is stopped when a question comes, and goes on within the deadline, costs the task only the time."""
    stopped, asked = threading.Event(), threading.Event()

    def stop_once(name: str) -> None:
        if name == "return block-stream" and not stopped.is_set():
            os.kill(disk.vm.pid, signal.SIGSTOP)
            state = Path(f"/proc/{disk.vm.pid}/status")
            wait_until(lambda: "T (stopped)" in state.read_text(), "QEMU is stopped")
            stopped.set()
        elif stopped.is_set():
            asked.set()

    with disk.guest(), Proxy(disk.vm.monitor, folder / "proxy.qmp", stop_once) as proxy:
        task = product.Running("block_stream", {"monitors": [proxy.path], "disks": ["vda"]})
        assert asked.wait(20), "no question to a QEMU that is stopped"
        assert task.is_alive
        os.kill(disk.vm.pid, signal.SIGCONT)
        result = task.result()
        assert (result.failed, result["finished"]) == (False, True), result
    disk.assert_nothing_is_lost()


def test_the_disk_is_unplugged_and_plugged_in_again(busy: Callable[..., Busy], folder: Path) -> None:
    """The task says that the disk is gone and keeps nothing busy: it comes back, and a rerun finishes it."""
    chain = images.chain(folder)
    words = disks.frontend("virtio-scsi-pci", "scsi0")
    disk = busy(chain, *words, *disks.node(chain.top, node_name="top", qdev="vda", device="scsi-hd"))
    with disk.guest():
        task = disk.begin()
    disk.vm.command("device_del", id="vda")
    disk.vm.wait_event("DEVICE_DELETED", device="vda")
    disk.vm.hasten()
    assert_failed(task.result(), "the disk is gone", "was cancelled")
    assert disk.vm.jobs() == {}
    disk.vm.command("device_add", driver="scsi-hd", id="vda", drive="top")
    with disk.guest():
        result = disk.stream()
        assert (result.failed, result["finished"]) == (False, True), result
    disk.assert_nothing_is_lost()


def test_a_disk_that_goes_with_its_drive(busy: Callable[..., Busy], folder: Path) -> None:
    """A drive that QEMU deletes with its device: the task fails, no job is left, and the image is as good as before."""
    chain = images.chain(folder)
    words = disks.frontend("virtio-scsi-pci", "scsi0")
    disk = busy(chain, *words, *disks.drive(chain.top, id="drive0", qdev="vda", device="scsi-hd"))
    with disk.guest():
        task = disk.begin()
    disk.vm.command("device_del", id="vda")
    disk.vm.wait_event("DEVICE_DELETED", device="vda")
    # QEMU has cancelled the job, as somebody else told it to.
    assert_failed(task.result(), "cancelled by somebody else")
    assert disk.vm.jobs() == {}
    disk.vm.kill()
    assert disk.model.losses(images.content(chain.top), crashed=True) == []


def cpu_seconds(pid: int) -> float:
    """What a process has used so far."""
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def peak_memory(pid: int) -> int:
    """The most memory that a process has had so far."""
    (kibibytes,) = re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(kibibytes) * images.KiB


def stop_and_continue(vm: Vm) -> None:
    vm.command("cont")
    vm.command("stop")


def other_job(vm: Vm) -> None:
    """A stream on another disk, with nothing to do: at least six events."""
    vm.command("block-stream", job_id="other", device="alone")


FLOODS = [
    pytest.param(stop_and_continue, 1000, id="the VM stops and continues"),
    pytest.param(other_job, 5000, id="other jobs"),
]


@pytest.mark.parametrize(("act", "events"), FLOODS)
def test_a_flood_of_events(busy: Callable[..., Busy], folder: Path, act: Callable[[Vm], None], events: int) -> None:
    """Thousands of events that are not about its job cost a task that waits little time and no memory."""
    chain = images.chain(folder)
    alone = images.create(folder / "alone.qcow2", images.MiB)
    words = disks.drive(alone, id="alone", device=None)
    disk = busy(chain, *disks.drive(chain.top, id="drive0", qdev="vda"), *words)
    with disk.guest():
        task = disk.begin()
        (job,) = disk.vm.jobs()
        disk.vm.command("job-pause", id=job)  # each stop of the VM would let the stream take a step
        seconds, memory = cpu_seconds(task.pid), peak_memory(task.pid)
        while len(disk.vm.judge.events) < events:
            act(disk.vm)
        wait_until(lambda: cpu_seconds(task.pid) - seconds > events * 1e-5, "the task reads them")
        seconds, memory = cpu_seconds(task.pid) - seconds, peak_memory(task.pid) - memory
        assert seconds < events * 1e-3, f"{seconds} s"
        assert memory < 16 * images.MiB, f"{memory} bytes"
        disk.vm.command("job-resume", id=job)
        disk.vm.hasten()
        result = task.result()
        assert (result.failed, result["finished"]) == (False, True), result
    disk.assert_nothing_is_lost()


def test_hundreds_of_errors_that_are_ignored(busy: Callable[..., Busy], folder: Path) -> None:
    """No read of the base succeeds, and each is told by an event: the task fails once, and nothing is lost."""
    chain = images.chain(folder, size=128 * images.MiB, base_format="raw")
    fault = {"event": "none", "iotype": "read", "errno": 5, "once": False}
    inner = {"driver": "file", "filename": str(chain.base), "read-only": True}
    words = disks.blockdev("blkdebug", "faults", image=inner, inject_error=[fault], read_only=True)
    words += disks.blockdev("raw", "base", file="faults", read_only=True)
    words += disks.blockdev("qcow2", "top", file={"driver": "file", "filename": str(chain.top)}, backing="base")
    disk = busy(chain, *words, *disks.frontend("virtio-blk-pci", "vda", drive="top"))
    with disk.guest():
        assert_failed(disk.stream(on_error="ignore"), "Input/output error", "still needs its backing images")
        assert_idle(disk)
    assert len([event for event in disk.vm.judge.events if event["event"] == "BLOCK_JOB_ERROR"]) > 200
    disk.vm.kill()
    assert disk.model.losses(images.content(chain.top), crashed=True) == []


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        pytest.param(
            "blockdev-snapshot-sync", {"device": "drive0", "snapshot_file": "{folder}/s.qcow2"}, id="snapshot"
        ),
        pytest.param("block_resize", {"device": "drive0", "size": 32 * images.MiB}, id="resize"),
        pytest.param("block-commit", {"device": "drive0", "job_id": "theirs"}, id="commit"),
        pytest.param("drive-mirror", {"device": "drive0", "target": "{folder}/m.qcow2", "sync": "full"}, id="mirror"),
        pytest.param("block-stream", {"device": "drive0", "job_id": "theirs"}, id="stream"),
    ],
)
def test_somebody_else_works_on_the_disk(disk: Busy, folder: Path, command: str, arguments: dict[str, object]) -> None:
    """During a stream QEMU refuses to have the same disk changed; the stream and its task take no notice."""
    values = {key: value.format(folder=folder) if isinstance(value, str) else value for key, value in arguments.items()}
    with disk.guest():
        task = disk.begin()
        with pytest.raises(MonitorError, match=r"busy|in use|root block node"):
            disk.vm.command(command, **values)
        disk.vm.hasten()
        result = task.result()
        assert (result.failed, result["finished"]) == (False, True), result
        assert disk.vm.jobs() == {}
    disk.assert_nothing_is_lost()
