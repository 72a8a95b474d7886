# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What image_info says of images: who has them open, and who names them."""

from __future__ import annotations

from typing import Any, Mapping, NamedTuple, Sequence

from .._model._domain import Plans
from .._model._files import Granted, KnownFile, Lease, Users
from .._model._images import Asked, Search, Unread
from .._model._vm import Vm
from ._names import needed_by
from ._verdict import NO_PLANS, labels_of, proves_no_use, weigh_plans, why_open, why_unknown


class ImagesInformed(NamedTuple):
    """What was found of images; ``warnings`` are of monitors that could not be asked."""

    search: Search
    leases: Mapping[KnownFile, Lease]
    users: Mapping[KnownFile, Users]
    vms: Sequence[Vm]
    warnings: Sequence[str]
    plans: Plans = NO_PLANS

    def to_result(self) -> dict[str, Any]:
        """The result of the module, with ``warnings`` and ``errors``."""
        images: list[dict[str, Any]] = []
        for file, asked in self.search.asked.items():
            images.append(self._image(file, asked))
        return {
            "changed": False,
            "images": images,
            "unread": list(map(_unread_to_result, self.search.unread)),
            "unread_count": self.search.unread_count,
            "warnings": list(self.warnings),
            "errors": [],
        }

    def _image(self, file: KnownFile, asked: Asked) -> dict[str, Any]:
        lease, users, labels = self.leases[file], self.users.get(file), labels_of(self.vms)
        free, reason = is_free(asked, lease, users, labels)
        free, reason = weigh_plans(free, reason, {file.path}, file.id, self.plans)
        return {
            "path": file.path,
            "free": free,
            "reason": reason,
            "users": _users_to_result(lease, users, labels),
            "needed_by": needed_by(asked, self.search),
            "same_as": list(asked.same_as),
            "device": None if file.id is None else file.id.device,
            "inode": None if file.id is None else file.id.inode,
        }


def is_free(
    asked: Asked, lease: Lease, users: Users | None, labels: Mapping[int, str]
) -> tuple[bool | None, str | None]:
    """Whether nobody on this host has an image open, None for unknown, and why it is not so, or unknown."""
    if asked.is_link:
        return None, "it is a link. Name the file that it leads to"
    against = why_open(lease, users, labels)
    if against is not None:
        return False, against
    if asked.inode is None and lease.granted is Granted.OTHER:
        return None, "it could not be seen which file this is"
    unknown = why_unknown(lease)
    if unknown is not None:
        return None, unknown
    return True, None


def _users_to_result(lease: Lease, users: Users | None, labels: Mapping[int, str]) -> list[dict[str, Any]] | None:
    """Who has it open; None where somebody may have, and nobody was found."""
    if users is None or not users.are_known:
        return [] if proves_no_use(lease) else None
    found: list[dict[str, Any]] = []
    for pid, process in sorted(users.processes.items()):
        found.append({"pid": pid, "process": process, "vm": labels.get(pid)})
    for name in users.kernel:
        found.append({"pid": None, "process": name, "vm": None})
    return found


def _unread_to_result(unread: Unread) -> dict[str, Any]:
    return {"path": unread.path, "reason": unread.why}
