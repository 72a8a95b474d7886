# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Files of the hypervisor, whatever they are called."""

from __future__ import annotations

from enum import Enum
from typing import Literal, Mapping, NamedTuple, Optional, Tuple

# What an image can be on, and all else: sockets, terminals, folders.
Kind = Literal["regular", "block", "other"]


class FreeSpace(NamedTuple):
    """The file system that an image lies on: which one, and the bytes free for a writer."""

    device: int
    free: int


# By monitor and key of the disk whose image lies there; None where that cannot be told.
FreeSpaces = Mapping[Tuple[str, str], Optional[FreeSpace]]


class FileId(NamedTuple):
    """A file whatever it is called: links, bind mounts and a new name change nothing."""

    device: int
    inode: int


class Inode(NamedTuple):
    """What is behind a name or a descriptor.

    ``number`` is that of a block device (``st_rdev``), else 0. ``deleted``: no name of it is left in its file system.
    """

    id: FileId
    kind: Kind
    number: int = 0
    deleted: bool = False

    @property
    def identity(self) -> tuple[str, int, int]:
        """Equal for what is the same storage: one block device may have several files in several /dev."""
        # Where its file lies does not matter, only which device it stands for.
        if self.kind == "block":
            return "block", self.number, 0
        return self.kind, self.id.device, self.id.inode


class Descriptor(NamedTuple):
    """One open file of a process, as /proc/PID/fd and fdinfo tell.

    ``path`` is where the kernel says that it is, without its `` (deleted)``, which ``unlinked`` stands for: the name
    is gone, though the inode may have others. ``here`` is an absolute path that leads to the inode on this host now.
    ``path_only`` is O_PATH, for which no right to the file is needed. ``locked``: QEMU's locks of an image are on it.
    """

    number: int
    inode: Inode
    path: str
    unlinked: bool = False
    here: str | None = None
    path_only: bool = False
    writable: bool = False
    locked: bool = False

    @property
    def is_storage(self) -> bool:
        """Whether the process has opened, for real, what an image can be on."""
        return self.inode.kind != "other" and not self.path_only


class Named(NamedTuple):
    """A file name as a process finds it, in its own root and working directory.

    ``inode`` is what is there now, and ``path`` what the kernel would call it, links followed. Where nothing is there,
    ``path`` is what it would be called; where it cannot be told, both are None and ``why`` says why. ``here`` and
    ``inode_here`` are what this host finds by the same name.
    """

    inode: Inode | None = None
    path: str | None = None
    why: str = ""
    here: str | None = None
    inode_here: Inode | None = None

    @property
    def leads_somewhere(self) -> bool:
        """Whether anything is known to be behind the name, for the process or for this host."""
        return self.inode is not None or self.here is not None or self.inode_here is not None


class Survey(NamedTuple):
    """What a process has open, and what file names mean to it; ``descriptors`` is None where it cannot be seen.

    ``why`` then says so. ``names`` has an entry for every name that was asked for, but for those in ``fdsets``.
    """

    descriptors: tuple[Descriptor, ...] | None
    names: Mapping[str, Named]
    fdsets: Mapping[str, tuple[int, ...]] = {}
    why: str = ""


class Bound(NamedTuple):
    """The file that QEMU has open behind a name that it reports.

    ``inode`` and ``descriptors`` (QEMU's own, open for real) are None and empty where that is not proven, and ``why``
    says why not. ``same_file``: whether the name leads to this very file as QEMU sees it. ``file`` is an absolute path
    of this host that leads to it now; where nothing is proven, what this host has by that name.
    """

    inode: Inode | None = None
    descriptors: tuple[int, ...] = ()
    same_file: bool | None = None
    file: str | None = None
    why: str = ""

    @property
    def id(self) -> FileId | None:
        """The file, whatever it is called."""
        if self.inode is None:
            return None
        return self.inode.id


class KnownFile(NamedTuple):
    """A file by its name, and by what was found there once; ``id`` is None where that could not be told."""

    path: str
    id: FileId | None


class Granted(Enum):
    """What the kernel answers to the question whether a file is open anywhere on this host."""

    YES = "nobody has it open"
    NO = "somebody has it open"
    UNKNOWN = "the kernel cannot be asked"
    GONE = "the name leads nowhere"
    OTHER = "the name leads to another file"
    NOT_REGULAR = "the name leads to a device, or to something else that is no regular file"


class Lease(NamedTuple):
    """The answer of the kernel, and what it is worth.

    ``file_system`` is the name of its type (``ext4``): on some of them other hosts may have the file open. ``why`` says
    in words why the kernel cannot be asked.
    """

    granted: Granted
    file_system: str = "unknown"
    why: str = ""


class Users(NamedTuple):
    """Who has a file open or mapped, as far as it can be found: that nobody was found proves nothing.

    ``processes`` are their names by pid, ``kernel`` are the kernel's own users (``loop0``, ``swap``). ``saw_all`` tells
    whether every process that is listed could be looked at.
    """

    processes: Mapping[int, str] = {}
    kernel: tuple[str, ...] = ()
    saw_all: bool = True

    @property
    def are_known(self) -> bool:
        """Whether anybody was found."""
        return bool(self.processes or self.kernel)
