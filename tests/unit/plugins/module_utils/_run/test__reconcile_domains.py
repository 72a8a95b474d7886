# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""libvirt's guests: everything is as with any other VM, but for what ends a stream."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any, Callable  # noqa: UP035  # Python 3.8

import pytest
from ansible_collections.virtops.qmp.plugins.module_utils._model._request import Request, Selection
from ansible_collections.virtops.qmp.plugins.module_utils._reach._libvirt import Domains
from ansible_collections.virtops.qmp.plugins.module_utils._run._inform import inform
from ansible_collections.virtops.qmp.plugins.module_utils._run._observe import find_domains
from ansible_collections.virtops.qmp.plugins.module_utils._run._populate import populate
from ansible_collections.virtops.qmp.tests.unit import clock
from ansible_collections.virtops.qmp.tests.unit.builders import asking
from ansible_collections.virtops.qmp.tests.unit.fake_libvirt import FakeLibvirt, Guest, LibvirtError
from ansible_collections.virtops.qmp.tests.unit.fake_qemu import MIB, FakeHost

TOP = "libvirt-1-format"
ASK = ("blockdev-snapshot", {"node": TOP, "overlay": "/no such node/"})
ASK_FILE = ("blockdev-snapshot", {"node": f"{TOP}-file", "overlay": "/no such node/"})
FLUSH = ("human-monitor-command", {"command-line": f"qemu-io {TOP} flush"})
PULL = ("blockPull", "vda", 0, 0)
REFUSED = LibvirtError(1, "it is not to be")


def nothing() -> None:
    pass


def bring(
    libvirt: FakeLibvirt,
    asked: Request | None = None,
    *disks: str,
    first: Callable[[], object] = nothing,
    looks: bool = False,
) -> dict[str, Any]:
    """The result of block_stream for disks of all guests, or of block_stream_info; `first` happens before."""
    host = FakeHost(*(guest.qemu for guest in libvirt.guests))
    ours = Domains("qemu:///system", 10.0, None, takes_turns=not looks)

    async def work() -> dict[str, Any]:
        libvirt.serve()
        first()
        selection = Selection(disks or ("*",))
        find = partial(find_domains, ["*"], "qemu:///system", ours.list)
        if looks:
            return (await inform(find, selection, ours.open, host)).to_result()
        request = asked or asking()
        return (await populate(find, selection, request, ours.open, host, is_check=False)).to_result()

    result: dict[str, Any] = clock.run(work())
    assert not any(guest.qemu.harm for guest in libvirt.guests)
    assert libvirt.callbacks == {}, "an event is still listened to"
    return result


def later(seconds: float, act: Callable[..., object], *words: object) -> Callable[[], object]:
    """What is to happen some time after the test began."""
    return lambda: asyncio.get_running_loop().call_later(seconds, act, *words)


def kinds(result: dict[str, Any]) -> list[str]:
    return [error["kind"] for error in result["errors"]]


def done(libvirt: FakeLibvirt) -> list[Any]:
    """What was asked of libvirt to change anything."""
    return [call for call in libvirt.log if call != ("events",)]


# -- The order of truth ------------------------------------------------------------------------------------------------


def test_a_disk_is_populated_in_the_safe_order(libvirt: FakeLibvirt, guest: Guest) -> None:
    """When all is copied and flushed our job is given up, and libvirt's pull, which has nothing to copy, ends it."""
    qemu = guest.qemu

    def pulls() -> None:
        assert (qemu.jobs, qemu.only_in_memory) == ({}, {}), "libvirt pulls what is not copied and flushed"

    libvirt.act_before("blockPull", pulls)
    result = bring(libvirt)
    start = {"job-id": "populate-vda", "device": TOP, "auto-finalize": False, "on-error": "report"}
    acts = [(command, arguments) for command, arguments in qemu.log if command in qemu.acts]
    cancel = ("job-cancel", {"id": "populate-vda"})
    assert acts[: acts.index(cancel) + 1] == [ASK, ("block-stream", start), ASK, FLUSH, ASK_FILE, cancel]
    assert set(qemu.acts) == {"blockdev-snapshot", "block-stream", "human-monitor-command", "job-cancel"}
    assert (done(libvirt), qemu.chain("vda"), guest.chains["vda"]) == ([PULL], ["top.qcow2"], [TOP])
    (disk,) = result["disks"]
    assert (result["errors"], result["finished"], disk["action"]) == ([], True, "started")
    assert (disk["domain"], disk["monitor"], disk["label"], disk["populated"]) == ("web01", None, "vda", True)
    assert qemu.only_in_memory == {}


