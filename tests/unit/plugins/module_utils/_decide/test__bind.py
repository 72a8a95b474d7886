# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Mapping

import pytest
from ansible_collections.virtops.qmp.plugins.module_utils._decide._bind import bind
from ansible_collections.virtops.qmp.plugins.module_utils._model._files import (
    Bound,
    Descriptor,
    FileId,
    Inode,
    Named,
    Survey,
)
from hypothesis import given
from hypothesis import strategies as st

TOP, BASE, LOG, FOREIGN = (Inode(FileId(1, number), "regular") for number in (10, 20, 30, 40))
SOCKET = Inode(FileId(9, 50), "other")
# One block device by its files in two /dev.
DEVICE, SAME_DEVICE = (Inode(FileId(device, 60), "block", number=77) for device in (6, 7))


def opened(number: int, inode: Inode, path: str, **changes: object) -> Descriptor:
    """A descriptor that QEMU has opened for real, of an image that it locks and that this host has as well."""
    given = Descriptor(number, inode, path, here=path, writable=inode == TOP, locked=inode != LOG)
    return given._replace(**changes)  # type: ignore[arg-type]


def there(inode: Inode, path: str, **changes: object) -> Named:
    """A name that leads to an inode, for QEMU and for this host."""
    return Named(inode, path, here=path, inode_here=inode)._replace(**changes)  # type: ignore[arg-type]


def gone(path: str) -> Named:
    return Named(path=path)


TOP_OPEN, BASE_OPEN = opened(3, TOP, "/vms/top"), opened(4, BASE, "/vms/base")
LOG_OPEN = opened(5, LOG, "/vms/log", writable=True)
TOP_THERE, BASE_THERE = there(TOP, "/vms/top"), there(BASE, "/vms/base")
TOP_MOVED = opened(3, TOP, "/vms/old", here="/vms/old")


def table(*rows: tuple[str, list[Descriptor], Mapping[str, Named], Bound]) -> pytest.MarkDecorator:
    """Each row: what it is, what QEMU has open, what names lead to, and what is known of the first name."""
    return pytest.mark.parametrize(
        ("descriptors", "names", "expected"), [pytest.param(*row[1:], id=row[0]) for row in rows]
    )


