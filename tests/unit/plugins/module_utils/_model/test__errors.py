# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import inspect
import re

import pytest
from ansible_collections.virtops.qmp.plugins.module_utils._model import _errors
from ansible_collections.virtops.qmp.plugins.module_utils._model._errors import Failure, WrongRequest

LEAVES = [
    each
    for _name, each in inspect.getmembers(_errors, inspect.isclass)
    if issubclass(each, Exception) and not each.__subclasses__()
]


def drawn_tree() -> dict[str, str]:
    """The tree in the docstring of the file: each name and the name above it."""
    above: dict[int, str] = {}
    tree = {}
    for line in (_errors.__doc__ or "").splitlines():
        match = re.match(r"    ([| +-]*)([A-Z]\w+)(?:  .*)?$", line)
        if match:
            depth = len(match.group(1)) // 4
            above[depth] = match.group(2)
            tree[match.group(2)] = above.get(depth - 1, "Exception")
    return tree


def test_the_drawn_tree_is_the_tree() -> None:
    """The tree that the docstring draws is the one that the code has."""
    classes = [each for _name, each in inspect.getmembers(_errors, inspect.isclass) if issubclass(each, Exception)]
    assert drawn_tree() == {each.__name__: each.__mro__[1].__name__ for each in classes}


@pytest.mark.parametrize("leaf", LEAVES, ids=lambda leaf: leaf.__name__)
def test_every_leaf_is_caught_as_qmp_error(leaf: type[Exception]) -> None:
    """Whoever catches QmpError catches everything that the collection raises on purpose."""
    assert issubclass(leaf, _errors.QmpError)


def test_a_refusal_tells_the_command_and_the_reason() -> None:
    """CommandRefused keeps QEMU's words and says which command they answer."""
    error = _errors.CommandRefused("block-stream", "Node 'top' is busy")
    assert (error.command, error.reason) == ("block-stream", "Node 'top' is busy")
    assert str(error) == "QEMU refused block-stream: Node 'top' is busy"


def test_each_problem_is_a_failure() -> None:
    """Nobody has to take a text apart to see what was wrong with a request."""
    error = WrongRequest("no vda", "no vdb")
    assert str(error) == "no vda\nno vdb"
    assert Failure.each_of(error) == (Failure("WrongRequest", "no vda"), Failure("WrongRequest", "no vdb"))


def test_a_defect_is_told_with_its_place() -> None:
    """What nobody foresaw names the disk, says that it is a defect, and where."""

    def stumble() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError) as stumbled:
        stumble()
    failure = Failure.of_defect(stumbled.value, "vm0: disk vda")
    assert failure.kind == "Defect"
    assert failure.message.startswith("vm0: disk vda: a defect of virtops.qmp")
    assert "KeyError in stumble, line" in failure.message


def test_a_defect_that_was_never_raised_has_no_place() -> None:
    """It is told all the same."""
    assert Failure.of_defect(ValueError("v"), "x").message.endswith("(ValueError: v)")
