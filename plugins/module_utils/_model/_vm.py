# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A virtual machine as its monitor shows it at one moment."""

from __future__ import annotations

import re
from typing import Any, Collection, Mapping, NamedTuple, Sequence

from ._address import DomainName
from ._disk import Disk
from ._files import FileId, Named
from ._graph import Graph
from ._job import Job
from ._peer import Peer
from ._reader import CHARDEVS, DISKS, EDGES, FDSETS, JOBS, Members, items_of, unfit
from ._serving import Serving

_NO_UUID = "00000000-0000-0000-0000-000000000000"  # QEMU's word for "none given"


class Identity(NamedTuple):
    """What does not change while the VM runs. ``peer`` serves the monitor; None where that is reached over TCP.

    ``monitor`` is the address by which the VM was reached: of its monitor, or a ``DomainName``.
    """

    monitor: str
    name: str | None
    uuid: str | None
    qemu_version: str
    peer: Peer | None
    is_libvirts: bool

    @property
    def is_domain(self) -> bool:
        """Whether the VM is reached through libvirt, as one of its guests."""
        return isinstance(self.monitor, DomainName)

    @property
    def version(self) -> tuple[int, int]:
        """The major and minor version of QEMU."""
        major, minor, _micro = self.qemu_version.split(".")
        return int(major), int(minor)

    @property
    def label(self) -> str:
        """The VM in messages: its name, else its monitor."""
        return self.name or self.monitor

    @property
    def pid(self) -> int | None:
        """The process of QEMU; None where the monitor is served by something else, or nobody knows by what."""
        return self.peer.pid if self.peer is not None and self.peer.is_qemu else None

    @property
    def process(self) -> tuple[int | None, int | None] | None:
        """The process that serves the monitor, whatever it is."""
        return None if self.peer is None else self.peer.process

    @property
    def _place(self) -> str:
        return "for this domain" if self.is_domain else "at this monitor"

    def successor(self, later: Identity) -> str | None:
        """Who answers at this VM's monitor now, if it is another VM; None if it is still this one.

        A VM of the same name may have taken the place of this one, or be this one after a restart, without its jobs.
        """
        if (later.name, later.uuid) != (self.name, self.uuid):
            return f"another VM, {later.label}, answers {self._place} now"
        if later.process != self.process:
            return f"another process, {later.peer}, answers {self._place} now: the VM was restarted, or replaced"
        return None


class Sight(NamedTuple):
    """What a monitor shows of a VM at one moment; its images have the names by which QEMU knows them.

    ``fdsets`` are the file descriptors of each set that was passed to QEMU, by its id, where an image uses one.
    ``serving`` is what QEMU serves to others; only the first look asks for it.
    """

    status: str
    disks: tuple[Disk, ...]
    jobs: tuple[Job, ...]
    graph: Graph
    fdsets: Mapping[int, Sequence[int]] = {}
    serving: Serving | None = None

    @property
    def uses_fdsets(self) -> bool:
        """Whether an image was given to QEMU as file descriptors, rather than by a name."""
        return any(disk.uses_fdsets for disk in self.disks)


class Migration(NamedTuple):
    """The last migration of a VM, or saving of its state.

    ``mark`` tells it from others, and is empty where there was none. ``is_under_way``: at its end QEMU gives its images
    away, at a moment that nobody can know.
    """

    mark: str
    is_under_way: bool


