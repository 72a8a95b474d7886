# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What Ansible gets back: the only place where what is known becomes dictionaries for ``exit_json``."""

from __future__ import annotations

from typing import Any

from .._model._disk import Disk, Image
from .._model._files import FreeSpace, FreeSpaces
from .._model._job import Job
from .._model._vm import Vm
from ._failures import address_to_result
from ._fit import why_unfit
from ._plan import space_needed
from ._populated import why_not_populated


def vm_to_result(vm: Vm) -> dict[str, Any]:
    """One element of ``vms``."""
    who = vm.identity
    return {
        **address_to_result(who.monitor),
        "name": who.name,
        "uuid": who.uuid,
        "status": vm.status,
        "qemu_version": who.qemu_version,
        "pid": who.peer.pid if who.peer else None,
        "started": who.peer.started if who.peer else None,
        "uid": who.peer.uid if who.peer else None,
    }


def disk_to_result(vm: Vm, disk: Disk, free_spaces: FreeSpaces) -> dict[str, Any]:
    """One element of ``disks``."""
    populated, reason = _why_not_populated(vm, disk)
    free_space = free_spaces.get((vm.identity.monitor, disk.key))
    return {
        "label": disk.label,
        "key": disk.key,
        "vm": vm.identity.label,
        **address_to_result(vm.identity.monitor),
        "names": list(disk.names),
        "device": disk.device,
        "qdev": disk.qdev,
        "node_name": disk.node_name,
        **_top_to_result(disk),
        "virtual_size": disk.virtual_size,
        "read_only": disk.read_only,
        "populated": populated,
        "reason": reason,
        "snapshots": disk.snapshots,
        "same_file": _is_same_file(disk),
        "stale_header": disk.stale_header,
        "chain": list(map(_image_to_result, disk.chain)),
        "space": _space_to_result(disk, free_space),
        "job": _job_to_result(vm.job_on(disk)),
    }


def _top_to_result(disk: Disk) -> dict[str, str | None]:
    """The active image; all null where there is no medium."""
    if not disk.chain:
        return {"path": None, "filename": None, "format": None}
    return {"path": disk.top.absolute_path, "filename": disk.top.filename, "format": disk.top.format}


def _is_same_file(disk: Disk) -> bool | None:
    """Whether the path names the very file that QEMU has open."""
    if not disk.chain:
        return None
    return disk.top.is_where_told


def _space_to_result(disk: Disk, free_space: FreeSpace | None) -> dict[str, int | None]:
    # What is needed without a base: this look does not know how far a later task will populate the disk.
    needed = space_needed(disk, len(disk.chain))
    if free_space is None:
        return {"needed": needed, "free": None}
    return {"needed": needed, "free": free_space.free}


def _why_not_populated(vm: Vm, disk: Disk) -> tuple[bool | None, str | None]:
    """As ``why_not_populated``, with what a stream would be refused for."""
    populated, reason = why_not_populated(disk)
    # A disk that needs no other image is not to be streamed, so nothing can be in the way of it.
    if len(disk.chain) <= 1:
        return populated, reason
    unfit = why_unfit(vm, disk, disk.chain[1:])
    if unfit is not None:
        reason = f"{reason}. It cannot be populated: {unfit}"
    return populated, reason


def _image_to_result(image: Image) -> dict[str, Any]:
    return {
        "node_name": image.node_name,
        "path": image.absolute_path,
        "filename": image.filename,
        "format": image.format,
        "allocated": image.allocated,
    }


def _job_to_result(job: Job | None) -> dict[str, Any] | None:
    if job is None:
        return None
    return {
        "id": job.id,
        "type": job.type,
        "status": job.status,
        "cur": job.offset,
        "end": job.len,
        "percent": round(job.percent, 1),
        "speed": job.speed,
        "paused": job.paused,
        "io_status": job.io_status,
        "error": job.error,
    }