@table(
    (
        "the name leads to what is open",
        [TOP_OPEN, BASE_OPEN, LOG_OPEN],
        {"/vms/top": TOP_THERE, "/vms/base": BASE_THERE},
        Bound(TOP, (3,), True, "/vms/top"),
    ),
    (
        "opened more than once",
        [TOP_OPEN, opened(8, TOP, "/vms/top", writable=False)],
        {"/vms/top": TOP_THERE},
        Bound(TOP, (3, 8), True, "/vms/top"),
    ),
    (
        "by a link: the path is where the kernel says",
        [TOP_OPEN],
        {"link": there(TOP, "/vms/top", here=None, inode_here=None)},
        Bound(TOP, (3,), True, "/vms/top"),
    ),
    (
        "by a hard link: the path is the one that was asked for",
        [TOP_OPEN, opened(8, TOP, "/vms/hard")],
        {"/vms/hard": there(TOP, "/vms/hard")},
        Bound(TOP, (3, 8), True, "/vms/hard"),
    ),
    (
        "only this host's own view of the name leads there",
        [opened(3, TOP, "/elsewhere", here=None)],
        {"/vms/top": TOP_THERE},
        Bound(TOP, (3,), True, "/vms/top"),
    ),
    (
        "another mount namespace: this host has another file by this name",
        [opened(3, TOP, "/vms/top", here=None)],
        {"/vms/top": there(TOP, "/vms/top", inode_here=FOREIGN)},
        Bound(TOP, (3,), True, None),
    ),
    (
        "another mount namespace: this host has none",
        [opened(3, TOP, "/vms/top", here=None)],
        {"/vms/top": there(TOP, "/vms/top", here=None, inode_here=None)},
        Bound(TOP, (3,), True, None),
    ),
    (
        "a block device that has another file in QEMU's /dev",
        [opened(3, DEVICE, "/dev/sdx", writable=True)],
        {"/vms/top": there(SAME_DEVICE, "/dev/sdx")},
        Bound(DEVICE, (3,), True, "/dev/sdx"),
    ),
    (
        "open, but only as a place (O_PATH)",
        [opened(3, TOP, "/vms/top", path_only=True)],
        {"/vms/top": TOP_THERE},
        Bound(same_file=False, why="QEMU does not have the file open that has this name now"),
    ),
    (
        "a socket",
        [opened(3, SOCKET, "/vms/top")],
        {"/vms/top": there(SOCKET, "/vms/top")},
        Bound(same_file=False, why="it is neither a regular file nor a block device"),
    ),
    (
        "deleted",
        [TOP_OPEN._replace(unlinked=True, here=None), LOG_OPEN],
        {"/vms/top": gone("/vms/top")},
        Bound(TOP, (3,), False, None, why="it was deleted"),
    ),
    (
        "replaced by a file that QEMU does not have open",
        [TOP_OPEN._replace(unlinked=True, here=None), BASE_OPEN],
        {"/vms/top": there(FOREIGN, "/vms/top"), "/vms/base": BASE_THERE},
        Bound(TOP, (3,), False, None, why="another file has its name now"),
    ),
    (
        "replaced by its own base",
        [TOP_OPEN._replace(unlinked=True, here=None), BASE_OPEN],
        {"/vms/top": there(BASE, "/vms/top"), "/vms/base": BASE_THERE},
        Bound(why="QEMU has another file open, too, that had this name before"),
    ),
    (
        "moved away, and its base put in its place",
        [TOP_MOVED._replace(writable=False), BASE_OPEN],
        {"/vms/top": there(BASE, "/vms/top"), "/vms/base": BASE_THERE},
        Bound(why="two images of one chain would be one file: QEMU's files were exchanged"),
    ),
    (
        "two files that had the name were deleted",
        [TOP_OPEN._replace(unlinked=True), opened(6, BASE, "/vms/top", unlinked=True)],
        {"/vms/top": gone("/vms/top")},
        Bound(why="QEMU has several files open that had this name"),
    ),
    (
        "renamed, the last of its kind",
        [TOP_MOVED, BASE_OPEN, LOG_OPEN],
        {"/vms/top": gone("/vms/top"), "/vms/base": BASE_THERE},
        Bound(TOP, (3,), False, "/vms/old", why="it was renamed"),
    ),
    (
        "renamed, and its name was given to another file",
        [TOP_MOVED, BASE_OPEN],
        {"/vms/top": there(FOREIGN, "/vms/top"), "/vms/base": BASE_THERE},
        Bound(TOP, (3,), False, "/vms/old", why="it was renamed"),
    ),
    (
        "renamed, over a remote base",
        [TOP_MOVED],
        {"/vms/top": gone("/vms/top"), "nbd://host/": Named(why="it is reached by a protocol, not as a file")},
        Bound(TOP, (3,), False, "/vms/old", why="it was renamed"),
    ),
    (
        "renamed, beside another file with locks that nobody names",
        [TOP_MOVED, opened(6, FOREIGN, "/vms/other")],
        {"/vms/top": gone("/vms/top")},
        Bound(same_file=False, why="there is no such file, and none that QEMU has open had this name"),
    ),
    (
        "renamed, as another image was",
        [TOP_MOVED, BASE_OPEN],
        {"/vms/top": gone("/vms/top"), "/vms/x": gone("/vms/x")},
        Bound(same_file=False, why="there is no such file, and none that QEMU has open had this name"),
    ),
    (
        "renamed, in a QEMU that does not lock",
        [TOP_MOVED, BASE_OPEN._replace(locked=False)],
        {"/vms/top": gone("/vms/top"), "/vms/base": BASE_THERE},
        Bound(same_file=False, why="there is no such file, and none that QEMU has open had this name"),
    ),
    (
        "a name that cannot be followed",
        [TOP_OPEN],
        {"/vms/top": Named(why="it cannot be followed: Permission denied")},
        Bound(why="it cannot be followed: Permission denied"),
    ),
    (
        "a remote image",
        [TOP_OPEN],
        {"nbd://host/": Named(why="it is reached by a protocol, not as a file")},
        Bound(why="it is reached by a protocol, not as a file"),
    ),
)
def test_one_name(descriptors: list[Descriptor], names: Mapping[str, Named], expected: Bound) -> None:
    """A name is bound to the file that QEMU has open behind it where that is proven, and to none where it is not."""
    assert bind([list(names)], Survey(tuple(descriptors), names))[next(iter(names))] == expected


