# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import re

import pytest
from ansible_collections.virtops.qmp.plugins.module_utils._model._header import (
    HEADER_BYTES,
    Header,
    NoHeader,
    parse_header,
    parse_qcow2,
)
from ansible_collections.virtops.qmp.tests.unit.builders import extension, qcow2, qed
from hypothesis import given
from hypothesis import strategies as st

DATA_FILE, EXTENDED_L2, UNKNOWN = 1 << 2, 1 << 4, 1 << 63
FORMAT, DATA_FILE_NAME, FEATURE_NAMES = 0xE2792ACA, 0x44415441, 0x6803F857


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        pytest.param(qcow2(), Header(version=3), id="stands on its own"),
        pytest.param(qcow2(b"base"), Header("base", version=3), id="a backing image"),
        pytest.param(
            qcow2(b"/vms/base", extension(FORMAT, b"raw"), extension(FEATURE_NAMES, bytes(96))),
            Header("/vms/base", "raw", version=3),
            id="a backing image and its format",
        ),
        pytest.param(
            qcow2(b"base", extension(FORMAT, b"qcow2"), version=2), Header("base", "qcow2", version=2), id="version 2"
        ),
        pytest.param(qcow2(b"", extension(FORMAT, b"raw")), Header(version=3), id="the format of no image"),
        pytest.param(qcow2(snapshots=3), Header(snapshots=3, version=3), id="internal snapshots"),
        pytest.param(
            qcow2(b"", extension(DATA_FILE_NAME, b"top.raw"), features=DATA_FILE),
            Header(data_file="top.raw", version=3),
            id="an external data file",
        ),
        pytest.param(qcow2(features=DATA_FILE), Header(data_file="", version=3), id="a data file without a name"),
        pytest.param(
            qcow2(b"", extension(DATA_FILE_NAME, b"x")), Header(version=3), id="a name of a data file that is not used"
        ),
        pytest.param(qcow2(features=EXTENDED_L2), Header(extended_l2=True, version=3), id="extended L2 entries"),
        pytest.param(qcow2(b"ba\0se"), Header("ba", version=3), id="a NUL ends the name, as for QEMU"),
        pytest.param(qcow2(b"\xff\xc3"), Header("\udcff\udcc3", version=3), id="a name of any bytes"),
        pytest.param(qcow2(1023 * b"x"), Header(1023 * "x", version=3), id="the longest name"),
        pytest.param(qcow2(b"base", header_length=112), Header("base", version=3), id="a longer header"),
    ],
)
def test_qcow2(head: bytes, expected: Header) -> None:
    """The header of a qcow2 image is read as QEMU reads it."""
    found = parse_qcow2(head)
    assert isinstance(found, Header)
    assert (found.cluster_bits, found.virtual_size) == (16, 1 << 30)
    assert found == expected._replace(cluster_bits=16, virtual_size=1 << 30)


