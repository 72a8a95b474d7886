# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.virtops.qmp.extensions.eda.plugins.event_source import jobs
from ansible_collections.virtops.qmp.extensions.eda.plugins.event_source.jobs import Disk, Options, Unfit
from ansible_collections.virtops.qmp.plugins.module_utils._model import _text
from ansible_collections.virtops.qmp.tests.unit import clock
from ansible_collections.virtops.qmp.tests.unit.builders import recorded, recorded_vm
from ansible_collections.virtops.qmp.tests.unit.fake_qemu import IO_ERROR, MIB, NO_SPACE, FakeQemu
from ansible_collections.virtops.qmp.tests.unit.lies import EVENT, LIES, answers_of, places, told
from ansible_collections.virtops.qmp.tests.unit.qmp_server import Client, acting_as, serving, silence

SCHEMA = Path(jobs.__file__).parents[2] / "schemas" / "stream.json"
UUID = "00000000-0000-0000-0000-000000000000"
NAMES = {"integer": int, "number": (int, float), "string": str, "object": dict, "array": list}


# --- what leaves the source -------------------------------------------------------------------------------------


def test_texts_are_shown_as_the_modules_show_them() -> None:
    """Every character is escaped, or is not, as in the results of the modules."""
    for code in range(0x10000):
        assert jobs.printable(chr(code)) == _text.printable(chr(code))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("web01", "web01"),
        ("{{ 1 }}", "\\x7b{ 1 }}"),
        ("{% if %}", "\\x7b% if %}"),
        ("{# #}", "\\x7b# #}"),
        ("{{{% x", "\\x7b\\x7b\\x7b% x"),
        ('json:{"file": {"driver"', 'json:{"file": {"driver"'),
        ("a" * 5000, "a" * 4096 + "... (904 more characters)"),
    ],
)
def test_no_text_is_a_template(text: str, shown: str) -> None:
    """What would begin a template of Ansible does so no more; what is shown once is shown so again."""
    assert jobs.printable(text) == shown
    assert jobs.printable(shown[:4096]) == shown[:4096]


def test_every_text_of_an_event_is_shown_so() -> None:
    """Texts in lists and in the disk, too."""
    assert jobs.presentable({"a": ["{{", 1, None], "b": {"c": ("\n",)}}) == {
        "a": ["\\x7b{", 1, None],
        "b": {"c": ["\\x0a"]},
    }


def an_event(**members: Any) -> dict[str, Any]:
    return {**dict.fromkeys(jobs.MEMBERS), "event": "completed", "at": 1.5, **members}


DISK = {"label": "vda", "device": "", "qdev": "vda", "node_name": "top", "path": "/vms/top.qcow2"}


@pytest.mark.parametrize(
    ("members", "is_ours"),
    [
        ({}, True),
        ({"disk": DISK, "chain": ["/vms/top.qcow2"], "jobs": [], "cur": 1, "percent": 0.5}, True),
        ({"event": "rm -rf"}, False),
        ({"event": ["completed"]}, False),
        ({"more": 1}, False),
        ({"vm": 1}, False),
        ({"cur": True}, False),
        ({"percent": float("nan")}, False),
        ({"at": None}, False),
        ({"disk": {**DISK, "path": 1}}, False),
        ({"disk": {"label": "vda"}}, False),
        ({"chain": [1]}, False),
    ],
)
def test_what_another_host_sends(members: Mapping[str, Any], is_ours: bool) -> None:
    """An event is passed on if it is one of ours, member by member."""
    found = jobs.relayed(json.dumps(an_event(**members)).encode())
    assert (found is not None) == is_ours


@pytest.mark.parametrize("line", [b"Welcome!", b"[]", b"1", b"[" * 100_000, b"\xff"])
def test_what_another_host_says(line: bytes) -> None:
    """A line that is no event is passed over."""
    assert jobs.relayed(line) is None


def test_another_host_is_not_believed_its_texts() -> None:
    """What is passed on is shown as what is heard here."""
    found = jobs.relayed(json.dumps(an_event(vm="{{ 1 }}")).encode())
    assert found is not None
    assert found["vm"] == "\\x7b{ 1 }}"


def test_the_schema_is_what_is_sent() -> None:
    """Each member with its types, each event, and the disk's members."""
    schema = json.loads(SCHEMA.read_text())
    stream = schema["properties"]["stream"]
    assert stream["required"] == list(stream["properties"]) == list(jobs.MEMBERS)
    for name, kind in jobs.MEMBERS.items():
        (types,) = [stream["properties"][name]["type"]]
        wanted = [types] if isinstance(types, str) else [each for each in types if each != "null"]
        assert [NAMES[each] for each in wanted] == [kind], name
    assert stream["properties"]["event"]["enum"] == list(jobs.EVENTS)
    assert stream["properties"]["disk"]["required"] == list(jobs.DISK_MEMBERS)


# --- what QEMU says ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        ([], int),
        ({}, int),
        ({"x": "1"}, int),
        ({"x": True}, int),
        ({"x": -1}, int),
        ({"x": 2**63}, int),
        ({"x": 1.5}, int),
        ({"x": None}, str),
        ({"x": "a" * 16385}, str),
        ({"x": [1] * 65537}, list),
        ({"x": []}, dict),
        ({"x": 1}, bool),
    ],
)
def test_no_qemu_sends_that(reply: object, kind: type) -> None:
    """A member of a wrong kind or size is an error of that VM."""
    with pytest.raises(Unfit):
        jobs.member(reply, "x", kind)


def test_what_may_be_left_out() -> None:
    """A member that is missing is what it is to be then."""
    assert jobs.member({}, "x", str, "") == ""


def a_disk(*chain: str, **members: str) -> Disk:
    values = {
        "device": "",
        "qdev": "/machine/peripheral/vda/virtio-backend",
        "node_name": "top",
        "path": "/vms/top.qcow2",
    }
    return Disk(**{**values, **members}, chain=chain or ("/vms/top.qcow2", "/vms/base.qcow2"))


