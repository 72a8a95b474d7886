# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Amounts and times as people read them."""

from __future__ import annotations

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def _power(size: float) -> int:
    """The place of the unit in which a size reads well: below 1000."""
    # 999.5 is the first that would be rounded to four digits.
    power = 0
    while power < len(_UNITS) - 1 and size >= 999.5 * 1024**power:
        power += 1
    return power


def _number(size: float, power: int) -> str:
    scaled = size / 1024**power
    # Three digits are enough for people, and of a byte there is no tenth.
    if power == 0 or scaled >= 99.95:
        return f"{scaled:.0f}"
    return f"{scaled:.1f}"


def size(size: float) -> str:
    """``12.3 GiB``."""
    power = _power(size)
    return f"{_number(size, power)} {_UNITS[power]}"


def amount(done: int, total: int) -> str:
    """``0.1 of 1.5 GiB``."""
    power = _power(total)
    return f"{_number(done, power)} of {_number(total, power)} {_UNITS[power]}"


def duration(seconds: float) -> str:
    """``0:00:35``; in days where hours would be too many."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    if hours >= 1000:
        return f"{hours // 24} days"
    return f"{hours}:{minute:02}:{second:02}"
