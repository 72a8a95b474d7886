# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""The rights to an image are changed for the very file that is meant, if nobody has it open, or not at all.

The judge is the file system: what stat says of every file that could have been hit.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from lab import host, product
from lab.holders import MAPS, READS, SENDS, opening
from lab.process import kill

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away, and is several users")
CLOSED = {"owner": "root", "group": "0", "mode": "0400"}
NEVER_BLOCKS = 20  # seconds: no test waits so long unless the module hangs


@pytest.fixture
def image(folder: Path) -> Path:
    """An image of another user, where there can be one, in a folder of golden images."""
    path = folder / "golden" / "debian" / "base.qcow2"
    path.parent.mkdir(parents=True)
    return make(path)


def make(path: Path) -> Path:
    path.write_text("data")
    path.chmod(0o644)
    if os.geteuid() == 0:
        os.chown(path, 65534, 65534)
    return path


def rights(path: Path) -> tuple[int, int, int]:
    status = path.lstat()
    return status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)


def judged(path: Path) -> dict[str, int]:
    """The file as block_stream tells it."""
    return {"device": path.stat().st_dev, "inode": path.stat().st_ino}


def access(path: Path | str, **options: Any) -> product.Result:
    """Revoke the rights of an image, below the folder that the tests call so."""
    below = options.pop("below", [str(path).partition("/golden")[0] + "/golden"])
    return product.module("image_access", path=str(path), below=below, timeout=NEVER_BLOCKS, **options)


def refused(result: product.Result, path: Path | str, kind: str, *words: str) -> None:
    """It failed, with this kind of error, in a message that names the image."""
    assert result.failed, result
    assert [error["kind"] for error in result["errors"]] == [kind], result
    assert result["msg"].startswith(f"{path}: ")
    for word in words:
        assert word in result["msg"]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        pytest.param(CLOSED, (0, 0, 0o400), id="all of it"),
        pytest.param({"owner": "0"}, (0, 65534, 0o644), id="owner"),
        pytest.param({"group": "root"}, (65534, 0, 0o644), id="group"),
        pytest.param({"mode": "u=r,go="}, (65534, 65534, 0o400), id="symbolic"),
        pytest.param({"mode": 0o440}, (65534, 65534, 0o440), id="a number"),
    ],
)
@needs_root
def test_checked_then_set_then_left_alone(image: Path, wanted: dict[str, Any], expected: tuple[int, int, int]) -> None:
    """Check mode tells what a run does and changes nothing, a run does it, and the next one changes nothing."""
    before = rights(image)
    checked = access(image, **wanted, **judged(image), check=True, diff=True)
    assert rights(image) == before
    done = access(image, **wanted, **judged(image), diff=True)
    assert rights(image) == expected
    again = access(image, **wanted, **judged(image))
    assert rights(image) == expected
    assert [each["changed"] for each in (checked, done, again)] == [True, True, False]
    assert checked["diff"] == done["diff"]
    for side, (owner, group, mode) in {"before": before, "after": expected}.items():
        told = done["diff"][side]
        assert (told["uid"], told["gid"], told["mode"]) == (owner, group, f"{mode:04o}")


@needs_root
def test_set_user_id_is_not_inherited(image: Path) -> None:
    """A file that a VM has made set-user-ID is not so for its new owner."""
    image.chmod(0o6755)
    access(image, owner="root")
    assert rights(image) == (0, 65534, 0o755)


# -- What a VM, or its user, can put there between the judgement and this task ----------------------------------------


def become_a_link(image: Path, other: Path) -> None:
    image.rename(image.with_name("moved"))
    image.symlink_to(other)


def become_a_link_to_itself(image: Path, _other: Path) -> None:
    image.rename(image.with_name("moved"))
    image.symlink_to("moved")


def become_another_file(image: Path, other: Path) -> None:
    other.rename(image)


def become_a_hard_link(image: Path, other: Path) -> None:
    image.unlink()
    image.hardlink_to(other)


def become_a_fifo(image: Path, _other: Path) -> None:
    image.unlink()
    os.mkfifo(image)


def be_removed(image: Path, _other: Path) -> None:
    image.unlink()


def lie_over_a_link(image: Path, _other: Path) -> None:
    """A folder of the path is a link, and the very file lies behind it."""
    image.parent.rename(image.parents[1] / "moved")
    image.parent.symlink_to("moved")


