# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, Callable, Sequence  # noqa: UP035  # Python 3.8

import pytest
from ansible_collections.virtops.qmp.plugins.module_utils._decide._latency import boundaries_for
from ansible_collections.virtops.qmp.plugins.module_utils._decide._outcome import Outcome
from ansible_collections.virtops.qmp.plugins.module_utils._decide._pace import START
from ansible_collections.virtops.qmp.plugins.module_utils._decide._select import select
from ansible_collections.virtops.qmp.plugins.module_utils._model._latency import Paced
from ansible_collections.virtops.qmp.plugins.module_utils._model._request import Request, Selection
from ansible_collections.virtops.qmp.plugins.module_utils._run._fleet import reconcile_all
from ansible_collections.virtops.qmp.plugins.module_utils._run._links import Links
from ansible_collections.virtops.qmp.plugins.module_utils._run._observe import observe
from ansible_collections.virtops.qmp.tests.unit import clock
from ansible_collections.virtops.qmp.tests.unit.builders import asking
from ansible_collections.virtops.qmp.tests.unit.fake_qemu import MIB, SIZE, FakeHost, FakeQemu

MS = 1_000_000
TARGET = 5 * MS
VDA = "/machine/peripheral/vda/virtio-backend"
Act = Callable[[], object]


def nothing() -> None:
    pass


def yielding(**members: Any) -> Request:
    return asking(guest_latency=TARGET, **members)


def slowed_above(limit: int) -> Callable[[FakeQemu], Sequence[int]]:
    """A guest whose requests take 20 ms while its streams may copy more than that, and 1 ms else."""

    def taken(qemu: FakeQemu) -> list[int]:
        speed = sum(job.speed or 1e12 for job in qemu.jobs.values() if job.streams)
        return [20 * MS if speed > limit else MS] * 20

    return taken


def slow_every_other_second(_qemu: FakeQemu) -> list[int]:
    """A guest beside which the limit changes all the while."""
    return [20 * MS if int(asyncio.get_running_loop().time()) % 2 else MS] * 20


def vm(number: int = 0, disks: int = 1, guest: Callable[[FakeQemu], Sequence[int]] | None = None) -> FakeQemu:
    qemu = FakeQemu(f"vm{number}", 100 + number)
    for letter in "ab"[:disks]:
        qemu.add(f"vd{letter}", f"{qemu.name}-top{letter}.qcow2", f"{qemu.name}-base{letter}.qcow2")
    qemu.guest = guest or slowed_above(8 * MIB)
    return qemu


def stream(*qemus: FakeQemu, asked: Request | None = None, first: Act = nothing, then: Act = nothing) -> list[Outcome]:
    """Populate all disks; `first` happens before the VMs are looked at, `then` when all is planned."""
    host = FakeHost(*qemus)
    requested = asked or yielding()

    async def work() -> list[Outcome]:
        first()
        sighting = await observe(host.finds(list(host.qemus)), host.open_link, host)
        targets = select(sighting.vms, Selection(("*",)), None).targets
        for qemu in qemus:
            qemu.log.clear()
        then()
        outcomes = await reconcile_all(targets, requested, Links(host.open_link), host)
        others = asyncio.all_tasks() - {asyncio.current_task()}
        assert not [task for task in others if not task.done()], "a task was left behind"
        return outcomes

    outcomes: list[Outcome] = clock.run(work())
    assert host.open == [], "a monitor was not left free"
    return outcomes


def speeds(qemu: FakeQemu) -> list[int]:
    """All limits that the streams were given, one after the other."""
    given = [arguments["speed"] for command, arguments in qemu.log if command == "block-stream"]
    return given + [arguments["speed"] for command, arguments in qemu.log if command == "block-job-set-speed"]


def at(seconds: float, act: Act) -> Act:
    return lambda: asyncio.get_running_loop().call_later(seconds, act)


def test_the_stream_takes_what_the_guest_leaves() -> None:
    """It begins with a guess, goes down to what the guest bears, and up again as long as it bears more."""
    qemu = vm()
    (outcome,) = stream(qemu)
    assert outcome.is_finished
    given = speeds(qemu)
    assert (given[0], min(given) < 8 * MIB) == (START, True)
    assert 5 * MIB < given[-2] < 9 * MIB
    felt = outcome.felt
    assert felt is not None
    assert (felt.target, felt.qdev, felt.kind, felt.is_mean, felt.is_by_itself) == (TARGET, VDA, "read", False, False)
    assert 0 < felt.held_back <= outcome.seconds


