# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Paused and back, aborted from every state, all idempotent, and what each disk's `action` says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from lab import Scene, Vm, disks, images, product

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def one_job(vm: Vm) -> tuple[str, str]:
    """What the only job does, and whether an error holds it. QEMU 5.2 says "running" of one that is paused asleep."""
    (job,) = vm.jobs().values()
    return "paused" if job["paused"] else job["status"], job["io-status"]


def said(result: product.Result) -> tuple[bool, bool, bool, str]:
    return result.failed, result["changed"], result["finished"], result["disks"][0]["action"]


def test_paused_and_back(disk: Scene) -> None:
    """`state: paused` holds the job once; `state: populated` goes on with the same job to the end."""
    job = disk.start()
    checked = disk.stream(check=True, state="paused")
    assert said(checked) == (False, True, False, "paused")
    assert one_job(disk.vm) == ("running", "ok")

    assert said(disk.stream(state="paused")) == (False, True, False, "paused")
    assert one_job(disk.vm) == ("paused", "ok")
    for check in (True, False):
        assert said(disk.stream(check=check, state="paused")) == (False, False, False, "none")

    result = disk.stream(speed="0")
    assert said(result) == (False, True, True, "resumed")
    assert {event["data"]["id"] for event in disk.vm.judge.events if event["event"] == "JOB_STATUS_CHANGE"} == {job}
    disk.assert_safe_after_kill()


def test_a_paused_job_goes_on_without_wait(disk: Scene) -> None:
    """`wait: false` on a paused job resumes it and returns; the next one finds it running and changes nothing."""
    disk.start()
    disk.stream(state="paused")
    assert said(disk.stream(wait=False)) == (False, True, False, "resumed")
    assert one_job(disk.vm) == ("running", "ok")
    assert said(disk.stream(wait=False)) == (False, False, False, "joined")


def test_paused_without_a_job_is_nothing(disk: Scene) -> None:
    """`state: paused` on a disk that no stream works on starts none and changes nothing."""
    assert said(disk.stream(state="paused")) == (False, False, False, "none")
    assert (disk.vm.jobs(), disk.depth) == ({}, 2)


def test_paused_leaves_a_pending_job(disk: Scene) -> None:
    """A job that has copied everything has nothing to be held: it stays pending, and can still be finished."""
    disk.start_pending()
    assert said(disk.stream(state="paused")) == (False, False, False, "none")
    assert one_job(disk.vm)[0] == "pending"
    assert said(disk.stream()) == (False, True, True, "joined")
    disk.assert_safe_after_kill()


def running(disk: Scene) -> None:
    disk.start()


def paused(disk: Scene) -> None:
    disk.vm.command("job-pause", id=disk.start())


def pending(disk: Scene) -> None:
    disk.start_pending()


@pytest.mark.parametrize("bring", [running, paused, pending])
def test_aborted(disk: Scene, bring: Callable[[Scene], None]) -> None:
    """From every state of a job `aborted` ends it, the chain and its content stay, and a later run populates."""
    bring(disk)
    checked = disk.stream(check=True, state="aborted")
    assert (said(checked), len(disk.vm.jobs())) == ((False, True, False, "stopped"), 1)
    assert said(disk.stream(state="aborted")) == (False, True, False, "stopped")
    assert (disk.vm.jobs(), disk.vm.chain("vda")) == ({}, [str(image) for image in disk.chain.images])
    for check in (True, False):
        assert said(disk.stream(check=check, state="aborted")) == (False, False, False, "none")
    assert images.differences(disk.chain.expected, disk.vm.content("vda")) == []
    assert said(disk.stream()) == (False, True, True, "started")
    disk.assert_safe_after_kill()


def test_aborted_ends_a_job_that_an_error_holds(unreadable: Callable[..., Scene]) -> None:
    """A job that QEMU stopped at an I/O error, and that refuses a plain cancel, is ended; then nothing is left."""
    disk = unreadable(once=True)
    assert disk.stream(on_error="stop").failed
    assert one_job(disk.vm) == ("paused", "failed")
    assert said(disk.stream(state="aborted")) == (False, True, False, "stopped")
    assert disk.vm.jobs() == {}
    assert said(disk.stream(state="aborted")) == (False, False, False, "none")
    assert said(disk.stream()) == (False, True, True, "started")
    disk.assert_safe_after_kill()


def test_aborted_keeps_what_was_copied_over_a_kill(disk: Scene) -> None:
    """What an aborted stream copied is flushed: after a SIGKILL the top holds it."""
    disk.start()
    cursor = disk.stream(state="aborted")["disks"][0]["cursor"]
    disk.vm.kill()
    assert cursor > 0
    assert images.read_from_below(disk.chain.top, cursor) == []
    assert images.read_from_below(disk.chain.top, 16 * images.MiB) != []


def test_the_action_of_each_disk(folder: Path, boot: Callable[..., Vm]) -> None:
    """One call over disks in different states tells for each what was done to it, and all end populated."""
    chains = {name: images.chain(folder, prefix=f"{name}-", seed=ord(name[2])) for name in ("vda", "vdb", "vdc", "vdd")}
    words = [word for name, chain in chains.items() for word in disks.drive(chain.top, id=f"d-{name}", qdev=name)]
    vm = boot(*words)

    def stream(*names: str, **options: Any) -> product.Result:
        return product.module("block_stream", monitors=[vm.monitor], disks=list(names), **options)

    stream("vda")
    for name in ("vdb", "vdc"):
        assert not stream(name, wait=False, speed="1").failed
    waiting = next(job for job in vm.jobs() if "vdb" in job)
    vm.command("block-job-set-speed", device=waiting, speed=0)
    vm.wait_event("BLOCK_JOB_PENDING", id=waiting)
    stream("vdc", state="paused")
    result = stream("*", speed="0")
    assert (result.failed, result["changed"], result["finished"]) == (False, True, True), result
    assert [disk["action"] for disk in result["disks"]] == ["none", "joined", "resumed", "started"]
    again = stream("*", speed="0")
    assert (again["changed"], {disk["action"] for disk in again["disks"]}) == (False, {"none"})
    vm.kill()
    for chain in chains.values():
        chain.take_away()
        assert images.differences(chain.expected, images.content(chain.top)) == []
