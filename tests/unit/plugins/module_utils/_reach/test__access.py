# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import errno
import os
import socket
import time
from pathlib import Path
from typing import Any, Callable  # noqa: UP035  # Python 3.8

import pytest
from ansible_collections.virtops.qmp.plugins.module_utils._model._access import AskedImage, FoundImage, Rights
from ansible_collections.virtops.qmp.plugins.module_utils._model._errors import ImageRefused
from ansible_collections.virtops.qmp.plugins.module_utils._model._files import FileId, Granted
from ansible_collections.virtops.qmp.plugins.module_utils._reach import _access
from ansible_collections.virtops.qmp.plugins.module_utils._reach._access import open_image
from ansible_collections.virtops.qmp.tests.unit.descriptors import open_files


@pytest.fixture
def image(folder: Path) -> Path:
    path = folder / "golden" / "sub" / "image"
    path.parent.mkdir(parents=True)
    path.write_text("")
    path.chmod(0o644)
    return path


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long it was waited, without the waiting."""
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    return slept


@pytest.fixture(autouse=True)
def selinux(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that is there where SELinux is on; here it is off, whatever this host has."""
    monkeypatch.setattr(_access, "_SELINUX", str(folder / "enforce"))
    return folder / "enforce"


def asked(path: Path | str, *below: Path | str) -> AskedImage:
    return AskedImage(str(path), tuple(str(folder) for folder in below or ("/",)))


def look(path: Path) -> FoundImage:
    with open_image(asked(path)) as opened:
        return opened.look()


def test_what_is_found(image: Path) -> None:
    """The image is told as the file system has it, and nothing stays open."""
    before = open_files()
    found, status = look(image), image.stat()
    assert found == FoundImage(FileId(status.st_dev, status.st_ino), 1, Rights(os.getuid(), status.st_gid, 0o644))
    assert not open_files() - before


def fifo(path: Path) -> None:
    os.mkfifo(path)


def listening(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        pytest.param(fifo, "a FIFO", id="a FIFO"),
        pytest.param(Path.mkdir, "a folder", id="a folder"),
        pytest.param(lambda path: path.symlink_to("/etc/passwd"), "a link", id="a link"),
        pytest.param(listening, "a socket", id="a socket"),
    ],
)
def test_what_is_no_file_is_named_and_not_opened(folder: Path, make: Callable[[Path], Any], kind: str) -> None:
    """Something else under the name is told, and to look at it neither blocks nor follows."""
    make(folder / "thing")
    assert look(folder / "thing").kind == kind


def test_a_device_is_named_and_not_opened() -> None:
    """A device is told as one."""
    assert look(Path("/dev/null")).kind == "a character device"


@pytest.mark.parametrize(
    ("path", "below"),
    [
        pytest.param("golden/sub/image", ["golden"], id="further below"),
        pytest.param("golden/sub/image", ["golden/sub/"], id="in it"),
        pytest.param(
            "golden//./sub/image", ["nosuch", "golden/link", "golden/sub/image", "./golden"], id="in one of them"
        ),
    ],
)
def test_an_image_below(folder: Path, image: Path, path: str, below: list[str]) -> None:
    """An image is found that lies in one of the folders, or further below."""
    (folder / "golden" / "link").symlink_to(folder)
    with open_image(asked(f"{folder}/{path}", *(f"{folder}/{each}" for each in below))) as opened:
        assert opened.look().id.inode == image.stat().st_ino


@pytest.mark.parametrize(
    ("path", "below", "words"),
    [
        pytest.param("golden/sub/image", ["gol"], "none of the folders", id="a name that only begins so"),
        pytest.param("golden/sub/image", ["golden/other"], "none of the folders", id="beside it"),
        pytest.param("golden/sub/image", ["link"], "none of the folders", id="a folder that is a link"),
        pytest.param("golden/sub/image", ["golden/sub/image"], "none of the folders", id="the file itself"),
        pytest.param("link/sub/image", ["golden"], "links are not followed", id="over a link"),
        pytest.param("golden/sub/image/x", ["golden"], "links are not followed", id="below a file"),
        pytest.param("golden/nosuch", ["golden"], "there is no such file any more", id="no such file"),
        pytest.param("nosuch/image", ["golden"], "there is no such file any more", id="no such folder"),
        pytest.param(f"golden/{'x' * 300}", ["golden"], "cannot be reached: File name too long", id="too long"),
    ],
)
def test_an_image_that_is_not_below(folder: Path, image: Path, path: str, below: list[str], words: str) -> None:
    """An image that lies in none of the folders, or is reached over a link, is refused."""
    (folder / "golden" / "other").mkdir()
    (folder / "link").symlink_to("golden")
    before = open_files()
    image_asked = asked(f"{folder}/{path}", *(f"{folder}/{each}" for each in below))
    with pytest.raises(ImageRefused) as refused, open_image(image_asked):
        pass
    assert words in str(refused.value)
    assert not open_files() - before


