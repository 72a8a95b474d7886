# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from ansible_collections.virtops.qmp.plugins.module_utils._decide._locate import (
    bind_disks,
    hold_against_header,
    names_in_header,
    reported_names,
)
from ansible_collections.virtops.qmp.plugins.module_utils._decide._populated import why_not_populated
from ansible_collections.virtops.qmp.plugins.module_utils._model._disk import Disk
from ansible_collections.virtops.qmp.plugins.module_utils._model._files import Bound, Descriptor, FileId, Inode, Survey
from ansible_collections.virtops.qmp.plugins.module_utils._model._graph import Graph
from ansible_collections.virtops.qmp.plugins.module_utils._model._header import Header, NoHeader, Reading
from ansible_collections.virtops.qmp.tests.unit.builders import bound_to, disk, image
from ansible_collections.virtops.qmp.tests.unit.fake_qemu import in_vms, inode_of, named

NO_NODES = Graph({}, {}, {})


def found_behind(subject: Disk, reading: Reading) -> dict[str, Bound]:
    return {name: bound_to(name) for name in names_in_header(subject, reading)}


@pytest.mark.parametrize(
    ("subject", "backing", "stale"),
    [
        pytest.param(disk("top"), "", None, id="alone, and the header names none"),
        pytest.param(disk("top"), "/vms/base.qcow2", "/vms/base.qcow2", id="alone, and the header names a base"),
        pytest.param(disk("top", "base"), "/vms/base.qcow2", None, id="the base that QEMU uses"),
        pytest.param(disk("top", "base"), "base.qcow2", None, id="relative to the image that names it"),
        pytest.param(disk("top", "base"), "/vms/mid.qcow2", "/vms/mid.qcow2", id="another than QEMU uses"),
        pytest.param(disk("top", "base"), "nbd+unix:///?socket=/s", None, id="a name that cannot be compared"),
        pytest.param(disk("top", image("base", file=None)), "/vms/mid.qcow2", None, id="QEMU's cannot be compared"),
    ],
)
def test_a_header_that_names_more_than_qemu_uses(subject: Disk, backing: str, stale: str | None) -> None:
    """A header that still names an image that QEMU dropped makes the disk need that image."""
    reading = Header(backing=backing)
    held = hold_against_header(subject, reading, found_behind(subject, reading), NO_NODES)
    assert held.stale_header == stale
    assert held.is_populated is (subject.is_populated and stale is None)


DELETED = Bound(Inode(FileId(1, 2), "regular", deleted=True), (10,), same_file=False)
HIDDEN = Bound(Inode(FileId(1, 2), "regular"), (10,), same_file=False)
RENAMED = Bound(Inode(FileId(1, 2), "regular"), (10,), same_file=False, file="/vms/new.qcow2")


@pytest.mark.parametrize(
    ("subject", "reading", "populated", "words"),
    [
        pytest.param(disk("top"), Header(), True, "", id="populated"),
        pytest.param(disk("top", "base"), Header(backing="base.qcow2"), False, "still needs /vms/base.qcow2", id="not"),
        pytest.param(disk("top"), NoHeader("why"), None, "why", id="the header cannot be read"),
        pytest.param(disk("top", "base"), NoHeader("why"), False, "still needs", id="it needs one, whatever it says"),
        pytest.param(disk("top"), Header(backing="x"), False, "still names x", id="the header still names one"),
        pytest.param(disk(image("top", bound=DELETED)), Header(), False, "was deleted or replaced", id="deleted"),
        pytest.param(disk(image("top", bound=DELETED)), NoHeader("why"), False, "was deleted", id="deleted, unread"),
        pytest.param(disk(image("top", bound=HIDDEN)), Header(), False, "leads to another file now", id="replaced"),
        pytest.param(disk(image("top", bound=RENAMED)), Header(), True, "", id="renamed"),
        pytest.param(disk(image("top", bound=Bound(why="x"))), Header(), None, "cannot be told: x", id="unknown file"),
        pytest.param(disk(image("top", path="nbd://x", file=None)), Header(), True, "", id="raw over a protocol"),
        pytest.param(disk("top", hidden_backing="n"), Header(), False, "of node n", id="a chain below a raw node"),
        pytest.param(disk("top", stale_view="/b"), Header(), False, "libvirt still takes it", id="libvirt's view"),
    ],
)
def test_populated(subject: Disk, reading: Reading, populated: bool | None, words: str) -> None:
    """What speaks against it makes it false, and what cannot be told makes it unknown; both have their reason."""
    held = hold_against_header(subject, reading, found_behind(subject, reading), NO_NODES)
    answer, reason = why_not_populated(held)
    assert answer is populated
    assert held.is_populated is (populated is True)
    assert words in (reason or "")
    assert (reason is None) == (populated is True)


