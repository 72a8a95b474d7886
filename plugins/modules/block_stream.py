#!/usr/bin/python

# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: block_stream
short_description: Give the disks of running VMs their own data, so that the images below them are no longer needed
version_added: 0.1.0
description:
  - Populates thin overlays from their backing chains with QEMU's C(block-stream) job, while the guests work.
  - V(populated) is only said when the chain says so, the header of the image says so where it can be read, and QEMU
    has flushed both. QEMU's own "completed" is not that, a VM that is killed seconds after it can read zeros.
  - The task can be run again at any time. It joins a stream that runs, whoever started it, finishes one that waits,
    resumes one that an error stopped, and changes nothing where all is done.
  - One call serves a disk, a VM or a whole hypervisor. What fails for one disk stops no other; the task then fails
    once, with all of it. A wrong name or option starts nothing at all.
  - While QEMU flushes, the guest stands still. So what is copied is written out beside QEMU all the while, with
    C(sync --data) on the active image, if that is a file of the hypervisor and coreutils is installed there.
  - A stream is not finished while the file system of the active image is full, because QEMU does not tell if a flush
    fails. It waits at V(pending), and the next run finishes it.
  - A job whose task went away, or that was started with O(wait=false), stops at the status V(pending) when
    everything is copied. There it is safe against any crash, and the next run of the same task finishes it.
  - To start and forget, use Ansible's own C(async) with C(poll=0), the module then waits on the hypervisor.
extends_documentation_fragment:
  - virtops.qmp.monitor
