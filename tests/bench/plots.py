# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Plots of the figures that say most at a glance."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib as mpl
from matplotlib import pyplot

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    from .measure import Figure

# The file, and what it shows side by side.
SHEETS = {
    "guide_speed_tasks": ("whole-16MiB", "whole-1GiB"),
    "guide_speed_late": ("late",),
    "guide_speed_many": ("disks-new", "vms-loop", "vms"),
    "guide_speed_depth": ("depth-query", "depth-info", "depth-stream"),
    "guide_windows_guest": ("guest-p95", "guest-rate"),
    "guide_speed_copy": ("copy-warm", "copy-cold", "copy-nbd20"),
}
_OURS, _OTHERS = "#2a6f97", "#b8b8b8"


def plot(figures: Sequence[Figure], folder: Path) -> None:
    """Write every sheet whose figures were all measured, as SVG."""
    # Letters stay letters, and the same samples give the same file.
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "bench", "font.size": 9})
    measured = {figure.name: figure for figure in figures}
    for sheet, names in SHEETS.items():
        if not set(names) <= set(measured):
            continue
        heights = [len(measured[name].samples) for name in names]
        drawing, axes = pyplot.subplots(
            len(names), figsize=(7.5, 0.8 * len(names) + 0.3 * sum(heights)), height_ratios=heights, squeeze=False
        )
        for name, place in zip(names, axes.flat, strict=True):
            _draw(measured[name], place)
        drawing.tight_layout()
        drawing.savefig(folder / f"{sheet}.svg", metadata={"Date": None})
        pyplot.close(drawing)


def _draw(figure: Figure, axes: Axes) -> None:
    """Bars to the median, with a line from the lowest to the highest sample."""
    ways = list(figure.samples)
    medians = [figure.median(way) for way in ways]
    spread = [
        [middle - min(figure.samples[way]) for way, middle in zip(ways, medians, strict=True)],
        [max(figure.samples[way]) - middle for way, middle in zip(ways, medians, strict=True)],
    ]
    is_ours = ["block_stream" in way or "populate" in way or "call" in way or "guest_latency" in way for way in ways]
    colours = [_OURS if own or not any(is_ours) else _OTHERS for own in is_ours]
    axes.barh(ways, medians, xerr=spread, color=colours, height=0.6, error_kw={"elinewidth": 1})
    axes.invert_yaxis()
    axes.set_title(figure.title, loc="left", fontsize=9)
    axes.set_xlabel(figure.unit)
    axes.spines[["top", "right"]].set_visible(False)
