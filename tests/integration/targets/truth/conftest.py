# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""A disk whose stream can copy nothing and look like one that did; and how the truth is told."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from lab import Scene, Vm, disks, host, images, product, thin, wait_until
from lab.process import run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SIZE = 16 * images.MiB
HALF = SIZE // 2
# What is left of a stream that was lost for half of its way is copied in two seconds.
SPEED = 4 * images.MiB

DEVICE_SIZE = 64 * images.MiB
# Enough for the tables of an image, and for little of its data.
ROOM = 256 * images.KiB
ERRORS = ("No space left on device", "Input/output error")


def dense_chain(folder: Path, *, layers: int = 1, name: str = "") -> images.Chain:
    """A chain with data nearly everywhere below its top, so that the position of a stream tells what it passed."""
    model = bytearray(SIZE)
    made: list[Path] = []
    for layer in range(layers + 1):
        label, span = f"mid{layer}", images.Write(2 * images.MiB, 12 * images.MiB, seed=1 + layer)
        if layer == 0:
            label, span = "base", images.Write(0, 15 * images.MiB, seed=1)
        elif layer == layers:
            label, span = "top", images.Write(6 * images.MiB, images.MiB, seed=1 + layer)
        backing = made[0] if made else None
        made.insert(0, images.create(folder / f"{name}{label}.qcow2", SIZE, backing=backing, writes=[span]))
        model[span.offset : span.offset + span.size] = span.content
    return images.Chain(tuple(made), bytes(model))


@dataclass(frozen=True)
class Disk(Scene):
    """The disk `vda`, in a VM that can be saved."""

    def begin(self, **options: Any) -> product.Running:
        """A task that waits for a stream that has only just begun."""
        arguments = {"monitors": [self.vm.monitor], "disks": ["vda"], "speed": str(SPEED), **options}
        task = product.Running("block_stream", arguments)
        wait_until(lambda: any(job["offset"] for job in self.vm.jobs().values()), "the stream copies")
        return task

    def position(self, job: str) -> int:
        """How far a job is; one that is gone is at the end."""
        found: int = self.vm.jobs().get(job, {}).get("offset", SIZE)
        return found

    def pass_over(self, job: str, end: int, *, speed: int = 1) -> None:
        """Let the stream move to `end` quickly, and have its own speed again."""
        self.vm.command("block-job-set-speed", device=job, speed=16 * images.MiB)
        wait_until(lambda: self.position(job) >= end, f"the stream is at {end}")
        self.vm.command("block-job-set-speed", device=job, speed=speed)

    def complete(self, job: str) -> None:
        """Let QEMU end what it takes for copying, so that the job waits to be finalized."""
        self.vm.command("block-job-set-speed", device=job, speed=0)
        self.vm.wait_event("BLOCK_JOB_PENDING", id=job)

    def save_and_lose(self, job: str, end: int = HALF, *, speed: int = 1) -> None:
        """Save the VM, let the stream pass over half of the disk meanwhile, of which it copies nothing, and go on."""
        self.vm.save()
        self.pass_over(job, end, speed=speed)
        self.vm.command("cont")

    def start_and_lose_all(self) -> None:
        """A job that copied next to nothing waits to be finalized, in a VM that runs."""
        job = self.start()
        self.vm.save()
        self.complete(job)
        self.vm.command("cont")

    def job_ends(self) -> list[str]:
        """How jobs ended so far, as QEMU told it."""
        assert self.vm.status  # the events come before the reply
        ends = ("BLOCK_JOB_COMPLETED", "BLOCK_JOB_CANCELLED")
        return [event["event"] for event in self.vm.judge.events if event["event"] in ends]

    def assert_streamed_again(self, result: product.Result) -> None:
        """The task is done, but not by the job that copied nothing: that one was given up, and nothing is lost."""
        assert (result.failed, result["finished"], self.vm.jobs()) == (False, True, {}), result
        ends = self.job_ends()
        self.assert_safe_after_kill()
        assert ends == ["BLOCK_JOB_CANCELLED", "BLOCK_JOB_COMPLETED"]

    def assert_goes_on_and_finishes(self, **options: Any) -> None:
        """The VM goes on, and another run is done; QEMU killed then, nothing is lost."""
        self.vm.command("cont")
        result = self.stream(**options)
        assert (result.failed, result["finished"]) == (False, True), result
        self.assert_safe_after_kill()

    def assert_right_above_base(self) -> None:
        """The VM killed now: the header names the base, and nothing between the two is needed."""
        self.vm.kill()
        for between in self.chain.images[1:-1]:
            between.unlink()
        assert images.backing(self.chain.top) == str(self.chain.base)
        assert images.differences(self.chain.expected, images.content(self.chain.top)) == []

    def assert_claims_nothing(self, result: product.Result, *words: str) -> None:
        """The task failed with these words, QEMU lives, and no image is given up."""
        depth = self.depth  # QEMU answers
        assert (result.failed, result["finished"], depth) == (True, False, len(self.chain.images) - 1), result
        for word in ("vda", *words):
            assert word in result["msg"]
        (disk,) = result["disks"]
        assert disk["populated"] is not True
        assert [each["path"] for each in disk["released"] if each["free"]] == []


