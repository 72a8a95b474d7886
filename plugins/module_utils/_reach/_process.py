# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The QEMU of one of libvirt's guests as a process of this host, and the turn on it. Keep it off the event loop."""

from __future__ import annotations

import contextlib
import fcntl
import os
from types import TracebackType
from typing import BinaryIO

from .._model._errors import MonitorLost, MonitorUnusable
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


def _command_line(pid: int) -> list[bytes]:
    try:
        with open(f"{_PROCESSES}/{pid}/cmdline", "rb") as file:
            return file.read().split(b"\0")
    except OSError:  # it has ended, or we must not look
        return []


def _is_guest(words: list[bytes], name: str, uuid: str) -> bool:
    # Of the name a comma is doubled, as in all of QEMU's options. What follows depends on libvirt's settings.
    told, wanted = _option(words, b"-name"), f"guest={name.replace(',', ',,')}".encode()
    is_named = told == wanted or told.startswith(wanted + b",")
    return is_named and _option(words, b"-uuid") == uuid.encode()


def _option(words: list[bytes], name: bytes) -> bytes:
    """The word behind the first one of this name: libvirt's own come before what a user has it pass on."""
    place = words.index(name) + 1 if name in words else len(words)
    return b"".join(words[place : place + 1])


class Turn:
    """The turn on a QEMU: an advisory lock that ends with whoever has it, and that only who may trace QEMU can take.

    It lies on ``/proc/PID/environ``, so it needs no file and leaves none. It keeps apart what a monitor's single client
    keeps apart elsewhere: two runs that both believe to be alone with a job.
    """

    def __init__(self, pid: int):
        self._path = f"{_PROCESSES}/{pid}/environ"
        # Not a number: one that is opened when nobody waits for it any more must be closed, too.
        self._file: BinaryIO | None = None

    def __enter__(self) -> Turn:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def try_to_take(self) -> bool:
        """Take the turn, if nobody has it.

        :raise MonitorLost: the process has ended.
        :raise MonitorUnusable: it must not be looked at.
        """
        try:
            if self._file is None:
                self._file = open(self._path, "rb", buffering=0)  # noqa: SIM115  # as long as the turn
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except (FileNotFoundError, ProcessLookupError) as error:
            raise MonitorLost("the domain's QEMU has just ended. Run the task again when the guest is up") from error
        except OSError as error:
            raise MonitorUnusable(
                f"the turn on the domain cannot be taken ({self._path}: {error.strerror}). Run the task with become"
            ) from error
        return True

    def holder(self) -> str:
        """Who has the turn, in words."""
        with contextlib.suppress(OSError):
            status = os.stat(self._path)
            place = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
            with open(f"{_PROCESSES}/locks") as file:
                for line in file:
                    words = line.split()
                    if words[1:2] == ["FLOCK"] and place in words:
                        return str(process(int(words[4])))
        return "nobody knows which"
