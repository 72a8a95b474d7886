# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Calls that may block, kept away from the event loop: storage that hangs must not hold the monitors up."""

from __future__ import annotations

import asyncio
import queue
import threading
from types import TracebackType
from typing import Callable, TypeVar

from .._model._errors import HostSilent

T = TypeVar("T")

# Each call that hangs keeps a thread until the storage answers. A VM must not be able to fill the host with them.
MOST_THREADS = 128
# How often a call that finds so many at work looks again.
_PAUSE_SECONDS = 0.01

Calls = queue.SimpleQueue  # of functions without arguments, one at a time

# The calls under way, and the threads that wait for one. To start a thread takes four times as long as a call in one
# that is there.
busy: set[_Outcome] = set()
_idle: list[Calls[Callable[[], None]]] = []


class _Outcome:
    """Takes what a call raises, whatever it is: it belongs to who waits for the call."""

    value: object = None
    error: BaseException | None = None

    def __enter__(self) -> _Outcome:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self.error = error
        return True


async def away(function: Callable[..., T], *args: object, seconds: float, what: str = "the storage") -> T:
    """Call a function in a thread that does nothing else meanwhile, and wait for it at most ``seconds``.

    The thread is a daemon of nobody's pool: asyncio's own threads are joined when the process ends, and one that hangs
    would keep it from ending. After the deadline, and when the waiter is cancelled, the thread is left alone: what it
    returns or raises later is dropped. A function that opens something must therefore close it by itself on failure,
    and what it returns after the deadline is only collected.

    :param what: whose answer is waited for, the subject of the error.
    :raise HostSilent: there was no answer in time, or too many earlier calls waited for theirs all the while.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while len(busy) >= MOST_THREADS:
        if loop.time() >= deadline:
            raise HostSilent(f"{what} is not asked: {MOST_THREADS} earlier calls still wait for an answer")
        await asyncio.sleep(_PAUSE_SECONDS)
    answered = loop.create_future()
    outcome = _Outcome()
    calls = _idle.pop() if _idle else _start_thread()

    def work() -> None:
        with outcome:
            outcome.value = function(*args)
        try:
            loop.call_soon_threadsafe(leave)
        except RuntimeError:  # the loop is closed: nobody waits any more
            _idle.append(calls)
        # Not in the loop, which may have ended without a look at what was left there.
        busy.discard(outcome)

    def leave() -> None:
        _idle.append(calls)
        answered.set_result(None)

    busy.add(outcome)
    calls.put(work)
    await asyncio.wait({answered}, timeout=max(0.0, deadline - loop.time()))
    if not answered.done():
        raise HostSilent(f"{what} does not answer within {seconds:g} s")
    if outcome.error is not None:
        raise outcome.error
    return outcome.value  # type: ignore[return-value]  # it is what the function returned


def _start_thread() -> Calls[Callable[[], None]]:
    calls: Calls[Callable[[], None]] = Calls()
    threading.Thread(target=_serve, args=(calls,), name="away", daemon=True).start()
    return calls


def _serve(calls: Calls[Callable[[], None]]) -> None:
    while True:
        calls.get()()
