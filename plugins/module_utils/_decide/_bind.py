# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which file QEMU has open behind each file name that it reports: proven, or not said."""

from __future__ import annotations

import itertools
import posixpath
from dataclasses import dataclass, field
from typing import Collection, Mapping, Sequence, Tuple

from .._model._disk import is_local
from .._model._files import Bound, Descriptor, Named, Survey

_Identity = Tuple[str, int, int]

_ONE_OF_TWINS = Bound(why="two images of one chain would be one file: QEMU's files were exchanged")


@dataclass(frozen=True)
class _Opened:
    """The files that QEMU has open.

    ``files`` are the descriptors of each, ``places`` the files that are, or were, in a place, ``owners`` the file of
    each descriptor. Of ``writable`` and ``locked`` files at least one descriptor is so.
    """

    files: dict[_Identity, list[Descriptor]] = field(default_factory=dict)
    places: dict[str, set[_Identity]] = field(default_factory=dict)
    owners: dict[int, _Identity] = field(default_factory=dict)
    writable: set[_Identity] = field(default_factory=set)
    locked: set[_Identity] = field(default_factory=set)

    def add(self, descriptor: Descriptor) -> None:
        """Enter one descriptor."""
        identity = descriptor.inode.identity
        self.files.setdefault(identity, []).append(descriptor)
        self.places.setdefault(descriptor.path, set()).add(identity)
        self.owners[descriptor.number] = identity
        if descriptor.writable:
            self.writable.add(identity)
        if descriptor.locked:
            self.locked.add(identity)


def bind(
    chains: Sequence[Sequence[str]], survey: Survey, written: Collection[str] = frozenset()
) -> Mapping[str, Bound]:
    """Find the open file behind each name.

    In this order, each a proof under what it assumes:

    - A set of descriptors has the descriptors that ``query-fdsets`` tells, if they are all of one file.
    - A name that leads to a file that QEMU has open means this file. Not so where another file that it has open had
      the same name before, where two images of one chain would be one file, and where QEMU writes to the image but has
      this file open for reading only: somebody has exchanged QEMU's own files for each other.
    - A name that leads elsewhere means the only file that QEMU has open of which the kernel says that it is, or was,
      in this very place: it was deleted, replaced or hidden.
    - Where QEMU's names lead nowhere, its root or its working directory may have changed since it opened its images
      (``-chroot``, ``-daemonize``). They mean what it has open of which the kernel says that it is, or was, in the
      places that they would lead to from this host's root, or from the only directory from which all of them lead to
      something.
    - Of a file that was renamed nothing tells what it was called. It is taken for a certain image only if it is the
      last one: one name is left without a file, and one file with QEMU's locks is left without a name, in a QEMU that
      locks every other image.

    What it cannot see: two images that QEMU opened alike and that were renamed to each other's names.

    :param chains: the names of each disk's images; a name may be in more than one chain.
    :param written: those of the names that QEMU must have open for writing.
    """
    names = dict.fromkeys(itertools.chain.from_iterable(chains))
    found: dict[str, Bound] = {}
    if survey.descriptors is None:
        for name in names:
            found[name] = Bound(file=_named(name, survey).here, why=survey.why)
        return found
    opened = _storage_of(survey.descriptors)
    for name in names:
        found[name] = _find(name, survey, opened)
    # The order matters: each step relies on what those before it have given or taken back.
    _add_from_elsewhere(found, survey, opened)
    for name in found.keys() & written:
        found[name] = _only_if_writable(found[name], opened)
    _take_back_twins(found, chains)
    _add_renamed(found, survey, opened, written)
    return found


def _storage_of(descriptors: Sequence[Descriptor]) -> _Opened:
    """What an image can be on, without sockets and the like."""
    opened = _Opened()
    for descriptor in descriptors:
        if descriptor.is_storage:
            opened.add(descriptor)
    return opened


def _named(name: str, survey: Survey) -> Named:
    return survey.names.get(name, Named(why="nobody looked for it"))


def _find(name: str, survey: Survey, opened: _Opened) -> Bound:
    """The file that one name leads to, or led to."""
    if name in survey.fdsets:
        return _of_set(survey.fdsets[name], opened)
    named = _named(name, survey)
    if named.path is None:
        return Bound(why=named.why)
    in_place = opened.places.get(named.path, set())
    if named.inode is not None and named.inode.identity in opened.files:
        return _found_by_name(named, named.inode.identity, in_place, opened)
    return _found_by_place(named, in_place, opened)


def _found_by_name(named: Named, identity: _Identity, in_place: set[_Identity], opened: _Opened) -> Bound:
    """QEMU has the file open that the name leads to now."""
    # Somebody may have moved one of QEMU's files over another: then the one that it opened by this name is the other.
    if in_place - {identity}:
        return Bound(why="QEMU has another file open, too, that had this name before")
    return _bound(opened.files[identity], named, same_file=True)


def _found_by_place(named: Named, in_place: set[_Identity], opened: _Opened) -> Bound:
    """QEMU does not have the file open that the name leads to now, but perhaps one that had the name before."""
    if not in_place:
        return Bound(same_file=False, why=_nothing_open(named))
    if len(in_place) > 1:
        return Bound(why="QEMU has several files open that had this name")
    (identity,) = in_place
    why = "another file has its name now"
    if named.inode is None:
        why = "it was deleted"
    return _bound(opened.files[identity], named, same_file=False)._replace(why=why)


def _nothing_open(named: Named) -> str:
    if named.inode is None:
        return "there is no such file, and none that QEMU has open had this name"
    if named.inode.kind == "other":
        return "it is neither a regular file nor a block device"
    return "QEMU does not have the file open that has this name now"


