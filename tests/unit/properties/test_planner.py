# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""The planner against a small model of a QEMU in which everything that may happen does."""

from __future__ import annotations

from typing import Callable  # noqa: UP035  # Python 3.8

from ansible_collections.virtops.qmp.plugins.module_utils._decide._plan import Step, next_step
from ansible_collections.virtops.qmp.plugins.module_utils._model._disk import Disk
from ansible_collections.virtops.qmp.plugins.module_utils._model._job import Job
from ansible_collections.virtops.qmp.plugins.module_utils._model._request import Request
from ansible_collections.virtops.qmp.tests.unit.builders import disk, image, job
from hypothesis import given, settings
from hypothesis import strategies as st

STATUSES = ("created", "running", "paused", "ready", "standby", "waiting", "pending", "aborting", "concluded")
MOST_STEPS = 40

disks = st.builds(
    lambda depth, hidden, stale: disk(
        *(image(f"image{place}") for place in range(depth)), hidden_backing=hidden, stale_header=stale
    ),
    st.integers(1, 4),
    st.sampled_from([None, "hidden"]),
    st.sampled_from([None, "stale.qcow2"]),
)
jobs = st.builds(
    lambda status, held, type, auto, speed: job(
        status, io_status="failed" if held else "ok", type=type, auto_finalize=auto, speed=speed
    ),
    st.sampled_from(STATUSES),
    st.booleans(),
    st.sampled_from(["stream", "stream", "stream", "mirror", "backup"]),
    st.booleans(),
    st.sampled_from([0, 1, 512]),
)
requests = st.builds(
    Request,
    state=st.sampled_from(["populated", "paused", "aborted"]),
    speed=st.sampled_from([None, 0, 1]),
)


class Qemu:
    """A disk, its job, and what was done to them. Every step that must not be is an assertion here."""

    def __init__(self, subject: Disk, running: Job | None, base_index: int, chance: Callable[[str, int], int]):
        self.disk, self.job, self.base_index, self._chance = subject, running, base_index, chance
        self.starts = 0
        self.is_stopping = False

    def take(self, step: Step, asked: Request) -> None:
        getattr(self, f"_{step.value}")(asked)

    def _end(self, *, succeeded: bool) -> None:
        self.job = None
        if succeeded:
            self.disk = self.disk._replace(chain=self.disk.chain[:1] + self.disk.chain[self.base_index :])
            self.base_index = 1

    @property
    def _present(self) -> Job:
        assert self.job is not None, "a step without a job to take it with"
        return self.job

    def _start(self, asked: Request) -> None:
        assert self.job is None, "a second job on a disk"
        assert asked.state == "populated", "a start that nobody asked for"
        assert self.base_index > 1, "a stream with nothing to copy"
        self.starts += 1
        self.job = job("running", speed=asked.speed or 0)

    def _follow(self, asked: Request) -> None:
        running = self._present
        assert not running.is_pending, "waiting for a job that waits for us"
        if running.status == "aborting":
            return self._end(succeeded=False)
        if running.auto_finalize:
            return self._end(succeeded=self._chance("ends well", 1) == 0)
        happens = self._chance("goes on", 3)
        if happens == 0:
            self.job = running._replace(status="pending")
        elif happens == 1:
            self.job = running._replace(status="paused", paused=True)
        elif happens == 2:
            self.job = running._replace(status="concluded", error="failed")
        else:
            self._end(succeeded=False)
        return None

    def _resume(self, asked: Request) -> None:
        assert self._present.paused, "a resume of what is not paused"
        self.job = self._present._replace(status="running", paused=False, io_status="ok")

    def _retune(self, asked: Request) -> None:
        assert asked.speed is not None
        assert asked.speed != self._present.speed, "a speed that is set already"
        self.job = self._present._replace(speed=asked.speed)

    def _finalize(self, asked: Request) -> None:
        assert self._present.is_pending, "a job finalized that has not copied everything"
        assert self._present.type == "stream", "a job finalized that is no stream"
        assert asked.state == "populated", "a job finalized against the wish"
        self._end(succeeded=True)

    def _dismiss(self, asked: Request) -> None:
        assert self._present.is_concluded, "a job dismissed that is not over"
        assert self._present.type == "stream", "a job dismissed that is no stream"
        self._end(succeeded=self._present.error is None)

    def _pause(self, asked: Request) -> None:
        assert asked.state == "paused"
        assert not self._present.paused
        self.job = self._present._replace(status="paused", paused=True)

    def _cancel(self, asked: Request) -> None:
        assert asked.state == "aborted" or self.is_stopping, "a stream cancelled against the wish"
        assert self._present.type == "stream", "a job cancelled that is no stream"
        assert not (self._present.is_pending and self.is_stopping), "a finished copy thrown away"
        self._end(succeeded=False)


@settings(max_examples=1000, deadline=None, database=None, derandomize=True)
@given(st.data(), disks, st.none() | jobs, requests, st.booleans())
def test_every_plan_ends_and_loses_nothing(
    data: st.DataObject, subject: Disk, running: Job | None, asked: Request, stops: bool
) -> None:
    """Whatever is there and whatever happens: no step destroys a copy, and the last one is what was wished or refused.

    A stream that failed is not started again by the same run, which is where a plan may end, too.
    """
    base_index = data.draw(st.integers(1, len(subject.chain)), "stays")
    qemu = Qemu(subject, running, base_index, lambda label, most: data.draw(st.integers(0, most), label))
    qemu.is_stopping = stops and asked.state == "populated"
    step = Step.FOLLOW
    for _number in range(MOST_STEPS):
        step = next_step(qemu.disk, qemu.job, asked, qemu.base_index, is_stopping=qemu.is_stopping)
        if step in (Step.DONE, Step.REFUSE) or (step is Step.START and qemu.starts):
            break
        qemu.take(step, asked)
    else:
        # Only a QEMU that pauses the stream whenever it is resumed makes the plan as long as that.
        assert step in (Step.FOLLOW, Step.RESUME)
    if step is Step.DONE and asked.state == "populated" and not qemu.is_stopping:
        assert qemu.base_index == 1
        assert (qemu.disk.hidden_backing, qemu.disk.stale_header) == (None, None)
    if step is Step.DONE and qemu.job is not None and qemu.job.type == "stream":
        assert asked.state == "paused"
        assert qemu.job.paused or qemu.job.is_pending


@settings(max_examples=200, deadline=None, database=None, derandomize=True)
@given(disks, st.none() | jobs, requests)
def test_what_is_done_is_never_started(subject: Disk, running: Job | None, asked: Request) -> None:
    """A disk that needs no other image gets no stream, and one that needs one without showing it is not called done."""
    base_index = len(subject.chain)
    is_whole = base_index == 1 and not (subject.hidden_backing or subject.stale_header)
    step = next_step(subject, running, asked, base_index)
    if is_whole:
        assert step is not Step.START
    if not is_whole and asked.state == "populated":
        assert step is not Step.DONE
