# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import stat
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.virtops.qmp.plugins.module_utils._model._files import FileId
from ansible_collections.virtops.qmp.plugins.module_utils._reach import _host
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


@pytest.mark.parametrize(
    ("words", "is_ours"),
    [
        pytest.param(["python3", "/root/.ansible/tmp/x/AnsiballZ_block_stream.py"], True, id="Ansible's wrapper"),
        pytest.param(["python3", "/tmp/AnsiballZ_block_stream_info.py"], True, id="the other module"),
        pytest.param(
            ["python3", "-c", "", "ansible_collections.virtops.qmp.plugins.modules.block_stream"], True, id="name"
        ),
        pytest.param(["python3", "plugins/modules/block_stream.py"], True, id="file"),
        pytest.param(["python3", "/usr/bin/qmp-shell", "/run/vms/vm0.qmp"], False, id="another program"),
        pytest.param(["vi", "/notes/about_block_stream.txt"], False, id="another file"),
        pytest.param(["my_block_stream"], False, id="part of a word"),
    ],
)
def test_another_run_of_this_collection_is_called_so(folder: Path, words: list[str], is_ours: bool) -> None:
    """A monitor that an earlier run holds is held for a reason that the user knows."""
    waits = "import sys; sys.stdin.read()"
    started = [sys.executable, "-c", waits, *words]
    with subprocess.Popen(started, stdin=subprocess.PIPE) as process:
        listing = SERVED.replace("pid=931", f"pid={process.pid}")
        told = asyncio.run(LinuxHost(lambda words: (0, listing, "")).who_serves("/run/vms/vm0.qmp"))
        process.communicate()
    assert told.endswith(f"serves pvestatd (pid {process.pid})" + ", another run of this collection" * is_ours)


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
    """Links and a new name change nothing; what is gone, or what the process does not have open, is missing."""
    for name in ("file", "closed"):
        (folder / name).write_text("")
    (folder / "link").symlink_to("file")
    os.link(str(folder / "file"), str(folder / "hard"))
    names = [str(folder / name) for name in ("file", "link", "hard", "closed", "nosuch")]
    with (folder / "file").open():
        found = HOST.opened_files(os.getpid(), names)
    assert sorted(found) == sorted(names[:3])
    assert len(set(found.values())) == 1
    assert sorted(HOST.opened_files(None, names)) == sorted(HOST.opened_files(NOBODY, names)) == sorted(names[:4])


def ids(*files: Path) -> dict[str, FileId]:
    return {str(file): FileId(file.stat().st_dev, file.stat().st_ino) for file in files}


def test_who_has_a_file_open(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The processes that have a file open are found by whatever name they opened it, and none where it is closed."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    for name in ("open", "closed"):
        (folder / name).write_text("")
    os.link(str(folder / "open"), str(folder / "other-name"))
    with (folder / "other-name").open():
        found = HOST.traces(ids(folder / "open", folder / "closed"))
    assert found[str(folder / "open")].processes == {os.getpid(): Path("/proc/self/comm").read_text().strip()}
    assert (found[str(folder / "closed")].processes, found[str(folder / "closed")].is_regular) == ({}, True)


def test_only_root_knows(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is not root sees only its own processes, and therefore says nothing."""
    (folder / "file").write_text("")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert HOST.traces(ids(folder / "file"))[str(folder / "file")].processes is None


def test_a_file_that_is_another_now_is_not_told(folder: Path) -> None:
    """A file that was replaced under its name, or is gone, is not the one that was asked for."""
    for name in ("replaced", "gone"):
        (folder / name).write_text("")
    asked = ids(folder / "replaced", folder / "gone")
    (folder / "new").write_text("")
    (folder / "new").rename(folder / "replaced")
    (folder / "gone").unlink()
    assert HOST.traces(asked) == {}


def test_no_file_needs_no_walk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a file to look for /proc is left alone."""
    monkeypatch.setattr(os, "listdir", lambda path: pytest.fail(f"{path} was read"))
    assert HOST.traces({}) == {}


def test_processes_that_end_meanwhile(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process or a descriptor that is gone when it is looked at is passed over."""
    (folder / "file").write_text("")
    listed = {"/proc": ["self", str(NOBODY), str(os.getpid())], f"/proc/{os.getpid()}/fd": ["999999"]}
    real = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: listed.get(path) or real(path))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert HOST.traces(ids(folder / "file"))[str(folder / "file")].processes == {}


def test_a_process_without_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process whose name cannot be read any more is a process all the same."""
    assert _host._process_name(NOBODY) == "a process"


def test_a_loop_device_has_its_file_open(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's own users are found, too: no process has their files open, and devices without a file are none."""
    for name in ("file", "loop3", "loop4"):
        (folder / name).write_text("")
    status = os.stat(str(folder / "file"))

    def ioctl(device: Any, request: int, data: bytes) -> bytes:
        if device.name.endswith("loop4"):
            raise OSError(errno.ENXIO, "no file")
        return struct.pack("QQ", status.st_dev, status.st_ino) + data[16:]

    monkeypatch.setattr(_host.glob, "glob", lambda pattern: [str(folder / name) for name in ("loop3", "loop4")])
    monkeypatch.setattr(_host.fcntl, "ioctl", ioctl)
    assert HOST.traces(ids(folder / "file"))[str(folder / "file")].devices == ["loop3"]


MOUNTS = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:44 / /vms rw - nfs4 server:/vms rw
31 30 0:45 / /vms/fast rw - xfs /dev/sdb rw
32 22 0:46 / /with\\040blank rw shared:9 master:2 - fuse.sshfs x rw
33 22 0:47 / /vms/twice rw - ext4 /dev/sdc rw
34 33 0:48 / /vms/twice rw - ceph x rw
"""


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        pytest.param("/vms/base.qcow2", "nfs4", id="on a mount"),
        pytest.param("/vms/fast/base.qcow2", "xfs", id="on the mount further down"),
        pytest.param("/vmsother/base.qcow2", "ext4", id="only whole names count"),
        pytest.param("/with blank/x", "fuse.sshfs", id="a blank"),
        pytest.param("/vms/twice/x", "ceph", id="the later of two on one point"),
        pytest.param("/vms", "nfs4", id="the point itself"),
    ],
)
def test_file_systems(monkeypatch: pytest.MonkeyPatch, file: str, kind: str) -> None:
    """The type of the file system that a file lies on, as the kernel lists the mounts."""
    monkeypatch.setattr(_host, "_read", lambda path: MOUNTS if path == "/proc/self/mountinfo" else "")
    monkeypatch.setattr(_host, "_file_id", lambda path: FileId(1, 2))
    assert HOST.traces({file: FileId(1, 2)})[file].file_system == kind


def test_a_file_system_that_cannot_be_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the list of mounts the type is unknown."""
    (folder / "file").write_text("")
    monkeypatch.setattr(_host, "_read", lambda path: "")
    assert HOST.traces(ids(folder / "file"))[str(folder / "file")].file_system == "unknown"


def test_a_device_is_no_regular_file() -> None:
    """A device is told as what it is."""
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    assert not HOST.traces(ids(Path("/dev/null")))["/dev/null"].is_regular


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
