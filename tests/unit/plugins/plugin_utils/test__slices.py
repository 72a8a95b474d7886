# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from ansible_collections.virtops.qmp.plugins.plugin_utils._slices import (
    Slice,
    Watch,
    address_of,
    as_asked,
    bind,
    call_arguments,
    key_of,
    merge,
    next_cursor,
    next_slice,
    settle,
    still_watched,
    without_empty,
)

KEY = "/machine/peripheral/vda/virtio-backend"
RUNNING = {"status": "running", "paused": False, "io_status": "ok"}
PAUSED = {"status": "paused", "paused": True, "io_status": "ok"}
ON = Slice(10, "leave", is_last=False)
LAST = Slice(7, "fail", is_last=True)
FOREVER = Watch(10, None, "fail")
AN_HOUR = Watch(10, 3600, "fail")


def disk(name: str = "vda", vm: str = "web01", **members: Any) -> dict[str, Any]:
    """A disk as the module tells of it, while it is streamed."""
    return {
        "label": name,
        "key": f"/machine/peripheral/{name}/virtio-backend",
        "vm": vm,
        "monitor": f"/run/{vm}.qmp",
        "domain": None,
        "chain": [{"allocated": 1000}],
        "cursor": 512,
        "job": RUNNING,
        "action": "joined",
        "finished": False,
        "seconds": 10.5,
        "clock": 100.0,
        "grew_by": 100,
        "guest_latency": None,
        "released": [],
        "error": None,
        "error_kind": None,
        **members,
    }


def failure(msg: str = "bad", kind: str | None = "StreamFailed", **about: Any) -> dict[str, Any]:
    """An element of `errors`, which is about nothing in particular."""
    return {"kind": kind, "msg": msg, "vm": None, "disk": None, "monitor": None, "domain": None, "key": None, **about}


def told(*disks: dict[str, Any], errors: Sequence[dict[str, Any]] = (), **members: Any) -> dict[str, Any]:
    """What a slice tells; the pid of a VM is the length of its name."""
    names = dict.fromkeys(disk["vm"] for disk in disks)
    vms = [
        {"monitor": f"/run/{name}.qmp", "domain": None, "pid": len(name), "started": 7, "name": name} for name in names
    ]
    values = {"changed": True, "finished": False, "vms": vms, "disks": list(disks), "errors": list(errors)}
    return {**values, "warnings": [], **({"failed": True} if errors else {}), **members}


def test_what_is_given() -> None:
    """An empty string is no value, and 0 and false are."""
    assert without_empty({"a": "", "b": " ", "c": None, "d": 0, "e": False, "f": "x", "g": []}) == {
        "d": 0,
        "e": False,
        "f": "x",
        "g": [],
    }


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        pytest.param({}, FOREVER, id="nothing said"),
        pytest.param({"progress": "3", "wait": "yes"}, Watch(3, None, "fail"), id="words as Ansible takes them"),
        pytest.param({"wait_timeout": "60", "on_timeout": "stop"}, Watch(10, 60, "stop"), id="a wait with an end"),
        pytest.param({"wait_timeout": None, "progress": None, "state": None, "on_timeout": None}, FOREVER, id="null"),
        pytest.param({"wait_timeout": "", "progress": " ", "state": "", "wait": ""}, FOREVER, id="empty"),
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
        pytest.param(FOREVER, 86400.0, Slice(600, "leave", False), id="a day"),
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


@pytest.mark.parametrize(
    ("watch", "left", "expected"),
    [
        pytest.param(FOREVER, 100.0, Slice(10, "leave", False), id="not yet"),
        pytest.param(FOREVER, 10.0, Slice(11, "fail", True), id="the last"),
        pytest.param(FOREVER, 3.2, Slice(5, "fail", True), id="a little more, so that the clock ends it"),
        pytest.param(FOREVER, 0.0, Slice(1, "fail", True), id="though a slice took too long"),
        pytest.param(Watch(10, 5, "stop"), 3.0, Slice(5, "stop", True), id="the module takes the earlier of two"),
        pytest.param(AN_HOUR, 7200.0, Slice(10, "leave", False), id="the other end comes first"),
    ],
)
def test_an_end_by_the_clock(watch: Watch, left: float, expected: Slice) -> None:
    """The last slice is the one in which that time comes, by the clock of the hypervisor."""
    assert next_slice(watch, 0.0, left) == expected


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
    assert call_arguments(arguments, ON, None, None) == {**arguments, "wait_timeout": 10, "on_timeout": "leave"}


