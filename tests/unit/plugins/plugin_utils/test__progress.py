# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import time
from typing import Any

import pytest
from ansible_collections.virtops.qmp.plugins.plugin_utils._progress import (
    WIDTH,
    Figures,
    Look,
    Part,
    Progress,
    Total,
    _fit,
    beginning,
    ending_line,
    extend,
    measure,
    over,
    progress_line,
    total_line,
)

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB


def look(time: float, cursor: int, allocated: int | None, **members: Any) -> Look:
    """A look at a disk of 1 GiB whose backing image holds 64 MiB."""
    values = {"end": GIB, "needed": 64 * MIB, "speed": 0, "paused": False, **members}
    return Look(time=time, cursor=cursor, allocated=allocated, **values)


def disk(**members: Any) -> dict[str, Any]:
    """A disk as the module tells of it, while it is streamed."""
    return {
        "label": "vda",
        "key": members.get("label", "vda"),
        "vm": "web01",
        "monitor": "/run/web01.qmp",
        "domain": None,
        "chain": [{"allocated": 0}],
        "space": {"needed": 30 * GIB},
        "job": {"cur": 0, "end": 32 * GIB, "speed": 0, "paused": False, "io_status": "ok"},
        "action": "started",
        "seconds": 0.0,
        "clock": 0.0,
        "grew_by": 0,
        "guest_latency": None,
        "finished": False,
        "error": None,
        **members,
    }


