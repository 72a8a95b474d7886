# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import errno
import fcntl
import glob
import mmap
import os
import struct
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.virtops.qmp.plugins.module_utils._model._files import FileId, KnownFile, Users
from ansible_collections.virtops.qmp.plugins.module_utils._reach import _users
from ansible_collections.virtops.qmp.plugins.module_utils._reach._mounts import Mount, read_text
from ansible_collections.virtops.qmp.plugins.module_utils._reach._users import find_users, opened_by

NOBODY = 2**22 + 1


def known(path: Path) -> KnownFile:
    status = path.stat()
    return KnownFile(str(path), FileId(status.st_dev, status.st_ino))


@pytest.fixture
def file(folder: Path) -> KnownFile:
    (folder / "image").write_text("x")
    return known(folder / "image")


@pytest.fixture
def me(monkeypatch: pytest.MonkeyPatch) -> int:
    """This very process, for the walk the only one of the host."""
    real = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: ["self", str(os.getpid())] if path == "/proc" else real(path))
    return os.getpid()


def test_a_process_that_has_a_file_open(file: KnownFile, folder: Path, me: int) -> None:
    """It is found by whatever name it opened the file, and no more once it is closed."""
    os.link(file.path, str(folder / "other-name"))
    with (folder / "other-name").open():
        assert find_users([file])[file].processes == {me: Path("/proc/self/comm").read_text().strip()}
    assert find_users([file]) == {file: Users()}


def test_a_process_that_has_it_mapped(file: KnownFile, me: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is found without a descriptor, of which Python keeps one with each mapping."""
    monkeypatch.setattr(_users, "opened_by", lambda pid, wanted: set())
    with open(file.path, "rb") as opened, mmap.mmap(opened.fileno(), 1, prot=mmap.PROT_READ):
        assert list(find_users([file])[file].processes) == [me]
    assert find_users([file])[file].processes == {}


@pytest.mark.parametrize(
    ("listed", "found"),
    [
        pytest.param("{device} {inode}", True, id="as stat tells it"),
        pytest.param("00:2f {inode}", True, id="another device, as on btrfs"),
        pytest.param("00:2f 1{inode}", False, id="another inode"),
    ],
)
def test_what_is_mapped(file: KnownFile, monkeypatch: pytest.MonkeyPatch, listed: str, found: bool) -> None:
    """A mapping is known by device and inode, or by the link to its file."""
    assert file.id is not None
    assert file.path is not None
    device = f"{os.major(file.id.device):02x}:{os.minor(file.id.device):02x}"
    line = f"7f00-7f80 r--s 00000000 {listed.format(device=device, inode=file.id.inode)}    {file.path}\n"
    monkeypatch.setattr(_users, "read_text", lambda path: line if path == "/proc/7/maps" else "")
    real = _users.file_id
    names = {"/proc/7/map_files/7f00-7f80": file.path}
    monkeypatch.setattr(_users, "file_id", lambda path: real(names.get(path, str(path))))
    assert _users._mapped_by(7, {file.id}) == ({file.id} if found else set())


def test_who_names_it_only_does_not_have_it_open(file: KnownFile) -> None:
    """A descriptor by O_PATH, which needs no right to read the file, makes nobody its user."""
    assert file.id is not None
    descriptor = os.open(file.path, os.O_PATH)
    try:
        assert opened_by(os.getpid(), {file.id}) == set()
        with open(file.path):
            assert opened_by(os.getpid(), {file.id}) == {file.id}
    finally:
        os.close(descriptor)


def test_a_process_whose_first_thread_has_ended(file: KnownFile, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own lists are empty then, and those of its other threads are looked at."""
    assert file.id is not None
    assert file.path is not None
    me, thread = os.getpid(), "77"
    real_list, real_id, real_read = _users._list, _users.file_id, read_text
    lists = {f"/proc/{me}/fd": [], f"/proc/{me}/task": [thread], f"/proc/{me}/task/{thread}/fd": ["5"]}
    monkeypatch.setattr(_users, "_list", lambda path: lists[path] if path in lists else real_list(path))
    names = {f"/proc/{me}/task/{thread}/fd/5": file.path}
    monkeypatch.setattr(_users, "file_id", lambda path: real_id(names.get(path, str(path))))
    texts = {f"/proc/{me}/maps": "", f"/proc/{me}/task/{thread}/maps": "mapped"}
    monkeypatch.setattr(_users, "read_text", lambda path: texts[path] if path in texts else real_read(path))
    assert opened_by(me, {file.id}) == {file.id}
    assert _users._maps(me) == "mapped"


def test_no_file_needs_no_walk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a file to look for /proc is left alone."""
    monkeypatch.setattr(os, "listdir", lambda path: pytest.fail(f"{path} was read"))
    assert find_users([]) == {}


def test_a_file_that_was_never_identified(file: KnownFile, me: int) -> None:
    """Nobody can say who uses a file of which only the name is known."""
    assert find_users([KnownFile(file.path, None)]) == {}


def test_processes_that_end_meanwhile(file: KnownFile, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process or a descriptor that is gone when it is looked at is passed over."""
    listed = {"/proc": ["self", str(NOBODY), str(os.getpid())], f"/proc/{os.getpid()}/fd": ["999999"]}
    real = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: listed.get(path) or real(path))
    assert find_users([file]) == {file: Users()}


