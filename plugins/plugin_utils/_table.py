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
    return [*_aligned([_HEAD, *(_row(disk) for disk in result["disks"])]), *map(_image_line, result["released"])]


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    widths[-1] = 0  # what comes last needs no blanks behind it
    return ["  ".join(map(_padded, row, widths, _HEAD)) for row in rows]


def _padded(cell: str, width: int, title: str) -> str:
    return cell.rjust(width) if title in _NUMBERS else cell.ljust(width)


def _row(disk: Disk) -> tuple[str, ...]:
    seconds = disk["seconds"]
    has_streamed = disk["action"] != "none" and (seconds or disk["grew_by"])  # in check mode it has not
    grown = disk["grew_by"] if has_streamed else None
    return (
        disk["vm"],
        disk["label"],
        disk["action"],
        _state(disk),
        "-" if grown is None else _growth(grown),
        _time(seconds) if seconds else "-",
        f"{size(grown / seconds)}/s" if seconds and grown is not None and grown >= 0 else "-",
        ", ".join(image["path"] for image in disk["released"]) or "-",
    )


def _time(seconds: float) -> str:
    """To the tenth: most streams that a table tells of were short."""
    minutes, second = divmod(round(seconds, 1), 60)
    hours, minute = divmod(int(minutes), 60)
    return f"{hours}:{minute:02}:{second:04.1f}"


def _growth(grown: int) -> str:
    """A guest that discards lets its image shrink."""
    return f"-{size(-grown)}" if grown < 0 else size(grown)


def _state(disk: Disk) -> str:
    if disk["populated"] is None and not disk["finished"]:
        return "unknown"
    if disk["error"] is not None:
        return "failed"
    if disk["populated"]:
        return "populated"
    if disk["finished"]:
        return "on its base"
    return "not populated" if disk["job"] is None else f"{disk['job']['percent']} %"


def _image_line(image: Mapping[str, Any]) -> str:
    if image["free"]:
        return f"{image['path']}: free, no process of this host has it open"
    verdict = "not known to be free" if image["free"] is None else "not free"
    return f"{image['path']}: {verdict}, {image['reason']}"