@pytest.fixture
def running(folder: Path, boot: Callable[..., Vm]) -> Callable[..., Disk]:
    """Boot a VM that runs, with `vda` over so many layers."""

    def make(layers: int = 1) -> Disk:
        chain = dense_chain(folder, layers=layers)
        return Disk(boot(*disks.drive(chain.top, id="drive0", qdev="vda"), running=True), chain)

    return make


@pytest.fixture
def saveable(running: Callable[..., Disk]) -> Callable[..., Disk]:
    """The same, of a VM that can be saved while its disk is streamed."""

    def make(layers: int = 1) -> Disk:
        disk = running(layers)
        if not disk.vm.can_be_saved_while_streaming:
            pytest.skip("this QEMU refuses to save a VM while a disk is streamed")
        return disk

    return make


@dataclass(frozen=True)
class Full(Disk):
    """`vda` on thin storage that is full."""

    storage: thin.Thin

    def assert_lost(self, result: product.Result, *words: str) -> None:
        """The task failed with these words, keeps the link, and says what happened."""
        self.assert_claims_nothing(result, *words)
        assert any(error in result["msg"] for error in ERRORS), result["msg"]

    def assert_told(self, result: product.Result) -> None:
        """The same, and it says what to do."""
        self.assert_lost(result, "restart the VM")

    def assert_restart_cures(self) -> None:
        """With room and a VM started anew, the same task is done, and every byte is on the storage."""
        self.vm.kill()
        with Vm(self.vm.folder, *disks.drive(self.chain.top, id="drive0", qdev="vda"), name="again") as vm:
            again = Disk(vm, self.chain)
            result = again.stream()
            assert (result.failed, result["finished"]) == (False, True), result
            vm.kill()
            thin.forget_cache(self.chain.top)
            again.assert_safe_after_kill()


@pytest.fixture
def storage(folder: Path) -> Iterator[thin.Thin]:
    if not host.has_loop_devices():
        pytest.skip("this host gives us no loop devices")
    with thin.device(folder, DEVICE_SIZE) as made:
        yield made


@pytest.fixture(params=["ext4", "device"])
def full(request: pytest.FixtureRequest, folder: Path, storage: thin.Thin) -> Iterator[Full]:
    """The top is a file on ext4 on such a device, or the device itself."""
    if request.param == "ext4":
        with on_ext4(folder, storage) as chain:
            yield from boot_on(storage, chain, *disks.drive(chain.top, id="drive0", qdev="vda"))
    else:
        below = dense_chain(folder, layers=0)
        top = Path(storage.device)
        image = images.create(folder / "top.qcow2", backing=below.base)
        run(["dd", f"if={image}", f"of={top}", "bs=64k", "conv=fsync", "status=none"])
        yield from boot_on(
            storage,
            images.Chain((top, below.base), below.expected),
            *disks.drive(top, id="drive0", qdev="vda"),
        )


@pytest.fixture(params=["cache=unsafe", "the file alone"])
def unflushed(request: pytest.FixtureRequest, folder: Path, storage: thin.Thin) -> Iterator[Full]:
    """The same on ext4, and QEMU never flushes the file: the kernel tells of an error, once, to who asks."""
    with on_ext4(folder, storage) as chain:
        words = disks.drive(chain.top, id="drive0", qdev="vda", cache="unsafe")
        if request.param == "the file alone":
            words = [
                *disks.blockdev("file", "top-file", filename=str(chain.top), cache={"no-flush": True}),
                *disks.blockdev("qcow2", "top", file="top-file"),
                *disks.frontend("virtio-blk-pci", "vda", drive="top"),
            ]
        yield from boot_on(storage, chain, *words)


@contextlib.contextmanager
def on_ext4(folder: Path, storage: thin.Thin) -> Iterator[images.Chain]:
    """A chain whose top is on a thin device."""
    below = dense_chain(folder, layers=0)
    with thin.ext4(storage, folder / "ext4") as mounted:
        top = images.create(mounted.path / "top.qcow2", backing=below.base)
        mounted.sync()
        mounted.trim()
        yield images.Chain((top, below.base), below.expected)


def boot_on(storage: thin.Thin, chain: images.Chain, *words: str) -> Iterator[Full]:
    """A VM that ends before its storage does."""
    storage.leave(ROOM)
    with Vm(chain.base.parent, *words, running=True) as vm:
        yield Full(vm, chain, storage)
    storage.make_room()
