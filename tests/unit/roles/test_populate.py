# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""The role's options are written in three places: meta/argument_specs.yml, defaults/main.yml, and the modules' own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.virtops.qmp.plugins.doc_fragments.monitor import ModuleDocFragment
from ansible_collections.virtops.qmp.plugins.modules import block_stream

ROLE = Path(__file__).resolve().parents[3] / "roles" / "populate"
# What the role is for is not left to its user: it populates, and waits.
NOT_OFFERED = {"state", "wait", "increment", "cursor", "bound"}


def options() -> dict[str, dict[str, Any]]:
    specs = yaml.safe_load((ROLE / "meta" / "argument_specs.yml").read_text())
    found: dict[str, dict[str, Any]] = specs["argument_specs"]["main"]["options"]
    return found


def module_options() -> dict[str, dict[str, Any]]:
    pages = (ModuleDocFragment.DOCUMENTATION, block_stream.DOCUMENTATION)
    return {name: each for page in pages for name, each in yaml.safe_load(page)["options"].items()}


def test_defaults_are_the_documented_ones() -> None:
    """defaults/main.yml has the options with a default, each with the very value that its documentation names."""
    documented = {name: option["default"] for name, option in options().items() if "default" in option}
    assert yaml.safe_load((ROLE / "defaults" / "main.yml").read_text()) == documented


def test_every_option_is_read() -> None:
    """An option that is documented is used by the tasks or by what they decide from."""
    text = "".join((ROLE / path).read_text() for path in ("tasks/main.yml", "vars/main.yml"))
    assert [name for name in options() if name not in text.replace(f"{name}_", "")] == []


def test_every_option_of_the_module_is_offered() -> None:
    """Each option of block_stream is one of the role, but for those that would make it another role."""
    offered = {name.removeprefix("populate_") for name in options()}
    assert set(module_options()) - offered == NOT_OFFERED


@pytest.mark.parametrize("name", sorted(set(module_options()) - NOT_OFFERED))
def test_options_are_those_of_the_module(name: str) -> None:
    """An option that is handed on takes what the module takes, and has the same default."""
    members = ("type", "elements", "choices", *(["default"] if name != "disks" else []))
    ours, theirs = options()[f"populate_{name}"], module_options()[name]
    assert [ours.get(member) for member in members] == [theirs.get(member) for member in members]
