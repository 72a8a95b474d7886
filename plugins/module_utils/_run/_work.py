# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What each module does, from the monitors to what is known in the end."""

from __future__ import annotations

from dataclasses import replace
from typing import Callable, Mapping, Sequence

from .._decide._outcome import Outcome, forecast, untouched
from .._decide._report import Informed, Populated
from .._decide._schedule import refuse_crowded
from .._decide._second_look import confirm, is_claim
from .._decide._select import Selected, refuse_unfit, select, select_bound
from .._decide._verdict import Verdict, judge
from .._model._disk import Disk
from .._model._errors import Failure, WrongRequest
from .._model._files import FreeSpace
from .._model._request import Bound, Request, Selection
from .._model._seams import Host, OpenLink
from .._model._target import Target
from .._model._vm import Vm
from ._fleet import reconcile_all
from ._observe import Sighting, observe, resolver, visit_all


async def inform(monitors: Sequence[str], selection: Selection, open_link: OpenLink, host: Host) -> Informed:
    """Show the VMs behind monitors and their disks, those that are selected."""
    sighting = await observe(monitors, open_link, host)
    failures, selected = sighting.failures, Selected(sighting.vms, (), ())
    if sighting.vms or not failures:
        try:
            selected = select(sighting.vms, selection, None, _resolve_for(host))
        except WrongRequest as error:
            failures = (*failures, Failure.of(error, str(error)))
    return Informed(
        vms=selected.vms,
        disks=tuple((target.vm, target.disk) for target in selected.targets),
        skipped=(*sighting.skipped, *selected.warnings),
        failures=failures,
        free_spaces=_free_spaces([target.disk for target in selected.targets], host),
    )


async def populate(
    monitors: Sequence[str],
    selection: Selection,
    request: Request,
    open_link: OpenLink,
    host: Host,
    *,
    is_check: bool,
    bound: Bound | None = None,
) -> Populated:
    """Do what is asked for with the disks: nothing is started unless all of it can be right.

    :param is_check: only tell what would be done.
    :param bound: the VMs and disks that an earlier look has selected, in place of ``monitors`` and ``selection``.
    """
    if bound is not None:
        return await _populate_bound(bound, request, open_link, host, is_check=is_check)
    sighting = await observe(monitors, open_link, host)
    if sighting.failures and not sighting.vms:
        return _judged(sighting, [], sighting.failures, host)  # no name can fit, and that is not what is wrong
    targets: Sequence[Target] = ()
    try:
        selected = select(sighting.vms, selection, request.base, _resolve_for(host))
        sighting = replace(sighting, skipped=(*sighting.skipped, *selected.warnings))
        targets = selected.targets
        refuse_unfit(targets, request.base)
        if request.state == "populated" and request.check_space:
            refuse_crowded(targets, _free_spaces([target.disk for target in targets], host))
    except WrongRequest as error:
        failures = (*sighting.failures, Failure.of(error, str(error)))
        return _judged(sighting, [untouched(target, request) for target in targets], failures, host)
    outcomes, sighting = await _act(sighting, targets, request, open_link, host, is_check=is_check)
    return _judged(sighting, outcomes, sighting.failures, host)


async def _populate_bound(
    bound: Bound, request: Request, open_link: OpenLink, host: Host, *, is_check: bool
) -> Populated:
    """Go on with what an earlier look has found fit; what stands in the way by now is told by each disk's own visit."""
    sighting = await visit_all({vm.monitor: True for vm in bound}, open_link, host)
    targets, failures = select_bound(sighting.vms, bound, request.base, _resolve_for(host))
    outcomes, sighting = await _act(sighting, targets, request, open_link, host, is_check=is_check)
    return _judged(sighting, outcomes, (*sighting.failures, *failures), host)


async def _act(
    sighting: Sighting,
    targets: Sequence[Target],
    request: Request,
    open_link: OpenLink,
    host: Host,
    *,
    is_check: bool,
) -> tuple[Sequence[Outcome], Sighting]:
    """The outcomes, and the VMs as they are then."""
    if is_check:
        return [forecast(target, request) for target in targets], sighting
    outcomes = await reconcile_all(targets, request, open_link, host)
    if request.state != "populated":
        return outcomes, sighting
    claims = [is_claim(target, outcome) for target, outcome in zip(targets, outcomes)]
    return await _ask_again(sighting, outcomes, claims, request.base, open_link, host)


async def _ask_again(
    sighting: Sighting,
    outcomes: Sequence[Outcome],
    claims: Sequence[bool],
    base: str | None,
    open_link: OpenLink,
    host: Host,
) -> tuple[Sequence[Outcome], Sighting]:
    """Look once more at the VMs of those disks that are said to be populated now, by connections of their own."""
    monitors = {outcome.vm.identity.monitor: True for outcome, claims_it in zip(outcomes, claims) if claims_it}
    again = await visit_all(monitors, open_link, host)
    confirmed = [
        confirm(outcome, again.vms, again.failures, base, _resolve_for(host)) if claims_it else outcome
        for outcome, claims_it in zip(outcomes, claims)
    ]
    now = {vm.identity.monitor: vm for vm in again.vms}
    return confirmed, replace(sighting, vms=tuple(now.get(vm.identity.monitor, vm) for vm in sighting.vms))


def _judged(sighting: Sighting, outcomes: Sequence[Outcome], failures: Sequence[Failure], host: Host) -> Populated:
    """Say of each image that left a chain whether it is free."""
    ids = {file: each for outcome in outcomes for file, each in outcome.left_ids.items()}
    traces = host.traces({image.file: ids[image.file] for o in outcomes for image in o.left if image.file in ids})

    def verdicts(outcome: Outcome) -> tuple[Verdict, ...]:
        is_finished = outcome.is_finished
        return tuple(judge(i, traces.get(i.file or ""), sighting.vms, is_finished=is_finished) for i in outcome.left)

    return Populated(
        vms=sighting.vms,
        outcomes=tuple(outcomes),
        verdicts=tuple(verdicts(outcome) for outcome in outcomes),
        skipped=sighting.skipped,
        failures=tuple(failures),
        free_spaces=_free_spaces([outcome.disk for outcome in outcomes], host),
    )


def _resolve_for(host: Host) -> Callable[[Vm, str], str | None]:
    return lambda vm, name: resolver(vm.identity, host)(name)


def _free_spaces(disks: Sequence[Disk], host: Host) -> Mapping[str, FreeSpace | None]:
    files = {disk.top.file for disk in disks if disk.chain and disk.top.file is not None}
    return {file: host.free_space(file) for file in files}