@pytest.mark.parametrize(
    ("looks", "expected"),
    [
        pytest.param([look(0, 0, 0)], Figures(0, 64 * MIB), id="one look gives no rate"),
        pytest.param(
            [look(0, 0, 0), look(10, 16 * MIB, 16 * MIB)],
            Figures(16 * MIB, 64 * MIB, 1.6 * MIB, 30.0),
            id="data in front: the image below bounds it, though the cursor stands at 2 %",
        ),
        pytest.param(
            [look(0, 960 * MIB, 0), look(10, 976 * MIB, 16 * MIB)],
            Figures(16 * MIB, 64 * MIB, 1.6 * MIB, 30.0),
            id="data at the end: the cursor stands at 95 %, the figures do not",
        ),
        pytest.param(
            [look(0, 0, 0, needed=GIB), look(10, 256 * MIB, 256 * MIB, needed=GIB)],
            Figures(256 * MIB, GIB, 25.6 * MIB, 30.0),
            id="dense",
        ),
        pytest.param(
            [look(0, 0, 0, needed=GIB), look(10, 512 * MIB, 4 * MIB, needed=GIB)],
            Figures(512 * MIB, GIB, 0.4 * MIB, 10.0),
            id="an image below that does not tell its size (NBD): the cursor bounds it",
        ),
        pytest.param(
            [look(0, 512 * MIB, 512 * MIB, needed=GIB), look(10, 768 * MIB, 768 * MIB, needed=GIB)],
            Figures(768 * MIB, GIB, 25.6 * MIB, 10.0),
            id="joined half way: what is behind the cursor is left",
        ),
        pytest.param(
            [look(0, 0, 0), look(10, 96 * MIB, 96 * MIB)],
            Figures(0, 928 * MIB, 9.6 * MIB, None),
            id="a compressed image gives more than it takes up: only the cursor is left as a bound",
        ),
        pytest.param(
            [look(0, 0, 0), look(10, 16 * MIB, 512 * MIB)],
            Figures(16 * MIB, 64 * MIB, 1.6 * MIB, 30.0),
            id="a guest that writes much is not taken for the stream",
        ),
        pytest.param(
            [look(0, 0, 32 * MIB), look(10, 16 * MIB, 16 * MIB)],
            Figures(0, 64 * MIB, 0.0, None),
            id="a guest that discards lets the image shrink",
        ),
        pytest.param(
            [look(0, 0, None, needed=GIB), look(10, 256 * MIB, None, needed=GIB)],
            Figures(256 * MIB, GIB, 25.6 * MIB, 30.0),
            id="an active image without allocation (block device): the cursor counts",
        ),
        pytest.param([look(0, 0, 0, end=0, needed=0)], Figures(0, 0), id="nothing to copy"),
        pytest.param(
            [look(0, 0, 0), look(9, MIB, MIB), look(18, MIB, MIB)],
            Figures(MIB, 64 * MIB, MIB / 18, 1134.0),
            id="standing still for 9 s is no stall",
        ),
        pytest.param(
            [look(0, 0, 0), look(9, MIB, MIB), look(19, MIB, MIB)],
            Figures(MIB, 64 * MIB, MIB / 19, 1197.0, 10.0),
            id="standing still for 10 s is",
        ),
        pytest.param(
            [look(0, MIB, MIB, paused=True), look(90, MIB, MIB, paused=True)],
            Figures(0, 64 * MIB, 0.0, None),
            id="a paused stream is not stalled",
        ),
        pytest.param(
            [look(0, MIB, MIB, speed=16 * KIB), look(63, MIB, MIB, speed=16 * KIB)],
            Figures(0, 64 * MIB, 0.0, None),
            id="a step takes 32 s at 16 KiB/s, so two of them may pass",
        ),
        pytest.param(
            [look(0, MIB, MIB, speed=16 * KIB), look(64, MIB, MIB, speed=16 * KIB)],
            Figures(0, 64 * MIB, 0.0, None, 64.0),
            id="but no more",
        ),
        pytest.param(
            [look(0, 0, 0), look(40, 4 * MIB, 4 * MIB), look(100, 10 * MIB, 34 * MIB)],
            Figures(10 * MIB, 64 * MIB, 0.1 * MIB, 540.0),
            id="the rate is that of the last minute",
        ),
        pytest.param(
            [look(0, 0, 0), look(200, 0, 0), look(300, 10 * MIB, 10 * MIB), look(600, 40 * MIB, 40 * MIB)],
            Figures(40 * MIB, 64 * MIB, 0.1 * MIB, 240.0),
            id="or of the last third of a long watch",
        ),
        pytest.param(
            [
                look(0, 0, 0, speed=8 * KIB),
                look(64, 512 * KIB, 512 * KIB, speed=8 * KIB),
                look(200, 1536 * KIB, 1536 * KIB, speed=8 * KIB),
            ],
            Figures(1536 * KIB, 64 * MIB, 7.68 * KIB, 62.5 * MIB / (7.68 * KIB)),
            id="or of four steps of a slow stream",
        ),
        pytest.param(
            [look(0, 0, 0), look(400, 0, 0), look(1000, 6 * MIB, 6 * MIB)],
            Figures(6 * MIB, 64 * MIB, MIB / 100, 5800.0),
            id="two looks at least, however long the last slice was",
        ),
    ],
)
def test_figures_are_bounds_that_hold(looks: list[Look], expected: Figures) -> None:
    """Bytes, rate, time left and a stall follow from the looks alone."""
    found = measure(looks)
    assert (found.done, found.total) == (expected.done, expected.total)
    assert found.rate == (None if expected.rate is None else pytest.approx(expected.rate))
    assert found.seconds_left == (None if expected.seconds_left is None else pytest.approx(expected.seconds_left))
    assert found.stalled_for == expected.stalled_for


@pytest.mark.parametrize(("done", "total", "percent"), [(0, 0, 100), (999, 1000, 99), (1000, 1000, 100), (0, 5, 0)])
def test_100_percent_means_all_of_it(done: int, total: int, percent: int) -> None:
    """Per cent are rounded down."""
    assert Figures(done, total).percent == percent


def test_a_cursor_that_went_back_is_another_stream() -> None:
    """Looks at an earlier stream of the same disk say nothing about this one."""
    first, second, restarted = look(0, 0, 0), look(1, MIB, MIB), look(2, KIB, MIB)
    assert extend((first,), second) == (first, second)
    assert extend((first, second), restarted) == (restarted,)
    assert extend((), first) == (first,)


def line(looks: list[Look], host: str = "hv1", **members: Any) -> str:
    return progress_line(host, disk(**members), looks)


