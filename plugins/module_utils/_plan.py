# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What to do: pure decisions from a disk, its job and a wish. Nothing here does I/O or knows a clock."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import Callable, Mapping, Optional, Sequence

from ._disk import Disk, Image
from ._errors import WrongRequest
from ._graph import Graph
from ._job import Job
from ._vm import Vm

EVERY_DISK = "*"


@dataclass(frozen=True)
class Wish:
    """What the user asked for, of every selected disk. Sizes are bytes, times are seconds.

    ``state`` is ``populated``, ``paused`` or ``aborted``; ``stopped`` is what a maintenance window turns ``populated`` into at its
    end: no stream runs, but one that has copied everything is finished rather than cancelled.
    """

    state: str = "populated"
    base: str | None = None
    wait: bool = True
    wait_timeout: int | None = None
    on_timeout: str = "fail"
    increment: int | None = None
    cursor: int = 0
    speed: int | None = None
    on_error: str = "report"
    parallel: int = 1
    check_space: bool = True
    release: bool = True

    def stopped(self) -> Wish:
        """The wish of somebody whose time is over."""
        return replace(self, state="stopped")

    @property
    def mark(self) -> int | None:
        """Where the cursor must arrive before an increment is over."""
        return None if self.increment is None else self.cursor + self.increment


class Step(Enum):
    """The next thing to do with a disk. Each leads to a state that is looked at anew."""

    DONE = "done"
    START = "start"
    FOLLOW = "follow"
    RESUME = "resume"
    RETUNE = "retune"
    FINALIZE = "finalize"
    DISMISS = "dismiss"
    PAUSE = "pause"
    CANCEL = "cancel"
    REFUSE = "refuse"


def base_place(disk: Disk, base: str | None, file: str | None) -> int:
    """Where the chain shall end: the place of the image that stays as the backing image; the chain's length without ``base``."""
    place = None if base is None else disk.find_base(base, file)
    return len(disk.chain) if place is None else place


def is_done(disk: Disk, stays: int) -> bool:
    """Whether nothing is left to copy: the image at ``stays`` is directly below the top, or nothing is."""
    return stays <= 1 and disk.hidden_backing is None


def next_step(disk: Disk, job: Job | None, wish: Wish, stays: int) -> Step:
    """The state machine: one step from what is to what is wished."""
    if job is not None and job.type != "stream":
        return Step.DONE if is_done(disk, stays) and wish.state == "populated" else Step.REFUSE
    if job is not None and job.is_concluded:
        return Step.DISMISS
    if wish.state == "populated":
        return _towards_populated(disk, job, wish, stays)
    if job is None or job.status == "aborting":
        return Step.DONE if job is None else Step.FOLLOW
    if wish.state == "paused":
        return Step.DONE if job.paused or job.is_pending else Step.PAUSE
    if wish.state == "stopped" and job.is_pending:
        return Step.FINALIZE
    return Step.CANCEL


def _towards_populated(disk: Disk, job: Job | None, wish: Wish, stays: int) -> Step:
    if job is None:
        return Step.DONE if is_done(disk, stays) else Step.START
    if job.is_pending:
        return Step.FINALIZE
    if wish.speed is not None and wish.speed != job.speed:
        return Step.RETUNE
    return Step.RESUME if job.paused else Step.FOLLOW


# What a step is called in the result. The first one that changes something names what was done to the disk.
ACTIONS: Mapping[Step, str] = {
    Step.START: "started",
    Step.RESUME: "resumed",
    Step.RETUNE: "retuned",
    Step.FOLLOW: "joined",
    Step.FINALIZE: "joined",
    Step.PAUSE: "paused",
    Step.CANCEL: "stopped",
}
_WEIGHTS = ("none", "joined", "retuned", "resumed", "paused", "started", "stopped")


def weightier(one: str, other: str) -> str:
    """The action that says more about what happened to a disk: a stream that was joined and then stopped was stopped."""
    return max(one, other, key=_WEIGHTS.index)


def is_change(action: str) -> bool:
    """Whether an action by itself changed something."""
    return action not in ("none", "joined")


def wished_chain(disk: Disk, stays: int) -> tuple[Image, ...]:
    """The chain once the stream is done."""
    return disk.chain[:1] + disk.chain[stays:]


