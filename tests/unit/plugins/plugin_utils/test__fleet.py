# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.virtops.qmp.plugins.plugin_utils._fleet import HostSoFar, fleet

MIB = 1024 * 1024
IMAGE = {"path": "/golden", "free": True}


def disk(label: str = "vda", **members: Any) -> dict[str, Any]:
    known = {"populated": True, "finished": True, "error": None, "grew_by": MIB}
    return {"monitor": "/vm.qmp", "domain": None, "key": label, **known, **members}


FAILED: dict[str, Any] = {"populated": False, "finished": False, "error": "vm: disk vda: no space"}
OPEN: dict[str, Any] = {"populated": False, "finished": False}
UNKNOWN: dict[str, Any] = {"populated": None, "finished": False}


def result(*disks: dict[str, Any], errors: tuple[str, ...] = (), released: tuple[Any, ...] = ()) -> dict[str, Any]:
    return {"disks": disks, "errors": [{"msg": message} for message in errors], "released": released}


def host(*results: dict[str, Any]) -> HostSoFar:
    """A host with tasks one after the other."""
    told = HostSoFar()
    for place, each in enumerate(results):
        told.hear(each, str(place))
    return told


def cells(told: HostSoFar) -> list[str]:
    """The row of a host, title by title."""
    head, row, *_rest = fleet({"hv": told}, shows_all=True)
    ends = [head.index(title) + len(title) for title in ("DISKS", "FINISHED", "FAILED", "UNKNOWN", "OPEN", "GREW BY")]
    return [row[:end].split("  ")[-1].strip() for end in ends]


def test_a_fleet() -> None:
    """Who failed comes first, then what is not known, then what is open; the rest is counted."""
    hosts = {
        "hv01": host(result(disk(), released=(IMAGE,))),
        "hv02": host(result(disk(), disk("vdb", **OPEN))),
        "hv03": host(result(disk(**UNKNOWN))),
        "hv04": host(result(disk(**FAILED), errors=("vm: disk vda: no space\nmore of it", "other"))),
    }
    assert fleet(hosts) == [
        "HOST   DISKS  FINISHED  FAILED  UNKNOWN  OPEN  GREW BY  IMAGES FREE  LOOK AT",
        "hv04       1         0       1        0     0  1.0 MiB            0  vm: disk vda: no space (and 1 more)",
        "hv03       1         0       0        1     0  1.0 MiB            0",
        "hv02       2         1       0        0     1  2.0 MiB            0",
        "total      5         2       1        1     1  5.0 MiB            1  4 hosts",
        "and 1 host with all finished (-v shows each)",
    ]


def test_no_host_no_table() -> None:
    """Nothing is told of nobody."""
    assert fleet({}) == []


def test_all_is_well() -> None:
    """Then the total is all there is to read."""
    assert fleet({"hv01": host(result(disk()))}) == [
        "HOST   DISKS  FINISHED  FAILED  UNKNOWN  OPEN  GREW BY  IMAGES FREE  LOOK AT",
        "total      1         1       0        0     0  1.0 MiB            0  1 host",
        "and 1 host with all finished (-v shows each)",
    ]


@pytest.mark.parametrize(
    ("shows_all", "rows", "last"), [(False, 20, "and 5 hosts more to look at"), (True, 25, "total")]
)
def test_many_to_look_at(shows_all: bool, rows: int, last: str) -> None:
    """A hundred that failed do not hide the table."""
    hosts = {f"hv{place:02}": host(result(disk(**OPEN))) for place in range(25)}
    lines = fleet(hosts, shows_all=shows_all)
    assert sum(line.startswith("hv") for line in lines) == rows
    assert lines[-1].startswith(last)


@pytest.mark.parametrize(
    ("results", "row"),
    [
        pytest.param([result()], ["0", "0", "0", "0", "0", "0 B"], id="no disk"),
        pytest.param(
            [result(disk(**OPEN)), result(disk())], ["1", "1", "0", "0", "0", "2.0 MiB"], id="done by the second"
        ),
        pytest.param(
            [result(disk()), result(disk(**UNKNOWN))], ["1", "0", "0", "1", "0", "2.0 MiB"], id="no more known"
        ),
        pytest.param([result(disk(grew_by=None))], ["1", "1", "0", "0", "0", "0 B"], id="growth is not known"),
        pytest.param([result(disk(grew_by=-5))], ["1", "1", "0", "0", "0", "0 B"], id="it shrank"),
        pytest.param([{"errors": []}], ["0", "0", "0", "0", "0", "0 B"], id="no disks in the result"),
    ],
)
def test_a_host(results: list[dict[str, Any]], row: list[str]) -> None:
    """The last word on a disk counts, and what all tasks copied is added up."""
    assert cells(host(*results)) == row


def test_an_image_is_free_by_the_last_word() -> None:
    """What is not known to be free is not counted."""
    freed = fleet({"hv": host(result(released=(IMAGE,)), result(released=({**IMAGE, "free": None},)))}, shows_all=True)
    assert freed[1].split()[-1] == "0"


def test_what_is_wrong() -> None:
    """The errors of the last task, with all items of a loop; else those that disks were left with; each once."""
    told = host(result(disk(**FAILED), errors=("first",)))
    told.hear(result(disk("vdb"), errors=("second",)), "0")
    assert told.complaints == ["first", "second"]
    told.fail("Fail if anything went wrong: first, second")
    assert told.complaints == ["first", "second"]
    told.hear(result(disk("vdc")), "later")
    assert told.complaints == ["vm: disk vda: no space"]
    gone = HostSoFar()
    gone.fail("unreachable: " + 200 * "x")
    assert fleet({"hv": gone})[1].endswith("x" * 87 + "...")