def dense(time: float, copied: float, size: float = 30 * GIB, **members: Any) -> Look:
    values = {"end": round(size), "needed": round(size), **members}
    return look(time, round(copied), round(copied), **values)


@pytest.mark.parametrize(
    ("looks", "expected"),
    [
        pytest.param(
            [dense(0, 0), dense(24, 12.31 * GIB)],
            "hv1 web01 vda  41%  12.3 of 30.0 GiB  525 MiB/s  0:00:34 left",
            id="running",
        ),
        pytest.param([dense(0, 0)], "hv1 web01 vda   0%  0.0 of 30.0 GiB", id="the first look"),
        pytest.param(
            [dense(0, GIB), dense(75, GIB)], "hv1 web01 vda   3%  1.0 of 30.0 GiB  stalled for 0:01:15", id="stalled"
        ),
        pytest.param(
            [dense(0, GIB), dense(75, GIB, paused=True)], "hv1 web01 vda   3%  1.0 of 30.0 GiB  paused", id="paused"
        ),
        pytest.param(
            [dense(0, 0, 900), dense(10, 500, 900)], "hv1 web01 vda  55%  500 of 900 B  50 B/s  0:00:08 left", id="B"
        ),
        pytest.param(
            [dense(0, 0), dense(5, 0)], "hv1 web01 vda   0%  0.0 of 30.0 GiB  0 B/s", id="no time can be told"
        ),
        pytest.param(
            [dense(0, 0), dense(9, 99.97 * KIB)],
            "hv1 web01 vda   0%  0.0 of 30.0 GiB  11.1 KiB/s  786:40:04 left",
            id="hours",
        ),
        pytest.param(
            [dense(0, 0), dense(9, KIB)],
            "hv1 web01 vda   0%  0.0 of 30.0 GiB  114 B/s  3276 days left",
            id="days",
        ),
        pytest.param(
            [dense(0, 0, 1000 * GIB), dense(10, 100 * GIB, 1000 * GIB)],
            "hv1 web01 vda  10%  0.1 of 1.0 TiB  10.0 GiB/s  0:01:30 left",
            id="a unit in which the number is below 1000",
        ),
        pytest.param(
            [dense(0, 0, 2**63), dense(10, 2**60, 2**63)],
            "hv1 web01 vda  12%  1.0 of 8.0 EiB  102 PiB/s  0:01:10 left",
            id="the largest unit",
        ),
    ],
)
def test_a_line_as_people_read_it(looks: list[Look], expected: str) -> None:
    """Host, VM, disk, per cent, bytes, rate, time left; or what keeps it."""
    assert line(looks) == expected


def test_long_names_are_cut_at_their_front() -> None:
    """A line fits 80 columns, and the ends of the names, which tell them apart, stay."""
    looks = [dense(0, 0), dense(24, 12.31 * GIB)]
    found = line(looks, host="hypervisor-17.example.org", vm="/run/vms/customer-4711/web01.qmp", label="virtio-disk-12")
    assert len(found) == WIDTH
    assert found.startswith("~")
    assert "web01.qmp" in found
    assert found.endswith("  41%  12.3 of 30.0 GiB  525 MiB/s  0:00:34 left")


@pytest.mark.parametrize(
    ("vm", "shown"),
    [
        pytest.param("a\nb", r"a\x0ab", id="a line feed"),
        pytest.param("\x1b[31m", r"\x1b[31m", id="an escape"),
        pytest.param("\u202e", r"\u202e", id="an override"),
    ],
)
def test_no_name_acts_on_a_terminal(vm: str, shown: str) -> None:
    """A line is one line, whatever a guest calls itself."""
    assert line([dense(0, 0)], vm=vm).startswith(f"hv1 {shown} vda  ")
    assert ending_line("hv1", disk(vm=vm, finished=True)) == f"hv1 {shown} vda  populated"


def test_names_of_any_length_take_no_time() -> None:
    """Three names of a million characters are cut to a line at once."""
    began = time.process_time()
    found = line([dense(0, 0)], host="h" * 1_000_000, vm="\x1b" * 1_000_000, qdev="d" * 1_000_000)
    assert len(found) == WIDTH
    assert time.process_time() - began < 0.5