def test_nobody_looks_unless_it_is_asked_for() -> None:
    """Without the option nothing is sent that was not sent before."""
    qemu = vm()
    (outcome,) = stream(qemu, asked=asking())
    assert outcome.felt is None
    assert not {"query-blockstats", "block-latency-histogram-set", "block-job-set-speed"}.intersection(qemu.commands)


def test_what_was_set_is_taken_away() -> None:
    """At the end there is no histogram of ours in QEMU."""
    qemu = vm(disks=2)
    stream(qemu)
    boundaries = list(boundaries_for(TARGET))
    sent = [arguments for command, arguments in qemu.log if command == "block-latency-histogram-set"]
    assert {arguments["id"] for arguments in sent} == {VDA, VDA.replace("vda", "vdb")}
    assert [arguments["boundaries"] for arguments in sent if "boundaries" in arguments] == [boundaries] * (
        len(sent) // 2
    )
    assert qemu.histograms == {}


def test_the_histogram_of_another_tool() -> None:
    """It stays as it is, and the mean serves."""
    qemu = vm()
    theirs = ([10, 20], 0)
    (outcome,) = stream(qemu, then=lambda: qemu.histograms.update({VDA: theirs}))
    assert qemu.histograms == {VDA: theirs}
    assert "block-latency-histogram-set" not in qemu.commands
    assert outcome.felt is not None
    assert outcome.felt.is_mean
    assert min(speeds(qemu)[:-1]) < 8 * MIB


def test_a_histogram_that_a_killed_task_left() -> None:
    """It is put right, and taken away."""
    qemu = vm()
    stream(qemu, then=lambda: qemu.histograms.update({VDA: (list(boundaries_for(MS)), 0)}))
    assert qemu.histograms == {}


def test_a_qemu_that_refuses_histograms() -> None:
    """The mean serves."""
    qemu = vm()
    qemu.refuses["block-latency-histogram-set"] = "no"
    (outcome,) = stream(qemu)
    assert outcome.felt is not None
    assert (outcome.is_finished, outcome.felt.is_mean) == (True, True)


@pytest.mark.parametrize(
    ("members", "own"),
    [
        pytest.param({}, 0, id="none was asked for"),
        pytest.param({"speed": 50 * MIB}, 50 * MIB, id="its own"),
        pytest.param({"total_speed": 60 * MIB}, 60 * MIB, id="that of all streams"),
    ],
)
@pytest.mark.parametrize("on_timeout", ["leave", "fail"])
def test_a_stream_that_is_left_has_the_users_speed(members: dict[str, Any], own: int, on_timeout: str) -> None:
    """What the guests left is no limit any more when nobody looks at them."""
    qemu = vm(guest=slowed_above(MIB))
    (outcome,) = stream(qemu, asked=yielding(wait_timeout=3, on_timeout=on_timeout, **members))
    assert min(speeds(qemu)[:-1]) < 8 * MIB
    assert [job.speed for job in qemu.jobs.values()] == [own]
    assert outcome.job is not None
    assert (outcome.job.speed, qemu.histograms) == (own, {})


def test_a_stream_that_the_next_look_goes_on_with() -> None:
    """It keeps its speed, and QEMU goes on to count; the next look goes on from there, and not from the guess."""
    qemu = vm()
    (outcome,) = stream(qemu, asked=yielding(wait_timeout=3, on_timeout="leave", goes_on=True))
    job = qemu.jobs["populate-vda"]
    assert 0 < job.speed < 9 * MIB
    assert VDA in qemu.histograms
    assert outcome.felt is not None
    assert outcome.felt.paced.limit == job.speed
    left = job.speed

    def again() -> None:
        qemu.jobs.clear()
        qemu.stream("vm0-topa", "populate-vda", speed=left, auto_finalize=False)

    (later,) = stream(qemu, asked=yielding(paced=outcome.felt.paced), first=again)
    assert (later.action, later.is_finished) == ("joined", True)
    given = speeds(qemu)
    assert given[0] < 1.3 * left
    assert (START in given, qemu.histograms) == (False, {})


