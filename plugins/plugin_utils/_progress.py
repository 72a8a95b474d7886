# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What can honestly be said of a stream from a few looks at it, and the line that says it.

A job's cursor is a position, not an amount copied: it passes over what need not be copied in no time. What is copied
shows in the space that the active image takes up. So there are two bounds of what is still to come, and the smaller one
holds: the space that the images below take up, less what was copied; and the rest of the disk behind the cursor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from ..module_utils._model._text import printable
from ._slices import key_of
from ._units import amount, duration, size

WIDTH = 80

Timed = TypeVar("Timed", "Look", "Total")

# QEMU copies so much at a time. A stream with a speed limit sleeps after each step until the limit allows the next.
_STEP = 512 * 1024
# A rate is taken over so many seconds, or a third of the time that the stream was watched, or some steps of a slow one.
_RATE_SECONDS = 60.0
_RATE_STEPS = 4
# A stream whose cursor stands still for so long is stalled. A slow one is given the time of two steps.
_PATIENCE_SECONDS = 10.0
_PATIENCE_STEPS = 2
# Why QEMU paused a job, by its `io-status`; else it was somebody.
_HELD = {"nospace": "held, no space left", "failed": "held by an I/O error"}


class Look(NamedTuple):
    """A stream at one moment, in bytes. ``allocated`` is what its image takes up, None where QEMU cannot tell."""

    time: float
    cursor: int
    end: int
    allocated: int | None
    needed: int
    speed: int
    paused: bool

    @classmethod
    def from_result(cls, disk: Mapping[str, Any]) -> Look | None:
        """Read an element of ``disks``; None where nothing streams.

        Its time is that of the hypervisor: a connection that is held up makes no stream slower, or faster.
        """
        job = disk["job"]
        if job is None or disk["clock"] is None:
            return None
        return cls(
            time=disk["clock"],
            cursor=job["cur"],
            end=job["end"],
            allocated=disk["chain"][0]["allocated"],
            needed=disk["space"]["needed"],
            speed=job["speed"],
            paused=job["paused"],
        )

    def copied_since(self, first: Look) -> int:
        """What the stream copied. What the guest wrote counts too, but never more than the cursor has passed."""
        passed = max(0, self.cursor - first.cursor)
        if self.allocated is None or first.allocated is None:
            return passed
        return min(passed, max(0, self.allocated - first.allocated))

    def to_come_since(self, first: Look) -> int:
        """The most that is still to be copied."""
        behind_cursor = self.end - self.cursor
        below = self.needed - self.copied_since(first)
        # Compressed images take up less than they give: then their size is no bound at all.
        if below < 0:
            return behind_cursor
        return min(below, behind_cursor)


class Figures(NamedTuple):
    """What the looks at a stream tell.

    ``done`` of ``total`` bytes: at most ``total`` are copied in all, and ``done`` of them need no copying now. ``rate``
    is bytes copied per second, ``seconds_left`` the most that it takes at the present pace; None where that cannot
    be told yet. ``stalled_for`` is for how many seconds the cursor has stood still, where that is too long, even for
    the speed limit.
    """

    done: int
    total: int
    rate: float | None = None
    seconds_left: float | None = None
    stalled_for: float | None = None

    @property
    def percent(self) -> int:
        """Rounded down, so that 100 means all of it."""
        if self.total == 0:
            return 100
        return 100 * self.done // self.total


def beginning(disk: Mapping[str, Any], look: Look) -> tuple[Look, ...]:
    """The look that nobody took: at a stream that the slice itself has started, when it began."""
    seconds, grown = disk["seconds"], disk["grew_by"]
    if disk["action"] != "started" or not seconds:
        return ()
    if grown is None or look.allocated is None:
        return ()
    first = look._replace(time=look.time - seconds, cursor=0, allocated=look.allocated - grown)
    return (first,)


def extend(looks: Sequence[Look], look: Look) -> tuple[Look, ...]:
    """Add a look; a stream whose cursor went back is another one."""
    if looks and look.cursor < looks[-1].cursor:
        return (look,)
    return (*looks, look)


