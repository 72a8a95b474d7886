# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Waiting: what a stream that goes on costs whoever waits for it."""

from __future__ import annotations

import contextlib
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import psutil
from lab.images import MiB

from .measure import Figure
from .tasks import OUR_PLAY, SHELL_PLAY, VIRSH_PLAY
from .ways import MeteredPython, by_socat, by_virsh, environment, golden, ours, overlay, plain_vm, play

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .tasks import Bench

SILENT_PLAY = f"{OUR_PLAY}, progress: 0"
PATIENT_PLAY = f"{OUR_PLAY}, internal_poll_interval 0.1"
# How often Ansible's own processes ask each other whether there is anything new: 1000 times a second by default.
PATIENT = "[defaults]\ninternal_poll_interval = 0.1\n"
# Long enough that the start is over, and that the interval of the progress lines is the one of a usual stream.
SETTLE_SECONDS, SECONDS = 15, 60


def idle(bench: Bench) -> Iterator[Figure]:
    """A minute of a stream that hardly moves, everything at once: it is not time that is measured."""
    base = golden(bench.folder, 64 * MiB)
    with contextlib.ExitStack() as stack:
        commands: dict[str, list[str]] = {}
        meters: dict[str, MeteredPython] = {}
        daemons: dict[str, Sequence[int]] = {}
        for way in (OUR_PLAY, PATIENT_PLAY, SILENT_PLAY, SHELL_PLAY, *([VIRSH_PLAY] if bench.libvirt else [])):
            folder = bench.folder / f"idle{len(commands)}"
            folder.mkdir()
            meters[way] = MeteredPython(folder)
            if way == VIRSH_PLAY and bench.libvirt is not None:
                stack.enter_context(bench.libvirt.domain("idle", [overlay(folder / "top.qcow2", base)]))
                task = by_virsh(bench.libvirt, "idle")
                task["ansible.builtin.command"]["argv"] += ["--bandwidth", "1", "--bytes"]
                tasks, daemons[way] = [task], bench.libvirt.pids
            else:
                monitor = stack.enter_context(plain_vm(folder, base)).monitor
                options: dict[str, Any] = {"monitors": [monitor], "disks": ["vda"], "speed": "1"}
                options |= {"progress": 0} if way == SILENT_PLAY else {}
                tasks = by_socat(monitor, speed=1) if way == SHELL_PLAY else [ours(**options)]
            commands[way] = play(folder, *tasks)
            (folder / "ansible.cfg").write_text(PATIENT if way == PATIENT_PLAY else "")
        with ThreadPoolExecutor(len(commands)) as pool:
            futures = {way: pool.submit(_minute, commands[way], meters[way], daemons.get(way, ())) for way in commands}
            spent = {way: future.result() for way, future in futures.items()}
    missing = bench.missing(VIRSH_PLAY)
    for name, title, unit, place in (
        ("idle-cpu", "processor time of controller and hypervisor", "seconds", 0),
        ("idle-bytes", "sent over the connection", "KiB", 1),
    ):
        samples = {way: [values[place]] for way, values in spent.items()}
        yield Figure(name, f"A minute of waiting: {title}", unit, OUR_PLAY, samples, missing)


def _minute(command: Sequence[str], meter: MeteredPython, daemons: Sequence[int]) -> tuple[float, float]:
    """The processor time of a run in a minute of its waiting, and the KiB that went to and from the modules."""
    settings = {"ANSIBLE_CONFIG": str(meter.path.with_name("ansible.cfg"))}
    environ, null = environment(**meter.environ, **settings), subprocess.DEVNULL
    with subprocess.Popen(command, stdout=null, stderr=null, env=environ) as process:
        roots = [psutil.Process(pid) for pid in (process.pid, *daemons)]
        try:
            time.sleep(SETTLE_SECONDS)
            before = _cpu(roots), meter.bytes
            time.sleep(SECONDS)
            assert process.poll() is None, f"{command} did not wait"
            return _cpu(roots) - before[0], (meter.bytes - before[1]) / 1024
        finally:
            for each in [*roots[0].children(recursive=True), roots[0]]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.kill()


def _cpu(roots: Sequence[psutil.Process]) -> float:
    """What processes and all that they started have used, the ended ones included."""
    used = 0.0
    for root in roots:
        for process in [root, *root.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                used += sum(process.cpu_times()[:4])
    return used
