# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the user asked for, as the rest of the collection reads it. Sizes are bytes, times are seconds."""

from __future__ import annotations

from typing import Literal, NamedTuple, Tuple

from ._errors import WrongRequest
from ._latency import Paced

EVERY_DISK = "*"

State = Literal["populated", "paused", "aborted"]
OnTimeout = Literal["fail", "leave", "stop"]
Limit = Literal["wait_timeout", "until"]
OnError = Literal["report", "stop", "enospc", "ignore"]


class Selection(NamedTuple):
    """Which disks of which VMs are meant, by names and patterns.

    ``disks`` None is every disk there is, also one that cannot be populated. Without ``vms`` all VMs are meant;
    ``exclude`` takes disks and VMs away again.
    """

    disks: tuple[str, ...] | None
    vms: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def names(self, base: str | None) -> list[str]:
        """What the user gave, ``base`` as well, that may be a file name."""
        names = [*(self.disks or ()), *self.exclude]
        if base:
            names.append(base)
        return names


class BoundVm(NamedTuple):
    """A VM that an earlier look has found, and the keys of its disks that are meant.

    ``pid`` is the process that serves the monitor, and ``started`` its start, for a pid is given again when its process
    is gone; None where it cannot be told. A VM without keys is not asked any more; ``name`` is what it was called.
    ``ahead`` are pairs of a key and how many requests to read ahead were found worth it there.
    """

    monitor: str
    pid: int | None
    started: int | None
    keys: tuple[str, ...]
    name: str | None = None
    ahead: tuple[tuple[str, int], ...] = ()


# The VMs and disks that an earlier look of the same task has selected.
BoundVms = Tuple[BoundVm, ...]


# The monitor of a VM, and the key of a disk.
Key = Tuple[str, str]


class Waiting(NamedTuple):
    """How long a task waits for its streams, and what happens to those that are not done then.

    ``timeout`` is None for as long as it takes; ``limit`` is the option that it comes from, and ``until`` the time by
    the clock, in seconds since 1970. With a ``poll_interval`` the monitor is left to others between two looks. An
    ``increment`` ends where the cursor has moved so far beyond ``cursor``.
    """

    wait: bool = True
    timeout: float | None = None
    limit: Limit = "wait_timeout"
    until: float | None = None
    on_timeout: OnTimeout = "fail"
    poll_interval: int = 0
    increment: int | None = None
    cursor: int = 0

    def beginning_at(self, now: float) -> Waiting:
        """The same with the earlier of its two ends as its timeout, for a wait that begins now."""
        if self.until is None:
            return self
        seconds = max(0.0, self.until - now)
        if self.timeout is not None and self.timeout <= seconds:
            return self
        return self._replace(timeout=seconds, limit="until")

    @property
    def over(self) -> str:
        """How it reads that the time is over, behind "when" and "before"."""
        return "wait_timeout was over" if self.limit == "wait_timeout" else "the time had come that until names"

    @property
    def mark(self) -> int | None:
        """Where the cursor must arrive before an increment is over."""
        return None if self.increment is None else self.cursor + self.increment


class Request(NamedTuple):
    """What was asked for, of every selected disk. ``speed`` None leaves a limit as it is; 0 is no limit.
    ``total_speed`` is that of all streams together.

    ``images`` are the folders whose images may still name what is released. ``read_ahead`` is how many requests may be
    under way beside a stream; 0 is none. ``guest_latency`` is the most that requests of the guests may take, in
    nanoseconds; None where the streams do not care. ``goes_on``: another look of the same task follows, which goes on
    from ``paced``.
    """

    state: State = "populated"
    base: str | None = None
    speed: int | None = None
    total_speed: int | None = None
    on_error: OnError = "report"
    parallel: int = 1
    check_space: bool = True
    release: bool = True
    images: tuple[str, ...] = ()
    read_ahead: int = 0
    guest_latency: int | None = None
    paced: Paced | None = None
    goes_on: bool = False
    waiting: Waiting = Waiting()


def check_path(option: str, path: str) -> None:
    """Check that a path means the same whoever reads it.

    :raise WrongRequest: it does not.
    """
    if not path.startswith("/"):
        raise WrongRequest(f"{option} has {path!r}, which is not absolute. Begin it with /")
    if ".." in path.split("/"):
        raise WrongRequest(f"{option} has {path!r}, with '..' in it. Name the folder itself")
    try:
        # As file names are encoded on Linux.
        name = path.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise WrongRequest(f"{option} has {path!r}, which no file can be called") from None
    if b"\0" in name:
        raise WrongRequest(f"{option} has {path!r}, which no file can be called")


def check_image_path(option: str, path: str) -> None:
    """The same of the path of an image.

    :raise WrongRequest: it is none.
    """
    check_path(option, path)
    if path.rpartition("/")[2] in ("", "."):
        raise WrongRequest(f"{option} is {path!r}, which is a folder. Name an image")
