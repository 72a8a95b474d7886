# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which disks are meant: by names, patterns, or as an earlier look has found them."""

from __future__ import annotations

import re
from collections import Counter
from fnmatch import fnmatchcase
from typing import Collection, NamedTuple, Sequence, Tuple

from .._model._disk import Disk
from .._model._errors import DiskGone, Failure, MonitorUnusable, WrongRequest
from .._model._request import EVERY_DISK, BoundVm, Selection
from .._model._target import Target, base_index_of
from .._model._vm import Vm

VmDisk = Tuple[Vm, Disk]
# The monitor of the VM, and the key of the disk.
_Id = Tuple[str, str]
# What makes a pattern of a name, to fnmatch.
_WILDCARDS = re.compile(r"[*?[]")


class Selected(NamedTuple):
    """What a selection means: the VMs, their disks in the order of VMs and disks, and names that fit nothing."""

    vms: tuple[Vm, ...]
    targets: tuple[Target, ...]
    warnings: tuple[str, ...]


class _Calls:
    """Which disks each name means; in ``disks`` a name is taken literally. Made once, for fleets have many of both."""

    def __init__(self, disks: Sequence[VmDisk], names: Sequence[str]):
        self._ids: dict[str, list[_Id]] = {}
        for vm, disk in disks:
            for name in _calls(vm, disk, names):
                self._ids.setdefault(name, []).append(_id(vm, disk))

    def ids(self, name: str) -> Sequence[_Id]:
        """The disks of this name."""
        return self._ids.get(name, ())


class _Patterns:
    """Names and patterns of VMs or disks. A name is looked up; only patterns are tried one by one."""

    def __init__(self, names: Sequence[str]):
        self._given = names
        self._names = frozenset(names)
        self._patterns = [name for name in names if _WILDCARDS.search(name)]

    def fit_vm(self, vm: Vm) -> bool:
        """Whether one of them means this VM."""
        # What a VM is called in results means it, also where that is the monitor of one without a name; a pattern does
        # not.
        return vm.identity.label in self._names or self._fit(_names_of(vm))

    def fit_disk(self, vm: Vm, disk: Disk) -> bool:
        """Whether one of them means this disk."""
        return not self._names.isdisjoint(_calls(vm, disk, self._given)) or self._fit(disk.names)

    def _fit(self, own: Sequence[str]) -> bool:
        if not self._names.isdisjoint(own):
            return True
        return any(fnmatchcase(name, pattern) for name in own for pattern in self._patterns)


def select(vms: Sequence[Vm], selection: Selection, base: str | None) -> Selected:
    """Find the disks that are meant.

    :raise WrongRequest: with every name of a disk that fits none, or several of one VM, and with the names that there
        are.
    """
    meant = _meant(vms, selection)
    warnings = _names_that_fit_nothing(vms, selection)
    excluded = _Patterns(selection.exclude)
    open_disks = [(vm, disk) for vm, disk in _disks_of(meant) if not excluded.fit_disk(vm, disk)]
    if selection.disks is not None and not _run_elsewhere(meant, vms, selection):
        open_disks, unfit = _named(vms, open_disks, selection.disks)
        warnings += unfit
    targets = []
    # The star names nothing outright: what it brings along may be left out.
    outright = frozenset(selection.disks or ()) - {EVERY_DISK}
    for vm, disk in open_disks:
        is_named = not outright.isdisjoint(_calls(vm, disk, outright))
        targets.append(Target(vm, disk, base_index_of(vm, disk, base), is_named=is_named))
    return Selected(tuple(meant), tuple(targets), tuple(warnings))


def _meant(vms: Sequence[Vm], selection: Selection) -> list[Vm]:
    """The VMs that are meant: all of them where none is named, and never one that is excluded."""
    wanted, excluded = _Patterns(selection.vms), _Patterns(selection.exclude)
    meant = []
    for vm in vms:
        is_in = not selection.vms or wanted.fit_vm(vm)
        if is_in and not excluded.fit_vm(vm):
            meant.append(vm)
    return meant


