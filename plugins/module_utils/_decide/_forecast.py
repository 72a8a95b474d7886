# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a run would do: check mode tells it of each disk, in the order and with the limits that a run would have."""

from __future__ import annotations

from typing import Sequence

from .._model._request import Request
from .._model._target import Target
from ._endings import refused
from ._outcome import Outcome, untouched
from ._plan import ACTIONS, Step, next_step, requested_chain
from ._schedule import Turn, in_order, lanes, turn
from ._share import share, streams_at_first


def plan(targets: Sequence[Target], request: Request) -> list[Outcome]:
    """What a run would do with each disk, in the order of the targets."""
    groups = lanes(targets)
    at_first = streams_at_first(groups, request)
    alike = share(request, len(at_first))
    places = {target.key: place for place, target in enumerate(in_order(groups, request), start=1)}
    begin = {target.key for target in at_first}
    outcomes: list[Outcome] = []
    for target in targets:
        # Without waiting, nobody is there to start a stream when another one is over.
        is_left = not request.waiting.wait and target.key not in begin and turn(target, request) is Turn.WAITS
        outcome = untouched(target, request) if is_left else forecast(target, alike)
        outcomes.append(outcome._replace(order=places.get(target.key)))
    return outcomes


def forecast(target: Target, request: Request) -> Outcome:
    """What check mode tells: the action that would come first, and the chain if all goes well."""
    step = next_step(target.disk, target.job, request, target.base_index)
    chain = target.disk.chain
    if _waits_for_the_end(request):
        chain = requested_chain(target.disk, target.base_index)
    paths = tuple(image.path for image in chain)
    outcome = untouched(target, request)._replace(action=ACTIONS.get(step, "none"), forecast=paths)
    if step is Step.REFUSE:
        return outcome.noted(f"{target.label}: a run would fail: {refused(target.disk, target.job)}")
    return outcome


def _waits_for_the_end(request: Request) -> bool:
    """Whether the call would return only when the disk is populated."""
    waiting = request.waiting
    return request.state == "populated" and waiting.wait and waiting.increment is None
