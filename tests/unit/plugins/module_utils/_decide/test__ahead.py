# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from ansible_collections.virtops.qmp.plugins.module_utils._decide._ahead import (
    Allowance,
    Course,
    Window,
    course_for,
    requests,
    why_nobody_reads_ahead,
    why_not_read_ahead,
    within,
)
from ansible_collections.virtops.qmp.plugins.module_utils._model._address import DomainName
from ansible_collections.virtops.qmp.plugins.module_utils._model._disk import Disk
from ansible_collections.virtops.qmp.plugins.module_utils._model._files import Bound, FileId, Inode
from ansible_collections.virtops.qmp.plugins.module_utils._model._request import Waiting
from ansible_collections.virtops.qmp.plugins.module_utils._model._serving import Export, Serving
from ansible_collections.virtops.qmp.tests.unit.builders import disk, identity, image, job

KIB, MIB = 1024, 1024 * 1024
STEP = 512 * KIB
FAR = image("base", path="nbd+unix://?socket=/s", format="raw", file=None, virtual_size=8 * MIB)
FAR_QCOW2 = image("base", path="nbd+unix://?socket=/s", file=None)
DEVICE = image("base", bound=Bound(Inode(FileId(6, 9), "block", 77), file="/dev/vg/base"))
IOTHREADS = Serving(has_iothreads=True)


@pytest.mark.parametrize(
    ("over", "vm", "serving", "base_index", "remote", "reason"),
    [
        pytest.param(disk("top", FAR), {}, Serving(), 2, (), None, id="a base over NBD"),
        pytest.param(disk("top", "mid", FAR), {}, Serving(), 3, (), None, id="the lowest is far"),
        pytest.param(disk("top", FAR, "base"), {}, Serving(), 2, (), None, id="what is dropped is far"),
        pytest.param(disk("top"), {}, Serving(), 1, (), "no image below", id="no backing image"),
        pytest.param(disk("top", FAR), {}, Serving(), 1, (), "no image below", id="the base stays"),
        pytest.param(disk("top", FAR), {"qemu_version": "5.1.9"}, Serving(), 2, (), "too old", id="QEMU 5.1"),
        pytest.param(disk("top", FAR), {"qemu_version": "5.2.0"}, Serving(), 2, (), None, id="QEMU 5.2"),
        pytest.param(disk("top", FAR), {"peer": None}, Serving(), 2, (), "over TCP", id="over TCP"),
        pytest.param(
            disk("top", FAR), {"peer": None, "monitor": DomainName("web01")}, Serving(), 2, (), None, id="a domain"
        ),
        pytest.param(disk("top", FAR), {}, IOTHREADS, 2, (), "iothreads", id="iothreads"),
        pytest.param(disk("top", FAR), {"qemu_version": "9.2.4"}, IOTHREADS, 2, (), "iothreads", id="iothreads, 9.2"),
        pytest.param(disk("top", FAR), {"qemu_version": "10.0.0"}, IOTHREADS, 2, (), None, id="iothreads, 10.0"),
        pytest.param(
            disk("top", FAR), {}, Serving(exports=(Export("theirs", "nbd"),)), 2, (), "somebody else", id="their server"
        ),
        pytest.param(
            disk("top", FAR), {}, Serving(exports=(Export("theirs", "vhost-user-blk"),)), 2, (), None, id="no NBD"
        ),
        pytest.param(
            disk("top", FAR),
            {},
            Serving(exports=(Export("populate-ahead-0", "nbd"),)),
            2,
            (),
            None,
            id="our own server",
        ),
        pytest.param(disk("top", "base"), {}, Serving(), 2, (), "local files", id="a local file"),
        pytest.param(disk("top", "mid", "base", FAR), {}, Serving(), 3, (), "local files", id="the far one stays"),
        pytest.param(disk("top", "base"), {}, Serving(), 2, (7, 1), None, id="a file of another host"),
        pytest.param(disk("top", "base"), {}, Serving(), 2, (7,), "local files", id="another file system is far"),
        pytest.param(disk("top", DEVICE), {}, Serving(), 2, (), None, id="a block device may be anywhere"),
        pytest.param(
            disk("top", image("base", file=None)), {}, Serving(), 2, (), "local files", id="not proven, local"
        ),
    ],
)
def test_why_not_read_ahead(
    over: Disk, vm: Any, serving: Serving, base_index: int, remote: tuple[int, ...], reason: str | None
) -> None:
    """It is forbidden where it could cost the VM, where it cannot work, and where it gains nothing, with the reason."""
    found = why_not_read_ahead(identity(**vm), serving, over, base_index, remote)
    assert (found is None) == (reason is None)
    assert (reason or "") in (found or "")


@pytest.mark.parametrize(
    ("waiting", "reason"),
    [
        pytest.param(Waiting(), None, id="it waits"),
        pytest.param(Waiting(timeout=10, on_timeout="leave"), None, id="for a time"),
        pytest.param(Waiting(wait=False), "wait is false", id="it does not wait"),
        pytest.param(Waiting(poll_interval=5), "poll_interval", id="it comes and goes"),
    ],
)
def test_why_nobody_reads_ahead(waiting: Waiting, reason: str | None) -> None:
    """It lasts as long as somebody holds the monitor."""
    found = why_nobody_reads_ahead(waiting)
    assert (reason or "") in (found or "")
    assert (found is None) == (reason is None)


