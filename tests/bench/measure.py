# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Samples of several ways to do a thing, taken in turn, and what is said of them."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

T = TypeVar("T")
SHARES = (50, 95, 99)


@dataclass(frozen=True)
class Figure:
    """One thing measured in several ways. `samples` are in `unit`, by way; those of one round have the same place.

    `baseline` is the way that the others are set against, round by round.
    """

    name: str
    title: str
    unit: str
    baseline: str
    samples: dict[str, list[float]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def median(self, way: str) -> float:
        return statistics.median(self.samples[way])

    def ratio(self, way: str) -> float:
        """The median of the ratios to the baseline in the same round: what disturbs a round disturbs both."""
        pairs = zip(self.samples[way], self.samples[self.baseline], strict=True)
        return statistics.median(own / other for own, other in pairs)

    def rows(self) -> list[tuple[str, ...]]:
        """The header and a row for each way, as text."""
        header = ("", self.unit, "lowest to highest", "ratio")
        found = [
            (way, number(self.median(way)), f"{number(min(own))} to {number(max(own))}", f"{self.ratio(way):.2f}")
            for way, own in self.samples.items()
        ]
        return [header, *found, *((way, "not run", reason, "") for way, reason in self.missing.items())]


@dataclass(frozen=True)
class Rates(Figure):
    """How fast each way is, also beside its own limit: what the link would carry of so many requests at a time."""

    limits: dict[str, float] = field(default_factory=dict)

    def rows(self) -> list[tuple[str, ...]]:
        """The header and a row for each way, as text."""
        found = [(way, number(self.median(way)), f"{self.ratio(way):.2f}", self._share(way)) for way in self.samples]
        missing = [(way, "not run", "", reason) for way, reason in self.missing.items()]
        return [("", self.unit, "ratio", "of the link's limit"), *found, *missing]

    def _share(self, way: str) -> str:
        return f"{self.median(way) / self.limits[way]:.2f} of {number(self.limits[way])}" if way in self.limits else ""


@dataclass(frozen=True)
class Waits(Figure):
    """How long each of many requests took: half of them no longer than the first number, and so on."""

    def rows(self) -> list[tuple[str, ...]]:
        """The header and a row for each way, as text."""
        header = (self.unit, *(f"{share} %" for share in SHARES))
        return [header, *((way, *map(number, self.shares(way))) for way in self.samples)]

    def shares(self, way: str) -> list[float]:
        """What so many of a hundred requests do not exceed."""
        waits = sorted(self.samples[way])
        return [waits[len(waits) * share // 100] for share in SHARES]


def number(value: float) -> str:
    """Three digits that mean something."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def in_turn(ways: Mapping[str, Callable[[], T]], rounds: int) -> dict[str, list[T]]:
    """Take one sample of each way in each round; every other round goes backwards, so that none is always first."""
    samples: dict[str, list[T]] = {way: [] for way in ways}
    for turn in range(rounds):
        for way in list(ways) if turn % 2 == 0 else reversed(list(ways)):
            samples[way].append(ways[way]())
    return samples


def seconds(act: Callable[[], object]) -> float:
    """How long it takes to do something."""
    began = time.monotonic()
    act()
    return time.monotonic() - began
