# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.virtops.qmp.plugins.plugin_utils._slices import (
    Slice,
    Watch,
    as_asked,
    call_arguments,
    merge,
    next_cursor,
    next_slice,
    settle,
    still_watched,
)

RUNNING = {"status": "running", "paused": False, "io_status": "ok"}
PAUSED = {"status": "paused", "paused": True, "io_status": "ok"}
ON = Slice(10, "leave", is_last=False)
LAST = Slice(7, "fail", is_last=True)
FOREVER = Watch(10, None, "fail")
AN_HOUR = Watch(10, 3600, "fail")


def disk(name: str = "vda", vm: str = "web01", **members: Any) -> dict[str, Any]:
    """A disk as the module tells of it, while it is streamed."""
    return {
        "vm": vm,
        "monitor": f"/run/{vm}.qmp",
        "qdev": f"/machine/peripheral/{name}/virtio-backend",
        "device": "",
        "node_name": "node",
        "path": f"/vms/{vm}-{name}.qcow2",
        "names": [name, members.get("path", f"/vms/{vm}-{name}.qcow2")],
        "chain": [{"allocated": 1000}],
        "cursor": 512,
        "job": RUNNING,
        "action": "joined",
        "finished": False,
        "seconds": 10.5,
        "grew_by": 100,
        "released": [],
        "error": None,
        **members,
    }


def told(*disks: dict[str, Any], **members: Any) -> dict[str, Any]:
    return {"changed": True, "finished": False, "disks": list(disks), "warnings": [], **members}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        pytest.param({}, FOREVER, id="nothing said"),
        pytest.param({"progress": "3", "wait": "yes"}, Watch(3, None, "fail"), id="words as Ansible takes them"),
        pytest.param({"wait_timeout": "60", "on_timeout": "stop"}, Watch(10, 60, "stop"), id="a wait with an end"),
        pytest.param({"wait_timeout": None, "progress": None, "state": None, "on_timeout": None}, FOREVER, id="null"),
        pytest.param({"progress": 0}, None, id="no lines wanted"),
        pytest.param({"progress": -1}, None, id="an error for the module to tell: below 0"),
        pytest.param({"progress": "often"}, None, id="an error for the module to tell: no number"),
        pytest.param({"wait_timeout": "long"}, None, id="an error for the module to tell: no number of seconds"),
        pytest.param({"wait": "perhaps"}, None, id="an error for the module to tell: no bool"),
        pytest.param({"on_timeout": "explode"}, None, id="an error for the module to tell: no choice"),
        pytest.param({"wait_timeout": 10}, None, id="a wait of one slice"),
        pytest.param({"wait_timeout": -5}, None, id="a negative wait"),
        pytest.param({"wait": False}, None, id="no wait"),
        pytest.param({"state": "paused"}, None, id="nothing to wait for"),
    ],
)
def test_what_is_watched(options: dict[str, Any], expected: Watch | None) -> None:
    """A task is watched in slices only where it waits for a stream, and where its options can be right."""
    assert Watch.from_arguments({"monitor": "/run/web01.qmp", "disk": "vda", **options}) == expected


@pytest.mark.parametrize(
    ("watch", "age", "expected"),
    [
        pytest.param(FOREVER, 0.0, Slice(10, "leave", False), id="the first"),
        pytest.param(FOREVER, 99.0, Slice(10, "leave", False), id="young"),
        pytest.param(FOREVER, 605.0, Slice(60, "leave", False), id="ten minutes"),
        pytest.param(FOREVER, 86400.0, Slice(300, "leave", False), id="a day"),
        pytest.param(Watch(900, None, "fail"), 86400.0, Slice(900, "leave", False), id="fewer lines are wanted"),
        pytest.param(AN_HOUR, 0.0, Slice(10, "leave", False), id="a long wait begins"),
        pytest.param(AN_HOUR, 3000.0, Slice(300, "leave", False), id="goes on"),
        pytest.param(AN_HOUR, 3300.0, Slice(300, "fail", True), id="ends with what the user wants"),
        pytest.param(AN_HOUR, 3599.4, Slice(1, "fail", True), id="to the second"),
        pytest.param(AN_HOUR, 3601.0, Slice(0, "fail", True), id="though a slice took too long"),
        pytest.param(Watch(10, 60, "stop"), 55.0, Slice(5, "stop", True), id="a maintenance window"),
    ],
)
def test_slices_grow_and_end_in_time(watch: Watch, age: float, expected: Slice) -> None:
    """A slice is a tenth of the age, and the last one gets what remains of the user's wait."""
    assert next_slice(watch, age) == expected


def test_a_day_is_cheap() -> None:
    """Watching a day takes a few hundred runs of the module."""
    age, runs = 0.0, 0
    while age < 86400:
        age += next_slice(FOREVER, age).wait_timeout
        runs += 1
    assert runs < 340


