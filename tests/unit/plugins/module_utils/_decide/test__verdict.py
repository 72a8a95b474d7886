# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.virtops.qmp.plugins.module_utils._decide._verdict import LeftImage, Verdict, judge, labels_of
from ansible_collections.virtops.qmp.plugins.module_utils._model._domain import Needed, Plans
from ansible_collections.virtops.qmp.plugins.module_utils._model._files import (
    FileId,
    Granted,
    KnownFile,
    Lease,
    Users,
)
from ansible_collections.virtops.qmp.plugins.module_utils._model._images import Asked, Search, Unread
from ansible_collections.virtops.qmp.tests.unit.builders import disk, identity, image, vm

PATH = "/vms/base.qcow2"
REMOTE = {"image": image("base", path="nbd://host/base", file=None), "id": None}
FREE, OPEN = Lease(Granted.YES, "ext4"), Lease(Granted.NO, "ext4")
PROTOCOL = "it is reached over a protocol, and only its server can know who uses it"
UNPROVEN = "it was not seen that QEMU had the file of this name open (only root sees that, and not over TCP)"
SOMEWHERE = "it is still open somewhere: the kernel says so, and"


def left(**members: Any) -> LeftImage:
    """The base of a populated disk, a file that QEMU had open."""
    values: dict[str, Any] = {
        "image": image("base"),
        "id": FileId(1, 2),
        "top": "/vms/top.qcow2",
        "snapshots": 0,
        "is_finished": True,
    }
    return LeftImage(**{**values, **members})


def unknown(why: str, file_system: str = "ext4") -> Lease:
    return Lease(Granted.UNKNOWN, file_system, why)