@pytest.mark.parametrize(
    ("members", "label"),
    [
        ({}, "vda"),
        ({"qdev": "scsi0"}, "scsi0"),
        ({"qdev": "/machine/peripheral-anon/device[0]", "device": "drive0"}, "drive0"),
        ({"qdev": ""}, "top"),
        ({"qdev": "", "node_name": "#block1"}, "/vms/top.qcow2"),
    ],
)
def test_what_a_disk_is_called(members: dict[str, str], label: str) -> None:
    """By the shortest name that a person gave it."""
    assert a_disk(**members).label == label


@pytest.mark.parametrize("name", ["qemu-7.2-running", "qemu-7.2-running-under-filters", "qemu-7.2-pending"])
def test_it_reads_disks_as_the_modules_do(name: str) -> None:
    """The same labels and chains of the same recording."""
    ours = jobs.disks_of(recorded(name)["query-block"]).values()
    theirs = [disk for disk in recorded_vm(name).disks if disk.chain]
    assert [disk.label for disk in ours] == [disk.label for disk in theirs]


@pytest.mark.parametrize("name", ["qemu-7.2-running", "qemu-7.2-running-under-filters", "qemu-7.2-pending"])
def test_the_disk_of_a_recorded_job(name: str) -> None:
    """It is found, also under the filters of QEMU and of the user."""
    answers = recorded(name)
    disks = jobs.disks_of(answers["query-block"])
    for job_id in jobs.streams_of(answers["query-block-jobs"]):
        assert jobs.disk_of_job(job_id, answers["x-debug-query-block-graph"], disks) is not None


def graph(nodes: Mapping[str, str], *edges: tuple[str, str, str]) -> dict[str, Any]:
    """Nodes by name with their types, and edges as parent, role, child."""
    ids = {name: number for number, name in enumerate(nodes)}
    return {
        "nodes": [{"id": ids[name], "name": name, "type": kind} for name, kind in nodes.items()],
        "edges": [{"parent": ids[parent], "child": ids[child], "name": role} for parent, role, child in edges],
    }


NODES = {"top": "block-driver", "filter": "block-driver", "base": "block-driver", "j1": "block-job", "j2": "block-job"}


@pytest.mark.parametrize(
    ("edges", "found"),
    [
        ([("j1", "main node", "top"), ("top", "backing", "base")], True),  # QEMU 5.2
        ([("j1", "main node", "filter"), ("j1", "active node", "top"), ("filter", "file", "top")], True),
        ([("j2", "main node", "top")], False),
        ([("j1", "intermediate node", "top")], False),
        ([("j1", "main node", "base"), ("top", "file", "filter"), ("filter", "file", "top")], False),  # a circle
        ([("j1", "main node", "j2")], False),
        ([], False),
    ],
)
def test_the_disk_of_a_job(edges: list[tuple[str, str, str]], found: bool) -> None:
    """It is the one whose node the job writes to."""
    disk = a_disk()
    assert jobs.disk_of_job("j1", graph(NODES, *edges), {"vda": disk}) == (disk if found else None)


def test_two_disks_of_a_job() -> None:
    """Where it is not clear which of two disks is meant, none is told."""
    disks = {"vda": a_disk(), "vdb": a_disk()}
    assert jobs.disk_of_job("j1", graph(NODES, ("j1", "main node", "top")), disks) is None


def test_a_chain_that_is_too_long() -> None:
    """A VM may not make an event of any size."""
    image: dict[str, Any] = {"filename": "x"}
    for _layer in range(512):
        image = {"filename": "x", "backing-image": image}
    block = {"device": "", "inserted": {"node-name": "top", "file": "x", "image": image}}
    with pytest.raises(Unfit, match="longer than any"):
        jobs.disks_of([block])


@pytest.mark.parametrize("uuid", ["*", "", "00000000-0000-0000-0000-00000000000x"])
def test_a_pattern_is_no_uuid(uuid: str) -> None:
    """A rule that takes it for the VMs to act on acts on this one only."""
    with pytest.raises(Unfit):
        jobs.uuid_of({"UUID": uuid})


@pytest.mark.parametrize(
    ("name", "details", "ending"),
    [
        ("BLOCK_JOB_COMPLETED", {}, ("completed", "")),
        ("BLOCK_JOB_COMPLETED", {"error": IO_ERROR}, ("failed", IO_ERROR)),
        ("BLOCK_JOB_CANCELLED", {}, ("cancelled", "")),
    ],
)
def test_how_an_ending_reads(name: str, details: Any, ending: tuple[str, str]) -> None:
    """A job that completed with an error failed."""
    assert jobs.ending_of(name, details) == ending


@pytest.mark.parametrize(
    ("before", "now", "is_same_vm", "event"),
    [
        (a_disk(), a_disk("/vms/top.qcow2"), True, "completed"),
        (a_disk(), a_disk(), True, "failed"),
        (a_disk(), a_disk("/vms/snapshot.qcow2", "/vms/top.qcow2", "/vms/base.qcow2"), True, "failed"),
        (a_disk(), a_disk("/vms/top.qcow2"), False, "failed"),
        (None, a_disk("/vms/top.qcow2"), True, "failed"),
        (a_disk(), None, True, "failed"),
    ],
)
def test_an_ending_that_nobody_heard(before: Disk | None, now: Disk | None, is_same_vm: bool, event: str) -> None:
    """Only a chain without its old images tells of success."""
    found, error = jobs.ending_unheard(before, now, is_same_vm=is_same_vm)
    assert (found, bool(error)) == (event, event == "failed")


