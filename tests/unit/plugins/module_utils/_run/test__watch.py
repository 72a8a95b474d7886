# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from ansible_collections.virtops.qmp.plugins.module_utils._decide._plan import WaitEnd
from ansible_collections.virtops.qmp.plugins.module_utils._model._errors import MonitorLost, StreamFailed
from ansible_collections.virtops.qmp.plugins.module_utils._model._job import Ending
from ansible_collections.virtops.qmp.plugins.module_utils._reach._qemu import QemuLink
from ansible_collections.virtops.qmp.plugins.module_utils._run._watch import JobWatch
from ansible_collections.virtops.qmp.tests.unit import clock
from ansible_collections.virtops.qmp.tests.unit.builders import asking
from ansible_collections.virtops.qmp.tests.unit.fake_qemu import (
    CHUNK,
    IO_ERROR,
    MIB,
    SIZE,
    TICK,
    FakeConnection,
    FakeJob,
    FakeQemu,
)

WHOLE = SIZE / CHUNK * TICK


def watching(work: Callable[[FakeQemu, FakeJob, JobWatch], Awaitable[Any]], **options: Any) -> Any:
    """Let a stream run and watch it."""

    async def run() -> Any:
        qemu = FakeQemu()
        qemu.add("vda", "top.qcow2", "base.qcow2")
        with contextlib.ExitStack() as listeners:
            watch = JobWatch(QemuLink(FakeConnection(qemu)), "job0", listeners)
            job = qemu.stream("top", "job0", **{"auto_finalize": False, **options})
            return await work(qemu, job, watch)

    return clock.run(run())


def now() -> float:
    return asyncio.get_running_loop().time()


def test_news_come_with_the_event() -> None:
    """The end of the copy is known at once, not at the next poll."""

    async def work(qemu: FakeQemu, job: FakeJob, watch: JobWatch) -> None:
        assert await watch.wait(asking().waiting, None) is WaitEnd.READY
        assert now() == pytest.approx(WHOLE)
        assert watch.last_seen is not None
        assert watch.last_seen.offset == SIZE

    watching(work)


def test_news_come_with_the_poll_where_there_is_no_event() -> None:
    """Without an event a change is seen within five seconds."""

    async def work(qemu: FakeQemu, job: FakeJob, watch: JobWatch) -> None:
        qemu.deaf = True
        assert await watch.wait(asking().waiting, None) is WaitEnd.READY
        assert WHOLE <= now() <= WHOLE + 5

    watching(work)


def test_waiting_costs_little() -> None:
    """A stream of an hour is asked for every five seconds at most."""

    async def work(qemu: FakeQemu, job: FakeJob, watch: JobWatch) -> None:
        assert await watch.wait(asking().waiting, now() + 3600) is WaitEnd.TIME_IS_UP
        assert now() == pytest.approx(3600)
        assert len(qemu.log) <= 3600 / 5 + 2

    watching(work, speed=1000)


def test_a_cursor_is_followed_closely() -> None:
    """An increment is over some hundredths of a second after the cursor arrived."""

    async def work(qemu: FakeQemu, job: FakeJob, watch: JobWatch) -> None:
        assert await watch.wait(asking(increment=8 * MIB).waiting, None) is WaitEnd.FAR_ENOUGH
        assert now() == pytest.approx(8 * TICK, abs=0.03)

    watching(work)


def test_the_deadline_ends_the_wait() -> None:
    """The wait ends when the time is up, not at the poll after it."""

    async def work(qemu: FakeQemu, job: FakeJob, watch: JobWatch) -> None:
        assert await watch.wait(asking().waiting, now() + 1.5) is WaitEnd.TIME_IS_UP
        assert now() == pytest.approx(1.5)

    watching(work)


def test_another_run_that_waits_is_news_within_a_second() -> None:
    """Whoever comes is let in soon, though nobody tells that he is there."""

    class Comes:
        def is_waiting(self) -> bool:
            return now() >= 3

        def is_there(self) -> bool:
            raise AssertionError

    async def work(qemu: FakeQemu, job: FakeJob, watch: JobWatch) -> None:
        watch._link.runs = Comes()
        assert await watch.wait(asking().waiting, None) is WaitEnd.WANTED
        assert now() == pytest.approx(3, abs=0.5)
        assert len(qemu.log) <= 3

    watching(work, speed=1000)


