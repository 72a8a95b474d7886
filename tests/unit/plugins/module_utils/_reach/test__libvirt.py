# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
import gc
import importlib.util
import json
import sys
import threading
from collections.abc import Coroutine
from functools import partial
from pathlib import Path
from typing import Any, Callable  # noqa: UP035  # Python 3.8

import pytest
from ansible_collections.virtops.qmp.plugins.module_utils._model._address import DomainName
from ansible_collections.virtops.qmp.plugins.module_utils._model._domain import Listed, Needed, Plans
from ansible_collections.virtops.qmp.plugins.module_utils._model._errors import (
    CommandRefused,
    MonitorError,
    MonitorLost,
    MonitorMissing,
    MonitorSilent,
    MonitorUnusable,
    WrongRequest,
)
from ansible_collections.virtops.qmp.plugins.module_utils._model._files import FileId
from ansible_collections.virtops.qmp.plugins.module_utils._model._job import Stream
from ansible_collections.virtops.qmp.plugins.module_utils._model._peer import Owner
from ansible_collections.virtops.qmp.plugins.module_utils._model._seams import Found
from ansible_collections.virtops.qmp.plugins.module_utils._reach import _libvirt
from ansible_collections.virtops.qmp.plugins.module_utils._reach._libvirt import DomainLink, Domains, check_uri
from ansible_collections.virtops.qmp.plugins.module_utils._reach._process import Turn
from ansible_collections.virtops.qmp.plugins.module_utils._run._observe import find_domains
from ansible_collections.virtops.qmp.tests.unit import clock
from ansible_collections.virtops.qmp.tests.unit.fake_libvirt import (
    NOT_RUNNING,
    FakeLibvirt,
    Guest,
    LibvirtError,
    Processes,
)

ONE, TWO, THREE = (f"{number}f3a0c1e-5d0c-4c59-9d4e-6c1c6f0e7a51" for number in (1, 2, 3))


URI = "qemu:///system"


def domains(owner: Owner | None = None, takes_turns: bool = True) -> Domains:
    return Domains(URI, 10.0, owner, takes_turns=takes_turns)


def run(libvirt: FakeLibvirt, work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """Do the work, and see that libvirt is left as it was."""

    async def serving() -> Any:
        libvirt.serve()
        return await work()

    try:
        return clock.run(serving())
    finally:
        assert libvirt.callbacks == {} or libvirt.hangs, "an event is still listened to"


def at_guest(libvirt: FakeLibvirt, work: Callable[[DomainLink], Coroutine[Any, Any, Any]], **options: Any) -> Any:
    """Do the work with a link to `web01`."""

    async def opened() -> Any:
        async with domains(**options).open("web01") as link:
            return await work(link)

    return run(libvirt, opened)


async def nothing(link: DomainLink) -> None:
    pass


# -- The bindings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("there", [True, False])
def test_the_bindings_need_not_be_there(monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
    """Without them the file can be read, and says what is missing."""
    for name in ("libvirt", "libvirt_qemu"):
        module: Any = FakeLibvirt() if there else None
        monkeypatch.setitem(sys.modules, name, module)
    spec = importlib.util.spec_from_file_location(_libvirt.__name__, _libvirt.__file__)
    assert spec is not None
    assert spec.loader is not None
    anew = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(anew)
    assert (anew.LIBVIRT_IMPORT_ERROR is None) is there
    assert there or "libvirt" in anew.LIBVIRT_IMPORT_ERROR


# -- Addresses ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "uri",
    [
        "qemu:///system",
        "qemu:///session",
        "qemu+unix:///system",
        "qemu+unix:///session?socket=/run/user/7/libvirt/libvirt-sock",
        "qemu:///system?mode=direct",
    ],
)
def test_uris_of_this_host(uri: str) -> None:
    """These lead to the guests of this host."""
    check_uri(uri)


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        pytest.param("", "no connection to QEMU's guests", id="empty"),
        pytest.param("xen:///system", "no connection to QEMU's guests", id="another hypervisor"),
        pytest.param("qemu:///embed?root=/x", "no connection to QEMU's guests", id="embedded"),
        pytest.param("test:///default", "no connection to QEMU's guests", id="a play of libvirt's"),
        pytest.param("/run/web01.qmp", "no connection to QEMU's guests", id="a monitor"),
        pytest.param("qemu:///system\0", "no connection to QEMU's guests", id="NUL"),
        pytest.param("qemu+ssh://hv1/system", "leads to another host", id="ssh"),
        pytest.param("qemu://hv1/system", "leads to another host", id="TLS"),
        pytest.param("qemu+tcp:///system", "leads to another host", id="TCP, and no host"),
        pytest.param("qemu+ext:///system?command=x", "leads to another host", id="a program"),
        pytest.param("qemu+unix://hv1/system", "leads to another host", id="a host that libvirt would ignore"),
        pytest.param("qemu://[::1/system", "which is none", id="half an address"),
    ],
)
def test_uris_that_are_refused(uri: str, words: str) -> None:
    """What may lead elsewhere, or is no URI, is refused with the one to use."""
    with pytest.raises(WrongRequest, match=words) as refusal:
        check_uri(uri)
    assert "qemu:///system" in str(refusal.value)


