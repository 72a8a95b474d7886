# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Measure, print a table for each figure, and write tables and plots.

python -m bench --rounds 7
python -m bench late depth
python -m bench --into docs/docsite/rst   (write the page of the guide anew)
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib.metadata
import json
import platform
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from lab import lab_folder
from lab.libvirt import Libvirt, what_is_missing
from lab.process import run, tool

from .ahead import ahead
from .connection import connection
from .copying import durability, throughput
from .depth import depth
from .document import PAGE, write_tables
from .events import events
from .fleet import fleet
from .guest import guest
from .guests import guests
from .headers import headers
from .latency import latency
from .measure import Figure
from .plots import plot
from .tasks import Bench, call, late, many_disks, many_vms, whole_task
from .waiting import idle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

SECTIONS: dict[str, Callable[[Bench], Iterable[Figure]]] = {
    "whole": whole_task,
    "call": call,
    "late": late,
    "durability": durability,
    "disks": many_disks,
    "vms": many_vms,
    "fleet": fleet,
    "depth": depth,
    "idle": idle,
    "ssh": connection,
    "throughput": throughput,
    "ahead": ahead,
    "latency": latency,
    "guest": guest,
    "headers": headers,
    "libvirt": guests,
    "events": events,
}
BUILD = Path(__file__).resolve().parents[2] / "build" / "bench"


def circumstances() -> str:
    """What the figures depend on."""
    qemu = run([tool("QEMU_SYSTEM", "qemu-system-x86_64"), "--version"]).split("(")[0].strip()
    processors = sum(line.startswith("processor") for line in Path("/proc/cpuinfo").read_text().splitlines())
    return (
        f"{qemu}, Python {platform.python_version()}, ansible-core {importlib.metadata.version('ansible-core')}, "
        f"{processors} processors, Linux {platform.release().split('-')[0]}"
    )


def table(figure: Figure) -> str:
    """For the terminal."""
    rows = figure.rows()
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([f"{figure.title} (ratio to: {figure.baseline})", *(f"  {line}" for line in lines)])


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench", description="What a populate costs, beside other ways to have it.")
    parser.add_argument("section", nargs="*", help=f"which: {', '.join(SECTIONS)}; all of them if none is named")
    parser.add_argument("--rounds", type=int, default=5, help="samples of each way (some sections take fewer)")
    parser.add_argument("--into", type=Path, help=f"the folder of {PAGE}: write tables and plots there, too")
    options = parser.parse_args()
    if unknown := sorted(set(options.section) - set(SECTIONS)):
        parser.error(f"no such section: {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
    # Who ends a measurement ends the VMs and the daemon of it, too.
    signal.signal(signal.SIGTERM, lambda *_unused: sys.exit(143))
    BUILD.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    print(circumstances(), flush=True)
    figures: dict[str, list[Figure]] = {}
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(lab_folder())
        folder.chmod(0o711)  # libvirt's guests belong to somebody else
        reason = what_is_missing()
        libvirt = None if reason else stack.enter_context(Libvirt(folder / "libvirt").running())
        if reason:
            print(f"SKIPPED: everything with virsh: {reason}", flush=True)
        bench = Bench(folder, options.rounds, libvirt, reason or "")
        for section in options.section or SECTIONS:
            for figure in SECTIONS[section](bench):
                figures.setdefault(section, []).append(figure)
                print(f"\n{table(figure)}", flush=True)
    kept = {section: [dataclasses.asdict(figure) for figure in own] for section, own in figures.items()}
    (BUILD / "figures.json").write_text(json.dumps({"with": circumstances(), "sections": kept}, indent=1) + "\n")
    plot([figure for own in figures.values() for figure in own], options.into or BUILD)
    if options.into:
        write_tables(options.into, circumstances(), figures)
    print(f"\n{time.monotonic() - began:.0f} s. Samples and plots: {BUILD}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
