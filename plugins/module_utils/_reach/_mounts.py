# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The mounts of this host, as far as this process sees them: /proc/self/mountinfo."""

from __future__ import annotations

import os
import re
from typing import Iterator, NamedTuple, Sequence

# File systems behind a network. What a name does not tell counts as local, such as most of FUSE.
_REMOTE = re.compile(r"nfs4?|cifs|smb3|ceph|afs|9p|lustre|gpfs|beegfs|fuse\.(glusterfs|sshfs|ceph|s3fs|mfs)")


class Mount(NamedTuple):
    """One line of mountinfo. ``layers`` are the folders that an overlay is made of, the upper one first.

    ``device`` is the ``st_dev`` of its files.
    """

    point: str
    file_system: str
    layers: Sequence[str] = ()
    device: int = 0

    @property
    def is_remote(self) -> bool:
        """Whether its files are another host's."""
        return _REMOTE.fullmatch(self.file_system) is not None


def read_mounts() -> Iterator[Mount]:
    """All mounts.

    A line is ``36 35 98:0 / /mnt/parent rw shared:1 - ext4 /dev/root rw,errors=continue``, with octal escapes for
    blanks; as many fields as it likes stand before the hyphen.
    """
    for line in read_text("/proc/self/mountinfo").splitlines():
        yield _read_mount(line)


def file_system_of(descriptor: int) -> str:
    """The type of the file system that an open file lies on, whatever lies there by name now."""
    found = re.search(r"^mnt_id:\s*(\d+)", read_text(f"/proc/self/fdinfo/{descriptor}"), re.MULTILINE)
    # One line: a host of containers has thousands of mounts.
    line = found and re.search(rf"^{found[1]} .*", read_text("/proc/self/mountinfo"), re.MULTILINE)
    if not line:
        return "unknown"
    return _read_mount(line[0]).file_system


def _read_mount(line: str) -> Mount:
    words = list(map(unescape, line.split(" ")))
    # A folder may be called "-": the separator comes no earlier than the seventh word.
    separator = words.index("-", 6)
    kind, _source, options = words[separator + 1 :][:3]
    layers: Sequence[str] = ()
    if kind == "overlay":
        layers = _layers(options)
    major, _colon, minor = words[2].partition(":")
    return Mount(words[4], kind, layers, os.makedev(int(major), int(minor)))


def unescape(word: str) -> str:
    """Blanks and the like, which the kernel writes as octal numbers."""
    return re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), word)


def read_text(path: str) -> str:
    """A file of /proc; empty where it cannot be read."""
    try:
        with open(path, errors="surrogateescape") as file:
            return file.read()
    except OSError:
        return ""


def _layers(options: str) -> list[str]:
    """The folders of ``lowerdir=/a:/b,upperdir=/c,workdir=/d``; what is between them is of no interest."""
    found: list[str] = []
    for option in options.split(","):
        name, _mark, value = option.partition("=")
        if name == "upperdir":
            found.insert(0, value)
        # Also `lowerdir+=` and `datadir+=`, one for each layer.
        elif name.startswith(("lowerdir", "datadir")):
            found += value.split(":")
    # A name that is not absolute was meant from where somebody stood then, and is empty between `::`.
    return [layer for layer in found if layer.startswith("/")]
