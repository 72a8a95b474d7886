# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the guest sees as a disk, and the images that it is made of.

A disk is one entry of ``query-block``. Filter nodes (throttle, copy-on-read...) may stand above an image; they hold no
data, so the chain lists images only, and each image remembers its filters.
"""

from __future__ import annotations

import json
import posixpath
import re
from dataclasses import dataclass, replace
from typing import Any, Callable, Mapping, Optional

from ._graph import Graph

# Block drivers that pass data through. QEMU does not say which they are; these are all that a `-blockdev` can name.
FILTERS = frozenset(
    {
        "blklogwrites",
        "blkreplay",
        "compress",
        "copy-before-write",
        "copy-on-read",
        "preallocate",
        "replication",
        "throttle",
    }
)

# Turns a file name as QEMU reports it into the absolute path of a file on this host; None where it is no local file.
Resolve = Callable[[str], Optional[str]]


@dataclass(frozen=True)
class Image:
    """One image of a backing chain.

    ``path`` is the name as QEMU reports it, ``file`` the same as an absolute path of this host (None for NBD, RBD...).
    ``virtual_size`` and ``allocated`` are bytes; ``allocated`` is None where QEMU does not know (NBD).
    ``nodes`` are its block nodes, top down: filters, format, protocol; ``node_name`` is the format node.
    """

    path: str
    format: str
    virtual_size: int
    allocated: int | None
    node_name: str | None
    nodes: tuple[str, ...] = ()
    file: str | None = None

    @property
    def absolute_path(self) -> str:
        """The path of the file where this host knows it, else QEMU's name of the image."""
        return self.file or self.path

    def is_called(self, name: str, file: str | None) -> bool:
        """Whether ``name`` (whose absolute path is ``file``) means this image."""
        return name in (self.path, self.node_name) or (file is not None and file == self.file)


@dataclass(frozen=True)
class Disk:
    """One entry of ``query-block``: ``chain`` is top first, and empty where there is no medium.

    ``hidden_backing`` is the node of a backing chain that QEMU does not show, because a raw node stands above it.
    ``stale_header`` is the backing image that the file of the top still names, though QEMU does not use it: QEMU drops
    a chain before it writes the header, and keeps it dropped when that write fails.
    """

    device: str
    qdev: str
    node_name: str | None
    read_only: bool
    chain: tuple[Image, ...]
    hidden_backing: str | None = None
    stale_header: str | None = None

    @classmethod
    def from_qmp(cls, entry: Mapping[str, Any], graph: Graph) -> Disk:
        """Read one entry of ``query-block``; the graph gives the names of the nodes below the top."""
        inserted = entry.get("inserted")
        if inserted is None:
            return cls(device=entry["device"], qdev=entry.get("qdev", ""), node_name=None, read_only=False, chain=())
        chain = _read_chain(inserted["image"], inserted["node-name"], graph)
        top = chain[0].node_name
        lower = graph.descendants(top) if top is not None else ()
        return cls(
            device=entry["device"],
            qdev=entry.get("qdev", ""),
            node_name=inserted["node-name"],
            read_only=inserted["ro"],
            chain=chain,
            hidden_backing=next((node for node in lower if graph.child(node, "backing")), None),
        )

    def located(self, resolve: Resolve) -> Disk:
        """The same disk with the files of its images, as ``resolve`` finds them."""
        return replace(self, chain=tuple(replace(image, file=resolve(image.path)) for image in self.chain))

    @property
    def key(self) -> str:
        """What stays the same over snapshots and streams, to find the disk again."""
        return self.qdev or self.device or self.node_name or ""

    @property
    def label(self) -> str:
        """The shortest name that a person gave it, else the path of its image."""
        # A device without an id is below /machine/peripheral-anon or /machine/unattached; no id has a slash.
        if self.qdev and not self.qdev_id.startswith("/"):
            return self.qdev_id
        if self.device:
            return self.device
        if self.node_name and not self.node_name.startswith("#"):
            return self.node_name
        return self.chain[0].absolute_path if self.chain else self.qdev

    @property
    def qdev_id(self) -> str:
        """``vda`` for ``/machine/peripheral/vda/virtio-backend``; SCSI and IDE devices report the id itself."""
        return re.sub(r"^/machine/peripheral/([^/]+)(/virtio-backend)?$", r"\1", self.qdev)

    @property
    def top(self) -> Image:
        """The active image, which a stream writes to."""
        return self.chain[0]

    @property
    def chain_paths(self) -> tuple[str, ...]:
        """The chain as people know it."""
        return tuple(image.path for image in self.chain)

    @property
    def virtual_size(self) -> int:
        """What the guest sees, in bytes; 0 without a medium."""
        return self.chain[0].virtual_size if self.chain else 0

    @property
    def is_populated(self) -> bool:
        """Whether the disk needs no other image: the chain says so."""
        return len(self.chain) == 1 and self.hidden_backing is None and self.stale_header is None

    @property
    def names(self) -> tuple[str, ...]:
        """Every name that the disk answers to, for people and for messages."""
        candidates = [self.qdev_id, self.qdev, self.device, self.node_name]
        if self.chain:
            candidates += [self.top.node_name, self.top.path, self.top.file]
        return tuple(dict.fromkeys(name for name in candidates if name))

    def answers_to(self, name: str, file: str | None) -> bool:
        """Whether ``name`` (whose absolute path is ``file``) names this disk."""
        return name in self.names or (bool(self.chain) and self.top.is_called(name, file))

    def find_base(self, name: str, file: str | None) -> int | None:
        """The place of the image ``name`` in the chain, 0 for the top; None where it is not in it."""
        return next((place for place, image in enumerate(self.chain) if image.is_called(name, file)), None)


