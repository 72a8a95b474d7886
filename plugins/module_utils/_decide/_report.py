# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What Ansible gets back: the only place where what is known becomes dictionaries for ``exit_json``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Sequence

from .._model._disk import Disk, Image
from .._model._errors import Failure
from .._model._files import FreeSpaces
from .._model._job import Job
from .._model._vm import Vm
from ._fit import why_unfit
from ._outcome import Outcome
from ._plan import is_change, space_needed
from ._populated import why_not_populated
from ._released import each_once, unanswered, weigh
from ._verdict import Verdict


@dataclass(frozen=True)
class Informed:
    """What block_stream_info found. ``skipped`` are sockets of VMs that are off, and doubles, in words."""

    vms: tuple[Vm, ...]
    disks: tuple[tuple[Vm, Disk], ...]
    skipped: tuple[str, ...]
    failures: tuple[Failure, ...]
    free_spaces: FreeSpaces

    def to_result(self) -> dict[str, Any]:
        """The result of the module, with ``warnings`` and ``errors``."""
        return {
            "changed": False,
            "vms": [vm_to_result(vm) for vm in self.vms],
            "disks": [disk_to_result(vm, disk, self.free_spaces) for vm, disk in self.disks],
            "warnings": list(self.skipped),
            "errors": [failure_to_result(failure) for failure in self.failures],
        }


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
        errors = [failure_to_result(failure) for failure in self.failures]
        errors += [disk_error_to_result(outcome, outcome.error) for outcome in self.outcomes if outcome.error]
        disks = self._disks(unanswered(errors))
        notes = [note for outcome in self.outcomes for note in outcome.notes]
        notes += dict.fromkeys(note for verdicts in self.verdicts for each in verdicts for note in each.notes)
        return {
            "changed": any(has_changed(outcome) for outcome in self.outcomes),
            "finished": not self.failures and all(outcome.is_finished for outcome in self.outcomes),
            "vms": [vm_to_result(vm) for vm in self.vms],
            "disks": disks,
            "released": each_once(image for disk in disks for image in disk["released"]),
            "diff": diff_of(self.outcomes),
            "warnings": [*self.skipped, *notes],
            "errors": errors,
        }

    def _disks(self, silent: Sequence[str]) -> list[dict[str, Any]]:
        chains = users_of_images(self.vms)
        disks = []
        for outcome, verdicts in zip(self.outcomes, self.verdicts):
            disk = outcome_to_result(outcome, self.free_spaces, verdicts)
            disks.append({**disk, "released": weigh(disk["released"], chains, silent)})
        return disks


def users_of_images(vms: Sequence[Vm]) -> dict[str, str]:
    """The disk that has an image in its chain, in words, by the path of the image."""
    return {
        image.absolute_path: f"disk {disk.label} of VM {vm.identity.label}"
        for vm in vms
        for disk in vm.disks
        for image in disk.chain
    }


def failure_to_result(failure: Failure) -> dict[str, Any]:
    """One element of ``errors``; what it is not about is null."""
    return {
        "kind": failure.kind,
        "msg": failure.message,
        "vm": None,
        "disk": None,
        "monitor": failure.monitor,
        "key": failure.key,
    }


def disk_error_to_result(outcome: Outcome, failure: Failure) -> dict[str, Any]:
    """One element of ``errors``, about a disk."""
    who = outcome.vm.identity
    about = {"vm": who.label, "disk": outcome.before.label, "monitor": who.monitor, "key": outcome.before.key}
    return {**failure_to_result(failure), **about}


def in_one_message(messages: Sequence[str]) -> str:
    """The ``msg`` of a task with these failures."""
    if len(messages) == 1:
        return messages[0]
    return f"{len(messages)} failures:\n" + "\n".join(f"- {message}" for message in messages)


def vm_to_result(vm: Vm) -> dict[str, Any]:
    """One element of ``vms``."""
    who = vm.identity
    return {
        "monitor": who.monitor,
        "name": who.name,
        "uuid": who.uuid,
        "status": vm.status,
        "qemu_version": who.qemu_version,
        "pid": who.pid,
    }


def disk_to_result(vm: Vm, disk: Disk, free_spaces: FreeSpaces) -> dict[str, Any]:
    """One element of ``disks``."""
    top = disk.top if disk.chain else None
    populated, reason = _why_not_populated(vm, disk)
    free_space = free_spaces.get((vm.identity.monitor, disk.key))
    return {
        "label": disk.label,
        "key": disk.key,
        "vm": vm.identity.label,
        "monitor": vm.identity.monitor,
        "names": list(disk.names),
        "device": disk.device,
        "qdev": disk.qdev,
        "node_name": disk.node_name,
        "path": top.absolute_path if top else None,
        "filename": top.filename if top else None,
        "format": top.format if top else None,
        "virtual_size": disk.virtual_size,
        "read_only": disk.read_only,
        "populated": populated,
        "reason": reason,
        "snapshots": disk.snapshots,
        "same_file": top.is_where_told if top else None,
        "stale_header": disk.stale_header,
        "chain": [_image_to_result(image) for image in disk.chain],
        "space": {"needed": space_needed(disk, len(disk.chain)), "free": free_space.free if free_space else None},
        "job": _job_to_result(vm.job_on(disk)),
    }


def _why_not_populated(vm: Vm, disk: Disk) -> tuple[bool | None, str | None]:
    """As ``why_not_populated``, with what a stream would be refused for."""
    populated, reason = why_not_populated(disk)
    unfit = why_unfit(vm, disk, disk.chain[1:]) if len(disk.chain) > 1 else None
    return populated, f"{reason}. It cannot be populated: {unfit}" if unfit else reason


def outcome_to_result(outcome: Outcome, free_spaces: FreeSpaces, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """One element of ``disks`` of block_stream."""
    return {
        **disk_to_result(outcome.vm, outcome.disk, free_spaces),
        **({"populated": None} if outcome.is_unknown else {}),
        "action": outcome.action,
        "finished": outcome.is_finished,
        "proof": (outcome.proof or "chain") if outcome.is_finished else None,
        "cursor": outcome.cursor,
        "seconds": round(outcome.seconds, 1),
        "grew_by": outcome.grew_by,
        "released": [_verdict_to_result(each) for each in verdicts],
        "error": outcome.error.message if outcome.error else None,
        "error_kind": outcome.error.kind if outcome.error else None,
    }


def diff_of(outcomes: Sequence[Outcome]) -> dict[str, dict[str, list[str]]]:
    """The chain of every disk before and after, top first, as Ansible prints it with ``--diff``."""
    names = [f"{outcome.vm.identity.label} {outcome.disk.label}" for outcome in outcomes]
    return {
        "before": {name: list(outcome.before.chain_paths) for name, outcome in zip(names, outcomes)},
        "after": {name: list(outcome.chain_after) for name, outcome in zip(names, outcomes)},
    }


def has_changed(outcome: Outcome) -> bool:
    """Whether anything about the disk is other than it was."""
    return (
        is_change(outcome.action) or bool(outcome.released_nodes) or outcome.before.chain_paths != outcome.chain_after
    )


def _image_to_result(image: Image) -> dict[str, Any]:
    return {
        "node_name": image.node_name,
        "path": image.absolute_path,
        "filename": image.filename,
        "format": image.format,
        "allocated": image.allocated,
    }


def _verdict_to_result(verdict: Verdict) -> dict[str, Any]:
    return {
        "path": verdict.path,
        "free": verdict.free,
        "reason": verdict.reason,
        "pids": None if verdict.pids is None else list(verdict.pids),
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