# -- Which guests ------------------------------------------------------------------------------------------------------


def find(libvirt: FakeLibvirt, *patterns: str) -> Found:
    found: Found = run(libvirt, partial(find_domains, patterns, URI, domains().list))
    assert all(isinstance(name, DomainName) for name in found.wanted)
    assert libvirt.open_connections == 0 or libvirt.hangs
    return found


def test_all_are_listed(libvirt: FakeLibvirt) -> None:
    """By name, those that are off as well."""
    libvirt.guests += [Guest("web02", TWO, is_on=False), Guest("db[1]", THREE)]
    listed = [Listed("db[1]", THREE, True), Listed("web01", ONE, True), Listed("web02", TWO, False)]
    assert run(libvirt, domains().list) == listed


def test_a_guest_that_goes_away_while_all_are_listed(libvirt: FakeLibvirt) -> None:
    """It is none any more, and no failure."""
    libvirt.refuses["isActive"] = LibvirtError(libvirt.VIR_ERR_NO_DOMAIN, "no domain")
    assert find(libvirt, "*") == Found(skipped=("* matches no domain",))


@pytest.mark.parametrize(
    ("call", "error", "kind", "words"),
    [
        pytest.param(
            "open", LibvirtError(38, "No such file"), "MonitorUnusable", "Is libvirtd, or virtqemud", id="down"
        ),
        pytest.param("listAllDomains", LibvirtError(39, "cut"), "MonitorLost", "cut: the guest stopped", id="cut"),
        pytest.param("listAllDomains", LibvirtError(88, "denied"), "MonitorUnusable", "refuses: denied", id="denied"),
    ],
)
def test_a_daemon_that_does_not_list(libvirt: FakeLibvirt, call: str, error: Any, kind: str, words: str) -> None:
    """It is one failure, of the connection, and no guest is known."""
    libvirt.refuses[call] = error
    found = find(libvirt, "*")
    assert (found.wanted, [failure.kind for failure in found.failures]) == ({}, [kind])
    assert str(found.failures[0]).startswith("qemu:///system: ")
    assert words in str(found.failures[0])


@pytest.mark.parametrize("call", ["open", "listAllDomains"])
def test_a_daemon_that_hangs(libvirt: FakeLibvirt, call: str) -> None:
    """After the time-out it is told, and nobody waits any longer."""
    libvirt.hangs.add(call)
    (failure,) = find(libvirt, "*").failures
    assert (failure.kind, "libvirt does not answer within 10 s" in str(failure)) == ("MonitorSilent", True)


def test_a_daemon_that_hangs_at_the_end(libvirt: FakeLibvirt) -> None:
    """What was asked has been answered: that counts."""
    libvirt.hangs.add("close")
    assert find(libvirt, "*").wanted == {"web01": False}


def test_libvirt_is_prepared_once(libvirt: FakeLibvirt) -> None:
    """However many guests are visited, one thread serves their events."""

    async def twice() -> None:
        ours = domains()
        await ours.list()
        await asyncio.gather(ours.list(), ours.list())

    run(libvirt, twice)
    assert libvirt.log == [("events",)]
    assert [each.name for each in threading.enumerate()].count("libvirt's events") == 1


def plans(libvirt: FakeLibvirt) -> Plans:
    told: Plans = run(libvirt, domains().plans)
    assert libvirt.open_connections == 0
    return told


def disk_of(path: str) -> str:
    return f"<domain><devices><disk><source file='{path}'/></disk></devices></domain>"


def test_plans(libvirt: FakeLibvirt, tmp_path: Path) -> None:
    """What defined guests start with, running or off, and what snapshots revert to; each with what has its name now."""
    template = tmp_path / "template.qcow2"
    template.touch()
    status = template.stat()
    libvirt.guests += [Guest("web02", TWO, is_on=False), Guest("db01", THREE)]
    libvirt.guests[1].definition = disk_of(str(template))
    libvirt.guests[0].snapshots = {"before": f"<domainsnapshot>{disk_of('/no/such')}</domainsnapshot>"}
    assert plans(libvirt) == Plans(
        (
            Needed("/no/such", None, "snapshot before of domain web01 needs it"),
            Needed(
                str(template),
                FileId(status.st_dev, status.st_ino),
                "the definition of domain web02 names it as a disk",
            ),
        )
    )


