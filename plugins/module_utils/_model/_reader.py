# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The border: what QEMU says becomes data through this reader, or an error of that VM.

A guest that owns its QEMU answers as it likes. So every member is asked for with its type and its limit, and what does
not fit names the command and the member. Values that are enumerations stay text: a newer QEMU may know more of them.
"""

from __future__ import annotations

import re
from typing import Any

from ._errors import MonitorUnusable

# QEMU keeps sizes, speeds and offsets in a signed 64-bit integer.
MOST_BYTES = 2**63 - 1

# What QEMU keeps of a file name is a char[PATH_MAX] (`BlockDriverState.filename`), also of a `json:` name: it cuts a
# longer one and puts "..." at its end. A byte that is no UTF-8 becomes one character, so characters never exceed it.
FILENAME = 4096
# A node name has at most 31 characters, but QEMU sets no limit to those of VMs, devices and jobs. What lies on a file
# system, as libvirt's and Proxmox VE's configurations do, cannot be called by more than 255 bytes; a QOM path of a
# device is some of them.
NAME = 1024
# An error of QEMU quotes a file name or two.
MESSAGE = 16384

# Lists: what QEMU can be given, and more. A virtio-scsi controller takes 256 disks, PCI about 500; each has one job at
# most. Chains are opened 200 deep (QEMU 5.2 to 11.1), and take two nodes and two edges for each image.
DISKS = JOBS = 1024
CHARDEVS = 1024
LAYERS = 512
NODES = 32768
EDGES = 2 * NODES
FDSETS = 1024
IOTHREADS = EXPORTS = 1024
BINS = 1024  # of a histogram
SNAPSHOTS = 65536  # QEMU's own limit for the internal snapshots of a qcow2 image

# QEMU's strings are those of C, and are sent as UTF-8: neither a NUL nor half a surrogate pair can be in one.
_NEVER_SENT = re.compile("[\0\ud800-\udfff]")

_MISSING = object()
_KINDS = {
    type(None): "null",
    bool: "true or false",
    int: "an integer",
    float: "a fraction",
    str: "text",
    list: "a list",
    dict: "an object",
}


class Members:
    """The members of one object in a reply. What does not fit is told as MonitorUnusable.

    :param command: the command that was answered, or the event.
    """

    def __init__(self, reply: object, command: str):
        if not isinstance(reply, dict):
            raise unfit(command, f"{_kind(reply)}, not an object")
        self._reply: dict[str, Any] = reply
        self._command = command

    def text(self, name: str, most: int = NAME) -> str:
        """A string of at most so many characters."""
        return text_of(self._get(name), self._command, most, f"{name!r} is ")

    def __contains__(self, name: str) -> bool:
        return name in self._reply

    def optional_text(self, name: str, most: int = NAME) -> str | None:
        """The same; None where it is left out."""
        return self.text(name, most) if name in self._reply else None

    def size(self, name: str) -> int:
        """A number of bytes or of anything else: from 0 to the most that QEMU can hold."""
        value = self._get(name)
        if not isinstance(value, int) or isinstance(value, bool):
            raise self._unfit(name, f"is {_kind(value)}, not a size")
        if not 0 <= value <= MOST_BYTES:
            raise self._unfit(name, "is out of range, not a size")
        return value

    def sizes(self, name: str, most: int) -> tuple[int, ...]:
        """A list of at most so many of them."""
        value = self._get(name)
        if not isinstance(value, list) or len(value) > most:
            raise self._unfit(name, f"is {_kind(value)}, not a list of at most {most} sizes")
        return tuple(Members({name: each}, self._command).size(name) for each in value)

    def optional_size(self, name: str) -> int | None:
        """The same; None where it is left out."""
        return self.size(name) if name in self._reply else None

    def flag(self, name: str) -> bool:
        """True or false."""
        value = self._get(name)
        if not isinstance(value, bool):
            raise self._unfit(name, f"is {_kind(value)}, not true or false")
        return value

    def optional_flag(self, name: str) -> bool:
        """The same; false where it is left out."""
        return self.flag(name) if name in self._reply else False

    def members(self, name: str) -> Members:
        """An object."""
        value = self._get(name)
        if not isinstance(value, dict):
            raise self._unfit(name, f"is {_kind(value)}, not an object")
        return Members(value, self._command)

    def optional_members(self, name: str) -> Members | None:
        """The same; None where it is left out."""
        return self.members(name) if name in self._reply else None

    def items(self, name: str, most: int) -> list[Members]:
        """A list of at most so many objects."""
        value = self._get(name)
        if not isinstance(value, list):
            raise self._unfit(name, f"is {_kind(value)}, not a list")
        if len(value) > most:
            raise self._unfit(name, f"has more than {most} entries")
        return [Members(entry, self._command) for entry in value]

    def optional_items(self, name: str, most: int) -> list[Members]:
        """The same; empty where it is left out."""
        return self.items(name, most) if name in self._reply else []

    def _get(self, name: str) -> object:
        return self._reply.get(name, _MISSING)

    def _unfit(self, name: str, why: str) -> MonitorUnusable:
        return unfit(self._command, f"{name!r} {why}")


def items_of(reply: object, command: str, most: int) -> list[Members]:
    """A reply that is a list of at most so many objects."""
    if not isinstance(reply, list):
        raise unfit(command, f"{_kind(reply)}, not a list")
    if len(reply) > most:
        raise unfit(command, f"a list of more than {most} entries")
    return [Members(entry, command) for entry in reply]


def text_of(reply: object, command: str, most: int = MESSAGE, subject: str = "") -> str:
    """A reply that is a string of at most so many characters.

    :param subject: the beginning of what is wrong with it.
    """
    if not isinstance(reply, str):
        raise unfit(command, f"{subject}{_kind(reply)}, not text")
    if len(reply) > most:
        raise unfit(command, f"{subject}longer than {most} characters")
    if not is_sendable(reply):
        raise unfit(command, f"{subject}text with a NUL or half a character in it")
    return reply


def is_sendable(text: str) -> bool:
    """Whether a QEMU can have sent a text."""
    return _NEVER_SENT.search(text) is None


def _kind(value: object) -> str:
    return "missing" if value is _MISSING else _KINDS.get(type(value), "of no kind that JSON has")


def unfit(command: str, why: str) -> MonitorUnusable:
    """The error for an answer that is none.

    :param why: what is wrong with it, such as ``'virtual-size' is text, not a size``.
    """
    return MonitorUnusable(f"{command} brings what no QEMU since 4.0 sends: {why}")
