# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which disks may be streamed at the same time, and whether there is room for all of them."""

from __future__ import annotations

import itertools
from enum import Enum
from typing import Mapping, NamedTuple, Sequence

from .._model._errors import WrongRequest
from .._model._files import FreeSpaces
from .._model._request import Request
from .._model._target import Target
from ._plan import Step, next_step, space_needed


class Turn(Enum):
    """Whether a disk waits for one of the ``parallel`` places that a call has."""

    WAITS = "it would add a stream to those that run"
    COUNTS = "its stream runs already"
    NEEDS_NONE = "nothing streams for it"


def turn(target: Target, request: Request) -> Turn:
    """Whether a stream would begin for this disk, runs already, or neither."""
    if request.state != "populated" or next_step(target.disk, target.job, request, target.base_index) is Step.DONE:
        return Turn.NEEDS_NONE
    if target.job is None or target.job.paused or target.job.is_concluded:
        return Turn.WAITS
    return Turn.COUNTS


def done_monitors(targets: Sequence[Target], request: Request) -> set[str]:
    """The monitors of the VMs whose disks are all as they are to be: there is only to make sure of it, and at once."""
    if request.state != "populated":
        return set()
    done = {target.vm.identity.monitor for target in targets}
    for target in targets:
        if target.job is not None or turn(target, request) is not Turn.NEEDS_NONE:
            done.discard(target.vm.identity.monitor)
    return done


def lanes(targets: Sequence[Target]) -> list[list[Target]]:
    """Group the disks that must be streamed one after the other: those of one VM that share a node below their tops.

    QEMU refuses the second of them ("Node is busy"). Disks with a job come first, within a lane and among lanes.
    """
    groups: list[_Lane] = []
    for target in targets:
        groups = _with_one_more(groups, target)
    found = [sorted(group.members, key=_has_no_job) for group in groups]
    # Streams that run already take their places first.
    return sorted(found, key=lambda lane: _has_no_job(lane[0]))


def in_order(lanes: Sequence[Sequence[Target]], request: Request) -> list[Target]:
    """The disks that are streamed, in the order in which their streams begin if none of them lasts longer than others.

    Those that run already come first. Whoever is next in its lane goes behind all that wait by then.
    """
    queues = [[target for target in lane if turn(target, request) is not Turn.NEEDS_NONE] for lane in lanes]
    ordered: list[Target] = []
    for round_ in itertools.zip_longest(*queues):
        ordered += [target for target in round_ if target is not None]
    return sorted(ordered, key=lambda target: turn(target, request) is not Turn.COUNTS)


class _Lane(NamedTuple):
    """Disks of one VM that share nodes, each with at least one of the others."""

    nodes: frozenset[tuple[str, str]]
    members: tuple[Target, ...]


def _with_one_more(groups: Sequence[_Lane], target: Target) -> list[_Lane]:
    """The same groups with one more disk, which may join several of them into one."""
    own = _nodes_below_top(target)
    nodes = own
    members: tuple[Target, ...] = ()
    apart: list[_Lane] = []
    for group in groups:
        if group.nodes & own:
            nodes |= group.nodes
            members += group.members
        else:
            apart.append(group)
    return [*apart, _Lane(nodes, (*members, target))]


def _nodes_below_top(target: Target) -> frozenset[tuple[str, str]]:
    # Every VM names its own nodes, so only those of one monitor can be the same.
    monitor = target.vm.identity.monitor
    nodes: set[tuple[str, str]] = set()
    for image in target.disk.chain[1:]:
        for node in image.nodes:
            nodes.add((monitor, node))
    return frozenset(nodes)


def _has_no_job(target: Target) -> bool:
    return target.job is None


def leave_out_crowded(
    targets: Sequence[Target], free_spaces: FreeSpaces
) -> tuple[tuple[Target, ...], dict[tuple[str, str], str]]:
    """Sort out the disks whose streams may write more than a file system has left.

    The disks that are named outright all fit, or nothing is started. Of the others those that need least come first:
    so one VM that claims to need much, or just all that is left, takes the room from no other.

    :param free_spaces: None where the image is no file of this host.
    :return: the disks that fit; and why each of the others does not, by its key.
    :raise WrongRequest: with the figures.
    """
    crowded: dict[tuple[str, str], str] = {}
    problems: list[str] = []
    for claims in _by_device(targets, free_spaces).values():
        # The disks were looked at one after the other, and the VMs write meanwhile.
        free = min(claim.free for claim in claims)
        named, others = _split_by_naming(claims)
        taken = sum(map(_wanted, named))
        if taken > free:
            problems.append(_no_room(taken, free, "; ".join(map(_in_words, named))))
        crowded.update(_crowded_out(others, free - taken))
    if problems:
        raise WrongRequest(*problems)
    return tuple(target for target in targets if target.key not in crowded), crowded


class _Claim(NamedTuple):
    """What a stream that would start may write, and what its file system has left."""

    target: Target
    wanted: int
    free: int


def _wanted(claim: _Claim) -> int:
    return claim.wanted


def _split_by_naming(claims: Sequence[_Claim]) -> tuple[list[_Claim], list[_Claim]]:
    """The disks that are named outright, and the others."""
    named: list[_Claim] = []
    others: list[_Claim] = []
    for claim in claims:
        if claim.target.is_named:
            named.append(claim)
        else:
            others.append(claim)
    return named, others


def _in_words(claim: _Claim) -> str:
    return f"{claim.target.label} up to {claim.wanted}"


def _crowded_out(claims: Sequence[_Claim], left: int) -> dict[tuple[str, str], str]:
    """Why some of the disks that nobody named do not fit into what is left, by their keys."""
    crowded: dict[tuple[str, str], str] = {}
    for claim in sorted(claims, key=_wanted):
        if claim.wanted <= left:
            left -= claim.wanted
        else:
            crowded[claim.target.key] = _no_room(claim.wanted, left, "beside the other disks of this call")
    return crowded


def _by_device(targets: Sequence[Target], free_spaces: FreeSpaces) -> Mapping[int, list[_Claim]]:
    claims: dict[int, list[_Claim]] = {}
    for target in targets:
        free_space = free_spaces.get(target.key)
        wanted = space_needed(target.disk, target.base_index)
        # What a stream that is there already has yet to write cannot be told.
        would_start = target.job is None and wanted > 0
        if free_space is not None and would_start:
            claim = _Claim(target, wanted, free_space.free)
            claims.setdefault(free_space.device, []).append(claim)
    return claims


def _no_room(wanted: int, free: int, whose: str) -> str:
    return (
        f"populating may write up to {wanted} bytes and the file system has {free} free ({whose}). Make room, populate "
        "fewer disks at a time, or set check_space to false if you know that less will be copied"
    )
