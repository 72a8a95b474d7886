# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""The flow of a whole call: what the second look of block_stream does with what the first one and the streams said."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, Callable  # noqa: UP035  # Python 3.8

import pytest
from ansible_collections.virtops.qmp.plugins.module_utils._model._files import Bound, FreeSpace
from ansible_collections.virtops.qmp.plugins.module_utils._model._request import BoundVm, Request, Selection
from ansible_collections.virtops.qmp.plugins.module_utils._reach._qemu import QemuLink
from ansible_collections.virtops.qmp.plugins.module_utils._run._inform import inform
from ansible_collections.virtops.qmp.plugins.module_utils._run._populate import populate
from ansible_collections.virtops.qmp.tests.unit import clock
from ansible_collections.virtops.qmp.tests.unit.builders import asking
from ansible_collections.virtops.qmp.tests.unit.fake_qemu import FakeHost, FakeQemu

LOOKS = 3  # at one disk: the first look, the stream, the second look


class Hypervisor(FakeHost):
    """Lets something happen before a monitor is opened for the so-many-th time."""

    def __init__(self, *qemus: FakeQemu):
        super().__init__(*qemus)
        self.before: dict[int, Callable[[], object]] = {}

    @contextlib.asynccontextmanager
    async def open_link(self, address: str) -> AsyncIterator[QemuLink]:
        self.before.pop(len(self.opened) + 1, lambda: None)()
        async with super().open_link(address) as link:
            yield link


def vm_called(name: str = "vm0", pid: int = 100) -> FakeQemu:
    """A VM with a disk on a golden image that all share."""
    qemu = FakeQemu(name, pid)
    qemu.add("vda", f"{name}-top.qcow2", "golden.qcow2", named=True)
    return qemu


def run(
    host: FakeHost,
    asked: Request | None = None,
    *,
    check: bool = False,
    bound: Any = None,
    exclude: tuple[str, ...] = (),
) -> dict[str, Any]:
    """The result of block_stream over all disks of all VMs."""
    request = asking() if asked is None else asked
    selection = Selection(("*",), exclude=exclude)
    work = populate(host.finds(list(host.qemus)), selection, request, host.open_link, host, is_check=check, bound=bound)
    result: dict[str, Any] = clock.run(work).to_result()
    assert host.open == [], "a monitor was not left free"
    return result


def told(result: dict[str, Any]) -> list[tuple[str, bool, bool | None, str | None]]:
    return [(disk["vm"], disk["finished"], disk["populated"], disk["error_kind"]) for disk in result["disks"]]


def test_a_rerun_asks_each_vm_once() -> None:
    """One session and one look for each VM that is done, however many disks it has; who has work to do gets its own."""
    done, new = vm_called("done", 1), vm_called("new", 2)
    done.add("vdb", "done-b.qcow2", "golden.qcow2", named=True)
    assert run(FakeHost(done))["finished"]
    host = FakeHost(done, new)
    done.log.clear()
    result = run(host)
    assert told(result) == [("done", True, True, None)] * 2 + [("new", True, True, None)]
    assert (done.commands.count("query-block"), done.acts) == (1, ["blockdev-snapshot"] * 2)
    assert (host.opened.count(done.address), host.opened.count(new.address)) == (1, LOOKS)


def test_who_waits_for_a_turn_keeps_no_monitor() -> None:
    """A VM of which only some disks are done is left between the look and its turn."""
    qemu, other = vm_called("vm0", 1), vm_called("vm1", 2)
    assert run(FakeHost(qemu))["finished"]
    qemu.add("vdb", "other-b.qcow2", "golden.qcow2", named=True)
    host = Hypervisor(qemu, other)
    seen: list[list[str]] = []
    host.before[3] = lambda: seen.append([*host.open])
    assert run(host, asking(parallel=1))["finished"]
    assert seen == [[]]


def test_headers_are_asked_before_an_image_is_free() -> None:
    """The folders of the request are searched, and what is named there is not free."""
    host = FakeHost(vm_called())
    host.named_by["/vms/golden.qcow2"] = ("/vms/off.qcow2",)
    (released,) = run(host, asking(images=("/vms",)))["released"]
    assert (released["free"], released["reason"]) == (False, "/vms/off.qcow2 names it in its header")
    assert host.searched == [("/vms",)]


def test_every_vm_that_was_worked_on_is_asked_again() -> None:
    """Each once, by a connection of its own, whatever the number of its disks; what is shown to be so stands."""
    one, other = vm_called("vm1", 1), vm_called("vm2", 2)
    one.add("vdb", "b.qcow2", "b-base.qcow2")
    host = FakeHost(one, other)
    result = run(host)
    assert (result["finished"], result["errors"]) == (True, [])
    # One disk at a time: the monitor of a VM is opened anew for each of its lanes.
    assert host.opened[:2] == host.opened[-2:] == [one.address, other.address]
    assert len(host.opened) == 2 + 3 + 2


@pytest.mark.parametrize(
    ("asked", "check", "opened"),
    [
        pytest.param(asking(), True, 1, id="check mode"),
        pytest.param(asking(state="paused"), False, 2, id="nothing is to be populated"),
        pytest.param(asking(wait=False), False, 2, id="nothing is said to be populated"),
        pytest.param(asking(base="golden"), False, 1, id="it was so before"),
    ],
)
def test_without_a_claim_nobody_is_asked_again(asked: Request, check: bool, opened: int) -> None:
    """A second look costs a visit, and only for what is said to have become populated."""
    host = FakeHost(vm_called())
    run(host, asked, check=check)
    assert len(host.opened) == opened


