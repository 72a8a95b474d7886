# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Addresses of the project's own files, which are absolute where Galaxy, ansible-doc or another site shows them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
REPOSITORY = yaml.safe_load((ROOT / "galaxy.yml").read_text())["repository"]
TEXTS = [
    *ROOT.glob("*.md"),
    ROOT / "galaxy.yml",
    *(ROOT / "docs" / "docsite").rglob("*.*"),
    *(ROOT / "plugins").rglob("*.py"),
    *(ROOT / "roles").rglob("*.*"),
]


def addresses() -> list[tuple[str, str]]:
    """Each address below the repository's host: the file that has it, and the address."""
    host = re.escape(REPOSITORY.split("/")[2])
    pattern = rf"https?://{host}/[^\s>)\"'`]*"
    return [(str(path.relative_to(ROOT)), found) for path in TEXTS for found in re.findall(pattern, path.read_text())]


def test_addresses_lead_to_files_of_this_checkout() -> None:
    """An address of a file begins with galaxy.yml's repository, and the rest of it is a file that is here."""
    prefix = f"{REPOSITORY}/blob/main/"
    others = {REPOSITORY, f"{REPOSITORY}/issues"}
    wrong = [(name, address) for name, address in addresses() if address not in others]
    assert [(name, address) for name, address in wrong if not address.startswith(prefix)] == []
    assert [(name, address) for name, address in wrong if not (ROOT / address[len(prefix) :]).is_file()] == []


@pytest.mark.parametrize("name", ["README.md"])
def test_galaxy_can_follow_each_link(name: str) -> None:
    """Galaxy shows the README alone: what it links to is an address or one of its own headings."""
    targets = re.findall(r"\]\(([^)\s]+)\)", (ROOT / name).read_text())
    assert targets
    assert [target for target in targets if not target.startswith(("https://", "#"))] == []
