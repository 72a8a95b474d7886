# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a guest waits for its disk while that is populated from behind a slow link, by the guest's own clock."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from lab import disks, guest_system, images, product
from lab.images import MiB
from lab.process import wait_until

from .ahead import behind
from .measure import Waits, in_turn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .tasks import Bench

SIZE, SECONDS = 512 * MiB, 20.0
LINKS = (
    ("delay", "behind 20 ms of delay", 0.02, 0),
    ("narrow", "behind 20 ms of delay, on a link of 40 MiB/s", 0.02, 40 * MiB),
    ("full", "behind a link of 20 MiB/s, which a plain stream fills", 0.001, 20 * MiB),
)
Found = dict[str, list[float]]


def latency(bench: Bench) -> Iterator[Waits]:
    """Reads, and writes with a flush, of 4 KiB at random places, over the first seconds of a stream."""
    guest_system.prepare()
    accel = guest_system.accelerator()
    for name, title, delay, bandwidth in LINKS:
        far = partial(behind, bench.folder, "raw", delay, bandwidth, size=SIZE)
        ways = {"no stream": partial(far, partial(_waits, bench.folder, accel, None))}
        for most in (0, 4, 8, 16):
            ways[f"read_ahead: {most}"] = partial(far, partial(_waits, bench.folder, accel, most))
        found = in_turn(ways, 1)
        for kind in ("read", "write"):
            samples = {way: [wait for each in own for wait in each[kind]] for way, own in found.items()}
            yield Waits(f"latency-{kind}-{name}", f"A guest's {kind} of 4 KiB {title}", "ms", "read_ahead: 0", samples)


def _waits(folder: Path, accel: str, most: int | None, address: str) -> Found:
    """The milliseconds of each request over some seconds of a stream, or without one."""
    top = folder / "latency.qcow2"
    top.unlink(missing_ok=True)
    images.create(top, SIZE, backing=address, backing_format="raw")
    with guest_system.Guest(folder, "load", *disks.drive(top, id="vda", qdev="vda"), accel=accel, name="load") as guest:
        guest.wait_for("ready")
        task = None
        if most is not None:
            options = {"monitors": [guest.vm.monitor], "disks": ["vda"], "read_ahead": most, "check_space": False}
            task = product.Running("block_stream", options)
            wait_until(guest.vm.jobs, "the stream has begun")
        since, began = len(guest.said), time.monotonic()
        while time.monotonic() - began < SECONDS and (task is None or guest.vm.jobs()):
            time.sleep(0.05)
        found = guest.waits(since)
        if task is not None:
            task.kill()
    return found
