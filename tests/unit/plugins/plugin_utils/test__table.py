# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.virtops.qmp.plugins.plugin_utils._table import brief, plan, summary

MIB = 1024 * 1024


def image(free: bool | None, path: str = "/golden", reason: str | None = None) -> dict[str, Any]:
    return {"path": path, "free": free, "reason": reason}


def disk(**members: Any) -> dict[str, Any]:
    """A disk that was populated in five seconds."""
    return {
        "vm": "web01",
        "label": "vda",
        "action": "started",
        "populated": True,
        "finished": True,
        "error": None,
        "job": None,
        "seconds": 5.0,
        "clock": 100.0,
        "order": None,
        "space": {"needed": 320 * MIB, "free": 640 * MIB},
        "grew_by": 320 * MIB,
        "released": [image(True)],
        **members,
    }


def cell(title: str, **members: Any) -> str:
    """What stands under a title; the cells of a row are told apart by the places of the titles."""
    head, row, _total = summary({"disks": [disk(**members)], "released": []}, shows_all=True)
    start = head.index(title)
    if title in ("GREW BY", "TIME", "RATE"):
        return row[: start + len(title)].split("  ")[-1].strip()
    return row[start:].split("  ")[0]


IDLE = {"action": "none", "seconds": 0.0, "clock": None, "grew_by": 0, "released": []}


def test_a_table() -> None:
    """Words begin and numbers end below each other, whatever their lengths; each old image has a line of its own."""
    second = disk(label="virtio-disk-2", action="joined", clock=107.0, grew_by=40 * MIB, released=[])
    released = [image(False, "/golden", "it is still open in VM web02 (pid 813)")]
    assert summary({"disks": [disk(), second], "released": released}) == [
        "VM     DISK           ACTION   NOW          GREW BY       TIME        RATE  RELEASED",
        "web01  vda            started  populated    320 MiB  0:00:05.0  64.0 MiB/s  /golden",
        "web01  virtio-disk-2  joined   populated   40.0 MiB  0:00:05.0   8.0 MiB/s  -",
        "total  2 disks                 2 finished   360 MiB  0:00:12.0  30.0 MiB/s",
        "/golden: not free, it is still open in VM web02 (pid 813)",
    ]


@pytest.mark.parametrize(
    ("disks", "shows_all", "shown", "last"),
    [
        pytest.param([{}], False, ["vda"], "total", id="all have news"),
        pytest.param([{}, IDLE], False, ["vda"], "and 1 disk untouched, finished (-v shows each)", id="one"),
        pytest.param(
            [{}, IDLE, {**IDLE, "finished": False}],
            False,
            ["vda"],
            "and 2 disks untouched, 1 of them finished (-v shows each)",
            id="two have none",
        ),
        pytest.param([IDLE, IDLE], False, [], "2 disks untouched, finished (-v shows each)", id="nothing was done"),
        pytest.param([{}, IDLE], True, ["vda", "vda"], "total", id="all are wanted"),
        pytest.param([{**IDLE, "error": "why"}], False, ["vda"], "total", id="an error is news"),
        pytest.param([{**IDLE, "populated": None, "finished": False}], False, ["vda"], "total", id="unknown is, too"),
        pytest.param([{**IDLE, "populated": None}], False, [], "1 disk untouched", id="but not on its base"),
    ],
)
def test_rows_are_for_what_happened(disks: list[dict[str, Any]], shows_all: bool, shown: list[str], last: str) -> None:
    """Disks to which nothing was done are counted in one line, unless they are asked for."""
    lines = summary({"disks": [disk(**members) for members in disks], "released": []}, shows_all=shows_all)
    assert [line.split()[1] for line in lines if line.startswith("web01")] == shown
    assert lines[-1].startswith(last)


def test_a_plan() -> None:
    """Check mode: what would be done, in this order, the most that it copies, and the space that there is."""
    disks = [
        disk(populated=False, finished=False, order=2, released=[]),
        disk(label="vdb", populated=False, finished=False, action="joined", job={"percent": 41.5}, order=1),
        disk(label="vdc", **IDLE),
        disk(label="vdd", **{**IDLE, "error": "no room", "populated": False, "finished": False}, space=UNKNOWN),
    ]
    assert plan({"disks": disks, "released": []}) == [
        "VM     DISK     NOW            WOULD BE  ORDER  TO COPY     FREE",
        "web01  vda      not populated  started       2  320 MiB  640 MiB",
        "web01  vdb      41.5 %         joined        1  320 MiB  640 MiB",
        "web01  vdd      failed         none          -        -        -",
        "total  4 disks  1 finished                   2  640 MiB",
        "and 1 disk untouched, finished (-v shows each)",
    ]


