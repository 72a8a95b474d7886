# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What libvirt knows of its guests' disks, from its XML, beside what QEMU tells of them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple, Sequence

from ._disk import Disk
from ._errors import MonitorUnusable
from ._files import FileId

if TYPE_CHECKING:
    import xml.etree.ElementTree as ET

# libvirt numbers the images of a guest, and calls their nodes so; raw ones have no format node since libvirt 9.10.
_NODE = re.compile(r"libvirt-(\d+)-(?:format|storage)")
# Its own jobs it calls pull-vda-libvirt-1-format, commit-..., copy-... and backup-...
_JOB = re.compile(rf"[a-z]+-(.+)-{_NODE.pattern}")


class Listed(NamedTuple):
    """A guest in libvirt's list, running or off."""

    name: str
    uuid: str
    is_active: bool


class DomainDisk(NamedTuple):
    """A ``<disk>`` of a running guest.

    ``target`` is what libvirt and its users call it (``vda``), ``alias`` the id of its device in QEMU, ``source_index``
    the number of its active image. ``below`` are the images under that one, as libvirt knows them, top first.
    """

    target: str
    alias: str
    source_index: str
    below: tuple[str, ...]


class Needed(NamedTuple):
    """A file that libvirt would need later, whether anybody has it open now or not; ``why`` says for what.

    ``path`` is the name of a file, or without any slash that of a volume in a pool; ``file`` is what has it here.
    """

    path: str
    file: FileId | None
    why: str


class Plans(NamedTuple):
    """What libvirt would start, or revert to; ``unknown`` says why not all of it can be told, if so."""

    needed: tuple[Needed, ...] = ()
    unknown: str = ""


def read_domain(text: str) -> tuple[DomainDisk, ...]:
    """Read the XML of a running guest.

    :raise MonitorUnusable: it is none.
    """
    return tuple(_read_disk(element) for element in _parse(text).findall("./devices/disk"))


def sources_in(text: str) -> tuple[str, ...]:
    """All that the disks in the XML of a domain, or of a snapshot of one, are made of: files, devices and volumes.

    :raise MonitorUnusable: it is none.
    """
    names: dict[str, None] = {}
    for disk in _parse(text).iter("disk"):
        # That of the top, and those of the images below it where they are spelled out.
        for source in disk.iter("source"):
            names.update(dict.fromkeys(_attribute(source, kind) for kind in ("file", "dev", "volume")))
    return tuple(filter(None, names))


def _parse(text: str) -> ET.Element:
    # Loaded here, and only here: whoever names monitors reads no XML.
    import xml.etree.ElementTree as ET

    try:
        return ET.fromstring(text)
    except ET.ParseError as error:
        raise MonitorUnusable(f"libvirt's description of the domain cannot be read: {error}") from error


def _read_disk(element: ET.Element) -> DomainDisk:
    below = []
    layer = element.find("backingStore")
    # The end of a chain is an element without a type.
    while layer is not None and layer.get("type") is not None:
        below.append(_name_of(layer.find("source")))
        layer = layer.find("backingStore")
    return DomainDisk(
        target=_attribute(element.find("target"), "dev"),
        alias=_attribute(element.find("alias"), "name"),
        source_index=_attribute(element.find("source"), "index"),
        below=tuple(below),
    )


def _name_of(source: ET.Element | None) -> str:
    names = [_attribute(source, kind) for kind in ("file", "dev", "name", "volume")]
    return next(filter(None, names), "an image without a name")


def _attribute(element: ET.Element | None, name: str) -> str:
    return "" if element is None else element.get(name, "")


def index_of_node(node: str | None) -> str:
    """The number by which libvirt knows an image of this node; empty for a node that libvirt has not made."""
    words = _NODE.fullmatch(node or "")
    return words[1] if words else ""


def target_of_job(job_id: str) -> str:
    """What libvirt calls the disk on which it has started a job; empty for a job that is not libvirt's."""
    words = _JOB.fullmatch(job_id)
    return words[1] if words else ""


def as_libvirt_knows(disks: Sequence[Disk], known: Sequence[DomainDisk]) -> tuple[Disk, ...]:
    """The disks with libvirt's names for them, and with what it still takes for their backing images."""
    told = []
    for disk in disks:
        for each in known:
            if _is_same(disk, each):
                disk = disk._replace(target=each.target, stale_view=_stale_view(disk, each))
        told.append(disk)
    return tuple(told)


def is_behind(disks: Sequence[Disk]) -> bool:
    """Whether libvirt still has images in a chain that QEMU has dropped."""
    return any(disk.stale_view is not None for disk in disks)


def _is_same(disk: Disk, known: DomainDisk) -> bool:
    if disk.chain and known.source_index:
        return index_of_node(disk.top.node_name) == known.source_index
    return bool(known.alias) and disk.qdev_id == known.alias


def _stale_view(disk: Disk, known: DomainDisk) -> str | None:
    """The image that libvirt has right below the top, where it has more than QEMU: a stream drops what is there."""
    has_more = bool(disk.chain) and len(known.below) > len(disk.chain) - 1
    return known.below[0] if has_more else None
