# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import errno
import fcntl
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any, Callable  # noqa: UP035  # Python 3.8

import pytest
from ansible_collections.virtops.qmp.plugins.module_utils._model._files import FileId, Granted, KnownFile, Lease
from ansible_collections.virtops.qmp.plugins.module_utils._reach import _lease
from ansible_collections.virtops.qmp.plugins.module_utils._reach._lease import hold_lease, try_lease, try_leases
from ansible_collections.virtops.qmp.tests.unit.descriptors import open_files


def known(path: Path) -> KnownFile:
    status = path.lstat()
    return KnownFile(str(path), FileId(status.st_dev, status.st_ino))


@pytest.fixture
def file(folder: Path) -> KnownFile:
    (folder / "image").write_text("")
    return known(folder / "image")


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long it was waited, without the waiting."""
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    return slept


@pytest.mark.parametrize("in_a_thread", [False, True], ids=["in the main thread", "in another thread"])
def test_a_file_that_nobody_has_open(file: KnownFile, in_a_thread: bool) -> None:
    """The lease is granted, again and again, and nothing stays open."""
    before = open_files()
    answers: list[Lease] = []

    def ask() -> None:
        answers.extend(try_lease(file) for _again in range(2))

    if in_a_thread:
        thread = threading.Thread(target=ask)
        thread.start()
        thread.join()
    else:
        ask()
    assert [(each.granted, each.why) for each in answers] == [(Granted.YES, "")] * 2
    assert answers[0].file_system != "unknown"
    assert not open_files() - before


def test_a_file_that_is_open(file: KnownFile, pauses: list[float]) -> None:
    """The lease is refused while the file is open, tried again for a moment, and granted once it is closed."""
    with open(file.path):
        assert try_leases([file])[file].granted is Granted.NO
    assert sum(pauses) == pytest.approx(0.3)
    assert try_leases([file])[file].granted is Granted.YES


def test_one_open_by_path_only_is_not_open(file: KnownFile) -> None:
    """Who names a file by O_PATH does not have it open."""
    descriptor = os.open(file.path, os.O_PATH)
    try:
        assert try_lease(file).granted is Granted.YES
    finally:
        os.close(descriptor)


def test_who_is_just_closing_it_is_no_user(file: KnownFile, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is closed within that moment is free; the others are not asked again."""
    (folder / "other").write_text("")
    other = known(folder / "other")
    asked: list[KnownFile] = []
    opened = open(file.path)  # noqa: SIM115
    monkeypatch.setattr(time, "sleep", lambda seconds: opened.close())

    def ask(each: KnownFile) -> Lease:
        asked.append(each)
        return try_lease(each)

    monkeypatch.setattr(_lease, "try_lease", ask)
    found = try_leases([file, other])
    assert [found[file].granted, found[other].granted] == [Granted.YES, Granted.YES]
    assert asked == [file, other, file]


def replace(path: Path) -> None:
    path.with_name("new").write_text("")
    path.with_name("new").rename(path)


def link(path: Path) -> None:
    path.rename(path.with_name("moved"))
    path.symlink_to("moved")


@pytest.mark.parametrize(
    ("change", "granted"),
    [
        pytest.param(Path.unlink, Granted.GONE, id="removed"),
        pytest.param(replace, Granted.OTHER, id="replaced"),
        pytest.param(link, Granted.OTHER, id="a link to the very file"),
    ],
)
def test_a_name_that_leads_elsewhere(file: KnownFile, change: Callable[[Path], None], granted: Granted) -> None:
    """Only the file that was known is asked about, and no link is followed."""
    change(Path(file.path))
    assert try_lease(file).granted is granted


def test_a_folder_that_is_a_file_now(file: KnownFile) -> None:
    """A name below what is no folder any more is gone."""
    assert try_lease(KnownFile(f"{file.path}/image", file.id)).granted is Granted.GONE


