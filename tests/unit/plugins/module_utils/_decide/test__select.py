# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import Sequence  # noqa: UP035  # Python 3.8

import pytest
from ansible_collections.virtops.qmp.plugins.module_utils._decide._select import (
    Selected,
    describe,
    select,
    select_bound,
)
from ansible_collections.virtops.qmp.plugins.module_utils._model._disk import Disk
from ansible_collections.virtops.qmp.plugins.module_utils._model._errors import WrongRequest
from ansible_collections.virtops.qmp.plugins.module_utils._model._files import Named
from ansible_collections.virtops.qmp.plugins.module_utils._model._job import Job
from ansible_collections.virtops.qmp.plugins.module_utils._model._request import BoundVm, Selection
from ansible_collections.virtops.qmp.plugins.module_utils._model._target import base_index_of
from ansible_collections.virtops.qmp.plugins.module_utils._model._vm import Vm
from ansible_collections.virtops.qmp.tests.unit.builders import (
    EMPTY,
    disk,
    identity,
    image,
    job,
    target,
    vm,
)
from ansible_collections.virtops.qmp.tests.unit.fake_qemu import inode_of


def named(name: str, *disks: Disk) -> Vm:
    return vm(*disks, identity=identity(name=name, monitor=f"/vms/{name}.qmp"))


A = disk(image("a-top"), "base", qdev="vda", device="drive-a")


B = disk(image("b-top"), "base", qdev="vdb", device="drive-b")


RO = disk(image("ro-top"), "base", qdev="vdr", read_only=True)


ALONE = disk(image("alone"), qdev="vds")


WEB = named("web", A, B, RO, ALONE, EMPTY)


DB = named("db", disk(image("db-top"), "base", qdev="vda"))


def chosen(seen: list[Vm], names: Sequence[str] | None, base: str | None = None, **more: Sequence[str]) -> Selected:
    filters = {option: tuple(values) for option, values in more.items()}
    selection = Selection(None if names is None else tuple(names), **filters)
    return select(seen, selection, base)


def labels_of(selected: Selected) -> list[str]:
    return [f"{each.vm.identity.label} {each.disk.label}" for each in selected.targets]


def found(seen: list[Vm], names: Sequence[str] | None, **more: Sequence[str]) -> list[str]:
    return labels_of(chosen(seen, names, None, **more))


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        pytest.param(["vda"], ["web vda", "db vda"], id="one name, two VMs"),
        pytest.param(["drive-b"], ["web vdb"], id="device"),
        pytest.param(["b-top"], ["web vdb"], id="node"),
        pytest.param(["/vms/../vms/db-top.qcow2"], ["db vda"], id="path"),
        pytest.param(["vdb", "drive-a"], ["web vda", "web vdb"], id="in the order of the disks"),
        pytest.param(["vdb", "drive-b"], ["web vdb"], id="two names of one disk"),
        pytest.param(
            ["*"], ["web vda", "web vdb", "web vds", "db vda"], id="every disk that has a medium and is writable"
        ),
        pytest.param(["*", "vdr"], ["web vda", "web vdb", "web vdr", "web vds", "db vda"], id="and one named outright"),
        pytest.param(["cd0"], ["web cd0"], id="an empty drive named outright"),
        pytest.param([], [], id="no name"),
    ],
)
def test_select(names: list[str], labels: list[str]) -> None:
    """Names find their disks, each once, in the order of VMs and disks."""
    assert found([WEB, DB], names) == labels


UUID = "1f3a0c1e-5d0c-4c59-9d4e-6c1c6f0e7a51"


FILE = image("f-top", path="f.qcow2", file="/pool/f.qcow2")


WEB01 = vm(A, B, identity=identity(name="web01", uuid=UUID, monitor="/vms/web01.qmp"))


WEB02 = named("web02", disk(FILE, "base", qdev="vda"), disk(image("x[0]"), "base", qdev="vdb", device="d[0]"))


NAMELESS = vm(disk(image("n-top"), "base", qdev="vda"), identity=identity(name=None, monitor="/vms/nameless.qmp"))


FLEET = [WEB01, WEB02, named("db01", disk(image("db01"), "base", qdev="vdz")), NAMELESS]


ALL = ["web01 vda", "web01 vdb", "web02 vda", "web02 vdb", "db01 vdz", "/vms/nameless.qmp vda"]


