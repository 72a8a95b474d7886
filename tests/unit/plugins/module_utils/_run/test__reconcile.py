# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
from typing import Any, Callable, Sequence  # noqa: UP035  # Python 3.8

import pytest
from ansible_collections.virtops.qmp.plugins.module_utils._decide._outcome import Outcome
from ansible_collections.virtops.qmp.plugins.module_utils._model._map import MapTotals, NoMap
from ansible_collections.virtops.qmp.plugins.module_utils._model._request import Request
from ansible_collections.virtops.qmp.plugins.module_utils._model._target import Target, base_index_of
from ansible_collections.virtops.qmp.plugins.module_utils._run._budget import Budget
from ansible_collections.virtops.qmp.plugins.module_utils._run._observe import identify
from ansible_collections.virtops.qmp.plugins.module_utils._run._reconcile import reconcile
from ansible_collections.virtops.qmp.tests.unit import clock
from ansible_collections.virtops.qmp.tests.unit.builders import asking
from ansible_collections.virtops.qmp.tests.unit.fake_qemu import (
    CHUNK,
    IO_ERROR,
    MIB,
    NO_SPACE,
    SIZE,
    TICK,
    FakeHost,
    FakeQemu,
    inode_of,
)

FILES = ("top.qcow2", "mid.qcow2", "base.qcow2")
# Without a job QEMU tells whether it could flush; beside one it flushes, and does not tell.
ASK = ("blockdev-snapshot", {"node": "top", "overlay": "/no such node/"})
FLUSH = ("human-monitor-command", {"command-line": "qemu-io top flush"})
ASK_FILE = ("blockdev-snapshot", {"node": "top-file", "overlay": "/no such node/"})
WHOLE = SIZE / CHUNK * TICK
BASE = {"base-node": "#base", "backing-file": "/vms/base.qcow2"}
Act = Callable[[], object]


def nothing() -> None:
    pass


def vm_with(*files: str, named: bool = False) -> FakeQemu:
    """A VM with one disk `vda`."""
    qemu = FakeQemu()
    qemu.add("vda", *(files or FILES), named=named)
    return qemu


def bring(  # noqa: PLR0913  # each test names what it is about
    qemu: FakeQemu,
    asked: Request | None = None,
    *,
    seconds: float | None = None,
    first: Act = nothing,
    then: Act = nothing,
    host: FakeHost | None = None,
    maps: Sequence[MapTotals | NoMap] = (),
) -> Outcome:
    """Bring about a wish; `first` happens before the VM is looked at, `then` between the plan and the act."""
    requested = asking() if asked is None else asked

    hypervisor = FakeHost(qemu) if host is None else host
    hypervisor.maps = list(maps)

    async def work() -> Outcome:
        host = hypervisor
        first()
        async with host.open_link(qemu.address) as monitor:
            seen = await identify(monitor, host)
            disk = seen.disks[0]
            target = Target(seen, disk, base_index_of(seen, disk, requested.base))
            qemu.log.clear()
            then()
            loop = asyncio.get_running_loop()
            deadline = None if seconds is None else loop.time() + seconds
            outcome = await reconcile(monitor, host, target, Budget(requested, host.open_link), deadline)
            assert not qemu.listeners, "a listener was left behind"
            others = asyncio.all_tasks() - {asyncio.current_task()}
            _ended, left = await asyncio.wait(others, timeout=0) if others else (others, set())
            assert not left, "a task was left behind"
            return outcome

    outcome: Outcome = clock.run(work())
    assert not qemu.harm
    assert "query-named-block-nodes" not in qemu.commands
    return outcome


def is_safe(qemu: FakeQemu) -> bool:
    """Whether a crash would cost nothing of what was reported."""
    return not qemu.only_in_memory


# -- The order of truth ------------------------------------------------------------------------------------------------


def test_a_disk_is_populated_in_the_safe_order() -> None:
    """Flush, start, wait, flush, finalize, flush: nothing more is sent, and nothing in another order."""
    qemu = vm_with()
    outcome = bring(qemu)
    start = {"job-id": "populate-vda", "device": "top", "auto-finalize": False, "on-error": "report"}
    acts = [(command, arguments) for command, arguments in qemu.log if command in qemu.acts]
    finish = ("job-finalize", {"id": "populate-vda"})
    assert acts == [ASK, ("block-stream", start), ASK, FLUSH, ASK_FILE, finish, ASK]
    assert (outcome.error, outcome.action, outcome.is_finished, outcome.cursor) == (None, "started", True, SIZE)
    assert ([image.path for image in outcome.left], qemu.chain()) == (
        ["/vms/mid.qcow2", "/vms/base.qcow2"],
        ["top.qcow2"],
    )
    assert is_safe(qemu)


def test_the_images_below_are_known_by_what_they_were() -> None:
    """The identity of each file below the top is taken before the work, while QEMU still has it open."""
    left = {image.file: image.id for image in bring(vm_with()).left}
    assert left == {path: inode_of(path).id for path in ("/vms/mid.qcow2", "/vms/base.qcow2")}


def test_images_that_are_no_local_file_have_no_identity() -> None:
    """A base over NBD, or one that is gone, is left out of the identities."""
    qemu = vm_with("top.qcow2", "base.qcow2")
    qemu.nodes["#base"].filename = "nbd+unix://?socket=/vms/nbd.sock"
    assert [image.id for image in bring(qemu).left] == [None]


def test_a_second_run_changes_nothing() -> None:
    """A populated disk is flushed and left alone."""
    qemu = vm_with()
    bring(qemu)
    outcome = bring(qemu)
    assert (outcome.action, outcome.error, outcome.is_finished, outcome.left) == ("none", None, True, ())
    assert qemu.log[-1] == ASK
    assert qemu.acts == ["blockdev-snapshot"]


@pytest.mark.parametrize(
    ("asked", "extra"),
    [
        pytest.param(
            asking(base="base.qcow2"), {"base-node": "#base", "backing-file": "/vms/base.qcow2"}, id="base by path"
        ),
        pytest.param(
            asking(base="#base"), {"base-node": "#base", "backing-file": "/vms/base.qcow2"}, id="base by node"
        ),
        pytest.param(asking(speed=5), {"speed": 5}, id="speed"),
        pytest.param(asking(speed=0), {"speed": 0}, id="unlimited"),
        pytest.param(asking(on_error="stop"), {"on-error": "stop"}, id="policy"),
    ],
)
def test_the_arguments_of_a_stream(asked: Request, extra: dict[str, Any]) -> None:
    """What was wished is passed on as QEMU calls it."""
    qemu = vm_with()
    bring(qemu, asked, seconds=0)
    usual = {"job-id": "populate-vda", "device": "top", "auto-finalize": False, "on-error": "report"}
    assert [arguments for command, arguments in qemu.log if command == "block-stream"] == [{**usual, **extra}]


def test_down_to_a_base() -> None:
    """With a base the disk is finished when the base is all that is left below it."""
    qemu = vm_with()
    outcome = bring(qemu, asking(base="base.qcow2"))
    assert (outcome.is_finished, outcome.error, qemu.chain()) == (True, None, ["top.qcow2", "base.qcow2"])
    assert [image.path for image in outcome.left] == ["/vms/mid.qcow2"]


