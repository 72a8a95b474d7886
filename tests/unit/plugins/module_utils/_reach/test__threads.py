# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.virtops.qmp.plugins.module_utils._model._errors import HostSilent
from ansible_collections.virtops.qmp.plugins.module_utils._reach import _threads
from ansible_collections.virtops.qmp.plugins.module_utils._reach._threads import away
from ansible_collections.virtops.qmp.tests.unit import clock


class Storage:
    """Storage that hangs until it is let go."""

    def __init__(self) -> None:
        self.answers = threading.Event()
        self.is_asked = False
        self._has_answered = threading.Event()

    def read(self, error: Exception | None = None) -> str:
        self.is_asked = True
        self.answers.wait()
        self._has_answered.set()
        if error is not None:
            raise error
        return "late"

    def end(self) -> None:
        self.answers.set()
        if self.is_asked:
            self._has_answered.wait()


@pytest.fixture
def storage() -> Iterator[Storage]:
    storage = Storage()
    yield storage
    storage.end()


def test_what_is_returned() -> None:
    """The function gets its arguments, runs in another thread than the loop's, and its result comes back."""

    def function(*args: object) -> tuple[object, ...]:
        return (threading.current_thread() is threading.main_thread(), *args)

    assert asyncio.run(away(function, 1, "two", seconds=60)) == (False, 1, "two")


@pytest.mark.parametrize(
    "error", [OSError(5, "Input/output error"), KeyError("x"), StopIteration(), SystemExit(3)], ids=repr
)
def test_what_is_raised(error: BaseException) -> None:
    """Whatever the function raises is raised where it is awaited."""

    def function() -> None:
        raise error

    async def work() -> BaseException | None:
        try:
            await away(function, seconds=60)
        except RuntimeError as wrapped:  # Python's word for a StopIteration that leaves a coroutine
            return wrapped.__cause__
        except (OSError, KeyError, SystemExit) as raised:
            return raised
        return None

    assert asyncio.run(work()) is error


def test_a_thread_is_used_again() -> None:
    """One call after the other needs one thread; whoever comes while it is busy gets another one."""

    async def work() -> tuple[list[int], set[int]]:
        in_turn = [await away(threading.get_ident, seconds=60) for _each in range(3)]
        both = threading.Barrier(2)

        def meet() -> int:
            both.wait()
            return threading.get_ident()

        return in_turn, {*await asyncio.gather(away(meet, seconds=60), away(meet, seconds=60))}

    in_turn, at_once = asyncio.run(work())
    assert (len(set(in_turn)), len(at_once)) == (1, 2)


def test_the_loop_goes_on(storage: Storage) -> None:
    """While the function blocks, the loop does other things."""

    async def work() -> str:
        waiting = asyncio.ensure_future(away(storage.read, seconds=60))
        while not storage.is_asked:
            await asyncio.sleep(0)
        storage.answers.set()  # which only a loop that is not blocked can do
        return await waiting

    assert asyncio.run(work()) == "late"


@pytest.mark.parametrize("error", [None, OSError(5, "Input/output error")], ids=["returns", "raises"])
def test_silence_has_an_end(storage: Storage, error: Exception | None) -> None:
    """After the deadline the waiter is told whose answer is missing; what comes later is dropped without a word."""

    async def work() -> None:
        with pytest.raises(HostSilent, match=r"^the storage of /x does not answer within 0\.01 s$"):
            await away(storage.read, error, seconds=0.01, what="the storage of /x")
        storage.end()
        await asyncio.sleep(0)  # what the thread left for the loop is done now

    asyncio.run(work(), debug=True)


def test_who_gives_up(storage: Storage) -> None:
    """A waiter that is cancelled leaves at once, and the late answer disturbs nobody."""

    async def work() -> bool:
        waiting = asyncio.ensure_future(away(storage.read, seconds=60))
        while not storage.is_asked:
            await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait({waiting})
        storage.end()
        await asyncio.sleep(0)
        return waiting.cancelled()

    assert asyncio.run(work(), debug=True)


def test_an_answer_after_the_end_of_the_loop(storage: Storage) -> None:
    """A thread that ends when there is no loop any more ends in silence."""
    with pytest.raises(HostSilent):
        asyncio.run(away(storage.read, seconds=0.01))
    storage.end()


def test_an_answer_to_a_loop_that_stands_still(storage: Storage) -> None:
    """It may never be taken, and its thread is not counted for ever."""
    before = set(_threads.busy)
    loop = asyncio.new_event_loop()
    with pytest.raises(HostSilent):
        loop.run_until_complete(away(storage.read, seconds=0.01))
    storage.end()
    given_up = time.monotonic() + 30
    while _threads.busy - before and time.monotonic() < given_up:
        os.sched_yield()
    loop.close()
    assert _threads.busy <= before


def test_threads_are_counted(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where too many calls hang for as long, none is made: a VM cannot fill the host with threads."""
    monkeypatch.setattr(_threads, "MOST_THREADS", len(_threads.busy))
    with pytest.raises(HostSilent, match=r"the storage is not asked: .* still wait"):
        clock.run(away(storage.read, seconds=0.05))
    assert not storage.is_asked


def test_many_calls_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls that only take their time are all made, however many there are; few of them at a time."""
    most = len(_threads.busy) + 2
    monkeypatch.setattr(_threads, "MOST_THREADS", most)

    async def work() -> list[int]:
        return await asyncio.gather(*(away(lambda: len(_threads.busy), seconds=60) for _each in range(20)))

    at_a_time = asyncio.run(work())
    assert (len(at_a_time), max(at_a_time) <= most) == (20, True)


END = """
import asyncio, sys, threading
from ansible_collections.virtops.qmp.plugins.module_utils._model._errors import HostSilent
from ansible_collections.virtops.qmp.plugins.module_utils._reach._threads import away
try:
    asyncio.run(away(threading.Event().wait, seconds=0.01))
except HostSilent as error:
    sys.exit(str(error))
"""


def test_a_thread_that_hangs_keeps_no_process(folder: Path) -> None:
    """The process ends though a call still hangs, and says nothing of it."""
    done = subprocess.run(
        [sys.executable, "-c", END],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    assert (done.returncode, done.stderr) == (1, "the storage does not answer within 0.01 s\n")
