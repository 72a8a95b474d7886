# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which of the selected disks cannot be streamed, and why: said before anything is started."""

from __future__ import annotations

import posixpath
import re
from typing import Sequence

from .._model._disk import Disk, Image
from .._model._errors import WrongRequest
from .._model._target import Target
from .._model._vm import Vm


def leave_out_unfit(
    targets: Sequence[Target], base: str | None, *, populates: bool = True
) -> tuple[tuple[Target, ...], tuple[str, ...]]:
    """Sort out the disks that QEMU would take and get wrong, or refuse later, before anything is started.

    One VM must not keep the others from being done by what it says of itself: a disk that nobody named is left out.

    :param populates: whether streams shall run to their end.
    :return: the disks that fit; and, in words, those that are left out, and what the others lose.
    :raise WrongRequest: a disk that is named outright does not fit, or none of the disks does.
    """
    fit: list[Target] = []
    unfit: list[tuple[Target, str]] = []
    costs: list[str] = []
    for target in targets:
        cost = _cost(target) if populates else None
        reason = _refusal(target, base)
        # Who names a disk accepts the price; nobody has accepted it for a disk that came with all the others.
        if reason is None and not target.is_named:
            reason = cost
        if reason is not None:
            unfit.append((target, reason))
            continue
        fit.append(target)
        if cost is not None:
            costs.append(f"{target.label}: {cost}")
    left_out = _leave_out(unfit, is_nothing_left=not fit)
    return tuple(fit), (*left_out, *costs)


def _leave_out(unfit: Sequence[tuple[Target, str]], *, is_nothing_left: bool) -> list[str]:
    """Say which disks are left out, or refuse those that cannot be.

    :raise WrongRequest: a disk was named outright, or no disk is left.
    """
    left_out: list[str] = []
    refused: list[str] = []
    for target, reason in unfit:
        if target.is_named or is_nothing_left:
            refused.append(f"{target.label}: {reason}")
        else:
            left_out.append(f"{target.label} was left out: {reason}")
    if refused:
        raise WrongRequest(*refused)
    return left_out


def _cost(target: Target) -> str | None:
    """What is lost when the disk is populated, and how it comes back, if so.

    QEMU reads what an internal snapshot lacks from the backing image that the header names at that time.
    """
    disk = target.disk
    if not disk.snapshots or not disk.chain[1 : target.base_index]:
        return None
    below = disk.chain[1]
    which = f"{disk.snapshots} internal snapshots, which need"
    if disk.snapshots == 1:
        which = "an internal snapshot, which needs"
    return (
        f"its active image has {which} {below.path} for ever, and the header of a populated disk names it no longer. "
        "Keep that image; and before you revert to a snapshot, with the VM off: "
        f"`qemu-img rebase -u -b {below.path} -F {below.format} {disk.top.path}`"
    )


def _refusal(target: Target, base: str | None) -> str | None:
    unfit = why_unfit(target.vm, target.disk, target.disk.chain[1 : target.base_index])
    if unfit is not None or base is None:
        return unfit
    return _refused_base(target, base)


def why_unfit(vm: Vm, disk: Disk, dropped: Sequence[Image]) -> str | None:
    """Why a disk must not be streamed, if so.

    :param dropped: the images that would leave its chain.
    """
    return _refused_vm(vm) or refused_state(vm, disk) or _refused_disk(disk) or _refused_image(vm, disk, dropped)


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
    # What the VM's state says comes with what to do. Since 10.0 QEMU tells of the disks, too.
    if vm.status not in REFUSED_STATES and not disk.is_active:
        return "QEMU has given the disk away (it is inactive), copies nothing, and dies when a job is finished"
    return REFUSED_STATES.get(vm.status)


def _refused_vm(vm: Vm) -> str | None:
    if vm.identity.is_libvirts and not vm.identity.is_domain:
        return (
            "libvirt manages this VM. A stream behind its back leaves libvirt with a wrong backing chain, and a later "
            "`virsh blockcopy --shallow` undoes it in silence. Name the VM in `domains` in place of its monitor"
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
        keep = f"Keep {_paths(disk.chain[1:])}, and copy" if disk.chain[1:] else "Copy"
        return f"{disk.lost}. {keep} the disk to a file of its own (drive-mirror) before anything else"
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
    snapshots = _snapshot_volumes(dropped)
    if snapshots:
        return (
            f"{_paths(snapshots)} are snapshots that Proxmox VE keeps as a chain of volumes: they would lose the disk "
            "that they belong to. Delete the snapshots with Proxmox first, or name the newest of them as the base"
        )
    return None


def _snapshot_volumes(images: Sequence[Image]) -> list[Image]:
    found = []
    for image in images:
        if _SNAPSHOT_VOLUME.fullmatch(posixpath.basename(image.path)):
            found.append(image)
    return found


def _refused_base(target: Target, base: str) -> str | None:
    disk = target.disk
    # It has no backing image to stream, whatever the base: a rerun over a disk that is populated must not fail.
    if len(disk.chain) == 1:
        return None
    if target.base_index == 0:
        return f"base {base!r} is the active image itself. Name one below it: {_paths(disk.chain[1:])}"
    if target.base_index == len(disk.chain):
        return f"base {base!r} is not in the backing chain, which is: {_paths(disk.chain)}"
    below, kept = disk.chain[1], disk.chain[target.base_index]
    # Behind the end of that image the guest reads zeros, and they are copied nowhere: the base would shine through.
    is_short = below.virtual_size < min(disk.virtual_size, kept.virtual_size)
    if target.base_index > 1 and is_short:
        return (
            f"{below.path} is shorter than the disk and than base {base!r}: QEMU would let the guest read the base "
            "where it reads zeros now. Populate the disk without a base"
        )
    return None


def _paths(images: Sequence[Image]) -> str:
    return ", ".join(image.path for image in images)
