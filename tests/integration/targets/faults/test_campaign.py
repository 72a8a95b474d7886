# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""The short form of the campaign: a round for each word between task and QEMU and each mishap, always the same ones."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

import pytest
from campaign.control import CONTROLS, Seen
from campaign.rounds import FULL, MIDDLE, SAID, Round, play

if TYPE_CHECKING:
    from collections.abc import Callable

SEED = 1
KILLS = [*(("qemu", moment) for moment in SAID), ("module", "pending"), ("controller", "pending")]
MISHAPS = [("saved", MIDDLE), ("left", MIDDLE), ("storage", FULL)]


def first_round(victim: str, moment: str) -> Round:
    """The first round of the campaign that strikes this one at this moment."""
    rounds = (Round.of(SEED, number) for number in count())
    return next(each for each in rounds if (each.victim, each.moment) == (victim, moment))


@pytest.mark.parametrize(("victim", "moment"), [*KILLS, *MISHAPS])
def test_nothing_is_lost(victim: str, moment: str) -> None:
    """Every byte that the guest may count on is there, and the same task again finishes the disk."""
    report = play(first_round(victim, moment))
    if report.first == "skipped":
        pytest.skip("this QEMU or this host cannot be brought to it")
    assert (report.lost, report.wrong) == ([], []), report.line
    assert report.writes > 0


@pytest.mark.parametrize("control", CONTROLS)
def test_the_judge_can_fail(control: Callable[[], Seen]) -> None:
    """What is lost on purpose, the judge of the campaign reports."""
    for _try in range(4):  # a QEMU that died of its own shows nothing
        seen = control()
        if seen.must_see:
            break
    if not seen.must_see:
        pytest.skip("this QEMU or this host cannot be brought to it")
    assert seen.losses != []
