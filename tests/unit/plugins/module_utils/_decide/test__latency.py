# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import Sequence  # noqa: UP035  # Python 3.8

import pytest
from ansible_collections.virtops.qmp.plugins.module_utils._decide._latency import (
    AT_TARGET,
    LADDER,
    Gauge,
    Interval,
    between,
    boundaries_for,
    is_ours,
    may_have_histogram,
)
from ansible_collections.virtops.qmp.plugins.module_utils._model._latency import GuestDevice, Histogram, Served

TARGET = 5_000_000
MS = 1_000_000
OURS = boundaries_for(TARGET)
END = len(LADDER)


def histogram(*taken: float, boundaries: Sequence[int] = OURS) -> Histogram:
    """These requests, in milliseconds, as QEMU counts them."""
    bins = [0] * (len(boundaries) + 1)
    for each in taken:
        bins[sum(each * MS >= boundary for boundary in boundaries)] += 1
    return Histogram(tuple(boundaries), tuple(bins))


def requests(*taken: float) -> Interval:
    """An interval in which these were served, in milliseconds."""
    return between(Served(0, 0, histogram()), Served(len(taken), int(sum(taken) * MS), histogram(*taken)), TARGET)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        pytest.param(histogram(), True, id="for this target"),
        pytest.param(Histogram(boundaries_for(100_000), ()), True, id="for another one"),
        pytest.param(Histogram((), ()), False, id="without boundaries"),
        pytest.param(Histogram((10, 100), (0, 0, 0)), False, id="somebody else's"),
        pytest.param(Histogram(tuple(range(END)), ()), False, id="somebody else's, as long as ours"),
    ],
)
def test_is_ours(found: Histogram, expected: bool) -> None:
    """The boundaries tell whose a histogram is, so that one is known that a task has left which was killed."""
    assert is_ours(found) is expected


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        pytest.param([None, None], True, id="nobody has one"),
        pytest.param([histogram(1), histogram()], False, id="it is there"),
        pytest.param([Histogram(boundaries_for(MS), ()), histogram()], True, id="one is for another target"),
        pytest.param([Histogram((1,), ()), None], False, id="somebody else's"),
        pytest.param([Histogram((1,), ()), Histogram(boundaries_for(MS), ())], False, id="somebody else's beside ours"),
    ],
)
def test_may_have_histogram(found: list[Histogram | None], expected: bool) -> None:
    """A histogram is set where there is none for the target, and never in the place of somebody else's."""
    served = {str(number): Served(0, 0, each) for number, each in enumerate(found)}
    assert may_have_histogram(GuestDevice("vda", served), TARGET) is expected


@pytest.mark.parametrize(
    ("taken", "slow"),
    [
        pytest.param([], 0, id="none"),
        pytest.param([1, 4.9], 0, id="fast ones"),
        pytest.param([1, 5, 400], 2, id="as slow as the target, and slower"),
    ],
)
def test_what_was_served_between_two_looks(taken: list[float], slow: int) -> None:
    """What came since the look before counts, and each request for itself."""
    before = Served(2, 7 * MS, histogram(1, 6))
    after = Served(2 + len(taken), int((7 + sum(taken)) * MS), histogram(1, 6, *taken))
    found = between(before, after, TARGET)
    assert (found.operations, found.nanoseconds, found.is_mean) == (len(taken), sum(taken) * MS, False)
    assert found.slower_than(AT_TARGET) == slow


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param(None, None, id="nobody counts them"),
        pytest.param(None, histogram(1), id="somebody counts since"),
        pytest.param(histogram(), None, id="nobody counts them any more"),
        pytest.param(Histogram((1,), (0, 0)), Histogram((1,), (0, 4)), id="somebody else counts them"),
        pytest.param(Histogram(OURS, (0,)), Histogram(OURS, (4,)), id="the bins do not fit"),
    ],
)
@pytest.mark.parametrize(("mean", "slow"), [(4.0, 0), (6.0, 4)])
def test_without_a_histogram(before: Histogram | None, after: Histogram | None, mean: float, slow: int) -> None:
    """All requests count as their mean."""
    found = between(Served(1, 10 * MS, before), Served(5, int((10 + 4 * mean) * MS), after), TARGET)
    assert (found.operations, found.is_mean, found.slower_than(AT_TARGET)) == (4, True, slow)
    assert found.latency(TARGET) == mean * MS