@pytest.mark.parametrize(
    ("subject", "reading", "populated", "words"),
    [
        pytest.param(disk("top"), Header(), None, "did not reach the storage", id="alone"),
        pytest.param(disk("top", "base"), Header(backing="base.qcow2"), False, "still needs", id="over a base"),
        pytest.param(disk(image("top", bound=Bound(why="x"))), Header(), None, "cannot be told: x", id="unknown file"),
    ],
)
def test_what_the_storage_did_not_take(subject: Disk, reading: Reading, populated: bool | None, words: str) -> None:
    """A disk of which an earlier task was told so is populated or not: nobody knows what is missing."""
    marked = Graph({subject.mark_of_loss: {}}, {}, {})
    assert len(subject.mark_of_loss) <= 31  # as long as the name of a node may be
    answer, reason = why_not_populated(hold_against_header(subject, reading, found_behind(subject, reading), marked))
    assert answer is populated
    assert words in (reason or "")


def test_what_the_storage_did_not_take_of_another_disk() -> None:
    """It says nothing of this one."""
    marked = Graph({disk("other").mark_of_loss: {}}, {}, {})
    assert hold_against_header(disk("top"), Header(), {}, marked).is_populated


def test_an_empty_drive_is_not_populated() -> None:
    """There is nothing to populate."""
    assert why_not_populated(disk(chain=(), node_name=None)) == (False, "there is no medium")


@pytest.mark.parametrize(
    ("in_qemu", "in_header", "count"),
    [pytest.param(2, 0, 2, id="QEMU"), pytest.param(0, 3, 3, id="header"), pytest.param(None, 1, 1, id="header alone")],
)
def test_snapshots(in_qemu: int | None, in_header: int, count: int) -> None:
    """Whoever knows of more internal snapshots is right: they may need the images below."""
    assert (
        hold_against_header(disk("top", snapshots=in_qemu), Header(snapshots=in_header), {}, NO_NODES).snapshots
        == count
    )


def test_an_external_data_file() -> None:
    """The data of the active image may lie elsewhere."""
    reading = Header(data_file="data.raw")
    subject = disk("top")
    assert names_in_header(subject, reading) == ["/vms/data.raw"]
    assert hold_against_header(subject, reading, found_behind(subject, reading), NO_NODES).top.data == bound_to(
        "/vms/data.raw"
    )


def test_images_are_bound_to_what_qemu_has_open() -> None:
    """Each name is asked for once, and each image gets the file that QEMU has open behind it."""
    disks = [disk("top", "base"), disk("other", "base")]
    names = reported_names(disks)
    assert names == ["/vms/top.qcow2", "/vms/base.qcow2", "/vms/other.qcow2"]
    opened = [Descriptor(10 + place, inode_of(name), name, writable=True) for place, name in enumerate(names)]
    survey = Survey(tuple(opened), {name: named(name) for name in names})
    unbound = [each._replace(chain=tuple(i._replace(bound=Bound()) for i in each.chain)) for each in disks]
    bound = bind_disks(unbound, survey)
    assert [[each.id for each in found.chain] for found in bound] == [
        [inode_of(in_vms(each.path) or "").id for each in subject.chain] for subject in disks
    ]