@pytest.mark.parametrize(
    ("call", "error", "unknown"),
    [
        pytest.param("open", LibvirtError(38, "No such file"), "libvirt cannot be reached: No such file", id="down"),
        pytest.param("listAllDomains", LibvirtError(88, "denied"), "libvirt refuses: denied", id="no list"),
        pytest.param("listAllSnapshots", LibvirtError(88, "denied"), "libvirt refuses: denied", id="no snapshots"),
        pytest.param("XMLDesc", LibvirtError(42, "no domain"), "", id="a guest that goes away"),
    ],
)
def test_plans_that_are_not_told(libvirt: FakeLibvirt, call: str, error: Any, unknown: str) -> None:
    """What cannot be asked is unknown; a guest that is no more has no plans."""
    libvirt.guests[0].definition = disk_of("/x")
    libvirt.refuses[call] = error
    told = plans(libvirt)
    assert [each.path for each in told.needed if each.path != "/x"] == []
    assert told.unknown.startswith(unknown)
    assert bool(told.unknown) == bool(unknown)


def test_a_definition_that_is_no_xml(libvirt: FakeLibvirt) -> None:
    """What cannot be read is unknown as well."""
    libvirt.guests[0].definition = "no XML"
    assert "cannot be read" in plans(libvirt).unknown


# -- One guest ---------------------------------------------------------------------------------------------------------


def test_libvirt_notices_late_that_a_guest_has_ended(libvirt: FakeLibvirt) -> None:
    """It refuses first, and then says that the guest has stopped: the guest is lost, and libvirt did not refuse."""
    libvirt.refuses["query-status"] = LibvirtError(libvirt.VIR_ERR_INTERNAL_ERROR, "End of file from qemu monitor")

    async def ask(link: DomainLink) -> None:
        asyncio.get_running_loop().call_later(0.1, libvirt.tell, "0 web01", libvirt.VIR_DOMAIN_EVENT_STOPPED, 0)
        with pytest.raises(MonitorLost):
            await link.status()

    at_guest(libvirt, ask)


def test_a_visit(libvirt: FakeLibvirt) -> None:
    """The guest is libvirt's by name and UUID, its QEMU is found, and its disks have libvirt's names."""

    async def work(link: DomainLink) -> None:
        identity, sight = await link.identify()
        assert (identity.monitor, identity.name, identity.uuid) == ("web01", "web01", ONE)
        assert (identity.is_domain, identity.is_libvirts, identity.pid) == (True, True, 100)
        assert [(disk.target, disk.label, disk.stale_view) for disk in sight.disks] == [("vda", "vda", None)]
        assert libvirt.open_connections == 1

    at_guest(libvirt, work)
    assert libvirt.open_connections == 0


def test_the_connection_ends_in_a_thread(libvirt: FakeLibvirt) -> None:
    """When nobody refers to it any more libvirt waits for its daemon, which may hang: not on the event loop."""
    gc.disable()
    try:
        at_guest(libvirt, nothing)
        assert libvirt.open_connections == 0
    finally:
        gc.enable()
    assert libvirt.closed_in == ["away"]


@pytest.mark.parametrize(
    ("code", "message", "error"),
    [
        pytest.param(1, "internal error: odd", MonitorUnusable, id="refused"),
        pytest.param(55, NOT_RUNNING, MonitorUnusable, id="an error that says that it is off, and it is not"),
        pytest.param(39, "cut", MonitorLost, id="cut"),
        pytest.param(68, "cannot acquire state change lock", MonitorSilent, id="another program holds it"),
    ],
)
def test_the_connection_ends_in_a_thread_after_an_error(
    libvirt: FakeLibvirt, code: int, message: str, error: type[MonitorError]
) -> None:
    """The error does not keep the connection open until it is forgotten itself."""
    libvirt.refuses["query-status"] = LibvirtError(code, message)
    gc.disable()
    try:
        with pytest.raises(error) as kept:
            at_guest(libvirt, DomainLink.status)
        assert (libvirt.open_connections, libvirt.closed_in) == (0, ["away"])
        assert message in str(kept.value)
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("call", "act", "error", "words"),
    [
        pytest.param(None, lambda own: own.guests.clear(), MonitorMissing, "no such domain", id="no guest"),
        pytest.param(None, lambda own: setattr(own.guests[0], "is_on", False), MonitorMissing, "is off", id="off"),
        pytest.param(
            "register 16", lambda own: own.stop(own.guests[0]), MonitorMissing, "is off", id="it ends before we listen"
        ),
    ],
)
def test_a_guest_that_is_off(libvirt: FakeLibvirt, call: str | None, act: Any, error: Any, words: str) -> None:
    """It is told as a VM that is off, also where that happens in the very moment."""
    if call is None:
        act(libvirt)
    else:
        libvirt.act_before(call, lambda: act(libvirt))
    with pytest.raises(error, match=words):
        at_guest(libvirt, nothing)
    assert libvirt.open_connections == 0


