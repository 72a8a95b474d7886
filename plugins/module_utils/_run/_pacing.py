# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Look at the guests of the streams that are followed, and let the streams have what the guests leave."""

from __future__ import annotations

import asyncio
import contextlib
import math
from dataclasses import dataclass, field
from typing import AsyncIterator, Mapping, Protocol, Sequence

from .._decide._felt import Felt, felt_by
from .._decide._latency import GaugeName, Interval, between, boundaries_for, is_ours, may_have_histogram
from .._decide._pace import Pace, Seen, pause_after
from .._decide._plan import WaitEnd
from .._model._errors import CommandRefused, QmpError
from .._model._job import Job
from .._model._latency import GuestDevice
from .._model._request import Key
from .._model._seams import Link
from ._budget import Followed

# Then the job copies no more, and has no use of a speed.
_OVER = (WaitEnd.GONE, WaitEnd.READY)


@dataclass
class _Guest:
    """The devices of a VM as they were at the last look."""

    link: Link
    devices: Mapping[str, GuestDevice] = field(default_factory=dict)


class Streams(Protocol):
    """All streams of a call, as who paces them needs them."""

    @property
    def count(self) -> int:
        """How many share a limit."""

    @property
    def own_speed(self) -> int:
        """What the user lets each of them have, 0 without a limit."""

    async def limit_to(self, left: int) -> None:
        """Limit all that are followed to so much together."""

    def forget(self, key: Key) -> None:
        """Let one of them have its speed from now on, until it is followed again."""


