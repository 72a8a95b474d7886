# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Take the rights to an image away: find, check, hold, change, look again."""

from __future__ import annotations

from typing import Sequence

from .._decide._access import check_image, check_lease, refusal, rights_after, steps_between
from .._model._access import AskedImage, HeldImage, OpenImage, OpenImages, Revoked, Rights, WantedRights
from .._model._errors import ImageInUse, RightsNotSet
from .._model._files import Granted

# Who asks the kernel the same question at the same moment looks like somebody who opens the file.
_TRIES = 3


def revoke(asked: AskedImage, wanted: WantedRights, open_image: OpenImages, *, is_check: bool) -> Revoked:
    """Set the rights of an image that nobody has open; after a failure they are what they were.

    :raise ImageRefused: it is not the image that is meant, it is open, or that cannot be told.
    :raise RightsNotSet: the kernel, or the file system, refuses.
    """
    with open_image(asked) as image:
        found = image.look()
        check_image(asked, found)
        if rights_after(found.rights, wanted) == found.rights:
            return Revoked(asked.path, found.id, found.rights, found.rights)
        for _again in range(_TRIES):
            revoked = _try_to_revoke(asked, wanted, image, is_check=is_check)
            if revoked is not None:
                return revoked
    raise ImageInUse("somebody opens it at this moment, again and again")


def _try_to_revoke(asked: AskedImage, wanted: WantedRights, image: OpenImage, *, is_check: bool) -> Revoked | None:
    """The same once; None where somebody came to open it meanwhile."""
    with image.hold() as held:
        lease = held.lease
        if lease.granted is not Granted.NO:
            check_lease(lease)
            found = image.look()  # once more, now that nobody has it open
            check_image(asked, found)
            steps = steps_between(found.rights, rights_after(found.rights, wanted))
            if not is_check and not _change(image, held, steps):
                return None
            return Revoked(asked.path, found.id, steps[0], steps[-1])
    raise refusal(lease, image.find_users())


def _change(image: OpenImage, held: HeldImage, steps: Sequence[Rights]) -> bool:
    """Go over these steps; False, and all as it was, where somebody has come to open the file."""
    for place in range(1, len(steps)):
        try:
            held.set_rights(steps[place - 1], steps[place])
        except OSError as error:
            _go_back(held, steps[:place])
            raise RightsNotSet(f"its rights cannot be set: {error.strerror}. They are as they were") from error
    kept = image.look().rights
    if kept != steps[-1]:
        _go_back(held, steps)
        raise RightsNotSet("its file system did not keep the rights that were set. They were set back")
    if held.is_awaited():
        _go_back(held, steps)
        return False
    return True


def _go_back(held: HeldImage, steps: Sequence[Rights]) -> None:
    """Undo these steps, the last one first."""
    for place in range(len(steps) - 1, 0, -1):
        try:
            held.set_rights(steps[place], steps[place - 1])
        except OSError as error:
            now = ", ".join(f"{name} {value}" for name, value in steps[place].to_result().items() if value is not None)
            raise RightsNotSet(f"its rights cannot be set, nor set back: {error.strerror}. Now it has {now}") from error
