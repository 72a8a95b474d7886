# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
from ansible_collections.virtops.qmp.plugins.module_utils._model._address import DomainName
from ansible_collections.virtops.qmp.plugins.module_utils._model._errors import (
    CommandRefused,
    Failure,
    HostSilent,
    MonitorMissing,
    MonitorSilent,
    MonitorUnusable,
    QmpError,
    WrongRequest,
)
from ansible_collections.virtops.qmp.plugins.module_utils._model._seams import Found, Link
from ansible_collections.virtops.qmp.plugins.module_utils._reach._qemu import QemuLink
from ansible_collections.virtops.qmp.plugins.module_utils._run._observe import (
    Sighting,
    explain,
    find_monitors,
    identify,
    look,
    observe,
)
from ansible_collections.virtops.qmp.tests.unit import clock
from ansible_collections.virtops.qmp.tests.unit.fake_qemu import FakeConnection, FakeHost, FakeQemu

UUID = "5bd0c5a9-6c57-4e4c-8d0f-6f4a3c1f7a11"


def vm_called(name: str, pid: int) -> FakeQemu:
    qemu = FakeQemu(name, pid)
    qemu.add("vda", "top.qcow2", "base.qcow2")
    return qemu


def seen(host: FakeHost, *patterns: str) -> Sighting:
    sighting: Sighting = clock.run(observe(host.finds(patterns), host.open_link, host))
    assert host.open == [], "a monitor was not left free"
    return sighting


def labels(sighting: Sighting) -> list[str]:
    return [vm.identity.label for vm in sighting.vms]


def test_vms_come_in_the_order_of_the_monitors() -> None:
    """Every monitor is visited once, and the VMs come in the order in which they were named."""
    host = FakeHost(*(vm_called(f"vm{number}", number) for number in range(1, 41)))
    names = [f"vm{number}" for number in range(40, 0, -1)]
    sighting = seen(host, *(f"/vms/{name}.qmp" for name in names), "/vms/vm1.qmp")
    assert (labels(sighting), sighting.skipped, sighting.failures) == (names, (), ())
    assert len(host.opened) == 40
    assert host.most_open <= 32


def test_only_questions_are_asked() -> None:
    """To look at a VM changes nothing, and never asks what kills QEMU 7.2."""
    qemu = vm_called("vm1", 1)
    seen(FakeHost(qemu), qemu.address)
    assert qemu.acts == []
    assert "query-named-block-nodes" not in qemu.commands
    assert len(qemu.commands) == len(set(qemu.commands)) == 10


def test_a_glob_that_finds_nothing_is_told() -> None:
    """A glob without a socket is no failure, but is not passed over in silence."""
    assert seen(FakeHost(), "/vms/*.qmp") == Sighting((), ("/vms/*.qmp matches no socket",), ())


@pytest.mark.parametrize(
    ("patterns", "skipped", "failures"),
    [
        pytest.param(
            ["/vms/*.qmp"], ["/vms/off.qmp belongs to a VM that is off: nobody serves it"], [], id="by a glob"
        ),
        pytest.param(["/vms/off.qmp", "/vms/vm1.qmp"], [], ["/vms/off.qmp: nobody is there"], id="outright"),
        pytest.param(["/vms/*.qmp", "/vms/off.qmp"], [], ["/vms/off.qmp: nobody is there"], id="by both"),
        pytest.param(
            ["/vms/off.qmp", "/vms/*.qmp"], [], ["/vms/off.qmp: nobody is there"], id="by both, the other way"
        ),
    ],
)
def test_a_socket_that_nobody_serves(patterns: list[str], skipped: list[str], failures: list[str]) -> None:
    """A VM that is off is passed over where a glob found its socket, and a failure where it was named."""
    host = FakeHost(vm_called("vm1", 1))
    host.globs["/vms/*.qmp"] = ["/vms/off.qmp", "/vms/vm1.qmp"]
    sighting = seen(host, *patterns)
    assert (labels(sighting), list(sighting.skipped)) == (["vm1"], skipped)
    assert [failure.message for failure in sighting.failures] == failures