@pytest.mark.parametrize(
    ("members", "lease", "users", "free", "reason", "pids"),
    [
        pytest.param({}, FREE, None, True, None, (), id="granted"),
        # What speaks against it.
        pytest.param(
            {"is_finished": False}, FREE, None, False, "the disk that it has left is not populated", (), id="unfinished"
        ),
        pytest.param(
            {**REMOTE, "is_finished": False},
            None,
            None,
            False,
            "the disk that it has left is not populated",
            None,
            id="unfinished, over a protocol",
        ),
        pytest.param(
            {"snapshots": 1},
            FREE,
            None,
            False,
            "the internal snapshot of /vms/top.qcow2 still needs it",
            (),
            id="a snapshot",
        ),
        pytest.param(
            {"snapshots": 3},
            FREE,
            None,
            False,
            "the 3 internal snapshots of /vms/top.qcow2 still need it",
            (),
            id="three snapshots",
        ),
        pytest.param(
            {},
            OPEN,
            Users({200: "qemu-nbd", 100: "qemu"}, ("loop0", "swap")),
            False,
            "it is still open in VM vm0 (pid 100), qemu-nbd (pid 200), loop0, swap",
            (100, 200),
            id="open in a VM, a process, a loop device and as swap",
        ),
        pytest.param(
            {},
            OPEN,
            Users(dict.fromkeys(range(1, 8), "x"), ("loop0",)),
            False,
            "it is still open in x (pid 1), x (pid 2), x (pid 3), x (pid 4), x (pid 5), and 3 more",
            (1, 2, 3, 4, 5, 6, 7),
            id="open in many",
        ),
        pytest.param({}, OPEN, Users(kernel=("loop7",)), False, "it is still open in loop7", (), id="a loop device"),
        pytest.param({}, OPEN, Users(), False, f"{SOMEWHERE} neither", None, id="open, nobody found"),
        pytest.param({}, OPEN, None, False, f"{SOMEWHERE} neither", None, id="open, nobody looked"),
        pytest.param({}, OPEN, Users(saw_all=False), False, f"{SOMEWHERE} not all", None, id="open, not all seen"),
        pytest.param(
            {"snapshots": None}, OPEN, Users({7: "x"}), False, "it is still open in x (pid 7)", (7,), id="open at least"
        ),
        pytest.param(
            {},
            unknown("nfs4 grants no leases", "nfs4"),
            Users({7: "x"}),
            False,
            "it is still open in x (pid 7)",
            (7,),
            id="the kernel cannot be asked, but a process was found",
        ),
        *[
            pytest.param(
                {}, Lease(Granted.NO, kind), Users(), False, f"{SOMEWHERE} neither", None, id=f"open on {kind}"
            )
            for kind in ("xfs", "overlay", "fuse", "fuse.sshfs")
        ],
        # What cannot be known.
        pytest.param(REMOTE, None, None, None, PROTOCOL, None, id="no local file"),
        pytest.param({"id": None}, Lease(Granted.OTHER, "ext4"), None, None, UNPROVEN, None, id="never identified"),
        pytest.param(
            {"id": None}, Lease(Granted.GONE), None, None, "there is no such file any more", None, id="gone before"
        ),
        pytest.param({}, Lease(Granted.GONE), None, None, "there is no such file any more", None, id="gone"),
        pytest.param(
            {}, Lease(Granted.OTHER, "ext4"), None, None, "another file has its name now", None, id="another file"
        ),
        pytest.param({}, None, None, None, "the kernel was not asked whether it is open", None, id="not asked"),
        pytest.param(
            {},
            Lease(Granted.NOT_REGULAR, "devtmpfs"),
            None,
            None,
            "it is not a regular file, and who uses a device cannot be told",
            None,
            id="a device",
        ),
        pytest.param(
            {},
            unknown("ext4 grants no leases"),
            Users(),
            None,
            "whether it is open cannot be told: ext4 grants no leases",
            None,
            id="the kernel cannot be asked",
        ),
        pytest.param(
            {"snapshots": None},
            FREE,
            None,
            None,
            "whether internal snapshots of /vms/top.qcow2 still need it cannot be read",
            (),
            id="snapshots that cannot be read",
        ),
        *[
            pytest.param(
                {},
                Lease(Granted.NO, kind),
                Users(),
                None,
                f"the kernel refuses a lease on it, which on {kind} does not tell whether it is open",
                None,
                id=f"refused on {kind}",
            )
            for kind in ("nfs4", "cifs", "unknown", "newfs")
        ],
        *[
            pytest.param(
                {}, Lease(Granted.YES, kind), None, None, f"it lies on {kind}, and other hosts may use it", (), id=kind
            )
            for kind in ("nfs", "nfs4", "cifs", "ceph", "ocfs2", "gfs2", "9p", "virtiofs", "fuse", "fuse.x", "newfs")
        ],
        pytest.param(
            {},
            Lease(Granted.YES, "overlay"),
            None,
            None,
            "it lies on an overlay file system, and the file of the layer below may be open",
            None,
            id="overlay",
        ),
        pytest.param(
            {},
            Lease(Granted.YES),
            None,
            None,
            "it cannot be told on which file system it lies, and other hosts may use it",
            (),
            id="an unknown file system",
        ),
        *[
            pytest.param({}, Lease(Granted.YES, kind), None, True, None, (), id=kind)
            for kind in ("xfs", "btrfs", "tmpfs", "zfs")
        ],
    ],
)
def test_judge(
    members: dict[str, Any],
    lease: Lease | None,
    users: Users | None,
    free: bool | None,
    reason: str | None,
    pids: tuple[int, ...] | None,
) -> None:
    """Free is what the kernel says is free and nothing speaks against; what cannot be told is neither, and says why."""
    subject = left(**members)
    found = judge(subject, lease, users, labels_of([vm(disk(), identity=identity(pid=100))]))
    assert (found.free, found.pids, found.path) == (free, pids, subject.image.file or subject.image.path)
    assert (found.reason or "").startswith(reason or "")
    assert (found.reason is None) == (found.free is True)
    assert found.notes == ()


def test_the_file_that_was_judged_is_told() -> None:
    """Device and inode are those that QEMU had open, where that is known."""
    found = judge(left(), FREE, None, {})
    assert (found.device, found.inode) == (1, 2)
    found = judge(left(id=None), Lease(Granted.GONE), None, {})
    assert (found.device, found.inode) == (None, None)


def test_the_file_to_ask_about() -> None:
    """The kernel is asked by the name on this host and for the file that QEMU had open; not where it is remote."""
    assert left().file == KnownFile(PATH, FileId(1, 2))
    assert left(id=None).file == KnownFile(PATH, None)
    assert left(**REMOTE).file is None


@pytest.mark.parametrize(
    ("lease", "count"), [pytest.param(FREE, 1, id="free"), pytest.param(OPEN, 0, id="open anyway")]
)
def test_vms_that_are_off(lease: Lease, count: int) -> None:
    """They have nothing open, so what is free is free; but they are named beside it."""
    found = judge(left(), lease, Users(), {}, off=["/run/a.qmp", "/run/b.qmp"])
    assert (found.free, len(found.notes)) == (count == 1, count)
    for note in found.notes:
        assert "that is off: /run/a.qmp, /run/b.qmp" in note


