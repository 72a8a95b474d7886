# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from ansible_collections.virtops.qmp.plugins.module_utils._model._files import Bound, FileId, Inode
from ansible_collections.virtops.qmp.plugins.module_utils._model._map import (
    Layer,
    MapTotals,
    Piece,
    Source,
    describe,
    fault_of,
    total,
)
from hypothesis import given
from hypothesis import strategies as st

BOUND = Bound(Inode(FileId(1, 2), "regular"), (3,))
LAYER = Layer("qcow2", "/vms/top", 100, BOUND)


def spelled(**node: Any) -> str:
    return "json:" + json.dumps(node)


FILE = {"driver": "file", "filename": "/vms/top"}


@pytest.mark.parametrize(
    ("layer", "fault"),
    [
        pytest.param(LAYER, "", id="qcow2"),
        pytest.param(LAYER._replace(format="qed"), "", id="qed"),
        pytest.param(LAYER._replace(format="vmdk"), "its format is vmdk", id="a descriptor that names files"),
        pytest.param(LAYER._replace(format="raw"), "a raw image has no backing image", id="raw in the middle"),
        pytest.param(LAYER._replace(bound=Bound(why="it was not found")), "it was not found", id="not bound"),
        pytest.param(
            LAYER._replace(filename=spelled(driver="qcow2", file=FILE, backing={"driver": "raw"})), "", id="spelled out"
        ),
        pytest.param(
            LAYER._replace(filename=spelled(driver="qcow2", file={"driver": "host_device", "filename": "/dev/sdb"})),
            "",
            id="a device, spelled out",
        ),
        *(
            pytest.param(LAYER._replace(filename=name), "it is only a part of its file, or not directly on it", id=id)
            for id, name in {
                "offset": spelled(driver="raw", file=FILE, offset=512),
                "offset below": spelled(driver="qcow2", file={**FILE, "offset": 512}),
                "raw between": spelled(driver="qcow2", file={"driver": "raw", "file": FILE, "offset": 512}),
                "a reference": spelled(driver="qcow2", file="node"),
                "nothing below": spelled(driver="qcow2"),
                "no object": "json:[]",
                "no JSON": "json:{",
                "deep": "json:" + 200_000 * "[",
            }.items()
        ),
    ],
)
def test_what_can_be_given_to_qemu_img(layer: Layer, fault: str) -> None:
    """An image is given by its open file only if that file is all of it, and no header can name more files."""
    assert fault_of(layer, is_last=False) == fault


def test_raw_at_the_end() -> None:
    """A raw image may be the last one."""
    assert fault_of(LAYER._replace(format="raw"), is_last=True) == ""


def test_a_chain_is_spelled_out() -> None:
    """Each image is given with its descriptor and what is below it; nothing is left to a header."""
    sources = [
        Source("qcow2", 5, "regular", 6, "block"),
        Source("qed", 7),
        Source("raw", 8, "block"),
    ]
    assert describe(sources) == {
        "driver": "qcow2",
        "l2-cache-size": 1048576,
        "file": {"driver": "file", "filename": "/proc/self/fd/5"},
        "data-file": {"driver": "host_device", "filename": "/proc/self/fd/6"},
        "backing": {
            "driver": "qed",
            "file": {"driver": "file", "filename": "/proc/self/fd/7"},
            "backing": {"driver": "raw", "file": {"driver": "host_device", "filename": "/proc/self/fd/8"}},
        },
    }
    assert describe(sources[:2])["backing"]["backing"] is None
    assert describe([]) == {}


def extent(start: int, length: int, depth: int, data: bool, **more: Any) -> dict[str, Any]:
    return {"start": start, "length": length, "depth": depth, "zero": not data, "data": data, **more}


MAP = [
    extent(0, 10, 0, True, offset=327680),
    extent(10, 20, 1, True, present=True, compressed=False),
    extent(30, 30, 1, False, present=True),
    extent(60, 5, 1, True),
    extent(65, 35, 2, False, present=False),
]


def total_of(text: str, size: int, base_size: int) -> Mapping[tuple[int, bool], int]:
    """Of a chain that qemu-img opens at once."""
    found: Mapping[tuple[int, bool], int] = total([Piece(text, 0, 3, size)], base_size)
    return found


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(json.dumps(MAP), id="one line"),
        pytest.param("[" + ",\n".join(json.dumps(each) for each in MAP) + "]\n", id="as qemu-img prints it"),
        pytest.param(json.dumps(MAP, indent=4), id="many lines"),
    ],
)
def test_a_map_is_added_up(text: str) -> None:
    """The bytes of each depth, with data and without, whatever else a version tells of them."""
    assert total_of(text, 100, 0) == {(0, True): 10, (1, True): 25, (1, False): 30, (2, False): 35}


def test_zeros_over_an_image_that_stays() -> None:
    """Zeros count where they may hide what the image that stays has, and not beyond its end."""
    assert total_of(json.dumps(MAP), 100, 50) == {(0, True): 10, (1, True): 45, (1, False): 10, (2, False): 35}
    assert total_of(json.dumps(MAP), 100, 200) == {(0, True): 10, (1, True): 55, (2, True): 35}


