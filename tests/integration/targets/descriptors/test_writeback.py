# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Storage that takes writes and cannot keep them: whoever held the file open before is told, nobody else is."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING

import pytest
from lab import host
from lab.images import MiB
from lab.process import run

from ansible_collections.virtops.qmp.plugins.module_utils._model._errors import WriteBackFailed  # isort: skip
from ansible_collections.virtops.qmp.plugins.module_utils._model._files import Bound  # isort: skip
from ansible_collections.virtops.qmp.plugins.module_utils._reach._descriptors import read_inode  # isort: skip
from ansible_collections.virtops.qmp.plugins.module_utils._reach._writeback import WriteBack  # isort: skip

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(not host.has_loop_devices(), reason="this host gives no loop device")


@pytest.fixture(params=["ext4", "device"])
def image(request: pytest.FixtureRequest, folder: Path) -> Iterator[tuple[Path, str]]:
    """A file, or a device, on storage that has room for a fifth of it; and what the kernel says when that is full."""
    with host.file_system(folder / "thin", 24 * MiB) as thin:
        (thin.path / "device").touch()
        os.truncate(thin.path / "device", 128 * MiB)
        with host.loop_device(thin.path / "device") as device, contextlib.ExitStack() as mounted:
            if request.param == "device":
                yield type(folder)(device), "Input/output error"
                return
            run(["mkfs.ext4", "-q", device])
            place = folder / "mounted"
            place.mkdir()
            run(["mount", "-o", "errors=continue", device, place])
            mounted.callback(run, ["umount", place])
            (place / "image").touch()
            yield place / "image", "No space left on device"


def hold(descriptor: int) -> WriteBack:
    """What the product would hold of a file that a process, this one, has open."""
    return WriteBack.open(os.getpid(), Bound(read_inode(os.fstat(descriptor)), (descriptor,)), "vda")


def told(held: WriteBack) -> str:
    try:
        asyncio.run(held.flush(60))
    except WriteBackFailed as error:
        return str(error)
    return ""


def fill(descriptor: int) -> None:
    for number in range(100):
        os.pwrite(descriptor, os.urandom(MiB), number * MiB)


@pytest.mark.parametrize("has_dd", [True, False], ids=["dd", "no dd"])
def test_an_error_is_told_to_whoever_was_there(
    image: tuple[Path, str], has_dd: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error reaches a descriptor from before the write though the writer was told first, and none from after."""
    path, reason = image
    writer = os.open(path, os.O_RDWR)
    if not has_dd:
        monkeypatch.setenv("PATH", "/nonexistent")
    try:
        before = hold(writer)
        assert told(before) == ""
        fill(writer)
        with pytest.raises(OSError, match=reason):
            os.fsync(writer)  # as QEMU does
        os.fsync(writer)  # and again: all is well
        after = hold(writer)
        assert told(after) == ""
        assert told(before) == f"what was written to vda did not reach the storage: {reason}"
        assert told(before) != ""
        before.close()
        after.close()
    finally:
        os.close(writer)


def test_nobody_was_told_yet(image: tuple[Path, str]) -> None:
    """An error that the kernel has told nobody is told to a descriptor from after it as well."""
    path, reason = image
    writer = os.open(path, os.O_RDWR)
    try:
        fill(writer)
        first = hold(writer)
        assert reason in told(first)
        first.close()
    finally:
        with contextlib.suppress(OSError):
            os.fsync(writer)
        os.close(writer)


def test_storage_that_works(folder: Path) -> None:
    """Where all is well nothing is told, and the file is as long as it was."""
    path = folder / "image"
    path.write_bytes(b"content")
    writer = os.open(path, os.O_RDWR)
    try:
        held = hold(writer)
        os.write(writer, b"CON")
        assert told(held) == ""
        held.close()
    finally:
        os.close(writer)
    assert path.read_bytes() == b"CONtent"
