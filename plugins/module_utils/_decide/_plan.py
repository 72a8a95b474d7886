# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What to do: pure decisions from a disk, its job and a wish. Nothing here does I/O or knows a clock."""

from __future__ import annotations

import itertools
from enum import Enum
from typing import Mapping, Sequence

from .._model._disk import Disk, Image
from .._model._graph import Graph
from .._model._job import Job
from .._model._request import Request, Waiting
from .._model._vm import Migration


class Step(Enum):
    """The next thing to do with a disk. Each leads to a state that is looked at anew."""

    DONE = "done"
    START = "start"
    FOLLOW = "follow"
    RESUME = "resume"
    RETUNE = "retune"
    FINALIZE = "finalize"
    PULL = "pull"
    DISMISS = "dismiss"
    PAUSE = "pause"
    CANCEL = "cancel"
    REFUSE = "refuse"


def is_done(disk: Disk, base_index: int) -> bool:
    """Whether nothing is left to copy.

    :param base_index: the place in the chain of the image that stays as the backing image; its length where none does.
    """
    against = {disk.hidden_backing, disk.stale_header, disk.stale_view, disk.lost, disk.doubt}
    return _is_at_end(disk, base_index) and against == {None}


def _is_at_end(disk: Disk, base_index: int) -> bool:
    """Whether QEMU's chain is as it shall be."""
    return bool(disk.chain) and base_index <= 1


def next_step(
    disk: Disk,
    job: Job | None,
    request: Request,
    base_index: int,
    *,
    is_stopping: bool = False,
    gave_way: bool = False,
) -> Step:
    """The state machine: one step from what is to what was asked for.

    :param is_stopping: the time for it is over: no stream shall run, but one that has copied everything is finished.
    :param gave_way: a later run has had its say since.
    """
    is_wanted = request.state == "populated" and not is_stopping
    # A backup or a mirror is somebody else's: it is in the way, unless there is nothing to do.
    if job is not None and job.type != "stream":
        is_content = is_wanted and is_done(disk, base_index)
        return Step.DONE if is_content else Step.REFUSE
    # Whatever is wanted: a concluded job stays in QEMU, and keeps its id, until it is dismissed.
    if job is not None and job.is_concluded:
        return Step.DISMISS
    # libvirt is about to let it go, as it does with one that fails.
    if job is not None and job.is_libvirts and job.status in ("aborting", "concluded"):
        return Step.FOLLOW
    if is_wanted:
        return _towards_populated(disk, job, request, base_index, gave_way=gave_way)
    return _towards_no_stream(job, request, is_stopping=is_stopping)


def _towards_no_stream(job: Job | None, request: Request, *, is_stopping: bool) -> Step:
    if job is None:
        return Step.DONE
    if job.status == "aborting":
        return Step.FOLLOW
    if request.state == "paused":
        # A pending job copies no more: that is a pause already, and QEMU refuses another.
        stands_still = job.paused or job.is_pending
        if not stands_still and job.is_libvirts:
            return Step.REFUSE
        return Step.DONE if stands_still else Step.PAUSE
    # All is copied: to cancel now would throw the whole work away.
    if is_stopping and job.is_pending:
        return Step.FINALIZE
    return Step.CANCEL


def _towards_populated(disk: Disk, job: Job | None, request: Request, base_index: int, *, gave_way: bool) -> Step:
    if job is None:
        return _without_job(disk, base_index)
    if job.is_pending:
        return Step.FINALIZE
    # How fast a stream is, and whether it is held, is what the later run's user wants.
    if gave_way:
        return Step.FOLLOW
    # What the guests leave changes all the while, and is set while the job is followed.
    is_paced = request.guest_latency is not None
    if request.speed is not None and request.speed != job.speed and not is_paced:
        return Step.RETUNE
    if job.paused:
        return Step.RESUME
    return Step.FOLLOW


def _without_job(disk: Disk, base_index: int) -> Step:
    if not _is_at_end(disk, base_index):
        return Step.START
    if is_done(disk, base_index):
        return Step.DONE
    # Where nothing else is wrong, libvirt's own pull has nothing left to copy, and tells libvirt how the chain is.
    if is_done(disk._replace(stale_view=None), base_index):
        return Step.PULL
    # Where QEMU uses no other image and the disk still needs one, a stream would copy nothing and say it had.
    return Step.REFUSE


class WaitEnd(Enum):
    """Why the wait for a job is over."""

    GONE = "it ended"
    READY = "it has copied everything"
    HELD = "an error stopped it"
    LEFT = "nobody wants to wait, or to hold the monitor meanwhile"
    FAR_ENOUGH = "the cursor arrived"
    TIME_IS_UP = "the time is over"
    WANTED = "another run waits for the monitor"


def wait_end(job: Job | None, waiting: Waiting, *, time_is_up: bool, is_wanted: bool) -> WaitEnd | None:
    """Whether a followed job is a reason to stop waiting; None to wait on.

    A pause by somebody else is none: it is theirs to end, and the next run's to resume.

    :param is_wanted: whether another run waits for the monitor.
    """
    # What the job is comes first: a wait whose time is over just as the job ends has not failed.
    if job is None:
        return WaitEnd.GONE
    if job.is_pending or job.is_concluded:
        return WaitEnd.READY
    if job.is_held_by_error:
        return WaitEnd.HELD
    if not waiting.wait:
        return WaitEnd.LEFT
    if waiting.mark is not None and job.offset >= waiting.mark:
        return WaitEnd.FAR_ENOUGH
    if time_is_up:
        return WaitEnd.TIME_IS_UP
    if is_wanted:
        return WaitEnd.WANTED
    # Between polls nobody holds the monitor: the caller comes back.
    if waiting.poll_interval:
        return WaitEnd.LEFT
    return None