def test_the_first_slice_is_called_as_the_user_wrote_it() -> None:
    """Only the waiting is changed."""
    arguments = {"monitor": "/run/*.qmp", "disk": "*", "speed": "1M", "wait_timeout": 3600}
    assert call_arguments(arguments, ON, None) == {**arguments, "wait_timeout": 10, "on_timeout": "leave"}


def test_later_slices_name_the_disks_that_are_watched() -> None:
    """Each by a name that no other disk of any VM has, through its own monitor, each monitor once."""
    watched = [
        disk("vda"),
        disk("vdb"),
        disk("vda", "db01"),
        disk("vdc", "db01", path="vdc.qcow2"),
        disk("", "db01", path="nbd://host/x", qdev="", device="drive0"),
        disk("", "db01", path="json:{}", qdev="", device=""),
    ]
    call = call_arguments({"monitor": "/run/*.qmp", "disk": "*", "speed": "1M"}, ON, watched)
    assert call == {
        "monitors": ["/run/web01.qmp", "/run/db01.qmp"],
        "disks": [
            "/vms/web01-vda.qcow2",
            "/vms/web01-vdb.qcow2",
            "/vms/db01-vda.qcow2",
            "/machine/peripheral/vdc/virtio-backend",
            "drive0",
            "node",
        ],
        "speed": "1M",
        "wait_timeout": 10,
        "on_timeout": "leave",
    }


@pytest.mark.parametrize(
    ("slice_", "expected"),
    [
        pytest.param(told(disk()), ["vda"], id="running"),
        pytest.param(told(disk(), disk("vdb", job=None, action="none")), ["vda", "vdb"], id="waits for its turn"),
        pytest.param(told(disk(), disk("vdb", job=None, finished=True)), ["vda"], id="finished"),
        pytest.param(told(disk(), disk("vdb", job=None, error="why"), failed=True), ["vda"], id="failed"),
        pytest.param(told(disk(job=None, action="stopped")), [], id="stopped at the end of its increment"),
        pytest.param(told(disk(action="none"), failed=True), [], id="refused, though a stream runs"),
        pytest.param(told(disk(), failed=True), ["vda"], id="a monitor failed, another VM goes on"),
        pytest.param(told(failed=True), [], id="no disk at all"),
    ],
)
def test_what_is_watched_further(slice_: dict[str, Any], expected: list[str]) -> None:
    """Neither what is through nor what failed is touched again, and a refusal ends all of it."""
    assert [each["qdev"].split("/")[3] for each in still_watched(slice_)] == expected


def test_a_module_that_did_not_speak() -> None:
    """The module was killed: its failure stands, and there is nothing to go on with."""
    settled = settle({"failed": True, "msg": "MODULE FAILURE", "exception": "trace"}, None, ON, FOREVER)
    assert (settled["msg"], settled["exception"], still_watched(settled)) == ("MODULE FAILURE", "trace", [])


def test_a_time_out_is_told_in_the_words_of_the_task() -> None:
    """The user's own wait_timeout is named, not what the last slice had left of it."""
    said = "web01: disk vda: not populated within 7 s (wait_timeout). The job goes on"
    settled = settle(told(disk(error=said), failed=True, msg=said, exception="a copy"), [disk()], LAST, AN_HOUR)
    whole = said.replace("7 s", "3600 s")
    assert (settled["msg"], settled["disks"][0]["error"], "exception" in settled) == (whole, whole, False)


@pytest.mark.parametrize(
    ("before", "now", "part", "is_told"),
    [
        pytest.param(None, disk(action="started"), ON, False, id="the first slice"),
        pytest.param([disk()], disk(action="started"), ON, True, id="it ran before"),
        pytest.param([disk()], disk(action="resumed"), ON, True, id="it was paused meanwhile"),
        pytest.param(None, disk(action="resumed"), ON, False, id="it was paused before the task"),
        pytest.param([disk(job=None)], disk(action="started"), ON, False, id="its turn came"),
        pytest.param([disk()], disk(), ON, False, id="it runs on"),
    ],
)
def test_what_somebody_else_did_meanwhile_is_told(
    before: list[dict[str, Any]] | None, now: dict[str, Any], part: Slice, is_told: bool
) -> None:
    """A stream that was gone or held between two slices does not go on in silence."""
    warnings = settle(told(now), before, part, FOREVER)["warnings"]
    assert [("/vms/web01-vda.qcow2" in text) for text in warnings] == [True] * is_told


