# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short name, for the path of a UNIX socket holds 107 bytes."""
    path = Path(tempfile.mkdtemp(prefix="qmp-")).resolve()
    yield path
    shutil.rmtree(path)


# How long an example takes to make says something about the machine, and nothing about the code.
settings.register_profile("any machine", suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")
