# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""The scene of most tests: one VM with one disk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import images, product
from .process import wait_until

if TYPE_CHECKING:
    from .vm import Vm


@dataclass(frozen=True)
class Scene:
    """A VM with the disk `vda` over a chain, and the modules pointed at it."""

    vm: Vm
    chain: images.Chain

    def stream(self, **options: Any) -> product.Result:
        """Run block_stream on the disk."""
        return product.module("block_stream", **{"monitors": [self.vm.monitor], "disks": ["vda"], **options})

    def begin(self, **options: Any) -> product.Running:
        """A task that waits for a stream of which QEMU has copied one step, and copies hardly more by itself."""
        arguments = {"monitors": [self.vm.monitor], "disks": ["vda"], "speed": "1", **options}
        task = product.Running("block_stream", arguments)
        wait_until(lambda: any(job["offset"] for job in self.vm.jobs().values()), "the stream copies")
        return task

    def info(self) -> dict[str, Any]:
        """What block_stream_info says of the disk."""
        result = product.module("block_stream_info", monitors=[self.vm.monitor], disks=["vda"])
        assert not result.failed, result
        (disk,) = result["disks"]
        return dict(disk)

    def start(self, **options: Any) -> str:
        """Have the product start a stream of which QEMU copies one step, and return the id of its job."""
        result = self.stream(**{"wait": False, "speed": "1", **options})
        assert not result.failed, result
        (job,) = self.vm.jobs()
        return job

    def start_pending(self) -> str:
        """Have the product start a stream and QEMU end the copying, so that the job waits to be finalized."""
        job = self.start()
        self.vm.hasten()
        self.vm.wait_event("BLOCK_JOB_PENDING", id=job)
        return job

    def start_foreign_job(self, **options: Any) -> None:
        """A stream of somebody else, named `foreign`."""
        self.vm.command("block-stream", job_id="foreign", device=self.vm.inserted("vda")["node-name"], **options)

    @property
    def depth(self) -> int:
        """How many images are below the top."""
        return len(self.vm.chain("vda")) - 1

    def assert_done(self, result: product.Result) -> None:
        """The task says that it populated the disk, and every byte survives a kill without the images below."""
        assert (result.failed, result["changed"], result["finished"]) == (False, True, True), result
        self.assert_safe_after_kill()

    def assert_safe_after_kill(self) -> None:
        """The VM killed now, and everything below the top taken away: every byte is there."""
        self.vm.kill()
        self.chain.take_away()
        assert images.backing(self.chain.top) is None
        assert images.differences(self.chain.expected, images.content(self.chain.top)) == []
