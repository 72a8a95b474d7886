# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the guest sees as a disk, and the images that it is made of.

A disk is one entry of ``query-block``. Filter nodes (throttle, copy-on-read...) may stand above an image; they hold no
data, so the chain lists images only, and each image remembers its filters.
"""

from __future__ import annotations

import json
import re
import zlib
from typing import NamedTuple, Sequence

from ._errors import AnswersDiffer
from ._files import Bound, FileId, Named
from ._graph import Graph
from ._reader import FILENAME, LAYERS, SNAPSHOTS, Members, is_sendable, unfit

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


class Image(NamedTuple):
    """One image of a backing chain.

    ``path`` is the file name that QEMU reports, ``filename`` its own spelling, which may be ``json:``. ``virtual_size``
    and ``allocated`` are bytes; ``allocated`` is None where QEMU does not know (NBD). ``nodes`` are its block nodes,
    top down: filters, format, protocol; ``node_name`` is the format node. ``backing_name`` is what its header calls the
    image below, empty where it names none. ``bound`` is the file behind it, and ``data`` an external data file of it,
    where it has one.
    """

    path: str
    format: str
    virtual_size: int
    allocated: int | None
    node_name: str | None
    nodes: tuple[str, ...] = ()
    filename: str = ""
    backing_name: str = ""
    bound: Bound = Bound()
    data: Bound | None = None

    @property
    def absolute_path(self) -> str:
        """The path of the file where this host knows it, else QEMU's name of the image."""
        return self.file or self.path

    @property
    def file(self) -> str | None:
        """The absolute path by which this host finds the file; None for NBD, RBD, or where it has no name here."""
        return self.bound.file

    @property
    def id(self) -> FileId | None:
        """The file whatever it is called; None where that is not proven."""
        return self.bound.id

    @property
    def written(self) -> Bound:
        """The file that takes what is written to the image: its external data file, where it has one."""
        return self.data or self.bound

    @property
    def is_where_told(self) -> bool | None:
        """Whether ``absolute_path`` leads to the very file that QEMU has open."""
        if self.bound.inode is None:
            return self.bound.same_file
        return self.file is not None

    def is_same(self, other: Image) -> bool:
        """Whether both are one image of one VM, seen at two moments. Its names may change when a stream ends."""
        if None in (self.node_name, other.node_name):
            return self.path == other.path
        return self.node_name == other.node_name

    def is_called(self, name: str, meaning: Named) -> bool:
        """Whether ``name`` means this image.

        :param meaning: what is behind the name, if it is a file name, for the VM's QEMU and on this host.
        """
        if name in (self.node_name, self.path, self.file):
            return True
        # Where QEMU's own file is not proven, only the spelling can tell.
        if self.bound.inode is None:
            return self.file is not None and self.file == meaning.here
        # One of them is enough: a user may mean what the host shows, or what QEMU has by that name.
        files = [inode.identity for inode in (meaning.inode, meaning.inode_here) if inode is not None]
        return self.bound.inode.identity in files


