# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""One limit for all streams of a call. The judge is the speed of each job, as QEMU itself tells it all the while."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
from lab import Monitor, Vm, disks, images, product, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    Boot = Callable[..., Vm]

MiB = 1024**2


@pytest.fixture
def vms(boot: Boot, folder: Path) -> list[Vm]:
    """Two VMs with two disks each."""
    started = []
    for name in ("web1", "web2"):
        words = []
        for letter in "ab":
            chain = images.chain(folder, prefix=f"{name}-{letter}-")
            words += disks.drive(chain.top, id=f"drive-{letter}", qdev=f"vd{letter}")
        started.append(boot(*words, name=name))
    return started


def speeds_of(vms: Sequence[Vm]) -> list[int]:
    """The limits of all streams that copy, one after the other, as query-block-jobs has them."""
    return [job["speed"] for vm in vms for job in vm.jobs().values() if job["status"] == "running"]


class Watcher:
    """Reads the limits of all streams as often as it can, over monitors of its own."""

    def __init__(self, vms: Sequence[Vm]):
        self.seen: list[list[int]] = []
        self._vms = vms
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        before: list[int] = []
        while not self._is_over.wait(0.01):
            speeds = speeds_of(self._vms)
            # The VMs are asked one after the other: what was so at one moment is so the next time, too.
            if speeds and speeds == before:
                self.seen.append(speeds)
            before = speeds

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._is_over.set()
        self._thread.join()


def stream(seen: Sequence[Vm], **options: Any) -> product.Result:
    result = product.module("block_stream", monitors=[vm.monitor for vm in seen], **{"disks": ["*"], **options})
    assert not result.failed, result
    return result


@pytest.mark.parametrize("parallel", [1, 2, 3])
def test_the_limit_is_shared_and_never_exceeded(vms: list[Vm], parallel: int) -> None:
    """Each stream has an equal part of the limit, and the sum is never more."""
    with Watcher(vms) as watcher:
        result = stream(vms, parallel=parallel, total_speed="3M")
    assert (result["finished"], len(result["disks"])) == (True, 4)
    assert [vm.inserted(disk)["backing_file_depth"] for vm in vms for disk in ("vda", "vdb")] == [0] * 4
    assert max(sum(speeds) for speeds in watcher.seen) == 3 * MiB
    assert [3 * MiB // parallel] * parallel in watcher.seen
    assert max(map(len, watcher.seen)) == parallel


def test_a_stream_that_ends_leaves_its_part_to_the_others(vms: list[Vm]) -> None:
    """When one of two is through, the other gets all of it at once."""
    first = vms[:1]
    arguments = {"monitors": [first[0].monitor], "disks": ["*"], "parallel": 2, "total_speed": "64K"}
    task = product.Running("block_stream", arguments)
    wait_until(lambda: speeds_of(first) == [32768, 32768], "two streams that share the limit")
    first[0].command("block-job-set-speed", device=next(iter(first[0].jobs())), speed=0)
    wait_until(lambda: speeds_of(first) == [65536], "one stream that has it all")
    first[0].hasten()
    assert task.result()["finished"] is True


def test_somebody_elses_streams_count(vms: list[Vm]) -> None:
    """A stream that is joined gets its part, and one that is not selected is left alone."""
    for vm, disk in ((vms[0], "a"), (vms[1], "b")):
        vm.command("block-stream", device=f"drive-{disk}", **{"job-id": "theirs"}, speed=7)
    result = stream(vms, vms=["web1"], parallel=2, total_speed="64K", speed="1G", wait=False)
    assert [disk["action"] for disk in result["disks"]] == ["retuned", "started"]
    assert (speeds_of(vms[:1]), speeds_of(vms[1:])) == ([32768, 32768], [7])
    assert [disk["job"]["speed"] for disk in result["disks"]] == [32768, 32768]


def test_without_wait_a_rerun_changes_nothing_and_shares_anew(vms: list[Vm]) -> None:
    """Streams left to QEMU keep their parts; the same task changes nothing, another number of streams does."""
    options: dict[str, Any] = {"total_speed": "64K", "wait": False}
    stream(vms, parallel=2, **options)
    assert speeds_of(vms) == [32768, 32768]
    again = stream(vms, parallel=2, **options)
    assert (again["changed"], speeds_of(vms)) == (False, [32768, 32768])
    more = stream(vms, parallel=4, **options)
    assert (more["changed"], speeds_of(vms)) == (True, [16384] * 4)
    capped = stream(vms, parallel=4, speed="5000", **options)
    assert (capped["changed"], speeds_of(vms)) == (True, [5000] * 4)
    stream(vms, parallel=4, wait=False, total_speed="0", speed="1")
    assert speeds_of(vms) == [1] * 4


@pytest.mark.parametrize(("on_timeout", "left"), [("leave", [16384] * 4), ("fail", [16384] * 4), ("stop", [])])
def test_when_the_wait_is_over(vms: list[Vm], on_timeout: str, left: list[int]) -> None:
    """Streams that go on in QEMU keep their parts, and nobody gets those of what is stopped."""
    options: dict[str, Any] = {"wait_timeout": 2, "on_timeout": on_timeout, "parallel": 4, "total_speed": "64K"}
    with Watcher(vms) as watcher:
        product.module("block_stream", monitors=[vm.monitor for vm in vms], disks=["*"], **options)
    assert (max(sum(speeds) for speeds in watcher.seen), speeds_of(vms)) == (65536, left)


def test_while_the_monitors_are_left_to_others(vms: list[Vm]) -> None:
    """With `poll_interval` nobody holds a monitor all the time, and the limit is kept all the same."""
    with Watcher(vms) as watcher:
        result = stream(vms, parallel=3, total_speed="3M", poll_interval=1)
        Monitor(vms[0].folder / "web1.qmp", timeout=5).close()
    assert result["finished"] is True
    assert max(sum(speeds) for speeds in watcher.seen) == 3 * MiB


def test_check_mode_and_a_wrong_word(vms: list[Vm]) -> None:
    """Check mode starts nothing, and what is no size is refused before anything is started."""
    stream(vms, total_speed="3M", check=True)
    refused = product.module("block_stream", monitors=[vms[0].monitor], disks=["*"], total_speed="3 apples")
    assert (refused.failed, refused["msg"][:25]) == (True, "total_speed is '3 apples'")
    assert [vm.jobs() for vm in vms] == [{}, {}]
