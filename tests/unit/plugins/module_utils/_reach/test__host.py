# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.virtops.qmp.plugins.module_utils._model._errors import HostSilent
from ansible_collections.virtops.qmp.plugins.module_utils._model._files import (
    Bound,
    FileId,
    Granted,
    Inode,
    KnownFile,
    Lease,
)
from ansible_collections.virtops.qmp.plugins.module_utils._model._header import NoHeader
from ansible_collections.virtops.qmp.plugins.module_utils._model._images import Asked, Search, Unread
from ansible_collections.virtops.qmp.plugins.module_utils._model._map import NoMap
from ansible_collections.virtops.qmp.plugins.module_utils._reach import _host, _lease
from ansible_collections.virtops.qmp.plugins.module_utils._reach._host import (
    LinuxHost,
    allow_descriptors,
    describe_socket,
)
from ansible_collections.virtops.qmp.plugins.module_utils._reach._mounts import Mount
from ansible_collections.virtops.qmp.tests.unit.builders import qcow2
from ansible_collections.virtops.qmp.tests.unit.descriptors import open_files

# Recorded: pid 812 made the socket and serves pid 931; pid 940 waits in the queue.
SERVED = """\
u_str ESTAB  0      0                                  * 1276   * 1277
u_str ESTAB  0      0                  /run/vms/vm0.qmp 577337 * 577336 users:(("qemu-system-x86",pid=812,fd=4))
u_str ESTAB  0      0                                  * 577336 * 577337 users:(("pvestatd",pid=931,fd=3))
u_str ESTAB  0      0                                  * 577338 * 0      users:(("python3",pid=940,fd=7))
u_str LISTEN 1      2                  /run/vms/vm0.qmp 577329 * 0      users:(("qemu-system-x86",pid=812,fd=3))
"""
OWNED = SERVED.splitlines()[-1]
HOST = LinuxHost(lambda words: (1, "", ""))
NOBODY = 2**22 + 1


@pytest.mark.parametrize(
    ("listing", "address", "words"),
    [
        pytest.param(
            SERVED,
            "/run/vms/vm0.qmp",
            "qemu-system-x86 (pid 812) owns the socket and serves pvestatd (pid 931)",
            id="owner and client",
        ),
        pytest.param(OWNED, "/run/vms/vm0.qmp", "qemu-system-x86 (pid 812) owns the socket", id="no client"),
        pytest.param(SERVED, "/run/vms/vm1.qmp", "", id="another socket"),
        pytest.param("", "/run/vms/vm0.qmp", "", id="nothing"),
        pytest.param("u_str LISTEN 0 2\n\n", "/run/vms/vm0.qmp", "", id="half a line"),
        pytest.param(
            "u_str LISTEN 1 2 /run/vms/vm0.qmp 577329 * 0", "/run/vms/vm0.qmp", "", id="processes that must not be seen"
        ),
        pytest.param(
            SERVED.replace("pid=931", "pid=THIS"),
            "/run/vms/vm0.qmp",
            "qemu-system-x86 (pid 812) owns the socket",
            id="the client is this very process",
        ),
    ],
)
def test_describe_socket(listing: str, address: str, words: str) -> None:
    """Who owns a monitor and whom it serves is read from ss, and who merely waits is not taken for a client."""
    # The tests may run in another process than the one that collected them.
    assert describe_socket(listing.replace("THIS", str(os.getpid())), address) == words


def test_without_ss_nothing_is_told() -> None:
    """Who serves a socket is a help and no need: without ss there are no words."""

    def run(words: Sequence[str]) -> tuple[int, str, str]:
        raise FileNotFoundError(words[0])

    assert asyncio.run(LinuxHost(run).who_serves("/run/vms/vm0.qmp")) == ""


def test_ss_is_read() -> None:
    """What ss prints is read."""
    asked = []

    def run(words: Sequence[str]) -> tuple[int, str, str]:
        asked.append(words)
        return 0, SERVED, ""

    words = asyncio.run(LinuxHost(run).who_serves("/run/vms/vm0.qmp"))
    assert words == "qemu-system-x86 (pid 812) owns the socket and serves pvestatd (pid 931)"
    assert asked == [["ss", "-xanpH"]]


