# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Speeds and sizes: changed live, left alone, and exactly which words are understood."""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from lab import NbdServer, Scene, Vm, disks, images, lab_folder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KiB, MiB, GiB, TiB = (1024**power for power in (1, 2, 3, 4))


def speed_of(disk: Scene) -> int:
    (job,) = disk.vm.jobs().values()
    speed: int = job["speed"]
    return speed


def test_a_running_job_is_retuned_once(disk: Scene) -> None:
    """Another speed changes the running job at once, the same one changes nothing, none leaves it as it is."""
    job = disk.start(speed="64K")
    for speed, changed, expected in (("128K", True, 128), ("128K", False, 128), (None, False, 128), ("64K", True, 64)):
        options = {} if speed is None else {"speed": speed}
        result = disk.stream(wait=False, **options)
        assert (result.failed, result["changed"], speed_of(disk)) == (False, changed, expected * KiB), result
        assert result["disks"][0]["action"] == ("retuned" if changed else "joined")
        assert result["disks"][0]["job"]["speed"] == expected * KiB
    assert list(disk.vm.jobs()) == [job]


def test_a_paused_job_is_retuned_and_resumed(disk: Scene) -> None:
    """A speed for a paused job is set before it goes on; the next run with it changes nothing."""
    disk.start()
    disk.stream(state="paused")
    result = disk.stream(wait=False, speed="128K")
    assert (result.failed, result["changed"], result["disks"][0]["action"]) == (False, True, "resumed"), result
    assert speed_of(disk) == 128 * KiB
    assert disk.stream(wait=False, speed="128K")["changed"] is False


def test_no_limit_lets_a_slow_job_finish(disk: Scene) -> None:
    """`speed: 0` frees a job that would take months."""
    disk.start()
    result = disk.stream(speed="0")
    assert (result.failed, result["finished"]) == (False, True), result
    disk.assert_safe_after_kill()


@pytest.fixture(scope="module")
def stuck() -> Iterator[Scene]:
    """A disk whose stream waits for a base that does not answer: it runs at any speed, and gets nowhere."""
    with lab_folder() as folder, ExitStack() as stack:
        servers = []

        def serve(base: Path) -> str:
            servers.append(stack.enter_context(NbdServer(base, folder / "nbd")))
            return servers[0].address

        chain = images.chain(folder, base_format="raw", serve=serve)
        with Vm(folder, *disks.drive(chain.top, id="drive0", qdev="vda")) as vm:
            os.kill(servers[0].pid, signal.SIGSTOP)
            scene = Scene(vm, chain)
            scene.start()
            yield scene


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("1", 1),
        ("65536", 65536),
        ("1B", 1),
        ("64K", 64 * KiB),
        ("64k", 64 * KiB),
        ("64KB", 64 * KiB),
        ("64KiB", 64 * KiB),
        ("0.5M", 512 * KiB),
        ("200M", 200 * MiB),
        ("200MB", 200 * MiB),
        ("200MiB", 200 * MiB),
        ("200M/s", 200 * MiB),
        ("200MB/s", 200 * MiB),
        ("200MiB/s", 200 * MiB),
        ("1.5GiB", 1536 * MiB),
        ("2T", 2 * TiB),
        (" 1 M ", MiB),
        (1048576, MiB),
        ("9007199254740993", 9007199254740993),
    ],
    ids=str,
)
def test_a_speed_that_is_understood(stuck: Scene, text: object, value: int) -> None:
    """The words that are documented reach QEMU as these bytes per second."""
    stuck.vm.command("block-job-set-speed", device=next(iter(stuck.vm.jobs())), speed=12345)
    result = stuck.stream(wait=False, speed=text)
    assert not result.failed, result
    assert speed_of(stuck) == value


@pytest.mark.parametrize(
    "text",
    [
        "fast",
        "M",
        "-1",
        "+1",
        "-1M",
        "1,5G",
        "1_000",
        "1 000",
        "1e3",
        "0x10",
        "10X",
        "64Ki",
        "64kib",
        "1Mb",
        "1Mbit",
        "8Mbps",
        "200MB/sec",
        "200MB/min",
        "inf",
        "nan",
        "\u0663",
        "1M/s/s",
        "0/s/s",
        "8E",
        "9223372036854775808",
        "1Y",
        "0.4",
        "0.0001K",
        "1.5",
        "1b",
        "8b",
        "1megabyte",
        "1 Megabyte",
    ],
    ids=repr,
)
def test_a_speed_that_is_refused(stuck: Scene, text: str) -> None:
    """Everything else is refused with the option and the text, and the stream keeps its speed."""
    stuck.vm.command("block-job-set-speed", device=next(iter(stuck.vm.jobs())), speed=12345)
    result = stuck.stream(wait=False, speed=text)
    assert speed_of(stuck) == 12345
    assert result.failed, result
    assert result["msg"].startswith("speed is ")
    assert text in result["msg"]
