# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from ansible_collections.virtops.qmp.plugins.module_utils._decide._felt import felt_by, go_on_from, memory_of
from ansible_collections.virtops.qmp.plugins.module_utils._decide._latency import (
    Gauge,
    GaugeName,
    Interval,
    boundaries_for,
)
from ansible_collections.virtops.qmp.plugins.module_utils._decide._pace import Pace

MS = 1_000_000
TARGET = 5 * MS


def took(milliseconds: float, *, is_mean: bool = False) -> Interval:
    """Ten requests that took so long each."""
    slower = tuple(10.0 * (milliseconds * MS >= each) for each in boundaries_for(TARGET))
    return Interval(10, 10 * milliseconds * MS, slower, is_mean)


PACE = Pace(
    limit=9.5,
    knee=12.5,
    low_for=1.0,
    gauges={
        GaugeName("/vms/a.qmp", "vda", "read"): Gauge(recent=took(1)),
        GaugeName("/vms/a.qmp", "vdb", "flush"): Gauge(recent=took(13), rung=7),
        GaugeName("/vms/a.qmp", "vdb", "write"): Gauge(),
        GaugeName("/vms/b.qmp", "vda", "write"): Gauge(recent=took(3, is_mean=True)),
    },
)


def test_what_a_guest_feels() -> None:
    """It is that of the VM's slowest requests, whatever disk they are for."""
    felt = felt_by(PACE, "/vms/a.qmp", TARGET, 7.0)
    assert (felt.qdev, felt.kind, felt.is_mean, felt.is_by_itself, felt.held_back) == ("vdb", "flush", False, True, 7.0)
    assert felt.now == pytest.approx(15 * MS, rel=0.2)


def test_what_another_guest_feels() -> None:
    """Each VM is told of by itself, and where only the mean is known that is said."""
    felt = felt_by(PACE, "/vms/b.qmp", TARGET, 0.0)
    assert (felt.now, felt.kind, felt.is_mean, felt.is_by_itself) == (3 * MS, "write", True, False)


def test_a_guest_that_asks_for_nothing() -> None:
    """Nothing is told of it."""
    felt = felt_by(PACE, "/vms/c.qmp", TARGET, 0.0)
    assert (felt.now, felt.qdev, felt.kind) == (None, None, None)


def test_the_next_look_goes_on() -> None:
    """What was found out is kept, and what is only of the moment is not."""
    now = go_on_from(memory_of(PACE))
    assert (now.limit, now.knee, now.low_for) == (9.0, 12, 1.0)
    assert {name: gauge.rung for name, gauge in now.gauges.items()} == {("/vms/a.qmp", "vdb", "flush"): 7}
    assert now.gauges[GaugeName("/vms/a.qmp", "vdb", "flush")].recent == Interval()
    assert memory_of(now) == memory_of(PACE)


def test_the_first_look() -> None:
    """It knows of nothing."""
    assert go_on_from(None) == Pace()


def test_a_look_that_ends_at_the_floor() -> None:
    """A task that stood still to see goes on from where it was before."""
    assert memory_of(Pace(limit=1.0, probe=0.5, resume_at=77.0)).limit == 77


def test_what_nobody_left() -> None:
    """Whatever is handed in, there is a limit, and the guests are not looked at all the time."""
    now = go_on_from(memory_of(Pace(limit=-5.0, doubt=0.0, again_after=0.0)))
    assert (now.limit, now.doubt, now.again_after) == (1.0, Pace().doubt, Pace().again_after)
