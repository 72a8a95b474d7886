#!/usr/bin/python

# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: image_access
short_description: Take the rights to an old image away, if nobody has it open
version_added: 1.0.0
description:
  - Sets owner, group, permissions and SELinux type of an image that nobody on this host has open, so that no VM can
    open it any more.
  - It changes the very file that was judged, or nothing. Between the judgement and this task the name may lead to
    another file, because who owns a folder can put a link or another file there. So no link is followed, neither in the
    name nor in a folder on the way; O(device) and O(inode) are compared; and the rights are set on the open file.
  - While it does so, the kernel keeps everybody else from opening the file (a write lease, C(fcntl) with
    C(F_SETLEASE)). Where the kernel refuses that because somebody has the file open, or where it cannot be asked, the
    module fails. So it does where somebody comes to open the file meanwhile.
  - A failure leaves the rights as they were. At no moment is somebody let in whom neither the old nor the new rights
    let in. A file whose rights are already as they shall be is not opened, and not changed.
options:
  path:
    description:
      - The absolute path of the image, as C(released) of M(virtops.qmp.block_stream) has it.
      - It is taken literally, unlike that of M(ansible.builtin.file); V($) and V(~) have no meaning. It must not have
        V(..) in it.
    type: str
    required: true
  below:
    description:
      - The folders in which the rights of images may be changed, or in folders below them; absolute paths without links
        and without V(..).
      - Name the folders of your golden images. A VM says by which path it reads an image, so this is what keeps it from
        leading a task to another file. Folders that do not exist on a host do no harm.
    type: list
    elements: path
    required: true
  state:
    description:
      - V(revoked), the rights are set to what the other options say, under the conditions above.
    type: str
    choices: [revoked]
    default: revoked
  owner:
    description:
      - The user who shall own the file, by name or number. When left out, the owner stays.
      - Set it to keep out a QEMU that runs as the owner of its images, who could give the permissions back to itself.
      - A new owner or group takes the set-user-ID and set-group-ID bits away, unless O(mode) has them.
    type: str
  group:
    description:
      - The group that shall own the file, by name or number. When left out, the group stays.
      - Set it where QEMU reads its images as a member of a group.
    type: str
  mode:
    description:
      - The permissions, as M(ansible.builtin.file) takes them. That is an octal number in quotes, such as V('0400'), or
        symbolic, such as V(u=r,go=). When left out, they stay.
      - Quote it. YAML reads the number V(400) without quotes and zero as decimal, which is V(0620).
      - With no bits for the group, an access control list (C(setfacl)) has no effect but for the owner's entry and that
        of all others. The list itself stays.
    type: raw
  setype:
    description:
      - The type of the file's SELinux context, such as V(container_file_t). When left out, it stays, and so do user,
        role and level in any case.
      - Set it to keep out QEMUs that SELinux confines. Where SELinux is off on the host, it has no effect.
    type: str
  device:
    description:
      - The device number of the file that was judged, as C(released) of M(virtops.qmp.block_stream) has it.
      - Give it with O(inode) whenever some time, or somebody else's word, lies between the judgement and this task.
        Leave both out to mean the file that has the name now.
    type: int
  inode:
    description:
      - The inode number of the file that was judged, as C(released) of M(virtops.qmp.block_stream) has it.
      - Give it with O(device). Some file systems give the number of a removed file to the next one that is made.
    type: int
requirements:
  - Linux, with Python 3.8 or newer
notes:
  - Run it as root. The owner of a file may ask for a lease, too, and change its permissions, but not give it away.
  - Who has the file open already keeps it open whatever its rights are; that is why the module fails then. A process
    that runs as root opens the file all the same.
  - A file with several hard links is refused, because its other names may lie outside O(below). A file on a file system
    that other hosts may use, and on an overlay, is refused, too, because only this host's kernel is asked.
  - To open a file, the kernel checks its rights, then waits for the lease. Who has passed the check is waited for, for
    10 ms; a scanner (fanotify) may hold an opener up for longer between the two.
