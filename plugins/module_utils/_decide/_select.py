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
from .._model._request import EVERY_DISK, BoundVm, BoundVms, Selection
from .._model._target import Target, base_index_of
from .._model._vm import Vm

VmDisk = Tuple[Vm, Disk]


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
    meant = tuple(vm for vm in vms if _is_meant(vm, selection))
    warnings = [f"vms: {name!r} fits no VM that answered" for name in selection.vms if not _fits_any(vms, name)]
    warnings += [
        f"exclude: {name!r} fits no disk and no VM that answered"
        for name in selection.exclude
        if not _fits_any(vms, name) and not any(_fits_disk(vm, disk, name) for vm, disk in _disks_of(vms))
    ]
    open_disks = [
        (vm, disk) for vm, disk in _disks_of(meant) if not any(_fits_disk(vm, disk, name) for name in selection.exclude)
    ]
    # The VMs that are meant may all run on other hosts, and then so do the disks.
    if selection.disks is not None and (meant or not (vms or selection.vms)):
        open_disks, unfit = _named(vms, open_disks, selection.disks)
        warnings += unfit
    return Selected(
        vms=meant,
        targets=tuple(_target(vm, disk, selection, base) for vm, disk in open_disks),
        warnings=tuple(warnings),
    )


def _target(vm: Vm, disk: Disk, selection: Selection, base: str | None) -> Target:
    outright = [name for name in selection.disks or () if name != EVERY_DISK]
    is_named = any(_answers_to(vm, disk, name) for name in outright)
    return Target(vm, disk, base_index_of(vm, disk, base), is_named=is_named)


def _named(
    vms: Sequence[Vm],
    open_disks: Sequence[VmDisk],
    names: Sequence[str],
) -> tuple[list[VmDisk], list[str]]:
    """Those of the disks that have one of the names, and the names that only disks have that are left out."""
    wanted: set[tuple[str, str]] = set()
    warnings: list[str] = []
    problems: list[str] = []
    for name in names:
        own = [_id(vm, disk) for vm, disk in open_disks if _answers_to(vm, disk, name)]
        wanted.update(own)
        if name == EVERY_DISK:
            continue
        problems += [_ambiguous(vm, name, count) for vm, count in _per_vm(vms, own) if count > 1]
        if own:
            continue
        if any(_answers_to(vm, disk, name) for vm, disk in _disks_of(vms)):
            warnings.append(f"disks: {name!r} names only disks that vms and exclude leave out")
        else:
            problems.append(f"{name!r} names no disk of any VM. {describe(vms)}")
    if problems:
        raise WrongRequest(*problems)
    return [(vm, disk) for vm, disk in open_disks if _id(vm, disk) in wanted], warnings


def _disks_of(vms: Sequence[Vm]) -> list[VmDisk]:
    return [(vm, disk) for vm in vms for disk in vm.disks]


def _id(vm: Vm, disk: Disk) -> tuple[str, str]:
    return vm.identity.monitor, disk.key


def _per_vm(vms: Sequence[Vm], ids: Sequence[tuple[str, str]]) -> list[tuple[Vm, int]]:
    counts = Counter(monitor for monitor, _key in ids)
    return [(vm, counts[vm.identity.monitor]) for vm in vms]


def _ambiguous(vm: Vm, name: str, count: int) -> str:
    return f"{vm.identity.label}: {name!r} names {count} disks; use a name that one has. {describe([vm])}"


def _answers_to(vm: Vm, disk: Disk, name: str) -> bool:
    """Whether a name in ``disks`` means this disk. There the star is no pattern: it passes over what has no data."""
    if name == EVERY_DISK:
        return bool(disk.chain) and not disk.read_only
    return disk.answers_to(name, vm.meaning(name))


def _is_meant(vm: Vm, selection: Selection) -> bool:
    is_in = not selection.vms or any(_fits_vm(vm, name) for name in selection.vms)
    return is_in and not any(_fits_vm(vm, name) for name in selection.exclude)


def _fits_any(vms: Sequence[Vm], name: str) -> bool:
    return any(_fits_vm(vm, name) for vm in vms)


def _fits_vm(vm: Vm, name: str) -> bool:
    """Whether a name or pattern means this VM."""
    return any(_fits(own, name) for own in (vm.identity.name, vm.identity.uuid) if own)


def _fits_disk(vm: Vm, disk: Disk, name: str) -> bool:
    """Whether a name or pattern in ``exclude`` means this disk."""
    return disk.answers_to(name, vm.meaning(name)) or any(_fits(own, name) for own in disk.names)


def _fits(own: str, name: str) -> bool:
    return own == name or fnmatchcase(own, name)


def select_bound(
    vms: Sequence[Vm],
    bound: BoundVms,
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
        if vm is None:
            continue  # it did not answer, which whoever visited it tells
        if vm.identity.pid != planned.pid:
            failures.append(_another_vm(vm, planned))
            continue
        for key in planned.keys:
            disk = vm.disk(key)
            if disk is None:
                words = f"{vm.identity.label}: disk {key}: the disk is gone: it was unplugged during the task"
                failures.append(Failure(DiskGone.__name__, words, planned.monitor, key))
            else:
                targets.append(Target(vm, disk, base_index_of(vm, disk, base)))
    return tuple(targets), tuple(failures)


def _another_vm(vm: Vm, planned: BoundVm) -> Failure:
    message = (
        f"{planned.monitor}: another VM, {vm.identity.label} (pid {vm.identity.pid}), answers at this monitor now; "
        f"when the task began it was pid {planned.pid}. Run the task again"
    )
    return Failure(MonitorUnusable.__name__, message, planned.monitor)


def describe(vms: Sequence[Vm]) -> str:
    """List the disks with all their names, for an error about a name."""
    lines = [f"{vm.identity.label}: {', '.join(disk.names) or '(no name)'}" for vm in vms for disk in vm.disks]
    return "There are: " + "; ".join(lines) if lines else "No VM answers, or none has a disk"
