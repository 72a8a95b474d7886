# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from typing import Any

import pytest
from ansible_collections.virtops.qmp.plugins.module_utils._decide._outcome import Outcome, untouched
from ansible_collections.virtops.qmp.plugins.module_utils._decide._verdict import Verdict
from ansible_collections.virtops.qmp.plugins.module_utils._model._disk import Image
from ansible_collections.virtops.qmp.plugins.module_utils._model._files import (
    Bound,
    FileId,
    Granted,
    Inode,
    KnownFile,
    Lease,
    Users,
)
from ansible_collections.virtops.qmp.plugins.module_utils._model._request import Request
from ansible_collections.virtops.qmp.plugins.module_utils._run._release import judge_all
from ansible_collections.virtops.qmp.tests.unit.builders import EMPTY, disk, image, target
from ansible_collections.virtops.qmp.tests.unit.fake_qemu import FakeHost, inode_of


class Kernel(FakeHost):
    """A host whose kernel gives these answers, one each time that it is asked for a file, and the last one on."""

    def __init__(self, answers: Mapping[str, list[Lease]], users: Mapping[str, Users]) -> None:
        super().__init__()
        self._answers = answers
        self._users = users
        self.asked: list[str] = []
        self.looked_for: list[str] = []

    async def leases(self, files: Collection[KnownFile]) -> Mapping[KnownFile, Lease]:
        self.asked += sorted(file.path for file in files)
        return {file: self._next(file.path) for file in files}

    def _next(self, path: str) -> Lease:
        answers = self._answers[path]
        return answers.pop(0) if len(answers) > 1 else answers[0]

    async def users(self, files: Collection[KnownFile]) -> Mapping[KnownFile, Users]:
        self.looked_for += sorted(file.path for file in files)
        return {file: self._users[file.path] for file in files if file.path in self._users}


YES, NO, UNKNOWN = Lease(Granted.YES, "ext4"), Lease(Granted.NO, "ext4"), Lease(Granted.UNKNOWN, "ext4", "why")
SOMEBODY = Users({7: "x"})


def populated(*left: Image, **members: Any) -> Outcome:
    """A populated disk that has left these images, all of them known."""
    done = untouched(target(disk("top")), Request())
    return done._replace(**{"left": left, **members})


@pytest.mark.parametrize(
    ("answers", "users", "free", "asked", "looked_for"),
    [
        pytest.param([YES], {}, True, 1, 0, id="free: nobody is looked for"),
        pytest.param([NO], {"/vms/base.qcow2": SOMEBODY}, False, 1, 1, id="open, and its user is found"),
        pytest.param([NO, YES], {}, True, 2, 1, id="open, nobody is found, and free then"),
        pytest.param([NO, NO], {"/vms/base.qcow2": Users()}, False, 2, 1, id="open, nobody is found"),
        pytest.param([UNKNOWN], {"/vms/base.qcow2": SOMEBODY}, False, 1, 1, id="unknown, and a user is found"),
        pytest.param([UNKNOWN], {"/vms/base.qcow2": Users()}, None, 1, 1, id="unknown"),
    ],
)
def test_who_is_asked(
    answers: list[Lease], users: dict[str, Users], free: bool | None, asked: int, looked_for: int
) -> None:
    """The kernel first; /proc only for what it does not call free; and once more the kernel where nobody is found."""
    host = Kernel({"/vms/base.qcow2": list(answers)}, users)
    ((verdict,),) = asyncio.run(judge_all([populated(image("base"))], {}, host))
    assert verdict.free is free
    assert (len(host.asked), len(host.looked_for)) == (asked, looked_for)


def test_each_disk_has_its_verdicts() -> None:
    """An image that two disks left is asked for once, and each of them is told; what is remote is not asked for."""
    remote = image("remote", path="nbd://host/x", file=None)
    outcomes = [populated(image("base")), populated(image("base"), remote), populated()]
    host = Kernel({"/vms/base.qcow2": [YES]}, {})
    verdicts = asyncio.run(judge_all(outcomes, {}, host))
    assert [[(each.path, each.free) for each in of_disk] for of_disk in verdicts] == [
        [("/vms/base.qcow2", True)],
        [("/vms/base.qcow2", True), ("nbd://host/x", None)],
        [],
    ]
    assert host.asked == ["/vms/base.qcow2"]


def test_two_files_of_one_name() -> None:
    """Each disk is told about the file that its own QEMU had open."""
    host = Kernel({"/vms/base.qcow2": [YES]}, {})
    other = populated(image("base")._replace(bound=Bound(Inode(FileId(1, 9), "regular"), file="/vms/base.qcow2")))
    verdicts = asyncio.run(judge_all([populated(image("base")), other], {}, host))
    assert [of_disk[0].inode for of_disk in verdicts] == [inode_of("/vms/base.qcow2").id.inode, 9]
    assert len(host.asked) == 2


def test_what_an_unfinished_disk_has_left_is_not_asked_for() -> None:
    """It is not free anyway."""
    host = Kernel({}, {})
    (verdicts,) = asyncio.run(judge_all([populated(image("base"), disk=disk("top", "base"), base_index=2)], {}, host))
    assert [(each.free, each.reason) for each in verdicts] == [(False, "the disk that it has left is not populated")]
    assert host.asked == []


def test_snapshots_and_vms_that_are_off_are_passed_on() -> None:
    """The snapshots of the top that an image has left count, and VMs that are off are named."""
    host = Kernel({"/vms/base.qcow2": [YES]}, {})
    outcomes = [populated(image("base")), populated(image("base"), disk=disk("top", snapshots=2))]
    (free,), (needed,) = asyncio.run(judge_all(outcomes, {}, host, off=["/run/off.qmp"]))
    assert "/run/off.qmp" in free.notes[0]
    assert needed.reason == "the 2 internal snapshots of /vms/top.qcow2 still need it"


def test_headers_in_the_folders_that_were_named() -> None:
    """They are read once for all images, where there are any, and only where folders were named."""
    host = Kernel({"/vms/base.qcow2": [YES]}, {})
    host.named_by["/vms/base.qcow2"] = ("/off.qcow2",)
    outcomes = [populated(image("base")), populated(image("base"))]
    verdicts = asyncio.run(judge_all(outcomes, {}, host, folders=["/vms"]))
    assert [[each.free for each in of_disk] for of_disk in verdicts] == [[False], [False]]
    asyncio.run(judge_all([populated()], {}, host, folders=["/vms"]))
    asyncio.run(judge_all(outcomes, {}, host))
    assert host.searched == [("/vms",)]


def test_a_disk_without_a_medium() -> None:
    """Where the medium is gone, its name stands for the active image."""
    host = Kernel({"/vms/base.qcow2": [YES]}, {})
    (verdicts,) = asyncio.run(judge_all([populated(image("base"), disk=EMPTY._replace(snapshots=1))], {}, host))
    assert [isinstance(each, Verdict) and each.free for each in verdicts] == [False]
