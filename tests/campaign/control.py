# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""The judge is judged: a stream without the flush that the product sends must be reported as lost."""

from __future__ import annotations

from lab import Vm, disks, images, lab_folder

from .model import Model


def unflushed_stream() -> tuple[tuple[int, int], list[str]]:
    """A plain stream that finalizes itself, and a kill the moment QEMU says that it completed.

    :return: QEMU's version, and what the judge found lost: before QEMU 8.0 this must not be nothing.
    """
    with lab_folder() as folder:
        chain = images.chain(folder)
        with Vm(folder, *disks.drive(chain.top, id="drive0", qdev="vda")) as vm:
            version = vm.version
            vm.command("block-stream", job_id="plain", device="drive0")
            vm.wait_event("BLOCK_JOB_COMPLETED", device="plain")
            vm.kill()
        chain.take_away()
        return version, Model(chain.expected).losses(images.content(chain.top), crashed=True)
