# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the header of an image says, from its first bytes.

The bytes are a guest's if its QEMU is: whatever QEMU itself would refuse is no header here, and nothing is taken from
beyond the bytes that were given. The layouts are those of docs/interop/qcow2.rst and qed_spec.rst of QEMU.
"""

from __future__ import annotations

import struct
from typing import Iterator, NamedTuple, Union

# So many bytes are enough: QEMU writes its headers without gaps, and their names have at most 1023 bytes.
HEADER_BYTES = 65_536
LONGEST_BACKING = 1023

_DIRTY, _CORRUPT, _DATA_FILE, _COMPRESSION, _EXTENDED_L2 = 1, 2, 4, 8, 16
_KNOWN = _DIRTY | _CORRUPT | _DATA_FILE | _COMPRESSION | _EXTENDED_L2
_END, _BACKING_FORMAT, _DATA_FILE_NAME = 0, 0xE2792ACA, 0x44415441
_LONGEST_FORMAT = 15
_LONGEST_DATA_FILE = 4095

_QED_BACKING, _QED_RAW_BACKING = 1, 4
_QED_KNOWN = 7


class Header(NamedTuple):
    """What QEMU would find in a file that it opens anew.

    ``backing`` and ``backing_format`` are empty where the header names none. ``data_file`` is the name of an external
    data file, None where the data lies in the image itself, and empty where the header does not tell its name.
    ``virtual_size`` is None where no header tells it.
    """

    backing: str = ""
    backing_format: str = ""
    snapshots: int = 0
    data_file: str | None = None
    version: int = 0
    cluster_bits: int = 0
    extended_l2: bool = False
    virtual_size: int | None = None


class NoHeader(NamedTuple):
    """It is not known what the header says."""

    why: str


Reading = Union[Header, NoHeader]


class _Invalid(Exception):
    """QEMU would not open such an image, or finds something here that we do not know."""


def parse_header(format: str, head: bytes) -> Reading:
    """Read the header of an image in a format, as QEMU calls it, from the first bytes of its file."""
    if format == "raw":
        return Header()
    parse = {"qcow2": _parse_qcow2, "qed": _parse_qed}.get(format)
    if parse is None:
        return NoHeader(f"the headers of {format} images are not known here")
    try:
        return parse(head)
    except struct.error:
        return NoHeader("its header is cut off")
    except _Invalid as error:
        return NoHeader(str(error))


def parse_qcow2(head: bytes) -> Reading:
    """Read the header of a qcow2 image."""
    return parse_header("qcow2", head)


def _parse_qcow2(head: bytes) -> Header:
    magic, version, place, length, cluster_bits, size = struct.unpack_from(">4sIQIIQ", head)
    if magic != b"QFI\xfb":
        raise _Invalid("its file does not begin with a qcow2 header")
    if version not in (2, 3) or not 9 <= cluster_bits <= 21:
        raise _Invalid("its qcow2 header is invalid")
    (snapshots,) = struct.unpack_from(">I", head, 60)
    features, header_length = _features_and_length(head, version)
    cluster_size = 1 << cluster_bits
    backing = ""
    if place:
        backing = _text(head, place, length, cluster_size)
    # The extensions end where the name of the backing image begins, else with the first cluster.
    names = dict(_extensions(head, header_length, place or cluster_size))
    data_file = None
    if features & _DATA_FILE:
        data_file = names.get(_DATA_FILE_NAME, "")
    return Header(
        backing=backing,
        backing_format=names.get(_BACKING_FORMAT, "") if backing else "",
        snapshots=snapshots,
        data_file=data_file,
        version=version,
        cluster_bits=cluster_bits,
        extended_l2=bool(features & _EXTENDED_L2),
        virtual_size=size,
    )


def _features_and_length(head: bytes, version: int) -> tuple[int, int]:
    """The features that a reader must know, and the length of the header; version 2 has neither field."""
    if version == 2:
        return 0, 72
    (features,) = struct.unpack_from(">Q", head, 72)
    (header_length,) = struct.unpack_from(">I", head, 100)
    if features & ~_KNOWN:
        raise _Invalid("it has features that are not known here")
    if header_length < 104:
        raise _Invalid("its qcow2 header is invalid")
    return features, header_length


def _text(head: bytes, place: int, length: int, end: int) -> str:
    """A backing name, which QEMU takes up to the first NUL like every C program."""
    if place > end or length > min(LONGEST_BACKING, end - place):
        raise _Invalid("the name of its backing image is too long, or not in the header")
    if place + length > len(head):
        raise _Invalid("its header is cut off")
    return _string(head[place : place + length])


def _string(name: bytes) -> str:
    # A file name is bytes: those that are no UTF-8 must come out as they went in.
    return name.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


def _extensions(head: bytes, place: int, end: int) -> Iterator[tuple[int, str]]:
    """The names in the extensions of a qcow2 header, which end at a zero or where something else begins."""
    limits = {_BACKING_FORMAT: _LONGEST_FORMAT, _DATA_FILE_NAME: _LONGEST_DATA_FILE}
    while place < end:
        kind, length = struct.unpack_from(">II", head, place)
        if kind == _END:
            return
        place += 8
        if length > end - place or length > limits.get(kind, length):
            raise _Invalid("an extension of its qcow2 header is too long")
        if kind in limits:
            if place + length > len(head):
                raise _Invalid("its header is cut off")
            yield kind, _string(head[place : place + length])
        # Each is padded to a multiple of 8 bytes.
        place += (length + 7) & ~7


def _parse_qed(head: bytes) -> Header:
    magic, cluster_size, _table, clusters, features = struct.unpack_from("<4sIIIQ", head)
    size, place, length = struct.unpack_from("<QII", head, 48)
    if magic != b"QED\0":
        raise _Invalid("its file does not begin with a qed header")
    if features & ~_QED_KNOWN:
        raise _Invalid("it has features that are not known here")
    is_power_of_two = cluster_size & (cluster_size - 1) == 0
    if not is_power_of_two or not 1 << 12 <= cluster_size <= 1 << 26:
        raise _Invalid("its qed header is invalid")
    backing, backing_format = "", ""
    if features & _QED_BACKING:
        backing = _text(head, place, length, clusters * cluster_size)
        # The format has no name in this header: it is raw, or QEMU looks at the file.
        backing_format = "raw" if features & _QED_RAW_BACKING else ""
    return Header(
        backing=backing,
        backing_format=backing_format,
        version=1,
        cluster_bits=cluster_size.bit_length() - 1,
        virtual_size=size,
    )