options:
  disks:
    description:
      - The disks to work on, on every VM that has them.
      - A disk is named by its source path, that is the file name of its active image; by its qdev id, such as
        V(vda) for C(/machine/peripheral/vda/virtio-backend); by its device name (C(-drive id=)); or by its node
        name.
      - Paths are compared as absolute paths without links; relative ones start from the working directory of the
        VM's QEMU. Names with a protocol (V(nbd+unix://...)) are compared as QEMU reports them.
      - V(*) stands for every disk that is writable and has a medium. Disks that need no other image are reported as
        they are. One that cannot be populated, such as a disk of a VM that waits for an incoming migration, is left
        out with a warning; when it is named outright, or when there is no other disk, it is refused.
      - A name that fits no disk of any VM, or two disks of one VM, is an error that lists the disks with all their
        names. A name that fits only disks that O(vms) and O(exclude) leave out is a warning, and if they leave no VM at
        all, there is nothing to do and names are not looked at.
    type: list
    elements: str
    required: true
    aliases: [disk]
  state:
    description:
      - V(populated), nothing below the disk is needed any more, or nothing below it down to O(base).
      - V(paused), a running stream is held where it is. V(populated) goes on with it.
      - V(aborted), no stream runs. What was copied is kept, and a later stream passes over it.
    type: str
    choices: [populated, paused, aborted]
    default: populated
  base:
    description:
      - An image of the chain that stays as the backing image, by its path or its node name.
      - Use it to keep a golden image that many VMs share in the page cache, and to get rid of the snapshots above it.
    type: str
  wait:
    description:
      - Whether to wait until the disks are populated.
      - With V(false) the jobs are started, at most O(parallel) of them at a time, and the task returns. They go on
        in QEMU and stop at V(pending) when everything is copied; the next run of the task finishes them and starts
        the next ones. A stream that completes immediately is also finished immediately.
    type: bool
    default: true
  wait_timeout:
    description:
      - How long to wait, in seconds. Without it the task waits as long as it takes.
      - What happens then is up to O(on_timeout).
    type: int
  on_timeout:
    description:
      - What happens to the streams that still run when O(wait_timeout) is over.
      - V(fail), the task fails; the jobs go on in QEMU.
      - V(leave), the task succeeds with RV(finished=false); the jobs go on in QEMU.
      - V(stop), the jobs are stopped, what they copied is kept and flushed, and the task succeeds with
        RV(finished=false). Use it for maintenance windows.
    type: str
    choices: [fail, leave, stop]
    default: fail
  poll_interval:
    description:
      - How often to look at a running stream, in seconds. Between two looks the monitor is left to others.
      - With V(0) the monitor is held while the task waits, and the end of a stream is noticed at once.
      - Set it where other programs use the same monitor all the time, such as Proxmox VE. The reason of a stream that
        fails between two looks is then not known.
    type: int
    default: 0
  increment:
    description:
      - Stop each stream once its cursor has moved this many bytes beyond O(cursor), such as V(512M) or V(1.5GiB).
      - A disk can so be populated step by step, in a loop that ends with RV(finished).
      - The cursor is a position in the disk, not an amount copied, it passes over what need not be copied at once.
        It is looked at every 20 milliseconds, so a stream without O(speed) goes some megabytes too far.
    type: str
  cursor:
    description:
      - Where the increment begins, in bytes. Pass RV(disks[].cursor) of the call before.
      - When left out, it is 0, and in the later attempts of an C(until) loop where the attempt before stopped.
    type: int
  speed:
    description:
      - The most that each stream may copy per second, such as V(200M), V(1.5GiB), V(200MB/s) or plain bytes; V(0)
        for no limit.
      - A number, then one of the units K, M, G, T, P and E, alone or as C(KB) or C(KiB), then C(/s) if you like.
        All units are powers of 1024. Without a unit it is whole bytes. A limit below V(512K) is kept on average
        only, because QEMU copies 512 KiB at a time.
      - The limit of a stream that runs already is changed at once. When left out, it stays as it is, and a new
        stream has none.
    type: str
  on_error:
    description:
      - What QEMU does when it cannot read a backing image or cannot write the disk's image. For a stream that runs
        already this cannot be changed.
      - V(report), the stream ends and the task fails. What was copied is kept.
      - V(stop), the stream is held and the task fails. Run the task again when the cause is gone, it resumes the
        stream.
      - V(enospc), as V(stop) when the file system is full, else as V(report).
      - V(ignore), the stream goes on behind the error, and fails at its end. Use it to copy what can be read.
    type: str
    choices: [report, stop, enospc, ignore]
    default: report
  parallel:
    description:
      - How many disks are streamed at a time, over all VMs of the call. Streams that run already count, but are not
        stopped.
      - More than one gains little on one datastore. It helps where disks lie on different ones, or behind a slow
        connection.
    type: int
    default: 1
  check_space:
    description:
      - Refuse to start anything when all that may be copied would not fit into the file system of the active images.
      - Of the disks that only V(*) has chosen those that need least come first. Each that does not fit any more is an
        error of its own, and the others are populated.
      - Set it to V(false) where the figure is too careful, such as for a disk that is nearly done.
    type: bool
    default: true
  release:
    description:
      - Afterwards delete the explicitly named nodes that only this chain used, so that QEMU closes their files.
      - Set it to V(false) if something else shall use those nodes later.
    type: bool
    default: true
  progress:
    description:
      - Prints a progress line for each running stream every N seconds, on the controller's stderr. In a long task the
        interval grows to a tenth of the time watched, up to 5 minutes, or up to N if that is longer.
      - V(0) prints none, and runs the module once for the whole wait.
      - The bytes of a line are what needs no more copying, of the most that is copied; the time left is for the
        present pace.
    type: int
    default: 10
  bound:
    description:
      - The VMs and disks that an earlier look of the same task has selected. It replaces the selection by O(monitors),
        O(vms), O(disks) and O(exclude).
      - The task uses it for its own later looks, so that they work on the same disks of the same QEMUs and on no
        others. You need not set it.
      - A dictionary. Each key is the monitor of a VM, each value has the C(pid) of its QEMU as in RV(vms[].pid), and
        C(keys), a list of RV(disks[].key). If another process serves the monitor, that is an error of this VM, and
        none of its disks is touched.
    type: dict
seealso:
  - module: virtops.qmp.block_stream_info
  - ref: Boot now, populate later <ansible_collections.virtops.qmp.docsite.guide_populate>
    description: The main story, from making an overlay to running the role.
  - ref: When may I delete the golden image? <ansible_collections.virtops.qmp.docsite.guide_delete>
    description: What is proven, and what is not.
author:
  - The virtops.qmp authors (@virtops)
