# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
import time
from typing import Callable, Sequence  # noqa: UP035  # Python 3.8

import pytest
from ansible_collections.virtops.qmp.plugins.module_utils._decide._outcome import Outcome
from ansible_collections.virtops.qmp.plugins.module_utils._decide._select import select
from ansible_collections.virtops.qmp.plugins.module_utils._model._errors import MonitorSilent
from ansible_collections.virtops.qmp.plugins.module_utils._model._request import Request, Selection
from ansible_collections.virtops.qmp.plugins.module_utils._run import _fleet
from ansible_collections.virtops.qmp.plugins.module_utils._run._fleet import reconcile_all
from ansible_collections.virtops.qmp.plugins.module_utils._run._links import Links
from ansible_collections.virtops.qmp.plugins.module_utils._run._observe import observe
from ansible_collections.virtops.qmp.tests.unit import clock
from ansible_collections.virtops.qmp.tests.unit.builders import asking
from ansible_collections.virtops.qmp.tests.unit.fake_qemu import (
    CHUNK,
    IO_ERROR,
    MIB,
    SIZE,
    TICK,
    FakeHost,
    FakeQemu,
    inode_of,
)

WHOLE = SIZE / CHUNK * TICK
Act = Callable[[], object]


def nothing() -> None:
    pass


def vms(count: int, disks: int = 1) -> list[FakeQemu]:
    """VMs with disks of their own."""
    qemus = [FakeQemu(f"vm{number}", 100 + number) for number in range(count)]
    for qemu in qemus:
        for number in range(disks):
            qemu.add(f"vd{'abcdef'[number]}", f"{qemu.name}-top{number}.qcow2", f"{qemu.name}-base{number}.qcow2")
    return qemus


def all_about(
    host: FakeHost,
    asked: Request | None = None,
    *,
    names: Sequence[str] = ("*",),
    first: Act = nothing,
    then: Act = nothing,
    lasts: list[float] | None = None,
) -> list[Outcome]:
    """Populate disks over all VMs; `first` happens before they are looked at, `then` between the plan and the act."""
    requested = asking() if asked is None else asked

    async def work() -> list[Outcome]:
        first()
        sighting = await observe(host.finds(list(host.qemus)), host.open_link, host)
        targets = select(sighting.vms, Selection(tuple(names)), requested.base).targets
        host.begin_to_count()
        then()
        begun = asyncio.get_running_loop().time()
        outcomes = await reconcile_all(targets, requested, Links(host.open_link), host)
        if lasts is not None:
            lasts.append(asyncio.get_running_loop().time() - begun)
        assert [outcome.before.key for outcome in outcomes] == [target.disk.key for target in targets]
        return outcomes

    outcomes: list[Outcome] = clock.run(work())
    assert host.open == [], "a monitor was not left free"
    for qemu in host.qemus.values():
        assert not qemu.harm
        assert "query-named-block-nodes" not in qemu.commands
    return outcomes


def told(outcomes: Sequence[Outcome]) -> list[str]:
    return [
        f"{outcome.vm.identity.label} {outcome.disk.label} {outcome.action}"
        for outcome in outcomes
        if outcome.is_finished
    ]


def test_no_disk_is_no_work() -> None:
    """Without a target nothing is opened."""
    host = FakeHost()
    assert (all_about(host), host.opened) == ([], [])


