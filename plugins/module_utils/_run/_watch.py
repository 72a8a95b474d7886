# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Watch one job: woken by its events, with a slow poll for what has none, and no wait without an end."""

from __future__ import annotations

import asyncio
import contextlib

from .._decide._plan import WaitEnd, wait_end
from .._model._errors import JobHangs
from .._model._job import Ending, Job
from .._model._request import Waiting
from .._model._seams import Link

# Events tell when there is something to do. The poll is for what has no event, and for a QEMU that hangs.
_POLL_SECONDS = 5.0
# A cursor has no event. A stream without a speed limit moves some megabytes in this time.
_CURSOR_POLL_SECONDS = 0.02
# Who waits for the monitor has no event either. A look at the queue costs as much as the timer for it.
_WANTED_SECONDS = 0.5
# A job ends at once when it is told to, unless its storage hangs.
_END_SECONDS = 60.0


class JobWatch:
    """The events of a job from now on, and the job itself whenever one asks."""

    def __init__(self, link: Link, job_id: str, listeners: contextlib.ExitStack):
        self._link = link
        self._job_id = job_id
        self._events = listeners.enter_context(link.listen(job_id))
        self._ending: Ending | None = None
        self.last_seen: Job | None = None

    async def look(self) -> Job | None:
        """The job as it is now: as cheap as QMP gets, however deep the chain is."""
        jobs = await self._link.jobs()
        job = next((job for job in jobs if job.id == self._job_id), None)
        self.last_seen = job or self.last_seen
        return job

    async def wait(self, waiting: Waiting, deadline: float | None) -> WaitEnd:
        """Wait until there is a reason to do something.

        :param deadline: the time of the event loop at which waiting ends.
        """
        while True:
            job = await self.look()
            remaining = None if deadline is None else deadline - asyncio.get_running_loop().time()
            end = wait_end(
                job, waiting, time_is_up=remaining is not None and remaining <= 0, is_wanted=self._is_wanted()
            )
            if end is not None:
                return end
            poll = _POLL_SECONDS if waiting.mark is None else _CURSOR_POLL_SECONDS
            await self._rest(poll if remaining is None else min(poll, remaining))

    async def _rest(self, seconds: float) -> None:
        """Wait for an event, or another run that wants the monitor."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while loop.time() < until and not self._is_wanted():
            if await self._hear(min(_WANTED_SECONDS, until - loop.time())):
                return

    def _is_wanted(self) -> bool:
        return self._link.runs is not None and self._link.runs.is_waiting()

    async def end(self) -> None:
        """Wait until a job that was told to end is gone, or concluded if it is one that must be dismissed.

        After the event of its end QEMU does not take the next command before the job is one or the other.

        :raise JobHangs: it does not end.
        """
        patience = asyncio.get_running_loop().time() + _END_SECONDS
        while await self.ending() is None:
            job = await self.look()
            if job is None or job.is_concluded:
                return
            if asyncio.get_running_loop().time() >= patience:
                raise JobHangs(
                    f"{job.position} and does not end within {_END_SECONDS:g} s. Does the storage of its images answer?"
                )
            await self._hear(_POLL_SECONDS)

    async def ending(self) -> Ending | None:
        """How the job ended; None if its event has not come, and then only the chain tells."""
        while await self._hear(0):
            pass
        return self._ending

    async def _hear(self, seconds: float) -> bool:
        """Wait for an event, and remember it if it tells of the end; whether there was one."""
        event = await self._events.next(seconds)
        if event is None:
            return False
        self._ending = event.ending or self._ending
        return True