@pytest.mark.parametrize(
    ("vms", "exclude", "labels"),
    [
        pytest.param([], [], ALL, id="neither"),
        pytest.param(["web01"], [], ALL[:2], id="a VM by its name"),
        pytest.param([UUID], [], ALL[:2], id="a VM by its UUID"),
        pytest.param(["web*"], [], ALL[:4], id="a pattern"),
        pytest.param(["web0[!1]", "db??"], [], ALL[2:5], id="two patterns"),
        pytest.param(["WEB*"], [], [], id="case counts"),
        pytest.param(["*"], [], ALL[:5], id="every VM that has a name"),
        pytest.param(["/vms/web01.qmp"], [], [], id="a monitor is no name"),
        pytest.param(["/vms/nameless.qmp"], [], ALL[5:], id="but that of a VM that has no other in results"),
        pytest.param(["/vms/*.qmp"], [], [], id="and no pattern fits it"),
        pytest.param([], ["/vms/nameless.qmp"], ALL[:5], id="not the VM without a name"),
        pytest.param([], ["web02"], ALL[:2] + ALL[4:], id="not this VM"),
        pytest.param([], [UUID], ALL[2:], id="not this VM, by its UUID"),
        pytest.param([], ["web*"], ALL[4:], id="not these VMs"),
        pytest.param([], ["vdb"], [ALL[0], ALL[2], *ALL[4:]], id="no disk of this qdev id"),
        pytest.param([], ["vd[b-y]"], [ALL[0], ALL[2], *ALL[4:]], id="no disk of these qdev ids"),
        pytest.param([], ["drive-*"], ALL[2:], id="no disk of these device names"),
        pytest.param([], ["a-top"], ALL[1:], id="not this node"),
        pytest.param([], ["/pool/f.qcow2"], ALL[:2] + ALL[3:], id="not this file"),
        pytest.param([], ["/pool/*"], ALL[:2] + ALL[3:], id="no file of this folder"),
        pytest.param([], ["f.qcow2"], ALL[:2] + ALL[3:], id="QEMU's own name of the file"),
        pytest.param([], ["db01.qcow2"], ALL[:4] + ALL[5:], id="a relative name, as this VM's QEMU would find it"),
        pytest.param([], ["d[0]"], ALL[:3] + ALL[4:], id="a name that would be a pattern"),
        pytest.param(["web*"], ["web02", "vdb"], ALL[:1], id="all together"),
        pytest.param(["web01"], ["*"], [], id="nothing is left"),
    ],
)
def test_vms_and_exclude(vms: list[str], exclude: list[str], labels: list[str]) -> None:
    """`vms` is whose disks are meant, `exclude` takes away disks and VMs, each by names and patterns."""
    assert found(FLEET, ["*"], vms=vms, exclude=exclude) == labels


def test_excluded_vms_are_not_meant() -> None:
    """What a selection leaves of the VMs is told too."""
    selected = chosen(FLEET, None, vms=["web*"], exclude=["web02"])
    assert [each.identity.label for each in selected.vms] == ["web01"]


def test_without_names_every_disk_is_meant() -> None:
    """Also the empty and the read-only ones; what is excluded is not."""
    assert found([WEB, DB], None, exclude=["drive-?"]) == ["web vdr", "web vds", "web cd0", "db vda"]


@pytest.mark.parametrize(
    ("names", "vms", "exclude", "labels", "warnings"),
    [
        pytest.param(["vda"], ["web*"], [], ["web01 vda", "web02 vda"], [], id="a name, and VMs"),
        pytest.param(
            ["*"], ["web01", "web77"], [], ALL[:2], ["vms: 'web77' fits no VM that answered"], id="no such VM"
        ),
        pytest.param(["nosuch"], ["x*"], [], [], ["vms: 'x*' fits no VM that answered"], id="VMs of another host"),
        pytest.param(["nosuch"], ["web*"], ["web??"], [], [], id="no VM is left to look for a name in"),
        pytest.param(
            ["vdb"],
            [],
            ["vdc", "y*", "vdb"],
            [],
            [
                "exclude: 'vdc' fits no disk and no VM that answered",
                "exclude: 'y*' fits no disk and no VM that answered",
                "disks: 'vdb' names only disks that vms and exclude leave out",
            ],
            id="excluded, and named",
        ),
        pytest.param(
            ["vdb", "vdz"],
            ["web01"],
            ["db01"],
            ["web01 vdb"],
            ["disks: 'vdz' names only disks that vms and exclude leave out"],
            id="a name that only another VM has",
        ),
    ],
)
def test_what_filters_leave_of_names(
    names: list[str], vms: list[str], exclude: list[str], labels: list[str], warnings: list[str]
) -> None:
    """A filter makes no name wrong: what it leaves nothing of is a warning, and only a name that nobody has is not."""
    selected = chosen(FLEET, names, vms=vms, exclude=exclude)
    assert (labels_of(selected), list(selected.warnings)) == (labels, warnings)


