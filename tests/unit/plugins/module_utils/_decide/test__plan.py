# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import itertools

import pytest
from ansible_collections.virtops.qmp.plugins.module_utils._decide._plan import (
    After,
    Step,
    WaitEnd,
    after_sitting_out,
    after_wait,
    is_done,
    must_sit_out,
    next_step,
    obstacle_of,
    releasable,
    requested_chain,
    space_needed,
    wait_end,
)
from ansible_collections.virtops.qmp.plugins.module_utils._model._disk import Disk, Image
from ansible_collections.virtops.qmp.plugins.module_utils._model._graph import Graph
from ansible_collections.virtops.qmp.plugins.module_utils._model._job import Job
from ansible_collections.virtops.qmp.plugins.module_utils._model._request import Request
from ansible_collections.virtops.qmp.plugins.module_utils._model._vm import Migration
from ansible_collections.virtops.qmp.tests.unit.builders import HELD, asking, disk, image, job, recorded_vm

# Every status that a job of QEMU can have, and the two ways to be paused.
JOBS: dict[str, Job | None] = {
    "none": None,
    **{
        status: job(status)
        for status in (
            "undefined",
            "created",
            "running",
            "paused",
            "ready",
            "standby",
            "waiting",
            "pending",
            "aborting",
            "concluded",
            "null",
        )
    },
    "held": HELD,
    "mirror": job(type="mirror"),
    "mirror concluded": job("concluded", type="mirror"),
}
# What follows for a job that merely runs, by state.
RUNS = {"populated": Step.FOLLOW, "paused": Step.PAUSE, "aborted": Step.CANCEL, "stopped": Step.CANCEL}
# What follows for all other jobs: populated, paused, aborted, stopped.
OTHERS = {
    "none": (Step.START, Step.DONE, Step.DONE, Step.DONE),
    "paused": (Step.RESUME, Step.DONE, Step.CANCEL, Step.CANCEL),
    "held": (Step.RESUME, Step.DONE, Step.CANCEL, Step.CANCEL),
    "pending": (Step.FINALIZE, Step.DONE, Step.CANCEL, Step.FINALIZE),
    "aborting": (Step.FOLLOW,) * 4,
    "concluded": (Step.DISMISS,) * 4,
    "mirror": (Step.REFUSE,) * 4,
    "mirror concluded": (Step.REFUSE,) * 4,
}
# Where the disk is done, three differ, and only in state populated.
DONE = {"none": Step.DONE, "mirror": Step.DONE, "mirror concluded": Step.DONE}


def expected_step(state: str, running: str, done: bool) -> Step:
    if done and state == "populated" and running in DONE:
        return DONE[running]
    return OTHERS[running][list(RUNS).index(state)] if running in OTHERS else RUNS[state]


@pytest.mark.parametrize(
    ("state", "running", "done"),
    [
        pytest.param(state, running, done, id=f"{state}, {running}, {'done' if done else 'not done'}")
        for state, running, done in itertools.product(RUNS, JOBS, (True, False))
    ],
)
def test_next_step(state: str, running: str, done: bool) -> None:
    """Every state with every job on a disk that is done and on one that is not has its one next step."""
    subject = disk("top") if done else disk("top", "base")
    is_stopping = state == "stopped"
    asked = asking(state="populated" if is_stopping else state)
    step = next_step(subject, JOBS[running], asked, len(subject.chain), is_stopping=is_stopping)
    assert step is expected_step(state, running, done)


@pytest.mark.parametrize(
    ("speed", "running", "step"),
    [
        pytest.param(7, job(speed=7), Step.FOLLOW, id="the same speed"),
        pytest.param(7, job(speed=8), Step.RETUNE, id="another speed"),
        pytest.param(0, job(speed=8), Step.RETUNE, id="unlimited"),
        pytest.param(None, job(speed=8), Step.FOLLOW, id="no wish"),
        pytest.param(7, job("paused", speed=8), Step.RETUNE, id="paused: first the speed"),
        pytest.param(7, job("paused", speed=7), Step.RESUME, id="paused at the right speed"),
        pytest.param(7, job("pending", speed=8), Step.FINALIZE, id="pending: too late"),
        pytest.param(7, job("concluded", speed=8), Step.DISMISS, id="concluded: too late"),
        pytest.param(7, None, Step.START, id="no job"),
    ],
)
def test_next_step_with_a_speed(speed: int | None, running: Job | None, step: Step) -> None:
    """A running job gets the wished speed before anything else, and only if it has another one."""
    assert next_step(disk(), running, asking(speed=speed), 2) is step