def test_a_stream_that_a_killed_task_left() -> None:
    """The same task joins it, goes on from the speed that it has, and frees it at the end."""
    qemu = vm()

    def join() -> None:
        qemu.stream("vm0-topa", "populate-vda", speed=3 * MIB, auto_finalize=False)

    (outcome,) = stream(qemu, asked=yielding(wait_timeout=1, on_timeout="leave"), first=join)
    assert (outcome.action, [job.speed for job in qemu.jobs.values()]) == ("joined", [0])
    assert 3 * MIB < speeds(qemu)[0] < 4 * MIB


def test_an_idle_guest_holds_nothing_back() -> None:
    """Its stream is faster from second to second."""
    qemu = vm(guest=lambda _qemu: ())
    (outcome,) = stream(qemu)
    assert outcome.felt is not None
    assert (outcome.felt.now, max(speeds(qemu)) > 1.5 * START) == (None, True)
    assert outcome.seconds < SIZE / START


def test_streams_share_what_the_guests_leave() -> None:
    """Two VMs on one datastore: the slower guest counts, both streams have the same part, and never more in all."""
    qemus = [vm(0, guest=slowed_above(4 * MIB)), vm(1, guest=lambda _qemu: [MS] * 20)]
    outcomes = stream(*qemus, asked=yielding(parallel=2))
    assert all(outcome.is_finished for outcome in outcomes)
    assert min(speeds(qemus[1])[:-1]) < 4 * MIB
    assert START // 2 in speeds(qemus[0])


@pytest.mark.parametrize("members", [{"speed": 3 * MIB}, {"total_speed": 3 * MIB}])
def test_the_users_limits_stay_the_most(members: dict[str, Any]) -> None:
    """However idle the guest is."""
    qemu = vm(guest=lambda _qemu: ())
    (outcome,) = stream(qemu, asked=yielding(**members))
    assert (outcome.is_finished, set(speeds(qemu))) == (True, {3 * MIB})


def test_a_monitor_that_is_lost() -> None:
    """It is told once, as without the option, and nothing hangs."""
    qemu = vm()
    (outcome,) = stream(qemu, then=at(2, qemu.die))
    assert outcome.error is not None
    assert outcome.error.kind == "MonitorLost"


def test_a_monitor_that_is_lost_at_once() -> None:
    """The same while QEMU is told to count."""
    qemu = vm()
    (outcome,) = stream(qemu, then=lambda: qemu.act_before("query-blockstats", qemu.die))
    assert outcome.error is not None
    assert outcome.error.kind == "MonitorLost"


def test_one_of_two_vms_that_is_lost() -> None:
    """The guest of the other one is looked at all the same."""
    qemus = [vm(0), vm(1)]
    outcomes = stream(*qemus, asked=yielding(parallel=2), then=at(2, qemus[0].die))
    assert [outcome.is_finished for outcome in outcomes] == [False, True]
    assert min(speeds(qemus[1])) < 8 * MIB


def test_a_vm_that_tells_nothing_any_more() -> None:
    """Its stream goes on at the last pace; the guest counts as idle."""
    qemu = vm()
    (outcome,) = stream(qemu, then=at(1, lambda: qemu.refuses.update({"query-blockstats": "no"})))
    assert outcome.is_finished


def test_two_disks_of_one_vm() -> None:
    """They are looked at together, and QEMU counts until both streams are over."""
    qemu = vm(disks=2)
    qemu.faults["vm0-topa"] = (8 * MIB, "Input/output error")
    seen: list[int] = []
    outcomes = stream(qemu, asked=yielding(parallel=2), then=at(8, lambda: seen.append(len(qemu.histograms))))
    assert ([outcome.is_finished for outcome in outcomes], seen, qemu.histograms) == ([False, True], [2], {})


def test_a_job_of_somebody_else() -> None:
    """What it passes over is none of ours, and its speed is left alone."""
    qemu = vm(disks=2)
    (first, _second) = stream(qemu, first=lambda: qemu.other_job("vm0-topb"))
    assert (first.is_finished, qemu.jobs["theirs"].speed) == (True, 0)


