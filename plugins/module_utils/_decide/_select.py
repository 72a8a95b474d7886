# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which disks are meant: by names, patterns, or as an earlier look has found them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Sequence, Tuple

from .._model._disk import Disk
from .._model._errors import DiskGone, Failure, MonitorUnusable, WrongRequest
from .._model._request import EVERY_DISK, BoundVm, Selection
from .._model._target import Target, base_index_of
from .._model._vm import Vm

VmDisk = Tuple[Vm, Disk]
# The monitor of the VM, and the key of the disk.
_Id = Tuple[str, str]


@dataclass(frozen=True)
class Selected:
    """What a selection means: the VMs, their disks in the order of VMs and disks, and names that fit nothing."""

    vms: tuple[Vm, ...]
    targets: tuple[Target, ...]
    warnings: tuple[str, ...]


def select(vms: Sequence[Vm], selection: Selection, base: str | None) -> Selected:
    """Find the disks that are meant.

    :raise WrongRequest: with every name of a disk that fits none, or several of one VM, and with the names that there
        are.
    """
    meant = _meant(vms, selection)
    warnings = _names_that_fit_nothing(vms, selection)
    open_disks = _not_excluded(_disks_of(meant), selection.exclude)
    if selection.disks is not None and not _run_elsewhere(meant, vms, selection):
        open_disks, unfit = _named(vms, open_disks, selection.disks)
        warnings += unfit
    targets = []
    for vm, disk in open_disks:
        is_named = _is_named_outright(vm, disk, selection)
        targets.append(Target(vm, disk, base_index_of(vm, disk, base), is_named=is_named))
    return Selected(tuple(meant), tuple(targets), tuple(warnings))


def _names_that_fit_nothing(vms: Sequence[Vm], selection: Selection) -> list[str]:
    """Warn of them, no more: one play serves many hosts, and not every VM runs on each."""
    warnings: list[str] = []
    for name in selection.vms:
        if not _fits_any_vm(vms, name):
            warnings.append(f"vms: {name!r} fits no VM that answered")
    for name in selection.exclude:
        if not _fits_any_vm(vms, name) and not _fits_any_disk(vms, name):
            warnings.append(f"exclude: {name!r} fits no disk and no VM that answered")
    return warnings


def _not_excluded(disks: Sequence[VmDisk], exclude: Sequence[str]) -> list[VmDisk]:
    left = []
    for vm, disk in disks:
        if not any(_fits_disk(vm, disk, name) for name in exclude):
            left.append((vm, disk))
    return left


def _run_elsewhere(meant: Sequence[Vm], vms: Sequence[Vm], selection: Selection) -> bool:
    """Whether the VMs that are meant may all run on other hosts: then so do the disks, and their names are right."""
    asked_for_some = bool(vms or selection.vms)
    return asked_for_some and not meant


def _is_named_outright(vm: Vm, disk: Disk, selection: Selection) -> bool:
    # The star names nothing outright: what it brings along may be left out.
    outright = set(selection.disks or ()) - {EVERY_DISK}
    return any(_answers_to(vm, disk, name) for name in outright)


def _named(
    vms: Sequence[Vm],
    open_disks: Sequence[VmDisk],
    names: Sequence[str],
) -> tuple[list[VmDisk], list[str]]:
    """Those of the disks that have one of the names, and the names that only disks have that are left out."""
    wanted: set[_Id] = set()
    warnings: list[str] = []
    problems: list[str] = []
    for name in names:
        own = _ids_of(open_disks, name)
        wanted.update(own)
        # The star may mean any number of disks, or none.
        if name == EVERY_DISK:
            continue
        problems += _ambiguities(vms, name, own)
        if own:
            continue
        if _ids_of(_disks_of(vms), name):
            warnings.append(f"disks: {name!r} names only disks that vms and exclude leave out")
        else:
            problems.append(f"{name!r} names no disk of any VM. {describe(vms)}")
    if problems:
        raise WrongRequest(*problems)
    chosen = []
    # In the order of VMs and disks, not of the names.
    for vm, disk in open_disks:
        if _id(vm, disk) in wanted:
            chosen.append((vm, disk))
    return chosen, warnings


def _disks_of(vms: Sequence[Vm]) -> list[VmDisk]:
    disks = []
    for vm in vms:
        for disk in vm.disks:
            disks.append((vm, disk))
    return disks


def _id(vm: Vm, disk: Disk) -> _Id:
    return vm.identity.monitor, disk.key


def _ids_of(disks: Sequence[VmDisk], name: str) -> list[_Id]:
    """The disks that a name in ``disks`` means."""
    ids = []
    for vm, disk in disks:
        if _answers_to(vm, disk, name):
            ids.append(_id(vm, disk))
    return ids