def test_the_end_by_the_clock_stays_what_it_was() -> None:
    """When it has come, the next such time would be tomorrow: later slices get the very time that the first found."""
    call = call_arguments({"until": "06:00"}, ON, {}, {"at": 1764345600, "left": 0.0})
    assert call["until"] == "@1764345600"


def felt(held_back: float, limit: int) -> dict[str, Any]:
    """What the module tells of a guest, as far as it matters here."""
    return {"now": 4.8, "held_back": held_back, "paced": {"limit": limit}}


@pytest.mark.parametrize(
    ("watched", "part", "paced"),
    [
        pytest.param([], ON, {"goes_on": True}, id="the first slice"),
        pytest.param([disk(), disk(guest_latency=felt(1.0, 7))], ON, {"limit": 7, "goes_on": True}, id="a later one"),
        pytest.param([disk(guest_latency=felt(1.0, 7))], LAST, {"limit": 7, "goes_on": False}, id="the last one"),
        pytest.param([disk()], LAST, {"goes_on": False}, id="no stream was followed yet"),
    ],
)
def test_a_slice_goes_on_at_the_pace_of_the_one_before(
    watched: Sequence[dict[str, Any]], part: Slice, paced: dict[str, Any]
) -> None:
    """Each knows how fast the streams were, and whether another one follows."""
    assert call_arguments({"guest_latency": "5ms"}, part, None, None, watched)["paced"] == paced
    assert "paced" not in call_arguments({}, part, None, None, watched)


@pytest.mark.parametrize(
    ("earlier", "later", "expected"),
    [
        pytest.param(felt(1.5, 7), felt(2.0, 8), felt(3.5, 8), id="both"),
        pytest.param(None, felt(2.0, 8), felt(2.0, 8), id="it had not begun"),
        pytest.param(felt(1.5, 7), None, felt(1.5, 7), id="it was through"),
        pytest.param(None, None, None, id="neither"),
    ],
)
def test_what_a_guest_felt_over_all_slices(earlier: Any, later: Any, expected: Any) -> None:
    """The time adds up, and of the rest the last slice tells."""
    first, second = told(disk(guest_latency=earlier)), told(disk(guest_latency=later))
    assert merge(first, second)["disks"][0]["guest_latency"] == expected


def test_later_slices_are_bound() -> None:
    """They name the watched disks by their keys, each of the very QEMU that was seen; the user's options stay."""
    watched = [disk("vda", ahead=4), disk("vdb", ahead=0), disk("vda", "database")]
    bound = bind(told(*watched, disk("vdc"), disk("vda", "db01"))["vms"], watched)
    assert bound == {
        "/run/web01.qmp": {
            "pid": 5,
            "started": 7,
            "name": "web01",
            "keys": ["/machine/peripheral/vda/virtio-backend", "/machine/peripheral/vdb/virtio-backend"],
            "ahead": {"/machine/peripheral/vda/virtio-backend": 4, "/machine/peripheral/vdb/virtio-backend": 0},
        },
        "/run/database.qmp": {
            "pid": 8,
            "started": 7,
            "name": "database",
            "keys": ["/machine/peripheral/vda/virtio-backend"],
            "ahead": {},
        },
        "/run/db01.qmp": {"pid": 4, "started": 7, "name": "db01", "keys": [], "ahead": {}},
    }
    arguments = {"monitor": "/run/*.qmp", "disk": "*", "speed": "1M"}
    assert call_arguments(arguments, ON, bound, None) == {
        **arguments,
        "bound": bound,
        "wait_timeout": 10,
        "on_timeout": "leave",
    }


@pytest.mark.parametrize(
    ("slice_", "expected"),
    [
        pytest.param(told(disk()), ["vda"], id="running"),
        pytest.param(told(disk(), disk("vdb", job=None, action="none")), ["vda", "vdb"], id="waits for its turn"),
        pytest.param(told(disk(), disk("vdb", job=None, finished=True)), ["vda"], id="finished"),
        pytest.param(told(disk(), disk("vdb", job=None, error="why"), errors=[failure()]), ["vda"], id="failed"),
        pytest.param(told(disk(job=None, action="stopped")), [], id="stopped at the end of its increment"),
        pytest.param(
            told(disk(action="none"), errors=[failure(kind="WrongRequest")]), [], id="refused, though one runs"
        ),
        pytest.param(told(disk(action="none"), errors=[failure()]), ["vda"], id="a monitor failed, another VM waits"),
        pytest.param(told(errors=[failure()]), [], id="no disk at all"),
    ],
)
def test_what_is_watched_further(slice_: dict[str, Any], expected: list[str]) -> None:
    """Neither what is through nor what failed is touched again, and a refusal ends all of it."""
    assert [each["label"] for each in still_watched(slice_)] == expected


