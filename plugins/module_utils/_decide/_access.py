# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether the rights to an image may be changed, to what, and over which steps."""

from __future__ import annotations

from .._model._access import AskedImage, FoundImage, Rights, WantedRights
from .._model._errors import ImageInUse, ImageRefused, UseUnknown
from .._model._files import Granted, Lease, Users
from ._verdict import why_not_proven, why_open

# Set-user-ID and set-group-ID: the kernel takes them away from a file that gets another owner.
_SET_ID = 0o6000


def check_image(asked: AskedImage, found: FoundImage) -> None:
    """Check that a file is the image that is meant.

    :raise ImageRefused: it is not.
    """
    if asked.id is not None and asked.id != found.id:
        raise ImageRefused("another file has its name now")
    if found.kind != "a regular file":
        raise ImageRefused(f"it is no regular file, but {found.kind}")
    if found.links > 1:  # another name may lie outside the folders that were named
        raise ImageRefused(
            f"it has {found.links} names (hard links), and where the others lie is not known. Remove them, or set its "
            "rights by hand"
        )
    if found.links == 0:
        raise ImageRefused("somebody has just removed it")


def check_lease(lease: Lease) -> None:
    """Check that a lease, unless it is refused, proves that nobody has the image open.

    :raise UseUnknown: it does not.
    """
    if lease.granted is Granted.UNKNOWN:
        raise UseUnknown(f"whether it is open cannot be told: {lease.why}")
    reason = why_not_proven(lease)
    if reason is not None:
        raise UseUnknown(reason)


def refusal(lease: Lease, users: Users) -> ImageRefused:
    """What it means that a lease is refused, with those who were found to have the image open."""
    reason = why_open(lease, users)
    return UseUnknown(f"{why_not_proven(lease)}") if reason is None else ImageInUse(reason)


def rights_after(before: Rights, wanted: WantedRights) -> Rights:
    """What the rights shall be.

    :raise ImageRefused: the type of its SELinux context is to be set, and it has no context.
    """
    after = before._replace(
        owner=before.owner if wanted.owner is None else wanted.owner,
        group=before.group if wanted.group is None else wanted.group,
        context=_context_after(before.context, wanted.setype),
    )
    if wanted.mode is not None:
        return after._replace(mode=wanted.mode(before.mode))
    if (after.owner, after.group) != (before.owner, before.group):
        return after._replace(mode=before.mode & ~_SET_ID)
    return after


def _context_after(context: str | None, setype: str | None) -> str | None:
    """Put a type into a context, which is ``user:role:type``, mostly with ``:level`` behind it."""
    if setype is None or context is None:
        return context
    words = context.split(":", 3)
    if len(words) < 3:
        raise ImageRefused("it has no SELinux context, so that its type cannot be set")
    return ":".join([*words[:2], setype, *words[3:]])


def steps_between(before: Rights, after: Rights) -> tuple[Rights, ...]:
    """The rights over which one comes to the other, both included: no step lets anybody in whom neither lets in.

    First what the new permissions do not have is taken, from the old owner; only the new one gets what he lacks.
    """
    if before == after:
        return (before,)
    narrow = before._replace(mode=before.mode & after.mode & ~_SET_ID)
    owned = narrow._replace(owner=after.owner, group=after.group)
    labelled = owned._replace(context=after.context)
    return tuple(dict.fromkeys((before, narrow, owned, labelled, after)))