@pytest.mark.parametrize("call", ["lookupByName", "register 0", "register qemu", "register close", "isActive"])
def test_a_guest_that_libvirt_does_not_show(libvirt: FakeLibvirt, call: str) -> None:
    """Whatever was listened to already is let go."""
    libvirt.refuses[call] = LibvirtError(1, "odd")
    with pytest.raises((MonitorUnusable, MonitorLost), match="odd"):
        at_guest(libvirt, nothing)
    assert libvirt.open_connections == 0


def test_a_daemon_that_hangs_when_the_guest_is_left(libvirt: FakeLibvirt) -> None:
    """What was done is done: the answer counts, and nobody waits for longer than twice the time-out."""
    libvirt.hangs |= {"deregister", "close"}

    async def work(link: DomainLink) -> tuple[str, float]:
        return await link.status(), asyncio.get_running_loop().time()

    assert at_guest(libvirt, work)[0] == "running"


def test_a_daemon_that_refuses_when_the_guest_is_left(libvirt: FakeLibvirt) -> None:
    """There is nothing that could be done about it."""
    libvirt.refuses["deregister"] = LibvirtError(1, "odd")
    at_guest(libvirt, nothing)
    assert libvirt.open_connections == 0


# -- Who may, and whose turn it is -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("owner", "words"),
    [
        pytest.param(Owner("64055", 64055), None, id="the owner"),
        pytest.param(Owner("kvm", 7), "served by qemu-system-x86_64 (pid 100), which runs as uid 64055", id="another"),
    ],
)
def test_the_owner_of_a_guest(libvirt: FakeLibvirt, owner: Owner, words: str | None) -> None:
    """The user who runs the guest's QEMU is held against the one who must; who made its monitor does not matter."""
    if words is None:
        at_guest(libvirt, nothing, owner=owner)
        return
    with pytest.raises(MonitorUnusable) as refusal:
        at_guest(libvirt, nothing, owner=owner)
    assert words in str(refusal.value)


@pytest.mark.parametrize("options", [{"owner": Owner("x", 7), "takes_turns": False}, {"takes_turns": True}])
def test_a_process_that_nobody_knows(libvirt: FakeLibvirt, processes: Processes, options: dict[str, Any]) -> None:
    """Where two call themselves the guest's, neither its user is known nor can a turn be taken."""
    processes.add(101, "-name", "guest=web01", "-uuid", ONE)
    with pytest.raises(MonitorUnusable, match="which process is the domain's QEMU cannot be told"):
        at_guest(libvirt, nothing, **options)