class Disk(NamedTuple):
    """One entry of ``query-block``: ``chain`` is top first, and empty where there is no medium.

    ``hidden_backing`` is the node of a backing chain that QEMU does not show, because a raw node stands above it.
    ``stale_header`` is the backing image that the file of the top still names, though QEMU does not use it: QEMU drops
    a chain before it writes the header, and keeps it dropped when that write fails. ``snapshots`` are the internal
    snapshots of the top, which may need the images below it for as long as they exist; None where it cannot be told.
    ``lost`` says why the VM's next start will not find the file that QEMU writes to now, ``doubt`` why it cannot be
    told whether that file needs others. Both are None where all is well. ``extended_l2``: its clusters have
    subclusters. ``cluster_size`` is theirs in bytes, 0 where the format has none. ``io_status``: an error has stopped
    the guest's own requests. ``is_active``: this QEMU may write to it, and not the other end of a migration.
    ``target`` is what libvirt calls the disk of its guest (``vda``), and ``stale_view`` an image that libvirt still
    takes for the disk's backing image though QEMU does not: libvirt would make a later copy depend on it.
    ``is_never_flushed``: its cache mode is ``unsafe``, so that QEMU brings nothing to the storage and is told no error.
    """

    device: str
    qdev: str
    node_name: str | None
    read_only: bool
    chain: tuple[Image, ...]
    hidden_backing: str | None = None
    stale_header: str | None = None
    snapshots: int | None = 0
    lost: str | None = None
    doubt: str | None = None
    extended_l2: bool = False
    cluster_size: int = 0
    io_status: str = "ok"
    is_active: bool = True
    target: str = ""
    stale_view: str | None = None
    is_never_flushed: bool = False

    @classmethod
    def from_qmp(cls, entry: Members, graph: Graph) -> Disk:
        """Read one entry of ``query-block``; the graph gives the names of the nodes below the top.

        :raise AnswersDiffer: the graph shows a backing image where this shows none.
        """
        device = entry.text("device")
        qdev = entry.optional_text("qdev") or ""
        inserted = entry.optional_members("inserted")
        if inserted is None:
            return cls(device=device, qdev=qdev, node_name=None, read_only=False, chain=())
        image = inserted.members("image")
        node_name = inserted.text("node-name")
        cache = inserted.optional_members("cache")
        chain = _read_chain(image, node_name, graph)
        return cls(
            device=device,
            qdev=qdev,
            node_name=node_name,
            read_only=inserted.flag("ro"),
            chain=chain,
            hidden_backing=_hidden_backing(chain, graph),
            # QEMU leaves it out where there are none.
            snapshots=len(image.optional_items("snapshots", SNAPSHOTS)),
            io_status=entry.optional_text("io-status") or "ok",
            # Told since QEMU 10.0.
            is_active="active" not in inserted or inserted.flag("active"),
            extended_l2=_has_subclusters(image),
            cluster_size=image.optional_size("cluster-size") or 0,
            is_never_flushed=cache is not None and cache.optional_flag("no-flush"),
        )

    @property
    def key(self) -> str:
        """What stays the same over snapshots and streams, to find the disk again."""
        return self.qdev or self.device or self.node_name or ""

    @property
    def label(self) -> str:
        """The shortest name that a person gave it, else the path of its image."""
        if self.target:
            return self.target
        # A device without an id is below /machine/peripheral-anon or /machine/unattached; no id has a slash.
        if self.qdev and not self.qdev_id.startswith("/"):
            return self.qdev_id
        if self.device:
            return self.device
        # QEMU itself gives the names that begin so, and may give others at the next start.
        if self.node_name and not self.node_name.startswith("#"):
            return self.node_name
        if self.chain:
            return self.top.absolute_path
        return self.qdev

    @property
    def qdev_id(self) -> str:
        """``vda`` for ``/machine/peripheral/vda/virtio-backend``; SCSI and IDE devices report the id itself."""
        return re.sub(r"^/machine/peripheral/([^/]+)(/virtio-backend)?$", r"\1", self.qdev)

    @property
    def top(self) -> Image:
        """The active image, which a stream writes to."""
        return self.chain[0]

    @property
    def mark_of_loss(self) -> str:
        """The node that says in this QEMU that the storage did not take what was written to the active image.

        A node's name has 31 characters at most.
        """
        file = self.top.bound.id
        return f"populate-unwritten-{zlib.crc32(repr(file).encode()):08x}"

    @property
    def chain_paths(self) -> tuple[str, ...]:
        """The chain as people know it."""
        return tuple(image.path for image in self.chain)

    @property
    def uses_fdsets(self) -> bool:
        """Whether an image was given to QEMU as file descriptors, rather than by a name."""
        return any(path.startswith("/dev/fdset/") for path in self.chain_paths)

    @property
    def virtual_size(self) -> int:
        """What the guest sees, in bytes; 0 without a medium."""
        if not self.chain:
            return 0
        return self.top.virtual_size

    @property
    def is_populated(self) -> bool:
        """Whether the disk needs no other image, and nothing is in doubt: what QEMU says and what the file says."""
        concerns = {self.stale_header, self.stale_view, self.lost, self.doubt}
        return self.is_populated_in_qemu and concerns == {None}

    @property
    def is_populated_in_qemu(self) -> bool:
        """Whether QEMU uses no other image for the disk."""
        return len(self.chain) == 1 and self.hidden_backing is None

    @property
    def names(self) -> tuple[str, ...]:
        """Every name that the disk answers to, for people and for messages."""
        candidates = [self.target, self.qdev_id, self.qdev, self.device, self.node_name]
        if self.chain:
            candidates += [self.top.node_name, self.top.path, self.top.file]
        # Each once, in this order.
        return tuple(dict.fromkeys(filter(None, candidates)))

    def answers_to(self, name: str, meaning: Named) -> bool:
        """Whether ``name`` names this disk; ``meaning`` is what is behind it as a file name."""
        return name in self.names or (bool(self.chain) and self.top.is_called(name, meaning))

    def find_base(self, name: str, meaning: Named) -> int | None:
        """The place of the image ``name`` in the chain, 0 for the top; None where it is not in it."""
        for place, image in enumerate(self.chain):
            if image.is_called(name, meaning):
                return place
        return None


