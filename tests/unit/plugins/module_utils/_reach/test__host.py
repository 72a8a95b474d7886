# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from ansible_collections.virtops.qmp.plugins.module_utils._model._files import FileId, Granted, KnownFile
from ansible_collections.virtops.qmp.plugins.module_utils._reach import _host, _lease
from ansible_collections.virtops.qmp.plugins.module_utils._reach._host import LinuxHost, describe_socket

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

    assert LinuxHost(run).who_serves("/run/vms/vm0.qmp") == ""


def test_ss_is_read() -> None:
    """What ss prints is read."""
    asked = []

    def run(words: Sequence[str]) -> tuple[int, str, str]:
        asked.append(words)
        return 0, SERVED, ""

    assert LinuxHost(run).who_serves("/run/vms/vm0.qmp").startswith("qemu-system-x86 (pid 812) owns")
    assert asked == [["ss", "-xanpH"]]


def test_expand(folder: Path) -> None:
    """A glob finds the sockets, sorted, and nothing else; what is no glob is None."""
    with socket.socket(socket.AF_UNIX) as one, socket.socket(socket.AF_UNIX) as other:
        one.bind(str(folder / "b.qmp"))
        other.bind(str(folder / "a.qmp"))
        (folder / "file.qmp").write_text("")
        (folder / "dangling.qmp").symlink_to("nosuch")
        assert HOST.expand(f"{folder}/*.qmp") == [f"{folder}/a.qmp", f"{folder}/b.qmp"]
    assert HOST.expand(f"{folder}/*.none") == []
    assert HOST.expand(f"{folder}/a.qmp") is None


@pytest.mark.parametrize(
    ("pid", "directory"),
    [
        pytest.param(os.getpid(), os.getcwd(), id="a process"),
        pytest.param(NOBODY, None, id="no such process"),
        pytest.param(None, None, id="unknown"),
    ],
)
def test_working_directory(pid: int | None, directory: str | None) -> None:
    """The directory of a process, where it can be told."""
    assert HOST.working_directory(pid) == directory


@pytest.mark.parametrize(
    ("path", "directory", "real"),
    [
        pytest.param("link", "{folder}", "{folder}/file", id="relative, through a link"),
        pytest.param("{folder}/../{name}/file", None, "{folder}/file", id="absolute with dots"),
        pytest.param("{folder}/link", "/elsewhere", "{folder}/file", id="absolute: the directory does not matter"),
        pytest.param("file", None, None, id="relative to nobody knows what"),
    ],
)
def test_real_path(folder: Path, path: str, directory: str | None, real: str | None) -> None:
    """Names become absolute and without links, unless nobody knows what they are relative to."""
    (folder / "file").write_text("")
    (folder / "link").symlink_to("file")
    words = {"folder": folder, "name": folder.name}
    given = None if directory is None else directory.format(**words)
    assert HOST.real_path(path.format(**words), given) == (None if real is None else real.format(**words))


def test_room(folder: Path) -> None:
    """The file system of a regular file and what is free on it; None for what is none."""
    (folder / "file").write_text("")
    free = os.statvfs(str(folder))
    free_space = HOST.free_space(str(folder / "file"))
    assert free_space is not None
    assert free_space.device == os.stat(str(folder)).st_dev
    assert 0 <= free_space.free <= free.f_blocks * free.f_frsize
    assert [HOST.free_space(str(folder)), HOST.free_space(str(folder / "nosuch")), HOST.free_space("/dev/null")] == [
        None
    ] * 3


def test_a_file_is_the_same_by_any_name(folder: Path) -> None:
    """Links and a new name change nothing; what is gone, or is not seen to be open in the process, is missing."""
    for name in ("file", "closed"):
        (folder / name).write_text("")
    (folder / "link").symlink_to("file")
    os.link(str(folder / "file"), str(folder / "hard"))
    names = [str(folder / name) for name in ("file", "link", "hard", "closed", "nosuch")]
    with (folder / "file").open():
        found = HOST.opened_files(os.getpid(), names)
    assert sorted(found) == sorted(names[:3])
    assert len(set(found.values())) == 1
    assert HOST.opened_files(None, names) == HOST.opened_files(NOBODY, names) == {}


def test_whether_a_file_is_open_and_where(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel is asked whether a file is open, and /proc where."""
    monkeypatch.setattr(_lease, "_PAUSES", ())
    (folder / "file").write_text("")
    status = os.stat(str(folder / "file"))
    file = KnownFile(str(folder / "file"), FileId(status.st_dev, status.st_ino))
    assert HOST.leases([file])[file].granted is Granted.YES
    with (folder / "file").open():
        assert HOST.leases([file])[file].granted is Granted.NO
        assert list(HOST.users([file])[file].processes) == [os.getpid()]


@pytest.fixture
def sync(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts a script in the place of the system's own `sync`; before it is called there is no such program."""
    monkeypatch.setenv("PATH", str(folder))

    def put(script: str) -> None:
        program = folder / "sync"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)

    return put


def write_out(file: Path) -> bool:
    return asyncio.run(HOST.write_out(str(file)))


def test_write_out(folder: Path, sync: Callable[[str], None]) -> None:
    """A regular file is written out by the program for it; where there is none, or no such file, nobody waits."""
    image = folder / "image"
    assert write_out(image)
    image.touch()
    assert write_out(image)
    sync(f'echo "$@" >{folder}/called')
    assert write_out(image)
    assert (folder / "called").read_text() == f"--data {image}\n"


def test_write_out_has_an_end(folder: Path, sync: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that does not end is ended after a time, and that is told."""
    monkeypatch.setattr(_host, "_WRITE_OUT_SECONDS", 0.0)
    image = folder / "image"
    image.touch()
    sync("while :; do :; done")
    assert not write_out(image)


def test_a_write_out_that_nobody_wants_any_more_is_ended(folder: Path, sync: Callable[[str], None]) -> None:
    """Who gives up waiting leaves no process behind."""
    image, started = folder / "image", folder / "started"
    image.touch()
    os.mkfifo(started)
    sync(f"echo $$ >{started}\nwhile :; do :; done")

    async def work() -> int:
        waiting = asyncio.ensure_future(HOST.write_out(str(image)))
        pid = int(await asyncio.get_running_loop().run_in_executor(None, started.read_text))
        waiting.cancel()
        await asyncio.wait({waiting})
        assert waiting.cancelled()
        return pid

    assert not Path(f"/proc/{asyncio.run(work())}").exists()


@pytest.mark.parametrize(
    ("content", "named"),
    [
        pytest.param(b"QFI\xfb" + struct.pack(">IQI", 3, 32, 4) + bytes(12) + b"base", "base", id="a backing image"),
        pytest.param(b"QFI\xfb" + struct.pack(">IQI", 3, 0, 0) + bytes(12), "", id="none"),
        pytest.param(b"no qcow2 at all, but long enough", None, id="another format"),
        pytest.param(b"QFI\xfb", None, id="cut off"),
        pytest.param(b"QFI\xfb" + struct.pack(">IQI", 3, 2**64 - 1, 4), None, id="an impossible place"),
        pytest.param(None, None, id="no such file"),
    ],
)
def test_header_backing(folder: Path, content: bytes | None, named: str | None) -> None:
    """The backing image is read from the file itself, where that can be done."""
    if content is not None:
        (folder / "image").write_bytes(content)
    assert HOST.header_backing(str(folder / "image")) == named