def test_a_second_run_changes_nothing(libvirt: FakeLibvirt) -> None:
    """A populated disk is left alone, and libvirt is not asked to do anything."""
    bring(libvirt)
    libvirt.log.clear()
    result = bring(libvirt)
    assert (result["finished"], result["changed"], done(libvirt)) == (True, False, [])


def test_down_to_a_base(libvirt: FakeLibvirt, guest: Guest) -> None:
    """libvirt is given the base by its own number."""
    result = bring(libvirt, asking(base="/vms/base.qcow2"))
    assert (result["errors"], result["finished"]) == ([], True)
    assert [call[:3] for call in done(libvirt)] == [("blockRebase", "vda", "vda[3]")]
    assert guest.qemu.chain("vda") == ["top.qcow2", "base.qcow2"]


def test_a_pull_that_libvirt_refuses(libvirt: FakeLibvirt, guest: Guest) -> None:
    """Nothing is called populated, what was copied is kept, and the next run ends it."""
    libvirt.refuses["blockPull"] = REFUSED
    result = bring(libvirt)
    assert (kinds(result), result["finished"]) == (["StreamFailed"], False)
    message = result["errors"][0]["msg"]
    assert [word for word in ("it is not to be", "/vms/mid.qcow2", "Run the task again") if word not in message] == []
    assert (len(guest.qemu.chain("vda")), guest.qemu.jobs, guest.qemu.only_in_memory) == (3, {}, {})
    libvirt.refuses.clear()
    assert bring(libvirt)["finished"]


def test_a_pull_that_fails(libvirt: FakeLibvirt, guest: Guest) -> None:
    """That libvirt's own job failed is told, and the disk needs what it needed."""
    libvirt.act_before("blockPull", lambda: guest.qemu.faults.update({TOP: (0, "Input/output error")}))
    result = bring(libvirt)
    assert (kinds(result), result["disks"][0]["populated"]) == (["StreamFailed"], False)
    assert "its job failed or was cancelled" in result["errors"][0]["msg"]


def test_all_disks_at_once(libvirt: FakeLibvirt, guest: Guest) -> None:
    """Streams of ours run side by side, and libvirt's pulls one after the other."""
    for number in range(1, 4):
        guest.add(f"vd{'abcd'[number]}", f"top{number}.qcow2", f"base{number}.qcow2")
    most = {"ours": 0, "libvirt's": 0}

    def count() -> None:
        ids = [job.id for job in guest.qemu.jobs.values()]
        most["ours"] = max(most["ours"], sum(each.startswith("populate-") for each in ids))
        most["libvirt's"] = max(most["libvirt's"], sum(each.startswith("pull-") for each in ids))

    guest.qemu.on_change = count
    result = bring(libvirt, asking(parallel=4), first=lambda: setattr(guest.qemu, "on_change", count))
    assert (result["errors"], result["finished"], most) == ([], True, {"ours": 4, "libvirt's": 1})


# -- libvirt's view ----------------------------------------------------------------------------------------------------


def stream_behind_libvirts_back(guest: Guest) -> None:
    del guest.qemu.nodes[TOP].children["backing"]


def test_a_view_that_is_stale(libvirt: FakeLibvirt, guest: Guest) -> None:
    """A disk that only libvirt takes for one that needs images is not populated, and its own pull puts that right."""
    stream_behind_libvirts_back(guest)
    (disk,) = bring(libvirt, looks=True)["disks"]
    assert (disk["populated"], disk["reason"].split(", but ")[1]) == (
        False,
        "libvirt still takes it for the backing image",
    )

    def forget() -> None:
        guest.chains["vda"] = [TOP]

    libvirt.act_before("blockPull", forget)
    result = bring(libvirt)
    assert (result["errors"], result["finished"], result["changed"]) == ([], True, True)
    assert (done(libvirt), "block-stream" in guest.qemu.commands) == ([PULL], False)


def test_a_view_that_stays_stale(libvirt: FakeLibvirt, guest: Guest) -> None:
    """Where libvirt refuses, that is told, of a disk that has no other image in QEMU."""
    stream_behind_libvirts_back(guest)
    libvirt.refuses["blockPull"] = REFUSED
    result = bring(libvirt)
    assert kinds(result) == ["StreamFailed"]
    assert "libvirt still takes /vms/mid.qcow2 for the backing image" in result["errors"][0]["msg"]


# -- libvirt's own jobs ------------------------------------------------------------------------------------------------


def pull_of(guest: Guest, target: str = "vda", **options: Any) -> None:
    """A pull that somebody has asked libvirt for."""
    node = guest.targets[target]
    guest.qemu.stream(node, f"pull-{target}-{node}", auto_dismiss=False, **options)