attributes:
  check_mode:
    description: Can run in check mode, and tell what would be done without doing it.
    support: full
    details: It asks for the lease, so that it fails where the task would fail.
  diff_mode:
    description: Tells the rights before and after.
    support: full
  platform:
    description: Where the module can run.
    support: full
    platforms: linux
seealso:
  - module: virtops.qmp.block_stream
  - module: virtops.qmp.image_info
  - module: ansible.builtin.file
  - name: When may I delete the golden image?
    link: https://example.org/virtops/qmp/blob/main/docs/docsite/rst/guide_delete.rst
    description: What is proven of an old image, and what is not.
author:
  - The virtops.qmp authors (@virtops)
"""

EXAMPLES = r"""
- name: Close an old image to all but root
  virtops.qmp.image_access:
    path: /golden/debian-12.qcow2
    below: /golden
    owner: root
    group: root
    mode: "0400"
  become: true

- name: Take it from the group and from all others only
  virtops.qmp.image_access:
    path: /golden/debian-12.qcow2
    below: [/golden, /srv/images]
    mode: go=
  become: true

- name: Populate every disk
  virtops.qmp.block_stream:
    monitors: /run/vms/*.qmp
    disks: "*"
  become: true
  register: populated

- name: Close the images that this has made free
  virtops.qmp.image_access:
    path: "{{ item.path }}"
    device: "{{ item.device }}"
    inode: "{{ item.inode }}"
    below: /golden
    owner: root
    group: root
    mode: "0400"
  become: true
  loop: "{{ populated.released | selectattr('free', 'eq', true) }}"
  loop_control:
    label: "{{ item.path }}"
"""

RETURN = r"""
device:
  description: The device number of the file.
  returned: success
  type: int
  sample: 64768
inode:
  description: The inode number of the file.
  returned: success
  type: int
  sample: 131090
before:
  description: The rights that the file had.
  returned: success
  type: dict
  sample: {uid: 64055, gid: 108, mode: "0644", secontext: "system_u:object_r:virt_content_t:s0"}
  contains:
    uid:
      description: The number of the user who owns the file.
      type: int
    gid:
      description: The number of the group that owns the file.
      type: int
    mode:
      description: The permissions, in octal.
      type: str
    secontext:
      description: The SELinux context; null where SELinux is off, or the file has none.
      type: str
after:
  description: The rights that it has now; in check mode, that it would have.
  returned: success
  type: dict
  sample: {uid: 0, gid: 0, mode: "0400", secontext: "system_u:object_r:virt_content_t:s0"}
  contains:
    uid:
      description: The number of the user who owns the file.
      type: int
    gid:
      description: The number of the group that owns the file.
      type: int
    mode:
      description: The permissions, in octal.
      type: str
    secontext:
      description: The SELinux context; null where SELinux is off, or the file has none.
      type: str
errors:
  description: What went wrong; empty on success.
  returned: always
  type: list
  elements: dict
  sample:
    - kind: ImageInUse
      msg: "/golden/debian-12.qcow2: its rights stay as they are: it is still open in qemu-system-x86 (pid 813)"
      vm: null
      disk: null
      monitor: null
      key: null
  contains:
    kind:
      description:
        - V(WrongRequest), an option is invalid. V(ImageInUse), somebody has the file open, or opens it now.
          V(UseUnknown), that cannot be told. V(ImageRefused), it is not the file that is meant, or none whose rights
          may be changed. V(RightsNotSet), the kernel or the file system refused.
      type: str
    msg:
      description: The failure in a sentence, which begins with the path.
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
    key:
      description: Always null; the errors of M(virtops.qmp.block_stream) have it.
      type: str
"""

from ansible.module_utils.basic import AnsibleModule

from ..module_utils._module_access import run
from ..module_utils._options import ACCESS_OPTIONS


def main() -> None:
    run(
        AnsibleModule(
            argument_spec=ACCESS_OPTIONS,
            required_one_of=[("owner", "group", "mode", "setype")],
            required_together=[("device", "inode")],
            supports_check_mode=True,
        )
    )


if __name__ == "__main__":
    main()
