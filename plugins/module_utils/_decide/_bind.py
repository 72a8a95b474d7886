# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which file QEMU has open behind each file name that it reports: proven, or not said."""

from __future__ import annotations

import posixpath
from dataclasses import replace
from typing import Collection, Dict, Iterator, List, Mapping, Sequence, Tuple

from .._model._disk import is_local
from .._model._files import Bound, Descriptor, Named, Survey

_Identity = Tuple[str, int, int]
_Opened = Dict[_Identity, List[Descriptor]]


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
    names = dict.fromkeys(name for chain in chains for name in chain)
    if survey.descriptors is None:
        return {name: Bound(file=_named(name, survey).here, why=survey.why) for name in names}
    opened: _Opened = {}
    for descriptor in survey.descriptors:
        if descriptor.is_storage:
            opened.setdefault(descriptor.inode.identity, []).append(descriptor)
    found = {name: _find(name, survey, opened) for name in names}
    _add_from_elsewhere(found, survey, opened)
    for name in written:
        if name in found:
            found[name] = _only_if_writable(found[name], opened)
    for name in _twins(chains, found):
        found[name] = Bound(why="two images of one chain would be one file: QEMU's files were exchanged")
    _add_renamed(found, survey, opened, written)
    return found


def _named(name: str, survey: Survey) -> Named:
    return survey.names.get(name, Named(why="nobody looked for it"))


def _find(name: str, survey: Survey, opened: _Opened) -> Bound:
    """The file that one name leads to, or led to."""
    if name in survey.fdsets:
        return _of_set(survey.fdsets[name], opened)
    named = _named(name, survey)
    if named.path is None:
        return Bound(why=named.why)
    in_place = [each for each, descriptors in opened.items() if any(d.path == named.path for d in descriptors)]
    if named.inode is not None and named.inode.identity in opened:
        if set(in_place) - {named.inode.identity}:
            return Bound(why="QEMU has another file open, too, that had this name before")
        return _bound(opened[named.inode.identity], named, same_file=True)
    if len(in_place) == 1:
        why = "it was deleted" if named.inode is None else "another file has its name now"
        return replace(_bound(opened[in_place[0]], named, same_file=False), why=why)
    if in_place:
        return Bound(why="QEMU has several files open that had this name")
    return Bound(same_file=False, why=_nothing_open(named))


def _nothing_open(named: Named) -> str:
    if named.inode is None:
        return "there is no such file, and none that QEMU has open had this name"
    if named.inode.kind == "other":
        return "it is neither a regular file nor a block device"
    return "QEMU does not have the file open that has this name now"


def _of_set(numbers: Collection[int], opened: _Opened) -> Bound:
    """The one file of a set of descriptors."""
    owners = {each.number: each.inode.identity for descriptors in opened.values() for each in descriptors}
    files = {owners.get(number) for number in numbers}
    identity = files.pop() if len(files) == 1 else None
    if identity is None:
        return Bound(why="its set of descriptors is not of one file that QEMU has open")
    return _bound(opened[identity], Named(), same_file=True)


def _bound(descriptors: Sequence[Descriptor], named: Named, *, same_file: bool | None) -> Bound:
    """The proven file; its path on this host is the one that it was asked for by, if that is right."""
    inode = descriptors[0].inode
    paths = [each.here for each in descriptors if each.here is not None]
    if named.here is not None and named.inode_here is not None and named.inode_here.identity == inode.identity:
        paths = [named.here] if named.here in paths else [*paths, named.here]
    numbers = tuple(each.number for each in descriptors)
    return Bound(inode, numbers, same_file, paths[0] if paths else None)


def _only_if_writable(bound: Bound, opened: _Opened) -> Bound:
    if bound.inode is None or any(each.writable for each in opened[bound.inode.identity]):
        return bound
    return Bound(why="QEMU writes to this image, but has the file that its name leads to open for reading only")


def _twins(chains: Sequence[Sequence[str]], found: Mapping[str, Bound]) -> Iterator[str]:
    """The names of one chain that lead to one file."""
    for chain in chains:
        owners: dict[_Identity, str] = {}
        for name in chain:
            inode = found[name].inode
            other = name if inode is None else owners.setdefault(inode.identity, name)
            if other != name:
                yield from (other, name)


def _add_from_elsewhere(found: dict[str, Bound], survey: Survey, opened: _Opened) -> None:
    """Give names that lead nowhere what they led to from another root or directory: all of a kind, or none."""
    nowhere = [name for name in found if found[name].same_file is False and found[name].inode is None]
    lost = [name for name in nowhere if _named(name, survey).inode is None]
    absolute = [name for name in lost if name.startswith("/")]
    relative = [name for name in lost if not name.startswith("/")]
    claimed = {bound.inode.identity for bound in found.values() if bound.inode is not None}
    places: dict[str, set[_Identity]] = {}
    for identity, descriptors in opened.items():
        for descriptor in descriptors:
            places.setdefault(descriptor.path, set()).add(identity)
    for names, folders in ((absolute, {""}), (relative, _folders(relative, places))):
        if len(folders) != 1:
            continue
        (folder,) = folders
        hits = {name: places.get(_below(folder, name), set()) for name in names}
        if all(len(hit) == 1 and not hit & claimed for hit in hits.values()):
            found.update({name: _now_elsewhere(opened[next(iter(hit))]) for name, hit in hits.items()})


def _folders(names: Sequence[str], places: Collection[str]) -> set[str]:
    """The directories from which every one of these names leads to a place."""
    found = [
        {place[: -len(end)] for place in places if place.endswith(end)} for end in (_below("", name) for name in names)
    ]
    return set.intersection(*found) if found else set()


def _below(folder: str, name: str) -> str:
    return f"{folder}/{posixpath.normpath(name).lstrip('/')}"


def _now_elsewhere(descriptors: Sequence[Descriptor]) -> Bound:
    bound = _bound(descriptors, Named(), same_file=None)
    return replace(bound, same_file=bound.file is not None, why="QEMU opened it from another directory or root")


def _add_renamed(found: dict[str, Bound], survey: Survey, opened: _Opened, written: Collection[str]) -> None:
    """Give the last name without a file the last file without a name, if nothing else can be meant."""
    nameless = [name for name, bound in found.items() if bound.inode is None and is_local(name)]
    if len(nameless) != 1 or found[nameless[0]].same_file is not False:
        return
    claimed = {bound.inode.identity for bound in found.values() if bound.inode is not None}
    locked = {each for each, descriptors in opened.items() if any(d.locked for d in descriptors)}
    if not claimed <= locked or len(locked - claimed) != 1:
        return
    (name,), (identity,) = nameless, locked - claimed
    bound = _bound(opened[identity], _named(name, survey), same_file=False)
    if name in written:
        bound = _only_if_writable(bound, opened)
    if bound.inode is not None:
        found[name] = replace(bound, why="it was renamed")