def test_processes_that_may_not_be_looked_at(file: KnownFile, me: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told that not all processes could be looked at."""

    def readlink(path: str) -> str:
        raise PermissionError(errno.EACCES, path)

    monkeypatch.setattr(os, "readlink", readlink)
    assert find_users([file])[file].saw_all is False


def test_a_process_without_a_name() -> None:
    """A process whose name cannot be read any more is a process all the same."""
    assert _users._process_name(NOBODY) == "a process"


def test_a_loop_device_has_its_file_open(
    file: KnownFile, folder: Path, me: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel's own users are found, too: no process has their files open, and devices without a file are none."""
    for name in ("loop3", "loop4"):
        (folder / name).write_text("")

    def ioctl(device: Any, request: int, data: bytes) -> bytes:
        assert file.id is not None
        if device.name.endswith("loop4"):
            raise OSError(errno.ENXIO, "no file")
        return struct.pack("QQ", file.id.device, file.id.inode) + data[16:]

    monkeypatch.setattr(glob, "glob", lambda pattern: [str(folder / name) for name in ("loop3", "loop4")])
    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    assert find_users([file])[file] == Users(kernel=("loop3",))


def test_a_swap_file(file: KnownFile, folder: Path, me: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that the kernel swaps to is in use, whatever blanks are in its name."""
    (folder / "a blank").write_text("")
    swap, real = known(folder / "a blank"), read_text
    lines = ["Filename Type Size Used Priority", "/nosuch partition 1 0 -2", f"{folder}/a\\040blank file 8 0 -3"]
    monkeypatch.setattr(_users, "read_text", lambda path: "\n".join(lines) if path == "/proc/swaps" else real(path))
    found = find_users([file, swap])
    assert (found[file], found[swap]) == (Users(), Users(kernel=("swap",)))


@pytest.mark.parametrize(
    ("layers", "found"),
    [
        pytest.param(["low"], True, id="a layer"),
        pytest.param(["empty", "low"], True, id="the lower one of two"),
        pytest.param(["low/"], True, id="a slash at the end"),
        pytest.param(["up", "low"], False, id="another file of that name is above it"),
        pytest.param(["lo"], False, id="another folder"),
    ],
)
def test_who_has_it_open_through_an_overlay(
    folder: Path, me: int, monkeypatch: pytest.MonkeyPatch, layers: list[str], found: bool
) -> None:
    """An overlay numbers the files of its layers anew; the processes that have them open there are found as well."""
    for name in ("low", "up", "empty", "lo", "merged"):
        (folder / name).mkdir()
    for name in ("low/image", "up/image", "merged/image"):
        (folder / name).write_text("")
    mounts = [Mount("/", "ext4"), Mount(str(folder / "merged"), "overlay", [f"{folder}/{layer}" for layer in layers])]
    monkeypatch.setattr(_users, "read_mounts", lambda: iter(mounts))
    file = known(folder / "low" / "image")
    with (folder / "merged" / "image").open():
        processes = find_users([file, KnownFile(file.path, None)])[file].processes
    assert list(processes) == ([me] if found else [])
