# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.virtops.qmp.plugins.module_utils._model import _errors

PLUGINS = Path(_errors.__file__).resolve().parents[2]
UTILS = {str(path.relative_to(PLUGINS / "module_utils")): path for path in (PLUGINS / "module_utils").rglob("*.py")}

# Who may import whom of module_utils; a folder that is missing here has no place yet.
MAY_IMPORT = {
    "_model": {"_model"},
    "_decide": {"_model", "_decide"},
    "_reach": {"_model", "_reach"},
    "_run": {"_model", "_decide", "_run"},
    "_options.py": {"_model"},
    "_archive.py": set(),
    "_module.py": {"_archive.py", "_model", "_decide", "_reach", "_run"},
    # A module's own border; the one that reaches VMs is common to them.
    "_module_access.py": {"_archive.py", "_model", "_decide", "_reach", "_run"},
    "_module_images.py": {"_module.py", "_model", "_run"},
    "_module_info.py": {"_module.py", "_model", "_run"},
    "_module_stream.py": {"_module.py", "_model", "_decide", "_run"},
}
PURE = ("_model", "_decide")
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
    "libvirt",
    "libvirt_qemu",
}


def room(path: Path) -> str:
    """The folder of module_utils that a file is in; a file beside the folders is a room of its own."""
    return path.relative_to(PLUGINS / "module_utils").parts[0]


def imports(path: Path) -> Iterator[str]:
    """What a file imports: `._disk` for a neighbour, `.._model._disk` for one in another room."""
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


def file_of(path: Path, name: str) -> Path:
    """The file that `path` imports by this name."""
    depth = len(name) - len(name.lstrip("."))
    return path.parents[depth - 1].joinpath(*name.lstrip(".").split(".")).with_suffix(".py")


def rooms_used(path: Path) -> set[str]:
    """The rooms whose files a file of module_utils imports."""
    used = set()
    for name in imports(path):
        depth = len(name) - len(name.lstrip("."))
        if depth:
            file = path.parents[depth - 1].joinpath(*name.lstrip(".").split("."))
            file = file if file.is_dir() else file.with_suffix(".py")
            assert file.exists(), f"{path} imports {name}, which is not there"
            used.add(room(file))
    return used


def each(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (PLUGINS / folder).rglob("*.py"))


def named(path: Path) -> str:
    return str(path.relative_to(PLUGINS))


@pytest.mark.parametrize("path", UTILS.values(), ids=named)
def test_directions(path: Path) -> None:
    """Every file of module_utils imports only from the rooms that its own may know, and every room has its place."""
    assert room(path) in MAY_IMPORT
    assert rooms_used(path) <= MAY_IMPORT[room(path)]


@pytest.mark.parametrize("path", [path for path in UTILS.values() if room(path) in PURE], ids=named)
def test_pure_rooms_do_nothing(path: Path) -> None:
    """A file that decides imports nothing that acts, and knows no clock."""
    assert not libraries(path) & IMPURE_LIBRARIES


@pytest.mark.parametrize(
    ("library", "importers"),
    [
        pytest.param("qemu", {"_reach/_qmp.py"}, id="qemu.qmp"),
        pytest.param("ansible", {name for name in UTILS if name.startswith("_module")}, id="AnsibleModule"),
        pytest.param("libvirt", {"_reach/_libvirt.py"}, id="libvirt"),
        pytest.param("libvirt_qemu", {"_reach/_libvirt.py"}, id="libvirt's way to QEMU"),
        pytest.param("subprocess", set(), id="no subprocess"),
        pytest.param(
            "socket",
            {"_reach/_qmp.py", "_reach/_peer.py", "_reach/_runs.py", "_reach/_sockets.py", "_reach/_ahead.py"},
            id="socket",
        ),
    ],
)
def test_one_file_knows_a_library(library: str, importers: set[str]) -> None:
    """What reaches out of the collection does so in one place."""
    assert {name for name, path in UTILS.items() if library in libraries(path)} == importers


