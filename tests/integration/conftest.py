# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Fixtures of all integration targets.

ansible-test copies a target to a temporary folder below the checkout, and this file with it (`needs/file/` in its
aliases); the laboratory is found by going up from wherever this file is.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

LAB = next(
    parent / "tests" for parent in Path(__file__).resolve().parents if (parent / "tests" / "lab" / "vm.py").is_file()
)
sys.path.insert(0, str(LAB))

from lab import Scene, Vm, disks, images, lab_folder  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder for the images and sockets of one test, with a short name."""
    with lab_folder() as path:
        yield path


@pytest.fixture
def boot(folder: Path) -> Iterator[Callable[..., Vm]]:
    """Start VMs that end with the test: `boot(*words, name=..., ...)`."""
    with ExitStack() as stack:

        def start(*words: str, **options: Any) -> Vm:
            return stack.enter_context(Vm(folder, *words, **options))

        yield start


@pytest.fixture
def disk(folder: Path, boot: Callable[..., Vm]) -> Scene:
    """`vda` over two layers."""
    chain = images.chain(folder, layers=2)
    return Scene(boot(*disks.drive(chain.top, id="drive0", qdev="vda")), chain)
