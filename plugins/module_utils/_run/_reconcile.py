# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Bring one disk from what it is to what is wished: look, take the next step, look again.

What makes it safe is an order, and every part of it is needed: a stream waits at ``pending`` when all is copied and its
backing link is still there; then QEMU flushes the top image, so that a crash finds the copied clusters; then the job is
finalized, which removes the link; then the chain is read again, and the header is flushed.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from typing import Any, Awaitable, Callable, Mapping, cast

from .._decide._outcome import Outcome, untouched
from .._decide._plan import ACTIONS, Step, WaitEnd, is_done, metadata_size, next_step, releasable, weightier
from .._model._errors import CommandRefused, DiskGone, JobHangs, MonitorUnusable, QmpError, StreamFailed, TimeIsUp
from .._model._files import FileId
from .._model._job import Job, is_our_id, job_id_for
from .._model._request import Request
from .._model._seams import Host, Monitor
from .._model._target import Target, base_index_of
from .._model._vm import Vm
from ._observe import explain, identify, look, resolver
from ._watch import JobWatch

# Every step leads on; a peer that keeps leading us in circles is no QEMU.
_MOST_STEPS = 40

# How long a stream is left alone before its image is written out again: hardly, while there is much to write.
_SOON_SECONDS = 0.05
_LATER_SECONDS = 5.0


async def bring_about(
    monitor: Monitor,
    host: Host,
    target: Target,
    request: Request,
    deadline: float | None,
    earlier: Outcome | None = None,
) -> Outcome:
    """Do what is wished with one disk of the VM behind ``monitor``.

    :param deadline: the time of the event loop at which the wish's ``wait_timeout`` is over.
    :param earlier: the outcome of an earlier visit, which left a job to QEMU.
    :return: the outcome; what went wrong is in its ``error``.
    """
    with contextlib.ExitStack() as listeners:
        return await _Drive(monitor, host, target, request, deadline, listeners, earlier).run()


