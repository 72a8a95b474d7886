# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import os
import pwd
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.virtops.qmp.plugins.module_utils._model._errors import WrongRequest
from ansible_collections.virtops.qmp.plugins.module_utils._model._peer import Owner, Peer
from ansible_collections.virtops.qmp.plugins.module_utils._reach import _peer, _sockets
from ansible_collections.virtops.qmp.plugins.module_utils._reach._peer import (
    find_owner,
    is_accepted,
    made_by,
    other_inode,
    served_by,
)

INODE = 4711
MAKER, OTHER, THIRD = 812, 931, 940


@pytest.fixture
def ends(folder: Path) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A server and a client that has connected and was not accepted yet."""
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind(str(folder / "socket"))
        server.listen(1)
        client.connect(str(folder / "socket"))
        if other_inode(client) is None:
            pytest.skip("this kernel or sandbox does not tell who is at the other end")
        yield server, client


# -- The real kernel ---------------------------------------------------------------------------------------------------


def test_whether_a_connection_is_accepted(ends: tuple[socket.socket, socket.socket]) -> None:
    """A client in the queue is told from one that is served, though both are connected."""
    server, client = ends
    before = is_accepted(client)
    served, _address = server.accept()
    with served:
        assert (before, is_accepted(client)) == (False, True)
        assert other_inode(client) == os.fstat(served.fileno()).st_ino


def test_the_process_that_serves_is_known(ends: tuple[socket.socket, socket.socket]) -> None:
    """Process, user, program and start time are those of who has the other end open."""
    server, client = ends
    served, _address = server.accept()
    with served:
        peer = served_by(client)
    assert (peer.pid, peer.uid, peer.gid, peer.serves) == (os.getpid(), os.geteuid(), os.getegid(), True)
    assert peer.program == os.path.basename(os.path.realpath(sys.executable))
    assert peer.started is not None
    # A test may run in a process that was started in this very tick.
    assert 0 < peer.started / os.sysconf("SC_CLK_TCK") <= float(Path("/proc/uptime").read_text().split()[0])


def test_a_connection_that_nobody_accepted_is_served_by_nobody_yet(ends: tuple[socket.socket, socket.socket]) -> None:
    """Then only who made the socket is known."""
    peer = served_by(ends[1])
    assert (peer.pid, peer.serves) == (os.getpid(), None)


def test_without_the_kernels_table_nothing_is_told(
    ends: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel that was built without the table refuses the question: then it is not known, and that is no error."""
    monkeypatch.setattr(_sockets, "_NETLINK_SOCK_DIAG", 31)
    assert (other_inode(ends[1]), is_accepted(ends[1])) == (None, None)


# -- A host of our own -------------------------------------------------------------------------------------------------


class End:
    """Our end of a connection to a socket that process `pid` of user 7 and group 8 made."""

    def __init__(self, pid: int):
        self._credentials = struct.pack("iII", pid, 7, 8)

    def getsockopt(self, *words: int) -> bytes:
        return self._credentials


class Processes:
    """A /proc with the processes that a test puts there."""

    def __init__(self, folder: Path):
        self.folder = folder
        (folder / "uptime").write_text("")

    def add(self, pid: int, *, program: str | None = "/usr/bin/qemu-system-x86_64", serves: bool = False) -> Path:
        own = self.folder / str(pid)
        (own / "fd").mkdir(parents=True)
        (own / "fd" / "0").symlink_to("/dev/null")
        (own / "fd" / "7").symlink_to(f"socket:[{INODE if serves else INODE + 1}]")
        (own / "comm").write_text(f"comm-{pid}\n")
        (own / "stat").write_text(f"{pid} (a) b) S {'0 ' * 18}{pid * 10} 0\n")
        (own / "status").write_text(f"Name:\tx\nUid:\t1\t{pid}\t1\t1\nGid:\t1\t{pid + 1}\t1\t1\n")
        (own / "maps").write_text("1-2 r-xp 0 0:0 1 /lib/ld.so\n3-4 r-xp 0 0:0 2 /opt/qemu-kvm (deleted)\n")
        if program is not None:
            (own / "exe").symlink_to(program)
        return own