@pytest.mark.parametrize("parallel", [1, 2, 3, 5, 8])
def test_never_more_streams_than_asked(parallel: int) -> None:
    """Over all VMs there run as many streams as asked for, no fewer and no more, and every disk is populated."""
    host = FakeHost(*vms(3, disks=2))
    lasts: list[float] = []
    outcomes = all_about(host, asking(parallel=parallel), lasts=lasts)
    assert [outcome.error for outcome in outcomes] == [None] * 6
    assert len(told(outcomes)) == 6
    assert host.most_streams == min(parallel, 6)
    assert lasts[0] == pytest.approx(-(-6 // parallel) * WHOLE, rel=0.05)


def test_a_monitor_is_held_only_while_its_vm_has_work() -> None:
    """One disk at a time means one monitor at a time, so that others can use the rest."""
    host = FakeHost(*vms(4))
    all_about(host)
    assert (host.most_open, len(host.opened)) == (1, 4)


def test_finished_disks_are_visited_a_few_at_a_time() -> None:
    """However many there are: each visit takes descriptors and a thread, of which a process has only so many."""
    host = FakeHost(*vms(100))
    all_about(host, asking(parallel=100))
    assert all(outcome.is_finished for outcome in all_about(host))
    assert host.most_open == 32


def test_disks_of_one_vm_share_its_monitor() -> None:
    """A monitor serves one client, so the disks of a VM use one connection."""
    host = FakeHost(*vms(1, disks=4))
    outcomes = all_about(host, asking(parallel=4))
    assert (len(told(outcomes)), host.opened) == (4, ["/vms/vm0.qmp"])


def test_what_fails_for_one_disk_stops_no_other() -> None:
    """A failing stream is told for its disk, and the others are populated."""
    qemus = vms(3)
    qemus[1].faults["vm1-top0"] = (8 * MIB, IO_ERROR)
    outcomes = all_about(FakeHost(*qemus))
    assert told(outcomes) == ["vm0 vda started", "vm2 vda started"]
    assert outcomes[1].error is not None
    assert IO_ERROR in str(outcomes[1].error)


def test_a_defect_that_one_disk_brings_out_stops_no_other() -> None:
    """What nobody foresaw is told as a defect of its disk; the others are populated, and its place goes to the next."""
    one, other, third = vms(3)
    one.act_before("block-stream", lambda: 1 / 0)
    outcomes = all_about(FakeHost(one, other, third), asking(parallel=1))
    assert [outcome.is_finished for outcome in outcomes] == [False, True, True]
    assert outcomes[0].error is not None
    assert outcomes[0].error.kind == "Defect"
    assert outcomes[0].error.message.startswith("vm0: disk vda: a defect of virtops.qmp")


def test_a_monitor_that_cannot_be_opened_stops_no_other() -> None:
    """If a monitor is busy when its turn comes, that is told with the one who holds it."""
    host = FakeHost(*vms(2))
    outcomes = all_about(host, then=lambda: host.unopenable.update({"/vms/vm0.qmp": MonitorSilent("no greeting")}))
    assert str(outcomes[0].error) == "vm0: disk vda: no greeting. pid 100 owns /vms/vm0.qmp"
    assert told(outcomes) == ["vm1 vda started"]


def test_a_vm_that_dies_holds_back_no_other() -> None:
    """A QEMU that dies in the middle of its stream leaves its place to the next disk."""
    qemus = vms(2)
    host = FakeHost(*qemus)
    outcomes = all_about(host, then=lambda: asyncio.get_running_loop().call_later(1, qemus[0].die))
    assert outcomes[0].error is not None
    assert told(outcomes) == ["vm1 vda started"]


def test_a_vm_that_dies_in_a_stream_that_was_joined_holds_back_no_other() -> None:
    """Nobody waits for the place of a stream that nobody follows any more."""
    qemus = vms(2)
    host = FakeHost(*qemus)
    outcomes = all_about(
        host,
        first=lambda: qemus[0].stream("vm0-top0"),
        then=lambda: asyncio.get_running_loop().call_later(1, qemus[0].die),
    )
    assert outcomes[0].error is not None
    assert told(outcomes) == ["vm1 vda started"]


def test_a_vm_that_dies_ends_all_its_disks() -> None:
    """Every disk of a VM that dies is told, each for itself."""
    qemus = vms(1, disks=3)
    host = FakeHost(*qemus)
    outcomes = all_about(host, asking(parallel=3), then=lambda: asyncio.get_running_loop().call_later(1, qemus[0].die))
    assert [outcome.error is not None for outcome in outcomes] == [True] * 3
    assert told(outcomes) == []


@pytest.mark.parametrize("executed", [False, True])
@pytest.mark.parametrize("number", range(1, 60))
def test_a_connection_lost_at_every_command_of_two_disks(number: int, executed: bool) -> None:
    """With two disks on one connection, wherever it ends: errors, never a wrong success, never an exception."""
    qemus = vms(1, disks=2)
    host = FakeHost(*qemus)
    outcomes = all_about(host, asking(parallel=2), then=lambda: qemus[0].lose_at(number, executed=executed))
    for outcome in outcomes:
        assert not outcome.is_finished or len(qemus[0].chain(outcome.before.label)) == 1
        assert outcome.is_finished or outcome.error is not None


def shared(count: int = 2) -> FakeQemu:
    """Disks over one named base."""
    qemu = FakeQemu()
    for number in range(count):
        qemu.add(f"vd{'abcdef'[number]}", f"top{number}.qcow2", "base.qcow2", named=True)
    return qemu


def test_disks_that_share_a_base_are_streamed_one_after_the_other() -> None:
    """QEMU refuses two streams over one node, so they take turns, whatever parallel says."""
    host = FakeHost(shared(3))
    outcomes = all_about(host, asking(parallel=8))
    assert [outcome.error for outcome in outcomes] == [None] * 3
    assert (len(told(outcomes)), host.most_streams) == (3, 1)
    assert outcomes[2].released_nodes == ("base", "base-file")


@pytest.mark.parametrize(
    ("asked", "errors"),
    [
        pytest.param(asking(wait=False, parallel=2), [None, None], id="without waiting"),
        pytest.param(asking(wait_timeout=2, on_timeout="leave", parallel=2), [None, None], id="left when time is up"),
        pytest.param(
            asking(wait_timeout=2, parallel=2),
            [
                "not populated when wait_timeout was over",
                "not started: it shares a backing node with disk vda, whose job is still there",
            ],
            id="failed when time is up",
        ),
    ],
)
def test_a_job_that_stays_holds_back_its_lane(asked: Request, errors: list[str | None]) -> None:
    """While the stream of one disk is there the next over the same base is not tried: QEMU would refuse it."""
    qemu = shared()
    outcomes = all_about(FakeHost(qemu), asked)
    assert qemu.acts.count("block-stream") == 1
    for outcome, words in zip(outcomes, errors):  # noqa: B905  # Python 3.8
        assert (outcome.error is None) == (words is None)
        assert words is None or words in str(outcome.error)


def test_a_populated_disk_in_a_lane_is_not_held_back() -> None:
    """Only what would start waits behind a job; what is done is told as done."""
    qemu = shared()
    outcomes = all_about(
        FakeHost(qemu), asking(wait=False, base="/vms/base.qcow2"), first=lambda: qemu.other_job("top0")
    )
    assert [outcome.error for outcome in outcomes] == [None, None]


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        pytest.param(
            asking(wait_timeout=3),
            "vm1: disk vda: not started: its turn did not come before wait_timeout was over",
            id="fail",
        ),
        pytest.param(asking(wait_timeout=3, on_timeout="leave"), None, id="leave"),
        pytest.param(asking(wait_timeout=3, on_timeout="stop"), "", id="stop"),
        pytest.param(asking(wait=False), None, id="without waiting"),
    ],
)
def test_a_disk_whose_turn_does_not_come(asked: Request, error: str | None) -> None:
    """It is an error only where the user wanted to wait for it; it is not started in any case, except after a stop."""
    qemus = vms(2)
    outcomes = all_about(FakeHost(*qemus), asked)
    assert not outcomes[1].is_finished
    if error == "":
        assert outcomes[1].error is None
    else:
        told = None if outcomes[1].error is None else str(outcomes[1].error)
        assert (told, outcomes[1].action, qemus[1].acts) == (error, "none", [])


