# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""block_stream on one disk in this process, with a clock beside its steps: ``timeline.py MONITOR``.

The last line on stderr is the milliseconds of each part from QEMU's event "pending" to the printed result, as JSON. All
parts together are all the time between the two.
"""

from __future__ import annotations

import functools
import itertools
import json
import runpy
import sys
import time
from typing import TYPE_CHECKING, Any

from ansible.module_utils import basic
from ansible_collections.virtops.qmp.plugins.module_utils._reach._qmp import QmpEvents
from ansible_collections.virtops.qmp.plugins.module_utils._run import _populate, _reconcile, _release

if TYPE_CHECKING:
    from collections.abc import Callable

MODULE = "ansible_collections.virtops.qmp.plugins.modules.block_stream"
# When each part ended; the first is where the clock begins.
MOMENTS: list[tuple[str, float]] = []


def note(part: str) -> None:
    """The part that began with the moment before ends now."""
    MOMENTS.append((part, time.time()))


def noting(owner: Any, name: str, before: str, after: str) -> None:
    """Note when a function of the product begins and ends."""
    real = getattr(owner, name)

    @functools.wraps(real)
    async def timed(*arguments: Any, **options: Any) -> Any:
        note(before)
        try:
            return await real(*arguments, **options)
        finally:
            note(after)

    setattr(owner, name, timed)


def noting_events(real: Callable[..., bool]) -> Callable[..., bool]:
    """Note QEMU's own time of the events that count."""

    def accept(events: QmpEvents, event: dict[str, Any]) -> bool:
        stamp = event["timestamp"]
        moment = stamp["seconds"] + stamp["microseconds"] / 1e6
        if event["event"] == "BLOCK_JOB_PENDING":
            MOMENTS.append(("pending", moment))
        if event["event"] == "BLOCK_JOB_COMPLETED":
            MOMENTS.append(("the end of the job", moment))
        return real(events, event)

    return accept


def parts() -> dict[str, float]:
    """Milliseconds by part, from "pending" on."""
    begin = next(place for place, (part, _moment) in enumerate(MOMENTS) if part == "pending")
    moments = sorted(MOMENTS[begin:], key=lambda each: each[1])
    found: dict[str, float] = {}
    names = {"another look": "a look at what was copied"}
    for (_part, earlier), (part, later) in itertools.pairwise(moments):
        name = names.get(part, part)
        found[name] = found.get(name, 0.0) + 1000 * (later - earlier)
        if part == "the end of the job":
            names = {"another look": "a look at the new chain", "the flush": "the flush of the new header"}
    return found


def main() -> None:
    basic._ANSIBLE_ARGS = json.dumps({"ANSIBLE_MODULE_ARGS": {"monitors": [sys.argv[1]], "disks": ["vda"]}}).encode()
    basic._ANSIBLE_PROFILE = "legacy"
    visit: Any = _reconcile._Visit
    noting(visit, "_flush", "another look", "the flush")
    noting(visit, "_doubt_of", "another look", "the proof: the map of the chain")
    noting(_populate, "_ask_again", "the old images closed", "a look over a new connection")
    noting(_release, "judge_all", "a look over a new connection", "who has the old images open")
    events: Any = QmpEvents
    events._accept = noting_events(events._accept)
    try:
        runpy.run_module(MODULE, run_name="__main__", alter_sys=True)
    except SystemExit:
        note("the result, printed")
    print(json.dumps(parts()), file=sys.stderr)


main()