class Pacing:
    """All streams of a call that are followed now, and the limit that they have together.

    :param goes_on: whether another look of the same task follows this one.
    """

    def __init__(self, target: int, pace: Pace, streams: Streams, *, goes_on: bool):
        self.pace = pace
        self._target = target
        self._streams = streams
        self._goes_on = goes_on
        self._followed: list[Followed] = []
        self._guests: dict[str, _Guest] = {}
        self._offsets: dict[str, int] = {}
        self._held_back: dict[Key, float] = {}
        self._looked_at = 0.0
        self._looking: asyncio.Future[None] | None = None

    def felt(self, key: Key) -> Felt | None:
        """What the guest of a stream felt, and the stream of it; None where it was never followed."""
        if key not in self._held_back:
            return None
        return felt_by(self.pace, key[0], self._target, self._held_back[key])

    @contextlib.asynccontextmanager
    async def following(self, followed: Followed) -> AsyncIterator[None]:
        """Pace a stream as long as the context lasts. Then it gets the speed back that the user lets it have.

        It keeps the speed that it has where another look of the same task goes on with it.
        """
        self._held_back.setdefault(followed.key, 0.0)
        self._followed.append(followed)
        try:
            await self._begin(followed)
            yield
        finally:
            await self._end(followed)

    async def _begin(self, followed: Followed) -> None:
        if self.pace == Pace() and followed.speed:
            # A task that was killed has left a speed, which says more than a guess.
            self.pace = self.pace._replace(limit=min(self.pace.limit, float(followed.speed * self._streams.count)))
        address = followed.link.address
        if address not in self._guests:
            self._guests[address] = _Guest(followed.link)
            with contextlib.suppress(QmpError):  # who follows the stream tells of it
                await self._prepare(self._guests[address])
        await self._streams.limit_to(int(self.pace.limit))
        if self._looking is None:
            self._looked_at = asyncio.get_running_loop().time()
            self._looking = asyncio.ensure_future(self._look_on())

    async def _prepare(self, guest: _Guest) -> None:
        """Have QEMU count in histograms, on those devices where nobody else does."""
        boundaries = boundaries_for(self._target)
        for device in await guest.link.guest_devices():
            if may_have_histogram(device, self._target):
                with contextlib.suppress(CommandRefused):  # then the mean has to serve
                    await guest.link.set_histograms(device.qdev, boundaries)
        guest.devices = await _devices_of(guest.link)

    async def _end(self, followed: Followed) -> None:
        self._followed.remove(followed)
        # Its monitor may belong to another run now, and its speed to whoever comes next.
        self._streams.forget(followed.key)
        keeps = self._goes_on and followed.end is WaitEnd.TIME_IS_UP
        address = followed.link.address
        is_last = address not in (each.link.address for each in self._followed)
        guest = self._guests.pop(address, None) if is_last else None
        try:
            await self._stop_looking()
        finally:
            # Where the monitor is lost nothing can be put back, and who follows the stream tells of that.
            with contextlib.suppress(QmpError):
                await self._put_back(followed, guest, keeps=keeps)

    async def _put_back(self, followed: Followed, guest: _Guest | None, *, keeps: bool) -> None:
        if keeps:
            return
        if followed.end not in _OVER:
            with contextlib.suppress(CommandRefused):  # it has just ended
                await followed.link.set_speed(followed.job_id, self._streams.own_speed)
        if guest is None:
            return
        for device in await followed.link.guest_devices():
            if any(each.histogram is not None and is_ours(each.histogram) for each in device.served.values()):
                with contextlib.suppress(CommandRefused):
                    await followed.link.set_histograms(device.qdev, ())

    async def _stop_looking(self) -> None:
        if self._followed or self._looking is None:
            return
        looking, self._looking = self._looking, None
        looking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await looking

    async def _look_on(self) -> None:
        loop = asyncio.get_running_loop()
        pause, cost = pause_after(0.0), math.inf
        while True:
            await asyncio.sleep(pause)
            began = loop.time()
            await self._look()
            # The least that it ever took: on a busy host each look takes longer, and is needed all the more.
            cost = min(cost, loop.time() - began)
            pause = pause_after(cost)
            await self._streams.limit_to(int(self.pace.limit))

    async def _look(self) -> None:
        guests = list(self._guests.values())
        found = await asyncio.gather(*map(self._ask, guests))
        now = asyncio.get_running_loop().time()
        seconds, self._looked_at = now - self._looked_at, now
        intervals: dict[GaugeName, Interval] = {}
        passed = 0
        for guest, (devices, jobs) in zip(guests, found):
            intervals.update(self._since(guest, devices))
            passed += self._passed(guest, jobs)
        most = self._streams.own_speed * self._streams.count
        self.pace = self.pace.after(Seen(seconds, self._streams.count, passed / seconds, most, intervals))
        if self.pace.holds(most):
            for followed in self._followed:
                self._held_back[followed.key] += seconds

    async def _ask(self, guest: _Guest) -> tuple[Mapping[str, GuestDevice], Sequence[Job]]:
        try:
            return await _devices_of(guest.link), await guest.link.jobs()
        except QmpError:
            return {}, ()  # who follows the stream tells of it

    def _since(self, guest: _Guest, devices: Mapping[str, GuestDevice]) -> dict[GaugeName, Interval]:
        """What the guest's devices have served since the look before."""
        intervals: dict[GaugeName, Interval] = {}
        for qdev in devices.keys() & guest.devices.keys():
            for kind, served in devices[qdev].served.items():
                name = GaugeName(guest.link.address, qdev, kind)
                intervals[name] = between(guest.devices[qdev].served[kind], served, self._target)
        guest.devices = devices
        return intervals

    def _passed(self, guest: _Guest, jobs: Sequence[Job]) -> int:
        """What the followed streams of a VM have passed over since the look before."""
        ours = [each.job_id for each in self._followed if each.link.address == guest.link.address]
        passed = 0
        for job in jobs:
            if job.id in ours:
                name = f"{guest.link.address} {job.id}"
                passed += max(0, job.offset - self._offsets.get(name, job.offset))
                self._offsets[name] = job.offset
        return passed


async def _devices_of(link: Link) -> dict[str, GuestDevice]:
    return {device.qdev: device for device in await link.guest_devices()}