def test_to_look_needs_no_process(libvirt: FakeLibvirt, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who only looks sees what can be seen, also where /proc hangs."""
    monkeypatch.setattr(_libvirt, "find_guest", lambda *_words: libvirt.over.wait(20))

    async def work(link: DomainLink) -> None:
        assert link.peer is None
        assert (await link.identify())[0].pid is None

    at_guest(libvirt, work, takes_turns=False)


def test_two_runs_at_one_guest(libvirt: FakeLibvirt) -> None:
    """The second waits for its turn, as long as it would for a monitor, and is told who has it."""
    with Turn(100) as other:
        assert other.try_to_take()
        with pytest.raises(MonitorSilent, match="another run of this collection works on the domain for 10 s: "):
            at_guest(libvirt, nothing)
        at_guest(libvirt, nothing, takes_turns=False)
    at_guest(libvirt, nothing)


def test_a_turn_that_comes(libvirt: FakeLibvirt) -> None:
    """It goes on when the other one has left."""

    async def work() -> float:
        ours = domains()

        async def hold() -> None:
            async with ours.open("web01"):
                await asyncio.sleep(3)

        holding = asyncio.ensure_future(hold())
        await asyncio.sleep(1)
        async with ours.open("web01") as link:
            await link.status()
            now = asyncio.get_running_loop().time()
        await holding
        return now

    assert 3 < run(libvirt, work) < 3.5


def test_a_guest_that_ends_while_another_run_has_it(libvirt: FakeLibvirt, guest: Guest) -> None:
    """Started again it is another process of the same name, and not the one whose turn was waited for."""

    async def work() -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(1, libvirt.stop, guest)
        loop.call_later(2, setattr, guest, "is_on", True)
        loop.call_later(3, other.__exit__, None, None, None)
        async with domains().open("web01"):
            raise AssertionError("it was opened")

    other = Turn(100)
    assert other.try_to_take()
    with pytest.raises(MonitorLost, match="the guest stopped"):
        run(libvirt, work)


def test_qemu_ends_before_the_turn(libvirt: FakeLibvirt, processes: Processes) -> None:
    """That is told as the end of the guest, and is no defect."""
    (processes.folder / "100" / "environ").unlink()
    with pytest.raises(MonitorLost, match="QEMU has just ended"):
        at_guest(libvirt, nothing)


# -- What QEMU says ----------------------------------------------------------------------------------------------------


def test_a_descriptor_goes_with_a_command(libvirt: FakeLibvirt) -> None:
    """libvirt passes an open file on, so its guests are read ahead like all others."""

    async def work(link: DomainLink) -> None:
        async with link.read_ahead("top") as ahead:
            await ahead.copy(0, 2**20)

    at_guest(libvirt, work)
    assert libvirt.guests[0].qemu.ahead.copied == [(0, 2**20)]


def test_a_libvirt_that_passes_no_descriptor(libvirt: FakeLibvirt, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before libvirt 8.2 none can be, which is told."""
    monkeypatch.delattr(FakeLibvirt, "qemuMonitorCommandWithFiles")

    async def work(link: DomainLink) -> None:
        with pytest.raises(MonitorUnusable, match=r"before 8\.2"):
            async with link.read_ahead("top"):
                raise AssertionError

    at_guest(libvirt, work)


def test_what_qemu_refuses(libvirt: FakeLibvirt) -> None:
    """QEMU's own error is told as over a monitor."""
    with pytest.raises(CommandRefused, match=r"QEMU refused job-cancel: Job not found"):
        at_guest(libvirt, lambda link: link.cancel("populate-vda"))


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param("", id="nothing"),
        pytest.param("{", id="half an answer"),
        pytest.param("[]", id="a list"),
        pytest.param("{}", id="neither"),
        pytest.param('{"error": []}', id="an error that is none"),
        pytest.param('{"error": {"desc": 7}}', id="an error without a text"),
        pytest.param("[" * 200000, id="too much in little"),
        pytest.param("[" * 100000 + "]" * 100000, id="too deep"),
        pytest.param("\ud800", id="no text"),
    ],
)
def test_what_no_qemu_answers(libvirt: FakeLibvirt, answer: str) -> None:
    """A guest that owns its QEMU may answer anything, and only harms itself."""
    libvirt.answers["query-status"] = answer
    with pytest.raises(MonitorUnusable, match="the answer to query-status is"):
        at_guest(libvirt, DomainLink.status)


def test_a_guest_that_hangs(libvirt: FakeLibvirt) -> None:
    """Each command has its deadline."""
    libvirt.hangs.add("query-status")
    with pytest.raises(MonitorSilent, match="libvirt does not answer within 30 s"):
        at_guest(libvirt, DomainLink.status)


@pytest.mark.parametrize("how", ["stopped", "crashed", "off in silence", "daemon", "daemon in silence"])
def test_a_guest_that_ends(libvirt: FakeLibvirt, guest: Guest, how: str) -> None:
    """It is told, by libvirt's event or by the next command, whatever libvirt calls its error."""

    async def work(link: DomainLink) -> None:
        if how == "daemon":
            libvirt.die()
        elif how == "daemon in silence":
            libvirt.is_up = False
        elif how == "off in silence":
            guest.is_on = False
        else:
            libvirt.stop(guest, 8 if how == "crashed" else 5)
        await link.status()

    with pytest.raises(MonitorLost):
        at_guest(libvirt, work)


def test_a_guest_that_is_started_again(libvirt: FakeLibvirt, guest: Guest) -> None:
    """It is another one, though libvirt takes commands for it by the same name."""

    async def work(link: DomainLink) -> None:
        libvirt.stop(guest)
        await asyncio.sleep(0)
        guest.is_on = guest.qemu.alive = True
        guest.qemu.log.clear()
        await link.start(Stream("populate-vda", "libvirt-1-format"))

    with pytest.raises(MonitorLost):
        at_guest(libvirt, work)
    assert guest.qemu.log == []


def test_a_guest_that_starts_is_none_that_ends(libvirt: FakeLibvirt, guest: Guest) -> None:
    """Of its life only the end matters."""

    async def work(link: DomainLink) -> str:
        libvirt.tell("0 web01", libvirt.VIR_DOMAIN_EVENT_STARTED, 0)
        return await link.status()

    assert at_guest(libvirt, work) == "running"


# -- Events ------------------------------------------------------------------------------------------------------------


