# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""VMs with a monitor for events, and the source that listens to it."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from lab import Listener, Scene, Vm, disks, images

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def monitor_of(folder: Path, name: str) -> list[str]:
    """The words of QEMU's command line that give a VM one more monitor, for events."""
    return ["-qmp", f"unix:{folder / name}.events,server=on,wait=off"]


def ready(listener: Listener, scene: Scene) -> Listener:
    """The source when it hears the VM: a stream is told as found, or as started."""
    scene.vm.command("block-stream", job_id="ready", device=scene.vm.inserted("vda")["node-name"], speed=1)
    listener.wait(job="ready")
    scene.vm.command("block-job-cancel", device="ready", force=True)
    listener.wait("cancelled", job="ready")
    return listener


def stream(vm: Vm, disk: str = "vda", job: str = "j1", **options: Any) -> None:
    vm.command("block-stream", job_id=job, device=vm.inserted(disk)["node-name"], **options)


@pytest.fixture
def scene(folder: Path, boot: Callable[..., Vm]) -> Scene:
    """`vda` over two layers, in a VM that has a monitor for events."""
    chain = images.chain(folder, layers=2)
    return Scene(boot(*disks.drive(chain.top, id="drive0", qdev="vda"), *monitor_of(folder, "vm0")), chain)


@pytest.fixture
def listen(folder: Path) -> Iterator[Callable[..., Listener]]:
    """Start the source over every monitor for events in the folder, with these options; it ends with the test."""
    with ExitStack() as stack:

        def start(**options: Any) -> Listener:
            defaults = {"monitors": [f"{folder}/*.events"], "rescan": 0.2, "connect_timeout": 1}
            return stack.enter_context(Listener(**{**defaults, **options}))

        yield start