@pytest.mark.parametrize(
    ("wait_timeout", "ahead", "lasts", "words"),
    [
        pytest.param(None, 3, 3, "when the time had come that until names", id="until alone"),
        pytest.param(4, 3, 3, "when the time had come that until names", id="until comes first"),
        pytest.param(2, 3, 2, "when wait_timeout was over", id="wait_timeout is over first"),
        pytest.param(None, -5, 0, "before the time had come that until names", id="it has come"),
    ],
)
def test_the_earlier_end_counts(wait_timeout: int | None, ahead: int, lasts: int, words: str) -> None:
    """Of `wait_timeout` and `until` the one that ends first ends the wait, and is named where it fails."""
    took: list[float] = []
    asked = asking(wait_timeout=wait_timeout, until=time.time() + ahead)
    (first, *_others) = all_about(FakeHost(*vms(2)), asked, lasts=took)
    assert took[0] == pytest.approx(lasts, abs=0.9)
    assert words in " ".join(str(outcome.error) for outcome in (first, *_others))


def test_a_place_that_is_free_when_time_is_up_is_not_taken() -> None:
    """Nothing is started in the very moment in which the time is over."""

    async def work() -> bool:
        slots = _fleet._Slots(1)
        assert await slots.take(None, runs_already=False)
        waits = asyncio.ensure_future(slots.take(5, runs_already=False))
        await asyncio.sleep(1)
        await slots.give_back()
        asyncio.get_running_loop().advance(4)  # type: ignore[attr-defined]
        return await waits

    assert clock.run(work()) is False