READ: Mapping[str, Callable[[Any], object]] = {
    "query-uuid": jobs.uuid_of,
    "query-block": lambda reply: jobs.presentable([disk.told() for disk in jobs.disks_of(reply).values()]),
    "query-block-jobs": jobs.streams_of,
    "x-debug-query-block-graph": lambda reply: jobs.disk_of_job("j1", reply, {"vda": a_disk()}),
    EVENT: lambda reply: [jobs.moment_of(reply), jobs.ending_of("", reply["data"]), jobs.numbers_of(reply["data"])],
}


@pytest.mark.parametrize("question", READ)
def test_a_lie_in_any_place(question: str) -> None:
    """In the place of any member of an answer it is found to be one, or is an answer of a bounded size."""
    honest = answers_of("qemu-7.2-running-under-filters")[question]
    lies = {name: lie() for name, lie in LIES.items()}
    every = [(place, name) for place in places(honest) for name in lies]
    for place, name in random.Random(1).sample(every, min(300, len(every))):
        reply = told(honest, place, lies[name])
        if question == EVENT and not isinstance(reply.get("data"), dict):
            continue  # that it is an object is held where it is read
        with contextlib.suppress(Unfit):
            answer = READ[question](reply)
            assert len(json.dumps(answer, default=str, allow_nan=False)) < 2**20, (place, name)


# --- options ----------------------------------------------------------------------------------------------------


def test_what_is_left_out_and_what_the_rulebook_adds() -> None:
    """The defaults are those of the documentation; a single monitor need not be a list."""
    assert Options.from_arguments({"monitors": "/run/a", "eda_feedback_queue": 1, "host": None}) == Options(("/run/a",))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "monitors is missing"),
        ({"monitors": [1]}, "monitors must be a list of texts"),
        ({"monitors": {"a": 1}}, "monitors must be a list of texts"),
        ({"monitors": "a", "monitor": "a"}, "unknown option monitor;"),
        ({"monitors": "a", "host": 1}, "host must be a text"),
        ({"monitors": "a", "python": ""}, "python must be a text"),
        ({"monitors": "a", "rescan": 0}, "rescan must be a number of seconds, 0.1 or more"),
        ({"monitors": "a", "rescan": True}, "rescan must be"),
        ({"monitors": "a", "progress": "x"}, "progress must be"),
        ({"monitors": "a", "connect_timeout": float("inf")}, "connect_timeout must be"),
        ({"monitors": "a", "via": ["/no/such"]}, "there is no program /no/such"),
    ],
)
def test_a_wrong_option(arguments: Mapping[str, Any], words: str) -> None:
    """It is said in words before anything is begun."""
    with pytest.raises(ValueError, match=words):
        Options.from_arguments(arguments)


def test_which_sockets_are_meant(folder: Path) -> None:
    """Of a glob the sockets; a name as it is, also where it looks like a glob and is there."""
    for name in ("a.events", "b[0].events"):
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(str(folder / name))
    (folder / "c.events").touch()
    (folder / "d.events").symlink_to("nowhere")
    found = jobs.sockets_of([f"{folder}/*.events", f"{folder}/b[0].events", "@x", "h:1"])
    assert found == {
        f"{folder}/a.events": False,
        f"{folder}/b[0].events": True,
        "@x": True,
        "h:1": True,
    }


