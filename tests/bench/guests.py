# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""libvirt's guests: what virsh does beside the collection, and what is left when QEMU is killed right after."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import TYPE_CHECKING

from lab import images
from lab.images import MiB
from lab.libvirt import distribution_python

from .measure import Figure, in_turn
from .tasks import VIRSH_PLAY
from .ways import by_virsh, environment, golden, must_be_populated, ours, overlay, play, timed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any

    from lab.libvirt import Libvirt

    from .tasks import Bench

ONE, MANY = "playbook, block_stream", "playbook, block_stream, four at a time"
SHAPES = {"one guest with four disks": (1, 4), "eight guests with two disks": (8, 2)}


def guests(bench: Bench) -> Iterator[Figure]:
    """Seconds, and of how many of the disks every byte is there after SIGKILL; 16 MiB to copy for each disk."""
    for shape, (count, disks) in SHAPES.items():
        kept: dict[str, list[float]] = {ONE: [], MANY: [], VIRSH_PLAY: []}
        ways: dict[str, Callable[[], float]] = {}
        if bench.libvirt is not None:
            for way, task in _tasks(bench.libvirt, count, disks).items():
                ways[way] = partial(_scene, bench, bench.libvirt, (count, disks), task, kept[way])
        samples = in_turn(ways, bench.rounds)
        missing = bench.missing(*kept)
        name = f"libvirt-{count}x{disks}"
        yield Figure(name, f"libvirt, {shape}", "seconds", VIRSH_PLAY, samples, missing)
        title = f"The same, disks of {count * disks} that are whole after SIGKILL"
        yield Figure(f"{name}-kept", title, "disks", ONE, kept if ways else {}, missing)


def _tasks(libvirt: Libvirt, count: int, disks: int) -> dict[str, dict[str, Any]]:
    """The task of each way."""
    names = [f"web{place:02}" for place in range(count)]
    targets = [f"vd{chr(97 + place)}" for place in range(disks)]
    options: dict[str, Any] = {"domains": ["web*"], "uri": libvirt.address, "disks": ["*"]}
    looped = {"loop": f"{{{{ {names} | product({targets}) }}}}"}
    return {
        ONE: ours(**options),
        MANY: ours(**options, parallel=4),
        VIRSH_PLAY: {**by_virsh(libvirt, "{{ item.0 }}", "{{ item.1 }}"), **looped},
    }


def _scene(bench: Bench, libvirt: Libvirt, shape: tuple[int, int], task: Mapping[str, Any], kept: list[float]) -> float:
    """Start the guests, run the task, kill every QEMU at once, and see what is left."""
    base, (count, disks) = golden(bench.folder, 16 * MiB), shape
    tops = [
        [overlay(bench.folder / f"web{each:02}-{disk}.qcow2", base) for disk in range(disks)] for each in range(count)
    ]
    with contextlib.ExitStack() as stack:
        started = [stack.enter_context(libvirt.domain(f"web{each:02}", own)) for each, own in enumerate(tops)]
        command = play(bench.folder, task)
        done = timed(command, environ=environment(ANSIBLE_PYTHON_INTERPRETER=distribution_python()))
        for guest in started:
            must_be_populated(guest.judge)
        for guest in started:
            guest.kill()
    expected = images.content(base)
    whole = [top for own in tops for top in own if images.backing(top) is None and images.content(top) == expected]
    kept.append(len(whole))
    return done.seconds
