# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import importlib
import json
import os
from pathlib import Path
from typing import Any, Callable  # noqa: UP035  # Python 3.8

import pytest
from ansible.module_utils import basic
from ansible_collections.virtops.qmp.plugins.module_utils import _module_access
from ansible_collections.virtops.qmp.plugins.module_utils._model._access import AskedImage, Revoked, Rights
from ansible_collections.virtops.qmp.plugins.module_utils._model._errors import ImageInUse, RightsNotSet, WrongRequest
from ansible_collections.virtops.qmp.plugins.module_utils._model._files import FileId
from ansible_collections.virtops.qmp.plugins.module_utils._module_access import asked_from, wanted_from

MODULE = "ansible_collections.virtops.qmp.plugins.modules.image_access"
RunModule = Callable[..., "dict[str, Any]"]


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> RunModule:
    """Run the module as Ansible does, and return what it prints."""

    def run(*, check: bool = False, **arguments: Any) -> dict[str, Any]:
        # Without a word to the syslog of this host: some Pythons refuse to write a NUL there.
        own = {"check_mode": check, "module_name": "virtops.qmp.image_access", "no_log": True}
        values = {**arguments, **{f"_ansible_{name}": value for name, value in own.items()}}
        monkeypatch.setattr(basic, "_ANSIBLE_ARGS", json.dumps({"ANSIBLE_MODULE_ARGS": values}).encode())
        monkeypatch.setattr(basic, "_ANSIBLE_PROFILE", "legacy", raising=False)
        with pytest.raises(SystemExit):
            importlib.import_module(MODULE).main()
        printed: dict[str, Any] = json.loads(capsys.readouterr().out)
        return printed

    return run


def test_an_image(module: RunModule, monkeypatch: pytest.MonkeyPatch) -> None:
    """The options reach the work as they are, and what it did is the result, with a diff."""
    asked: list[Any] = []

    def revoke(*words: Any, is_check: bool) -> Revoked:
        asked.extend([words[0], is_check])
        return Revoked("/g/$HOME", FileId(5, 6), Rights(1, 2, 0o644), Rights(0, 0, 0o400, "u:r:t"))

    monkeypatch.setattr(_module_access, "revoke", revoke)
    found = module(path="/g/$HOME", below=["/g", ""], mode="0400", device=5, inode="6", check=True)
    assert asked == [AskedImage("/g/$HOME", ("/g",), FileId(5, 6)), True]
    before = {"uid": 1, "gid": 2, "mode": "0644", "secontext": None}
    after = {"uid": 0, "gid": 0, "mode": "0400", "secontext": "u:r:t"}
    assert (found["changed"], found["errors"], found["device"], found["inode"]) == (True, [], 5, 6)
    assert (found["before"], found["after"]) == (before, after)
    assert found["diff"] == {"before_header": "/g/$HOME", "after_header": "/g/$HOME", "before": before, "after": after}


def test_a_real_file(module: RunModule, folder: Path) -> None:
    """The module works on a file of this host, and a second run changes nothing."""
    (folder / "image").write_text("")
    found = [module(path=f"{folder}/image", below=[str(folder)], mode="u=r,go=") for _again in range(2)]
    assert [each["changed"] for each in found] == [True, False]
    assert (folder / "image").stat().st_mode & 0o7777 == 0o400


@pytest.mark.parametrize(
    ("error", "words"),
    [
        pytest.param(ImageInUse("it is open"), "/g/a\\x0a: its rights stay as they are: it is open", id="refused"),
        pytest.param(RightsNotSet("its rights cannot"), "/g/a\\x0a: its rights cannot", id="not set"),
    ],
)
def test_a_failure(module: RunModule, monkeypatch: pytest.MonkeyPatch, error: Exception, words: str) -> None:
    """A failure names the image, as a terminal shows it, and what kind of failure it is."""

    def revoke(*_words: Any, is_check: bool) -> Revoked:
        raise error

    monkeypatch.setattr(_module_access, "revoke", revoke)
    found = module(path="/g/a\n", below=["/g"], mode="0400")
    assert (found["failed"], found["msg"]) == (True, words)
    assert [(each["kind"], each["msg"]) for each in found["errors"]] == [(type(error).__name__, words)]


