# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is told of a guest's latency, and what one look of a task leaves to the next."""

from __future__ import annotations

from typing import NamedTuple

from .._model._latency import Paced
from ._latency import Gauge, GaugeName
from ._pace import Pace


class Felt(NamedTuple):
    """What the guest of a stream feels, and the stream of it.

    ``now`` is the latency of its slowest requests in nanoseconds, those of ``kind`` on the device ``qdev``; None where
    it made none of late. ``is_mean`` is as in ``Interval``. ``is_by_itself``: it is slower than the target whatever the
    streams do. ``held_back`` is for how many seconds the stream waited for it.
    """

    target: int
    held_back: float
    now: float | None = None
    qdev: str | None = None
    kind: str | None = None
    is_mean: bool = False
    is_by_itself: bool = False
    paced: Paced = Paced()


def felt_by(pace: Pace, monitor: str, target: int, held_back: float) -> Felt:
    """What the guest behind a monitor feels."""
    felt = Felt(target, held_back, paced=memory_of(pace))
    for name, gauge in pace.gauges.items():
        latency = gauge.recent.latency(target)
        if name.monitor != monitor or latency is None:
            continue
        if felt.now is None or latency > felt.now:
            felt = felt._replace(
                now=latency,
                qdev=name.qdev,
                kind=name.kind,
                is_mean=gauge.recent.is_mean,
                is_by_itself=gauge.is_lifted,
            )
    return felt


def memory_of(pace: Pace) -> Paced:
    """What a later look of the same task is to know."""
    lifted = [(*name, gauge.rung) for name, gauge in pace.gauges.items() if gauge.is_lifted]
    return Paced(
        limit=int(pace.limit if pace.probe is None else pace.resume_at),
        knee=None if pace.knee is None else int(pace.knee),
        low_for=pace.low_for,
        doubt=pace.doubt,
        again_in=pace.again_in,
        again_after=pace.again_after,
        lifted=tuple(lifted),
    )


def go_on_from(paced: Paced | None) -> Pace:
    """The pace at the beginning of a look, from what the look before has left; None where there was none."""
    fresh = Pace()
    if paced is None:
        return fresh
    gauges = {GaugeName(monitor, qdev, kind): Gauge(rung) for monitor, qdev, kind, rung in paced.lifted}
    return Pace(
        limit=float(max(1, paced.limit)),
        knee=paced.knee,
        low_for=paced.low_for,
        doubt=max(paced.doubt, fresh.doubt),
        again_in=paced.again_in,
        again_after=max(paced.again_after, fresh.again_after),
        gauges=gauges,
    )