def _of_set(numbers: Collection[int], opened: _Opened) -> Bound:
    """The one file of a set of descriptors."""
    files = set()
    for number in numbers:
        files.add(opened.owners.get(number))
    # QEMU takes whichever descriptor of a set has the right access mode: two files in one set prove neither.
    identity = files.pop() if len(files) == 1 else None
    if identity is None:
        return Bound(why="its set of descriptors is not of one file that QEMU has open")
    return _bound(opened.files[identity], Named(), same_file=True)


def _bound(descriptors: Sequence[Descriptor], named: Named, *, same_file: bool | None) -> Bound:
    """The proven file."""
    numbers = tuple(each.number for each in descriptors)
    return Bound(descriptors[0].inode, numbers, same_file, _path_here(descriptors, named))


def _path_here(descriptors: Sequence[Descriptor], named: Named) -> str | None:
    """The path of a file on this host: the one that it was asked for by, if that is right."""
    paths = []
    for descriptor in descriptors:
        if descriptor.here is not None:
            paths.append(descriptor.here)
    # QEMU may see other mounts than this host: its name may lead to another file here.
    is_right = named.inode_here is not None and named.inode_here.identity == descriptors[0].inode.identity
    if is_right and (named.here in paths or not paths):
        return named.here
    if not paths:
        return None
    return paths[0]


def _only_if_writable(bound: Bound, opened: _Opened) -> Bound:
    if bound.inode is None or bound.inode.identity in opened.writable:
        return bound
    return Bound(why="QEMU writes to this image, but has the file that its name leads to open for reading only")


def _take_back_twins(found: dict[str, Bound], chains: Sequence[Sequence[str]]) -> None:
    """Of names of one chain that lead to one file none is proven: QEMU does not open an image twice in a chain."""
    for chain in chains:
        owners: dict[_Identity, str] = {}
        for name in chain:
            inode = found[name].inode
            if inode is None:
                continue
            other = owners.setdefault(inode.identity, name)
            if other != name:
                found[other] = found[name] = _ONE_OF_TWINS


def _claimed(found: Mapping[str, Bound]) -> set[_Identity]:
    """The files that are already given to a name."""
    claimed = set()
    for bound in found.values():
        if bound.inode is not None:
            claimed.add(bound.inode.identity)
    return claimed


def _add_from_elsewhere(found: dict[str, Bound], survey: Survey, opened: _Opened) -> None:
    """Give names that lead nowhere what they led to from another root or directory: all of a kind, or none."""
    absolute: list[str] = []
    relative: list[str] = []
    for name, bound in found.items():
        if not _leads_nowhere(bound, _named(name, survey)):
            continue
        # A changed root moves absolute names, a changed working directory relative ones.
        if name.startswith("/"):
            absolute.append(name)
        else:
            relative.append(name)
    claimed = _claimed(found)
    moved = _led_from("", absolute, opened, claimed)
    folders = _folders(relative, opened.places)
    # With several to choose from, nothing tells which one QEMU was in.
    if len(folders) == 1:
        moved.update(_led_from(folders.pop(), relative, opened, claimed))
    found.update(moved)


def _leads_nowhere(bound: Bound, named: Named) -> bool:
    return bound.same_file is False and bound.inode is None and named.inode is None


def _led_from(folder: str, names: Sequence[str], opened: _Opened, claimed: set[_Identity]) -> dict[str, Bound]:
    """What each of these names led to from a folder; nothing at all unless each led to one file of its own."""
    moved = {}
    for name in names:
        in_place = opened.places.get(_below(folder, name), set())
        if len(in_place) != 1 or in_place & claimed:
            return {}
        (identity,) = in_place
        moved[name] = _now_elsewhere(opened.files[identity])
    return moved


def _folders(names: Sequence[str], places: Collection[str]) -> set[str]:
    """The directories from which every one of these names leads to a place."""
    if not names:
        return set()
    first, *others = names
    folders = _folders_above(_below("", first), places)
    for name in others:
        folders &= _folders_above(_below("", name), places)
    return folders


def _folders_above(end: str, places: Collection[str]) -> set[str]:
    folders = set()
    for place in places:
        if place.endswith(end):
            folders.add(place[: -len(end)])
    return folders


def _below(folder: str, name: str) -> str:
    return f"{folder}/{posixpath.normpath(name).lstrip('/')}"


def _now_elsewhere(descriptors: Sequence[Descriptor]) -> Bound:
    bound = _bound(descriptors, Named(), same_file=None)
    return bound._replace(same_file=bound.file is not None, why="QEMU opened it from another directory or root")


def _without_file(found: Mapping[str, Bound]) -> list[str]:
    """The file names that no file is given to; what is reached over a protocol has none."""
    names = []
    for name, bound in found.items():
        if bound.inode is None and is_local(name):
            names.append(name)
    return names


def _add_renamed(found: dict[str, Bound], survey: Survey, opened: _Opened, written: Collection[str]) -> None:
    """Give the last name without a file the last file without a name, if nothing else can be meant."""
    nameless = _without_file(found)
    if len(nameless) != 1 or found[nameless[0]].same_file is not False:
        return
    claimed = _claimed(found)
    left = opened.locked - claimed
    # A QEMU that does not lock every image that is proven (locking=off) may have any other file open without a lock.
    if not claimed <= opened.locked or len(left) != 1:
        return
    (name,), (identity,) = nameless, left
    bound = _bound(opened.files[identity], _named(name, survey), same_file=False)
    if name in written:
        bound = _only_if_writable(bound, opened)
    if bound.inode is not None:
        found[name] = bound._replace(why="it was renamed")
