# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a header shall call the base that stays: as the user had it, and never by a name that leads elsewhere."""

from __future__ import annotations

import posixpath
from typing import Mapping, Sequence

from .._model._disk import Disk, Image, is_local
from .._model._files import Named


def names_for_base(disk: Disk, base_index: int) -> list[str]:
    """Names that may lead from the active image to the base, the best first.

    The first is made of the links in the headers above the base: it stays relative where all of them are, so that a
    folder of images can be moved. QEMU itself would write the absolute name, ``/dev/fdset/N`` where it was given a
    descriptor, and a name relative to its own working directory where it was given such a one.
    """
    base = disk.chain[base_index]
    candidates = [_follow_links(disk.chain[:base_index]), base.file]
    # QEMU may have taken a relative name from its own working directory, which no header knows.
    if posixpath.isabs(base.path):
        candidates.append(base.path)
    usable: list[str] = []
    for name in candidates:
        if name and _outlives_qemu(name) and name not in usable:
            usable.append(name)
    return usable


def _outlives_qemu(name: str) -> bool:
    """Whether the VM's next start may find a file by this name."""
    # A set of descriptors is gone with the QEMU that was given it.
    return is_local(name) and not name.startswith("/dev/fdset/")


def _follow_links(images: Sequence[Image]) -> str | None:
    """The name that the headers of the images above the base give it, seen from the first of them."""
    name = ""
    for image in images:
        if not image.backing_name or not is_local(image.backing_name):
            return None
        name = posixpath.join(posixpath.dirname(name), image.backing_name)
    return posixpath.normpath(name)


def as_qemu_opens(disk: Disk, name: str) -> str:
    """QEMU takes a relative name in a header from the directory of the image that has it."""
    return posixpath.join(posixpath.dirname(disk.top.path), name)


def choose_name(disk: Disk, base_index: int, names: Sequence[str], found: Mapping[str, Named]) -> str | None:
    """The first name that leads to the base.

    :param found: what is behind the names as QEMU would open them.
    :return: None where none does, or where the base is not known.
    """
    base = disk.chain[base_index].bound.inode
    if base is None:
        return None
    for name in names:
        inode = found[as_qemu_opens(disk, name)].inode
        if inode is not None and inode.identity == base.identity:
            return name
    return None
