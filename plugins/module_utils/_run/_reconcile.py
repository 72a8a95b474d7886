# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Bring one disk from what it is to what was asked for: look, take the next step, look again.

What makes it safe is an order, and every part of it is needed: a stream waits at ``pending`` when all is copied and its
backing link is still there; then QEMU flushes the top image, so that a crash finds the copied clusters; then the job is
finalized, which removes the link; then the chain is read again, and the header is flushed. Before the job is finalized
the map of the chain proves that everything is copied, and every flush is one whose failure would be known. Of libvirt's
guests the job is cancelled instead of finalized, and libvirt itself removes the link.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, AsyncIterator, Awaitable, Callable, Mapping, cast

from .._decide._endings import (
    cannot_be_proven,
    ended_unheard,
    failed_ending,
    failed_wait,
    guest_errors,
    never_copied,
    never_flushed,
    no_name_for_base,
    no_room,
    nobody_flushes,
    not_copied,
    not_known_to_be_copied,
    not_now,
    not_on_storage,
    not_proven,
    not_pulled,
    refused,
)
from .._decide._fit import refused_state
from .._decide._outcome import Outcome, untouched
from .._decide._plan import (
    After,
    Step,
    WaitEnd,
    after_sitting_out,
    after_wait,
    is_done,
    metadata_size,
    must_sit_out,
    next_step,
    obstacle_of,
    releasable,
)
from .._decide._populated import loss_of
from .._model._disk import is_local
from .._model._errors import (
    CommandRefused,
    DiskGone,
    HostSilent,
    JobHangs,
    MonitorUnusable,
    QmpError,
    ReadAheadFailed,
    StreamFailed,
    WriteBackFailed,
)
from .._model._job import Job, Stream, is_our_id, job_id_for, was_migrated_since
from .._model._request import Request, Waiting
from .._model._seams import Held, Host, Link, Pull
from .._model._serving import LOCK
from .._model._target import Target, base_index_of
from .._model._vm import Vm
from ._budget import Budget, Followed, paced
from ._observe import explain, identify, look
from ._watch import JobWatch

if TYPE_CHECKING:
    from ._pacing import Pacing

# Every step leads on; a peer that keeps leading us in circles is no QEMU.
_MOST_STEPS = 40

# A job that has not copied everything is given up, and streamed again: the VM's state may have been saved meanwhile.
_MOST_RESTARTS = 3

# A migration under way has no event for who is not to change the VM's capabilities.
_MIGRATION_SECONDS = 0.5

# A stream that has nothing left to copy passes over a disk in so long, unless it has millions of clusters.
_BRIEF_SECONDS = 30.0

# How long a stream is left alone before its image is written out again: hardly, while there is much to write.
_SOON_SECONDS = 0.05
_LATER_SECONDS = 5.0


async def reconcile(  # noqa: PLR0913  # who does what to which disk, and what is known of it
    link: Link,
    host: Host,
    target: Target,
    budget: Budget,
    deadline: float | None,
    earlier: Outcome | None = None,
    *,
    is_seen: bool = False,
) -> Outcome:
    """Do what was asked for with one disk of the VM behind ``link``.

    :param budget: what is asked for; how fast its stream may be changes as others begin and end.
    :param deadline: the time of the event loop at which the wait is over.
    :param earlier: the outcome of an earlier visit, which left a job to QEMU.
    :param is_seen: the VM of the target was seen over this very link, which is open since.
    :return: the outcome; what went wrong is in its ``error``.
    """
    with contextlib.ExitStack() as listeners:
        visit = _Visit(link, host, target, budget, deadline, listeners)
        return await visit.run(earlier, is_seen=is_seen)