def test_streams_that_run_already_count_and_do_not_wait() -> None:
    """A rerun follows all streams that run, and starts no other beside them."""
    qemus = vms(3)
    host = FakeHost(*qemus)

    def begin() -> None:
        qemus[1].stream("vm1-top0", auto_finalize=False)
        qemus[2].stream("vm2-top0", auto_finalize=False)

    outcomes = all_about(host, first=begin)
    assert told(outcomes) == ["vm0 vda started", "vm1 vda joined", "vm2 vda joined"]
    assert host.most_streams == 2


def test_a_stream_that_is_held_gives_its_place_away() -> None:
    """A held stream needs no bandwidth: the next one may run."""
    qemus = vms(2)
    qemus[0].faults["vm0-top0"] = (8 * MIB, IO_ERROR)
    outcomes = all_about(FakeHost(*qemus), asking(on_error="stop"))
    assert told(outcomes) == ["vm1 vda started"]
    assert outcomes[0].error is not None
    assert "held" in str(outcomes[0].error)


@pytest.mark.parametrize("state", ["paused", "aborted"])
def test_what_starts_nothing_needs_no_place(state: str) -> None:
    """To pause or abort any number of streams does not wait for their end."""
    qemus = vms(3)
    host = FakeHost(*qemus)
    lasts: list[float] = []
    outcomes = all_about(
        host,
        asking(state=state),
        first=lambda: [qemu.stream(f"{qemu.name}-top0") for qemu in qemus],
        lasts=lasts,
    )
    assert [outcome.error for outcome in outcomes] == [None] * 3
    assert lasts[0] < 1
    assert sum(job.streams for qemu in qemus for job in qemu.jobs.values()) == 0


# -- Other runs --------------------------------------------------------------------------------------------------------


class OtherRun:
    """Another run at the monitor of a VM, as `_seams.OtherRuns`: it comes, is served when the monitor is free, goes."""

    def __init__(self, host: FakeHost, qemu: FakeQemu, comes: float, stays: float, act: Act = nothing):
        self._host, self._qemu, self._act = host, qemu, act
        self._comes, self._stays = comes, stays
        self._waits = self._works = False
        self.waited = 0.0

    def begin(self) -> None:
        """From now on the seconds count."""
        self._qemu.runs = self
        asyncio.get_running_loop().call_later(self._comes, self._come)

    def _come(self) -> None:
        self._waits = self._qemu.address in self._host.open
        if self._waits:
            self.waited += 0.1
            asyncio.get_running_loop().call_later(0.1, self._come)
            return
        self._works = True
        self._act()
        asyncio.get_running_loop().call_later(self._stays, self._go)

    def _go(self) -> None:
        self._works = False

    def is_waiting(self) -> bool:
        return self._waits

    def is_there(self) -> bool:
        return self._waits or self._works