class _Drive:
    """One disk on its way."""

    def __init__(
        self,
        monitor: Monitor,
        host: Host,
        target: Target,
        request: Request,
        deadline: float | None,
        listeners: contextlib.ExitStack,
        earlier: Outcome | None,
    ):
        self._monitor = monitor
        self._host = host
        self._target = target
        self._request = request
        self._deadline = deadline
        self._listeners = listeners
        self._watches: dict[str, JobWatch] = {}
        self._is_first_visit = earlier is None
        self._has_arrived = False
        so_far = earlier or untouched(target, request)
        self._vm = so_far.vm
        self._disk = so_far.disk
        self._before = so_far.before
        self._base_index = so_far.base_index
        self._job: Job | None = None
        self._orphans: tuple[str, ...] = ()
        self._is_written_out = True
        # A stream that an earlier visit left is not started anew: if it is gone and its work is not done, it failed.
        self._has_started = earlier is not None
        self._action = so_far.action
        self._cursor = request.cursor
        self._left = so_far.left
        self._ids: Mapping[str, FileId] = so_far.left_ids
        self._deleted = so_far.released_nodes
        self._notes = so_far.notes

    async def run(self) -> Outcome:
        """Step by step, until the wish is true, is left to QEMU, or failed."""
        error: str | None = None
        try:
            await self._arrive()
            self._has_arrived = True
            await self._advance()
            if self._job is None and is_done(self._disk, self._base_index):
                # Whoever streamed this disk, now or before: "populated" means that a crash cannot undo it.
                await self._flush()
            await self._release()
        except QmpError as failure:
            error = explain(self._target.label, failure, self._monitor.address, self._host)
            if isinstance(failure, DiskGone):
                error += await self._let_go()
            # Where the storage hangs, a flush would wait for it as the job does, and the whole VM for the flush.
            elif isinstance(failure, StreamFailed) and not isinstance(failure, JobHangs) and self._watches:
                with contextlib.suppress(QmpError):
                    await self._flush()  # so that a crash does not cost what was copied
            await self._look_once_more()
        return Outcome(
            vm=self._vm,
            disk=self._disk,
            base_index=self._base_index,
            before=self._before,
            action=self._action,
            cursor=self._disk.virtual_size if is_done(self._disk, self._base_index) else self._cursor,
            left=self._left,
            left_ids=self._ids,
            released_nodes=self._deleted,
            notes=self._notes,
            error=error,
        )

    async def _look_once_more(self) -> None:
        """See what a failure left behind. Where the VM cannot be asked any more, no job is known of."""
        self._vm = replace(self._vm, jobs=())
        if self._has_arrived:
            with contextlib.suppress(QmpError):  # it may be the monitor that failed
                await self._look()

    async def _let_go(self) -> str:
        """End our job on a disk that is gone: it would keep the images busy for ever, and the disk from coming back."""
        told = ""
        for job_id in self._orphans:
            fate = "is left in QEMU"
            if is_our_id(job_id):
                with contextlib.suppress(QmpError):
                    await self._monitor.execute("job-cancel", {"id": job_id})
                    await self._watch(job_id).end()
                    fate = "was cancelled, and what it copied is kept"
                    await self._flush()
            told += f"; job {job_id} {fate}"
        return told

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
            step = next_step(self._disk, self._job, self._request, self._base_index)
            if step is Step.DONE:
                return
            self._action = weightier(self._action, ACTIONS.get(step, "none"))
            goes_on = await take[step]()
            await self._look()
            if not goes_on:
                return
        raise MonitorUnusable(f"{_MOST_STEPS} steps led nowhere; what answers does not do what it says")

    # -- Looking -------------------------------------------------------------------------------------------------------

    async def _arrive(self) -> None:
        """See whether this is still the VM that was planned for, and the disk as it is now."""
        vm = await identify(self._monitor, self._host)
        if (vm.identity.name, vm.identity.uuid) != (self._vm.identity.name, self._vm.identity.uuid):
            raise MonitorUnusable(f"another VM, {vm.identity.label}, answers at this monitor now. Run the task again")
        self._see(vm)
        if not self._is_first_visit:
            return
        self._before = self._disk
        files = {image.file for image in self._disk.chain[1:] if image.file is not None}
        self._ids = self._host.opened_files(vm.identity.pid, files)

    async def _look(self) -> None:
        self._see(await look(self._monitor, self._vm.identity, self._host))
        self._left = tuple(i for i in self._before.chain[1:] if i.path not in self._disk.chain_paths)

    def _see(self, vm: Vm) -> None:
        disk = vm.disk(self._target.disk.key)
        if disk is None or not disk.chain:
            self._orphans = tuple(job.id for job in vm.jobs if job.id in self._watches)
            raise DiskGone("the disk is gone: it was unplugged, or its medium was ejected")
        base = self._request.base
        base_index = base_index_of(disk, base, resolver(vm.identity, self._host)(base) if base else None)
        if base is not None and base_index == len(disk.chain) > 1:
            raise StreamFailed(f"base {base!r} is no longer in the backing chain: {', '.join(disk.chain_paths)}")
        self._vm, self._disk, self._base_index = vm, disk, base_index
        self._job = vm.job_on(disk)
        if self._job is not None:
            self._cursor = self._job.offset

    @property
    def _top(self) -> str:
        """The node that is streamed and flushed: the format node, under all filters."""
        if self._disk.top.node_name is None:
            raise MonitorUnusable("the block graph does not show the node of the disk")
        return self._disk.top.node_name

    @property
    def _present_job(self) -> Job:
        """The job, in steps that ``next_step`` only names where there is one."""
        return cast("Job", self._job)

    # -- Acting: each step returns whether to go on; False leaves the job to QEMU --------------------------------------

    async def _start(self) -> bool:
        if self._has_started:
            chain = ", ".join(self._disk.chain_paths)
            raise StreamFailed(
                "the stream ended while nobody listened: it failed, or somebody cancelled it. The chain still is "
                f"{chain}, and what was copied is kept. Run the task again"
            )
        self._has_started = True
        job_id = job_id_for(self._disk, [job.id for job in self._vm.jobs])
        arguments: dict[str, Any] = {
            "job-id": job_id,
            "device": self._top,
            "auto-finalize": False,
            "on-error": self._request.on_error,
        }
        if self._base_index < len(self._disk.chain):
            arguments["base-node"] = self._disk.chain[self._base_index].node_name
        if self._request.speed is not None:
            arguments["speed"] = self._request.speed
        self._watch(job_id)
        await self._monitor.execute("block-stream", arguments)
        return await self._wait(job_id)

    async def _follow(self) -> bool:
        return await self._wait(self._present_job.id)

    async def _resume(self) -> bool:
        await self._tell("job-resume", {"id": self._present_job.id})
        return await self._wait(self._present_job.id)

    async def _retune(self) -> bool:
        await self._tell("block-job-set-speed", {"device": self._present_job.id, "speed": self._request.speed})
        return True

    async def _finalize(self) -> bool:
        job_id = self._present_job.id
        free_space = self._host.free_space(self._disk.top.file) if self._disk.top.file is not None else None
        if free_space is not None and free_space.free < metadata_size(self._disk):
            raise StreamFailed(
                f"everything is copied, but the file system of {self._disk.top.path} is full, and QEMU does not tell "
                f"if a flush fails. The {self._present_job.position}, which is safe. Make room and run the task again"
            )
        await self._flush()
        await self._tell("job-finalize", {"id": job_id})
        await self._watch(job_id).end()
        await self._check_ending(job_id)
        return True

    async def _dismiss(self) -> bool:
        job = self._present_job
        said = f" with: {job.error}" if job.error else ""
        note = f"job {job.id}, which somebody else had started, had ended{said} and waited to be dismissed; it was"
        self._notes += (f"{self._target.label}: {note}",)
        await self._tell("job-dismiss", {"id": job.id})
        return True

    async def _pause(self) -> bool:
        await self._tell("job-pause", {"id": self._present_job.id})
        return True

    async def _cancel(self) -> bool:
        job_id = self._present_job.id
        # block-job-cancel refuses a paused job; job-cancel does not, on any QEMU.
        await self._tell("job-cancel", {"id": job_id})
        await self._watch(job_id).end()
        await self._flush()  # so that a crash does not cost what was copied
        return True

    async def _refuse(self) -> bool:
        if self._job is None:
            named = self._disk.stale_header
            raise StreamFailed(
                f"the header of {self._disk.top.path} still names {named}, though QEMU does not use it any more: the "
                "header could not be written when a stream ended, and the VM's next start needs that image. Keep it, "
                "see that the storage is well, restart the VM, and run the task again"
            )
        job = self._job
        raise StreamFailed(f"{job.type} {job.position} and uses the disk. Run the task again when that job is over")

    async def _tell(self, command: str, arguments: Mapping[str, Any]) -> None:
        """Send a command to the job. If it has just ended, that is no error: the next look shows what came of it."""
        watch = self._watch(self._present_job.id)
        try:
            await self._monitor.execute(command, arguments)
        except CommandRefused:
            if await watch.look() is not None:
                raise

    async def _flush(self) -> None:
        """Have QEMU write out the image, which no QMP command does: only its monitor for people can.

        It answers with nothing, or with a text if the node is unknown. It does not tell an I/O error. Until it answers
        the guest stands still, so what a stream has copied is written out before, beside QEMU.
        """
        file = self._disk.top.file
        if file is not None and not self._is_written_out:
            if not await self._host.write_out(file):
                raise JobHangs(f"what was copied cannot be written out: the storage of {file} does not answer")
            self._is_written_out = True
        line = f"qemu-io {self._top} flush"
        said = str(await self._monitor.execute("human-monitor-command", {"command-line": line})).strip()
        if said:
            raise CommandRefused(line, said)

    async def _release(self) -> None:
        """Delete the explicitly named nodes that only this chain used, so that QEMU closes their files."""
        if not (self._request.release and self._left):
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
            self._notes += (f"{self._target.label}: QEMU keeps these nodes, and their files open: {', '.join(kept)}",)
        if nodes:
            await self._look()

    # -- Waiting -------------------------------------------------------------------------------------------------------

    def _watch(self, job_id: str) -> JobWatch:
        if job_id not in self._watches:
            self._is_written_out = False
            self._watches[job_id] = JobWatch(self._monitor, job_id, self._listeners)
        return self._watches[job_id]

    async def _wait(self, job_id: str) -> bool:
        watch = self._watch(job_id)
        writing = asyncio.ensure_future(self._keep_written_out())
        try:
            news = await watch.wait(self._request, self._deadline)
        finally:
            writing.cancel()
        if watch.last_seen is not None:
            self._cursor = watch.last_seen.offset
        if news is WaitEnd.GONE:
            await self._check_ending(job_id)
        position = watch.last_seen.position if watch.last_seen is not None else f"job {job_id} has begun"
        if news is WaitEnd.HELD:
            raise StreamFailed(
                f"{position}. Remove the cause and run the task again: it resumes the job. `state: aborted` gives up "
                "and keeps what was copied"
            )
        if news is WaitEnd.TIME_IS_UP and self._request.on_timeout == "fail":
            raise TimeIsUp(
                f"not populated within {self._request.wait_timeout} s (wait_timeout). The {position} and goes on in "
                "QEMU; run the task again to join it"
            )
        if news is WaitEnd.FAR_ENOUGH or (news is WaitEnd.TIME_IS_UP and self._request.on_timeout == "stop"):
            self._request = self._request.stopped()
        return news is not WaitEnd.LEFT and not (news is WaitEnd.TIME_IS_UP and self._request.on_timeout == "leave")

    async def _keep_written_out(self) -> None:
        """Have what is copied written out while the stream goes on, so that little is left to wait for at its end.

        The guest gains, too: each of its flushes waits for all of the image, and so for what the stream has copied.
        """
        file, pause = self._disk.top.file, _SOON_SECONDS
        while file is not None:
            await asyncio.sleep(pause)
            began = asyncio.get_running_loop().time()
            await self._host.write_out(file)
            has_much = asyncio.get_running_loop().time() - began >= _SOON_SECONDS
            pause = _SOON_SECONDS if has_much else _LATER_SECONDS

    async def _check_ending(self, job_id: str) -> None:
        """The job is gone. A failure is told by its event only; without one, the chain tells whether it succeeded."""
        ending = await self._watch(job_id).ending()
        if ending is None:
            return
        self._cursor = self._cursor if ending.offset is None else ending.offset
        if ending.cancelled and self._request.state == "populated":
            raise StreamFailed(
                f"job {job_id} was cancelled by somebody else. What was copied is kept; run the task again"
            )
        if ending.error:
            raise StreamFailed(
                f"job {job_id} failed at {self._cursor} of {self._disk.virtual_size} bytes: {ending.error}. The disk "
                "still needs its backing images, and what was copied is kept. Remove the cause and run the task again"
            )
