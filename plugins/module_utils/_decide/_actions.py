# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The words for what was done to a disk: which says more, and which is a change."""

from __future__ import annotations

_WEIGHTS = ("none", "joined", "retuned", "resumed", "paused", "started", "stopped")


def weightier(one: str, other: str) -> str:
    """The action that says more about what happened to a disk: a stream that was joined, then stopped, was stopped."""
    return max(one, other, key=_WEIGHTS.index)


def is_change(action: str) -> bool:
    """Whether an action by itself changed something."""
    return action not in ("none", "joined")
