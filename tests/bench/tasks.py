# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whole tasks: how long a user waits, how late the end is noticed, and what many disks and VMs cost."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from lab.images import KiB, MiB

from .measure import Figure, in_turn
from .ways import (
    Done,
    GiB,
    MeteredPython,
    by_socat,
    by_virsh,
    cpu_of_children,
    environment,
    golden,
    moment_of,
    must_be_populated,
    ours,
    overlay,
    plain_vm,
    play,
    playbook,
    raw,
    timed,
    timeline,
    virsh,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from lab import Monitor, Vm
    from lab.libvirt import Libvirt

from lab import product

RAW, VIRSH = "qemu.qmp script", "virsh blockpull --wait"
OUR_PLAY, VIRSH_PLAY, SHELL_PLAY = "playbook, block_stream", "playbook, virsh", "playbook, socat and until"
ROLE = product.COLLECTION / "playbooks" / "populate.yml"


@dataclass(frozen=True)
class Bench:
    """Where it is measured, and how often; `libvirt` is None, with the reason, where it cannot be had."""

    folder: Path
    rounds: int
    libvirt: Libvirt | None
    no_libvirt: str

    def missing(self, *ways: str) -> dict[str, str]:
        return dict.fromkeys(ways, self.no_libvirt) if self.libvirt is None else {}


def whole_task(bench: Bench) -> Iterator[Figure]:
    """From the command to the prompt."""
    for size, text, rounds in ((16 * MiB, "16 MiB", bench.rounds), (GiB, "1 GiB", max(3, bench.rounds // 2))):
        ways = {way: _seconds_of(run) for way, run in _ways(bench, size, must_be_populated).items()}
        yield Figure(
            f"whole-{text.replace(' ', '')}",
            f"A whole run, {text} to copy",
            "seconds",
            OUR_PLAY,
            in_turn(ways, rounds),
            bench.missing(VIRSH_PLAY, VIRSH),
        )


def _seconds_of(run: Callable[[], Done]) -> Callable[[], float]:
    return lambda: run().seconds


def _ways(bench: Bench, size: int, judge: Callable[[Monitor], None]) -> dict[str, Callable[[], Done]]:
    """Every way to populate one disk of so many bytes: each makes its VM, runs, is judged, and ends the VM."""
    base = golden(bench.folder, size)

    def on_plain(command: Callable[[Vm], list[str]]) -> Done:
        with plain_vm(bench.folder, base) as vm:
            words = command(vm)
            done = timed(words, environ=environment())
            judge(vm.judge)
            return done

    found = {
        OUR_PLAY: lambda: on_plain(
            lambda vm: play(bench.folder, ours(monitors=[vm.monitor], disks=["vda"], check_space=False))
        ),
        SHELL_PLAY: lambda: on_plain(lambda vm: play(bench.folder, *by_socat(vm.monitor))),
        RAW: lambda: on_plain(lambda vm: raw(vm.monitor)),
    }
    libvirt = bench.libvirt
    if libvirt is not None:

        def on_libvirt(command: list[str]) -> Done:
            with libvirt.domain("vm0", [overlay(bench.folder / "virsh.qcow2", base)]) as guest:
                done = timed(command, environ=environment())
                judge(guest.judge)
                return done

        found[VIRSH_PLAY] = lambda: on_libvirt(play(bench.folder, by_virsh(libvirt)))
        found[VIRSH] = lambda: on_libvirt(virsh(libvirt))
    return found


def call(bench: Bench) -> Iterator[Figure]:
    """What a task costs that has nothing to do, beside the least that Ansible can do."""
    with plain_vm(bench.folder, golden(bench.folder, 64 * KiB)) as vm:
        assert not product.module("block_stream", monitors=[vm.monitor], disks=["vda"]).failed
        tasks = {
            "ping": {"ansible.builtin.ping": {}},
            "block_stream_info": ours("block_stream_info", monitors=[vm.monitor]),
            "block_stream": ours(monitors=[vm.monitor], disks=["vda"]),
        }

        def sample(task: dict[str, object]) -> float:
            # Ten times, so that Ansible's own start does not cover the difference.
            return timed(play(bench.folder, *[task] * 10), environ=environment()).seconds / 10

        samples = in_turn({way: partial(sample, task) for way, task in tasks.items()}, bench.rounds)
    yield Figure("call", "A task with nothing to do, one of ten in a playbook", "seconds", "ping", samples)


def late(bench: Bench) -> Iterator[Figure]:
    """From QEMU's own end of the job, by the time of its event, to the end of the command, and to its first word."""
    size = 64 * MiB
    ends: list[float] = []

    def judge(monitor: Monitor) -> None:
        must_be_populated(monitor)
        ends.append(moment_of(monitor, "BLOCK_JOB_COMPLETED"))

    def module(first_word: bool) -> float:
        with plain_vm(bench.folder, golden(bench.folder, size)) as vm:
            command, stdin = product.command_of("block_stream", monitors=[vm.monitor], disks=["vda"])
            done = timed(command, stdin=stdin, environ=environment())
            judge(vm.judge)
        return 1000 * ((done.spoke if first_word else done.ended) - ends[-1])

    def end_of(run: Callable[[], Done], first_word: bool = False) -> Callable[[], float]:
        def sample() -> float:
            done = run()
            return 1000 * ((done.spoke if first_word else done.ended) - ends[-1])

        return sample

    ways = _ways(bench, size, judge)
    words = {
        f"{RAW}, at its first word": end_of(ways[RAW], True),
        "block_stream, at its first word": lambda: module(True),
        RAW: end_of(ways[RAW]),
        "block_stream": lambda: module(False),
        **{way: end_of(run) for way, run in ways.items() if way != RAW},
    }
    yield Figure(
        "late",
        "Late by, 64 MiB to copy",
        "milliseconds",
        RAW,
        in_turn(words, bench.rounds),
        bench.missing(VIRSH_PLAY, VIRSH),
    )
    yield _parts(bench, size)


def _parts(bench: Bench, size: int) -> Figure:
    """What the module does from "pending" on, when QEMU has copied everything, to its printed result."""
    samples: dict[str, list[float]] = {}
    for _round in range(bench.rounds):
        with plain_vm(bench.folder, golden(bench.folder, size)) as vm:
            done = timed(timeline(vm.monitor), environ=environment())
            must_be_populated(vm.judge)
        for part, milliseconds in json.loads(done.output.splitlines()[-1]).items():
            samples.setdefault(part, []).append(milliseconds)
    return Figure("late-parts", "From pending to the result, 64 MiB to copy", "milliseconds", "the flush", samples)


def many_disks(bench: Bench) -> Iterator[Figure]:
    """One call for sixteen disks against sixteen tasks."""
    names = [f"vd{chr(97 + place)}" for place in range(16)]

    def sample(tasks: Callable[[str], list[dict[str, object]]], *, is_done: bool) -> float:
        with plain_vm(bench.folder, golden(bench.folder, 64 * KiB), count=16) as vm:
            if is_done:
                result = product.module("block_stream", monitors=[vm.monitor], disks=["*"])
                assert not result.failed, result
            return timed(play(bench.folder, *tasks(vm.monitor)), environ=environment()).seconds

    def call(monitor: str, disks: list[str]) -> dict[str, object]:
        return ours(monitors=[monitor], disks=disks)

    for name, title, is_done in (
        ("disks-new", "Sixteen disks with 64 KiB to copy each, a playbook", False),
        ("disks-done", "Sixteen disks with nothing to do, a playbook", True),
    ):
        ways: dict[str, Callable[[str], list[dict[str, object]]]] = {
            "one call for one disk": lambda monitor: [call(monitor, names[:1])],
            "one call for sixteen": lambda monitor: [call(monitor, names)],
            "sixteen tasks": lambda monitor: [call(monitor, [disk]) for disk in names],
        }
        runs = {way: partial(sample, tasks, is_done=is_done) for way, tasks in ways.items()}
        yield Figure(name, title, "seconds", "one call for one disk", in_turn(runs, bench.rounds))


def many_vms(bench: Bench) -> Iterator[Figure]:
    """A host with many VMs: the role, and what people write without it."""
    yield from _fleet(bench)
    if bench.libvirt is None:
        return
    libvirt = bench.libvirt
    base = golden(bench.folder, 16 * MiB)
    vms, names = [f"web{place:02}" for place in range(8)], ("vda", "vdb")

    def by_role() -> float:
        with contextlib.ExitStack() as stack:
            for name in vms:
                stack.enter_context(plain_vm(bench.folder, base, count=2, name=name))
            return _role(bench, "web*").seconds

    def in_a_loop() -> float:
        with contextlib.ExitStack() as stack:
            for name in vms:
                tops = [overlay(bench.folder / f"{name}-{disk}.qcow2", base) for disk in names]
                stack.enter_context(libvirt.domain(name, tops))
            task = by_virsh(libvirt, "{{ item.0 }}", "{{ item.1 }}")
            task |= {"loop": f"{{{{ {vms} | product({list(names)}) }}}}"}
            return timed(play(bench.folder, task), environ=environment()).seconds

    samples = in_turn({"the role populate": by_role, "playbook, virsh in a loop": in_a_loop}, min(3, bench.rounds))
    yield Figure("vms-loop", "Eight VMs with two disks of 16 MiB each", "seconds", "the role populate", samples)


def _fleet(bench: Bench) -> Iterator[Figure]:
    """The role over 1 to 64 VMs, with 64 KiB to copy each, and once more with nothing to do."""
    base = golden(bench.folder, 64 * KiB)
    counts = (1, 4, 16, 40, 64)
    python = MeteredPython(bench.folder)
    seconds: dict[str, list[float]] = {f"{count} VMs": [] for count in counts}
    controller: dict[str, list[float]] = {way: [] for way in seconds}
    again: dict[str, list[float]] = {way: [] for way in seconds}
    task: dict[str, list[float]] = {way: [] for way in seconds}
    for _round in range(min(3, bench.rounds)):
        for count in counts:
            way = f"{count} VMs"
            with contextlib.ExitStack() as stack:
                for place in range(count):
                    stack.enter_context(plain_vm(bench.folder, base, name=f"n{place:02}"))
                before = cpu_of_children()
                python.forget()
                seconds[way].append(_role(bench, "n*", **python.environ).seconds / count)
                controller[way].append((cpu_of_children() - before - python.cpu_seconds) / count)
                again[way].append(_role(bench, "n*").seconds)
                rerun = ours(monitors=[f"{bench.folder}/n*.qmp"], disks=["*"])
                task[way].append(timed(play(bench.folder, rerun), environ=environment()).seconds)
    one = "1 VMs"
    yield Figure("vms", "The role, 64 KiB to copy for each VM", "seconds per VM", one, seconds)
    yield Figure("vms-cpu", "The role: processor time of the controller", "seconds per VM", one, controller)
    yield Figure("vms-again", "The role again, with nothing to do", "seconds", one, again)
    yield Figure("vms-task", "A playbook with block_stream again, with nothing to do", "seconds", one, task)


def _role(bench: Bench, names: str, **environ: str) -> Done:
    variables = {"populate_hosts": "all", "populate_monitors": [f"{bench.folder}/{names}.qmp"]}
    return timed(playbook(ROLE, **variables), environ=environment(**environ))