@pytest.mark.parametrize(
    ("members", "part", "messages"),
    [
        pytest.param({"job": PAUSED}, ON, 1, id="paused"),
        pytest.param({"job": PAUSED}, LAST, 0, id="at the end of the wait the module decides"),
        pytest.param({"job": {**PAUSED, "io_status": "failed"}, "error": "held"}, ON, 0, id="held by an error"),
        pytest.param({"job": None}, ON, 0, id="no job"),
        pytest.param({}, ON, 0, id="running"),
    ],
)
def test_a_pause_by_somebody_else_is_respected(members: dict[str, Any], part: Slice, messages: int) -> None:
    """The next slice would resume the stream, so there is none for this disk, and the task says why."""
    settled = settle(told(disk(**members)), [disk()], part, AN_HOUR)
    assert settled.get("failed", False) is bool(messages)
    assert settled.get("msg", "").count("paused") == messages
    assert bool(still_watched(settled)) is (not messages and members.get("error") is None)
    both = settle(told(disk(**members), failed=True, msg="another disk"), [disk()], part, AN_HOUR)
    assert len(both["msg"].splitlines()) == 1 + messages


def test_slices_make_one_result() -> None:
    """Changed by any, the weightiest action, the first `before`, the last `after`, all that was released and said."""
    free = {"path": "/golden", "free": True}
    first = told(
        disk("vda", action="started"),
        disk("vdb", job=None, finished=True, action="started", released=[{"path": "/golden", "free": False}]),
        diff={"before": {"a": [1, 2], "b": [1, 2]}, "after": {"a": [1, 2], "b": [1]}},
        warnings=["one", "two"],
        invocation={"module_args": {"disks": ["*"]}},
    )
    second = told(
        disk("vda", job=None, finished=True, released=[free]),
        changed=False,
        diff={"before": {"a": [1, 2]}, "after": {"a": [1]}},
        warnings=["two", "three"],
        invocation={"module_args": {"disks": ["/vms/web01-vda.qcow2"]}},
    )
    merged = as_asked(merge(first, second), AN_HOUR)
    assert (merged["changed"], merged["finished"], merged["warnings"]) == (True, True, ["one", "two", "three"])
    assert [(each["action"], each["finished"], each["released"]) for each in merged["disks"]] == [
        ("started", True, [free]),
        ("started", True, [free]),
    ]
    assert merged["diff"] == {"before": {"a": [1, 2], "b": [1, 2]}, "after": {"a": [1], "b": [1]}}
    assert merged["invocation"]["module_args"] == {"disks": ["*"], "wait_timeout": 3600, "on_timeout": "fail"}


def test_a_failure_of_any_slice_fails_the_task_once() -> None:
    """Every message is told once, in order, and `finished` is false however the others ended."""
    first = told(disk("vda", job=None, error="bad"), disk("vdb"), failed=True, msg="bad")
    second = told(disk("vdb", job=None, finished=True), finished=True, failed=False)
    assert merge(first, second)["failed"] is True
    third = told(disk("vdb", job=None, finished=True), failed=True, msg="worse")
    merged = merge(merge(first, second), third)
    assert (merged["failed"], merged["finished"], merged["msg"]) == (True, False, "bad\nworse")
    assert merge(first, first)["msg"] == "bad"


def test_one_slice_is_told_as_it_is() -> None:
    """No empty list of warnings is added to a result that has none, and nothing is invented."""
    result = told(disk(finished=True))
    assert as_asked(result, FOREVER) == {name: value for name, value in result.items() if name != "warnings"}
    assert as_asked({**result, "warnings": ["one"]}, FOREVER)["warnings"] == ["one"]


@pytest.mark.parametrize(
    ("growth", "sizes", "job", "expected"),
    [
        pytest.param((100, 50), (1000, 1070), RUNNING, (22.0, 170), id="it ran on between the two"),
        pytest.param((100, 50), (1000, 1070), None, (21.0, 150), id="nothing ran between the two"),
        pytest.param((100, None), (1000, None), RUNNING, (22.0, None), id="not known any more"),
        pytest.param((None, None), (None, None), RUNNING, (22.0, None), id="never known"),
    ],
)
def test_slices_add_up(growth: tuple[Any, Any], sizes: tuple[Any, Any], job: Any, expected: tuple[float, Any]) -> None:
    """Time and growth are those of all slices, and of the gaps in which a stream ran on."""
    first, second = (
        told(disk(grew_by=each, chain=[{"allocated": size}], job=job)) for each, size in zip(growth, sizes, strict=True)
    )
    (merged,) = merge(first, second, gap=1.0)["disks"]
    assert (merged["seconds"], merged["grew_by"]) == expected


@pytest.mark.parametrize(
    ("disks", "cursor"),
    [
        pytest.param([disk(cursor=7), disk("vdb", cursor=5)], 5, id="the first of them"),
        pytest.param([disk(cursor=7), disk("vdb", cursor=5, finished=True)], 7, id="finished ones do not count"),
        pytest.param([disk(finished=True)], 0, id="all are finished"),
        pytest.param([], 0, id="no disk"),
    ],
)
def test_the_next_attempt_goes_on(disks: list[dict[str, Any]], cursor: int) -> None:
    """An `until` loop begins its next increment where the one before ended."""
    assert next_cursor(told(*disks)) == cursor
    assert next_cursor({}) == 0
