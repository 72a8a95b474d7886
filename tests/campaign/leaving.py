# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Leave and come back, over a real SSH connection: whoever followed a stream is cut off, and the task is run again.

The first run has just begun a look that lasts 40 seconds or more, so that what it leaves behind on the hypervisor holds
the monitor for as long. The second one gives up after seconds, unless the monitor is given to it.
"""

from __future__ import annotations

import contextlib
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lab import Sshd, Task, Vm, disks, images, lab_folder, ssh, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

CONNECT_TIMEOUT = 5
# Who is struck. A link that hangs is one whose both ends live and are told nothing.
CUTS: dict[str, Callable[[Task, Sshd], None]] = {
    "the sshd session is killed": lambda _task, sshd: sshd.kill_sessions(),
    "the link hangs": lambda _task, sshd: sshd.stop_clients("one"),
    "the controller is killed": lambda task, _sshd: task.kill_controller(),
    "Ctrl-C": lambda task, _sshd: task.interrupt(),
}


@dataclass(frozen=True)
class Leaving:
    """What is tried: it follows from the seed and the number alone."""

    seed: int
    number: int
    cut: str
    pipelining: bool
    sudo: bool
    slice: int
    delay: float

    @classmethod
    def of(cls, seed: int, number: int) -> Leaving:
        """Each cut in turn, each with and without pipelining, and all of that with and without sudo."""
        chance = random.Random(f"leaving {seed} {number}")
        cut = list(CUTS)[number % len(CUTS)]
        pipelining, sudo = number // len(CUTS) % 2 == 1, number // len(CUTS) % 4 > 1
        return cls(seed, number, cut, pipelining, sudo, chance.randrange(40, 301), chance.uniform(0, 2))

    @property
    def variables(self) -> Mapping[str, object]:
        """How the host is reached; without sudo where that is not to be had."""
        plain = {"ansible_pipelining": self.pipelining}
        return (self.sudo and ssh.with_sudo(pipelining=self.pipelining)) or plain

    def __str__(self) -> str:
        way = ("pipelining" if self.pipelining else "no pipelining") + (", sudo" if self.sudo else "")
        return f"{self.number:3} {self.cut}, {way}, slices of {self.slice} s, after {self.delay:.2f} s"


@dataclass(frozen=True)
class Return:
    """What became of the second run; `complaint` is empty where all is well."""

    leaving: Leaving
    seconds: float
    complaint: str


def come_back(leaving: Leaving) -> Return:
    """Play one round."""
    with lab_folder() as folder, contextlib.ExitStack() as stack:
        chain = images.chain(folder, layers=2)
        vm = stack.enter_context(Vm(folder, *disks.drive(chain.top, id="drive0", qdev="vda"), name="web01"))
        sshd = stack.enter_context(Sshd(folder))
        arguments = {"monitors": [vm.monitor], "disks": ["vda"], "connect_timeout": CONNECT_TIMEOUT}
        first = Task(
            folder,
            {**arguments, "speed": "64K", "progress": leaving.slice},
            reach=sshd.reach(leaving.variables, controller="one"),
            in_terminal=True,
            environ=ssh.ROOT_BY_SUDO,
        )
        stack.callback(first.clear_away)
        wait_until(lambda: first.is_over or any(job["offset"] for job in vm.jobs().values()), "the stream copies")
        time.sleep(leaving.delay)
        assert not first.is_over, first.stdout + first.stderr
        CUTS[leaving.cut](first, sshd)
        began = time.monotonic()
        second = _run_again(folder, sshd, leaving, {**arguments, "speed": "0"})
        stack.callback(second.clear_away)
        seconds = time.monotonic() - began
        return Return(leaving, seconds, _complaint(second, vm, chain, seconds, leaving))


def _run_again(folder: Path, sshd: Sshd, leaving: Leaving, arguments: dict[str, object]) -> Task:
    # From another controller: OpenSSH would wait for ever for the hanging connection that this one shares.
    reach = sshd.reach(leaving.variables, controller="two")
    task = Task(folder, arguments, reach=reach, name="again", environ=ssh.ROOT_BY_SUDO)
    task.wait()
    return task


def _complaint(task: Task, vm: Vm, chain: images.Chain, seconds: float, leaving: Leaving) -> str:
    word, result = task.end()
    if word != "CHANGED" or not result["finished"]:
        return f"{word}: {result.get('msg')}"
    if seconds >= leaving.slice:
        return "it came no sooner than the first one would have left by itself"
    starts = [event for event in vm.judge.events if event.get("data", {}).get("status") == "created"]
    if vm.jobs() or vm.inserted("vda")["backing_file_depth"] or len(starts) != 1:
        return f"jobs {vm.jobs()}, {len(starts)} of them, chain {vm.chain('vda')}"
    vm.kill()
    chain.take_away()
    return "content lost" if images.differences(chain.expected, images.content(chain.top)) else ""


def play(seed: int, rounds: int, only: int | None = None) -> int:
    """Play rounds one after the other, tell of each, and return in how many the second run did not succeed at once."""
    returns: list[Return] = []
    for number in range(rounds) if only is None else [only]:
        returns.append(come_back(Leaving.of(seed, number)))
        print(f"{returns[-1].leaving}: {returns[-1].complaint or f'back in {returns[-1].seconds:.1f} s'}", flush=True)
    bad = sum(bool(each.complaint) for each in returns)
    longest = max(each.seconds for each in returns)
    print(f"\nseed {seed}: {len(returns) - bad} of {len(returns)} came back at once, the slowest in {longest:.1f} s")
    return bad
