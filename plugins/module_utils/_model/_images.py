# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Images that nobody need have open: which files their headers name, and who names the images that are asked about.

A header is a guest's. What it names is never opened, only compared with what is asked about; and what QEMU might read
otherwise than it is read here is not known.
"""

from __future__ import annotations

import json
import re
from typing import Any, Iterator, Mapping, NamedTuple

from ._disk import is_local
from ._files import Inode, KnownFile
from ._header import Header, NoHeader, parse_header

# What begins a vmdk image: a sparse extent, or a text that names extents and a parent, as QEMU recognises it.
_VMDK = re.compile(rb"KDMV|COWD|(?:#[^\n]*\n| *\r?\n)*version=[123]\r?\n")
_QCOW_1 = b"QFI\xfb\0\0\0\1"

# Protocols, in names and as drivers, that lead to a server and to no file of this host.
_REMOTE = re.compile(r"(?:nbds?|rbd|iscsi|iser|https?|ftps?|tftp|ssh|gluster|nfs|sheepdog|vxhs|nvme)(?:\+[a-z]+)?")
# Protocols that are only another way to write a file name.
_FILE = ("file", "host_device")
_FORMATS = ("qcow2", "qed", "raw")
# The members of a block node that are nodes themselves.
_CHILDREN = ("file", "backing", "data-file")

_OWN_DIRECTORY = "by a relative name, which QEMU takes from its own working directory"


class Naming(NamedTuple):
    """The files that an image names, a relative name as seen from the folder of the image.

    ``why`` says why it may need others as well; it is empty where ``names`` are all.
    """

    names: tuple[str, ...] = ()
    why: str = ""


class Unread(NamedTuple):
    """A file or a folder of which it is not known, or not wholly, what it names."""

    path: str
    why: str


class Asked(NamedTuple):
    """An image that was asked about: what has its name now, None where nothing does, and what was found of it."""

    inode: Inode | None = None
    is_link: bool = False
    named_by: tuple[str, ...] = ()
    same_as: tuple[str, ...] = ()


class Search(NamedTuple):
    """What the images in some folders say of the images that were asked about.

    ``unread_count`` may be more than the number of ``unread``, which are the first of them.
    """

    folders: tuple[str, ...]
    asked: Mapping[KnownFile, Asked]
    unread: tuple[Unread, ...] = ()
    unread_count: int = 0


def names_in(head: bytes) -> Naming:
    """Which files an image names, from its first bytes, whatever its format.

    The first bytes of a raw image are its guest's, who can write a header there. QEMU does not follow it, but reads the
    image as raw: then an image is named that is not needed, which is the safe mistake. Formats that are not mentioned
    here have no names in their headers that QEMU would open.
    """
    if head.startswith(_QCOW_1):
        return Naming(why="it is a qcow image of version 1, whose header is not read here. Convert it to qcow2")
    if head.startswith(b"QFI\xfb"):
        return _names_of(parse_header("qcow2", head))
    if head.startswith(b"QED\0"):
        return _names_of(parse_header("qed", head))
    if _VMDK.match(head):
        return Naming(why="it is a vmdk image, whose names are not read here. Convert it to qcow2")
    return Naming()


def _names_of(header: Header | NoHeader) -> Naming:
    if isinstance(header, NoHeader):
        return Naming(why=header.why)
    parts = [_data_file(header.data_file), _file_behind(header.backing)]
    # A snapshot reads from the image that was below when it was taken; that may have left the header since.
    if header.snapshots:
        parts.append(Naming(why="its internal snapshots may need an image that its header no longer names"))
    names: list[str] = []
    doubts: list[str] = []
    for part in parts:
        names += part.names
        if part.why:
            doubts.append(part.why)
    return Naming(tuple(names), "; ".join(doubts))


def _data_file(name: str | None) -> Naming:
    if name is None:
        return Naming()
    if not name:
        return Naming(why="its header does not tell the name of its data file")
    if is_local(name) and not name.startswith("/"):
        return Naming((name,), f"it names its data file {name} {_OWN_DIRECTORY}")
    return _file_behind(name)


def _file_behind(name: str) -> Naming:
    """The files behind a name as QEMU reads it, which has more forms than a path."""
    if not name:
        return Naming()
    if is_local(name):
        return Naming((name,))
    protocol, _colon, rest = name.partition(":")
    if protocol == "json":
        return _files_in_json(rest)
    if protocol in _FILE:
        return Naming((rest,)) if rest.startswith("/") else Naming(why=f"it names {name} {_OWN_DIRECTORY}")
    if _REMOTE.fullmatch(protocol):
        return Naming()
    return Naming(why=f"it names {name}, and what that leads to is not known here")


def _files_in_json(text: str) -> Naming:
    """The files in a description of block nodes; one that stands on anything but plain files is not understood."""
    names: list[str] = []
    unclear = ""
    try:
        for key, value in _members(json.loads(text)):
            if key == "filename" and isinstance(value, str) and value.startswith("/"):
                names.append(value)
            elif not _is_harmless(key, value):
                unclear = f"it names json:{text}, which is not understood here"
    # The length of a name bounds both the text and its depth.
    except (ValueError, RecursionError):
        unclear = f"it names json:{text}, which is not understood here"
    return Naming(tuple(names), unclear)


def _members(node: Any) -> Iterator[tuple[str, Any]]:
    """All that is in a description, each with the last part of its key: QEMU takes ``file.filename``, too."""
    if not isinstance(node, dict):
        raise ValueError("not the description of a node")
    for key, value in node.items():
        if isinstance(value, dict):
            yield from _members(value)
        else:
            yield key.rpartition(".")[2], value


def _is_harmless(key: str, value: Any) -> bool:
    """Whether a member of a description certainly leads to no file."""
    if key == "driver":
        return isinstance(value, str) and bool(value in (*_FORMATS, *_FILE) or _REMOTE.fullmatch(value))
    # A text would be the name of another node.
    if key in _CHILDREN:
        return value is None
    return key != "filename" and not isinstance(value, list)
