# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whoever waits is killed, at many moments: the job goes on or waits in QEMU, and the next run finishes it."""

from __future__ import annotations

import random
import signal
from typing import TYPE_CHECKING

import pytest
from lab import Vm, images, product

from .conftest import Task, eventually

if TYPE_CHECKING:
    from collections.abc import Callable


def kill_in_the_middle(task: Task, vm: Vm, victim: str, cursor: int) -> None:
    """Kill once the stream has come so far."""
    eventually(f"cursor at {cursor}", lambda: next(iter(vm.jobs().values()))["offset"] >= cursor)
    task.kill_module() if victim == "module" else task.kill_controller()


def kill_at_pending(task: Task, vm: Vm, victim: str) -> None:
    """Hold the module, let QEMU copy everything, and kill when the job waits to be finalized."""
    module = eventually("module", task.module)
    task.signal(module, signal.SIGSTOP)
    vm.command("block-job-set-speed", device=next(iter(vm.jobs())), speed=0)
    vm.wait_event("BLOCK_JOB_PENDING")
    if victim == "controller":
        worker = task.worker()
        task.signal(worker, signal.SIGSTOP)
        task.signal(module, signal.SIGKILL)
        task.kill_controller()
        # Stopped, it would hold nothing but its memory; gone on, it finds that its controller is gone.
        images.os_kill = None
    else:
        task.signal(module, signal.SIGKILL)
