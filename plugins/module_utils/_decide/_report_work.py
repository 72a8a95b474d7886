# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What block_stream gives back to Ansible: what became of each disk, and of the images that it gave up."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, NamedTuple, Sequence

from .._model._errors import Failure
from .._model._files import FreeSpaces
from .._model._latency import Paced
from .._model._vm import Vm
from ._actions import is_change
from ._failures import address_to_result, failure_to_result
from ._outcome import Outcome
from ._plan import space_needed
from ._released import each_once, unanswered, weigh
from ._report import disk_to_result, vm_to_result

if TYPE_CHECKING:
    from ._verdict import Verdict


class Populated(NamedTuple):
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
        "guest_latency": _felt_to_result(outcome),
        "ahead": outcome.ahead,
        "released": list(map(_verdict_to_result, verdicts)),
        **_error_to_result(outcome.error),
    }


def _felt_to_result(outcome: Outcome) -> dict[str, Any] | None:
    """Times of requests are in milliseconds, others in seconds."""
    felt = outcome.felt
    if felt is None:
        return None
    disk = None if felt.qdev is None else outcome.vm.disk(felt.qdev)
    return {
        "target": felt.target / 1e6,
        "now": None if felt.now is None else round(felt.now / 1e6, 2),
        "measure": "mean" if felt.is_mean else "p95",
        # The guest has devices that are no disks of the call, and one may just have been unplugged.
        "disk": felt.qdev if disk is None else disk.label,
        "kind": felt.kind,
        "by_itself": felt.is_by_itself,
        "held_back": round(felt.held_back, 1),
        "paced": _paced_to_result(felt.paced),
    }


def _paced_to_result(paced: Paced) -> dict[str, Any]:
    return {
        "limit": paced.limit,
        "knee": paced.knee,
        "low_for": round(paced.low_for, 2),
        "doubt": round(paced.doubt, 2),
        "again_in": round(paced.again_in, 2),
        "again_after": round(paced.again_after, 2),
        "lifted": [list(each) for each in paced.lifted],
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