GOOD: dict[str, Any] = {"path": "/g/a", "below": ["/g"], "mode": "0400"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param({"below": []}, "below is empty", id="no folder"),
        pytest.param({"below": [""]}, "below is empty", id="an empty string is no folder"),
        pytest.param({"below": ["g"]}, "below has 'g', which is not absolute", id="a relative folder"),
        pytest.param({"below": ["/g/../h"]}, "below has '/g/../h', with '..' in it", id="a folder above"),
        pytest.param({"path": "a"}, "path has 'a', which is not absolute", id="a relative path"),
        pytest.param({"path": "~/a"}, "path has '~/a', which is not absolute", id="a home"),
        pytest.param({"path": "/g/../etc/shadow"}, "with '..' in it", id="a path that goes up"),
        pytest.param({"path": "/g/a\0b"}, "which no file can be called", id="a zero"),
        pytest.param({"path": "/g/"}, "path is '/g/', which is a folder", id="a folder"),
        pytest.param({"path": "/"}, "path is '/', which is a folder", id="the root"),
        pytest.param({"path": "/."}, "path is '/.', which is a folder", id="the root again"),
        pytest.param({"setype": "a:b"}, "setype is 'a:b', which is no type", id="a whole context"),
        pytest.param({"setype": "_default"}, "setype is '_default', which is no type", id="what file has"),
        pytest.param({"owner": "no such user"}, "owner is 'no such user', which nobody on this host", id="a user"),
        pytest.param({"group": "no\0"}, "group is 'no\\x00', which nobody on this host", id="a group"),
        pytest.param({"owner": ""}, "owner is '', which nobody", id="an empty string is no user"),
        pytest.param({"owner": "-1"}, "owner is '-1', which nobody", id="a negative number"),
        pytest.param({"owner": str(2**32 - 1)}, "it must be from 0 to 4294967294", id="what means: as it is"),
        pytest.param({"mode": ""}, "mode is '', which is neither octal", id="an empty mode"),
        pytest.param({"mode": "u"}, "mode is 'u', which is neither octal", id="no operator"),
        pytest.param({"mode": "0800"}, "mode is '0800', which is neither octal", id="not octal"),
        pytest.param({"mode": True}, "mode is True, which is neither octal", id="a boolean"),
        pytest.param({"mode": ["0400"]}, "mode is ['0400'], which is neither octal", id="a list"),
        pytest.param({"mode": "10400"}, "mode is '10400', which has more than permissions", id="a file's type"),
        pytest.param({"mode": -1}, "mode is -1, which has more than permissions", id="a negative mode"),
        pytest.param({"mode": "ua=r"}, "bad symbolic permission for mode: ua=r", id="what Ansible cannot read"),
    ],
)
def test_options_that_are_refused(module: RunModule, arguments: dict[str, Any], words: str) -> None:
    """An option that is invalid is refused with its name, before any file is touched."""
    found = module(**{**GOOD, **arguments})
    assert words in found["msg"]
    assert [each["kind"] for each in found["errors"]] == ["WrongRequest"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param({"mode": None}, "one of the following is required: owner, group, mode, setype", id="no rights"),
        pytest.param({"inode": 1}, "required together: device, inode", id="half a file"),
        pytest.param({"state": "granted"}, "value of state must be one of", id="a state"),
        pytest.param({"below": None}, "missing required arguments: below", id="without bounds"),
    ],
)
def test_options_that_ansible_refuses(module: RunModule, arguments: dict[str, Any], words: str) -> None:
    """What goes together, and what is required, Ansible sees to."""
    found = module(**{name: value for name, value in {**GOOD, **arguments}.items() if value is not None})
    assert words in found["msg"]


@pytest.mark.parametrize(
    ("mode", "before", "after"),
    [
        pytest.param("0400", 0o644, 0o400, id="octal"),
        pytest.param("0o400", 0o644, 0o400, id="as Python writes it"),
        pytest.param("0", 0o644, 0, id="nothing"),
        pytest.param(0o400, 0o644, 0o400, id="a number"),
        pytest.param("u=r,go=", 0o644, 0o400, id="symbolic"),
        pytest.param("o-rwx,g-w", 0o666, 0o640, id="taken away"),
        pytest.param("u=rw,g=u-w,o=X", 0o755, 0o641, id="by each other"),
        pytest.param("a=", 0o7777, 0, id="all of it"),
    ],
)
def test_modes(mode: Any, before: int, after: int) -> None:
    """Permissions are read as ansible.builtin.file reads them."""
    wanted = wanted_from({"owner": None, "group": None, "mode": mode, "setype": "a_t"})
    assert wanted.mode is not None
    assert (wanted.mode(before), wanted.setype) == (after, "a_t")


def test_users_by_name_and_by_number() -> None:
    """A user and a group are named, or numbered."""
    nobody = wanted_from({"owner": "root", "group": "0", "mode": None, "setype": None})
    assert (nobody.owner, nobody.group, nobody.mode) == (0, 0, None)
    assert wanted_from({"owner": "4242", "group": "root", "mode": None, "setype": None}).owner == 4242


def test_a_name_that_is_no_utf_8() -> None:
    """A name of any bytes can be asked for, as Python writes it."""
    path = os.fsdecode(b"/g/\xff")
    assert asked_from({"path": path, "below": ["/g"], "device": None, "inode": None}) == AskedImage(path, ("/g",), None)


def test_a_name_that_no_file_can_have() -> None:
    """Half a character is refused; ansible-core itself does not even pass it on."""
    with pytest.raises(WrongRequest, match="which no file can be called"):
        asked_from({"path": "/g/\ud800", "below": ["/g"], "device": None, "inode": None})