def test_vms_of_another_host() -> None:
    """Where none of the VMs that are meant runs, nobody looks for names, not even where no VM runs at all."""
    assert found([], ["vda"], vms=["web01"]) == []


def test_a_filter_hides_no_slip() -> None:
    """A name that no disk of any VM has is an error with and without filters."""
    with pytest.raises(WrongRequest, match="'nosuch' names no disk of any VM"):
        found(FLEET, ["vda", "nosuch"], vms=["web*"], exclude=["vdb"])


def test_an_excluded_twin_makes_a_name_plain() -> None:
    """A name that two disks of a VM have is no error if one of them is excluded by another name."""
    twin = named("twin", disk(qdev="vda"), disk(qdev="vdb"))
    assert found([twin], ["top"], exclude=["vdb"]) == ["twin vda"]


def test_every_disk_of_no_vm() -> None:
    """The star finds nothing where there is nothing, and that is no error."""
    assert found([], ["*"]) == []


def test_a_path_is_one_of_the_vm() -> None:
    """A relative name means for each VM what its own QEMU finds."""
    elsewhere = WEB._replace(meanings={"top.qcow2": Named(inode_of("/elsewhere/a-top.qcow2"))})
    other = named("db", disk(image("a-top", path="a-top.qcow2", file="/elsewhere/a-top.qcow2"), qdev="vda"))
    found = other._replace(meanings={"link": Named(inode_of("/elsewhere/a-top.qcow2"))})
    assert [each.vm.identity.label for each in chosen([elsewhere, found], ["link"]).targets] == ["db"]


@pytest.mark.parametrize(
    ("vms", "names", "words"),
    [
        pytest.param(
            [WEB, DB], ["nosuch"], ["'nosuch' names no disk of any VM", "web: vda", "db: vda", "cd0"], id="unknown"
        ),
        pytest.param([WEB], ["no1", "no2"], ["'no1'", "'no2'"], id="two unknown: both are told"),
        pytest.param([WEB], ["vda", "no2"], ["'no2'"], id="one good, one unknown"),
        pytest.param([], ["vda"], ["'vda' names no disk of any VM. No VM answers, or none has a disk"], id="no VM"),
        pytest.param(
            [named("twin", disk(qdev="vda"), disk(qdev="vdb"))],
            ["/vms/top.qcow2"],
            ["twin: '/vms/top.qcow2' names 2 disks", "twin: vda, top", "twin: vdb, top"],
            id="two disks of one VM",
        ),
        pytest.param([WEB], [""], ["'' names no disk"], id="empty"),
    ],
)
def test_select_refuses(vms: list[Vm], names: list[str], words: list[str]) -> None:
    """A name that fits none, or two disks of one VM, is an error that lists what there is."""
    with pytest.raises(WrongRequest) as refusal:
        found(vms, names)
    for each in words:
        assert each in str(refusal.value)


def test_two_bad_names_are_two_lines() -> None:
    """All bad names are told at once."""
    with pytest.raises(WrongRequest) as refusal:
        found([WEB], ["no1", "vda", "no2"])
    assert len(str(refusal.value).splitlines()) == 2


def test_describe() -> None:
    """Every disk is listed with all its names, also one that has none."""
    nameless = Disk("", "", None, False, ())
    assert describe([named("web", A, nameless)]) == (
        "There are: web: vda, drive-a, a-top, /vms/a-top.qcow2; web: (no name)"
    )


@pytest.mark.parametrize(
    ("base", "place"),
    [
        pytest.param(None, 3, id="no base"),
        pytest.param("mid", 1, id="node name"),
        pytest.param("base.qcow2", 2, id="relative path"),
        pytest.param("top", 0, id="the top"),
        pytest.param("other", 3, id="not in the chain"),
    ],
)
def test_base_place(base: str | None, place: int) -> None:
    """The base is found in the chain; without one, or where it is not in it, nothing stays."""
    assert base_index_of(vm(), disk("top", "mid", "base"), base) == place


