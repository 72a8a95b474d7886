# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A virtual machine as its monitor shows it at one moment."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from ._disk import Disk
from ._graph import Graph
from ._job import Job
from ._peer import Peer


@dataclass(frozen=True)
class Identity:
    """What does not change while the VM runs. ``peer`` serves the monitor; None where that is reached over TCP."""

    monitor: str
    name: str | None
    uuid: str | None
    qemu_version: str
    peer: Peer | None
    is_libvirts: bool

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

    def successor(self, later: Identity) -> str | None:
        """Who answers at this VM's monitor now, if it is another VM; None if it is still this one.

        A VM of the same name may have taken the place of this one, or be this one after a restart, without its jobs.
        """
        if (later.name, later.uuid) != (self.name, self.uuid):
            return f"another VM, {later.label}, answers at this monitor now"
        if later.process != self.process:
            return f"another process, {later.peer}, answers at this monitor now: the VM was restarted, or replaced"
        return None


@dataclass(frozen=True)
class Sight:
    """What a monitor shows of a VM at one moment; its images have the names by which QEMU knows them."""

    status: str
    disks: tuple[Disk, ...]
    jobs: tuple[Job, ...]
    graph: Graph

    @classmethod
    def from_qmp(cls, status: Any, jobs: Any, graph: Any, blocks: Any) -> Sight:
        """Read ``query-status``, ``query-block-jobs``, ``x-debug-query-block-graph`` and ``query-block``."""
        nodes = Graph.from_qmp(graph)
        return cls(
            status=status["status"],
            disks=tuple(Disk.from_qmp(entry, nodes) for entry in blocks),
            jobs=tuple(Job.from_qmp(entry) for entry in jobs),
            graph=nodes,
        )


@dataclass(frozen=True)
class Vm:
    """The VM, its disks and its block jobs; its images have the names by which this host knows them, too."""

    identity: Identity
    status: str
    disks: tuple[Disk, ...]
    jobs: tuple[Job, ...]
    graph: Graph

    def job_on(self, disk: Disk) -> Job | None:
        """The stream that writes to ``disk``, or another job that uses its top image, whoever started it.

        ``query-block-jobs`` does not tell which disk a job works on. The graph does, also when the job is pending or
        concluded.
        """
        own = {node for image in disk.chain[:1] for node in image.nodes}
        for job in self.jobs:
            nodes = self.graph.jobs.get(job.id, ())
            # A stream also holds the images that it reads from, and those may belong to several disks.
            if own.intersection(nodes[:1] if job.type == "stream" else nodes):
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
    def _files(self) -> set[tuple[str, str | None]]:
        return {(disk.key, (disk.top.file or disk.top.path) if disk.chain else None) for disk in self.disks}

    def disk(self, key: str) -> Disk | None:
        """Find a disk again by its key."""
        return next((disk for disk in self.disks if disk.key == key), None)


def read_identity(
    monitor: str, peer: Peer | None, name: Any, uuid: Any, version: Any, chardevs: Any, *, blocks: Any
) -> Identity:
    """Read who the VM is, and from ``query-chardev`` and ``query-block`` whether libvirt manages it."""
    number = version["qemu"]
    zero = "00000000-0000-0000-0000-000000000000"  # QEMU's word for "none given"
    node_names = (entry["inserted"].get("node-name", "") for entry in blocks if "inserted" in entry)
    return Identity(
        monitor=monitor,
        name=name.get("name"),
        uuid=None if uuid["UUID"] == zero else uuid["UUID"],
        qemu_version=f"{number['major']}.{number['minor']}.{number['micro']}",
        peer=peer,
        is_libvirts=any(chardev["label"] == "charmonitor" for chardev in chardevs)
        or any(re.match(r"libvirt-\d+-format$", node) for node in node_names),
    )
