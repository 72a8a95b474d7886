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
from ansible_collections.virtops.qmp.plugins.module_utils._reach import _libvirt, _peer, _process
from ansible_collections.virtops.qmp.tests.unit import clock
from ansible_collections.virtops.qmp.tests.unit.fake_libvirt import FakeLibvirt, Guest, Processes
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


@pytest.fixture
def processes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Processes:
    """A /proc of our own."""
    for module in (_peer, _process):
        monkeypatch.setattr(module, "_PROCESSES", str(folder))
    return Processes(folder)


@pytest.fixture
def guest(processes: Processes) -> Guest:
    """A guest of libvirt, `web01`, with `vda` over two images."""
    own = Guest("web01", "1f3a0c1e-5d0c-4c59-9d4e-6c1c6f0e7a51")
    own.add("vda", "top.qcow2", "mid.qcow2", "base.qcow2")
    processes.add_guest(own)
    return own


@pytest.fixture
def libvirt(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeLibvirt]:
    """The daemon with that guest, and the bindings to it."""
    own = FakeLibvirt(guest)
    for name in ("libvirt", "libvirt_qemu"):
        monkeypatch.setattr(_libvirt, name, own, raising=False)
    monkeypatch.setattr(_libvirt, "LIBVIRT_IMPORT_ERROR", None)
    # A thread that hangs here hangs for ever.
    monkeypatch.setattr(clock, "_REAL_SECONDS", 0.2)
    yield own
    own.end()


# How long an example takes to make says something about the machine, and nothing about the code.
settings.register_profile("any machine", suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")