@pytest.mark.parametrize(
    ("descriptors", "names", "expected"),
    [
        pytest.param([TOP_OPEN], {"/vms/top": TOP_THERE}, Bound(TOP, (3,), True, "/vms/top"), id="writable"),
        pytest.param(
            [BASE_OPEN, TOP_MOVED],
            {"/vms/top": there(BASE, "/vms/top")},
            Bound(why="QEMU writes to this image, but has the file that its name leads to open for reading only"),
            id="exchanged with its base",
        ),
        pytest.param(
            [TOP_MOVED._replace(writable=False)],
            {"/vms/top": gone("/vms/top")},
            Bound(same_file=False, why="there is no such file, and none that QEMU has open had this name"),
            id="renamed, and not writable",
        ),
        pytest.param(
            [TOP_MOVED],
            {"/vms/top": gone("/vms/top")},
            Bound(TOP, (3,), False, "/vms/old", "it was renamed"),
            id="renamed",
        ),
    ],
)
def test_an_image_that_is_written(descriptors: list[Descriptor], names: Mapping[str, Named], expected: Bound) -> None:
    """An image that QEMU writes to is never taken for a file that QEMU can only read."""
    bound = bind([list(names)], Survey(tuple(descriptors), names), written={"/vms/top", "/not/asked"})
    assert bound == {"/vms/top": expected}


NOWHERE = "there is no such file, and none that QEMU has open had this name"
ELSEWHERE = "QEMU opened it from another directory or root"


@table(
    (
        "from this host's root, before -chroot",
        [TOP_OPEN, BASE_OPEN],
        {"/vms/top": gone("/jail/vms/top"), "/vms/base": gone("/jail/vms/base")},
        Bound(TOP, (3,), True, "/vms/top", ELSEWHERE),
    ),
    (
        "from a directory that -daemonize has left",
        [TOP_OPEN, BASE_OPEN, LOG_OPEN],
        {"top": gone("/top"), "./base": gone("/base")},
        Bound(TOP, (3,), True, "/vms/top", ELSEWHERE),
    ),
    (
        "from such a directory, and deleted since",
        [TOP_OPEN._replace(unlinked=True, here=None), BASE_OPEN],
        {"top": gone("/top"), "base": gone("/base")},
        Bound(TOP, (3,), False, None, ELSEWHERE),
    ),
    (
        "a directory that has not all of the names",
        [TOP_OPEN, opened(4, BASE, "/golden/base")],
        {"top": gone("/top"), "base": gone("/base")},
        Bound(same_file=False, why=NOWHERE),
    ),
    (
        "two such directories",
        [TOP_OPEN, opened(6, FOREIGN, "/old/top")],
        {"top": gone("/top")},
        Bound(same_file=False, why=NOWHERE),
    ),
    (
        "two files that had the name there",
        [TOP_OPEN, opened(6, FOREIGN, "/vms/top", unlinked=True)],
        {"top": gone("/top")},
        Bound(same_file=False, why=NOWHERE),
    ),
    (
        "what is there is called otherwise already",
        [TOP_OPEN, LOG_OPEN],
        {"top": gone("/top"), "/mnt/top": there(TOP, "/vms/top")},
        Bound(same_file=False, why=NOWHERE),
    ),
    (
        "above the directory, which is not known",
        [TOP_OPEN, BASE_OPEN],
        {"../vms/top": gone("/vms/top/x"), "base": gone("/base")},
        Bound(same_file=False, why=NOWHERE),
    ),
)
def test_names_that_led_from_elsewhere(
    descriptors: list[Descriptor], names: Mapping[str, Named], expected: Bound
) -> None:
    """QEMU reports a name as it was given, though its root or its working directory is another one by now."""
    assert bind([list(names)], Survey(tuple(descriptors), names))[next(iter(names))] == expected