def test_a_folder_that_does_not_answer_stops_no_vm() -> None:
    """A glob on storage that hangs is a failure of its own; the other monitors are visited."""
    host = FakeHost(vm_called("vm1", 1))

    async def expand(pattern: str) -> None:
        raise HostSilent("the folder does not answer")

    host.expand = expand  # type: ignore[method-assign]
    sighting = seen(host, "/nfs/*.qmp", "/vms/vm1.qmp")
    assert labels(sighting) == ["vm1"]
    assert sighting.failures == (Failure("HostSilent", "/nfs/*.qmp: the folder does not answer"),)


@pytest.mark.parametrize("spelling", ["/vms/vm1.qmp", "unix:/vms/vm1.qmp", "unix:/vms/vm1.qmp,server=on,wait=off"])
def test_two_spellings_are_one_monitor(spelling: str) -> None:
    """A monitor is visited once, under its plain name, however often and in whatever way it is named."""
    host = FakeHost(vm_called("vm1", 1))
    sighting = seen(host, spelling, "/vms/vm1.qmp")
    assert (labels(sighting), host.opened) == (["vm1"], ["/vms/vm1.qmp"])


def test_a_name_in_brackets_that_is_there_is_named_outright() -> None:
    """Where there is a file of this very name, its VM that is off is a failure."""
    host = FakeHost()
    host.globs["/vms/web[0].qmp"] = None
    assert [failure.message for failure in seen(host, "/vms/web[0].qmp").failures] == [
        "/vms/web[0].qmp: nobody is there"
    ]


def test_an_address_that_none_can_be_starts_nothing() -> None:
    """A mistake in one address is refused before any monitor is opened."""
    host = FakeHost(vm_called("vm1", 1))
    with pytest.raises(WrongRequest, match="NUL"):
        seen(host, "/vms/vm1.qmp", "/vms/\0.qmp")
    assert host.opened == []


def test_a_vm_without_a_name_query_is_called_what_it_is() -> None:
    """qemu-storage-daemon speaks QMP and is no VM."""
    qemu = vm_called("vm1", 1)
    qemu.refuses["query-name"] = "The command query-name has not been found"
    (failure,) = seen(FakeHost(qemu), qemu.address).failures
    assert failure.kind == "MonitorUnusable"
    assert "this is no VM: it does not know query-name, as qemu-storage-daemon does not" in failure.message


def test_two_monitors_of_one_vm_are_one_vm() -> None:
    """The second monitor of a VM is told and left."""
    qemu = vm_called("vm1", 1)
    host = FakeHost(qemu)

    @contextlib.asynccontextmanager
    async def open_link(address: str) -> AsyncIterator[Link]:
        monitor = QemuLink(FakeConnection(qemu))
        monitor.address = address
        yield monitor

    sighting = clock.run(observe(host.finds(["/vms/a.qmp", "/vms/b.qmp"]), open_link, host))
    assert labels(sighting) == ["vm1"]
    assert sighting.skipped == ("/vms/b.qmp is another monitor of vm1",)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        pytest.param(MonitorUnusable("it is a file"), "/vms/vm1.qmp: it is a file", id="unusable"),
        pytest.param(
            MonitorSilent("no greeting"), "/vms/vm1.qmp: no greeting. pid 100 owns /vms/vm1.qmp", id="busy: by whom"
        ),
    ],
)
def test_one_bad_monitor_stops_no_other(error: QmpError, message: str) -> None:
    """What is wrong with one monitor is told, and the others are looked at."""
    host = FakeHost(vm_called("vm1", 1), vm_called("vm2", 2))
    host.unopenable["/vms/vm1.qmp"] = error
    sighting = seen(host, "/vms/vm1.qmp", "/vms/vm2.qmp")
    assert labels(sighting) == ["vm2"]
    assert [failure.message for failure in sighting.failures] == [message]


@pytest.mark.parametrize("executed", [False, True])
@pytest.mark.parametrize("number", range(1, 9))
def test_a_connection_lost_at_every_question(number: int, executed: bool) -> None:
    """A VM that dies while it is looked at is a failure of this VM only."""
    dying, other = vm_called("vm1", 1), vm_called("vm2", 2)
    dying.lose_at(number, executed=executed)
    sighting = seen(FakeHost(dying, other), dying.address, other.address)
    assert labels(sighting) == ["vm2"]
    assert [failure.kind for failure in sighting.failures] == ["MonitorLost"]


