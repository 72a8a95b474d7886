# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What block_stream_info does: look, and tell."""

from __future__ import annotations

from .._decide._report_info import Informed
from .._decide._select import Selected, select
from .._model._errors import Failure, WrongRequest
from .._model._request import Selection
from .._model._seams import Find, Host, OpenLink
from ._observe import observe
from ._space import free_spaces


async def inform(find: Find, selection: Selection, open_link: OpenLink, host: Host) -> Informed:
    """Show the VMs behind monitors and their disks, those that are selected."""
    sighting = await observe(find, open_link, host, selection.names(None))
    failures, selected = sighting.failures, Selected(sighting.vms, (), ())
    if sighting.vms or not failures:
        try:
            selected = select(sighting.vms, selection, None)
        except WrongRequest as error:
            failures = (*failures, *Failure.each_of(error))
    disks = tuple((target.vm, target.disk) for target in selected.targets)
    return Informed(
        vms=selected.vms,
        disks=disks,
        skipped=(*sighting.skipped, *selected.warnings),
        failures=failures,
        free_spaces=await free_spaces(disks, host),
        remote=await host.remote_devices(),
    )