def _ambiguities(vms: Sequence[Vm], name: str, ids: Sequence[_Id]) -> list[str]:
    """The VMs of which a name means several disks: in several VMs it may, for disks of all VMs have the same names."""
    counts: Counter[str] = Counter()
    for monitor, _key in ids:
        counts[monitor] += 1
    problems = []
    for vm in vms:
        count = counts[vm.identity.monitor]
        if count > 1:
            words = f"{name!r} names {count} disks; use a name that one has. {describe([vm])}"
            problems.append(f"{vm.identity.label}: {words}")
    return problems


def _answers_to(vm: Vm, disk: Disk, name: str) -> bool:
    """Whether a name in ``disks`` means this disk. There the star is no pattern: it passes over what has no data."""
    if name == EVERY_DISK:
        return bool(disk.chain) and not disk.read_only
    return disk.answers_to(name, vm.meaning(name))


def _meant(vms: Sequence[Vm], selection: Selection) -> list[Vm]:
    """The VMs that are meant: all of them where none is named, and never one that is excluded."""
    meant = []
    for vm in vms:
        is_in = not selection.vms or _fits_one_of(vm, selection.vms)
        if is_in and not _fits_one_of(vm, selection.exclude):
            meant.append(vm)
    return meant


def _fits_one_of(vm: Vm, names: Sequence[str]) -> bool:
    return any(_fits_vm(vm, name) for name in names)


def _fits_any_vm(vms: Sequence[Vm], name: str) -> bool:
    return any(_fits_vm(vm, name) for vm in vms)


def _fits_any_disk(vms: Sequence[Vm], name: str) -> bool:
    return any(_fits_disk(vm, disk, name) for vm, disk in _disks_of(vms))


def _fits_vm(vm: Vm, name: str) -> bool:
    """Whether a name or pattern means this VM."""
    # What a VM is called in results means it, also where that is the monitor of one without a name; a pattern does not.
    if name == vm.identity.label:
        return True
    return any(own and _fits(own, name) for own in (vm.identity.name, vm.identity.uuid))


def _fits_disk(vm: Vm, disk: Disk, name: str) -> bool:
    """Whether a name or pattern in ``exclude`` means this disk."""
    return disk.answers_to(name, vm.meaning(name)) or any(_fits(own, name) for own in disk.names)


def _fits(own: str, name: str) -> bool:
    return own == name or fnmatchcase(own, name)


def select_bound(
    vms: Sequence[Vm],
    bound: Sequence[BoundVm],
    base: str | None,
) -> tuple[tuple[Target, ...], tuple[Failure, ...]]:
    """Find again the disks that an earlier look has selected, whatever their VMs call them and their files by now.

    :return: the disks, and what went wrong where the VM is another one, or a disk is gone.
    """
    targets: list[Target] = []
    failures: list[Failure] = []
    seen = {vm.identity.monitor: vm for vm in vms}
    for planned in bound:
        vm = seen.get(planned.monitor)
        # It did not answer, which whoever visited it tells.
        if vm is None:
            continue
        # The keys may fit another VM's disks, too, and nobody has selected those.
        if (vm.identity.process or (None, None)) != (planned.pid, planned.started):
            failures.append(_another_vm(vm, planned))
            continue
        for key in planned.keys:
            disk = vm.disk(key)
            if disk is None:
                failures.append(_gone(vm, planned, key))
            else:
                targets.append(Target(vm, disk, base_index_of(vm, disk, base)))
    return tuple(targets), tuple(failures)


def _gone(vm: Vm, planned: BoundVm, key: str) -> Failure:
    message = f"{vm.identity.label}: disk {key}: the disk is gone: it was unplugged during the task"
    return Failure(DiskGone.__name__, message, planned.monitor, key)


def _another_vm(vm: Vm, planned: BoundVm) -> Failure:
    message = (
        f"{planned.monitor}: another process, {vm.identity.peer or 'nobody knows which'}, answers at this monitor now; "
        f"when the task began it was pid {planned.pid}. Run the task again"
    )
    return Failure(MonitorUnusable.__name__, message, planned.monitor)


def describe(vms: Sequence[Vm]) -> str:
    """List the disks with all their names, for an error about a name."""
    lines = []
    for vm, disk in _disks_of(vms):
        names = ", ".join(disk.names) or "(no name)"
        lines.append(f"{vm.identity.label}: {names}")
    if not lines:
        return "No VM answers, or none has a disk"
    return "There are: " + "; ".join(lines)