def test_ss_that_hangs_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who serves a socket is a help, and holds nothing up."""
    answers = threading.Event()

    def run(words: Sequence[str]) -> tuple[int, str, str]:
        answers.wait()
        return 0, SERVED, ""

    monkeypatch.setattr(_host, "_SS_SECONDS", 0.01)
    assert asyncio.run(LinuxHost(run).who_serves("/run/vms/vm0.qmp")) == ""
    answers.set()


@pytest.mark.parametrize("is_stopped", [False, True])
def test_an_earlier_run_of_this_collection_is_called_so(is_stopped: bool) -> None:
    """A monitor that an earlier run holds is held for a reason that the user knows, by the name of its connection."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        if is_stopped:
            process.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        listing = SERVED.replace("  * 577336", "@virtops.qmp/931-ab/3 577336").replace("pid=931", f"pid={process.pid}")
        told = asyncio.run(LinuxHost(lambda words: (0, listing, "")).who_serves("/run/vms/vm0.qmp"))
        process.send_signal(signal.SIGCONT)
        process.communicate(b"\n")
    assert f"serves pvestatd (pid {process.pid}), an earlier run of this collection that is " in told
    assert ("stopped" in told, f"kill -CONT {process.pid}" in told) == (is_stopped, is_stopped)


def test_expand(folder: Path) -> None:
    """A glob finds the sockets, sorted, and nothing else."""
    with socket.socket(socket.AF_UNIX) as one, socket.socket(socket.AF_UNIX) as other:
        one.bind(str(folder / "b.qmp"))
        other.bind(str(folder / "a.qmp"))
        (folder / "file.qmp").write_text("")
        (folder / "dangling.qmp").symlink_to("nosuch")
        assert asyncio.run(HOST.expand(f"{folder}/*.qmp")) == [f"{folder}/a.qmp", f"{folder}/b.qmp"]
    assert asyncio.run(HOST.expand(f"{folder}/*.none")) == []


@pytest.mark.parametrize("kind", ["socket", "file", "dangling link"])
def test_a_name_that_is_there_is_no_glob(folder: Path, kind: str) -> None:
    """Whatever has the very name is meant, and not what the name would match as a glob."""
    named, matching = folder / "web[0].qmp", folder / "web0.qmp"
    with socket.socket(socket.AF_UNIX) as one, socket.socket(socket.AF_UNIX) as other:
        other.bind(str(matching))
        assert asyncio.run(HOST.expand(str(named))) == [str(matching)]
        if kind == "socket":
            one.bind(str(named))
        elif kind == "file":
            named.write_text("")
        else:
            named.symlink_to("nosuch")
        assert asyncio.run(HOST.expand(str(named))) is None


