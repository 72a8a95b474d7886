# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.virtops.qmp.plugins.module_utils._decide._images import ImagesInformed
from ansible_collections.virtops.qmp.plugins.module_utils._decide._verdict import NO_PLANS
from ansible_collections.virtops.qmp.plugins.module_utils._model._domain import Needed, Plans
from ansible_collections.virtops.qmp.plugins.module_utils._model._files import (
    FileId,
    Granted,
    Inode,
    KnownFile,
    Lease,
    Users,
)
from ansible_collections.virtops.qmp.plugins.module_utils._model._images import Asked, Search, Unread
from ansible_collections.virtops.qmp.tests.unit.builders import disk, identity, vm

FREE, OPEN, GONE = Lease(Granted.YES, "ext4"), Lease(Granted.NO, "ext4"), Lease(Granted.GONE)
THERE = Inode(FileId(1, 2), "regular")
QEMU = {"pid": 100, "process": "qemu", "vm": "vm0"}


def told(
    asked: Asked,
    lease: Lease,
    users: Users | None = None,
    file_id: FileId | None = THERE.id,
    plans: Plans = NO_PLANS,
) -> dict[str, Any]:
    """The element of `images` of one image, and all else of the result."""
    file = KnownFile("/g/a", file_id)
    search = Search(("/v",), {file: asked})
    found = {} if users is None else {file: users}
    vms = [vm(disk(), identity=identity(pid=100))]
    result = ImagesInformed(search, {file: lease}, found, vms, ["w"], plans).to_result()
    (image,) = result.pop("images")
    assert result == {"changed": False, "unread": [], "unread_count": 0, "warnings": ["w"], "errors": []}
    element: dict[str, Any] = image
    return element


@pytest.mark.parametrize(
    ("lease", "users", "free", "reason", "who"),
    [
        pytest.param(FREE, None, True, None, [], id="free"),
        pytest.param(OPEN, Users({100: "qemu"}), False, "it is still open in VM vm0 (pid 100)", [QEMU], id="a VM"),
        pytest.param(
            OPEN,
            Users({7: "x"}, ("loop0",)),
            False,
            "it is still open in x (pid 7), loop0",
            [{"pid": 7, "process": "x", "vm": None}, {"pid": None, "process": "loop0", "vm": None}],
            id="others",
        ),
        pytest.param(OPEN, Users(), False, "it is still open somewhere", None, id="nobody was found"),
        pytest.param(Lease(Granted.YES, "nfs"), None, None, "it lies on nfs", [], id="other hosts may have it open"),
        pytest.param(GONE, None, None, "there is no such file any more", None, id="no such file"),
    ],
)
def test_who_has_it_open(
    lease: Lease, users: Users | None, free: bool | None, reason: str | None, who: list[dict[str, Any]] | None
) -> None:
    """Free is what the kernel proves; the users are named, and null where there may be one that was not found."""
    found = told(Asked(THERE), lease, users)
    assert (found["free"], found["users"]) == (free, who)
    assert (found["reason"] or "").startswith(reason or "")
    assert (found["reason"] is None) == (free is True)


def test_who_needs_it_is_told_beside() -> None:
    """A header speaks of another day than the kernel does, and the other names of the file are told."""
    found = told(Asked(THERE, named_by=("/v/a",), same_as=("/v/g",)), FREE)
    assert (found["free"], found["needed_by"], found["same_as"]) == (True, ["/v/a"], ["/v/g"])
    assert (found["path"], found["device"], found["inode"]) == ("/g/a", 1, 2)


@pytest.mark.parametrize(
    ("asked", "lease", "reason"),
    [
        pytest.param(Asked(THERE, is_link=True), FREE, "it is a link. Name the file", id="a link"),
        pytest.param(Asked(), Lease(Granted.OTHER, "ext4"), "could not be seen which file", id="not seen before"),
    ],
)
def test_what_is_no_file_that_was_seen(asked: Asked, lease: Lease, reason: str) -> None:
    """Of what was not seen, or is only a link, nothing is said."""
    found = told(asked, lease, file_id=None)
    assert (found["free"], found["device"], found["inode"]) == (None, None, None)
    assert reason in found["reason"]


def test_what_libvirt_would_start_or_revert_to() -> None:
    """It is not free, whoever has it open."""
    plans = Plans((Needed("/g/a", None, "snapshot s of domain d needs it"),))
    found = told(Asked(THERE), FREE, plans=plans)
    assert (found["free"], found["reason"]) == (False, "snapshot s of domain d needs it")


def test_what_was_not_read_is_told() -> None:
    """The result tells the files that leave it open, and how many there are."""
    search = Search(("/v",), {}, (Unread("/v/x", "why"),), 7)
    result = ImagesInformed(search, {}, {}, [], []).to_result()
    assert (result["unread"], result["unread_count"]) == ([{"path": "/v/x", "reason": "why"}], 7)