def hear(libvirt: FakeLibvirt, *told: tuple[str, str | None], seconds: float = 1) -> list[Any]:
    """What a listener for the job `populate-vda` hears of these events."""

    async def work(link: DomainLink) -> list[Any]:
        heard = []
        with link._connection.listen("populate-vda") as events:
            for name, data in told:
                libvirt.tell("qemu web01", name, 0, 0, data)
            for _number in range(len(told) + 1):
                heard.append(await events.next(seconds))
        return heard

    return [event and event["event"] for event in at_guest(libvirt, work)]


OURS = json.dumps({"device": "populate-vda", "error": "x"})


@pytest.mark.parametrize(
    ("told", "heard"),
    [
        pytest.param([], [None], id="nothing"),
        pytest.param([("BLOCK_JOB_COMPLETED", OURS)], ["BLOCK_JOB_COMPLETED", None], id="ours"),
        pytest.param([("BLOCK_JOB_COMPLETED", '{"device": "other"}')], [None, None], id="of another job"),
        pytest.param(
            [("BLOCK_JOB_ERROR", OURS)] * 3, ["BLOCK_JOB_ERROR", None, None, None], id="of a kind one is kept"
        ),
        pytest.param([("JOB_STATUS_CHANGE", '{"id": "populate-vda", "status": "running"}')], [None, None], id="no end"),
        pytest.param(
            [("JOB_STATUS_CHANGE", '{"id": "populate-vda", "status": "null"}')],
            ["JOB_STATUS_CHANGE", None],
            id="the end",
        ),
        pytest.param([("BLOCK_JOB_COMPLETED", None)], [None, None], id="no data"),
        pytest.param([("BLOCK_JOB_COMPLETED", "[]")], [None, None], id="a list"),
        pytest.param([("BLOCK_JOB_COMPLETED", "{")], [None, None], id="half of it"),
        pytest.param([("BLOCK_JOB_COMPLETED", "[" * 100000)], [None, None], id="too deep"),
        pytest.param([("BLOCK_JOB_COMPLETED", '{"id": ["populate-vda"]}')], [None, None], id="no id"),
    ],
)
def test_what_is_heard(libvirt: FakeLibvirt, told: list[tuple[str, str]], heard: list[str | None]) -> None:
    """The events of the job, each kind once until it is read, and nothing that a guest makes up."""
    assert hear(libvirt, *told) == heard


def test_who_does_not_wait_hears_what_is_there(libvirt: FakeLibvirt) -> None:
    """Without a time to wait only what has come is told."""
    assert hear(libvirt, seconds=0) == [None]


def test_an_event_wakes(libvirt: FakeLibvirt) -> None:
    """Nobody waits for longer than until it comes."""

    async def work(link: DomainLink) -> float:
        loop = asyncio.get_running_loop()
        began = loop.time()
        with link.listen("populate-vda") as events:
            loop.call_later(2, libvirt.tell, "qemu web01", "BLOCK_JOB_PENDING", 0, 0, OURS)
            assert await events.next(60) is not None
        return loop.time() - began

    assert 2 <= at_guest(libvirt, work) < 2.1


def test_two_listeners_of_one_job(libvirt: FakeLibvirt) -> None:
    """Each hears it, and the end of one is not that of the other."""

    async def work(link: DomainLink) -> list[bool]:
        with link.listen("populate-vda") as one:
            with link.listen("populate-vda") as other:
                libvirt.tell("qemu web01", "BLOCK_JOB_PENDING", 0, 0, OURS)
                heard = [await one.next(1), await other.next(1)]
            libvirt.tell("qemu web01", "BLOCK_JOB_PENDING", 0, 0, OURS)
            return [event is not None for event in [*heard, await one.next(1)]]

    assert at_guest(libvirt, work) == [True, True, True]


def test_the_end_of_the_guest_wakes_who_listens(libvirt: FakeLibvirt, guest: Guest) -> None:
    """What has come is told first, and then at once that nothing will come."""

    async def work(link: DomainLink) -> float:
        loop = asyncio.get_running_loop()
        with link.listen("populate-vda") as events:
            libvirt.tell("qemu web01", "BLOCK_JOB_PENDING", 0, 0, OURS)
            loop.call_later(2, libvirt.stop, guest)
            assert await events.next(60) is not None
            with pytest.raises(MonitorLost):
                await events.next(60)
            with pytest.raises(MonitorLost):
                await events.next(0)
        return loop.time()

    assert at_guest(libvirt, work) < 3


def test_an_event_after_the_end(libvirt: FakeLibvirt) -> None:
    """When the event loop is closed nobody listens any more, and libvirt's thread does not fail of it."""
    kept: list[Any] = []

    async def work(link: DomainLink) -> None:
        kept.extend(callback for _kind, callback in libvirt.callbacks.values())

    at_guest(libvirt, work)
    life, _job, event, closed = kept
    life(None, None, libvirt.VIR_DOMAIN_EVENT_STOPPED, 0, None)
    event(None, None, "BLOCK_JOB_PENDING", 0, 0, OURS, None)
    closed(None, 1, None)