@pytest.mark.parametrize(
    ("named_by", "unread", "lease", "free", "reason"),
    [
        pytest.param((), 0, FREE, True, None, id="nobody names it"),
        pytest.param(("/a",), 0, FREE, False, "/a names it in its header", id="named"),
        pytest.param(("/a",), 1, FREE, False, "/a names it in its header", id="named, and not all were read"),
        pytest.param(("/a",), 0, OPEN, False, SOMEWHERE, id="open, and named"),
        pytest.param(("/a",), 0, unknown("x"), False, "/a names it in its header", id="named, else unknown"),
        pytest.param((), 1, FREE, None, "whether an image names it in its header cannot", id="not all were read"),
        pytest.param((), 1, unknown("x"), None, "whether it is open cannot be told: x", id="unknown for two reasons"),
    ],
)
def test_headers_that_were_searched(
    named_by: tuple[str, ...], unread: int, lease: Lease, free: bool | None, reason: str | None
) -> None:
    """An image that a header names is not free, and where not all were read that is unknown; then no VM is off."""
    doubts = (Unread("/b", "why"),) * unread
    search = Search(("/vms",), {KnownFile(PATH, FileId(1, 2)): Asked(named_by=named_by)}, doubts, unread)
    found = judge(left(), lease, None, {}, off=["/run/a.qmp"], search=search)
    assert (found.free, found.notes) == (free, ())
    assert (found.reason or "").startswith(reason or "")
    assert (found.reason is None) == (found.free is True)


@pytest.mark.parametrize(
    ("members", "search"),
    [
        pytest.param(REMOTE, Search(("/vms",), {}), id="no local file"),
        pytest.param({"is_finished": False}, Search(("/vms",), {}), id="unfinished"),
    ],
)
def test_headers_of_what_is_not_free_anyway(members: dict[str, Any], search: Search) -> None:
    """What they say changes nothing."""
    assert judge(left(**members), None, None, {}, search=search) == judge(left(**members), None, None, {})


@pytest.mark.parametrize(
    ("needed", "unknown", "lease", "free", "reason"),
    [
        pytest.param((), "", FREE, True, None, id="none"),
        pytest.param((Needed("/link", FileId(1, 2), "s needs it"),), "", FREE, False, "s needs it", id="the file"),
        pytest.param((Needed(PATH, None, "s needs it"),), "", FREE, False, "s needs it", id="the name"),
        pytest.param((Needed("base.qcow2", None, "s needs it"),), "", FREE, False, "s needs it", id="a volume"),
        pytest.param((Needed("/vms/other", FileId(1, 3), "no"),), "", FREE, True, None, id="another file"),
        pytest.param((Needed("other", None, "no"),), "", FREE, True, None, id="another volume"),
        pytest.param((Needed(PATH, None, "s needs it"),), "why", unknown("x"), False, "s needs it", id="else unknown"),
        pytest.param((Needed(PATH, None, "s needs it"),), "", OPEN, False, SOMEWHERE, id="open, and needed"),
        pytest.param((), "why", FREE, None, "what libvirt's domains and snapshots need cannot be", id="not told"),
        pytest.param(
            (), "why", unknown("x"), None, "whether it is open cannot be told: x", id="unknown for two reasons"
        ),
    ],
)
def test_what_libvirt_would_start_or_revert_to(
    needed: tuple[Needed, ...], unknown: str, lease: Lease, free: bool | None, reason: str | None
) -> None:
    """Nobody has it open, and it is not free; where libvirt does not tell, that is unknown."""
    found = judge(left(), lease, None, {}, plans=Plans(needed, unknown))
    assert found.free is free
    assert (found.reason or "").startswith(reason or "")
    assert (found.reason is None) == (found.free is True)


def test_libvirt_has_no_part_in_what_is_no_file() -> None:
    """Only its server knows who uses it."""
    plans = Plans((Needed("base", None, "no"),))
    assert judge(left(**REMOTE), None, None, {}, plans=plans) == judge(left(**REMOTE), None, None, {})


def test_a_vm_over_tcp_lends_its_name_to_no_process() -> None:
    """A VM whose process is unknown is no user of anything."""
    found = judge(left(), OPEN, Users({5: "qemu"}), labels_of([vm(disk(), identity=identity(pid=None))]))
    assert found.reason == "it is still open in qemu (pid 5)"


def test_a_verdict_that_only_has_to_be_said() -> None:
    """What is not known of a file is None."""
    found = Verdict("/x", None, "why")
    assert (found.pids, found.device, found.inode, found.notes) == (None, None, None, ())
