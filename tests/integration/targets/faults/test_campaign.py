# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""The short form of the campaign of kills: one round for each word between the task and QEMU, always the same ones."""

from __future__ import annotations

from itertools import count

import pytest
from campaign.control import unflushed_stream
from campaign.rounds import SAID, Round, play

SEED = 1
KILLS = [*(("qemu", moment) for moment in SAID), ("module", "pending"), ("controller", "pending")]


def first_round(victim: str, moment: str) -> Round:
    """The first round of the campaign that kills this one at this moment."""
    rounds = (Round.of(SEED, number) for number in count())
    return next(each for each in rounds if (each.victim, each.moment) == (victim, moment))


@pytest.mark.parametrize(("victim", "moment"), KILLS)
def test_a_kill_loses_nothing(victim: str, moment: str) -> None:
    """After the kill every byte that the guest may count on is there, and the same task again finishes the disk."""
    report = play(first_round(victim, moment))
    assert (report.lost, report.wrong) == ([], []), report.line
    assert report.writes > 0


def test_the_judge_can_fail() -> None:
    """What a stream without a flush loses, the judge of the campaign reports."""
    version, lost = unflushed_stream()
    if version >= (8, 0):
        pytest.skip(f"QEMU {version[0]}.{version[1]} may lose nothing here")
    assert lost != []
