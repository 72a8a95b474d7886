# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Bring one disk from what it is to what is wished: look, take the next step, look again.

What makes it safe is an order, and every part of it is needed: a stream waits at ``pending`` when all is copied and its backing link
is still there; then QEMU flushes the top image, so that a crash finds the copied clusters; then the job is finalized, which removes the
link; then the chain is read again, and the header is flushed.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, replace
from typing import Any, Awaitable, Callable, Mapping

from ._disk import Disk, Image
from ._errors import CommandRefused, MonitorUnusable, QmpError, StreamFailed, TimeIsUp
from ._job import Ending, Job, job_id_for
from ._observe import Events, Host, Monitor, explain, identify, look, resolver
from ._plan import ACTIONS, Step, Target, Wish, base_place, is_done, next_step, releasable, weightier, wished_chain
from ._vm import Vm

# Events tell when there is something to do. The poll is for what has no event, and for a QEMU that hangs.
_POLL_SECONDS = 5.0
# A cursor has no event; a stream moves some megabytes in this time.
_CURSOR_POLL_SECONDS = 0.02
# A job ends at once when it is told to, unless its storage hangs.
_END_SECONDS = 60.0
# Every step leads on; a peer that keeps leading us in circles is no QEMU.
_MOST_STEPS = 40


@dataclass(frozen=True)
class Outcome:
    """A disk when all is said and done: as it was, as it is, and what was done between.

    ``cursor`` is where a next increment begins, in bytes. ``left`` are the images that left the chain. ``error`` is a whole sentence,
    ``notes`` are what the user should know beside it. ``forecast`` is the chain that a run would leave, where there was none.
    """

    vm: Vm
    disk: Disk
    stays: int
    before: Disk
    action: str = "none"
    cursor: int = 0
    left: tuple[Image, ...] = ()
    released_nodes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    error: str | None = None
    forecast: tuple[str, ...] | None = None

    @property
    def chain_after(self) -> tuple[str, ...]:
        """The chain as it is, or, in check mode, as it would be."""
        return self.disk.chain_paths if self.forecast is None else self.forecast

    @property
    def job(self) -> Job | None:
        """The job that works on the disk now."""
        return self.vm.job_on(self.disk)

    @property
    def is_finished(self) -> bool:
        """Whether nothing is left to copy."""
        return is_done(self.disk, self.stays)


def untouched(target: Target, cursor: int = 0, error: str | None = None) -> Outcome:
    """The outcome of a disk to which nothing was done."""
    job = target.job
    if is_done(target.disk, target.stays):
        cursor = target.disk.virtual_size
    elif job is not None:
        cursor = job.offset
    return Outcome(target.vm, target.disk, target.stays, target.disk, cursor=cursor, error=error)


def forecast(target: Target, wish: Wish) -> Outcome:
    """What check mode tells: the action that would come first, and the chain if all goes well."""
    step = next_step(target.disk, target.job, wish, target.stays)
    chain = wished_chain(target.disk, target.stays) if wish.state == "populated" and wish.wait else target.disk.chain
    return replace(
        untouched(target, wish.cursor), action=ACTIONS.get(step, "none"), forecast=tuple(image.path for image in chain)
    )


async def bring_about(monitor: Monitor, host: Host, target: Target, wish: Wish, deadline: float | None) -> Outcome:
    """Do what is wished with one disk of the VM behind ``monitor``.

    :param deadline: the time of the event loop at which the wish's ``wait_timeout`` is over.
    :return: the outcome; what went wrong is in its ``error``.
    """
    with contextlib.ExitStack() as listeners:
        return await _Drive(monitor, host, target, wish, deadline, listeners).run()


