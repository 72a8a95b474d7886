# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.virtops.qmp.plugins.action.block_stream import ActionModule

GIB = 1024**3


def disk(copied: int, **members: Any) -> dict[str, Any]:
    """The disk of a VM after so many GiB of 30."""
    return {
        "label": "vda",
        "key": "/machine/peripheral/vda/virtio-backend",
        "vm": "web01",
        "monitor": "/run/web01.qmp",
        "domain": None,
        "cursor": copied * GIB,
        "chain": [{"allocated": copied * GIB}],
        "space": {"needed": 30 * GIB, "free": 99 * GIB},
        "job": {
            "percent": copied / 0.3,
            "cur": copied * GIB,
            "end": 30 * GIB,
            "speed": 0,
            "paused": False,
            "io_status": "ok",
        },
        "action": "started",
        "populated": False,
        "finished": False,
        "seconds": 10.0,
        "clock": float(copied),
        "order": 1,
        "grew_by": 10 * GIB,
        "guest_latency": None,
        "released": [],
        "error": None,
        "error_kind": None,
        **members,
    }


def told(*disks: dict[str, Any]) -> dict[str, Any]:
    vms = [{"monitor": "/run/web01.qmp", "domain": None, "name": "web01", "pid": 812, "started": 7}]
    finished = all(each["finished"] for each in disks)
    return {"changed": True, "finished": finished, "vms": vms, "disks": list(disks), "released": [], "errors": []}


DONE = told(disk(30, job=None, populated=True, finished=True))


class FakeAction(ActionModule):
    """The action over a module that gives the answers it was told; a slice takes the time it may take."""

    def __init__(self, *answers: dict[str, Any], **task: Any) -> None:
        values = {"args": {"monitor": "/run/web01.qmp", "disk": "vda"}, "async_val": 0, "check_mode": False}
        self._task = SimpleNamespace(**{**values, "no_log": False, **task})
        self._connection = SimpleNamespace(_shell=SimpleNamespace(tmpdir="/tmp/x"), has_native_async=False)
        self._display = SimpleNamespace(display=self._show, verbosity=0)
        self._answers = iter(answers)
        self._clock = 0.0
        self._now = lambda: self._clock
        self._parent = lambda: self.controller
        self.controller = 7
        self.lines: list[str] = []
        self.calls: list[dict[str, Any]] = []

    def _show(self, lines: str, *, stderr: bool) -> None:
        assert stderr, "on stdout only the callback prints"
        self.lines.append(lines)

    def _execute_module(self, **arguments: Any) -> dict[str, Any]:
        self.calls.append(arguments)
        self._clock += arguments.get("module_args", {}).get("wait_timeout", 0)
        return next(self._answers)


TASK_VARS = {"inventory_hostname": "hv1"}


SUMMARY = [
    "VM     DISK    ACTION   NOW          GREW BY       TIME       RATE  RELEASED",
    "web01  vda     started  populated   10.0 GiB  0:00:10.0  1.0 GiB/s  -",
    "total  1 disk           1 finished  10.0 GiB  0:00:10.0  1.0 GiB/s",
]


def test_a_short_stream_is_one_run() -> None:
    """A stream that ends within the first slice costs one run of the module; what was done is printed in one piece."""
    action = FakeAction(DONE)
    assert action.run(task_vars=TASK_VARS) == {**DONE, "summary": SUMMARY}
    assert (len(action.calls), action.lines) == (1, ["\n".join(["hv1:", *SUMMARY])])


@pytest.mark.parametrize(
    ("hosts", "verbosity", "check_mode", "is_brief"),
    [
        pytest.param(10, 0, False, False, id="few hosts"),
        pytest.param(11, 0, False, True, id="many"),
        pytest.param(11, 1, False, False, id="many, and -v"),
        pytest.param(11, 0, True, False, id="many, and check mode"),
    ],
)
def test_one_of_many_hosts_has_a_line(hosts: int, verbosity: int, check_mode: bool, is_brief: bool) -> None:
    """A thousand tables are read by nobody; the result has the table all the same."""
    action = FakeAction(DONE, check_mode=check_mode)
    action._display.verbosity = verbosity
    result = action.run(task_vars={**TASK_VARS, "ansible_play_hosts_all": [f"hv{place}" for place in range(hosts)]})
    assert (action.lines == ["hv1: 1 of 1 disk finished, grew by 10.0 GiB"]) is is_brief
    assert len(result["summary"]) > 1


