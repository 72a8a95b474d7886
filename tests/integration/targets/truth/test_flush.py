# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""The storage of the top is thin, and full: every write succeeds, for it reaches the page cache, and the flush fails.

What the kernel could not write out it forgets, and reads from the storage again once the cache is gone. A flush tells
it once for each open file; QEMU remembers it, and fails every later flush until it opens the file anew: only a restart
of the VM makes the disk trustworthy again. The backing images are elsewhere, and well.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest
from lab import Proxy, disks, images, product, thin

from .conftest import ERRORS, SPEED, dense_chain

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from lab import Vm

    from .conftest import Full

CLUSTER = 64 * images.KiB


def test_with_room_the_disk_is_populated(full: Full) -> None:
    """These tests fail for want of room alone."""
    full.storage.make_room()
    result = full.stream()
    assert (result.failed, result["finished"]) == (False, True), result
    full.vm.kill()
    thin.forget_cache(full.chain.top)
    full.assert_safe_after_kill()


def test_what_the_storage_did_not_take_keeps_the_link(full: Full) -> None:
    """The job stays at pending, the backing image is in use, and after a restart the task does it all."""
    full.assert_told(full.stream())
    assert [job["status"] for job in full.vm.jobs().values()] == ["pending"]
    full.storage.make_room()
    full.assert_restart_cures()


def test_a_rerun_does_not_forget(full: Full) -> None:
    """There is room again, and whoever opens the file now can flush it: QEMU cannot, and the task stays failed."""
    full.stream()
    full.storage.make_room()
    thin.forget_cache(full.chain.top)
    for _rerun in range(2):
        full.assert_told(full.stream())
    full.assert_restart_cures()


def test_a_job_that_was_left_at_its_end(full: Full) -> None:
    """Nobody had the top open while it was written, and the kernel told the error to QEMU alone."""
    job = full.start()
    full.complete(job)
    full.vm.hmp(f"qemu-io {full.vm.inserted('vda')['node-name']} flush")
    descriptor = os.open(full.chain.top, os.O_RDONLY)
    os.fsync(descriptor)  # succeeds: whoever opens the file now hears of nothing
    os.close(descriptor)
    full.storage.make_room()
    full.assert_told(full.stream())
    full.assert_restart_cures()


def test_what_the_kernel_forgot_is_written_anew(full: Full) -> None:
    """QEMU was killed before it flushed, there is room, the VM starts anew, and no flush fails any more.

    But ext4 (Linux 6.18) takes a page in the cache that it could not write for one that has its place: what is written
    to it now is lost, and nobody is told. The cache must forget the image before it is streamed.
    """
    full.complete(full.start())
    with pytest.raises(OSError, match=r"No space left|Input/output"), full.chain.top.open("rb") as top:
        os.fsync(top.fileno())
    full.storage.make_room()
    full.assert_restart_cures()


def test_the_write_back_fails_while_the_stream_runs(full: Full) -> None:
    """A stream of some seconds is written out meanwhile: the failure is told, by then or at the end."""
    task = full.begin(speed=str(2 * SPEED))
    full.assert_told(task.result())
    full.storage.make_room()
    full.assert_restart_cures()


def test_a_stopped_stream_is_told_too(full: Full) -> None:
    """What `aborted` says is kept would be lost with a crash: it is not said."""
    full.complete(full.start())
    result = full.stream(state="aborted")
    assert result.failed, result
    assert any(error in result["msg"] for error in ERRORS), result["msg"]
    assert full.depth == 1
    full.storage.make_room()
    full.assert_restart_cures()


def test_the_header_is_not_taken(full: Full, folder: Path) -> None:
    """All is copied and flushed, but the header cannot be overwritten: the storage still has the one with the link."""
    full.storage.make_room()

    def act(name: str) -> None:
        if name == "command job-finalize":
            full.storage.freeze(thin.place_of(full.chain.top), CLUSTER)

    with Proxy(full.vm.monitor, folder / "proxy.qmp", act) as proxy:
        results = [product.module("block_stream", monitors=[proxy.path], disks=["vda"])]
    results.append(full.stream())
    full.vm.kill()
    full.storage.thaw()
    thin.forget_cache(full.chain.top)
    assert images.backing(full.chain.top) == str(full.chain.base)
    assert images.differences(full.chain.expected, images.content(full.chain.top)) == []
    for result in results:
        assert (result.failed, result["finished"]) == (True, False), result
        (said,) = result["disks"]
        assert said["populated"] is not True
        assert [each["path"] for each in said["released"] if each["free"]] == []
    full.assert_restart_cures()


# -- A QEMU that never flushes -----------------------------------------------------------------------------------------


def test_what_qemu_never_flushes_is_on_the_storage(unflushed: Full) -> None:
    """The task does it in QEMU's place."""
    unflushed.storage.make_room()
    result = unflushed.stream()
    assert (result.failed, result["finished"]) == (False, True), result
    assert not unflushed.stream()["changed"]
    unflushed.vm.kill()
    thin.forget_cache(unflushed.chain.top)
    unflushed.assert_safe_after_kill()


def test_a_rerun_does_not_forget_what_only_the_kernel_knew(unflushed: Full) -> None:
    """The kernel has told the first task, and tells no other; QEMU is told nothing, and would go on."""
    unflushed.assert_lost(unflushed.stream())
    unflushed.storage.make_room()
    thin.forget_cache(unflushed.chain.top)
    for _rerun in range(2):
        unflushed.assert_lost(unflushed.stream())
    assert unflushed.info()["populated"] is not True
    assert unflushed.vm.hmp("savevm now") == ""  # the mark in QEMU forbids nothing


def test_a_stream_that_is_left_does_not_forget_it_either(unflushed: Full) -> None:
    """The task hears of it while it waits, and ends before all is copied."""
    result = unflushed.stream(speed="1M", wait_timeout=7, on_timeout="leave")
    assert not result["finished"]
    unflushed.storage.make_room()
    unflushed.assert_lost(unflushed.stream(speed="0"))


def test_that_qemu_never_flushes_is_told(folder: Path, boot: Callable[..., Vm]) -> None:
    """With the VM's own cache mode a later crash of the host may cost the disk: who deletes its base should know."""
    chain = dense_chain(folder)
    vm = boot(*disks.drive(chain.top, id="drive0", qdev="vda", cache="unsafe"))
    result = product.module("block_stream", monitors=[vm.monitor], disks=["vda"])
    assert (result.failed, result["finished"]) == (False, True), result
    assert "QEMU never flushes it" in json.dumps(result["warnings"])