def test_a_mistake_of_our_own_is_not_hidden_and_costs_no_other_vm() -> None:
    """What nobody foresaw is told as a defect, of the VM that brought it out; the others are seen."""
    qemu, other = vm_called("vm1", 1), vm_called("vm2", 2)
    qemu._query_name = lambda arguments: 1 / 0  # type: ignore[method-assign]
    sighting = seen(FakeHost(qemu, other), qemu.address, other.address)
    assert labels(sighting) == ["vm2"]
    assert [failure.kind for failure in sighting.failures] == ["Defect"]
    assert sighting.failures[0].message.startswith(f"{qemu.address}: a defect of virtops.qmp")
    assert "ZeroDivisionError in <lambda>, line" in sighting.failures[0].message


@pytest.mark.parametrize(
    ("command", "reply"),
    [
        pytest.param("query_name", [], id="no mapping"),
        pytest.param("query_version", {"qemu": {}}, id="no version"),
        pytest.param("query_uuid", {}, id="no UUID"),
        pytest.param("query_status", {}, id="no status"),
        pytest.param("query_block", [{"device": "", "inserted": {}}], id="no image"),
        pytest.param("query_block", 7, id="no list"),
        pytest.param("query_block_jobs", [{"device": "j"}], id="half a job"),
        pytest.param("x_debug_query_block_graph", {"nodes": [], "edges": [{}]}, id="half an edge"),
        pytest.param("x_debug_query_block_graph", {}, id="no graph"),
    ],
)
def test_a_reply_that_no_qemu_sends(command: str, reply: Any) -> None:
    """A peer that answers, but not as QEMU does, is unusable, and no traceback."""
    qemu = vm_called("vm1", 1)
    setattr(qemu, f"_{command}", lambda arguments: reply)
    sighting = seen(FakeHost(qemu), qemu.address)
    assert "brings what no QEMU since 4.0 sends" in sighting.failures[0].message


def test_a_refused_question_is_told() -> None:
    """A QEMU too old for a question says so."""
    qemu = vm_called("vm1", 1)
    qemu.refuses["x-debug-query-block-graph"] = "The command x-debug-query-block-graph has not been found"
    assert "has not been found" in seen(FakeHost(qemu), qemu.address).failures[0].message


def test_descriptor_sets_are_asked_for_where_an_image_uses_one() -> None:
    """Most VMs have none, and are not asked."""
    plain, passed = vm_called("vm1", 1), vm_called("vm2", 2)
    passed.nodes["top"].filename = "/dev/fdset/2"
    setattr(passed, "_query_fdsets", lambda arguments: [{"fdset-id": 2, "fds": [{"fd": 7}]}])  # noqa: B010
    sighting = seen(FakeHost(plain, passed), plain.address, passed.address)
    assert labels(sighting) == ["vm1", "vm2"]
    assert [qemu.commands.count("query-fdsets") for qemu in (plain, passed)] == [0, 1]


def test_answers_that_contradict_each_other_are_asked_for_again() -> None:
    """A stream that ends between two answers leaves a graph in which the chain is whole, and that is over at once."""
    qemu = vm_called("vm1", 1)
    qemu.act_before("query-block", lambda: qemu.nodes["top"].children.pop("backing"))
    sighting = seen(FakeHost(qemu), qemu.address)
    assert [disk.is_populated for disk in sighting.vms[0].disks] == [True]
    assert qemu.commands.count("query-block") == 2


def test_answers_that_go_on_contradicting_each_other_are_told() -> None:
    """No disk is populated by leaving its chain out of one answer."""
    qemu = vm_called("vm1", 1)
    whole = qemu.serve("query-block", {})
    del whole[0]["inserted"]["image"]["backing-image"]
    setattr(qemu, "_query_block", lambda arguments: whole)  # noqa: B010
    failure = seen(FakeHost(qemu), qemu.address).failures[0]
    assert failure.kind == "AnswersDiffer"
    assert "query-block shows no image below node top, and the block graph does" in failure.message


