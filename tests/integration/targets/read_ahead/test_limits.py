# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Reading ahead keeps what a stream was told to keep, begins only where it may, and ends with the stream."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from lab import MonitorError, Proxy, Scene, Vm, disks, host, images, product

from .conftest import SAFE_TO_MIGRATE, SAFE_WITH_IOTHREADS, Far

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MiB = images.MiB
SLOW = 0.05


def begin(disk: Far, **options: object) -> product.Running:
    """A task that reads ahead, and has begun to."""
    arguments = {"monitors": [disk.vm.monitor], "disks": ["vda"], "read_ahead": 4, **options}
    task = product.Running("block_stream", arguments)
    disk.wait_until_read_ahead()
    return task


def job_of(disk: Far) -> str:
    (job,) = disk.vm.jobs()
    return job


def test_the_limit_holds_for_both(far: Callable[..., Far]) -> None:
    """Job and reading ahead together copy no faster than `speed`."""
    disk = far(dense=16 * MiB, delay=0.02)
    result = disk.read_ahead(speed="8M", read_ahead=16)
    assert (result.failed, result["finished"]) == (False, True), result
    assert disk.was_read_ahead
    # 16 MiB at 8 MiB a second, but for what a job copies in its first moment.
    assert result["disks"][0]["seconds"] >= 1.6
    disk.assert_nothing_is_lost()


def test_an_increment(far: Callable[..., Far]) -> None:
    """Nothing is fetched behind the mark but what a plain stream would fetch until somebody has looked."""
    disk = far(dense=32 * MiB, delay=0.02)
    result = disk.read_ahead(increment="6M")
    assert (result.failed, result["finished"], disk.exports) == (False, False, []), result
    assert disk.was_read_ahead
    assert 6 * MiB <= result["disks"][0]["cursor"] <= 8 * MiB
    assert disk.link.answered < 9 * MiB
    again = disk.read_ahead()
    disk.assert_populated(again)


def test_a_job_that_is_held(far: Callable[..., Far]) -> None:
    """While somebody holds the job nothing comes over the link; when they let it go, it goes on."""
    disk = far(dense=24 * MiB, delay=SLOW)
    task = begin(disk)
    disk.vm.command("job-pause", id=job_of(disk))
    assert disk.is_still()
    assert disk.link.answered < 24 * MiB
    disk.vm.command("job-resume", id=job_of(disk))
    disk.assert_populated(task.result())


@pytest.mark.parametrize("on_timeout", ["leave", "stop"])
def test_the_end_of_the_wait(far: Callable[..., Far], on_timeout: str) -> None:
    """When the task is over nothing is read ahead any more, and the next task goes on."""
    disk = far(dense=32 * MiB, delay=0.2)
    result = disk.read_ahead(wait_timeout=1, on_timeout=on_timeout, read_ahead=2)
    assert (result.failed, result["finished"]) == (False, False), result
    assert disk.was_read_ahead
    disk.assert_clean()
    disk.link.delay = 0.003
    disk.assert_populated(disk.read_ahead())


def test_the_task_is_killed(far: Callable[..., Far]) -> None:
    """The job goes on, nobody can reach what is left, and the next task removes it and is done."""
    disk = far(dense=32 * MiB, delay=SLOW)
    task = begin(disk)
    task.kill()
    disk.link.delay = 0.003
    assert disk.exports == ["populate-ahead-0"]
    result = disk.stream()
    assert (result.failed, result["finished"]) == (False, True), result
    disk.assert_clean()
    disk.vm.save()
    disk.assert_nothing_is_lost()


def test_the_base_dies(far: Callable[..., Far]) -> None:
    """The job fails as it would by itself, with its own reason; nothing is left, and the VM lives."""
    disk = far(dense=32 * MiB, delay=SLOW)
    task = begin(disk)
    disk.link.close()
    result = task.result()
    assert (result.failed, result["finished"]) == (True, False), result
    assert "Input/output error" in result["msg"]
    assert disk.vm.is_alive
    assert disk.vm.jobs() == {}
    disk.assert_clean()


