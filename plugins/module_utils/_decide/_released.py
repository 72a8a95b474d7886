# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The old images of a whole task, each once: what all of its disks, VMs and looks together say of it.

It works on elements of ``released`` as they are in the result, because the action merges results in the same way.
"""

from __future__ import annotations

from typing import Any, Iterable, Mapping, Sequence

from .._model._errors import MonitorLost, MonitorMissing, MonitorSilent, MonitorUnusable

_NO_ANSWER = {MonitorLost.__name__, MonitorMissing.__name__, MonitorSilent.__name__, MonitorUnusable.__name__}

# What outweighs what where several disks gave up one image: only what all call free is free.
_LEAST_FREE_FIRST = (False, None, True)

Released = Mapping[str, Any]


def unanswered(errors: Iterable[Mapping[str, Any]]) -> list[str]:
    """The monitors and domains of the VMs that did not answer, or no longer, from the elements of ``errors``."""
    monitors = set()
    for error in errors:
        if error["kind"] in _NO_ANSWER:
            monitors.add(error["monitor"] or error["domain"] or "libvirt itself")
    return sorted(monitors)


def weigh(released: Sequence[Released], chains: Mapping[str, str], silent: Sequence[str]) -> list[Released]:
    """Take back what a verdict on an image says as long as the VMs say otherwise, or cannot be asked.

    :param chains: which disk has an image in its chain, in words, by the path of the image.
    :param silent: the monitors and domains of the VMs of which nobody knows what they need.
    """
    return [_weigh(image, chains.get(image["path"]), silent) for image in released]


def _weigh(image: Released, user: str | None, silent: Sequence[str]) -> Released:
    # Its own verdict names the reason better than anything that could be said here.
    if image["free"] is False:
        return image
    if user is not None:
        return {**image, "free": False, "reason": f"it is in the chain of {user}"}
    if image["free"] is None or not silent:
        return image
    return {**image, "free": None, "reason": f"not every VM that may need it has answered: {', '.join(silent)}"}


def each_once(released: Iterable[Released]) -> list[Released]:
    """Each image once, in the order in which they came, with the least free of the verdicts on it."""
    found: dict[str, Released] = {}
    for image in released:
        known = found.get(image["path"], image)
        found[image["path"]] = min(known, image, key=_rank)
    return list(found.values())


def _rank(image: Released) -> int:
    return _LEAST_FREE_FIRST.index(image["free"])
