# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which of the images that left their chains are free: ask the kernel, look for names where it refuses, and judge."""

from __future__ import annotations

from itertools import chain
from typing import Mapping, Sequence

from .._decide._outcome import Outcome
from .._decide._verdict import LeftImage, Verdict, judge
from .._model._files import Granted, KnownFile, Lease, Users
from .._model._seams import Host
from .._model._vm import Vm


async def judge_all(
    outcomes: Sequence[Outcome], vms: Sequence[Vm], host: Host, off: Sequence[str] = ()
) -> list[list[Verdict]]:
    """The verdicts on the images that each of the disks has left, in order."""
    left = [images_left(outcome) for outcome in outcomes]
    files: set[KnownFile] = set()
    for image in chain.from_iterable(left):
        if image.file is not None and image.is_finished:
            files.add(image.file)
    leases = dict(await host.leases(files))
    users = await _find_users(leases, host)
    verdicts: list[list[Verdict]] = []
    for images in left:
        verdicts.append([_judge(each, leases, users, vms, off) for each in images])
    return verdicts


def images_left(outcome: Outcome) -> list[LeftImage]:
    """What left the chain of a disk."""
    top = outcome.disk.top.path if outcome.disk.chain else outcome.disk.label
    return [LeftImage(image, image.id, top, outcome.disk.snapshots, outcome.is_finished) for image in outcome.left]


async def _find_users(leases: dict[KnownFile, Lease], host: Host) -> Mapping[KnownFile, Users]:
    """Who has the files open that the kernel does not call free. Where nobody is found, ask the kernel again."""
    open_files = [file for file, lease in leases.items() if lease.granted in (Granted.NO, Granted.UNKNOWN)]
    users = await host.users(open_files)
    unfound = [
        each for each in open_files if leases[each].granted is Granted.NO and not users.get(each, Users()).are_known
    ]
    leases.update(await host.leases(unfound))
    return users


def _judge(
    left: LeftImage,
    leases: Mapping[KnownFile, Lease],
    users: Mapping[KnownFile, Users],
    vms: Sequence[Vm],
    off: Sequence[str],
) -> Verdict:
    lease, found = (None, None) if left.file is None else (leases.get(left.file), users.get(left.file))
    return judge(left, lease, found, vms, off)
