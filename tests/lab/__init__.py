# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""A laboratory of real QEMUs, for tests, demonstrations and measurements.

Everything here judges by the world: images are read with qemu-img, running disks over NBD, jobs over a monitor
that the code under test does not know of, open files in /proc. Put the folder above this package on PYTHONPATH and

    from lab import Vm, images, disks, product

    with lab_folder() as folder:
        chain = images.chain(folder, layers=2)
        with Vm(folder, *disks.drive(chain.top, id="drive0", qdev="vda")) as vm:
            result = product.module("block_stream", monitors=[vm.monitor], disks=["vda"])
            vm.kill()
        assert images.content(chain.top) == chain.expected
"""

from __future__ import annotations

from . import aliases, disks, holders, host, images, peers, product, ssh, thin
from .listener import Listener
from .monitor import Monitor, MonitorError
from .nbd import NbdServer
from .process import LabError, kill, lab_folder, open_files, wait_until
from .proxy import Proxy
from .scene import Scene
from .slow import SlowLink
from .ssh import Sshd
from .task import Task
from .vm import Vm
from .web import WebServer, can_qemu_read_it

__all__ = [
    "LabError",
    "Listener",
    "Monitor",
    "MonitorError",
    "NbdServer",
    "Proxy",
    "Scene",
    "SlowLink",
    "Sshd",
    "Task",
    "Vm",
    "WebServer",
    "aliases",
    "can_qemu_read_it",
    "disks",
    "holders",
    "host",
    "images",
    "kill",
    "lab_folder",
    "open_files",
    "peers",
    "product",
    "ssh",
    "thin",
    "wait_until",
]
