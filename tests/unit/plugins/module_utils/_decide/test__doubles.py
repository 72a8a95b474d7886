# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.virtops.qmp.plugins.module_utils._decide._doubles import tell_apart
from ansible_collections.virtops.qmp.plugins.module_utils._model._peer import Peer
from ansible_collections.virtops.qmp.plugins.module_utils._model._vm import Vm
from ansible_collections.virtops.qmp.tests.unit.builders import EMPTY, bound_to, disk, identity, image, qemu_process, vm
from ansible_collections.virtops.qmp.tests.unit.fake_qemu import inode_of

UUID = "5bd0c5a9-6c57-4e4c-8d0f-6f4a3c1f7a11"


def seen_at(monitor: str, *disks: Any, **members: Any) -> Vm:
    """A VM with a disk and an empty drive, unless told otherwise."""
    return vm(*(disks or (disk(), EMPTY)), identity=identity(monitor=monitor, **members))


OTHER_DISK = disk(image("other"), image("base"))
RENAMED_OVER = disk(image(bound=bound_to("/vms/top.qcow2")._replace(inode=inode_of("/vms/other.qcow2"))), "base")
RENAMED = disk(image(bound=bound_to("/vms/top.qcow2")._replace(file="/vms/new-name.qcow2")), "base")
LAUNCHER = qemu_process(812, program="launcher", serves=False)


@pytest.mark.parametrize(
    ("both", "second", "kept", "note"),
    [
        pytest.param({}, {}, 1, "/b.qmp is another monitor of vm0", id="one QEMU"),
        pytest.param({"uuid": UUID}, {}, 1, "/b.qmp is another monitor of vm0", id="one QEMU with a UUID"),
        pytest.param({"name": None}, {}, 1, "/b.qmp is another monitor of /a.qmp", id="one QEMU without a name"),
        pytest.param({}, {"pid": 101}, 2, None, id="two QEMUs of one name"),
        pytest.param({}, {"name": "vm1"}, 2, None, id="one process, two names"),
        pytest.param({}, {"peer": qemu_process(started=8)}, 2, None, id="the pid was given again"),
        pytest.param({"uuid": UUID}, {"pid": 101}, 2, f"vm0, {UUID}", id="two QEMUs of one UUID"),
        pytest.param({"uuid": UUID}, {"uuid": None}, 2, None, id="one name with and without a UUID"),
        pytest.param({"pid": None}, {}, 2, None, id="TCP"),
        pytest.param({"pid": None, "uuid": UUID}, {}, 2, "nothing proves that they are one VM", id="TCP, one UUID"),
        pytest.param({"peer": LAUNCHER}, {}, 2, "vm0, no UUID", id="one launcher"),
        pytest.param({"peer": LAUNCHER}, {"name": "vm1"}, 2, None, id="one launcher, two names"),
    ],
)
def test_tell_apart(both: dict[str, Any], second: dict[str, Any], kept: int, note: str | None) -> None:
    """A VM is left out only where it is proven to be one that is there; where it only looks so, that is told."""
    vms, notes = tell_apart([seen_at("/a.qmp", **both), seen_at("/b.qmp", **{**both, **second})])
    assert [each.identity.monitor for each in vms] == ["/a.qmp", "/b.qmp"][:kept]
    notes = tuple(each for each in notes if "not QEMU" not in each)
    assert len(notes) == (note is not None)
    assert note is None or note in notes[0]


@pytest.mark.parametrize(
    "disks",
    [
        pytest.param((OTHER_DISK, EMPTY), id="another file"),
        pytest.param((RENAMED_OVER, EMPTY), id="another file of the same name"),
        pytest.param((disk(),), id="a disk less"),
        pytest.param((disk(qdev="vdb"), EMPTY), id="another device"),
        pytest.param((disk(image("top", file=None, path="nbd://host/top")), EMPTY), id="no file"),
    ],
)
def test_a_vm_of_other_disks_is_another_vm(disks: tuple[Any, ...]) -> None:
    """What shows other disks is kept, and the user is told that it looks like the first."""
    vms, notes = tell_apart([seen_at("/a.qmp"), seen_at("/b.qmp", *disks)])
    assert len(vms) == 2
    assert "/a.qmp and /b.qmp answer with the same name and UUID (vm0, no UUID)" in notes[0]


def test_a_file_is_known_by_more_than_its_name() -> None:
    """An image that is renamed between two looks is still the same image, and its VM the same VM."""
    vms, notes = tell_apart([seen_at("/a.qmp"), seen_at("/b.qmp", RENAMED, EMPTY)])
    assert ([each.identity.monitor for each in vms], notes) == (["/a.qmp"], ("/b.qmp is another monitor of vm0",))


def test_the_third_of_three() -> None:
    """Each VM is held against all that are kept."""
    vms, notes = tell_apart([seen_at("/a.qmp"), seen_at("/b.qmp", name="b", pid=2), seen_at("/c.qmp")])
    assert ([each.identity.monitor for each in vms], len(notes)) == (["/a.qmp", "/b.qmp"], 1)


@pytest.mark.parametrize(
    ("peer", "words"),
    [
        pytest.param(qemu_process(), None, id="QEMU"),
        pytest.param(qemu_process(program="socat"), "vm0: socat (pid 100) serves it (/a.qmp)", id="a proxy"),
        pytest.param(LAUNCHER, "vm0: launcher (pid 812) made its socket and does not serve it", id="a launcher"),
        pytest.param(qemu_process(program=None, serves=None), None, id="it must not be seen"),
        pytest.param(None, None, id="TCP"),
    ],
)
def test_a_monitor_that_qemu_does_not_serve(peer: Peer | None, words: str | None) -> None:
    """Where a proxy or a launcher hides QEMU, the user is told that nothing can be proven of its files."""
    _vms, notes = tell_apart([seen_at("/a.qmp", peer=peer)])
    assert len(notes) == (words is not None)
    assert words is None or words in notes[0]
