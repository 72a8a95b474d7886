# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Callable  # noqa: UP035  # Python 3.8

import pytest
from ansible_collections.virtops.qmp.plugins.module_utils._decide._latency import (
    AT_TARGET,
    LADDER,
    Gauge,
    GaugeName,
    Interval,
    boundaries_for,
)
from ansible_collections.virtops.qmp.plugins.module_utils._decide._pace import FLOOR, START, Pace, Seen, pause_after

MIB = 2**20
MS = 1_000_000
TARGET = 5 * MS
LOOK = 0.25
READS = GaugeName("/vms/web.qmp", "vda", "read")


def requests(count: int, milliseconds: float) -> Interval:
    """So many requests that took so long each."""
    slower = tuple(float(count * (milliseconds * MS >= each)) for each in boundaries_for(TARGET))
    return Interval(count, count * milliseconds * MS, slower)


def seen(count: int = 50, milliseconds: float = 1.0, *, rate: float = 1e12, most: int = 0, streams: int = 1) -> Seen:
    return Seen(LOOK, streams, rate, most, {READS: requests(count, milliseconds)})


def pace(limit: float, **members: object) -> Pace:
    return Pace()._replace(limit=limit * MIB, **members)  # type: ignore[arg-type]


# -- One look ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "look", "limit"),
    [
        pytest.param(pace(10), seen(), 11.9, id="fast: up"),
        pytest.param(pace(10), seen(rate=2 * MIB), 10, id="the limit is not what holds the streams"),
        pytest.param(pace(10), seen(rate=5.5 * MIB), 11, id="no more than twice what they do"),
        pytest.param(pace(10, knee=11.0 * MIB), seen(), 10.12, id="gently near where the guests were slowed"),
        pytest.param(pace(10, knee=20.0 * MIB), seen(), 11.9, id="far below that"),
        pytest.param(pace(10, knee=11.0 * MIB, gauges={READS: Gauge(debt=9.0)}), seen(), 10, id="not at all, in debt"),
        pytest.param(pace(10, knee=8.0 * MIB), seen(), 11.9, id="beyond it"),
        pytest.param(pace(10), seen(most=11 * MIB), 11, id="the user's own limit is the most"),
        pytest.param(pace(10), seen(most=4 * MIB), 4, id="and has become less"),
        pytest.param(pace(10), seen(0), 10, id="no request yet: as it was"),
        pytest.param(pace(10, idle_for=0.8), seen(0), 11.9, id="an idle guest"),
        pytest.param(pace(10, gauges={READS: Gauge(overdraft=9.0)}), seen(9, 1), 8, id="slow of late"),
        pytest.param(pace(10, gauges={READS: Gauge(overdraft=1.2)}), seen(1, 1), 10, id="doubtful: as it was"),
        pytest.param(pace(10), seen(50, 9), 5, id="very slow: down to a half"),
        pytest.param(pace(10), seen(50, 9, rate=4 * MIB), 2, id="of what the streams do"),
        pytest.param(pace(10, since_cut=0.0), seen(50, 9), 10, id="it has just gone down"),
        pytest.param(pace(10, knee=5.0 * MIB), seen(50, 9), 4.47, id="far beyond the knee: back below it"),
        pytest.param(pace(1.5), seen(50, 9), 1, id="never below the floor"),
        pytest.param(pace(3), seen(50, 9, streams=2), 2, id="the floor of two streams"),
        pytest.param(pace(1), seen(50, 9, most=MIB // 2), 0.5, id="unless the user wants less"),
    ],
)
def test_a_look(before: Pace, look: Seen, limit: float) -> None:
    """What one look makes of the limit, in MiB per second."""
    assert before.after(look).limit / MIB == pytest.approx(limit, rel=0.01)


def test_some_slow_requests_cost_less() -> None:
    """Where most are fast, the limit goes down by a fifth, and that limit is kept in mind."""
    some = requests(80, 1).plus(requests(20, 9))
    found = pace(10).after(Seen(LOOK, 1, 1e12, 0, {READS: some}))
    assert (found.limit, found.knee, found.is_falling) == (8 * MIB, 10 * MIB, True)


def test_what_is_in_the_queues_is_not_learnt() -> None:
    """While the limit only goes down it may go too far: what is kept in mind is between the first one and the last."""
    now = pace(64)
    for _look in range(20):
        now = now.after(seen(50, 40))
    assert (now.limit, now.knee) == (FLOOR, 64 * MIB)
    now = now.after(seen())
    assert now.is_falling is False
    assert now.knee == pytest.approx(9 * MIB, rel=0.02)


@pytest.mark.parametrize(
    ("now", "most", "holds"),
    [
        pytest.param(pace(10, rate=9.0 * MIB), 0, True, id="the streams do what they may"),
        pytest.param(pace(10, rate=3.0 * MIB), 0, False, id="their storage is slower"),
        pytest.param(pace(10, rate=9.0 * MIB), 10 * MIB, False, id="the user holds them"),
        pytest.param(pace(10, rate=0.0, probe=1.0), 0, True, id="they stand still to see"),
    ],
)
def test_what_holds_the_streams(now: Pace, most: int, holds: bool) -> None:
    """Only what is for the sake of the guests is told as that."""
    assert now.holds(most) is holds


@pytest.mark.parametrize(
    ("cost", "pause"),
    [
        pytest.param(0.0, 0.25, id="as often as it is of use"),
        pytest.param(0.01, 0.5, id="a deep chain"),
        pytest.param(9.0, 2.0, id="a busy host"),
    ],
)
def test_how_often_to_look(cost: float, pause: float) -> None:
    """Looking takes a fiftieth of the time, and the guests are never left alone for long."""
    assert pause_after(cost) == pause


# -- A simulated guest -------------------------------------------------------------------------------------------------


@dataclass
class Guest:
    """A guest and the streams on one storage, whose requests take the longer the busier it is.

    `load` is how many requests of 64 KiB it makes per second at a time, and `alone` what each takes then by itself.
    """

    load: Callable[[float], float]
    alone: Callable[[float], float] = lambda _time: 1.0
    capacity: float = 100.0 * MIB
    most: int = 0
    pace: Pace = field(default_factory=Pace)
    taken: list[tuple[float, float]] = field(default_factory=list)
    limits: list[tuple[float, float]] = field(default_factory=list)
    copied: float = 0.0

    def run(self, seconds: float, *, fixed: float | None = None) -> Guest:
        chance, time = random.Random(1), 0.0
        while time < seconds:
            load, limit = self.load(time), fixed or self.pace.limit
            stream = min(limit, 0.95 * self.capacity)
            busy = min(0.98, (stream + load * 65536) / self.capacity)
            mean = self.alone(time) / (1 - busy)
            count = int(load * LOOK + chance.random())
            taken = [mean * (0.3 + 0.7 * chance.expovariate(1)) for _request in range(count)]
            self.taken += [(time, each) for each in taken]
            self.limits.append((time, limit / MIB))
            self.copied += stream * LOOK
            together = Interval()
            for each in taken:
                together = together.plus(requests(1, each))
            self.pace = self.pace.after(Seen(LOOK, 1, stream, self.most, {READS: together}))
            time += LOOK
        return self

    def p95(self, since: float = 0.0) -> float:
        taken = sorted(each for time, each in self.taken if time >= since)
        return taken[int(0.95 * len(taken))]

    def lowest(self, since: float) -> float:
        return min(limit for time, limit in self.limits if time >= since)

    @property
    def rung(self) -> int:
        return self.pace.gauges[READS].rung


def steps(time: float) -> float:
    return 400.0 if time % 30 >= 15 else 20.0


def bursts(time: float) -> float:
    return 600.0 if time % 10 < 2 else 10.0


@pytest.mark.parametrize(
    ("load", "p95"),
    [
        pytest.param(lambda _time: 200.0, 5.0, id="steady"),
        pytest.param(lambda _time: 10.0, 5.0, id="few requests"),
        pytest.param(lambda _time: 500.0, 5.5, id="nearly all that there is"),
        pytest.param(steps, 5.5, id="steps"),
        pytest.param(bursts, 5.5, id="bursts of two seconds"),
    ],
)
def test_a_guest_that_the_stream_slows(load: Callable[[float], float], p95: float) -> None:
    """The guest gets its 5 ms, and the stream what a user who knew all could have guessed, less a part."""
    guest = Guest(load).run(120)
    assert 2.5 <= guest.p95() <= p95
    # The highest fixed speed that keeps the same latency, found by halves.
    low, high = 1.0, 95.0
    while high - low > 3:
        speed = (low + high) / 2
        if Guest(load).run(120, fixed=speed * MIB).p95() <= guest.p95():
            low = speed
        else:
            high = speed
    assert guest.copied / 120 >= 0.8 * low * MIB
    assert guest.rung == AT_TARGET


def test_it_is_stable() -> None:
    """Beside a steady guest the limit stays within a third of itself, once it is found."""
    limits = [limit for time, limit in Guest(lambda _time: 200.0).run(120).limits if time > 30]
    assert max(limits) / min(limits) < 2.5


def test_an_idle_guest() -> None:
    """Its stream has all that there is within seconds, and is held back by nothing."""
    guest = Guest(lambda _time: 0.0).run(30)
    assert guest.lowest(since=5) >= 95
    assert not guest.pace.holds(0)


def test_a_guest_that_was_idle() -> None:
    """When it comes back with the load that it had, the limit returns to where it was: at once, not step by step."""
    guest = Guest(lambda time: 400.0 if time < 30 or time >= 60 else 0.0).run(62)
    then = [limit for time, limit in guest.limits if 25 <= time < 30]
    assert guest.limits[-1][1] <= 1.3 * max(then)


def test_a_guest_that_is_slow_by_itself() -> None:
    """The stream is not to blame, finds that out within seconds, and does not crawl."""
    guest = Guest(lambda _time: 100.0, alone=lambda _time: 8.0).run(120)
    assert guest.rung > AT_TARGET
    assert guest.copied / 120 > 15 * MIB
    # It may then not become much slower than it is: its own is 19 ms.
    assert guest.p95() < 2 * 19.2


def test_a_guest_that_is_slow_for_a_while() -> None:
    """That it is slow is looked at again, so that in the end the target counts again."""
    guest = Guest(lambda _time: 100.0, alone=lambda time: 10.0 if time < 60 else 1.0).run(300)
    assert guest.rung == AT_TARGET
    assert guest.p95(since=240) <= 5.0


def test_a_guest_that_stays_slow() -> None:
    """It is looked at less and less often."""
    guest = Guest(lambda _time: 100.0, alone=lambda _time: 40.0).run(900)
    at_floor = [time for time, limit in guest.limits if limit <= 1.0 and time > 30]
    assert guest.pace.again_after >= 480
    assert len(at_floor) * LOOK < 45


def test_a_guest_too_quiet_to_tell() -> None:
    """A guest with a request now and then is judged by these; a probe that tells nothing changes nothing."""
    guest = Guest(lambda _time: 0.4, alone=lambda _time: 30.0).run(300)
    assert guest.rung in range(AT_TARGET, len(LADDER) + 2)
    assert guest.lowest(since=0) >= 1.0


def test_a_stream_that_is_to_blame_stays_low() -> None:
    """Where the storage bears nothing beside the guest, the stream keeps to its floor, and seldom looks again."""
    guest = Guest(lambda _time: 100.0, capacity=9.5 * MIB, alone=lambda _time: 0.4).run(300)
    assert guest.rung == AT_TARGET
    assert guest.pace.doubt > 5
    assert guest.copied / 300 < 4 * MIB


def test_the_users_own_limit() -> None:
    """It is never exceeded, and keeps the floor from being one."""
    guest = Guest(lambda _time: 100.0, most=3 * MIB).run(30)
    assert max(limit for _time, limit in guest.limits[1:]) == 3
    assert START > 3 * MIB
    slow = Guest(lambda _time: 100.0, most=MIB // 4, alone=lambda _time: 50.0).run(30)
    assert {limit for _time, limit in slow.limits[1:]} == {0.25}