@pytest.mark.parametrize(
    "drivers", [pytest.param(["throttle"], id="one"), pytest.param(["throttle", "copy-on-read"], id="two")]
)
def test_under_filters(drivers: list[str]) -> None:
    """Under filters the format node is streamed, and the chain is judged as ever."""
    qemu = vm_with()
    for driver in drivers:
        qemu.put_filter("vda", driver)
    outcome = bring(qemu)
    assert (outcome.error, outcome.is_finished, qemu.chain()) == (None, True, ["top.qcow2"])
    assert [arguments["device"] for command, arguments in qemu.log if command == "block-stream"] == ["top"]
    assert is_safe(qemu)


# -- Jobs that are there already ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offset", "action"),
    [pytest.param(0, "joined", id="running"), pytest.param(SIZE - CHUNK, "joined", id="nearly there")],
)
def test_a_stream_of_ours_is_joined(offset: int, action: str) -> None:
    """A rerun starts nothing: it follows the stream of the run before, and finishes it."""
    qemu = vm_with()

    def start() -> None:
        qemu.stream("top", "populate-vda", auto_finalize=False).offset = offset

    outcome = bring(qemu, first=start)
    assert (outcome.action, outcome.is_finished, outcome.error) == (action, True, None)
    ask, flush = "blockdev-snapshot", "human-monitor-command"
    assert qemu.acts == [ask, flush, ask, "job-finalize", ask]
    assert is_safe(qemu)


def test_a_stream_that_is_pending_is_finished() -> None:
    """What an earlier run left pending is flushed, finalized and flushed."""
    qemu = vm_with()
    bring(qemu, asking(wait=False), seconds=0)

    def arrive() -> None:
        job = qemu.stream("top", "populate-vda", auto_finalize=False)
        job.offset, job.status = SIZE, "pending"
        qemu.only_in_memory["top"] = "copied clusters"

    qemu.jobs.clear()
    outcome = bring(qemu, first=arrive)
    assert (outcome.action, outcome.is_finished) == ("joined", True)
    assert is_safe(qemu)


def test_a_foreign_stream_that_finalizes_itself_is_followed_and_flushed() -> None:
    """Somebody else's stream with QEMU's defaults is followed to its end, and then its result is made safe."""
    qemu = vm_with()
    outcome = bring(qemu, first=lambda: qemu.stream("top"))
    assert (outcome.action, outcome.is_finished, outcome.error) == ("joined", True, None)
    assert qemu.acts == ["blockdev-snapshot"]
    assert is_safe(qemu)


SAVED = {"status": "completed", "total-time": 17}


@pytest.mark.parametrize("paused", [False, True], ids=["running", "paused"])
@pytest.mark.parametrize("speed", [None, 5 * MIB], ids=["follow", "retune"])
def test_a_stream_that_finalizes_itself_in_a_vm_that_was_saved(paused: bool, speed: int | None) -> None:
    """It may have copied nothing, and would drop the link by itself: given up in time, told, and streamed again."""
    qemu = vm_with()
    qemu.migration = SAVED

    def arrive() -> None:
        qemu.stream("top").paused = paused

    outcome = bring(qemu, asking(speed=speed), first=arrive)
    assert (outcome.error, outcome.is_finished, outcome.restarts) == (None, True, 1)
    acts = [command for command in qemu.acts if command.startswith(("job-", "block-stream", "block-job"))]
    assert acts == ["job-cancel", "block-stream", "job-finalize"]
    assert "job theirs was there" in outcome.notes[0]


@pytest.mark.parametrize("auto_dismiss", [True, False])
def test_a_stream_that_finalizes_itself_while_the_vm_is_saved(auto_dismiss: bool) -> None:
    """The link is gone before anybody could look: nothing is claimed, and nothing given up."""
    qemu = vm_with()

    def save() -> None:
        qemu.migration = SAVED

    outcome = bring(qemu, first=lambda: qemu.stream("top", auto_dismiss=auto_dismiss), then=later(1, save))
    assert (outcome.is_finished, outcome.disk.is_populated, qemu.chain()) == (False, False, ["top.qcow2"])
    assert "its state was saved, while job theirs was there" in str(outcome.error)


def test_a_stream_that_is_aborting_in_a_vm_that_was_saved_is_followed() -> None:
    """It is on its way to its end already, and a cancel would be refused."""
    qemu = vm_with()
    qemu.migration = SAVED

    def arrive() -> None:
        qemu.stream("top").status = "aborting"

    outcome = bring(qemu, first=arrive, then=later(1, qemu.jobs.clear))
    assert "job-cancel" not in qemu.acts
    assert (outcome.error, outcome.is_finished) == (None, True)


def test_a_foreign_stream_that_must_be_dismissed_is_followed_and_dismissed() -> None:
    """Somebody else's stream with auto-dismiss off is followed, then dismissed, and that is told."""
    qemu = vm_with()
    outcome = bring(qemu, first=lambda: qemu.stream("top", auto_dismiss=False))
    assert (outcome.is_finished, outcome.error, qemu.jobs) == (True, None, {})
    assert "vm0: disk vda: job theirs, which somebody else had started, had ended" in outcome.notes[0]
    assert is_safe(qemu)


def test_a_foreign_stream_that_waits_for_both_is_finalized_and_dismissed() -> None:
    """A stream with neither auto-finalize nor auto-dismiss is taken through both."""
    qemu = vm_with()
    outcome = bring(qemu, first=lambda: qemu.stream("top", auto_dismiss=False, auto_finalize=False))
    assert (outcome.is_finished, outcome.error, qemu.jobs) == (True, None, {})
    assert is_safe(qemu)


def test_a_concluded_foreign_stream_that_failed_is_told_and_done_again() -> None:
    """Its error is told, it is dismissed, and a stream of ours follows."""
    qemu = vm_with()

    def conclude() -> None:
        job = qemu.stream("top", auto_dismiss=False)
        job.status, job.error = "concluded", IO_ERROR

    outcome = bring(qemu, first=conclude)
    assert (outcome.action, outcome.is_finished, outcome.error) == ("started", True, None)
    assert f"had ended with: {IO_ERROR}" in outcome.notes[0]


def test_a_foreign_stream_to_another_base_is_followed_by_one_of_ours() -> None:
    """A stream that ends above what is wished is only the first half."""
    qemu = vm_with()
    outcome = bring(qemu, first=lambda: qemu.stream("top", base_node="#base"))
    assert (outcome.is_finished, outcome.error, qemu.chain()) == (True, None, ["top.qcow2"])
    assert qemu.acts.count("block-stream") == 1


def test_a_foreign_stream_beyond_the_base_populates_all() -> None:
    """A stream that goes further than wished leaves nothing to do."""
    qemu = vm_with()
    outcome = bring(qemu, asking(base="base.qcow2"), first=lambda: qemu.stream("top"))
    assert (outcome.is_finished, outcome.error, qemu.chain()) == (True, None, ["top.qcow2"])


def test_another_job_on_the_disk_is_left_alone() -> None:
    """A mirror or a backup is no stream: nothing is started beside it."""
    qemu = vm_with()
    outcome = bring(qemu, first=lambda: qemu.other_job("top"))
    assert outcome.error is not None
    assert "mirror job theirs is running at 0 of 67108864 bytes and uses the disk" in str(outcome.error)
    assert qemu.acts == []


def test_another_job_on_a_populated_disk_is_no_matter() -> None:
    """A populated disk is populated, whatever else works on it."""
    qemu = vm_with("top.qcow2")
    outcome = bring(qemu, first=lambda: qemu.other_job("top"))
    assert (outcome.error, outcome.is_finished, outcome.action) == (None, True, "none")


