# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Watch a long stream: the module of the same name in slices, with a line on each stream between two of them."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ansible.plugins.action import ActionBase

from ..plugin_utils._progress import Progress
from ..plugin_utils._slices import (
    Watch,
    as_asked,
    bind,
    call_arguments,
    errors_of,
    merge,
    next_cursor,
    next_slice,
    settle,
    still_watched,
    without_empty,
)
from ..plugin_utils._table import brief, plan, summary

# In a play of more hosts, each has a line in place of a table, unless -v is given.
_MOST_TABLES = 10


class ActionModule(ActionBase):
    """The action ``block_stream``."""

    _supports_async = True
    _now = staticmethod(time.monotonic)
    _parent = staticmethod(os.getppid)
    # Where the next attempt of an `until` loop begins its increment. Ansible reads the arguments of a task once, so the
    # loop itself cannot hand the cursor on. All its attempts run in one process, which ends with the task.
    _cursors: dict[str, int] = {}

    def run(self, tmp: None = None, task_vars: Mapping[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        self._controller = self._parent()
        arguments = without_empty(self._task.args)
        if "increment" not in arguments:
            return self._in_words(self._run(arguments, task_vars or {}), task_vars or {})
        task = repr(arguments)
        result = self._run({"cursor": self._cursors.get(task, 0), **arguments}, task_vars or {})
        self._cursors[task] = next_cursor(result)
        return self._in_words(result, task_vars or {})

    def _run(self, arguments: Mapping[str, Any], task_vars: Mapping[str, Any]) -> dict[str, Any]:
        watch = Watch.from_arguments(arguments)
        if watch is None or self._task.check_mode or self._task.async_val:
            wrap_async = self._task.async_val and not self._connection.has_native_async
            return self._call_module(module_args=dict(arguments), task_vars=task_vars, wrap_async=wrap_async)
        return self._watch(watch, arguments, task_vars)

    def _watch(self, watch: Watch, arguments: Mapping[str, Any], task_vars: Mapping[str, Any]) -> dict[str, Any]:
        began = self._now()
        progress = Progress(_host(task_vars))
        so_far: dict[str, Any] | None = None
        watched: list[Mapping[str, Any]] | None = None
        bound: Mapping[str, Any] | None = None
        deadline: Mapping[str, Any] | None = None
        while True:
            left = None if deadline is None else deadline["left"]
            part = next_slice(watch, self._now() - began, left)
            call = call_arguments(arguments, part, bound, deadline, watched or ())
            told = settle(self._call_module(module_args=call, task_vars=task_vars), watched, part)
            so_far = told if so_far is None else merge(so_far, told)
            watched = still_watched(told)
            deadline = told.get("deadline")
            # The monitor belongs to the next run then.
            if part.is_last or not watched or self._is_orphan:
                return as_asked(so_far, watch)
            bound = bind([*so_far["vms"], *told["vms"]], watched)
            self._print(progress.lines(told["disks"], watched))

    @property
    def _is_orphan(self) -> bool:
        """Whether the controller was killed, which its worker outlives."""
        return self._parent() != self._controller

    def _in_words(self, result: dict[str, Any], task_vars: Mapping[str, Any]) -> dict[str, Any]:
        """The result with what people read of it; a task that only starts something has nothing to tell yet."""
        if result.get("failed", False):
            result = {**result, "errors": errors_of(result)}
        if "disks" not in result:
            return result
        in_lines = plan if self._task.check_mode else summary
        lines = in_lines(result, shows_all=self._display.verbosity > 0)
        shown = brief(result) if self._is_one_of_many(task_vars) else lines
        if len(shown) == 1:
            self._print([f"{_host(task_vars)}: {shown[0]}"])
        elif shown:
            self._print([f"{_host(task_vars)}:", *shown])
        return {**result, "summary": lines}

    def _is_one_of_many(self, task_vars: Mapping[str, Any]) -> bool:
        """Whether the play has so many hosts that each gets a line; check mode is read before anything is done."""
        hosts = task_vars.get("ansible_play_hosts_all", ())
        return len(hosts) > _MOST_TABLES and not self._display.verbosity and not self._task.check_mode

    def _print(self, lines: Sequence[str]) -> None:
        """Print lines that stay together, whoever else prints."""
        if lines and not self._task.no_log and not self._is_orphan:
            # On stderr, so that what is on stdout stays what its callback prints.
            self._display.display("\n".join(lines), stderr=True)

    def _call_module(self, **arguments: Any) -> dict[str, Any]:
        result: dict[str, Any] = self._execute_module(**arguments)
        return result


def _host(task_vars: Mapping[str, Any]) -> str:
    host: str = task_vars.get("inventory_hostname", "localhost")
    return host
