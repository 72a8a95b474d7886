# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any, Sequence  # noqa: UP035  # Python 3.8

import pytest
from ansible_collections.virtops.qmp.plugins.module_utils._decide._select import (
    Selected,
    describe,
    leave_out_unfit,
    select,
    select_bound,
)
from ansible_collections.virtops.qmp.plugins.module_utils._model._disk import Disk
from ansible_collections.virtops.qmp.plugins.module_utils._model._errors import WrongRequest
from ansible_collections.virtops.qmp.plugins.module_utils._model._files import Named
from ansible_collections.virtops.qmp.plugins.module_utils._model._job import Job
from ansible_collections.virtops.qmp.plugins.module_utils._model._request import BoundVm, Selection
from ansible_collections.virtops.qmp.plugins.module_utils._model._target import Target, base_index_of
from ansible_collections.virtops.qmp.plugins.module_utils._model._vm import Vm
from ansible_collections.virtops.qmp.tests.unit.builders import (
    EMPTY,
    disk,
    identity,
    image,
    job,
    recorded_vm,
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
    return labels_of(chosen(seen, names, **more))


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
    elsewhere = replace(WEB, meanings={"top.qcow2": Named(inode_of("/elsewhere/a-top.qcow2"))})
    other = named("db", disk(image("a-top", path="a-top.qcow2", file="/elsewhere/a-top.qcow2"), qdev="vda"))
    found = replace(other, meanings={"link": Named(inode_of("/elsewhere/a-top.qcow2"))})
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


def test_a_target_is_called_by_vm_and_disk() -> None:
    """Messages about a target begin with the VM and the disk."""
    assert target().label == "vm0: disk vda"


@pytest.mark.parametrize("running", [pytest.param(None, id="none"), pytest.param(job(), id="one")])
def test_the_job_of_a_target(running: Job | None) -> None:
    """A target knows the job on its disk."""
    assert target(running=running).job == running


LONG = disk("top", "mid", "base")


@pytest.mark.parametrize(
    ("subject", "base", "words"),
    [
        pytest.param(target(identity=identity(is_libvirts=True)), None, ["libvirt", "virsh blockpull"], id="libvirt"),
        pytest.param(target(status="inmigrate"), None, ["incoming migration"], id="incoming migration"),
        pytest.param(target(EMPTY), None, ["empty"], id="no medium"),
        pytest.param(target(RO), None, ["read-only"], id="read-only"),
        pytest.param(
            target(disk(image(format="raw"), hidden_backing="below")),
            None,
            ["raw node", "below"],
            id="raw over a chain",
        ),
        pytest.param(
            target(LONG, base_index=0),
            "/vms/top.qcow2",
            ["'/vms/top.qcow2' is the active image", "/vms/mid.qcow2, /vms/base.qcow2"],
            id="the base is the top",
        ),
        pytest.param(
            target(LONG),
            "other",
            ["'other' is not in the backing chain", "/vms/top.qcow2, /vms/mid.qcow2, /vms/base.qcow2"],
            id="the base is not in the chain",
        ),
        pytest.param(
            target(disk("top", image("mid", virtual_size=400), "base"), base_index=2),
            "base",
            ["/vms/mid.qcow2 is shorter", "without a base"],
            id="what is dropped is shorter than the disk and the base",
        ),
    ],
)
def test_what_is_named_and_unfit_is_refused(subject: Target, base: str | None, words: list[str]) -> None:
    """What QEMU would take and get wrong is refused, with the disk, the reason and the remedy."""
    with pytest.raises(WrongRequest) as refusal:
        leave_out_unfit([target(), subject], base)
    assert str(refusal.value).splitlines()[-1].startswith(f"{subject.label}: ")
    for each in words:
        assert each in str(refusal.value)


@pytest.mark.parametrize(
    ("subject", "base"),
    [
        pytest.param(target(), None, id="a chain"),
        pytest.param(target(disk("top")), None, id="populated"),
        pytest.param(target(disk("top")), "/vms/long-gone.qcow2", id="populated, and the base is gone: a rerun"),
        pytest.param(target(disk("top"), base_index=0), "/vms/top.qcow2", id="populated, and the base is itself"),
        pytest.param(target(LONG, base_index=1), "mid", id="a base below the top"),
        pytest.param(target(LONG, base_index=2), "base", id="the last base"),
        pytest.param(target(running=job()), None, id="a stream runs"),
    ],
)
def test_nothing_is_refused(subject: Target, base: str | None) -> None:
    """What can be streamed, or is populated already, is not refused."""
    assert leave_out_unfit([subject], base) == ((subject,), ())


@pytest.mark.parametrize(
    ("name", "label", "refused"),
    [
        pytest.param("libvirt", "vda", True, id="libvirt"),
        pytest.param("charmonitor", "vda", True, id="libvirt's monitor"),
        pytest.param("incoming", "vda", True, id="incoming"),
        pytest.param("drive", "vdb", True, id="read-only"),
        pytest.param("drive", "cd0", True, id="empty"),
        pytest.param("raw-over-chain", "vda", True, id="raw over a chain"),
        pytest.param("raw-over-chain", "vdb", False, id="raw"),
        pytest.param("drive", "vda", False, id="-drive"),
        pytest.param("drive", "unused", False, id="a drive that no device uses"),
        pytest.param("filters", "vda", False, id="filters"),
        pytest.param("json-names", "vda", False, id="json:"),
        pytest.param("nbd", "vda", False, id="NBD"),
        pytest.param("held", "vda", False, id="held by an error"),
        pytest.param("shared-base", "vdb", False, id="shared base"),
    ],
)
def test_what_real_disks_are_refused(name: str, label: str, refused: bool) -> None:
    """The refusals meet the disks of real QEMUs, and only the right ones."""
    targets = chosen([recorded_vm(f"qemu-7.2-{name}")], [label]).targets
    problems: list[Any] = []
    try:
        leave_out_unfit(targets, None)
    except WrongRequest as error:
        problems.append(error)
    assert bool(problems) is refused


@pytest.mark.parametrize(
    ("sizes", "base_index"),
    [
        pytest.param((1000, 400, 1000), 1, id="nothing is dropped"),
        pytest.param((1000, 400, 400), 2, id="as short as the base"),
        pytest.param((400, 400, 1000), 2, id="as short as the disk"),
        pytest.param((1000, 1000, 400, 1000), 3, id="further down"),
    ],
)
def test_short_images_that_do_no_harm(sizes: tuple[int, ...], base_index: int) -> None:
    """Only an image right below the top that is shorter than it and than the base lets the base shine through."""
    chain = [image(str(place), virtual_size=size) for place, size in enumerate(sizes)]
    leave_out_unfit([target(disk(*chain), base_index=base_index)], "base")


def by_star(subject: Disk, name: str, **members: Any) -> Target:
    """A disk of the VM `name` that only the star has chosen."""
    who = {"identity": identity(name=name, monitor=f"/vms/{name}.qmp"), **members}
    return replace(target(subject, **who), is_named=False)


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


GOOD = by_star(disk(), "good")


@pytest.mark.parametrize(
    ("subject", "words"),
    [
        pytest.param(by_star(disk(), "x", status="inmigrate"), "incoming migration", id="incoming migration"),
        pytest.param(
            replace(by_star(disk(), "x"), vm=vm(disk(), identity=identity(name="x", is_libvirts=True))),
            "libvirt manages this VM",
            id="libvirt",
        ),
        pytest.param(by_star(disk(image(format="raw"), hidden_backing="b"), "x"), "a raw node stands", id="raw"),
    ],
)
def test_what_only_the_star_chose_and_is_unfit_is_left_out(subject: Target, words: str) -> None:
    """What one VM says of itself keeps no other from being done, and is told."""
    fit, left_out = leave_out_unfit([subject, GOOD], None)
    assert fit == (GOOD,)
    assert len(left_out) == 1
    assert left_out[0].startswith("x: disk vda was left out: ")
    assert words in left_out[0]


def test_where_all_is_unfit_it_is_refused() -> None:
    """A task that would do nothing at all is no success, though nobody named a disk."""
    subjects = [by_star(disk(), name, status="inmigrate") for name in ("x", "y")]
    with pytest.raises(WrongRequest) as refusal:
        leave_out_unfit(subjects, None)
    assert [problem.split(":")[0] for problem in refusal.value.problems] == ["x", "y"]


def test_a_named_one_is_refused_alone() -> None:
    """The error is about what was asked for, and not about what would have been left out."""
    left, named_one = by_star(disk(), "x", status="inmigrate"), target(RO)
    with pytest.raises(WrongRequest) as refusal:
        leave_out_unfit([left, named_one, GOOD], None)
    assert [problem.split(":")[0] for problem in refusal.value.problems] == ["vm0"]


def test_a_base_that_no_chain_has_is_refused() -> None:
    """A base with a wrong name is left out of no chain: it is an error, also with the star."""
    with pytest.raises(WrongRequest, match="'typo' is not in the backing chain"):
        leave_out_unfit([GOOD, by_star(disk(), "x")], "typo")


def test_nothing_is_left_out_of_nothing() -> None:
    """No disk is no error."""
    assert leave_out_unfit([], None) == ((), ())


OVER = disk("top", "base")
SNAPSHOT = "/dev/vg/snap_vm-100-disk-0_before.qcow2"


@pytest.mark.parametrize(
    ("subject", "members", "words"),
    [
        pytest.param(OVER, {"status": "postmigrate"}, "give it `cont` first", id="saved"),
        pytest.param(OVER, {"status": "finish-migrate"}, "is about to end", id="about to leave"),
        pytest.param(disk("top", "base", is_active=False), {}, "it is inactive", id="inactive"),
        pytest.param(disk("top", "base", lost="it is gone"), {}, "it is gone. Copy the disk", id="lost"),
        pytest.param(disk(image("top", format="vmdk"), "base"), {}, "is vmdk", id="a format that keeps its link"),
        pytest.param(disk("top", "base", extended_l2=True), {}, "QEMU 7.2.22 aborts", id="subclusters"),
        pytest.param(disk("top", image("s", path=SNAPSHOT), "base"), {}, "Proxmox VE keeps", id="snapshot volumes"),
    ],
)
def test_what_would_go_wrong_is_refused(subject: Disk, members: dict[str, Any], words: str) -> None:
    """What QEMU copies nothing of, dies of, or what would cost the user something else, is refused with the reason."""
    with pytest.raises(WrongRequest, match=re.escape(words)):
        refuse(target(subject, **members))


@pytest.mark.parametrize(
    "subject",
    [
        pytest.param(target(disk("top", "base", extended_l2=True), identity=identity(qemu_version="8.2.0")), id="8.2"),
        pytest.param(target(disk("top", extended_l2=True)), id="nothing to stream"),
        pytest.param(target(disk(image("top", format="vmdk"))), id="nothing to drop"),
        pytest.param(target(disk("top", image("s", path=SNAPSHOT)), base_index=1), id="the snapshot stays"),
    ],
)
def test_what_would_not_go_wrong_is_not_refused(subject: Target) -> None:
    """The reason must be there."""
    refuse(subject)


def refuse(subject: Target) -> None:
    assert leave_out_unfit([replace(subject, is_named=True)], None)[0]
