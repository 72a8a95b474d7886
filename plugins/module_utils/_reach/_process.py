# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The QEMU of one of libvirt's guests as a process of this host, and the turn on it. Keep it off the event loop."""

from __future__ import annotations

import fcntl
import os
from types import TracebackType

from .._model._peer import Peer
from ._peer import pids_of_host, process

_PROCESSES = "/proc"


def find_guest(name: str, uuid: str) -> Peer | None:
    """The process that was started for a guest; None where there is none, or more than one.

    libvirt tells it to nobody, but starts each QEMU with the guest's name and UUID. Any user can start a process with
    the same words: where two have them, nobody can tell which one is the guest's.
    """
    found: list[Peer] = []
    for pid in pids_of_host():
        if _is_guest(_command_line(pid), name, uuid):
            candidate = process(pid)
            if candidate.is_qemu:
                found.append(candidate)
    return found[0] if len(found) == 1 else None


def _command_line(pid: int) -> list[str]:
    try:
        with open(f"{_PROCESSES}/{pid}/cmdline", "rb") as file:
            return os.fsdecode(file.read()).split("\0")
    except OSError:  # it has ended, or we must not look
        return []


def _is_guest(words: list[str], name: str, uuid: str) -> bool:
    options = dict(zip(words, words[1:]))
    # Of the name a comma is doubled, as in all of QEMU's options.
    told = options.get("-name", "").split(",debug-threads=")[0]
    return options.get("-uuid") == uuid and told == f"guest={name.replace(',', ',,')}"


class Turn:
    """The turn on a QEMU: an advisory lock that ends with whoever has it, and that only who may trace QEMU can take.

    It lies on ``/proc/PID/environ``, so it needs no file and leaves none. It keeps apart what a monitor's single client
    keeps apart elsewhere: two runs that both believe to be alone with a job.
    """

    def __init__(self, pid: int):
        self._path = f"{_PROCESSES}/{pid}/environ"
        self._file = -1

    def __enter__(self) -> Turn:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if self._file >= 0:
            os.close(self._file)

    def try_to_take(self) -> bool:
        """Take the turn, if nobody has it.

        :raise OSError: the process has ended, or must not be looked at.
        """
        if self._file < 0:
            self._file = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    @property
    def holder(self) -> str:
        """Who has the turn, in words."""
        status = os.fstat(self._file)
        place = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
        with open(f"{_PROCESSES}/locks") as file:
            for line in file:
                words = line.split()
                if words[1:2] == ["FLOCK"] and place in words:
                    return str(process(int(words[4])))
        return "nobody knows which"