@pytest.mark.parametrize(
    ("head", "why"),
    [
        pytest.param(b"", "cut off", id="empty"),
        pytest.param(qcow2()[:100], "cut off", id="cut off"),
        pytest.param(qcow2(magic=b"QFI\0"), "does not begin with a qcow2 header", id="another file"),
        pytest.param(bytes(65536) + qcow2(), "does not begin with a qcow2 header", id="an image at an offset"),
        pytest.param(qcow2(version=1), "invalid", id="version 1"),
        pytest.param(qcow2(version=4), "invalid", id="version 4"),
        pytest.param(qcow2(cluster_bits=8), "invalid", id="too small clusters"),
        pytest.param(qcow2(cluster_bits=22), "invalid", id="too large clusters"),
        pytest.param(qcow2(header_length=96), "invalid", id="too short a header"),
        pytest.param(qcow2(features=UNKNOWN), "features that are not known", id="an unknown feature"),
        pytest.param(qcow2(1024 * b"x"), "too long", id="too long a name"),
        pytest.param(qcow2(place=104, length=2**32 - 1), "too long", id="a name of 4 GiB"),
        pytest.param(qcow2(place=2**64 - 1, length=4), "not in the header", id="a name beyond everything"),
        pytest.param(qcow2(place=510, length=4, cluster_bits=9), "too long", id="a name across the first cluster"),
        pytest.param(qcow2(place=60000, length=4), "cut off", id="a name that is not there"),
        pytest.param(qcow2(b"x", extension(FORMAT, b"a" * 16)), "extension .* too long", id="too long a format"),
        pytest.param(
            qcow2(b"", extension(FEATURE_NAMES, b"", 2**32 - 1)), "extension .* too long", id="an endless extension"
        ),
        pytest.param(
            qcow2(b"", extension(DATA_FILE_NAME, b"x", 4096), features=DATA_FILE), "too long", id="too long a data file"
        ),
        pytest.param(
            qcow2(b"", extension(DATA_FILE_NAME, b"x", 4095), features=DATA_FILE), "cut off", id="a data file cut off"
        ),
        pytest.param(qcow2(b"", extension(1, b""), header_length=2**32 - 1, place=0), None, id="no extensions at all"),
    ],
)
def test_what_is_no_qcow2_header(head: bytes, why: str | None) -> None:
    """What QEMU would refuse, or what would lie beyond what was read, is unknown."""
    found = parse_qcow2(head)
    if why is None:
        assert isinstance(found, Header)
    else:
        assert isinstance(found, NoHeader)
        assert re.search(why, found.why)


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        pytest.param(qed(), Header(), id="stands on its own"),
        pytest.param(qed(b"base"), Header("base"), id="a backing image"),
        pytest.param(qed(b"base", features=1 | 4), Header("base", "raw"), id="a raw one"),
        pytest.param(qed(b"base", features=2), Header(), id="a name that is not used"),
    ],
)
def test_qed(head: bytes, expected: Header) -> None:
    """The header of a qed image is read as QEMU reads it."""
    assert parse_header("qed", head) == expected._replace(version=1, cluster_bits=16, virtual_size=1 << 30)


@pytest.mark.parametrize(
    ("format", "head", "why"),
    [
        pytest.param("qed", qed(magic=b"QED1"), "its file does not begin with a qed header", id="another file"),
        pytest.param("qed", qed()[:63], "its header is cut off", id="cut off"),
        pytest.param("qed", qed(features=8), "it has features that are not known here", id="an unknown feature"),
        pytest.param("qed", qed(cluster_size=65535), "its qed header is invalid", id="odd clusters"),
        pytest.param("qed", qed(cluster_size=2048), "its qed header is invalid", id="small clusters"),
        pytest.param(
            "qed",
            qed(b"x", length=1024),
            "the name of its backing image is too long, or not in the header",
            id="too long a name",
        ),
        pytest.param("qed", qed(b"x", place=99), "its header is cut off", id="a name that is not there"),
        pytest.param("vmdk", b"KDMV", "the headers of vmdk images are not known here", id="another format"),
    ],
)
def test_what_is_no_header(format: str, head: bytes, why: str) -> None:
    """A header that cannot be read, or a format that is not known, is unknown."""
    assert parse_header(format, head) == NoHeader(why)


def test_raw() -> None:
    """A raw image names no other, whatever its bytes look like."""
    assert parse_header("raw", qcow2(b"base", snapshots=1)) == Header()


@given(
    st.sampled_from(["qcow2", "qed"]),
    st.sampled_from([qcow2(b"base", extension(FORMAT, b"raw")), qcow2(b"x" * 1023, features=DATA_FILE), qed(b"base")]),
    st.lists(st.tuples(st.integers(0, 200), st.binary(min_size=1, max_size=8)), max_size=6),
    st.integers(0, 2000),
)
def test_any_bytes(format: str, head: bytes, changes: list[tuple[int, bytes]], end: int) -> None:
    """Whatever the bytes are, there is an answer, and no name in it is longer than QEMU would take it."""
    mutated = bytearray(head)
    for place, content in changes:
        mutated[place : place + len(content)] = content
    found = parse_header(format, bytes(mutated[:end]))
    if isinstance(found, Header):
        assert len(found.backing) <= 1023
        assert len(found.backing_format) <= 15
        assert len(found.data_file or "") <= 4095
    else:
        assert found.why


@given(st.binary(max_size=400))
def test_any_tail(tail: bytes) -> None:
    """Whatever follows a header in which the extensions may fill a whole read, the parser comes to an end."""
    assert parse_qcow2(qcow2(cluster_bits=21)[:104] + tail)
    assert parse_qcow2(qcow2(cluster_bits=21)[:104] + (tail * HEADER_BYTES)[:HEADER_BYTES])
