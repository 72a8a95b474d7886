# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which disks may be streamed at the same time, and whether there is room for all of them."""

from __future__ import annotations

from enum import Enum
from typing import Sequence

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


def refuse_crowded(targets: Sequence[Target], free_spaces: FreeSpaces) -> None:
    """Say where all streams that would start may write more than a file system has left.

    :param free_spaces: None where the image is no file of this host.
    :raise WrongRequest: with the figures.
    """
    needed: dict[int, int] = {}
    disks: dict[int, list[str]] = {}
    free: dict[int, int] = {}
    for target in targets:
        free_space = free_spaces.get(target.key)
        wanted = space_needed(target.disk, target.base_index)
        if free_space is None or target.job is not None or not wanted:
            continue
        needed[free_space.device] = needed.get(free_space.device, 0) + wanted
        disks.setdefault(free_space.device, []).append(f"{target.label} up to {wanted}")
        free[free_space.device] = free_space.free
    problems = [
        f"populating may write up to {total} bytes and the file system has {free[device]} free "
        f"({'; '.join(disks[device])}). Make room, populate fewer disks at a time, or set check_space to false if you "
        "know that less will be copied"
        for device, total in needed.items()
        if total > free[device]
    ]
    if problems:
        raise WrongRequest("\n".join(problems))
