# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.virtops.qmp.plugins.module_utils._reach import _runs
from ansible_collections.virtops.qmp.plugins.module_utils._reach._peer import other_inode
from ansible_collections.virtops.qmp.plugins.module_utils._reach._runs import (
    RunsAt,
    call_by_name,
    find_runs,
    is_another_run,
)
from ansible_collections.virtops.qmp.plugins.module_utils._reach._sockets import Socket, list_sockets

ANOTHER = "\0virtops.qmp/1-0000/0"


class Monitor:
    """A server that accepts one client at a time, as QEMU does, with two places in its queue."""

    def __init__(self, address: str, stack: contextlib.ExitStack):
        self._stack, self._address = stack, address
        self._server = stack.enter_context(socket.socket(socket.AF_UNIX))
        self._server.bind(address)
        self._server.listen(1)

    def client(self, name: str | None = None) -> socket.socket:
        """A client of this name; ours without one."""
        end = self._stack.enter_context(socket.socket(socket.AF_UNIX))
        if name is None:
            call_by_name(end)
        elif name:
            end.bind(name)
        end.connect(self._address)
        return end

    def accept(self) -> socket.socket:
        return self._stack.enter_context(self._server.accept()[0])


@pytest.fixture(params=["path", "abstract"])
def monitor(request: pytest.FixtureRequest, folder: Path) -> Iterator[Monitor]:
    with contextlib.ExitStack() as stack:
        address = str(folder / "qmp")
        yield Monitor(address if request.param == "path" else "\0" + address, stack)


def seen_by(client: socket.socket) -> RunsAt:
    runs = find_runs(other_inode(client))
    if runs is None:
        pytest.skip("this kernel or sandbox has no table of sockets")
    return runs


def test_another_run_is_seen_while_it_waits_and_while_it_is_served(monitor: Monitor) -> None:
    """Whoever holds the monitor sees another run come, and, when it has left, sees it go."""
    holder = monitor.client()
    served = monitor.accept()
    runs = seen_by(holder)
    before = runs.is_waiting(), runs.is_there()
    other = monitor.client(ANOTHER)
    waiting = runs.is_waiting(), runs.is_there()
    holder.close()
    served.close()
    monitor.accept()
    working = runs.is_waiting(), runs.is_there()
    other.close()
    after = runs.is_waiting(), runs.is_there()
    assert (before, waiting, working, after) == ((False, False), (True, True), (False, True), (False, False))


def test_the_sockets_of_the_host_are_listed_once(monitor: Monitor, monkeypatch: pytest.MonkeyPatch) -> None:
    """A visit that never asks lists none, or hundreds of VMs would have hundreds listed for each of them."""
    lists: list[int] = []

    def count(states: int, show: int) -> list[Socket]:
        lists.append(states)
        return list_sockets(states, show)

    monkeypatch.setattr(_runs, "list_sockets", count)
    holder = monitor.client()
    monitor.accept()
    runs = seen_by(holder)
    before = len(lists)
    answers = [runs.is_waiting() for _time in range(3)]
    assert (before, answers, len(lists)) == (0, [False] * 3, 1)


def test_a_run_that_gave_up_is_in_the_way(monitor: Monitor) -> None:
    """What it has left in the queue keeps others out, until the monitor is free for a moment; nobody is there."""
    holder = monitor.client()
    monitor.accept()
    runs = seen_by(holder)
    monitor.client("").close()
    assert (runs.is_waiting(), runs.is_there()) == (True, False)


@pytest.mark.parametrize("name", ["", "\0virtops.qmp", "\0virtops", "\0another"])
def test_another_program_is_no_run(monitor: Monitor, name: str) -> None:
    """For a client that is not ours nobody gives way: it may never leave again."""
    holder = monitor.client()
    monitor.accept()
    runs = seen_by(holder)
    monitor.client(name)
    assert (runs.is_waiting(), runs.is_there()) == (False, False)


def test_the_own_connections_are_no_other_run(monitor: Monitor) -> None:
    """Two disks of one call do not push each other out."""
    holder = monitor.client()
    monitor.accept()
    runs = seen_by(holder)
    monitor.client()
    assert (runs.is_waiting(), runs.is_there()) == (False, False)


def test_what_goes_on_at_another_monitor_does_not_matter(folder: Path) -> None:
    """A run that works on another VM wants nothing of this one."""
    with contextlib.ExitStack() as stack:
        one, other = (Monitor(str(folder / name), stack) for name in ("one", "other"))
        holder = one.client()
        one.accept()
        other.client(ANOTHER)
        other.accept()
        other.client(ANOTHER + "1")
        assert (seen_by(holder).is_waiting(), seen_by(holder).is_there()) == (False, False)


def test_a_monitor_that_is_gone_has_no_runs(folder: Path) -> None:
    """When QEMU has died there is nobody to give way to."""
    with contextlib.ExitStack() as stack:
        monitor = Monitor(str(folder / "qmp"), stack)
        holder = monitor.client()
        monitor.accept()
        runs = seen_by(holder)
    assert (runs.is_waiting(), runs.is_there()) == (False, False)


@pytest.mark.parametrize("server", [None, 0, 1])
def test_where_nothing_is_told_nobody_gives_way(server: int | None) -> None:
    """The kernel does not tell, or has not accepted the connection, or the connection is gone."""
    assert find_runs(server) is None


def test_a_name_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection without a name works as well; only nobody gives way to it."""
    monkeypatch.setattr(_runs, "_this_process", "x" * 200)
    with socket.socket(socket.AF_UNIX) as end:
        call_by_name(end)
        assert end.getsockname() == ""


def test_names() -> None:
    """Each connection has another name, and all of one process are its own."""
    names = []
    for _number in range(2):
        with socket.socket(socket.AF_UNIX) as end:
            call_by_name(end)
            names.append(end.getsockname())
    assert names[0] != names[1]
    assert [is_another_run(name) for name in (*names, ANOTHER.encode())] == [False, False, True]
