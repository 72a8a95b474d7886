# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import fcntl
import os
import re
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from ansible_collections.virtops.qmp.plugins.module_utils._model._files import Descriptor, FileId, Named, Survey
from ansible_collections.virtops.qmp.plugins.module_utils._reach import _descriptors
from ansible_collections.virtops.qmp.plugins.module_utils._reach._descriptors import read_inode, survey

NOBODY = 2**22 + 1


@contextmanager
def opened(path: Path, flags: int = os.O_RDONLY) -> Iterator[int]:
    descriptor = os.open(str(path), flags)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def mine(number: int) -> Descriptor:
    """What a survey of this very process says of one of its descriptors."""
    found = survey(os.getpid(), [], {}).descriptors
    assert found is not None
    return next(each for each in found if each.number == number)


def id_of(path: Path) -> FileId:
    status = path.stat()
    return FileId(status.st_dev, status.st_ino)


# -- Descriptors -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "writable", "path_only"),
    [
        pytest.param(os.O_RDONLY, False, False, id="read"),
        pytest.param(os.O_RDWR, True, False, id="read and write"),
        pytest.param(os.O_WRONLY, True, False, id="write"),
        pytest.param(os.O_PATH, False, True, id="only a place"),
        pytest.param(os.O_PATH | os.O_RDWR, False, True, id="only a place, whatever else it claims"),
    ],
)
def test_how_a_file_is_open(folder: Path, flags: int, writable: bool, path_only: bool) -> None:
    """A file is told with its inode, its place, and what it was opened for; one by O_PATH is not really open."""
    file = folder / "a file"
    file.touch()
    with opened(file, flags) as number:
        found = mine(number)
    assert (found.inode.id, found.path, found.here) == (id_of(file), str(file), str(file))
    assert (found.inode.kind, found.writable, found.path_only) == ("regular", writable, path_only)
    assert found.is_storage is not path_only


def test_a_deleted_file(folder: Path) -> None:
    """A file without a name is told with the name that it had, and leads nowhere on this host."""
    file = folder / "file"
    file.touch()
    with opened(file) as number:
        file.unlink()
        found = mine(number)
        file.touch()
        again = mine(number)
    for each in (found, again):
        assert (each.path, each.unlinked, each.inode.deleted, each.here) == (str(file), True, True, None)


def test_a_name_that_looks_deleted(folder: Path) -> None:
    """A file may be called `x (deleted)` and be there; and when one of two names is gone, the file is not."""
    file = folder / "x (deleted)"
    file.touch()
    with opened(file) as number:
        found = mine(number)
        os.link(str(file), str(folder / "other"))
        file.unlink()
        after = mine(number)
    assert (found.path, found.unlinked, found.here) == (str(file), False, str(file))
    assert (after.path, after.unlinked, after.inode.deleted, after.here) == (str(file), True, False, None)


def test_a_renamed_file(folder: Path) -> None:
    """The kernel follows a file to its new name."""
    file = folder / "file"
    file.touch()
    with opened(file) as number:
        file.rename(folder / "new")
        found = mine(number)
    assert (found.path, found.unlinked, found.here) == (str(folder / "new"), False, str(folder / "new"))


@pytest.mark.parametrize(
    ("start", "is_locked"),
    [
        pytest.param(100, True, id="what QEMU does"),
        pytest.param(203, True, id="what others must not"),
        pytest.param(0, False, id="another byte"),
        pytest.param(1000, False, id="a byte that begins alike"),
        pytest.param(None, False, id="none"),
    ],
)
def test_locks(folder: Path, start: int | None, is_locked: bool) -> None:
    """QEMU's locks of an image are recognized by the bytes that they are on."""
    file = folder / "file"
    file.touch()
    with opened(file) as number:
        if start is not None:
            lock = struct.pack("hhqqi", fcntl.F_RDLCK, os.SEEK_SET, start, 1, 0)
            fcntl.fcntl(number, 37, lock)  # F_OFD_SETLK
        assert mine(number).locked is is_locked


def test_what_is_no_storage(folder: Path) -> None:
    """Pipes, folders and devices of characters are told, and are nothing that an image can be on."""
    read, write = os.pipe()
    with opened(Path("/dev/null"), os.O_RDWR) as null, opened(folder) as directory:
        found = [mine(each) for each in (read, write, null, directory)]
    os.close(read)
    os.close(write)
    assert [(each.inode.kind, each.is_storage) for each in found] == [("other", False)] * 4
    assert (found[2].path, found[3].path) == ("/dev/null", str(folder))


def test_a_block_device_is_its_number() -> None:
    """A block device is the same whatever the file is that stands for it; a file is its inode."""
    given = {"mode": stat.S_IFBLK, "inode": 5, "device": 6, "links": 1}
    words = [*given.values(), 0, 0, 0, 0, 0, 0]
    one = read_inode(os.stat_result(words, {"st_rdev": 77}))
    other = read_inode(os.stat_result([stat.S_IFBLK, 9, *words[2:]], {"st_rdev": 77}))
    assert (one.kind, one.number, one.id) == ("block", 77, FileId(6, 5))
    assert one.identity == other.identity
    assert one != other


