# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short name, for the path of a UNIX socket holds 107 bytes."""
    path = Path(tempfile.mkdtemp(prefix="qmp-")).resolve()
    yield path
    shutil.rmtree(path)


@contextlib.contextmanager
def _without_rights() -> Iterator[None]:
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


@pytest.fixture
def without_rights() -> Callable[[], contextlib.AbstractContextManager[None]]:
    """Root may do everything, so be nobody for a while."""
    return _without_rights


# How long an example takes to make says something about the machine, and nothing about the code.
settings.register_profile("any machine", suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")
