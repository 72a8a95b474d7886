# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a guest waits for its disk while that is populated: no stream, any speed, speeds that a user guesses, and ours.

The disk and its base share a storage with a limit, QEMU's own throttle group. The guest is a real one; its load comes
and goes, and it measures itself.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any

from lab import disks, guest_system, images, product
from lab.images import MiB

from .measure import Figure, in_turn
from .ways import must_be_populated

if TYPE_CHECKING:
    from pathlib import Path

    from .tasks import Bench

SIZE, CAPACITY = 512 * MiB, 80 * MiB
TARGET = "5ms"
# Seconds, requests per second, bytes of each: a busy guest, a quiet one, an idle one, a very busy one.
PHASES = "4:300:65536 4:40:4096 3:0:4096 3:500:65536"
CYCLE_SECONDS = 14.0
WARM_UP_SECONDS = 1.5
SPEEDS = (28, 24, 20)
NONE, ANY, OURS, MEAN = "no stream", "no limit", f"guest_latency: {TARGET}", f"guest_latency: {TARGET}, by the mean"
QDEV = "/machine/peripheral/vda/virtio-backend"


def guest(bench: Bench) -> list[Figure]:
    """The guest's latency, and what the stream copies meanwhile; one round takes two and a half minutes."""
    guest_system.prepare()
    accel = guest_system.accelerator()
    ways: dict[str, dict[str, Any] | None] = {NONE: None, ANY: {}}
    ways |= {f"speed: {speed}M": {"speed": f"{speed}M"} for speed in SPEEDS}
    ways |= {OURS: {"guest_latency": TARGET}, MEAN: {"guest_latency": TARGET}}
    acts = {way: partial(_measured, bench.folder, accel, way, options) for way, options in ways.items()}
    found = in_turn(acts, min(2, bench.rounds))
    waits = {way: [p95 for p95, _rate in own] for way, own in found.items()}
    rates = {way: [rate for _p95, rate in own] for way, own in found.items() if way != NONE}
    storage = f"{CAPACITY // MiB} MiB/s of storage"
    return [
        Figure("guest-p95", f"A guest's 95th percentile on {storage}, its load coming and going", "ms", NONE, waits),
        Figure("guest-rate", f"What the stream copies beside it, {SIZE // MiB} MiB in all", "MiB/s", OURS, rates),
    ]


def _measured(folder: Path, accel: str, way: str, options: dict[str, Any] | None) -> tuple[float, float]:
    """The 95th percentile of what the guest waited, in milliseconds, and the rate of the stream."""
    words = _disk(folder)
    with guest_system.Guest(folder, f"phases {PHASES}", *words, accel=accel, name="guest") as running:
        running.wait_for("ready")
        time.sleep(WARM_UP_SECONDS)
        if way == MEAN:  # as if it were another tool's
            running.vm.command("block-latency-histogram-set", id=QDEV, boundaries=[1000])
        first, began = len(running.said), time.monotonic()
        if options is None:
            time.sleep(CYCLE_SECONDS)
        else:
            asked = {"monitors": [running.vm.monitor], "disks": ["vda"], "check_space": False, **options}
            result = product.module("block_stream", timeout=120, **asked)
            assert result["finished"], result
            must_be_populated(running.vm.judge)
        lasted = time.monotonic() - began
        waited = [int(each) for line in running.said[first:] if "waited" in line for each in line.split()[1:]]
        assert not running.complaints, running.complaints
    return sorted(waited)[int(0.95 * len(waited))] / 1000, SIZE / MiB / lasted


def _disk(folder: Path) -> disks.Words:
    """A disk over a base full of data, both on the storage with the limit."""
    base, top = folder / "busy-base.qcow2", folder / "busy-top.qcow2"
    if not base.exists():
        step = 16 * MiB
        images.create(base, SIZE, writes=[images.Write(at, step, at) for at in range(0, SIZE, step)])
    top.unlink(missing_ok=True)
    images.create(top, SIZE, backing=base)
    words = ["-object", f"throttle-group,id=storage,x-bps-total={CAPACITY}"]
    for name, path, more in (("base", base, {}), ("top", top, {"backing": "base"})):
        read_only = name == "base"
        file = {"driver": "file", "filename": str(path), "read-only": read_only}
        limited = {"driver": "throttle", "throttle-group": "storage", "file": file, "read-only": read_only}
        words += disks.blockdev("qcow2", name, file=limited, read_only=read_only, **more)
    return words + disks.frontend("virtio-blk-pci", "vda", drive="top")
