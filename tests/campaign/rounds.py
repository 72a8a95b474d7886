# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""One round: a VM, a guest that writes, a task that populates, a kill, the same task again, the judgement."""

from __future__ import annotations

import contextlib
import json
import random
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lab import Proxy, Vm, host, images, lab_folder, product, wait_until

from .bench import END_SECONDS, Bench, Report
from .mishaps import leave, run_out_of_room, save_in_the_middle

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# A moment is what is said between the task and QEMU just before the kill, or a time that has no word.
SAID = {
    "start": "command block-stream",
    "pending": "event BLOCK_JOB_PENDING",
    "flush": "command human-monitor-command",
    "flushed": "return human-monitor-command",
    "finalize": "command job-finalize",
    "ended": "event BLOCK_JOB_COMPLETED",
}
ANY_TIME, MIDDLE, RETURNED, LATER = "any time", "middle", "returned", "seconds after"
FULL = "the flush"
_KILLS = (*SAID, ANY_TIME, MIDDLE)
# Who is struck. Besides those who are killed: a VM that is saved and goes on, one that leaves with a job behind it, and
# the storage of the top, which takes every write and has no room for it.
MOMENTS = {
    "qemu": (*_KILLS, RETURNED, LATER),
    "module": _KILLS,
    "controller": _KILLS,
    "saved": (MIDDLE, ANY_TIME),
    "left": (MIDDLE,),
    "storage": (FULL,),
}
VICTIMS = ("qemu", "qemu", *[victim for victim in MOMENTS if victim != "qemu"])


@dataclass(frozen=True)
class Round:
    """What is tried: it follows from the seed and the number alone."""

    seed: int
    number: int
    victim: str
    moment: str
    delay: float
    layers: int
    style: str
    base: str
    speed: str
    flush_every: int
    hold: float
    storage: str
    room: int
    reruns: int
    read_ahead: int

    @classmethod
    def of(cls, seed: int, number: int) -> Round:
        chance = random.Random(f"{seed}/{number}")
        victim = chance.choice(VICTIMS)
        moment = chance.choice(MOMENTS[victim])
        delays = {MIDDLE: 0.8, ANY_TIME: 3.0 if victim == "controller" else 1.2, LATER: 3.0, RETURNED: 0.0}
        storage = chance.choice(["ext4", "device"]) if victim == "storage" else ""
        return cls(
            seed=seed,
            number=number,
            victim=victim,
            moment=moment,
            # The kill comes at once or some milliseconds later, when QEMU is one step further or not.
            delay=chance.choice([0.0, chance.uniform(0, delays.get(moment, 0.01))]),
            layers=chance.randint(1, 3),
            style="drive" if storage == "device" else chance.choice(["drive", "blockdev", "named"]),
            base=chance.choice(["qcow2", "raw", "nbd"]),
            speed=chance.choice(["2M", "4M"]) if moment == MIDDLE else chance.choice(["0", "0", "8M", "32M"]),
            # A flush that fails is none, and HMP does not tell: on such storage the guest counts on nothing.
            flush_every=0 if storage else chance.choice([0, 5, 100]),
            hold=chance.uniform(0, 1),
            storage=storage,
            room=chance.randrange(4 * images.MiB),
            reruns=chance.randrange(2),
            # Of those that are saved an old QEMU refuses it.
            read_ahead=chance.choice([0, 4, 16]) if victim in ("qemu", "module", "controller") else 0,
        )


class Task:
    """The task whose end is awaited: the module alone, or Ansible with its controller."""

    def __init__(self, round: Round, arguments: dict[str, object]) -> None:
        self._module = self._controller = None
        if round.victim == "controller":
            command = [sys.executable, "-m", "ansible.cli.adhoc", "-i", "localhost,", "-c", "local"]
            command += ["-e", f"ansible_python_interpreter={product.target_python()}"]
            command += ["-m", f"{product.NAME}.block_stream", "-a", json.dumps(arguments), "localhost"]
            quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            self._controller = subprocess.Popen(command, env=product.environment(), **quiet)  # type: ignore[call-overload]
        else:
            self._module = product.Running("block_stream", arguments)

    def kill(self) -> None:
        for process in filter(None, [self._module, self._controller]):
            process.kill()
        if self._controller:
            self._controller.wait()

    def end(self) -> tuple[str, bool]:
        """Wait for its end: in a word what it said, and whether it said that the disk is populated."""
        if self._module is None:
            return "killed", False
        result = self._module.result(END_SECONDS)
        return ("failed" if result.failed else "done"), not result.failed and result["finished"]


def play(round: Round) -> Report:
    """Play one round to its judgement."""
    began = time.monotonic()
    if round.storage and not host.has_loop_devices():
        return Report(round, first="skipped")
    with lab_folder() as folder, contextlib.ExitStack() as stack:
        bench = Bench(round, folder, stack)
        vm = bench.boot()
        if round.victim in ("saved", "left") and not vm.can_be_saved_while_streaming:
            return Report(round, first="skipped")
        vm = leave(bench, vm) if round.victim == "left" else _first_round(bench, vm, folder)
        with bench.guest(vm):
            bench.second_run(vm)
            vm.kill()
        if images.backing(bench.chain.top):
            bench.report.wrong.append("after the second run the header still names a backing image")
        else:
            bench.chain.take_away()
            bench.judge_after_a_crash("at the end")
    bench.report.seconds = time.monotonic() - began
    return bench.report


def _first_round(bench: Bench, vm: Vm, folder: Path) -> Vm:
    """The first run, and what strikes it; the VM for the second one."""
    victim = bench.report.round.victim
    with bench.guest(vm) as guest:
        if victim == "saved":
            claimed = save_in_the_middle(bench, vm, guest)
        elif victim == "storage":
            claimed = run_out_of_room(bench, vm)
        else:
            claimed = _kill_in_the_first_run(bench, vm, folder)
        if victim in ("module", "controller"):
            return vm
        vm.kill()
    bench.forget_cache()
    if claimed and images.backing(bench.chain.top):
        bench.report.wrong.append("said that the disk is populated, but its header names a backing image")
    bench.judge_after_a_crash("after the kill")
    bench.repair_storage()
    return bench.boot()


def _kill_in_the_first_run(bench: Bench, vm: Vm, folder: Path) -> bool:
    """Start the task, kill the victim at its moment; whether the task said that the disk is populated."""
    round = bench.report.round
    moment = threading.Event()

    def hear(name: str) -> None:
        if name == SAID.get(round.moment):
            moment.set()

    with Proxy(vm.monitor, folder / "proxy.qmp", hear, passes_files=True) as proxy:
        monitor = proxy.path if round.moment in SAID else vm.monitor
        task = Task(round, {"monitors": [monitor], **bench.ahead, "disks": ["vda"], "speed": round.speed})
        strike: Callable[[], None] = vm.kill if round.victim == "qemu" else task.kill
        said = None
        if round.moment in SAID:
            moment.wait(END_SECONDS)
        elif round.moment in (RETURNED, LATER):
            said = task.end()
        elif round.moment == MIDDLE:
            wait_until(vm.jobs, "the task has started a stream", END_SECONDS)
        time.sleep(round.delay)  # not to make time pass: it is the moment of the kill that is drawn
        strike()
        if round.victim != "qemu":
            return False
        bench.report.first, claimed = said or task.end()
        return claimed
