# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether the header of any image names another one, as far as the folders that were searched tell."""

from __future__ import annotations

from .._model._images import Asked, Search

# Who reads a reason wants to know where to begin.
_MOST_IN_WORDS = 3


def needed_by(asked: Asked, search: Search) -> list[str] | None:
    """The images whose headers name one; None where none was found and not all were read and understood."""
    if asked.named_by:
        return list(asked.named_by)
    # What leads to a link leads to another file.
    if asked.is_link or why_names_unknown(search) is not None:
        return None
    return []


def why_named(asked: Asked) -> str | None:
    """Say whose headers name an image; None where none was found."""
    count = len(asked.named_by)
    if not count:
        return None
    names = ", ".join(asked.named_by[:_MOST_IN_WORDS])
    if count > _MOST_IN_WORDS:
        names = f"{names} and {count - _MOST_IN_WORDS} more"
    return f"{names} {'names it in its header' if count == 1 else 'name it in their headers'}"


def why_names_unknown(search: Search) -> str | None:
    """Say why an image may be named by one that was not found to do so; None where all were read and understood."""
    if not search.folders:
        return "no folder was searched for images that name it"
    if not search.unread_count:
        return None
    first, others = search.unread[0], search.unread_count - 1
    more = f", and {others} more" if others else ""
    return f"whether an image names it in its header cannot be told: {first.path}: {first.why}{more}"