def test_names_give_way_to_figures() -> None:
    """Where the figures alone are as long as a line they are told, and the names are marks."""
    assert _fit(["host", "vm", "disk"], "x" * WIDTH) == f"~ ~ ~  {'x' * WIDTH}"


@pytest.mark.parametrize(
    ("members", "word"),
    [
        ({"finished": True, "job": None}, "populated"),
        ({"error": "why", "job": None}, "failed"),
        ({"action": "stopped", "job": None}, "stopped"),
        ({"error": "why", "job": {"paused": True, "io_status": "ok"}}, "paused"),
        ({"error": "why", "job": {"paused": True, "io_status": "nospace"}}, "held, no space left"),
        ({"error": "why", "job": {"paused": True, "io_status": "failed"}}, "held by an I/O error"),
        ({"error": "why", "job": {"paused": False, "io_status": "ok"}}, "failed"),
    ],
)
def test_what_became_of_a_disk(members: dict[str, Any], word: str) -> None:
    """A disk that ends while others go on gets a last line."""
    assert ending_line("hv1", disk(**members)) == f"hv1 web01 vda  {word}"


@pytest.mark.parametrize(
    ("members", "seen", "expected"),
    [
        pytest.param({}, look(10, 64, 100), (look(0, 0, 70),), id="the slice began it"),
        pytest.param({"action": "joined"}, look(10, 64, 100), (), id="it ran before"),
        pytest.param({"seconds": 0.0}, look(10, 64, 100), (), id="no time has passed"),
        pytest.param({"grew_by": None}, look(10, 64, 100), (), id="its growth is not known"),
        pytest.param({}, look(10, 64, None), (), id="its size is not known"),
    ],
)
def test_the_beginning_of_a_stream(members: dict[str, Any], seen: Look, expected: tuple[Look, ...]) -> None:
    """The first line counts from where the stream began, where that is known."""
    assert beginning({"action": "started", "seconds": 10.0, "grew_by": 30, **members}, seen) == expected


def test_lines_of_a_slice() -> None:
    """A line on each running stream and on each that ended, none on a disk that waits or to which nothing was done."""
    running = disk()
    waiting = disk(label="vdb", job=None, action="none", clock=None)
    untouched = disk(label="vdc", job=None, action="none", finished=True, clock=None)
    ended = disk(label="vdd", job=None, finished=True, grew_by=2 * GIB)
    lost = disk(label="vde", job=None, action="none", error="its VM does not answer", clock=None)
    progress = Progress("hv1")
    assert progress.lines([running, waiting, untouched, ended, lost], [running, waiting]) == [
        "hv1 web01 vda   0%  0.0 of 30.0 GiB",
        "hv1 web01 vdd  populated",
        "hv1 web01 vde  failed",
        "hv1  2 of 4 disks  2.0 of 62.0 GiB",
    ]
    later = disk(job={**running["job"], "cur": 10 * GIB}, chain=[{"allocated": 10 * GIB}], clock=10.0)
    assert progress.lines([later, waiting], [later, waiting]) == [
        "hv1 web01 vda  33%  10.0 of 30.0 GiB  1.0 GiB/s  0:00:20 left",
        "hv1  2 of 4 disks  12.0 of 62.0 GiB  0:00:50 left",
    ]
    gone = disk(job=None, error="why", clock=20.0)
    assert progress.lines([gone, waiting], [waiting]) == [
        "hv1 web01 vda  failed",
        "hv1  3 of 4 disks  12.0 of 42.0 GiB  0:01:00 left",
    ]


def test_one_disk_needs_no_line_for_all() -> None:
    """Where a task has one disk, or nothing was waited for, the line on it says all."""
    progress = Progress("hv1")
    assert len(progress.lines([disk()], [disk()])) == 1
    idle = [disk(label=label, job=None, clock=None) for label in ("vda", "vdb")]
    assert Progress("hv1").lines(idle, idle) == []


