# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""What it costs to find out who names an image, where many images lie, beside qemu-img for each of them."""

from __future__ import annotations

import json
import sys
from functools import partial
from typing import TYPE_CHECKING

from lab import images, product
from lab.images import KiB
from lab.process import run

from .measure import Figure, in_turn, seconds
from .ways import environment, golden, overlay, timed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from .tasks import Bench

COUNT = 1000
EACH, NOTHING = "qemu-img info for each", "Python that does nothing"


def headers(bench: Bench) -> Iterator[Figure]:
    """The whole module, which must find each of them; qemu-img opens what a header names, which the module does not."""
    base, folder = golden(bench.folder, 64 * KiB), bench.folder / "overlays"
    folder.mkdir()
    overlays = [overlay(folder / f"{place}.qcow2", base) for place in range(COUNT)]
    ways: dict[str, Callable[[], float]] = {
        "image_info": partial(_by_module, base, folder),
        EACH: lambda: seconds(partial(_by_qemu_img, overlays)),
        NOTHING: lambda: timed([sys.executable, "-c", ""]).seconds,
    }
    title = f"Who names an image, {COUNT} overlays in a folder"
    yield Figure("headers", title, "seconds", EACH, in_turn(ways, min(3, bench.rounds)))


def _by_module(base: Path, folder: Path) -> float:
    command, stdin = product.command_of("image_info", paths=[str(base)], search=[str(folder)])
    done = timed(command, stdin=stdin, environ=environment())
    found = json.loads(done.output)["images"][0]["needed_by"]
    assert len(found) == COUNT, f"{len(found)} of {COUNT} were found"
    return done.seconds


def _by_qemu_img(overlays: Sequence[Path]) -> None:
    for path in overlays:
        run([images.qemu_img(), "info", "--output=json", path])