def test_the_disk_is_unplugged(folder: Path, far: Callable[..., Far]) -> None:
    """The disk goes at once, the task says that it is gone, and neither job nor export keeps its image open."""
    disk = far(dense=32 * MiB, delay=SLOW)
    disk.vm.kill()
    words = disks.frontend("virtio-scsi-pci", "scsi0")
    words += disks.node(disk.chain.top, node_name="top", qdev="vda", device="scsi-hd")
    with Vm(folder, *words, name="vm1") as vm:
        plugged = replace(disk, vm=vm)
        task = begin(plugged)
        vm.command("device_del", id="vda")
        vm.wait_event("DEVICE_DELETED", device="vda")
        disk.link.delay = 0.003
        result = task.result()
        assert (result.failed, result["finished"]) == (True, False), result
        assert "gone" in result["msg"]
        plugged.assert_clean()
        # What is not in use can be taken away.
        vm.command("blockdev-del", node_name="top")


def test_the_disk_is_resized(far: Callable[..., Far]) -> None:
    """QEMU refuses it meanwhile, as beside a stream alone, and does it afterwards."""
    disk = far(dense=32 * MiB, delay=SLOW)
    task = begin(disk)
    with pytest.raises(MonitorError, match=r"in use|conflicts"):
        disk.vm.command("block_resize", device="drive0", size=64 * MiB)
    disk.link.delay = 0.003
    result = task.result()
    assert (result.failed, result["finished"]) == (False, True), result
    disk.assert_clean()
    disk.vm.command("block_resize", device="drive0", size=64 * MiB)
    disk.vm.kill()
    assert images.content(disk.chain.top)[: 32 * MiB] == disk.chain.expected


def test_the_job_is_cancelled(far: Callable[..., Far]) -> None:
    """It ends with the job, and what was copied is kept."""
    disk = far(dense=32 * MiB, delay=SLOW)
    task = begin(disk)
    disk.vm.command("job-cancel", id=job_of(disk))
    result = task.result()
    assert (result.failed, "cancelled by somebody else" in result["msg"]) == (True, True), result["msg"]
    disk.assert_clean()


def test_the_vm_is_saved_meanwhile(far: Callable[..., Far]) -> None:
    """An old QEMU, which would die of it, refuses to migrate meanwhile, and may again after it; a new one migrates."""
    disk = far(dense=24 * MiB, delay=SLOW)
    task = begin(disk)
    if disk.vm.version < SAFE_TO_MIGRATE:
        with pytest.raises(MonitorError, match="populate-ahead-no-migration' does not support live migration"):
            disk.vm.save()
    else:
        disk.vm.save()
        disk.vm.command("cont")
    result = task.result(120)
    assert (result.failed, result["finished"]) == (False, True), result
    disk.assert_clean()
    disk.vm.save()
    disk.vm.command("cont")
    disk.assert_nothing_is_lost()


def test_the_vm_is_being_migrated(far: Callable[..., Far]) -> None:
    """A migration that is under way when the stream is joined forbids it to an old QEMU, and is not disturbed."""
    disk = far(dense=4 * MiB)
    if not disk.vm.can_be_saved_while_streaming:
        pytest.skip("QEMU 5.2 refuses to save a VM while one of its disks is streamed")
    disk.start()
    disk.vm.migrate("exec:sleep 3; cat > /dev/null")
    result = disk.read_ahead(wait_timeout=1, on_timeout="leave")
    assert (result.failed, result["finished"]) == (False, False), result
    assert disk.vm.version >= SAFE_TO_MIGRATE or "in progress" in str(result["warnings"])
    disk.vm.wait_migration("completed")
    disk.vm.command("cont")
    result = disk.read_ahead(speed="0")
    assert (result.failed, result["finished"]) == (False, True), result
    disk.assert_clean()
    disk.assert_nothing_is_lost()


