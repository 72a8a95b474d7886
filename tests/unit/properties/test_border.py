# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Some of the lies that a VM can tell; `python -m campaign --fuzz` tells them all."""

from __future__ import annotations

import functools

import pytest
from ansible_collections.virtops.qmp.tests.unit import lies
from ansible_collections.virtops.qmp.tests.unit.lies import Lie

BLOCK = ("query-block", 0, "inserted", "image")
GRAPH = ("x-debug-query-block-graph",)
# Each was a traceback, a hang, or somebody else's loss.
KNOWN = [
    Lie("qemu-7.2-drive", (*BLOCK, "virtual-size"), "text", 0),
    Lie("qemu-7.2-drive", (*BLOCK, "virtual-size"), "not a number", 1),
    Lie("qemu-7.2-drive", (*BLOCK, "actual-size"), "2^60", 0),
    Lie("qemu-7.2-drive", (*BLOCK, "backing-image"), "missing", 0),
    Lie("qemu-7.2-drive", (*BLOCK, "backing-image"), "missing", 1),
    Lie("qemu-7.2-drive", (*BLOCK, "filename"), "2,000,000 characters", 0),
    Lie("qemu-7.2-drive", (*BLOCK, "filename"), "control characters", 0),
    Lie("qemu-7.2-drive", (*BLOCK, "filename"), "NUL", 0),
    Lie("qemu-7.2-drive", (*BLOCK, "filename"), "a json: name of 1000 floors", 0),
    Lie("qemu-7.2-drive", BLOCK, "objects of 5,000 floors", 1),
    Lie("qemu-7.2-named-nodes", GRAPH, "a graph of 2^40 ways", 0),
    Lie("qemu-7.2-named-nodes", (*GRAPH, "edges", 0, "child"), "2^63", 0),
    Lie("qemu-7.2-drive", ("query-name", "name"), "2,000,000 characters", 0),
    Lie("qemu-7.2-drive", ("query-name", "name"), "control characters", 1),
    Lie("qemu-7.2-drive", ("query-name", "name"), "half a character", 0),
    Lie("qemu-7.2-drive", ("query-status", "status"), "inmigrate", 0),
    Lie("qemu-7.2-drive", ("query-chardev", 0, "label"), "charmonitor", 0),
    Lie("qemu-7.2-drive", ("query-block",), "100,000 empty objects", 0),
    Lie("qemu-7.2-running", ("query-block-jobs", 0, "offset"), "a number of 4000 digits", 1),
    Lie("qemu-7.2-running", ("query-block-jobs", 0, "status"), "pending", 1),
    Lie("qemu-7.2-drive", (lies.EVENT, "data", "offset"), "not a number", 0),
    Lie("qemu-7.2-drive", (lies.EVENT, "data"), "lists of 100,000 floors", 0),
]


@functools.lru_cache(maxsize=None)  # noqa: UP033  # Python 3.8
def honestly(recording: str) -> lies.Told:
    return lies.told_honestly(recording)


@pytest.mark.parametrize("lie", KNOWN, ids=str)
def test_a_lie_that_did_harm(lie: Lie) -> None:
    """It costs the other VM nothing, and makes no disk of the liar's populated."""
    assert lies.complaints(lie, honestly(lie.recording)) == []


@pytest.mark.parametrize("seed", range(5))
def test_lies_by_chance(seed: int) -> None:
    """Thirty of all of them."""
    for lie in lies.some_lies(seed, 30):
        assert lies.complaints(lie, honestly(lie.recording)) == [], lie


@pytest.mark.parametrize("recording", lies.RECORDINGS)
def test_the_truth_costs_nobody_anything(recording: str) -> None:
    """The judge finds nothing where nobody lies, and knows the good VM's stream from none."""
    told = honestly(recording)
    lie = Lie(recording, ("query-version", "package"), "text", 0)
    assert lies.complaints(lie, told) == []
    assert [disk["action"] for disk in told.stream["disks"] if disk["vm"] == "good"] == ["started"]
