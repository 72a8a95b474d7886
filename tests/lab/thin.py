# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Thin storage: a block device that promises more bytes than there are, and fails when it has to keep the promise.

A write to it succeeds, for it reaches the page cache only. What fails is the write-back, and all that hears of it is
a flush: once for each descriptor that was open by then. As on a logical volume of a thin pool, or a LUN.
"""

from __future__ import annotations

import contextlib
import os
import re
from typing import TYPE_CHECKING

from . import host
from .process import LabError, run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_PAGE = 4096


class Thin:
    """Such a device: a loop device whose file lies in a small tmpfs."""

    def __init__(self, file_system: host.FileSystem, store: Path, device: str) -> None:
        self.device = device
        self._file_system, self._store = file_system, store
        self._size = store.stat().st_size
        self._frozen: dict[int, bytes] = {}

    def fill(self) -> None:
        """Give every byte its place; what is discarded later loses it again."""
        with self._store.open("r+b") as store:
            os.posix_fallocate(store.fileno(), 0, self._size)

    def leave(self, room: int) -> None:
        """From now on the device has places for so many more bytes."""
        self._file_system.resize(max(_PAGE, self._store.stat().st_blocks * 512 + room))  # 0 would be: no limit

    def make_room(self) -> None:
        """What an administrator does: enough for all that was promised."""
        self._file_system.resize(2 * self._size)

    def freeze(self, offset: int, size: int) -> None:
        """As after a snapshot of a full device: to overwrite this range takes a new place, and there is none.

        The old content comes back with `thaw`: that is what a reader finds who comes after the failure.
        """
        with self._store.open("rb") as store:
            for place in range(offset, offset + size, _PAGE):
                store.seek(place)
                self._frozen[place] = store.read(_PAGE)
        run(["fallocate", "--punch-hole", "--offset", str(offset), "--length", str(size), self._store])
        self.leave(0)

    def thaw(self) -> None:
        """There is room again, and the frozen range reads what it did; nobody may have the device open."""
        self.make_room()
        with self._store.open("r+b") as store:
            for place, content in self._frozen.items():
                store.seek(place)
                store.write(content)
        self._frozen.clear()
        self.forget_cache()

    def forget_cache(self) -> None:
        """Whoever reads the device next gets what it holds, not what was written to it."""
        forget_cache(self.device)


def place_of(file: Path) -> int:
    """Where on its device a file begins, or a device that is used as it is."""
    if not file.is_file():
        return 0
    extents = run(["filefrag", "-e", "-b4096", file])
    found = re.search(r"^ +0: +0\.\. +\d+: +(\d+)\.\.", extents, re.MULTILINE)
    if found is None:
        raise LabError(f"no extent begins the file:\n{extents}")
    return int(found[1]) * _PAGE


def forget_cache(file: str | Path) -> None:
    """Have the page cache drop what it need not write out of a file or device: what was lost shows from now on."""
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def device(folder: Path, size: int) -> Iterator[Thin]:
    """Such a device of so many bytes, with room for all of them at first; what has it open must end first."""
    with host.file_system(folder / "thin", 2 * size) as mounted:
        store = mounted.path / "store"
        store.touch()
        os.truncate(store, size)
        with host.loop_device(store) as path:
            yield Thin(mounted, store, path)


@contextlib.contextmanager
def ext4(thin: Thin, path: Path) -> Iterator[host.Ext4]:
    """A file system on such a device; `trim` it before the room is taken, for its own tables are to keep theirs."""
    thin.fill()
    with host.ext4_on(thin.device, path) as mounted:
        yield mounted
