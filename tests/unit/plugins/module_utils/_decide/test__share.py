# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from ansible_collections.virtops.qmp.plugins.module_utils._decide._outcome import Outcome, untouched
from ansible_collections.virtops.qmp.plugins.module_utils._decide._share import copies_on, share, streams_at_first
from ansible_collections.virtops.qmp.plugins.module_utils._model._errors import Failure
from ansible_collections.virtops.qmp.plugins.module_utils._model._job import Job
from ansible_collections.virtops.qmp.plugins.module_utils._model._target import Target
from ansible_collections.virtops.qmp.tests.unit.builders import HELD, asking, disk, job, target


@pytest.mark.parametrize(
    ("total", "speed", "streams", "part"),
    [
        pytest.param(None, None, 3, None, id="no limit at all: what runs keeps its own"),
        pytest.param(None, 7, 3, 7, id="no limit of all"),
        pytest.param(100, None, 1, 100, id="one stream has it all"),
        pytest.param(100, None, 4, 25, id="four"),
        pytest.param(100, None, 3, 33, id="rounded down, so that all together never exceed it"),
        pytest.param(100, None, 0, 100, id="none yet"),
        pytest.param(100, 30, 2, 30, id="its own limit is lower"),
        pytest.param(100, 60, 2, 50, id="its own limit is higher"),
        pytest.param(100, 0, 2, 50, id="its own limit is none"),
        pytest.param(2, None, 5, 1, id="never 0, which QEMU takes for no limit"),
        pytest.param(0, None, 5, 0, id="no limit of all, in words"),
        pytest.param(0, 7, 5, 7, id="but one of its own"),
    ],
)
def test_share(total: int | None, speed: int | None, streams: int, part: int | None) -> None:
    """Each stream gets the same part, and no more than its own limit."""
    assert share(asking(total_speed=total, speed=speed), streams).speed == part


@pytest.mark.parametrize(
    ("total", "speed", "left", "part"),
    [
        pytest.param(None, None, 100, 50, id="what the guests leave is shared"),
        pytest.param(None, 0, 100, 50, id="no limit of its own"),
        pytest.param(None, 30, 100, 30, id="its own limit is lower"),
        pytest.param(60, None, 100, 30, id="the limit of all is lower"),
        pytest.param(200, None, 100, 50, id="the limit of all is higher"),
        pytest.param(0, None, 100, 50, id="no limit of all"),
    ],
)
def test_share_what_the_guests_leave(total: int | None, speed: int | None, left: int, part: int) -> None:
    """It is the least of the three that counts."""
    assert share(asking(total_speed=total, speed=speed), 2, left).speed == part


WAITS, RUNS, HOLDS, DONE = target(), target(running=job()), target(running=HELD), target(disk("alone"))


@pytest.mark.parametrize(
    ("lanes", "parallel", "places"),
    [
        pytest.param([], 2, [], id="nothing"),
        pytest.param([[WAITS], [WAITS], [WAITS]], 2, [WAITS, WAITS], id="as many as there are places"),
        pytest.param([[RUNS], [WAITS], [WAITS]], 2, [RUNS, WAITS], id="one runs"),
        pytest.param([[RUNS], [RUNS], [WAITS]], 1, [RUNS, RUNS], id="more run than are asked for"),
        pytest.param([[WAITS, WAITS], [WAITS]], 3, [WAITS, WAITS], id="one of a lane"),
        pytest.param([[RUNS, WAITS]], 3, [RUNS], id="a lane with one that runs"),
        pytest.param([[DONE, WAITS], [DONE]], 3, [WAITS], id="what is done needs no place"),
        pytest.param([[HOLDS]], 1, [HOLDS], id="one that will be resumed"),
    ],
)
def test_streams_at_first(lanes: list[list[Target]], parallel: int, places: list[Target]) -> None:
    """Known beforehand, so that no stream begins with a part that is too large."""
    assert streams_at_first(lanes, asking(parallel=parallel)) == places


def outcome(running: Job | None = None, kind: str | None = None) -> Outcome:
    found = untouched(target(running=running), asking())
    return found if kind is None else found._replace(error=Failure(kind, "why"))


@pytest.mark.parametrize(
    ("ended", "goes_on"),
    [
        pytest.param(outcome(), False, id="no job"),
        pytest.param(outcome(job()), True, id="left to QEMU"),
        pytest.param(outcome(job(), "TimeIsUp"), True, id="the time is over"),
        pytest.param(outcome(job("pending")), False, id="all is copied"),
        pytest.param(outcome(HELD, "StreamFailed"), False, id="held"),
        pytest.param(outcome(None, "StreamFailed"), False, id="failed"),
        pytest.param(outcome(None, "MonitorLost"), True, id="nobody knows"),
    ],
)
def test_copies_on(ended: Outcome, goes_on: bool) -> None:
    """Whoever copies on keeps its part."""
    assert copies_on(ended) is goes_on
