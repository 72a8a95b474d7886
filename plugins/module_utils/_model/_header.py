# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the header of an image says, from its first bytes.

The bytes are a guest's if its QEMU is: whatever QEMU itself would refuse is no header here, and nothing is taken from
beyond the bytes that were given. The layouts are those of docs/interop/qcow2.rst and qed_spec.rst of QEMU.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Iterator, Union

# So many bytes are enough: QEMU writes its headers without gaps, and their names have at most 1023 bytes.
HEADER_BYTES = 65_536
LONGEST_BACKING = 1023

_DIRTY, _CORRUPT, _DATA_FILE, _COMPRESSION, _EXTENDED_L2 = (1 << bit for bit in range(5))
_KNOWN = _DIRTY | _CORRUPT | _DATA_FILE | _COMPRESSION | _EXTENDED_L2
_END, _BACKING_FORMAT, _DATA_FILE_NAME = 0, 0xE2792ACA, 0x44415441
_LONGEST_FORMAT = 15
_LONGEST_DATA_FILE = 4095

_QED_BACKING, _QED_RAW_BACKING = 1, 4
_QED_KNOWN = 7


@dataclass(frozen=True)
class Header:
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


@dataclass(frozen=True)
class NoHeader:
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
    features, header_length = 0, 72
    if version == 3:
        (features,) = struct.unpack_from(">Q", head, 72)
        (header_length,) = struct.unpack_from(">I", head, 100)
        if features & ~_KNOWN:
            raise _Invalid("it has features that are not known here")
        if header_length < 104:
            raise _Invalid("its qcow2 header is invalid")
    cluster_size = 1 << cluster_bits
    backing = _text(head, place, length, cluster_size) if place else ""
    names = dict(_extensions(head, header_length, place or cluster_size))
    data_file = names.get(_DATA_FILE_NAME, "") if features & _DATA_FILE else None
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


def _text(head: bytes, place: int, length: int, end: int) -> str:
    """A backing name, which QEMU takes up to the first NUL like every C program."""
    if place > end or length > min(LONGEST_BACKING, end - place):
        raise _Invalid("the name of its backing image is too long, or not in the header")
    if place + length > len(head):
        raise _Invalid("its header is cut off")
    return _string(head[place : place + length])


def _string(name: bytes) -> str:
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
        place += (length + 7) & ~7


def _parse_qed(head: bytes) -> Header:
    magic, cluster_size, _table, clusters, features = struct.unpack_from("<4sIIIQ", head)
    size, place, length = struct.unpack_from("<QII", head, 48)
    if magic != b"QED\0":
        raise _Invalid("its file does not begin with a qed header")
    if features & ~_QED_KNOWN:
        raise _Invalid("it has features that are not known here")
    if cluster_size & (cluster_size - 1) or not 1 << 12 <= cluster_size <= 1 << 26:
        raise _Invalid("its qed header is invalid")
    has_backing = bool(features & _QED_BACKING)
    return Header(
        backing=_text(head, place, length, clusters * cluster_size) if has_backing else "",
        backing_format="raw" if has_backing and features & _QED_RAW_BACKING else "",
        version=1,
        cluster_bits=cluster_size.bit_length() - 1,
        virtual_size=size,
    )
