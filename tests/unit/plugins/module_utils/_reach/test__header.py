# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.virtops.qmp.plugins.module_utils._model._files import Bound, FileId, Inode
from ansible_collections.virtops.qmp.plugins.module_utils._model._header import HEADER_BYTES, Header, NoHeader
from ansible_collections.virtops.qmp.plugins.module_utils._reach._descriptors import read_inode, reopen
from ansible_collections.virtops.qmp.plugins.module_utils._reach._header import read_header

ME = -1  # this very process; the tests may run in another one than the one that collected them
HEAD = struct.pack(">4sIQIIQ", b"QFI\xfb", 2, 72, 4, 16, 1 << 20) + bytes(40) + b"base"


@pytest.fixture
def image(folder: Path) -> Iterator[tuple[Path, int]]:
    """A qcow2 header in a file, and a descriptor of it."""
    path = folder / "image"
    path.write_bytes(HEAD)
    descriptor = os.open(str(path), os.O_RDWR)
    yield path, descriptor
    os.close(descriptor)


def bound(*numbers: int) -> Bound:
    return Bound(read_inode(os.fstat(numbers[-1])), numbers)


def test_the_header_of_what_is_open(image: tuple[Path, int]) -> None:
    """The header is read through the descriptor: the file may be deleted, or another one may have its name."""
    path, descriptor = image
    path.unlink()
    path.write_bytes(b"another file")
    assert read_header(os.getpid(), bound(descriptor), "qcow2") == Header(
        "base", version=2, cluster_bits=16, virtual_size=1 << 20
    )
    assert read_header(os.getpid(), bound(descriptor), "qed") == NoHeader("its file does not begin with a qed header")


def test_only_the_beginning_is_read(image: tuple[Path, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a large file no more is read than a header can have."""
    path, descriptor = image
    os.truncate(str(path), HEADER_BYTES + 1)
    given = []
    real = os.pread

    def pread(file: int, count: int, place: int) -> bytes:
        given.append(real(file, min(count, 40_000), place))  # as some file systems do: less than was asked for
        return given[-1]

    monkeypatch.setattr(os, "pread", pread)
    assert isinstance(read_header(os.getpid(), bound(descriptor), "qcow2"), Header)
    assert [len(each) for each in given] == [40_000, HEADER_BYTES - 40_000]


def test_raw_needs_no_look() -> None:
    """A raw image has no header, also where its file is not known."""
    assert read_header(None, Bound(), "raw") == Header()


@pytest.mark.parametrize(
    ("pid", "given", "why"),
    [
        pytest.param(ME, Bound(why="it was not found"), "its file is not known: it was not found", id="not bound"),
        pytest.param(None, Bound(Inode(FileId(1, 2), "regular"), (3,)), "its file is not known: ", id="no process"),
        pytest.param(
            ME,
            Bound(Inode(FileId(1, 2), "regular"), (0,)),
            "its file cannot be read: QEMU has closed it",
            id="another file",
        ),
        pytest.param(
            2**22 + 1,
            Bound(Inode(FileId(1, 2), "regular"), (0,)),
            "its file cannot be read: No such file or directory",
            id="no such process",
        ),
    ],
)
def test_a_file_that_is_not_there(pid: int | None, given: Bound, why: str) -> None:
    """A file that is not known, or not open any more, is never read by its name."""
    assert read_header(os.getpid() if pid == ME else pid, given, "qcow2") == NoHeader(why)


def test_storage_that_fails(image: tuple[Path, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of the storage is told."""

    def pread(file: int, count: int, place: int) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "pread", pread)
    assert read_header(os.getpid(), bound(image[1]), "qcow2") == NoHeader("its file cannot be read: Input/output error")


def test_a_number_that_is_another_file_now(image: tuple[Path, int], folder: Path) -> None:
    """Of several descriptors the first that is still the file serves; what else is behind a number is not opened."""
    os.mkfifo(folder / "pipe")
    pipe = os.open(str(folder / "pipe"), os.O_RDWR)
    try:
        ours = reopen(os.getpid(), bound(pipe, image[1]))
        assert os.path.samestat(os.fstat(ours), os.fstat(image[1]))
        os.close(ours)
    finally:
        os.close(pipe)


def test_reopen_opens_nothing_else(image: tuple[Path, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is not the one that was judged is only looked at as a place, which opens nothing."""
    flags = []
    real = os.open

    def spy(path: str, how: int, **words: int) -> int:
        flags.append(how)
        return real(path, how, **words)

    monkeypatch.setattr(os, "open", spy)
    with pytest.raises(OSError, match="QEMU has closed it"):
        reopen(os.getpid(), Bound(Inode(FileId(1, 2), "regular"), (image[1],)))
    assert flags == [os.O_PATH | os.O_CLOEXEC]


def test_our_own_descriptor_can_only_read(image: tuple[Path, int]) -> None:
    """The new descriptor reads, is not inherited, and does not wait for anybody."""
    ours = reopen(os.getpid(), bound(image[1]))
    try:
        flags = int(Path(f"/proc/self/fdinfo/{ours}").read_text().split("flags:\t")[1].split("\n")[0], 8)
    finally:
        os.close(ours)
    assert flags & os.O_ACCMODE == os.O_RDONLY
    assert flags & os.O_CLOEXEC
    assert flags & os.O_NONBLOCK
