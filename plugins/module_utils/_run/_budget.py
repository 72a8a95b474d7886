# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The limit that all streams of a call have together, shared anew when one begins or ends."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, AsyncContextManager, AsyncIterator, Callable, Iterable

from .._decide._plan import WaitEnd
from .._decide._share import share
from .._model._errors import CommandRefused, QmpError
from .._model._request import Key, Request
from .._model._seams import Link

if TYPE_CHECKING:
    from ._pacing import Pacing


@dataclass
class Followed:
    """A stream that is waited for, and how the wait ended; None while it lasts, or where it was broken off.

    ``speed`` is its limit at the beginning, 0 or None without one.
    """

    key: Key
    link: Link
    job_id: str
    speed: int | None = None
    end: WaitEnd | None = None


@contextlib.asynccontextmanager
async def paced(pacing: Pacing | None, followed: Followed) -> AsyncIterator[None]:
    """Pace a stream as long as the context lasts, if it is to be paced."""
    if pacing is None:
        yield
        return
    async with pacing.following(followed):
        yield


class Budget:
    """Who copies now, and what each of them may copy per second.

    A stream that begins has the others slowed down first, so that all together never exceed the limit; one that ends
    leaves its part to the others.
    """

    def __init__(
        self, request: Request, borrow: Callable[[str], AsyncContextManager[Link]], at_first: Iterable[Key] = ()
    ):
        """:param borrow: how to get the monitor of a VM, of which nobody may hold the connection now.
        :param at_first: the disks whose streams run, or begin at once.
        """
        self._asked = request
        self._borrow = borrow
        self._members = set(at_first)
        self._jobs: dict[Key, str] = {}
        self._speeds: dict[Key, int] = {}
        self._sharing = asyncio.Lock()
        # What the guests leave to all streams together.
        self._left: int | None = None
        self.pacing: Pacing | None = None
        if request.guest_latency is not None and request.state == "populated":
            self.pacing = self._pacing_for(request.guest_latency)

    def _pacing_for(self, target: int) -> Pacing:
        # Loaded here, and only here: most tasks have no target.
        from .._decide._felt import go_on_from
        from ._pacing import Pacing

        pace = go_on_from(self._asked.paced)
        self._left = int(pace.limit)
        return Pacing(target, pace, self, goes_on=self._asked.goes_on)

    @property
    def request(self) -> Request:
        """What is asked of each stream at present."""
        return share(self._asked, len(self._members), self._left)

    @property
    def own_speed(self) -> int:
        """What the user lets each stream have, whatever the guests feel."""
        return share(self._asked, len(self._members)).speed or 0

    @property
    def count(self) -> int:
        """How many streams share a limit."""
        return max(1, len(self._members))

    async def limit_to(self, left: int) -> None:
        """Share what the guests leave among the streams that are followed."""
        self._left = left
        await self._share()

    def forget(self, key: Key) -> None:
        """Let a stream have its speed, until it is followed again: its monitor may belong to another run."""
        self._jobs.pop(key, None)

    async def join(self, key: Key) -> None:
        """Make room for a stream that is about to begin."""
        self._members.add(key)
        await self._share()

    def follow(self, key: Key, job_id: str, speed: int | None) -> bool:
        """From now on the job of a disk is told of every change; whether it has missed one.

        :param speed: its limit now; None where it was started without one.
        """
        self._jobs[key], self._speeds[key] = job_id, speed or 0
        return self.request.speed not in (None, self._speeds[key])

    async def leave(self, key: Key, *, is_shared: bool) -> None:
        """A stream is over. Its part is left to the others, unless another one begins in its place."""
        self._members.discard(key)
        self._jobs.pop(key, None)
        if is_shared:
            await self._share()

    async def _share(self) -> None:
        # One after the other, so that a later share is not overtaken by an earlier one.
        async with self._sharing:
            speed = self.request.speed
            is_shared = self._asked.total_speed is not None or self._left is not None
            if is_shared and speed is not None:
                others = [(key, job_id) for key, job_id in self._jobs.items() if self._speeds[key] != speed]
                await asyncio.gather(*(self._set(key, job_id, speed) for key, job_id in others))

    async def _set(self, key: Key, job_id: str, speed: int) -> None:
        try:
            async with self._borrow(key[0]) as link:
                await link.set_speed(job_id, speed)
                self._speeds[key] = speed
        except CommandRefused:
            return  # it has just ended
        except QmpError:
            # Whoever follows the stream tells of it. A VM that does not answer must not hold up the others once more.
            self._jobs.pop(key, None)