# -- A process that is made up -----------------------------------------------------------------------------------------


class Process:
    """The folder of a process in a /proc of our own, with a root and a working directory."""

    pid = 4321

    def __init__(self, folder: Path) -> None:
        self.root, self.directory = folder / "root", folder / "root" / "work"
        self.proc = folder / "proc" / str(self.pid)
        for path in (self.directory, self.proc / "fd", self.proc / "fdinfo"):
            path.mkdir(parents=True)
        (self.proc / "root").symlink_to(self.root)
        (self.proc / "cwd").symlink_to(self.directory)
        (self.proc / "mountinfo").write_text("22 1 8:1 / / rw shared:1 - ext4 /dev/sda rw\nnonsense\n")

    def open(self, number: int, file: Path, fdinfo: str) -> None:
        (self.proc / "fd" / str(number)).symlink_to(file)
        (self.proc / "fdinfo" / str(number)).write_text(fdinfo)

    def survey(self, *names: str) -> Survey:
        return survey(self.pid, names, {})

    def find(self, name: str) -> Named:
        found = self.survey(name)
        assert found.descriptors == ()
        return found.names[name]


@pytest.fixture
def process(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Process:
    monkeypatch.setattr(_descriptors, "_PROCESSES", str(folder / "proc"))
    return Process(folder)


@pytest.mark.parametrize(
    ("name", "leads_to"),
    [
        pytest.param("/vms/top", "vms/top", id="absolute"),
        pytest.param("disk", "work/disk", id="relative"),
        pytest.param("./../vms//top", "vms/top", id="dots and slashes"),
        pytest.param("/../../../../vms/top", "vms/top", id="up, beyond the root"),
        pytest.param("../../../../../../etc/secret", "etc/secret", id="relative, beyond the root"),
        pytest.param("/vms/link", "vms/top", id="a link"),
        pytest.param("/vms/absolute", "etc/secret", id="an absolute link stays below the root"),
        pytest.param("/vms/out", "etc/secret", id="a link that climbs stays below the root"),
        pytest.param("/folder/top", "vms/top", id="through a linked folder"),
        pytest.param("/folder/../etc/secret", "etc/secret", id="up from where the link led"),
        pytest.param("/links/40", "vms/top", id="forty links"),
    ],
)
def test_names_are_followed_in_the_root_of_the_process(process: Process, name: str, leads_to: str) -> None:
    """A name leads where it leads the process, and never out of its root."""
    for folder in ("vms", "etc", "links"):
        (process.root / folder).mkdir()
    for file in ("vms/top", "etc/secret", "work/disk"):
        (process.root / file).touch()
    links = {"link": "top", "absolute": "/etc/secret", "out": "../../../../../../../../etc/secret"}
    for link, target in links.items():
        (process.root / "vms" / link).symlink_to(target)
    (process.root / "folder").symlink_to("/vms")
    for number in range(1, 41):
        (process.root / "links" / str(number)).symlink_to("/vms/top" if number == 1 else str(number - 1))
    found = process.find(name)
    assert found.inode is not None
    assert (found.inode.id, found.why) == (id_of(process.root / leads_to), "")
    assert found.path == str(process.root / leads_to)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        pytest.param("/none", "none", id="a file"),
        pytest.param("none", "work/none", id="a relative one"),
        pytest.param("/dangling", "gone/x/y", id="the end of a link"),
        pytest.param("/none/./and//more", "none/and/more", id="a folder"),
    ],
)
def test_a_name_without_a_file(process: Process, name: str, path: str) -> None:
    """Where nothing is, it is told what the kernel would have called it."""
    (process.root / "dangling").symlink_to("/gone/x/y")
    assert process.find(name) == Named(path=str(process.root / path))


@pytest.mark.parametrize(
    ("name", "why"),
    [
        pytest.param("/none/../file", "a folder that is not there, and back", id="up from nowhere"),
        pytest.param("/file/x", "Not a directory", id="a file as a folder"),
        pytest.param("/loop", "more than 40 links", id="a loop of links"),
        pytest.param("/" + 300 * "x", "File name too long", id="too long a part"),
        pytest.param("/" + 3000 * "x/", "no file name", id="too long"),
        pytest.param("/a\0b", "no file name", id="a NUL"),
        pytest.param("/\ud800", "no file name", id="half a character"),
        pytest.param("", "no file name", id="empty"),
        pytest.param("nbd://host/x", "a protocol", id="a protocol"),
        pytest.param("/proc/self/fd/0", "through /proc", id="/proc"),
    ],
)
def test_a_name_that_cannot_be_followed(process: Process, name: str, why: str) -> None:
    """Where it cannot be told what a name means, that is said, and why."""
    (process.root / "file").touch()
    (process.root / "loop").symlink_to("loop")
    (process.root / "proc").symlink_to("/real")
    (process.root / "real").mkdir()
    number = (process.root / "real").stat().st_dev
    if name.startswith("/proc"):
        mount = f"30 22 {os.major(number)}:{os.minor(number)} / /proc rw shared:12 - proc proc rw\n"
        (process.proc / "mountinfo").write_text(mount)
    found = process.find(name)
    assert (found.inode, found.path) == (None, None)
    assert why in found.why


