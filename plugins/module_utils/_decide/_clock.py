# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""When a wait ends that is given by the clock on the wall. Nothing here knows the time: it is told."""

from __future__ import annotations

import re
from typing import Callable

from .._model._errors import WrongRequest

_MINUTE = 60
_DAY = 24 * 60
# By more no clock is put forward. What looks like more is one that was put back.
_FORWARD = 3 * 60


def read_until(text: str, now: float, minute_of_day: Callable[[float], int]) -> float:
    """Read the option ``until``.

    :param text: ``06:00``, or ``@`` and the seconds since 1970 that an earlier look of the same task has found.
    :param now: the time, in seconds since 1970.
    :param minute_of_day: which minute of the day the clock on the wall shows at a time, from 0 to 1439.
    :return: the time at which the wait ends, in seconds since 1970.
    :raise WrongRequest: it is no time.
    """
    absolute = re.match(r"@(\d{1,12})$", text, re.ASCII)
    if absolute is not None:
        return float(absolute[1])
    words = re.match(r"([01]?\d|2[0-3]):([0-5]\d)$", text.strip(), re.ASCII)
    if words is None:
        raise WrongRequest(
            f"until is {text!r}, which is no time of day. Write HH:MM, from 00:00 to 23:59, in quotes, because YAML "
            'takes 22:00 without quotes for a number: "22:00"'
        )
    return _next(int(words[1]) * 60 + int(words[2]), now, minute_of_day)


def _next(minute: int, now: float, minute_of_day: Callable[[float], int]) -> float:
    """The next time after ``now`` at which the clock comes to a minute of the day, or is put forward over it."""
    time = now - now % _MINUTE
    shown = minute_of_day(time)
    # A day has up to 25 hours, and each minute of it is in the next two at the latest.
    for _passed in range(2 * _DAY):
        time += _MINUTE
        before, shown = shown, minute_of_day(time)
        went = (shown - before) % _DAY
        is_skipped = went <= _FORWARD and 0 < (minute - before) % _DAY <= went
        if shown == minute or is_skipped:
            return time
    raise WrongRequest("until is a time of day that the clock of this host never shows")
