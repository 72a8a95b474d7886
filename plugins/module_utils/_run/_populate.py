# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What block_stream does, from the monitors to what is known in the end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Collection, Mapping, Sequence

from .._decide._fit import leave_out_unfit
from .._decide._outcome import Outcome, not_begun, untouched
from .._decide._report_work import Populated
from .._decide._schedule import done_monitors, leave_out_crowded
from .._decide._second_look import confirm, is_claim
from .._decide._select import select, select_bound
from .._model._errors import Failure, WrongRequest
from .._model._request import BoundVms, Request, Selection
from .._model._seams import AskPlans, Find, Host, OpenLink
from .._model._target import Target
from ._fleet import reconcile_all
from ._links import Links
from ._observe import Sighting, observe, visit_all
from ._space import free_spaces

if TYPE_CHECKING:
    from .._decide._verdict import Verdict


async def populate(  # noqa: PLR0913  # what was asked for, and the two ways out of this process
    find: Find,
    selection: Selection,
    request: Request,
    open_link: OpenLink,
    host: Host,
    *,
    is_check: bool,
    bound: BoundVms | None = None,
    ask_plans: AskPlans | None = None,
) -> Populated:
    """Do what is asked for with the disks: nothing is started unless all of it can be right.

    :param is_check: only tell what would be done.
    :param bound: the VMs and disks that an earlier look has selected, in place of ``find`` and ``selection``.
    :param ask_plans: who tells what libvirt would start, or revert to; None where libvirt has no part in it.
    """
    if bound is not None:
        return await _populate_bound(bound, request, open_link, host, ask_plans, is_check=is_check)
    async with Links(open_link) as links:
        sighting = await observe(find, links.look, host, selection.names(request.base))
        if sighting.failures and not sighting.vms:
            # No name can fit, and that is not what is wrong.
            return await _judged(sighting, [], sighting.failures, host, request)
        targets: Sequence[Target] = ()
        try:
            selected = select(sighting.vms, selection, request.base)
            targets = selected.targets
            fit, left_out = leave_out_unfit(targets, request.base, populates=request.state == "populated")
            sighting = sighting._replace(skipped=(*sighting.skipped, *selected.warnings, *left_out))
            targets = fit
            crowded: Mapping[tuple[str, str], str] = {}
            if request.state == "populated" and request.check_space:
                fit, crowded = leave_out_crowded(fit, await free_spaces([(each.vm, each.disk) for each in fit], host))
        except WrongRequest as error:
            failures = (*sighting.failures, *Failure.each_of(error))
            untouched_ones = [untouched(target, request) for target in targets]
            return await _judged(sighting, untouched_ones, failures, host, request)
        outcomes, sighting = await _act(sighting, fit, request, links, host, is_check=is_check)
    by_key = {target.key: outcome for target, outcome in zip(fit, outcomes)}
    for target in targets:
        if target.key in crowded:
            by_key[target.key] = not_begun(target, request, WrongRequest, crowded[target.key])
    outcomes = [by_key[target.key] for target in targets]
    return await _judged(sighting, outcomes, sighting.failures, host, request, ask_plans=ask_plans)


async def _populate_bound(
    bound: BoundVms,
    request: Request,
    open_link: OpenLink,
    host: Host,
    ask_plans: AskPlans | None,
    *,
    is_check: bool,
) -> Populated:
    """Go on with what an earlier look has found fit; what stands in the way by now is told by each disk's own visit."""
    meant = [vm for vm in bound if vm.keys]
    async with Links(open_link) as links:
        sighting = await visit_all(
            {vm.monitor: True for vm in meant}, links.look, host, [request.base] if request.base else []
        )
        targets, failures = select_bound(sighting.vms, meant, request.base)
        outcomes, sighting = await _act(sighting, targets, request, links, host, is_check=is_check)
    known = {vm.pid: vm.name or vm.monitor for vm in bound if vm.pid is not None}
    return await _judged(sighting, outcomes, (*sighting.failures, *failures), host, request, known, ask_plans)


async def _act(
    sighting: Sighting,
    targets: Sequence[Target],
    request: Request,
    links: Links,
    host: Host,
    *,
    is_check: bool,
) -> tuple[Sequence[Outcome], Sighting]:
    """The outcomes, and the VMs as they are then."""
    if is_check:
        # Loaded here, and only here: hardly any task only tells what it would do.
        from .._decide._forecast import plan

        return plan(targets, request), sighting
    await links.keep(done_monitors(targets, request))
    outcomes = await reconcile_all(targets, request, links, host)
    if request.state != "populated":
        return outcomes, sighting
    # In the order of the disks, as a set would not be.
    claims = dict.fromkeys(target.key for target, outcome in zip(targets, outcomes) if is_claim(target, outcome))
    return await _ask_again(sighting, outcomes, claims, request.base, links, host)


async def _ask_again(
    sighting: Sighting,
    outcomes: Sequence[Outcome],
    claims: Collection[tuple[str, str]],
    base: str | None,
    links: Links,
    host: Host,
) -> tuple[Sequence[Outcome], Sighting]:
    """Look once more at the VMs of those disks that are said to be populated now, by connections of their own."""
    monitors = {monitor: True for monitor, _key in claims}
    again = await visit_all(monitors, links.borrow, host, [base] if base else [])
    confirmed: list[Outcome] = []
    for outcome in outcomes:
        if (outcome.vm.identity.monitor, outcome.before.key) in claims:
            outcome = confirm(outcome, again.vms, again.failures, base)
        confirmed.append(outcome)
    now = {vm.identity.monitor: vm for vm in again.vms}
    return confirmed, sighting._replace(vms=tuple(now.get(vm.identity.monitor, vm) for vm in sighting.vms))


async def _judged(  # noqa: PLR0913  # what is known by now, and who knows more
    sighting: Sighting,
    outcomes: Sequence[Outcome],
    failures: Sequence[Failure],
    host: Host,
    request: Request,
    known: Mapping[int, str] | None = None,
    ask_plans: AskPlans | None = None,
) -> Populated:
    """Say of each image that left a chain whether it is free.

    :param known: what an earlier look of the same task has called VMs, by their processes.
    :param ask_plans: as above.
    """
    verdicts: Sequence[Sequence[Verdict]] = [()] * len(outcomes)
    if any(outcome.left for outcome in outcomes):
        # Loaded while the streams ran.
        from .._decide._verdict import NO_PLANS, labels_of
        from ._release import judge_all

        labels = labels_of(sighting.vms, known or {})
        plans = NO_PLANS if ask_plans is None else await ask_plans()
        verdicts = await judge_all(outcomes, labels, host, sighting.off, request.images, plans)
    return Populated(
        vms=sighting.vms,
        outcomes=tuple(outcomes),
        verdicts=tuple(map(tuple, verdicts)),
        skipped=sighting.skipped,
        failures=tuple(failures),
        free_spaces=await free_spaces([(outcome.vm, outcome.disk) for outcome in outcomes], host),
    )
