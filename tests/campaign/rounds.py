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
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab import NbdServer, Proxy, Vm, disks, images, lab_folder, product, wait_until

from .guest import Guest, monitor_words
from .model import Model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

VICTIMS = ("qemu", "qemu", "module", "controller")
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
MOMENTS = (*SAID, ANY_TIME, MIDDLE)
END_SECONDS = 120


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

    @classmethod
    def of(cls, seed: int, number: int) -> Round:
        chance = random.Random(f"{seed}/{number}")
        victim = chance.choice(VICTIMS)
        moment = chance.choice((*MOMENTS, *([RETURNED, LATER] if victim == "qemu" else [])))
        delays = {MIDDLE: 0.8, ANY_TIME: 3.0 if victim == "controller" else 1.2, LATER: 3.0, RETURNED: 0.0}
        return cls(
            seed=seed,
            number=number,
            victim=victim,
            moment=moment,
            # The kill comes at once or some milliseconds later, when QEMU is one step further or not.
            delay=chance.choice([0.0, chance.uniform(0, delays.get(moment, 0.01))]),
            layers=chance.randint(1, 3),
            style=chance.choice(["drive", "blockdev", "named"]),
            base=chance.choice(["qcow2", "raw", "nbd"]),
            speed=chance.choice(["2M", "4M"]) if moment == MIDDLE else chance.choice(["0", "0", "8M", "32M"]),
            flush_every=chance.choice([0, 5, 100]),
        )


@dataclass
class Report:
    """What came of a round. `lost` and `wrong` must be empty."""

    round: Round
    seconds: float = 0
    writes: int = 0
    first: str = "killed"
    lost: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    @property
    def line(self) -> str:
        each = self.round
        tried = f"{each.victim} at {each.moment} + {each.delay * 1000:.1f} ms"
        scene = f"{each.layers} below, {each.style}, {each.base} base, speed {each.speed}"
        judged = f"lost {len(self.lost)}, wrong {len(self.wrong)}"
        line = f"{each.number:5} {tried:42} {scene:48} {self.first:8} {self.writes:5} writes {self.seconds:5.1f} s"
        return "\n".join([f"{line}  {judged}", *(f"        {words}" for words in [*self.lost[:5], *self.wrong])])


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


class _Bench:
    """The files and processes of a round."""

    def __init__(self, round: Round, folder: Path, stack: contextlib.ExitStack) -> None:
        self._round, self._folder, self._stack, self._boots = round, folder, stack, 0
        serve = self._serve if round.base == "nbd" else None
        base_format = "qcow2" if round.base == "qcow2" else "raw"
        self.chain = images.chain(
            folder, layers=round.layers, base_format=base_format, serve=serve, seed=round.seed * 1000 + round.number
        )
        self.model = Model(self.chain.expected)
        self.report = Report(round)

    def _serve(self, image: Path) -> str:
        return self._stack.enter_context(NbdServer(image, self._folder / "base.nbd")).address

    def boot(self) -> Vm:
        self._boots += 1
        return self._stack.enter_context(
            Vm(self._folder, *self._disk(), *monitor_words(self._guest_path), name=f"vm{self._boots}")
        )

    def _disk(self) -> list[str]:
        top = self.chain.top
        if self._round.style == "named" and self._round.base != "nbd":
            # Whoever names every node takes the chain from the header, as it is now.
            files = self.chain.images if images.backing(top) else (top,)
            return disks.named_nodes(files, names=[f"n{number}" for number in range(len(files))], qdev="vda")
        if self._round.style == "drive":
            return disks.drive(top, id="drive0", qdev="vda")
        return disks.node(top, node_name="top", qdev="vda")

    @property
    def _guest_path(self) -> Path:
        return self._folder / f"vm{self._boots}.guest"

    @contextlib.contextmanager
    def guest(self, vm: Vm) -> Iterator[None]:
        seed = f"{self._round.seed}/{self._round.number}/{self._boots}"
        qdev = vm.disk("vda")["qdev"]
        with Guest(self._guest_path, qdev, self.model, seed=seed, flush_every=self._round.flush_every) as guest:
            yield
        self.report.writes += guest.writes

    def judge_after_a_crash(self, when: str) -> None:
        found = images.content(self.chain.top)
        self.report.lost += [f"{when}: {words}" for words in self.model.losses(found, crashed=True)]
        self.model.settle(found)


def play(round: Round) -> Report:
    """Play one round to its judgement."""
    began = time.monotonic()
    with lab_folder() as folder, contextlib.ExitStack() as stack:
        bench = _Bench(round, folder, stack)
        vm = bench.boot()
        with bench.guest(vm):
            claimed = _first_run(bench, vm, folder)
            if round.victim == "qemu":
                vm.kill()
        if round.victim == "qemu":
            if claimed and images.backing(bench.chain.top):
                bench.report.wrong.append("said that the disk is populated, but its header names a backing image")
            bench.judge_after_a_crash("after the kill")
            vm = bench.boot()
        with bench.guest(vm):
            _second_run(bench, vm)
            vm.kill()
        if images.backing(bench.chain.top):
            bench.report.wrong.append("after the second run the header still names a backing image")
        else:
            bench.chain.take_away()
            bench.judge_after_a_crash("at the end")
    bench.report.seconds = time.monotonic() - began
    return bench.report


def _first_run(bench: _Bench, vm: Vm, folder: Path) -> bool:
    """Start the task, kill the victim at its moment; whether the task said that the disk is populated."""
    round = bench.report.round
    moment = threading.Event()

    def hear(name: str) -> None:
        if name == SAID.get(round.moment):
            moment.set()

    with Proxy(vm.monitor, folder / "proxy.qmp", hear) as proxy:
        monitor = proxy.path if round.moment in SAID else vm.monitor
        task = Task(round, {"monitors": [monitor], "disks": ["vda"], "speed": round.speed})
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


def _second_run(bench: _Bench, vm: Vm) -> None:
    """The same task again: it must succeed, whatever the first one left."""
    # A module whose controller was killed goes on and holds the monitor until its slice is over.
    arguments: dict[str, Any] = {"monitors": [vm.monitor], "disks": ["vda"], "speed": "0", "connect_timeout": 60}
    result = product.module("block_stream", timeout=END_SECONDS, **arguments)
    if result.failed or not result["finished"]:
        bench.report.wrong.append(f"the second run did not finish: {result.get('msg')}")