# -- libvirt's own jobs ------------------------------------------------------------------------------------------------


async def pull(link: DomainLink, depth: int | None = None) -> None:
    """Have libvirt pull `vda`, down to the image at this depth."""
    disk = (await link.look()).disks[0]
    await link.pull(disk, None if depth is None else disk.chain[depth])


def test_a_pull(libvirt: FakeLibvirt, guest: Guest) -> None:
    """libvirt does it, and it is over when libvirt says so; what follows sees what libvirt made of it."""

    async def work(link: DomainLink) -> None:
        await pull(link)
        (disk,) = (await link.look()).disks
        assert (disk.stale_view, len(disk.chain)) == (None, 1)

    at_guest(libvirt, work)
    assert (libvirt.log[1:], guest.qemu.chain("vda")) == ([("blockPull", "vda", 0, 0)], ["top.qcow2"])


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        pytest.param("/vms/base.qcow2", 0, id="absolute"),
        pytest.param("base.qcow2", FakeLibvirt.VIR_DOMAIN_BLOCK_REBASE_RELATIVE, id="relative"),
        pytest.param("nbd://localhost/x", 0, id="over a protocol"),
    ],
)
def test_a_pull_down_to_a_base(libvirt: FakeLibvirt, guest: Guest, name: str, flags: int) -> None:
    """The base is called by libvirt's number, and stays in the header as relative as it was."""

    async def work(link: DomainLink) -> None:
        (disk,) = (await link.look()).disks
        chain = (disk.chain[0], disk.chain[1]._replace(backing_name=name), disk.chain[2])
        await link.pull(disk._replace(chain=chain), chain[2])

    at_guest(libvirt, work)
    assert libvirt.log[1:] == [("blockRebase", "vda", "vda[3]", 0, flags)]
    assert guest.chains == {"vda": ["libvirt-1-format", "libvirt-3-format"]}


def test_the_end_comes_before_anybody_waits(libvirt: FakeLibvirt, guest: Guest) -> None:
    """A pull that has nothing to copy may be over before libvirt has answered."""
    for node in ("libvirt-2-format", "libvirt-3-format"):
        del guest.qemu.nodes[node]
    del guest.qemu.nodes["libvirt-1-format"].children["backing"]

    async def work(link: DomainLink) -> float:
        began = asyncio.get_running_loop().time()
        libvirt.act_before("blockPull", lambda: libvirt.tell("16 web01", "vda", 1, 0))
        await link._guest.pull("vda", "", is_relative=False)
        return asyncio.get_running_loop().time() - began

    assert at_guest(libvirt, work) < 1


def test_an_end_that_is_not_told(libvirt: FakeLibvirt) -> None:
    """An event may be lost, as over a restart of the daemon: then the job is seen to be gone."""
    libvirt.tells_ends = False
    at_guest(libvirt, pull)


@pytest.mark.parametrize("told", [("vdb", 1, 0), ("vda", 1, 0)])
def test_ends_of_other_pulls(libvirt: FakeLibvirt, told: tuple[Any, ...]) -> None:
    """An end that nobody waits for, and one that is told twice, harm nobody."""

    async def work(link: DomainLink) -> None:
        libvirt.tell("16 web01", *told)
        asyncio.get_running_loop().call_later(1.5, libvirt.tell, "16 web01", *told)
        asyncio.get_running_loop().call_later(1.5, libvirt.tell, "16 web01", *told)
        await pull(link)

    at_guest(libvirt, work)


def test_a_pull_that_fails(libvirt: FakeLibvirt, guest: Guest) -> None:
    """Its end says so."""
    guest.qemu.faults["libvirt-1-format"] = (0, "No space left on device")
    with pytest.raises(CommandRefused, match="its job failed or was cancelled"):
        at_guest(libvirt, pull)


def test_a_pull_that_is_refused(libvirt: FakeLibvirt, guest: Guest) -> None:
    """libvirt's reason is told."""
    guest.qemu.other_job("libvirt-1-format")
    with pytest.raises(CommandRefused, match="libvirt refuses: Node 'libvirt-1-format' is busy"):
        at_guest(libvirt, pull)


def test_a_pull_without_an_end(libvirt: FakeLibvirt, guest: Guest) -> None:
    """It is not waited for for ever."""

    async def work(link: DomainLink) -> None:
        asyncio.get_running_loop().call_later(0.05, lambda: setattr(guest.job("vda"), "paused", True))
        await pull(link)

    with pytest.raises(MonitorSilent, match="libvirt's pull of vda has no end within 600 s"):
        at_guest(libvirt, work)


