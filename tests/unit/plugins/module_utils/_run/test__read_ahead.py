# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from typing import Any

import pytest
from ansible_collections.virtops.qmp.plugins.module_utils._decide._ahead import Course, Window
from ansible_collections.virtops.qmp.plugins.module_utils._decide._outcome import Outcome
from ansible_collections.virtops.qmp.plugins.module_utils._model._request import Request
from ansible_collections.virtops.qmp.plugins.module_utils._model._serving import LOCK
from ansible_collections.virtops.qmp.plugins.module_utils._model._target import Target, base_index_of
from ansible_collections.virtops.qmp.plugins.module_utils._run._budget import Budget
from ansible_collections.virtops.qmp.plugins.module_utils._run._observe import identify
from ansible_collections.virtops.qmp.plugins.module_utils._run._read_ahead import reading_ahead
from ansible_collections.virtops.qmp.plugins.module_utils._run._reconcile import reconcile
from ansible_collections.virtops.qmp.tests.unit import clock
from ansible_collections.virtops.qmp.tests.unit.builders import asking
from ansible_collections.virtops.qmp.tests.unit.fake_qemu import CHUNK, MIB, SIZE, TICK, FakeHost, FakeQemu, Node

STEP = MIB // 2
PLAIN = SIZE / CHUNK * TICK
EXPORTS = ["getfd", "nbd-server-start", "block-export-add", "block-export-del", "nbd-server-stop"]
LOCKED = [*EXPORTS[:3], "block-export-add", "add-fd", "blockdev-add", "remove-fd", *EXPORTS[3:], "blockdev-del"]


def vm() -> FakeQemu:
    qemu = FakeQemu()
    qemu.add("vda", "top.qcow2", "mid.qcow2", "base.qcow2")
    qemu.ahead.depths = [(SIZE, 3)]
    return qemu


def stream(
    qemu: FakeQemu,
    asked: Request | None = None,
    *,
    seconds: float | None = None,
    during: Callable[[], object] | None = None,
    remote: int = 1,
    ahead: int | None = None,
) -> tuple[Outcome, float]:
    """Populate the disk, with something that happens after a second; the outcome, and how long it took."""
    asked = asked or asking(read_ahead=8)

    async def work() -> tuple[Outcome, float]:
        host = FakeHost(qemu)
        host.remote = {remote}
        async with host.open_link(qemu.address) as link:
            seen = await identify(link, host)
            target = Target(seen, seen.disks[0], base_index_of(seen, seen.disks[0], asked.base), ahead=ahead)
            loop = asyncio.get_running_loop()
            if during is not None:
                loop.call_later(1.0, during)
            deadline = None if seconds is None else loop.time() + seconds
            began = loop.time()
            outcome = await reconcile(link, host, target, Budget(asked, host.open_link), deadline)
            if qemu.stuck and qemu.nbd is not None:
                qemu.nbd.close()
            others = asyncio.all_tasks() - {asyncio.current_task()}
            _ended, left = await asyncio.wait(others, timeout=0) if others else (others, set())
            assert not left, "a task was left behind"
            return outcome, loop.time() - began

    outcome, took = clock.run(work())
    assert not qemu.harm
    return outcome, took


# While it is found out what the stream can do by itself nothing is read ahead: in that time it comes to about here.
BEGIN = 8 * STEP
RAW = Course(SIZE, STEP, last_depth=3, needs_map=False)


def nothing() -> None:
    pass


def read_beside(qemu: FakeQemu, during: Callable[[], object]) -> list[str]:
    """Read ahead of a stream of which nobody takes care, with something that happens after a second; what was told."""
    told: list[str] = []

    async def work() -> None:
        async with FakeHost(qemu).open_link(qemu.address) as link:
            qemu.stream("top", "populate-vda", auto_finalize=False)
            async with reading_ahead(link, "top", "populate-vda", RAW, Window(2), told.append):
                asyncio.get_running_loop().call_later(1.0, during)
                await asyncio.sleep(20.0)

    clock.run(work())
    assert (qemu.exports, qemu.nbd, qemu.harm) == ({}, None, [])
    return told