def dropped(disk: Disk, stays: int) -> tuple[Image, ...]:
    """The images that will leave the chain."""
    return disk.chain[1:stays]


def space_needed(disk: Disk, stays: int) -> int:
    """What a stream may still write, in bytes.

    The images to be dropped give at most what they occupy; one that does not tell (NBD) gives at most its virtual size. All
    together never exceed the disk. Compressed and finely scattered images take more than they occupy, which QEMU does not tell.
    """
    layers = dropped(disk, stays)
    wanted = sum(
        image.virtual_size if image.allocated is None else min(image.allocated, image.virtual_size) for image in layers
    )
    return min(wanted, disk.virtual_size) if layers else 0


# -- Selecting ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Target:
    """A selected disk of a VM: ``stays`` as ``base_place`` gives it."""

    vm: Vm
    disk: Disk
    stays: int

    @property
    def label(self) -> str:
        """The beginning of every message about it."""
        return f"{self.vm.identity.label}: disk {self.disk.label}"

    @property
    def job(self) -> Job | None:
        """The job that works on the disk."""
        return self.vm.job_on(self.disk)


# Turns a name that the user gave into the absolute path of a file, as this VM's QEMU would find it.
ResolveFor = Callable[[Vm, str], Optional[str]]


def select(vms: Sequence[Vm], names: Sequence[str], base: str | None, resolve: ResolveFor) -> tuple[Target, ...]:
    """Find the disks that are meant, in the order of VMs and disks.

    :raise WrongRequest: with every name that fits none, or several of one VM, and with the names that there are.
    """
    chosen: list[tuple[Vm, Disk]] = []
    problems: list[str] = []
    for name in names:
        hits: list[tuple[Vm, Disk]] = []
        for vm in vms:
            own = _fitting(vm, name, resolve(vm, name))
            if len(own) > 1 and name != EVERY_DISK:
                problems.append(
                    f"{vm.identity.label}: {name!r} names {len(own)} disks; use a name that only one has. {describe_disks([vm])}"
                )
            hits += [(vm, disk) for disk in own]
        if not hits and name != EVERY_DISK:
            problems.append(f"{name!r} names no disk of any VM. {describe_disks(vms)}")
        chosen += hits
    wanted = {(vm.identity.monitor, disk.key) for vm, disk in chosen}
    targets = tuple(
        Target(vm, disk, base_place(disk, base, resolve(vm, base) if base else None))
        for vm in vms
        for disk in vm.disks
        if (vm.identity.monitor, disk.key) in wanted
    )
    if problems:
        raise WrongRequest("\n".join(dict.fromkeys(problems)))
    return targets


def _fitting(vm: Vm, name: str, file: str | None) -> list[Disk]:
    if name == EVERY_DISK:
        return [disk for disk in vm.disks if disk.chain and not disk.read_only]
    return [disk for disk in vm.disks if disk.answers_to(name, file)]


def describe_disks(vms: Sequence[Vm]) -> str:
    """List the disks with all their names, for an error about a name."""
    lines = [
        f"{vm.identity.label}: {', '.join(disk.names) or '(a drive without a name)'}" for vm in vms for disk in vm.disks
    ]
    return "There are: " + "; ".join(lines) if lines else "There are no disks"


def refuse_unfit(targets: Sequence[Target], base: str | None) -> None:
    """Say what QEMU would take and get wrong, or refuse later, before anything is started.

    :raise WrongRequest: with all of it.
    """
    problems = [f"{target.label}: {problem}" for target in targets for problem in [_refusal(target, base)] if problem]
    if problems:
        raise WrongRequest("\n".join(problems))


def _refusal(target: Target, base: str | None) -> str | None:
    vm, disk = target.vm, target.disk
    if vm.identity.is_libvirts:
        return (
            "libvirt manages this VM. A stream behind its back leaves libvirt with a wrong backing chain, and a later `virsh blockcopy --shallow` "
            "undoes it in silence. Use `virsh blockpull`, one disk at a time"
        )
    if vm.status == "inmigrate":
        return "the VM waits for an incoming migration, and its disks belong to the source. Populate it there, or here after the migration"
    if not disk.chain:
        return "the drive is empty. Leave it out, or insert a medium"
    if disk.read_only:
        return (
            "the disk is read-only, and QEMU would rewrite its image all the same. Leave it out, or attach it writable"
        )
    if disk.hidden_backing is not None:
        return (
            f"a {disk.top.format} node stands above node {disk.hidden_backing}, which has a backing image: QEMU would say that it streamed and would "
            "copy nothing. Attach the image without the node above it"
        )
    if base is None or len(disk.chain) == 1:
        return None
    if target.stays == 0:
        return f"base {base!r} is the active image itself. Name one below it: {_paths(disk.chain[1:])}"
    if target.stays == len(disk.chain):
        return f"base {base!r} is not in the backing chain. The chain is {_paths(disk.chain)}"
    return None


