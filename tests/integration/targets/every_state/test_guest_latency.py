# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Streams that take what the guest leaves. The judge is the speed of the job, as QEMU itself tells it all the while."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
from lab import Monitor, Vm, disks, images, product, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Boot = Callable[..., Vm]

MiB = images.MiB
# The least that a stream gets, and what the user lets it have: slow enough that it does not end.
FLOOR, OWN = MiB, 4 * MiB
QDEV = "/machine/peripheral/vda/virtio-backend"


class Reader:
    """Reads through the device of the guest, as a guest does, forty times a second while there is a stream.

    Before, nothing shall pile up: QEMU lets all that waits go at once when it flushes, and then nothing for as long.
    """

    def __init__(self, path: Path) -> None:
        self._monitor = Monitor(path)
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._read)

    def _read(self) -> None:
        line = f'qemu-io -d {QDEV} "aio_read 0 4k"'
        while not self._is_over.wait(0.025):
            if self._monitor.command("query-block-jobs"):
                self._monitor.command("human-monitor-command", command_line=line)

    def __enter__(self) -> Reader:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._is_over.set()
        self._thread.join()
        self._monitor.close()


@pytest.fixture
def slow(boot: Boot, folder: Path) -> Iterator[Vm]:
    """A VM whose disk has 64 MiB to copy, and whose guest gets 20 of its 40 requests per second: it waits longer and
    longer, whatever the stream does.
    """
    base = images.create(folder / "base.qcow2", 64 * MiB, writes=[images.Write(0, 64 * MiB, 1)])
    top = images.create(folder / "top.qcow2", backing=base)
    words = disks.drive(top, id="drive0", qdev="vda", **{"throttling.iops_total": "20"})
    path = folder / "reader.qmp"
    vm = boot(*words, "-qmp", f"unix:{path},server=on,wait=off")
    with Reader(path):
        yield vm


def speed_of(vm: Vm) -> int | None:
    """The limit of the stream while it copies."""
    speeds = [job["speed"] for job in vm.jobs().values() if job["status"] == "running"]
    return speeds[0] if speeds else None


def histogram(vm: Vm) -> dict[str, Any] | None:
    """That of the guest's reads."""
    (stats,) = (each["stats"] for each in vm.command("query-blockstats") if each.get("qdev") == QDEV)
    found: dict[str, Any] | None = stats.get("rd_latency_histogram")
    return found


def watched(vm: Vm, task: product.Running | threading.Thread) -> list[int]:
    """The limits that the stream had, one after the other, until the task is over."""
    seen: list[int] = []
    while task.is_alive() if isinstance(task, threading.Thread) else task.is_alive:
        speed = speed_of(vm)
        if speed is not None and seen[-1:] != [speed]:
            seen.append(speed)
    return seen


def options(vm: Vm, **more: Any) -> dict[str, Any]:
    return {"monitors": [vm.monitor], "disks": ["vda"], "guest_latency": "5ms", "speed": "4M", **more}


@pytest.mark.parametrize("limits", [{"speed": "4M"}, {"total_speed": "4M", "speed": "1G"}])
def test_the_stream_yields_and_is_freed_at_the_end(slow: Vm, limits: dict[str, str]) -> None:
    """It goes down to its least speed, never below, and gets the user's own when the task leaves it to QEMU."""
    task = product.Running("block_stream", options(slow, wait_timeout=6, on_timeout="leave", **limits))
    seen = watched(slow, task)
    result = task.result()
    assert not result.failed, result
    assert (min(seen[:-1]), speed_of(slow), histogram(slow)) == (FLOOR, OWN, None)
    assert max(seen) == OWN
    (disk,) = result["disks"]
    assert (disk["job"]["speed"], disk["finished"]) == (OWN, False)
    felt = disk["guest_latency"]
    assert (felt["target"], felt["measure"], felt["disk"], felt["kind"]) == (5.0, "p95", "vda", "read")
    assert felt["now"] > 5
    assert 0 < felt["held_back"] <= disk["seconds"]


def test_a_killed_task_is_put_right_by_the_next(slow: Vm) -> None:
    """What a task leaves that is killed, the speed and the histogram, the next one takes away."""
    task = product.Running("block_stream", options(slow))
    wait_until(lambda: speed_of(slow) == FLOOR, "the stream yields")
    task.kill()
    assert (speed_of(slow), histogram(slow) is None) == (FLOOR, False)
    result = product.module("block_stream", **options(slow, wait_timeout=1, on_timeout="leave"))
    assert (result.failed, result["disks"][0]["action"]) == (False, "joined"), result
    assert (speed_of(slow), histogram(slow)) == (OWN, None)


def test_a_task_that_nobody_reads_frees_the_stream(slow: Vm) -> None:
    """When the SSH connection is lost the task ends, and what it set is put back before."""
    task = product.Running("block_stream", options(slow))
    wait_until(lambda: (speed_of(slow) or OWN) < OWN, "the stream yields")
    task.hang_up()
    task.wait()
    assert (speed_of(slow), histogram(slow)) == (OWN, None)


def test_the_histogram_of_another_tool_is_left_alone(slow: Vm) -> None:
    """It counts on with its own boundaries, and the stream yields by the mean."""
    slow.command("block-latency-histogram-set", id=QDEV, boundaries=[1000, 50000])
    task = product.Running("block_stream", options(slow))
    wait_until(lambda: speed_of(slow) == FLOOR, "the stream yields")
    slow.hasten()
    (disk,) = task.result()["disks"]
    assert (disk["finished"], disk["guest_latency"]["measure"]) == (True, "mean")
    found = histogram(slow)
    assert found is not None
    assert found["boundaries"] == [1000, 50000]
    assert sum(found["bins"]) > 0


def test_a_task_in_slices_keeps_the_speed_between_them(slow: Vm) -> None:
    """The next slice goes on where the one before was, nothing is set free between them, and lines tell the guest's."""
    runs: list[product.AnsibleRun] = []
    asked = options(slow, progress=2, wait_timeout=10, on_timeout="leave")
    thread = threading.Thread(target=lambda: runs.append(product.adhoc("block_stream", **asked)))
    thread.start()
    seen = watched(slow, thread)
    thread.join()
    assert min(seen) < OWN, runs[0].stderr
    low = next(place for place, speed in enumerate(seen) if speed < OWN)
    assert OWN not in seen[low:-1]
    assert (seen[-1], speed_of(slow), histogram(slow)) == (OWN, OWN, None)
    lines = [line for line in runs[0].stderr.splitlines() if "of 5 ms (read, p95)" in line]
    assert lines, runs[0].stderr
    assert all("held back 0:00:" in line for line in lines)
