# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What block_stream_info gives back to Ansible."""

from __future__ import annotations

from typing import Any, Collection, NamedTuple

from .._model._disk import Disk
from .._model._errors import Failure
from .._model._files import FreeSpaces
from .._model._serving import Serving
from .._model._vm import Vm
from ._ahead import why_not_read_ahead
from ._failures import failure_to_result
from ._report import disk_to_result, vm_to_result


class Informed(NamedTuple):
    """What block_stream_info found. ``skipped`` are sockets of VMs that are off, and doubles, in words.

    ``remote`` are the devices (``st_dev``) that are file systems of other hosts.
    """

    vms: tuple[Vm, ...]
    disks: tuple[tuple[Vm, Disk], ...]
    skipped: tuple[str, ...]
    failures: tuple[Failure, ...]
    free_spaces: FreeSpaces
    remote: Collection[int] = ()

    def to_result(self) -> dict[str, Any]:
        """The result of the module, with ``warnings`` and ``errors``."""
        return {
            "changed": False,
            "vms": list(map(vm_to_result, self.vms)),
            "disks": [self._disk_to_result(vm, disk) for vm, disk in self.disks],
            "warnings": list(self.skipped),
            "errors": list(map(failure_to_result, self.failures)),
        }

    def _disk_to_result(self, vm: Vm, disk: Disk) -> dict[str, Any]:
        serving = vm.serving or Serving()
        reason = why_not_read_ahead(vm.identity, serving, disk, len(disk.chain), self.remote)
        read_ahead = {"possible": reason is None, "reason": reason}
        return {**disk_to_result(vm, disk, self.free_spaces), "read_ahead": read_ahead}