def test_a_connection_that_is_held_up_makes_no_stream_slower() -> None:
    """Rates are by the clock of the hypervisor, whenever the controller gets to know it."""
    progress = Progress("hv1")
    for clock, copied, rate in ((0.0, 0, ""), (610.0, 10, "16.8 MiB/s  0:20:20 left")):
        job = {"cur": copied * GIB, "end": 32 * GIB, "speed": 0, "paused": False, "io_status": "ok"}
        seen = disk(job=job, chain=[{"allocated": copied * GIB}], clock=clock)
        (line,) = progress.lines([seen], [seen])
        assert line.endswith(rate)


@pytest.mark.parametrize(
    ("members", "before", "expected"),
    [
        pytest.param({"finished": True}, Part(5, 9), Part(9, 9, is_over=True), id="populated: all of it"),
        pytest.param({"finished": True, "grew_by": 4}, None, Part(4, 4, is_over=True), id="in the first slice"),
        pytest.param({"finished": True, "grew_by": None}, None, Part(0, 0, is_over=True), id="nobody knows how much"),
        pytest.param({"finished": True, "grew_by": -4}, None, Part(0, 0, is_over=True), id="the guest discarded more"),
        pytest.param({"error": "why"}, Part(5, 9), Part(5, 5, is_over=True), id="failed: the rest does not come"),
        pytest.param({"error": "why"}, None, Part(0, 0, is_over=True), id="failed in the first slice"),
    ],
)
def test_what_is_over(members: dict[str, Any], before: Part | None, expected: Part) -> None:
    """A disk to which nothing more is done counts with what it had, and with nothing that is to come."""
    assert over(disk(**members), before) == expected


@pytest.mark.parametrize(
    ("totals", "line"),
    [
        pytest.param([Total(0, 80, 26, 3 * GIB, 12 * GIB)], "hv1  26 of 80 disks  3.0 of 12.0 GiB", id="the first"),
        pytest.param(
            [Total(0, 80, 0, 0, 12 * GIB), Total(60, 80, 26, 3 * GIB, 12 * GIB)],
            "hv1  26 of 80 disks  3.0 of 12.0 GiB  0:03:00 left",
            id="a minute later",
        ),
        pytest.param(
            [Total(0, 2, 0, 0, GIB), Total(540, 2, 0, 512 * MIB, GIB), Total(600, 2, 1, 768 * MIB, GIB)],
            "hv1  1 of 2 disks  0.8 of 1.0 GiB  0:01:00 left",
            id="by what it was of late",
        ),
        pytest.param(
            [Total(0, 2, 0, GIB, GIB), Total(10, 2, 0, GIB, 2 * GIB)],
            "hv1  0 of 2 disks  1.0 of 2.0 GiB",
            id="more is to come than before: no time can be told",
        ),
    ],
)
def test_the_line_on_all_disks(totals: list[Total], line: str) -> None:
    """How many are through, how much is copied, and the time that the rest takes at the present pace."""
    assert total_line("hv1", totals) == line


@pytest.mark.parametrize(
    ("members", "words"),
    [
        pytest.param({}, "guest 4.81 of 5 ms (write, p95)", id="busy"),
        pytest.param({"now": 1234.5, "measure": "mean"}, "guest 1.23e+03 of 5 ms (write, mean)", id="very slow"),
        pytest.param({"by_itself": True}, "guest 4.81 of 5 ms (write, p95) by itself", id="slow by itself"),
        pytest.param({"now": None, "kind": None}, "guest idle, target 5 ms", id="idle"),
    ],
)
def test_a_line_tells_what_the_guest_feels(members: dict[str, Any], words: str) -> None:
    """It follows that of the stream, and the time for which the stream was held back is that of all slices."""
    felt = {"target": 5.0, "now": 4.812, "measure": "p95", "kind": "write", "by_itself": False, "held_back": 35.0}
    progress = Progress("hv1")
    lines: list[str] = []
    for clock in (0.0, 60.0):
        watched = [disk(clock=clock, guest_latency={**felt, **members})]
        lines = progress.lines(watched, watched)
    assert lines[1:] == [f"hv1 web01 vda  {words}  held back 0:01:10"]
