# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Does a disk need another image? Yes, no, or it cannot be told; and why."""

from __future__ import annotations

from .._model._disk import Disk
from .._model._graph import Graph


def why_not_populated(disk: Disk) -> tuple[bool | None, str | None]:
    """Whether a disk needs no other image, None for unknown; and, unless it needs none, the reason."""
    needed = _why_needed(disk)
    if needed is not None:
        return False, needed
    # What is known to be missing outweighs a doubt: only where nothing is does the doubt leave it open.
    if disk.doubt is not None:
        return None, disk.doubt
    return True, None


def loss_of(disk: Disk, graph: Graph) -> str | None:
    """What an earlier task was told of the storage of the active image, and has left a mark of; None without one."""
    if disk.mark_of_loss not in graph.below:
        return None
    return (
        f"an earlier task was told that what was written to {disk.top.path} did not reach the storage (an Input/output "
        "error, no space left, or the like), and the VM was not restarted since"
    )


def _why_needed(disk: Disk) -> str | None:
    if not disk.chain:
        return "there is no medium"
    if len(disk.chain) > 1:
        return f"it still needs {disk.chain[1].path}"
    if disk.hidden_backing is not None:
        return f"the image of node {disk.hidden_backing}, below a {disk.top.format} node, has a backing image"
    if disk.stale_header is not None:
        return f"the header of {disk.top.path} still names {disk.stale_header}, though QEMU does not use it any more"
    if disk.stale_view is not None:
        return f"QEMU does not need {disk.stale_view} any more, but libvirt still takes it for the backing image"
    return disk.lost