def test_next_step_with_a_pace() -> None:
    """A stream that is paced is followed at whatever speed, for that is set while it is followed."""
    asked = asking(speed=7, guest_latency=5_000_000)
    assert next_step(disk(), job(speed=8), asked, 2) is Step.FOLLOW


@pytest.mark.parametrize(
    ("running", "step"),
    [
        pytest.param(job(speed=8), Step.FOLLOW, id="another speed"),
        pytest.param(job("paused", speed=8), Step.FOLLOW, id="paused"),
        pytest.param(job("pending"), Step.FINALIZE, id="pending"),
        pytest.param(job("concluded"), Step.DISMISS, id="concluded"),
        pytest.param(None, Step.START, id="no job"),
    ],
)
def test_next_step_of_a_run_that_gave_way(running: Job | None, step: Step) -> None:
    """What a later run made of the job stays; its end is the same whoever brings it about."""
    assert next_step(disk(), running, asking(speed=7), 2, gave_way=True) is step


@pytest.mark.parametrize(
    ("subject", "base_index", "done"),
    [
        pytest.param(disk("top"), 1, True, id="alone"),
        pytest.param(disk("top", "base"), 2, False, id="the base must go"),
        pytest.param(disk("top", "base"), 1, True, id="the base stays"),
        pytest.param(disk("top", "mid", "base"), 2, False, id="the middle must go"),
        pytest.param(disk("top", hidden_backing="below"), 1, False, id="a chain below a raw node"),
    ],
)
def test_is_done(subject: Disk, base_index: int, done: bool) -> None:
    """Nothing is left to copy when nothing is between the top and what stays."""
    assert is_done(subject, base_index) is done


LIBVIRTS = ("populated", "paused", "aborted", "stopped")


@pytest.mark.parametrize(
    ("running", "steps"),
    [
        pytest.param(job(is_libvirts=True), (Step.FOLLOW, Step.REFUSE, Step.CANCEL, Step.CANCEL), id="running"),
        pytest.param(
            job("paused", is_libvirts=True), (Step.RESUME, Step.DONE, Step.CANCEL, Step.CANCEL), id="paused already"
        ),
        pytest.param(job("aborting", is_libvirts=True), (Step.FOLLOW,) * 4, id="aborting"),
        pytest.param(job("concluded", is_libvirts=True), (Step.FOLLOW,) * 4, id="concluded"),
        pytest.param(job(type="commit", is_libvirts=True), (Step.REFUSE,) * 4, id="a commit"),
    ],
)
def test_next_step_with_a_job_of_libvirt(running: Job, steps: tuple[Step, ...]) -> None:
    """libvirt's own job is followed and stopped, but neither paused, for libvirt cannot resume it, nor dismissed."""
    states = [("populated" if state == "stopped" else state, state == "stopped") for state in LIBVIRTS]
    taken = [next_step(disk(), running, asking(state=state), 2, is_stopping=stops) for state, stops in states]
    assert tuple(taken) == steps


@pytest.mark.parametrize(
    ("subject", "base_index", "step"),
    [
        pytest.param(disk("top", stale_view="/vms/base"), 1, Step.PULL, id="libvirt's view alone"),
        pytest.param(disk("top", "base", stale_view="/vms/mid"), 1, Step.PULL, id="down to a base"),
        pytest.param(disk("top", "base", stale_view="/vms/mid"), 2, Step.START, id="there is something to copy"),
        pytest.param(disk("top", stale_view="/vms/base", doubt="?"), 1, Step.REFUSE, id="and a doubt"),
        pytest.param(disk("top", stale_view="/vms/base", lost="?"), 1, Step.REFUSE, id="and the file is lost"),
        pytest.param(disk("top", stale_view="/a", stale_header="/a"), 1, Step.REFUSE, id="and the header"),
    ],
)
def test_next_step_with_a_view_that_is_stale(subject: Disk, base_index: int, step: Step) -> None:
    """A disk that only libvirt takes for one that needs an image is not done: its own pull puts that right."""
    assert not is_done(subject, base_index)
    assert next_step(subject, None, asking(), base_index) is step


