# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Fixtures of this target: one VM with one disk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from lab import Vm, disks, images, product

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@dataclass(frozen=True)
class Disk:
    """A VM with the disk `vda` (drive `drive0`) over a chain, and the module pointed at it."""

    vm: Vm
    chain: images.Chain

    def stream(self, **options: Any) -> product.Result:
        return product.module("block_stream", **{"monitors": [self.vm.monitor], "disks": ["vda"], **options})

    def start_foreign_job(self, **options: Any) -> None:
        """A stream of somebody else, named `foreign`."""
        self.vm.command("block-stream", job_id="foreign", device=self.vm.inserted("vda")["node-name"], **options)

    @property
    def depth(self) -> int:
        depth: int = self.vm.inserted("vda")["backing_file_depth"]
        return depth

    def assert_safe_after_kill(self) -> None:
        """The VM killed now, and everything below the top taken away: every byte is there."""
        self.vm.kill()
        self.chain.take_away()
        assert images.backing(self.chain.top) is None
        assert images.differences(self.chain.expected, images.content(self.chain.top)) == []


@pytest.fixture
def disk(folder: Path, boot: Callable[..., Vm]) -> Disk:
    chain = images.chain(folder, layers=2)
    return Disk(boot(*disks.drive(chain.top, id="drive0", qdev="vda")), chain)
