# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How much room the file systems have that disks write to."""

from __future__ import annotations

import asyncio
from typing import Iterable

from .._model._disk import Disk
from .._model._files import FreeSpace, FreeSpaces
from .._model._seams import Host
from .._model._vm import Vm

# So many file systems are asked at a time: each that hangs keeps a thread.
_SPACES_AT_ONCE = 32


async def free_spaces(vms_and_disks: Iterable[tuple[Vm, Disk]], host: Host) -> FreeSpaces:
    """The file systems that the active images write to, by VM and disk; one that hangs is waited for beside others."""
    turnstile = asyncio.Semaphore(_SPACES_AT_ONCE)

    async def ask(vm: Vm, disk: Disk) -> FreeSpace | None:
        async with turnstile:
            return await host.free_space(vm.identity.pid, disk.top.written)

    full = [(vm, disk) for vm, disk in vms_and_disks if disk.chain]
    answers = await asyncio.gather(*(ask(vm, disk) for vm, disk in full))
    return {(vm.identity.monitor, disk.key): answer for (vm, disk), answer in zip(full, answers)}