def test_a_module_that_did_not_speak() -> None:
    """The module was killed: its failure stands, and there is nothing to go on with."""
    settled = settle({"failed": True, "msg": "MODULE FAILURE", "exception": "trace"}, None, ON)
    assert (settled["errors"], settled["exception"]) == ([failure("MODULE FAILURE", None)], "trace")
    assert still_watched(settled) == []
    assert settle({"failed": True}, None, ON)["errors"] == [failure("the module failed", None)]


def test_the_modules_copy_of_its_message_goes() -> None:
    """Ansible would show it in place of the message of the whole wait."""
    assert "exception" not in settle(told(disk(), errors=[failure()], exception="a copy"), None, ON)


GONE = failure(
    "web01: disk vdb is gone", "DiskGone", monitor="/run/web01.qmp", key="/machine/peripheral/vdb/virtio-backend"
)
SILENT = failure("/run/web01.qmp: no greeting", "MonitorSilent", monitor="/run/web01.qmp")


@pytest.mark.parametrize(
    ("slice_", "errors"),
    [
        pytest.param(told(disk("vda"), errors=[GONE]), [None, "DiskGone"], id="one disk is gone"),
        pytest.param(told(errors=[SILENT]), ["MonitorSilent", "MonitorSilent"], id="the VM does not answer"),
        pytest.param(told(disk("vda"), disk("vdb"), errors=[SILENT]), [None, None], id="both are told"),
        pytest.param(told(errors=[failure()]), [None, None], id="nothing is told of them"),
    ],
)
def test_a_disk_that_is_lost_has_failed(slice_: dict[str, Any], errors: list[str | None]) -> None:
    """Where a later slice tells nothing of a disk but why, that is the disk's error, and what was done stays told."""
    first = told(disk("vda", action="started"), disk("vdb", action="started"))
    second = settle(slice_, first["disks"], ON)
    disks = merge(first, second)["disks"]
    assert [each["error_kind"] for each in disks] == errors
    assert [each["action"] for each in disks] == ["started", "started"]
    lost = [each for each in disks if each["error"] is not None]
    assert [(each["job"], each["grew_by"], each["finished"]) for each in lost] == [(None, None, False)] * len(lost)
    assert [each["label"] for each in still_watched(second) if each["error"]] == []


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
    warnings = settle(told(now), before, part)["warnings"]
    assert [text.startswith("web01: disk vda: ") for text in warnings] == [True] * is_told


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
    settled = settle(told(disk(**members)), [disk()], part)
    assert ["paused" in error["msg"] for error in settled["errors"]] == [True] * messages
    assert [error["kind"] for error in settled["errors"]] == ["StreamFailed"] * messages
    assert bool(still_watched(settled)) is (not messages and members.get("error") is None)
    both = settle(told(disk(**members), errors=[failure("another disk")]), [disk()], part)
    assert len(both["errors"]) == 1 + messages


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
    """Every failure is told once, in order, and `finished` is false however the others ended."""
    first = told(disk("vda", job=None, error="bad"), disk("vdb"), errors=[failure("bad")])
    second = told(disk("vdb", job=None, finished=True), finished=True, failed=False)
    assert as_asked(merge(first, second), AN_HOUR)["failed"] is True
    third = told(disk("vdb", job=None, finished=True), errors=[failure("worse")])
    merged = as_asked(merge(merge(first, second), third), AN_HOUR)
    assert (merged["failed"], merged["finished"], merged["msg"]) == (True, False, "2 failures:\n- bad\n- worse")
    assert [error["msg"] for error in merged["errors"]] == ["bad", "worse"]
    assert as_asked(merge(first, first), AN_HOUR)["msg"] == "bad"


def test_one_slice_is_told_as_it_is() -> None:
    """No empty list of warnings is added to a result that has none, and nothing is invented."""
    result = told(disk(finished=True))
    assert as_asked(result, FOREVER) == {name: value for name, value in result.items() if name != "warnings"}
    assert as_asked({**result, "warnings": ["one"]}, FOREVER)["warnings"] == ["one"]


def gave_up(free: bool | None, **members: Any) -> dict[str, Any]:
    """A disk that gave up the golden image."""
    done = {"job": None, "finished": True}
    return disk(**{**done, "released": [{"path": "/golden", "free": free, "reason": None}], **members})


