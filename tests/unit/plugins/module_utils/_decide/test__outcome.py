# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from ansible_collections.virtops.qmp.plugins.module_utils._decide._outcome import Outcome, untouched
from ansible_collections.virtops.qmp.plugins.module_utils._model._errors import Failure
from ansible_collections.virtops.qmp.plugins.module_utils._model._request import Request
from ansible_collections.virtops.qmp.plugins.module_utils._model._target import Target
from ansible_collections.virtops.qmp.tests.unit.builders import asking, disk, job, target

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


def test_an_outcome_begins_with_nothing_done() -> None:
    """An outcome is one of no action, no note and no error unless somebody says otherwise."""
    subject = target()
    outcome = Outcome(subject.vm, subject.disk, subject.base_index, subject.disk)
    assert (outcome.action, outcome.notes, outcome.error, outcome.left) == ("none", (), None, ())


def test_what_failed_is_not_finished() -> None:
    """A disk with an error is never finished, whatever its chain looks like."""
    failure = Failure("StreamFailed", "why")
    outcome = untouched(target(disk("top")), asking(), failure)
    assert (outcome.is_finished, outcome.error) == (False, failure)
