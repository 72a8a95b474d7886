# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What Ansible gets back: the only place where what is known becomes dictionaries for ``exit_json``."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any, Collection, Sequence

from .._model._address import DomainName
from .._model._disk import Disk, Image
from .._model._errors import Failure
from .._model._files import FreeSpace, FreeSpaces
from .._model._job import Job
from .._model._serving import Serving
from .._model._vm import Vm
from ._ahead import why_not_read_ahead
from ._fit import why_unfit
from ._outcome import Outcome
from ._plan import is_change, space_needed
from ._populated import why_not_populated
from ._released import each_once, unanswered, weigh
from ._verdict import Verdict


@dataclass(frozen=True)
class Informed:
    """What block_stream_info found. ``skipped`` are sockets of VMs that are off, and doubles, in words.

    ``remote`` are the devices (``st_dev``) that are file systems of other hosts.
    """

    vms: tuple[Vm, ...]
    disks: tuple[tuple[Vm, Disk], ...]
    skipped: tuple[str, ...]
    failures: tuple[Failure, ...]
    free_spaces: FreeSpaces
    remote: Collection[int] = ()

    def to_result(self) -> dict[str, Any]:
        """The result of the module, with ``warnings`` and ``errors``."""
        return {
            "changed": False,
            "vms": list(map(vm_to_result, self.vms)),
            "disks": [self._disk_to_result(vm, disk) for vm, disk in self.disks],
            "warnings": list(self.skipped),
            "errors": list(map(failure_to_result, self.failures)),
        }

    def _disk_to_result(self, vm: Vm, disk: Disk) -> dict[str, Any]:
        serving = vm.serving or Serving()
        reason = why_not_read_ahead(vm.identity, serving, disk, len(disk.chain), self.remote)
        read_ahead = {"possible": reason is None, "reason": reason}
        return {**disk_to_result(vm, disk, self.free_spaces), "read_ahead": read_ahead}


@dataclass(frozen=True)
class Populated:
    """What block_stream did: the outcomes, and for each the verdicts on the images that left its chain.

    ``vms`` are all that answered, those as they are now on which something was populated.
    """

    vms: tuple[Vm, ...]
    outcomes: tuple[Outcome, ...]
    verdicts: tuple[tuple[Verdict, ...], ...]
    skipped: tuple[str, ...]
    failures: tuple[Failure, ...]
    free_spaces: FreeSpaces

    def to_result(self) -> dict[str, Any]:
        """The result of the module, with ``warnings`` and ``errors``."""
        errors = self._errors()
        disks = self._disks(unanswered(errors))
        # What one disk calls free another may still need: only all of them together tell.
        released = itertools.chain.from_iterable(disk["released"] for disk in disks)
        return {
            "changed": any(map(has_changed, self.outcomes)),
            "finished": not self.failures and all(outcome.is_finished for outcome in self.outcomes),
            "vms": list(map(vm_to_result, self.vms)),
            "disks": disks,
            "released": each_once(released),
            "diff": diff_of(self.outcomes),
            "warnings": [*self.skipped, *self._notes()],
            "errors": errors,
        }

    def _errors(self) -> list[dict[str, Any]]:
        errors = list(map(failure_to_result, self.failures))
        for outcome in self.outcomes:
            if outcome.error is not None:
                errors.append(disk_error_to_result(outcome, outcome.error))
        return errors

    def _notes(self) -> list[str]:
        notes: list[str] = []
        for outcome in self.outcomes:
            notes += outcome.notes
        # Every image that is free has the same note on the VMs that are off: it is said once.
        on_images: dict[str, None] = {}
        for verdict in itertools.chain.from_iterable(self.verdicts):
            on_images.update(dict.fromkeys(verdict.notes))
        return [*notes, *on_images]

    def _disks(self, silent: Sequence[str]) -> list[dict[str, Any]]:
        chains = users_of_images(self.vms)
        disks = []
        for outcome, verdicts in zip(self.outcomes, self.verdicts):
            disk = outcome_to_result(outcome, self.free_spaces, verdicts)
            disks.append({**disk, "released": weigh(disk["released"], chains, silent)})
        return disks


def users_of_images(vms: Sequence[Vm]) -> dict[str, str]:
    """The disk that has an image in its chain, in words, by the path of the image."""
    users: dict[str, str] = {}
    for vm in vms:
        for disk in vm.disks:
            user = f"disk {disk.label} of VM {vm.identity.label}"
            for image in disk.chain:
                users[image.absolute_path] = user
    return users