BIG = image("top", virtual_size=64 * MIB)


@pytest.mark.parametrize(
    ("over", "base_index", "waiting", "course"),
    [
        pytest.param(disk(BIG, FAR), 2, Waiting(), Course(8 * MIB, STEP, 2, needs_map=False), id="raw, not behind it"),
        pytest.param(disk(BIG, "mid", FAR), 3, Waiting(), Course(8 * MIB, STEP, 3, needs_map=False), id="raw below"),
        pytest.param(disk(BIG, FAR_QCOW2), 2, Waiting(), Course(64 * MIB, STEP, 2, needs_map=True), id="qcow2"),
        pytest.param(disk(BIG, "mid", FAR), 2, Waiting(), Course(64 * MIB, STEP, 2, needs_map=True), id="a base stays"),
        pytest.param(
            disk(BIG, FAR, cluster_size=2 * MIB), 2, Waiting(), Course(8 * MIB, 2 * MIB, 2, needs_map=False), id="2M"
        ),
        pytest.param(
            disk(BIG, FAR, cluster_size=4 * KIB), 2, Waiting(), Course(8 * MIB, STEP, 2, needs_map=False), id="4k"
        ),
        pytest.param(
            disk(BIG, FAR),
            2,
            Waiting(increment=3 * MIB, cursor=MIB),
            Course(4 * MIB, STEP, 2, needs_map=False),
            id="an increment",
        ),
        pytest.param(
            disk(BIG, FAR), 2, Waiting(increment=99 * MIB), Course(8 * MIB, STEP, 2, needs_map=False), id="a long one"
        ),
        pytest.param(
            disk(image("top", virtual_size=2 * MIB), FAR),
            2,
            Waiting(),
            Course(2 * MIB, STEP, 2, needs_map=False),
            id="a disk that is shorter",
        ),
    ],
)
def test_course(over: Disk, base_index: int, waiting: Waiting, course: Course) -> None:
    """It ends where the stream does, and asks where data lies unless all of the lowest image is data."""
    assert course_for(over, base_index, waiting) == course


def course(last_depth: int = 2, step: int = 4) -> Course:
    return Course(end=100, step=step, last_depth=last_depth, needs_map=True)


@pytest.mark.parametrize(
    ("extents", "position", "last_depth", "expected"),
    [
        pytest.param([(10, 2)], 0, 2, [(0, 4), (4, 4), (8, 2)], id="steps"),
        pytest.param([(10, 2)], 3, 2, [(3, 1), (4, 4), (8, 4), (12, 1)], id="steps are at their places"),
        pytest.param([(4, 1), (4, 2), (4, 0)], 0, 2, [(4, 4)], id="neither the top nor nothing"),
        pytest.param([(2, 2), (2, 3), (4, 2)], 0, 3, [(0, 4), (4, 4)], id="layers are one"),
        pytest.param([(4, 2), (4, 3), (4, 2)], 0, 2, [(0, 4), (8, 4)], id="what the base has stays there"),
        pytest.param([(4, 1)], 8, 2, [], id="all is there"),
        pytest.param([], 8, 2, [], id="nothing"),
    ],
)
def test_requests(
    extents: list[tuple[int, int]], position: int, last_depth: int, expected: list[tuple[int, int]]
) -> None:
    """What lies above the base and below the top is asked for, in steps that never cross a boundary."""
    assert list(requests(extents, position, course(last_depth))) == expected


@pytest.mark.parametrize(
    ("extents", "length", "kept"),
    [
        pytest.param([(4, 2), (4, 1)], 8, [(4, 2), (4, 1)], id="as asked"),
        pytest.param([(4, 2), (9, 1)], 8, [(4, 2), (4, 1)], id="too long"),
        pytest.param([(4, 2)], 8, [(4, 2)], id="a part"),
        pytest.param([(9, 2), (4, 1)], 8, [(8, 2), (0, 1)], id="and more"),
    ],
)
def test_within(extents: list[tuple[int, int]], length: int, kept: list[tuple[int, int]]) -> None:
    """Nothing is read ahead behind what was asked about."""
    assert within(extents, length) == kept


@pytest.mark.parametrize(
    ("speed", "seconds", "offset", "read", "left"),
    [
        pytest.param(100, 0.25, 0, [], 25, id="a job that waits for its link"),
        pytest.param(100, 0.25, 4, [], 21, id="a job that copies"),
        pytest.param(100, 0.25, 90, [], 0, id="a job that passes over holes is taken to copy as fast as it may"),
        pytest.param(100, 0.25, 90, [(0, 60), (60, 40)], 25, id="over what was read ahead"),
        pytest.param(100, 0.25, 90, [(4, 86)], 21, id="over some of it"),
        pytest.param(100, 9.0, 0, [], 50, id="what was not used is lost after half a second"),
        pytest.param(1, 9.0, 0, [], 4, id="but a request is always possible"),
    ],
)
def test_allowance(speed: int, seconds: float, offset: int, read: list[tuple[int, int]], left: int) -> None:
    """The job and what is read ahead share the limit."""
    after = Allowance(0.0, 5.0, 0).at_look(job(speed=speed, offset=offset), 5.0 + seconds, read, 4)
    assert (after.left, after.at, after.offset) == (left, 5.0 + seconds, offset)
    assert after.covers(job(speed=speed), left)
    assert not after.covers(job(speed=speed), left + 1)
    assert after.less(7).left == left - 7


