# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""What ansible-doc shows of the modules, as far as the tools that check documentation leave it open."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted(path.stem for path in (ROOT / "plugins" / "modules").glob("*.py"))
LONGEST_TITLE = 60


def documents(module: str) -> dict[str, Any]:
    """DOCUMENTATION, EXAMPLES and RETURN of a module, parsed."""
    tree = ast.parse((ROOT / "plugins" / "modules" / f"{module}.py").read_text())
    found = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found[node.targets[0].id] = yaml.safe_load(ast.literal_eval(node.value))
    return found


def unlike(value: Any, document: dict[str, Any], name: str) -> Iterator[str]:
    """Where a sample has other fields than its documentation, or one of them has no fields at all."""
    for element in value if isinstance(value, list) else [value]:
        if isinstance(element, dict):
            fields = document.get("contains", {})
            if list(element) != list(fields):
                yield f"{name} has {list(element)}, documented is {list(fields)}"
            for key in fields:
                yield from unlike(element.get(key), fields[key], f"{name}.{key}")


@pytest.mark.parametrize("module", MODULES)
def test_every_field_of_a_result_is_documented(module: str) -> None:
    """Each returned dictionary lists its fields, in the order of the sample."""
    returned = documents(module)["RETURN"]
    assert [line for name in returned for line in unlike(returned[name]["sample"], returned[name], name)] == []


@pytest.mark.parametrize("module", MODULES)
def test_examples_become_root(module: str) -> None:
    """Each task of the examples that works on the hypervisor says that it needs root there."""
    tasks = documents(module)["EXAMPLES"]
    assert [task["name"] for task in tasks if not task.get("become") and "ansible.builtin.debug" not in task] == []


def test_titles_are_short() -> None:
    """A title of a module or a role fits a line of a table of contents."""
    titles = [documents(module)["DOCUMENTATION"]["short_description"] for module in MODULES]
    for spec in sorted(ROOT.glob("roles/*/meta/argument_specs.yml")):
        titles.append(yaml.safe_load(spec.read_text())["argument_specs"]["main"]["short_description"])
    assert [title for title in titles if len(title) > LONGEST_TITLE] == []