def _paths(images: Sequence[Image]) -> str:
    return ", ".join(image.path for image in images)


class Turn(Enum):
    """Whether a disk waits for its turn, of the ``parallel`` ones that a call has."""

    WAITS = "it would add a stream to those that run"
    COUNTS = "its stream runs already"
    NEEDS_NONE = "nothing streams for it"


def turn(target: Target, wish: Wish) -> Turn:
    """Whether a stream would begin for this disk, runs already, or neither."""
    if wish.state != "populated" or next_step(target.disk, target.job, wish, target.stays) is Step.DONE:
        return Turn.NEEDS_NONE
    return Turn.WAITS if target.job is None or target.job.paused or target.job.is_concluded else Turn.COUNTS


# -- Scheduling --------------------------------------------------------------------------------------------------------------


def lanes(targets: Sequence[Target]) -> list[list[Target]]:
    """Group the disks that must not be streamed at the same time: those of one VM that share a node below their tops.

    QEMU refuses the second of them ("Node is busy"). Within a lane, disks with a job come first.
    """
    groups: list[tuple[set[tuple[str, str]], list[Target]]] = []
    for target in targets:
        nodes = {(target.vm.identity.monitor, node) for image in target.disk.chain[1:] for node in image.nodes}
        touching = [group for group in groups if group[0] & nodes]
        groups = [group for group in groups if group not in touching]
        groups.append(
            (nodes.union(*(group[0] for group in touching)), [t for group in touching for t in group[1]] + [target])
        )
    return [sorted(members, key=lambda target: target.job is None) for _nodes, members in groups]


@dataclass(frozen=True)
class Room:
    """The file system that an image lies on: which one, and the bytes free for a writer."""

    device: int
    free: int


def refuse_crowded(targets: Sequence[Target], rooms: Mapping[str, Room | None]) -> None:
    """Say where all streams that would start together may write more than a file system has left.

    :param rooms: by the file of the top image; None for what is no local file.
    :raise WrongRequest: with the figures.
    """
    needed: dict[int, int] = {}
    disks: dict[int, list[str]] = {}
    free: dict[int, int] = {}
    for target in targets:
        room = rooms.get(target.disk.top.file or "")
        if room is None or target.job is not None:
            continue
        wanted = space_needed(target.disk, target.stays)
        if wanted:
            needed[room.device] = needed.get(room.device, 0) + wanted
            disks.setdefault(room.device, []).append(f"{target.label} up to {wanted}")
            free[room.device] = room.free
    problems = [
        f"populating may write up to {total} bytes and the file system has {free[device]} free ({'; '.join(disks[device])}). Make room, populate "
        "fewer disks at a time, or set check_space to false if you know that less will be copied"
        for device, total in needed.items()
        if total > free[device]
    ]
    if problems:
        raise WrongRequest("\n".join(problems))


# -- Releasing ---------------------------------------------------------------------------------------------------------------


def releasable(left: Sequence[Image], graph: Graph) -> tuple[list[str], list[str]]:
    """Which nodes of the images that left a chain can be deleted, in the order in which QEMU takes it, and which must stay.

    Only nodes that somebody named explicitly outlive the stream; those with a generated name (``#block123``) are gone by themselves.

    :param left: the images as they were before the stream, top down.
    :param graph: the graph after the stream.
    :return: the nodes to delete; and, in words, the nodes that something else uses.
    """
    delete: list[str] = []
    kept: list[str] = []
    for node in (node for image in left for node in image.nodes):
        if node.startswith("#") or node not in graph.below:
            continue
        others = [user for user in graph.users.get(node, ()) if user not in {f"node {gone}" for gone in delete}]
        if others:
            kept.append(f"{node} (used by {', '.join(others)})")
        else:
            delete.append(node)
    return delete, kept
