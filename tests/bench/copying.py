# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""The copying itself: the stream beside QEMU's bare command and other copies, and what it costs to make it durable."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING

from lab import NbdServer, SlowLink, Vm, disks, images, product
from lab.images import MiB
from lab.process import run

from .depth import pinging, second_monitor
from .measure import Figure, in_turn, seconds
from .ways import GiB, environment, golden, moment_of, must_be_populated, overlay, timed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from .tasks import Bench

BARE, BARE_FLUSHED, OURS = "bare block-stream", "bare block-stream, flushed", "block_stream"


def throughput(bench: Bench) -> Iterator[Figure]:
    """512 MiB from a local image, with its pages in memory and without; then less over a slow connection."""
    size = 512 * MiB
    base, top = golden(bench.folder, size), bench.folder / "copy.qcow2"
    for is_cold, text in ((False, "the page cache is warm"), (True, "the page cache is cold")):
        ways: dict[str, Callable[[], float]] = {
            "block-stream, then flush": lambda: _stream(bench.folder, overlay(top, base), _bare),
            OURS: lambda: _stream(bench.folder, overlay(top, base), _ours),
            "qemu-img convert, then fsync": lambda: _copy(["qemu-img", "convert", "-O", "qcow2", base, top], top),
            "cp, then fsync": lambda: _copy(["cp", base, top], top),
        }
        prepared = {way: partial(_with_cache, base, act, is_cold=is_cold) for way, act in ways.items()}
        samples = in_turn(prepared, max(3, bench.rounds // 2))
        name = f"copy-{'cold' if is_cold else 'warm'}"
        yield Figure(name, f"512 MiB, {text}", "MiB/s", "block-stream, then flush", _rates(samples, 512))
    for delay in (1, 5, 20):
        remote = golden(bench.folder, 32 * MiB)
        with (
            NbdServer(remote, bench.folder / "near.nbd", format="qcow2") as server,
            SlowLink(bench.folder / "far.nbd", server.path, delay=delay / 1000) as link,
        ):

            def over_nbd(stream: Callable[[Vm], float], address: str = link.address) -> float:
                top.unlink(missing_ok=True)
                images.create(top, backing=address, backing_format="raw")
                return _stream(bench.folder, top, stream)

            samples = in_turn({"block-stream, then flush": partial(over_nbd, _bare), OURS: partial(over_nbd, _ours)}, 3)
        title = f"32 MiB over NBD with {delay} ms of delay"
        yield Figure(f"copy-nbd{delay}", title, "MiB/s", "block-stream, then flush", _rates(samples, 32))


def _rates(samples: dict[str, list[float]], mebibytes: int) -> dict[str, list[float]]:
    return {way: [mebibytes / each for each in own] for way, own in samples.items()}


def _stream(folder: Path, top: Path, stream: Callable[[Vm], float], *words: str) -> float:
    with Vm(folder, *(words or disks.drive(top, id="vda", qdev="vda")), name="copy") as vm:
        spent = stream(vm)
        must_be_populated(vm.judge)
        return spent


def _bare(vm: Vm) -> float:
    """QEMU's command and a flush behind it: from the command to the answer to the flush."""

    def act() -> None:
        _bare_unflushed(vm)
        vm.hmp(f"qemu-io -d {vm.disk('vda')['qdev']} flush")

    return seconds(act)


def _bare_unflushed(vm: Vm) -> float:
    def act() -> None:
        vm.command("block-stream", job_id="bare", device=vm.inserted("vda")["node-name"])
        vm.judge.wait_event("BLOCK_JOB_COMPLETED", timeout=120)

    return seconds(act)


def _ours(vm: Vm) -> float:
    """By QEMU's own clock, from the start of our job to its end, which comes after the flush."""
    command, stdin = product.command_of("block_stream", monitors=[vm.monitor], disks=["vda"], check_space=False)
    timed(command, stdin=stdin, environ=environment())
    return moment_of(vm.judge, "BLOCK_JOB_COMPLETED") - moment_of(vm.judge, "JOB_STATUS_CHANGE", status="created")


def _copy(command: Sequence[str | Path], result: Path) -> float:
    result.unlink(missing_ok=True)

    def act() -> None:
        run(command)
        _sync(result)

    return seconds(act)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _with_cache(base: Path, act: Callable[[], float], *, is_cold: bool) -> float:
    """Have the pages of the base in memory, or not."""
    _sync(base)
    with base.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        while not is_cold and file.read(4 * MiB):
            pass
    return act()


def durability(bench: Bench) -> Iterator[Figure]:
    """What the flush and the finalize step add to a stream of 128 MiB, on this storage and on a slow one."""
    size = 128 * MiB
    base, top = golden(bench.folder, size), bench.folder / "durable.qcow2"
    for name, limit in (("fast", None), ("slow", 32 * MiB)):
        flushes: list[float] = []

        def on_this_storage(stream: Callable[[Vm], float], limit: int | None = limit) -> float:
            return _stream(bench.folder, overlay(top, base), stream, *(_throttled(top, limit) if limit else []))

        streams = {BARE: _bare_unflushed, BARE_FLUSHED: _bare, OURS: _noting(flushes)}
        ways = {way: partial(on_this_storage, stream) for way, stream in streams.items()}
        samples = in_turn(ways, max(3, bench.rounds // 2))
        samples[f"{OURS}, of it from pending to the end"] = flushes
        storage = "this machine's storage" if limit is None else f"storage of {limit // MiB} MiB/s"
        yield Figure(f"durable-{name}", f"128 MiB made durable, on {storage}", "seconds", BARE, samples)

    base = golden(bench.folder, GiB)

    def silence(stream: Callable[[Vm], float]) -> float:
        words = disks.drive(overlay(top, base), id="vda", qdev="vda")
        with Vm(bench.folder, *words, *second_monitor(bench.folder), name="silence") as vm:
            with pinging(bench.folder) as longest:
                stream(vm)
            must_be_populated(vm.judge)
            return longest[0]

    title = "The longest time that QEMU's main loop is held, 1 GiB to copy"
    ways = {BARE_FLUSHED: partial(silence, _bare), OURS: partial(silence, _ours)}
    samples = in_turn(ways, min(3, bench.rounds))
    yield Figure("durable-silence", title, "milliseconds", BARE_FLUSHED, samples)


def _noting(flushes: list[float]) -> Callable[[Vm], float]:
    """Our stream, which notes how long it took from pending to its end."""

    def stream(vm: Vm) -> float:
        spent = _ours(vm)
        pending, end = (moment_of(vm.judge, f"BLOCK_JOB_{what}") for what in ("PENDING", "COMPLETED"))
        flushes.append(end - pending)
        return spent

    return stream


def _throttled(top: Path, limit: int) -> list[str]:
    """A disk whose image lies on storage of so many bytes per second."""
    group = ["-object", f"throttle-group,id=slow,x-bps-write={limit},x-bps-write-max={limit}"]
    file = {"driver": "throttle", "throttle-group": "slow", "file": {"driver": "file", "filename": str(top)}}
    return [*group, *disks.blockdev("qcow2", "top", file=file), *disks.frontend("virtio-blk-pci", "vda", drive="top")]
