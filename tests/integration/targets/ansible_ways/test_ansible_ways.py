# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""The modules through the real Ansible, in the ways that people use it."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import pytest
from lab import Vm, disks, images, product

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def chains(folder: Path) -> list[images.Chain]:
    return [images.chain(folder, prefix=f"{number}-", seed=number) for number in range(2)]


@pytest.fixture
def vm(chains: list[images.Chain], boot: Callable[..., Vm]) -> Vm:
    words = [
        word
        for number, chain in enumerate(chains)
        for word in disks.drive(chain.top, id=f"drive{number}", qdev=f"vd{'ab'[number]}")
    ]
    return boot(*words, name="web01")


def play(tasks: str, *options: str, vm: Vm, **extra: object) -> product.AnsibleRun:
    """Run tasks on localhost; `monitor` is a variable of the play."""
    text = "- hosts: all\n  gather_facts: false\n" + textwrap.indent(textwrap.dedent(tasks), "  ")
    run = product.playbook(text, *options, extra={"monitor": vm.monitor, **extra})
    assert run.code == 0, run.stdout + run.stderr
    return run


def depths(vm: Vm) -> list[int]:
    return [vm.inserted(disk)["backing_file_depth"] for disk in ("vda", "vdb")]


POPULATE = """
    tasks:
      - name: populate
        virtops.qmp.block_stream:
          monitors: "{{ monitor }}"
          disks: vda
"""


def test_a_playbook_checked_run_and_run_again(vm: Vm, chains: list[images.Chain]) -> None:
    """--check --diff tells the change and makes none; the play makes it, changed; the second run is ok."""
    checked = play(POPULATE, "--check", "--diff", vm=vm)
    assert (checked.result("populate")["changed"], depths(vm)) == (True, [1, 1])
    assert chains[0].base.name in checked.stdout
    assert play(POPULATE, vm=vm).stats["localhost"]["changed"] == 1
    assert depths(vm) == [0, 1]
    again = play(POPULATE, "--diff", vm=vm)
    assert (again.stats["localhost"]["changed"], again.stats["localhost"]["ok"]) == (0, 1)
    assert chains[0].base.name not in again.stdout
    vm.kill()
    assert images.differences(chains[0].expected, images.content(chains[0].top)) == []


def test_module_defaults_of_the_action_group(vm: Vm) -> None:
    """`module_defaults` for the group virtops.qmp.qmp sets the monitors of both modules once."""
    tasks = """
        module_defaults:
          group/virtops.qmp.qmp:
            monitors: "{{ monitor }}"
        tasks:
          - name: before
            virtops.qmp.block_stream_info:
          - name: populate
            virtops.qmp.block_stream:
              disks: "*"
          - name: after
            virtops.qmp.block_stream_info:
    """
    run = play(tasks, vm=vm)
    assert [disk["populated"] for disk in run.result("before")["disks"]] == [False, False]
    assert [disk["populated"] for disk in run.result("after")["disks"]] == [True, True]
    assert depths(vm) == [0, 0]


def test_a_loop_over_disks(vm: Vm) -> None:
    """A loop gives each disk its own result."""
    tasks = """
        tasks:
          - name: populate
            virtops.qmp.block_stream:
              monitor: "{{ monitor }}"
              disk: "{{ item }}"
            loop: [vda, vdb]
    """
    results = play(tasks, vm=vm).result("populate")["results"]
    assert [(each["item"], each["changed"], each["finished"]) for each in results] == [
        ("vda", True, True),
        ("vdb", True, True),
    ]
    assert depths(vm) == [0, 0]


def test_until_finished(vm: Vm) -> None:
    """`until: result is finished`-like loops end: a run that leaves the job returns, the next one joins it."""
    tasks = """
        tasks:
          - name: start
            virtops.qmp.block_stream: {monitors: "{{ monitor }}", disks: vda, wait: false, speed: 1M}
          - name: populate
            virtops.qmp.block_stream: {monitors: "{{ monitor }}", disks: vda, wait: false}
            register: result
            until: result.finished
            retries: 20
            delay: 0
    """
    run = play(tasks, vm=vm)
    assert run.result("start")["finished"] is False
    assert run.result("populate")["finished"] is True
    assert depths(vm) == [0, 1]


def test_the_failure_of_a_task_can_be_rescued(vm: Vm) -> None:
    """A failed task gives its disks and its message to the play."""
    tasks = """
        tasks:
          - name: populate
            virtops.qmp.block_stream: {monitors: "{{ monitor }}", disks: vda, speed: "1", wait_timeout: 1}
            register: result
            ignore_errors: true
          - name: told
            ansible.builtin.assert:
              that:
                - result is failed
                - result.disks | selectattr('job.status', 'eq', 'running') | map(attribute='qdev') | length == 1
                - "'vda' in result.msg"
    """
    play(tasks, vm=vm)
    assert [job["status"] for job in vm.jobs().values()] == ["running"]


def test_async_without_poll_finishes_on_the_host(vm: Vm) -> None:
    """`async` with `poll: 0` waits on the hypervisor and finishes the disk there; async_status hears of it."""
    tasks = """
        tasks:
          - name: populate
            virtops.qmp.block_stream: {monitors: "{{ monitor }}", disks: "*"}
            async: 60
            poll: 0
            register: started
          - name: result
            ansible.builtin.async_status: {jid: "{{ started.ansible_job_id }}"}
            register: result
            until: result is finished
            retries: 60
            delay: 1
    """
    run = play(tasks, vm=vm)
    assert [disk["populated"] for disk in run.result("result")["disks"]] == [True, True]
    assert depths(vm) == [0, 0]


def test_ad_hoc(vm: Vm) -> None:
    """The `ansible` command runs both modules, checked too."""
    checked = product.adhoc("block_stream", "--check", monitors=[vm.monitor], disks=["*"])
    assert ("CHANGED" in checked.stdout, depths(vm)) == (True, [1, 1]), checked.stdout + checked.stderr
    assert "CHANGED" in product.adhoc("block_stream", monitors=[vm.monitor], disks=["*"]).stdout
    assert depths(vm) == [0, 0]
    assert "SUCCESS" in product.adhoc("block_stream", monitors=[vm.monitor], disks=["*"]).stdout
    assert '"web01"' in product.adhoc("block_stream_info", monitors=[vm.monitor]).stdout
