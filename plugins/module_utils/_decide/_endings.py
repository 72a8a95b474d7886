# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How it reads when a disk is not populated: what happened, what is true now, and what to do."""

from __future__ import annotations

from .._model._disk import Disk
from .._model._errors import CommandRefused, QmpError, StreamFailed, TimeIsUp, WriteBackFailed
from .._model._job import Ending, Job
from ._plan import WaitEnd


def failed_wait(end: WaitEnd, position: str, over: str) -> QmpError:
    """Why a wait ended in a failure.

    :param position: the state of the job, in words.
    :param over: how it reads that the time is over.
    """
    if end is WaitEnd.HELD:
        return StreamFailed(
            f"{position}. Remove the cause and run the task again: it resumes the job. `state: aborted` gives up and "
            "keeps what was copied"
        )
    return TimeIsUp(f"not populated when {over}. The {position} and goes on in QEMU; run the task again to join it")


def failed_ending(ending: Ending | None, job_id: str, disk: Disk, cursor: int, *, is_wanted: bool) -> QmpError | None:
    """Whether the end of a job is a failure. Without the event of its end there is no saying; the chain tells.

    :param is_wanted: whether a job that was cancelled should have gone on.
    """
    if ending is None:
        return None
    # A job that this call has cancelled itself ends like one that somebody else has.
    if ending.cancelled and is_wanted:
        return StreamFailed(f"job {job_id} was cancelled by somebody else. What was copied is kept; run the task again")
    if ending.error:
        return StreamFailed(
            f"job {job_id} failed at {cursor} of {disk.virtual_size} bytes: {ending.error}. The disk still needs its "
            "backing images, and what was copied is kept. Remove the cause and run the task again"
        )
    return None


def ended_unheard(disk: Disk) -> QmpError:
    """A stream of this call is gone, its work is not done, and the event that would say why was missed."""
    return StreamFailed(
        "the stream ended while nobody listened: it failed, or somebody cancelled it. The chain still is "
        f"{', '.join(disk.chain_paths)}, and what was copied is kept. Run the task again"
    )


def refused(disk: Disk, job: Job | None) -> QmpError:
    """Why nothing can be done with the disk now."""
    # What stands in the way now comes first: what the file lacks can be told when it is out of the way.
    if job is not None and job.is_libvirts and job.type == "stream":
        return StreamFailed(
            f"{job.position}, and libvirt, which started it, could not resume it after a pause. Give it a `speed`, or "
            "stop it with `state: aborted`, which keeps what was copied"
        )
    if job is not None:
        return StreamFailed(f"{job.type} {job.position} and uses the disk. Run the task again when that job is over")
    if disk.lost is not None:
        return StreamFailed(f"{disk.lost}. Copy the disk to a file of its own (drive-mirror) before anything else")
    if disk.stale_header is None:
        return StreamFailed(
            f"QEMU uses no other image for the disk, but whether its file needs one cannot be told: {disk.doubt}. Keep "
            "the old images"
        )
    return StreamFailed(
        f"the header of {disk.top.path} still names {disk.stale_header}, though QEMU does not use it any more: the "
        "header could not be written when a stream ended, and the VM's next start needs that image. Keep it, see that "
        "the storage is well, restart the VM, and run the task again"
    )


def not_pulled(error: CommandRefused, disk: Disk) -> QmpError:
    """libvirt did not take the link away, at the very end."""
    if disk.stale_view is not None:
        return StreamFailed(
            f"libvirt still takes {disk.stale_view} for the backing image, which QEMU does not need, and its own pull, "
            f"which puts that right, failed: {error.reason}. Run the task again"
        )
    return StreamFailed(
        f"libvirt was to take the link to {disk.chain[1].path} away, and did not: {error.reason}. Everything is copied "
        "and flushed, and the disk needs the old images as before. Run the task again"
    )


def no_room(disk: Disk, job: Job) -> QmpError:
    """A flush into a full file system would fail, and QEMU would not tell."""
    return StreamFailed(
        f"everything is copied, but the file system of {disk.top.path} is full, and QEMU does not tell if a flush "
        f"fails. The {job.position}, which is safe. Make room and run the task again"
    )


