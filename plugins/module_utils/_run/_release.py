# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which of the images that left their chains are free: ask the kernel, look for names where it refuses, and judge."""

from __future__ import annotations

from itertools import chain
from typing import Collection, Mapping, Sequence

from .._decide._outcome import Outcome
from .._decide._verdict import NO_PLANS, LeftImage, Verdict, judge
from .._model._domain import Plans
from .._model._files import Granted, KnownFile, Lease, Users
from .._model._seams import Host


async def judge_all(
    outcomes: Sequence[Outcome],
    labels: Mapping[int, str],
    host: Host,
    off: Sequence[str] = (),
    folders: Sequence[str] = (),
    plans: Plans = NO_PLANS,
) -> list[list[Verdict]]:
    """The verdicts on the images that each of the disks has left, in order.

    :param labels: what the VMs are called, by their processes.
    :param folders: where headers may still name them.
    :param plans: what libvirt would start, or revert to.
    """
    left = [images_left(outcome) for outcome in outcomes]
    files: set[KnownFile] = set()
    for image in chain.from_iterable(left):
        if image.file is not None and image.is_finished:
            files.add(image.file)
    # Before the kernel is asked, for it takes longer, and whether a file is open changes at any time.
    search = await host.search(files, folders) if files and folders else None
    leases, users = await ask_who_has_open(files, host)

    def judged(image: LeftImage) -> Verdict:
        lease, found = (None, None) if image.file is None else (leases.get(image.file), users.get(image.file))
        return judge(image, lease, found, labels, off, search, plans)

    verdicts: list[list[Verdict]] = []
    for images in left:
        verdicts.append(list(map(judged, images)))
    return verdicts


def images_left(outcome: Outcome) -> list[LeftImage]:
    """What left the chain of a disk."""
    top = outcome.disk.top.path if outcome.disk.chain else outcome.disk.label
    return [LeftImage(image, image.id, top, outcome.disk.snapshots, outcome.is_finished) for image in outcome.left]


async def ask_who_has_open(
    files: Collection[KnownFile], host: Host
) -> tuple[Mapping[KnownFile, Lease], Mapping[KnownFile, Users]]:
    """What the kernel says of files, and who has those open that it does not call free.

    Where nobody is found, the kernel is asked again.
    """
    leases = dict(await host.leases(files))
    open_files = [file for file, lease in leases.items() if lease.granted in (Granted.NO, Granted.UNKNOWN)]
    users = await host.users(open_files)
    unfound = [
        each for each in open_files if leases[each].granted is Granted.NO and not users.get(each, Users()).are_known
    ]
    leases.update(await host.leases(unfound))
    return leases, users