def beside(
    other_comes: float, other_stays: float, asked: Request, act: Callable[[FakeQemu], object] = lambda _qemu: None
) -> tuple[Outcome, FakeQemu, list[str], float]:
    """A run on one VM, and another one that comes meanwhile: the outcome, the visits, and how long the other waited."""
    (qemu,) = vms(1)
    host = FakeHost(qemu)
    other = OtherRun(host, qemu, other_comes, other_stays, act=lambda: act(qemu))
    (outcome,) = all_about(host, asked, then=other.begin)
    return outcome, qemu, host.opened, other.waited


SLOW = asking(speed=MIB)


def test_a_run_gives_way_to_another_one() -> None:
    """The other run has the monitor at once, the stream goes on meanwhile, and both see its end."""
    outcome, qemu, opened, waited = beside(3, 20, SLOW)
    assert (outcome.is_finished, outcome.action, outcome.error) == (True, "started", None)
    assert (0 < waited <= 0.7, len(opened), qemu.acts.count("block-stream")) == (True, 2, 1)


def test_what_the_later_run_wants_counts() -> None:
    """Who comes back changes neither the speed that the later run has set, nor its pause."""

    def retune(qemu: FakeQemu) -> None:
        (job,) = qemu.jobs.values()
        job.speed, job.paused = 7, True

    outcome, qemu, _opened, _waited = beside(3, 2, asking(speed=MIB, wait_timeout=30, on_timeout="leave"), retune)
    assert [(job.speed, job.paused) for job in qemu.jobs.values()] == [(7, True)]
    assert (outcome.action, outcome.error, outcome.is_finished) == ("started", None, False)


def test_a_stream_that_the_later_run_has_ended_is_not_started_again() -> None:
    """Its user wants none, and the earlier run says that it is gone."""
    outcome, qemu, _opened, _waited = beside(3, 2, SLOW, lambda qemu: qemu._job_cancel({"id": "populate-vda"}))
    assert (qemu.jobs, qemu.acts.count("block-stream")) == ({}, 1)
    assert outcome.error is not None
    assert "the stream ended while nobody listened" in outcome.error.message


@pytest.mark.parametrize(
    ("on_timeout", "action", "error"),
    [
        pytest.param("fail", "started", True, id="fail"),
        pytest.param("leave", "started", False, id="leave"),
        pytest.param("stop", "stopped", False, id="stop"),
    ],
)
def test_a_run_that_stays_away_comes_back_when_its_time_is_up(on_timeout: str, action: str, error: bool) -> None:
    """However long the other one stays, the wait ends in time, and as its user wants."""
    lasts: list[float] = []
    (qemu,) = vms(1)
    host = FakeHost(qemu)
    other = OtherRun(host, qemu, 3, 3600)
    asked = asking(speed=MIB, wait_timeout=20, on_timeout=on_timeout)
    (outcome,) = all_about(host, asked, then=other.begin, lasts=lasts)
    assert (outcome.action, outcome.error is not None, outcome.is_finished) == (action, error, False)
    assert lasts[0] == pytest.approx(20, abs=1)


def test_between_two_visits_of_the_other_run_nobody_comes_back() -> None:
    """A controller takes a moment between two slices: a monitor that is free for less than that is left alone."""
    (qemu,) = vms(1)
    host = FakeHost(qemu)
    visits = [OtherRun(host, qemu, 3 + 8 * number, 6) for number in range(3)]

    class Slices:
        def is_waiting(self) -> bool:
            return sum(visit.is_waiting() for visit in visits) > 0

        def is_there(self) -> bool:
            return sum(visit.is_there() for visit in visits) > 0

    def begin() -> None:
        for visit in visits:
            visit.begin()
        qemu.runs = Slices()

    (outcome,) = all_about(host, SLOW, then=begin)
    assert (outcome.is_finished, len(host.opened)) == (True, 2)


def test_a_client_that_gave_up_costs_a_moment() -> None:
    """What it has left in the queue is cleared by leaving the monitor for a second."""
    (qemu,) = vms(1)
    host = FakeHost(qemu)

    class Left:
        def is_waiting(self) -> bool:
            return asyncio.get_running_loop().time() > 2 and len(host.opened) == 1

        def is_there(self) -> bool:
            return False

    lasts: list[float] = []
    (outcome,) = all_about(host, then=lambda: setattr(qemu, "runs", Left()), lasts=lasts)
    assert (outcome.is_finished, len(host.opened)) == (True, 2)
    assert WHOLE <= lasts[0] <= WHOLE + 1


