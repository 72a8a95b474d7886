# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the documentation of both modules shares."""

from __future__ import annotations


class ModuleDocFragment:
    """The options of a monitor, and what both modules do alike."""

    DOCUMENTATION = r"""
options:
  monitors:
    description:
      - The QMP monitors of the VMs, as seen from the hypervisor. Each is the path of a UNIX socket, a glob such as
        V(/run/vms/*.qmp), or V(host:port).
      - A socket that a glob found and nobody serves belongs to a VM that is off, it is skipped with a warning. One
        that is named outright is a failure.
    type: list
    elements: str
    required: true
    aliases: [monitor]
  connect_timeout:
    description:
      - How long to wait for a monitor's greeting, in seconds.
      - A monitor serves one client at a time, and is silent to all others until that one leaves. Raise it where
        another program visits the same monitor often.
    type: float
    default: 10
requirements:
  - Linux, with qemu.qmp 0.0.3 or newer for the Python that runs the module
  - QEMU 4.0 or newer behind the monitors; tested with 5.2 to 11.1
notes:
  - The module runs on the hypervisor, and needs the right to use the monitors' sockets.
  - A VM is trusted with its own disks and nothing else. What its QEMU could not have answered is an error of this VM,
    and the others are done. In all texts of the result, characters that would act on a terminal are shown escaped,
    such as C(\x1b), and a text of more than 8192 characters is cut.
attributes:
  check_mode:
    description: Can run in check mode, and tell what would be done without doing it.
    support: full
  diff_mode:
    description: Tells the backing chains before and after.
    support: full
  platform:
    description: Where the module can run.
    support: full
    platforms: linux
"""

    INFO = r"""
attributes:
  check_mode:
    details: This module changes nothing.
  diff_mode:
    support: none
    details: This module changes nothing.
"""