@pytest.mark.parametrize(
    ("swap", "words"),
    [
        (become_a_link, "another file has its name now"),
        (become_a_link_to_itself, "another file has its name now"),
        (become_another_file, "another file has its name now"),
        (become_a_hard_link, "another file has its name now"),
        (become_a_fifo, ""),  # which gets the number of the removed file on some file systems
        (be_removed, "there is no such file any more"),
        (lie_over_a_link, "links are not followed"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_name_that_leads_elsewhere_by_now(
    folder: Path, image: Path, swap: Callable[[Path, Path], None], words: str
) -> None:
    """Of the files that the name could lead to, none is changed."""
    file, other = judged(image), make(folder / "other")
    swap(image, other)
    before = {path: rights(path) for path in folder.rglob("*")}
    result = access(image, **CLOSED, **file)
    assert {path: rights(path) for path in folder.rglob("*")} == before
    refused(result, image, "ImageRefused", words)


@pytest.mark.parametrize("swap", [become_a_link, become_a_link_to_itself, become_a_fifo, lie_over_a_link])
def test_without_the_file_that_was_judged(folder: Path, image: Path, swap: Callable[[Path, Path], None]) -> None:
    """Whoever leaves the file's number out still has no link followed, and waits for no FIFO."""
    swap(image, make(folder / "other"))
    before = {path: rights(path) for path in folder.rglob("*")}
    refused(access(image, mode="0400"), image, "ImageRefused")
    assert {path: rights(path) for path in folder.rglob("*")} == before


def test_a_device() -> None:
    """A device is neither opened nor changed."""
    before = rights(Path("/dev/null"))
    refused(access("/dev/null", below=["/dev"], mode="0600"), "/dev/null", "ImageRefused", "a character device")
    assert rights(Path("/dev/null")) == before


def test_a_hard_link_to_a_file_elsewhere(folder: Path, image: Path) -> None:
    """A file that has another name, too, is left alone, for that may be outside the folders."""
    image.unlink()
    image.hardlink_to(make(folder / "shadow"))
    before = rights(image)
    refused(access(image, mode="0400", **judged(image)), image, "ImageRefused", "it has 2 names (hard links)")
    assert rights(image) == before


@pytest.mark.parametrize(
    "below",
    [
        pytest.param(["/nosuch", "FOLDER/golden/deb"], id="a name that only begins so"),
        pytest.param(["FOLDER/link"], id="a folder that is a link"),
        pytest.param(["FOLDER/golden/debian/base.qcow2"], id="the image"),
    ],
)
def test_an_image_elsewhere(folder: Path, image: Path, below: list[str]) -> None:
    """An image that does not really lie below one of the folders is left alone."""
    (folder / "link").symlink_to("golden")
    before = rights(image)
    result = access(image, below=[each.replace("FOLDER", str(folder)) for each in below], **CLOSED)
    refused(result, image, "ImageRefused", "none of the folders")
    assert rights(image) == before


@pytest.mark.parametrize("name", ["$HOME", "~", "a b", "two\nlines", "{{ 7 * 6 }}", "-rf", "\x1b[31m"])
def test_names_are_literal(image: Path, name: str) -> None:
    """Whatever a VM calls its image: that file is meant, and no other."""
    path = make(image.with_name(name))
    before = rights(image)
    assert access(path, mode="0400", **judged(path))["changed"]
    assert (rights(path)[2], rights(image)) == (0o400, before)


# -- Who has it open ---------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def by_a_reader(image: Path) -> Iterator[str]:
    with opening(image) as pid:
        yield f"(pid {pid})"


@contextlib.contextmanager
def by_another_user(image: Path) -> Iterator[str]:
    with opening(image, *READS) as pid:
        yield f"(pid {pid})"


@contextlib.contextmanager
def by_a_mapping(image: Path) -> Iterator[str]:
    with opening(image, program=MAPS) as pid:
        yield f"(pid {pid})"


@contextlib.contextmanager
def by_a_descriptor_in_flight(image: Path) -> Iterator[str]:
    with opening(image, program=SENDS):
        yield "it is still open somewhere"


@contextlib.contextmanager
def by_a_loop_device(image: Path) -> Iterator[str]:
    if not host.has_loop_devices():
        pytest.skip("this host gives no loop device")
    with host.loop_device(image) as device:
        yield device.removeprefix("/dev/")


@pytest.mark.parametrize("check", [False, True], ids=["run", "check mode"])
@pytest.mark.parametrize(
    "use", [by_a_reader, by_another_user, by_a_mapping, by_a_descriptor_in_flight, by_a_loop_device]
)
@needs_root
def test_an_image_that_is_open(
    folder: Path, image: Path, use: Callable[[Path], contextlib.AbstractContextManager[str]], check: bool
) -> None:
    """An image that anybody has open keeps its rights, the task says who, and once it is closed it loses them."""
    folder.chmod(0o755)
    before = rights(image)
    with use(image) as user:
        result = access(image, **CLOSED, check=check)
        assert rights(image) == before
        refused(result, image, "ImageInUse", user)
    assert access(image, **CLOSED, check=check)["changed"]
    assert rights(image) == (before if check else (0, 0, 0o400))


def test_rights_that_are_as_wanted(image: Path) -> None:
    """Where nothing is to be done, it does not matter who has the image open."""
    image.chmod(0o400)
    with opening(image):
        assert not access(image, mode="0400")["changed"]


@needs_root
def test_an_overlay(folder: Path, image: Path) -> None:
    """Through an overlay, of which the kernel cannot tell who has the file open, nothing is changed."""
    with host.overlay(image.parent, folder / "container") as merged:
        before = rights(merged / image.name)
        result = access(merged / image.name, below=[str(merged)], mode="0400")
        refused(result, merged / image.name, "UseUnknown", "it lies on an overlay file system")
        assert rights(merged / image.name) == before


OPENS_AGAIN_AND_AGAIN = """
import contextlib, json, os, random, sys, time
path, stop = sys.argv[1:]
counts = {"opened": 0, "shut out": 0, "kept": 0}
os.setgroups([])
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
print("ready", flush=True)
while not os.path.exists(stop):
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:
        counts["shut out"] += 1
        time.sleep(0.001)
        continue
    counts["opened"] += 1
    # Who has it open when its rights are gone is what must not be.
    counts["kept"] += os.fstat(descriptor).st_uid == 0
    os.close(descriptor)
    # About as often as the task needs from the lease to the change: it comes in between every few rounds.
    time.sleep(random.choice([0.0001, 0.0003, 0.001]))
print(json.dumps(counts), flush=True)
"""


@needs_root
def test_a_reader_that_opens_it_while_its_rights_change(folder: Path, image: Path) -> None:
    """Whoever races for the image: nobody has it open once its rights are gone, or the task fails and they stay."""
    folder.chmod(0o755)
    before, rounds, done = rights(image), 15, 0
    command = [sys.executable, "-c", OPENS_AGAIN_AND_AGAIN, str(image), str(folder / "stop")]
    racer = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert racer.stdout is not None
        assert racer.stdout.readline() == b"ready\n"
        for _round in range(rounds):
            result = access(image, **CLOSED, **judged(image))
            if result.failed:
                refused(result, image, "ImageInUse")
                assert rights(image) == before
            else:
                done += 1
                assert rights(image) == (0, 0, 0o400)
                os.chown(image, *before[:2])
                image.chmod(before[2])
        (folder / "stop").touch()
        counts = json.loads(racer.stdout.readline())
    finally:
        kill(racer.pid)
        racer.communicate()
    assert (counts["kept"], counts["opened"] > 0, done > 0, counts["shut out"] > 0) == (0, True, True, True), counts


# -- Who may, and SELinux ----------------------------------------------------------------------------------------------


@needs_root
def test_the_owner_alone(folder: Path, image: Path) -> None:
    """The owner takes permissions away; what is not his to set fails, and the rights are what they were."""
    folder.chmod(0o755)
    before = rights(image)
    refused(access(image, **CLOSED, under=READS), image, "RightsNotSet", "Operation not permitted")
    assert rights(image) == before
    assert access(image, mode="0400", under=READS)["changed"]
    assert rights(image) == (*before[:2], 0o400)


@needs_root
def test_another_user(folder: Path, image: Path) -> None:
    """Who may not ask the kernel changes nothing."""
    folder.chmod(0o755)
    os.chown(image, 0, 0)
    refused(access(image, mode="0400", under=READS), image, "UseUnknown", "only its owner and root (CAP_LEASE)")
    assert rights(image) == (0, 0, 0o644)


# A host where SELinux is on, as far as the module can tell, whatever this one is.
WITH_SELINUX = (
    "unshare",
    "--mount",
    "sh",
    "-c",
    'mount -t tmpfs tmpfs /sys/fs && mkdir /sys/fs/selinux && echo 0 > /sys/fs/selinux/enforce && exec "$@"',
    "sh",
)


@needs_root
def test_the_type_of_the_context(image: Path) -> None:
    """The type of the file's context is set, and the rest of it stays; a file without a context is told."""
    if Path("/sys/fs/selinux").exists():
        pytest.skip("the policy of this host decides which types there are")
    refused(access(image, setype="b_t", under=WITH_SELINUX), image, "ImageRefused", "it has no SELinux context")
    os.setxattr(image, "security.selinux", b"u:r:a_t:s0:c1,c2\0")
    assert not access(image, setype="b_t")["changed"]
    assert os.getxattr(image, "security.selinux") == b"u:r:a_t:s0:c1,c2\0"
    done = [access(image, setype="b_t", under=WITH_SELINUX) for _again in range(2)]
    assert os.getxattr(image, "security.selinux") == b"u:r:b_t:s0:c1,c2\0"
    assert [each["changed"] for each in done] == [True, False]
    assert [each["before"]["secontext"] for each in done] == ["u:r:a_t:s0:c1,c2", "u:r:b_t:s0:c1,c2"]