def measure(looks: Sequence[Look]) -> Figures:
    """Tell what is known after the last of the looks, which are in the order of time."""
    first, last = looks[0], looks[-1]
    to_come = last.to_come_since(first)
    total = max(last.needed, to_come)
    figures = Figures(done=total - to_come, total=total)
    if len(looks) == 1:
        return figures
    # Without a speed limit no step waits for the next one.
    step_seconds = 0.0
    if last.speed:
        step_seconds = _STEP / last.speed
    window = max(_RATE_SECONDS, (last.time - first.time) / 3, _RATE_STEPS * step_seconds)
    since = _first_since(looks, last.time - window)
    seconds = last.time - since.time
    went = since.to_come_since(first) - to_come
    # The guest may write faster than the stream gets on: then nothing can be promised.
    seconds_left = None
    if went > 0:
        seconds_left = to_come * seconds / went
    return figures._replace(
        rate=last.copied_since(since) / seconds,
        seconds_left=seconds_left,
        stalled_for=_stalled_for(looks, step_seconds),
    )


def _first_since(looks: Sequence[Timed], time: float) -> Timed:
    """The first look at this time or later, but never the last of all: a rate takes two."""
    for look in looks[:-1]:
        if look.time >= time:
            return look
    return looks[-2]


def _stalled_for(looks: Sequence[Look], step_seconds: float) -> float | None:
    """For how long the cursor has stood still, where that is too long."""
    last = looks[-1]
    stands_since = next(look.time for look in looks if look.cursor == last.cursor)
    stood = last.time - stands_since
    patience = max(_PATIENCE_SECONDS, _PATIENCE_STEPS * step_seconds)
    if last.paused or stood < patience:
        return None
    return stood


def progress_line(host: str, disk: Mapping[str, Any], looks: Sequence[Look]) -> str:
    """``hv1 web01 vda  41%  12.3 of 30.0 GiB  512 MiB/s  0:00:35 left``, in 80 columns."""
    figures = measure(looks)
    words = [f"{figures.percent:2}%", amount(figures.done, figures.total), *_pace(figures, looks[-1])]
    return _fit([host, disk["vm"], disk["label"]], "  ".join(words))


def guest_line(host: str, disk: Mapping[str, Any], held_back: float) -> str:
    """``hv1 web01 vda  guest 4.8 of 5 ms (write, p95)  held back 0:01:10``, in 80 columns."""
    felt = disk["guest_latency"]
    words = f"guest idle, target {felt['target']:g} ms"
    if felt["now"] is not None:
        words = f"guest {felt['now']:.3g} of {felt['target']:g} ms ({felt['kind']}, {felt['measure']})"
        if felt["by_itself"]:
            words += " by itself"
    return _fit([host, disk["vm"], disk["label"]], f"{words}  held back {duration(held_back)}")


def ending_line(host: str, disk: Mapping[str, Any]) -> str:
    """What became of a disk, where others are still watched."""
    return _fit([host, disk["vm"], disk["label"]], _ending(disk))


def _ending(disk: Mapping[str, Any]) -> str:
    job = disk["job"]
    if disk["finished"]:
        return "populated"
    if job is not None and job["paused"]:
        return _HELD.get(job["io_status"], "paused")
    if disk["error"]:
        return "failed"
    return "stopped"


