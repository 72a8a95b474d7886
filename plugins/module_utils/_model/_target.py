# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A disk that was selected, and how much of its chain is to go."""

from __future__ import annotations

from typing import NamedTuple

from ._disk import Disk
from ._job import Job
from ._vm import Vm


class Target(NamedTuple):
    """A selected disk of a VM; ``base_index`` is the place of the image that stays as the backing image.

    ``is_named``: the user named it outright, and not only with all others. ``ahead`` is how many requests to read ahead
    an earlier look of the same task has found worth it; None where that is not known.
    """

    vm: Vm
    disk: Disk
    base_index: int
    is_named: bool = True
    ahead: int | None = None

    @property
    def key(self) -> tuple[str, str]:
        """What names the disk among those of all VMs, for ever."""
        return self.vm.identity.monitor, self.disk.key

    @property
    def label(self) -> str:
        """The beginning of every message about it."""
        return f"{self.vm.identity.label}: disk {self.disk.label}"

    @property
    def job(self) -> Job | None:
        """The job that works on the disk."""
        return self.vm.job_on(self.disk)


def base_index_of(vm: Vm, disk: Disk, base: str | None) -> int:
    """Where the chain shall end: the place of the image that stays as the backing image.

    :return: the length of the chain without a base, or where the base is not in it.
    """
    place = None if base is None else disk.find_base(base, vm.meaning(base))
    return len(disk.chain) if place is None else place
