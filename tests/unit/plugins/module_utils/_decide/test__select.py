# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.virtops.qmp.plugins.module_utils._decide._select import describe, leave_out_unfit, select
from ansible_collections.virtops.qmp.plugins.module_utils._model._disk import Disk
from ansible_collections.virtops.qmp.plugins.module_utils._model._errors import WrongRequest
from ansible_collections.virtops.qmp.plugins.module_utils._model._files import Named
from ansible_collections.virtops.qmp.plugins.module_utils._model._job import Job
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


def found(vms: list[Vm], names: list[str], base: str | None = None) -> list[str]:
    targets = select(vms, names, base)
    return [f"{each.vm.identity.label} {each.disk.label}" for each in targets]


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


def test_every_disk_of_no_vm() -> None:
    """The star finds nothing where there is nothing, and that is no error."""
    assert found([], ["*"]) == []


def test_a_path_is_one_of_the_vm() -> None:
    """A relative name means for each VM what its own QEMU finds."""
    elsewhere = replace(WEB, meanings={"top.qcow2": Named(inode_of("/elsewhere/a-top.qcow2"))})
    other = named("db", disk(image("a-top", path="a-top.qcow2", file="/elsewhere/a-top.qcow2"), qdev="vda"))
    found = replace(other, meanings={"link": Named(inode_of("/elsewhere/a-top.qcow2"))})
    chosen = select([elsewhere, found], ["link"], None)
    assert [each.vm.identity.label for each in chosen] == ["db"]


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
    assert [each.base_index for each in select([WEB], ["vda"], base)] == [base_index]


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
    targets = select([recorded_vm(f"qemu-7.2-{name}")], [label], None)
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


def chosen(subject: Disk, name: str, **members: Any) -> Target:
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
    assert [each.is_named for each in select([WEB, DB], names, None)] == named_outright


GOOD = chosen(disk(), "good")


@pytest.mark.parametrize(
    ("subject", "words"),
    [
        pytest.param(chosen(disk(), "x", status="inmigrate"), "incoming migration", id="incoming migration"),
        pytest.param(
            replace(chosen(disk(), "x"), vm=vm(disk(), identity=identity(name="x", is_libvirts=True))),
            "libvirt manages this VM",
            id="libvirt",
        ),
        pytest.param(chosen(disk(image(format="raw"), hidden_backing="b"), "x"), "a raw node stands", id="raw"),
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
    subjects = [chosen(disk(), name, status="inmigrate") for name in ("x", "y")]
    with pytest.raises(WrongRequest) as refusal:
        leave_out_unfit(subjects, None)
    assert [problem.split(":")[0] for problem in refusal.value.problems] == ["x", "y"]


def test_a_named_one_is_refused_alone() -> None:
    """The error is about what was asked for, and not about what would have been left out."""
    left, named_one = chosen(disk(), "x", status="inmigrate"), target(RO)
    with pytest.raises(WrongRequest) as refusal:
        leave_out_unfit([left, named_one, GOOD], None)
    assert [problem.split(":")[0] for problem in refusal.value.problems] == ["vm0"]


def test_a_base_that_no_chain_has_is_refused() -> None:
    """A base with a wrong name is left out of no chain: it is an error, also with the star."""
    with pytest.raises(WrongRequest, match="'typo' is not in the backing chain"):
        leave_out_unfit([GOOD, chosen(disk(), "x")], "typo")


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