@pytest.fixture
def processes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Processes:
    monkeypatch.setattr(_peer, "_PROCESSES", str(folder))
    monkeypatch.setattr(_peer, "other_inode", lambda end: INODE)
    return Processes(folder)


def peer_at(pid: int = MAKER) -> Peer:
    end: Any = End(pid)
    return served_by(end)


@pytest.mark.parametrize(
    ("serving", "pid", "serves"),
    [
        pytest.param([MAKER], MAKER, True, id="who made the socket"),
        pytest.param([MAKER, OTHER], MAKER, True, id="who made the socket, and another one"),
        pytest.param([OTHER], OTHER, True, id="another process: a launcher passed the socket on"),
        pytest.param([OTHER, THIRD], MAKER, False, id="one of two others"),
        pytest.param([], MAKER, False, id="nobody whom we see"),
    ],
)
def test_who_serves_a_connection(processes: Processes, serving: list[int], pid: int, serves: bool) -> None:
    """The process that has the other end open is found, and it is told where it cannot be."""
    for each in (MAKER, OTHER, THIRD):
        processes.add(each, serves=each in serving)
    peer = peer_at()
    assert (peer.pid, peer.serves, peer.started, peer.maker_uid) == (pid, serves, pid * 10, 7)
    assert (peer.uid, peer.gid) == ((pid, pid + 1) if serves else (7, 8))


def test_a_launcher_that_is_gone(processes: Processes) -> None:
    """Who made the socket need not live any more."""
    processes.add(OTHER, serves=True)
    assert (peer_at().pid, peer_at().maker_uid) == (OTHER, 7)


def test_a_launcher_that_is_gone_and_a_server_that_is_not_seen(processes: Processes) -> None:
    """Then nothing is known but the credentials of the socket."""
    assert peer_at() == Peer(MAKER, 7, 8, None, None, 7, False)


def test_a_process_that_must_not_be_looked_at(
    processes: Processes, without_rights: Callable[[], contextlib.AbstractContextManager[None]]
) -> None:
    """Who made the socket is taken for who serves, and it is told that this is not known."""
    own = processes.add(MAKER)
    processes.add(OTHER, serves=True)
    processes.folder.chmod(0o755)
    (own / "fd").chmod(0)
    with without_rights():
        peer = peer_at()
    (own / "fd").chmod(0o700)
    assert (peer.pid, peer.serves, peer.uid) == (MAKER, None, MAKER)


def test_a_process_of_another_namespace(processes: Processes) -> None:
    """The kernel has no pid for it, but its user."""
    assert peer_at(0) == Peer(None, 7, 8, None, None, 7, None)
    end: Any = End(0)
    assert made_by(end) == Peer(None, 7, 8, None, None, 7, None)


@pytest.mark.parametrize(
    ("program", "name"),
    [
        pytest.param("/usr/bin/qemu-system-x86_64", "qemu-system-x86_64", id="its executable"),
        pytest.param("/usr/bin/qemu-kvm (deleted)", "qemu-kvm", id="its executable, which was updated"),
        pytest.param("/lib/ld.so", "qemu-kvm", id="what the loader started"),
        pytest.param(None, f"comm-{MAKER}", id="not to be seen: as it calls itself"),
    ],
)
def test_the_program(processes: Processes, program: str | None, name: str) -> None:
    """A process is called by its executable, else by its own name."""
    processes.add(MAKER, program=program, serves=True)
    assert peer_at().program == name


def test_a_loader_that_started_nothing_that_is_seen(processes: Processes) -> None:
    """Then it is called what it is."""
    (processes.add(MAKER, program="/lib/ld.so", serves=True) / "maps").unlink()
    assert peer_at().program == "ld.so"


# -- Owners ------------------------------------------------------------------------------------------------------------


def test_find_owner() -> None:
    """A user is named by name or uid."""
    me = pwd.getpwuid(os.getuid()).pw_name
    assert find_owner(me) == Owner(me, os.getuid())
    assert find_owner("64055") == Owner("64055", 64055)


@pytest.mark.parametrize("name", ["", "no such user", "-1", "4294967295", "99999999999999999999", "a\0b", "٣"])
def test_an_owner_that_is_nobody(name: str) -> None:
    """A user that is none of this host's is refused."""
    with pytest.raises(WrongRequest, match="is no user of this host"):
        find_owner(name)
