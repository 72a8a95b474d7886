# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A disk when all is said and done."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from .._model._disk import Disk, Image
from .._model._errors import Failure, QmpError
from .._model._job import Job
from .._model._request import Request
from .._model._target import Target
from .._model._vm import Vm
from ._actions import weightier
from ._plan import ACTIONS, Step, is_done

if TYPE_CHECKING:
    from ._felt import Felt


class Outcome(NamedTuple):
    """A disk as it was, as it is, and what was done between.

    ``cursor`` is where a next increment begins, in bytes. ``left`` are the images that left the chain,
    with the files that they were when the work began. ``error`` is what went wrong, ``notes`` are what the user
    should know beside it. ``seconds`` is how long it took, and ``clock`` when that was over, by the clock of this host
    since it was started; None where nothing was waited for. ``forecast`` is the chain that a run would leave, in
    check mode, and ``order`` the place of its stream among those that would begin. ``has_streamed`` is set once this
    call has started a stream, or left one to QEMU: if that is gone and its work is not done, it failed.
    ``is_stopping`` is set once no stream shall run any more.
    ``proof`` is what it rests on that a stream of this run has copied everything: ``map`` or ``job``. ``restarts``
    counts how often a stream was given up at its end. ``watched`` is the job that was started with the image's files
    held open. ``doubt`` is why it cannot be told that all the disk needs was copied, and is on its storage.
    ``gives_way`` is set where the visit was broken off because another run waited for the monitor, ``gave_way`` once
    that has happened in this call.
    ``felt`` is what the guest felt of the stream; None where nobody looked.
    ``ahead`` is how many requests to read ahead of the stream were found worth it; None where none was tried.
    ``is_unknown`` is set where the VM, asked again, does not tell whether the disk is populated.
    """

    vm: Vm
    disk: Disk
    base_index: int
    before: Disk
    action: str = "none"
    cursor: int = 0
    left: tuple[Image, ...] = ()
    released_nodes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    error: Failure | None = None
    seconds: float = 0.0
    clock: float | None = None
    order: int | None = None
    forecast: tuple[str, ...] | None = None
    has_streamed: bool = False
    is_stopping: bool = False
    proof: str | None = None
    restarts: int = 0
    watched: str = ""
    doubt: str | None = None
    ahead: int | None = None
    is_unknown: bool = False
    gives_way: bool = False
    gave_way: bool = False
    felt: Felt | None = None

    def seen(self, vm: Vm, disk: Disk, base_index: int) -> Outcome:
        """The disk as it is now: what it has lost since the work began, and where its job stands."""
        job = vm.job_on(disk)
        cursor = self.cursor
        if job is not None:
            cursor = job.offset
        # A header that cannot be read was written by a job that tells if it fails.
        if self.proof is not None:
            disk = disk._replace(doubt=None)
        # What was not proven while the job was there, no later look can prove.
        if self.doubt is not None:
            disk = disk._replace(doubt=self.doubt)
        left = _left_between(self.before, disk)
        return self._replace(vm=vm, disk=disk, base_index=base_index, left=left, cursor=cursor)

    def left_alone(self) -> Outcome:
        """The same when a visit ends before its job does: what another visit finds gone is not started anew."""
        return self._replace(has_streamed=self.has_streamed or self.job is not None)

    def did(self, step: Step) -> Outcome:
        """The same after a step, which may say more than those before."""
        return self._replace(action=weightier(self.action, ACTIONS.get(step, "none")))

    def noted(self, note: str) -> Outcome:
        """The same with one more thing that the user should know."""
        return self._replace(notes=(*self.notes, note))

    @property
    def next_cursor(self) -> int:
        """Where a next increment begins: the end, where nothing is left to copy."""
        if is_done(self.disk, self.base_index):
            return self.disk.virtual_size
        return self.cursor

    @property
    def job(self) -> Job | None:
        """The job that works on the disk now."""
        return self.vm.job_on(self.disk)

    @property
    def is_finished(self) -> bool:
        """Whether nothing is left to copy, and nothing went wrong on the way."""
        return self.error is None and is_done(self.disk, self.base_index)

    @property
    def grew_by(self) -> int | None:
        """By how many bytes the active image grew, the guest's own writes included; None where QEMU does not tell."""
        before, now = _allocated(self.before), _allocated(self.disk)
        return None if before is None or now is None else now - before

    @property
    def chain_after(self) -> tuple[str, ...]:
        """The chain as it is, or, in check mode, as it would be."""
        return self.disk.chain_paths if self.forecast is None else self.forecast


def _left_between(before: Disk, now: Disk) -> tuple[Image, ...]:
    """The images that were below the top, and are in the chain no longer."""
    left = []
    for image in before.chain[1:]:
        # The objects differ: what QEMU calls an image may change when a stream ends.
        if not any(image.is_same(kept) for kept in now.chain):
            left.append(image)
    return tuple(left)


def _allocated(disk: Disk) -> int | None:
    """What the active image occupies."""
    return disk.top.allocated if disk.chain else None


def untouched(target: Target, request: Request, error: Failure | None = None) -> Outcome:
    """The outcome of a disk to which nothing was done."""
    # The user's own cursor is handed back, so that a loop over increments goes on from there.
    cursor = request.waiting.cursor
    if target.job is not None:
        cursor = target.job.offset
    if is_done(target.disk, target.base_index):
        cursor = target.disk.virtual_size
    return Outcome(
        target.vm, target.disk, target.base_index, target.disk, cursor=cursor, error=error, ahead=target.ahead
    )


def not_begun(target: Target, request: Request, kind: type[QmpError], reason: str) -> Outcome:
    """The outcome of a disk that should have been streamed and was not, which is an error of this disk."""
    return untouched(target, request, Failure(kind.__name__, f"{target.label}: not started: {reason}"))