def test_what_the_end_takes_is_loaded_while_qemu_copies() -> None:
    """Nobody waits for it when all is copied; a task that finds all done, or does not wait, never loads it."""
    qemu, done, started = vm_with(), vm_with("top.qcow2"), vm_with()
    host, others = FakeHost(qemu), [FakeHost(done), FakeHost(started)]
    bring(qemu, host=host)
    bring(done, host=others[0])
    bring(started, asking(wait=False), seconds=0, host=others[1])
    assert host.acts_when_ready
    assert host.acts_when_ready[0] == qemu.acts[: qemu.acts.index("block-stream") + 1]
    assert [other.acts_when_ready for other in others] == [[], []]


# -- Ends that are no success ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("on_error", ["report", "enospc", "ignore"])
def test_a_stream_that_fails_is_never_a_success(on_error: str) -> None:
    """QEMU calls a failed stream completed; the error of its event is told, and the disk still needs its base."""
    qemu = vm_with()
    qemu.faults["top"] = (8 * MIB, IO_ERROR)
    outcome = bring(qemu, asking(on_error=on_error))
    assert outcome.error is not None
    assert f"failed at {outcome.cursor} of {SIZE} bytes: {IO_ERROR}" in str(outcome.error)
    assert (outcome.is_finished, len(qemu.chain()), qemu.acts.count("block-stream")) == (False, 3, 1)


def test_a_foreign_stream_that_fails_is_told() -> None:
    """The failure of a stream that was joined is a failure of the wish."""
    qemu = vm_with()
    qemu.faults["top"] = (8 * MIB, IO_ERROR)
    outcome = bring(qemu, first=lambda: qemu.stream("top"))
    assert outcome.error is not None
    assert "job theirs failed" in str(outcome.error)


@pytest.mark.parametrize(
    ("on_error", "reason", "words"),
    [
        pytest.param("stop", IO_ERROR, "held by an I/O error", id="stop at an I/O error"),
        pytest.param("stop", NO_SPACE, "no space left", id="stop at a full file system"),
        pytest.param("enospc", NO_SPACE, "no space left", id="enospc at a full file system"),
    ],
)
def test_a_held_stream_is_told_and_resumed_by_the_next_run(on_error: str, reason: str, words: str) -> None:
    """A held stream is an error that says so; once the cause is gone the same task finishes it."""
    qemu = vm_with()
    qemu.faults["top"] = (8 * MIB, reason)

    async def twice() -> list[Outcome]:
        host, outcomes = FakeHost(qemu), []
        for _run in range(2):
            async with host.open_link(qemu.address) as monitor:
                seen = await identify(monitor, host)
                target = Target(seen, seen.disks[0], len(seen.disks[0].chain))
                outcomes.append(
                    await reconcile(monitor, host, target, Budget(asking(on_error=on_error), host.open_link), None)
                )
            qemu.faults.clear()
        return outcomes

    held, resumed = clock.run(twice())
    assert words in str(held.error)
    assert "run the task again: it resumes the job" in str(held.error)
    assert (held.is_finished, held.job.is_held_by_error, held.cursor) == (False, True, 8 * MIB)
    assert (resumed.error, resumed.action, resumed.is_finished) == (None, "resumed", True)
    assert is_safe(qemu)


def test_a_held_stream_that_is_held_again_is_told_again() -> None:
    """A resume while the cause is still there leaves the job held, and says so."""
    qemu = vm_with()
    qemu.faults["top"] = (0, IO_ERROR)

    def hold() -> None:
        job = qemu.stream("top", "populate-vda", auto_finalize=False, on_error="stop")
        job.paused, job.status, job.io_status = True, "paused", "failed"

    outcome = bring(qemu, first=hold)
    assert (outcome.action, outcome.is_finished) == ("resumed", False)
    assert outcome.error is not None
    assert "held by an I/O error" in str(outcome.error)


def later(seconds: float, act: Act) -> Act:
    return lambda: asyncio.get_running_loop().call_later(seconds, act)


def test_a_stream_that_somebody_cancels_is_told() -> None:
    """A stream that vanishes because somebody cancelled it is an error, and is not started again behind their back."""
    qemu = vm_with()
    outcome = bring(qemu, then=later(1, lambda: qemu._job_cancel({"id": "populate-vda"})))
    assert outcome.error is not None
    assert "job populate-vda was cancelled by somebody else" in str(outcome.error)
    assert (outcome.is_finished, qemu.acts.count("block-stream")) == (False, 1)


def test_a_failure_is_told_with_its_position() -> None:
    """The message and the cursor say where the stream failed, however long ago it was looked at."""
    qemu = vm_with()
    qemu.faults["top"] = (8 * MIB, IO_ERROR)
    outcome = bring(qemu)
    assert outcome.error is not None
    assert (f"failed at {8 * MIB} of {SIZE} bytes" in str(outcome.error), outcome.cursor) == (True, 8 * MIB)


def test_a_stream_that_is_gone_before_it_is_looked_at_is_told() -> None:
    """A stream that ends between its start and the first look is known by its event."""
    qemu = vm_with()

    def cancel() -> None:
        qemu._job_cancel({"id": "populate-vda"})

    qemu.act_before("block-stream", lambda: qemu.act_before("query-block-jobs", cancel))
    outcome = bring(qemu)
    assert outcome.error is not None
    assert "job populate-vda was cancelled by somebody else" in str(outcome.error)
    assert (outcome.is_finished, qemu.acts.count("block-stream")) == (False, 1)


def test_a_stream_that_somebody_cancels_while_it_is_pending_is_told() -> None:
    """A cancel that comes between the end of the copy and our finalize is seen for what it is."""
    qemu = vm_with()
    qemu.act_before("job-finalize", lambda: qemu._job_cancel({"id": "populate-vda"}))
    outcome = bring(qemu)
    assert outcome.error is not None
    assert "cancelled by somebody else" in str(outcome.error)
    assert not outcome.is_finished


def test_a_stream_that_somebody_else_finalizes_is_a_success() -> None:
    """If another client was faster with job-finalize, the chain tells that all is well."""
    qemu = vm_with()
    qemu.act_before("job-finalize", lambda: qemu._job_finalize({"id": "populate-vda"}))
    outcome = bring(qemu)
    assert (outcome.error, outcome.is_finished) == (None, True)
    assert is_safe(qemu)


def test_a_stream_that_vanishes_without_a_word_is_no_success() -> None:
    """Without an event the chain tells; what still has its base is not done, and is not tried for ever."""
    qemu = vm_with()
    qemu.deaf = True
    outcome = bring(qemu, then=later(1, lambda: qemu._job_cancel({"id": "populate-vda"})))
    assert outcome.error is not None
    assert "it failed, or somebody cancelled it" in str(outcome.error)
    assert "/vms/top.qcow2, /vms/mid.qcow2, /vms/base.qcow2" in str(outcome.error)


def test_without_any_event_a_disk_is_populated_all_the_same() -> None:
    """Events only wake us; the slow poll finds what they would have told."""
    qemu = vm_with()
    qemu.deaf = True
    outcome = bring(qemu)
    assert (outcome.error, outcome.is_finished) == (None, True)
    assert is_safe(qemu)


def test_a_pause_by_somebody_else_is_waited_for() -> None:
    """Who follows a stream does not undo another client's pause."""
    qemu = vm_with()

    def pause() -> None:
        qemu._job_pause({"id": "populate-vda"})
        asyncio.get_running_loop().call_later(100, qemu._job_resume, {"id": "populate-vda"})

    outcome = bring(qemu, then=later(1, pause))
    assert (outcome.error, outcome.is_finished) == (None, True)
    assert "job-resume" not in qemu.commands