def test_a_claim_is_not_believed() -> None:
    """Where the second look shows the chain as it was, the disk has failed, and its image is not free."""
    qemu = vm_called()
    host = Hypervisor(qemu)
    host.before[LOOKS] = lambda: qemu.nodes["vm0-top"].children.update(backing="golden")
    result = run(host, asking(release=False))
    assert told(result) == [("vm0", False, False, "StreamFailed")]
    assert "said to be populated, but QEMU, asked again, does not show it" in result["errors"][0]["msg"]
    assert (result["finished"], [image["free"] for image in result["released"]]) == (False, [])


def test_a_vm_that_is_gone_at_the_second_look() -> None:
    """Its disks are unknown, which is a failure, and no image is free; the other VM's disk is finished all the same."""
    dying, other = vm_called("vm1", 1), vm_called("vm2", 2)
    host = Hypervisor(dying, other)
    host.before[2 * 2 + 1] = dying.die
    result = run(host)
    assert told(result) == [("vm1", False, None, "MonitorMissing"), ("vm2", True, True, None)]
    assert [(image["path"], image["free"]) for image in result["released"]] == [("/vms/golden.qcow2", False)]
    assert result["errors"][0]["monitor"] == dying.address


def test_an_image_is_told_once_over_all_disks() -> None:
    """Two disks of two VMs gave it up, and in the end nobody has it open: then, and only then, is it free."""
    result = run(FakeHost(vm_called("vm1", 1), vm_called("vm2", 2)))
    assert [len(disk["released"]) for disk in result["disks"]] == [1, 1]
    assert [(image["path"], image["free"]) for image in result["released"]] == [("/vms/golden.qcow2", True)]


@pytest.mark.parametrize(
    ("base", "free", "reason"),
    [
        pytest.param("golden.qcow2", False, "it is in the chain of disk vda of VM vm2", id="of an excluded VM"),
        pytest.param("other.qcow2", True, None, id="of none"),
    ],
)
def test_an_image_in_a_chain_is_not_free(base: str, free: bool, reason: str | None) -> None:
    """Though no process is seen to have it open: a VM says that it needs the image, also one that was left out."""
    other = FakeQemu("vm2", 2)
    other.add("vda", "vm2-top.qcow2", base, named=True)
    host = FakeHost(vm_called("vm1", 1), other)
    host._holders = lambda file: {}  # type: ignore[method-assign]
    result = run(host, exclude=("vm2",))
    for images in (result["released"], result["disks"][0]["released"]):
        assert [(image["free"], image["reason"]) for image in images] == [(free, reason)]


def test_a_silent_vm_may_need_every_image() -> None:
    """What one VM gave up is not known to be free as long as another one does not answer."""
    host = FakeHost(vm_called("vm1", 1))
    host.qemus["/vms/off.qmp"] = FakeQemu("off", 3)
    host.qemus["/vms/off.qmp"].die()
    (image,) = run(host)["released"]
    assert (image["free"], image["reason"]) == (None, "not every VM that may need it has answered: /vms/off.qmp")


def test_a_bound_look_is_verified_too() -> None:
    """A later slice is held to the same."""
    qemu = vm_called()
    host = Hypervisor(qemu)
    host.before[LOOKS] = qemu.die
    bound = (BoundVm(qemu.address, 100, 7, ("/machine/peripheral/vda/virtio-backend",)),)
    assert told(run(host, bound=bound)) == [("vm0", False, None, "MonitorMissing")]


def test_storage_that_hangs_is_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The room on each disk's storage is asked for beside that of the others, not after it."""

    async def free_space(_host: FakeHost, _pid: int | None, _bound: Bound) -> FreeSpace:
        await asyncio.sleep(30)
        return FreeSpace(1, 2**40)

    monkeypatch.setattr(FakeHost, "free_space", free_space)
    host = FakeHost(*(vm_called(f"vm{number}", 100 + number) for number in range(5)))

    async def look() -> tuple[float, list[Any]]:
        started = asyncio.get_running_loop().time()
        informed = await inform(host.finds(list(host.qemus)), Selection(None), host.open_link, host)
        free = [disk["space"]["free"] for disk in informed.to_result()["disks"]]
        return asyncio.get_running_loop().time() - started, free

    seconds, free = clock.run(look())
    assert (round(seconds), free) == (30, [2**40] * 5)


def test_whether_a_stream_can_be_read_ahead_of() -> None:
    """It is told of each disk, with the reason why not."""
    near, far = vm_called("vm0", 100), vm_called("vm1", 101)
    far.iothreads = ["io0"]
    host = FakeHost(near, far)
    host.remote = {1}

    async def look() -> list[Any]:
        informed = await inform(host.finds(list(host.qemus)), Selection(None), host.open_link, host)
        return [disk["read_ahead"] for disk in informed.to_result()["disks"]]

    first, second = clock.run(look())
    assert first == {"possible": True, "reason": None}
    assert second["possible"] is False
    assert "iothreads" in second["reason"]