FAR = asking(increment=10, cursor=30)


@pytest.mark.parametrize(
    ("running", "asked", "time_is_up", "is_wanted", "end"),
    [
        pytest.param(None, asking(), False, False, WaitEnd.GONE, id="gone"),
        pytest.param(None, asking(wait=False), True, False, WaitEnd.GONE, id="gone before all else"),
        pytest.param(job("pending"), asking(wait=False), True, False, WaitEnd.READY, id="pending"),
        pytest.param(job("concluded"), asking(), False, False, WaitEnd.READY, id="concluded"),
        pytest.param(HELD, asking(wait=False), True, False, WaitEnd.HELD, id="held"),
        pytest.param(job("paused"), asking(), False, False, None, id="paused by somebody else"),
        pytest.param(job(), asking(wait=False), True, False, WaitEnd.LEFT, id="nobody waits"),
        pytest.param(job("paused"), asking(wait=False), False, False, WaitEnd.LEFT, id="nobody waits for a paused one"),
        pytest.param(job(offset=39), FAR, False, False, None, id="before the mark"),
        pytest.param(job(offset=40), FAR, False, False, WaitEnd.FAR_ENOUGH, id="at the mark"),
        pytest.param(job(offset=41), FAR, True, False, WaitEnd.FAR_ENOUGH, id="beyond the mark when time is up"),
        pytest.param(job(offset=39), FAR, True, False, WaitEnd.TIME_IS_UP, id="time is up before the mark"),
        pytest.param(job(), asking(), True, False, WaitEnd.TIME_IS_UP, id="time is up"),
        pytest.param(
            job(), asking(poll_interval=9), False, False, WaitEnd.LEFT, id="between two visits nobody listens"
        ),
        pytest.param(job(), asking(poll_interval=9), True, False, WaitEnd.TIME_IS_UP, id="time is up at a visit"),
        pytest.param(job("pending"), asking(poll_interval=9), False, False, WaitEnd.READY, id="pending at a visit"),
        pytest.param(job("paused"), asking(), True, False, WaitEnd.TIME_IS_UP, id="time is up for a paused one"),
        pytest.param(job(offset=100), asking(), False, False, None, id="offset equals len and it still runs"),
        pytest.param(None, asking(), False, True, WaitEnd.GONE, id="gone, and wanted"),
        pytest.param(job("pending"), asking(), False, True, WaitEnd.READY, id="pending, and wanted"),
        pytest.param(job(), asking(wait=False), False, True, WaitEnd.LEFT, id="nobody waits, and wanted"),
        pytest.param(job(), asking(), True, True, WaitEnd.TIME_IS_UP, id="time is up, and wanted"),
        pytest.param(job(), asking(), False, True, WaitEnd.WANTED, id="wanted by another run"),
        pytest.param(job("paused"), asking(), False, True, WaitEnd.WANTED, id="paused, and wanted"),
        pytest.param(job(offset=39), FAR, False, True, WaitEnd.WANTED, id="wanted before the mark"),
        *[
            pytest.param(job(status), asking(), False, False, None, id=f"{status} is no end")
            for status in ("created", "running", "ready", "standby", "waiting", "aborting")
        ],
    ],
)
def test_wait_end(running: Job | None, asked: Request, time_is_up: bool, is_wanted: bool, end: WaitEnd | None) -> None:
    """A wait ends for these reasons, in this order of weight, and for no other."""
    assert wait_end(running, asked.waiting, time_is_up=time_is_up, is_wanted=is_wanted) is end


@pytest.mark.parametrize(
    ("asked", "mark"),
    [
        pytest.param(asking(), None, id="no increment"),
        pytest.param(asking(cursor=5), None, id="a cursor alone"),
        pytest.param(asking(increment=10), 10, id="from the beginning"),
        pytest.param(asking(increment=10, cursor=5), 15, id="from a cursor"),
    ],
)
def test_mark(asked: Request, mark: int | None) -> None:
    """An increment ends so far beyond the cursor."""
    assert asked.waiting.mark == mark


