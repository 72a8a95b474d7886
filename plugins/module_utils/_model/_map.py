# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where the data of a disk lies in its chain, as ``qemu-img map`` tells, and what it must be told for that."""

from __future__ import annotations

import json
from typing import Any, Iterator, Mapping, NamedTuple, Sequence

from ._files import Bound, Kind

# The formats that a chain for qemu-img is made of. vmdk is not among them: its descriptor names further files.
FORMATS = ("qcow2", "qed", "raw")
# A cache of this size serves 8 GiB. By default QEMU takes up to 32 MiB for each image of a chain.
_L2_CACHE = 1024 * 1024


class Layer(NamedTuple):
    """One image of a chain, the top first: ``filename`` in QEMU's own spelling, ``bound`` what QEMU has open there.

    ``data_file`` is what it has open as the external data file of the image.
    """

    format: str
    filename: str
    virtual_size: int
    bound: Bound
    data_file: Bound | None = None


class Source(NamedTuple):
    """The open files of one layer: numbers of our own descriptors, which qemu-img inherits."""

    format: str
    file: int
    kind: Kind = "regular"
    data_file: int | None = None
    data_kind: Kind = "regular"


class MapTotals(NamedTuple):
    """How many bytes of a disk lie at which depth of its chain, and whether anything would change without them.

    That is so of data, and of zeros that hide what the image that stays may have in the same place.

    From the depth ``opaque`` on the images could not be looked into, for the reason ``why``: an image that is empty
    stood for all of them, and nothing is known of what would be read from there.
    """

    bytes_at: Mapping[tuple[int, bool], int]
    opaque: int | None = None
    why: str = ""

    @property
    def size(self) -> int:
        return sum(self.bytes_at.values())


class NoMap(NamedTuple):
    """It is not known where the data lies."""

    why: str


def fault_of(layer: Layer, *, is_last: bool) -> str:
    """Why an image cannot be given to qemu-img by its open file alone, if so."""
    if layer.bound.inode is None:
        return layer.bound.why
    if layer.format not in FORMATS:
        return f"its format is {layer.format}"
    if layer.format == "raw" and not is_last:
        return "a raw image has no backing image"
    if not _is_whole_file(layer.filename):
        return "it is only a part of its file, or not directly on it"
    return ""


def _is_whole_file(filename: str) -> bool:
    """Whether an image is all of a file: QEMU writes out every option that changes what is read, offsets among them."""
    if not filename.startswith("json:"):
        return True
    try:
        node = json.loads(filename[len("json:") :])
    except (ValueError, RecursionError):
        return False
    file = node.get("file") if isinstance(node, dict) else None
    if not isinstance(file, dict):
        return False
    # Every other option may change what is read, also those that later versions of QEMU will have.
    has_other_options = set(node) - {"driver", "file", "backing", "data-file"} or set(file) - {"driver", "filename"}
    return not has_other_options and file.get("driver") in ("file", "host_device")


def describe(sources: Sequence[Source]) -> Mapping[str, Any]:
    """The chain as QEMU's own options: every file by its descriptor, and no name from any header is followed.

    A backing image is what ``backing`` says only if it is null or has a ``file.filename``: else QEMU takes the name in
    the header into it. All that is made here has one.
    """
    below: Mapping[str, Any] | None = None
    for source in reversed(sources):
        node: dict[str, Any] = {"driver": source.format, "file": _file(source.file, source.kind)}
        if source.format != "raw":
            node["backing"] = below
        # Only qcow2 takes the option; to the others it is an error.
        if source.format == "qcow2":
            node["l2-cache-size"] = _L2_CACHE
        if source.data_file is not None:
            node["data-file"] = _file(source.data_file, source.data_kind)
        below = node
    return below or {}


def _file(number: int, kind: Kind) -> Mapping[str, str]:
    # Since QEMU 6.0 its driver `file` takes regular files only.
    driver = "host_device" if kind == "block" else "file"
    return {"driver": driver, "filename": f"/proc/self/fd/{number}"}


