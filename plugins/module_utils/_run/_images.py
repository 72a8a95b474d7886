# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What image_info does: look who names the images, ask who has them open, and which VMs these are."""

from __future__ import annotations

from typing import Sequence

from .._decide._images import ImagesInformed
from .._decide._verdict import NO_PLANS
from .._model._files import KnownFile
from .._model._images import Asked
from .._model._seams import AskPlans, Find, Host, OpenLink
from ._observe import observe
from ._release import ask_who_has_open


async def inform_of_images(
    paths: Sequence[str],
    folders: Sequence[str],
    find: Find,
    open_link: OpenLink,
    host: Host,
    ask_plans: AskPlans | None = None,
) -> ImagesInformed:
    """Show images; the monitors only serve to call processes by their VMs.

    :param ask_plans: who tells what libvirt would start, or revert to; None where libvirt has no part in it.
    :raise WrongRequest: no monitor can be at such an address.
    """
    sighting = await observe(find, open_link, host)
    warnings = [*sighting.skipped]
    for failure in sighting.failures:
        warnings.append(f"processes may not be called by their VM: {failure.message}")
    # Where nothing is asked about, there is nothing to search for.
    search = await host.search([KnownFile(path, None) for path in paths], folders if paths else ())
    asked: dict[KnownFile, Asked] = {}
    for file, each in search.asked.items():
        # From now on that very file is meant.
        asked[KnownFile(file.path, None if each.inode is None else each.inode.id)] = each
    leases, users = await ask_who_has_open(asked, host)
    plans = NO_PLANS if ask_plans is None else await ask_plans()
    return ImagesInformed(search._replace(asked=asked), leases, users, sighting.vms, warnings, plans)
