# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Reading ahead, behind links with a delay: beside a plain stream, beside a copy of the base, and beside the link."""

from __future__ import annotations

import shutil
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from lab import NbdServer, SlowLink, Vm, disks, images, product
from lab.images import MiB
from lab.process import run

from .measure import Rates, in_turn, seconds
from .ways import environment, golden, moment_of, must_be_populated, timed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from .tasks import Bench

SIZE = 256 * MiB
PLAIN = "block_stream"
# Requests of 512 KiB.
UNDER_WAY = {PLAIN: 1, "read_ahead: 4": 4, "read_ahead: 8": 8, "read_ahead: 16": 16}
DELAYS = (1, 5, 20)
BANDWIDTH = 40 * MiB
T = TypeVar("T")


def ahead(bench: Bench) -> Iterator[Rates]:
    """Data behind each link; `qemu-img convert` and `nbdcopy` copy the base alone, and no VM has it then."""
    rounds = min(3, bench.rounds)
    missing = {} if shutil.which("nbdcopy") else {"nbdcopy of the base": "not installed"}
    links = [("raw", delay, 0) for delay in DELAYS]
    for format, delay, bandwidth in [*links, ("qcow2", 20, 0), ("raw", 20, BANDWIDTH)]:
        title = f"{SIZE // MiB} MiB of a {format} base over NBD with {delay} ms of delay"
        if bandwidth:
            title += f", on a link of {bandwidth // MiB} MiB/s for each client"
        samples = _rates(in_turn(_ways(bench.folder, format, delay / 1000, bandwidth), rounds))
        limits = {way: _limit(number, delay / 1000, bandwidth) for way, number in UNDER_WAY.items()}
        name = f"ahead-{'link' if bandwidth else format}{delay}"
        yield Rates(name, title, "MiB/s", PLAIN, samples, missing, limits)


def _limit(number: int, delay: float, bandwidth: int) -> float:
    """How many MiB a second a link carries, of so many requests of 512 KiB at a time."""
    rate = number / 2 / delay
    return min(rate, bandwidth / MiB) if bandwidth else rate


def _rates(samples: dict[str, list[float]]) -> dict[str, list[float]]:
    return {way: [SIZE / MiB / each for each in own] for way, own in samples.items()}


def _ways(folder: Path, format: str, delay: float, bandwidth: int) -> dict[str, Callable[[], float]]:
    far = partial(behind, folder, format, delay, bandwidth)
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


def behind(folder: Path, format: str, delay: float, bandwidth: int, act: Callable[[str], T], size: int = SIZE) -> T:
    """Do something with the address of a golden image behind a slow link."""
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