def test_a_raw_base_needs_no_map() -> None:
    """All of a raw image is data: nobody asks where it lies."""
    qemu = vm()
    qemu.ahead.depths = []
    assert read_beside(qemu, nothing) == []
    assert sorted(qemu.ahead.copied) == [(offset, STEP) for offset in range(BEGIN, SIZE, STEP)]


def test_a_job_that_is_no_more() -> None:
    """Nothing is asked for when the job is gone, also where nobody has noticed that yet."""
    qemu = vm()
    qemu.ahead.seconds = 0.5
    asked: list[int] = []

    def vanish() -> None:
        qemu.serve("job-cancel", {"id": "populate-vda"})
        asyncio.get_running_loop().call_later(1.0, lambda: asked.append(len(qemu.ahead.asked)))

    assert read_beside(qemu, vanish) == []
    assert asked == [len(qemu.ahead.asked)]
    assert 0 < asked[0] < SIZE // STEP


def test_a_job_that_was_never_there() -> None:
    """Without a job nothing is read at all."""
    qemu = vm()
    qemu.act_before("nbd-server-start", lambda: qemu.serve("job-cancel", {"id": "populate-vda"}))
    assert read_beside(qemu, nothing) == []
    assert qemu.ahead.asked == []


def test_a_job_that_is_faster() -> None:
    """What the job has passed over by itself is not asked for."""
    qemu = vm()
    qemu.ahead.seconds = 0.5

    def jump() -> None:
        qemu.jobs["populate-vda"].offset = SIZE // 2 + STEP

    assert read_beside(qemu, jump) == []
    assert not [offset for offset, _length in qemu.ahead.asked if SIZE // 4 < offset < SIZE // 2]


def of_exports(qemu: FakeQemu) -> list[str]:
    return [act for act in qemu.acts if act in (*LOCKED, "closefd")]


def test_a_stream_is_read_ahead_of() -> None:
    """It is faster by far, all is copied once, and the end is as without: nothing is left, and all is flushed."""
    qemu = vm()
    outcome, took = stream(qemu)
    assert (outcome.error, outcome.is_finished, outcome.notes) == (None, True, ())
    assert took < PLAIN / 4
    assert sorted(qemu.ahead.copied) == [(offset, STEP) for offset in range(BEGIN, SIZE, STEP)]
    assert (qemu.ahead.most, of_exports(qemu)) == (8, LOCKED)
    acts = qemu.acts
    assert acts.index("nbd-server-stop") < acts.index("human-monitor-command") < acts.index("job-finalize")
    assert (qemu.exports, qemu.nbd, qemu.only_in_memory) == ({}, None, {})


def test_what_was_found_is_told() -> None:
    """How many requests were worth it is known in the end, for whoever goes on with the stream."""
    qemu = vm()
    outcome, _took = stream(qemu, asking(read_ahead=2))
    assert outcome.ahead == 2


def test_what_an_earlier_look_has_found_is_used_at_once() -> None:
    """Who goes on with a stream need not find out anew how many requests are worth it."""
    qemu = vm()
    outcome, _took = stream(qemu, ahead=4)
    assert (outcome.ahead, qemu.ahead.most) == (4, 4)
    assert sorted(qemu.ahead.copied) == [(offset, STEP) for offset in range(0, SIZE, STEP)]


def test_a_known_number_is_known_still_where_it_cannot_be_used() -> None:
    """A slice that cannot read ahead does not forget what one before it has found."""
    qemu = vm()
    qemu.refuses = {"nbd-server-start": "already running"}
    outcome, _took = stream(qemu, ahead=4)
    assert outcome.ahead == 4


def test_without_it_nothing_of_it_happens() -> None:
    """Who does not ask for it gets a plain stream."""
    qemu = vm()
    outcome, took = stream(qemu, asking())
    assert (outcome.is_finished, of_exports(qemu)) == (True, [])
    assert took >= PLAIN - 2 * TICK


@pytest.mark.parametrize(
    ("members", "words"),
    [
        pytest.param({"iothreads": ["io0"]}, "iothreads", id="iothreads"),
        pytest.param({"exports": {"theirs": "nbd"}}, "somebody else", id="their server"),
        pytest.param({"refuses": {"nbd-server-start": "already running"}}, "already running", id="a server of nobody"),
        pytest.param({"refuses": {"getfd": "no descriptors"}}, "no descriptors", id="it takes no descriptor"),
        pytest.param({"refuses": {"block-export-add": "no such node"}}, "no such node", id="it refuses the node"),
    ],
)
def test_what_forbids_it_is_a_note(members: dict[str, object], words: str) -> None:
    """The stream goes on without it, and the task says why."""
    qemu = vm()
    for name, value in members.items():
        setattr(qemu, name, value)
    outcome, _took = stream(qemu)
    assert (outcome.error, outcome.is_finished) == (None, True)
    (note,) = outcome.notes
    assert note.startswith("vm0: disk vda: nothing is read ahead of the stream, which goes on without it: ")
    assert words in note
    assert (qemu.ahead.asked, qemu.nbd) == ([], None)


def test_local_files() -> None:
    """Where all images are files of this host nothing is gained, and that is told."""
    qemu = vm()
    outcome, _took = stream(qemu, remote=2)
    assert ("local files" in outcome.notes[0], of_exports(qemu)) == (True, [])


@pytest.mark.parametrize("waiting", [{"wait": False}, {"poll_interval": 1}], ids=["no wait", "short visits"])
def test_nobody_stays(waiting: dict[str, Any]) -> None:
    """What needs somebody at the monitor is not begun where nobody stays."""
    qemu = vm()
    outcome, _took = stream(qemu, asking(read_ahead=8, **waiting), seconds=0.0)
    assert (len(outcome.notes), of_exports(qemu)) == (1, [])
    qemu.jobs.clear()


def test_only_what_lies_between_top_and_base() -> None:
    """With a base nothing of it is copied, and nothing that the disk has, and nothing where nothing is."""
    qemu = vm()
    begin = SIZE // 2
    qemu.ahead.depths = [(begin, 2), (MIB, 1), (MIB, 2), (MIB, 3), (MIB, 2), (begin - 5 * MIB, 0), (MIB, 2)]
    outcome, _took = stream(qemu, asking(read_ahead=8, base="/vms/base.qcow2"))
    assert outcome.is_finished
    read = [begin + MIB, begin + 3 * MIB, SIZE - MIB]
    asked = {offset for offset, _length in qemu.ahead.asked if offset >= begin}
    assert asked == {place + half for place in read for half in (0, STEP)}


def test_an_increment_is_not_exceeded() -> None:
    """Nothing is read behind the mark at which the stream stops."""
    qemu = vm()
    outcome, _took = stream(qemu, asking(read_ahead=8, increment=3 * MIB + 17, cursor=MIB))
    assert outcome.action == "stopped"
    assert max(offset + length for offset, length in qemu.ahead.asked) == 4 * MIB + 17
    assert (qemu.exports, qemu.nbd) == ({}, None)


def test_job_and_read_ahead_keep_the_limit_together() -> None:
    """What both copy in a second is not more than `speed`, whoever of them copies it."""
    qemu = vm()
    qemu.ahead.seconds = 0.5
    limit = 12 * MIB
    outcome, took = stream(qemu, asking(read_ahead=16, speed=limit))
    assert outcome.is_finished
    assert SIZE / took < 1.1 * limit


def test_a_held_job_is_not_read_ahead_of() -> None:
    """While somebody holds the job nothing is copied; when they let it go, it goes on."""
    qemu = vm()
    qemu.ahead.seconds = 1.0
    asked: list[int] = []

    def hold() -> None:
        job = qemu.jobs["populate-vda"]
        job.paused = True
        loop = asyncio.get_running_loop()
        loop.call_later(1.0, lambda: asked.append(len(qemu.ahead.asked)))
        loop.call_later(9.0, lambda: asked.append(len(qemu.ahead.asked)))
        loop.call_later(9.0, setattr, job, "paused", False)

    outcome, _took = stream(qemu, asking(read_ahead=2), during=hold)
    assert outcome.is_finished
    assert asked[0] == asked[1] > 0
    assert len(qemu.ahead.asked) > asked[1]


def test_an_error_ends_it_and_not_the_stream() -> None:
    """What cannot be copied is the job's to tell: the reading ahead ends, with a note, and leaves nothing."""
    qemu = vm()
    qemu.ahead.error = errno.EIO
    outcome, _took = stream(qemu)
    assert (outcome.is_finished, qemu.exports, qemu.nbd) == (True, {}, None)
    (note,) = outcome.notes
    assert "Input/output error" in note


def test_the_connection_is_lost() -> None:
    """A server that hangs up ends it, with a note."""
    qemu = vm()
    qemu.ahead.seconds = 3.0

    def hang_up() -> None:
        assert qemu.nbd is not None
        qemu.nbd.hang_up("populate-ahead-0")

    outcome, _took = stream(qemu, during=hang_up)
    assert outcome.is_finished
    assert "closed the connection" in outcome.notes[0]


@pytest.mark.parametrize("on_timeout", ["fail", "leave", "stop"])
def test_it_ends_with_the_wait(on_timeout: str) -> None:
    """When the time is over nothing is read ahead any more, whatever becomes of the job."""
    qemu = vm()
    qemu.ahead.seconds = 1.0
    outcome, _took = stream(qemu, asking(read_ahead=2, on_timeout=on_timeout), seconds=2.0)
    assert (outcome.is_finished, qemu.exports, qemu.nbd) == (False, {}, None)
    assert of_exports(qemu) == LOCKED
    qemu.jobs.clear()


def test_a_job_that_is_cancelled() -> None:
    """It ends with a job that somebody else ends."""
    qemu = vm()
    qemu.ahead.seconds = 1.0
    outcome, _took = stream(qemu, asking(read_ahead=2), during=lambda: qemu.serve("job-cancel", {"id": "populate-vda"}))
    assert outcome.error is not None
    assert "cancelled by somebody else" in outcome.error.message
    assert (qemu.exports, qemu.nbd, outcome.notes) == ({}, None, ())


def test_what_a_killed_task_left_is_ended_first() -> None:
    """An export of ours that is there when the VM is visited is of a task that was killed, and goes."""
    qemu = vm()
    qemu.exports["populate-ahead-0"] = "nbd"
    outcome, _took = stream(qemu, asking())
    assert (outcome.is_finished, qemu.exports, outcome.notes) == (True, {}, ())
    assert of_exports(qemu) == ["block-export-del", "nbd-server-stop", "blockdev-del"]


def test_a_lock_that_was_left_is_removed() -> None:
    """A VM that a killed task has kept from migrating may migrate again."""
    qemu = vm()
    qemu.nodes[LOCK] = Node(LOCK, "vdi", "/dev/fdset/0")
    outcome, _took = stream(qemu, asking())
    assert (outcome.is_finished, LOCK in qemu.nodes, of_exports(qemu)) == (True, False, ["blockdev-del"])


def test_what_does_not_end_is_told() -> None:
    """An export whose requests hang stays, the task says so, and the stream is none the worse."""
    qemu = vm()
    qemu.exports["populate-ahead-0"] = "nbd"
    qemu.stuck.add("populate-ahead-0")
    outcome, _took = stream(qemu, asking())
    assert outcome.is_finished
    assert "populate-ahead-0 does not end" in outcome.notes[0]
    assert "nbd-server-stop" not in qemu.acts


def test_its_own_export_does_not_end() -> None:
    """The same of the export of this very task."""
    qemu = vm()
    qemu.stuck.add("populate-ahead-0")
    outcome, _took = stream(qemu)
    assert outcome.is_finished
    assert "populate-ahead-0 does not end" in outcome.notes[0]