@pytest.mark.parametrize(
    ("end", "on_timeout", "after"),
    [
        pytest.param(WaitEnd.GONE, "fail", After.GO_ON, id="gone: the chain tells"),
        pytest.param(WaitEnd.READY, "fail", After.GO_ON, id="ready"),
        pytest.param(WaitEnd.HELD, "leave", After.FAIL, id="held"),
        pytest.param(WaitEnd.LEFT, "fail", After.LEAVE, id="left"),
        pytest.param(WaitEnd.WANTED, "stop", After.GIVE_WAY, id="wanted by another run"),
        pytest.param(WaitEnd.FAR_ENOUGH, "fail", After.STOP, id="the end of an increment"),
        pytest.param(WaitEnd.TIME_IS_UP, "fail", After.FAIL, id="time is up: fail"),
        pytest.param(WaitEnd.TIME_IS_UP, "leave", After.LEAVE, id="time is up: leave"),
        pytest.param(WaitEnd.TIME_IS_UP, "stop", After.STOP, id="time is up: stop"),
    ],
)
def test_after_wait(end: WaitEnd, on_timeout: str, after: After) -> None:
    """Each reason for which a wait ends means one thing; only when time is up the user says what."""
    assert after_wait(end, asking(on_timeout=on_timeout).waiting) is after


@pytest.mark.parametrize(
    ("base_index", "names"),
    [
        pytest.param(3, ["top"], id="alone"),
        pytest.param(2, ["top", "base"], id="down to the base"),
        pytest.param(1, ["top", "mid", "base"], id="as it is"),
    ],
)
def test_wished_chain(base_index: int, names: list[str]) -> None:
    """What a stream leaves is the top, and all from what stays downwards."""
    assert [each.node_name for each in requested_chain(disk("top", "mid", "base"), base_index)] == names


@pytest.mark.parametrize(
    ("subject", "base_index", "needed"),
    [
        pytest.param(disk("top"), 1, 0, id="nothing to copy"),
        pytest.param(disk("top", "base"), 2, 100, id="what the base occupies"),
        pytest.param(disk("top", "mid", "base"), 3, 200, id="the sum"),
        pytest.param(disk("top", "mid", "base"), 2, 100, id="the base stays"),
        pytest.param(disk("top", "base"), 1, 0, id="all stays"),
        pytest.param(disk("top", image("base", allocated=None)), 2, 1000, id="NBD tells its size only"),
        pytest.param(disk("top", image("base", allocated=5000)), 2, 1000, id="metadata beyond its size"),
        pytest.param(
            disk("top", image("mid", allocated=900), image("base", allocated=900)), 3, 1000, id="the disk's size"
        ),
        pytest.param(disk("top", image("base", allocated=None, virtual_size=5000)), 2, 1000, id="a longer base"),
        pytest.param(disk("top", image("base", allocated=None, virtual_size=300)), 2, 300, id="a shorter base"),
    ],
)
def test_space_needed(subject: Disk, base_index: int, needed: int) -> None:
    """A stream writes at most what the images to be dropped hold, and never more than the disk."""
    assert space_needed(subject, base_index) == needed


GONE = {"top": {"file": "top-file"}, "top-file": {}}
LEFT = {
    **GONE,
    "mid": {"file": "mid-file", "backing": "base"},
    "mid-file": {},
    "base": {"file": "base-file"},
    "base-file": {},
}
USERS = {"mid-file": ("node mid",), "base": ("node mid",), "base-file": ("node base",)}


@pytest.mark.parametrize(
    ("left", "graph", "delete", "kept"),
    [
        pytest.param(
            [image("mid"), image("base")],
            Graph(LEFT, USERS, {}),
            ["mid", "mid-file", "base", "base-file"],
            [],
            id="all, from the top down",
        ),
        pytest.param([image("mid"), image("base")], Graph(GONE, {}, {}), [], [], id="gone by themselves"),
        pytest.param(
            [image("base", nodes=("#block1", "#block2"))],
            Graph({"#block1": {}, "#block2": {}}, {}, {}),
            [],
            [],
            id="generated names go by themselves",
        ),
        pytest.param(
            [image("mid"), image("base")],
            Graph(LEFT, {**USERS, "base": ("node mid", "node other")}, {}),
            ["mid", "mid-file"],
            ["base (used by node other)", "base-file (used by node base)"],
            id="another disk stands on the base",
        ),
        pytest.param(
            [image("mid")],
            Graph(LEFT, {**USERS, "mid": ("device or export vdb", "job j")}, {}),
            [],
            ["mid (used by device or export vdb, job j)", "mid-file (used by node mid)"],
            id="an export and a job use it",
        ),
        pytest.param(
            [image("mid", nodes=("slow", "mid", "mid-file"))],
            Graph({**LEFT, "slow": {"file": "mid"}}, {**USERS, "mid": ("node slow",)}, {}),
            ["slow", "mid", "mid-file"],
            [],
            id="a filter above it goes first",
        ),
        pytest.param([], Graph(LEFT, USERS, {}), [], [], id="nothing left the chain"),
    ],
)
def test_releasable(left: list[Image], graph: Graph, delete: list[str], kept: list[str]) -> None:
    """Named nodes that nothing else uses can be deleted, users first; the rest is named with its users."""
    assert releasable(left, graph) == (delete, kept)


