# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Every event, told of a real QEMU as it happens; the judge is a monitor of its own."""

from __future__ import annotations

import os
import signal
import socket
import time
from typing import TYPE_CHECKING, Any

import pytest
from lab import Listener, Monitor, Scene, Vm, disks, images, wait_until

from .conftest import monitor_of, ready, stream

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Listen = Callable[..., Listener]


def failing(folder: Path, boot: Callable[..., Vm]) -> Scene:
    """A disk the end of whose base cannot be read."""
    chain = images.chain(folder, layers=1)
    words = disks.failing_reads(chain.base, node_name="base", sector=images.last_data_sector(chain.base))
    inner = {"driver": "file", "filename": str(chain.top)}
    words += disks.blockdev("qcow2", "top", file=inner, backing="base")
    words += disks.frontend("virtio-blk-pci", "vda", drive="top")
    return Scene(boot(*words, *monitor_of(folder, "vm0")), chain)


def test_a_stream_from_its_start_to_its_end(listen: Listen, scene: Scene) -> None:
    """Started, in progress, pending, completed, in this order, with the disk, its position and its chain."""
    listener = ready(listen(progress=0.1, host="hv1"), scene)
    stream(scene.vm, speed=1, auto_finalize=False)
    listener.wait("progress", job="j1", count=2)
    scene.vm.hasten()
    pending = listener.wait("pending", job="j1")
    scene.vm.command("job-finalize", id="j1")
    done = listener.wait("completed", job="j1")
    order = [event for event, job in listener.told if job == "j1" and event != "progress"]
    assert order == ["started", "pending", "completed"]
    started = listener.wait("started", job="j1")
    assert [started["chain"], pending["chain"], done["chain"]] == [
        [str(image) for image in scene.chain.images],
        [str(image) for image in scene.chain.images],
        [str(scene.chain.top)],
    ]
    assert done["left_chain"] == [str(image) for image in scene.chain.images[1:]]
    assert (done["cur"], done["end"], done["percent"], done["error"]) == (16 * images.MiB, 16 * images.MiB, 100.0, "")
    assert (done["disk"]["label"], done["disk"]["path"]) == ("vda", str(scene.chain.top))
    assert (done["vm"], done["host"], done["meta"]) == ("vm0", "hv1", {"hosts": ["hv1"]})
    assert abs(done["at"] - time.time()) < 60


def test_the_product_beside_it(listen: Listen, scene: Scene) -> None:
    """What the modules start is told, and a task that finishes it is not disturbed: every byte survives a kill."""
    listener = ready(listen(), scene)
    job = scene.start()
    listener.wait("started", job=job)
    scene.vm.hasten()
    listener.wait("pending", job=job)
    scene.assert_done(scene.stream())
    listener.wait("completed", job=job)


def test_a_stream_that_is_there_already(listen: Listen, scene: Scene) -> None:
    """A source that starts later finds it; one that waits to be finalized is told as pending, too."""
    stream(scene.vm, auto_finalize=False)
    scene.vm.wait_event("BLOCK_JOB_PENDING", id="j1")
    listener = listen()
    listener.wait("pending", job="j1")
    assert listener.told == [("found", "j1"), ("pending", "j1")]


def test_an_error_that_ends_a_stream(listen: Listen, folder: Path, boot: Callable[..., Vm]) -> None:
    """The error is told, and the stream as failed with QEMU's reason, never as completed."""
    scene = failing(folder, boot)
    listener = ready(listen(), scene)
    stream(scene.vm, speed=1)
    listener.wait("started", job="j1")
    scene.vm.hasten()
    failed = listener.wait("failed", job="j1")
    assert "Input/output error" in failed["error"]
    assert failed["chain"] == scene.vm.chain("vda")
    assert len(failed["chain"]) == 2
    assert "read error" in listener.wait("io_error", job="j1")["error"]
    assert ("completed", "j1") not in listener.told


