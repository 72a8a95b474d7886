# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""When is an image that left a chain free? Only when it is proven that nobody on this host has it open."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Sequence

from .._model._disk import Image
from .._model._files import Traces
from .._model._vm import Vm

# File systems that other hosts may have mounted, too. Of FUSE nobody knows what is behind it.
_SHARED_FILE_SYSTEMS = frozenset(
    {"9p", "afs", "beegfs", "ceph", "cifs", "gfs2", "lustre", "nfs", "nfs4", "ocfs2", "smb3", "virtiofs"}
)


@dataclass(frozen=True)
class Verdict:
    """The verdict on one image: ``reason`` says why it is not free; ``pids`` is None where they cannot be told."""

    path: str
    pids: tuple[int, ...] | None
    reason: str | None

    @property
    def is_free(self) -> bool:
        """Whether it is proven that nobody on this host has it open."""
        return self.reason is None


def judge(image: Image, traces: Traces | None, vms: Sequence[Vm], *, is_finished: bool) -> Verdict:
    """Say whether an image may be archived or deleted, as far as this host can know.

    :param is_finished: whether the disk that the image has left is populated, safe over a crash.
    :param traces: None where the image is no file of this host, or not the one that QEMU had open.
    :param vms: the VMs that were visited, to call a process by its VM.
    """
    path = image.file or image.path
    if not is_finished:
        return Verdict(path, None, "the disk that it has left is not populated")
    if image.file is None:
        return Verdict(path, None, "it is reached over a protocol, and only its server can know who uses it")
    if traces is None:
        return Verdict(path, None, "there is no such file any more, or it is not the one that QEMU had open")
    if not traces.is_regular:
        return Verdict(path, None, "it is not a regular file, and who uses a device cannot be told")
    if traces.processes is None:
        return Verdict(path, None, "only root can see the files that all processes have open")
    pids = tuple(sorted(traces.processes))
    if pids or traces.devices:
        names = {vm.identity.pid: f"VM {vm.identity.label}" for vm in vms}
        users = [f"{names.get(pid, traces.processes[pid])} (pid {pid})" for pid in pids]
        return Verdict(path, pids, f"it is still open in {', '.join([*users, *traces.devices])}")
    if traces.file_system in _SHARED_FILE_SYSTEMS or traces.file_system.startswith("fuse"):
        return Verdict(path, pids, f"it lies on {traces.file_system}, and other hosts may use it")
    return Verdict(path, pids, None)