def test_a_long_stream_is_watched() -> None:
    """Between two slices a line goes to stderr; the result is that of all slices together."""
    action = FakeAction(told(disk(10)), told(disk(20, action="joined")), DONE)
    result = action.run(task_vars=TASK_VARS)
    assert action.lines[:-1] == [
        "hv1 web01 vda  33%  10.0 of 30.0 GiB  1.0 GiB/s  0:00:20 left",
        "hv1 web01 vda  66%  20.0 of 30.0 GiB  1.0 GiB/s  0:00:10 left",
    ]
    assert (result["finished"], result["disks"][0]["action"]) == (True, "started")
    assert [call["module_args"]["on_timeout"] for call in action.calls] == ["leave"] * 3
    assert "bound" not in action.calls[0]["module_args"]
    keys = ["/machine/peripheral/vda/virtio-backend"]
    bound = {"/run/web01.qmp": {"pid": 812, "started": 7, "name": "web01", "keys": keys, "ahead": {}}}
    assert [call["module_args"]["bound"] for call in action.calls[1:]] == [bound] * 2


def test_the_end_of_the_wait_is_the_users() -> None:
    """The last slice waits for what remains, and does what the user wants at the end."""
    args = {"monitor": "/run/web01.qmp", "disk": "vda", "wait_timeout": 25, "on_timeout": "stop"}
    action = FakeAction(*[told(disk(number)) for number in range(3)], args=args)
    assert action.run()["finished"] is False
    waits = [(call["module_args"]["wait_timeout"], call["module_args"]["on_timeout"]) for call in action.calls]
    assert waits == [(10, "leave"), (10, "leave"), (5, "stop")]
    assert action.lines[0].startswith("localhost web01 vda")


def test_the_end_by_the_clock_is_the_hypervisors() -> None:
    """Later slices get the time that the first has found, and the one in which it comes does what the user wants."""
    args = {"monitor": "/run/web01.qmp", "disk": "vda", "until": "06:00", "on_timeout": "stop"}
    ends = [{"at": 1764345600, "left": left} for left in (25.0, 9.5, 0.0)]
    action = FakeAction(*[{**told(disk(number)), "deadline": end} for number, end in enumerate(ends)], args=args)
    assert action.run()["finished"] is False
    calls = [call["module_args"] for call in action.calls]
    assert [(call["wait_timeout"], call["on_timeout"]) for call in calls] == [
        (10, "leave"),
        (10, "leave"),
        (11, "stop"),
    ]
    assert [call["until"] for call in calls] == ["06:00", "@1764345600", "@1764345600"]


def test_a_secret_task_prints_nothing() -> None:
    """`no_log` hides the names of VMs and disks, too."""
    action = FakeAction(told(disk(10)), DONE, no_log=True)
    assert action.run(task_vars=TASK_VARS)["summary"]
    assert (len(action.calls), action.lines) == (2, [])


def test_what_nothing_was_done_to_is_printed_on_demand() -> None:
    """A disk that needed nothing is counted in a line; with -v it has a row."""
    idle = disk(30, job=None, populated=True, finished=True, action="none", seconds=0.0, clock=None, grew_by=0)
    action = FakeAction(told(idle))
    action.run(task_vars=TASK_VARS)
    assert action.lines == ["hv1: 1 disk untouched, finished (-v shows each)"]
    action = FakeAction(told(idle))
    action._display.verbosity = 1
    action.run(task_vars=TASK_VARS)
    assert len(action.lines[0].splitlines()) == 4


def test_check_mode_prints_the_plan() -> None:
    """It tells what would be done, and how much that may copy."""
    action = FakeAction(told(disk(0, job=None, seconds=0.0, clock=None)), check_mode=True)
    assert action.run(task_vars=TASK_VARS)["summary"] == [
        "VM     DISK    NOW            WOULD BE  ORDER   TO COPY      FREE",
        "web01  vda     not populated  started       1  30.0 GiB  99.0 GiB",
        "total  1 disk  0 finished                   1  30.0 GiB",
    ]


