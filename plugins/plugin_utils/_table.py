# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a task has done, in lines: a table with a row for each disk, and a line for each old image.

What is not known, or did not take place, is ``-``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ._units import size

_HEAD = ("VM", "DISK", "ACTION", "NOW", "GREW BY", "TIME", "RATE", "RELEASED")
_NUMBERS = ("GREW BY", "TIME", "RATE")

Disk = Mapping[str, Any]


def summary(result: Mapping[str, Any]) -> list[str]:
    """The lines; none where no disk was selected."""
    if not result["disks"]:
        return []
    rows = [_HEAD, *map(_row, result["disks"])]
    return [*_aligned(rows), *map(_image_line, result["released"])]


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    # What comes last needs no blanks behind it.
    widths[-1] = 0
    lines: list[str] = []
    for row in rows:
        cells = map(_padded, row, widths, _HEAD)
        lines.append("  ".join(cells))
    return lines


def _padded(cell: str, width: int, title: str) -> str:
    # Numbers one below the other, by their ends.
    if title in _NUMBERS:
        return cell.rjust(width)
    return cell.ljust(width)


def _row(disk: Disk) -> tuple[str, ...]:
    seconds, grown = disk["seconds"], disk["grew_by"]
    # In check mode there is an action, but no stream was there to take time or space.
    has_streamed = disk["action"] != "none" and (seconds or grown)
    if not has_streamed:
        grown = None
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
    if disk["populated"] is None and not disk["finished"]:
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
