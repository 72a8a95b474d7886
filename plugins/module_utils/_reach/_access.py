# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""An image by a descriptor: found without following a link, and its rights set while nobody else can open it."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from typing import Iterator

from .._model._access import AskedImage, FoundImage, Rights
from .._model._errors import ImageRefused
from .._model._files import FileId, Granted, KnownFile, Lease, Users
from ._descriptors import open_into
from ._lease import PAUSES, LeasedFile, take_lease
from ._users import find_users

# A folder or a file by its name alone: needs no right to it, does not block, and names the link itself where it is one.
BY_NAME = os.O_PATH | os.O_NOFOLLOW

# Mounted where the kernel enforces, or only watches, SELinux.
_SELINUX = "/sys/fs/selinux/enforce"
_CONTEXT = "security.selinux"

# Between the check of a file's rights and the wait for the lease the kernel does nothing that takes time; who was just
# then taken off the processor is back by then. Only a scanner (fanotify) can keep an opener there for longer.
_ARRIVAL = 0.01

_KINDS = (
    (stat.S_ISLNK, "a link"),
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISBLK, "a block device"),
    (stat.S_ISCHR, "a character device"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
)


@contextlib.contextmanager
def open_image(asked: AskedImage) -> Iterator[OpenedImage]:
    """Find an image folder by folder, so that no link on the way leads elsewhere.

    :raise ImageRefused: there is none of this name, it is reached over a link, or it lies in no folder of those.
    """
    *folders, name = words_of(asked.path)
    with contextlib.ExitStack() as opened:
        try:
            passed = open_folders(folders, opened)
            descriptor = open_into(opened, name, BY_NAME, passed[-1])
        except FileNotFoundError:
            raise ImageRefused("there is no such file any more") from None
        except NotADirectoryError:
            raise ImageRefused("a part of its path is no folder, or a link, and links are not followed") from None
        except OSError as error:
            raise ImageRefused(f"the file cannot be reached: {error.strerror}") from None
        _check_lies_below(asked.below, {_id_of(folder) for folder in passed})
        yield OpenedImage(asked.path, descriptor)


class OpenedImage:
    """An image by a descriptor that only names it. Implements ``OpenImage``."""

    def __init__(self, path: str, descriptor: int):
        self._path = path
        self._descriptor = descriptor

    def look(self) -> FoundImage:
        """What it is at this moment."""
        status = os.fstat(self._descriptor)
        kind = next((words for is_one, words in _KINDS if is_one(status.st_mode)), "a regular file")
        context = _context_of(self._descriptor)
        rights = Rights(status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode), context)
        return FoundImage(FileId(status.st_dev, status.st_ino), status.st_nlink, rights, kind)

    @contextlib.contextmanager
    def hold(self) -> Iterator[LeasedImage]:
        """Try to have it for this process alone, until the block ends; for a moment again and again."""
        with contextlib.ExitStack() as opened:
            leased = take_lease(self._descriptor, opened)
            for pause in PAUSES:
                if leased.lease.granted is not Granted.NO:
                    break
                opened.close()  # a descriptor of our own would be refused the lease as well
                time.sleep(pause)
                leased = take_lease(self._descriptor, opened)
            yield LeasedImage(leased)

    def find_users(self) -> Users:
        """Who has it open, as far as /proc tells."""
        file = KnownFile(self._path, _id_of(self._descriptor))
        return find_users([file])[file]


class LeasedImage:
    """An image while the lease on it is held. Implements ``HeldImage``."""

    def __init__(self, leased: LeasedFile):
        self._leased = leased

    @property
    def lease(self) -> Lease:
        """What the kernel answered."""
        return self._leased.lease

    def set_rights(self, old: Rights, new: Rights) -> None:
        """Set what differs, by the descriptor.

        :raise OSError: the kernel, or the file system, refuses.
        """
        descriptor = self._leased.descriptor
        if (old.owner, old.group) != (new.owner, new.group):
            os.fchown(descriptor, new.owner, new.group)
        if new.context and old.context != new.context:
            os.setxattr(descriptor, _CONTEXT, new.context.encode() + b"\0")
        if old.mode != new.mode:
            os.fchmod(descriptor, new.mode)

    def is_awaited(self) -> bool:
        """Whether somebody waits to open the file, who has passed the check of its rights before they were changed."""
        time.sleep(_ARRIVAL)
        return self._leased.is_awaited()


def words_of(path: str) -> list[str]:
    """The names of which a path is made."""
    return [word for word in path.split("/") if word not in ("", ".")]


def open_folders(names: list[str], opened: contextlib.ExitStack) -> list[int]:
    """The root and each folder on the way, the last one last; what is no folder, as a link, raises."""
    passed = [open_into(opened, "/", BY_NAME | os.O_DIRECTORY)]
    for name in names:
        passed.append(open_into(opened, name, BY_NAME | os.O_DIRECTORY, passed[-1]))
    return passed


def _check_lies_below(folders: tuple[str, ...], passed: set[FileId]) -> None:
    for folder in folders:
        if _id_of_folder(folder) in passed:
            return
    raise ImageRefused(
        f"it lies in none of the folders {', '.join(folders)}, as they are without following links. Name the folder "
        "that it really lies in, if its rights may be changed"
    )


def _id_of_folder(path: str) -> FileId | None:
    """A folder that was named, found without following a link; None where that leads to none."""
    with contextlib.ExitStack() as opened, contextlib.suppress(OSError):
        return _id_of(open_folders(words_of(path), opened)[-1])
    return None


def _id_of(descriptor: int) -> FileId:
    status = os.fstat(descriptor)
    return FileId(status.st_dev, status.st_ino)


def _context_of(descriptor: int) -> str | None:
    """The SELinux context, empty where there is none; None where SELinux is off."""
    if not os.path.exists(_SELINUX):
        return None
    try:
        # By /proc, because a descriptor with O_PATH has no attributes.
        return os.getxattr(f"/proc/self/fd/{descriptor}", _CONTEXT).rstrip(b"\0").decode(errors="replace")
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.EOPNOTSUPP):
            return ""
        raise ImageRefused(f"its SELinux context cannot be read: {error.strerror}") from None
