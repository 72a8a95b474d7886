# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Look at the VMs behind monitors."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Sequence

from .._decide._doubles import tell_apart
from .._model._address import read_address
from .._model._disk import Disk, Resolve, compare_header, is_local
from .._model._errors import Failure, HostSilent, MonitorMissing, MonitorSilent, QmpError
from .._model._seams import Host, Link, OpenLink
from .._model._vm import Identity, Sight, Vm

# So many monitors are visited at a time. A visit takes milliseconds, but a silent monitor takes the whole time-out.
_VISITS_AT_ONCE = 32


@dataclass(frozen=True)
class Sighting:
    """All that the monitors showed: ``skipped`` tells of VMs that are off, doubles, and who cannot be told apart."""

    vms: tuple[Vm, ...]
    skipped: tuple[str, ...]
    failures: tuple[Failure, ...]


async def observe(patterns: Sequence[str], open_link: OpenLink, host: Host) -> Sighting:
    """Visit every monitor once, and leave it free again."""
    skipped: list[str] = []
    wanted: dict[str, bool] = {}
    failures: list[Failure] = []
    for place in [read_address(pattern) for pattern in patterns]:
        try:
            found = await host.expand(str(place)) if place.may_be_glob else None
        except HostSilent as error:
            failures.append(Failure.of(error, f"{place}: {error}"))
            continue
        if found is not None and not found:
            skipped.append(f"{place} matches no socket")
        for address in [str(place)] if found is None else found:
            wanted[address] = wanted.get(address, False) or found is None
    turnstile = asyncio.Semaphore(_VISITS_AT_ONCE)

    async def visit(address: str) -> Vm:
        async with turnstile, open_link(address) as link:
            return await identify(link, host)

    seen = await asyncio.gather(*(visit(address) for address in wanted), return_exceptions=True)
    vms: list[Vm] = []
    for (address, named_outright), outcome in zip(wanted.items(), seen):
        if isinstance(outcome, MonitorMissing) and not named_outright:
            skipped.append(f"{address} belongs to a VM that is off: nobody serves it")
        elif isinstance(outcome, QmpError):
            failures.append(await explain(address, outcome, address, host))
        elif isinstance(outcome, BaseException):
            raise outcome
        else:
            vms.append(outcome)
    kept, notes = tell_apart(vms)
    return Sighting(kept, (*skipped, *notes), tuple(failures))


async def explain(subject: str, error: QmpError, address: str, host: Host) -> Failure:
    """The whole sentence for an error, with the processes at the monitor's ends where one of them is the reason."""
    words = await host.who_serves(address) if isinstance(error, MonitorSilent) else ""
    return Failure.of(error, f"{subject}: {error}. {words}" if words else f"{subject}: {error}")


async def identify(link: Link, host: Host) -> Vm:
    """Read who the VM is, and look at it."""
    identity, sight = await link.identify()
    return _locate(identity, sight, host)


async def look(link: Link, identity: Identity, host: Host) -> Vm:
    """Look at the disks and jobs of a VM as they are now."""
    return _locate(identity, await link.look(), host)


def _locate(identity: Identity, sight: Sight, host: Host) -> Vm:
    """Find the files of the images, and hold each disk's chain against what its top's header says."""
    resolve = resolver(identity, host)
    disks = [disk.located(resolve) for disk in sight.disks]
    return Vm(
        identity=identity,
        status=sight.status,
        disks=tuple(compare_header(disk, _header_of(disk, host), resolve) for disk in disks),
        jobs=sight.jobs,
        graph=sight.graph,
    )


def _header_of(disk: Disk, host: Host) -> str | None:
    is_readable = bool(disk.chain) and disk.top.format == "qcow2" and disk.top.file is not None
    return host.header_backing(disk.top.file or "") if is_readable else None


def resolver(identity: Identity, host: Host) -> Resolve:
    """File names as this VM's QEMU finds them: relative to its own working directory."""
    directory = host.working_directory(identity.pid)
    return lambda path: host.real_path(path, directory) if is_local(path) else None
