# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A virtual machine as its monitor shows it at one moment."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Mapping, Sequence

from ._disk import Disk
from ._files import Named
from ._graph import Graph
from ._job import Job


@dataclass(frozen=True)
class Identity:
    """What does not change while the VM runs. ``pid`` is None where the monitor is reached over TCP."""

    monitor: str
    name: str | None
    uuid: str | None
    qemu_version: str
    pid: int | None
    is_libvirts: bool

    @property
    def version(self) -> tuple[int, int]:
        """The major and minor version of QEMU."""
        major, minor, _micro = self.qemu_version.split(".")
        return int(major), int(minor)

    @property
    def label(self) -> str:
        """The VM in messages: its name, else its monitor."""
        return self.name or self.monitor

    def is_same_vm(self, other: Identity) -> bool:
        """Whether both were seen at one VM.

        The pid alone is not enough: it is that of whoever made the socket, which may be the launcher of many VMs.
        """
        return self.pid is not None and (self.pid, self.name, self.uuid) == (other.pid, other.name, other.uuid)


@dataclass(frozen=True)
class Sight:
    """What a monitor shows of a VM at one moment; its images have the names by which QEMU knows them.

    ``fdsets`` are the file descriptors of each set that was passed to QEMU, by its id, where an image uses one.
    """

    status: str
    disks: tuple[Disk, ...]
    jobs: tuple[Job, ...]
    graph: Graph
    fdsets: Mapping[int, Sequence[int]] = field(default_factory=dict)

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

    @property
    def uses_fdsets(self) -> bool:
        """Whether an image was given to QEMU as file descriptors, rather than by a name."""
        return any(path.startswith("/dev/fdset/") for disk in self.disks for path in disk.chain_paths)


@dataclass(frozen=True)
class Vm:
    """The VM, its disks and its block jobs; its images are bound to files.

    ``meanings``: what is behind the names that the user gave, as this VM's QEMU and as this host finds them.
    """

    identity: Identity
    status: str
    disks: tuple[Disk, ...]
    jobs: tuple[Job, ...]
    graph: Graph
    meanings: Mapping[str, Named] = field(default_factory=dict)

    def meaning(self, name: str) -> Named:
        """What is behind a name that the user gave; nothing, where it is no file name."""
        return self.meanings.get(name, Named())

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

    def disk(self, key: str) -> Disk | None:
        """Find a disk again by its key."""
        return next((disk for disk in self.disks if disk.key == key), None)


def read_fdsets(reply: Any) -> dict[int, list[int]]:
    """Read ``query-fdsets``: the numbers of the descriptors of each set, in QEMU's process."""
    return {fdset["fdset-id"]: [each["fd"] for each in fdset["fds"]] for fdset in reply}


def read_identity(
    monitor: str, pid: int | None, name: Any, uuid: Any, version: Any, chardevs: Any, *, blocks: Any
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
        pid=pid,
        is_libvirts=any(chardev["label"] == "charmonitor" for chardev in chardevs)
        or any(re.match(r"libvirt-\d+-format$", node) for node in node_names),
    )
