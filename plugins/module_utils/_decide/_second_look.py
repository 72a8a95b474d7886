# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether QEMU, asked again over a new connection, shows what was said of a disk.

The connection that a stream was followed over has shown the end of the job. That is what was said; what another look
shows is what is so.
"""

from __future__ import annotations

from typing import Sequence

from .._model._errors import Failure, MonitorUnusable, StreamFailed
from .._model._target import Target, base_index_of
from .._model._vm import Vm
from ._outcome import Outcome
from ._plan import is_done


def is_claim(target: Target, outcome: Outcome) -> bool:
    """Whether a disk is said to be populated now that needed it when the task looked first."""
    return outcome.is_finished and not is_done(target.disk, target.base_index)


def confirm(outcome: Outcome, vms: Sequence[Vm], failures: Sequence[Failure], base: str | None) -> Outcome:
    """Hold an outcome that is said to be finished against the second look; what that does not show is a failure.

    :param vms: the VMs as they are now, those that answered.
    :param failures: why the others did not.
    """
    planned = outcome.vm.identity
    vm = _vm_at(planned.monitor, vms)
    if vm is None:
        return _unknown(outcome, next(failure for failure in failures if failure.monitor == planned.monitor))
    # The socket may have been taken by another VM meanwhile, or by the same one after a restart.
    successor = planned.successor(vm.identity)
    if successor is not None:
        return _unknown(outcome, Failure(MonitorUnusable.__name__, f"{planned.monitor}: {successor}", planned.monitor))
    disk = vm.disk(outcome.disk.key)
    if disk is None or not disk.chain:
        return _disproved(outcome._replace(vm=vm))
    now = outcome.seen(vm, disk, base_index_of(vm, disk, base))
    if not is_done(now.disk, now.base_index):
        return _disproved(now)
    # What was said stands as it was said: the second look adds nothing to it.
    return outcome


def _vm_at(monitor: str, vms: Sequence[Vm]) -> Vm | None:
    for vm in vms:
        if vm.identity.monitor == monitor:
            return vm
    return None


def _unknown(outcome: Outcome, failure: Failure) -> Outcome:
    message = f"{_label(outcome)}: said to be populated, but QEMU, asked again, does not answer: {failure.message}"
    return outcome._replace(is_unknown=True, error=failure._replace(message=message))


def _disproved(outcome: Outcome) -> Outcome:
    message = f"{_label(outcome)}: said to be populated, but QEMU, asked again, does not show it"
    return outcome._replace(error=Failure(StreamFailed.__name__, message, outcome.vm.identity.monitor))


def _label(outcome: Outcome) -> str:
    return f"{outcome.vm.identity.label}: disk {outcome.before.label}"
