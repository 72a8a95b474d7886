# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Rounds on guests of libvirt: the same judge and the same guest, and libvirtd among those that are struck."""

from __future__ import annotations

import contextlib
import random
import time
from typing import TYPE_CHECKING, Any

from lab import images, kill, lab_folder, wait_until

from .bench import END_SECONDS, Bench, Report
from .guest import monitor_words
from .rounds import ANY_TIME, LATER, MIDDLE, RETURNED, Round, Task

if TYPE_CHECKING:
    from pathlib import Path

    from lab.libvirt import Guest, Libvirt

# A moment is an event of QEMU's, or a time that has none. A stream of ours is cancelled when all is copied, and
# libvirt's own pull completes.
HEARD = {"pending": "BLOCK_JOB_PENDING", "handed over": "BLOCK_JOB_CANCELLED", "pulled": "BLOCK_JOB_COMPLETED"}
_STRIKES = (*HEARD, ANY_TIME, MIDDLE)
MOMENTS = {
    "qemu": (*_STRIKES, RETURNED, LATER),
    "module": _STRIKES,
    "controller": _STRIKES,
    "libvirtd": _STRIKES,
    "destroyed": (*_STRIKES, RETURNED),
}
VICTIMS = ("qemu", *MOMENTS)


def round_of(seed: int, number: int) -> Round:
    """What is tried: it follows from the seed and the number alone."""
    chance = random.Random(f"libvirt/{seed}/{number}")
    victim = chance.choice(VICTIMS)
    moment = chance.choice(MOMENTS[victim])
    delays = {MIDDLE: 0.8, ANY_TIME: 3.0, LATER: 3.0, RETURNED: 0.0}
    return Round(
        seed=seed,
        number=number,
        victim=victim,
        moment=moment,
        delay=chance.choice([0.0, chance.uniform(0, delays.get(moment, 0.01))]),
        layers=chance.randint(1, 3),
        style="libvirt",
        base=chance.choice(["qcow2", "raw"]),
        speed=chance.choice(["2M", "4M"]) if moment == MIDDLE else chance.choice(["0", "0", "8M", "32M"]),
        flush_every=chance.choice([0, 5, 100]),
        hold=0.0,
        storage="",
        room=0,
        reruns=0,
        read_ahead=0,
    )


class DomainBench(Bench):
    """The files of a round, and its guest."""

    def __init__(self, round: Round, folder: Path, stack: contextlib.ExitStack, libvirt: Libvirt) -> None:
        super().__init__(round, folder, stack)
        self._libvirt = libvirt

    def boot(self, *words: str) -> Guest:  # type: ignore[override]  # a VM that libvirt has started
        self._boots += 1
        own = (*monitor_words(self._guest_path), *words)
        guest = self._libvirt.domain(f"round{self._round.number}", [self.chain.top], words=own)
        return self._stack.enter_context(guest)

    @property
    def _guest_path(self) -> Path:
        return self._libvirt.folder / f"guest{self._boots}"

    def options(self, vm: Any) -> dict[str, Any]:
        return {"domains": [vm.name], "uri": self._libvirt.address}


def play(round: Round, libvirt: Libvirt) -> Report:
    """Play one round to its judgement."""
    began = time.monotonic()
    with lab_folder() as folder, contextlib.ExitStack() as stack:
        folder.chmod(0o755)
        bench = DomainBench(round, folder, stack, libvirt)
        guest = bench.boot()
        with bench.guest(guest):
            claimed = _strike_in_the_first_run(bench, guest)
            is_over = round.victim in ("qemu", "destroyed")
            if not is_over:
                _second(bench, guest)
        if is_over:
            bench.forget_cache()
            if claimed and images.backing(bench.chain.top):
                bench.report.wrong.append("said that the disk is populated, but its header names a backing image")
            # Who destroys a guest lets QEMU end by itself, and it flushes.
            bench.judge_after_a_crash("after the end")
            guest = bench.boot()
            with bench.guest(guest):
                _second(bench, guest)
        if images.backing(bench.chain.top):
            bench.report.wrong.append("after the second run the header still names a backing image")
        else:
            bench.chain.take_away()
            bench.judge_after_a_crash("at the end")
    bench.report.seconds = time.monotonic() - began
    return bench.report


def _second(bench: DomainBench, guest: Guest) -> None:
    bench.second_run(guest)
    if len(guest.view()) != 1:
        bench.report.wrong.append(f"libvirt's view of the chain is {guest.view()}")
    guest.kill()


def _strike_in_the_first_run(bench: DomainBench, guest: Guest) -> bool:
    """Start the task, strike at the moment; whether the task said that the disk is populated."""
    round = bench.report.round
    task = Task(round, {**bench.options(guest), "disks": ["vda"], "speed": round.speed})
    said = None
    if round.moment in HEARD:
        guest.judge.wait_event(HEARD[round.moment], timeout=END_SECONDS)
    elif round.moment in (RETURNED, LATER):
        said = task.end()
    elif round.moment == MIDDLE:
        wait_until(guest.jobs, "the task has started a stream", END_SECONDS)
    time.sleep(round.delay)  # not to make time pass: it is the moment of the strike that is drawn
    if round.victim == "qemu":
        guest.kill()
    elif round.victim == "destroyed":
        guest.end()
    elif round.victim == "libvirtd":
        kill(guest.libvirt.pids[-1])
        guest.libvirt.restart()
    else:
        task.kill()
        return False
    bench.report.first, claimed = said or task.end()
    return claimed
