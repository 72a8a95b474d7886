# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The monitors of a call: each is open as long as somebody needs it, whoever else of the call does."""

from __future__ import annotations

import asyncio
import contextlib
from types import TracebackType
from typing import AsyncIterator, Collection

from .._model._seams import Link, OpenLink

# So many monitors stay open after the look at their VMs: each takes a descriptor.
MOST_KEPT = 256

# A monitor opens at once, unless somebody else is there. Two runs that each wait for what the other keeps would wait
# for ever: so whoever waits for longer keeps none.
_PATIENCE_SECONDS = 1.0


class _SharedLink:
    """A monitor that is open as long as somebody needs it; ``is_seen`` says that its VM was looked at since."""

    def __init__(self, address: str, open_link: OpenLink):
        self._address = address
        self._open_link = open_link
        self._opening = asyncio.Lock()
        self._users = 0
        self._session = contextlib.AsyncExitStack()
        self._link: Link | None = None
        self.is_seen = False

    @contextlib.asynccontextmanager
    async def borrow(self) -> AsyncIterator[Link]:
        """Open the monitor unless it is open, and close it unless somebody else needs it."""
        async with self._opening:
            if self._link is None:
                self._link = await self._session.enter_async_context(self._open_link(self._address))
            link = self._link
            self._users += 1
        try:
            yield link
        finally:
            async with self._opening:
                self._users -= 1
                if self._users == 0:
                    self._link = None
                    self.is_seen = False
                    await self._session.aclose()


class Links:
    """The monitors of a call. What is still kept at the end is closed then."""

    def __init__(self, open_link: OpenLink):
        self._open_link = open_link
        self._links: dict[str, _SharedLink] = {}
        self._kept: dict[str, contextlib.AsyncExitStack] = {}
        self._is_alone = True

    async def __aenter__(self) -> Links:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.keep(())

    def _at(self, address: str) -> _SharedLink:
        if address not in self._links:
            self._links[address] = _SharedLink(address, self._open_link)
        return self._links[address]

    @contextlib.asynccontextmanager
    async def look(self, address: str) -> AsyncIterator[Link]:
        """Open a monitor for a look at its VM, and leave it open for who comes next, unless many are."""
        async with contextlib.AsyncExitStack() as session:
            yield await self._open(address, session)
            self._leave_open(address, session)

    async def _open(self, address: str, session: contextlib.AsyncExitStack) -> Link:
        opening = asyncio.ensure_future(session.enter_async_context(self._at(address).borrow()))
        try:
            await asyncio.wait({opening}, timeout=_PATIENCE_SECONDS)
            if not opening.done():
                self._is_alone = False
                await self.keep(())
            return await opening
        finally:
            opening.cancel()

    def _leave_open(self, address: str, session: contextlib.AsyncExitStack) -> None:
        if self._is_alone and len(self._kept) < MOST_KEPT:
            self._at(address).is_seen = True
            self._kept[address] = session.pop_all()

    async def keep(self, addresses: Collection[str]) -> None:
        """Close what was left open after a look, but for these."""
        sessions = [self._kept.pop(address) for address in [*self._kept] if address not in addresses]
        await asyncio.gather(*(session.aclose() for session in sessions))

    @contextlib.asynccontextmanager
    async def borrow(self, address: str) -> AsyncIterator[Link]:
        """A monitor, until the context ends; from the first one on it is kept no longer."""
        async with contextlib.AsyncExitStack() as session:
            link = await self._open(address, session)
            if address in self._kept:
                await self._kept.pop(address).aclose()
            yield link

    def is_seen(self, address: str) -> bool:
        """Whether the monitor is open since the look at its VM, so that nobody else was there meanwhile."""
        return self._at(address).is_seen
