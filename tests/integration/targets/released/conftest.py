# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""The disk whose images are given up."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from lab import Scene, disks, images

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from lab import Vm


@pytest.fixture
def disk(folder: Path, boot: Callable[..., Vm]) -> Scene:
    """`vda` over two layers."""
    chain = images.chain(folder, layers=2)
    return Scene(boot(*disks.drive(chain.top, id="drive0", qdev="vda"), name="web01"), chain)
