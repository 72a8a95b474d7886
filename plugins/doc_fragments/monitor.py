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
        V(/run/vms/*.qmp), V(@name) for an abstract socket, or V(host:port), with brackets for IPv6, V([::1]:4444).
      - What stands behind QEMU's option C(-qmp) is taken as it is, C(unix:/run/vms/web01.qmp,server=on,wait=off) or
        C(tcp:127.0.0.1:4444,server=on,wait=off). A path behind C(unix:) is no glob, and its commas are doubled, as
        they are for QEMU.
      - Where there is a file that is called exactly as a glob is written, such as V(/run/vms/web[0].qmp), that file is
        meant.
      - Results tell the plain form, V(/run/vms/web01.qmp), V(@name) or V(127.0.0.1:4444), of whatever was given.
      - A socket that a glob found and nobody serves belongs to a VM that is off, it is skipped with a warning. One
        that is named outright is a failure.
    type: list
    elements: str
    required: true
    aliases: [monitor]
  connect_timeout:
    description:
      - How long to wait for a monitor's greeting, in seconds, also while the queue of those who wait for it is full.
      - A monitor serves one client at a time, and is silent to all others until that one leaves. Raise it where
        another program visits the same monitor often. Tasks of this collection let each other in within a second.
    type: float
    default: 10
  monitor_owner:
    description:
      - The user, by name or uid, that must run the QEMU behind every monitor. A socket that any other user made, but
        root, is not spoken to; a monitor that any other user serves is left before anything is asked of it.
      - Set it where a glob finds sockets in a folder that others may write to. Over TCP nobody can tell who is behind
        a monitor, so that all those are refused.
    type: str
  vms:
    description:
      - Only the disks of these VMs. Each is the name of a VM (QEMU's C(-name)), its UUID, or a pattern that one of them
        fits, such as V(web*); V(*), V(?) and V([...]) work as in the shell, and upper and lower case differ.
      - All monitors are visited all the same. Leave it out, or empty, for the disks of all VMs.
      - A name that fits no VM that answered is a warning. The VM may be off, or run on another host of the play.
    type: list
    elements: str
    aliases: [vm]
  exclude:
    description:
      - The disks and VMs that are left out. A disk is left out if one of its RV(disks[].names) is one of these or fits
        one of these patterns, such as V(vdb), V(/vms/web01.qcow2) or V(/scratch/*); a VM, with all its disks, if its
        name or its UUID does.
      - Patterns are those of O(vms). A path may also be relative or lead over links.
      - A name that fits nothing is a warning.
    type: list
    elements: str
requirements:
  - Linux, with qemu.qmp 0.0.3 or newer for the Python that runs the module
  - QEMU 4.0 or newer behind the monitors; tested with 5.2 to 11.1
notes:
  - An empty string in a list of O(monitors), O(disks), O(vms) or O(exclude) is as if it were left out.
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
