# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which disks are meant, and which of them cannot be streamed: said with all their names before anything is started."""

from __future__ import annotations

import posixpath
import re
from collections import Counter
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Sequence, Tuple

from .._model._disk import Disk, Image
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
        if (vm.identity.process or (None, None)) != (planned.pid, planned.started):
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
        f"{planned.monitor}: another process, {vm.identity.peer or 'nobody knows which'}, answers at this monitor now; "
        f"when the task began it was pid {planned.pid}. Run the task again"
    )
    return Failure(MonitorUnusable.__name__, message, planned.monitor)


def describe(vms: Sequence[Vm]) -> str:
    """List the disks with all their names, for an error about a name."""
    lines = [f"{vm.identity.label}: {', '.join(disk.names) or '(no name)'}" for vm in vms for disk in vm.disks]
    return "There are: " + "; ".join(lines) if lines else "No VM answers, or none has a disk"


def leave_out_unfit(targets: Sequence[Target], base: str | None) -> tuple[tuple[Target, ...], tuple[str, ...]]:
    """Sort out the disks that QEMU would take and get wrong, or refuse later, before anything is started.

    One VM must not keep the others from being done by what it says of itself: a disk that nobody named is left out.

    :return: the disks that fit; and, in words, those that are left out.
    :raise WrongRequest: a disk that is named outright does not fit, or none of the disks does.
    """
    judged = [(target, _refusal(target, base)) for target in targets]
    fit = tuple(target for target, reason in judged if reason is None)
    unfit = [(target, reason) for target, reason in judged if reason is not None]
    refused = [(target, reason) for target, reason in unfit if target.is_named or not fit]
    if refused:
        raise WrongRequest(*(f"{target.label}: {reason}" for target, reason in refused))
    return fit, tuple(f"{target.label} was left out: {reason}" for target, reason in unfit)


def _refusal(target: Target, base: str | None) -> str | None:
    return (
        _refused_vm(target.vm)
        or refused_state(target.vm, target.disk)
        or _refused_disk(target.disk)
        or _refused_image(target.vm, target.disk, target.disk.chain[1 : target.base_index])
        or (None if base is None else _refused_base(target, base))
    )


# What a stream would do in these states of the VM: nothing, while its position moves; or it kills QEMU when it ends.
REFUSED_STATES = {
    "inmigrate": "the VM waits for an incoming migration, and its disks still belong to the source. Populate it there, "
    "or here after the migration",
    "finish-migrate": "a migration of the VM, or the saving of its state, is about to end. Populate it where it "
    "runs then",
    "postmigrate": "the VM was migrated, or its state was saved: QEMU has given its disks away, copies nothing, and "
    "dies when a job is finished. Populate it at the destination; if it was saved to go on here, give it `cont` first",
}


def refused_state(vm: Vm, disk: Disk) -> str | None:
    """Why no job on a disk must be started or ended now, if so."""
    if not disk.is_active:
        return "QEMU has given the disk away (it is inactive), copies nothing, and dies when a job is finished"
    return REFUSED_STATES.get(vm.status)


def _refused_vm(vm: Vm) -> str | None:
    if vm.identity.is_libvirts:
        return (
            "libvirt manages this VM. A stream behind its back leaves libvirt with a wrong backing chain, and a later "
            "`virsh blockcopy --shallow` undoes it in silence. Use `virsh blockpull`, one disk at a time"
        )
    return None


def _refused_disk(disk: Disk) -> str | None:
    if not disk.chain:
        return "the drive is empty. Leave it out, or insert a medium"
    if disk.read_only:
        return "the disk is read-only, and QEMU would rewrite it all the same. Leave it out, or attach it writable"
    if disk.hidden_backing is not None:
        return (
            f"a {disk.top.format} node stands above node {disk.hidden_backing}, which has a backing image: QEMU would "
            "say that it streamed, and would copy nothing. Attach the image without the node above it"
        )
    if disk.lost is not None:
        return f"{disk.lost}. Copy the disk to a file of its own (drive-mirror) before anything else"
    return None


# Formats whose header QEMU can rewrite without the backing link. With others it copies all and fails at the end.
_CAN_DROP_LINK = ("qcow2", "qed")
# What Proxmox VE 9 calls the snapshots of a volume that it keeps as a chain ("snapshot as volume chain").
_SNAPSHOT_VOLUME = re.compile(r"snap[-_].*vm-\d+-disk-\d+.*")


def _refused_image(vm: Vm, disk: Disk, dropped: Sequence[Image]) -> str | None:
    if not dropped:
        return None
    if disk.top.format not in _CAN_DROP_LINK:
        return (
            f"its active image is {disk.top.format}, and QEMU cannot take the name of the backing image out of such a "
            f"header. Only {' and '.join(_CAN_DROP_LINK)} images can be populated"
        )
    if disk.extended_l2 and vm.identity.version < (8, 2):
        return (
            f"its active image has subclusters (extended_l2=on), and QEMU {vm.identity.qemu_version} aborts when it "
            "streams into one that the guest has partly written. QEMU 8.2 or newer is needed"
        )
    snapshots = [image for image in dropped if _SNAPSHOT_VOLUME.fullmatch(posixpath.basename(image.path))]
    if snapshots:
        return (
            f"{_paths(snapshots)} are snapshots that Proxmox VE keeps as a chain of volumes: they would lose the disk "
            "that they belong to. Delete the snapshots with Proxmox first, or name the newest of them as the base"
        )
    return None


def _refused_base(target: Target, base: str) -> str | None:
    disk = target.disk
    if len(disk.chain) == 1:
        return None
    if target.base_index == 0:
        return f"base {base!r} is the active image itself. Name one below it: {_paths(disk.chain[1:])}"
    if target.base_index == len(disk.chain):
        return f"base {base!r} is not in the backing chain, which is: {_paths(disk.chain)}"
    below, kept = disk.chain[1], disk.chain[target.base_index]
    if target.base_index > 1 and below.virtual_size < min(disk.virtual_size, kept.virtual_size):
        return (
            f"{below.path} is shorter than the disk and than base {base!r}: QEMU would let the guest read the base "
            "where it reads zeros now. Populate the disk without a base"
        )
    return None


def _paths(images: Sequence[Image]) -> str:
    return ", ".join(image.path for image in images)