class Piece(NamedTuple):
    """What ``qemu-img map`` said, as JSON, of ``images`` images of a chain one below the other.

    Below the last of them an empty image stood for all further ones, if there are any, which the next piece has. The
    first is ``depth`` images below the top of the disk, and is ``size`` bytes large.
    """

    text: str
    depth: int
    images: int
    size: int


class _Extent(NamedTuple):
    """From ``start`` to ``end``: whether there is data, and at which depth of the chain."""

    start: int
    end: int
    depth: int
    data: bool


def total(pieces: Sequence[Piece], base_size: int) -> Mapping[tuple[int, bool], int]:
    """Add up the map of a disk over an image that stays, of that size (0 for none).

    :raise ValueError: a piece is not the whole map of its images.
    """
    found: dict[tuple[int, bool], int] = {}
    for start, end, depth, data in _extents(pieces):
        length = end - start
        needed = length
        if not data:
            # Zeros are needed as far as the image that stays reaches; behind its end it reads as zeros, too.
            needed = max(0, min(end, base_size) - start)
        for is_needed, part in ((True, needed), (False, length - needed)):
            if part:
                found[depth, is_needed] = found.get((depth, is_needed), 0) + part
    return found


def _extents(pieces: Sequence[Piece]) -> Iterator[_Extent]:
    """The map of the first image, for which all others are looked into."""
    first, *others = pieces
    if not others:
        yield from _extents_of(first)
        return
    below = _Below(others)
    for extent in _extents_of(first):
        if extent.depth < first.depth + first.images:
            yield extent
        else:
            yield from below.cut(extent.start, extent.end)


class _Below:
    """The map of an image, of which an image above it asks for the parts that it has not got, one after the other."""

    def __init__(self, pieces: Sequence[Piece]):
        self._depth = pieces[0].depth
        self._extents = _extents(pieces)
        self._latest = _Extent(0, 0, self._depth, False)

    def cut(self, start: int, end: int) -> Iterator[_Extent]:
        """What is in this part; no earlier part may be asked for than before."""
        while start < end:
            while self._latest.end <= start:
                # What is behind the end of a smaller image reads as zeros, which hide all below.
                self._latest = next(self._extents, _Extent(start, end, self._depth, False))
            until = min(end, self._latest.end)
            yield self._latest._replace(start=start, end=until)
            start = until


def _extents_of(piece: Piece) -> Iterator[_Extent]:
    """One piece by itself.

    Of an extent only ``start``, ``length``, ``depth`` and ``data`` are read, which it has in every version; ``present``
    (6.1) and ``compressed`` (8.2) came later.
    """
    end = 0
    for extent in _objects(piece.text):
        start = _count(extent, "start")
        length = _count(extent, "length")
        depth = _count(extent, "depth")
        data = extent.get("data")
        if start != end or not isinstance(data, bool):
            raise ValueError("the map has gaps")
        end += length
        yield _Extent(start, end, piece.depth + depth, data)
    if end != piece.size:
        raise ValueError(f"the map is of {end} bytes, the image has {piece.size}")


def _count(extent: Mapping[str, Any], key: str) -> int:
    value = extent.get(key)
    # True and false are numbers to Python.
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 63:
        raise ValueError(f"an extent of the map has no {key}")
    return value


def _objects(text: str) -> Iterator[Mapping[str, Any]]:
    """The members of a JSON list, one after the other: a map has millions, and only their sums are kept."""
    decoder = json.JSONDecoder()
    place = _skip(text, 0, "[")
    while text[place : place + 1] != "]":
        value, place = decoder.raw_decode(text, place)
        if not isinstance(value, dict):
            raise ValueError("the map is no list of extents")
        yield value
        place = _skip(text, place, ",")
    if text[place + 1 :].strip():
        raise ValueError("the map is followed by something else")


def _skip(text: str, place: int, mark: str) -> int:
    """Where the next member begins: behind blanks, a mark and blanks."""
    for each in (" \n\r\t", mark, " \n\r\t"):
        while text[place : place + 1] and text[place] in each:
            place += 1
    return place