def not_on_storage(error: QmpError, job: Job | None, disk: Disk) -> QmpError:
    """The kernel could not bring to the storage what was written to it."""
    state = "The old images are needed as before"
    if job is not None:
        state = f"The {job.position}, and needs the old images"
    if disk.is_never_flushed:
        # Elsewhere its tables come to the storage after what they point to, or not at all.
        return WriteBackFailed(
            f"{error}. {state}. What the kernel could not write it forgets, and QEMU, which never flushes this disk "
            f"(its cache mode is unsafe), may have noted in {disk.top.path} that it is there: no restart cures that. "
            "Make room, or repair the storage, and give the VM a new image over the old ones"
        )
    return WriteBackFailed(
        f"{error}. {state}. What the kernel could not write it forgets, and nobody can tell what is missing: make "
        "room, or repair the storage, then restart the VM, and run the task again"
    )


def nobody_flushes(disk: Disk) -> QmpError:
    """QEMU brings nothing of the disk to the storage, and its file is not open here to do it in QEMU's place."""
    return WriteBackFailed(
        f"the cache mode of the disk is unsafe: QEMU never flushes it, and {disk.top.path} cannot be opened here to do "
        "that in its place. Give the disk another cache mode, or run the task on the VM's own host, as root"
    )


def never_flushed(disk: Disk) -> str:
    """A note: the disk is populated, and what comes after that is not as safe as on others."""
    return (
        "the cache mode of the disk is unsafe: QEMU never flushes it. All that was copied is on the storage now, but a "
        f"crash of this host may damage {disk.top.path} at any later time"
    )


def not_copied(left: int, disk: Disk) -> str:
    """A note: the job said that all is copied, and the map of the chain says otherwise."""
    return (
        f"the stream said that all is copied, but {left} bytes of the disk are still only in {disk.chain[1].path} or "
        "below. That is so when the VM's state was saved, or the VM migrated, meanwhile. The job was cancelled, and "
        "the disk is streamed again"
    )


def not_proven(job: Job) -> str:
    """A note: nothing proves what a job has copied, and something speaks against it."""
    return (
        f"the VM was migrated, or its state was saved, while job {job.id} was there: it may have copied nothing "
        "meanwhile, and the images cannot be looked into. The job was cancelled, and the disk is streamed again"
    )


def cannot_be_proven(job_id: str) -> str:
    """Why it cannot be told what a job has copied that is gone already."""
    return (
        f"the VM was migrated, or its state was saved, while job {job_id} was there, and somebody else finished it: it "
        "may have copied nothing meanwhile, and nothing tells any more"
    )


def not_known_to_be_copied(doubt: str) -> QmpError:
    """The link is gone, and whether all was copied before cannot be told."""
    return StreamFailed(f"{doubt}. Keep the old images, and compare the disk with them")


def never_copied(disk: Disk) -> QmpError:
    """A stream ends again and again without having copied everything."""
    return StreamFailed(
        f"the stream ends, and not everything is copied. The disk still needs {disk.chain[1].path}. Is the VM's state "
        "being saved again and again? Run the task again when that is over"
    )


def not_now(reason: str, job: Job | None) -> QmpError:
    """The VM is in a state in which a job must neither be started nor finished."""
    state = "" if job is None else f". The {job.position}, which is safe"
    return StreamFailed(f"{reason}{state}. Run the task again then")


def no_name_for_base(disk: Disk, base: str) -> QmpError:
    """The header of the active image would call the base by a name that does not lead to it."""
    return StreamFailed(
        f"no name is known by which {disk.top.path} could call base {base!r}: QEMU has it open by a descriptor, or in "
        "a place that this host does not see. Give the base a name that QEMU can open, or populate the disk without one"
    )


def guest_errors(disk: Disk, job: Job) -> QmpError:
    """The guest's own requests fail, so what was copied may not be on the storage either."""
    return StreamFailed(
        f"the storage refuses the guest's own requests (io-status is {disk.io_status}). The {job.position}, which is "
        "safe. Repair the storage, let the VM go on, and run the task again"
    )