def test_an_error_that_holds_a_stream(listen: Listen, folder: Path, boot: Callable[..., Vm]) -> None:
    """It is told as held; a source that starts later tells it, too."""
    scene = failing(folder, boot)
    listener = ready(listen(), scene)
    stream(scene.vm, on_error="stop")
    assert "QEMU holds the job" in listener.wait("held", job="j1")["error"]
    listener.kill()
    later = listen()
    later.wait("held", job="j1")
    assert later.told[0] == ("found", "j1")


def test_errors_that_are_ignored(listen: Listen, folder: Path, boot: Callable[..., Vm]) -> None:
    """Of the errors that QEMU goes past one is told, and the stream fails in the end."""
    scene = failing(folder, boot)
    listener = ready(listen(), scene)
    stream(scene.vm, on_error="ignore", speed=4 << 20)  # or it may be over before it was looked at
    listener.wait("failed", job="j1")
    assert [event for event, job in listener.told if job == "j1"].count("io_error") == 1


def test_a_stream_that_is_cancelled(listen: Listen, scene: Scene) -> None:
    """It is neither completed nor failed."""
    listener = ready(listen(), scene)
    stream(scene.vm, speed=1)
    listener.wait("started", job="j1")
    scene.vm.command("block-job-cancel", device="j1", force=True)
    assert listener.wait("cancelled", job="j1")["chain"] == [str(image) for image in scene.chain.images]


def test_a_vm_that_quits(listen: Listen, scene: Scene) -> None:
    """Its shutdown is told with QEMU's reason, then that nobody is heard; a VM started anew is heard again."""
    listener = ready(listen(), scene)
    scene.vm.command("quit")
    assert listener.wait("vm_shutdown")["error"] == "host-qmp-quit"
    listener.wait("monitor_lost")
    scene.vm.kill()
    scene.vm.start()
    listener.wait("monitor_back", vm="vm0")


def test_a_vm_that_is_killed(listen: Listen, scene: Scene) -> None:
    """It is told at once with the streams that were lost, and when it is back, that they failed."""
    listener = ready(listen(), scene)
    stream(scene.vm, speed=1)
    listener.wait("started", job="j1")
    killed = time.time()
    scene.vm.kill()
    lost = listener.wait("monitor_lost")
    assert lost["jobs"] == ["j1"]
    assert lost["queued"] - killed < 1
    scene.vm.start()
    failed = listener.wait("failed", job="j1")
    assert failed["disk"]["label"] == "vda"
    assert failed["error"]
    assert ("completed", "j1") not in listener.told
    ready(listener, scene)


def test_a_busy_monitor(listen: Listen, folder: Path, scene: Scene) -> None:
    """It is told once, and the source comes in when the other client leaves; nobody's place in the queue is lost."""
    other = Monitor(folder / "vm0.events")
    listener = listen()
    listener.wait("monitor_busy")
    other.close()
    listener.wait("monitor_back")
    stream(scene.vm)
    listener.wait("completed", job="j1")
    assert [event for event, _job in listener.told].count("monitor_busy") == 1
    listener.kill()
    Monitor(folder / "vm0.events").close()


def test_a_monitor_whose_queue_is_full(listen: Listen, folder: Path, scene: Scene) -> None:
    """Three clients before it: it waits outside until there is room."""
    others = [socket.socket(socket.AF_UNIX) for _each in range(3)]
    for other in others:
        other.connect(str(folder / "vm0.events"))
    listener = listen()
    listener.wait("monitor_busy")
    for other in others:
        other.close()
    listener.wait("monitor_back")
    stream(scene.vm)
    listener.wait("completed", job="j1")


def test_a_monitor_that_is_named_and_not_there(listen: Listen, folder: Path, boot: Callable[..., Vm]) -> None:
    """Its absence is told, and a VM that is started later is heard."""
    listener = listen(monitors=[f"{folder}/vm0.events"])
    assert "the VM is off" in listener.wait("monitor_lost")["error"]
    chain = images.chain(folder, layers=1)
    vm = boot(*disks.drive(chain.top, id="drive0", qdev="vda"), *monitor_of(folder, "vm0"))
    listener.wait("monitor_back", vm="vm0")
    stream(vm)
    listener.wait("completed", job="j1")


