# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Look at the VMs behind monitors."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import (
    Any,
    Callable,
    Sequence,
    TypeVar,
)

from .._model._disk import Disk, Resolve, compare_header, is_local
from .._model._errors import MonitorMissing, MonitorSilent, MonitorUnusable, QmpError
from .._model._seams import Host, Monitor, OpenMonitor
from .._model._vm import Identity, Vm, read_identity

T = TypeVar("T")

# So many monitors are visited at a time. A visit takes milliseconds, but a silent monitor takes the whole time-out.
_VISITS_AT_ONCE = 32


@dataclass(frozen=True)
class Failure:
    """Something that could not be done: where, and the whole sentence."""

    where: str
    message: str


@dataclass(frozen=True)
class Sighting:
    """All that the monitors showed: ``skipped`` are the sockets of VMs that are off, and doubles."""

    vms: tuple[Vm, ...]
    skipped: tuple[str, ...]
    failures: tuple[Failure, ...]


async def observe(patterns: Sequence[str], open_monitor: OpenMonitor, host: Host) -> Sighting:
    """Visit every monitor once, and leave it free again."""
    skipped: list[str] = []
    wanted: dict[str, bool] = {}
    for pattern in patterns:
        found = host.expand(pattern)
        if found is not None and not found:
            skipped.append(f"{pattern} matches no socket")
        for address in [pattern] if found is None else found:
            wanted[address] = wanted.get(address, False) or found is None
    turnstile = asyncio.Semaphore(_VISITS_AT_ONCE)

    async def visit(address: str) -> Vm:
        async with turnstile, open_monitor(address) as monitor:
            return await identify(monitor, host)

    seen = await asyncio.gather(*(visit(address) for address in wanted), return_exceptions=True)
    vms: list[Vm] = []
    failures: list[Failure] = []
    for (address, named_outright), outcome in zip(wanted.items(), seen):
        if isinstance(outcome, MonitorMissing) and not named_outright:
            skipped.append(f"{address} belongs to a VM that is off: nobody serves it")
        elif isinstance(outcome, QmpError):
            failures.append(Failure(address, explain(address, outcome, address, host)))
        elif isinstance(outcome, BaseException):
            raise outcome
        elif any(outcome.identity.is_same_vm(vm.identity) for vm in vms):
            skipped.append(f"{address} is another monitor of {outcome.identity.label}")
        else:
            vms.append(outcome)
    return Sighting(tuple(vms), tuple(skipped), tuple(failures))


def explain(where: str, error: QmpError, address: str, host: Host) -> str:
    """The whole sentence for an error, with the processes at the monitor's ends where one of them is the reason."""
    words = host.who_serves(address) if isinstance(error, MonitorSilent) else ""
    return f"{where}: {error}. {words}" if words else f"{where}: {error}"


_IDENTITY = ("query-name", "query-uuid", "query-version", "query-chardev")
# The chains come last. A job that ends in between is then seen beside the chain that it left, and never the other way
# round: an old chain without its job would be streamed again.
_STATE = ("query-status", "query-block-jobs", "x-debug-query-block-graph", "query-block")


async def identify(monitor: Monitor, host: Host) -> Vm:
    """Read who the VM is, and look at it."""
    replies = await asyncio.gather(*(monitor.execute(command) for command in _IDENTITY + _STATE))
    who, state = replies[: len(_IDENTITY)], replies[len(_IDENTITY) :]
    identity = understood(lambda: read_identity(monitor.address, monitor.pid, *who, blocks=state[-1]))
    return _read(identity, state, host)


async def look(monitor: Monitor, identity: Identity, host: Host) -> Vm:
    """Look at the disks and jobs of a VM as they are now."""
    return _read(identity, await asyncio.gather(*(monitor.execute(command) for command in _STATE)), host)


def _read(identity: Identity, state: Sequence[Any], host: Host) -> Vm:
    status, jobs, graph, blocks = state
    resolve = resolver(identity, host)
    vm = understood(lambda: Vm.from_qmp(identity, status, blocks, jobs, graph, resolve=resolve))
    return replace(vm, disks=tuple(compare_header(disk, _header_of(disk, host), resolve) for disk in vm.disks))


def _header_of(disk: Disk, host: Host) -> str | None:
    is_readable = bool(disk.chain) and disk.top.format == "qcow2" and disk.top.file is not None
    return host.header_backing(disk.top.file or "") if is_readable else None


def resolver(identity: Identity, host: Host) -> Resolve:
    """File names as this VM's QEMU finds them: relative to its own working directory."""
    directory = host.working_directory(identity.pid)
    return lambda path: host.real_path(path, directory) if is_local(path) else None


def understood(read: Callable[[], T]) -> T:
    """Turn a reply that lacks what every QEMU sends into an error that says so."""
    try:
        return read()
    except (AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise MonitorUnusable(
            f"the answers lack what every QEMU since 4.0 sends ({type(error).__name__}: {error})"
        ) from error