@pytest.mark.parametrize(
    ("first", "second", "free"),
    [
        pytest.param(told(gave_up(False)), told(gave_up(True, name="vdb")), True, id="the last one lets it go"),
        pytest.param(told(gave_up(True)), told(gave_up(False, name="vdb")), False, id="the last one does not"),
        pytest.param(told(gave_up(True)), told(disk("vdb")), True, id="it is not spoken of any more"),
        pytest.param(
            told(gave_up(False, finished=False, error="why"), errors=[failure()]),
            told(gave_up(True, name="vdb")),
            False,
            id="a disk that gave it up has failed",
        ),
        pytest.param(
            told(gave_up(False)),
            told(gave_up(True, name="vdb", finished=False)),
            False,
            id="the last one is not populated",
        ),
        pytest.param(
            told(disk("vda"), errors=[failure(kind="MonitorSilent", monitor="/run/db01.qmp")]),
            told(gave_up(True)),
            None,
            id="a VM did not answer the first slice",
        ),
    ],
)
def test_released_images_are_told_once(first: dict[str, Any], second: dict[str, Any], free: bool | None) -> None:
    """Over all slices an image is free only if every disk that gave it up and every VM allows it."""
    assert [image["free"] for image in merge(first, second)["released"]] == [free]


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
        told(disk(grew_by=each, chain=[{"allocated": size}], job=job, clock=clock))
        for each, size, clock in zip(growth, sizes, (100.0, 111.5), strict=True)
    )
    (merged,) = merge(first, second)["disks"]
    assert (merged["seconds"], merged["grew_by"], merged["clock"]) == (*expected, 111.5)


@pytest.mark.parametrize(
    ("clocks", "seconds", "clock"),
    [
        pytest.param((100.0, 110.5), 21.0, 110.5, id="one slice right after the other"),
        pytest.param((100.0, 710.5), 621.0, 710.5, id="the connection was held up for ten minutes"),
        pytest.param((100.0, 20.0), 21.0, 20.0, id="the hypervisor was started anew"),
        pytest.param((100.0, None), 21.0, 100.0, id="nobody waited for it any more"),
        pytest.param((None, 110.5), 21.0, 110.5, id="its turn came"),
    ],
)
def test_time_is_that_of_the_hypervisor(clocks: tuple[Any, Any], seconds: float, clock: float | None) -> None:
    """What a connection takes does not count, and what a stream did meanwhile does."""
    first, second = (told(disk(clock=each)) for each in clocks)
    (merged,) = merge(first, second)["disks"]
    assert (merged["seconds"], merged["clock"]) == (seconds, clock)


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


# -- libvirt's guests --------------------------------------------------------------------------------------------------


def of_domain(name: str = "web01", **members: Any) -> dict[str, Any]:
    """A disk of a guest of libvirt."""
    return disk(vm=name, monitor=None, domain=name, **members)


@pytest.mark.parametrize(
    ("about", "address"),
    [
        pytest.param({"monitor": "/run/a.qmp", "domain": None}, "/run/a.qmp", id="a monitor"),
        pytest.param({"monitor": None, "domain": "web01"}, "web01", id="a domain"),
        pytest.param({"monitor": None, "domain": None}, "", id="neither: libvirt itself, or all"),
    ],
)
def test_address_of(about: dict[str, Any], address: str) -> None:
    """Whatever is told is of a monitor, of a domain, or of none of them."""
    assert address_of(about) == address


def test_later_slices_of_domains_are_bound() -> None:
    """Disks of domains are told apart, and bound, by the domain."""
    watched = [of_domain(), of_domain("web02")]
    vms = [{"monitor": None, "domain": name, "pid": 5, "started": 7, "name": name} for name in ("web01", "web02")]
    bound = bind(vms, watched)
    process = {"pid": 5, "started": 7}
    assert bound == {name: {**process, "name": name, "keys": [KEY], "ahead": {}} for name in ("web01", "web02")}
    assert [key_of(each) for each in watched] == [("web01", KEY), ("web02", KEY)]


def test_a_domain_that_is_lost() -> None:
    """What is said of one domain is not said of another."""
    lost = failure("gone", "MonitorLost", domain="web02")
    watched = [of_domain(), of_domain("web02"), of_domain("web03")]
    settled = settle(told(of_domain(), errors=[lost]), watched, ON)
    assert [(each["domain"], each.get("error")) for each in settled["disks"]] == [("web01", None), ("web02", "gone")]
