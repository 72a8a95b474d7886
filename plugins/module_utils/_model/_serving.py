# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a QEMU serves to others, and what of it reading ahead depends on."""

from __future__ import annotations

from typing import Any, NamedTuple

from ._reader import EXPORTS, IOTHREADS, items_of

# As with jobs, only a convention: whoever calls an export so has it taken for one of ours.
_OUR_PREFIX = "populate-ahead"

# The node that keeps an old QEMU from migrating while it is told to read ahead. QEMU names it to who tries.
LOCK = "populate-ahead-no-migration"


class Export(NamedTuple):
    """One entry of ``query-block-exports``; ``type`` is ``nbd``, ``vhost-user-blk``..."""

    id: str
    type: str

    @property
    def is_ours(self) -> bool:
        """Whether it bears a name that ``export_id`` makes: this call, or one that was killed, has made it."""
        return self.id.startswith(_OUR_PREFIX)


class Serving(NamedTuple):
    """The exports of a VM's QEMU, and whether it has threads of its own for the I/O of devices."""

    has_iothreads: bool = False
    exports: tuple[Export, ...] = ()

    @property
    def ours(self) -> tuple[str, ...]:
        """The exports that reading ahead has made."""
        return tuple(export.id for export in self.exports if export.is_ours)

    @property
    def has_nbd(self) -> bool:
        """Whether anybody serves an image over NBD."""
        return any(export.type == "nbd" for export in self.exports)

    @property
    def has_foreign_server(self) -> bool:
        """Whether somebody else serves images over NBD. QEMU has one such server at most."""
        return any(export.type == "nbd" and not export.is_ours for export in self.exports)


def export_id(number: int) -> str:
    """The name of the so-many-th export of ours."""
    return f"{_OUR_PREFIX}-{number}"


def read_iothreads(reply: Any) -> bool:
    """Read ``query-iothreads``: whether there are any."""
    return bool(items_of(reply, "query-iothreads", IOTHREADS))


def read_exports(reply: Any) -> tuple[Export, ...]:
    """Read ``query-block-exports``."""
    exports: list[Export] = []
    for entry in items_of(reply, "query-block-exports", EXPORTS):
        exports.append(Export(entry.text("id"), entry.text("type")))
    return tuple(exports)
