# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What became of a whole fleet, in one table: the hosts to look at first, and all of them together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ._slices import Disk, key_of
from ._table import aligned, counted, is_unknown
from ._units import size

_HEAD = ("HOST", "DISKS", "FINISHED", "FAILED", "UNKNOWN", "OPEN", "GREW BY", "IMAGES FREE", "LOOK AT")
# So many hosts have a row; who has a hundred to look at begins with these.
_MOST_ROWS = 20
# Of an error the beginning is shown: all of it is in the output of the task.
_MOST_WORDS = 100


@dataclass
class HostSoFar:
    """What the tasks of a playbook have told of one host so far; of a disk, and of an image, the last word counts."""

    disks: dict[tuple[str, str], Disk] = field(default_factory=dict)
    free: dict[str, bool] = field(default_factory=dict)
    grew_by: int = 0
    errors: list[str] = field(default_factory=list)
    _task: str = ""

    def hear(self, result: Mapping[str, Any], task: str) -> None:
        """Take in the result of block_stream.

        :param task: which task of the playbook it was. One with a loop has several results, each with its errors.
        """
        if task != self._task:
            self._task, self.errors = task, []
        self.errors += [error["msg"] for error in result["errors"]]
        for disk in result.get("disks", []):
            self.disks[key_of(disk)] = disk
            self.grew_by += disk["grew_by"] or 0
        for image in result.get("released", []):
            # Not known to be free is as good as not free.
            self.free[image["path"]] = image["free"] is True

    def fail(self, message: str) -> None:
        """It failed at something else, or cannot be reached; what is known to be wrong is not said once more."""
        if not self.errors:
            self.errors = [message]

    @property
    def complaints(self) -> list[str]:
        """What is wrong, in words: of the last task, or else of the disks that an earlier one left with an error."""
        return self.errors or [disk["error"] for disk in self.disks.values() if disk["error"] is not None]


class _Row(NamedTuple):
    """A host, or several together, in numbers."""

    disks: int
    finished: int
    failed: int
    unknown: int
    open: int
    grew_by: int
    free: int

    def cells(self, name: str, words: str) -> tuple[str, ...]:
        counts = (self.disks, self.finished, self.failed, self.unknown, self.open)
        return (name, *map(str, counts), size(self.grew_by), str(self.free), words)


def _row_of(host: HostSoFar) -> _Row:
    disks = list(host.disks.values())
    finished = [disk for disk in disks if disk["finished"]]
    failed = [disk for disk in disks if disk["error"] is not None]
    # What has an error is counted there.
    unknown = [disk for disk in disks if is_unknown(disk) and disk["error"] is None]
    left = len(disks) - len(finished) - len(failed) - len(unknown)
    free = sum(host.free.values())
    return _Row(len(disks), len(finished), len(failed), len(unknown), left, max(0, host.grew_by), free)


def fleet(hosts: Mapping[str, HostSoFar], *, shows_all: bool = False) -> list[str]:
    """The table; none where no host was told of.

    :param shows_all: whether hosts have rows on which all is finished, and however many.
    """
    if not hosts:
        return []
    rows = {name: _row_of(host) for name, host in hosts.items()}
    worst_first = sorted(hosts, key=lambda name: _urgency(hosts[name], rows[name]))
    wanted = [name for name in worst_first if shows_all or not _is_well(hosts[name], rows[name])]
    shown = wanted if shows_all else wanted[:_MOST_ROWS]
    cells = [rows[name].cells(name, _words(hosts[name])) for name in shown]
    total = _together(rows.values()).cells("total", counted(len(hosts), "host"))
    lines = aligned([_HEAD, *cells, total], _HEAD[1:-1])
    lines += _left_out(len(wanted) - len(shown), "more to look at")
    return [*lines, *_left_out(len(hosts) - len(wanted), "with all finished")]


def _is_well(host: HostSoFar, row: _Row) -> bool:
    return not host.complaints and row.finished == row.disks


def _urgency(host: HostSoFar, row: _Row) -> tuple[int, ...]:
    """Errors before what is not known, before what is open; the most of it first."""
    return (-bool(host.complaints), -row.failed, -row.unknown, -row.open)


def _words(host: HostSoFar) -> str:
    if not host.complaints:
        return ""
    first, *others = host.complaints
    first = first.partition("\n")[0]
    if len(first) > _MOST_WORDS:
        first = f"{first[:_MOST_WORDS]}..."
    return f"{first} (and {len(others)} more)" if others else first


def _together(rows: Iterable[_Row]) -> _Row:
    return _Row(*map(sum, zip(*rows, strict=True)))


def _left_out(count: int, which: str) -> Sequence[str]:
    return [f"and {counted(count, 'host')} {which} (-v shows each)"] if count else []