class Progress:
    """The lines about all disks of a task, slice by slice."""

    def __init__(self, host: str) -> None:
        self._host = host
        self._looks: dict[tuple[str, str], tuple[Look, ...]] = {}
        self._parts: dict[tuple[str, str], Part] = {}
        self._totals: list[Total] = []
        self._held_back: dict[tuple[str, str], float] = {}

    def lines(self, disks: Sequence[Mapping[str, Any]], watched: Sequence[Mapping[str, Any]]) -> list[str]:
        """One line on each running stream, one on each that ended with this slice, and one on all of them together.

        :param disks: what a slice told of.
        :param watched: those of them that are watched further.
        """
        lines = []
        for disk in disks:
            look = Look.from_result(disk)
            key = key_of(disk)
            if disk not in watched:
                # Of a disk that was populated before the task there is no news.
                has_news = disk["action"] != "none" or disk["error"] is not None
                if has_news:
                    lines.append(ending_line(self._host, disk))
                    self._parts[key] = over(disk, self._parts.get(key))
            elif look is not None:
                earlier = self._looks.get(key, beginning(disk, look))
                self._looks[key] = extend(earlier, look)
                lines.append(progress_line(self._host, disk, self._looks[key]))
                lines += self._guest_line(key, disk)
                self._parts[key] = running(measure(self._looks[key]))
            else:
                self._parts[key] = Part(0, disk["space"]["needed"])
        return [*lines, *self._total_line(disks)]

    def _guest_line(self, key: tuple[str, str], disk: Mapping[str, Any]) -> list[str]:
        """What the guest of a stream feels, where the stream is to yield to it."""
        felt = disk["guest_latency"]
        if felt is None:
            return []
        # Each slice tells of itself.
        self._held_back[key] = self._held_back.get(key, 0.0) + felt["held_back"]
        return [guest_line(self._host, disk, self._held_back[key])]

    def _total_line(self, disks: Sequence[Mapping[str, Any]]) -> list[str]:
        """All streams of the task together, where there are several."""
        times = [disk["clock"] for disk in disks if disk["clock"] is not None]
        if len(self._parts) < 2 or not times:
            return []
        self._totals.append(Total.of(list(self._parts.values()), max(times)))
        return [total_line(self._host, self._totals)]


class Part(NamedTuple):
    """What is done of a disk, in bytes of those that are copied at most."""

    done: int
    total: int
    is_over: bool = False


def running(figures: Figures) -> Part:
    """A disk that is streamed."""
    return Part(figures.done, figures.total)


def over(disk: Mapping[str, Any], before: Part | None) -> Part:
    """A disk to which nothing more is done. What it had to copy is known from before, or from what it grew by."""
    total = max(0, disk["grew_by"] or 0) if before is None else before.total
    done = total if disk["finished"] else min(total, before.done if before else 0)
    # What failed is not to come any more.
    return Part(done, done, is_over=True)


class Total(NamedTuple):
    """All disks of a task at one moment."""

    time: float
    disks: int
    over: int
    done: int
    total: int

    @classmethod
    def of(cls, parts: Sequence[Part], time: float) -> Total:
        """Add up what is known of each disk."""
        return cls(
            time=time,
            disks=len(parts),
            over=sum(part.is_over for part in parts),
            done=sum(part.done for part in parts),
            total=sum(part.total for part in parts),
        )


def total_line(host: str, totals: Sequence[Total]) -> str:
    """``hv1  26 of 80 disks  3.0 of 12.3 GiB  0:12:00 left``, after the last of these moments."""
    last = totals[-1]
    words = [f"{last.over} of {last.disks} disks", amount(last.done, last.total)]
    if len(totals) > 1:
        window = max(_RATE_SECONDS, (last.time - totals[0].time) / 3)
        since = _first_since(totals, last.time - window)
        # What has failed is no more to come, and was not done either.
        went = last.done - since.done
        if went > 0:
            to_come = last.total - last.done
            words.append(f"{duration(to_come * (last.time - since.time) / went)} left")
    return _fit([host], "  ".join(words))


def _pace(figures: Figures, look: Look) -> list[str]:
    if look.paused:
        return ["paused"]
    if figures.stalled_for is not None:
        return [f"stalled for {duration(figures.stalled_for)}"]
    words: list[str] = []
    if figures.rate is not None:
        words.append(f"{size(figures.rate)}/s")
    if figures.seconds_left is not None:
        words.append(f"{duration(figures.seconds_left)} left")
    return words


def _fit(names: Sequence[str], rest: str) -> str:
    """Shorten the longest names, at their front, until the line fits; and no name can be more than a part of it."""
    # Cut before and after: a name may be of any length, and grows where characters are escaped.
    short = [printable(name[-WIDTH:])[-WIDTH:] for name in names]
    free_space = WIDTH - len(rest) - 2
    while len(" ".join(short)) > free_space and max(map(len, short)) > 1:
        longest = max(range(len(short)), key=lambda place: len(short[place]))
        short[longest] = "~" + short[longest].removeprefix("~")[1:]
    return f"{' '.join(short)}  {rest}"
