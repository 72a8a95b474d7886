# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.virtops.qmp.plugins.module_utils import _errors

PLUGINS = Path(_errors.__file__).resolve().parents[1]
UTILS = {path.stem: path for path in (PLUGINS / "module_utils").glob("*.py")}

PURE = {"_errors", "_graph", "_disk", "_job", "_vm", "_plan", "_release", "_select", "_schedule", "_outcome", "_report"}
# Who may import whom of module_utils; a file that is missing here has no place yet.
MAY_IMPORT = {
    "_errors": set(),
    "_graph": set(),
    "_disk": {"_graph"},
    "_job": {"_disk"},
    "_vm": {"_disk", "_graph", "_job"},
    "_plan": {"_disk", "_graph", "_job"},
    "_release": {"_disk", "_vm"},
    "_select": {"_disk", "_errors", "_job", "_vm"},
    "_schedule": {"_disk", "_errors", "_plan", "_select"},
    "_outcome": PURE - {"_report", "_schedule"},
    "_report": PURE,
    "_observe": PURE,
    "_watch": PURE | {"_observe"},
    "_stream": PURE | {"_observe", "_watch"},
    "_fleet": PURE | {"_observe", "_watch", "_stream"},
    "_monitor": {"_errors"},
    "_host": {"_errors", "_disk", "_release"},
    "_module": set(UTILS),
}
IMPURE_LIBRARIES = {
    "asyncio",
    "os",
    "socket",
    "subprocess",
    "time",
    "threading",
    "selectors",
    "pathlib",
    "ansible",
    "qemu",
}


def imports(path: Path) -> Iterator[str]:
    """What a file imports: `._disk` for a neighbour, `..module_utils._module` for one further off."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            dots = "." * node.level
            if node.module is None:
                yield from (f"{dots}{alias.name}" for alias in node.names)
            else:
                yield f"{dots}{node.module}"


def libraries(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imports(path) if not name.startswith(".")}


def neighbours(path: Path) -> set[str]:
    return {name.lstrip(".").split(".")[0] for name in imports(path) if name.startswith(".")}


def each(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (PLUGINS / folder).glob("*.py"))


def named(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


@pytest.mark.parametrize("name", sorted(UTILS))
def test_directions(name: str) -> None:
    """Every file of module_utils imports only those that it may, and every file has its place."""
    assert name in MAY_IMPORT
    assert neighbours(UTILS[name]) <= MAY_IMPORT[name]


@pytest.mark.parametrize("name", sorted(PURE))
def test_pure_files_do_nothing(name: str) -> None:
    """A file that decides imports nothing that acts, and knows no clock."""
    assert not libraries(UTILS[name]) & IMPURE_LIBRARIES


@pytest.mark.parametrize(
    ("library", "importers"),
    [
        pytest.param("qemu", {"_monitor"}, id="qemu.qmp"),
        pytest.param("ansible", {"_module"}, id="AnsibleModule"),
        pytest.param("subprocess", set(), id="no subprocess"),
        pytest.param("socket", {"_monitor"}, id="socket"),
    ],
)
def test_one_file_knows_a_library(library: str, importers: set[str]) -> None:
    """What reaches out of the collection does so in one place."""
    assert {name for name, path in UTILS.items() if library in libraries(path)} == importers


def test_no_decision_hangs_on_a_version() -> None:
    """QEMU's version is asked for, read and reported, and nothing else: differences are found by asking for them."""
    knowing = {name for name, path in UTILS.items() if re.search("qemu_version|query-version", path.read_text())}
    assert knowing == {"_observe", "_vm", "_report"}


@pytest.mark.parametrize("path", each("modules"), ids=named)
def test_modules_are_wiring(path: Path) -> None:
    """A module imports AnsibleModule and what runs it."""
    found = {name for name in imports(path) if name != "__future__"}
    assert found == {"ansible.module_utils.basic", "..module_utils._module"}


@pytest.mark.parametrize("path", each("action"), ids=named)
def test_actions_know_plugin_utils_only(path: Path) -> None:
    """What runs on the controller shares nothing with what runs on the target."""
    ours = {name for name in imports(path) if name.startswith(".")}
    assert all(name.startswith("..plugin_utils") for name in ours)
    assert not any(name.startswith("ansible_collections") for name in imports(path))


@pytest.mark.parametrize("path", each("plugin_utils"), ids=named)
def test_plugin_utils_are_pure(path: Path) -> None:
    """What the controller decides imports nothing that acts, and of the target's part what decides, too."""
    assert not libraries(path) & (IMPURE_LIBRARIES - {"ansible"})
    assert {name for name in imports(path) if name.startswith("ansible")} <= {"ansible.module_utils.common.validation"}
    assert {name for name in imports(path) if name.startswith("..")} <= {f"..module_utils.{name}" for name in PURE}


@pytest.mark.parametrize("path", each("action", "module_utils", "modules", "plugin_utils"), ids=named)
def test_nobody_sends_what_kills_qemu(path: Path) -> None:
    """query-named-block-nodes kills QEMU 7.2 while a stream is concluded: no string of the code is that command."""
    strings = [
        node.value
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    assert "query-named-block-nodes" not in [text.strip() for text in strings]
