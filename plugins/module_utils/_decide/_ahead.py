# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Reading ahead of a stream: whether it may be done, of what, and how fast. Nothing here does I/O or knows a clock.

A stream has one request of 512 KiB in flight, so behind a link with a delay it is slow whatever the link can carry.
Reading ahead has QEMU copy what the stream will come to, several requests at a time, by the same copy-on-read that the
stream itself uses. The stream then finds it copied, and passes over it. So reading ahead may fail at any moment: it
proves nothing, and nothing depends on it.
"""

from __future__ import annotations

from typing import Collection, Iterable, Iterator, NamedTuple, Sequence

from .._model._disk import Disk, Image, is_local
from .._model._job import Job
from .._model._request import Waiting
from .._model._serving import Serving
from .._model._vm import Identity

# `block-export-add` came with 5.2.
_FIRST_VERSION = (5, 2)
# 7.2 aborts when the client of an export leaves and there are iothreads, and 5.2 when the VM is stopped. 10.0 does not.
_FIRST_VERSION_WITH_IOTHREADS = (10, 0)
# Larger requests cost the guest latency, and smaller ones speed. Within a cluster they wait for each other.
_STEP = 512 * 1024
# What was not used of a limit is kept for so long, and no longer.
_SECONDS_KEPT = 0.5
# With one request the stream and it wait for each other, so more are tried first.
_FIRST_SIZE = 2
# So much faster must the first requests make it than the stream is alone, and then twice as many. A link that a stream
# fills in part gains less by the first ones than what the guest loses.
_LEAST_FIRST_GAIN, _LEAST_GAIN = 1.7, 1.4
# What it is measured by: so long, and so many steps.
_LEAST_SECONDS, _LEAST_STEPS = 0.2, 6
# Nothing is copied at a gigabyte a second: it is there already, and passed over.
_MOST_STEPS_PER_SECOND = 2000
# How long what was found is kept: the first time, and at most. What an earlier task has found is kept for longer.
_FIRST_PAUSE, _LONGEST_PAUSE, _PAUSE_IF_KNOWN = 4.0, 60.0, 8.0
# In the map of the depths 0 is nowhere, 1 the active image itself, 2 the first backing image.
_FIRST_DEPTH = 2


def why_not_read_ahead(
    vm: Identity, serving: Serving, disk: Disk, base_index: int, remote: Collection[int]
) -> str | None:
    """Why a stream into a disk must do without reading ahead, or gains nothing by it; None where it may have it.

    :param remote: the devices (``st_dev``) that are file systems of other hosts.
    """
    read = disk.chain[1:base_index]
    if not read:
        return "no image below the disk is to be copied"
    if vm.version < _FIRST_VERSION:
        return f"QEMU {vm.qemu_version} is too old for it, which 5.2 is not"
    if vm.peer is None and not vm.is_domain:
        return "it needs a monitor on a UNIX socket: no file descriptor can be passed over TCP"
    if serving.has_iothreads and vm.version < _FIRST_VERSION_WITH_IOTHREADS:
        return f"the VM has iothreads, and QEMU {vm.qemu_version} may abort when an export ends then. 10.0 does not"
    if serving.has_foreign_server:
        return "QEMU's NBD server is used by somebody else, and there is only one"
    if all(_is_near(image, remote) for image in read):
        return "all images that are copied are local files, from which a stream alone is as fast"
    return None


def _is_near(image: Image, remote: Collection[int]) -> bool:
    """Whether an image is a file of this very host. A block device may be anywhere."""
    inode = image.bound.inode
    if inode is None:
        return is_local(image.path)
    return inode.kind != "block" and inode.id.device not in remote


def why_nobody_reads_ahead(waiting: Waiting) -> str | None:
    """Why a task cannot read ahead, whatever the disk, if so: it lasts as long as somebody stays at the monitor."""
    if not waiting.wait:
        return "nobody waits for the stream (wait is false)"
    if waiting.poll_interval:
        return "the monitor is left to others between two looks (poll_interval)"
    return None


class Course(NamedTuple):
    """What to read ahead of a stream, in bytes of the disk.

    ``end`` is where the stream goes to at most, and ``step`` the size of a request. What lies in the images from depth
    2 to ``last_depth`` is read. Where ``needs_map`` is false that is all of it but what the active image has, and QEMU
    passes over that by itself.
    """

    end: int
    step: int
    last_depth: int
    needs_map: bool


def course_for(disk: Disk, base_index: int, waiting: Waiting) -> Course:
    """What to read ahead of a stream into ``disk``: never more than the stream itself would copy."""
    lowest = disk.chain[-1]
    # Of a raw image QEMU takes all for data, holes too, and so does the stream.
    is_all_data = base_index == len(disk.chain) and lowest.format == "raw"
    end = disk.virtual_size
    if is_all_data:
        # Behind it the stream finds nothing, and reading ahead would fill the active image with zeros.
        end = min(end, lowest.virtual_size)
    if waiting.mark is not None:
        end = min(end, waiting.mark)
    return Course(end, max(_STEP, disk.cluster_size), base_index, needs_map=not is_all_data)


def requests(extents: Iterable[tuple[int, int]], position: int, course: Course) -> Iterator[tuple[int, int]]:
    """Cut what is to be read into requests, each an offset and a length, that end where steps end.

    :param extents: lengths and depths, one behind the other from ``position`` on.
    """
    begin = position
    for length, depth in extents:
        if not _FIRST_DEPTH <= depth <= course.last_depth:
            yield from _cut(begin, position, course.step)
            begin = position + length
        position += length
    yield from _cut(begin, position, course.step)


def within(extents: Iterable[tuple[int, int]], length: int) -> list[tuple[int, int]]:
    """The same extents up to so many bytes, whatever QEMU says."""
    kept: list[tuple[int, int]] = []
    for size, depth in extents:
        kept.append((min(size, length), depth))
        length -= kept[-1][0]
    return kept


def _cut(begin: int, end: int, step: int) -> Iterator[tuple[int, int]]:
    while begin < end:
        boundary = min(end, begin - begin % step + step)
        yield begin, boundary - begin
        begin = boundary


class Allowance(NamedTuple):
    """What may be read ahead now, beside a job with a speed limit, so that both together keep it.

    ``left`` is in bytes, ``at`` the time of the last look in seconds, ``offset`` the job's at that time.
    """

    left: float
    at: float
    offset: int

    def at_look(self, job: Job, now: float, read: Sequence[tuple[int, int]], step: int) -> Allowance:
        """The same after another look at the job.

        What the job has passed over and was not read ahead it may have copied itself, but never faster than its limit.

        :param read: the requests that were made, each an offset and a length, and of which none is behind ``offset``.
        """
        gained = job.speed * (now - self.at)
        passed = job.offset - self.offset - sum(_overlap(each, self.offset, job.offset) for each in read)
        copied = min(gained, max(0, passed))
        most = max(step, job.speed * _SECONDS_KEPT)
        return Allowance(min(most, self.left + gained - copied), now, job.offset)

    def covers(self, job: Job, length: int) -> bool:
        """Whether a request may be made; without a limit it always may."""
        return not job.speed or self.left >= length

    def less(self, length: int) -> Allowance:
        """The same after a request."""
        return self._replace(left=self.left - length)


class Window(NamedTuple):
    """How many requests may be under way, found out by what they gain.

    A link that is full is no faster with more of them: they wait in its queue, and behind them what the guest asks for.
    So it begins with none, which is the stream alone, and then twice as many are tried as long as that is worth it.
    What was found is kept for a while, and for longer each time that the same is found. After it the next smaller
    number is where the search begins: a link that others need is left to them, and one that has become free is used.

    ``most`` is how many were asked for, ``size`` how many may be under way now, and ``settled`` how many were found,
    None at first. ``smaller`` is what ``size`` is tried against, and ``smaller_rate`` what that copied each second,
    None where nothing is tried. ``since`` and ``copied`` are where it is measured from: not before ``old_steps`` more,
    which were under way with another size. ``until`` is when what was found is no longer kept, None during a search,
    and ``pause`` how long that is.
    """

    most: int
    size: int = 0
    settled: int | None = None
    smaller: int = 0
    smaller_rate: float | None = None
    since: float | None = None
    copied: float = 0.0
    old_steps: int = 0
    pause: float = _FIRST_PAUSE
    until: float | None = None

    @classmethod
    def beginning(cls, known: int | None, most: int, now: float) -> Window:
        """The first one; ``known`` is what an earlier look at the same stream has found, if any has."""
        if known is None:
            return cls(most)
        size = max(0, min(known, most))
        return cls(most, size, settled=size, pause=_PAUSE_IF_KNOWN, until=now + _PAUSE_IF_KNOWN)

    def after(self, now: float, copied: float) -> Window:
        """The same at a later time.

        :param copied: how much the stream and what is read ahead of it have copied together, in steps.
        """
        if self.until is not None:
            smaller = self.size // 2 if self.size > _FIRST_SIZE else 0
            return self if now < self.until else self._try(smaller, None, copied)
        if self.since is None:
            is_old = copied - self.copied < self.old_steps
            return self if is_old else self._replace(since=now, copied=copied)
        seconds, steps = now - self.since, copied - self.copied
        if seconds < _LEAST_SECONDS or steps < _LEAST_STEPS:
            return self
        rate = steps / seconds
        if rate > _MOST_STEPS_PER_SECOND:
            return self.anew(now, copied)
        least_gain = _LEAST_GAIN if self.smaller else _LEAST_FIRST_GAIN
        if self.smaller_rate is not None and rate < self.smaller_rate * least_gain:
            return self._settle(self.smaller, now)
        if self.size >= self.most:
            return self._settle(self.size, now)
        return self._try(min(self.most, max(_FIRST_SIZE, self.size * 2)), rate, copied)

    def anew(self, now: float, copied: float) -> Window:
        """The same where nothing can be said of the time until now."""
        return self._replace(since=now, copied=copied)

    def _try(self, size: int, smaller_rate: float | None, copied: float) -> Window:
        return Window(
            self.most,
            size,
            settled=self.settled,
            smaller=self.size,
            smaller_rate=smaller_rate,
            copied=copied,
            old_steps=max(self.size, size),
            pause=self.pause,
        )

    def _settle(self, size: int, now: float) -> Window:
        pause = min(_LONGEST_PAUSE, self.pause * 2) if size == self.settled else _FIRST_PAUSE
        return Window(self.most, size, settled=size, pause=pause, until=now + pause)


def _overlap(request: tuple[int, int], begin: int, end: int) -> int:
    offset, length = request
    return max(0, min(offset + length, end) - max(offset, begin))
