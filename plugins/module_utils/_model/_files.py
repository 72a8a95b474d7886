# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Files of the hypervisor, whatever they are called."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Mapping


@dataclass(frozen=True)
class FreeSpace:
    """The file system that an image lies on: which one, and the bytes free for a writer."""

    device: int
    free: int


@dataclass(frozen=True)
class FileId:
    """A file whatever it is called: links, bind mounts and a new name change nothing."""

    device: int
    inode: int


@dataclass(frozen=True)
class KnownFile:
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


@dataclass(frozen=True)
class Lease:
    """The answer of the kernel, and what it is worth.

    ``file_system`` is the name of its type (``ext4``): on some of them other hosts may have the file open. ``why`` says
    in words why the kernel cannot be asked.
    """

    granted: Granted
    file_system: str = "unknown"
    why: str = ""


@dataclass(frozen=True)
class Users:
    """Who has a file open or mapped, as far as it can be found: that nobody was found proves nothing.

    ``processes`` are their names by pid, ``kernel`` are the kernel's own users (``loop0``, ``swap``). ``saw_all`` tells
    whether every process that is listed could be looked at.
    """

    processes: Mapping[int, str] = field(default_factory=dict)
    kernel: tuple[str, ...] = ()
    saw_all: bool = True
