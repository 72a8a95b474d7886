# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""libvirt, its users and its crashes beside us: nothing is lost, a guest lives, and the next run ends it."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

import pytest
from lab import images, kill, product, wait_until

from .conftest import Domain

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from lab.libvirt import Libvirt


def assert_ends(domain: Domain, **options: Any) -> None:
    """The next run populates the disk, and every byte survives."""
    result = domain.stream(speed="0", **options)
    assert (result.failed, result["finished"], domain.depth) == (False, True, 0), result
    domain.assert_safe_after_kill()


def test_libvirts_own_pull_is_followed(domain: Domain) -> None:
    """A pull that somebody began is joined, retuned and flushed, and is libvirt's to end."""
    domain.pull()
    assert list(domain.vm.jobs()) == [domain.info()["job"]["id"]]
    result = domain.stream(speed="0")
    assert (result["disks"][0]["action"], domain.depth) == ("retuned", 0), result
    assert len([event for event in domain.vm.job_events() if event["data"].get("status") == "created"]) == 1
    domain.assert_safe_after_kill()


@pytest.mark.parametrize("whose", ["ours", "libvirt's own"])
def test_a_stream_beside_which_the_guest_is_looked_at(domain: Domain, whose: str) -> None:
    """QEMU counts the guest's requests meanwhile, and no longer; the stream has the user's speed in the end."""
    if whose != "ours":
        domain.pull()

    def counts() -> bool:
        return any("rd_latency_histogram" in each["stats"] for each in domain.vm.command("query-blockstats"))

    asked = {"guest_latency": "5ms", "speed": "64K", "wait_timeout": 2, "on_timeout": "leave"}
    task = product.Running("block_stream", {**domain.options, "disks": ["vda"], **asked})
    wait_until(counts, "QEMU counts the guest's requests")
    result = task.result()
    assert (result.failed, [job["speed"] for job in domain.vm.jobs().values()], counts()) == (False, [65536], False)
    assert result["disks"][0]["guest_latency"]["target"] == 5.0
    assert_ends(domain)


def test_libvirts_own_pull_is_not_paused(domain: Domain) -> None:
    """libvirt could not resume it, so it is refused with the reason, and the job runs on."""
    domain.pull()
    result = domain.stream(state="paused")
    assert result.failed
    assert [word for word in ("libvirt", "could not resume") if word not in result["msg"]] == []
    assert [(job["status"], job["paused"]) for job in domain.vm.jobs().values()] == [("running", False)]


def test_libvirts_own_pull_is_aborted_by_libvirt(domain: Domain) -> None:
    """What it copied is kept, libvirt knows of no job any more, and the guest can be populated."""
    domain.pull()
    result = domain.stream(state="aborted")
    assert (result.failed, result["changed"], domain.vm.jobs()) == (False, True, {}), result
    assert "Block Pull" not in domain.virsh("blockjob", "vda", "--info")
    assert_ends(domain)


def test_a_pull_of_another_disk_is_waited_for(libvirt: Libvirt, folder: Path) -> None:
    """Our stream stays at pending as long as libvirt streams beside it, for QEMU 7.2 dies where both end at once."""
    chains = [images.chain(folder, prefix=f"{number}-", seed=number) for number in range(2)]
    with libvirt.domain("two", [chain.top for chain in chains]) as guest:
        two = Domain(guest, chains[0])
        libvirt.virsh("blockpull", "two", "vdb", "--bandwidth", "1", "--bytes")
        result = two.stream(wait_timeout=2, on_timeout="leave")
        assert (result.failed, result["finished"]) == (False, False), result
        statuses = {job: entry["status"] for job, entry in guest.jobs().items()}
        assert statuses == {"populate-vda": "pending", **{job: "running" for job in statuses if "pull" in job}}
        libvirt.virsh("blockjob", "two", "vdb", "--abort")
        assert_ends(two)


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(["snapshot-create-as", "s1", "--disk-only", "--no-metadata"], id="snapshot"),
        pytest.param(["blockcommit", "vda", "--active", "--pivot", "--wait"], id="commit"),
        pytest.param(["blockpull", "vda"], id="pull"),
    ],
)
def test_virsh_beside_us(domain: Domain, words: list[str]) -> None:
    """What virsh tries meanwhile is refused by QEMU, and costs nothing."""
    task = domain.begin()
    with pytest.raises(Exception, match="exit 1"):
        domain.virsh(words[0], *words[1:])
    domain.vm.hasten()
    result = task.result()
    domain.assert_done(result)


def test_libvirtd_is_restarted(domain: Domain) -> None:
    """The task says so; the job goes on in QEMU, and the next run joins it."""
    task = domain.begin()
    domain.vm.libvirt.restart()
    result = task.result()
    assert (result.failed, result["errors"][0]["kind"]) == (True, "MonitorLost"), result
    assert [job["status"] for job in domain.vm.jobs().values()] == ["running"]
    assert_ends(domain)