class Vm(NamedTuple):
    """The VM, its disks and its block jobs; its images are bound to files.

    ``meanings``: what is behind the names that the user gave, as this VM's QEMU and as this host finds them.
    ``serving`` is as in ``Sight``.
    """

    identity: Identity
    status: str
    disks: tuple[Disk, ...]
    jobs: tuple[Job, ...]
    graph: Graph
    meanings: Mapping[str, Named] = {}
    serving: Serving | None = None

    def meaning(self, name: str) -> Named:
        """What is behind a name that the user gave; nothing, where it is no file name."""
        return self.meanings.get(name, Named())

    def job_on(self, disk: Disk) -> Job | None:
        """The stream that writes to ``disk``, or another job that uses its top image, whoever started it.

        ``query-block-jobs`` does not tell which disk a job works on. The graph does, also when the job is pending or
        concluded.
        """
        if not disk.chain:
            return None
        for job in self.jobs:
            nodes = self.graph.jobs.get(job.id, ())
            # A stream also holds the images that it reads from, and those may belong to several disks.
            if job.type == "stream":
                nodes = nodes[:1]
            if set(disk.top.nodes).intersection(nodes):
                return job
        return None

    def is_same_vm(self, other: Vm) -> bool:
        """Whether both were seen at one VM, through two monitors: one QEMU, which shows the same at both.

        What a VM says of itself is no proof: it must not be able to pass for another VM, and hide that. That both
        sockets were made by one process is none, either: it may be the launcher of both.
        """
        who, whose = self.identity, other.identity
        is_one_qemu = who.pid is not None and who.process == whose.process
        return is_one_qemu and (who.name, who.uuid, self._files) == (whose.name, whose.uuid, other._files)

    @property
    def _files(self) -> set[tuple[str, FileId | str | None]]:
        files: set[tuple[str, FileId | str | None]] = set()
        for disk in self.disks:
            # Where it is not proven which file it is, its name must serve.
            file = disk.chain[0].id or disk.chain[0].absolute_path if disk.chain else None
            files.add((disk.key, file))
        return files

    def disk(self, key: str) -> Disk | None:
        """Find a disk again by its key."""
        return next((disk for disk in self.disks if disk.key == key), None)


def read_status(reply: Any) -> str:
    """Read ``query-status``."""
    return Members(reply, "query-status").text("status")


def read_jobs(reply: Any) -> tuple[Job, ...]:
    """Read ``query-block-jobs``."""
    return tuple(Job.from_qmp(entry) for entry in items_of(reply, "query-block-jobs", JOBS))


def read_disks(reply: Any, graph: Graph) -> tuple[Disk, ...]:
    """Read ``query-block``."""
    disks: list[Disk] = []
    keys: set[str] = set()
    parts = 0
    for entry in items_of(reply, "query-block", DISKS):
        disk = Disk.from_qmp(entry, graph)
        if disk.key in keys and disk.chain:
            raise unfit("query-block", f"two disks that are called {disk.key!r}")
        # Each of many disks may stand on the same nodes, so the graph's own limit is none for all of them.
        parts += sum(1 + len(image.nodes) for image in disk.chain)
        if parts > EDGES:
            raise unfit("query-block", f"more than {EDGES} images and nodes")
        disks.append(disk)
        keys.add(disk.key)
    return tuple(disks)


def read_name(reply: Any) -> str | None:
    """Read ``query-name``; None where the VM was given no name."""
    return Members(reply, "query-name").optional_text("name")


def read_uuid(reply: Any) -> str | None:
    """Read ``query-uuid``; None where the VM was given none."""
    given = Members(reply, "query-uuid").text("UUID")
    return None if given == _NO_UUID else given


def read_version(reply: Any) -> str:
    """Read ``query-version``."""
    number = Members(reply, "query-version").members("qemu")
    return f"{number.size('major')}.{number.size('minor')}.{number.size('micro')}"


def read_chardevs(reply: Any) -> tuple[str, ...]:
    """Read the names of the character devices from ``query-chardev``."""
    return tuple(chardev.text("label") for chardev in items_of(reply, "query-chardev", CHARDEVS))


def is_libvirts(chardevs: Collection[str], disks: Sequence[Disk]) -> bool:
    """Whether libvirt manages the VM: it gives its monitor and its block nodes names of its own."""
    node_names = [disk.node_name for disk in disks if disk.node_name is not None]
    return "charmonitor" in chardevs or any(re.match(r"libvirt-\d+-format$", name) for name in node_names)


def read_fdsets(reply: Any) -> dict[int, list[int]]:
    """Read ``query-fdsets``: the numbers of the descriptors of each set, in QEMU's process."""
    sets: dict[int, list[int]] = {}
    for each in items_of(reply, "query-fdsets", FDSETS):
        sets[each.size("fdset-id")] = [entry.size("fd") for entry in each.items("fds", FDSETS)]
    return sets


# What `query-migrate` says of a migration that is no more. Any other word, also one that no QEMU knows yet, is of one
# that is under way, or halts half-way.
_OVER = ("none", "completed", "failed", "cancelled")


def read_migration(reply: Any) -> Migration:
    """Read ``query-migrate``."""
    migration = Members(reply, "query-migrate")
    status = migration.optional_text("status") or "none"
    mark = "" if status == "none" else f"{status}-{migration.optional_size('total-time') or 0}"
    return Migration(mark, status not in _OVER)