def test_a_disk_that_is_unplugged() -> None:
    """What is gone is not asked about, and the guest's other disks are looked at."""
    qemu = vm(disks=2)
    (first, _second) = stream(qemu, then=at(2, lambda: qemu.remove("vdb")))
    assert first.is_finished
    assert first.felt is not None


class Waits:
    """Another run, which comes to the monitor at some time, is served, and goes."""

    def __init__(self, qemu: FakeQemu, speed: int | None):
        self._qemu = qemu
        self._speed = speed
        self._came: float | None = None
        self.found: list[int] = []

    def is_waiting(self) -> bool:
        now = asyncio.get_running_loop().time()
        if self._came is None and now >= 3.0:
            self._came = now
        return self._came is not None and not self.found

    def is_there(self) -> bool:
        if not self.found:
            (job,) = self._qemu.jobs.values()
            self.found.append(job.speed)
            job.speed = job.speed if self._speed is None else self._speed
        return False


@pytest.mark.parametrize(
    ("speed", "paced"), [pytest.param(None, True, id="which only looks"), pytest.param(5, False, id="with a speed")]
)
def test_another_run_comes(speed: int | None, paced: bool) -> None:
    """It finds the user's own speed; afterwards the stream is paced again, unless that run has set another one."""
    qemu = vm(guest=slowed_above(2 * MIB))
    qemu.runs = other = Waits(qemu, speed)
    stream(qemu, asked=yielding(wait_timeout=12, on_timeout="leave", speed=4 * MIB))
    assert other.found == [4 * MIB]
    job = qemu.jobs["populate-vda"]
    assert job.speed == (5 if speed else 4 * MIB)
    back = len(qemu.commands) - qemu.commands[::-1].index("query-version")
    assert ("block-job-set-speed" in qemu.commands[back:]) is paced


def test_a_stream_with_the_speed_of_another_run_is_left_alone() -> None:
    """Also when the guests beside it change what they leave."""
    qemus = [vm(0), vm(1, guest=slow_every_other_second)]
    qemus[0].runs = Waits(qemus[0], 5)
    stream(*qemus, asked=yielding(parallel=2, wait_timeout=12, on_timeout="leave", speed=4 * MIB))
    assert [job.speed for qemu in qemus for job in qemu.jobs.values()] == [5, 4 * MIB]


def test_a_stream_that_is_left_to_another_run_is_left_alone() -> None:
    """Its monitor is not opened for the sake of others, though their limit changes all the while."""
    qemus = [vm(0), vm(1, guest=slow_every_other_second)]
    qemus[0].runs = other = Waits(qemus[0], None)
    stream(*qemus, asked=yielding(parallel=2, wait_timeout=12, on_timeout="leave", speed=4 * MIB))
    assert other.found == [4 * MIB]
    left = next(place for place, speed in enumerate(speeds(qemus[0])) if speed == 4 * MIB and place > 1)
    commands = qemus[0].commands
    put_back = [place for place, each in enumerate(commands) if each in ("block-stream", "block-job-set-speed")][left]
    back = commands.index("query-version", put_back)
    assert "block-job-set-speed" not in commands[put_back + 1 : back]
    assert "block-job-set-speed" in commands[back:]


def test_a_defect_is_told() -> None:
    """What nobody foresaw while the guests were looked at is an error of the disk, and the stream is freed."""
    qemu = vm()
    (outcome,) = stream(qemu, then=at(2, lambda: setattr(qemu, "guest", lambda _qemu: SimpleNamespace().no_such_thing)))
    assert outcome.error is not None
    assert outcome.error.kind == "Defect"


def test_what_a_look_is_handed() -> None:
    """A guest that an earlier look found to be slow by itself does not hold up the stream."""
    lifted = (("/vms/vm0.qmp", VDA, "read", 99),)
    qemu = vm(guest=lambda _qemu: [20 * MS] * 20)
    (outcome,) = stream(qemu, asked=yielding(paced=Paced(START, None, 0.0, 5.0, 60.0, 60.0, lifted)))
    assert min(speeds(qemu)[:-1]) >= START
    assert outcome.felt is not None
    assert outcome.felt.is_by_itself