def test_what_a_relative_glob_finds_is_a_path(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is called like an address is a file all the same."""
    monkeypatch.chdir(folder)
    names = ["@vm", "tcp:vm:1", "vm:1", "vm"]
    with contextlib.ExitStack() as stack:
        for name in names:
            stack.enter_context(socket.socket(socket.AF_UNIX)).bind(name)
        assert asyncio.run(HOST.expand("*")) == ["./@vm", "./tcp:vm:1", "vm", "./vm:1"]


def known(path: Path) -> Bound:
    """The file as this very process has it open."""
    status = os.stat(str(path))
    inode = Inode(FileId(status.st_dev, status.st_ino), "regular")
    numbers = [int(name) for name in os.listdir("/proc/self/fd") if _leads_to(name, status)]
    return Bound(inode, tuple(numbers), same_file=True, file=str(path))


def _leads_to(number: str, status: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.stat(f"/proc/self/fd/{number}"), status)
    except OSError:
        return False


@pytest.mark.parametrize(
    ("soft", "most", "expected"),
    [
        pytest.param(1024, 524_288, 16_384, id="usual"),
        pytest.param(1024, 4096, 4096, id="no more may be had"),
        pytest.param(1024, resource.RLIM_INFINITY, 16_384, id="any may be had"),
        pytest.param(65_536, 524_288, None, id="enough"),
        pytest.param(resource.RLIM_INFINITY, resource.RLIM_INFINITY, None, id="no limit"),
    ],
)
def test_descriptors(monkeypatch: pytest.MonkeyPatch, soft: int, most: int, expected: int | None) -> None:
    """As many as hundreds of streams need, if they may be had, and never fewer than there were."""
    limits: list[tuple[int, tuple[int, int]]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _which: (soft, most))
    monkeypatch.setattr(resource, "setrlimit", lambda which, limit: limits.append((which, limit)))
    allow_descriptors()
    assert limits == ([] if expected is None else [(resource.RLIMIT_NOFILE, (expected, most))])


def test_free_space(folder: Path) -> None:
    """The file system of a file that QEMU has open, or at least of its name; None where there is none to tell of."""
    (folder / "file").write_text("")
    with (folder / "file").open():
        for pid, bound in ((os.getpid(), known(folder / "file")), (None, Bound(file=str(folder / "file")))):
            found = asyncio.run(HOST.free_space(pid, bound))
            assert found is not None
            assert found.device == os.stat(str(folder)).st_dev
            assert 0 <= found.free <= os.statvfs(str(folder)).f_blocks * os.statvfs(str(folder)).f_frsize
        closed = known(folder / "file")._replace(descriptors=())
    nothing = [(None, Bound()), (None, Bound(file="/dev/null")), (None, Bound(file=str(folder / "nosuch")))]
    for pid, bound in [*nothing, (os.getpid(), closed)]:
        assert asyncio.run(HOST.free_space(pid, bound)) is None


def test_a_file_system_that_does_not_tell(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the file system of an open file cannot be asked, its room is unknown, and no descriptor is left behind."""

    def refuse(_descriptor: int) -> None:
        raise OSError("stale file handle")

    (folder / "file").write_text("")
    monkeypatch.setattr(os, "statvfs", refuse)
    with (folder / "file").open():
        before = open_files()
        assert asyncio.run(HOST.free_space(os.getpid(), known(folder / "file"))) is None
        assert not open_files() - before


def test_survey_and_headers(folder: Path) -> None:
    """What a process has open is seen, and headers are read through that."""
    (folder / "file").write_bytes(b"no qcow2 header")
    with (folder / "file").open():
        seen = asyncio.run(HOST.survey(os.getpid(), [str(folder / "file")], {}))
        readings = asyncio.run(HOST.headers(os.getpid(), [(known(folder / "file"), "qcow2")]))
    assert seen.descriptors is not None
    assert str(folder / "file") in [descriptor.path for descriptor in seen.descriptors]
    assert readings == [NoHeader("its header is cut off")]


def test_storage_that_does_not_answer(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What hangs is unknown: no lease, no user, no space; and no header or descriptor, which is an error."""

    async def silent(*arguments: Any, **options: Any) -> Any:
        raise HostSilent("the storage does not answer")

    monkeypatch.setattr(_host, "away", silent)
    file = KnownFile("/x", None)
    assert asyncio.run(HOST.leases([file])) == {file: Lease(Granted.UNKNOWN, why="the storage does not answer")}
    assert asyncio.run(HOST.users([file])) == {}
    assert asyncio.run(HOST.free_space(None, Bound())) is None
    assert asyncio.run(HOST.remote_devices()) == ()
    unread = (Unread("/v", "the storage does not answer"),)
    assert asyncio.run(HOST.search([file], ["/v"])) == Search(("/v",), {file: Asked()}, unread, 1)
    with pytest.raises(HostSilent):
        asyncio.run(HOST.survey(None, [], {}))


def test_remote_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """The file systems of other hosts are told from those of this one by their kinds."""
    kinds = ["ext4", "nfs4", "nfs", "cifs", "fuse.glusterfs", "fuse.unknown", "overlay", "nfsd", "ceph"]
    mounts = [Mount("/", kind, device=number) for number, kind in enumerate(kinds)]
    monkeypatch.setattr(_host, "read_mounts", lambda: mounts)
    assert asyncio.run(HOST.remote_devices()) == {1, 2, 3, 4, 8}


def test_who_names_a_file(folder: Path) -> None:
    """The folders are searched."""
    file = KnownFile(str(folder / "file"), None)
    (folder / "file").write_bytes(qcow2(b"file"))
    found = asyncio.run(HOST.search([file], [str(folder)]))
    assert found.asked[file].named_by == (file.path,)


def test_whether_a_file_is_open_and_where(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel is asked whether a file is open, and /proc where."""
    monkeypatch.setattr(_lease, "PAUSES", ())
    (folder / "file").write_text("")
    status = os.stat(str(folder / "file"))
    file = KnownFile(str(folder / "file"), FileId(status.st_dev, status.st_ino))
    assert asyncio.run(HOST.leases([file]))[file].granted is Granted.YES
    with (folder / "file").open():
        assert asyncio.run(HOST.leases([file]))[file].granted is Granted.NO
        assert list(asyncio.run(HOST.users([file]))[file].processes) == [os.getpid()]


def test_the_files_of_an_image_are_held(folder: Path) -> None:
    """They are opened once, written out, forgotten, and closed; what is not known is not held."""
    (folder / "image").write_bytes(b"content")

    async def work() -> None:
        with (folder / "image").open("r+b"):
            held = await HOST.hold(os.getpid(), [known(folder / "image")] * 2, "image")
            assert held is not None
            await held.flush()
            held.forget()
            held.close()
            closed = known(folder / "image")._replace(descriptors=())
        assert await HOST.hold(os.getpid(), [closed], "image") is None
        assert await HOST.hold(os.getpid(), [Bound()], "image") is None
        assert await HOST.hold(None, [closed], "image") is None

    asyncio.run(work())


def test_read_map() -> None:
    """Without a process, or with one that has ended, nothing is known of where the data lies."""
    assert asyncio.run(HOST.read_map(None, [], None)) == NoMap("the process behind this monitor is not known")
    assert asyncio.run(HOST.read_map(NOBODY, [], None)) == NoMap("QEMU has ended")
    assert asyncio.run(HOST.read_map(os.getpid(), [], None)) in (
        NoMap("the disk has no image"),
        NoMap("there is no qemu-img on this host"),
    )
