# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import errno
import fcntl
import os
import signal
import socket
import stat
import time
from pathlib import Path
from typing import Any, Callable  # noqa: UP035  # Python 3.8

import pytest
from ansible_collections.virtops.qmp.plugins.module_utils._model._files import KnownFile
from ansible_collections.virtops.qmp.plugins.module_utils._model._images import Asked, Search
from ansible_collections.virtops.qmp.plugins.module_utils._reach import _descriptors, _images
from ansible_collections.virtops.qmp.plugins.module_utils._reach._images import search
from ansible_collections.virtops.qmp.tests.unit.builders import qcow2
from ansible_collections.virtops.qmp.tests.unit.descriptors import open_files

WithoutRights = Callable[[], Any]
LONG = 3600.0


@pytest.fixture
def golden(folder: Path) -> Path:
    """An image that is asked about, beside the folder `vms`, which is searched."""
    (folder / "vms").mkdir()
    path = folder / "golden"
    path.write_text("data")
    return path


def overlay(path: Path, name: str = "../golden", **fields: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(qcow2(name.encode(), **fields))
    return path


def look(golden: Path, *folders: Path | str, seconds: float = LONG) -> tuple[Asked, Search]:
    file = KnownFile(str(golden), None)
    found = search([file], [str(folder) for folder in folders or (golden.parent / "vms",)], seconds)
    return found.asked[file], found


def unread(found: Search) -> dict[str, str]:
    """Why what was not read, by the last part of its path."""
    assert found.unread_count == len(found.unread)
    return {each.path.rpartition("/")[2]: each.why for each in found.unread}


def test_who_names_an_image(golden: Path) -> None:
    """Each header that names it is found, however deep, by whatever name; others are not; and nothing stays open."""
    vms, before = golden.parent / "vms", open_files()
    (golden.parent / "elsewhere").symlink_to(golden.parent)
    names = [
        overlay(vms / "a"),
        overlay(vms / "sub" / "b", str(golden)),
        overlay(vms / "sub" / "c", f"{golden.parent}/elsewhere/golden"),
        overlay(vms / "sub" / "sub" / "d", f'json:{{"file.filename": "{golden}"}}'),
    ]
    overlay(vms / "e", "a")
    overlay(vms / "f", "nbd://127.0.0.1:1/golden")
    (vms / "raw").write_bytes(bytes(9000))
    (vms / "empty").write_bytes(b"")
    asked, found = look(golden)
    assert sorted(asked.named_by) == sorted(map(str, names))
    assert (found.unread, asked.is_link, asked.same_as) == ((), False, ())
    assert asked.inode is not None
    assert asked.inode.id.inode == golden.stat().st_ino
    assert not open_files() - before


def test_folders_within_each_other(golden: Path) -> None:
    """What is seen twice is told once."""
    overlay(golden.parent / "vms" / "sub" / "a", "../../golden")
    asked, _found = look(golden, golden.parent / "vms", f"{golden.parent}/vms/./sub/")
    assert len(asked.named_by) == 1


def test_two_images(golden: Path) -> None:
    """Each has its own."""
    other = golden.with_name("other")
    other.write_text("")
    overlay(golden.parent / "vms" / "a")
    overlay(golden.parent / "vms" / "b", "../other")
    files = [KnownFile(str(path), None) for path in (golden, other)]
    found = search(files, [f"{golden.parent}/vms"], LONG)
    assert [found.asked[file].named_by for file in files] == [
        (f"{golden.parent}/vms/a",),
        (f"{golden.parent}/vms/b",),
    ]


def test_images_that_name_each_other(golden: Path) -> None:
    """A loop is no trouble: each header is read once."""
    overlay(golden, "vms/a")
    overlay(golden.parent / "vms" / "a")
    overlay(golden.parent / "vms" / "self", "self")
    asked, found = look(golden, golden.parent)
    assert (asked.named_by, found.unread) == ((f"{golden.parent}/vms/a",), ())


def test_its_other_names(golden: Path) -> None:
    """Hard links that lie in the folders are told, and a header that names one of them names the image."""
    vms = golden.parent / "vms"
    os.link(str(golden), str(vms / "linked"))
    overlay(vms / "a", "linked")
    asked, _found = look(golden, golden.parent)
    assert (asked.same_as, asked.named_by) == ((f"{vms}/linked",), (f"{vms}/a",))


@pytest.mark.parametrize(
    ("name", "is_named"),
    [
        pytest.param("/no/such/folder/golden", True, id="the same last part"),
        pytest.param("golden", True, id="relative"),
        pytest.param("/no/such/folder/other", False, id="another last part"),
    ],
)
def test_a_name_that_leads_nowhere(golden: Path, name: str, is_named: bool) -> None:
    """It may lead to the image where the VM runs, if it ends as the image does."""
    overlay(golden.parent / "vms" / "a", name)
    asked, found = look(golden)
    assert (bool(asked.named_by), found.unread) == (is_named, ())


def test_a_name_that_leads_to_another_file(golden: Path) -> None:
    """It is no name of the image, though it ends as the image does."""
    (golden.parent / "vms" / "golden").write_text("")
    overlay(golden.parent / "vms" / "a", "golden")
    asked, found = look(golden)
    assert (asked.named_by, found.unread) == ((), ())


def test_an_image_that_is_not_there(golden: Path) -> None:
    """Who names it is told all the same."""
    overlay(golden.parent / "vms" / "a")
    golden.unlink()
    asked, _found = look(golden)
    assert (asked.inode, len(asked.named_by)) == (None, 1)


def test_an_image_that_is_a_link(golden: Path) -> None:
    """It is told as one."""
    golden.unlink()
    golden.symlink_to("elsewhere")
    assert look(golden)[0].is_link


# -- What is not known -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "why"),
    [
        pytest.param("/proc/self/exe", "it names /proc/self/exe, and it leads through /proc", id="/proc"),
        pytest.param("../golden/x", "it cannot be followed: Not a directory", id="no folder"),
        pytest.param("odd:x", "it names odd:x, and what that leads to is not known here", id="a protocol"),
        pytest.param("file:x", "which QEMU takes from its own working directory", id="QEMU's own directory"),
    ],
)
def test_a_name_that_is_not_understood(golden: Path, name: str, why: str) -> None:
    """The image that has it is told, and why."""
    overlay(golden.parent / "vms" / "a", name)
    asked, found = look(golden)
    assert asked.named_by == ()
    assert why in unread(found)["a"]


