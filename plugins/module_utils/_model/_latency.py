# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How long the requests of a guest take, as QEMU itself counts it. Times are nanoseconds."""

from __future__ import annotations

from typing import Any, Mapping, NamedTuple

from ._reader import BINS, DISKS, Members, items_of

# What QEMU calls the kinds of requests in its statistics.
_PREFIXES = {"read": "rd", "write": "wr", "flush": "flush"}


class Histogram(NamedTuple):
    """How many requests took how long: ``bins`` has one more, those below, between and above the ``boundaries``."""

    boundaries: tuple[int, ...]
    bins: tuple[int, ...]


class Served(NamedTuple):
    """The requests of one kind that were served since the device is there, and the time that they took together.

    ``histogram`` is None where nobody has asked QEMU for one.
    """

    operations: int
    nanoseconds: int
    histogram: Histogram | None = None


class GuestDevice(NamedTuple):
    """A device of the guest, by its path or id; ``served`` has an entry for each kind of requests."""

    qdev: str
    served: Mapping[str, Served]


class Paced(NamedTuple):
    """How fast the streams of a task were, and why: what a later look of it goes on from.

    ``lifted`` are the requests of guests that are slow by themselves: monitor, device, kind, and the place in the
    ladder. All else is as in ``_decide._pace.Pace``.
    """

    limit: int = 0
    knee: int | None = None
    low_for: float = 0.0
    doubt: float = 0.0
    again_in: float = 0.0
    again_after: float = 0.0
    lifted: tuple[tuple[str, str, str, int], ...] = ()


def read_guest_devices(reply: Any) -> tuple[GuestDevice, ...]:
    """Read ``query-blockstats``. What a job reads and writes is not in there, on any QEMU."""
    devices: list[GuestDevice] = []
    for entry in items_of(reply, "query-blockstats", DISKS):
        qdev = entry.optional_text("qdev")
        if qdev:
            stats = entry.members("stats")
            devices.append(GuestDevice(qdev, {kind: _served(stats, name) for kind, name in _PREFIXES.items()}))
    return tuple(devices)


def _served(stats: Members, prefix: str) -> Served:
    histogram = stats.optional_members(f"{prefix}_latency_histogram")
    return Served(
        operations=stats.size(f"{prefix}_operations"),
        nanoseconds=stats.size(f"{prefix}_total_time_ns"),
        histogram=None if histogram is None else _histogram(histogram),
    )


def _histogram(members: Members) -> Histogram:
    return Histogram(members.sizes("boundaries", BINS), members.sizes("bins", BINS + 1))