def test_no_limit_no_allowance() -> None:
    """A job without a limit may be read ahead of as fast as it goes."""
    assert Allowance(0.0, 0.0, 0).covers(job(speed=0), 10**9)


@dataclass
class SimulatedLink:
    """Requests of one step take `delay` seconds, and the link carries so many steps a second; a stream alone is slower.

    `used` counts the seconds with each number of requests under way.
    """

    delay: float
    carries: float = 10000.0
    plain: float = 0.35
    now: float = 1000.0
    copied: float = 0.0
    used: dict[int, float] = field(default_factory=dict)

    def rate(self, size: int) -> float:
        return min(self.carries, max(self.plain, size) / self.delay)

    def run(self, window: Window, seconds: float) -> Window:
        """So many seconds later, with a look at the window each 20 ms."""
        self.used = {}
        for _look in range(round(seconds / 0.02)):
            self.used[window.size] = self.used.get(window.size, 0.0) + 0.02
            self.now += 0.02
            self.copied += self.rate(window.size) * 0.02
            window = window.after(self.now, self.copied)
        return window

    def share(self, *sizes: int) -> float:
        """How much of the time so many were under way."""
        return sum(self.used.get(size, 0.0) for size in sizes) / sum(self.used.values())


@pytest.mark.parametrize(
    ("link", "most", "expected"),
    [
        pytest.param(SimulatedLink(0.02), 8, 8, id="a delay alone: as many as were asked for"),
        pytest.param(SimulatedLink(0.02), 16, 16, id="sixteen"),
        pytest.param(SimulatedLink(0.02), 6, 6, id="six"),
        pytest.param(SimulatedLink(0.02, plain=0.35), 1, 1, id="one, which is faster than a stream of a raw base"),
        pytest.param(SimulatedLink(0.02, plain=1.0), 1, 0, id="one, which is no faster than another stream"),
        pytest.param(SimulatedLink(0.001, carries=40), 8, 0, id="a link that the stream alone fills"),
        pytest.param(SimulatedLink(0.02, carries=22), 8, 0, id="that it nearly fills"),
        pytest.param(SimulatedLink(0.02, carries=80), 16, 2, id="that two requests nearly fill"),
        pytest.param(SimulatedLink(0.02, carries=200), 16, 4, id="that four requests fill"),
        pytest.param(SimulatedLink(0.2, carries=50), 16, 8, id="a long way"),
    ],
)
def test_window(link: SimulatedLink, most: int, expected: int) -> None:
    """It is as large as is worth it, nearly all of the time; a link that is full is left to the guest."""
    window = link.run(Window(most), 20.0)
    assert window.settled == expected
    window = link.run(window, 100.0)
    assert window.settled == expected
    assert link.share(expected) > 0.95
    assert max(link.used) <= most


def test_window_gives_way() -> None:
    """A link that others fill is left to them after a while, and used again when it is free."""
    link = SimulatedLink(0.02)
    window = link.run(Window(8), 30.0)
    link.carries = 20
    window = link.run(window, 60.0)
    assert window.settled == 0
    link.carries = 10000
    window = link.run(window, 70.0)
    assert window.settled == 8


def test_window_is_not_deceived() -> None:
    """What is there already is passed over in no time, and tells nothing of the link."""
    link = SimulatedLink(0.02, plain=1000)
    window = link.run(Window(8), 3.0)
    assert window.size == 0
    link.plain = 0.35
    link.run(window, 3.0)
    assert link.share(8) > 0.5


def test_window_that_is_known() -> None:
    """What an earlier task has found is not looked for anew, but doubted after a while."""
    link = SimulatedLink(0.02)
    window = link.run(Window.beginning(8, 8, link.now), 7.0)
    assert link.share(8) == 1.0
    link.carries = 20
    window = link.run(window, 60.0)
    assert window.settled == 0


@pytest.mark.parametrize(("known", "size"), [(None, 0), (0, 0), (4, 4), (99, 8), (-1, 0)])
def test_beginning(known: int | None, size: int) -> None:
    """Whatever is said to be known, no more requests are under way than were asked for."""
    assert Window.beginning(known, 8, 5.0).size == size


def test_window_of_a_job_that_stands_still() -> None:
    """A time in which nobody was to copy is not counted."""
    link = SimulatedLink(0.02)
    window = link.run(Window(8), 0.1)
    link.now += 30.0
    window = link.run(window.anew(link.now, link.copied), 1.5)
    assert window.size == 8