def test_a_vm_that_is_started_later(listen: Listen, folder: Path, boot: Callable[..., Vm]) -> None:
    """A glob is looked at again; nothing is told of a socket that a VM left behind."""
    chain = images.chain(folder, layers=1)
    words = disks.drive(chain.top, id="drive0", qdev="vda")
    boot(*words, *monitor_of(folder, "old"), name="old").kill()
    assert (folder / "old.events").exists()
    listener = listen()
    vm = boot(*words, *monitor_of(folder, "vm0"))
    ready(listener, Scene(vm, chain))
    stream(vm)
    listener.wait("completed", job="j1", vm="vm0")
    assert {each["monitor"] for each in listener.events} == {f"{folder}/vm0.events"}


def test_forty_short_jobs_of_one_vm(listen: Listen, folder: Path, boot: Callable[..., Vm]) -> None:
    """Jobs that are over before anybody can look are told with their disk; of many at once none is told a wrong one."""
    chain = images.chain(folder, layers=1, size=8 * images.MiB)
    words = [*monitor_of(folder, "vm0"), "-device", "virtio-scsi-pci,id=scsi0"]
    for number in range(41):
        top = images.create(folder / f"d{number}.qcow2", backing=chain.base)
        words += disks.drive(top, id=f"drive{number}", device="scsi-hd", qdev=f"d{number}")
    vm = boot(*words)
    listener = listen()
    stream(vm, "d40", "ready", speed=1)
    listener.wait(job="ready")
    for number in range(20):
        stream(vm, f"d{number}", f"j{number}")
        assert listener.wait("completed", job=f"j{number}")["disk"]["label"] == f"d{number}"
    for number in range(20, 40):
        stream(vm, f"d{number}", f"j{number}")
    for number in range(20, 40):
        disk = listener.wait("completed", job=f"j{number}")["disk"]
        assert disk is None or disk["label"] == f"d{number}"


def test_forty_vms_at_once(listen: Listen, folder: Path, boot: Callable[..., Vm]) -> None:
    """One source hears forty VMs; each of their streams is told with its own VM and disk, and no other."""
    chain = images.chain(folder, layers=1, size=8 * images.MiB)
    vms = []
    for number in range(40):
        top = images.create(folder / f"vm{number}.qcow2", backing=chain.base)
        words = disks.drive(top, id="drive0", qdev="vda")
        vms.append(boot(*words, *monitor_of(folder, f"vm{number}"), name=f"vm{number}", memory=16))
    listener = listen()
    for vm in vms:
        stream(vm, speed=1)
    for vm in vms:
        listener.wait(job="j1", vm=vm.name)
    for vm in vms:
        vm.hasten()
    for vm in vms:
        done = listener.wait("completed", vm=vm.name)
        assert (done["disk"]["label"], done["disk"]["path"]) == ("vda", str(folder / f"{vm.name}.qcow2"))
    ends = [each for each in listener.events if each["event"] == "completed"]
    assert len(ends) == 40


def test_it_ends_when_it_is_told_to(listen: Listen, scene: Scene) -> None:
    """By an interrupt, as ansible-rulebook does, in a moment, and the monitor is free."""
    listener = ready(listen(), scene)
    began = time.monotonic()
    os.kill(listener.pid, signal.SIGINT)
    wait_until(lambda: not listener.is_alive, "it ends")
    assert time.monotonic() - began < 5
    Monitor(scene.vm.folder / "vm0.events").close()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        pytest.param({"monitors": []}, "monitors is missing", id="no monitor"),
        pytest.param({"monitor": "/run/x"}, "unknown option monitor", id="unknown option"),
        pytest.param({"progress": "often"}, "progress must be a number of seconds", id="no number"),
        pytest.param({"via": ["no-such-program"]}, "no-such-program", id="no program"),
    ],
)
def test_a_wrong_option(listen: Listen, options: dict[str, Any], words: str) -> None:
    """It ends at once, in words for whoever wrote the rulebook."""
    listener = listen(**options)
    wait_until(lambda: not listener.is_alive, "it ends")
    listener.kill()
    assert words in listener.errors.splitlines()[-1]