def test_a_guest_that_ends_in_a_pull(libvirt: FakeLibvirt, guest: Guest) -> None:
    """That is told at once."""

    async def work(link: DomainLink) -> None:
        asyncio.get_running_loop().call_later(2, libvirt.stop, guest)
        await pull(link)

    with pytest.raises(MonitorLost):
        at_guest(libvirt, work)


@pytest.mark.parametrize("how", ["no target", "no number"])
def test_a_pull_of_what_libvirt_does_not_know(libvirt: FakeLibvirt, guest: Guest, how: str) -> None:
    """What libvirt has no name for it cannot pull, and nothing is begun."""

    async def work(link: DomainLink) -> None:
        (disk,) = (await link.look()).disks
        base = disk.chain[2]._replace(node_name="theirs")
        disk = disk._replace(chain=(*disk.chain[:2], base), target="vda" if how == "no number" else "")
        await link.pull(disk, base)

    with pytest.raises(CommandRefused, match="libvirt does not know this disk, or its base, by a name"):
        at_guest(libvirt, work)
    assert libvirt.log == [("events",)]


def test_one_pull_at_a_time(libvirt: FakeLibvirt, guest: Guest) -> None:
    """QEMU 7.2 dies where two of libvirt's jobs end at once."""
    guest.add("vdb", "b-top.qcow2", "b-base.qcow2")
    most = 0

    async def work(link: DomainLink) -> None:
        nonlocal most

        def count() -> None:
            nonlocal most
            most = max(most, len(guest.qemu.jobs))

        guest.qemu.on_change = count
        disks = (await link.look()).disks
        await asyncio.gather(*(link.pull(disk, None) for disk in disks))

    at_guest(libvirt, work)
    assert (most, [call[1] for call in libvirt.log[1:]]) == (1, ["vda", "vdb"])


@pytest.mark.parametrize(
    ("job_id", "is_libvirts", "log"),
    [
        pytest.param("pull-vda-libvirt-1-format", True, [("blockJobAbort", "vda", 0)], id="libvirt's"),
        pytest.param("populate-vda", False, [], id="ours"),
        pytest.param("theirs", False, [], id="of somebody who spoke to QEMU"),
    ],
)
def test_jobs_are_ended_by_whom_they_belong_to(
    libvirt: FakeLibvirt, guest: Guest, job_id: str, is_libvirts: bool, log: list[Any]
) -> None:
    """libvirt ends its own, so that it knows; all others are QEMU's."""

    async def work(link: DomainLink) -> None:
        guest.qemu.stream("libvirt-1-format", job_id, auto_dismiss=not is_libvirts)
        assert [job.is_libvirts for job in await link.jobs()] == [is_libvirts]
        await link.cancel(job_id)
        await asyncio.sleep(1)

    at_guest(libvirt, work)
    assert (libvirt.log[1:], guest.qemu.jobs) == (log, {})


def test_libvirts_job_has_just_ended(libvirt: FakeLibvirt) -> None:
    """To stop it is refused as QEMU would, so that the next look tells what came of it."""
    with pytest.raises(CommandRefused, match="disk vda has no active block job"):
        at_guest(libvirt, lambda link: link.cancel("pull-vda-libvirt-1-format"))


# -- libvirt's view ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seconds", "stale"), [(0.5, None), (5, "/vms/mid.qcow2")])
def test_a_view_that_comes_late(libvirt: FakeLibvirt, guest: Guest, seconds: float, stale: str | None) -> None:
    """libvirt has a moment to bring its view up to date; what is stale for longer is told."""
    guest.qemu.nodes["libvirt-1-format"].children.pop("backing")

    async def work(link: DomainLink) -> str | None:
        asyncio.get_running_loop().call_later(seconds, guest.chains.update, {"vda": ["libvirt-1-format"]})
        return (await link.look()).disks[0].stale_view

    assert at_guest(libvirt, work) == stale


@pytest.mark.parametrize("closes", [True, False])
def test_nodes_that_libvirt_closes(libvirt: FakeLibvirt, guest: Guest, closes: bool) -> None:
    """libvirt closes what its pull has left over: that is waited for, and nothing is deleted behind its back."""
    nodes = guest.qemu.nodes

    async def work(link: DomainLink) -> None:
        if closes:
            asyncio.get_running_loop().call_later(2, lambda: nodes["libvirt-2-format"].children.pop("backing"))
            asyncio.get_running_loop().call_later(2, nodes.pop, "libvirt-3-format")
        await link.delete_node("libvirt-3-format")

    if closes:
        at_guest(libvirt, work)
    else:
        with pytest.raises(CommandRefused, match="libvirt keeps it, 5 s after its pull"):
            at_guest(libvirt, work)
    assert "blockdev-del" not in guest.qemu.commands
