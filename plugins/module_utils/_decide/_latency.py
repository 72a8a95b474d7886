# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the guests feel: how many of their requests were too slow between two looks. Nothing here does I/O.

It is a percentile that a user means by "at most 5 ms", and the mean of two looks tells nothing of it: a guest most of
whose reads are served from memory has a mean far below the time of those that are not. So QEMU is asked to count in a
histogram, and the share of requests above a boundary is what counts. Where another tool has a histogram of its own on
a device, that is left alone, and the mean has to serve.
"""

from __future__ import annotations

from typing import NamedTuple, Tuple

from .._model._latency import GuestDevice, Histogram, Served

# The boundaries of the histograms, in parts of the target.
LADDER = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 48.0, 64.0)
AT_TARGET = LADDER.index(1.0)
# So many of the requests may be slower: what is held is the 95th percentile.
SLOW_SHARE = 0.05
# A single slow request is chance, and two in a row are none.
_MOST_OVERDRAFT = 1.5
# What is told as "now" is of the last seconds: so much of it is left after each.
_KEPT_PER_SECOND = 0.6
_DEBT_PER_SECOND = 0.97
# With fewer requests nothing can be said of a guest by itself.
_FEWEST = 5

Counts = Tuple[float, ...]


def boundaries_for(target: int) -> tuple[int, ...]:
    """The boundaries of the histograms for a target, in nanoseconds."""
    return tuple(int(part * target) for part in LADDER)


def is_ours(histogram: Histogram) -> bool:
    """Whether a histogram is one of this collection, for whatever target; a task that was killed leaves it behind."""
    boundaries = histogram.boundaries
    return len(boundaries) == len(LADDER) and boundaries == boundaries_for(boundaries[AT_TARGET])


def may_have_histogram(device: GuestDevice, target: int) -> bool:
    """Whether QEMU is to count the requests of a device for this target: it does not yet, and not for somebody else."""
    found = [served.histogram for served in device.served.values() if served.histogram is not None]
    is_there = found and all(histogram.boundaries == boundaries_for(target) for histogram in found)
    return not is_there and all(map(is_ours, found))


class Interval(NamedTuple):
    """The requests of one kind between two looks: ``slower`` counts those that took each part of the target or more.

    ``is_mean``: nobody knows how long each took, so all of them count as the mean.
    """

    operations: float = 0.0
    nanoseconds: float = 0.0
    slower: Counts = (0.0,) * len(LADDER)
    is_mean: bool = False

    def plus(self, other: Interval) -> Interval:
        """Both together."""
        return Interval(
            self.operations + other.operations,
            self.nanoseconds + other.nanoseconds,
            tuple(one + more for one, more in zip(self.slower, other.slower)),
            other.is_mean,
        )

    def faded(self, part: float) -> Interval:
        """So much of it."""
        return Interval(
            self.operations * part,
            self.nanoseconds * part,
            tuple(count * part for count in self.slower),
            self.is_mean,
        )

    def slower_than(self, rung: int) -> float:
        """How many took as long as a place of the ladder says, or longer; behind its end none is too slow."""
        return self.slower[rung] if rung < len(LADDER) else 0.0

    def latency(self, target: int) -> float | None:
        """The 95th percentile in nanoseconds, or the mean where only that is known; None without requests."""
        # Of what has faded nearly nothing may be left.
        if self.operations < 0.5:
            return None
        if self.is_mean:
            return self.nanoseconds / self.operations
        slow = SLOW_SHARE * self.operations
        above, lower = self.operations, 0.0
        for part, count in zip(LADDER, self.slower):
            if count <= slow:
                return target * (lower + (part - lower) * (above - slow) / (above - count))
            above, lower = count, part
        return target * LADDER[-1]


def between(before: Served, after: Served, target: int) -> Interval:
    """What was served between two looks. A device that was reset counts from the beginning."""
    operations = max(0, after.operations - before.operations)
    nanoseconds = max(0, after.nanoseconds - before.nanoseconds)
    boundaries = boundaries_for(target)
    slower = _counted(before.histogram, after.histogram, boundaries)
    if slower is not None:
        return Interval(operations, nanoseconds, slower)
    mean = nanoseconds / max(1, operations)
    return Interval(operations, nanoseconds, tuple(operations * (mean >= each) for each in boundaries), is_mean=True)


def _counted(before: Histogram | None, after: Histogram | None, boundaries: tuple[int, ...]) -> Counts | None:
    """How many requests were at each boundary or above; None where there is no such histogram."""
    if before is None or after is None or not before.boundaries == after.boundaries == boundaries:
        return None
    new = [max(0, late - early) for early, late in zip(before.bins, after.bins)]
    if len(new) != len(boundaries) + 1:
        return None
    return tuple(float(sum(new[place + 1 :])) for place in range(len(boundaries)))


class GaugeName(NamedTuple):
    """One kind of requests of one device of a VM."""

    monitor: str
    qdev: str
    kind: str


class Gauge(NamedTuple):
    """One kind of requests of one device, over the looks.

    ``rung`` is the place in the ladder of what counts as too slow: that of the target, or a higher one where the guest
    is slow by itself. ``overdraft`` is how many more were too slow than may be: each request adds to what may be, and
    each slow one takes from it. ``debt`` is the same over the last while: it fades, and is not forgiven, so that it is
    all requests together that keep to the percentile. ``recent`` fades, and ``alone`` is of the time in which the
    streams stood nearly still.
    """

    rung: int = AT_TARGET
    overdraft: float = 0.0
    debt: float = 0.0
    recent: Interval = Interval()
    alone: Interval = Interval()
    is_very_slow: bool = False

    def after(self, interval: Interval, seconds: float) -> Gauge:
        """The same after another look, which came so many seconds after the one before."""
        slow = interval.slower_than(self.rung)
        too_many = slow - SLOW_SHARE * interval.operations
        overdraft = max(0.0, self.overdraft + too_many)
        debt = max(0.0, self.debt * _DEBT_PER_SECOND**seconds + too_many)
        recent = self.recent.faded(_KEPT_PER_SECOND**seconds).plus(interval)
        is_very_slow = slow > interval.operations / 2
        return self._replace(overdraft=overdraft, debt=debt, recent=recent, is_very_slow=is_very_slow)

    @property
    def is_slow(self) -> bool:
        """Whether too many were too slow."""
        return self.overdraft > _MOST_OVERDRAFT

    @property
    def is_lifted(self) -> bool:
        """Whether the guest was found to be slower than the target by itself."""
        return self.rung > AT_TARGET

    @property
    def is_in_debt(self) -> bool:
        """Whether too many were too slow over the last while, whatever was done about it since."""
        return self.debt > _MOST_OVERDRAFT

    def forgiven(self) -> Gauge:
        """The same once something was done about it."""
        return self._replace(overdraft=0.0)

    def judged_alone(self) -> Gauge:
        """The same with the latency that the guest has by itself; where too few requests tell it, as it was.

        It may then be one place higher, so that there is something for the streams to take.
        """
        found = self._replace(overdraft=0.0, debt=0.0, alone=Interval())
        if self.alone.operations < _FEWEST:
            return found
        most = SLOW_SHARE * self.alone.operations
        rung = AT_TARGET
        while self.alone.slower_than(rung) > most:
            rung += 1
        return found._replace(rung=rung if rung == AT_TARGET else rung + 1)
