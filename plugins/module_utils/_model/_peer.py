# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Who is at the other end of a monitor's socket: what the kernel says, for QEMU itself may say anything."""

from __future__ import annotations

import re
from typing import NamedTuple


class Peer(NamedTuple):
    """The process at the other end of a UNIX socket.

    ``pid`` is the process that has the other end of this very connection open, if ``serves``. Where that cannot be seen
    (``serves`` is None), or where another process has it open that cannot be found (False), it is the one that made the
    socket, which may be the launcher of many VMs. It is None for a process of another PID namespace.

    ``uid`` and ``gid`` are those with which it runs now, where that can be seen, else those of who made the socket, as
    ``maker_uid`` is.

    ``started`` is its start in clock ticks since the host's: a pid is given again when its process is gone. ``program``
    is the name of its executable, None where it may not be seen.
    """

    pid: int | None
    uid: int
    gid: int
    started: int | None
    program: str | None
    maker_uid: int
    serves: bool | None

    @property
    def process(self) -> tuple[int | None, int | None]:
        """What no other process ever is."""
        return self.pid, self.started

    @property
    def is_qemu(self) -> bool:
        """Whether the process is QEMU itself, so that what it has open are the images of the VM.

        A name can lie. It tells a proxy (socat, sshd) and a launcher from QEMU; it is no protection, and needs none:
        a process that calls itself QEMU is trusted with what it has open, and with nothing else.
        """
        return self.serves is not False and self.program is not None and is_qemus_name(self.program)

    def __str__(self) -> str:
        if self.pid is None:
            return "a process of another PID namespace"
        return f"{self.program or 'a process'} (pid {self.pid})"


class Owner(NamedTuple):
    """The user that must run the QEMU behind a monitor; ``name`` as it was given, which may be the uid."""

    name: str
    uid: int

    def __str__(self) -> str:
        return self.name if self.name == str(self.uid) else f"{self.name} (uid {self.uid})"

    def may_have_made(self, maker_uid: int) -> bool:
        """Whether a socket of this user can be the owner's: root makes one for QEMU, or QEMU does before ``-runas``."""
        return maker_uid in (self.uid, 0)

    def refusal(self, peer: Peer | None) -> str | None:
        """Why a monitor is not the owner's; None where it is.

        Who made the socket counts as well: a process may make one and then run a program that changes its user.

        :param peer: None over TCP.
        """
        asked = f"monitor_owner is {self}"
        if peer is None:
            return f"{asked}, and over TCP nobody can tell who is behind a monitor. Name a UNIX socket"
        if not self.may_have_made(peer.maker_uid):
            return f"{asked}, and the socket was made by uid {peer.maker_uid}"
        if peer.uid != self.uid:
            return f"{asked}, and the monitor is served by {peer}, which runs as uid {peer.uid}"
        return None


def is_qemus_name(program: str) -> bool:
    """Whether an executable is called as QEMU is: qemu-system-x86_64, qemu-kvm, kvm, .qemu-system-x86_64-wrapped."""
    return re.search(r"(^|[^a-z])(qemu|kvm)([^a-z]|$)", program) is not None and "storage-da" not in program


def is_loader(program: str) -> bool:
    """Whether an executable is the dynamic loader, by which a program is started that brings its own libraries."""
    return re.match(r"ld(-[\w.-]+)?\.so", program) is not None


def read_program(maps: str) -> str | None:
    """The path of the program in ``/proc/PID/maps``: the first code that is neither the loader nor a library."""
    for line in maps.splitlines():
        words = line.split(None, 5)  # addresses, rights, offset, device, inode, path
        if (
            len(words) == 6
            and "x" in words[1]
            and words[5].startswith("/")
            and ".so" not in words[5].rpartition("/")[2]
        ):
            return words[5]
    return None


def read_start(stat: str) -> int | None:
    """The start time in ``/proc/PID/stat``, field 22; the second is a name that may hold blanks and brackets."""
    fields = stat.rpartition(")")[2].split()
    return int(fields[19]) if len(fields) > 19 and fields[19].isdigit() else None


def read_user(status: str) -> tuple[int, int] | None:
    """The effective user and group in ``/proc/PID/status``."""
    found = [re.search(rf"^{word}:\t\d+\t(\d+)\t", status, re.MULTILINE | re.ASCII) for word in ("Uid", "Gid")]
    user, group = found
    return (int(user[1]), int(group[1])) if user and group else None
