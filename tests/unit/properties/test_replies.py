# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Recorded replies of real QEMUs, with a few places changed at random."""

from __future__ import annotations

import contextlib
import copy
from typing import Any, Iterator, List, Tuple  # noqa: UP035  # Python 3.8

import pytest
from ansible_collections.virtops.qmp.plugins.module_utils._model._errors import QmpError
from ansible_collections.virtops.qmp.plugins.module_utils._model._vm import Vm
from ansible_collections.virtops.qmp.tests.unit.builders import REPLIES, recorded, recorded_vm, vm_from
from hypothesis import given, settings
from hypothesis import strategies as st

NAMES = sorted(path.stem for path in REPLIES.glob("qemu-*.json"))
GONE = object()

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
)


def places(reply: Any, path: Tuple[Any, ...] = ()) -> Iterator[Tuple[Any, ...]]:  # noqa: UP006
    """The path of every value in a reply."""
    members = reply.items() if isinstance(reply, dict) else enumerate(reply) if isinstance(reply, list) else ()
    for key, value in members:
        yield (*path, key)
        yield from places(value, (*path, key))


def change(reply: Any, path: Tuple[Any, ...], value: Any) -> None:  # noqa: UP006
    """Put a value at a path, or take away what is there."""
    *way, last = path
    for key in way:
        reply = reply[key]
    if value is GONE:
        del reply[last]
    else:
        reply[last] = value


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=30, deadline=None, database=None, derandomize=True)
@given(st.data())
def test_changed_replies_are_read_or_refused(name: str, data: st.DataObject) -> None:
    """A reply is understood or refused with an error of ours, whatever stands in it."""
    answers = copy.deepcopy(recorded(name))
    paths = st.sampled_from(list(places(answers)))
    changes: List[Tuple[Tuple[Any, ...], Any]] = data.draw(  # noqa: UP006
        st.lists(st.tuples(paths, st.just(GONE) | values), min_size=1, max_size=3), "changes"
    )
    for path, value in changes:
        with contextlib.suppress(LookupError, TypeError):  # an earlier change took the place away
            change(answers, path, value)
    with contextlib.suppress(QmpError):
        assert isinstance(vm_from(answers), Vm)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=20, deadline=None, database=None, derandomize=True)
@given(st.data())
def test_what_is_missing_makes_no_disk_populated(name: str, data: st.DataObject) -> None:
    """A member that is missing is told, or changes nothing about which disks need no other image.

    But for what says that there is a medium at all, and for a graph in which the chain is not.
    """
    answers = copy.deepcopy(recorded(name))
    telling = {"inserted", "edges", "query-block", "x-debug-query-block-graph"}
    paths = [path for path in places(answers) if isinstance(path[-1], str) and path[-1] not in telling]
    change(answers, data.draw(st.sampled_from(paths), "missing"), GONE)
    before = {disk.key for disk in recorded_vm(name).disks if disk.is_populated}
    try:
        after = vm_from(answers)
    except QmpError:
        return
    same_keys = {disk.key for disk in recorded_vm(name).disks}
    assert {disk.key for disk in after.disks if disk.is_populated and disk.key in same_keys} <= before