def compare_header(disk: Disk, named: str | None, resolve: Resolve) -> Disk:
    """Hold the chain against the backing image that the header of the top names.

    :param named: the name in the header, empty where it names none; None where the header cannot be read.
    """
    if named is None or not disk.chain:
        return disk
    if len(disk.chain) == 1:
        return replace(disk, stale_header=named or None)
    # QEMU takes a relative name from the directory of the image that names it.
    meant = resolve(posixpath.join(posixpath.dirname(disk.top.path), named)) if is_local(named) else None
    is_stale = meant is not None and disk.chain[1].file is not None and meant != disk.chain[1].file
    return replace(disk, stale_header=named if is_stale else None)


def is_local(path: str) -> bool:
    """Whether QEMU takes ``path`` for a file name: no protocol (``nbd+unix:``, ``rbd:``) before the first slash."""
    return ":" not in path.split("/", 1)[0]


def plain_path(reported: str) -> str:
    """Take the file name out of ``json:{...}``, which QEMU reports once a chain differs from what its headers say."""
    if not reported.startswith("json:"):
        return reported
    try:
        node = json.loads(reported[len("json:") :])
    except ValueError:
        return reported
    while isinstance(node, dict):
        if isinstance(node.get("filename"), str) and node.get("driver") in ("file", "host_device"):
            return str(node["filename"])
        node = node.get("file", node.get("image"))
    return reported


def _read_chain(image: Mapping[str, Any], node: str | None, graph: Graph) -> tuple[Image, ...]:
    """Walk the nested ``image`` of ``query-block`` and the graph side by side."""
    chain: list[Image] = []
    filters: list[str] = []
    layer: Mapping[str, Any] | None = image
    while layer is not None:
        is_filter = layer["format"] in FILTERS
        if is_filter:
            filters += [node] if node is not None else []
        else:
            own = (node, *graph.descendants(node)) if node is not None else ()
            chain.append(
                Image(
                    path=plain_path(layer["filename"]),
                    format=layer["format"],
                    virtual_size=layer["virtual-size"],
                    allocated=layer.get("actual-size"),
                    node_name=node,
                    nodes=(*filters, *own),
                )
            )
            filters = []
        # The filters of QEMU's own jobs are missing in `image`, so they are skipped in the graph as well.
        node = graph.child(node, "file" if is_filter else "backing")
        layer = layer.get("backing-image")
    return tuple(chain)