def test_a_file_that_was_never_identified(file: KnownFile, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is opened of which nobody knows what it was."""
    monkeypatch.setattr(fcntl, "fcntl", lambda *words: pytest.fail("asked for a lease"))
    assert try_lease(KnownFile(file.path, None)).granted is Granted.OTHER


def test_what_is_no_regular_file_is_not_opened(folder: Path) -> None:
    """To open a FIFO would block, and a device may act on it: both are told without opening them."""
    os.mkfifo(folder / "fifo")
    for path in (folder / "fifo", Path("/dev/null"), folder):
        assert try_lease(known(path)).granted is Granted.NOT_REGULAR


def refusing(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Have the kernel answer to the question for a lease with this error."""
    real = fcntl.fcntl

    def fcntl_(descriptor: int, command: int, argument: int = 0) -> int:
        if command == fcntl.F_SETLEASE:
            raise OSError(number, os.strerror(number))
        return real(descriptor, command, argument)

    monkeypatch.setattr(fcntl, "fcntl", fcntl_)


@pytest.mark.parametrize(
    ("number", "why"),
    [
        pytest.param(errno.EINVAL, "nfs4 grants no leases", id="a file system without leases"),
        pytest.param(errno.ENOLCK, "nfs4 grants no leases", id="another one"),
        pytest.param(errno.EOPNOTSUPP, "nfs4 grants no leases", id="a third one"),
        pytest.param(errno.EACCES, "only its owner and root (CAP_LEASE) may ask the kernel", id="no right"),
        pytest.param(errno.EPERM, "only its owner and root (CAP_LEASE) may ask the kernel", id="forbidden"),
        pytest.param(errno.EIO, "the kernel grants no lease on it: Input/output error", id="an error"),
    ],
)
def test_why_the_kernel_cannot_be_asked(
    file: KnownFile, monkeypatch: pytest.MonkeyPatch, number: int, why: str
) -> None:
    """What is no answer is unknown, with the reason that is true."""
    monkeypatch.setattr(_lease, "file_system_of", lambda descriptor: "nfs4")
    monkeypatch.setattr(_lease, "_are_switched_off", lambda: False)
    refusing(monkeypatch, number)
    assert try_lease(file) == Lease(Granted.UNKNOWN, "nfs4", why)


@pytest.mark.parametrize(
    ("setting", "why"),
    [
        pytest.param("0\n", "leases are switched off on this host (fs.leases-enable is 0)", id="switched off"),
        pytest.param("1\n", "x grants no leases", id="on"),
        pytest.param(None, "x grants no leases", id="no such setting"),
    ],
)
def test_leases_that_are_switched_off(
    file: KnownFile, folder: Path, monkeypatch: pytest.MonkeyPatch, setting: str | None, why: str
) -> None:
    """Where the administrator has switched leases off, the file system is not blamed."""
    if setting is not None:
        (folder / "leases-enable").write_text(setting)
    monkeypatch.setattr(_lease, "_SWITCH", str(folder / "leases-enable"))
    monkeypatch.setattr(_lease, "file_system_of", lambda descriptor: "x")
    refusing(monkeypatch, errno.EINVAL)
    assert try_lease(file).why == why


@pytest.mark.parametrize(
    ("number", "start", "granted", "why"),
    [
        pytest.param(
            errno.EACCES,
            "/",
            Granted.UNKNOWN,
            "the file cannot be reached: Permission denied",
            id="a folder that may not be entered",
        ),
        pytest.param(
            errno.EACCES,
            "/proc",
            Granted.UNKNOWN,
            "it cannot be opened: Permission denied",
            id="a file that may not be read",
        ),
        pytest.param(errno.EAGAIN, "/proc", Granted.NO, "", id="a lease of somebody else"),
    ],
)
def test_files_that_cannot_be_opened(
    file: KnownFile, monkeypatch: pytest.MonkeyPatch, number: int, start: str, granted: Granted, why: str
) -> None:
    """What cannot be opened is unknown; what somebody else holds a lease on is open."""
    real: Any = os.open

    def open_(path: str, flags: int, *, dir_fd: int | None = None) -> int:
        if path.startswith(start):
            raise OSError(number, os.strerror(number))
        return int(real(path, flags, dir_fd=dir_fd))

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(os, "open", open_)
        found = try_lease(file)
    assert (found.granted, found.why) == (granted, why)


def test_while_the_lease_is_held_nobody_opens_the_file(file: KnownFile) -> None:
    """Others wait, which is seen, and does not end this process; afterwards they get it."""
    before = {each: signal.getsignal(each) for each in (signal.SIGIO, signal.SIGURG)}
    with hold_lease(file) as leased:
        os.fchmod(leased.descriptor, 0o400)
        assert not leased.is_awaited()
        with pytest.raises(BlockingIOError):
            os.open(file.path, os.O_RDONLY | os.O_NONBLOCK)
        assert leased.is_awaited()
    os.close(os.open(file.path, os.O_RDONLY | os.O_NONBLOCK))
    assert {each: signal.getsignal(each) for each in before} == before
    assert os.stat(file.path).st_mode & 0o777 == 0o400


def test_a_lease_ends_with_the_block_and_not_with_the_last_copy_of_its_descriptor(file: KnownFile) -> None:
    """A process that is being started may share the descriptor for a moment: the lease is given back all the same."""
    with hold_lease(file) as leased:
        copy = os.dup(leased.descriptor)
    try:
        os.close(os.open(file.path, os.O_RDONLY | os.O_NONBLOCK))
    finally:
        os.close(copy)