UNKNOWN = {"needed": 320 * MIB, "free": None}


def test_no_disk_no_table() -> None:
    """Where nothing was selected nothing is told."""
    assert summary({"disks": [], "released": []}) == []


@pytest.mark.parametrize(
    ("verdict", "line"),
    [
        pytest.param(image(True), "/golden: free, no process of this host has it open", id="free"),
        pytest.param(image(False, reason="why"), "/golden: not free, why", id="not free"),
        pytest.param(image(None, reason="why"), "/golden: not known to be free, why", id="unknown"),
    ],
)
def test_an_old_image(verdict: dict[str, Any], line: str) -> None:
    """Each of the three verdicts is told as what it is."""
    assert summary({"disks": [disk()], "released": [verdict]})[3:] == [line]


@pytest.mark.parametrize(
    ("members", "now"),
    [
        pytest.param({}, "populated", id="populated"),
        pytest.param({"populated": False}, "on its base", id="finished, with a base"),
        pytest.param({"finished": False, "populated": False}, "not populated", id="no job"),
        pytest.param({"finished": False, "populated": False, "job": {"percent": 41.5}}, "41.5 %", id="a job"),
        pytest.param({"finished": False, "error": "why"}, "failed", id="failed"),
        pytest.param({"finished": False, "error": "why", "populated": None}, "unknown", id="unknown"),
        pytest.param({"finished": False, "populated": None}, "unknown", id="unknown, and no error"),
        pytest.param({"finished": True, "populated": None}, "on its base", id="all that was asked for is known"),
    ],
)
def test_how_a_disk_is_now(members: dict[str, Any], now: str) -> None:
    """A disk is called populated only where it is, and what went wrong comes first."""
    assert cell("NOW", **members) == now


@pytest.mark.parametrize(
    ("members", "grew_by", "time", "rate"),
    [
        pytest.param({}, "320 MiB", "0:00:05.0", "64.0 MiB/s", id="all is known"),
        pytest.param({"action": "none", "grew_by": 0, "seconds": 0.0}, "-", "-", "-", id="nothing took place"),
        pytest.param({"grew_by": 0, "seconds": 0.0}, "-", "-", "-", id="check mode"),
        pytest.param({"grew_by": None}, "-", "0:00:05.0", "-", id="the growth is not known"),
        pytest.param({"grew_by": 0}, "0 B", "0:00:05.0", "0 B/s", id="nothing was to be copied"),
        pytest.param({"grew_by": -2 * MIB}, "-2.0 MiB", "0:00:05.0", "-", id="the guest discarded more"),
        pytest.param({"seconds": 0.0}, "320 MiB", "-", "-", id="no time"),
        pytest.param({"seconds": 59.97}, "320 MiB", "0:01:00.0", "5.3 MiB/s", id="a minute, rounded"),
        pytest.param({"seconds": 36061.25}, "320 MiB", "10:01:01.2", "9.1 KiB/s", id="hours"),
    ],
)
def test_figures(members: dict[str, Any], grew_by: str, time: str, rate: str) -> None:
    """What is not known, or did not take place, is a dash."""
    assert [cell(title, **members) for title in ("GREW BY", "TIME", "RATE")] == [grew_by, time, rate]


def test_all_that_a_disk_gave_up() -> None:
    """Its images are told in one cell."""
    assert cell("RELEASED", released=[image(True, "/a"), image(False, "/b")]) == "/a, /b"


@pytest.mark.parametrize(
    ("disks", "released", "line"),
    [
        pytest.param([], [], [], id="no disk"),
        pytest.param([IDLE, IDLE], [], ["2 of 2 disks finished"], id="nothing to do"),
        pytest.param(
            [{}, {"grew_by": 40 * MIB}],
            [image(True), image(None, "/other")],
            ["2 of 2 disks finished, grew by 360 MiB, 1 of 2 old images free"],
            id="all done",
        ),
        pytest.param(
            [{}, {"finished": False, "error": "why", "grew_by": -MIB}, {**IDLE, "finished": False, "populated": False}],
            [image(True)],
            ["1 of 3 disks finished, 1 failed, grew by 319 MiB, 1 of 1 old image free"],
            id="one failed, one is left",
        ),
    ],
)
def test_in_brief(disks: list[dict[str, Any]], released: list[dict[str, Any]], line: list[str]) -> None:
    """One line, without what there is none of."""
    assert brief({"disks": [disk(**members) for members in disks], "released": released}) == line
