# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Files of the hypervisor, whatever they are called."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Mapping, Sequence


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
class Traces:
    """What this host knows of a file.

    ``file_system`` is the name of its type (``ext4``). ``processes`` are the names of those that have it open, by pid;
    None where not all processes can be seen. ``devices`` are the kernel's own users (``loop0``).
    """

    is_regular: bool
    file_system: str
    processes: Mapping[int, str] | None
    devices: Sequence[str] = ()
