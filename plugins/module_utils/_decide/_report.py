# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What Ansible gets back: the only place where what is known becomes dictionaries for ``exit_json``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Mapping, Optional, Sequence

from .._model._disk import Disk, Image
from .._model._errors import Failure
from .._model._files import FreeSpace
from .._model._job import Job
from .._model._vm import Vm
from ._outcome import Outcome
from ._plan import is_change, space_needed
from ._verdict import Verdict

FreeSpaces = Mapping[str, Optional[FreeSpace]]


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
    """What block_stream did: the outcomes, and for each the verdicts on the images that left its chain."""

    outcomes: tuple[Outcome, ...]
    verdicts: tuple[tuple[Verdict, ...], ...]
    skipped: tuple[str, ...]
    failures: tuple[Failure, ...]
    free_spaces: FreeSpaces

    def to_result(self) -> dict[str, Any]:
        """The result of the module, with ``warnings`` and ``errors``."""
        judged = zip(self.outcomes, self.verdicts)
        failures = [*self.failures, *(outcome.error for outcome in self.outcomes if outcome.error is not None)]
        return {
            "changed": any(has_changed(outcome) for outcome in self.outcomes),
            "finished": not self.failures and all(outcome.is_finished for outcome in self.outcomes),
            "disks": [outcome_to_result(outcome, self.free_spaces, verdicts) for outcome, verdicts in judged],
            "diff": diff_of(self.outcomes),
            "warnings": [*self.skipped, *(note for outcome in self.outcomes for note in outcome.notes)],
            "errors": [failure_to_result(failure) for failure in failures],
        }


def failure_to_result(failure: Failure) -> dict[str, str]:
    """One element of ``errors``."""
    return {"kind": failure.kind, "msg": failure.message}


def vm_to_result(vm: Vm) -> dict[str, Any]:
    """One element of ``vms``."""
    who = vm.identity
    return {
        "monitor": who.monitor,
        "name": who.name,
        "uuid": who.uuid,
        "status": vm.status,
        "qemu_version": who.qemu_version,
        "pid": who.peer.pid if who.peer else None,
        "uid": who.peer.uid if who.peer else None,
    }


def disk_to_result(vm: Vm, disk: Disk, free_spaces: FreeSpaces) -> dict[str, Any]:
    """One element of ``disks``."""
    top = disk.top if disk.chain else None
    free_space = free_spaces.get(top.file) if top is not None and top.file is not None else None
    return {
        "vm": vm.identity.label,
        "monitor": vm.identity.monitor,
        "names": list(disk.names),
        "device": disk.device,
        "qdev": disk.qdev,
        "node_name": disk.node_name,
        "path": top.path if top else None,
        "format": top.format if top else None,
        "virtual_size": disk.virtual_size,
        "read_only": disk.read_only,
        "populated": disk.is_populated,
        "stale_header": disk.stale_header,
        "chain": [_image_to_result(image) for image in disk.chain],
        "space": {"needed": space_needed(disk, len(disk.chain)), "free": free_space.free if free_space else None},
        "job": _job_to_result(vm.job_on(disk)),
    }


def outcome_to_result(outcome: Outcome, free_spaces: FreeSpaces, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """One element of ``disks`` of block_stream."""
    return {
        **disk_to_result(outcome.vm, outcome.disk, free_spaces),
        "action": outcome.action,
        "finished": outcome.is_finished,
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
    return {"node_name": image.node_name, "path": image.path, "format": image.format, "allocated": image.allocated}


def _verdict_to_result(release: Verdict) -> dict[str, Any]:
    pids = None if release.pids is None else list(release.pids)
    return {"path": release.path, "free": release.is_free, "pids": pids, "reason": release.reason}


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
