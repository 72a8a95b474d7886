# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Tasks that run beside the test."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from lab import Task, Vm, disks, images

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def watch(folder: Path) -> Iterator[Callable[..., Task]]:
    """Start tasks that end with the test."""
    tasks: list[Task] = []

    def start(vm: Vm, **arguments: Any) -> Task:
        environ = arguments.pop("environ", {})
        options = {"monitors": [vm.monitor], "disks": ["*"], "progress": 1, **arguments}
        tasks.append(Task(folder, options, environ=environ))
        return tasks[-1]

    yield start
    for task in tasks:
        task.stop()


@pytest.fixture
def chain(folder: Path) -> images.Chain:
    return images.chain(folder, layers=2)


@pytest.fixture
def vm(chain: images.Chain, boot: Callable[..., Vm]) -> Vm:
    return boot(*disks.drive(chain.top, id="drive0", qdev="vda"), name="web01")
