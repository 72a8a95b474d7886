# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""The order of truth, seen from between the product and QEMU, and either side killed at each of its steps."""

from __future__ import annotations

import itertools
import os
import shutil
import threading
from typing import TYPE_CHECKING, Any

import pytest
from lab import Proxy, Scene, Vm, disks, images, kill, product

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Boot = Callable[..., Vm]

# What the module has dd do: nothing but an fsync of its output.
FSYNC = "if=/dev/null conv=fsync"

MOMENTS = [
    "greeting",
    "command block-stream",
    "return block-stream",
    "event BLOCK_JOB_PENDING",
    "command human-monitor-command",
    "return human-monitor-command",
    "command job-finalize",
    "return job-finalize",
    "event BLOCK_JOB_COMPLETED",
]


def test_flushed_before_finalized(disk: Scene, folder: Path) -> None:
    """Pending, then a flush, then finalize; auto-dismiss is left alone; the query that kills QEMU 7.2 is never sent."""
    with Proxy(disk.vm.monitor, folder / "proxy.qmp") as proxy:
        result = disk.stream(monitors=[proxy.path])
    assert not result.failed, result
    # Where nobody held the image open, a stream at its end is followed by one that finds everything copied.
    said = proxy.said[-1 - proxy.said[::-1].index("command block-stream") :]
    order = [
        "command block-stream",
        "event BLOCK_JOB_PENDING",
        "command human-monitor-command",
        "return human-monitor-command",
        "command job-finalize",
        "event BLOCK_JOB_COMPLETED",
    ]
    assert result["disks"][0]["proof"] == "job"  # nothing of the files is known through a witness
    assert [said.index(name) for name in order] == sorted(said.index(name) for name in order)
    assert "query-named-block-nodes" not in proxy.commands
    for start in (message for message in proxy.messages if message.get("execute") == "block-stream"):
        assert start["arguments"]["auto-finalize"] is False
        assert start["arguments"].get("auto-dismiss", True) is True
        assert "filter-node-name" not in start["arguments"]


def seconds(event: dict[str, Any]) -> float:
    """When an event happened."""
    return float(event["timestamp"]["seconds"] + event["timestamp"]["microseconds"] / 1e6)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root sees what a QEMU has open")
