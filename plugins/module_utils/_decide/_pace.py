# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How fast the streams of a call may be, so that the guests do not feel them: a controller, from look to look.

It goes up while the guests' requests are fast enough, and down at once when they are not. The limit at which they were
slowed is kept in mind: it is approached slowly, and left behind when it holds no more.

A guest that is too slow although the streams hardly copy may be slow by itself. Then they stand nearly still for some
seconds, to see. If it is no faster so, they are not to blame, and what counts from then on is what it was by itself;
every now and then that is looked at again.

Nothing here does I/O or knows a clock. Times are seconds, limits and rates bytes per second, of all streams together.
"""

from __future__ import annotations

import math
from typing import Mapping, NamedTuple

from ._latency import Gauge, GaugeName, Interval

# No stream gets less: a disk of 30 GiB takes 9 hours then, and one request of 512 KiB each half a second.
FLOOR = 2**20
# Where nothing is known yet.
START = 32 * 2**20

# A look takes no more than this part of the time of QEMU's main loop, and of ours.
_LEAST_LOOK, _MOST_LOOK, _LOOKS_PER_COST = 0.25, 2.0, 50

# Up by so much in a second: far from where the guests were slowed, and near to it.
_BRISK, _GENTLE = 2.0, 1.05
_NEAR, _BEYOND, _FAR_BEYOND = 0.75, 1.1, 1.3
_FADING = 1.05
# Down by so much: where some requests are too slow, and where most are.
_CUT, _DEEP_CUT = 0.8, 0.5
# What is in the queues when the limit goes down is no reason to go down again.
_SETTLE_SECONDS = 0.4
# A guest that asks for nothing for so long has nothing to be slowed; before, it may be waiting for an answer.
_IDLE_SECONDS = 1.0
# The limit is no more than so many times what the streams do, or it would not be felt when it goes down.
_MOST_HEADROOM = 2.0
_HELD_FROM = 0.6
# The rate is the highest of late, for a stream copies in strokes of 512 KiB: so much of it is kept for a second.
_KEPT_OF_RATE = 0.5

# Near the floor for so long, with guests that are too slow, raises the doubt whether the streams are to blame.
_LOW = 4.0
_BLAMED_SECONDS = 3.0
_DOUBT_SECONDS, _MOST_DOUBT = 5.0, 600.0
# For so long they stand nearly still to see, or a bit longer if the guests do little.
_PROBE_SECONDS, _LONGEST_PROBE = 3.0, 10.0
_ENOUGH_REQUESTS = 20
# When a guest that is slow by itself is looked at again.
_AGAIN_SECONDS, _MOST_AGAIN = 60.0, 600.0


def pause_after(cost: float) -> float:
    """When to look again, after a look that took so many seconds."""
    return min(_MOST_LOOK, max(_LEAST_LOOK, _LOOKS_PER_COST * cost))


class Seen(NamedTuple):
    """What was seen in the ``seconds`` since the look before, of so many streams.

    ``rate`` is what they passed over, and ``most`` what the user lets them have, 0 without a limit.
    """

    seconds: float
    streams: int
    rate: float
    most: int
    intervals: Mapping[GaugeName, Interval]

    @property
    def floor(self) -> float:
        """What the streams get whatever the guests feel."""
        floor = float(FLOOR * self.streams)
        return min(floor, self.most) if self.most else floor

    @property
    def requests(self) -> float:
        """How many requests of the guests were served."""
        return sum(interval.operations for interval in self.intervals.values())


class Pace(NamedTuple):
    """The limit of all streams, and what it follows from.

    ``knee`` is the limit at which the guests were slowed last, ``is_falling`` whether it has gone down only since.
    ``low_for`` is for how long the streams were near the
    floor with guests that were too slow, and ``doubt`` how long that may be. ``probe`` is for how long they have stood
    nearly still, to see how the guests are by themselves; None where they do not. ``again_in`` is when to do so again
    because of guests that are slow by themselves, and ``again_after`` how long to wait for that.
    """

    limit: float = float(START)
    knee: float | None = None
    rate: float = 0.0
    since_cut: float = 3600.0
    is_falling: bool = False
    idle_for: float = 0.0
    low_for: float = 0.0
    doubt: float = _DOUBT_SECONDS
    probe: float | None = None
    resume_at: float = 0.0
    again_in: float = _AGAIN_SECONDS
    again_after: float = _AGAIN_SECONDS
    gauges: Mapping[GaugeName, Gauge] = {}

    def after(self, seen: Seen) -> Pace:
        """The same after another look."""
        now = self._with(seen)
        if now.probe is not None:
            return now._probing(seen)
        if now._wants_probe:
            return now._begin_probe(seen)
        slow = [gauge for gauge in now.gauges.values() if gauge.is_slow]
        if slow:
            return now._down(seen, is_deep=any(gauge.is_very_slow for gauge in slow))
        return now._up(seen)

    def _with(self, seen: Seen) -> Pace:
        """The same with what was seen."""
        gauges = dict(self.gauges)
        for name, interval in seen.intervals.items():
            gauges[name] = gauges.get(name, Gauge()).after(interval, seen.seconds)
        is_low = self.limit <= _LOW * seen.floor and self.since_cut < _BLAMED_SECONDS
        has_lifted = any(gauge.is_lifted for gauge in gauges.values())
        return self._replace(
            limit=self._within(self.limit, seen),
            gauges=gauges,
            rate=max(seen.rate, self.rate * _KEPT_OF_RATE**seen.seconds),
            since_cut=self.since_cut + seen.seconds,
            idle_for=0.0 if seen.requests else self.idle_for + seen.seconds,
            low_for=max(0.0, self.low_for + (seen.seconds if is_low else -seen.seconds)),
            again_in=self.again_in - seen.seconds if has_lifted else self.again_after,
        )

    # -- Up and down ---------------------------------------------------------------------------------------------------

    def _down(self, seen: Seen, *, is_deep: bool) -> Pace:
        gauges = {name: gauge.forgiven() for name, gauge in self.gauges.items()}
        blamed = self._replace(gauges=gauges, since_cut=0.0)
        if self.since_cut < _SETTLE_SECONDS:
            return self._replace(gauges=gauges)
        pace = min(self.limit, max(self.rate, seen.floor))
        lower = pace * (_DEEP_CUT if is_deep else _CUT)
        if self.is_falling:
            # What is still in the queues is of the time before: it tells nothing of the limit since.
            return blamed._replace(limit=max(seen.floor, lower))
        # While the guests were idle the limit has left behind what they bear.
        if self.knee is not None and self.limit > _FAR_BEYOND * self.knee:
            # Half-way, on a scale of ratios: that load may be back, or another one.
            knee = math.sqrt(self.knee * lower / _CUT)
            return blamed._replace(limit=max(seen.floor, min(lower, _CUT * knee)), knee=knee, is_falling=True)
        return blamed._replace(limit=max(seen.floor, lower), knee=pace, is_falling=True)

    def _up(self, seen: Seen) -> Pace:
        is_idle = self.idle_for >= _IDLE_SECONDS
        if is_idle:
            return self._raised(_BRISK, seen)
        is_doubtful = any(gauge.overdraft for gauge in self.gauges.values())
        if is_doubtful or not seen.requests:
            return self._raised(1.0, seen)
        if self.knee is None or self.limit < _NEAR * self.knee:
            return self._raised(_BRISK, seen)
        if any(gauge.is_in_debt for gauge in self.gauges.values()):
            return self._raised(1.0, seen)
        if self.limit <= _BEYOND * self.knee:
            return self._raised(_GENTLE, seen)
        # The load may come back with which it was there, so it is not forgotten at once.
        return self._raised(_BRISK, seen)._replace(knee=self.knee * _FADING**seen.seconds)

    def _raised(self, per_second: float, seen: Seen) -> Pace:
        raised = self.limit * per_second**seen.seconds
        raised = min(raised, max(self.limit, _MOST_HEADROOM * self.rate))
        limit = self._within(raised, seen)
        if not self.is_falling or per_second <= 1.0:
            return self._replace(limit=limit)
        # Where it began to fall it was too high, and where it ended too low, if there was much in the queues.
        knee = math.sqrt((self.knee or self.limit) * self.limit / _CUT)
        return self._replace(limit=limit, knee=knee, is_falling=False)

    def _within(self, limit: float, seen: Seen) -> float:
        limit = max(limit, seen.floor)
        return min(limit, seen.most) if seen.most else limit

    # -- Whether the streams are to blame ------------------------------------------------------------------------------

    @property
    def _wants_probe(self) -> bool:
        return self.low_for >= self.doubt or self.again_in <= 0

    def _begin_probe(self, seen: Seen) -> Pace:
        gauges = {name: gauge._replace(alone=Interval()) for name, gauge in self.gauges.items()}
        return self._replace(gauges=gauges, probe=0.0, resume_at=self.limit, limit=seen.floor, low_for=0.0)

    def _probing(self, seen: Seen) -> Pace:
        lasted = (self.probe or 0.0) + seen.seconds
        gauges = dict(self.gauges)
        # What was on its way when it began is not counted.
        if lasted - seen.seconds >= _SETTLE_SECONDS:
            for name, interval in seen.intervals.items():
                gauges[name] = gauges[name]._replace(alone=gauges[name].alone.plus(interval))
        now = self._replace(probe=lasted, gauges=gauges)
        requests = sum(gauge.alone.operations for gauge in gauges.values())
        if lasted < _PROBE_SECONDS or (requests < _ENOUGH_REQUESTS and lasted < _LONGEST_PROBE):
            return now
        return now._end_probe()

    def _end_probe(self) -> Pace:
        gauges = {name: gauge.judged_alone() for name, gauge in self.gauges.items()}
        is_slower = any(gauge.rung > self.gauges[name].rung for name, gauge in gauges.items())
        has_lifted = any(gauge.is_lifted for gauge in gauges.values())
        again_after = min(_MOST_AGAIN, 2 * self.again_after) if has_lifted and not is_slower else _AGAIN_SECONDS
        return self._replace(
            gauges=gauges,
            probe=None,
            limit=self.resume_at,
            # What was held against the streams was not theirs.
            knee=None if is_slower else self.knee,
            is_falling=False,
            doubt=_DOUBT_SECONDS if is_slower else min(_MOST_DOUBT, 2 * self.doubt),
            again_in=again_after,
            again_after=again_after,
        )

    # -- What is told of it --------------------------------------------------------------------------------------------

    def holds(self, most: int) -> bool:
        """Whether it is this limit that holds the streams back, not their storage, or what the user lets them have."""
        if most and self.limit >= most:
            return False
        return self.probe is not None or self.rate >= _HELD_FROM * self.limit
