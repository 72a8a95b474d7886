# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import re
from typing import Any

import pytest
from ansible_collections.virtops.qmp.plugins.module_utils._model._disk import Disk
from ansible_collections.virtops.qmp.plugins.module_utils._model._job import (
    Ending,
    Job,
    JobEvent,
    job_id_for,
    was_migrated_since,
)
from ansible_collections.virtops.qmp.plugins.module_utils._model._reader import Members
from ansible_collections.virtops.qmp.tests.unit.builders import HELD, disk, image, job, recorded


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        pytest.param(
            "running",
            Job("job0", "stream", "running", 393216, 16777216, 65536, False, "ok", False, None),
            id="running",
        ),
        pytest.param(
            "paused",
            Job("job0", "stream", "paused", 393216, 16777216, 65536, True, "ok", False, None),
            id="paused by a user",
        ),
        pytest.param(
            "held", Job("job0", "stream", "paused", 16580608, 16777216, 0, True, "failed", False, None), id="held"
        ),
        pytest.param(
            "pending", Job("job0", "stream", "pending", 16777216, 16777216, 0, False, "ok", False, None), id="pending"
        ),
        pytest.param(
            "cancelled",
            Job("job0", "stream", "concluded", 393216, 16777216, 65536, False, "ok", False, "Operation canceled"),
            id="concluded with an error",
        ),
        pytest.param(
            "concluded",
            Job("job0", "stream", "concluded", 16777216, 16777216, 0, False, "ok", True, None),
            id="concluded",
        ),
        pytest.param(
            "mirror", Job("job0", "mirror", "running", 0, 3997696, 65536, False, "ok", True, None), id="mirror"
        ),
    ],
)
def test_from_qmp(name: str, expected: Job) -> None:
    """A job is read as QEMU tells of it."""
    (entry,) = recorded(f"qemu-7.2-{name}")["query-block-jobs"]
    assert Job.from_qmp(Members(entry, "query-block-jobs")) == expected


@pytest.mark.parametrize(
    ("subject", "claims"),
    [
        pytest.param(job("running"), set(), id="running"),
        pytest.param(job("pending"), {"pending"}, id="pending"),
        pytest.param(job("concluded"), {"concluded"}, id="concluded"),
        pytest.param(job("paused"), set(), id="paused by a user"),
        pytest.param(HELD, {"held"}, id="held by an I/O error"),
        pytest.param(job("paused", io_status="nospace"), {"held"}, id="held by a full file system"),
        pytest.param(job("running", io_status="failed"), set(), id="an error that was ignored"),
    ],
)
def test_claims(subject: Job, claims: set[str]) -> None:
    """Pending, concluded and held by an error are told apart, and a user's pause is none of them."""
    found = {"pending": subject.is_pending, "concluded": subject.is_concluded, "held": subject.is_held_by_error}
    assert {name for name, is_so in found.items() if is_so} == claims


@pytest.mark.parametrize(
    ("offset", "length", "percent"),
    [
        pytest.param(0, 0, 100.0, id="0 of 0"),
        pytest.param(0, 8, 0.0, id="begin"),
        pytest.param(2, 8, 25.0, id="between"),
        pytest.param(8, 8, 100.0, id="end"),
    ],
)
def test_percent(offset: int, length: int, percent: float) -> None:
    """The position in per cent; a job with nothing to do is at its end."""
    assert job(offset=offset, len=length).percent == percent


@pytest.mark.parametrize(
    ("subject", "words"),
    [
        pytest.param(job(), "job populate-vda is running at 40 of 100 bytes", id="running"),
        pytest.param(job("paused"), "job populate-vda is paused at 40 of 100 bytes", id="paused by a user"),
        pytest.param(HELD, "job populate-vda is paused at 40 of 100 bytes, held by an I/O error", id="I/O error"),
        pytest.param(
            job("paused", io_status="nospace"),
            "job populate-vda is paused at 40 of 100 bytes, held because there is no space left",
            id="no space",
        ),
        pytest.param(job(io_status="failed"), "job populate-vda is running at 40 of 100 bytes", id="not held"),
    ],
)
def test_position(subject: Job, words: str) -> None:
    """The state in words tells why a job is held."""
    assert subject.position == words


@pytest.mark.parametrize(
    ("event", "ending"),
    [
        pytest.param({"event": "BLOCK_JOB_COMPLETED", "data": {"device": "j"}}, Ending(False, None), id="success"),
        pytest.param(
            {"event": "BLOCK_JOB_COMPLETED", "data": {"error": "Input/output error"}},
            Ending(False, "Input/output error"),
            id="a failed job completes, too",
        ),
        pytest.param({"event": "BLOCK_JOB_CANCELLED", "data": {"device": "j"}}, Ending(True, None), id="cancelled"),
        pytest.param({"event": "BLOCK_JOB_ERROR", "data": {"device": "j"}}, None, id="an error is no end"),
        pytest.param({"event": "BLOCK_JOB_PENDING", "data": {"id": "j"}}, None, id="pending is no end"),
    ],
)
def test_ending(event: dict[str, Any], ending: Ending | None) -> None:
    """Only two events tell of an end, and a failure is a completion with an error."""
    assert JobEvent.from_qmp(event) == JobEvent(ending)


@pytest.mark.parametrize(
    ("subject", "taken", "job_id"),
    [
        pytest.param(disk(), [], "populate-vda", id="qdev id"),
        pytest.param(disk(), ["populate-vda"], "populate-vda-2", id="taken"),
        pytest.param(disk(), ["populate-vda", "populate-vda-2", "x"], "populate-vda-3", id="taken twice"),
        pytest.param(disk(qdev="", node_name="#1"), [], "populate-vms_top.qcow2", id="path"),
        pytest.param(disk(qdev="1a b/ü"), [], "populate-1a_b", id="characters that QEMU refuses"),
        pytest.param(disk(qdev="€"), [], "populate-disk", id="no character left"),
        pytest.param(disk(qdev="x" * 300), [], "populate-" + "x" * 100, id="long"),
        pytest.param(
            disk(image("top", path="/" + "d" * 200 + "/web01.qcow2", file=None), qdev="", node_name="#1"),
            [],
            "populate-" + "d" * 88 + "web01.qcow2".rjust(12, "_"),
            id="the end of a path says more",
        ),
    ],
)
def test_job_id_for(subject: Disk, taken: list[str], job_id: str) -> None:
    """The id tells the disk, is free, and is one that QEMU takes."""
    assert job_id_for(subject, taken) == job_id
    assert re.match(r"[A-Za-z][A-Za-z0-9._-]*$", job_id)


@pytest.mark.parametrize(
    ("job_id", "migration", "migrated"),
    [
        pytest.param("populate-vda", "", False, id="never"),
        pytest.param("populate-vda", "completed-7", True, id="after the job began"),
        pytest.param("populate-vda.completed-7", "completed-7", False, id="before the job"),
        pytest.param("populate-vda.completed-7-2", "completed-7", False, id="before the job, whose name was taken"),
        pytest.param("populate-vda.completed-7", "completed-70", True, id="once before it, and once after"),
    ],
)
def test_was_migrated_since(job_id: str, migration: str, migrated: bool) -> None:
    """The id of a job of ours tells which migration was the last before it."""
    assert was_migrated_since(job_id, migration) is migrated


def test_a_job_id_bears_the_last_migration() -> None:
    """A job that begins after a migration is not doubted because of it."""
    assert not was_migrated_since(job_id_for(disk(), ["populate-vda.completed-7"], "completed-7"), "completed-7")