"""

EXAMPLES = r"""
- name: Give a VM's first disk its own data
  virtops.qmp.block_stream:
    monitor: /run/vms/web01.qmp
    disk: vda

- name: The same for every disk of every VM on the hypervisor, at 200 MiB per second
  virtops.qmp.block_stream:
    monitors: /run/vms/*.qmp
    disks: "*"
    speed: 200M

- name: Populate the web servers, all but their scratch disks
  virtops.qmp.block_stream:
    monitors: /run/vms/*.qmp
    vms: web*
    disks: "*"
    exclude: [scratch*, /vms/web07-*.qcow2]

- name: Populate every disk of every VM, but leave out the database VM
  virtops.qmp.block_stream:
    monitors: /run/vms/*.qmp
    disks: "*"
    exclude: db01

- name: Drop the snapshots, and keep the golden image that all VMs share
  virtops.qmp.block_stream:
    monitor: /run/vms/web01.qmp
    disk: /vms/web01.qcow2
    base: /golden/debian-12.qcow2

- name: Work for an hour each night
  virtops.qmp.block_stream:
    monitors: /run/vms/*.qmp
    disks: "*"
    wait_timeout: 3600
    on_timeout: stop

- name: Stop populating, and keep what was copied
  virtops.qmp.block_stream:
    monitor: /run/vms/web01.qmp
    disk: vda
    state: aborted

- name: Go on by 4 GiB at a time, ten times at most
  virtops.qmp.block_stream:
    monitor: /run/vms/web01.qmp
    disk: vda
    increment: 4GiB
  register: result
  until: result.finished
  retries: 10
  delay: 0
"""

RETURN = r"""
finished:
  description:
    - Whether every selected disk is populated, down to O(base).
    - Each disk that this run has populated was looked at once more, over a new connection to its VM. One that QEMU
      then does not show as populated, or whose VM does not answer any more, has failed.
  returned: unless an option was refused
  type: bool
  sample: true
vms:
  description:
    - The VMs that answered, as M(virtops.qmp.block_stream_info) returns them.
  returned: unless an option was refused
  type: list
  elements: dict
  sample:
    - monitor: /run/vms/web01.qmp
      name: web01
      uuid: 1f3a0c1e-5d0c-4c59-9d4e-6c1c6f0e7a51
      status: running
      qemu_version: 7.2.22
      pid: 812
disks:
  description:
    - The selected disks, VM by VM, after success and failure alike. Each has all that
      M(virtops.qmp.block_stream_info) tells of a disk, and the members below.
  returned: unless an option was refused
  type: list
  elements: dict
  sample:
    - label: vda
      key: /machine/peripheral/vda/virtio-backend
      vm: web01
      monitor: /run/vms/web01.qmp
      names: [vda, /machine/peripheral/vda/virtio-backend, drive0, "#block146", /vms/web01.qcow2]
      device: drive0
      qdev: /machine/peripheral/vda/virtio-backend
      node_name: "#block146"
      path: /vms/web01.qcow2
      filename: /vms/web01.qcow2
      format: qcow2
      virtual_size: 32212254720
      read_only: false
      populated: true
      stale_header: null
      chain:
        - node_name: "#block146"
          path: /vms/web01.qcow2
          filename: /vms/web01.qcow2
          format: qcow2
          allocated: 16545694720
      space: {needed: 0, free: 198202670080}
      job: null
      action: started
      finished: true
      cursor: 32212254720
      seconds: 41.3
      grew_by: 13207024640
      released:
        - path: /golden/debian-12.qcow2
          free: false
          reason: it is still open in VM web02 (pid 813)
          pids: [813]
          device: 64768
          inode: 2146631
        - path: /golden/debian-12-web.qcow2
          free: true
          reason: null
          pids: []
          device: 64768
          inode: 2146632
      error: null
      error_kind: null
  contains:
    action:
      description:
        - What was done to the disk. V(none), nothing; V(started), a stream was started; V(joined), one that was
          there was followed or finished; V(resumed), one that was held goes on; V(retuned), its speed was changed;
          V(paused); V(stopped).
        - Of several actions the most telling one. In check mode, the one that would come first.
      type: str
    finished:
      description: Whether this disk is populated, down to O(base).
      type: bool
    cursor:
      description: Where the next increment begins, in bytes; the virtual size when the disk is populated.
      type: int
    seconds:
      description: How long the stream was waited for, in seconds.
      type: float
    grew_by:
      description:
        - By how many bytes the active image grew meanwhile, which is what was copied and what the guest wrote to new
          places; null where QEMU does not know it.
      type: int
    released:
      description:
        - The images that left the chain.
        - C(free) is V(true) only where the kernel grants a lease on the file, because nobody on this host has it open,
          by whatever name; V(false) where something is known to need it; and null where it cannot be known, such as on
          a file system that other hosts may have mounted, or for a user who may not ask the kernel.
        - C(reason) says why it is not free, or why that is unknown; null only where C(free) is V(true).
        - C(pids) are the processes that have it open; null where that cannot be told.
        - C(device) and C(inode) are the file that was judged, which QEMU had open; null where that was not seen.
          Compare them before you act on C(path).
      type: list
      elements: dict
    error:
      description: Why the disk was not populated, or what else went wrong; null if nothing did.
      type: str
    error_kind:
      description: The kind of that error, as in RV(errors[].kind); null if there is none.
      type: str
released:
  description:
    - The images that left the chains, each once, as RV(disks[].released) has them.
    - Where several disks gave up an image, the verdict that is least free counts. C(free) is only true where all of
      them call it free, no disk of any VM behind O(monitors) has it in its chain, and each of these VMs has answered.
  returned: unless an option was refused
  type: list
  elements: dict
  sample:
    - path: /golden/debian-12.qcow2
      free: false
      pids: [813]
      reason: it is still open in VM web02 (pid 813)
summary:
  description:
    - What was done, in lines to print. A table with a row for each disk, and a line for each old image.
    - In check mode C(ACTION) is what would be done first.
  returned: unless an option was refused, or the task runs under C(async)
  type: list
  elements: str
  sample:
    - "VM     DISK  ACTION   NOW        GREW BY     TIME        RATE  RELEASED"
    - "web01  vda   started  populated  320 MiB  0:00:05  64.0 MiB/s  /golden/debian-12.qcow2"
    - "/golden/debian-12.qcow2: not free, it is still open in VM web02 (pid 813)"
errors:
  description:
    - What went wrong, an element for each failure. C(msg) of the result has all of it in words.
  returned: always
  type: list
  elements: dict
  sample:
    - kind: StreamFailed
      msg: "web01: disk vda: job populate-vda ended with: Input/output error"
      vm: web01
      disk: vda
      monitor: /run/vms/web01.qmp
      key: /machine/peripheral/vda/virtio-backend
  contains:
    kind:
      description:
        - V(WrongRequest), an option, a name or a disk is invalid, and nothing was started.
        - V(MonitorMissing), nobody serves the monitor. V(MonitorSilent), it does not answer in time. V(MonitorLost),
          the connection ended. V(MonitorUnusable), it is no QMP monitor, may not be used, or belongs to another VM.
        - V(CommandRefused), QEMU answered a command with an error.
        - V(StreamFailed), the disk still needs other images. V(DiskGone), it was unplugged. V(JobHangs), its storage
          does not answer.
        - V(TimeIsUp), O(wait_timeout) is over, and the job goes on.
        - Null where the module itself could not run to its end.
      type: str
    msg:
      description: The failure in words, with its subject.
      type: str
    vm:
      description: The VM that it is about, as in RV(disks[].vm); null if it is not about one disk.
      type: str
    disk:
      description: The disk that it is about, as in RV(disks[].label); null if it is not about one disk.
      type: str
    monitor:
      description: The monitor that it is about; null if it is not about one.
      type: str
    key:
      description: The disk that it is about, as in RV(disks[].key); null if it is not about one disk.
      type: str
"""

from ansible.module_utils.basic import AnsibleModule

from ..module_utils._module import populate, run
from ..module_utils._options import STREAM_OPTIONS


def main() -> None:
    run(AnsibleModule(argument_spec=STREAM_OPTIONS, supports_check_mode=True), populate)


if __name__ == "__main__":
    main()
