# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.virtops.qmp.plugins.module_utils._model._errors import MonitorUnusable
from ansible_collections.virtops.qmp.plugins.module_utils._model._serving import (
    Export,
    Serving,
    export_id,
    read_exports,
    read_iothreads,
)

OURS, THEIRS = Export(export_id(3), "nbd"), Export("backup", "nbd")


def test_exports() -> None:
    """QEMU's answer is read, and what is ours is known by its name."""
    reply = [
        {"id": "populate-ahead-3", "type": "nbd", "node-name": "top", "shutting-down": False},
        {"id": "backup", "type": "nbd", "node-name": "top", "shutting-down": True},
    ]
    exports = read_exports(reply)
    assert exports == (OURS, THEIRS)
    assert Serving(exports=exports).ours == (OURS.id,)


@pytest.mark.parametrize(("reply", "has"), [([], False), ([{"id": "io0", "thread-id": 7}], True)])
def test_iothreads(reply: Any, has: bool) -> None:
    """Any iothread counts, whatever device it serves."""
    assert read_iothreads(reply) is has


@pytest.mark.parametrize("reply", [None, {}, [1], [{"id": 1, "type": "nbd"}], [{"id": "a"}], [{}] * 1025])
def test_what_is_no_answer_is_none(reply: Any) -> None:
    """A peer that answers as no QEMU does is told so."""
    with pytest.raises(MonitorUnusable):
        read_exports(reply)