def test_written_out_beside_qemu(disk: Scene, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The host writes the image out while the stream runs, once more when all is copied, and when the link is gone."""
    log, tool = folder / "log", folder / "bin" / "dd"
    tool.parent.mkdir()
    # What dd writes out is the file that it inherits as its output.
    line = 'echo "$(date +%s.%N) $(readlink /proc/$$/fd/1) $*"'
    tool.write_text(f'#!/bin/sh\n{line} >>{log}\nexec {shutil.which("dd")} "$@"\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}{os.pathsep}{os.environ['PATH']}")
    result = disk.stream(speed="1M")
    assert (result.failed, result["finished"]) == (False, True), result
    told = {event["event"]: seconds(event) for event in reversed(disk.vm.job_events())}  # the first of each name
    ends = [min(told.values()), told["BLOCK_JOB_PENDING"], told["BLOCK_JOB_COMPLETED"], float("inf")]
    lines = [line.split(" ", 2) for line in log.read_text().splitlines()]
    written_out = [float(when) for when, file, words in lines if (file, words) == (str(disk.chain.top), FSYNC)]
    for begin, end in itertools.pairwise(ends):
        assert any(begin < each < end for each in written_out), (ends, lines)


def test_a_second_run_only_looks(disk: Scene, folder: Path) -> None:
    """A run that finds everything done sends nothing that changes anything but a flush."""
    assert not disk.stream().failed
    events = disk.vm.job_events()
    again = disk.stream()
    assert (again.failed, again["changed"], again["finished"]) == (False, False, True), again
    assert disk.vm.job_events() == events
    with Proxy(disk.vm.monitor, folder / "proxy.qmp") as proxy:
        result = disk.stream(monitors=[proxy.path])
    # Behind the witness the file cannot be told that QEMU has open, and a run that did not copy rests on that alone.
    assert (result.failed, result["changed"], result["disks"][0]["populated"]) == (True, False, None), result
    assert "cannot be told" in result["msg"]
    harmless = ("query-", "x-debug-query-", "qmp_capabilities", "human-monitor-command", "blockdev-snapshot")
    assert [command for command in proxy.commands if not command.startswith(harmless)] == []
    assert "return blockdev-snapshot" not in proxy.said


class Trap:
    """Acts once, at the first message of one name, when it has been set."""

    def __init__(self, moment: str) -> None:
        self._moment = moment
        self._act: Callable[[], None] | None = None
        self._is_set = threading.Event()
        self.has_sprung = False

    def set(self, act: Callable[[], None]) -> None:
        self._act = act
        self._is_set.set()

    def __call__(self, name: str) -> None:
        self._is_set.wait(20)
        if name == self._moment and not self.has_sprung and self._act:
            self.has_sprung = True
            self._act()


@pytest.mark.parametrize("moment", MOMENTS)
def test_qemu_killed_at_each_step(disk: Scene, folder: Path, boot: Boot, moment: str) -> None:
    """QEMU killed at any step: the task fails soon, every byte is there, and after a restart the same task ends it."""
    trap = Trap(moment)
    with Proxy(disk.vm.monitor, folder / "proxy.qmp", trap) as proxy:
        trap.set(disk.vm.kill)
        result = disk.stream(monitors=[proxy.path], timeout=20)
    assert trap.has_sprung, proxy.said
    assert result.failed
    assert images.differences(disk.chain.expected, images.content(disk.chain.top)) == []
    again = boot(*disks.drive(disk.chain.top, id="drive0", qdev="vda"), name="again")
    result = product.module("block_stream", monitors=[again.monitor], disks=["vda"])
    assert (result.failed, result["finished"]) == (False, True), result
    again.kill()
    disk.assert_safe_after_kill()


@pytest.mark.parametrize("moment", MOMENTS)
def test_the_module_killed_at_each_step(disk: Scene, folder: Path, moment: str) -> None:
    """The module killed at any step: QEMU goes on or waits, and the same task, run again, ends it."""
    trap = Trap(moment)
    with Proxy(disk.vm.monitor, folder / "proxy.qmp", trap) as proxy:
        waiter = product.Running("block_stream", {"monitors": [proxy.path], "disks": ["vda"]})
        trap.set(lambda: kill(waiter.pid))
        with pytest.raises(AssertionError, match="no single JSON"):
            waiter.result()
    assert trap.has_sprung, proxy.said
    result = disk.stream()
    assert (result.failed, result["finished"], disk.vm.jobs()) == (False, True, {}), result
    disk.assert_safe_after_kill()


def test_no_deprecated_command(folder: Path, boot: Boot) -> None:
    """A QEMU that refuses whatever it calls deprecated is used as any other: paused, resumed, aborted, populated."""
    if boot(name="plain").version < (6, 0):
        pytest.skip("before QEMU 6.0 there is no -compat that refuses what is deprecated")
    chain = images.chain(folder, layers=2)
    words = disks.named_nodes(chain.images, names=["top", "mid", "base"], qdev="vda")
    vm = boot("-compat", "deprecated-input=reject,deprecated-output=hide", *words, name="strict")
    disk = Scene(vm, chain)
    with Proxy(vm.monitor, folder / "proxy.qmp") as proxy:
        monitors = [proxy.path]
        requests: list[dict[str, object]] = [
            {"wait": False, "speed": "1"},
            {"wait": False, "speed": "2"},
            {"state": "paused"},
            {"state": "aborted"},
            {"base": "base"},
            {},
        ]
        results = [disk.stream(monitors=monitors, **request) for request in requests]
        results.append(product.module("block_stream_info", monitors=monitors))
    assert [result["msg"] for result in results if result.failed] == []
    assert results[-2]["finished"]
    told = {f"command {name}" for name in ("block-stream", "block-job-set-speed", "job-pause", "job-cancel")}
    assert told | {"command job-finalize", "command blockdev-del"} <= set(proxy.said)
    # A flush is a snapshot that fails for want of an overlay, or because a job works on the disk.
    assert {name for name in proxy.said if name.startswith("error")} <= {"error blockdev-snapshot"}
    disk.assert_safe_after_kill()
