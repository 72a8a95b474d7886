# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
import zipimport
from pathlib import Path

import pytest
from ansible_collections.virtops.qmp.plugins.module_utils import _archive

FILES = {"room/__init__.py": "", "room/deep/__init__.py": "NAME = __name__", "room/deep/file.py": "X = __file__"}
# In a process of its own: how Python imports is no matter of the tests' own.
LOOK = """
import builtins, json, runpy, sys
compiled = []
def count(source, name, *rest, real=compile, **named):
    compiled.append(name)
    return real(source, name, *rest, **named)
builtins.compile = count
if sys.argv[1] == "with":
    runpy.run_path(sys.argv[2])
compiled.clear()
sys.path.insert(0, sys.argv[3])
import room.deep.file
print(json.dumps([compiled, room.deep.file.X, room.deep.__file__]))
"""


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "payload.zip"
    with zipfile.ZipFile(path, "w") as payload:
        for name, text in FILES.items():
            payload.writestr(name, text)
    return path


@pytest.mark.parametrize("name", ["deep", "file"])
def test_where_a_file_lies(archive: Path, name: str) -> None:
    """As zipimport itself says it, of a package and of a file."""
    folder = f"{archive}/room" if name == "deep" else f"{archive}/room/deep"
    told = [each(folder).get_filename(name) for each in (_archive._Archive, zipimport.zipimporter)]
    assert told[0] == told[1]


@pytest.mark.parametrize("how", ["with", "without"])
def test_each_file_is_compiled_once(archive: Path, how: str) -> None:
    """Files and packages in an archive are found where they lie, and compiled once; without it, twice."""
    words = [sys.executable, "-c", LOOK, how, str(_archive.__file__), str(archive)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    compiled, file, package = json.loads(done.stdout)
    assert (file, package) == (f"{archive}/room/deep/file.py", f"{archive}/room/deep/__init__.py")
    times = 1 if how == "with" else 2
    assert sorted(compiled) == sorted([f"{archive}/{name}" for name in FILES] * times)
