# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Looks through folders for images whose headers name other images, whether or not their VMs run.

What lies there may be a tenant's. So each folder is entered and each file opened by a descriptor that was judged first:
no link leads out of the folders, no FIFO blocks, no device but a block device is opened. Of a file its head is read and
nothing else. What a header names is walked to with descriptors that open nothing, and only compared.

What cannot be read, or is not understood, is told: only where nothing is, nobody else names an image.

Everything here may block where storage hangs: call it through ``_threads.away``.
"""

from __future__ import annotations

import contextlib
import os
import posixpath
import stat
import time
from typing import Collection, Sequence

from .._model._files import Inode, KnownFile, Named
from .._model._images import Asked, Search, Unread, names_in
from ._access import BY_NAME, open_folders, words_of
from ._descriptors import AVOIDED_IN_HEADERS, Walk, open_into, read_inode
from ._header import read_head
from ._lease import PAUSES

# Files, folders and links, in all the folders together.
MOST_ENTRIES = 200_000
MOST_DEPTH = 32
# So many names and doubts are told; of the others only that they are there.
MOST_TOLD = 1000
# A folder that changes while it is read may show an image neither by its old name nor by its new one.
_TRIES = 3


class _Over(Exception):
    """The search is given up; the text says why."""


def search(files: Collection[KnownFile], folders: Sequence[str], seconds: float) -> Search:
    """Find out who names these files in the folders.

    :param folders: absolute paths.
    :param seconds: after which it is given up; what was found by then is told.
    """
    deadline = time.monotonic() + seconds
    searching = _search_once(files, folders, deadline)
    for _again in range(1, _TRIES):
        if not searching.is_disturbed:
            break
        searching = _search_once(files, folders, deadline)
    return searching.result(folders)


def _search_once(files: Collection[KnownFile], folders: Sequence[str], deadline: float) -> _Searching:
    with contextlib.ExitStack() as opened:
        process = open_into(opened, "/proc/self", os.O_PATH | os.O_DIRECTORY)
        searching = _Searching(files, Walk(opened, process, AVOIDED_IN_HEADERS), deadline)
        for folder in folders:
            searching.add_root(folder, opened)
        searching.look_through_all()
    return searching


class _Found:
    """What was found of one file so far; the names are in the order in which they came, each once."""

    def __init__(self, path: str, inode: Inode | None, *, is_link: bool):
        self.path = path
        self.inode = inode
        self.is_link = is_link
        self.named_by: dict[str, None] = {}
        self.same_as: dict[str, None] = {}


class _Searching:
    """One search: where it is, and what it has found. ``is_disturbed``: a folder changed while it was read."""

    is_disturbed = False

    def __init__(self, files: Collection[KnownFile], walk: Walk, deadline: float):
        self._found = {file: _look_at(file.path) for file in files}
        # By what they are and, for names that lead nowhere, by the last part of what they are called.
        self._by_identity: dict[tuple[str, int, int], list[_Found]] = {}
        self._by_last_part: dict[str, list[_Found]] = {}
        for each in self._found.values():
            self._by_last_part.setdefault(posixpath.basename(each.path), []).append(each)
            if each.inode is not None:
                self._by_identity.setdefault(each.inode.identity, []).append(each)
        self._walk = walk
        self._deadline = deadline
        self._entries_left = MOST_ENTRIES
        self._roots: list[tuple[str, int]] = []
        self._unread: list[Unread] = []
        self._unread_count = 0

    def add_root(self, path: str, opened: contextlib.ExitStack) -> None:
        """Open a folder that is to be looked through."""
        try:
            place = open_folders(words_of(path), opened)[-1]
            self._roots.append((posixpath.normpath(path), place))
        except FileNotFoundError:
            self._tell(path, "there is no such folder")
        except NotADirectoryError:
            self._tell(path, "a part of it is no folder, or a link, and links are not followed. Name where it leads")
        except OSError as error:
            self._tell(path, f"it cannot be reached: {error.strerror}")

    def look_through_all(self) -> None:
        """Read all that is below the folders, until too much of it or of the time is gone."""
        try:
            for path, place in self._roots:
                self._look_through(place, path, 0)
        except _Over as error:
            self._tell(path, str(error))

    def result(self, folders: Sequence[str]) -> Search:
        asked: dict[KnownFile, Asked] = {}
        for file, each in self._found.items():
            asked[file] = Asked(each.inode, each.is_link, tuple(each.named_by), tuple(each.same_as))
        return Search(tuple(folders), asked, tuple(self._unread), self._unread_count)

    def _tell(self, path: str, why: str) -> None:
        self._unread_count += 1
        if self._unread_count <= MOST_TOLD:
            self._unread.append(Unread(path, why))

    def _look_through(self, place: int, path: str, depth: int) -> None:
        """A folder, and all that is below it."""
        if depth > MOST_DEPTH:
            self._tell(path, f"it lies more than {MOST_DEPTH} folders deep")
            return
        with contextlib.ExitStack() as opened:
            try:
                # What only stands for a folder cannot be listed.
                folder = open_into(opened, f"/proc/self/fd/{place}", os.O_RDONLY | os.O_DIRECTORY)
                before = os.fstat(folder).st_mtime_ns
                entries = opened.enter_context(os.scandir(folder))
                is_unchanged = True
                for entry in entries:
                    self._count()
                    is_there = self._visit(folder, entry.name, posixpath.join(path, entry.name), depth)
                    is_unchanged = is_unchanged and is_there
                # Older kernels do not tell two changes within a few milliseconds apart.
                if not is_unchanged or os.fstat(folder).st_mtime_ns != before:
                    self.is_disturbed = True
                    self._tell(path, "it changed while it was read. Ask again")
            except OSError as error:
                self._tell(path, f"it cannot be listed: {error.strerror}")

    def _count(self) -> None:
        self._entries_left -= 1
        if self._entries_left < 0:
            raise _Over(f"there are more than {MOST_ENTRIES} files. Name folders that have fewer")
        if time.monotonic() > self._deadline:
            raise _Over("reading takes too long. Name folders that have fewer files, or find out why they are slow")

    def _visit(self, folder: int, name: str, path: str, depth: int) -> bool:
        """Whatever has this name in a folder; False where nothing has it any more."""
        with contextlib.ExitStack() as opened:
            try:
                place = _place_of(name, folder, opened)
                if place is None:
                    return False
                self._enter(place, path, depth)
            except OSError as error:
                self._tell(path, f"it cannot be read: {error.strerror}")
        return True

    def _enter(self, place: int, path: str, depth: int) -> None:
        status = os.fstat(place)
        if stat.S_ISLNK(status.st_mode):
            self._follow(path)
        elif stat.S_ISDIR(status.st_mode):
            self._look_through(place, path, depth + 1)
        else:
            self._note_name(read_inode(status), path)
            self._read(place, path)

    def _follow(self, path: str) -> None:
        """A link: another name of an image, and another folder from which its relative names are taken."""
        led = self._walk.find(path, Named())
        if led.inode is None:
            # One that leads nowhere has no image behind it.
            if led.path is None:
                self._tell(path, f"it is a link, and {led.why}")
            return
        with contextlib.ExitStack() as opened:
            place = open_into(opened, f"{led.path}", BY_NAME)
            status = os.fstat(place)
            if read_inode(status).identity != led.inode.identity:
                self._tell(path, "it is a link that changes while it is read")
            elif stat.S_ISBLK(status.st_mode) or self._is_searched(f"{led.path}", led.inode):
                # LVM's names of its volumes are links; what they lead to is read, too.
                self._read(place, path)
            elif stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode):
                self._tell(
                    path, f"it is a link to {led.path}, which lies in none of the folders. Name that folder, too"
                )

    def _is_searched(self, path: str, inode: Inode) -> bool:
        """Whether a file or a folder lies in one of the folders, or was asked about."""
        for _path, place in self._roots:
            # What the kernel calls it, as in the path that a walk has found.
            root = os.readlink(f"/proc/self/fd/{place}").rstrip("/")
            if f"{path}/".startswith(f"{root}/"):
                return True
        return inode.identity in self._by_identity

    def _note_name(self, inode: Inode, path: str) -> None:
        for each in self._by_identity.get(inode.identity, ()):
            if path != each.path:
                _add(each.same_as, path)

    def _read(self, place: int, path: str) -> None:
        """The head of an image, and whom it names."""
        status = os.fstat(place)
        kind = read_inode(status).kind
        # A file without a byte has no header; in /proc such files may do something when they are read.
        is_empty = kind == "regular" and status.st_size == 0
        if kind == "other" or is_empty:
            return
        with contextlib.ExitStack() as opened:
            naming = names_in(read_head(_open(place, opened)))
        if naming.why:
            self._tell(path, naming.why)
        for name in naming.names:
            self._compare(path, name)

    def _compare(self, path: str, name: str) -> None:
        """Where a name in a header leads, as QEMU takes it: from the folder of the image."""
        led = self._walk.find(posixpath.join(posixpath.dirname(path), name), Named())
        if led.inode is None and led.path is None:
            self._tell(path, f"it names {name}, and {led.why}")
            return
        for each in self._behind(led):
            _add(each.named_by, path)

    def _behind(self, led: Named) -> Sequence[_Found]:
        """The files that a name leads to, or may lead to where its VM runs.

        A name that leads nowhere from here may lead there from where the VM finds the image: by a link, or in a
        container. Then its last part must be enough.
        """
        if led.inode is not None:
            return self._by_identity.get(led.inode.identity, ())
        return self._by_last_part.get(posixpath.basename(f"{led.path}"), ())


def _look_at(path: str) -> _Found:
    try:
        status = os.lstat(path)
    except OSError:
        return _Found(path, None, is_link=False)
    return _Found(path, read_inode(status), is_link=stat.S_ISLNK(status.st_mode))


def _place_of(name: str, folder: int, opened: contextlib.ExitStack) -> int | None:
    """A descriptor that stands for what has this name in a folder; None where it was removed meanwhile."""
    try:
        return open_into(opened, name, BY_NAME, folder)
    except FileNotFoundError:
        return None


def _open(place: int, opened: contextlib.ExitStack) -> int:
    """A file that was judged, by the descriptor that stands for it."""
    for pause in PAUSES:
        try:
            return open_into(opened, f"/proc/self/fd/{place}", os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        # Somebody holds a lease on it for a moment, such as another run of this collection.
        except BlockingIOError:
            time.sleep(pause)
    return open_into(opened, f"/proc/self/fd/{place}", os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)


def _add(names: dict[str, None], path: str) -> None:
    if len(names) < MOST_TOLD:
        names[path] = None
