# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What each stream may copy per second where all streams of a call have a limit together."""

from __future__ import annotations

from typing import Sequence

from .._model._errors import MonitorLost, MonitorSilent
from .._model._request import Request
from .._model._target import Target
from ._outcome import Outcome
from ._schedule import Turn, turn

# Of these VMs nobody knows whether their streams go on.
_UNKNOWN = {MonitorLost.__name__, MonitorSilent.__name__}


def share(request: Request, streams: int, left: int | None = None) -> Request:
    """The same request for one of so many streams: its part of ``total_speed``, and no more than its own ``speed``.

    :param left: what the guests leave to all streams; None where nobody looks at them.
    """
    total = request.total_speed
    # QEMU takes 0 for no limit.
    if left is not None:
        total = min(left, total) if total else left
    if total is None:
        return request
    part = 0
    if total:
        part = max(1, total // max(1, streams))
    if request.speed:
        part = min(part, request.speed) if part else request.speed
    return request._replace(speed=part)


def streams_at_first(lanes: Sequence[Sequence[Target]], request: Request) -> list[Target]:
    """The disks whose streams run already, and those whose streams begin at once because there are places for them."""
    running: list[Target] = []
    waiting: list[Target] = []
    for lane in lanes:
        turns = [turn(target, request) for target in lane]
        own = [target for target, kind in zip(lane, turns) if kind is Turn.COUNTS]
        running += own
        # One after the other, in a lane.
        if not own and Turn.WAITS in turns:
            waiting.append(lane[turns.index(Turn.WAITS)])
    places = max(0, request.parallel - len(running))
    return [*running, *waiting[:places]]


def copies_on(outcome: Outcome) -> bool:
    """Whether the stream of a disk goes on, or may do so, when nobody follows it any more."""
    if outcome.error is not None and outcome.error.kind in _UNKNOWN:
        return True
    job = outcome.job
    return job is not None and not (job.paused or job.is_pending or job.is_concluded)