@pytest.mark.parametrize("name", ["$HOME", "~", "a b\nc", "a\\x0a", "\udcff"])
def test_names_are_literal(folder: Path, name: str) -> None:
    """No character of a name means anything but itself."""
    (folder / name).write_text("")
    assert look(folder / name).id.inode == (folder / name).stat().st_ino


def test_a_name_that_changes_hands(image: Path) -> None:
    """Once found, the image stays the one that was found, and its rights are set, whatever gets its name."""
    other = image.with_name("other")
    with open_image(asked(image)) as opened:
        image.rename(other)
        image.symlink_to("/etc/passwd")
        with opened.hold() as held:
            held.set_rights(opened.look().rights, Rights(os.getuid(), os.getgid(), 0o400))
    assert other.stat().st_mode & 0o7777 == 0o400


def test_one_that_is_open(image: Path, pauses: list[float]) -> None:
    """The lease is refused while the image is open, tried again for a moment, and its user is found."""
    with open_image(asked(image)) as opened, open(image):
        with opened.hold() as held:
            assert held.lease.granted is Granted.NO
        assert sum(pauses) == pytest.approx(0.3)
        assert os.getpid() in opened.find_users().processes


def test_one_that_was_just_closed(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who closes the image within that moment is no user."""
    user = open(image)  # noqa: SIM115
    monkeypatch.setattr(time, "sleep", lambda seconds: user.close())
    with open_image(asked(image)) as opened, opened.hold() as held:
        assert held.lease.granted is Granted.YES


def test_who_waits_for_it(image: Path, pauses: list[float]) -> None:
    """Who comes to open the image while it is held is seen, and is given the time to come."""
    with open_image(asked(image)) as opened, opened.hold() as held:
        assert not held.is_awaited()
        assert pauses == [0.01]
        with pytest.raises(BlockingIOError):
            os.open(image, os.O_RDONLY | os.O_NONBLOCK)
        assert held.is_awaited()


def test_only_what_differs_is_set(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Owner, context and permissions are set each by itself, all by the descriptor."""
    done: list[tuple[Any, ...]] = []
    for name in ("fchown", "fchmod", "setxattr"):
        monkeypatch.setattr(os, name, lambda *words, name=name: done.append((name, *words[1:])))
    old = Rights(1, 1, 0o644, "u:r:a_t")
    with open_image(asked(image)) as opened, opened.hold() as held:
        for new in (old, Rights(2, 1, 0o644, "u:r:a_t"), Rights(1, 2, 0o644, "u:r:a_t")):
            held.set_rights(old, new)
        held.set_rights(old, Rights(1, 1, 0o644, "u:r:b_t"))
        held.set_rights(old, Rights(1, 1, 0o600, "u:r:a_t"))
        held.set_rights(Rights(1, 1, 0), Rights(1, 1, 0))
    assert done == [
        ("fchown", 2, 1),
        ("fchown", 1, 2),
        ("setxattr", "security.selinux", b"u:r:b_t\0"),
        ("fchmod", 0o600),
    ]


@pytest.mark.parametrize(
    ("answer", "context"),
    [
        pytest.param(b"u:r:a_t:s0\0", "u:r:a_t:s0", id="a context"),
        pytest.param(b"u:r:a_t:s0", "u:r:a_t:s0", id="without the zero"),
        pytest.param(errno.ENODATA, "", id="none"),
        pytest.param(errno.EOPNOTSUPP, "", id="a file system without"),
    ],
)
def test_the_context(
    image: Path, selinux: Path, monkeypatch: pytest.MonkeyPatch, answer: bytes | int, context: str
) -> None:
    """Where SELinux is on, the context is read from the very file; it may have none."""
    selinux.write_text("1")

    def getxattr(path: str, name: str) -> bytes:
        assert os.path.samefile(path, image)
        assert name == "security.selinux"
        if isinstance(answer, int):
            raise OSError(answer, os.strerror(answer))
        return answer

    monkeypatch.setattr(os, "getxattr", getxattr)
    assert look(image).rights.context == context


def test_a_context_that_cannot_be_read(image: Path, selinux: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it cannot be read, nothing is assumed."""
    selinux.write_text("1")

    def getxattr(path: str, name: str) -> bytes:
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "getxattr", getxattr)
    with pytest.raises(ImageRefused, match="its SELinux context cannot be read: Permission denied"):
        look(image)