def _names_that_fit_nothing(vms: Sequence[Vm], selection: Selection) -> list[str]:
    """Warn of them, no more: one play serves many hosts, and not every VM runs on each."""
    warnings: list[str] = []
    disks = _disks_of(vms) if selection.exclude else []
    names = {name for vm in vms for name in (vm.identity.label, *_names_of(vm))}
    for name in selection.vms:
        if name not in names and not _is_pattern_of(name, vms, ()):
            warnings.append(f"vms: {name!r} fits no VM that answered")
    for vm, disk in disks:
        names.update(_calls(vm, disk, selection.exclude))
    for name in selection.exclude:
        if name not in names and not _is_pattern_of(name, vms, disks):
            warnings.append(f"exclude: {name!r} fits no disk and no VM that answered")
    return warnings


def _is_pattern_of(name: str, vms: Sequence[Vm], disks: Sequence[VmDisk]) -> bool:
    """Whether a pattern fits one of these; what is no pattern fits nothing."""
    if not _WILDCARDS.search(name):
        return False
    pattern = _Patterns([name])
    return any(map(pattern.fit_vm, vms)) or any(pattern.fit_disk(vm, disk) for vm, disk in disks)


def _run_elsewhere(meant: Sequence[Vm], vms: Sequence[Vm], selection: Selection) -> bool:
    """Whether the VMs that are meant may all run on other hosts: then so do the disks, and their names are right."""
    asked_for_some = bool(vms or selection.vms)
    return asked_for_some and not meant


def _named(
    vms: Sequence[Vm],
    open_disks: Sequence[VmDisk],
    names: Sequence[str],
) -> tuple[list[VmDisk], list[str]]:
    """Those of the disks that have one of the names, and the names that only disks have that are left out."""
    wanted: set[_Id] = set()
    warnings: list[str] = []
    problems: list[str] = []
    unknown: list[str] = []
    calls, of_all = _Calls(open_disks, names), _Calls(_disks_of(vms), names)
    for name in names:
        if name == EVERY_DISK:
            # Here it is no pattern: it passes over what has no data, and may mean none.
            wanted.update(_id(vm, disk) for vm, disk in open_disks if disk.chain and not disk.read_only)
            continue
        own = calls.ids(name)
        wanted.update(own)
        problems += _ambiguities(vms, name, own)
        if own:
            continue
        if of_all.ids(name):
            warnings.append(f"disks: {name!r} names only disks that vms and exclude leave out")
        else:
            unknown.append(f"{name!r} names no disk of any VM")
    if unknown:
        # What there is follows once, however many names are wrong.
        unknown[-1] += f". {describe(vms)}"
    if problems or unknown:
        raise WrongRequest(*problems, *unknown)
    # In the order of VMs and disks, not of the names.
    return [(vm, disk) for vm, disk in open_disks if _id(vm, disk) in wanted], warnings


def _calls(vm: Vm, disk: Disk, given: Collection[str]) -> list[str]:
    """All that means this disk: what it is called, and those of the given file names that lead to its active image."""
    names = [*disk.names]
    if disk.chain:
        top = disk.top
        names += [name for name in (top.node_name, top.path, top.file) if name]
    names += [name for name in given if vm.meaning(name).leads_somewhere]
    return [name for name in dict.fromkeys(names) if disk.answers_to(name, vm.meaning(name))]


def _names_of(vm: Vm) -> list[str]:
    return [name for name in (vm.identity.name, vm.identity.uuid) if name]


def _disks_of(vms: Sequence[Vm]) -> list[VmDisk]:
    disks = []
    for vm in vms:
        for disk in vm.disks:
            disks.append((vm, disk))
    return disks


def _id(vm: Vm, disk: Disk) -> _Id:
    return vm.identity.monitor, disk.key


def _ambiguities(vms: Sequence[Vm], name: str, ids: Sequence[_Id]) -> list[str]:
    """The VMs of which a name means several disks: in several VMs it may, for disks of all VMs have the same names."""
    counts = Counter(monitor for monitor, _key in ids)
    several = {monitor for monitor, count in counts.items() if count > 1}
    if not several:
        return []
    problems = []
    for vm in [vm for vm in vms if vm.identity.monitor in several]:
        words = f"{name!r} names {counts[vm.identity.monitor]} disks; use a name that one has. {describe([vm])}"
        problems.append(f"{vm.identity.label}: {words}")
    return problems


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
                ahead = dict(planned.ahead).get(key)
                targets.append(Target(vm, disk, base_index_of(vm, disk, base), ahead=ahead))
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