def test_a_run_that_sits_out_a_migration_gives_way() -> None:
    """A migration may take hours, in which the monitor is free for others."""
    (qemu,) = vms(1)
    host = FakeHost(qemu)
    other = OtherRun(host, qemu, 3, 1)

    def begin() -> None:
        other.begin()
        qemu.migration = {"status": "active"}
        asyncio.get_running_loop().call_later(60, qemu.migration.clear)

    (outcome,) = all_about(host, then=begin)
    assert (outcome.is_finished, outcome.action, len(host.opened)) == (True, "started", 2)
    assert 0 < other.waited <= 1


# -- A limit for all ---------------------------------------------------------------------------------------------------


def speeds_of(qemus: Sequence[FakeQemu]) -> list[int]:
    return [job.speed for qemu in qemus for job in qemu.jobs.values()]


@pytest.mark.parametrize("poll_interval", [0, 1])
@pytest.mark.parametrize("parallel", [1, 2, 3, 8])
def test_all_streams_together_keep_the_limit(parallel: int, poll_interval: int) -> None:
    """However many run, they never may copy more in all, and whoever ends leaves its part to the others."""
    host = FakeHost(*vms(3, disks=2))
    lasts: list[float] = []
    asked = asking(parallel=parallel, total_speed=40 * MIB, poll_interval=poll_interval)
    outcomes = all_about(host, asked, lasts=lasts)
    assert len(told(outcomes)) == 6
    assert host.most_streams == min(parallel, 6)
    assert 40 * MIB - 6 <= host.most_speed <= 40 * MIB
    # Short visits leave a part to nobody until the next one.
    assert lasts[0] == pytest.approx(6 * SIZE / (40 * MIB), rel=0.7 if poll_interval else 0.15)


def test_the_own_limit_of_a_stream_bounds_its_part() -> None:
    """`speed` is the most that each stream gets, whatever is left of `total_speed`."""
    host = FakeHost(*vms(2))
    outcomes = all_about(host, asking(parallel=2, total_speed=100 * MIB, speed=8 * MIB))
    assert (len(told(outcomes)), host.most_speed) == (2, 16 * MIB)


def test_streams_of_somebody_else_count() -> None:
    """A stream that is joined gets its part as well, whoever started it with whatever limit, and is told as changed."""
    qemus = vms(2)
    host = FakeHost(*qemus)
    asked = asking(parallel=2, total_speed=8 * MIB, wait=False)
    outcomes = all_about(host, asked, first=lambda: qemus[1].stream("vm1-top0", auto_finalize=False))
    assert [outcome.action for outcome in outcomes] == ["started", "retuned"]
    assert speeds_of(qemus) == [4 * MIB, 4 * MIB]
    again = all_about(host, asked)
    assert [outcome.action for outcome in again] == ["joined", "joined"]
    assert [qemu.acts.count("block-job-set-speed") for qemu in qemus] == [0, 1]


def test_who_does_not_wait_is_told_the_limits() -> None:
    """Streams that are left to QEMU have their parts from the beginning, and results say so; nobody raises them."""
    qemus = vms(3)
    outcomes = all_about(FakeHost(*qemus), asking(parallel=2, total_speed=9 * MIB, wait=False))
    assert [outcome.job and outcome.job.speed for outcome in outcomes] == [4.5 * MIB, 4.5 * MIB, None]
    assert speeds_of(qemus) == [4.5 * MIB, 4.5 * MIB]


@pytest.mark.parametrize("on_timeout", ["leave", "fail", "stop"])
def test_when_time_is_up_no_stream_is_hurried(on_timeout: str) -> None:
    """What goes on in QEMU keeps its part, and what is stopped leaves it to nobody."""
    qemus = vms(2)
    host = FakeHost(*qemus)
    all_about(host, asking(parallel=2, total_speed=8 * MIB, wait_timeout=3, on_timeout=on_timeout))
    assert host.most_speed == 8 * MIB
    assert speeds_of(qemus) == ([] if on_timeout == "stop" else [4 * MIB, 4 * MIB])
    assert [qemu.acts.count("block-job-set-speed") for qemu in qemus] == [0, 0]


