# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Step by step: `increment` and `cursor`, how far a step goes too far, and the loop in a playbook."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from lab import Scene, Vm, disks, images, product

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SIZE = 64 * images.MiB


@pytest.fixture
def dense(folder: Path, boot: Callable[..., Vm]) -> Scene:
    """`vda` over a base without a hole, so that the cursor moves by nothing but copying."""
    written = images.Write(0, SIZE, seed=7)
    base = images.create(folder / "base.raw", SIZE, format="raw", writes=[written])
    top = images.create(folder / "top.qcow2", backing=base, backing_format="raw")
    return Scene(boot(*disks.drive(top, id="drive0", qdev="vda")), images.Chain((top, base), written.content))


@pytest.mark.parametrize(
    ("speed", "most"), [pytest.param("0", SIZE, id="unlimited"), pytest.param("48M", 16 * images.MiB, id="48 MiB/s")]
)
def test_a_step_goes_on_where_the_last_one_ended(
    dense: Scene, speed: str, most: int, record_property: Callable[[str, object], None]
) -> None:
    """Each call moves the cursor by `increment` or a little more and leaves no job; all together populate the disk."""
    increment, cursor, overshoots = 20 * images.MiB, 0, []
    while cursor < SIZE:
        result = dense.stream(increment="20M", cursor=cursor, speed=speed)
        assert (result.failed, result["changed"], dense.vm.jobs()) == (False, True, {}), result
        before, cursor = cursor, result["disks"][0]["cursor"]
        if not result["finished"]:
            assert result["disks"][0]["action"] == "stopped"
            overshoots.append(cursor - before - increment)
    print(f"overshoot at {speed}: {[round(each / images.MiB, 1) for each in overshoots]} MiB")
    record_property("overshoot", overshoots)
    assert all(0 <= overshoot <= most for overshoot in overshoots)
    assert (result["finished"], cursor) == (True, SIZE)
    assert dense.stream(increment="20M", cursor=cursor)["changed"] is False
    dense.assert_safe_after_kill()


def test_a_step_is_kept_over_a_kill(dense: Scene) -> None:
    """After a SIGKILL right behind a step the top holds all that the cursor passed."""
    result = dense.stream(increment="4M", speed="32M")
    dense.vm.kill()
    assert (result.failed, result["finished"]) == (False, False), result
    assert images.read_from_below(dense.chain.top, result["disks"][0]["cursor"]) == []
    assert images.differences(dense.chain.expected, images.content(dense.chain.top)) == []


def test_a_cursor_is_a_position(folder: Path, boot: Callable[..., Vm]) -> None:
    """The cursor passes over what need not be copied: 512 MiB of it take no time at a byte per second."""
    size = 1024 * images.MiB
    writes = [images.Write(size - images.MiB, images.MiB, seed=3)]
    base = images.create(folder / "base.qcow2", size, writes=writes)
    top = images.create(folder / "top.qcow2", backing=base)
    vm = boot(*disks.drive(top, id="drive0", qdev="vda"))
    result = product.module("block_stream", monitors=[vm.monitor], disks=["vda"], increment="512M", speed="1")
    assert (result.failed, result["finished"], vm.jobs()) == (False, False, {}), result
    assert result["disks"][0]["cursor"] >= size // 2
    assert top.stat().st_blocks * 512 < 2 * images.MiB


def test_a_step_stops_a_stream_that_runs(disk: Scene) -> None:
    """A step joins the stream that is there, and ends it where the step ends: an increment never leaves a job."""
    job = disk.start(speed="64K")
    result = disk.stream(increment="1M", speed="0")
    assert not result.failed, result
    assert disk.vm.jobs() == {}
    assert {event["data"]["id"] for event in disk.vm.judge.events if event["event"] == "JOB_STATUS_CHANGE"} == {job}


def test_a_step_can_run_out_of_time(dense: Scene) -> None:
    """`wait_timeout` holds for a step as well, and the cursor that is returned serves the next one."""
    result = dense.stream(increment="32M", speed="4M", wait_timeout=1, on_timeout="stop")
    assert (result.failed, result["finished"], dense.vm.jobs()) == (False, False, {}), result
    assert 0 < result["disks"][0]["cursor"] < 32 * images.MiB


def test_check_mode_of_a_step_promises_no_more_than_the_step(dense: Scene) -> None:
    """A step that cannot reach the end leaves the chain as it is, and check mode says so."""
    result = dense.stream(check=True, diff=True, increment="1M", speed="1M")
    assert (result.failed, result["changed"], dense.vm.jobs()) == (False, True, {}), result
    assert result["diff"]["before"] == result["diff"]["after"]


LOOP = """
- hosts: all
  gather_facts: false
  tasks:
    - name: go on by 16 MiB at a time
      virtops.qmp.block_stream:
        monitor: "{{ monitor }}"
        disk: vda
        increment: 16MiB
        speed: 32M
      register: result
      until: result.finished
      retries: 3
      delay: 0
"""


def test_the_loop_in_a_playbook(dense: Scene) -> None:
    """`until: result.finished` populates a disk in several steps, each of which goes on where the last one stopped."""
    run = product.playbook(LOOP, extra={"monitor": dense.vm.monitor})
    assert run.code == 0, run.stdout + run.stderr
    result = run.result("go on by 16 MiB at a time")
    assert result["finished"] is True
    dense.assert_safe_after_kill()
