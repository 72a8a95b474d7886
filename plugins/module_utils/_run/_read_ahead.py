# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Read ahead of one stream while it runs: have QEMU copy what the stream will come to, several requests at a time."""

from __future__ import annotations

import asyncio
import collections
import contextlib
from typing import AsyncIterator, Callable, Optional, Sequence

from .._decide._ahead import Allowance, Course, Window, requests, within
from .._model._errors import QmpError
from .._model._job import Job
from .._model._seams import Ahead, Link

# How often the job is looked at: it may be held, or get another limit, or overtake what is read ahead of it.
_LOOK_SECONDS = 0.2
# So much of the map is asked for at a time.
_MAP_BYTES = 2**27

Tell = Callable[[str], None]
Found = Callable[[], Optional[int]]


@contextlib.asynccontextmanager
async def reading_ahead(
    link: Link, node: str, job_id: str, course: Course, window: Window, tell: Tell
) -> AsyncIterator[Found]:
    """Read ahead of a job as long as the context lasts; nothing of it is left in QEMU then.

    :param window: how many requests may be under way at first.
    :param tell: takes the reason, in words, why nothing is read ahead, or no longer; it is no error of the stream.
    :return: what tells how many requests at a time were found worth it; None where that is not known.
    """
    exported = contextlib.AsyncExitStack()
    try:
        try:
            ahead = await exported.enter_async_context(link.read_ahead(node))
        except QmpError as error:
            tell(str(error))
            yield lambda: window.settled
            return
        reading = _Reading(link, job_id, ahead, course, window)
        running = asyncio.ensure_future(reading.run())
        try:
            yield lambda: reading.settled
        finally:
            await _stop(running, tell)
    finally:
        await _end(exported, tell)


async def _stop(reading: asyncio.Future[None], tell: Tell) -> None:
    reading.cancel()
    try:
        await reading
    except asyncio.CancelledError:
        pass
    except QmpError as error:
        tell(str(error))


async def _end(exported: contextlib.AsyncExitStack, tell: Tell) -> None:
    try:
        await exported.aclose()
    except QmpError as error:
        tell(str(error))


class _Reading:
    """The requests on their way, in the order of the disk."""

    def __init__(self, link: Link, job_id: str, ahead: Ahead, course: Course, window: Window):
        self._link = link
        self._job_id = job_id
        self._ahead = ahead
        self._course = course
        # Up to here it is known what is to be read, and this of it was neither asked for nor passed by the job.
        self._position = 0
        self._left: collections.deque[tuple[int, int]] = collections.deque()
        self._under_way: set[asyncio.Future[None]] = set()
        # What was asked for and is not yet behind the job.
        self._read: list[tuple[int, int]] = []
        # How many bytes were copied of what was to be read, by whomever.
        self._copied = 0
        self._job: Job | None = None
        self._look_at = 0.0
        self._allowance = Allowance(0.0, 0.0, 0)
        self._window = window

    @property
    def settled(self) -> int | None:
        """How many requests at a time were found worth it."""
        return self._window.settled

    async def run(self) -> None:
        """Go on until the end of the course, or of the job.

        :raise QmpError: it does not work, or no longer.
        """
        try:
            await self._look()
            self._position = 0 if self._job is None else self._job.offset
            while self._job is not None and (self._left or self._position < self._course.end):
                await self._step(self._job)
            while self._under_way:
                await self._reap(None)
        finally:
            for request in self._under_way:
                request.cancel()
            await asyncio.gather(*self._under_way, return_exceptions=True)

    async def _step(self, job: Job) -> None:
        """Do what comes next: one thing, or wait for one."""
        seconds = self._look_at - asyncio.get_running_loop().time()
        if seconds <= 0:
            await self._look()
        elif not self._left:
            await self._read_map()
        elif self._under_way and len(self._under_way) >= self._window.size:
            await self._reap(seconds)
        elif not self._window.size or job.paused or not self._allowance.covers(job, self._left[0][1]):
            await asyncio.sleep(seconds)
        else:
            self._send(*self._left.popleft())

    async def _read_map(self) -> None:
        """Find what is to be read in the next part of the course."""
        length = min(self._course.end - self._position, _MAP_BYTES)
        extents: Sequence[tuple[int, int]] = [(length, self._course.last_depth)]
        if self._course.needs_map:
            extents = within(await self._ahead.depths(self._position, length), length)
        self._left.extend(requests(extents, self._position, self._course))
        self._position += sum(size for size, _depth in extents)

    async def _look(self) -> None:
        """See where the job is now; None where it copies nothing any more."""
        now = asyncio.get_running_loop().time()
        job = next((job for job in await self._link.jobs() if job.id == self._job_id), None)
        if job is None or job.status not in ("running", "paused"):
            self._job = None
            return
        if self._job is None:
            self._allowance = Allowance(0.0, now, job.offset)
        self._allowance = self._allowance.at_look(job, now, self._read, self._course.step)
        self._read = [request for request in self._read if _end_of(request) > job.offset]
        self._job, self._look_at = job, now + _LOOK_SECONDS
        # What the job has passed meanwhile is copied.
        while self._left and _end_of(self._left[0]) <= job.offset:
            _offset, size = self._left.popleft()
            self._copied += size
        self._weigh(now)

    def _weigh(self, now: float) -> None:
        """Find out how many may be under way now."""
        steps = self._copied / self._course.step
        if self._job is not None and self._job.paused:
            self._window = self._window.anew(now, steps)
        else:
            self._window = self._window.after(now, steps)

    def _send(self, offset: int, size: int) -> None:
        self._under_way.add(asyncio.ensure_future(self._copy(offset, size)))
        self._read.append((offset, size))
        self._allowance = self._allowance.less(size)

    async def _copy(self, offset: int, size: int) -> None:
        await self._ahead.copy(offset, size)
        self._copied += size
        self._weigh(asyncio.get_running_loop().time())

    async def _reap(self, seconds: float | None) -> None:
        """Wait until a request is done, at most so long."""
        done, self._under_way = await asyncio.wait(
            self._under_way, timeout=seconds, return_when=asyncio.FIRST_COMPLETED
        )
        for request in done:
            request.result()


def _end_of(request: tuple[int, int]) -> int:
    offset, size = request
    return offset + size