class _Drive:
    """The state of one disk on its way."""

    def __init__(
        self,
        monitor: Monitor,
        host: Host,
        target: Target,
        wish: Wish,
        deadline: float | None,
        listeners: contextlib.ExitStack,
    ):
        self._monitor = monitor
        self._host = host
        self._target = target
        self._wish = wish
        self._deadline = deadline
        self._listeners = listeners
        self._events: dict[str, Events] = {}
        self._vm = target.vm
        self._disk = self._before = target.disk
        self._stays = target.stays
        self._job: Job | None = None
        self._has_started = False
        self._action = "none"
        self._cursor = wish.cursor
        self._left: tuple[Image, ...] = ()
        self._deleted: tuple[str, ...] = ()
        self._notes: tuple[str, ...] = ()

    async def run(self) -> Outcome:
        """Step by step, until the wish is true, is left to QEMU, or failed."""
        error: str | None = None
        try:
            await self._arrive()
            await self._advance()
            if self._job is None and is_done(self._disk, self._stays):
                # Whoever streamed this disk, now or before: "populated" means that a crash cannot undo it.
                await self._flush()
            await self._release()
        except QmpError as failure:
            error = explain(self._target.label, failure, self._host)
            with contextlib.suppress(QmpError):  # it may be the monitor that failed
                await self._look()
        return Outcome(
            vm=self._vm,
            disk=self._disk,
            stays=self._stays,
            before=self._before,
            action=self._action,
            cursor=self._disk.virtual_size if is_done(self._disk, self._stays) else self._cursor,
            left=self._left,
            released_nodes=self._deleted,
            notes=self._notes,
            error=error,
        )

    async def _advance(self) -> None:
        take: Mapping[Step, Callable[[], Awaitable[bool]]] = {
            Step.START: self._start,
            Step.FOLLOW: self._follow,
            Step.RESUME: self._resume,
            Step.RETUNE: self._retune,
            Step.FINALIZE: self._finalize,
            Step.DISMISS: self._dismiss,
            Step.PAUSE: self._pause,
            Step.CANCEL: self._cancel,
            Step.REFUSE: self._refuse,
        }
        for _number in range(_MOST_STEPS):
            step = next_step(self._disk, self._job, self._wish, self._stays)
            if step is Step.DONE:
                return
            self._action = weightier(self._action, ACTIONS.get(step, "none"))
            goes_on = await take[step]()
            await self._look()
            if not goes_on:
                return
        raise MonitorUnusable(f"{_MOST_STEPS} steps led nowhere; what answers does not do what it says")

    # -- Looking -------------------------------------------------------------------------------------------------------------

    async def _arrive(self) -> None:
        """See whether this is still the VM that was planned for, and the disk as it is now."""
        vm = await identify(self._monitor, self._host)
        if (vm.identity.name, vm.identity.uuid) != (self._target.vm.identity.name, self._target.vm.identity.uuid):
            raise MonitorUnusable(f"another VM, {vm.identity.label}, answers at this monitor now. Run the task again")
        self._see(vm)
        self._before = self._disk

    async def _look(self) -> None:
        self._see(await look(self._monitor, self._vm.identity, self._host))
        self._left = tuple(image for image in self._before.chain[1:] if image.path not in self._disk.chain_paths)

    def _see(self, vm: Vm) -> None:
        disk = vm.disk(self._target.disk.key)
        if disk is None or not disk.chain:
            raise StreamFailed("the disk is gone: it was unplugged, or its medium was ejected")
        base = self._wish.base
        stays = base_place(disk, base, resolver(vm.identity, self._host)(base) if base else None)
        if base is not None and stays == len(disk.chain) > 1:
            raise StreamFailed(f"base {base!r} is no longer in the backing chain: {', '.join(disk.chain_paths)}")
        self._vm, self._disk, self._stays = vm, disk, stays
        self._job = vm.job_on(disk)
        self._note_cursor(self._job)

    async def _job_now(self, job_id: str) -> Job | None:
        """Only the job: as cheap as QMP gets, however deep the chain is."""
        entries = await self._monitor.execute("query-block-jobs")
        job = next((Job.from_qmp(entry) for entry in entries if entry["device"] == job_id), None)
        self._note_cursor(job)
        return job

    def _note_cursor(self, job: Job | None) -> None:
        if job is not None:
            self._cursor = job.offset

    @property
    def _top(self) -> str:
        """The node that is streamed and flushed: the format node, under all filters."""
        if self._disk.top.node_name is None:
            raise MonitorUnusable("the block graph does not show the node of the disk")
        return self._disk.top.node_name

    # -- Acting: each step returns whether to go on; False leaves the job to QEMU -----------------------------------------------

    async def _start(self) -> bool:
        if self._has_started:
            raise StreamFailed(
                f"the stream ended without a word, and the chain still is {', '.join(self._disk.chain_paths)}"
            )
        self._has_started = True
        job_id = job_id_for(self._disk, [job.id for job in self._vm.jobs])
        arguments: dict[str, Any] = {
            "job-id": job_id,
            "device": self._top,
            "auto-finalize": False,
            "on-error": self._wish.on_error,
        }
        if self._stays < len(self._disk.chain):
            arguments["base-node"] = self._disk.chain[self._stays].node_name
        if self._wish.speed is not None:
            arguments["speed"] = self._wish.speed
        self._listen(job_id)
        await self._monitor.execute("block-stream", arguments)
        return await self._wait(job_id)

    async def _follow(self) -> bool:
        return await self._wait(self._job_id)

    async def _resume(self) -> bool:
        self._listen(self._job_id)
        await self._tell("job-resume", {"id": self._job_id})
        return await self._wait(self._job_id)

    async def _retune(self) -> bool:
        await self._tell("block-job-set-speed", {"device": self._job_id, "speed": self._wish.speed})
        return True

    async def _finalize(self) -> bool:
        await self._flush()
        self._listen(self._job_id)
        await self._tell("job-finalize", {"id": self._job_id})
        await self._gone(self._job_id)
        return True

    async def _dismiss(self) -> bool:
        job = self._job
        assert job is not None
        said = f" with: {job.error}" if job.error else ""
        self._notes += (
            f"{self._target.label}: {job.type} job {job.id}, which somebody else had started, had ended{said}; it was dismissed",
        )
        await self._tell("job-dismiss", {"id": job.id})
        return True

    async def _pause(self) -> bool:
        await self._tell("job-pause", {"id": self._job_id})
        return True

    async def _cancel(self) -> bool:
        job_id = self._job_id
        self._listen(job_id)
        # block-job-cancel refuses a paused job; job-cancel does not, on any QEMU.
        await self._tell("job-cancel", {"id": job_id})
        await self._gone(job_id, cancelled=True)
        await self._flush()  # so that a crash does not cost what was copied
        return True

    async def _refuse(self) -> bool:
        job = self._job
        assert job is not None
        raise StreamFailed(
            f"{job.type} {job.position} and uses the disk. Wait for its end, or cancel it, and run the task again"
        )

    async def _flush(self) -> None:
        """Have QEMU write out the image: only QEMU's monitor for people can (``block-stream`` and its kin do not).

        It answers with nothing, or with a text if the node is unknown. It does not tell an I/O error.
        """
        said = await self._monitor.execute("human-monitor-command", {"command-line": f"qemu-io {self._top} flush"})
        if said.strip():
            raise CommandRefused("flush", said.strip())

    async def _release(self) -> None:
        """Delete the explicitly named nodes that only this chain used, so that QEMU closes their files."""
        if not (self._wish.release and self._left):
            return
        nodes, kept = releasable(self._left, self._vm.graph)
        for node in nodes:
            try:
                await self._monitor.execute("blockdev-del", {"node-name": node})
            except CommandRefused as error:
                kept.append(f"{node} ({error.reason})")
            else:
                self._deleted += (node,)
        if kept:
            self._notes += (
                f"{self._target.label}: QEMU keeps these nodes, and the files below them open: {', '.join(kept)}",
            )
        if nodes:
            await self._look()

    # -- Waiting -------------------------------------------------------------------------------------------------------------

    @property
    def _job_id(self) -> str:
        assert self._job is not None
        return self._job.id

    def _listen(self, job_id: str) -> Events:
        if job_id not in self._events:
            self._events[job_id] = self._listeners.enter_context(self._monitor.listen(job_id))
        return self._events[job_id]

    async def _tell(self, command: str, arguments: Mapping[str, Any]) -> None:
        """Send a command to the job. If it has just ended, that is no error: the next look shows what came of it."""
        try:
            await self._monitor.execute(command, arguments)
        except CommandRefused:
            if await self._job_now(self._job_id) is not None:
                raise

    async def _wait(self, job_id: str) -> bool:
        """Wait until the job needs something, is over, or the time is."""
        events = self._listen(job_id)
        while True:
            job = await self._job_now(job_id)
            if job is None:
                return await self._ended(job_id)
            if job.is_pending or job.is_concluded:
                return True
            if job.is_held_by_error:
                raise StreamFailed(
                    f"{job.position}. Remove the cause and run the task again: it resumes the job. `state: aborted` gives up and keeps what was copied"
                )
            if not self._wish.wait:
                return False
            if self._wish.mark is not None and job.offset >= self._wish.mark:
                self._wish = self._wish.stopped()
                return True
            left = _POLL_SECONDS if self._wish.mark is None else _CURSOR_POLL_SECONDS
            if self._deadline is not None:
                remaining = self._deadline - asyncio.get_running_loop().time()
                if remaining <= 0:
                    return self._time_is_up(job)
                left = min(left, remaining)
            await events.next(left)

    def _time_is_up(self, job: Job) -> bool:
        if self._wish.on_timeout == "stop":
            self._wish = self._wish.stopped()
            return True
        if self._wish.on_timeout == "leave":
            return False
        raise TimeIsUp(
            f"not populated within {self._wish.wait_timeout} s (wait_timeout). The {job.position} and goes on in QEMU; run the task again to join it"
        )

    async def _ended(self, job_id: str) -> bool:
        """The job is gone. A failure is told by its event only; without one, the chain tells whether it succeeded."""
        ending: Ending | None = None
        while ending is None:
            event = await self._listen(job_id).next(0)
            if event is None:
                return True
            ending = Ending.from_qmp(event)
        if ending.cancelled:
            raise StreamFailed(
                f"job {job_id} was cancelled by somebody else. What was copied is kept; run the task again to go on"
            )
        if ending.error:
            raise StreamFailed(
                f"job {job_id} failed at {self._cursor} of {self._disk.virtual_size} bytes: {ending.error}. The disk still needs its backing images, and "
                "what was copied is kept. Remove the cause and run the task again to go on"
            )
        return True

    async def _gone(self, job_id: str, *, cancelled: bool = False) -> None:
        """Wait for the end of a job that was told to end."""
        patience = asyncio.get_running_loop().time() + _END_SECONDS
        job = await self._job_now(job_id)
        while job is not None:
            if asyncio.get_running_loop().time() >= patience:
                raise StreamFailed(
                    f"{job.position} and does not end within {_END_SECONDS:g} s. Does the storage of its images answer?"
                )
            await self._listen(job_id).next(_POLL_SECONDS)
            job = await self._job_now(job_id)
        if not cancelled:
            await self._ended(job_id)