def test_an_empty_disk() -> None:
    """A disk of no bytes has an empty map."""
    assert total_of("[ ]\n", 0, 0) == {}
    assert MapTotals({}).size == 0
    assert MapTotals({(0, True): 3, (1, False): 4}).size == 7


@pytest.mark.parametrize(
    ("text", "why"),
    [
        pytest.param("", "Expecting value", id="nothing"),
        pytest.param(json.dumps(MAP)[:-1], "Expecting value", id="cut off"),
        pytest.param(json.dumps(MAP) + "x", "followed by something else", id="more than a map"),
        pytest.param(json.dumps(MAP[1:]), "gaps", id="the first extent is missing"),
        pytest.param(json.dumps(MAP[:2] + MAP[3:]), "gaps", id="an extent is missing"),
        pytest.param(json.dumps(MAP[:-1]), "of 65 bytes, the image has 100", id="the last extent is missing"),
        pytest.param("[1]", "no list of extents", id="a number"),
        pytest.param(json.dumps([extent(0, 100, 0, data=1)]), "gaps", id="data is no truth value"),  # type: ignore[arg-type]
        pytest.param(json.dumps([extent(0, -5, 0, True)]), "no length", id="a negative length"),
        pytest.param(json.dumps([extent(0, 100, True, True)]), "no depth", id="depth is no number"),
        pytest.param(json.dumps([{"start": 0, "length": 100, "data": True}]), "no depth", id="no depth"),
        pytest.param(json.dumps([extent(0, 1 << 63, 0, True)]), "no length", id="too long"),
    ],
)
def test_what_is_no_map(text: str, why: str) -> None:
    """What is not the whole map of the disk is an error, and never a map without data."""
    with pytest.raises(ValueError, match=why):
        total_of(text, 100, 0)


@given(st.text(alphabet='[]{},:" \n0123456789truefalsnd', max_size=60))
def test_any_text(text: str) -> None:
    """Whatever is printed, it is an error unless it is a map of the whole disk."""
    try:
        found: Mapping[tuple[int, bool], int] = total_of(text, 100, 0)
    except ValueError:
        return
    assert sum(found.values()) == 100


EXTENTS = st.lists(st.tuples(st.integers(1, 50), st.integers(0, 3), st.booleans()), max_size=8)


@given(EXTENTS, st.integers(0, 300))
def test_nothing_is_lost_in_adding_up(parts: list[tuple[int, int, bool]], base_size: int) -> None:
    """All bytes of a map are in its totals, each data byte as needed."""
    extents, end = [], 0
    for length, depth, data in parts:
        extents.append(extent(end, length, depth, data))
        end += length
    found = MapTotals(total_of(json.dumps(extents), end, base_size))
    assert found.size == end
    needed = sum(length for (_depth, is_needed), length in found.bytes_at.items() if is_needed)
    assert needed >= sum(length for length, _depth, data in parts if data)


# An image by its clusters: data, zeros, or nothing, which leads to the image below.
CHAIN = st.lists(st.lists(st.sampled_from(["data", "zeros", ""]), max_size=6), min_size=1, max_size=7)


def piece_of(chain: list[list[str]], depth: int, count: int) -> Piece:
    """What qemu-img tells of some images of a chain, below which an empty one stands for the others."""
    images = chain[depth : depth + count]
    if depth + count < len(chain):
        images = [*images, [""] * len(chain[depth + count])]
    extents = []
    for place in range(len(images[0])):
        # What is behind the end of a smaller image reads as zeros, as if they were in that image.
        seen = [(image[place : place + 1] or ["zeros"])[0] for image in images]
        at = next((at for at, each in enumerate(seen) if each), len(images) - 1)
        extents.append(extent(place, 1, at, seen[at] == "data"))
    return Piece(json.dumps(extents), depth, count, len(images[0]))


@given(CHAIN, st.integers(1, 7), st.integers(0, 7))
def test_a_chain_in_pieces(chain: list[list[str]], count: int, base_size: int) -> None:
    """However long the pieces are of which qemu-img was asked, the totals are those of the chain as a whole."""
    pieces = [piece_of(chain, depth, min(count, len(chain) - depth)) for depth in range(0, len(chain), count)]
    assert total(pieces, base_size) == total([piece_of(chain, 0, len(chain))], base_size)


def test_a_piece_that_is_cut_off() -> None:
    """What an image further down does not tell is an error where it is asked for, and never zeros."""
    above = Piece(json.dumps([extent(0, 40, 0, True), extent(40, 60, 1, False)]), 0, 1, 100)
    told = [extent(0, 50, 0, True)]
    assert total([above, Piece(json.dumps(told), 1, 1, 50)], 0) == {(0, True): 40, (1, True): 10, (1, False): 50}
    with pytest.raises(ValueError, match="of 50 bytes, the image has 70"):
        total([above, Piece(json.dumps(told), 1, 1, 70)], 0)