def test_a_job_that_does_not_end_is_told() -> None:
    """A job that was told to end and does not is an error after a minute, not a wait for ever."""
    qemu = vm_with()
    qemu.act_before("job-finalize", lambda: setattr(qemu, "_finish", lambda job: setattr(job, "status", "aborting")))
    outcome = bring(qemu)
    assert outcome.error is not None
    assert "does not end within 60 s" in str(outcome.error)
    assert not outcome.is_finished
    # The one before finalize: another one would hang with the job, and the VM with it.
    assert qemu.log.count(FLUSH) == 1


def test_a_peer_that_leads_in_circles_is_left() -> None:
    """Whoever takes every command and never changes is no QEMU, and is told as such."""
    qemu = vm_with()

    def ignore_speed() -> None:
        qemu.stream("top")
        qemu._block_job_set_speed = lambda arguments: None  # type: ignore[method-assign]

    outcome = bring(qemu, asking(speed=7), first=ignore_speed)
    assert outcome.error is not None
    assert "40 steps led nowhere" in str(outcome.error)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        pytest.param("block-stream", "QEMU refused block-stream: why", id="block-stream"),
        pytest.param("job-finalize", "QEMU refused job-finalize: why", id="job-finalize"),
        pytest.param("human-monitor-command", "QEMU refused human-monitor-command: why", id="flush"),
    ],
)
def test_a_refusal_is_told(command: str, words: str) -> None:
    """What QEMU refuses is told with QEMU's reason, and the disk is not called populated."""
    qemu = vm_with()
    qemu.refuses[command] = "why"
    outcome = bring(qemu)
    assert outcome.error is not None
    assert str(outcome.error).startswith("vm0: disk vda: ")
    assert words in str(outcome.error)
    assert not outcome.is_finished


def test_without_a_flush_nothing_is_finalized() -> None:
    """If the flush does not find its node the job stays pending: the base is still there."""
    qemu = vm_with()
    qemu._human_monitor_command = lambda arguments: "Error: Cannot find device=''\r\n"  # type: ignore[method-assign]
    outcome = bring(qemu)
    assert outcome.error is not None
    assert "QEMU refused qemu-io top flush: Error: Cannot find device=''" in str(outcome.error)
    assert ("job-finalize" in qemu.commands, len(qemu.chain())) == (False, 3)


def writing_out(monkeypatch: pytest.MonkeyPatch, qemu: FakeQemu, seconds: float = 0.0) -> list[tuple[float, str]]:
    """Have the host take so long to write out; the list gets the time and the last step that QEMU was told."""
    calls: list[tuple[float, str]] = []

    async def write_out(_host: FakeHost, file: str) -> bool:
        assert file == "/vms/top.qcow2"
        told = [command for command in qemu.commands if command in qemu.acts]
        calls.append((asyncio.get_running_loop().time(), told[-1] if told else ""))
        await asyncio.sleep(seconds)
        return True

    monkeypatch.setattr(FakeHost, "write_out", write_out)
    return calls


def test_the_guest_does_not_wait_for_the_storage(monkeypatch: pytest.MonkeyPatch) -> None:
    """All is written out before QEMU is told to flush, and after it, to be told of an error."""
    qemu = vm_with()
    calls = writing_out(monkeypatch, qemu)
    assert bring(qemu).is_finished
    assert [told for _time, told in calls] == [
        *("", "blockdev-snapshot"),
        *("block-stream",) * 3,
        *("blockdev-snapshot", "job-finalize", "blockdev-snapshot"),
    ]
    before_flush = calls[-4]
    assert before_flush[0] == pytest.approx(WHOLE, abs=0.01)


@pytest.mark.parametrize(("seconds", "times"), [(0.0, [0.05, 5.05, 10.05, 15.05]), (4.0, [0.05, 4.1, 8.15, 12.2])])
def test_it_is_written_out_while_it_is_copied(
    monkeypatch: pytest.MonkeyPatch, seconds: float, times: list[float]
) -> None:
    """Storage that needs long is given more to do at once, so that little is left at the end; else it is left alone."""
    qemu = vm_with()
    calls = writing_out(monkeypatch, qemu, seconds)
    outcome = bring(qemu, asking(speed=CHUNK, on_timeout="leave"), seconds=16 + 2 * seconds)
    assert outcome.error is None
    assert outcome.job is not None
    during = [time for time, told in calls if told == "block-stream"]
    assert [time - during[0] + times[0] for time in during] == pytest.approx(times)


def test_what_is_no_local_file_is_left_to_its_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk whose own image is behind NBD is flushed by QEMU alone."""
    qemu = vm_with()
    qemu.nodes["top"].filename = "nbd+unix:///?socket=/vms/top.sock"
    calls = writing_out(monkeypatch, qemu)
    assert bring(qemu).is_finished
    assert (calls, qemu.log.count(FLUSH)) == ([], 1)


def test_nobody_waits_for_what_is_written_out_beside_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the storage hangs, the time that the user gives is over when it is over."""
    ended: list[float] = []

    qemu = vm_with()

    async def write_out(_host: FakeHost, file: str) -> bool:
        if not qemu.jobs:
            return True
        try:
            return await asyncio.sleep(600, result=False)
        finally:
            ended.append(asyncio.get_running_loop().time())

    monkeypatch.setattr(FakeHost, "write_out", write_out)
    outcome = bring(qemu, asking(speed=CHUNK, on_timeout="leave"), seconds=10)
    assert outcome.job is not None
    assert ended == pytest.approx([10])


def test_storage_that_does_not_take_what_was_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    """If writing out does not come to an end, QEMU is not told to wait for it: the stream stays at pending."""
    qemu = vm_with()

    async def write_out(_host: FakeHost, file: str) -> bool:
        return not qemu.jobs

    monkeypatch.setattr(FakeHost, "write_out", write_out)
    outcome = bring(qemu)
    assert outcome.error is not None
    assert "the storage of /vms/top.qcow2 does not answer" in str(outcome.error)
    assert (qemu.log.count(FLUSH), "job-finalize" in qemu.commands, len(qemu.chain())) == (0, False, 3)


# -- Proven, or not said -----------------------------------------------------------------------------------------------

