# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Many disks of many VMs in one call: so many at a time, each monitor held only while its VM has work."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Sequence

from .._decide._outcome import Outcome, not_begun, untouched
from .._decide._schedule import Turn, lanes, turn
from .._decide._share import copies_on, streams_at_first
from .._model._errors import Failure, QmpError, TimeIsUp
from .._model._request import Request, Waiting
from .._model._seams import Host, OtherRuns
from .._model._target import Target
from ._budget import Budget
from ._links import Links
from ._observe import VISITS_AT_ONCE, explain
from ._reconcile import reconcile

if TYPE_CHECKING:
    from .._decide._felt import Felt

# How long no other run must have been at a monitor before who gave way comes back: longer than the controller of the
# other one takes between two slices. How often that is looked at.
_QUIET_SECONDS = 5.0
_LOOK_SECONDS = 1.0


def _deadline_of(waiting: Waiting) -> float | None:
    """When the wait is over, by the clock of the event loop; None where it takes as long as it takes."""
    now = asyncio.get_running_loop().time()
    if not waiting.wait:
        return now
    return None if waiting.timeout is None else now + waiting.timeout


def _until(deadline: float | None) -> float | None:
    """The seconds until the deadline, 0 behind it; None without one."""
    return None if deadline is None else max(0.0, deadline - asyncio.get_running_loop().time())


class _Slots:
    """So many streams may run at a time. Those that run already count, but need not wait."""

    def __init__(self, limit: int):
        self._limit = limit
        self._taken = 0
        self._waiting = 0
        self._freed = asyncio.Condition()

    async def take(self, deadline: float | None, *, runs_already: bool) -> bool:
        """Wait for a slot; False when the deadline came first, or together with it."""
        async with self._freed:
            if not runs_already and not self._has_room():
                self._waiting += 1
                try:
                    await asyncio.wait_for(self._freed.wait_for(self._has_room), _until(deadline))
                except asyncio.TimeoutError:
                    return False
                finally:
                    self._waiting -= 1
                if _until(deadline) == 0:
                    return False
            self._taken += 1
            return True

    @property
    def is_wanted(self) -> bool:
        """Whether somebody waits for a slot."""
        return self._waiting > 0

    async def give_back(self) -> None:
        """Let the next one go."""
        async with self._freed:
            self._taken -= 1
            self._freed.notify()

    def _has_room(self) -> bool:
        return self._taken < self._limit


async def reconcile_all(targets: Sequence[Target], request: Request, links: Links, host: Host) -> list[Outcome]:
    """Do what is wished with every target; the outcomes are in the order of the targets.

    What fails for one disk stops no other.
    """
    # Not before: what the look at the VMs has taken is no more to be waited for by the clock.
    now = request._replace(waiting=request.waiting.beginning_at(time.time()))
    return await _Fleet(targets, now, links, host).run()