def test_more_sockets_than_anybody_has(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that fills up costs no more than so many connections; those that are named are kept."""
    monkeypatch.setattr(jobs, "_MOST_MONITORS", 1)
    for name in ("a", "b"):
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(str(folder / name))
    assert jobs.sockets_of([f"{folder}/[ab]", "@x"]) == {f"{folder}/a": False, "@x": True}


# --- listening --------------------------------------------------------------------------------------------------


class Heard:
    """The queue of ansible-rulebook, and what came."""

    def __init__(self, most: int) -> None:
        self.queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue(most)
        self.events: list[dict[str, Any]] = []

    async def until(self, event: str, **members: Any) -> dict[str, Any]:
        """The next such event."""
        while True:
            told = (await asyncio.wait_for(self.queue.get(), 1000))["stream"]
            self.events.append(told)
            if {"event": event, **members}.items() <= told.items():
                return dict(told)

    def names(self, job: str | None = None) -> list[str]:
        return [told["event"] for told in self.events if job in (None, told["job"])]


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What would take a thread is done at once, for the time of a thread does not jump."""

    async def run_in_executor(_loop: object, _executor: object, act: Callable[..., Any], *arguments: Any) -> Any:
        return act(*arguments)

    monkeypatch.setattr(clock.JumpingLoop, "run_in_executor", run_in_executor, raising=False)


@contextlib.asynccontextmanager
async def listening(*monitors: str, most: int = 0, **options: Any) -> AsyncIterator[Heard]:
    """Listen; `most` are the events that the queue takes."""
    heard = Heard(most)
    task = asyncio.ensure_future(jobs.main(heard.queue, {"monitors": list(monitors), **options}))
    try:
        yield heard
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def vm(*files: str) -> FakeQemu:
    qemu = FakeQemu()
    qemu.add("vda", *(files or ("top.qcow2", "base.qcow2")))
    return qemu


def hear(
    qemu: FakeQemu, act: Callable[[Heard, FakeQemu], Awaitable[None]], path: Path, talk: Any = None, **options: Any
) -> Heard:
    """Serve a VM, listen to it, and let something happen when it is listened to."""

    async def go() -> Heard:
        async with serving(talk or acting_as(qemu), str(path)), listening(str(path), **options) as heard:
            await act(heard, qemu)
            return heard

    found: Heard = clock.run(go())
    return found


async def until_heard(qemu: FakeQemu) -> None:
    while "query-block" not in qemu.commands:
        await asyncio.sleep(0.01)


def test_a_stream_from_its_start_to_its_end(folder: Path) -> None:
    """Started, in progress, pending, completed; with the disk, the position, and what left the chain."""

    async def act(heard: Heard, qemu: FakeQemu) -> None:
        await until_heard(qemu)
        await asyncio.sleep(1.5)
        qemu.stream("top", "j1", auto_finalize=False)
        await heard.until("pending")
        await asyncio.sleep(3)  # without progress
        qemu.serve("job-finalize", {"id": "j1"})
        done = await heard.until("completed")
        assert (done["disk"]["label"], done["left_chain"], done["percent"]) == ("vda", ["/vms/base.qcow2"], 100.0)
        assert (done["vm"], done["uuid"], done["at"], done["host"]) == ("vm0", UUID, 1.000002, None)

    heard = hear(vm(), act, folder / "a", progress=1)
    assert heard.names() == ["started", *["progress"] * 6, "pending", "completed"]


@pytest.mark.parametrize(("reason", "words"), [(NO_SPACE, "no space left"), (IO_ERROR, "the storage failed")])
def test_an_error_that_holds_a_stream(folder: Path, reason: str, words: str) -> None:
    """It is told as held with the reason, and again to a source that starts later."""

    async def act(heard: Heard, qemu: FakeQemu) -> None:
        await until_heard(qemu)
        qemu.faults["top"] = (MIB, reason)
        qemu.stream("top", "j1", on_error="stop")
        assert words in (await heard.until("held"))["error"]
        async with listening(qemu.address.replace("/vms/vm0.qmp", str(folder / "a"))) as later:
            assert words in (await later.until("held"))["error"]
            assert later.names() == ["found", "held"]

    heard = hear(vm(), act, folder / "a")
    assert heard.names() == ["started", "held"]


def test_an_error_that_ends_a_stream(folder: Path) -> None:
    """The first of its errors is told, and the end as failed."""

    async def act(heard: Heard, qemu: FakeQemu) -> None:
        await until_heard(qemu)
        qemu.faults["top"] = (60 * MIB, IO_ERROR)
        qemu.stream("top", "j1", on_error="ignore")
        await heard.until("failed", error=IO_ERROR)

    assert hear(vm(), act, folder / "a").names() == ["started", "io_error", "failed"]


def test_a_held_stream_that_is_gone(folder: Path) -> None:
    """Where its entry is gone before it can be read, the error is told all the same; a pending one, too."""

    async def act(heard: Heard, qemu: FakeQemu) -> None:
        await until_heard(qemu)
        qemu.tell_all(
            {
                "event": "BLOCK_JOB_ERROR",
                "data": {"device": "j1", "type": "stream", "operation": "read", "action": "stop"},
            }
        )
        assert "the storage failed" in (await heard.until("held", job="j1"))["error"]
        qemu.tell_all({"event": "BLOCK_JOB_PENDING", "data": {"id": "j1", "type": "stream"}})
        assert (await heard.until("pending", job="j1"))["cur"] is None

    hear(vm(), act, folder / "a")


def test_a_stream_that_is_cancelled(folder: Path) -> None:
    """It is neither completed nor failed."""

    async def act(heard: Heard, qemu: FakeQemu) -> None:
        await until_heard(qemu)
        qemu.stream("top", "j1")
        await heard.until("started")
        qemu.serve("job-cancel", {"id": "j1"})
        assert (await heard.until("cancelled"))["left_chain"] == []

    hear(vm(), act, folder / "a")


def test_what_is_no_stream_is_not_told(folder: Path) -> None:
    """Other jobs are passed over from their start to their end."""

    async def act(heard: Heard, qemu: FakeQemu) -> None:
        await until_heard(qemu)
        qemu.tell_all({"event": "RESUME", "data": {}})
        job = qemu.other_job("top")
        qemu._change(job, "running")
        qemu._conclude(job, "BLOCK_JOB_COMPLETED")
        qemu.stream("top", "j1")
        await heard.until("completed", job="j1")

    assert hear(vm(), act, folder / "a").names() == ["started", "completed"]


def test_a_stream_that_is_over_before_it_is_looked_at(folder: Path) -> None:
    """It is known by the one chain that changed; where two changed, no disk is told rather than a wrong one."""

    async def act(heard: Heard, qemu: FakeQemu) -> None:
        await until_heard(qemu)
        qemu._end(qemu.stream("top", "j-top"))
        assert (await heard.until("completed", job="j-top"))["disk"]["label"] == "vda"
        for name in ("b", "c"):
            qemu._end(qemu.stream(name, f"j-{name}"))
        for name in ("b", "c"):
            assert (await heard.until("completed", job=f"j-{name}"))["disk"] is None

    qemu = vm()
    qemu.add("vdb", "b.qcow2", "b-base.qcow2")
    qemu.add("vdc", "c.qcow2", "c-base.qcow2")
    hear(qemu, act, folder / "a")


def test_the_end_of_a_vm(folder: Path) -> None:
    """Its shutdown with the reason, then the loss of the monitor, each with the streams that there were; its return."""

    async def go() -> None:
        path, qemu = str(folder / "a"), vm()
        async with listening(path) as heard:
            assert "the VM is off" in (await heard.until("monitor_lost"))["error"]
            async with serving(acting_as(qemu), path):
                await heard.until("monitor_back", vm="vm0")
                qemu.stream("top", "j1")
                await heard.until("started")
                qemu.tell_all({"event": "SHUTDOWN", "data": {"guest": False, "reason": "host-signal"}})
                told = await heard.until("vm_shutdown")
                assert (told["error"], told["jobs"]) == ("host-signal", ["j1"])
            Path(path).unlink(missing_ok=True)  # Python 3.13 has done so
            assert (await heard.until("monitor_lost"))["jobs"] == ["j1"]
            async with serving(acting_as(vm()), path):
                await heard.until("monitor_back")
                failed = await heard.until("failed", job="j1")
                assert (failed["disk"]["label"], failed["left_chain"]) == ("vda", [])
            Path(path).unlink(missing_ok=True)  # Python 3.13 has done so
            await heard.until("monitor_lost")
            done = vm("top.qcow2")
            done.name = "another"
            async with serving(acting_as(done), path):
                await heard.until("monitor_back", vm="another")

    clock.run(go())


@pytest.mark.parametrize(("name", "event", "by"), [("vm0", "completed", "vm0"), ("another", "failed", "vm0")])
def test_what_became_of_a_stream_that_nobody_heard(folder: Path, name: str, event: str, by: str) -> None:
    """Its chain tells, if it is the same VM; it is told of the VM that had it."""

    async def go() -> None:
        path, qemu = str(folder / "a"), vm()
        async with listening(f"{folder}/*") as heard:
            async with serving(acting_as(qemu), path):
                await until_heard(qemu)
                qemu.stream("top", "j1")
                await heard.until("started")
            Path(path).unlink(missing_ok=True)  # Python 3.13 has done so
            await heard.until("monitor_lost")
            done = vm("top.qcow2")
            done.name = name
            async with serving(acting_as(done), path):
                await heard.until("monitor_back", vm=name)
                assert (await heard.until(event, job="j1"))["vm"] == by

    clock.run(go())


def test_a_stream_whose_disk_is_not_known_and_that_nobody_heard(folder: Path) -> None:
    """It failed, for nothing tells of its success."""

    async def go() -> None:
        path, qemu = str(folder / "a"), vm()
        async with listening(path) as heard:
            async with serving(acting_as(qemu), path):
                await heard.until("monitor_back") if heard.events else await until_heard(qemu)
                qemu.tell_all({"event": "BLOCK_JOB_PENDING", "data": {"id": "j1", "type": "stream"}})
                await heard.until("pending")
            Path(path).unlink(missing_ok=True)  # Python 3.13 has done so
            async with serving(acting_as(vm("top.qcow2")), path):
                assert (await heard.until("failed", job="j1"))["disk"] is None

    clock.run(go())


def test_streams_that_are_there_already(folder: Path) -> None:
    """They are found; what is over and was not dismissed is none."""

    async def act(heard: Heard, qemu: FakeQemu) -> None:
        await heard.until("pending", job="j1")

    async def go() -> Heard:
        qemu = vm()
        qemu.add("vdb", "b.qcow2", "b-base.qcow2")
        qemu.stream("b", "j0", auto_dismiss=False)
        qemu._end(qemu.jobs["j0"])
        qemu._end(qemu.stream("top", "j1", auto_finalize=False))
        async with serving(acting_as(qemu), str(folder / "a")), listening(str(folder / "a")) as heard:
            await act(heard, qemu)
            return heard

    assert clock.run(go()).names() == ["found", "pending"]


def test_a_busy_monitor(folder: Path) -> None:
    """It is told once, after so many seconds; its queue is not left."""
    qemu, calls = vm(), []

    async def talk(client: Client) -> None:
        calls.append(asyncio.get_running_loop().time())
        await asyncio.sleep(500)
        await acting_as(qemu)(client)

    async def act(heard: Heard, qemu: FakeQemu) -> None:
        await heard.until("monitor_busy")
        await heard.until("monitor_back")

    heard = hear(qemu, act, folder / "a", talk)
    assert (heard.names(), len(calls)) == (["monitor_busy", "monitor_back"], 1)


def test_a_monitor_whose_queue_is_full(folder: Path) -> None:
    """It is told as busy, and it is tried again and again."""

    async def go() -> None:
        path = str(folder / "a")
        with contextlib.ExitStack() as stack:
            server = stack.enter_context(socket.socket(socket.AF_UNIX))
            server.bind(path)
            server.listen(0)
            stack.enter_context(socket.socket(socket.AF_UNIX)).connect(path)
            async with listening(path, connect_timeout=5) as heard:
                await heard.until("monitor_busy")

    clock.run(go())


@pytest.mark.parametrize(
    ("talk", "words"),
    [
        pytest.param(None, "the VM is off", id="nobody"),
        pytest.param([b"hello\n"], "does not speak QMP", id="no QMP"),
        pytest.param([], "QEMU is quitting", id="quits"),
    ],
)
def test_no_greeting(folder: Path, talk: list[bytes] | None, words: str) -> None:
    """It is said why nobody is listened to; of a monitor that a glob found and nobody serves nothing is said."""

    async def says(client: Client) -> None:
        client.send(*talk or [])

    async def go(*names: str) -> list[str]:
        async with contextlib.AsyncExitStack() as stack:
            if talk is None:
                with socket.socket(socket.AF_UNIX) as bound:
                    bound.bind(str(folder / "a"))
            else:
                await stack.enter_async_context(serving(says, str(folder / "a")))
            async with listening(f"{folder}/*", f"{folder}/../{folder.name}/a") as heard:
                told = await heard.until("monitor_lost")
                assert words in told["error"]
                await asyncio.sleep(10)
                return [
                    told["monitor"],
                    *(heard.queue.get_nowait()["stream"]["monitor"] for _each in range(heard.queue.qsize())),
                ]

    told = clock.run(go())
    assert len(told) == (1 if talk is None else 2)


def test_what_is_no_socket(folder: Path) -> None:
    """A file that is named outright, and a port at which nobody listens."""
    (folder / "a").touch()

    async def go() -> None:
        async with listening(str(folder / "a"), "127.0.0.1:1", "@virtops-nobody") as heard:
            told = {(await heard.until("monitor_lost"))["monitor"] for _each in range(3)}
            assert told == {str(folder / "a"), "127.0.0.1:1", "@virtops-nobody"}
            assert "it is no socket" in " ".join(each["error"] for each in heard.events)

    clock.run(go())


def test_a_port(folder: Path) -> None:
    """A monitor over TCP is heard, too."""

    async def go() -> None:
        qemu = vm()
        async with serving(acting_as(qemu)) as address, listening(address) as heard:
            await until_heard(qemu)
            qemu.stream("top", "j1")
            await heard.until("completed")

    clock.run(go())


def test_a_qemu_that_refuses_or_dies_at_a_question(folder: Path) -> None:
    """It is lost with the reason, and tried again."""

    async def refusing(heard: Heard, qemu: FakeQemu) -> None:
        assert "refused query-block: no" in (await heard.until("monitor_lost"))["error"]
        qemu.refuses.clear()
        await heard.until("monitor_back")

    qemu = vm()
    qemu.refuses["query-block"] = "no"
    hear(qemu, refusing, folder / "a")


async def hang_up(client: Client) -> None:
    await client.shake_hands()
    await client.receive()


async def hang(client: Client) -> None:
    await client.shake_hands()
    await silence(client)


async def end_at_the_greeting(client: Client) -> None:
    client.send({"QMP": {"version": {}, "capabilities": []}})
    await client.receive()
    client.send({"return": {}})


def sends(*lines: Any, hangs_up: bool = False) -> Callable[[Client], Awaitable[None]]:
    async def talk(client: Client) -> None:
        await client.shake_hands()
        await client.receive()
        client.send(*lines)
        if not hangs_up:
            await silence(client)

    return talk


@pytest.mark.parametrize(
    ("talk", "words"),
    [
        pytest.param(hang_up, "closed the monitor at query-name", id="hangs up"),
        pytest.param(hang, "no answer to query-name within 30 s", id="hangs"),
        pytest.param(sends(b"[" * 10_000 + b"]" * 10_000 + b"\n"), "does not speak as QEMU does", id="too deep"),
        pytest.param(sends(b"[" + b"{}," * 2**17 + b"{}]\n"), "does not speak as QEMU does", id="too many objects"),
        pytest.param(sends(b"{", hangs_up=True), "closed the monitor", id="dies in a word"),
        pytest.param(sends({"event": 1}), "does not speak as QEMU does", id="an event without a name"),
        pytest.param(sends({"return": 1, "id": []}), "does not speak as QEMU does", id="for nobody"),
        pytest.param(sends({"return": {}, "id": "x"}), "no answer to query-name", id="for somebody else"),
    ],
)
def test_a_qemu_that_does_not_answer(folder: Path, talk: Any, words: str) -> None:
    """It is lost with the reason, once."""

    async def act(heard: Heard, qemu: FakeQemu) -> None:
        assert words in (await heard.until("monitor_lost"))["error"]
        await asyncio.sleep(20)
        assert heard.queue.empty()

    hear(vm(), act, folder / "a", talk)


def test_a_qemu_that_hangs_up_again_and_again(folder: Path) -> None:
    """It is visited no more often than new monitors are looked for."""
    calls: list[Client] = []

    async def talk(client: Client) -> None:
        calls.append(client)
        await hang_up(client)

    async def act(heard: Heard, qemu: FakeQemu) -> None:
        await heard.until("monitor_lost")
        await asyncio.sleep(60)
        assert 25 < len(calls) < 40

    hear(vm(), act, folder / "a", talk)


def lying(qemu: FakeQemu, command: str, reply: Any) -> Any:
    """A VM that answers one question with this."""
    setattr(qemu, "_" + command.replace("-", "_"), lambda _arguments: reply)
    return acting_as(qemu)


@pytest.mark.parametrize("command", ["query-name", "query-uuid", "query-block", "query-block-jobs"])
def test_a_lie_is_told_as_such(folder: Path, command: str) -> None:
    """What no QEMU sends ends the session, and costs a minute's pause."""

    async def act(heard: Heard, qemu: FakeQemu) -> None:
        assert "reply" in (await heard.until("monitor_lost"))["error"]
        asked = len(qemu.log)
        await asyncio.sleep(55)
        assert len(qemu.log) == asked

    qemu = vm()
    hear(qemu, act, folder / "a", lying(qemu, command, 7))


def test_more_streams_than_a_vm_can_have(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A VM that tells of ever more costs no more memory."""
    monkeypatch.setattr(jobs, "_MOST_JOBS", 0)

    async def act(heard: Heard, qemu: FakeQemu) -> None:
        await until_heard(qemu)
        qemu.stream("top", "j1")
        assert "more than 0 streams" in (await heard.until("monitor_lost"))["error"]

    hear(vm(), act, folder / "a")


def test_more_events_than_can_be_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was not read is made good by a new look."""
    monkeypatch.setattr(jobs, "_MOST_UNREAD", 5)

    async def act(heard: Heard, qemu: FakeQemu) -> None:
        await until_heard(qemu)
        await asyncio.sleep(1)
        for _each in range(50):
            qemu.tell_all({"event": "SHUTDOWN", "data": {}})
        await asyncio.sleep(1)
        assert "5 events at once" in (await heard.until("monitor_lost"))["error"]
        await heard.until("monitor_back")

    hear(vm(), act, folder / "a", most=1)


def test_a_vm_that_dies_while_its_events_wait(folder: Path) -> None:
    """They are told, and then its loss."""

    async def go() -> None:
        path, qemu = str(folder / "a"), vm()
        async with listening(path, most=1) as heard:
            async with serving(acting_as(qemu), path):
                await until_heard(qemu)
                await asyncio.sleep(1)
                for _each in range(3):
                    qemu.tell_all({"event": "SHUTDOWN", "data": {}})
                await asyncio.sleep(1)
            await asyncio.sleep(1)
            await heard.until("monitor_lost")
            assert heard.names()[-4:] == [*["vm_shutdown"] * 3, "monitor_lost"]

    clock.run(go())


def test_a_vm_that_tells_too_much_is_slowed_down(folder: Path) -> None:
    """After so many at once so many a second."""

    async def act(heard: Heard, qemu: FakeQemu) -> None:
        await until_heard(qemu)
        await asyncio.sleep(1)
        began = asyncio.get_running_loop().time()
        for _each in range(1000):
            qemu.tell_all({"event": "SHUTDOWN", "data": {}})
        for _each in range(1000):
            await heard.until("vm_shutdown")
        assert 9 < asyncio.get_running_loop().time() - began < 11

    hear(vm(), act, folder / "a")


def test_an_error_of_ours_is_that_of_one_vm(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody thought of ends the listening to that VM for a minute, and is logged."""
    monkeypatch.setattr(jobs, "moment_of", lambda _event: 1 / 0)

    async def act(heard: Heard, qemu: FakeQemu) -> None:
        await until_heard(qemu)
        await asyncio.sleep(1)
        qemu.tell_all({"event": "SHUTDOWN", "data": {}})
        assert (await heard.until("monitor_lost"))["error"] == "unexpected: ZeroDivisionError"

    hear(vm(), act, folder / "a")


def test_sockets_that_come_and_go(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is remembered of those that are gone is limited."""
    monkeypatch.setattr(jobs, "_MOST_MONITORS", 2)

    async def go() -> None:
        async with listening(f"{folder}/*") as heard:
            for number in range(6):
                with socket.socket(socket.AF_UNIX) as bound:
                    bound.bind(str(folder / str(number)))
                await asyncio.sleep(5)
                os.unlink(folder / str(number))
            assert heard.queue.empty()

    clock.run(go())


def test_the_host_is_told(folder: Path) -> None:
    """Its name is in the event, and where ansible-rulebook looks for the hosts of an action."""

    async def go() -> Any:
        async with listening(str(folder / "a"), host="hv1") as heard:
            return await heard.queue.get()

    told = clock.run(go())
    assert (told["stream"]["host"], told["meta"]) == ("hv1", {"hosts": ["hv1"]})


# --- another host -----------------------------------------------------------------------------------------------


class Stdin:
    """What is written to a process."""

    def __init__(self) -> None:
        self.written = b""
        self.is_open = True

    def write(self, text: bytes) -> None:
        self.written += text

    async def drain(self) -> None:
        if not self.is_open:
            raise BrokenPipeError

    def close(self) -> None:
        self.is_open = False


class FakeProcess:
    """A process that ends when it is told to so many times."""

    def __init__(self, *lines: bytes, stderr: bytes = b"", goes_on: bool = False, stays: int = 0) -> None:
        self.stdin, self.stdout, self.stderr = Stdin(), asyncio.StreamReader(limit=1000), asyncio.StreamReader()
        self.ended, self._stays = asyncio.Event(), stays
        self.stdout.feed_data(b"".join(line + b"\n" for line in lines))
        self.stderr.feed_data(stderr)
        self.stderr.feed_eof()
        if not goes_on:
            self.end()

    def end(self) -> None:
        self.stdout.feed_eof()
        self.ended.set()

    async def wait(self) -> int:
        await self.ended.wait()
        return 255

    def terminate(self) -> None:
        if self.ended.is_set():
            raise ProcessLookupError
        self._stays -= 1
        if self._stays < 0:
            self.ended.set()

    kill = terminate


def relaying(
    act: Callable[[Heard, list[Any]], Awaitable[None]], monkeypatch: pytest.MonkeyPatch, *makers: Any
) -> Heard:
    """Pass on what these processes say, one after the other; the last one is started again and again."""
    started: list[Any] = []

    async def spawn(*words: str, **_options: Any) -> Any:
        maker = makers[min(len(started), len(makers) - 1)]
        process = maker()
        process.words = words
        started.append(process)
        return process

    monkeypatch.setattr(asyncio, "create_subprocess_exec", spawn)

    async def go() -> Heard:
        async with listening("/run/*", via=["sh", "-c"], host="hv1") as heard:
            await act(heard, started)
            return heard

    found: Heard = clock.run(go())
    return found


def line(**members: Any) -> bytes:
    return json.dumps(an_event(**members)).encode()


STARTED = {
    "event": "started",
    "monitor": "/run/a",
    "job": "j1",
    "vm": "vm0",
    "uuid": UUID,
    "disk": DISK,
    "chain": ["a", "b"],
}


def test_what_another_host_tells_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the name of the host that the rulebook gave it."""

    async def act(heard: Heard, started: list[Any]) -> None:
        assert (await heard.until("started"))["host"] == "hv1"
        await asyncio.sleep(15)
        assert started[0].words[:2] == ("sh", "-c")
        assert started[0].words[2].startswith("exec python3 -c ")
        length, _newline, rest = started[0].stdin.written.partition(b"\n")
        code, order = rest[: int(length)], rest[int(length) :].split(b"\n")
        assert code == Path(jobs.__file__).read_bytes()
        assert json.loads(order[0])["options"]["monitors"] == ["/run/*"]
        assert order[1:] == [b"", b""]  # it was said that we are there

    relaying(act, monkeypatch, lambda: FakeProcess(b"", b"Welcome!", line(**STARTED, host="liar"), goes_on=True))


def test_the_end_of_another_host_is_told_once_and_its_return(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was known of streams is handed to the next one, in which it is made good."""

    async def act(heard: Heard, started: list[Any]) -> None:
        lost = await heard.until("monitor_lost")
        assert (lost["jobs"], lost["monitor"]) == (["j1"], None)
        assert "sh: connection refused" in lost["error"]
        await heard.until("monitor_back")
        await heard.until("completed")
        assert b'"remembered": [{"event": "started"' in started[-1].stdin.written
        started[-1].end()
        assert (await heard.until("monitor_lost"))["jobs"] == []

    ended = {**STARTED, "event": "completed"}
    heard = relaying(
        act,
        monkeypatch,
        lambda: FakeProcess(
            line(**STARTED), line(event="monitor_busy", monitor="/run/b"), stderr=b"a warning\nconnection refused\n"
        ),
        lambda: FakeProcess(stderr=b"connection refused"),
        lambda: FakeProcess(b"Welcome!", b"", line(**ended), goes_on=True),
    )
    assert heard.names() == ["started", "monitor_busy", "monitor_lost", "monitor_back", "completed", "monitor_lost"]


@pytest.mark.parametrize(
    ("maker", "words"),
    [
        (FakeProcess, "it ended"),
        (lambda: FakeProcess(goes_on=True), "nothing came for 60 s"),
        (lambda: FakeProcess(goes_on=True, stays=1), "nothing came for 60 s"),
        (lambda: FakeProcess(goes_on=True, stays=2), "nothing came for 60 s"),
        (lambda: FakeProcess(b"x" * 5000, goes_on=True), "a line of more than 4 MiB"),
    ],
)
def test_why_another_host_is_lost(monkeypatch: pytest.MonkeyPatch, maker: Any, words: str) -> None:
    """A connection that is silent or talks nonsense is ended, by force if need be."""

    async def act(heard: Heard, started: list[Any]) -> None:
        assert words in (await heard.until("monitor_lost"))["error"]
        assert not started[0].stdin.is_open

    relaying(act, monkeypatch, maker)


def test_a_program_that_cannot_be_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is tried again: the table of processes may have been full."""

    def fail() -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    async def act(heard: Heard, started: list[Any]) -> None:
        assert "cannot run it: Resource" in (await heard.until("monitor_lost"))["error"]
        await heard.until("monitor_back")

    failures = iter([fail, fail])

    def maker() -> FakeProcess | None:
        return next(failures, lambda: FakeProcess(b"", goes_on=True))()

    relaying(act, monkeypatch, maker)


def test_what_is_remembered_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest is forgotten."""
    monkeypatch.setattr(jobs, "_MOST_REMEMBERED", 2)
    made = [{**STARTED, "job": f"j{number}"} for number in range(4)]

    async def act(heard: Heard, started: list[Any]) -> None:
        assert (await heard.until("monitor_lost"))["jobs"] == ["j2", "j3"]

    relaying(act, monkeypatch, lambda: FakeProcess(*(line(**each) for each in made)))


def serve(folder: Path, remembered: list[dict[str, Any]], act: Callable[[Any, list[Any]], Awaitable[None]]) -> None:
    """Be the other end, whose caller is `act`: it gets the way to speak to it, and the lines that it said."""
    lines: list[Any] = []

    async def go() -> None:
        caller = asyncio.StreamReader()
        order = {"options": {"monitors": [f"{folder}/*"]}, "remembered": remembered}
        serving = asyncio.ensure_future(jobs.serve(order, caller, lines.append))
        await act(caller, lines)
        await asyncio.wait_for(serving, 1000)

    clock.run(go())


def events_in(lines: list[bytes]) -> list[str]:
    return [json.loads(each)["event"] for each in lines if each.strip()]


def test_the_other_end_ends_with_its_caller(folder: Path) -> None:
    """As soon as nobody is at its input any more."""

    async def act(caller: Any, lines: list[Any]) -> None:
        caller.feed_data(b"\n")
        await asyncio.sleep(1)
        assert lines == [b"\n"]
        caller.feed_eof()

    serve(folder, [], act)


def test_the_other_end_ends_when_its_caller_is_silent(folder: Path) -> None:
    """A connection that is dead is as good as none."""

    async def act(caller: Any, lines: list[Any]) -> None:
        await asyncio.sleep(70)
        assert set(lines) == {b"\n"}

    serve(folder, [], act)


def test_the_other_end_ends_when_nobody_reads(folder: Path) -> None:
    """As a pipe without a reader tells."""

    def write(_line: bytes) -> None:
        raise BrokenPipeError

    async def go() -> None:
        order = {"options": {"monitors": [f"{folder}/*"]}, "remembered": []}
        await jobs.serve(order, asyncio.StreamReader(), write)

    clock.run(go())


def test_the_other_end_goes_by_what_is_remembered(folder: Path) -> None:
    """A stream that ended meanwhile is told; one of a VM that is off, as lost; the disk may be unknown."""
    known = {
        **STARTED,
        "monitor": str(folder / "a"),
        "disk": {**DISK, "qdev": "/machine/peripheral/vda/virtio-backend"},
    }
    known["chain"] = ["/vms/top.qcow2", "/vms/base.qcow2"]
    events = [an_event(**known), an_event(**{**known, "monitor": str(folder / "b"), "disk": None, "chain": None})]

    async def act(caller: Any, lines: list[Any]) -> None:
        async with serving(acting_as(vm("top.qcow2")), str(folder / "a")):
            await asyncio.sleep(5)
            assert sorted(events_in(lines)) == ["completed", "monitor_lost"]
            caller.feed_eof()

    serve(folder, events, act)


@pytest.fixture
def without_qemu_qmp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "qemu.qmp", None)


def run_file(name: str) -> dict[str, Any]:
    """Run the file under this name, of a module that there is. Python's own `runpy` is in the hands of ansible-test."""
    variables: dict[str, Any] = {"__name__": name, "__file__": jobs.__file__}
    exec(compile(Path(jobs.__file__).read_bytes(), jobs.__file__, "exec"), variables)
    return variables


@pytest.mark.usefixtures("without_qemu_qmp")
def test_a_python_without_qemu_qmp() -> None:
    """It is said what is missing where: at once here, and by the other end to its caller."""
    source = run_file(__name__)
    with pytest.raises(ModuleNotFoundError, match=r"qemu\.qmp is missing in"):
        asyncio.run(source["main"](asyncio.Queue(), {"monitors": ["/run/a"]}))
    with pytest.raises(SystemExit, match=r"qemu\.qmp is missing in"):
        run_file("__main__")


def test_the_file_as_a_program(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It reads its order, says that it is there, and ends with its input."""
    reading, writing = os.pipe()
    order = {"options": {"monitors": [f"{folder}/*"]}, "remembered": []}
    os.write(writing, json.dumps(order).encode() + b"\n")
    os.close(writing)
    with open(folder / "out", "w") as out, os.fdopen(reading) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        monkeypatch.setattr(sys, "stdout", out)
        codes: list[int] = []
        monkeypatch.setattr(os, "_exit", codes.append)
        run_file("__main__")
    assert (codes, (folder / "out").read_text().strip()) == ([0], "")
