# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import os
import socket
import sys
from pathlib import Path
from typing import Any, Awaitable, Callable, Iterator  # noqa: UP035  # Python 3.8

import pytest
from ansible_collections.virtops.qmp.plugins.module_utils._model._errors import (
    CommandRefused,
    MonitorError,
    MonitorLost,
    MonitorMissing,
    MonitorSilent,
    MonitorUnusable,
)
from ansible_collections.virtops.qmp.plugins.module_utils._model._peer import Owner, Peer
from ansible_collections.virtops.qmp.plugins.module_utils._reach import _peer, _qmp
from ansible_collections.virtops.qmp.plugins.module_utils._reach._qmp import (
    QmpConnection,
    open_connection,
)
from ansible_collections.virtops.qmp.tests.unit import clock
from ansible_collections.virtops.qmp.tests.unit.qmp_server import GREETING, Client, Talk, serving, silence
from qemu.qmp import QMPClient

Use = Callable[[QmpConnection], Awaitable[Any]]
MOST = 4 * 2**20
EVENT = {"timestamp": {"seconds": 1, "microseconds": 2}}


async def come_and_go(monitor: QmpConnection) -> None:
    pass


async def ask(monitor: QmpConnection) -> Any:
    return await monitor.execute("query-status")


def meet(talk: Talk, use: Use = come_and_go, path: Path | None = None) -> Any:
    """Let a server talk to a user of the product's monitor; without a path over TCP."""

    async def work() -> Any:
        served = serving(talk, None if path is None else str(path))
        async with served as address, open_connection(address, timeout=10) as monitor:
            return await use(monitor)

    # What one end of a UNIX socket writes is at the other end at once; over TCP it takes a moment of real time.
    return asyncio.run(work()) if path is None else clock.run(work())


async def polite(client: Client) -> None:
    """Shake hands and tell each command what it was."""
    await client.shake_hands()
    while True:
        message = await client.receive()
        client.answer(message, {key: message[key] for key in ("execute", "arguments") if key in message})


def then(*messages: Any) -> Talk:
    """Shake hands, answer the first command with these lines, and hang up."""

    async def talk(client: Client) -> None:
        await client.shake_hands()
        await client.receive()
        client.send(*messages)

    return talk


def says(*messages: Any) -> Talk:
    """Say this, and hang up."""

    async def talk(client: Client) -> None:
        client.send(*messages)

    return talk


def says_and_stays(*messages: Any) -> Talk:
    async def talk(client: Client) -> None:
        client.send(*messages)
        await silence(client)

    return talk


# -- A session ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("over_tcp", [False, True], ids=["UNIX", "TCP"])
def test_a_command_is_sent_and_answered(folder: Path, over_tcp: bool) -> None:
    """Commands go out with their arguments, and what QEMU returns comes back."""

    async def use(monitor: QmpConnection) -> list[Any]:
        with_arguments = {"device": "top", "speed": 0}
        return [await monitor.execute("query-block"), await monitor.execute("block-stream", with_arguments)]

    assert meet(polite, use, None if over_tcp else folder / "qmp") == [
        {"execute": "query-block"},
        {"execute": "block-stream", "arguments": {"device": "top", "speed": 0}},
    ]


def test_the_process_behind_a_unix_socket_is_known(folder: Path) -> None:
    """The pid is that of who made the socket, and the address is what was asked for."""

    async def use(monitor: QmpConnection) -> tuple[str, Peer | None]:
        return monitor.address, monitor.peer

    address, peer = meet(polite, use, folder / "qmp")
    assert (address, peer.pid, peer.uid) == (str(folder / "qmp"), os.getpid(), os.geteuid())


def test_the_process_behind_a_port_is_not_known() -> None:
    """Over TCP no process can be told."""

    async def use(monitor: QmpConnection) -> Peer | None:
        return monitor.peer

    assert meet(polite, use) is None


