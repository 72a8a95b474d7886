# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What leaves the collection: every text so that a terminal shows it, and nothing that is no JSON.

Names are a guest's: a line feed in one would make a line of its own on the controller's terminal, an escape colours it,
and a bidirectional override turns it around. Inside the collection names stay as they are, for they name files.
"""

from __future__ import annotations

import math
import re
from typing import Any

# Longer than any path, and than a list of some hundred names. It is still read by people.
MOST_SHOWN = 8192

# C0, DEL and C1; line and paragraph separators; marks, overrides and isolates of the bidirectional algorithm; what is
# shown as nothing at the beginning of a text; and what is no character: half a surrogate pair, and the last two of the
# first plane. Joiners stay: scripts and emoji are written with them.
_UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ud800-\udfff\ufeff\ufff9-\ufffb\ufffe\uffff]"
)


def printable(text: str, most: int = MOST_SHOWN) -> str:
    r"""The text with everything escaped that would not be shown as a character: ``\x0a``, ``\u202e``.

    :param most: so many characters of the text are shown, and how many more there are.
    """
    shown = _UNPRINTABLE.sub(_escaped, text[:most])
    left = len(text) - most
    return shown if left <= 0 else f"{shown}... ({left} more characters)"


def presentable(value: Any) -> Any:
    """The same of every text in a result, the keys of mappings included; a number that JSON does not have is None."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {printable(key): presentable(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [presentable(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _escaped(character: re.Match[str]) -> str:
    code = ord(character.group())
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
