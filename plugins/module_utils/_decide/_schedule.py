# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which disks may be streamed at the same time, and whether there is room for all of them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Mapping, Sequence

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
    return Turn.WAITS if target.job is None or target.job.paused or target.job.is_concluded else Turn.COUNTS


def lanes(targets: Sequence[Target]) -> list[list[Target]]:
    """Group the disks that must be streamed one after the other: those of one VM that share a node below their tops.

    QEMU refuses the second of them ("Node is busy"). Within a lane, disks with a job come first.
    """
    groups: list[tuple[set[tuple[str, str]], list[Target]]] = []
    for target in targets:
        nodes = {(target.vm.identity.monitor, node) for image in target.disk.chain[1:] for node in image.nodes}
        touching = [group for group in groups if group[0] & nodes]
        groups = [group for group in groups if group not in touching]
        members = [member for group in touching for member in group[1]]
        groups.append((nodes.union(*(group[0] for group in touching)), [*members, target]))
    return [sorted(members, key=lambda member: member.job is None) for _nodes, members in groups]


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
    for own in _by_device(targets, free_spaces).values():
        free = min(each.free for each in own)
        named = [each for each in own if each.target.is_named]
        taken = sum(each.wanted for each in named)
        if taken > free:
            each_of_them = "; ".join(f"{each.target.label} up to {each.wanted}" for each in named)
            problems.append(_no_room(taken, free, each_of_them))
        for each in sorted((each for each in own if not each.target.is_named), key=lambda each: each.wanted):
            if taken + each.wanted <= free:
                taken += each.wanted
            else:
                crowded[each.target.key] = _no_room(each.wanted, free - taken, "beside the other disks of this call")
    if problems:
        raise WrongRequest(*problems)
    return tuple(target for target in targets if target.key not in crowded), crowded


@dataclass(frozen=True)
class _Claim:
    """What a stream that would start may write, and what its file system has left."""

    target: Target
    wanted: int
    free: int


def _by_device(targets: Sequence[Target], free_spaces: FreeSpaces) -> Mapping[int, list[_Claim]]:
    claims: dict[int, list[_Claim]] = {}
    for target in targets:
        free_space = free_spaces.get(target.key)
        wanted = space_needed(target.disk, target.base_index)
        if free_space is not None and target.job is None and wanted:
            claims.setdefault(free_space.device, []).append(_Claim(target, wanted, free_space.free))
    return claims


def _no_room(wanted: int, free: int, whose: str) -> str:
    return (
        f"populating may write up to {wanted} bytes and the file system has {free} free ({whose}). Make room, populate "
        "fewer disks at a time, or set check_space to false if you know that less will be copied"
    )
