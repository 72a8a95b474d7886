# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What each module does, from the monitors to what is known in the end."""

from __future__ import annotations

from dataclasses import replace
from typing import Iterable, Mapping, Sequence

from .._decide._outcome import Outcome, forecast, untouched
from .._decide._report import Informed, Populated
from .._decide._schedule import leave_out_crowded
from .._decide._select import leave_out_unfit, select
from .._model._disk import Disk
from .._model._errors import Failure, WrongRequest
from .._model._files import FreeSpace, FreeSpaces
from .._model._request import Request
from .._model._seams import Host, OpenLink
from .._model._target import Target
from .._model._vm import Vm
from ._fleet import reconcile_all
from ._observe import Sighting, observe
from ._release import judge_all


async def inform(monitors: Sequence[str], names: Sequence[str] | None, open_link: OpenLink, host: Host) -> Informed:
    """Show the VMs behind monitors and their disks, or those that ``names`` selects."""
    sighting = await observe(monitors, open_link, host, names or ())
    failures = sighting.failures
    disks = tuple((vm, disk) for vm in sighting.vms for disk in vm.disks)
    if names is not None and (sighting.vms or not failures):
        try:
            disks = tuple((t.vm, t.disk) for t in select(sighting.vms, names, None))
        except WrongRequest as error:
            failures = (*failures, *Failure.each_of(error))
            disks = ()
    free_spaces = await _free_spaces(disks, host)
    return Informed(sighting.vms, disks, sighting.skipped, failures, free_spaces)


async def populate(
    monitors: Sequence[str],
    names: Sequence[str],
    request: Request,
    open_link: OpenLink,
    host: Host,
    *,
    is_check: bool,
) -> Populated:
    """Do what is asked for with the disks: nothing is started unless all of it can be right.

    :param is_check: only tell what would be done.
    """
    given = [*names, *([request.base] if request.base else [])]
    sighting = await observe(monitors, open_link, host, given)
    if sighting.failures and not sighting.vms:
        return await _judged(sighting, [], sighting.failures, host)  # no name can fit, and that is not what is wrong
    targets: Sequence[Target] = ()
    try:
        targets = select(sighting.vms, names, request.base)
        fit, left_out = leave_out_unfit(targets, request.base, populates=request.state == "populated")
        crowded: Mapping[tuple[str, str], str] = {}
        targets = fit
        if request.state == "populated" and request.check_space:
            fit, crowded = leave_out_crowded(fit, await _free_spaces([(each.vm, each.disk) for each in fit], host))
    except WrongRequest as error:
        failures = (*sighting.failures, *Failure.each_of(error))
        return await _judged(sighting, [untouched(target, request) for target in targets], failures, host)
    if is_check:
        outcomes = [forecast(target, request) for target in fit]
    else:
        outcomes = await reconcile_all(fit, request, open_link, host)
    by_key = {target.key: outcome for target, outcome in zip(fit, outcomes)}
    for target in targets:
        if target.key in crowded:
            by_key[target.key] = _not_begun(target, crowded[target.key], request)
    sighting = replace(sighting, skipped=(*sighting.skipped, *left_out))
    return await _judged(sighting, [by_key[target.key] for target in targets], sighting.failures, host)


def _not_begun(target: Target, reason: str, request: Request) -> Outcome:
    """A disk whose stream was not begun, which is an error of this disk."""
    return untouched(target, request, Failure(WrongRequest.__name__, f"{target.label}: not started: {reason}"))


async def _judged(
    sighting: Sighting, outcomes: Sequence[Outcome], failures: Sequence[Failure], host: Host
) -> Populated:
    """Say of each image that left a chain whether it is free."""
    return Populated(
        outcomes=tuple(outcomes),
        verdicts=tuple(tuple(each) for each in await judge_all(outcomes, sighting.vms, host, sighting.off)),
        skipped=sighting.skipped,
        failures=tuple(failures),
        free_spaces=await _free_spaces([(outcome.vm, outcome.disk) for outcome in outcomes], host),
    )


async def _free_spaces(vms_and_disks: Iterable[tuple[Vm, Disk]], host: Host) -> FreeSpaces:
    """The file systems that the active images write to, by VM and disk."""
    spaces: dict[tuple[str, str], FreeSpace | None] = {}
    for vm, disk in vms_and_disks:
        if disk.chain:
            written = disk.top.data or disk.top.bound
            spaces[vm.identity.monitor, disk.key] = await host.free_space(vm.identity.pid, written)
    return spaces