def test_a_held_job_is_news() -> None:
    """An error that holds the job ends the wait with its event."""

    async def work(qemu: FakeQemu, job: FakeJob, watch: JobWatch) -> None:
        qemu.faults["top"] = (MIB, IO_ERROR)
        assert await watch.wait(asking().waiting, None) is WaitEnd.HELD
        assert now() == pytest.approx(TICK)

    watching(work, on_error="stop")


def test_a_lost_connection_ends_the_wait_at_once() -> None:
    """If QEMU dies nobody waits for the poll."""

    async def work(qemu: FakeQemu, job: FakeJob, watch: JobWatch) -> None:
        asyncio.get_running_loop().call_later(1, qemu.die)
        with pytest.raises(MonitorLost):
            await watch.wait(asking().waiting, None)
        assert now() == pytest.approx(1)

    watching(work)


@pytest.mark.parametrize(
    ("act", "expected"),
    [
        pytest.param(lambda qemu: None, None, id="it runs"),
        pytest.param(lambda qemu: qemu._job_cancel({"id": "job0"}), Ending(True, None, 0), id="cancelled"),
        pytest.param(lambda qemu: qemu._finish(qemu.jobs["job0"]), Ending(False, None, 0), id="completed"),
        pytest.param(
            lambda qemu: qemu._fails(qemu.jobs["job0"], MIB, IO_ERROR), Ending(False, IO_ERROR, MIB), id="failed"
        ),
    ],
)
def test_ending(act: Callable[[FakeQemu], object], expected: Ending | None) -> None:
    """The event of the end is found behind others, is remembered, and is None while it has not come."""

    async def work(qemu: FakeQemu, job: FakeJob, watch: JobWatch) -> None:
        act(qemu)
        assert await watch.ending() == expected
        assert await watch.ending() == expected

    watching(work)


def test_an_ending_that_woke_the_wait_is_not_forgotten() -> None:
    """The event that ended a wait still tells how the job ended."""

    async def work(qemu: FakeQemu, job: FakeJob, watch: JobWatch) -> None:
        asyncio.get_running_loop().call_later(1, lambda: qemu._job_cancel({"id": "job0"}))
        assert await watch.wait(asking().waiting, None) is WaitEnd.GONE
        assert await watch.ending() == Ending(True, None, 10 * MIB)

    watching(work)


@pytest.mark.parametrize("auto_dismiss", [pytest.param(True, id="gone"), pytest.param(False, id="concluded")])
def test_end(auto_dismiss: bool) -> None:
    """A job that was told to end has ended when it is gone, or waits to be dismissed."""

    async def work(qemu: FakeQemu, job: FakeJob, watch: JobWatch) -> None:
        asyncio.get_running_loop().call_later(7, lambda: qemu._job_cancel({"id": "job0"}))
        await watch.end()
        assert now() == pytest.approx(7)

    watching(work, auto_dismiss=auto_dismiss, speed=1)


def test_a_job_that_does_not_end_is_an_error_after_a_minute() -> None:
    """Nobody waits for ever on storage that hangs."""

    async def work(qemu: FakeQemu, job: FakeJob, watch: JobWatch) -> None:
        with pytest.raises(StreamFailed, match="does not end within 60 s"):
            await watch.end()
        assert 60 <= now() <= 65.1

    watching(work, speed=1)


def test_only_the_job_itself_is_seen() -> None:
    """Another job on the same VM is no news."""

    async def work(qemu: FakeQemu, job: FakeJob, watch: JobWatch) -> None:
        qemu.add("vdb", "other.qcow2", "b.qcow2")
        qemu.stream("other", "job1")
        del qemu.jobs["job0"]
        assert await watch.look() is None
        assert watch.last_seen is None
        qemu._job_cancel({"id": "job1"})
        assert await watch.ending() is None

    watching(work)
