# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.virtops.qmp.plugins.module_utils._model._errors import MonitorUnusable
from ansible_collections.virtops.qmp.plugins.module_utils._model._latency import (
    GuestDevice,
    Histogram,
    Served,
    read_guest_devices,
)

STATS = {
    "rd_operations": 7,
    "rd_total_time_ns": 700,
    "wr_operations": 2,
    "wr_total_time_ns": 90,
    "flush_operations": 1,
    "flush_total_time_ns": 5,
    "rd_latency_histogram": {"boundaries": [10, 100], "bins": [1, 2, 4]},
}


def test_the_devices_of_a_guest() -> None:
    """Each device tells of its reads, writes and flushes; a node that no device uses is none of the guest's."""
    entries = [{"qdev": "vda", "stats": STATS}, {"node-name": "alone", "stats": {}}, {"qdev": "", "stats": {}}]
    served = {
        "read": Served(7, 700, Histogram((10, 100), (1, 2, 4))),
        "write": Served(2, 90),
        "flush": Served(1, 5),
    }
    assert read_guest_devices(entries) == (GuestDevice("vda", served),)


@pytest.mark.parametrize(
    "members",
    [
        pytest.param({"rd_operations": -1}, id="a count below 0"),
        pytest.param({"wr_total_time_ns": "1"}, id="a text for a time"),
        pytest.param({"rd_latency_histogram": {"boundaries": [1], "bins": [1, "2"]}}, id="a text in a bin"),
        pytest.param({"rd_latency_histogram": {"boundaries": 1, "bins": []}}, id="no list"),
        pytest.param({"rd_latency_histogram": {"boundaries": [1] * 2000, "bins": []}}, id="no end of it"),
    ],
)
def test_what_no_qemu_sends(members: dict[str, Any]) -> None:
    """A guest that owns its QEMU may send what it likes, and that is told."""
    with pytest.raises(MonitorUnusable, match="query-blockstats brings what no QEMU"):
        read_guest_devices([{"qdev": "vda", "stats": {**STATS, **members}}])