def failure_to_result(failure: Failure) -> dict[str, Any]:
    """One element of ``errors``; what it is not about is null."""
    return {
        "kind": failure.kind,
        "msg": failure.message,
        "vm": None,
        "disk": None,
        **address_to_result(failure.monitor),
        "key": failure.key,
    }


def address_to_result(address: str | None) -> dict[str, str | None]:
    """How a VM was reached: one of the two is null, and both are where no VM is meant."""
    if isinstance(address, DomainName):
        return {"monitor": None, "domain": str(address)}
    return {"monitor": address, "domain": None}


def disk_error_to_result(outcome: Outcome, failure: Failure) -> dict[str, Any]:
    """One element of ``errors``, about a disk."""
    who = outcome.vm.identity
    about = {"vm": who.label, "disk": outcome.before.label, "key": outcome.before.key}
    return {**failure_to_result(failure), **address_to_result(who.monitor), **about}


def deadline_to_result(until: float | None, now: float) -> dict[str, float] | None:
    """When the wait ends by the clock, in seconds since 1970, and how many seconds of it are left; None without one."""
    if until is None:
        return None
    return {"at": int(until), "left": round(max(0.0, until - now), 1)}


def in_one_message(messages: Sequence[str]) -> str:
    """The ``msg`` of a task with these failures."""
    if len(messages) == 1:
        return messages[0]
    return f"{len(messages)} failures:\n" + "\n".join(f"- {message}" for message in messages)


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


def outcome_to_result(outcome: Outcome, free_spaces: FreeSpaces, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """One element of ``disks`` of block_stream."""
    disk = disk_to_result(outcome.vm, outcome.disk, free_spaces)
    # Here it is known how far the disk is to be populated.
    disk["space"] = {**disk["space"], "needed": space_needed(outcome.disk, outcome.base_index)}
    # What was seen first no longer counts where the VM, asked again, did not answer.
    if outcome.is_unknown:
        disk["populated"] = None
        disk["reason"] = str(outcome.error)
    return {
        **disk,
        "action": outcome.action,
        "finished": outcome.is_finished,
        "proof": _proof_of(outcome),
        "cursor": outcome.cursor,
        "seconds": round(outcome.seconds, 1),
        "clock": None if outcome.clock is None else round(outcome.clock, 1),
        "order": outcome.order,
        "grew_by": outcome.grew_by,
        "released": list(map(_verdict_to_result, verdicts)),
        **_error_to_result(outcome.error),
    }


def _proof_of(outcome: Outcome) -> str | None:
    """What "populated" rests on; where nothing was streamed in this run, that is the chain alone."""
    if not outcome.is_finished:
        return None
    return outcome.proof or "chain"


def _error_to_result(error: Failure | None) -> dict[str, str | None]:
    if error is None:
        return {"error": None, "error_kind": None}
    return {"error": error.message, "error_kind": error.kind}


def diff_of(outcomes: Sequence[Outcome]) -> dict[str, dict[str, list[str]]]:
    """The chain of every disk before and after, top first, as Ansible prints it with ``--diff``."""
    before: dict[str, list[str]] = {}
    after: dict[str, list[str]] = {}
    for outcome in outcomes:
        name = f"{outcome.vm.identity.label} {outcome.disk.label}"
        before[name] = list(outcome.before.chain_paths)
        after[name] = list(outcome.chain_after)
    return {"before": before, "after": after}


def has_changed(outcome: Outcome) -> bool:
    """Whether anything about the disk is other than it was."""
    if is_change(outcome.action) or outcome.released_nodes:
        return True
    # A stream that was only joined, or that somebody else has ended meanwhile, shows in the chain alone.
    return outcome.before.chain_paths != outcome.chain_after


def _image_to_result(image: Image) -> dict[str, Any]:
    return {
        "node_name": image.node_name,
        "path": image.absolute_path,
        "filename": image.filename,
        "format": image.format,
        "allocated": image.allocated,
    }


def _verdict_to_result(verdict: Verdict) -> dict[str, Any]:
    pids = None
    # None is unknown, and an empty list is nobody.
    if verdict.pids is not None:
        pids = list(verdict.pids)
    return {
        "path": verdict.path,
        "free": verdict.free,
        "reason": verdict.reason,
        "pids": pids,
        "device": verdict.device,
        "inode": verdict.inode,
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