def test_a_device_that_was_reset() -> None:
    """Nothing less than nothing was served."""
    found = between(Served(9, 90, histogram(1, 1)), Served(1, 10, histogram(1)), TARGET)
    assert (found.operations, found.nanoseconds, found.slower_than(0)) == (0, 0, 0)


@pytest.mark.parametrize(
    ("taken", "least", "most"),
    [
        pytest.param([0.1] * 100, 0, 1.25, id="all are fast"),
        pytest.param([0.1] * 96 + [50] * 4, 0, 1.25, id="few are slow"),
        pytest.param([0.1] * 90 + [9] * 10, 7.5, 10, id="a tenth is slow"),
        pytest.param([12] * 10, 10, 15, id="all are slow"),
        pytest.param([5000] * 10, 320, 320, id="beyond the ladder"),
    ],
)
def test_the_latency_of_an_interval(taken: list[float], least: float, most: float) -> None:
    """The 95th percentile lies between the boundaries that enclose it."""
    latency = requests(*taken).latency(TARGET)
    assert latency is not None
    assert least * MS <= latency <= most * MS


def test_no_request_has_no_latency() -> None:
    """Nothing is told of a guest that asked for nothing."""
    assert Interval().latency(TARGET) is None
    assert requests(1).faded(0.1).latency(TARGET) is None


@pytest.mark.parametrize(
    ("looks", "is_slow", "is_very_slow"),
    [
        pytest.param([[1] * 20], False, False, id="fast"),
        pytest.param([[9]], False, True, id="a single slow one is chance"),
        pytest.param([[9], [9]], True, True, id="two are none"),
        pytest.param([[9], [1] * 20, [9]], False, True, id="unless many fast ones are between"),
        pytest.param([[1] * 38 + [9] * 2], False, False, id="one of twenty may be slow"),
        pytest.param([[1] * 36 + [9] * 4], True, False, id="two of twenty may not"),
        pytest.param([[1] * 30 + [9] * 3] * 2, True, False, id="not for long"),
    ],
)
def test_a_gauge(looks: list[list[float]], is_slow: bool, is_very_slow: bool) -> None:
    """What is too slow adds up over the looks, whatever their number."""
    gauge = Gauge()
    for taken in looks:
        gauge = gauge.after(requests(*taken), 0.25)
    assert (gauge.is_slow, gauge.is_very_slow) == (is_slow, is_very_slow)
    assert gauge.forgiven().is_slow is False


@pytest.mark.parametrize(
    ("alone", "rung"),
    [
        pytest.param([1] * 20, AT_TARGET, id="as fast as it shall be"),
        pytest.param([6] * 20, AT_TARGET + 2, id="slower by itself: one place above its own"),
        pytest.param([1] * 10 + [70] * 2, LADDER.index(16.0) + 1, id="its slow requests count"),
        pytest.param([9000] * 20, END + 1, id="so slow that nothing can be told any more"),
        pytest.param([9] * 4, 5, id="too few requests: as it was"),
    ],
)
def test_a_gauge_by_itself(alone: list[float], rung: int) -> None:
    """A guest that is slow while the streams stand nearly still is measured by that."""
    gauge = Gauge(rung=5, overdraft=3.0, alone=requests(*alone)).judged_alone()
    assert (gauge.rung, gauge.is_lifted, gauge.overdraft, gauge.alone) == (rung, rung > AT_TARGET, 0.0, Interval())
    assert gauge.after(requests(*[9000] * 9), 0.25).is_slow is (rung < END)
