# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

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
            Serving(exports=(Export("populate-ahead", "nbd"),)),
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


@pytest.mark.parametrize(
    ("carries", "delay", "most", "expected"),
    [
        pytest.param(None, 0.02, 8, 8, id="a delay alone: as many as were asked for"),
        pytest.param(None, 0.02, 16, 16, id="sixteen"),
        pytest.param(1, 0.0, 16, 2, id="a link that one request fills"),
        pytest.param(4, 0.02, 16, 5, id="a link that four requests fill"),
        pytest.param(None, 0.0001, 8, 1, id="all is there: nothing is known of the link"),
    ],
)
def test_window(carries: int | None, delay: float, most: int, expected: int) -> None:
    """It grows until the link is full, and no further, so that little waits in front of what the guest asks for."""
    window = Window()
    for _answer in range(2000):
        seconds = delay if carries is None else max(delay, 0.005) * max(1.0, window.size / carries)
        window = window.after(seconds, most)
    assert abs(window.size - expected) <= 1
    assert window.size <= most


def test_window_is_not_deceived() -> None:
    """A request for what the job fetches at this moment is answered sooner, and does not make all others look late."""
    window = Window()
    for answer in range(400):
        window = window.after(0.003 if answer % 4 == 0 else 0.2, 8)
    assert window.size == 8


def test_window_gives_way() -> None:
    """A link that others fill is left to them."""
    window = Window(size=8, shortest=0.02)
    for _answer in range(100):
        window = window.after(0.5, 8)
    assert window.size == 1
