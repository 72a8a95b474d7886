#!/usr/bin/python

# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: block_stream_info
short_description: Show disks, backing chains and streams of running VMs
version_added: 1.0.0
description:
  - Asks the QEMU behind each monitor for its disks, their backing chains and their block jobs.
  - One of O(monitors) and O(domains) is required, which name the VMs.
  - It changes nothing, and holds a monitor for some milliseconds only.
  - A job with the status V(pending) has copied everything and waits to be finished.
    Run M(virtops.qmp.block_stream) again to finish it.
  - RV(disks[].populated) tells what QEMU's chain and the header of the image say. The header is read from the file that
    QEMU has open. That QEMU has also flushed it is what M(virtops.qmp.block_stream) makes sure of, whoever streamed the
    disk. Run that before you delete an image.
extends_documentation_fragment:
  - virtops.qmp.monitor
  - virtops.qmp.monitor.info
options:
  disks:
    description:
      - The disks to show. All of them, empty and read-only ones too, when left out.
      - A disk is named by its source path, its qdev id, its device name or its node name; V(*) stands for every
        disk that is writable and has a medium. See M(virtops.qmp.block_stream) for how names are compared.
    type: list
    elements: str
    aliases: [disk]
seealso:
  - module: virtops.qmp.block_stream
  - name: Troubleshooting
    link: https://example.org/virtops/qmp/blob/main/docs/docsite/rst/guide_troubleshooting.rst
    description: Each error, its cause, its remedy.
author:
  - The virtops.qmp authors (@virtops)
