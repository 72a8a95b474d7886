# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""A disk that a guest writes to as fast as QEMU answers, while things go wrong around it."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from campaign.guest import Guest, monitor_words
from campaign.model import Model
from lab import Scene, disks, images, product

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from lab import Vm

# What the top holds from the beginning. A write elsewhere reads the rest of its cluster from below first, and if that
# does not answer, QEMU's monitor, through which the guest writes, does not either.
OWN = (384 * images.KiB, 896 * images.KiB)


@dataclass(frozen=True)
class Busy(Scene):
    """A scene with a guest: everything is judged against the model of what it wrote."""

    guest_path: Path
    model: Model

    @contextlib.contextmanager
    def guest(self) -> Iterator[Guest]:
        """Write all the while."""
        with Guest(self.guest_path, self.vm.disk("vda")["qdev"], self.model, seed=self.vm.name, within=OWN) as guest:
            yield guest
        assert guest.writes > 0

    @property
    def guest_while_writes_fail(self) -> contextlib.AbstractContextManager[Guest | None]:
        """The same, but none on QEMU 5.2: it hangs if a job fails at a write while its human monitor writes."""
        return contextlib.nullcontext() if self.vm.version < (6, 0) else self.guest()

    def assert_nothing_is_lost(self) -> None:
        """QEMU killed, everything below the top taken away: every byte that the guest may count on is there."""
        self.vm.kill()
        self.chain.take_away()
        assert images.backing(self.chain.top) is None
        assert self.model.losses(images.content(self.chain.top), crashed=True) == []


def assert_failed(result: product.Result, *words: str) -> None:
    """The task failed, claims nothing, and its message names the disk and these words."""
    assert (result.failed, result["finished"]) == (True, False), result
    for word in ("vda", *words):
        assert word in result["msg"]


def assert_idle(disk: Busy) -> None:
    """No job is left, the backing image is still in use, and block_stream_info says so."""
    assert (disk.vm.jobs(), disk.depth) == ({}, 1)
    said = disk.info()
    assert (said["job"], said["populated"], len(said["chain"])) == (None, False, 2), said


@pytest.fixture
def busy(folder: Path, boot: Callable[..., Vm]) -> Callable[..., Busy]:
    """Boot a VM with these words for its disk `vda`; by default a plain drive."""

    def make(chain: images.Chain, *words: str, name: str = "vm0", model: Model | None = None) -> Busy:
        path = folder / f"{name}.guest"
        disk = words or disks.drive(chain.top, id="drive0", qdev="vda")
        vm = boot(*disk, *monitor_words(path), name=name)
        return Busy(vm, chain, path, model or Model(chain.expected))

    return make
