#!/usr/bin/python

# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: image_info
short_description: Tell who needs an image, those whose VMs are off too
version_added: 1.0.0
description:
  - Answers on any later day whether an old image may be deleted, whether the VMs run or not. It asks the kernel of this
    host whether anybody has the image open, and reads the headers of all images in the folders that you name.
  - An image may be deleted if RV(images[].free) is V(true) and RV(images[].needed_by) is an empty list. Anything else,
    null too, means that somebody needs it or that this is not known.
  - It changes nothing. What a header names is not opened, and no name in a header leads to a connection. Of each file
    in O(search) only the first 64 KiB are read.
options:
  paths:
    description:
      - The images to tell about, by absolute paths. They are taken literally, V($) and V(~) have no meaning, and a path
        must not have V(..) in it.
      - A link is not followed, its image is unknown. Name the file that it leads to.
      - With an empty list, such as the C(populate_result.free) of a run that made nothing free, nothing is told.
    type: list
    elements: str
    required: true
    aliases: [path]
  search:
    description:
      - The folders in which, and below which, the headers of all images are read; absolute paths without links and
        without V(..). Name all folders in which the images of VMs lie, those of VMs that are off, templates and backups
        too.
      - Without it RV(images[].needed_by) is null, because an overlay that nobody has open is only found by its header.
      - Links in these folders are followed only where they lead to a block device, as LVM's names of its volumes do, or
        to what lies in one of these folders. A link to anything else, and a folder that is not there, is in RV(unread).
      - At most 200000 files are read, 32 folders deep, in at most 300 seconds.
    type: list
    elements: path
  monitors:
    description:
      - The QMP monitors of the VMs on this host, to call a process by its VM. Each is written as in
        M(virtops.qmp.block_stream_info), a glob such as V(/run/vms/*.qmp) too.
      - Nothing else depends on it. A monitor that does not answer is a warning. Without monitors the module needs no
        C(qemu.qmp).
    type: list
    elements: str
    aliases: [monitor]
  domains:
    description:
      - The guests of libvirt, to call a process by its VM, in the place of O(monitors). Each is written as in
        M(virtops.qmp.block_stream_info), and libvirt marks it as tainted, as described there.
    type: list
    elements: str
    aliases: [domain]
    version_added: 1.0.0
  uri:
    description: The connection to libvirt for O(domains), as in M(virtops.qmp.block_stream_info).
    type: str
    default: qemu:///system
    version_added: 1.0.0
  connect_timeout:
    description:
      - How long to wait for a monitor's greeting, in seconds.
      - Raise it where another program visits the same monitors often.
    type: float
    default: 10
  monitor_owner:
    description:
      - The user, by name or uid, that must run the QEMU behind every monitor. A monitor of any other user is not asked.
      - Set it where a glob finds sockets in a folder that others may write to.
    type: str
requirements:
  - Linux, with Python 3.8 or newer
  - with O(monitors), qemu.qmp 0.0.3 or newer for the Python that runs the module
  - with O(domains), libvirt's bindings (C(python3-libvirt)) for it
notes:
  - Run it as root, so that the kernel can be asked, headers be read, and the users of an image be found.
  - RV(images[].needed_by) has the images that name one directly. An image in the middle of a chain names the one
    below it, whether it is needed itself or not. Delete a chain from the top, and ask again for each image.
  - Not found are an image that a VM's configuration names and no header does, one that an NBD server or the like
    would serve, and what only other hosts can see. A name is taken as this host finds it. A VM in a container may find
    another file by it; where this host finds none, an image whose file has the same name counts as needed.
  - The first bytes of a raw image are its guest's, who can write a header there. QEMU does not follow it, but the
    image that it names is called needed.
  - What is read was written by guests. In all texts of the result, characters that would act on a terminal are shown
    escaped, such as C(\x1b), and a text of more than 8192 characters is cut. At most 1000 entries of each list are
    told.
attributes:
  check_mode:
    description: Can run in check mode, and tell what would be done without doing it.
    support: full
    details: This module changes nothing.
  diff_mode:
    description: Tells what would be changed.
    support: none
    details: This module changes nothing.
  platform:
    description: Where the module can run.
    support: full
    platforms: linux
seealso:
  - module: virtops.qmp.block_stream
  - module: virtops.qmp.image_access
  - name: When may I delete the golden image?
    link: https://example.org/virtops/qmp/blob/main/docs/docsite/rst/guide_delete.rst
    description: What is proven of an old image, and what is not.
author:
  - The virtops.qmp authors (@virtops)
"""

EXAMPLES = r"""
- name: Who needs the golden image?
  virtops.qmp.image_info:
    path: /golden/debian-12.qcow2
    search: /vms
    monitors: /run/vms/*.qmp
  become: true
  register: golden

- name: Delete it, if nobody does
  ansible.builtin.file:
    path: "{{ item.path }}"
    state: absent
  become: true
  loop: "{{ golden.images | selectattr('free', 'eq', true) | selectattr('needed_by', 'eq', []) }}"
  loop_control:
    label: "{{ item.path }}"

- name: Who has two images open? No header is read
  virtops.qmp.image_info:
    paths:
      - /golden/debian-11.qcow2
      - /golden/debian-12.qcow2
  become: true
"""

RETURN = r"""
images:
  description: The images, in the order of O(paths), each once.
  returned: unless an option was refused
  type: list
  elements: dict
  sample:
    - path: /golden/debian-11.qcow2
      free: true
      reason: null
      users: []
      needed_by: []
      same_as: []
      device: 64768
      inode: 131090
    - path: /golden/debian-12.qcow2
      free: false
      reason: it is still open in VM web02 (pid 813)
      users:
        - {pid: 813, process: qemu-system-x86, vm: web02}
      needed_by: [/vms/db01.qcow2, /vms/web02.qcow2]
      same_as: []
      device: 64768
      inode: 131091
  contains:
    path:
      description: The image as it was named in O(paths).
      type: str
    free:
      description:
        - V(true), the kernel says that nobody on this host has the image open; V(false), somebody has. With O(domains),
          it is V(false) also where the definition of a domain, running or off, names the image as a disk, or a snapshot
          of libvirt's needs it.
        - Null where that cannot be told, such as on a file system that other hosts may use.
        - It says nothing of other VMs that are off. See C(needed_by).
      type: bool
    reason:
      description: Why C(free) is V(false) or null, in words; null where it is V(true).
      type: str
    users:
      description:
        - Who has it open.
        - Null where somebody may have it open, and nobody was found.
      type: list
      elements: dict
      contains:
        pid:
          description: The process; null for a loop device or swap.
          type: int
        process:
          description: What it is called.
          type: str
        vm:
          description: The name of its VM; null where none of O(monitors) showed one.
          type: str
    needed_by:
      description:
        - The images below O(search) whose headers name this one, as backing image or as external data file.
        - An empty list where none does, which is known because every file there was read and understood.
        - Null where none was found to do so, but not all could be read, see RV(unread), or nothing was searched.
      type: list
      elements: str
    same_as:
      description: Other names of the same file (hard links) that were found below O(search).
      type: list
      elements: str
    device:
      description: The device number of the file, for M(virtops.qmp.image_access); null where there is no such file.
      type: int
    inode:
      description: The inode number of the file, for M(virtops.qmp.image_access); null where there is no such file.
      type: int
unread:
  description:
    - The files and folders below O(search) of which it is not known which images they need.
    - Where it is empty, all of them were read and understood.
  returned: unless an option was refused
  type: list
  elements: dict
  sample:
    - path: /vms/old.vmdk
      reason: it is a vmdk image, whose names are not read here. Convert it to qcow2
  contains:
    path:
      description: The file or folder.
      type: str
    reason:
      description: Why it is not known, and where there is one, the remedy.
      type: str
unread_count:
  description: How many there are of them; more than RV(unread) has where that was cut.
  returned: unless an option was refused
  type: int
  sample: 1
errors:
  description: What went wrong; empty on success.
  returned: always
  type: list
  elements: dict
  sample:
    - kind: WrongRequest
      msg: "paths has 'golden.qcow2', which is not absolute. Begin it with /"
      vm: null
      disk: null
      monitor: null
      domain: null
      key: null
  contains:
    kind:
      description: V(WrongRequest), an option is invalid.
      type: str
    msg:
      description: The failure in a sentence.
      type: str
    vm:
      description: Always null; the errors of M(virtops.qmp.block_stream) have it.
      type: str
    disk:
      description: Always null; the errors of M(virtops.qmp.block_stream) have it.
      type: str
    monitor:
      description: Always null; the errors of M(virtops.qmp.block_stream) have it.
      type: str
    domain:
      description: Always null; the errors of M(virtops.qmp.block_stream) have it.
      type: str
    key:
      description: Always null; the errors of M(virtops.qmp.block_stream) have it.
      type: str
"""

from ansible.module_utils.basic import AnsibleModule

from ..module_utils._module import run
from ..module_utils._module_images import inform_of_images
from ..module_utils._options import IMAGES_OPTIONS


def main() -> None:
    module = AnsibleModule(argument_spec=IMAGES_OPTIONS, supports_check_mode=True)
    run(module, inform_of_images, needs_vms=False)


if __name__ == "__main__":
    main()