def test_a_stream_that_fails_leaves_its_part() -> None:
    """The others get it at once."""
    qemus = vms(2)
    qemus[0].faults["vm0-top0"] = (8 * MIB, IO_ERROR)
    speeds: list[int] = []
    later = at(1, 4, act=lambda: speeds.append(speeds_of(qemus)[-1]))
    outcomes = all_about(FakeHost(*qemus), asking(parallel=2, total_speed=8 * MIB), then=later)
    assert (told(outcomes), speeds) == (["vm1 vda started"], [4 * MIB, 8 * MIB])


def test_no_limit_takes_the_limits_away() -> None:
    """`total_speed` 0 frees every stream."""
    (qemu,) = vms(1)
    outcomes = all_about(
        FakeHost(qemu),
        asking(total_speed=0, wait=False),
        first=lambda: qemu.stream("vm0-top0", speed=1, auto_finalize=False),
    )
    assert ([outcome.action for outcome in outcomes], speeds_of([qemu])) == (["retuned"], [0])


def test_a_vm_that_does_not_answer_holds_back_no_other() -> None:
    """Its stream cannot be slowed down; the next one begins all the same, with its own part."""
    qemus = vms(3)
    host = FakeHost(*qemus)
    busy = at(1, act=lambda: host.unopenable.update({qemus[0].address: MonitorSilent("no greeting")}))
    qemus[1].faults["vm1-top0"] = (8 * MIB, IO_ERROR)
    outcomes = all_about(host, asking(parallel=2, total_speed=8 * MIB, poll_interval=3), then=busy)
    assert told(outcomes) == ["vm2 vda started"]
    assert speeds_of(qemus[:1]) == [4 * MIB]


def test_a_stream_of_which_nobody_knows_counts() -> None:
    """Where a VM does not answer any more its stream may go on: the others are slowed down for the one in its place."""
    qemus = vms(4)
    host = FakeHost(*qemus)
    busy = at(1, act=lambda: host.unopenable.update({qemus[0].address: MonitorSilent("no greeting")}))
    speeds: list[list[int]] = []
    later = at(4.5, act=lambda: speeds.append(speeds_of(qemus)))

    def then() -> None:
        busy()
        later()

    outcomes = all_about(host, asking(parallel=2, total_speed=9 * MIB, poll_interval=3), then=then)
    assert told(outcomes) == ["vm1 vda started", "vm2 vda started", "vm3 vda started"]
    assert (speeds, host.most_speed) == ([[4.5 * MIB, 3 * MIB, 3 * MIB]], 10.5 * MIB)


# -- Short visits ------------------------------------------------------------------------------------------------------


def at(*seconds: float, act: Act) -> Act:
    return lambda: [asyncio.get_running_loop().call_later(each, act) for each in seconds]


def test_between_short_visits_the_monitor_is_free() -> None:
    """With a poll_interval the monitor is left to others while the stream runs, and the disk is populated."""
    (qemu,) = vms(1)
    host = FakeHost(qemu)
    held: list[int] = []
    times = [0.5 + second for second in range(6)]
    outcomes = all_about(host, asking(poll_interval=2), then=at(*times, act=lambda: held.append(len(host.open))))
    assert told(outcomes) == ["vm0 vda started"]
    assert (outcomes[0].error, held, len(host.opened)) == (None, [0] * 6, 5)
    assert [image.path for image in outcomes[0].left] == ["/vms/vm0-base0.qcow2"]
    assert [image.id for image in outcomes[0].left] == [inode_of("/vms/vm0-base0.qcow2").id]


def test_short_visits_of_many_disks() -> None:
    """Places are kept between visits: never more streams than asked for, and all disks are populated."""
    host = FakeHost(*vms(2, disks=2))
    outcomes = all_about(host, asking(poll_interval=3, parallel=2))
    assert (len(told(outcomes)), host.most_streams) == (4, 2)


