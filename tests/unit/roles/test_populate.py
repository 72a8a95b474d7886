# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""The role's options are written in three places: meta/argument_specs.yml, defaults/main.yml, and the module's own."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.virtops.qmp.plugins.module_utils._options import ACCESS_OPTIONS, STREAM_OPTIONS

ROLE = Path(__file__).resolve().parents[3] / "roles" / "populate"
# What the role is for is not left to its user, it populates, and waits; and what the task tells itself is its own.
NOT_OFFERED = {"state", "wait", "increment", "cursor", "bound", "paced"}
HANDED_ON = sorted(set(STREAM_OPTIONS) - NOT_OFFERED)
# A variable of a role cannot be left out: these are so by their defaults.
LEFT_OUT: dict[str, Any] = {"vms": [], "exclude": [], "images": []}
# Where an empty string leaves an option out, the role's type must let it pass; the module looks at what it is given.
MAY_BE_EMPTY = {"wait_timeout": {"type": "str"}}


def options() -> dict[str, dict[str, Any]]:
    specs = yaml.safe_load((ROLE / "meta" / "argument_specs.yml").read_text())
    found: dict[str, dict[str, Any]] = specs["argument_specs"]["main"]["options"]
    return found


def tasks() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for path in (ROLE / "tasks").iterdir():
        found += yaml.safe_load(path.read_text())
    return found


def test_defaults_are_the_documented_ones() -> None:
    """defaults/main.yml has the options with a default, each with the very value that its documentation names."""
    documented = {name: option["default"] for name, option in options().items() if "default" in option}
    assert yaml.safe_load((ROLE / "defaults" / "main.yml").read_text()) == documented


def test_every_option_is_read() -> None:
    """An option that is documented is used by the tasks."""
    text = "".join(path.read_text() for path in (ROLE / "tasks").iterdir())
    assert [name for name in options() if not re.search(rf"\b{name}\b", text)] == []


def test_every_option_of_the_module_is_offered() -> None:
    """Each option of block_stream is one of the role, but for those that would make it another role."""
    offered = {name.removeprefix("populate_") for name in options()}
    assert set(STREAM_OPTIONS) - offered == NOT_OFFERED


@pytest.mark.parametrize("name", HANDED_ON)
def test_options_are_those_of_the_module(name: str) -> None:
    """An option that is handed on takes what the module takes, and has the same default."""
    members = ["type", "elements", "choices"]
    if name != "disks":  # the module has none, so that nobody populates all by mistake; the role is for all
        members.append("default")
    ours, theirs = options()[f"populate_{name}"], STREAM_OPTIONS[name]
    if name in LEFT_OUT:
        theirs = {**theirs, "default": LEFT_OUT[name]}
    theirs = {**theirs, **MAY_BE_EMPTY.get(name, {})}
    assert [ours.get(member) for member in members] == [theirs.get(member) for member in members]


def test_every_option_is_handed_on_to_the_option_of_its_name() -> None:
    """The one task that works gets each option by its own name, and none is mixed up."""
    (work,) = (task["virtops.qmp.block_stream"] for task in tasks() if "virtops.qmp.block_stream" in task)
    assert sorted(work) == HANDED_ON
    for name, value in work.items():
        assert re.fullmatch(rf"{{{{ populate_{name}( \| default\(omit\))? }}}}", value)
        has_default = "default" in options()[f"populate_{name}"] or options()[f"populate_{name}"].get("required")
        assert ("omit" in value) is not bool(has_default)


def test_options_that_may_be_left_out_may_be_empty() -> None:
    """Each option without a default takes an empty string, a list as well, which the action leaves out."""
    optional = [option for option in options().values() if "default" not in option and not option.get("required")]
    assert {option["type"] for option in optional} == {"str", "list"}


def test_what_is_revoked_is_handed_on() -> None:
    """Each right in `populate_revoke` is an option of image_access, of its type, and gets there by its name."""
    (revoke,) = (task["virtops.qmp.image_access"] for task in tasks() if "virtops.qmp.image_access" in task)
    rights = options()["populate_revoke"]["options"]
    assert {name: right["type"] for name, right in rights.items()} == {
        name: ACCESS_OPTIONS[name]["type"] for name in ("mode", "owner", "group", "setype")
    }
    handed_on = {name: f"{{{{ populate_revoke.{name} | default(omit) }}}}" for name in rights}
    judged = {name: f"{{{{ item.{name} }}}}" for name in ("path", "device", "inode")}
    assert revoke == {**handed_on, **judged, "state": "revoked", "below": "{{ populate_revoke_below }}"}
    assert set(revoke) == set(ACCESS_OPTIONS)


def test_the_role_works_once() -> None:
    """There is one task that asks the VMs, so that a run of the role costs little more than that of the module."""
    assert sum(name.startswith("virtops.qmp.block_stream") for task in tasks() for name in task) == 1