class After(Enum):
    """What the end of a wait, or of a step, means for the disk."""

    GO_ON = "look again, and take the next step"
    LEAVE = "leave the job to QEMU"
    GIVE_WAY = "leave the job to QEMU, let the other run have the monitor, and come back"
    STOP = "go on to the point where no stream runs"
    FAIL = "tell the user what is in the way"


_AFTER_TIMEOUT = {"fail": After.FAIL, "leave": After.LEAVE, "stop": After.STOP}
_AFTER = {
    WaitEnd.GONE: After.GO_ON,
    WaitEnd.READY: After.GO_ON,
    WaitEnd.HELD: After.FAIL,
    WaitEnd.LEFT: After.LEAVE,
    WaitEnd.WANTED: After.GIVE_WAY,
    WaitEnd.FAR_ENOUGH: After.STOP,
}


def after_wait(end: WaitEnd, waiting: Waiting) -> After:
    """What the end of a wait means; only where the time is over it is the user who says."""
    if end is WaitEnd.TIME_IS_UP:
        return _AFTER_TIMEOUT[waiting.on_timeout]
    return _AFTER[end]


# What QEMU may die of when it gives its images away meanwhile, as it does at the end of a migration.
_NOT_DURING_A_MIGRATION = (Step.START, Step.FINALIZE, Step.PULL)


def must_sit_out(step: Step) -> bool:
    """Whether a step must wait for the end of a migration, or of the saving of the VM's state."""
    return step in _NOT_DURING_A_MIGRATION


def obstacle_of(migration: Migration, jobs: Sequence[Job], own: Job | None) -> str | None:
    """What stands in the way of such a step, and that it must be waited for; None where nothing does.

    libvirt looks at all nodes when a job of its own ends, and QEMU 7.2 dies of that if another one has just ended.
    """
    if migration.is_under_way:
        return "the VM is being migrated, or its state is being saved. Wait for the end of that"
    for job in jobs:
        if job.is_libvirts and job.id != (own and own.id):
            return f"libvirt's {job.position} on another disk, and only one may end at a time. Wait for the end of that"
    return None


def after_sitting_out(job: Job | None, waiting: Waiting) -> After:
    """What it means that a migration takes longer than the task waits."""
    if waiting.wait and waiting.on_timeout != "fail":
        return After.LEAVE
    # Who does not wait at all leaves a job to QEMU; where none was started yet, there is nothing to leave.
    return After.FAIL if waiting.wait or job is None else After.LEAVE


# What a step is called in the result.
ACTIONS: Mapping[Step, str] = {
    Step.START: "started",
    Step.RESUME: "resumed",
    Step.RETUNE: "retuned",
    Step.FOLLOW: "joined",
    Step.FINALIZE: "joined",
    Step.PULL: "started",
    Step.PAUSE: "paused",
    Step.CANCEL: "stopped",
}


def requested_chain(disk: Disk, base_index: int) -> tuple[Image, ...]:
    """The chain once the stream is done."""
    return disk.chain[:1] + disk.chain[base_index:]


def space_needed(disk: Disk, base_index: int) -> int:
    """What a stream may still write, in bytes.

    The images to be dropped give at most what they occupy, and one that does not tell (NBD) at most its virtual size;
    all together never exceed the disk. Compressed and finely scattered images take more than they occupy, which QEMU
    does not tell.
    """
    layers = disk.chain[1:base_index]
    return min(sum(map(_most_in, layers)), disk.virtual_size)


def _most_in(image: Image) -> int:
    """What an image may hold."""
    if image.allocated is None or _may_be_device(image):
        return image.virtual_size
    return min(image.allocated, image.virtual_size)


def _may_be_device(image: Image) -> bool:
    """Whether what QEMU says of the space that an image occupies is worth nothing: of a block device it says 0."""
    inode = image.bound.inode
    is_device = inode is not None and inode.kind == "block"
    return is_device or (inode is None and image.allocated == 0)


def metadata_size(disk: Disk) -> int:
    """What a flush may have to write for the tables of a qcow2 image: 8 bytes for each cluster of 64 KiB, and some."""
    return disk.virtual_size // 8192 + 2**20


def releasable(left: Sequence[Image], graph: Graph) -> tuple[list[str], list[str]]:
    """Which nodes of the images that left a chain can be deleted, in the order QEMU takes, and which must stay.

    Only nodes that somebody named explicitly outlive the stream; those with a generated name (``#block123``) go by
    themselves.

    :param left: the images as they were before the stream, top down.
    :param graph: the graph after the stream.
    :return: the nodes to delete; and, in words, the nodes that something else uses.
    """
    delete: list[str] = []
    kept: list[str] = []
    # QEMU deletes no node that another one uses, so those above go first, and then use nothing any more.
    going: set[str] = set()
    for node in _named_nodes(left, graph):
        others = [user for user in graph.users.get(node, ()) if user not in going]
        if others:
            kept.append(f"{node} (used by {', '.join(others)})")
        else:
            delete.append(node)
            going.add(f"node {node}")
    return delete, kept


def _named_nodes(images: Sequence[Image], graph: Graph) -> list[str]:
    """The nodes of these images that are still in the graph because somebody has named them, top down."""
    nodes = []
    for node in itertools.chain.from_iterable(image.nodes for image in images):
        if node in graph.below and not node.startswith("#"):
            nodes.append(node)
    return nodes