def test_what_this_host_has_by_the_same_name(process: Process, folder: Path) -> None:
    """Beside what the process finds it is told what this host finds, for absolute names only."""
    (folder / "file").touch()
    (folder / "link").symlink_to("file")
    found = process.find(str(folder / "link"))
    assert found.inode_here is not None
    assert (found.inode, found.here, found.inode_here.id) == (None, str(folder / "file"), id_of(folder / "file"))
    assert process.find("file").here is None


def test_every_name_is_told_once(process: Process) -> None:
    """Each name has an answer, but for sets of descriptors, which are looked up in what QEMU told."""
    names = ["a", "a", "/b", "/dev/fdset/7", "/dev/fdset/8", "/dev/fdset/x"]
    found = survey(process.pid, names, {7: [3, 4]})
    assert list(found.names) == ["a", "/b", "/dev/fdset/x"]
    assert found.fdsets == {"/dev/fdset/7": (3, 4), "/dev/fdset/8": ()}


# -- Limits ------------------------------------------------------------------------------------------------------------


def test_names_are_counted(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    """A VM that names too many files, or too long ways to them, gets no answer for the rest."""
    monkeypatch.setattr(_descriptors, "MOST_NAMES", 2)
    monkeypatch.setattr(_descriptors, "MOST_STEPS", 3)
    found = process.survey("a", "b/c/d/e", "c").names
    assert (found["a"].why, found["a"].path) == ("", str(process.directory / "a"))
    assert found["b/c/d/e"].path == str(process.directory / "b/c/d/e")
    assert found["c"].why == "there are more than 2 names"
    monkeypatch.setattr(_descriptors, "MOST_STEPS", 1)
    found = process.survey("a", "b").names
    assert found["b"].why == "all names together have more than 1 parts"


def test_descriptors_are_counted(process: Process, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A VM with too many open files is told as one whose files are unknown."""
    monkeypatch.setattr(_descriptors, "MOST_DESCRIPTORS", 2)
    for number in (1, 2):
        process.open(number, folder, "")
    assert len(process.survey().descriptors or ()) == 2
    process.open(3, folder, "")
    assert process.survey() == Survey(None, {}, why="it has more than 2 files open")


@pytest.mark.parametrize(
    "fdinfo",
    [
        pytest.param("", id="nothing"),
        pytest.param("flags:\t0100002\n", id="of no mount"),
        pytest.param("pos:\t0\nflags:\t0100002\nmnt_id:\t{mount}\nino:\t1\n", id="of another inode"),
        pytest.param("pos:\t0\nmnt_id:\t{mount}\nino:\t{inode}\n", id="no flags"),
    ],
)
def test_a_descriptor_that_changes_while_we_look(process: Process, folder: Path, fdinfo: str) -> None:
    """What fdinfo says counts only if it is of the very file that we look at; else nothing is really open."""
    file = folder / "file"
    file.touch()
    with opened(file, os.O_PATH) as number:
        own = Path(f"/proc/self/fdinfo/{number}").read_text()
    words = {key: re.search(rf"^{key}:\s*(\d+)", own, re.MULTILINE) for key in ("mnt_id", "ino")}
    mount, inode = (match.group(1) if match else "" for match in words.values())
    process.open(5, file, fdinfo.format(mount=mount, inode=inode))
    (found,) = process.survey().descriptors or ()
    assert (found.path_only, found.writable, found.is_storage) == (True, False, False)


def test_a_descriptor_that_is_closed_while_we_look(process: Process, folder: Path) -> None:
    """What is closed between two looks is left out."""
    (folder / "file").touch()
    process.open(5, folder / "file", "")
    (process.proc / "fdinfo" / "5").unlink()
    process.open(6, folder / "none", "")
    assert process.survey().descriptors == ()


def test_fdinfo_has_an_end(process: Process, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what the kernel tells only the beginning is read."""
    monkeypatch.setattr(_descriptors, "_LONGEST_FDINFO", 4)
    (folder / "file").touch()
    process.open(5, folder / "file", "flags:\t02\n")
    (found,) = process.survey().descriptors or ()
    assert found.path_only


# -- Processes that cannot be seen -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pid", "why"),
    [
        pytest.param(None, "the process behind this monitor is not known", id="unknown"),
        pytest.param(
            NOBODY, f"what process {NOBODY} has open cannot be seen: No such file or directory", id="no such process"
        ),
    ],
)
def test_a_process_that_cannot_be_seen(folder: Path, pid: int | None, why: str) -> None:
    """Without a view of the process there are no descriptors, only what this host has by these names."""
    file = folder / "file"
    file.touch()
    found = survey(pid, [str(file), "relative", "/dev/fdset/1"], {1: [3]})
    inode = read_inode(file.stat())
    assert found == Survey(
        None,
        {str(file): Named(here=str(file), inode_here=inode), "relative": Named()},
        {"/dev/fdset/1": (3,)},
        why,
    )
