# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from ansible_collections.virtops.qmp.plugins.module_utils._decide._endings import (
    not_now,
    not_on_storage,
    not_pulled,
    refused,
)
from ansible_collections.virtops.qmp.plugins.module_utils._model._disk import Disk
from ansible_collections.virtops.qmp.plugins.module_utils._model._errors import CommandRefused, WriteBackFailed
from ansible_collections.virtops.qmp.plugins.module_utils._model._job import Job
from ansible_collections.virtops.qmp.tests.unit.builders import disk, job


@pytest.mark.parametrize(
    ("running", "words"),
    [
        pytest.param(job("pending"), "The job populate-vda is pending at 40 of 100 bytes", id="beside a job"),
        pytest.param(None, "", id="without a job"),
    ],
)
def test_what_is_true_now_is_told(running: Job | None, words: str) -> None:
    """A job that stays is told with its state, and one that is not there is not spoken of."""
    for told in (not_on_storage(WriteBackFailed("no space"), running, disk()), not_now("it was saved", running)):
        assert words in str(told)
        assert ("The job" in str(told)) is (running is not None)


@pytest.mark.parametrize(
    ("subject", "words"),
    [
        pytest.param(disk(), ["/vms/base.qcow2 away", "copied and flushed", "needs the old images"], id="a link"),
        pytest.param(
            disk("top", stale_view="/vms/old.qcow2"),
            ["libvirt still takes /vms/old.qcow2", "QEMU does not need"],
            id="libvirt's view alone, of a disk that has no other image",
        ),
    ],
)
def test_what_libvirt_did_not_do(subject: Disk, words: list[str]) -> None:
    """Where libvirt's pull fails it is told what the disk needs then, what libvirt said, and what to do."""
    told = str(not_pulled(CommandRefused("blockPull", "libvirt refuses: busy"), subject))
    assert [word for word in [*words, "libvirt refuses: busy", "Run the task again"] if word not in told] == []


@pytest.mark.parametrize(
    ("running", "words"),
    [
        pytest.param(job(is_libvirts=True), "libvirt, which started it, could not resume it", id="libvirt's pull"),
        pytest.param(job(type="commit", is_libvirts=True), "commit job populate-vda is running", id="libvirt's commit"),
        pytest.param(job(type="mirror"), "mirror job populate-vda is running", id="somebody else's"),
    ],
)
def test_a_job_in_the_way(running: Job, words: str) -> None:
    """The job is told, and why nothing can be done with it."""
    assert words in str(refused(disk(), running))