def test_an_automount_is_not_triggered(golden: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that leads through one is not followed, for the kernel would mount what a guest says."""
    real = _descriptors._read
    device = golden.stat().st_dev
    mounted = f"1 1 {os.major(device)}:{os.minor(device)} / / rw - autofs x rw\n"
    monkeypatch.setattr(
        _descriptors, "_read", lambda path, *words: mounted if path == "mountinfo" else real(path, *words)
    )
    overlay(golden.parent / "vms" / "a")
    asked, found = look(golden)
    assert (asked.named_by, "automount" in unread(found)["a"]) == ((), True)


def test_a_snapshot_leaves_it_open(golden: Path) -> None:
    """An image with an internal snapshot may need more than it names; what it names counts."""
    overlay(golden.parent / "vms" / "a", snapshots=1)
    asked, found = look(golden)
    assert (len(asked.named_by), list(unread(found))) == (1, ["a"])


def fifo(path: Path) -> None:
    os.mkfifo(path)


def listening(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


@pytest.fixture
def nothing_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(place: int, opened: Any) -> int:
        raise AssertionError(f"{os.readlink(f'/proc/self/fd/{place}')} was opened")

    monkeypatch.setattr(_images, "_open", fail)


@pytest.mark.usefixtures("nothing_is_opened")
@pytest.mark.parametrize("make", [fifo, listening])
def test_what_can_hold_no_image_is_not_opened(golden: Path, make: Callable[[Path], None]) -> None:
    """It leaves nothing open, behind a link neither."""
    make(golden.parent / "vms" / "thing")
    (golden.parent / "vms" / "link").symlink_to("thing")
    (golden.parent / "vms" / "empty").write_text("")
    assert look(golden)[1].unread == ()


@pytest.mark.usefixtures("nothing_is_opened")
def test_character_devices_are_not_opened() -> None:
    """A terminal would become ours, a watchdog would be armed."""
    assert os.listdir("/dev/pts") != []
    assert search([], ["/dev/pts"], LONG).unread == ()


def test_without_the_right_to_read(golden: Path, without_rights: WithoutRights) -> None:
    """A file and a folder that may not be read are told."""
    golden.parent.chmod(0o755)
    vms = golden.parent / "vms"
    overlay(vms / "a").chmod(0o400)
    overlay(vms / "sub" / "b")
    (vms / "sub").chmod(0o700)
    with without_rights():
        asked, found = look(golden)
    if os.geteuid() == 0:
        assert asked.named_by == ()
        assert unread(found) == {
            "a": "it cannot be read: Permission denied",
            "sub": "it cannot be listed: Permission denied",
        }


@pytest.mark.parametrize(
    ("name", "why"),
    [
        pytest.param("nosuch", "there is no such folder", id="not there"),
        pytest.param("golden", "no folder, or a link", id="a file"),
        pytest.param("link", "no folder, or a link", id="a link"),
        pytest.param("x" * 256, "it cannot be reached: File name too long", id="no name"),
    ],
)
def test_a_folder_that_cannot_be_searched(golden: Path, name: str, why: str) -> None:
    """It leaves open who needs an image; the other folders are searched."""
    (golden.parent / "link").symlink_to("vms")
    overlay(golden.parent / "vms" / "a")
    asked, found = look(golden, golden.parent / name, golden.parent / "vms")
    assert (len(asked.named_by), why in unread(found)[name]) == (1, True)


def test_how_much_is_read(golden: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There are bounds for the depth, the number of files and the time, and each is told where it is met."""
    vms = golden.parent / "vms"
    overlay(vms / "a" / "b" / "c")
    monkeypatch.setattr(_images, "MOST_DEPTH", 1)
    assert unread(look(golden)[1]) == {"b": "it lies more than 1 folders deep"}
    monkeypatch.setattr(_images, "MOST_ENTRIES", 1)
    assert "there are more than 1 files" in unread(look(golden)[1])["vms"]
    assert "takes too long" in unread(look(golden, seconds=-1)[1])["vms"]


def test_how_much_is_told(golden: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has a thousand files that are not understood fills nobody's memory; they are counted."""
    monkeypatch.setattr(_images, "MOST_TOLD", 2)
    for name in "abc":
        overlay(golden.parent / "vms" / name, snapshots=1)
    asked, found = look(golden)
    assert (len(asked.named_by), len(found.unread), found.unread_count) == (2, 2, 3)


# -- Links -------------------------------------------------------------------------------------------------------------


def test_a_link_to_an_image(golden: Path) -> None:
    """A relative name is one as seen from the link, too, as QEMU opens the image by it."""
    vms = golden.parent / "vms"
    overlay(vms / "store" / "deep" / "a", "../golden")
    (vms / "web01").symlink_to("store/deep/a")
    (vms / "folder").symlink_to("store")
    asked, found = look(golden)
    # From its own folder the name leads nowhere, and its last part is that of the image.
    assert sorted(asked.named_by) == [f"{vms}/store/deep/a", f"{vms}/web01"]
    assert found.unread == ()


def test_a_link_to_what_was_asked_about(golden: Path) -> None:
    """It leads out of the folders, and to nothing that is not known."""
    (golden.parent / "vms" / "current").symlink_to("../golden")
    asked, found = look(golden)
    assert (asked.same_as, found.unread) == ((), ())


def test_a_link_to_a_block_device(golden: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it leads to is read, for the names of logical volumes are links."""
    (golden.parent / "dm-0").write_bytes(qcow2(b"../golden"))
    (golden.parent / "vms" / "lv").symlink_to("../dm-0")
    monkeypatch.setattr(stat, "S_ISBLK", stat.S_ISREG)
    asked, found = look(golden)
    assert (asked.named_by, found.unread) == ((f"{golden.parent}/vms/lv",), ())


@pytest.mark.parametrize("target", ["../elsewhere", "..", "/etc/passwd", "/proc/self/exe", "loop"])
def test_a_link_that_leads_out(golden: Path, target: str) -> None:
    """What it leads to is not read, and that is told."""
    overlay(golden.parent / "elsewhere", "golden")
    (golden.parent / "vms" / "loop").symlink_to("loop")
    (golden.parent / "vms" / "link").symlink_to(target)
    asked, found = look(golden)
    assert asked.named_by == ()
    assert "it is a link" in unread(found)["link"]


@pytest.mark.parametrize("target", ["nosuch", "/dev/null"])
def test_a_link_with_no_image_behind(golden: Path, target: str) -> None:
    """It leaves nothing open."""
    (golden.parent / "vms" / "link").symlink_to(target)
    assert look(golden)[1].unread == ()


# -- What changes meanwhile --------------------------------------------------------------------------------------------


def test_a_file_that_becomes_a_link(golden: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The very file that was judged is read, whatever has its name now; and that the folder changed is told."""
    monkeypatch.setattr(_images, "_TRIES", 1)
    path, real = overlay(golden.parent / "vms" / "a"), _images._open
    os.utime(str(path.parent), (0, 0))  # older kernels do not tell two changes within a few milliseconds apart
    overlay(golden.parent / "other", "nothing")

    def swap(place: int, opened: Any) -> int:
        path.unlink()
        path.symlink_to("../other")
        return real(place, opened)

    monkeypatch.setattr(_images, "_open", swap)
    asked, found = look(golden)
    assert (len(asked.named_by), unread(found)) == (1, {"vms": "it changed while it was read. Ask again"})


@pytest.mark.parametrize(
    ("changes", "is_told"), [pytest.param(2, False, id="for a moment"), pytest.param(9, True, id="on")]
)
def test_a_folder_that_changes(golden: Path, monkeypatch: pytest.MonkeyPatch, changes: int, is_told: bool) -> None:
    """An image that is renamed meanwhile may not be seen: the folders are read again, and at last that is told."""
    path, names = overlay(golden.parent / "vms" / "0"), [str(number) for number in range(1, changes + 1)]
    real = _images._place_of

    def rename(name: str, folder: int, opened: Any) -> int | None:
        if names:
            os.rename(str(path.with_name(name)), str(path.with_name(names.pop(0))))
        return real(name, folder, opened)

    monkeypatch.setattr(_images, "_place_of", rename)
    asked, found = look(golden)
    assert (len(asked.named_by), list(unread(found))) == ((0, ["vms"]) if is_told else (1, []))


def test_a_file_that_vanishes(golden: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is removed since its folder was read needs nothing."""
    path = overlay(golden.parent / "vms" / "a")
    monkeypatch.setattr(_images._Searching, "_count", lambda self: path.unlink())
    asked, found = look(golden)
    assert (asked.named_by, found.unread) == ((), ())


def test_a_link_that_is_changed(golden: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where another file has come to the place that it led to, that is not read."""
    vms = golden.parent / "vms"
    overlay(vms / "a", "nothing")
    (vms / "link").symlink_to("a")
    real = _descriptors.Walk.find

    def find(self: Any, name: str, here: Any) -> Any:
        found = real(self, name, here)
        if name.endswith("link"):
            (vms / "b").write_bytes(qcow2(b"../golden"))
            (vms / "b").rename(vms / "a")
        return found

    monkeypatch.setattr(_descriptors.Walk, "find", find)
    assert unread(look(golden)[1])["link"] == "it is a link that changes while it is read"


@pytest.mark.parametrize("is_kept", [False, True])
def test_a_file_that_somebody_has_for_himself(golden: Path, monkeypatch: pytest.MonkeyPatch, is_kept: bool) -> None:
    """Who holds a lease is waited for for a moment; who keeps it leaves it open whom the image needs."""
    path = overlay(golden.parent / "vms" / "a")
    with path.open() as held:
        fcntl.fcntl(held, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(held, fcntl.F_SETLEASE, fcntl.F_WRLCK)

        def sleep(seconds: float) -> None:
            if not is_kept:
                fcntl.fcntl(held, fcntl.F_SETLEASE, fcntl.F_UNLCK)

        monkeypatch.setattr(time, "sleep", sleep)
        asked, found = look(golden)
    assert (len(asked.named_by), list(unread(found))) == ((0, ["a"]) if is_kept else (1, []))


def test_storage_that_fails(golden: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error while a header is read is told."""
    overlay(golden.parent / "vms" / "a")

    def fail(descriptor: int) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(_images, "read_head", fail)
    assert unread(look(golden)[1]) == {"a": "it cannot be read: Input/output error"}