def test_a_monitor_is_left_free(folder: Path) -> None:
    """After the session the connection is closed, also when its user failed."""
    ends: list[str] = []

    async def talk(client: Client) -> None:
        try:
            await polite(client)
        finally:
            ends.append("closed")

    async def use(monitor: QmpConnection) -> None:
        raise KeyError("of the user")

    with pytest.raises(KeyError):
        meet(talk, use, folder / "qmp")
    assert ends == ["closed"]


def test_what_qemu_refuses_is_an_error_with_its_reason(folder: Path) -> None:
    """QEMU's description comes through, and the session goes on."""

    async def talk(client: Client) -> None:
        await client.shake_hands()
        message = await client.receive()
        client.refuse(message, "Node 'top' is busy")
        client.answer(await client.receive(), "still here")

    async def use(monitor: QmpConnection) -> Any:
        with pytest.raises(CommandRefused) as refusal:
            await monitor.execute("block-stream", {"device": "top"})
        assert (refusal.value.command, refusal.value.reason) == ("block-stream", "Node 'top' is busy")
        return await monitor.execute("query-status")

    assert meet(talk, use, folder / "qmp") == "still here"


def test_a_descriptor_goes_with_a_command(folder: Path) -> None:
    """An open file is passed on a UNIX socket, and the session goes on as usual."""

    async def use(monitor: QmpConnection) -> Any:
        with (folder / "file").open("w") as file:
            return await monitor.execute("getfd", {"fdname": "it"}, file.fileno())

    assert meet(polite, use, folder / "qmp") == {"execute": "getfd", "arguments": {"fdname": "it"}}


def test_no_descriptor_over_tcp() -> None:
    """Where no open file can be passed the command is not sent."""

    async def use(monitor: QmpConnection) -> Any:
        with pytest.raises(MonitorUnusable, match="no file descriptor can be passed"):
            await monitor.execute("getfd", {"fdname": "it"}, 0)
        return await monitor.execute("query-status")

    assert meet(polite, use) == {"execute": "query-status"}


# -- No session --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("talk", "kind", "words"),
    [
        pytest.param(
            silence, MonitorSilent, "no greeting from the monitor within 10 s. What made the socket acc", id="silence"
        ),
        pytest.param(says_and_stays(GREETING), MonitorSilent, "within 10 s", id="silence after the greeting"),
        pytest.param(says(), MonitorLost, "before the greeting", id="end before the greeting"),
        pytest.param(says(GREETING), MonitorLost, "the connection ended", id="end after the greeting"),
        pytest.param(
            says_and_stays(b"QEMU 7.2.22 monitor - type 'help' for more information\r\n(qemu) \r\n"),
            MonitorUnusable,
            r"this is QEMU's human monitor \(HMP\)",
            id="a human monitor",
        ),
        pytest.param(says_and_stays({"QMP": 7}), MonitorUnusable, "does not speak QMP", id="half a greeting"),
        pytest.param(says_and_stays({}), MonitorUnusable, "does not speak QMP", id="an empty greeting"),
        pytest.param(says_and_stays(b"[]\r\n"), MonitorUnusable, "does not speak QMP", id="a list"),
        pytest.param(
            says_and_stays(b"x" * 11 * 2**20 + b"\r\n"), MonitorUnusable, "does not speak QMP", id="a line of 11 MiB"
        ),
    ],
)
def test_a_peer_that_does_not_greet(folder: Path, talk: Talk, kind: type[MonitorError], words: str) -> None:
    """A peer that is no QMP monitor, or no longer one, is told from one that is busy, and nobody waits for ever."""
    with pytest.raises(kind, match=words):
        meet(talk, path=folder / "qmp")


def test_a_peer_that_refuses_the_negotiation(folder: Path) -> None:
    """A monitor that does not take our capabilities cannot be used."""

    async def talk(client: Client) -> None:
        client.send(GREETING)
        message = await client.receive()
        client.refuse(message, "no")
        await silence(client)

    with pytest.raises(MonitorUnusable, match="does not speak QMP"):
        meet(talk, path=folder / "qmp")