def test_libvirtd_hangs(domain: Domain) -> None:
    """A daemon that does not answer is told after connect_timeout, and nothing is started."""
    pid = domain.vm.libvirt.pids[-1]
    os.kill(pid, signal.SIGSTOP)
    try:
        result = domain.stream(connect_timeout=1)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert (result.failed, result["errors"][0]["kind"]) == (True, "MonitorSilent"), result
    assert domain.vm.jobs() == {}
    assert_ends(domain)


@pytest.mark.parametrize("how", ["killed", "destroyed"])
def test_the_guest_ends_in_the_middle(define: Callable[..., Domain], how: str) -> None:
    """The task fails at once and says why; started again, the guest is populated, and all is there."""
    domain = define(persistent=True)
    task = domain.begin()
    if how == "killed":
        domain.vm.kill()
    else:
        domain.virsh("destroy")
    result = task.result()
    assert (result.failed, result["errors"][0]["kind"]) == (True, "MonitorLost"), result
    domain.virsh("start", "--paused")
    domain.vm.meet()
    assert_ends(domain)


@pytest.mark.parametrize("stage", ["running", "pending"])
def test_the_module_is_killed(domain: Domain, stage: str) -> None:
    """The job is as it was, and the next run, at once, ends it."""
    task = domain.begin()
    if stage == "pending":
        task.stop()
        domain.vm.hasten()
        domain.vm.wait_event("BLOCK_JOB_PENDING")
    task.kill()
    assert [job["status"] for job in domain.vm.jobs().values()] == [stage]
    assert_ends(domain, connect_timeout=1)


def test_the_guest_is_saved_in_the_middle(define: Callable[..., Domain]) -> None:
    """`virsh save` succeeds beside a stream; restored, the guest is populated, and all is there."""
    domain = define(persistent=True)
    task = domain.begin()
    state = domain.vm.folder / "state"
    domain.virsh("save", str(state), "--paused")
    result = task.result()
    assert (result.failed, domain.vm.state) == (True, "off"), result
    assert images.backing(domain.chain.top) is not None
    domain.vm.libvirt.virsh("restore", str(state), "--paused")
    domain.vm.meet()
    assert_ends(domain)


def test_two_runs_at_once(domain: Domain) -> None:
    """The second waits for its turn and names the process that has it; when that is gone it goes on at once."""
    first = domain.begin()
    second = domain.stream(connect_timeout=1)
    assert (second.failed, second["errors"][0]["kind"]) == (True, "MonitorSilent"), second
    assert f"pid {first.pid}" in second["msg"]
    assert domain.info()["job"]["status"] == "running", "who only looks need not wait"
    first.kill()
    assert_ends(domain, connect_timeout=1)


def test_a_stream_behind_libvirts_back_is_put_right(domain: Domain) -> None:
    """libvirt still has the old images in its view: the disk is not called populated, and the task tells libvirt."""
    domain.vm.command("block-stream", job_id="theirs", device="libvirt-1-format")
    wait_until(lambda: not domain.vm.jobs(), "the stream is over")
    assert len(domain.vm.view()) == 3
    assert domain.info()["populated"] is False
    result = domain.stream()
    assert (result.failed, result["changed"], result["finished"], domain.depth) == (False, True, True, 0), result
    assert_ends(domain)


def test_the_role_and_its_lines(domain: Domain, python: str) -> None:
    """The role takes domains, prints lines, and leaves what it did; nothing is started without a disk."""
    extra = {
        "populate_hosts": "all",
        "populate_domains": ["*"],
        "populate_uri": domain.vm.libvirt.address,
        "ansible_python_interpreter": python,
    }
    run = product.playbook(product.COLLECTION / "playbooks" / "populate.yml", extra=extra)
    left = run.result("virtops.qmp.populate : Leave the result")["ansible_facts"]["populate_result"]
    assert (run.code, left["finished"], left["failures"]) == (0, True, []), run.stdout + run.stderr
    assert left["free"] == [str(image) for image in domain.chain.images[1:]]
    domain.assert_safe_after_kill()


def test_a_killed_daemon_does_not_end_the_guest(domain: Domain) -> None:
    """SIGKILL for libvirtd while a job waits at pending: QEMU keeps it, and the next run ends it."""
    result = domain.stream(wait=False, speed="1")
    assert not result.failed, result
    domain.vm.hasten()
    domain.vm.wait_event("BLOCK_JOB_PENDING")
    kill(domain.vm.libvirt.pids[-1])
    domain.vm.libvirt.restart()
    assert_ends(domain)
