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
      - One of O(monitors) and O(domains) names the VMs, not both. libvirt's guests are refused here; they go by
        O(domains).
    type: list
    elements: str
    aliases: [monitor]
  domains:
    description:
      - The guests of libvirt, in the place of O(monitors). Each is a domain's name, its UUID, or a pattern that names
        fit, such as V(web*); V(*) stands for all that run. A guest needs no monitor of its own.
      - Everything else has the same meaning, results have C(domain) where they have C(monitor) otherwise, and a disk
        is also named by its target (V(vda)). libvirt itself removes the link to the old images in the end, so its XML,
        C(virsh domblklist) and C(virsh blockcopy) are right.
      - QEMU is spoken to through libvirt (C(virsh qemu-monitor-command)), from the first look on. libvirt marks the
        guest as tainted (C(custom-monitor)) for that, in its log and in C(virsh dominfo), until the guest is shut off.
        A distributor may ask to see a problem on an untainted guest.
      - A guest that is off is skipped with a warning where a pattern found it, and a failure where it is named.
      - Only one run of this collection works on a guest at a time. One that comes second waits for O(connect_timeout).
    type: list
    elements: str
    aliases: [domain]
    version_added: 1.0.0
  uri:
    description:
      - The connection to libvirt for O(domains), V(qemu:///system), V(qemu:///session) for the guests of the user that
        runs the module, or V(qemu+unix:///system?socket=/path) for a socket elsewhere.
      - It leads to guests of this very host. Another host's (V(qemu+ssh://...)) are refused, because which files are
        open and free can be seen there only; run the task there.
    type: str
    default: qemu:///system
    version_added: 1.0.0
  connect_timeout:
    description:
      - How long to wait for a monitor's greeting, in seconds, also while the queue of those who wait for it is full;
        with O(domains), for libvirt, and for another run of this collection to leave the guest.
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
      - A VM without a name is called by its monitor, as in results; no pattern fits it.
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
      - A name that fits nothing is a warning. The VM may be off, or run on another host of the play.
    type: list
    elements: str
requirements:
  - Linux, with Python 3.8 or newer
  - qemu.qmp 0.0.3 or newer for the Python that runs the module, for O(monitors); the role
    P(virtops.qmp.qemu_qmp#role) installs it
  - libvirt's own bindings (C(python3-libvirt) of the distribution) for the Python that runs the module, for
    O(domains); tested with libvirt 7.0 to 12.8; 5.10 or newer, which describes its disks to QEMU by C(-blockdev)
  - QEMU 4.0 or newer behind the monitors; tested with 5.2 to 11.1
notes:
  - O(monitors), O(domains), O(disks), O(vms) and O(exclude) take a string, too, with commas between the names; blanks
    in front of a name are dropped. An empty string in such a list is no name. Another option that takes a text is left
    out where that is empty, such as an optional question of a survey (AWX); in M(virtops.qmp.block_stream) also one
    that takes a number.
  - The module runs on the hypervisor, and needs the right to use the monitors' sockets, or libvirt's.
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