def test_no_space(far: Callable[..., Far], folder: Path) -> None:
    """A full file system holds the job, as without; when there is room again the task is done by the next run."""
    with host.file_system(folder / "small", 8 * MiB) as small:
        disk = far(dense=24 * MiB, delay=0.01)
        disk.vm.kill()
        top = small.path / "top.qcow2"
        top.write_bytes(disk.chain.top.read_bytes())
        with Vm(folder, *disks.drive(top, id="drive0", qdev="vda"), name="vm1") as vm:
            options: dict[str, Any] = {
                "monitors": [vm.monitor],
                "disks": ["vda"],
                "read_ahead": 8,
                "check_space": False,
                "on_error": "stop",
            }
            result = product.module("block_stream", **options)
            assert (result.failed, "no space left" in result["msg"]) == (True, True), result["msg"]
            assert vm.command("query-block-exports") == []
            small.resize(64 * MiB)
            result = product.module("block_stream", **options)
            assert (result.failed, result["finished"]) == (False, True), result
            assert vm.command("query-block-exports") == []
            vm.kill()
        disk.chain.take_away()
        assert images.content(top) == disk.chain.expected


def test_iothreads(far: Callable[..., Far]) -> None:
    """An old QEMU that would abort is not told to read ahead, a new one is; both are populated, and live."""
    disk = far("-object", "iothread,id=io0", dense=8 * MiB)
    is_safe = disk.vm.version >= SAFE_WITH_IOTHREADS
    assert disk.info()["read_ahead"]["possible"] is is_safe
    result = disk.read_ahead()
    assert (result.failed, result["finished"], disk.was_read_ahead) == (False, True, is_safe), result
    assert is_safe or "iothreads" in str(result["warnings"])
    assert disk.vm.is_alive
    disk.assert_clean()
    disk.assert_nothing_is_lost()


def test_a_server_of_somebody_else(far: Callable[..., Far]) -> None:
    """Their NBD server is left alone, with an export and without: the stream does without, and says so."""
    disk = far(dense=4 * MiB)
    path = str(disk.vm.folder / "theirs.nbd")
    disk.vm.command("nbd-server-start", addr={"type": "unix", "data": {"path": path}})
    result = disk.read_ahead(increment="1M")
    assert "already running" in str(result["warnings"])
    node = disk.vm.inserted("vda")["node-name"]
    disk.vm.command("block-export-add", type="nbd", id="theirs", node_name=node, name="theirs")
    assert "somebody else" in disk.info()["read_ahead"]["reason"]
    result = disk.read_ahead()
    assert (result.failed, result["finished"], len(result["warnings"])) == (False, True, 1), result
    assert "somebody else" in str(result["warnings"])
    assert disk.exports == ["theirs"]
    assert images.content(f"nbd+unix:///theirs?socket={path}", "raw") == disk.chain.expected


def test_a_monitor_that_takes_no_descriptors(far: Callable[..., Far], folder: Path) -> None:
    """Something between the task and QEMU that passes text alone forbids it, which is a note."""
    disk = far(dense=4 * MiB)
    with Proxy(disk.vm.monitor, folder / "proxy.qmp") as proxy:
        result = disk.read_ahead(monitors=[proxy.path])
    # The other one is of files that cannot be told, for the process at the socket is not QEMU.
    assert (result.failed, result["finished"]) == (False, True), result
    assert "getfd" in str(result["warnings"])
    disk.assert_clean()


def test_local_files(disk: Scene) -> None:
    """Nothing is gained from local files: nothing is done, and said."""
    assert disk.info()["read_ahead"] == {
        "possible": False,
        "reason": "all images that are copied are local files, from which a stream alone is as fast",
    }
    result = disk.stream(read_ahead=8)
    assert "local files" in str(result["warnings"])
    disk.assert_done(result)


PLAY = """
- hosts: localhost
  gather_facts: false
  tasks:
    - name: Populate
      virtops.qmp.block_stream:
        monitor: "{{ monitor }}"
        disk: vda
        read_ahead: 2
        progress: 4
"""


def test_a_task_in_slices(far: Callable[..., Far]) -> None:
    """The action takes the module in slices: what one has found the next one knows, and nothing is left at the end."""
    disk = far(dense=64 * MiB, delay=SLOW)
    run = product.playbook(PLAY, extra={"monitor": disk.vm.monitor})
    assert run.code == 0, run.stdout + run.stderr
    assert run.result("Populate")["disks"][0]["ahead"] == 2
    assert disk.was_read_ahead
    disk.assert_clean()
    disk.assert_nothing_is_lost()
