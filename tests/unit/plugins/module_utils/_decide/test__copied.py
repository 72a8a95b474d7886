# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Mapping

import pytest
from ansible_collections.virtops.qmp.plugins.module_utils._decide._copied import left_below
from ansible_collections.virtops.qmp.plugins.module_utils._model._map import MapTotals

CHAIN = {(0, True): 1, (0, False): 2, (1, True): 4, (1, False): 8, (2, True): 16, (2, False): 32, (3, True): 64}


@pytest.mark.parametrize(
    ("bytes_at", "opaque", "base_depth", "left"),
    [
        pytest.param({}, None, None, 0, id="an empty disk"),
        pytest.param({(0, True): 10, (0, False): 5}, None, None, 0, id="all in the top"),
        pytest.param({(0, True): 10, (1, False): 5}, None, None, 0, id="zeros below"),
        pytest.param({(0, True): 10, (1, True): 1}, None, None, 1, id="one byte below"),
        pytest.param(CHAIN, None, None, 4 + 16 + 64, id="data at every depth"),
        pytest.param(CHAIN, None, 3, 4 + 16, id="what the base has stays"),
        pytest.param(CHAIN, None, 2, 4, id="what is below the base stays, too"),
        pytest.param(CHAIN, None, 1, 0, id="the base is next to the top"),
        pytest.param(CHAIN, 2, None, 4 + 16 + 32 + 64, id="zeros of images that nobody looked into count"),
        pytest.param(CHAIN, 2, 3, 4 + 16 + 32, id="the same, above a base"),
        pytest.param(CHAIN, 2, 2, 4, id="the base itself needs no look"),
        pytest.param({(0, True): 10, (1, False): 5}, 1, None, 5, id="only the top was looked into"),
        pytest.param({(0, True): 10, (0, False): 5}, 1, None, 0, id="the top has it all, whatever is below"),
    ],
)
def test_what_is_left_below(
    bytes_at: Mapping[tuple[int, bool], int], opaque: int | None, base_depth: int | None, left: int
) -> None:
    """Zero is told only where nothing that is to go is needed, as far as the map can tell."""
    assert left_below(MapTotals(bytes_at, opaque), base_depth) == left
