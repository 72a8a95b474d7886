# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from ansible_collections.virtops.qmp.plugins.module_utils._decide._outcome import Outcome, forecast, untouched
from ansible_collections.virtops.qmp.plugins.module_utils._model._request import Request
from ansible_collections.virtops.qmp.plugins.module_utils._model._target import Target
from ansible_collections.virtops.qmp.tests.unit.builders import HELD, asking, disk, job, target

AS_IT_IS = ("/vms/top.qcow2", "/vms/mid.qcow2", "/vms/base.qcow2")
ALONE = AS_IT_IS[:1]
LONG = disk("top", "mid", "base")


@pytest.mark.parametrize(
    ("subject", "asked", "cursor", "finished"),
    [
        pytest.param(target(), asking(cursor=7), 7, False, id="no job: the cursor that was given"),
        pytest.param(target(running=job(offset=40)), asking(cursor=7), 40, False, id="a job: where it is"),
        pytest.param(target(disk("top")), asking(cursor=7), 1000, True, id="populated: the size"),
        pytest.param(target(LONG, base_index=1), asking(), 1000, True, id="down to a base"),
    ],
)
def test_untouched(subject: Target, asked: Request, cursor: int, finished: bool) -> None:
    """A disk to which nothing was done is told as it was seen."""
    outcome = untouched(subject, asked)
    assert (outcome.cursor, outcome.is_finished, outcome.action, outcome.error) == (cursor, finished, "none", None)
    assert outcome.before is outcome.disk is subject.disk
    assert outcome.job == subject.job
    assert outcome.chain_after == subject.disk.chain_paths


@pytest.mark.parametrize(
    ("subject", "asked", "action", "chain"),
    [
        pytest.param(target(LONG), asking(), "started", ALONE, id="populate"),
        pytest.param(
            target(LONG, base_index=2), asking(base="b"), "started", (AS_IT_IS[0], AS_IT_IS[2]), id="down to a base"
        ),
        pytest.param(target(LONG, base_index=1), asking(base="b"), "none", AS_IT_IS, id="down to the base that it has"),
        pytest.param(target(disk("top")), asking(), "none", ALONE, id="populated"),
        pytest.param(target(LONG, job()), asking(), "joined", ALONE, id="a stream runs"),
        pytest.param(target(LONG, job("pending")), asking(), "joined", ALONE, id="a stream is pending"),
        pytest.param(target(LONG, HELD), asking(), "resumed", ALONE, id="a stream is held"),
        pytest.param(target(LONG, job()), asking(speed=9), "retuned", ALONE, id="another speed"),
        pytest.param(target(LONG), asking(wait=False), "started", AS_IT_IS, id="without waiting the chain stays"),
        pytest.param(target(LONG, job()), asking(state="paused"), "paused", AS_IT_IS, id="to pause"),
        pytest.param(target(LONG), asking(state="paused"), "none", AS_IT_IS, id="nothing to pause"),
        pytest.param(target(LONG, job()), asking(state="aborted"), "stopped", AS_IT_IS, id="to abort"),
        pytest.param(target(LONG), asking(state="aborted"), "none", AS_IT_IS, id="nothing to abort"),
        pytest.param(target(LONG, job(type="mirror")), asking(), "none", ALONE, id="another job"),
    ],
)
def test_forecast(subject: Target, asked: Request, action: str, chain: tuple[str, ...]) -> None:
    """Check mode tells the first action and the chain that a run would leave; the disk itself is told as it is."""
    outcome = forecast(subject, asked)
    assert (outcome.action, outcome.chain_after) == (action, chain)
    assert outcome.disk is subject.disk


def test_an_outcome_begins_with_nothing_done() -> None:
    """An outcome is one of no action, no note and no error unless somebody says otherwise."""
    subject = target()
    outcome = Outcome(subject.vm, subject.disk, subject.base_index, subject.disk)
    assert (outcome.action, outcome.notes, outcome.error, outcome.left) == ("none", (), None, ())


def test_what_failed_is_not_finished() -> None:
    """A disk with an error is never finished, whatever its chain looks like."""
    outcome = untouched(target(disk("top")), asking(), "why")
    assert (outcome.is_finished, outcome.error) == (False, "why")
