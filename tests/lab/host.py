# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""What only root can make of a host: file systems of a size, bind mounts and loop devices, gone at the end; and see."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from .process import LabError, run, start, tool, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator


def told_pids(*pids: int) -> list[int]:
    """The processes that have a file open, as the product tells them; here they are all of one user."""
    return sorted(pids)


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


class Ext4:
    """A file system on a block device of its own, which turns read-only when it meets an error, as most do."""

    def __init__(self, device: str, path: Path) -> None:
        self.path = path
        self._device = device

    def mount(self) -> None:
        run(["mount", "-o", "errors=remount-ro", self._device, self.path])

    def umount(self) -> None:
        run(["umount", self.path])

    def sync(self) -> None:
        """Write out what was written so far: an error costs all else."""
        run(["sync", "-f", self.path])

    def trim(self) -> None:
        """Tell the device of every block that is free."""
        run(["fstrim", self.path])

    @property
    def _trigger(self) -> Path:
        return Path("/sys/fs/ext4", Path(self._device).name, "trigger_fs_error")

    @property
    def can_fail(self) -> bool:
        return self._trigger.exists()

    def fail(self) -> None:
        """Meet an error: from now on every write fails, also of those who have files open."""
        self._trigger.write_text("the laboratory\n")

    def repair(self) -> None:
        """What an administrator does; nobody may have files open there."""
        self.umount()
        run(["sh", "-c", f"e2fsck -fp {self._device} || test $? = 1"])  # 1: errors were corrected
        self.mount()


@contextlib.contextmanager
def ext4(path: Path, size: int) -> Iterator[Ext4]:
    """Such a file system of so many bytes at `path`; what has files open there must end first."""
    device_file = path.with_suffix(".device")
    device_file.touch()
    os.truncate(device_file, size)
    with loop_device(device_file) as device, ext4_on(device, path) as mounted:
        yield mounted


@contextlib.contextmanager
def ext4_on(device: str, path: Path) -> Iterator[Ext4]:
    """Such a file system on this device, all of whose own tables have their place at once."""
    path.mkdir()
    run(["mkfs.ext4", "-q", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0", device])
    mounted = Ext4(device, path)
    mounted.mount()
    try:
        yield mounted
    finally:
        mounted.umount()


@contextlib.contextmanager
def bind_mount(source: Path, path: Path) -> Iterator[Path]:
    """The folder `source` once more, at `path`."""
    path.mkdir()
    run(["mount", "--bind", source, path])
    try:
        yield path
    finally:
        run(["umount", path])


def elsewhere(source: Path, path: Path) -> list[str]:
    """Words before a command to which the folder `source` is `path`, in a mount namespace of its own."""
    return ["unshare", "--mount", "sh", "-c", f'mount --bind {source} {path} && exec "$@"', "sh"]


@contextlib.contextmanager
def loop_device(file: Path) -> Iterator[str]:
    """The path of a block device whose content is a file."""
    device = run(["losetup", "--find", "--show", file]).strip()
    try:
        yield device
    finally:
        run(["losetup", "--detach", device])
        # It lets go of the file when the last one has closed it: whoever lists such devices opens each.
        wait_until(lambda: _file_behind(device) != str(file), f"{device} lets go of {file}")


def _file_behind(device: str) -> str | None:
    try:
        return Path("/sys/block", Path(device).name, "loop", "backing_file").read_text().strip()
    except OSError:
        return None


def set_read_only(device: str, *, read_only: bool) -> None:
    """Have a block device refuse every write, also of those who have it open, or take it back."""
    run(["blockdev", "--setro" if read_only else "--setrw", device])


def has_loop_devices() -> bool:
    """Whether this host lets us have one; containers often do not."""
    try:
        run(["losetup", "--find"])
    except (LabError, FileNotFoundError):
        return False
    return os.geteuid() == 0


def overlay_command(layer: Path, folder: Path) -> str:
    """The command that mounts the folder `layer` at `folder`/root, as containers do: what is written goes elsewhere."""
    for name in ("changed", "work", "root"):
        (folder / name).mkdir(parents=True)
    layers = f"lowerdir={layer},upperdir={folder / 'changed'},workdir={folder / 'work'}"
    return f"mount -t overlay -o {layers} overlay {folder / 'root'}"


@contextlib.contextmanager
def overlay(layer: Path, folder: Path) -> Iterator[Path]:
    """The folder `layer` as a container sees it."""
    run(overlay_command(layer, folder).split(" "))
    try:
        yield folder / "root"
    finally:
        run(["umount", folder / "root"])


@contextlib.contextmanager
def fuse(file: Path, path: Path) -> Iterator[None]:
    """The bytes of a file once more, at the file `path`, through FUSE."""
    node = f"file,node-name=disk,filename={file},read-only=on"
    export = f"fuse,id=fuse,node-name=disk,mountpoint={path},allow-other=off"
    daemon = start(
        [tool("QEMU_STORAGE_DAEMON", "qemu-storage-daemon"), "--blockdev", node, "--export", export],
        path.with_suffix(".log"),
    )
    try:
        wait_until(lambda: path.stat().st_size > 0 or daemon.poll() is not None, "FUSE answers")
        if daemon.poll() is not None:
            raise LabError(path.with_suffix(".log").read_text())
        yield
    finally:
        daemon.terminate()
        daemon.wait()


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