def is_local(path: str) -> bool:
    """Whether QEMU takes ``path`` for a file name: no protocol (``nbd+unix:``, ``rbd:``) before the first slash."""
    return ":" not in path.split("/", 1)[0]


def plain_path(reported: str) -> str:
    """Take the file name out of ``json:{...}``, which QEMU reports once a chain differs from what its headers say."""
    if not reported.startswith("json:"):
        return reported
    try:
        node = json.loads(reported[len("json:") :])
    # QEMU cuts a name that is too long; and a guest can nest one without end.
    except (ValueError, RecursionError):
        return reported
    while isinstance(node, dict):
        name = node.get("filename")
        if isinstance(name, str) and node.get("driver") in ("file", "host_device"):
            return name if is_sendable(name) else reported
        # A filter or a format stands on a file, and `blkdebug` or `blkreplay` on an image.
        node = node.get("file", node.get("image"))
    return reported


def _has_subclusters(image: Members) -> bool:
    """Whether QEMU tells so of a qcow2 image; other formats have properties of their own, and some have none."""
    specific = image.optional_members("format-specific")
    if specific is None:
        return False
    details = specific.optional_members("data")
    return details is not None and details.optional_flag("extended-l2")


def _read_chain(image: Members, node: str | None, graph: Graph) -> tuple[Image, ...]:
    """Walk the nested ``image`` of ``query-block`` and the graph side by side."""
    chain: list[Image] = []
    filters: list[str] = []
    known: set[str] = set()
    layer: Members | None = image
    for _layer in range(LAYERS):
        if layer is None:
            break
        # Where the graph shows no node, the chain goes on without names.
        own: list[str] = []
        if node is not None:
            own.append(node)
        if layer.text("format") in FILTERS:
            filters += own
            lower_role = "file"
        else:
            own += graph.descendants(node, known)
            known.update(own)
            chain.append(_read_image(layer, node, (*filters, *own)))
            filters = []
            lower_role = "backing"
        # The filters of QEMU's own jobs are missing in `image`, so they are skipped in the graph as well.
        node = graph.child(node, lower_role)
        layer = layer.optional_members("backing-image")
    if layer is not None:
        raise unfit("query-block", f"a chain of more than {LAYERS} images")
    if not chain:
        raise unfit("query-block", "a filter above no image")
    return tuple(chain)


def _read_image(layer: Members, node: str | None, nodes: tuple[str, ...]) -> Image:
    return Image(
        path=plain_path(layer.text("filename", FILENAME)),
        format=layer.text("format"),
        virtual_size=layer.size("virtual-size"),
        allocated=layer.optional_size("actual-size"),
        node_name=node,
        nodes=nodes,
        filename=layer.text("filename", FILENAME),
        backing_name=layer.optional_text("backing-filename", FILENAME) or "",
    )


def _hidden_backing(chain: Sequence[Image], graph: Graph) -> str | None:
    """The node of a backing image below a node that QEMU takes for no part of a chain, such as a raw one.

    :raise AnswersDiffer: where the top itself has one, ``query-block`` must have shown it.
    """
    top = chain[0]
    lower = set(graph.descendants(top.node_name))
    shown: list[str] = []
    hidden: list[str] = []
    for node in top.nodes:
        if graph.child(node, "backing") is None:
            continue
        if node in lower:
            hidden.append(node)
        else:
            shown.append(node)
    if len(chain) == 1 and shown:
        raise AnswersDiffer(f"query-block shows no image below node {shown[0]}, and the block graph does")
    return next(iter(hidden), None)
