# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from ansible_collections.virtops.qmp.plugins.module_utils._decide._endings import not_now, not_on_storage
from ansible_collections.virtops.qmp.plugins.module_utils._model._errors import WriteBackFailed
from ansible_collections.virtops.qmp.plugins.module_utils._model._job import Job
from ansible_collections.virtops.qmp.tests.unit.builders import job


@pytest.mark.parametrize(
    ("running", "words"),
    [
        pytest.param(job("pending"), "The job populate-vda is pending at 40 of 100 bytes", id="beside a job"),
        pytest.param(None, "", id="without a job"),
    ],
)
def test_what_is_true_now_is_told(running: Job | None, words: str) -> None:
    """A job that stays is told with its state, and one that is not there is not spoken of."""
    for told in (not_on_storage(WriteBackFailed("no space"), running), not_now("it was saved", running)):
        assert words in str(told)
        assert ("The job" in str(told)) is (running is not None)
