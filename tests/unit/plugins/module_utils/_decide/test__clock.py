# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from ansible_collections.virtops.qmp.plugins.module_utils._decide._clock import read_until
from ansible_collections.virtops.qmp.plugins.module_utils._model._errors import WrongRequest

HOUR = 3600
# The clock of a place where the days begin as they do in UTC; at 02:00 of the fourth day it is put forward by an hour,
# and at 03:00 of the sixth day put back.
FORWARD, BACK = 3 * 24 * HOUR + 2 * HOUR, 5 * 24 * HOUR + 2 * HOUR
FOURTH, SIXTH = 3 * 24 * HOUR, 5 * 24 * HOUR


def wall(time: float) -> int:
    """What that clock shows, in minutes."""
    shown = time + HOUR if FORWARD <= time < BACK else time
    return int(shown // 60) % 1440


@pytest.mark.parametrize(
    ("text", "now", "expected"),
    [
        pytest.param("06:00", 0, 6 * HOUR, id="later today"),
        pytest.param("6:00", 0, 6 * HOUR, id="without the zero"),
        pytest.param(" 06:00 ", 0, 6 * HOUR, id="blanks"),
        pytest.param("06:00", 6 * HOUR - 1, 6 * HOUR, id="in a second"),
        pytest.param("06:00", 6 * HOUR, 30 * HOUR, id="it has just begun: tomorrow"),
        pytest.param("06:00", 6 * HOUR + 0.5, 30 * HOUR, id="half a second ago: tomorrow"),
        pytest.param("05:00", 22 * HOUR, 29 * HOUR, id="over midnight"),
        pytest.param("00:00", 22 * HOUR, 24 * HOUR, id="midnight"),
        pytest.param("23:59", 0, 24 * HOUR - 60, id="the last minute"),
        pytest.param("06:00", FOURTH, FOURTH + 5 * HOUR, id="the clock is put forward: an hour less"),
        pytest.param("02:30", FOURTH, FORWARD, id="it is put forward over that time: at that moment"),
        pytest.param("02:00", FOURTH, FORWARD, id="and over its beginning"),
        pytest.param("03:00", FOURTH, FORWARD, id="just to it"),
        pytest.param("06:00", SIXTH - HOUR, SIXTH + 6 * HOUR, id="put back: an hour more"),
        pytest.param("02:30", SIXTH - HOUR, SIXTH + 1.5 * HOUR, id="a time that comes twice: the first"),
        pytest.param("02:30", SIXTH + 1.5 * HOUR, SIXTH + 2.5 * HOUR, id="and then the second"),
        pytest.param("@1764345600", 0, 1764345600, id="as an earlier look has found it"),
        pytest.param("@5", 10, 5, id="which may be over"),
    ],
)
def test_until(text: str, now: float, expected: float) -> None:
    """It is the next such time by the clock of the hypervisor, also where that is put forward or back."""
    assert read_until(text, now, wall) == expected


@pytest.mark.parametrize(
    "text", ["24:00", "6", "6:0", "06:60", "-1:00", "06:00:00", "1320", "6am", "soon", "@", "@-1", "@1.5", "0٦:00"]
)
def test_what_is_no_time(text: str) -> None:
    """Anything else is refused, with the remedy for what YAML makes of a time without quotes."""
    with pytest.raises(WrongRequest, match=r'until is .*, which is no time of day.*"22:00"'):
        read_until(text, 0, wall)


def test_a_clock_that_stands_still() -> None:
    """A time that never comes is refused, and nobody looks for it for ever."""
    with pytest.raises(WrongRequest, match="never shows"):
        read_until("06:00", 0, lambda time: 0)
