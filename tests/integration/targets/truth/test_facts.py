# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""What QEMU and Linux do, and the tests of this folder rest on: that they can fail, and why."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from lab import MonitorError, Vm, disks, images, thin

from .conftest import SIZE, Disk, dense_chain

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .conftest import Full


def finalize_as_if_all_were_well(disk: Disk) -> None:
    """What must not be done with this job: flush, and finalize it."""
    (job,) = disk.vm.jobs()
    disk.vm.hmp(f"qemu-io {disk.vm.inserted('vda')['node-name']} flush")
    disk.vm.command("job-finalize", id=job)
    disk.vm.wait_event("BLOCK_JOB_COMPLETED", device=job)
    disk.vm.kill()


def test_a_job_that_copied_nothing_loses_the_disk(saveable: Callable[..., Disk]) -> None:
    """Saved and resumed in the middle of a stream, a VM loses nearly all that its base held."""
    disk = saveable()
    disk.start_and_lose_all()
    finalize_as_if_all_were_well(disk)
    assert images.backing(disk.chain.top) is None
    assert len(images.differences(disk.chain.expected, images.content(disk.chain.top), limit=SIZE)) > 100


def test_a_flush_that_failed_loses_the_disk(full: Full) -> None:
    """The same with storage that took nothing, though the guest reads all well to the end."""
    full.complete(full.start())
    assert images.differences(full.chain.expected, full.vm.content("vda")) == []
    finalize_as_if_all_were_well(full)
    full.storage.make_room()
    thin.forget_cache(full.chain.top)
    assert len(images.differences(full.chain.expected, images.content(full.chain.top), limit=SIZE)) > 100


def test_who_hears_of_a_write_back_that_failed(full: Full) -> None:
    """A file that was open before hears of it once; one that is opened later never; QEMU remembers it."""
    with full.chain.top.open("rb") as before:
        job = full.start()
        full.complete(job)
        full.vm.hmp(f"qemu-io {full.vm.inserted('vda')['node-name']} flush")
        with pytest.raises(OSError, match=r"No space left|Input/output"):
            os.fsync(before.fileno())
        os.fsync(before.fileno())
    full.storage.make_room()
    with full.chain.top.open("rb") as later:
        os.fsync(later.fileno())
    full.vm.command("job-cancel", id=job)
    full.vm.wait_event("BLOCK_JOB_CANCELLED", device=job)
    for _again in range(2):
        assert full.vm.flush_error("vda")
    full.vm.kill()
    with Vm(full.vm.folder, *disks.drive(full.chain.top, id="drive0", qdev="vda"), name="again") as vm:
        assert vm.flush_error("vda") is None


@pytest.mark.parametrize("properties", [{}, {"iothread": "io0"}], ids=["main loop", "iothread"])
def test_asking_qemu_to_flush_changes_nothing(
    folder: Path, boot: Callable[..., Vm], properties: dict[str, str]
) -> None:
    """It works in an iothread, too, but not while there is a job."""
    chain = dense_chain(folder)
    words = [*disks.drive(chain.top, id="drive0", device=None), "-object", "iothread,id=io0"]
    disk = Disk(boot(*words, *disks.frontend("virtio-blk-pci", "vda", drive="drive0", **properties)), chain)
    before = disk.vm.command("query-block")
    assert disk.vm.flush_error("vda") is None
    assert disk.vm.command("query-block") == before
    disk.start()
    with pytest.raises(MonitorError, match="is busy"):
        disk.vm.command("blockdev-snapshot", node=disk.vm.inserted("vda")["node-name"], overlay="no-such-node")
