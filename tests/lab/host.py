# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""What only root can make of a host: file systems of a size, bind mounts and loop devices, gone at the end; and see."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from .process import LabError, run

if TYPE_CHECKING:
    from collections.abc import Iterator


def told_pids(*pids: int) -> list[int] | None:
    """The processes that have a file open, as the product can tell them: to others than root, some are hidden."""
    return sorted(pids) if os.geteuid() == 0 else None


class FileSystem:
    """A small file system in memory, that can be made larger while it is in use."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def resize(self, size: int) -> None:
        run(["mount", "-o", f"remount,size={size}", self.path])

    @property
    def free(self) -> int:
        """The bytes that a writer has left."""
        status = os.statvfs(self.path)
        return status.f_bavail * status.f_frsize


@contextlib.contextmanager
def file_system(path: Path, size: int) -> Iterator[FileSystem]:
    """A file system of so many bytes at `path`; what has files open there must end first."""
    path.mkdir()
    run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", path])
    try:
        yield FileSystem(path)
    finally:
        run(["umount", path])


@contextlib.contextmanager
def bind_mount(source: Path, path: Path) -> Iterator[Path]:
    """The folder `source` once more, at `path`."""
    path.mkdir()
    run(["mount", "--bind", source, path])
    try:
        yield path
    finally:
        run(["umount", path])


@contextlib.contextmanager
def loop_device(file: Path) -> Iterator[str]:
    """The path of a block device whose content is a file."""
    device = run(["losetup", "--find", "--show", file]).strip()
    try:
        yield device
    finally:
        run(["losetup", "--detach", device])


def has_loop_devices() -> bool:
    """Whether this host lets us have one; containers often do not."""
    try:
        run(["losetup", "--find"])
    except (LabError, FileNotFoundError):
        return False
    return os.geteuid() == 0


@contextlib.contextmanager
def copy_of_host(path: Path) -> Iterator[Path]:
    """The files of this host, at `path`/root, to be changed at will: what is written goes to memory."""
    path.mkdir()
    root = path / "root"
    with contextlib.ExitStack() as mounted:

        def mount(*words: str | Path) -> None:
            run(["mount", *words])
            mounted.callback(run, ["umount", words[-1]])

        mount("-t", "tmpfs", "tmpfs", path)
        for name in ("changed", "work", "root"):
            (path / name).mkdir()
        layers = f"lowerdir=/,upperdir={path / 'changed'},workdir={path / 'work'}"
        mount("-t", "overlay", "-o", layers, "overlay", root)
        for name in ("proc", "dev"):
            mount("--bind", Path("/", name), root / name)
        yield root
