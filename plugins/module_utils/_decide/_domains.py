# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which of libvirt's guests are meant, by names, UUIDs, and globs of names."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Sequence

from .._model._address import DomainName, may_be_pattern
from .._model._domain import Listed
from .._model._errors import WrongRequest
from .._model._seams import Found


def meant_domains(patterns: Sequence[str], guests: Sequence[Listed]) -> Found:
    """The guests that are meant. Those that are off are left out where a glob found them, and told.

    :raise WrongRequest: a name may mean two.
    """
    wanted: dict[str, bool] = {}
    skipped: list[str] = []
    off: list[str] = []
    for pattern in patterns:
        named = [guest for guest in guests if pattern == guest.name or pattern.lower() == guest.uuid]
        if len(named) > 1:
            raise WrongRequest(f"{pattern} is the name of one domain and the UUID of another. Name each by its name")
        if named or not may_be_pattern(pattern):
            wanted[DomainName(named[0].name if named else pattern)] = True
            continue
        found = [guest for guest in guests if fnmatchcase(guest.name, pattern)]
        for guest in found:
            if guest.is_active:
                wanted.setdefault(DomainName(guest.name), False)
            elif guest.name not in off:
                off.append(guest.name)
        if not found:
            skipped.append(f"{pattern} matches no domain")
    if off:
        skipped.append(f"these domains are off: {', '.join(off)}")
    return Found(wanted, tuple(skipped), off=tuple(off))
