# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Reading ahead, behind links with a delay: beside a plain stream, beside a copy of the base, and beside the link."""

from __future__ import annotations

import shutil
import time
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from lab import NbdServer, SlowLink, Vm, disks, guest_system, images, product
from lab.images import MiB
from lab.process import run, wait_until

from .measure import Figure, in_turn, seconds
from .ways import environment, golden, moment_of, must_be_populated, timed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from .tasks import Bench

SIZE = 192 * MiB
PLAIN, LINK = "block_stream", "what the link carries"
DELAYS = (1, 5, 20)
BANDWIDTH = 40 * MiB
WATCHED, WATCH_SECONDS = 256 * MiB, 4.0
T = TypeVar("T")


def ahead(bench: Bench) -> Iterator[Figure]:
    """Data behind each link; `qemu-img convert` and `nbdcopy` copy the base alone, and no VM has it then."""
    rounds = min(3, bench.rounds)
    for format in ("raw", "qcow2"):
        for delay in DELAYS if format == "raw" else DELAYS[-1:]:
            title = f"{SIZE // MiB} MiB of a {format} base over NBD with {delay} ms of delay"
            ways = _ways(bench.folder, format, delay / 1000, 0)
            samples = in_turn(ways, rounds)
            missing = {} if shutil.which("nbdcopy") else {"nbdcopy of the base": "not installed"}
            yield Figure(f"ahead-{format}{delay}", title, "MiB/s", PLAIN, _rates(samples), missing)
    samples = _rates(in_turn(_ways(bench.folder, "raw", 0.02, BANDWIDTH), rounds))
    samples = {LINK: [BANDWIDTH / MiB] * rounds, **samples}
    link = f"a link that carries {BANDWIDTH // MiB} MiB/s for each client"
    title = f"{SIZE // MiB} MiB over NBD with 20 ms of delay, on {link}"
    yield Figure("ahead-link", title, "MiB/s", LINK, samples)


def latency(bench: Bench) -> Iterator[Figure]:
    """What a guest waits for a read and for a write of 4 KiB at random places, while its disk is populated."""
    guest_system.prepare()
    accel = guest_system.accelerator()
    for name, delay, bandwidth in (
        ("a link with 20 ms of delay", 0.02, 0),
        ("a full link of 20 MiB/s", 0.001, 20 * MiB),
    ):
        ways: dict[str, Callable[[], dict[str, float]]] = {
            "no stream": partial(_wait, bench, accel, delay, bandwidth, None)
        }
        for most in (0, 4, 8, 16):
            ways[f"read_ahead: {most}"] = partial(_wait, bench, accel, delay, bandwidth, most)
        found = in_turn(ways, min(3, bench.rounds))
        for kind in ("read", "write"):
            samples = {way: [each[kind] for each in own] for way, own in found.items()}
            title = f"A guest's {kind} of 4 KiB beside {name}"
            yield Figure(f"latency-{kind}-{'full' if bandwidth else 'delay'}", title, "ms", "read_ahead: 0", samples)


def _wait(bench: Bench, accel: str, delay: float, bandwidth: int, most: int | None) -> dict[str, float]:
    """The mean of the milliseconds that QEMU's device took for a read and a write, over some seconds of the stream."""
    return _behind(bench.folder, "raw", delay, bandwidth, partial(_load, bench.folder, accel, most), size=WATCHED)


def _load(folder: Path, accel: str, most: int | None, address: str) -> dict[str, float]:
    top = folder / "latency.qcow2"
    top.unlink(missing_ok=True)
    images.create(top, WATCHED, backing=address, backing_format="raw")
    with guest_system.Guest(folder, "load", *disks.drive(top, id="vda", qdev="vda"), accel=accel, name="load") as guest:
        guest.wait_for("ready")
        task = None
        if most is not None:
            options = {"monitors": [guest.vm.monitor], "disks": ["vda"], "read_ahead": most, "check_space": False}
            task = product.Running("block_stream", options)
            wait_until(guest.vm.jobs, "the stream has begun")
        before, began = _times(guest.vm), time.monotonic()
        while time.monotonic() - began < WATCH_SECONDS and (task is None or guest.vm.jobs()):
            time.sleep(0.05)
        after = _times(guest.vm)
        if task is not None:
            task.kill()
    return {kind: (after[kind][1] - before[kind][1]) / max(1, after[kind][0] - before[kind][0]) for kind in before}


def _times(vm: Vm) -> dict[str, tuple[int, float]]:
    """How many requests of the guest were done, and the milliseconds that they took together."""
    (stats,) = (each["stats"] for each in vm.command("query-blockstats") if "vda" in each.get("qdev", ""))
    return {
        "read": (stats["rd_operations"], stats["rd_total_time_ns"] / 1e6),
        "write": (stats["wr_operations"], stats["wr_total_time_ns"] / 1e6),
    }


def _rates(samples: dict[str, list[float]]) -> dict[str, list[float]]:
    return {way: [SIZE / MiB / each for each in own] for way, own in samples.items()}


def _ways(folder: Path, format: str, delay: float, bandwidth: int) -> dict[str, Callable[[], float]]:
    far = partial(_behind, folder, format, delay, bandwidth)
    ways: dict[str, Callable[[], float]] = {PLAIN: partial(far, partial(_stream, folder, format, 0))}
    for most in (4, 8, 16):
        ways[f"read_ahead: {most}"] = partial(far, partial(_stream, folder, format, most))
    copy = folder / "copy"
    ways["qemu-img convert of the base"] = partial(
        far, lambda address: seconds(lambda: run(["qemu-img", "convert", "-f", format, "-O", "raw", address, copy]))
    )
    if shutil.which("nbdcopy"):
        ways["nbdcopy of the base"] = partial(far, lambda address: seconds(lambda: run(["nbdcopy", address, copy])))
    return ways


def _behind(folder: Path, format: str, delay: float, bandwidth: int, act: Callable[[str], T], size: int = SIZE) -> T:
    base = golden(folder, size)
    if format == "raw":
        raw = folder / f"golden-{size}.raw"
        if not raw.exists():
            run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", base, raw])
        base = raw
    with (
        NbdServer(base, folder / "near.nbd") as server,
        SlowLink(folder / "far.nbd", server.path, delay=delay, bandwidth=bandwidth) as link,
    ):
        return act(link.address)


def _stream(folder: Path, format: str, most: int, address: str) -> float:
    """By QEMU's own clock, from the start of the job to its end."""
    top = folder / "ahead.qcow2"
    top.unlink(missing_ok=True)
    images.create(top, SIZE, backing=address, backing_format=format)
    with Vm(folder, *disks.drive(top, id="vda", qdev="vda"), name="ahead") as vm:
        words: dict[str, Any] = {"monitors": [vm.monitor], "disks": ["vda"], "read_ahead": most, "check_space": False}
        command, stdin = product.command_of("block_stream", **words)
        timed(command, stdin=stdin, environ=environment())
        must_be_populated(vm.judge)
        return moment_of(vm.judge, "BLOCK_JOB_COMPLETED") - moment_of(vm.judge, "JOB_STATUS_CHANGE", status="created")
