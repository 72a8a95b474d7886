# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""The judge is judged: each kind of loss that the rounds try for is made on purpose, and must be reported."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lab import Vm, disks, host, images, lab_folder, thin
from lab.process import run

from .model import Model

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class Seen:
    """What the judge made of a loss; `must_see` unless QEMU or the host cannot be brought to it."""

    what: str
    must_see: bool
    losses: list[str]

    @property
    def is_blind(self) -> bool:
        return self.must_see and not self.losses

    @property
    def line(self) -> str:
        return f"{self.what}: {len(self.losses) if self.losses or self.must_see else 'cannot be tried here'}"


def unflushed_stream() -> Seen:
    """A plain stream that finalizes itself, and a kill the moment QEMU says that it completed."""
    with lab_folder() as folder:
        chain = images.chain(folder)
        with Vm(folder, *disks.drive(chain.top, id="drive0", qdev="vda")) as vm:
            # A newer QEMU may lose nothing here.
            must_see = vm.version < (8, 0)
            vm.command("block-stream", job_id="plain", device="drive0")
            vm.wait_event("BLOCK_JOB_COMPLETED", device="plain")
        return Seen("blocks lost by a stream that nobody flushed", must_see, _losses(chain))


def saved_stream() -> Seen:
    """A VM that is saved and goes on in the middle of a stream, and its job finalized as if all were copied."""
    what = "blocks lost by a stream in a VM that was saved meanwhile"
    with lab_folder() as folder:
        chain = images.chain(folder)
        with Vm(folder, *disks.drive(chain.top, id="drive0", qdev="vda")) as vm:
            if not _is_saved_in_mid_stream(vm):
                return Seen(what, must_see=False, losses=[])
            _complete(vm)
            vm.command("cont")
            _finalize(vm)
        return Seen(what, must_see=True, losses=_losses(chain))


def unwritten_stream() -> Seen:
    """A stream to storage without room, flushed, which fails, and finalized."""
    what = "blocks lost on storage without room"
    if not host.has_loop_devices():
        return Seen(what, must_see=False, losses=[])
    with lab_folder() as folder, thin.device(folder, 64 * images.MiB) as storage:
        chain = images.chain(folder)
        run(["dd", f"if={chain.top}", f"of={storage.device}", "bs=64k", "conv=fsync", "status=none"])
        chain = images.Chain((Path(storage.device), *chain.images[1:]), chain.expected)
        storage.leave(256 * images.KiB)
        with Vm(folder, *disks.drive(chain.top, id="drive0", qdev="vda")) as vm:
            _start(vm)
            _complete(vm)
            _finalize(vm)
        storage.make_room()
        thin.forget_cache(chain.top)
        return Seen(what, must_see=True, losses=_losses(chain))


def finalized_after_leaving() -> Seen:
    """A job that is finalized on the source of a migration that is complete: QEMU ends by an assertion."""
    what = "QEMUs that died of a job finalized after the VM had left"
    with lab_folder() as folder:
        chain = images.chain(folder)
        with Vm(folder, *disks.drive(chain.top, id="drive0", qdev="vda")) as vm:
            if not _is_saved_in_mid_stream(vm):
                return Seen(what, must_see=False, losses=[])
            _complete(vm)
            with contextlib.suppress(OSError):
                _finalize(vm)
            return Seen(what, must_see=True, losses=[] if vm.is_alive else ["QEMU died"])


CONTROLS: tuple[Callable[[], Seen], ...] = (unflushed_stream, saved_stream, unwritten_stream, finalized_after_leaving)


def _is_saved_in_mid_stream(vm: Vm) -> bool:
    """Start a stream, and save the VM; False where this QEMU refuses that, or died of it.

    It does so now and then: of a stream that writes while it gives its images away.
    """
    if not vm.can_be_saved_while_streaming:
        return False
    _start(vm)
    try:
        vm.save()
    except OSError:
        return False
    return True


def _start(vm: Vm) -> None:
    """A stream that has hardly begun."""
    vm.command("block-stream", job_id="plain", device="drive0", auto_finalize=False, speed=1)


def _complete(vm: Vm) -> None:
    vm.command("block-job-set-speed", device="plain", speed=0)
    vm.wait_event("BLOCK_JOB_PENDING", id="plain")


def _finalize(vm: Vm) -> None:
    vm.hmp("qemu-io drive0 flush")
    vm.command("job-finalize", id="plain")
    vm.wait_event("BLOCK_JOB_COMPLETED", device="plain")


def _losses(chain: images.Chain) -> list[str]:
    """The VM killed, and what is below the top taken away."""
    chain.take_away()
    return Model(chain.expected).losses(images.content(chain.top), crashed=True)
