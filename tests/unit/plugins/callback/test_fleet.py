# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from ansible.utils.display import Display
from ansible_collections.virtops.qmp.plugins.callback.fleet import CallbackModule

TOLD: dict[str, Any] = {"errors": [], "disks": [], "released": []}


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is printed on stderr."""
    lines: list[str] = []

    def display(_self: Display, text: str, stderr: bool = False) -> None:
        assert stderr
        lines.extend(text.splitlines())

    monkeypatch.setattr(Display, "display", display)
    return lines


def told(host: str, result: dict[str, Any], action: str = "virtops.qmp.block_stream") -> Any:
    task = SimpleNamespace(resolved_action=action, _uuid="1", get_name=lambda: "Do it")
    return SimpleNamespace(_host=SimpleNamespace(get_name=lambda: host), _task=task, _result=result)


@pytest.mark.parametrize(
    ("event", "result", "options", "words"),
    [
        pytest.param("v2_runner_on_ok", TOLD, {}, None, id="ok"),
        pytest.param("v2_runner_item_on_ok", TOLD, {}, None, id="an item"),
        pytest.param("v2_runner_on_failed", {**TOLD, "errors": [{"msg": "why"}], "msg": "x"}, {}, "why", id="failed"),
        pytest.param("v2_runner_item_on_failed", {**TOLD, "errors": [{"msg": "why"}]}, {}, "why", id="an item failed"),
        pytest.param("v2_runner_on_failed", {"msg": "no module"}, {}, "Do it: no module", id="before it could tell"),
        pytest.param("v2_runner_on_failed", {"msg": "x"}, {"ignore_errors": True}, None, id="to be ignored"),
        pytest.param("v2_runner_on_unreachable", {"msg": "timed out"}, {}, "unreachable: timed out", id="unreachable"),
        pytest.param("v2_runner_on_unreachable", {}, {}, "unreachable: it failed", id="without a word"),
        pytest.param("v2_runner_on_ok", {"censored": "no_log"}, {}, None, id="censored"),
    ],
)
def test_what_is_heard(
    shown: list[str], event: str, result: dict[str, Any], options: dict[str, Any], words: str | None
) -> None:
    """Every result of block_stream is heard, and every host that failed or cannot be reached."""
    callback = CallbackModule()
    callback.v2_runner_on_ok(told("hv01", TOLD))
    getattr(callback, event)(told("hv02", result), **options)
    callback.v2_playbook_on_stats(None)
    assert shown[:1] == [""]
    assert [line.split("  ")[-1] for line in shown if line.startswith("hv02")] == ([words] if words else [])


def test_a_playbook_without_streams(shown: list[str]) -> None:
    """Nothing is printed where block_stream did not run."""
    callback = CallbackModule()
    callback.v2_runner_on_ok(told("hv01", {"errors": []}, "ansible.builtin.ping"))
    callback.v2_runner_on_failed(told("hv01", {"msg": "x"}, "ansible.builtin.ping"))
    callback.v2_playbook_on_stats(None)
    assert shown == []
