# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Deep chains: what a look and a populate cost at each depth, and how long QEMU is kept from its guest."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from lab import Monitor, Vm, disks, images, product
from lab.images import KiB
from lab.process import run

from .measure import Figure, seconds
from .ways import environment, golden, must_be_populated, timed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from .tasks import Bench

DEPTHS = (1, 10, 50, 100, 200)


def deep_chain(folder: Path, depth: int) -> Path:
    """An overlay over so many images, of which the lowest holds 64 KiB."""
    path = golden(folder, 64 * KiB)
    for place in range(depth):
        below, path = path, folder / f"deep{place}.qcow2"
        # Unsafe says: do not open the images below, which would take the square of the depth.
        run([images.qemu_img(), "create", "-q", "-u", "-f", "qcow2", "-b", below, "-F", "qcow2", path, str(64 * KiB)])
    return path


def depth(bench: Bench) -> Iterator[Figure]:
    """The whole module, by depth, beside QEMU's own time for one look at the chain; and the longest silence."""
    acts: dict[str, Callable[[Vm], float]] = {
        "query-block": lambda vm: 1000 * seconds(lambda: vm.command("query-block")),
        "block_stream_info": lambda vm: _module("block_stream_info", monitors=[vm.monitor]),
        "block_stream": lambda vm: _module("block_stream", monitors=[vm.monitor], disks=["vda"]),
    }
    spent: dict[str, dict[str, list[float]]] = {act: {f"{number} images": [] for number in DEPTHS} for act in acts}
    silences: dict[str, list[float]] = {act: [] for act in acts}
    for _round in range(bench.rounds):
        for number in DEPTHS:
            words = disks.drive(deep_chain(bench.folder, number), id="vda", qdev="vda")
            with Vm(bench.folder, *words, *second_monitor(bench.folder), name="deep") as vm:
                for act, measure in acts.items():
                    with pinging(bench.folder) as silence:
                        spent[act][f"{number} images"].append(measure(vm))
                    if number == DEPTHS[-1]:
                        silences[act].append(silence[0])
                must_be_populated(vm.judge)
    first = f"{DEPTHS[0]} images"
    yield Figure("depth-query", "query-block alone", "milliseconds", first, spent["query-block"])
    yield Figure("depth-info", "block_stream_info", "milliseconds", first, spent["block_stream_info"])
    yield Figure("depth-stream", "block_stream, 64 KiB to copy", "milliseconds", first, spent["block_stream"])
    title = f"The longest time that QEMU's main loop is held, {DEPTHS[-1]} images"
    yield Figure("depth-silence", title, "milliseconds", "query-block", silences)


def _module(name: str, **options: Any) -> float:
    command, stdin = product.command_of(name, **options)
    return 1000 * timed(command, stdin=stdin, environ=environment()).seconds


def second_monitor(folder: Path) -> list[str]:
    return ["-qmp", f"unix:{folder / 'ping.qmp'},server=on,wait=off"]


@contextmanager
def pinging(folder: Path) -> Iterator[list[float]]:
    """Ask something small at the second monitor all the while; what it yields is, at the end, the longest time for an
    answer in milliseconds.
    """
    over, longest = threading.Event(), [0.0]
    monitor = Monitor(folder / "ping.qmp")

    def ping() -> None:
        while not over.is_set():
            began = time.monotonic()
            monitor.command("query-status")
            longest[0] = max(longest[0], 1000 * (time.monotonic() - began))

    thread = threading.Thread(target=ping)
    thread.start()
    try:
        yield longest
    finally:
        over.set()
        thread.join()
        monitor.close()