"""

EXAMPLES = r"""
- name: Show every disk of every VM on the hypervisor
  virtops.qmp.block_stream_info:
    monitors: /run/vms/*.qmp
  become: true
  register: found

- name: Show the system disks of the web servers
  virtops.qmp.block_stream_info:
    monitors: /run/vms/*.qmp
    vms: web*
    disks: vda
  become: true

- name: Name the disks that still need a golden image
  ansible.builtin.debug:
    msg: "{{ found.disks | selectattr('populated', 'eq', false) | map(attribute='path') }}"

- name: Say of which disks it cannot be told, and why
  ansible.builtin.debug:
    msg: "{{ found.disks | selectattr('populated', 'none') | map(attribute='reason') }}"

- name: Show the disks of all guests of libvirt that run
  virtops.qmp.block_stream_info:
    domains: "*"
  become: true

- name: How far is the stream of one disk?
  virtops.qmp.block_stream_info:
    monitor: /run/vms/web01.qmp
    disk: vda
  become: true
"""

RETURN = r"""
vms:
  description: The VMs that answered, without those that O(vms) and O(exclude) leave out.
  returned: unless an option was refused
  type: list
  elements: dict
  sample:
    - monitor: /run/vms/web01.qmp
      domain: null
      name: web01
      uuid: 1f3a0c1e-5d0c-4c59-9d4e-6c1c6f0e7a51
      status: running
      qemu_version: 7.2.22
      pid: 812
      started: 31622
      uid: 64055
  contains:
    monitor:
      description: The monitor through which the VM was found, in its plain form.
      type: str
    domain:
      description: The name of the domain, where the VM was reached by O(domains); null otherwise.
      type: str
    name:
      description: The VM's name (C(-name)); null if it has none.
      type: str
    uuid:
      description: The VM's UUID; null if it has none.
      type: str
    status:
      description: QEMU's run state, such as V(running) or V(paused).
      type: str
    qemu_version:
      description: The version of the QEMU that runs, which may be older than the one installed.
      type: str
    pid:
      description:
        - The process that serves the monitor, also where another one made its socket.
        - Null over TCP, and for a process of another PID namespace.
      type: int
    started:
      description:
        - When this process started, in clock ticks since its host did. With C(pid) it names the process for ever, for a
          pid is given again when its process is gone.
        - Null where C(pid) is.
      type: int
    uid:
      description: The user that runs this process; null over TCP.
      type: int
disks:
  description: The disks, VM by VM.
  returned: unless an option was refused
  type: list
  elements: dict
  sample:
    - label: vda
      key: /machine/peripheral/vda/virtio-backend
      vm: web01
      monitor: /run/vms/web01.qmp
      domain: null
      names: [vda, /machine/peripheral/vda/virtio-backend, drive0, "#block146", /vms/web01.qcow2]
      device: drive0
      qdev: /machine/peripheral/vda/virtio-backend
      node_name: "#block146"
      path: /vms/web01.qcow2
      filename: /vms/web01.qcow2
      format: qcow2
      virtual_size: 32212254720
      read_only: false
      populated: false
      reason: it still needs /golden/debian-12.qcow2
      snapshots: 0
      same_file: true
      stale_header: null
      chain:
        - node_name: "#block146"
          path: /vms/web01.qcow2
          filename: /vms/web01.qcow2
          format: qcow2
          allocated: 3338670080
        - node_name: "#block377"
          path: /golden/debian-12.qcow2
          filename: /golden/debian-12.qcow2
          format: qcow2
          allocated: 13207024640
      space: {needed: 13207024640, free: 214748364800}
      read_ahead:
        possible: false
        reason: all images that are copied are local files, from which a stream alone is as fast
      job:
        id: populate-vda
        type: stream
        status: running
        cur: 13207863296
        end: 32212254720
        percent: 41.0
        speed: 0
        paused: false
        io_status: ok
        error: null
    - label: vdb
      key: /machine/peripheral/vdb/virtio-backend
      vm: web01
      monitor: /run/vms/web01.qmp
      domain: null
      names: [vdb, /machine/peripheral/vdb/virtio-backend, drive1, "#block519", /vms/web01-data.qcow2]
      device: drive1
      qdev: /machine/peripheral/vdb/virtio-backend
      node_name: "#block519"
      path: /vms/web01-data.qcow2
      filename: web01-data.qcow2
      format: qcow2
      virtual_size: 32212254720
      read_only: false
      populated: true
      reason: null
      snapshots: 0
      same_file: true
      stale_header: null
      chain:
        - node_name: "#block519"
          path: /vms/web01-data.qcow2
          filename: web01-data.qcow2
          format: qcow2
          allocated: 16545694720
      space: {needed: 0, free: 214748364800}
      read_ahead: {possible: false, reason: no image below the disk is to be copied}
      job: null
  contains:
    label:
      description:
        - What the disk is called in messages and progress lines, the shortest name that a person gave it. That is its
          qdev id, else its device name, else its node name, else its path.
      type: str
    key:
      description:
        - Identifies the disk, together with C(monitor) or C(domain), for as long as the VM runs; snapshots and streams
          do not change it.
      type: str
    vm:
      description: The VM's name, or its monitor if it has none.
      type: str
    monitor:
      description: The monitor through which the VM was found; null for one of O(domains).
      type: str
    domain:
      description: The name of the domain, where the VM was reached by O(domains); null otherwise.
      type: str
    names:
      description: Every name that the disk answers to, the absolute path of its active image among them.
      type: list
      elements: str
    device:
      description: The device name (C(-drive id=)); empty for C(-blockdev).
      type: str
    qdev:
      description: The path or id of the guest's device; empty if no device uses the drive.
      type: str
    node_name:
      description: The node that the guest's device stands on; null without a medium.
      type: str
    path:
      description:
        - The active image by its absolute path without links, where it is a file of this host, else as QEMU names
          it; null without a medium.
      type: str
    filename:
      description: The active image as QEMU names it; null without a medium.
      type: str
    format:
      description: The format of the active image.
      type: str
    virtual_size:
      description: What the guest sees, in bytes.
      type: int
    read_only:
      description: Whether the guest may only read.
      type: bool
    populated:
      description:
        - Whether the disk needs no other image. V(true) if chain and header say so; V(false) if either says otherwise,
          or if the VM's next start would not find the file that QEMU writes to.
        - Null where it cannot be told, because the header cannot be read, or the file that QEMU has open is not known
          (without root, over TCP, in a format that is not known here).
      type: bool
    reason:
      description:
        - Why the disk is not populated, or why that cannot be told; null where RV(disks[].populated) is V(true).
        - It also says why M(virtops.qmp.block_stream) would refuse a disk that has a backing image.
      type: str
    snapshots:
      description:
        - How many internal snapshots the active image has; null if that cannot be read.
        - They may need the old images for as long as they exist, so none of those is free.
      type: int
    same_file:
      description:
        - Whether C(path) leads to the very file that QEMU has open. V(false) after it was deleted or replaced by
          another one, or where QEMU sees other files than this host does; null where it cannot be told.
      type: bool
    stale_header:
      description:
        - The backing image that the header of the active image still names, though QEMU does not use it; null where
          all is well, or where the header cannot be read.
        - The VM's next start needs that image. M(virtops.qmp.block_stream) says what to do.
      type: str
    chain:
      description: The images, the active one first.
      type: list
      elements: dict
      contains:
        node_name:
          description: The node of the image.
          type: str
        path:
          description: The image by its absolute path without links, if it is a file of this host, else by QEMU's name.
          type: str
        filename:
          description: The image as QEMU names it.
          type: str
        format:
          description: The format of the image.
          type: str
        allocated:
          description: The bytes that the image occupies; null where QEMU does not know them (NBD).
          type: int
    space:
      description: The space that populating needs, and what there is.
      type: dict
      contains:
        needed:
          description:
            - How much populating may still write, at most, in bytes; compressed and finely scattered images may take
              more than that, which QEMU does not tell.
            - A block device, and an image that does not tell (NBD), counts with its virtual size.
          type: int
        free:
          description:
            - What the file system of the active image has left, or that of its external data file, in bytes.
            - Null where that is no regular file of this host.
          type: int
    read_ahead:
      description:
        - Whether a stream of the whole chain can be read ahead, with the option
          O(virtops.qmp.block_stream#module:read_ahead) of M(virtops.qmp.block_stream).
      type: dict
      contains:
        possible:
          description: Whether it can.
          type: bool
        reason:
          description: Why not; null if it can.
          type: str
    job:
      description:
        - The block job that works on the disk; null if there is none, or if the VM can no longer be asked.
        - C(cur) of C(end) is the job's position in the disk, not an amount copied.
      type: dict
      contains:
        id:
          description: The name of the job.
          type: str
        type:
          description: The type of the job, such as V(stream).
          type: str
        status:
          description: QEMU's status of the job, such as V(running), or V(pending) for one that has copied everything.
          type: str
        cur:
          description: The position that the job is at, in bytes.
          type: int
        end:
          description: The position that it ends at, in bytes.
          type: int
        percent:
          description: C(cur) in percent of C(end).
          type: float
        speed:
          description: The most that the job may copy, in bytes per second; V(0) for no limit.
          type: int
        paused:
          description: Whether the job is held.
          type: bool
        io_status:
          description: V(ok), or V(nospace) or V(failed) if an error holds the job.
          type: str
        error:
          description: Why the job failed, in QEMU's words; null if it did not.
          type: str
"""

from ansible.module_utils.basic import AnsibleModule

from ..module_utils._module import run
from ..module_utils._module_info import inform
from ..module_utils._options import INFO_OPTIONS


def main() -> None:
    run(AnsibleModule(argument_spec=INFO_OPTIONS, supports_check_mode=True), inform)


if __name__ == "__main__":
    main()
