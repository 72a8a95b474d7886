# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a task has done, or in check mode would do, in lines: a table of disks, and a line for each old image.

What is not known, or did not take place, is ``-``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from ._units import size

_HEAD = ("VM", "DISK", "ACTION", "NOW", "GREW BY", "TIME", "RATE", "RELEASED")
_PLAN = ("VM", "DISK", "NOW", "WOULD BE", "ORDER", "TO COPY", "FREE")
_NUMBERS = ("GREW BY", "TIME", "RATE", "ORDER", "TO COPY", "FREE")

Disk = Mapping[str, Any]


def summary(result: Mapping[str, Any], *, shows_all: bool = False) -> list[str]:
    """What was done; none where no disk was selected.

    :param shows_all: whether disks to which nothing was done have rows, too.
    """
    return _table(_HEAD, _row, _total, result, shows_all=shows_all)


def plan(result: Mapping[str, Any], *, shows_all: bool = False) -> list[str]:
    """The same of check mode: what would be done, in this order, and what it may take."""
    return _table(_PLAN, _plan_row, _plan_total, result, shows_all=shows_all)


def brief(result: Mapping[str, Any]) -> list[str]:
    """What was done, in one line, for a play of so many hosts that nobody reads a table of each."""
    disks, released = result["disks"], result["released"]
    if not disks:
        return []
    grown = [each for each in map(_grown, disks) if each is not None]
    words = [f"{_finished(disks)} of {_count(disks)} finished"]
    failed = sum(disk["error"] is not None for disk in disks)
    words += [f"{failed} failed"] if failed else []
    words += [f"grew by {_growth(sum(grown))}"] if grown else []
    free = sum(image["free"] is True for image in released)
    words += [f"{free} of {counted(len(released), 'old image')} free"] if released else []
    return [", ".join(words)]


def _table(
    head: Sequence[str],
    row: Callable[[Disk], Sequence[str]],
    total: Callable[[Sequence[Disk]], Sequence[str]],
    result: Mapping[str, Any],
    *,
    shows_all: bool,
) -> list[str]:
    disks = result["disks"]
    shown: list[Disk] = []
    hidden: list[Disk] = []
    for disk in disks:
        (shown if shows_all or _has_news(disk) else hidden).append(disk)
    lines: list[str] = []
    if shown:
        lines = aligned([head, *map(row, shown), total(disks)], _NUMBERS)
    if hidden:
        lines.append(_in_one_line(hidden, is_all=not shown))
    return [*lines, *map(_image_line, result["released"])]


def _has_news(disk: Disk) -> bool:
    return disk["action"] != "none" or disk["error"] is not None or is_unknown(disk)


def is_unknown(disk: Disk) -> bool:
    """Whether it cannot be told that it is populated, nor that it is not."""
    return disk["populated"] is None and not disk["finished"]


def _in_one_line(disks: Sequence[Disk], *, is_all: bool) -> str:
    """The disks that have no row of their own."""
    finished = _finished(disks)
    which = "finished" if finished == len(disks) else f"{finished} of them finished"
    beside = "" if is_all else "and "
    return f"{beside}{_count(disks)} untouched, {which} (-v shows each)"


def _count(disks: Sequence[Disk]) -> str:
    return counted(len(disks), "disk")


def counted(count: int, what: str) -> str:
    """``1 disk``, ``2 disks``."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _finished(disks: Sequence[Disk]) -> int:
    return sum(disk["finished"] for disk in disks)


def aligned(rows: Sequence[Sequence[str]], numbers: Collection[str]) -> list[str]:
    """Rows with their columns below each other, the titles first.

    :param numbers: the titles of columns that end below each other, rather than begin.
    """
    head = rows[0]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines: list[str] = []
    for row in rows:
        cells = [
            cell.rjust(width) if title in numbers else cell.ljust(width)
            for cell, width, title in zip(row, widths, head, strict=True)
        ]
        # What comes last needs no blanks behind it.
        lines.append("  ".join(cells).rstrip())
    return lines


def _row(disk: Disk) -> tuple[str, ...]:
    seconds, grown = disk["seconds"], _grown(disk)
    paths = [image["path"] for image in disk["released"]]
    return (
        disk["vm"],
        disk["label"],
        disk["action"],
        _state(disk),
        _growth(grown),
        _time(seconds),
        _rate(grown, seconds),
        ", ".join(paths) or "-",
    )


def _grown(disk: Disk) -> int | None:
    """By how much the image of a disk grew while it was streamed; None where it was not, or that is not known."""
    if disk["action"] == "none" or not (disk["seconds"] or disk["grew_by"]):
        return None
    grown: int | None = disk["grew_by"]
    return grown


def _total(disks: Sequence[Disk]) -> tuple[str, ...]:
    """All disks together; the time is that from the beginning of the first stream to the end of the last."""
    grown = [each for each in map(_grown, disks) if each is not None]
    amount = sum(grown) if grown else None
    ends = [disk["clock"] for disk in disks if disk["clock"] is not None]
    begins = [disk["clock"] - disk["seconds"] for disk in disks if disk["clock"] is not None]
    seconds = max(ends) - min(begins) if ends else 0.0
    done = f"{_finished(disks)} finished"
    return ("total", _count(disks), "", done, _growth(amount), _time(seconds), _rate(amount, seconds), "")


def _plan_row(disk: Disk) -> tuple[str, ...]:
    return (
        disk["vm"],
        disk["label"],
        _state(disk),
        disk["action"],
        "-" if disk["order"] is None else str(disk["order"]),
        _size(disk["space"]["needed"] if disk["order"] is not None else None),
        _size(disk["space"]["free"]),
    )


def _plan_total(disks: Sequence[Disk]) -> tuple[str, ...]:
    ordered = [disk for disk in disks if disk["order"] is not None]
    wanted = sum(disk["space"]["needed"] for disk in ordered)
    return ("total", _count(disks), f"{_finished(disks)} finished", "", str(len(ordered)), size(wanted), "")


def _size(bytes_: int | None) -> str:
    return "-" if bytes_ is None else size(bytes_)


def _rate(grown: int | None, seconds: float) -> str:
    """Where the guest discarded more than the stream wrote, nothing can be said of its rate."""
    if not seconds or grown is None or grown < 0:
        return "-"
    return f"{size(grown / seconds)}/s"


def _time(seconds: float) -> str:
    """To the tenth: most streams that a table tells of were short."""
    if not seconds:
        return "-"
    minutes, second = divmod(round(seconds, 1), 60)
    hours, minute = divmod(int(minutes), 60)
    return f"{hours}:{minute:02}:{second:04.1f}"


def _growth(grown: int | None) -> str:
    """A guest that discards lets its image shrink."""
    if grown is None:
        return "-"
    if grown < 0:
        return f"-{size(-grown)}"
    return size(grown)


def _state(disk: Disk) -> str:
    # Before its error, which may well be that nothing can be known of it.
    if is_unknown(disk):
        return "unknown"
    if disk["error"] is not None:
        return "failed"
    if disk["populated"]:
        return "populated"
    if disk["finished"]:
        return "on its base"
    if disk["job"] is None:
        return "not populated"
    return f"{disk['job']['percent']} %"


def _image_line(image: Mapping[str, Any]) -> str:
    if image["free"]:
        return f"{image['path']}: free, no process of this host has it open"
    verdict = "not free"
    # Unknown is not "in use": who reads this may look for a user that there is not.
    if image["free"] is None:
        verdict = "not known to be free"
    return f"{image['path']}: {verdict}, {image['reason']}"
