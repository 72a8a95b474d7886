# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One table for a whole fleet, at the end of a playbook."""

from __future__ import annotations

DOCUMENTATION = """
name: fleet
type: aggregate
short_description: Tell in one table what became of a whole fleet
description:
  - At the end of a playbook it prints a table of all hosts on which M(virtops.qmp.block_stream) ran, by itself or in
    the role P(virtops.qmp.populate#role). The hosts to look at come first, those with errors before those with open
    disks. Hosts on which all is finished are counted, and have no row unless C(-v) is given.
  - Use it where a playbook works on more hosts than you want to read of one by one. It changes nothing of what is
    done.
  - Of a disk that several tasks of the playbook worked on, the last one's word counts.
  - A host that could not be reached, or on which another task failed, has a row, too, so that the table tells of all
    hosts.
  - A task with C(no_log) tells it nothing. In check mode it tells what was found.
version_added: 1.0.0
author: The virtops.qmp authors (@virtops)
requirements:
  - "to be enabled: C(callbacks_enabled = virtops.qmp.fleet) in the section C([defaults]) of C(ansible.cfg)"
seealso:
  - module: virtops.qmp.block_stream
"""

EXAMPLES = """
# ansible.cfg: a line or two for each host, and the table at the end
# [defaults]
# callbacks_enabled = virtops.qmp.fleet
# display_ok_hosts = false
# display_skipped_hosts = false
#
# HOST   DISKS  FINISHED  FAILED  UNKNOWN  OPEN   GREW BY  IMAGES FREE  LOOK AT
# hv07       2         1       1        0     0  1.0 GiB            0  web07: disk vdb: no space left ...
# hv12       0         0       0        0     0      0 B            0  unreachable: Connection timed out
# hv33       4         2       0        0     2  6.5 GiB            1
# total    200       196       1        0     2  310 GiB           97  100 hosts
# and 97 hosts with all finished (-v shows each)
"""

from collections import defaultdict
from typing import Any

from ansible.plugins.callback import CallbackBase

from ..plugin_utils._fleet import HostSoFar, fleet

_TASK = "virtops.qmp.block_stream"


class CallbackModule(CallbackBase):
    """The callback ``fleet``."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "virtops.qmp.fleet"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._hosts: defaultdict[str, HostSoFar] = defaultdict(HostSoFar)
        self._has_streams = False

    def v2_runner_on_ok(self, result: Any) -> None:
        self._hear(result)

    def v2_runner_item_on_ok(self, result: Any) -> None:
        self._hear(result)

    def v2_runner_item_on_failed(self, result: Any) -> None:
        self._hear(result)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        self._hear(result)
        if not ignore_errors:
            self._fail(result, f"{result._task.get_name().strip()}: ")

    def v2_runner_on_unreachable(self, result: Any) -> None:
        self._fail(result, "unreachable: ")

    def v2_playbook_on_stats(self, stats: Any) -> None:  # noqa: ARG002
        if self._has_streams:
            lines = fleet(self._hosts, shows_all=self._display.verbosity > 0)
            # On stderr, so that what is on stdout stays what its callback prints.
            self._display.display("\n".join(["", *lines]), stderr=True)

    def _hear(self, result: Any) -> None:
        if result._task.resolved_action == _TASK and "errors" in result._result:
            self._has_streams = True
            self._hosts[result._host.get_name()].hear(result._result, result._task._uuid)

    def _fail(self, result: Any, words: str) -> None:
        message = result._result.get("msg") or "it failed"
        self._hosts[result._host.get_name()].fail(f"{words}{message}")