def test_two_decisions_hang_on_a_version() -> None:
    """QEMU's version is read and reported. Only what aborts an old QEMU, and cannot be asked for, needs it."""
    knowing = {name for name, path in UTILS.items() if re.search("qemu_version|query-version", path.read_text())}
    deciding = {"_decide/_fit.py", "_decide/_ahead.py"}
    assert knowing == {"_reach/_qemu.py", "_model/_vm.py", "_decide/_report.py", *deciding}


@pytest.mark.parametrize("path", each("modules"), ids=named)
def test_modules_are_wiring(path: Path) -> None:
    """A module imports AnsibleModule and what runs it."""
    found = {name for name in imports(path) if name != "__future__"}
    borders = {name for name in found if name.startswith("..module_utils._module")}
    assert found - borders == {"ansible.module_utils.basic", "..module_utils._options"}
    assert len(borders - {"..module_utils._module"}) == 1


def test_what_touches_files_needs_no_qemu() -> None:
    """image_access works where qemu.qmp is not installed: nothing that it imports, however far away, imports that."""
    seen: set[Path] = set()
    ahead = [UTILS["_module_access.py"]]
    while ahead:
        path = ahead.pop()
        seen.add(path)
        ours = [name for name in imports(path) if name.startswith(".")]
        files = [file_of(path, name) for name in ours]
        ahead += [file for file in files if file not in seen]
    assert not any("qemu" in libraries(path) for path in seen)
    assert len(seen) > 5


@pytest.mark.parametrize("path", each("action", "callback"), ids=named)
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
    theirs = [name for name in imports(path) if name.startswith("..")]
    assert all(name.startswith(tuple(f"..module_utils.{room}." for room in PURE)) for name in theirs)


@pytest.mark.parametrize("path", each("action", "callback", "module_utils", "modules", "plugin_utils"), ids=named)
def test_nobody_sends_what_kills_qemu(path: Path) -> None:
    """query-named-block-nodes kills QEMU 7.2 while a stream is concluded: no string of the code is that command."""
    strings = [
        node.value
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    assert "query-named-block-nodes" not in [text.strip() for text in strings]


def strings(path: Path) -> set[str]:
    """Every string of a file that is no docstring of more than a word."""
    constants = [node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)]
    return {value for value in constants if isinstance(value, str)}


@pytest.mark.parametrize("path", [path for path in UTILS.values() if room(path) in ("_run", "_decide")], ids=named)
def test_nobody_else_spells_a_command(path: Path) -> None:
    """What is sent to QEMU is spelled in `_reach/_qemu.py`; who decides or leads knows verbs only."""
    spelled = {text for text in strings(UTILS["_reach/_qemu.py"]) if re.fullmatch(r"[a-z]+(-[a-z]+)+", text)}
    assert {"block-stream", "job-finalize", "query-block", "x-debug-query-block-graph"} <= spelled
    assert not strings(path) & (spelled - {"base-node"})


LOADED = """
import sys
from ansible_collections.virtops.qmp.plugins.module_utils._reach._host import LinuxHost
from ansible_collections.virtops.qmp.plugins.modules import {module}
print(*sys.modules)
LinuxHost(None).make_ready()
print(*sys.modules)
"""


@pytest.mark.parametrize("module", ["block_stream", "block_stream_info"])
def test_what_most_tasks_do_not_need_is_loaded_late(module: str) -> None:
    """Each file is compiled in each task anew: what only the end of a stream takes is loaded when one runs."""
    words = [sys.executable, "-c", LOADED.format(module=module)]
    # Where this process has its modules from, which ansible-test tells to nobody else.
    path = os.pathsep.join([str(Path(_errors.__file__).parents[6]), *sys.path])
    environ = {**os.environ, "PYTHONPATH": path}
    told = subprocess.run(words, capture_output=True, text=True, check=True, env=environ).stdout
    at_first, when_ready = (set(line.split()) for line in told.splitlines())
    here = _errors.__name__.replace("._model._errors", "")
    for_the_end = {f"{here}.{name}" for name in ("_reach._lease", "_reach._map", "_reach._users")}
    late = {f"{here}.{name}" for name in ("_decide._copied", "_decide._verdict", "_decide._forecast", "_model._domain")}
    assert f"{here}._reach._qemu" in at_first
    assert not at_first & (for_the_end | late | {"xml", "libvirt"})
    assert for_the_end <= when_ready
