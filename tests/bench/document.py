# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""The tables of a page: what stands between `.. bench: SECTION` and `.. bench: end` is written anew."""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from .measure import Figure

PAGE = "guide_speed.rst"
# Tables that belong to another page.
OTHER_PAGES = {"guest": "guide_windows.rst"}


def as_rst(figure: Figure) -> str:
    """A table with the title above it."""
    lines = [f".. list-table:: {figure.title}", "   :header-rows: 1", "   :widths: 40 15 30 15", ""]
    for row in figure.rows():
        # Two hyphens would become a dash.
        cells = [f"``{cell}``" if "--" in cell else cell for cell in row]
        lines += [f"   {'* -' if column == 0 else '  -'} {cell}".rstrip() for column, cell in enumerate(cells)]
    return "\n".join(lines)


def write_tables(folder: Path, circumstances: str, sections: Mapping[str, Sequence[Figure]]) -> None:
    """Put the tables of these sections into the page in the folder, and leave the others as they are."""
    parts = {name: "\n\n".join(map(as_rst, figures)) for name, figures in sections.items()}
    for name, part in {"with": f"{circumstances}.", **parts}.items():
        page = folder / OTHER_PAGES.get(name, PAGE)
        text = page.read_text()
        region = re.compile(rf"(^\.\. bench: {name}\n\n).*?(^\.\. bench: end$)", re.DOTALL | re.MULTILINE)
        # A function, for a text would have its backslashes read as references to groups.
        text, count = region.subn(partial(_filled, part), text)
        assert count == 1, f"{page} has no place for {name}"
        page.write_text(text)


def _filled(part: str, region: re.Match[str]) -> str:
    return f"{region[1]}{part}\n\n{region[2]}"
