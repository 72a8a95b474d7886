# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Time that does not pass: an event loop that jumps to the next timer when nothing else is left to do."""

from __future__ import annotations

import asyncio
import selectors
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

from ansible_collections.virtops.qmp.plugins.module_utils._reach import _threads

# As long as a thread of `_threads.away` may really take; one that hangs is left behind by the jump.
_REAL_SECONDS = 1.0


# What a thread of the tests is called whose time is waited for as well.
WAITED_FOR = "waited for by the clock"


def _has_threads() -> bool:
    return bool(_threads.busy) or any(thread.name == WAITED_FOR for thread in threading.enumerate())


class _Jump(selectors.DefaultSelector):
    """Look at the sockets, and advance the clock in place of waiting for them."""

    def __init__(self, advance: Callable[[float], None]):
        super().__init__()
        self._advance = advance

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        given_up = time.monotonic() + _REAL_SECONDS
        # The time of a thread does not jump: it is waited for, unless there is something to do, maybe for that thread.
        while not ready and timeout != 0 and _has_threads() and time.monotonic() < given_up:
            ready = super().select(0.01)
        ready = ready or super().select(0)  # what a thread left that has just ended
        if timeout is None and not ready:
            raise AssertionError("everybody waits, and nothing will ever happen")
        self._advance(0.0 if ready or timeout is None else timeout)
        return ready


class JumpingLoop(asyncio.SelectorEventLoop):
    """Sockets that both ends serve in this loop work as usual, for they are always looked at first."""

    def __init__(self) -> None:
        self._now = 0.0
        super().__init__(_Jump(self.advance))

    def time(self) -> float:
        """Seconds since the loop was made, as far as it jumped."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Let so much time be over, and no less than a moment: somebody may wait for one that is too short to count."""
        self._now += max(seconds, 1e-12)


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Like `asyncio.run`, in a loop whose time jumps."""
    loop = JumpingLoop()
    try:
        return loop.run_until_complete(coroutine)
    finally:
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*left, return_exceptions=True)) if left else None
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
