# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What can go wrong, each leaf something that a user can act on.

::

    QmpError
    +-- WrongRequest        the names, options or disks asked for cannot be right; nothing was started
    +-- MonitorError        a monitor does not do its part
    |   +-- MonitorMissing  nobody serves it: the VM is off, or the path is wrong
    |   +-- MonitorSilent   it accepts, but does not answer in time: it serves another client, or QEMU hangs
    |   +-- MonitorLost     the connection ended in the middle: QEMU died, or quit
    |   +-- MonitorUnusable     it cannot be used: no QMP, no socket, no permission
    +-- HostSilent          the hypervisor's own storage does not answer in time
    +-- CommandRefused      QEMU answered a command with an error
    +-- StreamFailed        a stream ended, or is held, without the data being there
    |   +-- DiskGone        the disk was unplugged, or its medium ejected
    |   +-- JobHangs        its storage does not answer: it does not end, or cannot be written out
    +-- TimeIsUp            ``wait_timeout`` is over; the job goes on

Every message is a whole sentence without its subject; who catches it says which VM and which disk.
"""

from __future__ import annotations

from dataclasses import dataclass


class QmpError(Exception):
    """The root: everything that this collection raises on purpose."""


class WrongRequest(QmpError):
    """The request cannot be right, whatever QEMU does."""


class MonitorError(QmpError):
    """A monitor does not do its part."""


class MonitorMissing(MonitorError):
    """Nobody serves the monitor."""


class MonitorSilent(MonitorError):
    """The monitor accepted the connection and does not answer in time."""


class MonitorLost(MonitorError):
    """The connection ended while it was needed."""


class MonitorUnusable(MonitorError):
    """It is no QMP monitor, does not speak as QEMU does, or may not be used."""


class HostSilent(QmpError):
    """Something that only the hypervisor's storage can answer is not answered in time."""


class CommandRefused(QmpError):
    """QEMU answered ``command`` with an error.

    :param command: the QMP command.
    :param reason: the ``desc`` of QEMU's error.
    """

    def __init__(self, command: str, reason: str):
        super().__init__(f"QEMU refused {command}: {reason}")
        self.command = command
        self.reason = reason


class StreamFailed(QmpError):
    """A stream ended or is held, and the disk still needs its backing images."""


class DiskGone(StreamFailed):
    """There is no such disk any more, or nothing in it."""


class JobHangs(StreamFailed):
    """A job does not end, or what it copied cannot be written out, and QEMU would hang if it were told to flush."""


class TimeIsUp(QmpError):
    """The wait is over; the job is not."""


@dataclass(frozen=True)
class Failure:
    """An error for the user: a whole sentence, and the leaf of the tree, so that nobody has to parse the sentence."""

    kind: str
    message: str

    @classmethod
    def of(cls, error: QmpError, message: str) -> Failure:
        """The failure that ``error`` is, in the words that its subject makes a whole sentence."""
        return cls(type(error).__name__, message)

    def __str__(self) -> str:
        return self.message
