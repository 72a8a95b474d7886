# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from ansible_collections.virtops.qmp.plugins.module_utils._decide._actions import is_change, weightier
from ansible_collections.virtops.qmp.plugins.module_utils._decide._plan import ACTIONS


@pytest.mark.parametrize(
    ("one", "other", "heavier"),
    [
        pytest.param("none", "none", "none", id="nothing"),
        pytest.param("none", "joined", "joined", id="joined"),
        pytest.param("joined", "retuned", "retuned", id="joined and retuned"),
        pytest.param("resumed", "retuned", "resumed", id="resumed and retuned"),
        pytest.param("started", "joined", "started", id="started and followed"),
        pytest.param("started", "stopped", "stopped", id="started and stopped"),
        pytest.param("joined", "paused", "paused", id="paused"),
    ],
)
def test_weightier(one: str, other: str, heavier: str) -> None:
    """The more telling of two actions is told, in whatever order they came."""
    assert [weightier(*pair) for pair in ((one, other), (other, one))] == [heavier, heavier]


def test_every_action_has_a_weight() -> None:
    """No action that a step is called can be missing where actions are compared."""
    assert {weightier("none", action) for action in ACTIONS.values()} == set(ACTIONS.values())


@pytest.mark.parametrize(
    ("action", "change"),
    [
        pytest.param("none", False, id="none"),
        pytest.param("joined", False, id="joined"),
        *[pytest.param(action, True, id=action) for action in ("retuned", "resumed", "paused", "started", "stopped")],
    ],
)
def test_is_change(action: str, change: bool) -> None:
    """To follow a stream that runs changes nothing, every other action does."""
    assert is_change(action) is change
