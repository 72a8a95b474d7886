# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import re
from typing import Any, Sequence  # noqa: UP035  # Python 3.8

import pytest
from ansible_collections.virtops.qmp.plugins.module_utils._decide._fit import leave_out_unfit
from ansible_collections.virtops.qmp.plugins.module_utils._decide._select import (
    Selected,
    select,
)
from ansible_collections.virtops.qmp.plugins.module_utils._model._address import DomainName
from ansible_collections.virtops.qmp.plugins.module_utils._model._disk import Disk
from ansible_collections.virtops.qmp.plugins.module_utils._model._errors import WrongRequest
from ansible_collections.virtops.qmp.plugins.module_utils._model._request import Selection
from ansible_collections.virtops.qmp.plugins.module_utils._model._target import Target
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

RO = disk(image("ro-top"), "base", qdev="vdr", read_only=True)


def chosen(seen: list[Vm], names: Sequence[str] | None, base: str | None = None, **more: Sequence[str]) -> Selected:
    filters = {option: tuple(values) for option, values in more.items()}
    selection = Selection(None if names is None else tuple(names), **filters)
    return select(seen, selection, base)


LONG = disk("top", "mid", "base")


@pytest.mark.parametrize(
    ("subject", "base", "words"),
    [
        pytest.param(
            target(identity=identity(is_libvirts=True)), None, ["libvirt", "Name the VM in `domains`"], id="libvirt"
        ),
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
        pytest.param(
            target(identity=identity(is_libvirts=True, monitor=DomainName("web01"))),
            None,
            id="libvirt's, and by libvirt",
        ),
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
    return target(subject, **who)._replace(is_named=False)


GOOD = by_star(disk(), "good")


@pytest.mark.parametrize(
    ("subject", "words"),
    [
        pytest.param(by_star(disk(), "x", status="inmigrate"), "incoming migration", id="incoming migration"),
        pytest.param(
            by_star(disk(), "x")._replace(vm=vm(disk(), identity=identity(name="x", is_libvirts=True))),
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


SAVED = disk("top", "mid", "base")._replace(snapshots=2)


WAY_BACK = "`qemu-img rebase -u -b /vms/mid.qcow2 -F qcow2 /vms/top.qcow2`"


@pytest.mark.parametrize(
    ("subject", "words"),
    [
        pytest.param(target(SAVED), f"2 internal snapshots, which need /vms/mid.qcow2.*{WAY_BACK}", id="several"),
        pytest.param(target(SAVED._replace(snapshots=1)), "an internal snapshot, which needs /vms/mid", id="one"),
        pytest.param(target(SAVED, base_index=2), WAY_BACK, id="above a base"),
    ],
)
def test_the_way_back_to_internal_snapshots_is_told(subject: Target, words: str) -> None:
    """Who names the disk has it populated, and is told what the snapshots need and how they come back."""
    fit, told = leave_out_unfit([subject], "base" if subject.base_index == 2 else None)
    assert (fit, len(told)) == ((subject,), 1)
    assert re.match(f"vm0: disk vda: its active image has .*{words}", told[0])


@pytest.mark.parametrize(
    ("subject", "populates"),
    [
        pytest.param(target(SAVED), False, id="no stream shall end"),
        pytest.param(by_star(SAVED, "x"), False, id="no stream shall end, and only the star chose it"),
        pytest.param(target(SAVED, base_index=1), True, id="nothing is dropped"),
        pytest.param(by_star(disk("top")._replace(snapshots=2), "x"), True, id="populated already"),
        pytest.param(by_star(LONG._replace(snapshots=None), "x"), True, id="unknown"),
    ],
)
def test_internal_snapshots_that_lose_nothing(subject: Target, populates: bool) -> None:
    """Where nothing is taken from the snapshots there is nothing to tell."""
    base = "mid" if subject.base_index == 1 else None
    assert leave_out_unfit([subject], base, populates=populates) == ((subject,), ())


def test_the_star_leaves_internal_snapshots_alone() -> None:
    """A disk with snapshots that nobody named is left out, with the same words."""
    fit, told = leave_out_unfit([by_star(SAVED, "x"), GOOD], None)
    assert fit == (GOOD,)
    assert told[0].startswith("x: disk vda was left out: its active image has 2 internal snapshots")
    assert WAY_BACK in told[0]


OVER = disk("top", "base")


SNAPSHOT = "/dev/vg/snap_vm-100-disk-0_before.qcow2"


@pytest.mark.parametrize(
    ("subject", "members", "words"),
    [
        pytest.param(OVER, {"status": "postmigrate"}, "give it `cont` first", id="saved"),
        pytest.param(OVER, {"status": "finish-migrate"}, "is about to end", id="about to leave"),
        pytest.param(disk("top", "base", is_active=False), {}, "it is inactive", id="inactive"),
        pytest.param(
            disk("top", "base", is_active=False),
            {"status": "postmigrate"},
            "give it `cont` first",
            id="inactive, saved",
        ),
        pytest.param(
            disk("top", "base", lost="it is gone"), {}, "it is gone. Keep /vms/base.qcow2, and copy", id="lost"
        ),
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
    assert leave_out_unfit([subject._replace(is_named=True)], None)[0]