class _Fleet:
    """All disks of a call on their way."""

    def __init__(self, targets: Sequence[Target], request: Request, links: Links, host: Host):
        self._targets = targets
        self._request = request
        self._host = host
        self._deadline = _deadline_of(request.waiting)
        self._slots = _Slots(request.parallel)
        self._brief = asyncio.Semaphore(VISITS_AT_ONCE)
        self._links = links
        self._lanes = lanes(targets)
        at_first = [target.key for target in streams_at_first(self._lanes, request)]
        self._budget = Budget(request, links.borrow, at_first)
        self._outcomes: dict[int, Outcome] = {}

    async def run(self) -> list[Outcome]:
        """Every lane by itself."""
        await asyncio.gather(*(self._run_lane(lane) for lane in self._lanes))
        return [self._outcomes[id(target)] for target in self._targets]

    async def _run_lane(self, lane: Sequence[Target]) -> None:
        # The disks of a lane share nodes: a stream can begin only when that of the one before is gone.
        holder: Target | None = None
        for target in lane:
            if holder is not None and turn(target, self._request) is Turn.WAITS:
                reason = f"it shares a backing node with disk {holder.disk.label}, whose job is still there"
                self._outcomes[id(target)] = _left_waiting(target, self._request, reason)
                continue
            outcome = self._outcomes[id(target)] = await self._take_turn_by_itself(target)
            holder = holder or (target if outcome.job is not None else None)

    async def _take_turn_by_itself(self, target: Target) -> Outcome:
        """What nobody foresaw, for one disk, must not take the streams and the results of all others with it."""
        (end,) = await asyncio.gather(self._take_turn(target), return_exceptions=True)
        if isinstance(end, BaseException):
            return untouched(target, self._request, Failure.of_defect(end, target.label))
        return end

    async def _take_turn(self, target: Target) -> Outcome:
        kind = turn(target, self._request)
        if kind is Turn.NEEDS_NONE:
            async with self._brief:
                return await self._see_through(target)
        if not await self._slots.take(self._deadline, runs_already=kind is Turn.COUNTS):
            reason = f"its turn did not come before {self._request.waiting.over}"
            return _left_waiting(target, self._request, reason)
        began = asyncio.get_running_loop().time()
        outcome: Outcome | None = None
        try:
            await self._budget.join(target.key)
            outcome = await self._see_through(target)
            clock = asyncio.get_running_loop().time()
            return outcome._replace(seconds=clock - began, clock=clock, felt=self._felt(target))
        finally:
            # A stream that goes on keeps its slot when nobody follows it any more; a failure must not hold back others.
            if outcome is None or outcome.job is None or outcome.job.paused or outcome.error is not None:
                await self._slots.give_back()
            if outcome is None or not copies_on(outcome):
                # What the time is over for is not hurried up any more.
                has_time = not self._request.waiting.wait or _until(self._deadline) != 0
                await self._budget.leave(target.key, is_shared=has_time and not self._slots.is_wanted)

    def _felt(self, target: Target) -> Felt | None:
        return None if self._budget.pacing is None else self._budget.pacing.felt(target.key)

    async def _see_through(self, target: Target) -> Outcome:
        """One long visit to the monitor, unless another run wants it; or short ones, with a ``poll_interval``."""
        outcome: Outcome | None = None
        monitor = target.vm.identity.monitor
        while True:
            is_last = _until(self._deadline) == 0
            try:
                async with self._links.borrow(monitor) as link:
                    runs = link.runs
                    is_seen = outcome is None and self._links.is_seen(monitor)
                    outcome = await reconcile(
                        link, self._host, target, self._budget, self._deadline, outcome, is_seen=is_seen
                    )
            except QmpError as error:
                failure = await explain(target.label, error, monitor, self._host)
                return (outcome or untouched(target, self._request))._replace(error=failure)
            if is_last or outcome.error is not None:
                return outcome
            if outcome.gives_way and runs is not None:
                await self._stay_away(runs)
                continue
            if outcome.job is None or not self._request.waiting.poll_interval or self._request.state != "populated":
                return outcome
            await self._pause(self._request.waiting.poll_interval)

    async def _stay_away(self, runs: OtherRuns) -> None:
        """Leave a monitor to another run until that is done with it, or our own time is up.

        Between two visits of the other one nobody is there for a moment. If several stay away from one monitor, whoever
        comes back first is asked to give way by the next, which ends as soon as one of them is left.
        """
        loop = asyncio.get_running_loop()
        last_seen: float | None = None
        while _until(self._deadline) != 0:
            await self._pause(_LOOK_SECONDS)
            if runs.is_there():
                last_seen = loop.time()
            elif last_seen is None or loop.time() - last_seen >= _QUIET_SECONDS:
                return

    async def _pause(self, seconds: float) -> None:
        remaining = _until(self._deadline)
        await asyncio.sleep(seconds if remaining is None else min(seconds, remaining))


def _left_waiting(target: Target, request: Request, reason: str) -> Outcome:
    """A disk whose turn did not come: an error only if the user wanted to wait for it, and for nothing less."""
    if request.waiting.wait and request.waiting.on_timeout == "fail":
        return not_begun(target, request, TimeIsUp, reason)
    return untouched(target, request)