class _Visit:
    """One disk on its way, as long as the VM's monitor is held.

    All that is known of the disk is in ``_now``, which each look and each step replaces; the rest never changes.
    """

    def __init__(
        self,
        link: Link,
        host: Host,
        target: Target,
        budget: Budget,
        deadline: float | None,
        listeners: contextlib.ExitStack,
    ):
        self._link = link
        self._host = host
        self._target = target
        self._budget = budget
        self._deadline = deadline
        self._listeners = listeners
        self._watches: dict[str, JobWatch] = {}
        self._held: Held | None = None
        self._now = untouched(target, self._request)._replace(cursor=self._request.waiting.cursor)

    @property
    def _request(self) -> Request:
        """What is asked for now."""
        return self._budget.request

    async def run(self, earlier: Outcome | None, *, is_seen: bool) -> Outcome:
        """Step by step, until it is as asked for, is left to QEMU, or failed."""
        if earlier is not None:
            self._now = earlier.left_alone()._replace(cursor=self._request.waiting.cursor, watched="", gives_way=False)
        try:
            await self._arrive(is_first=earlier is None, is_seen=is_seen)
        except QmpError as error:
            # Where the VM cannot be asked, or is another one, no job is known of.
            return await self._failed(error, self._now.vm._replace(jobs=()))
        try:
            await self._advance()
            await self._settle()
        except QmpError as error:
            return await self._give_up(error)
        return self._now._replace(cursor=self._now.next_cursor)

    async def _advance(self) -> None:
        take: Mapping[Step, Callable[[], Awaitable[After]]] = {
            Step.START: self._start,
            Step.FOLLOW: self._follow,
            Step.RESUME: self._resume,
            Step.RETUNE: self._retune,
            Step.FINALIZE: self._finalize,
            Step.PULL: self._pull,
            Step.DISMISS: self._dismiss,
            Step.PAUSE: self._pause,
            Step.CANCEL: self._cancel,
            Step.REFUSE: self._refuse,
        }
        for _number in range(_MOST_STEPS):
            now = self._now
            step = next_step(
                now.disk,
                now.job,
                self._request,
                now.base_index,
                is_stopping=now.is_stopping,
                gave_way=now.gave_way,
            )
            if step is Step.DONE:
                return
            if must_sit_out(step) and await self._obstacle(step) is not None:
                if await self._sit_out(step) is not After.GO_ON:
                    return
                continue
            self._refuse_states()
            if step is not Step.START or not now.restarts:
                self._now = now.did(step)
            after = await (self._stream_again(self._job) if await self._is_lost(step) else take[step]())
            await self._look()
            if after in (After.LEAVE, After.GIVE_WAY):
                return
            if after is After.STOP:
                self._now = self._now._replace(is_stopping=True)
        raise MonitorUnusable(f"{_MOST_STEPS} steps led nowhere; what answers does not do what it says")

    async def _settle(self) -> None:
        """Make sure of a disk that is populated, and have QEMU close what its chain has lost."""
        if self._now.job is None and is_done(self._now.disk, self._now.base_index):
            self._refuse_states()
            # Whoever streamed this disk, now or before: "populated" means that a crash cannot undo it.
            await self._flush()
            if self._now.disk.is_never_flushed:
                self._note(never_flushed(self._now.disk))
        await self._release()

    # -- What went wrong -----------------------------------------------------------------------------------------------

    async def _failed(self, error: QmpError, vm: Vm, addition: str = "") -> Outcome:
        failure = await explain(self._target.label, error, self._link.address, self._host)
        failure = failure._replace(message=failure.message + addition)
        return self._now._replace(vm=vm, error=failure, cursor=self._now.next_cursor)

    async def _give_up(self, error: QmpError) -> Outcome:
        """Keep what was copied, and see what a failure left behind."""
        addition = ""
        if isinstance(error, DiskGone):
            addition = await self._let_go()
        elif isinstance(error, StreamFailed) and not isinstance(error, JobHangs) and self._watches:
            # Where the storage hangs, a flush would wait for it as the job does, and the whole VM for the flush.
            with contextlib.suppress(QmpError):
                self._refuse_states()
                await self._flush()  # so that a crash does not cost what was copied
        # It may be the monitor that failed. Then no job is known of.
        self._now = self._now._replace(vm=self._now.vm._replace(jobs=()))
        with contextlib.suppress(QmpError):
            await self._look()
        return await self._failed(error, self._now.vm, addition)

    async def _let_go(self) -> str:
        """End our job on a disk that is gone: it would keep the images busy for ever, and the disk from coming back."""
        fates = ""
        for job_id in [job.id for job in self._now.vm.jobs if job.id in self._watches]:
            fate = "is left in QEMU"
            if is_our_id(job_id):
                with contextlib.suppress(QmpError):
                    await self._link.cancel(job_id)
                    await self._watch(job_id).end()
                    fate = "was cancelled, and what it copied is kept"
                    await self._flush()
            fates += f"; job {job_id} {fate}"
        return fates

    # -- Looking -------------------------------------------------------------------------------------------------------

    async def _arrive(self, *, is_first: bool, is_seen: bool) -> None:
        """See whether this is still the VM that was planned for, and the disk as it is now."""
        vm = self._now.vm if is_seen else await identify(self._link, self._host, self._names)
        successor = self._now.vm.identity.successor(vm.identity)
        if successor is not None:
            raise MonitorUnusable(f"{successor}. Run the task again")
        self._see(vm)
        if is_first:
            self._now = self._now._replace(before=self._now.disk, left=())
        await self._end_stale_exports(vm)
        top = self._now.disk.top
        files = [top.bound] if top.data is None else [top.bound, top.data]
        self._held = await self._host.hold(vm.identity.pid, files, top.path)
        if self._held is not None:
            self._listeners.callback(self._held.close)

    async def _end_stale_exports(self, vm: Vm) -> None:
        """End what a task has left in QEMU that read ahead and was killed: one client at a time is at a monitor."""
        ours = vm.serving.ours if vm.serving is not None else ()
        if ours or LOCK in vm.graph.below:
            try:
                await self._link.end_exports_but_own(ours)
            except ReadAheadFailed as error:
                self._note(str(error))

    async def _look(self) -> None:
        self._see(await look(self._link, self._now.vm.identity, self._host, self._names))

    def _see(self, vm: Vm) -> None:
        disk = vm.disk(self._target.disk.key)
        if disk is None or not disk.chain:
            self._now = self._now._replace(vm=vm)
            raise DiskGone("the disk is gone: it was unplugged, or its medium was ejected")
        base = self._request.base
        base_index = base_index_of(vm, disk, base)
        if base is not None and base_index == len(disk.chain) > 1:
            raise StreamFailed(f"base {base!r} is no longer in the backing chain: {', '.join(disk.chain_paths)}")
        self._now = self._now.seen(vm, disk, base_index)

    @property
    def _names(self) -> list[str]:
        """What the user gave that may be a file name."""
        return [] if self._request.base is None else [self._request.base]

    @property
    def _top(self) -> str:
        """The node that is streamed and flushed: the format node, under all filters."""
        node = self._now.disk.top.node_name
        if node is None:
            raise MonitorUnusable("the block graph does not show the node of the disk")
        return node

    @property
    def _job(self) -> Job:
        """The job, in steps that ``next_step`` only names where there is one."""
        return cast("Job", self._now.job)

    # -- Steps ---------------------------------------------------------------------------------------------------------

    async def _start(self) -> After:
        disk = self._now.disk
        if self._now.has_streamed:
            raise ended_unheard(disk)
        # All that QEMU has written so far is on the storage, or it would tell; from here on the held files do.
        await self._flush()
        if self._held is not None:
            self._held.forget()
        self._now = self._now._replace(has_streamed=True)
        has_base = self._now.base_index < len(disk.chain)
        taken = [job.id for job in self._now.vm.jobs]
        stream = Stream(
            job_id=job_id_for(disk, taken, (await self._link.migration()).mark),
            node=self._top,
            base_node=disk.chain[self._now.base_index].node_name if has_base else None,
            backing_file=await self._name_for_base() if has_base else None,
            speed=self._request.speed,
            on_error=self._request.on_error,
        )
        self._watch(stream.job_id)
        if self._held is not None:
            self._now = self._now._replace(watched=stream.job_id)
        await self._stand_still()
        try:
            await self._link.start(stream)
        except CommandRefused:
            await self._look()
            if self._now.job is None:
                raise
            self._now = self._now._replace(watched="")
            return After.GO_ON  # somebody else was faster: it is joined
        return await self._wait(stream.job_id, stream.speed)

    async def _sit_out(self, step: Step) -> After:
        """Wait for the end of what is in the way, and look what it has left; or leave, where it takes too long."""
        while True:
            obstacle = await self._obstacle(step)
            if obstacle is None:
                break
            if self._deadline is not None and asyncio.get_running_loop().time() >= self._deadline:
                after = after_sitting_out(self._now.job, self._request.waiting)
                if after is After.FAIL:
                    raise not_now(obstacle, self._now.job)
                return after
            if self._link.runs is not None and self._link.runs.is_waiting():
                return self._give_way()
            await asyncio.sleep(_MIGRATION_SECONDS)
        await self._look()
        return After.GO_ON

    async def _obstacle(self, step: Step) -> str | None:
        """What is under way in the VM that a step must not meet; None where nothing is."""
        # Starting meets no job of another disk, and without libvirt there is no job whose end matters to others.
        meets_jobs = self._link.pull is not None and step is not Step.START
        jobs = await self._link.jobs() if meets_jobs else ()
        return obstacle_of(await self._link.migration(), jobs, self._now.job)

    async def _stand_still(self) -> None:
        """Make sure, right before a job starts or ends, that QEMU keeps its images meanwhile.

        What was seen before the last flush and the map is older than a migration may take. Between these two questions
        and the command none can begin and end.
        """
        obstacle = obstacle_of(await self._link.migration(), (), self._now.job)
        if obstacle is not None:
            raise not_now(obstacle, self._now.job)
        await self._ask_state()

    async def _ask_state(self) -> None:
        """Refuse the VM's state as it is now: of a flush, too, QEMU may die once it has given its images away."""
        self._now = self._now._replace(vm=self._now.vm._replace(status=await self._link.status()))
        self._refuse_states()

    def _refuse_states(self) -> None:
        """Neither start nor end a job where QEMU copies nothing, or dies of it."""
        reason = refused_state(self._now.vm, self._now.disk)
        if reason is not None:
            raise not_now(reason, self._now.job)

    async def _name_for_base(self) -> str | None:
        """What the header shall call the base; None leaves that to QEMU, for what is no file."""
        # Loaded here, and only here: most tasks have no base.
        from .._decide._backing import as_qemu_opens, choose_name, names_for_base

        now = self._now
        base = now.disk.chain[now.base_index]
        names = names_for_base(now.disk, now.base_index)
        if not is_local(base.path) or (names and base.bound.inode is None):
            return names[0] if names else None
        opened = [as_qemu_opens(now.disk, name) for name in names]
        survey = await self._host.survey(now.vm.identity.pid, opened, {})
        name = choose_name(now.disk, now.base_index, names, survey.names)
        if name is None:
            raise no_name_for_base(now.disk, self._request.base or "")
        return name

    async def _follow(self) -> After:
        return await self._wait(self._job.id, self._job.speed)

    async def _resume(self) -> After:
        job = self._job
        await self._unless_over(self._link.resume(job.id))
        return await self._wait(job.id, job.speed)

    async def _retune(self) -> After:
        await self._unless_over(self._link.set_speed(self._job.id, cast("int", self._request.speed)))
        return After.GO_ON

    async def _finalize(self) -> After:
        job, disk, pid = self._job, self._now.disk, self._now.vm.identity.pid
        if disk.io_status != "ok":
            raise guest_errors(disk, job)
        free_space = await self._host.free_space(pid, disk.top.written)
        if free_space is not None and free_space.free < metadata_size(disk):
            raise no_room(disk, job)
        is_told = await self._flush()
        doubt = await self._doubt_of(job)
        if doubt is not None:
            self._note(doubt)
            return await self._stream_again(job)
        if not is_told and job.id != self._now.watched and not self._now.restarts:
            # Nobody was told whether all that it wrote reached the storage. Without a job QEMU tells; then another one
            # finds everything copied, and ends at once.
            return await self._stream_again(job)
        if self._link.pull is not None and await self._obstacle(Step.FINALIZE) is not None:
            return After.GO_ON  # a pull of libvirt's has begun while this image was flushed
        await self._stand_still()
        if self._link.pull is not None:
            await self._unless_over(self._link.cancel(job.id))
            await self._watch(job.id).end()
            return await self._pull()
        await self._unless_over(self._link.finish(job.id))
        await self._watch(job.id).end()
        await self._check_ending(job.id)
        return After.GO_ON

    async def _pull(self) -> After:
        """Have libvirt take the link away, by a stream of its own that finds nothing left to copy.

        Only so does libvirt know the chain: what drops a link behind its back is undone by its next copy of the disk.
        """
        disk, index = self._now.disk, self._now.base_index
        pull: Pull = cast("Pull", self._link.pull)
        base = disk.chain[index] if index < len(disk.chain) else None
        try:
            await pull(disk, base)
        except CommandRefused as error:
            raise not_pulled(error, disk) from error
        return After.GO_ON

    async def _doubt_of(self, job: Job) -> str | None:
        """Why a job that says that it has copied everything may not have done so; None where it is proven.

        The map of the chain proves it. Where there is none, the job is taken at its word, unless the VM's state was
        saved meanwhile, or the VM migrated: QEMU's job goes on then and copies nothing.
        """
        from .._decide._copied import layers_of, left_below
        from .._model._map import MapTotals, NoMap

        now = self._now
        base_depth = now.base_index if now.base_index < len(now.disk.chain) else None
        totals = await self._host.read_map(now.vm.identity.pid, layers_of(now.disk), base_depth)
        left = None if isinstance(totals, NoMap) else left_below(totals, base_depth)
        if left == 0:
            self._now = now._replace(proof="map")
            return None
        if left is not None and isinstance(totals, MapTotals) and totals.opaque is None:
            return not_copied(left, now.disk)
        if was_migrated_since(job.id, (await self._link.migration()).mark):
            return not_proven(job)
        self._now = now._replace(proof="job")
        return None

    async def _is_lost(self, step: Step) -> bool:
        """Whether a job must not be followed: it drops the link by itself, and may have copied nothing."""
        job = self._now.job
        if job is None or not job.auto_finalize or step not in (Step.FOLLOW, Step.RESUME, Step.RETUNE):
            return False
        if job.status == "aborting" or not was_migrated_since(job.id, (await self._link.migration()).mark):
            return False
        self._note(not_proven(job))
        return True

    async def _stream_again(self, job: Job) -> After:
        """Give up a job at its end; what it has copied is passed over by the next one."""
        if self._now.restarts >= _MOST_RESTARTS:
            raise never_copied(self._now.disk)
        await self._unless_over(self._link.cancel(job.id))
        await self._watch(job.id).end()
        self._now = self._now._replace(has_streamed=False, restarts=self._now.restarts + 1)
        return After.GO_ON

    async def _dismiss(self) -> After:
        job, was_followed = self._job, self._job.id in self._watches
        reason = f" with: {job.error}" if job.error else ""
        self._note(
            f"job {job.id}, which somebody else had started, had ended{reason} and waited to be dismissed; it was"
        )
        await self._unless_over(self._link.dismiss(job.id))
        if was_followed and not job.error:
            await self._believe(job.id)
        return After.GO_ON

    async def _pause(self) -> After:
        await self._unless_over(self._link.pause(self._job.id))
        return After.GO_ON

    async def _cancel(self) -> After:
        job_id = self._job.id
        await self._unless_over(self._link.cancel(job_id))
        await self._watch(job_id).end()
        await self._flush()  # so that a crash does not cost what was copied
        return After.GO_ON

    async def _refuse(self) -> After:
        raise refused(self._now.disk, self._now.job)

    async def _unless_over(self, command: Awaitable[None]) -> None:
        """Send a command to the job. If it has just ended, that is no error: the next look shows what came of it."""
        watch = self._watch(self._job.id)
        try:
            await command
        except CommandRefused:
            if await watch.look() is not None:
                raise

    async def _flush(self) -> bool:
        """Have QEMU write out the image, and know whether the storage took it.

        Until QEMU answers the guest stands still, so the kernel writes out before. The kernel tells of an error whoever
        has had the file open since before it happened; QEMU tells of all, but may not be able to beside a job.

        Where QEMU never flushes, only the kernel does, and what it tells is told once. A mark keeps it.

        :return: whether QEMU told.
        """
        disk, top = self._now.disk, self._now.disk.top
        if disk.is_never_flushed and self._held is None:
            failure = nobody_flushes(disk)
            self._now = self._now._replace(doubt=str(failure))
            raise failure
        beneath = top.nodes[top.nodes.index(self._top) + 1 :]
        try:
            await self._write_out()
            loss = loss_of(disk, self._now.vm.graph)
            if loss is not None:
                raise WriteBackFailed(loss)
            await self._ask_state()
            is_told = await self._link.flush(self._top, beneath)
            # A node may be set never to flush where QEMU does not show it.
            await self._write_out()
        except WriteBackFailed as error:
            raise self._not_on_storage(error) from error
        return is_told

    def _not_on_storage(self, error: WriteBackFailed) -> QmpError:
        self._now = self._now._replace(doubt=str(error))
        return not_on_storage(error, self._now.job, self._now.disk)

    async def _write_out(self) -> None:
        try:
            if self._held is not None:
                await self._held.flush()
        except HostSilent as error:
            raise JobHangs(f"what was copied cannot be written out: {error}") from error
        except WriteBackFailed:
            # The kernel has told it now, and does not tell it again to who opens the file later.
            with contextlib.suppress(QmpError):
                await self._link.leave_mark(self._now.disk.mark_of_loss)
            raise

    async def _release(self) -> None:
        """Delete the explicitly named nodes that only this chain used, so that QEMU closes their files."""
        if not (self._request.release and self._now.left):
            return
        nodes, kept = releasable(self._now.left, self._now.vm.graph)
        for node in nodes:
            try:
                await self._link.delete_node(node)
            except CommandRefused as error:
                kept.append(f"{node} ({error.reason})")
            else:
                self._now = self._now._replace(released_nodes=(*self._now.released_nodes, node))
        if kept:
            self._note(f"QEMU keeps these nodes, and their files open: {', '.join(kept)}")
        if nodes:
            await self._look()

    def _note(self, note: str) -> None:
        self._now = self._now.noted(f"{self._target.label}: {note}")

    # -- Waiting -------------------------------------------------------------------------------------------------------

    def _watch(self, job_id: str) -> JobWatch:
        if job_id not in self._watches:
            self._watches[job_id] = JobWatch(self._link, job_id, self._listeners)
        return self._watches[job_id]

    async def _wait(self, job_id: str, speed: int | None) -> After:
        followed = Followed(self._target.key, self._link, job_id, speed)
        pacing = self._pacing_of(speed)
        is_late = self._budget.follow(self._target.key, job_id, speed)
        if pacing is None and self._budget.pacing is not None:
            self._budget.forget(self._target.key)  # what the guests leave changes all the while, and is not for it
        if is_late and not self._now.gave_way and pacing is None:
            return After.GO_ON  # the streams were shared anew since its speed was set
        watch, waiting, deadline = self._watch(job_id), self._request.waiting, self._deadline
        if self._now.proof is not None:  # there is nothing left to copy, which even who does not wait waits for
            waiting, deadline = Waiting(on_timeout="leave"), asyncio.get_running_loop().time() + _BRIEF_SECONDS
        writing = asyncio.ensure_future(self._keep_written_out())
        if waiting.wait:
            self._make_ready()
        try:
            async with paced(pacing, followed), self._reading_ahead(job_id):
                end = followed.end = await watch.wait(waiting, deadline)
        finally:
            writing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await writing
        if self._now.disk.is_never_flushed:
            await self._hear_out()
        position = f"job {job_id} has begun"
        if watch.last_seen is not None:
            self._now = self._now._replace(cursor=watch.last_seen.offset)
            position = watch.last_seen.position
        if end is WaitEnd.GONE:
            await self._check_ending(job_id)
        after = after_wait(end, waiting)
        if after is After.FAIL:
            raise failed_wait(end, position, waiting.over)
        return self._give_way() if after is After.GIVE_WAY else after

    async def _hear_out(self) -> None:
        """Wait for what was asked of the storage: what it answers is told to nobody else, not even to QEMU."""
        try:
            await self._write_out()
        except WriteBackFailed as error:
            raise self._not_on_storage(error) from error

    def _make_ready(self) -> None:
        """Load what the end of a stream takes, while QEMU copies: a task that finds all done never needs it."""
        from .._decide import _copied  # noqa: F401
        from . import _release  # noqa: F401

        self._host.make_ready()

    def _pacing_of(self, speed: int | None) -> Pacing | None:
        """What paces a stream for the sake of its guest, if that was asked for; not where a later run has had its say.

        :param speed: its limit now; None where it was started without one.
        """
        is_others = self._now.gave_way and (speed or 0) != self._budget.own_speed
        is_copied = self._now.proof is not None
        return None if is_others or is_copied else self._budget.pacing

    def _give_way(self) -> After:
        self._now = self._now.left_alone()._replace(gives_way=True, gave_way=True)
        return After.GIVE_WAY

    @contextlib.asynccontextmanager
    async def _reading_ahead(self, job_id: str) -> AsyncIterator[None]:
        """Read ahead of a job, if that was asked for, and nothing forbids it."""
        now, most = self._now, self._request.read_ahead
        if not most or now.proof is not None:
            yield
            return
        # Loaded here, and only here: most tasks read nothing ahead.
        from .._decide._ahead import Window, course_for, why_nobody_reads_ahead, why_not_read_ahead
        from ._read_ahead import reading_ahead

        reason = why_nobody_reads_ahead(self._request.waiting)
        if reason is None:
            serving, remote = await self._link.serving(), await self._host.remote_devices()
            reason = why_not_read_ahead(now.vm.identity, serving, now.disk, now.base_index, remote)
        if reason is not None:
            self._tell_of_read_ahead(reason)
            yield
            return
        course = course_for(now.disk, now.base_index, self._request.waiting)
        window = Window.beginning(now.ahead, most, asyncio.get_running_loop().time())
        async with reading_ahead(self._link, self._top, job_id, course, window, self._tell_of_read_ahead) as found:
            try:
                yield
            finally:
                self._now = self._now._replace(ahead=found())

    def _tell_of_read_ahead(self, reason: str) -> None:
        self._note(f"nothing is read ahead of the stream, which goes on without it: {reason}")

    async def _keep_written_out(self) -> None:
        """Have what is copied written out while the stream goes on, so that little is left to wait for at its end.

        The guest gains, too: each of its flushes waits for all of the image, and so for what the stream has copied.
        """
        pause = _SOON_SECONDS
        # An error stays known, and is told when the image is flushed.
        with contextlib.suppress(JobHangs, WriteBackFailed):
            while self._held is not None:
                await asyncio.sleep(pause)
                began = asyncio.get_running_loop().time()
                await self._write_out()
                has_much = asyncio.get_running_loop().time() - began >= _SOON_SECONDS
                pause = _SOON_SECONDS if has_much else _LATER_SECONDS

    async def _check_ending(self, job_id: str) -> None:
        """The job is gone. A failure is told by its event only; without one, the chain tells whether it succeeded."""
        ending = await self._watch(job_id).ending()
        if ending is not None and ending.offset is not None:
            self._now = self._now._replace(cursor=ending.offset)
        is_wanted = self._request.state == "populated" and not self._now.is_stopping
        failure = failed_ending(ending, job_id, self._now.disk, self._now.cursor, is_wanted=is_wanted)
        if failure is not None:
            raise failure
        if ending is not None and not ending.cancelled and self._now.proof is None:
            await self._believe(job_id)

    async def _believe(self, job_id: str) -> None:
        """Take a job at its word that somebody else finished, unless something speaks against it."""
        if was_migrated_since(job_id, (await self._link.migration()).mark):
            doubt = cannot_be_proven(job_id)
            self._now = self._now._replace(doubt=doubt)
            raise not_known_to_be_copied(doubt)
        self._now = self._now._replace(proof="job")