@pytest.mark.parametrize(
    ("base", "base_index"),
    [pytest.param(None, 2, id="no base"), pytest.param("base.qcow2", 1, id="a base as QEMU would find it")],
)
def test_select_finds_the_base(base: str | None, base_index: int) -> None:
    """Each target knows what of its chain stays."""
    assert [each.base_index for each in chosen([WEB], ["vda"], base).targets] == [base_index]


@pytest.mark.parametrize(
    ("bound", "labels", "errors"),
    [
        pytest.param(
            [BoundVm("/vms/web.qmp", 100, 7, ("vda", "vdb"))], ["web vda", "web vdb"], [], id="some of one VM"
        ),
        pytest.param(
            [BoundVm("/vms/db.qmp", 100, 7, ("vda",))], ["db vda"], [], id="another VM has a disk of that name"
        ),
        pytest.param(
            [BoundVm("/vms/web.qmp", 99, 7, ("vda",)), BoundVm("/vms/db.qmp", 100, 7, ("vda",))],
            ["db vda"],
            [("MonitorUnusable", "/vms/web.qmp", None)],
            id="another QEMU answers",
        ),
        pytest.param(
            [BoundVm("/vms/web.qmp", 100, 6, ("vda",))],
            [],
            [("MonitorUnusable", "/vms/web.qmp", None)],
            id="the pid was given again",
        ),
        pytest.param(
            [BoundVm("/vms/web.qmp", None, None, ("vda",))],
            [],
            [("MonitorUnusable", "/vms/web.qmp", None)],
            id="the pid was not known",
        ),
        pytest.param(
            [BoundVm("/vms/web.qmp", 100, 7, ("gone", "vdb"))],
            ["web vdb"],
            [("DiskGone", "/vms/web.qmp", "gone")],
            id="a disk was unplugged",
        ),
        pytest.param([BoundVm("/vms/silent.qmp", 1, 7, ("vda",))], [], [], id="no answer: told by who asked"),
        pytest.param([], [], [], id="nothing"),
    ],
)
def test_select_bound(bound: list[BoundVm], labels: list[str], errors: list[tuple[str, str, str | None]]) -> None:
    """Disks are found again by monitor, process and key, and by nothing that a VM can choose."""
    targets, failures = select_bound([WEB, DB], tuple(bound), None)
    assert [f"{each.vm.identity.label} {each.disk.label}" for each in targets] == labels
    assert [(each.kind, each.monitor, each.key) for each in failures] == errors


def test_a_bound_disk_knows_its_base() -> None:
    """The base is looked for anew: the chain may be another by now."""
    bound = (BoundVm("/vms/web.qmp", 100, 7, ("vda",)),)
    for base, place in (("base.qcow2", 1), (None, 2)):
        targets, _failures = select_bound([WEB], bound, base)
        assert [each.base_index for each in targets] == [place]


def test_a_bound_disk_knows_what_was_found() -> None:
    """How many requests to read ahead are worth it is handed on with the disk that it was found at."""
    bound = (BoundVm("/vms/web.qmp", 100, 7, ("vda",), ahead=(("vdb", 8), ("vda", 4))),)
    targets, _failures = select_bound([WEB], bound, None)
    assert [each.ahead for each in targets] == [4]


def test_a_target_is_called_by_vm_and_disk() -> None:
    """Messages about a target begin with the VM and the disk."""
    assert target().label == "vm0: disk vda"


@pytest.mark.parametrize("running", [pytest.param(None, id="none"), pytest.param(job(), id="one")])
def test_the_job_of_a_target(running: Job | None) -> None:
    """A target knows the job on its disk."""
    assert target(running=running).job == running


@pytest.mark.parametrize(
    ("names", "named_outright"),
    [
        pytest.param(["*"], [False, False, False, False], id="the star"),
        pytest.param(["vdb"], [True], id="a name"),
        pytest.param(["*", "vdb"], [False, True, False, False], id="both"),
        pytest.param(["vdb", "*"], [False, True, False, False], id="both, the other way round"),
    ],
)
def test_it_is_known_who_was_named(names: list[str], named_outright: list[bool]) -> None:
    """A disk that a name fits is named outright, also where the star chose it with all others."""
    assert [each.is_named for each in chosen([WEB, DB], names).targets] == named_outright