def test_a_pull_of_libvirt_is_followed(libvirt: FakeLibvirt, guest: Guest) -> None:
    """It is joined, libvirt ends it, and it is flushed."""
    result = bring(libvirt, first=lambda: pull_of(guest))
    assert (result["errors"], result["finished"], result["disks"][0]["action"]) == ([], True, "joined")
    assert (done(libvirt), "job-dismiss" in guest.qemu.commands, guest.qemu.only_in_memory) == ([], False, {})


def test_a_pull_of_libvirt_is_stopped_by_libvirt(libvirt: FakeLibvirt, guest: Guest) -> None:
    """libvirt is told to abort it."""
    result = bring(libvirt, asking(state="aborted"), first=lambda: pull_of(guest))
    assert (result["errors"], result["disks"][0]["action"]) == ([], "stopped")
    assert (done(libvirt), guest.qemu.jobs) == ([("blockJobAbort", "vda", 0)], {})


def test_a_pull_of_libvirt_is_not_paused(libvirt: FakeLibvirt, guest: Guest) -> None:
    """libvirt could not resume it."""
    result = bring(libvirt, asking(state="paused"), first=lambda: pull_of(guest, speed=1))
    assert kinds(result) == ["StreamFailed"]
    assert "could not resume it after a pause" in result["errors"][0]["msg"]
    assert not any(job.paused for job in guest.qemu.jobs.values())


@pytest.fixture
def other(guest: Guest) -> None:
    """A second disk, `vdb`."""
    guest.add("vdb", "b-top.qcow2", "b-base.qcow2")


@pytest.mark.usefixtures("other")
def test_a_pull_of_another_disk_is_waited_for(libvirt: FakeLibvirt, guest: Guest) -> None:
    """Our stream stays at pending until libvirt's job on another disk is over."""

    def check() -> None:
        assert not guest.job("vdb"), "libvirt's other job has not ended"

    guest.qemu.act_before("job-cancel", check)
    result = bring(libvirt, None, "vda", first=lambda: pull_of(guest, "vdb", speed=5 * MIB))
    assert (result["errors"], result["finished"]) == ([], True)


@pytest.mark.usefixtures("other")
def test_a_pull_of_another_disk_that_begins_meanwhile(libvirt: FakeLibvirt, guest: Guest) -> None:
    """To flush may take long; what libvirt has begun by then is waited for, too."""

    def begin() -> None:
        pull_of(guest, "vdb", speed=5 * MIB)
        guest.qemu.act_before("job-cancel", check)

    def check() -> None:
        assert not guest.job("vdb"), "libvirt's other job has not ended"

    guest.qemu.act_before("human-monitor-command", begin)
    result = bring(libvirt, None, "vda")
    assert (result["errors"], result["finished"], guest.qemu.chain("vdb")) == ([], True, ["b-top.qcow2"])


@pytest.mark.usefixtures("other")
@pytest.mark.parametrize(
    ("on_timeout", "kind"),
    [pytest.param("leave", [], id="leave"), pytest.param("fail", ["StreamFailed"], id="fail")],
)
def test_a_pull_of_another_disk_that_takes_too_long(
    libvirt: FakeLibvirt, guest: Guest, on_timeout: str, kind: list[str]
) -> None:
    """Then our stream waits at pending, and the next run ends it."""
    asked = asking(wait_timeout=20, on_timeout=on_timeout)
    result = bring(libvirt, asked, "vda", first=lambda: pull_of(guest, "vdb", speed=1))
    assert (kinds(result), result["finished"], guest.qemu.jobs["populate-vda"].status) == (kind, False, "pending")
    for error in result["errors"]:
        assert "libvirt's job pull-vdb-libvirt-4-format is running" in error["msg"]


# -- The guest ---------------------------------------------------------------------------------------------------------


def test_a_guest_that_ends_in_the_middle(libvirt: FakeLibvirt, guest: Guest) -> None:
    """The disk has failed, at once, and nothing is said of what it needs now."""
    result = bring(libvirt, first=later(3, libvirt.stop, guest))
    assert (kinds(result)[0], result["finished"]) == ("MonitorLost", False)
    assert result["errors"][0]["domain"] == "web01"


def test_a_guest_that_was_replaced(libvirt: FakeLibvirt, guest: Guest) -> None:
    """What was planned for one guest is not done to another one of its name."""
    seen: list[str] = []

    def replace() -> None:
        seen.append(guest.uuid)
        guest.uuid = guest.uuid.replace("1f3a", "2f3a")

    def next_visit() -> None:
        libvirt.act_before("lookupByName", replace)

    libvirt.act_before("lookupByName", lambda: libvirt.act_before("deregister", next_visit))
    result = bring(libvirt)
    assert (kinds(result), len(seen)) == (["MonitorUnusable"], 1)
    assert "block-stream" not in guest.qemu.commands