def test_two_disks_may_share_an_image() -> None:
    """One base of two disks, called by two names, is no contradiction; both names mean it."""
    names = {"/vms/base": BASE_THERE, "/mnt/base": there(BASE, "/vms/base", here="/mnt/base")}
    found = bind([["/vms/base"], ["/mnt/base"]], Survey((BASE_OPEN,), names))
    assert [(each.id, each.same_file, each.file) for each in found.values()] == [
        (BASE.id, True, "/vms/base"),
        (BASE.id, True, "/vms/base"),
    ]


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        pytest.param((3,), Bound(TOP, (3, 8), True, "/vms/top"), id="one"),
        pytest.param((3, 8), Bound(TOP, (3, 8), True, "/vms/top"), id="one file twice"),
        pytest.param((3, 4), None, id="two files"),
        pytest.param((3, 99), None, id="one is not open"),
        pytest.param((), None, id="no such set"),
    ],
)
def test_sets_of_descriptors(numbers: tuple[int, ...], expected: Bound | None) -> None:
    """/dev/fdset/N is the file of its descriptors, if they are all of one file."""
    survey = Survey((TOP_OPEN, BASE_OPEN, opened(8, TOP, "/vms/top")), {}, {"/dev/fdset/2": numbers})
    unknown = Bound(why="its set of descriptors is not of one file that QEMU has open")
    assert bind([["/dev/fdset/2"]], survey) == {"/dev/fdset/2": expected or unknown}


def test_a_process_that_cannot_be_seen() -> None:
    """Where nobody may look into the process, nothing is proven, and the path is what this host has."""
    names = {"/vms/top": Named(here="/vms/top", inode_here=TOP), "base": Named()}
    found = bind([list(names), ["forgotten"]], Survey(None, names, why="not root"))
    assert found == {
        "/vms/top": Bound(file="/vms/top", why="not root"),
        "base": Bound(why="not root"),
        "forgotten": Bound(why="not root"),
    }
    assert found["base"].id is None


INODES = [TOP, BASE, LOG, FOREIGN, SOCKET, DEVICE]
PATHS = ["/vms/top", "/vms/base", "/vms/log"]
DESCRIPTORS = st.builds(
    Descriptor,
    number=st.integers(0, 9),
    inode=st.sampled_from(INODES),
    path=st.sampled_from(PATHS),
    unlinked=st.booleans(),
    path_only=st.booleans(),
    writable=st.booleans(),
    locked=st.booleans(),
)
NAMES = st.builds(
    Named,
    why=st.just("it cannot be told"),
    inode=st.none() | st.sampled_from(INODES),
    path=st.none() | st.sampled_from(PATHS),
)


@given(st.lists(DESCRIPTORS, unique_by=lambda each: each.number), st.lists(NAMES, max_size=4), st.booleans())
def test_whatever_is_bound_is_open(descriptors: list[Descriptor], named: list[Named], is_written: bool) -> None:
    """Bound is only what QEMU has opened for real, for writing where it writes, and no file twice in a chain."""
    names = {f"/vms/{place}": each for place, each in enumerate(named)}
    written = set(names) if is_written else set()
    real = {each.number: each for each in descriptors if each.is_storage}
    bound = bind([list(names)], Survey(tuple(descriptors), names), written=written)
    identities = [each.inode.identity for each in bound.values() if each.inode is not None]
    assert len(identities) == len(set(identities))
    for each in bound.values():
        assert (each.inode is None) == (each.descriptors == ())
        assert all(each.inode and real[number].inode.identity == each.inode.identity for number in each.descriptors)
        assert not is_written or each.inode is None or any(real[number].writable for number in each.descriptors)
        assert each.why or each.same_file
