# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""From what QEMU says and what its process has open to disks whose images are bound to files."""

from __future__ import annotations

import posixpath
from typing import Mapping, Sequence

from .._model._disk import Disk, is_local
from .._model._files import Bound, Survey
from .._model._graph import Graph
from .._model._header import Header, NoHeader, Reading
from ._bind import bind
from ._populated import loss_of


def reported_names(disks: Sequence[Disk]) -> list[str]:
    """Every file name that QEMU reports, once."""
    names: dict[str, None] = {}
    for disk in disks:
        names.update(dict.fromkeys(disk.chain_paths))
    return list(names)


def bind_disks(disks: Sequence[Disk], survey: Survey) -> tuple[Disk, ...]:
    """Bind every image to the file that QEMU has open behind it."""
    chains = []
    written = set()
    for disk in disks:
        chains.append(disk.chain_paths)
        # Of a chain QEMU must have only the top open for writing.
        if disk.chain and not disk.read_only:
            written.add(disk.top.path)
    found = bind(chains, survey, written)
    return tuple(_bind_chain(disk, found) for disk in disks)


def _bind_chain(disk: Disk, found: Mapping[str, Bound]) -> Disk:
    chain = []
    for image in disk.chain:
        chain.append(image._replace(bound=found[image.path]))
    return disk._replace(chain=tuple(chain))


def names_in_header(disk: Disk, reading: Reading) -> list[str]:
    """The files that the header of the active image names, as QEMU would open them: data file, backing image."""
    if not isinstance(reading, Header):
        return []
    names = []
    for name in (reading.data_file, reading.backing):
        if name and is_local(name):
            names.append(_from_the_image(disk, name))
    return names


def _from_the_image(disk: Disk, name: str) -> str:
    """QEMU takes a relative name from the directory of the image that names it."""
    return posixpath.join(posixpath.dirname(disk.top.path), name)


def hold_against_header(disk: Disk, reading: Reading, found: Mapping[str, Bound], graph: Graph) -> Disk:
    """Hold what QEMU says of a disk against what the file of its active image says.

    :param found: the files behind ``names_in_header``.
    """
    if isinstance(reading, NoHeader):
        return disk._replace(doubt=reading.why, lost=_why_lost(disk))
    # The higher count is the careful one: an image that a snapshot may need is not free.
    counted = [reading.snapshots, disk.snapshots or 0]
    data = None
    if reading.data_file:
        data = found.get(_from_the_image(disk, reading.data_file))
    top = disk.top._replace(data=data)
    return disk._replace(
        chain=(top, *disk.chain[1:]),
        stale_header=_stale_name(disk, reading.backing, found),
        snapshots=max(counted),
        lost=_why_lost(disk),
        doubt=_why_doubtful(disk) or loss_of(disk, graph),
    )


def _stale_name(disk: Disk, named: str, found: Mapping[str, Bound]) -> str | None:
    """The backing image that the header names though QEMU does not use it, if so."""
    if len(disk.chain) == 1:
        return named or None
    below = disk.chain[1]
    meant = found.get(_from_the_image(disk, named))
    # It is stale only if it is known to be another one.
    if meant is None or meant.inode is None or below.bound.inode is None:
        return None
    if meant.inode.identity == below.bound.inode.identity:
        return None
    return named


def _why_lost(disk: Disk) -> str | None:
    """Why the VM's next start will not find the file that QEMU writes to now."""
    top = disk.top
    # What cannot be told at all is a doubt, not a loss.
    if top.bound.inode is None:
        return None
    if top.bound.inode.deleted:
        return (
            f"the file {top.path} was deleted or replaced after QEMU had opened it, or the VM runs with -snapshot: "
            "what the guest writes is lost when the VM ends"
        )
    if top.bound.same_file is False and top.file is None:
        return f"{top.path} leads to another file now than the one that QEMU has open, which has no name on this host"
    return None


def _why_doubtful(disk: Disk) -> str | None:
    if disk.top.bound.inode is None and is_local(disk.top.path):
        return f"the file that QEMU has open as {disk.top.path} cannot be told: {disk.top.bound.why}"
    return None
