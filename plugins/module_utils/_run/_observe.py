# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Look at the VMs behind monitors."""

from __future__ import annotations

import asyncio
from typing import Mapping, NamedTuple, Sequence

from .._decide._bind import bind
from .._decide._doubles import tell_apart
from .._decide._locate import bind_disks, hold_against_header, names_in_header, reported_names
from .._model._address import DomainName, read_address
from .._model._disk import Disk
from .._model._errors import Failure, HostSilent, MonitorMissing, MonitorSilent, QmpError
from .._model._files import Bound
from .._model._graph import Graph
from .._model._seams import Find, Found, Host, Link, ListDomains, OpenLink
from .._model._vm import Identity, Sight, Vm

# So many monitors are visited at a time where no stream is waited for. A visit takes milliseconds, a thread and some
# descriptors, but a silent monitor takes the whole time-out.
VISITS_AT_ONCE = 32


class Sighting(NamedTuple):
    """All that the monitors showed.

    ``skipped`` tells of VMs that are off, doubles, and who cannot be told apart; ``off`` are the sockets that nobody
    serves.
    """

    vms: tuple[Vm, ...]
    skipped: tuple[str, ...]
    failures: tuple[Failure, ...]
    off: tuple[str, ...] = ()


async def find_monitors(patterns: Sequence[str], host: Host) -> Found:
    """The monitors that are meant by addresses and globs.

    :raise WrongRequest: no monitor can be at such an address.
    """
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
    return Found(wanted, tuple(skipped), tuple(failures))


async def find_domains(patterns: Sequence[str], uri: str, list_domains: ListDomains) -> Found:
    """The guests of libvirt that are meant; where libvirt does not list them, that is one failure, of the connection.

    :raise WrongRequest: a name may mean two.
    """
    # Loaded here, and only here: whoever names monitors has no domains.
    from .._decide._domains import meant_domains

    try:
        guests = await list_domains()
    except QmpError as error:
        return Found(failures=(Failure.of(error, f"{uri}: {error}"),))
    return meant_domains(patterns, guests)


async def observe(find: Find, open_link: OpenLink, host: Host, names: Sequence[str] = ()) -> Sighting:
    """Visit every VM that is found once, and leave its monitor free again; ``names`` as in ``identify``."""
    found = await find()
    sighting = await visit_all(found.wanted, open_link, host, names)
    return sighting._replace(
        skipped=(*found.skipped, *sighting.skipped),
        failures=(*found.failures, *sighting.failures),
        off=(*found.off, *sighting.off),
    )


async def visit_all(wanted: Mapping[str, bool], open_link: OpenLink, host: Host, names: Sequence[str] = ()) -> Sighting:
    """Visit these monitors; the value says whether it was named outright, so that a VM that is off is a failure."""
    skipped: list[str] = []
    failures: list[Failure] = []
    off: list[str] = []
    turnstile = asyncio.Semaphore(VISITS_AT_ONCE)

    async def visit(address: str) -> Vm:
        async with turnstile, open_link(address) as link:
            return await identify(link, host, names)

    seen = await asyncio.gather(*(visit(address) for address in wanted), return_exceptions=True)
    vms: list[Vm] = []
    for (address, named_outright), outcome in zip(wanted.items(), seen):
        if isinstance(outcome, MonitorMissing) and not named_outright:
            skipped.append(f"{address} belongs to a VM that is off: nobody serves it")
            off.append(address)
        elif isinstance(outcome, QmpError):
            failures.append(await explain(address, outcome, address, host))
        elif isinstance(outcome, BaseException):
            failures.append(Failure.of_defect(outcome, address))
        else:
            vms.append(outcome)
    kept, notes = tell_apart(vms)
    return Sighting(kept, (*skipped, *notes), tuple(failures), tuple(off))


async def explain(subject: str, error: QmpError, address: str, host: Host) -> Failure:
    """The whole sentence for an error, with the processes at the monitor's ends where one of them is the reason."""
    has_socket = not isinstance(address, DomainName)
    words = await host.who_serves(address) if has_socket and isinstance(error, MonitorSilent) else ""
    failure = Failure.of(error, f"{subject}: {error}. {words}" if words else f"{subject}: {error}")
    return failure._replace(monitor=address)


async def identify(link: Link, host: Host, names: Sequence[str] = ()) -> Vm:
    """Read who the VM is, and look at it.

    :param names: what the user calls disks and images; some may be file names, and the VM may know them otherwise.
    """
    identity, sight = await link.identify()
    return await _locate(identity, sight, host, names)


async def look(link: Link, identity: Identity, host: Host, names: Sequence[str] = ()) -> Vm:
    """Look at the disks and jobs of a VM as they are now."""
    return await _locate(identity, await link.look(), host, names)


async def _locate(identity: Identity, sight: Sight, host: Host, names: Sequence[str]) -> Vm:
    """Bind the images to files, and hold what QEMU says of each disk against the header of its active image."""
    survey = await host.survey(identity.pid, [*reported_names(sight.disks), *names], sight.fdsets)
    disks = bind_disks(sight.disks, survey)
    return Vm(
        identity=identity,
        status=sight.status,
        disks=await _hold_against_headers(disks, identity, host, sight.graph),
        jobs=sight.jobs,
        graph=sight.graph,
        meanings={name: survey.names[name] for name in names if name in survey.names},
        serving=sight.serving,
    )


async def _hold_against_headers(
    disks: Sequence[Disk], identity: Identity, host: Host, graph: Graph
) -> tuple[Disk, ...]:
    full = [disk for disk in disks if disk.chain]
    readings = await host.headers(identity.pid, [(disk.top.bound, disk.top.format) for disk in full])
    named: list[str] = []
    for disk, reading in zip(full, readings):
        named += names_in_header(disk, reading)
    found: Mapping[str, Bound] = {}
    if named:
        found = bind([named], await host.survey(identity.pid, named, {}))
    answers = iter(readings)
    held: list[Disk] = []
    for disk in disks:
        # A drive without a medium has no header, and was not asked about.
        if disk.chain:
            disk = hold_against_header(disk, next(answers), found, graph)
        held.append(disk)
    return tuple(held)
