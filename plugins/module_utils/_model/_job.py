# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A block job as QEMU tells of it, and how it ended.

A stream of ours is started with ``auto-finalize`` off and ``auto-dismiss`` on. So a stream that succeeded cannot
vanish: it waits at ``pending``. One that vanished failed or was cancelled, and only the event of its end says which.
"""

from __future__ import annotations

import re
from typing import Any, Collection, NamedTuple

from ._disk import Disk
from ._reader import MESSAGE, Members
from ._request import OnError

# Only a convention: whoever names a job so has it taken for one of ours.
_OUR_PREFIX = "populate-"

ENDINGS = ("BLOCK_JOB_COMPLETED", "BLOCK_JOB_CANCELLED")


class Job(NamedTuple):
    """One entry of ``query-block-jobs``.

    ``offset`` of ``len`` is a position in the disk in bytes, not an amount copied. ``speed`` is bytes per second, 0 is
    unlimited. ``is_libvirts``: libvirt has started it, sees to its end, and is the only one that may dismiss it.
    """

    id: str
    type: str
    status: str
    offset: int
    len: int
    speed: int
    paused: bool
    io_status: str
    auto_finalize: bool
    error: str | None
    is_libvirts: bool = False

    @classmethod
    def from_qmp(cls, entry: Members) -> Job:
        """Read one entry of ``query-block-jobs``, where ``device`` is the job's id."""
        return cls(
            id=entry.text("device"),
            type=entry.text("type"),
            status=entry.text("status"),
            offset=entry.size("offset"),
            len=entry.size("len"),
            speed=entry.size("speed"),
            paused=entry.flag("paused"),
            io_status=entry.text("io-status"),
            auto_finalize=entry.flag("auto-finalize"),
            error=entry.optional_text("error", MESSAGE),
        )

    @property
    def is_pending(self) -> bool:
        """Everything is copied, and the job waits to be finalized."""
        return self.status == "pending"

    @property
    def is_concluded(self) -> bool:
        """The job is over and waits to be dismissed by us: somebody else started it."""
        return self.status == "concluded" and not self.is_libvirts

    @property
    def is_held_by_error(self) -> bool:
        """The job stopped at an I/O error. A user's pause looks the same but for ``io-status``, on every QEMU."""
        return self.paused and self.io_status != "ok"

    @property
    def percent(self) -> float:
        """The position in per cent; 0 of 0 is 100."""
        if self.len == 0:
            return 100.0
        return 100.0 * self.offset / self.len

    @property
    def position(self) -> str:
        """The state in words, for messages."""
        reasons = {"nospace": ", held because there is no space left", "failed": ", held by an I/O error"}
        reason = ""
        if self.paused:
            reason = reasons.get(self.io_status, "")
        return f"job {self.id} is {self.status} at {self.offset} of {self.len} bytes{reason}"


class Ending(NamedTuple):
    """How a job ended, at ``offset``. ``error`` is QEMU's reason; a failed job *completes*, with an error."""

    cancelled: bool
    error: str | None
    offset: int | None = None


class JobEvent(NamedTuple):
    """An event of a job: a reason to look at it, and, where it tells of the job's end, how that was."""

    ending: Ending | None = None

    @classmethod
    def from_qmp(cls, event: Any) -> JobEvent:
        """Read an event of a block job."""
        members = Members(event, "an event")
        kind = members.text("event")
        if kind not in ENDINGS:
            return cls()
        data = members.members("data")
        return cls(
            Ending(
                cancelled=kind == "BLOCK_JOB_CANCELLED",
                error=data.optional_text("error", MESSAGE),
                offset=data.optional_size("offset"),
            )
        )


class Stream(NamedTuple):
    """The order to stream into ``node``, down to ``base_node`` (None: all of the chain).

    ``backing_file`` is what the header calls the base then; None leaves that to QEMU. ``speed`` is bytes per second;
    None leaves it to QEMU, which has no limit then.
    """

    job_id: str
    node: str
    base_node: str | None = None
    backing_file: str | None = None
    speed: int | None = None
    on_error: OnError = "report"


def job_id_for(disk: Disk, taken: Collection[str], migration: str = "") -> str:
    """Make a job id that tells the disk: a letter first, then what QEMU allows (``A-Za-z0-9-._``).

    :param migration: the last migration of the VM, or saving of its state, before the job; see ``was_migrated_since``.
    """
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", disk.label).strip("_") or "disk"
    # Of a path the end tells more than the beginning.
    stem = _OUR_PREFIX + name[-100:]
    if migration:
        stem += f".{migration}"
    job_id = stem
    number = 1
    # Somebody may have named a job so, or an earlier one of ours is not gone yet.
    while job_id in taken:
        number += 1
        job_id = f"{stem}-{number}"
    return job_id


def is_our_id(job_id: str) -> bool:
    """Whether a job bears a name that ``job_id_for`` makes: this call, or an earlier one, started it."""
    return job_id.startswith(_OUR_PREFIX)


def was_migrated_since(job_id: str, migration: str) -> bool:
    """Whether the VM was migrated, or its state saved, while a job was there: it may have copied nothing then.

    A job of ours bears in its id which migration was the last one before it. Of a job of somebody else nothing tells.

    :param migration: the last one as of now; empty where there was none, ever.
    """
    # A number behind it tells jobs of one name apart, see `job_id_for`.
    bears_it = re.search(rf"\.{re.escape(migration)}(-\d+)?$", job_id)
    return bool(migration) and not bears_it