def test_look_reads_the_state_again() -> None:
    """A second look keeps who the VM is, and reads what may have changed."""
    qemu = vm_called("vm1", 1)
    host = FakeHost(qemu)

    async def work() -> None:
        monitor = QemuLink(FakeConnection(qemu))
        first = await identify(monitor, host)
        qemu.remove("vda")
        qemu.status = "paused"
        second = await look(monitor, first.identity, host)
        assert second.identity is first.identity
        assert (len(first.disks), second.disks, second.status) == (1, (), "paused")

    clock.run(work())
    assert qemu.commands.count("query-name") == 1


def test_a_look_waits_once() -> None:
    """All that a look asks is sent before the first answer comes, the jobs before the graph and the chains."""
    qemu = vm_called("vm1", 1)
    asked: list[str] = []

    class Slow(FakeConnection):
        async def execute(
            self, command: str, arguments: Mapping[str, Any] | None = None, descriptor: int | None = None
        ) -> Any:
            asked.append(command)
            await asyncio.sleep(1)
            return await super().execute(command, arguments, descriptor)

    async def work() -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        await QemuLink(Slow(qemu)).identify()
        assert loop.time() - began == pytest.approx(1)

    clock.run(work())
    order = ["query-block-jobs", "x-debug-query-block-graph", "query-block"]
    assert [command for command in asked if command in order] == order
    assert sorted(qemu.commands) == sorted(asked)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        pytest.param(MonitorMissing("gone"), "disk: gone", id="missing"),
        pytest.param(MonitorSilent("busy"), "disk: busy. pid 100 owns /m.qmp", id="silent"),
        pytest.param(CommandRefused("x", "y"), "disk: QEMU refused x: y", id="refused"),
    ],
)
def test_explain(error: QmpError, words: str) -> None:
    """An error is told with where it happened, and with the processes where one of them may be the reason."""
    expected = Failure(type(error).__name__, words, "/m.qmp")
    assert clock.run(explain("disk", error, "/m.qmp", FakeHost())) == expected


def test_explain_where_no_process_is_found() -> None:
    """Where the processes cannot be told the sentence ends."""
    host = FakeHost()

    async def nobody(address: str) -> str:
        return ""

    host.who_serves = nobody  # type: ignore[method-assign]
    assert clock.run(explain("vm", MonitorSilent("busy"), "/m.qmp", host)).message == "vm: busy"


def test_what_is_found_and_what_is_seen_are_one() -> None:
    """Whoever finds the VMs may know of some that are off, and of failures: they come before those of the visits."""
    host = FakeHost(vm_called("vm1", 1))
    failed = Failure("MonitorSilent", "libvirt does not answer")

    async def find() -> Found:
        return Found({"/vms/vm1.qmp": True, "/vms/off.qmp": False}, ("web* matches no domain",), (failed,), ("web02",))

    sighting = clock.run(observe(find, host.open_link, host))
    assert (labels(sighting), sighting.off) == (["vm1"], ("web02", "/vms/off.qmp"))
    assert sighting.skipped == (
        "web* matches no domain",
        "/vms/off.qmp belongs to a VM that is off: nobody serves it",
    )
    assert sighting.failures == (failed,)


@pytest.mark.parametrize(
    ("address", "message"),
    [("/vms/a.qmp", "vm: silent. pid 100 owns /vms/a.qmp"), (DomainName("web01"), "vm: silent")],
)
def test_only_a_socket_has_an_owner(address: str, message: str) -> None:
    """Who serves a monitor is told where it is silent; a domain has none."""
    failure = clock.run(explain("vm", MonitorSilent("silent"), address, FakeHost()))
    assert (failure.message, failure.monitor) == (message, address)


@pytest.mark.parametrize("pattern", ["tcp:x", "host:0"])
def test_what_no_monitor_can_be_at(pattern: str) -> None:
    """It is refused before anything is looked for."""
    with pytest.raises(WrongRequest):
        clock.run(find_monitors([pattern], FakeHost()))