def test_releasable_after_a_real_stream() -> None:
    """The nodes of a chain as QEMU 7.2 had it, with all edges gone but their own."""
    before, after = recorded_vm("qemu-7.2-named-nodes"), recorded_vm("qemu-7.2-concluded")
    dismissed = {node: tuple(user for user in users if user != "job job0") for node, users in after.graph.users.items()}
    graph = Graph(after.graph.below, dismissed, {})
    assert releasable(before.disks[0].chain[1:], graph) == (["mid", "mid-file", "base", "base-file"], [])


def test_releasable_keeps_what_another_disk_stands_on() -> None:
    """A base that two disks share stays, as QEMU 7.2 shows it."""
    seen = recorded_vm("qemu-7.2-shared-base")
    _delete, kept = releasable(seen.disks[0].chain[1:], seen.graph)
    assert kept == ["base (used by node top-a, node top-b)", "base-file (used by node base)"]


@pytest.mark.parametrize(
    ("running", "asked", "after"),
    [
        pytest.param(job("pending"), asking(), After.FAIL, id="fail"),
        pytest.param(job("pending"), asking(on_timeout="leave"), After.LEAVE, id="leave"),
        pytest.param(None, asking(on_timeout="leave"), After.LEAVE, id="leave it for later"),
        pytest.param(job("pending"), asking(on_timeout="stop"), After.LEAVE, id="it copies no more: as if stopped"),
        pytest.param(job("pending"), asking(wait=False), After.LEAVE, id="nobody waits"),
        pytest.param(
            None, asking(wait=False, on_timeout="leave"), After.FAIL, id="nobody waits, and nothing was started"
        ),
    ],
)
def test_after_sitting_out(running: Job | None, asked: Request, after: After) -> None:
    """A migration that takes too long is a failure where nothing is left that goes on by itself."""
    assert after_sitting_out(running, asked.waiting) is after


@pytest.mark.parametrize("step", Step)
def test_must_sit_out(step: Step) -> None:
    """To start or finish a job during a migration may end QEMU; to pause or cancel one does not."""
    assert must_sit_out(step) is (step in (Step.START, Step.FINALIZE, Step.PULL))


OWN, OTHER = job(), job(id="pull-vdb-libvirt-4-format", is_libvirts=True)


@pytest.mark.parametrize(
    ("migration", "jobs", "own", "words"),
    [
        pytest.param(Migration("", False), [], None, None, id="nothing"),
        pytest.param(Migration("completed-7", False), [OWN], OWN, None, id="a migration that is over"),
        pytest.param(Migration("active-7", True), [OTHER], OWN, "migrated, or its state", id="a migration before all"),
        pytest.param(Migration("", False), [OWN, OTHER], OWN, "libvirt's job pull-vdb", id="libvirt's other job"),
        pytest.param(
            Migration("", False), [OTHER], None, "libvirt's job pull-vdb", id="libvirt's job, and none of ours"
        ),
        pytest.param(Migration("", False), [OTHER], OTHER, None, id="libvirt's own job on this very disk"),
        pytest.param(Migration("", False), [OWN, job(id="populate-vdb")], OWN, None, id="a stream of ours beside it"),
    ],
)
def test_obstacle_of(migration: Migration, jobs: list[Job], own: Job | None, words: str | None) -> None:
    """What must be waited for is a migration, and a job of libvirt's on another disk; a job of ours is none."""
    obstacle = obstacle_of(migration, jobs, own)
    assert (obstacle is None) is (words is None)
    assert (words or "") in (obstacle or "")