NOTHING_LEFT = MapTotals({(0, True): SIZE})
HALF_LEFT = MapTotals({(0, True): SIZE // 2, (1, True): SIZE // 2})
UNSEEN = MapTotals({(0, True): SIZE // 2, (1, False): SIZE // 2}, opaque=1, why="NBD")
UNKNOWN = NoMap("there is no qemu-img on this host")


def starts(qemu: FakeQemu) -> int:
    return qemu.commands.count("block-stream")


@pytest.mark.parametrize(
    ("maps", "proof", "streams"),
    [
        pytest.param([NOTHING_LEFT], "map", 1, id="the map proves it"),
        pytest.param([HALF_LEFT, NOTHING_LEFT], "map", 2, id="the map disproves it once"),
        pytest.param([UNKNOWN], "job", 1, id="there is no map"),
        pytest.param([UNSEEN], "job", 1, id="an image cannot be looked into"),
    ],
)
def test_what_a_stream_copied(maps: list[Any], proof: str, streams: int) -> None:
    """The map decides where there is one: a job that did not copy everything is given up, and streamed again."""
    qemu = vm_with()
    outcome = bring(qemu, maps=maps)
    assert (outcome.error, outcome.is_finished, outcome.proof, starts(qemu)) == (None, True, proof, streams)
    assert outcome.action == "started"
    assert len(outcome.notes) == streams - 1
    assert all("are still only in /vms/mid.qcow2 or below" in note for note in outcome.notes)


def test_a_stream_that_never_copies_everything_is_given_up() -> None:
    """The link stays, and the task fails."""
    qemu = vm_with()
    outcome = bring(qemu, maps=[HALF_LEFT] * 9)
    assert "Is the VM's state being saved again and again?" in str(outcome.error)
    assert ("job-finalize" in qemu.commands, len(qemu.chain()), outcome.proof) == (False, 3, None)


def test_without_a_map_a_vm_that_was_saved_is_streamed_again() -> None:
    """A job that was there while the VM's state was saved may have copied nothing; the next one was not."""
    qemu = vm_with()
    save = later(1, lambda: qemu.migration.update({"status": "completed", "total-time": 7}))
    outcome = bring(qemu, maps=[UNKNOWN, UNKNOWN], then=save)
    assert (outcome.error, outcome.is_finished, outcome.proof, starts(qemu)) == (None, True, "job", 2)
    assert "it may have copied nothing" in outcome.notes[0]


@pytest.mark.parametrize(
    "members", [pytest.param({"status": "postmigrate"}, id="saved"), pytest.param({"inactive": True}, id="inactive")]
)
def test_a_job_is_neither_started_nor_ended_where_qemu_dies_of_it(members: dict[str, Any]) -> None:
    """The job waits at pending, and the task fails with the reason."""
    qemu = vm_with()

    def leave() -> None:
        qemu.status = members.get("status", "running")
        qemu.disks[0]["active"] = not members.get("inactive", False)

    outcome = bring(qemu, then=later(1, leave))
    assert "dies when a job is finished" in str(outcome.error)
    assert "which is safe" in str(outcome.error)
    assert ("job-finalize" in qemu.commands, [job.status for job in qemu.jobs.values()]) == (False, ["pending"])


MIGRATING = {"status": "active"}


def begins_to_migrate(qemu: FakeQemu, *, for_seconds: float | None = None) -> Act:
    """A migration, or a save after which the VM goes on; without seconds one that has no end."""

    def begin() -> None:
        qemu.migration = MIGRATING
        if for_seconds is not None:
            later(for_seconds, lambda: setattr(qemu, "migration", SAVED))()

    return begin


def at_its_end(qemu: FakeQemu) -> Act:
    """A stream of somebody else has copied everything, and waits to be finished."""

    def begin() -> None:
        qemu.stream("top", auto_finalize=False).status = "pending"

    return begin


@pytest.mark.parametrize("command", ["block-stream", "job-finalize"])
def test_a_migration_is_sat_out_before_a_job_starts_or_ends(command: str) -> None:
    """At its end QEMU gives its images away, and dies of a job that begins or ends just then."""
    qemu = vm_with()
    seen: list[Any] = []
    qemu.before[command] = [lambda: seen.append(qemu.migration)]
    save = begins_to_migrate(qemu, for_seconds=7)
    outcome = bring(qemu, then=save if command == "block-stream" else later(0.5, save))
    assert (outcome.error, outcome.is_finished, starts(qemu), seen) == (None, True, 1, [SAVED])


@pytest.mark.parametrize(
    ("asked", "is_started", "error"),
    [
        pytest.param(asking(), False, "is being migrated", id="fail, before it starts"),
        pytest.param(asking(on_timeout="leave"), False, None, id="leave, before it starts"),
        pytest.param(asking(wait=False), False, "is being migrated", id="nobody waits, before it starts"),
        pytest.param(asking(), True, "is being migrated", id="fail, at its end"),
        pytest.param(asking(on_timeout="stop"), True, None, id="stop, at its end"),
        pytest.param(asking(wait=False), True, None, id="nobody waits, at its end"),
    ],
)
def test_a_migration_that_takes_longer_than_the_task_waits(asked: Request, is_started: bool, error: str | None) -> None:
    """The job waits at its end for the next run, or was never started; who cannot be served is told."""
    qemu = vm_with()
    seconds = 3 if asked.waiting.wait else 0
    first = at_its_end(qemu) if is_started else nothing
    outcome = bring(qemu, asked, seconds=seconds, first=first, then=begins_to_migrate(qemu))
    assert (outcome.is_finished, [job.status for job in qemu.jobs.values()]) == (False, ["pending"] * is_started)
    assert qemu.acts == []
    assert (error is None, str(error) in str(outcome.error)) == (outcome.error is None, True)


@pytest.mark.parametrize(
    "change",
    [pytest.param({"migration": MIGRATING}, id="begins"), pytest.param({"status": "postmigrate"}, id="is over")],
)
def test_a_migration_that_comes_between_the_look_and_the_end_of_the_job(change: dict[str, Any]) -> None:
    """What was true before the flush and the map is asked once more: the job waits at pending."""
    qemu = vm_with()
    qemu.before["human-monitor-command"] = [lambda: vars(qemu).update(change)]
    outcome = bring(qemu, first=at_its_end(qemu))
    assert ("job-finalize" in qemu.commands, [job.status for job in qemu.jobs.values()]) == (False, ["pending"])
    assert "which is safe" in str(outcome.error)


def test_errors_of_the_guest_keep_the_link() -> None:
    """Where the guest's own writes fail, what was copied is not trusted either."""
    qemu = vm_with()
    outcome = bring(qemu, then=later(1, lambda: qemu.disks[0].update({"io-status": "nospace"})))
    assert "io-status is nospace" in str(outcome.error)
    assert ("job-finalize" in qemu.commands, len(qemu.chain())) == (False, 3)


@pytest.mark.parametrize("who", ["kernel", "qemu", "kernel alone"])
def test_a_flush_that_failed_keeps_the_link(who: str) -> None:
    """The kernel tells it beside the job, QEMU without one: neither is the disk populated, nor does a rerun forget.

    A QEMU that never flushes is told nothing.
    """
    qemu = vm_with()
    qemu.disks[0]["no-flush"] = who == "kernel alone"
    host = FakeHost(qemu)

    def fail() -> None:
        host.unwritable = who != "qemu"
        qemu.flush_fails = who != "kernel alone"

    outcome = bring(qemu, host=host, then=later(1, fail))
    host.unwritable = False  # whoever opens the file now is told nothing
    again = bring(qemu, host=host)
    for each in (outcome, again):
        assert each.error is not None
        assert (each.error.kind, each.is_finished, each.disk.is_populated) == ("WriteBackFailed", False, False)
        assert ("no restart cures that" if who == "kernel alone" else "restart the VM") in each.error.message
    assert len(qemu.chain()) == 3


def test_a_header_that_did_not_reach_the_storage_is_not_forgotten() -> None:
    """QEMU has dropped the link, and is told nothing: until it is restarted nobody knows if the disk is populated."""
    qemu = vm_with()
    qemu.disks[0]["no-flush"] = True
    host = FakeHost(qemu)
    qemu.act_before("job-finalize", lambda: setattr(host, "unwritable", True))
    outcome = bring(qemu, host=host)
    host.unwritable = False
    again = bring(qemu, host=host)
    for each in (outcome, again):
        assert each.error is not None
        assert (each.is_finished, each.disk.is_populated, len(qemu.chain())) == (False, False, 1)
        assert "did not reach the storage" in each.error.message
    assert again.disk.doubt is not None


def test_what_is_told_beside_a_stream_is_not_forgotten() -> None:
    """Who leaves the stream to QEMU then makes no flush any more, and whoever comes later is told nothing."""
    qemu = vm_with()
    host = FakeHost(qemu)
    asked = asking(speed=CHUNK, on_timeout="leave")
    left = bring(qemu, asked, seconds=3, host=host, then=later(0.01, lambda: spoil(host)))
    assert (left.error, list(qemu.jobs)) == (None, ["populate-vda"])
    host.unwritable = False
    stopped = bring(qemu, asking(state="aborted"), host=host)
    assert stopped.error is not None
    assert (stopped.error.kind, qemu.jobs, len(qemu.chain())) == ("WriteBackFailed", {}, 3)


def test_a_flush_under_way_is_heard_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the storage answers when the time is over already is told to nobody else: where QEMU never flushes."""
    qemu = vm_with()
    qemu.disks[0]["no-flush"] = True
    host = FakeHost(qemu)

    async def write_out(_host: FakeHost, file: str) -> bool:
        await asyncio.sleep(3 if qemu.jobs else 0)
        host.unwritable = bool(qemu.jobs)
        return True

    monkeypatch.setattr(FakeHost, "write_out", write_out)
    outcome = bring(qemu, asking(speed=CHUNK, on_timeout="leave"), seconds=1, host=host)
    assert outcome.error is not None
    assert (outcome.error.kind, list(qemu.jobs)) == ("WriteBackFailed", ["populate-vda"])
    assert outcome.vm.disks[0].mark_of_loss in qemu.nodes
    assert "no restart cures that" in outcome.error.message


def spoil(host: FakeHost) -> None:
    host.unwritable = True


def test_a_disk_that_nobody_flushes_is_left_alone() -> None:
    """QEMU never does, and its file is not open here: nothing would prove what is on the storage."""
    qemu = vm_with()
    qemu.disks[0]["no-flush"] = True
    qemu.nodes["top"].filename = qemu.nodes["top-file"].filename = "nbd+unix:///?socket=/vms/top.sock"
    outcome = bring(qemu)
    assert outcome.error is not None
    assert "cache mode of the disk is unsafe" in outcome.error.message
    assert (starts(qemu), outcome.is_finished) == (0, False)


def test_a_disk_that_qemu_never_flushes_is_populated_with_a_word() -> None:
    """What was copied is on the storage, and what comes later need not be."""
    qemu = vm_with()
    qemu.disks[0]["no-flush"] = True
    outcome = bring(qemu)
    assert (outcome.error, outcome.is_finished) == (None, True)
    assert "QEMU never flushes it" in outcome.notes[-1]


def test_a_base_that_has_no_name_is_refused() -> None:
    """The header must not call it by what leads elsewhere: nothing is started."""
    qemu = vm_with()
    qemu.nodes["#base"].filename = qemu.nodes["#base-file"].filename = "link"
    host = FakeHost(qemu)
    host.misleading = {"/vms/link"}
    outcome = bring(qemu, asking(base="#base"), host=host)
    assert "no name is known" in str(outcome.error)
    assert starts(qemu) == 0


@pytest.mark.parametrize(
    ("path", "name"),
    [
        pytest.param("nbd+unix:///?socket=/s", None, id="NBD"),
        pytest.param("/vms/base.qcow2", "/vms/base.qcow2", id="file"),
    ],
)
def test_a_base_that_is_not_known_as_a_file(path: str, name: str | None) -> None:
    """What is no file is called as QEMU does; a file that cannot be told is called as the headers do."""
    qemu = vm_with()
    qemu.nodes["#base"].filename = path
    host = FakeHost(qemu)
    host.unseen = {"/vms/base.qcow2"}
    bring(qemu, asking(base="#base"), host=host)
    (arguments,) = [arguments for command, arguments in qemu.log if command == "block-stream"]
    assert arguments.get("backing-file") == name


def test_a_stream_that_is_gone_before_it_was_seen_is_told_as_begun() -> None:
    """Where not even one look showed the job, its id is all that is known of it."""
    qemu = vm_with()
    qemu.act_before("query-block-jobs", lambda: None)

    def vanish() -> None:
        qemu.jobs.pop("populate-vda", None)

    qemu.deaf = True
    qemu.act_before("block-stream", lambda: asyncio.get_running_loop().call_soon(vanish))
    assert "ended while nobody listened" in str(bring(qemu).error)


def test_two_tasks_at_the_same_moment_are_one_stream() -> None:
    """QEMU refuses the second stream: its task joins the first."""
    qemu = vm_with()
    qemu.act_before("block-stream", lambda: qemu.stream("top", "populate-theirs", auto_finalize=False))
    outcome = bring(qemu)
    assert (outcome.error, outcome.is_finished) == (None, True)
    assert qemu.chain() == ["top.qcow2"]


def test_a_disk_whose_file_is_not_known_is_held_by_nobody() -> None:
    """Nobody is told whether the storage took what was written: QEMU is asked without a job, and then it is done."""
    qemu = vm_with()
    host = FakeHost(qemu)
    host.unseen = {"/vms/top.qcow2"}
    qemu.tells_beside_jobs = False
    outcome = bring(qemu, host=host)
    assert (outcome.error, outcome.is_finished, starts(qemu), host.held) == (None, True, 2, [])


def test_a_stream_of_an_earlier_run_whose_flush_tells_nothing() -> None:
    """Whoever had the file open since before is gone: it is asked without the job, and another one finds all copied."""
    qemu = vm_with()
    qemu.tells_beside_jobs = False

    def pending() -> None:
        qemu.stream("top", "populate-vda", auto_finalize=False).status = "pending"

    outcome = bring(qemu, asking(wait=False), seconds=0, first=pending)
    assert (outcome.error, outcome.is_finished, outcome.action, starts(qemu)) == (None, True, "joined", 1)
    assert is_safe(qemu)


def test_a_populated_disk_whose_header_cannot_be_read_is_doubted() -> None:
    """A run that has not streamed it itself does not call it populated."""
    qemu = vm_with("top.qcow2")
    host = FakeHost(qemu)
    host.unreadable = {"/vms/top.qcow2"}
    outcome = bring(qemu, host=host)
    assert "cannot be told" in str(outcome.error)
    assert not outcome.is_finished


def test_a_disk_that_lost_its_file_is_told() -> None:
    """Though QEMU uses no other image, the next start of the VM would not find this one."""
    qemu = vm_with("top.qcow2")
    host = FakeHost(qemu)
    host.deleted = {"/vms/top.qcow2"}
    outcome = bring(qemu, host=host)
    assert "was deleted or replaced" in str(outcome.error)
    assert not outcome.is_finished


# -- The world changes meanwhile ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param(lambda qemu: qemu.remove("vda"), "the disk is gone", id="unplugged"),
        pytest.param(lambda qemu: qemu.disks[0].update(root=None), "the disk is gone", id="ejected"),
    ],
)
@pytest.mark.parametrize("when", ["then", "later"])
def test_a_disk_that_goes_away_is_told(change: Callable[[FakeQemu], None], words: str, when: str) -> None:
    """A disk that is unplugged or ejected before or during its stream is an error, and not populated."""
    qemu = vm_with()
    outcome = bring(qemu, then=(lambda: change(qemu)) if when == "then" else later(1, lambda: change(qemu)))
    assert outcome.error is not None
    assert words in str(outcome.error)
    assert ("job populate-vda was cancelled" in str(outcome.error)) == (when == "later")
    assert not outcome.is_finished
    assert not qemu.jobs


def test_a_foreign_job_on_a_disk_that_goes_away_is_left() -> None:
    """Whose job it is decides: what somebody else started is not ended, but told."""
    qemu = vm_with()
    outcome = bring(
        qemu, first=lambda: qemu.stream("top", auto_finalize=False), then=later(1, lambda: qemu.remove("vda"))
    )
    assert outcome.error is not None
    assert "the disk is gone: it was unplugged, or its medium was ejected; job theirs is left in QEMU" in str(
        outcome.error
    )
    assert "job-cancel" not in qemu.commands


def test_our_job_on_a_disk_that_goes_away_may_hang() -> None:
    """If it does not end when it is cancelled, it is told to be there, and QEMU is not made to wait for its storage."""
    qemu = vm_with()
    qemu.act_before("job-cancel", lambda: setattr(qemu, "_job_cancel", lambda arguments: None))
    outcome = bring(qemu, then=later(1, lambda: qemu.remove("vda")))
    assert outcome.error is not None
    assert "the disk is gone: it was unplugged, or its medium was ejected; job populate-vda is left" in str(
        outcome.error
    )
    assert qemu.log.count(FLUSH) == 0


def test_a_base_that_goes_away_is_told() -> None:
    """If the base leaves the chain before the act, nothing is started in its place."""
    qemu = vm_with()

    def shorten() -> None:
        qemu.nodes["#mid"].children.pop("backing")

    outcome = bring(qemu, asking(base="base.qcow2"), then=shorten)
    assert outcome.error is not None
    assert "base 'base.qcow2' is no longer in the backing chain: /vms/top.qcow2, /vms/mid.qcow2" in str(outcome.error)
    assert qemu.acts == []


@pytest.mark.parametrize("member", ["name", "uuid"])
def test_another_vm_at_the_monitor_is_left_alone(member: str) -> None:
    """If another VM answers when the work begins, nothing is done to it."""
    qemu = vm_with()
    outcome = bring(qemu, then=lambda: setattr(qemu, member, "other"))
    assert outcome.error is not None
    assert "another VM" in str(outcome.error)
    assert qemu.acts == []


def test_another_vm_at_the_monitor_lends_no_chain() -> None:
    """The populated disk of another VM does not make ours populated, nor changed."""
    qemu = vm_with()

    def replace() -> None:
        qemu.name = "other"
        qemu.nodes["top"].children.pop("backing")

    outcome = bring(qemu, then=replace)
    assert (outcome.is_finished, outcome.disk) == (False, outcome.before)


def test_a_disk_whose_node_is_unknown_is_not_touched() -> None:
    """Where the graph does not show the format node under a filter, nothing is streamed: 5.2 would die of it."""
    qemu = vm_with()
    qemu.put_filter("vda", "throttle")
    shown = qemu._x_debug_query_block_graph

    def without_the_edge(arguments: Any) -> Any:
        graph = shown(arguments)
        parents = {node["id"]: node["name"] for node in graph["nodes"]}
        edges = [edge for edge in graph["edges"] if parents[edge["parent"]] != "throttle-vda"]
        return {**graph, "edges": edges}

    qemu._x_debug_query_block_graph = without_the_edge  # type: ignore[method-assign]
    outcome = bring(qemu)
    assert outcome.error is not None
    assert "does not show the node" in str(outcome.error)
    assert qemu.acts == []


# -- Other wishes ------------------------------------------------------------------------------------------------------


def test_paused() -> None:
    """A running stream is paused, and a second run changes nothing."""
    qemu = vm_with()
    outcome = bring(qemu, asking(state="paused"), first=lambda: qemu.stream("top"))
    assert (outcome.action, outcome.error, qemu.acts) == ("paused", None, ["job-pause"])
    assert outcome.job is not None
    assert outcome.job.paused
    again = bring(qemu, asking(state="paused"))
    assert (again.action, qemu.acts) == ("none", [])


@pytest.mark.parametrize("paused", [False, True])
def test_aborted(paused: bool) -> None:
    """A stream is cancelled also when it is paused, what it copied is flushed, and a second run changes nothing."""
    qemu = vm_with()

    def begin() -> None:
        job = qemu.stream("top")
        qemu.only_in_memory["top"] = "copied clusters"
        if paused:
            qemu._job_pause({"id": job.id})

    outcome = bring(qemu, asking(state="aborted"), first=begin)
    assert (outcome.action, outcome.error, outcome.is_finished, qemu.jobs) == ("stopped", None, False, {})
    assert is_safe(qemu)
    again = bring(qemu, asking(state="aborted"))
    assert (again.action, qemu.acts) == ("none", [])


def test_a_stream_that_ends_before_it_is_paused_is_no_error() -> None:
    """If the job is over before the command comes, the next look shows what came of it."""
    qemu = vm_with()
    qemu.act_before("job-pause", lambda: qemu._job_cancel({"id": "theirs"}))
    outcome = bring(qemu, asking(state="paused"), first=lambda: qemu.stream("top"))
    assert (outcome.error, outcome.job) == (None, None)


def test_a_command_that_a_living_job_refuses_is_told() -> None:
    """If the job is still there the refusal counts."""
    qemu = vm_with()
    qemu.refuses["job-pause"] = "why"
    outcome = bring(qemu, asking(state="paused"), first=lambda: qemu.stream("top"))
    assert outcome.error is not None
    assert "QEMU refused job-pause: why" in str(outcome.error)


@pytest.mark.parametrize(
    ("running", "requested", "action", "sent"),
    [
        pytest.param(7 * MIB, 8 * MIB, "retuned", 1, id="another speed"),
        pytest.param(8 * MIB, 8 * MIB, "joined", 0, id="the same speed"),
    ],
)
def test_speed_is_changed_live(running: int, requested: int, action: str, sent: int) -> None:
    """A running stream gets another speed; a rerun with the same one changes nothing."""
    qemu = vm_with()
    outcome = bring(qemu, asking(speed=requested), first=lambda: qemu.stream("top", speed=running))
    assert (outcome.action, outcome.is_finished, qemu.commands.count("block-job-set-speed")) == (action, True, sent)


def test_without_waiting_a_stream_is_started_and_left() -> None:
    """With wait off the job is started, is left running, and is no error."""
    qemu = vm_with()
    outcome = bring(qemu, asking(wait=False), seconds=0)
    assert (outcome.action, outcome.error, outcome.is_finished, qemu.acts) == (
        "started",
        None,
        False,
        ["blockdev-snapshot", "block-stream"],
    )
    assert outcome.job is not None


def test_without_waiting_a_stream_with_nothing_to_do_is_finished() -> None:
    """What is pending already is finished, for that takes no time."""
    qemu = vm_with()

    def ready() -> None:
        job = qemu.stream("top", auto_finalize=False)
        job.status = "pending"

    outcome = bring(qemu, asking(wait=False), seconds=0, first=ready)
    assert (outcome.is_finished, outcome.error) == (True, None)


@pytest.mark.parametrize(
    ("on_timeout", "action", "failed", "runs"),
    [
        pytest.param("fail", "started", True, True, id="fail"),
        pytest.param("leave", "started", False, True, id="leave"),
        pytest.param("stop", "stopped", False, False, id="stop"),
    ],
)
def test_when_time_is_up(on_timeout: str, action: str, failed: bool, runs: bool) -> None:
    """The task fails and the job goes on; or it is left; or it is stopped and what it copied is kept over a crash."""
    qemu = vm_with()
    outcome = bring(qemu, asking(wait_timeout=2, on_timeout=on_timeout), seconds=2)
    assert (outcome.action, outcome.error is not None, "populate-vda" in qemu.jobs) == (action, failed, runs)
    assert not outcome.is_finished
    assert 0 < outcome.cursor <= int(2 / TICK) * CHUNK
    if outcome.error:
        assert "not populated when wait_timeout was over" in str(outcome.error)
        assert "goes on in QEMU" in str(outcome.error)
    if not runs:
        assert is_safe(qemu)


def test_when_time_is_up_and_all_is_copied_the_disk_is_finished() -> None:
    """At the end of the maintenance window a stream that has arrived is finalized, not thrown away."""
    qemu = vm_with()
    outcome = bring(qemu, asking(wait_timeout=7, on_timeout="stop"), seconds=SIZE / CHUNK * TICK)
    assert (outcome.is_finished, outcome.error, qemu.chain()) == (True, None, ["top.qcow2"])


def test_an_increment_stops_at_its_mark() -> None:
    """The stream is stopped once it has gone so far; the cursor is where the next one begins, and nothing is lost."""
    qemu = vm_with()
    outcome = bring(qemu, asking(increment=8 * MIB))
    assert (outcome.action, outcome.error, qemu.jobs) == ("stopped", None, {})
    assert 8 * MIB <= outcome.cursor < 10 * MIB
    assert is_safe(qemu)


def test_the_last_increment_finishes_the_disk() -> None:
    """An increment beyond the end populates the disk, and the cursor is its size."""
    qemu = vm_with()
    outcome = bring(qemu, asking(increment=8 * MIB, cursor=SIZE - MIB))
    assert (outcome.is_finished, outcome.cursor, outcome.error) == (True, SIZE, None)


# -- Release -----------------------------------------------------------------------------------------------------------


def test_named_nodes_are_released() -> None:
    """Nodes that somebody named stay open after a stream; they are deleted from the top down."""
    qemu = vm_with(named=True)
    outcome = bring(qemu)
    assert outcome.released_nodes == ("mid", "mid-file", "base", "base-file")
    assert sorted(qemu.nodes) == ["top", "top-file"]
    assert (outcome.notes, outcome.error) == ((), None)


def test_release_can_be_left_out() -> None:
    """With release off no node is deleted."""
    qemu = vm_with(named=True)
    outcome = bring(qemu, asking(release=False))
    assert (outcome.released_nodes, "blockdev-del" in qemu.commands, outcome.is_finished) == ((), False, True)


def test_a_node_that_is_not_released_is_told_and_no_failure() -> None:
    """QEMU may refuse to delete a node: the disk is populated all the same, and the user knows what stays open."""
    qemu = vm_with(named=True)
    qemu.refuses["blockdev-del"] = "why not"
    outcome = bring(qemu)
    assert (outcome.error, outcome.is_finished, outcome.released_nodes) == (None, True, ())
    assert "QEMU keeps these nodes, and their files open: mid (why not)" in outcome.notes[0]


def test_a_node_that_somebody_else_uses_is_told_and_kept() -> None:
    """What another node stands on is not even tried."""
    qemu = vm_with(named=True)
    qemu.add("vdb", "other.qcow2", "base.qcow2", named=True)
    outcome = bring(qemu)
    assert outcome.released_nodes == ("mid", "mid-file")
    assert "base (used by node other)" in outcome.notes[0]
    assert qemu.chain("vdb") == ["other.qcow2", "base.qcow2"]


def test_only_nodes_that_are_kept_need_no_further_look() -> None:
    """Where nothing can be deleted the user is told, and nothing is sent."""
    qemu = FakeQemu()
    qemu.add("vda", "top.qcow2", "base.qcow2", named=True)
    qemu.add("vdb", "other.qcow2", "base.qcow2", named=True)
    outcome = bring(qemu)
    assert (outcome.released_nodes, "blockdev-del" in qemu.commands, len(outcome.notes)) == ((), False, 1)


# -- The connection is lost at every single command --------------------------------------------------------------------


def commands_of_a_whole_run() -> int:
    qemu = vm_with(named=True)
    bring(qemu)
    return len(qemu.log)


@pytest.mark.parametrize("executed", [False, True], ids=["before it takes effect", "after it took effect"])
@pytest.mark.parametrize("number", range(1, commands_of_a_whole_run() + 1))
def test_a_connection_lost_at_every_command(number: int, executed: bool) -> None:
    """Wherever the connection ends: an error that says so, never a wrong success, and a rerun that finishes."""
    qemu = vm_with(named=True)
    outcome = bring(qemu, then=lambda: qemu.lose_at(number, executed=executed))
    assert outcome.error is not None
    assert "the connection ended" in str(outcome.error)
    assert not outcome.is_finished or len(qemu.chain()) == 1
    qemu.alive, qemu.losing = True, None

    def go_on() -> None:
        for job in list(qemu.jobs.values()):
            qemu._tick(job)

    again = bring(qemu, first=go_on)
    assert (again.error, again.is_finished, qemu.chain()) == (None, True, ["top.qcow2"])
    assert is_safe(qemu)


def test_a_connection_lost_while_nothing_is_sent() -> None:
    """A QEMU that dies in the middle of a wait is noticed at once."""
    qemu = vm_with()
    outcome = bring(qemu, then=later(1, qemu.die))
    assert outcome.error is not None
    assert "the connection ended" in str(outcome.error)
    assert not outcome.is_finished


def test_a_header_that_still_names_its_base_is_no_success() -> None:
    """What QEMU dropped and the header still names is needed at the next start: every run says so."""
    qemu = vm_with("top.qcow2")
    host = FakeHost(qemu)

    async def work() -> Outcome:
        async with host.open_link(qemu.address) as monitor:
            seen = await identify(monitor, host)
            host.headers_saying["/vms/top.qcow2"] = "/vms/base.qcow2"
            qemu.log.clear()
            return await reconcile(
                monitor, host, Target(seen, seen.disks[0], 1), Budget(asking(), host.open_link), None
            )

    outcome = clock.run(work())
    assert not outcome.is_finished
    assert "/vms/base.qcow2" in str(outcome.error)
    assert "restart the VM" in str(outcome.error)
    assert "block-stream" not in qemu.commands


def test_a_full_file_system_is_not_trusted_with_a_flush() -> None:
    """A flush that fails cannot be seen, so a stream whose file system is full stays at pending until there is room."""
    qemu = vm_with()
    host = FakeHost(qemu)
    host.free = 0

    async def work(asked: Request) -> Outcome:
        async with host.open_link(qemu.address) as monitor:
            seen = await identify(monitor, host)
            target = Target(seen, seen.disks[0], len(seen.disks[0].chain))
            return await reconcile(monitor, host, target, Budget(asked, host.open_link), None)

    outcome = clock.run(work(asking()))
    assert "is full" in str(outcome.error)
    assert outcome.job is not None
    assert outcome.job.is_pending
    host.free = 1000 * MIB
    assert clock.run(work(asking())).is_finished


def test_a_share_that_changed_while_the_stream_began() -> None:
    """A stream that begins just as the limit is shared among more gets its new part before anybody waits for it."""
    qemu = vm_with()
    host = FakeHost(qemu)
    budget = Budget(asking(total_speed=8 * MIB), host.open_link, [(qemu.address, "vda")])
    qemu.act_before("block-stream", lambda: budget._members.add(("/vms/other.qmp", "vda")))

    async def work() -> Outcome:
        async with host.open_link(qemu.address) as monitor:
            seen = await identify(monitor, host)
            target = Target(seen, seen.disks[0], len(seen.disks[0].chain))
            return await reconcile(monitor, host, target, budget, None)

    outcome = clock.run(work())
    assert (outcome.is_finished, outcome.action) == (True, "started")
    speeds = [arguments["speed"] for _command, arguments in qemu.log if "speed" in arguments]
    assert speeds == [8 * MIB, 4 * MIB]