@pytest.mark.parametrize(
    ("task", "wraps"),
    [
        pytest.param({"async_val": 60}, True, id="async"),
        pytest.param({"check_mode": True}, 0, id="check"),
        pytest.param({"args": {"disk": "vda", "wait": False}}, 0, id="no wait"),
    ],
)
def test_one_run_with_the_whole_wait(task: dict[str, Any], wraps: object) -> None:
    """Where nothing is watched the module runs once, with the options as they are."""
    action = FakeAction(told(disk(10)), **task)
    result = action.run(task_vars=TASK_VARS)
    assert (len(result.pop("summary")), result) == (3, told(disk(10)))
    assert action.calls == [{"module_args": action._task.args, "task_vars": TASK_VARS, "wrap_async": wraps}]


def test_empty_options_are_left_out() -> None:
    """What a survey left empty, a number too, does not get to the module."""
    args = {"disk": "vda", "wait_timeout": "", "increment": "", "wait": False, "speed": " "}
    action = FakeAction(told(disk(10)), args=args)
    action.run(task_vars=TASK_VARS)
    assert [call["module_args"] for call in action.calls] == [{"disk": "vda", "wait": False}]


@pytest.fixture
def fresh_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every task has a process of its own."""
    monkeypatch.setattr(ActionModule, "_cursors", {})


@pytest.mark.usefixtures("fresh_process")
@pytest.mark.parametrize(
    ("options", "cursors"),
    [
        pytest.param({}, [0, 10 * GIB, 20 * GIB], id="each where the one before stopped"),
        pytest.param({"cursor": 5}, [5, 5, 5], id="a cursor that is given holds"),
    ],
)
def test_the_attempts_of_a_loop_go_on(options: dict[str, Any], cursors: list[int]) -> None:
    """Each attempt of an `until` loop begins its increment where the one before ended, whatever object it has."""
    args = {"monitor": "/run/web01.qmp", "disk": "vda", "increment": "10G", **options}
    attempts = [FakeAction(told(disk(copied, action="stopped")), args=args) for copied in (10, 20, 30)]
    for attempt in attempts:
        attempt.run()
    assert [attempt.calls[0]["module_args"]["cursor"] for attempt in attempts] == cursors


@pytest.mark.usefixtures("fresh_process")
def test_the_items_of_a_loop_are_apart() -> None:
    """Another disk begins at its own beginning, and a task without an increment knows no cursor."""
    args = {"monitor": "/run/web01.qmp", "disk": "vda", "increment": "10G"}
    FakeAction(told(disk(10, action="stopped")), args=args).run()
    other = FakeAction(told(disk(10, action="stopped")), args={**args, "disk": "vdb"})
    other.run()
    assert other.calls[0]["module_args"]["cursor"] == 0
    whole = FakeAction(DONE)
    whole.run()
    assert "cursor" not in whole.calls[0]["module_args"]


def test_an_orphan_watches_no_further() -> None:
    """A worker whose controller was killed leaves the monitor to the next run, and the job to QEMU."""

    class Orphaned(FakeAction):
        def _execute_module(self, **arguments: Any) -> dict[str, Any]:
            self.controller = 1
            return super()._execute_module(**arguments)

    action = Orphaned(told(disk(10)))
    assert action.run()["finished"] is False
    assert (len(action.calls), action.lines) == (1, [])


def test_a_task_that_only_starts_tells_nothing_yet() -> None:
    """Under `async` there is no disk to make a table of."""
    started = {"started": 1, "finished": 0, "ansible_job_id": "j1.2"}
    assert FakeAction(started, async_val=60).run() == started


@pytest.mark.parametrize(
    ("task", "summary"),
    [
        pytest.param({}, [], id="watched"),
        pytest.param({"args": {"disk": "vda", "wait": False}}, None, id="one run"),
    ],
)
def test_a_module_that_was_refused_has_errors(task: dict[str, Any], summary: list[str] | None) -> None:
    """Whoever reads `errors` finds every failure there, also that of a module that never came to speak."""
    result = FakeAction({"failed": True, "msg": "Unsupported parameters"}, **task).run()
    assert [(error["kind"], error["msg"]) for error in result["errors"]] == [(None, "Unsupported parameters")]
    assert (result["failed"], result.get("summary")) == (True, summary)
