# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Several disks and several VMs in one call; each failure collected, none in the way of another disk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from lab import Vm, disks, images, product

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Boot = Callable[..., Vm]


def two_disks(boot: Boot, folder: Path, name: str, seed: int) -> tuple[Vm, list[images.Chain]]:
    chains = [images.chain(folder, prefix=f"{name}-{disk}-", seed=seed * 10 + disk) for disk in range(2)]
    words = [
        word
        for disk, chain in enumerate(chains)
        for word in disks.drive(chain.top, id=f"d{disk}", qdev=f"vd{'ab'[disk]}")
    ]
    return boot(*words, name=name), chains


def broken_disk(boot: Boot, folder: Path, name: str) -> tuple[Vm, images.Chain]:
    """A VM with the disk `vda`, of whose base one sector cannot be read."""
    chain = images.chain(folder, prefix=f"{name}-")
    words = disks.failing_reads(chain.base, node_name="bad", sector=images.last_data_sector(chain.base))
    words += disks.blockdev("qcow2", "top", file={"driver": "file", "filename": str(chain.top)}, backing="bad")
    return boot(*words, *disks.frontend("virtio-blk-pci", "vda", drive="top"), name=name), chain


@pytest.mark.parametrize("parallel", [1, 3])
def test_a_whole_host_by_a_glob(boot: Boot, folder: Path, parallel: int) -> None:
    """One call populates every disk of every VM; a VM that is off is skipped and told; a second run changes nothing."""
    vms = [two_disks(boot, folder, f"web{number}", number) for number in range(3)]
    off, untouched = two_disks(boot, folder, "off", 9)
    off.kill()
    arguments: dict[str, Any] = {"monitors": [str(folder / "*.qmp")], "disks": ["*"], "parallel": parallel}
    result = product.module("block_stream", **arguments)
    assert (result.failed, result["changed"], result["finished"], len(result["disks"])) == (False, True, True, 6), (
        result
    )
    assert "off.qmp" in str(result)
    again = product.module("block_stream", **arguments)
    assert (again.failed, again["changed"], again["finished"], len(again["disks"])) == (False, False, True, 6), again
    for vm, chains in vms:
        vm.kill()
        for chain in chains:
            chain.take_away()
            assert images.differences(chain.expected, images.content(chain.top)) == []
    assert all(images.backing(chain.top) for chain in untouched)


def test_a_dead_vm_named_outright_fails_and_stops_no_other(boot: Boot, folder: Path) -> None:
    """A socket that nobody serves, named by its path, is a failure; the other VM is done all the same."""
    vm, chains = two_disks(boot, folder, "web", 1)
    off, _chains = two_disks(boot, folder, "off", 2)
    off.kill()
    result = product.module("block_stream", monitors=[off.monitor, vm.monitor], disks=["*"])
    assert result.failed
    assert "off.qmp" in result["msg"]
    assert [disk["populated"] for disk in result["disks"]] == [True, True]
    vm.kill()
    assert [images.backing(chain.top) for chain in chains] == [None, None]


def test_every_failure_is_collected(boot: Boot, folder: Path) -> None:
    """Two VMs of three with an unreadable base: the third is done, the task fails once and names both with a reason."""
    broken = [broken_disk(boot, folder, name) for name in ("bad1", "bad2")]
    good, chains = two_disks(boot, folder, "good", 1)
    result = product.module("block_stream", monitors=[str(folder / "*.qmp")], disks=["*"])
    assert result.failed
    for word in ("bad1", "bad2", "Input/output error"):
        assert word in result["msg"]
    assert "good" not in result["msg"]
    assert sorted((disk["vm"], disk["populated"]) for disk in result["disks"]) == [
        ("bad1", False),
        ("bad2", False),
        ("good", True),
        ("good", True),
    ]
    for vm, _chain in broken:
        assert vm.jobs() == {}
        assert vm.inserted("vda")["backing_file_depth"] == 1
    good.kill()
    for chain in chains:
        assert images.differences(chain.expected, images.content(chain.top)) == []


def test_a_vm_that_dies_while_we_wait(boot: Boot, folder: Path) -> None:
    """A QEMU killed under the waiting task is told at once, by name, and its neighbour is done."""
    dying, _chains = two_disks(boot, folder, "dying", 1)
    good, chains = two_disks(boot, folder, "good", 2)
    good_before = [good.content(disk) for disk in ("vda", "vdb")]
    options: dict[str, Any] = {"monitors": [dying.monitor], "disks": ["vda"], "speed": "1", "wait": False}
    assert not product.module("block_stream", **options).failed
    waiter = product.Running("block_stream", {"monitors": [dying.monitor, good.monitor], "disks": ["*"], "parallel": 3})
    good.wait_event("BLOCK_JOB_COMPLETED")
    dying.kill()
    result = waiter.result(timeout=20)
    assert result.failed
    assert "dying" in result["msg"]
    good.kill()
    assert [images.content(chain.top) for chain in chains] == good_before


def test_the_bad_name_of_one_disk_starts_nothing(boot: Boot, folder: Path) -> None:
    """A name that fits no disk of any VM is refused with the list of disks, before any stream is started."""
    vm, _chains = two_disks(boot, folder, "web", 1)
    result = product.module("block_stream", monitors=[vm.monitor], disks=["vda", "nosuch"])
    assert result.failed
    for word in ("nosuch", "vda", "vdb", "d0", "d1"):
        assert word in result["msg"]
    assert vm.inserted("vda")["backing_file_depth"] == 1
    assert vm.jobs() == {}
    assert [event for event in vm.judge.events if event["event"] == "JOB_STATUS_CHANGE"] == []


def test_one_name_for_the_disks_of_all_vms(boot: Boot, folder: Path) -> None:
    """`disks: [vda]` with several monitors means the disk of that name in each VM."""
    vms = [two_disks(boot, folder, f"web{number}", number)[0] for number in range(2)]
    result = product.module("block_stream", monitors=[vm.monitor for vm in vms], disks=["vda"])
    assert (result.failed, len(result["disks"])) == (False, 2), result
    for vm in vms:
        assert [vm.inserted(disk)["backing_file_depth"] for disk in ("vda", "vdb")] == [0, 1]