@pytest.mark.parametrize(
    ("on_timeout", "action", "failed"),
    [
        pytest.param("fail", "started", True, id="fail"),
        pytest.param("leave", "started", False, id="leave"),
        pytest.param("stop", "stopped", False, id="stop"),
    ],
)
def test_when_time_is_up_between_two_visits(on_timeout: str, action: str, failed: bool) -> None:
    """The last visit comes when the time is up, and does what was wished for then."""
    (qemu,) = vms(1)
    lasts: list[float] = []
    asked = asking(poll_interval=60, wait_timeout=3, on_timeout=on_timeout)
    (outcome,) = all_about(FakeHost(qemu), asked, lasts=lasts)
    assert (outcome.action, outcome.error is not None, outcome.is_finished) == (action, failed, False)
    assert lasts[0] == pytest.approx(3)
    assert bool(qemu.jobs) == (on_timeout != "stop")


@pytest.mark.parametrize("member", ["pid", "started"])
def test_a_vm_of_the_same_name_that_took_the_place(member: str) -> None:
    """Between two visits the VM is replaced by one of the same name whose disk needs nothing: that is not ours done."""
    (qemu,) = vms(1)

    def replace() -> None:
        setattr(qemu, member, 101)  # the pid may be given again
        qemu.jobs.clear()
        qemu.nodes["vm0-top0"].children.pop("backing")

    (outcome,) = all_about(FakeHost(qemu), asking(poll_interval=3), then=at(1, act=replace))
    assert (outcome.is_finished, outcome.job) == (False, None)
    assert outcome.error is not None
    assert "another process, qemu-system-x86_64 (pid " in str(outcome.error)
    assert qemu.acts == ["blockdev-snapshot", "block-stream"]


@pytest.mark.parametrize("asked", [asking(poll_interval=5, wait=False), asking(poll_interval=5, state="paused")])
def test_who_does_not_wait_visits_once(asked: Request) -> None:
    """Without waiting, or to pause, there is nothing to come back for."""
    (qemu,) = vms(1)
    host = FakeHost(qemu)
    all_about(host, asked, first=lambda: qemu.stream("vm0-top0"))
    assert len(host.opened) == 1


def test_a_stream_that_fails_while_nobody_listens_is_no_success() -> None:
    """Between two visits no event is heard: the chain tells that the stream is gone and its work not done."""
    (qemu,) = vms(1)
    qemu.faults["vm0-top0"] = (8 * MIB, IO_ERROR)
    (outcome,) = all_about(FakeHost(qemu), asking(poll_interval=3))
    assert outcome.error is not None
    assert "ended while nobody listened" in str(outcome.error)
    assert (outcome.is_finished, outcome.action, qemu.acts.count("block-stream")) == (False, "started", 1)


def test_a_monitor_that_is_busy_at_a_later_visit() -> None:
    """What was done before is told with the reason why it is not known how it ended."""
    (qemu,) = vms(1)
    host = FakeHost(qemu)
    busy = at(1, act=lambda: host.unopenable.update({qemu.address: MonitorSilent("no greeting")}))
    (outcome,) = all_about(host, asking(poll_interval=3), then=busy)
    assert (outcome.action, outcome.is_finished) == ("started", False)
    assert str(outcome.error) == "vm0: disk vda: no greeting. pid 100 owns /vms/vm0.qmp"


@pytest.mark.parametrize("executed", [False, True])
@pytest.mark.parametrize("number", range(1, 45, 2))
def test_a_connection_lost_at_every_command_of_short_visits(number: int, executed: bool) -> None:
    """Wherever the connection ends: an error, or a disk that is populated, and never an exception."""
    (qemu,) = vms(1)
    host = FakeHost(qemu)
    (outcome,) = all_about(host, asking(poll_interval=2), then=lambda: qemu.lose_at(number, executed=executed))
    assert not outcome.is_finished or len(qemu.chain()) == 1
    assert outcome.is_finished or outcome.error is not None
