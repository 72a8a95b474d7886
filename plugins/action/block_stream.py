# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Watch a long stream: the module of the same name in slices, with a line on each stream between two of them."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
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
from ..plugin_utils._table import summary


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
        arguments = without_empty(self._task.args)
        if "increment" not in arguments:
            return _in_words(self._run(arguments, task_vars or {}))
        task = repr(arguments)
        result = self._run({"cursor": self._cursors.get(task, 0), **arguments}, task_vars or {})
        self._cursors[task] = next_cursor(result)
        return _in_words(result)

    def _run(self, arguments: Mapping[str, Any], task_vars: Mapping[str, Any]) -> dict[str, Any]:
        watch = Watch.from_arguments(arguments)
        if watch is None or self._task.check_mode or self._task.async_val:
            wrap_async = self._task.async_val and not self._connection.has_native_async
            return self._call_module(module_args=dict(arguments), task_vars=task_vars, wrap_async=wrap_async)
        return self._watch(watch, arguments, task_vars)

    def _watch(self, watch: Watch, arguments: Mapping[str, Any], task_vars: Mapping[str, Any]) -> dict[str, Any]:
        began, controller = self._now(), self._parent()
        progress = Progress(task_vars.get("inventory_hostname", "localhost"))
        so_far: dict[str, Any] | None = None
        watched: list[Mapping[str, Any]] | None = None
        bound: Mapping[str, Any] | None = None
        ended = began
        while True:
            gap = self._now() - ended
            part = next_slice(watch, self._now() - began)
            call = call_arguments(arguments, part, bound)
            told = settle(self._call_module(module_args=call, task_vars=task_vars), watched, part)
            ended = self._now()
            so_far = told if so_far is None else merge(so_far, told, gap)
            watched = still_watched(told)
            # A worker outlives a controller that is killed; the monitor belongs to the next run then.
            if part.is_last or not watched or self._parent() != controller:
                return as_asked(so_far, watch)
            bound = bind(told, watched)
            if not self._task.no_log:
                for line in progress.lines(told["disks"], watched, self._now()):
                    # On stderr, so that what is on stdout stays what its callback prints.
                    self._display.display(line, stderr=True)

    def _call_module(self, **arguments: Any) -> dict[str, Any]:
        result: dict[str, Any] = self._execute_module(**arguments)
        return result


def _in_words(result: dict[str, Any]) -> dict[str, Any]:
    """The result with what Ansible's users read of it; a task that only starts something has nothing to tell yet."""
    if result.get("failed", False):
        result = {**result, "errors": errors_of(result)}
    return {**result, "summary": summary(result)} if "disks" in result else result
