# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.virtops.qmp.plugins.module_utils._decide._released import each_once, unanswered, weigh

USER = "disk vdb of VM web02"


def released(free: bool | None, path: str = "/golden", **members: Any) -> dict[str, Any]:
    """An element of `released`, whose reason is its verdict in words."""
    return {"path": path, "free": free, "reason": None if free else f"because {free}", **members}


@pytest.mark.parametrize(
    ("free", "chains", "silent", "verdict", "reason"),
    [
        pytest.param(True, {}, [], True, None, id="free"),
        pytest.param(None, {}, [], None, "because None", id="unknown"),
        pytest.param(False, {}, [], False, "because False", id="in use"),
        pytest.param(True, {"/golden": USER}, [], False, f"it is in the chain of {USER}", id="free, and in a chain"),
        pytest.param(None, {"/golden": USER}, [], False, f"it is in the chain of {USER}", id="unknown, in a chain"),
        pytest.param(False, {"/golden": USER}, ["/m"], False, "because False", id="in use stays in use"),
        pytest.param(True, {"/other": USER}, [], True, None, id="another image is in a chain"),
        pytest.param(
            True, {}, ["/a", "/b"], None, "not every VM that may need it has answered: /a, /b", id="free, and silence"
        ),
        pytest.param(None, {}, ["/a"], None, "because None", id="unknown, and silence: the first reason stays"),
        pytest.param(True, {"/golden": USER}, ["/a"], False, f"it is in the chain of {USER}", id="a chain says more"),
    ],
)
def test_weigh(free: bool | None, chains: dict[str, str], silent: list[str], verdict: bool | None, reason: Any) -> None:
    """A verdict holds only as long as no VM that can be asked has the image, and every VM could be asked."""
    (found,) = weigh([released(free, pids=[7])], chains, silent)
    assert found == {"path": "/golden", "free": verdict, "reason": reason, "pids": [7]}


@pytest.mark.parametrize(
    ("verdicts", "least"),
    [
        pytest.param([True], True, id="one"),
        pytest.param([True, True], True, id="all call it free"),
        pytest.param([True, None], None, id="unknown outweighs free"),
        pytest.param([None, True], None, id="in any order"),
        pytest.param([True, False], False, id="in use outweighs free"),
        pytest.param([None, False, True], False, id="in use outweighs all"),
        pytest.param([False, None], False, id="in any order, too"),
    ],
)
def test_the_least_free_wins(verdicts: list[bool | None], least: bool | None) -> None:
    """An image that several disks gave up is told once, and is free only if all of them call it so."""
    assert each_once([released(free) for free in verdicts]) == [released(least)]


def test_images_keep_their_order() -> None:
    """Each is told where it came first."""
    images = [released(True, "/b"), released(True, "/a"), released(None, "/b")]
    assert each_once(images) == [released(None, "/b"), released(True, "/a")]
    assert each_once([]) == []


@pytest.mark.parametrize(
    ("kinds", "monitors"),
    [
        pytest.param(["MonitorSilent", "MonitorLost", "MonitorMissing", "MonitorUnusable"], "0123", id="no answer"),
        pytest.param(["StreamFailed", "TimeIsUp", "WrongRequest", None], "", id="answers that are no good news"),
        pytest.param(["StreamFailed", "MonitorLost"], "1", id="one of two"),
    ],
)
def test_unanswered(kinds: list[str | None], monitors: str) -> None:
    """Only errors of a monitor leave in the dark what a VM needs."""
    errors = [{"kind": kind, "monitor": str(number), "domain": None} for number, kind in enumerate(kinds)]
    assert unanswered([*errors, *errors]) == list(monitors)


def test_unanswered_of_libvirt() -> None:
    """A domain is called by its name; where libvirt does not answer, no domain is known to have."""
    silent = [{"kind": "MonitorSilent", "monitor": None, "domain": name} for name in ("web01", None)]
    assert unanswered(silent) == ["libvirt itself", "web01"]
