# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""How late the event source is: from QEMU's time stamp of an event to the queue of ansible-rulebook."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import TYPE_CHECKING

from lab import Listener, Vm, disks
from lab.images import MiB

from .measure import Figure
from .ways import golden, moment_of, overlay

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .tasks import Bench

READER, SOURCE, VIA = "a client that only reads", "event source", "event source, via a shell"
# Each is over in a millisecond.
STREAMS = 20


def events(bench: Bench) -> Iterator[Figure]:
    """Short streams, heard by all at once; the source asks for the chain before it tells of one."""
    names = ("source", "via")
    words = [word for name in names for word in ("-qmp", f"unix:{bench.folder}/{name}.events,server=on,wait=off")]
    top = overlay(bench.folder / "events.qcow2", golden(bench.folder, 4 * MiB))
    samples: dict[str, list[float]] = {READER: [], SOURCE: [], VIA: []}
    with contextlib.ExitStack() as stack:
        vm = stack.enter_context(Vm(bench.folder, *disks.drive(top, id="vda", qdev="vda"), *words, name="events"))
        listeners = {
            SOURCE: stack.enter_context(Listener(monitors=[f"{bench.folder}/source.events"])),
            VIA: stack.enter_context(
                Listener(monitors=[f"{bench.folder}/via.events"], via=["sh", "-c"], python=sys.executable)
            ),
        }
        node = vm.inserted("vda")["node-name"]
        vm.command("block-stream", job_id="first", device=node, speed=1)
        for listener in listeners.values():
            listener.wait(job="first")
        vm.hasten()
        vm.wait_event("BLOCK_JOB_COMPLETED", device="first")
        for number in range(bench.rounds * STREAMS):
            job = f"j{number}"
            vm.command("block-stream", job_id=job, device=node)
            vm.wait_event("BLOCK_JOB_COMPLETED", device=job)
            seen = time.time()
            happened = moment_of(vm.judge, "BLOCK_JOB_COMPLETED", device=job)
            samples[READER].append(1000 * (seen - happened))
            for way, listener in listeners.items():
                samples[way].append(1000 * (listener.wait("completed", job=job)["queued"] - happened))
    yield Figure("events", "An event of QEMU, in the queue of ansible-rulebook", "milliseconds", READER, samples)
