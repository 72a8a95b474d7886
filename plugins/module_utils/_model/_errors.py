# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What can go wrong, each leaf something that a user can act on.

::

    QmpError
    +-- WrongRequest        the names, options or disks asked for are invalid; nothing was started
    +-- MonitorError        a monitor does not do its part
    |   +-- MonitorMissing  nobody serves it: the VM is off, or the path is wrong
    |   +-- MonitorSilent   it accepts, but does not answer in time: it serves another client, or QEMU hangs
    |   +-- MonitorLost     the connection ended in the middle: QEMU died, or quit
    |   +-- MonitorUnusable     it cannot be used: no QMP, no socket, no permission, no answer of a QEMU
    |       +-- AnswersDiffer   two of its answers contradict each other
    +-- HostSilent          the hypervisor's own storage does not answer in time
    +-- CommandRefused      QEMU answered a command with an error
    +-- StreamFailed        a stream ended, or is held, without the data being there
    |   +-- DiskGone        the disk was unplugged, or its medium ejected
    |   +-- JobHangs        its storage does not answer: it does not end, or cannot be written out
    |   +-- WriteBackFailed  what was written did not reach the storage
    +-- ReadAheadFailed     a stream cannot be read ahead of, or no longer; it goes on without
    +-- ImageRefused        the rights of an image stay as they are: it is not the file that is meant
    |   +-- ImageInUse      somebody has it open
    |   +-- UseUnknown      whether somebody has it open cannot be told
    +-- RightsNotSet        the kernel, or the file system, does not set the rights of an image
    +-- TimeIsUp            the wait is over; the job goes on

Every message is a whole sentence without its subject; who catches it says which VM and which disk.
"""

from __future__ import annotations

from typing import NamedTuple


class QmpError(Exception):
    """The root: everything that this collection raises on purpose."""


class WrongRequest(QmpError):
    """The request is invalid, whatever QEMU does.

    :param problems: all that is wrong with it, each a whole sentence. Names are a guest's, so no sentence is a line.
    """

    def __init__(self, *problems: str):
        super().__init__("\n".join(problems))
        self.problems = problems


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


class AnswersDiffer(MonitorUnusable):
    """Two answers of one QEMU contradict each other: something changed between them, or it is none."""


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


class WriteBackFailed(StreamFailed):
    """The kernel took what was written and could not bring it to the storage, or it is not known whether it could."""


class ReadAheadFailed(QmpError):
    """A stream cannot be read ahead of, or no longer."""


class ImageRefused(QmpError):
    """The rights of an image stay as they are, for it is not known to be the file that is meant."""


class ImageInUse(ImageRefused):
    """Somebody has the image open, or opens it at this moment."""


class UseUnknown(ImageRefused):
    """Whether somebody has the image open cannot be told."""


class RightsNotSet(QmpError):
    """The kernel, or the file system, does not set the rights of an image."""


class TimeIsUp(QmpError):
    """The wait is over; the job is not."""


class Failure(NamedTuple):
    """An error for the user: a whole sentence, and the leaf of the tree, so that nobody has to parse the sentence.

    ``monitor`` is that of the VM that it is about, ``key`` the disk; None where it is about more than one.
    """

    kind: str
    message: str
    monitor: str | None = None
    key: str | None = None

    @classmethod
    def of(cls, error: QmpError, message: str) -> Failure:
        """The failure that ``error`` is, in the words that its subject makes a whole sentence."""
        return cls(type(error).__name__, message)

    @classmethod
    def each_of(cls, error: WrongRequest) -> tuple[Failure, ...]:
        """A failure for each of the problems."""
        return tuple(cls.of(error, problem) for problem in error.problems)

    @classmethod
    def of_defect(cls, error: BaseException, subject: str) -> Failure:
        """A failure that nobody foresaw: a defect of this collection, which is told as one, for one disk or VM."""
        where = error.__traceback__
        while where is not None and where.tb_next is not None:
            where = where.tb_next
        code = None if where is None else where.tb_frame.f_code
        place = "" if code is None or where is None else f" in {code.co_name}, line {where.tb_lineno}"
        words = f"{type(error).__name__}{place}: {error}"
        return cls("Defect", f"{subject}: a defect of virtops.qmp, which its authors want to know of ({words})")

    def __str__(self) -> str:
        return self.message