def test_a_peer_that_is_gone_as_soon_as_the_session_begins(folder: Path) -> None:
    """A QEMU that dies with the last word of the negotiation is lost, not a traceback."""

    async def talk(client: Client) -> None:
        await client.shake_hands()

    with pytest.raises(MonitorLost, match="the connection ended"):
        meet(talk, ask, folder / "qmp")


def test_an_assertion_of_the_library_is_a_lost_connection(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """qemu.qmp asserts that a session still runs once it began; that it does not is no bug of anybody."""

    async def connect(self: Any, address: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(QMPClient, "connect", connect)
    with pytest.raises(MonitorLost, match="right after the greeting"):
        meet(polite, path=folder / "qmp")


def reach(address: object, run: Callable[[Any], Any] = clock.run) -> None:
    async def work() -> None:
        async with open_connection(str(address), timeout=10):
            pass

    run(work())


def test_a_path_without_a_socket(folder: Path) -> None:
    """A path that is not there belongs to a VM that is off, or is wrong."""
    with pytest.raises(MonitorMissing, match="there is no such socket"):
        reach(folder / "nosuch")


def test_a_path_that_is_no_socket(folder: Path) -> None:
    """A regular file is told as what it is."""
    (folder / "file").write_text("")
    with pytest.raises(MonitorUnusable, match="this is not a socket"):
        reach(folder / "file")


def test_a_socket_that_nobody_serves(folder: Path) -> None:
    """The socket of a QEMU that died refuses."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(folder / "qmp"))
        with pytest.raises(MonitorMissing, match="the connection was refused"):
            reach(folder / "qmp")


def test_a_port_that_nobody_serves() -> None:
    """A port without a server refuses."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        with pytest.raises(MonitorMissing, match="the connection was refused"):
            reach(f"127.0.0.1:{free.getsockname()[1]}", asyncio.run)


def test_a_port_that_does_not_speak_qmp() -> None:
    """What is wrong with a peer over TCP is told as over a UNIX socket."""
    with pytest.raises(MonitorUnusable, match="does not speak QMP"):
        meet(says_and_stays(b"SSH-2.0-OpenSSH_9.2\r\n"))


@contextlib.contextmanager
def full(path: Path) -> Iterator[socket.socket]:
    """A server whose queue is full of clients that gave up; it accepts nobody by itself."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen(0)
        server.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                with socket.socket(socket.AF_UNIX) as client:
                    client.setblocking(False)
                    client.connect(str(path))
        yield server


def test_a_queue_that_stays_full(folder: Path) -> None:
    """A monitor with more clients waiting than it takes is busy, which is said when the time is up, not before."""

    async def work() -> float:
        loop = asyncio.get_running_loop()
        with pytest.raises(MonitorSilent, match="the queue of the clients that wait for it was full for 10 s"):
            async with open_connection(str(folder / "qmp"), timeout=10):
                pass
        return loop.time()

    with full(folder / "qmp"):
        assert 9 < clock.run(work()) <= 10


def test_a_queue_that_clears_in_time(folder: Path) -> None:
    """When the dead clients are accepted and dropped, there is a place; the greeting has the time that is left."""

    async def work(server: socket.socket) -> float:
        async def clear() -> None:
            await asyncio.sleep(4)
            with contextlib.suppress(BlockingIOError):
                while True:
                    server.accept()[0].close()

        clearing = asyncio.ensure_future(clear())
        with pytest.raises(
            MonitorSilent, match=r"no greeting from the monitor within 10 s\. A monitor serves one client"
        ):
            async with open_connection(str(folder / "qmp"), timeout=10):
                pass
        await clearing
        return asyncio.get_running_loop().time()

    with full(folder / "qmp") as server:
        assert clock.run(work(server)) == pytest.approx(10)
        with server.accept()[0] as left:
            assert left.recv(1) == b"", "the connection of who gave up is still open"


def test_whether_it_is_busy_may_be_unknown(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernel does not say whether the connection was accepted, both reasons are given."""
    monkeypatch.setattr(_peer, "other_inode", lambda end: None)
    with pytest.raises(MonitorSilent, match=r"serves one client at a time.* A guest agent's socket is silent, too"):
        meet(silence, path=folder / "qmp")


def test_silence_over_tcp() -> None:
    """A port that says nothing is told after the time-out; why it is silent nobody knows."""

    async def work() -> None:
        async with serving(silence) as address, open_connection(address, timeout=0.05):
            pass

    with pytest.raises(MonitorSilent, match=r"no greeting from the monitor within 0.05 s.* silent, too"):
        asyncio.run(work())


# -- Who is there ------------------------------------------------------------------------------------------------------

ME, NOBODY = Owner("me", os.geteuid()), Owner("nobody", 65533)


def knock(talk: Talk, owner: Owner, path: Path | None = None) -> None:
    async def work() -> None:
        served = serving(talk, None if path is None else str(path))
        async with served as address, open_connection(address, 10, owner):
            pass

    asyncio.run(work()) if path is None else clock.run(work())


def test_the_owner_is_let_in(folder: Path) -> None:
    """A monitor of the user that was asked for is used as any other."""
    knock(polite, ME, folder / "qmp")


def test_a_monitor_of_another_user_is_not_spoken_to(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where another user than the owner or root made the socket, not a word is said, and none is waited for."""
    heard: list[Any] = []

    async def talk(client: Client) -> None:
        heard.append(await client.receive())

    monkeypatch.setattr(_qmp, "made_by", lambda end: Peer(1, 7, 7, None, None, 7, None))
    with pytest.raises(
        MonitorUnusable, match=r"monitor_owner is nobody \(uid 65533\), and the socket was made by uid 7"
    ):
        knock(talk, NOBODY, folder / "qmp")
    assert heard == []


def test_a_monitor_that_another_user_serves_is_left(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may have made the socket, but who serves it must be the owner."""
    root = Peer(1, 0, 0, None, "qemu-kvm", 0, True)
    monkeypatch.setattr(_qmp, "made_by", lambda end: root)
    monkeypatch.setattr(_qmp, "served_by", lambda end: root)
    with pytest.raises(MonitorUnusable, match=r"the monitor is served by qemu-kvm \(pid 1\), which runs as uid 0"):
        knock(polite, NOBODY, folder / "qmp")


def test_over_tcp_no_owner_can_be_told() -> None:
    """With an owner asked for, a port is refused before it is connected to."""
    with pytest.raises(MonitorUnusable, match="over TCP nobody can tell"):
        knock(polite, ME)


# -- Spellings ---------------------------------------------------------------------------------------------------------


def test_an_abstract_socket() -> None:
    """A socket without a file is reached by its name behind an @."""
    name = f"qmp-{os.getpid()}"

    async def work() -> str:
        async with serving(polite, f"\0{name}"), open_connection(f"@{name}", timeout=10) as monitor:
            return monitor.address

    assert clock.run(work()) == f"@{name}"


def pretty(message: Any) -> bytes:
    """As QEMU 7.2 writes with -qmp-pretty."""
    return json.dumps(message, indent=4).replace("\n", "\r\n").encode() + b"\r\n"


def test_a_monitor_that_indents(folder: Path) -> None:
    """-qmp-pretty spreads a message over lines; empty members and braces in texts do not end it."""
    replies = [{"a": [{"}": "}\n}"}], "b": [], "c": {}}, {}, [], "}"]

    async def talk(client: Client) -> None:
        client.send(pretty(GREETING))
        for reply in [{}, *replies]:
            message = await client.receive()
            client.send(pretty({"return": reply, **{key: message[key] for key in ("id",) if key in message}}))

    async def use(monitor: QmpConnection) -> list[Any]:
        return [await monitor.execute("query-status") for _reply in replies]

    assert meet(talk, use, folder / "qmp") == replies


def test_a_message_without_an_end(folder: Path) -> None:
    """Lines upon lines of one message are read up to a bound, and no further."""
    lines = b"{\r\n" + (b" " * 2**20 + b"\r\n") * 5
    with pytest.raises(MonitorUnusable, match="a message of more than 4 MiB"):
        meet(says_and_stays(lines), path=folder / "qmp")


def test_a_socket_that_must_not_be_used(
    folder: Path, without_rights: Callable[[], contextlib.AbstractContextManager[None]]
) -> None:
    """Without the right to connect the reason is the system's."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "qmp"))
        server.listen(1)
        folder.chmod(0)
        try:
            with without_rights(), pytest.raises(MonitorUnusable, match="cannot connect: Permission denied"):
                reach(folder / "qmp")
        finally:
            folder.chmod(0o700)


def test_a_path_that_is_too_long(folder: Path) -> None:
    """An error without a number of its own is told in its own words."""
    real = folder / ("d" * 100)
    real.mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "qmp"))
        (folder / "qmp").rename(real / "qmp")
        with pytest.raises(MonitorUnusable, match="cannot connect: AF_UNIX path too long"):
            reach(real / "qmp")


# -- The end of a session ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "seconds"),
    [pytest.param("query-status", 30, id="a question"), pytest.param("human-monitor-command", 600, id="a flush")],
)
def test_a_command_without_an_answer(folder: Path, command: str, seconds: int) -> None:
    """A QEMU that hangs is told after half a minute; a flush of much data may take ten."""

    async def talk(client: Client) -> None:
        await client.shake_hands()
        await silence(client)

    async def use(monitor: QmpConnection) -> float:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        with pytest.raises(MonitorSilent, match=f"no answer to {command} within {seconds} s"):
            await monitor.execute(command)
        return loop.time() - begun

    assert meet(talk, use, folder / "qmp") == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("lines", "kind", "words"),
    [
        pytest.param((), MonitorLost, "the connection ended", id="the end"),
        pytest.param((b'{"return": {}',), MonitorLost, "the connection ended", id="half a line"),
        pytest.param((b"no JSON\r\n",), MonitorUnusable, "a line that is no message of QMP", id="garbage"),
        pytest.param((b'"text"\r\n',), MonitorUnusable, "a line that is no message of QMP", id="no object"),
        pytest.param((b"\xff\xfe\x00\r\n",), MonitorUnusable, "a line that is no message of QMP", id="no UTF-8"),
        pytest.param(({"event": ["x"]},), MonitorUnusable, "a line that is no message of QMP", id="a list of events"),
        pytest.param(({"return": 1, "id": {}},), MonitorUnusable, "a line that is no message of QMP", id="no id"),
        pytest.param(
            (b'{"return": [' + b"{}," * 2**17 + b"0]}\r\n",),
            MonitorUnusable,
            "none that a QEMU sends",
            id="too many objects",
        ),
        pytest.param(
            (b'{"return": ' + b"[" * 100_000 + b"\r\n",),
            MonitorUnusable,
            "a line that is",
            id="a line of 100,000 floors",
        ),
        pytest.param((b"x" * 2 * MOST,), MonitorUnusable, "a message of more than 4 MiB", id="a line without an end"),
        pytest.param(
            (b"x" * 2 * MOST + b"\r\n",), MonitorUnusable, "a message of more than 4 MiB", id="a line that is too long"
        ),
    ],
)
def test_an_answer_that_ends_the_session(
    folder: Path, lines: tuple[Any, ...], kind: type[MonitorError], words: str
) -> None:
    """Whatever comes instead of an answer, the command fails with the reason, and so does the next one."""

    async def use(monitor: QmpConnection) -> None:
        for _command in range(2):
            with pytest.raises(kind, match=words) as failure:
                await monitor.execute("query-status")
            assert len(str(failure.value)) < 300

    meet(then(*lines), use, folder / "qmp")


def test_who_listens_learns_why_the_session_ended(folder: Path) -> None:
    """A line that cannot be read ends the wait for an event, too, and is not taken for a QEMU that died."""

    async def use(monitor: QmpConnection) -> None:
        with monitor.listen("job0") as events:
            await monitor.execute("query-status")
            with pytest.raises(MonitorUnusable, match="a message of more than 4 MiB"):
                await events.next(3600)

    meet(after_a_command(b"x" * 2 * MOST, base_index=False), use, folder / "qmp")


def test_the_longest_answer_is_read(folder: Path) -> None:
    """A host with many disks on deep chains is no lie."""
    size = MOST - 100

    async def talk(client: Client) -> None:
        await client.shake_hands()
        client.answer(await client.receive(), "x" * size)
        await silence(client)

    assert len(meet(talk, ask, folder / "qmp")) == size


@pytest.mark.parametrize(
    "members",
    [
        pytest.param({}, id="neither return nor error"),
        pytest.param({"error": {"class": "GenericError"}}, id="an error without words"),
        pytest.param({"error": 7}, id="an error that is a number"),
    ],
)
def test_an_answer_without_its_members(folder: Path, members: dict[str, Any]) -> None:
    """An answer that lacks what QMP demands is no success and no traceback."""

    async def talk(client: Client) -> None:
        await client.shake_hands()
        message = await client.receive()
        client.send({**members, "id": message["id"]})
        await silence(client)

    with pytest.raises(MonitorError):
        meet(talk, ask, folder / "qmp")


# -- Events ------------------------------------------------------------------------------------------------------------


def event(name: str, job_id: Any = "job0", key: str = "device", **details: Any) -> dict[str, Any]:
    return {"event": name, "data": {key: job_id, **details}, **EVENT}


def after_a_command(*messages: Any, base_index: bool = True) -> Talk:
    """Answer one command, and send these lines with the answer."""

    async def talk(client: Client) -> None:
        await client.shake_hands()
        message = await client.receive()
        client.answer(message, {}, *messages)
        if base_index:
            await silence(client)

    return talk


def heard(talk: Talk, path: Path, *, timeout: float = 5) -> list[str]:
    """The names of the events that come for `job0`; the last word tells how the listening ended."""

    async def use(monitor: QmpConnection) -> list[str]:
        names: list[str] = []
        with monitor.listen("job0") as events:
            await monitor.execute("query-status")
            try:
                while True:
                    each = await events.next(timeout)
                    if each is None:
                        return [*names, "nothing"]
                    names.append(each["event"])
            except MonitorLost:
                return [*names, "lost"]

    names: list[str] = meet(talk, use, path)
    return names


@pytest.mark.parametrize("timeout", [pytest.param(0, id="already there"), pytest.param(5, id="waited for")])
@pytest.mark.parametrize(
    ("messages", "names"),
    [
        pytest.param([], [], id="none"),
        pytest.param([event("BLOCK_JOB_PENDING", key="id")], ["BLOCK_JOB_PENDING"], id="named by id"),
        pytest.param([event("BLOCK_JOB_COMPLETED")], ["BLOCK_JOB_COMPLETED"], id="named by device"),
        pytest.param([event("BLOCK_JOB_COMPLETED", "job1")], [], id="of another job"),
        pytest.param([event("JOB_STATUS_CHANGE", key="id")], [], id="of a kind that tells nothing"),
        pytest.param([{"event": "BLOCK_JOB_ERROR", **EVENT}], [], id="without details"),
        pytest.param([{"event": "BLOCK_JOB_ERROR", "data": ["job0"], **EVENT}], [], id="with a list of details"),
        pytest.param([{"event": "BLOCK_JOB_ERROR", "data": None}], [], id="with no details at all"),
        pytest.param([event("BLOCK_JOB_ERROR", ["job0"])], [], id="of a list of jobs"),
        pytest.param(
            [*[event("BLOCK_JOB_ERROR")] * 50, event("BLOCK_JOB_COMPLETED")],
            ["BLOCK_JOB_ERROR", "BLOCK_JOB_COMPLETED"],
            id="many of a kind are one",
        ),
    ],
)
def test_the_events_of_a_job(folder: Path, messages: list[Any], names: list[str], timeout: float) -> None:
    """What tells of the job is heard in its order, and nothing else; of a kind not yet read one is kept."""
    if timeout == 0:

        async def use(monitor: QmpConnection) -> list[str]:
            with monitor.listen("job0") as events:
                await monitor.execute("query-status")
                await monitor.execute("query-status")
                found = [await events.next(0) for _each in range(len(names) + 1)]
            return [each["event"] if each else "nothing" for each in found]

        async def talk(client: Client) -> None:
            await client.shake_hands()
            message = await client.receive()
            client.answer(message, {}, *messages)
            client.answer(await client.receive(), {})
            await silence(client)

        assert meet(talk, use, folder / "qmp") == [*names, "nothing"]
    else:
        assert heard(after_a_command(*messages), folder / "qmp", timeout=timeout) == [*names, "nothing"]


def test_a_kind_that_was_read_is_heard_again(folder: Path) -> None:
    """A second error after the first was read is news."""

    async def talk(client: Client) -> None:
        await client.shake_hands()
        for _error in range(2):
            message = await client.receive()
            client.answer(message, {}, event("BLOCK_JOB_ERROR"))
        await silence(client)

    async def use(monitor: QmpConnection) -> list[Any]:
        found = []
        with monitor.listen("job0") as events:
            for _error in range(2):
                await monitor.execute("query-status")
                found.append(await events.next(5))
        return found

    assert [each["event"] for each in meet(talk, use, folder / "qmp")] == ["BLOCK_JOB_ERROR"] * 2


def test_the_wait_for_an_event_ends_in_time(folder: Path) -> None:
    """Without an event the wait lasts as long as asked."""

    async def use(monitor: QmpConnection) -> float:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        with monitor.listen("job0") as events:
            assert await events.next(3) is None
        return loop.time() - begun

    assert meet(polite, use, folder / "qmp") == pytest.approx(3)


@pytest.mark.parametrize(
    ("messages", "names"),
    [
        pytest.param([], ["lost"], id="no event"),
        pytest.param([event("BLOCK_JOB_COMPLETED")], ["BLOCK_JOB_COMPLETED", "lost"], id="an event, then the end"),
    ],
)
def test_a_connection_that_ends_is_heard_at_once(folder: Path, messages: list[Any], names: list[str]) -> None:
    """Who listens learns that QEMU died, and first what it said last."""
    assert heard(after_a_command(*messages, base_index=False), folder / "qmp", timeout=3600) == names


def test_no_event_is_kept_for_ever(folder: Path) -> None:
    """The library would keep every event of the session; a stream of hours must not cost memory."""

    async def use(monitor: QmpConnection) -> int:
        await monitor.execute("query-status")
        await monitor.execute("query-status")
        return len(monitor._client.events.history)

    async def talk(client: Client) -> None:
        await client.shake_hands()
        message = await client.receive()
        client.answer(message, {}, *[event("JOB_STATUS_CHANGE")] * 9)
        client.answer(await client.receive(), {})
        await silence(client)

    assert meet(talk, use, folder / "qmp") == 0


# -- The library -------------------------------------------------------------------------------------------------------


def test_the_library_is_there() -> None:
    """With qemu.qmp installed there is no error to tell."""
    assert _qmp.QEMU_QMP_IMPORT_ERROR is None


def test_without_the_library_the_error_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without qemu.qmp the file can be imported, and keeps the error for the module to tell."""
    monkeypatch.setitem(sys.modules, "qemu.qmp", None)
    spec = importlib.util.spec_from_file_location(f"{_qmp.__name__}_alone", _qmp.__file__)
    assert spec is not None
    assert spec.loader is not None
    alone = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(alone)
    assert "qemu.qmp" in alone.QEMU_QMP_IMPORT_ERROR
