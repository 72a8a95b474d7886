#!/usr/bin/python

# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: block_stream
short_description: Give the disks of running VMs their own data
version_added: 1.0.0
description:
  - Populates thin overlays from their backing chains with QEMU's C(block-stream) job, while the guests work, so that
    the images below are no longer needed.
  - O(disks) is required, and one of O(monitors) and O(domains), which name the VMs.
  - V(populated) is said only where it is proven. What cannot be read, seen or asked is unknown (null), and that is
    neither populated nor free. QEMU's own "completed" is no proof, a VM that is killed seconds after it can read zeros.
  - A disk is populated in this order. The stream copies everything and stops at V(pending), the link to the old images
    still there. QEMU flushes the image. The map of the chain (C(qemu-img map)) shows that nothing is left in the old
    images. The job is finalized, which removes the link; with O(domains) libvirt's own pull does. Chain and header are
    read again, and the image is flushed once more. At last QEMU is asked again over a new connection.
  - A flush is one whose failure is known. Beside a job QEMU does not tell if its flush fails, so the module holds the
    image's files open from before the stream, and has the kernel write them out (fsync) before and after QEMU's flush.
    Without a job QEMU is told to take a snapshot onto a node that does not exist, which flushes, tells if that fails,
    and changes nothing.
  - Where the cache mode of a disk is C(unsafe), QEMU flushes nothing and is told nothing. The module's own fsync takes
    its place, and a warning says so, because what the guest writes later is not as safe. The kernel tells an error of
    the storage once. So the module then leaves a mark in QEMU, an empty node C(populate-unwritten-...), and no later
    task calls the disk populated before the VM is restarted.
  - The header is read from the file that QEMU has open (C(/proc/PID/fd)), whatever has its name now. With O(base), it
    calls the base as the headers of the dropped images did, so a relative name stays relative.
  - The task can be run again at any time. It joins a stream that runs, whoever started it, resumes one that an error
    stopped, and changes nothing where all is done. A stream at V(pending) whose image this call did not hold open from
    before is not believed. It is cancelled, and a new stream passes over what is copied.
  - So is a stream of a VM that migrated, or whose state was saved, meanwhile. QEMU's job goes on then, copies nothing,
    and says that it has completed.
  - One call serves a disk, a VM or a whole hypervisor. What fails for one disk stops no other; the task then fails
    once, with all of it. A wrong name or option starts nothing at all.
  - These disks are refused, because QEMU would copy nothing, lose data, or abort.
    Disks of a VM that waits for a migration, is at the end of one, or has been migrated or saved; disks whose image has
    no name any more (deleted, replaced, C(-snapshot)); images of other formats than C(qcow2) and C(qed), such as
    C(vmdk); images with C(extended_l2=on) on QEMU before 8.2; a raw node above an image that has a backing image;
    snapshots that Proxmox VE keeps as a chain of volumes; read-only disks; and VMs that libvirt manages, unless
    O(domains) names them.
  - While QEMU flushes, the guest stands still. So what is copied is written out beside QEMU all the while.
  - A stream is not finished while the file system of the active image is full. It waits at V(pending), and the next run
    finishes it.
  - A job whose task went away, or that was started with O(wait=false), stops at the status V(pending) when
    everything is copied. There it is safe against any crash, and the next run of the same task finishes it.
  - To start and forget, use Ansible's own C(async) with C(poll=0), the module then waits on the hypervisor.
requirements:
  - C(qemu-img) on the hypervisor, for the proof by the map. It runs as QEMU's own user, and opens nothing but what
    QEMU has open. Without it, RV(disks[].proof) is V(job)
  - C(dd) (coreutils) on the hypervisor, which writes images out in a process of its own. Without it the module does so
    itself, and cannot end before storage that hangs answers
extends_documentation_fragment:
  - virtops.qmp.monitor
options:
  disks:
    description:
      - The disks to work on, on every VM that has them.
      - A disk is named by its source path, that is the file name of its active image; by its qdev id, such as
        V(vda) for C(/machine/peripheral/vda/virtio-backend); by its device name (C(-drive id=)); by its node name;
        or, with O(domains), by its target (C(<target dev='vda'/>)).
      - A path means the file behind it, by whatever name QEMU knows that. Relative ones start from the working
        directory of the VM's QEMU. Names with a protocol (V(nbd+unix://...)) are compared as QEMU reports them.
      - V(*) stands for every disk that is writable and has a medium. Disks that need no other image are reported as
        they are. One that cannot be populated, such as a disk of a VM that waits for an incoming migration, is left
        out with a warning; when it is named outright, or when there is no other disk, it is refused.
      - V(*) also leaves out disks whose active image has internal snapshots, which need the old images indefinitely.
        Named outright, such a disk is populated, and a warning says how to get back to the snapshots.
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
      - An empty string is no base, so that the disk needs no other image afterwards.
      - If QEMU has the base open by a descriptor only (C(/dev/fdset/N)), or in a place that this host does not see, and
        no name leads to it, the disk fails before its stream begins.
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
      - How long to wait, in seconds. Without it, and without O(until), the task waits as long as it takes.
      - What happens then is up to O(on_timeout).
    type: int
  until:
    description:
      - How long to wait, as a time of the day, V("06:00"). It is the next such time by the hypervisor's own clock, in
        the time zone of the user that the module runs as. Quote it, because YAML takes V(22:00) without quotes for a
        number.
      - Use it for a maintenance window that ends at a fixed time, however late the task begins. If O(wait_timeout) is
        given too, the earlier end counts. O(on_timeout) says what happens then.
      - On the day on which the clock is put forward over this time the wait ends at that moment; on the day on which
        the clock is put back it is the first of the two.
      - V(@1764345600) is a moment in seconds since 1970. The task's own later looks use it, so that they end when the
        first one would have.
    type: str
  on_timeout:
    description:
      - What happens to the streams that still run when O(wait_timeout) is over, or O(until) has come.
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
      - With V(0) the monitor is held while the task waits, and the end of a stream is noticed at once. Other tasks of
        this collection are let in all the same.
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
  total_speed:
    description:
      - The most that all streams of the call together may copy per second, in the words of O(speed); V(0) for no limit.
      - Each stream that runs gets an equal part, no more than its own O(speed). The limit is shared anew when a stream
        begins or ends; one that begins has the others slowed down first. A stream that was there before and is joined
        counts, and gets its part, whoever started it; streams on disks that are not selected do not.
      - A part that a stream cannot use up, such as one behind a slow base, is not given to others.
      - Streams that are left to QEMU, with O(wait=false) or by O(on_timeout), keep the part that they have, also when
        one of them ends. The next run of the task shares the limit anew, or O(speed=0) without this option takes it
        away.
      - Set it where O(parallel) is more than 1 and the storage or the network of the hypervisor has a limit.
    type: str
  guest_latency:
    description:
      - The most that the requests of the guests may take, such as V(5ms); a number with V(us), V(ms) or V(s), from
        V(100us) to V(10s). The streams then take what the guests leave, and no O(speed) need be guessed. When left out,
        nobody looks at the guests.
      - While the task waits it reads what QEMU measures of the guests' reads, writes and flushes, several times a
        second, and sets the speed of the streams. It goes up while 95 of 100 requests of each kind, of each disk of
        these VMs, are faster than that, and down at once when they are not.
      - All streams of the call have one limit, as with O(total_speed), because they share a datastore. No stream gets
        less than V(1M) per second. O(speed) and O(total_speed) stay the most that there is, and O(read_ahead) keeps to
        it.
      - A guest may be slower than that by itself. Where the streams are near their least speed and the guest is still
        too slow, they stand nearly still for some seconds, to see. If they are not to blame, they go on until the guest
        becomes slower than it was then. That is looked at again, first after a minute.
      - For the 95th percentile QEMU counts requests in histograms (C(block-latency-histogram-set)), which the task sets
        and takes away. On a device on which another tool has one it is left alone, and the mean counts for that device.
      - At the end of the wait, however it ends, each stream that goes on gets the speed back that O(speed) and
        O(total_speed) name, and no limit where they are left out. That is so, too, when the task gives way to another
        run at the monitor. A task that is killed leaves the last speed and the histograms; the same task sets both
        right when it is run again, and O(speed=0) takes the limit away.
      - Between the looks of a long task the streams keep the last speed.
      - It needs somebody at the monitor, so it cannot be used with O(wait=false) or O(poll_interval).
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
  read_ahead:
    description:
      - The most requests of 512 KiB, or of a cluster if that is larger, that may be under way beside each stream. V(0)
        is none, and V(16) the most.
      - Set it to V(8) where the old images are behind a network with a delay. A stream has one request of 512 KiB under
        way at a time, so with a delay of 20 milliseconds it copies 10 to 25 MiB per second, whatever the network can
        carry. With V(8) it is many times as fast. More are tried only as long as they make it faster, and none is under
        way on a link that the stream fills by itself.
      - The stream stays as it is, and nothing of the proof depends on it. QEMU is told over NBD to copy what the stream
        will come to, and the stream passes over that. No data leaves QEMU, and nothing is copied that the stream would
        not copy. O(speed) holds for both together.
      - A disk for which it is forbidden, or useless, is streamed without it, and a warning says why. That is so if all
        old images are local files; with QEMU before 5.2; over TCP; if the VM has iothreads and a QEMU before 10.0,
        which may abort; if another program uses QEMU's NBD server; and with
        O(wait=false) or O(poll_interval). M(virtops.qmp.block_stream_info) tells it for each disk.
      - A VM whose QEMU is older than 10.0 refuses to migrate, and to be saved, while one of its disks is read ahead. It
        would abort otherwise.
      - What a task leaves in QEMU that is killed is removed by the next run on the disk, whatever its options.
    type: int
    default: 0
  images:
    description:
      - Folders in which, and below which, the headers of all images are read before an old image is called free;
        absolute paths without links. An old image that one of them names is not free, and where one of them cannot be
        read or is not understood, or a folder is not there, that is unknown.
      - Name all folders in which images of VMs lie, so that those of VMs that are off are found, too. When left out, no
        header but that of each disk is read. See the option O(virtops.qmp.image_info#module:search) of
        M(virtops.qmp.image_info), which says the same on any later day.
    type: list
    elements: path
  progress:
    description:
      - Prints a progress line for each running stream every N seconds, on the controller's stderr. In a long task the
        interval grows to a tenth of the time watched, up to 10 minutes, or up to N if that is longer.
      - V(0) prints no such line, and runs the module once for the whole wait.
      - While it waits, the module sends an empty line every minute, for firewalls forget a connection that is silent.
      - The bytes of a line are what needs no more copying, of the most that is copied; the time left is for the
        present pace. Where there are several disks, one more line tells how many of them are through, and the bytes and
        the time of all together.
      - Whatever it is, at the end the task prints RV(summary), on stderr as well. C(no_log) prints nothing.
    type: int
    default: 10
  bound:
    description:
      - The VMs and disks that an earlier look of the same task has selected. It replaces the selection by O(monitors),
        O(vms), O(disks) and O(exclude).
      - The task uses it for its own later looks, so that they work on the same disks of the same QEMUs and on no
        others. You need not set it.
      - A dictionary. Each key is the monitor or the domain of a VM, each value has C(pid) and C(started) of its QEMU as
        in RV(vms[].pid) and RV(vms[].started), and C(keys), a list of RV(disks[].key). If it is another process by now,
        that is an error of this VM, and none of its disks is touched. A VM without C(keys) is not asked; its C(name) is
        what its process is called where it has an old image open. C(ahead) has RV(disks[].ahead) by the key.
    type: dict
  paced:
    description:
      - How fast the streams were at the end of an earlier look of the same task, with O(guest_latency), and whether
        another look follows. The task uses it for its own looks. You need not set it.
      - A dictionary, RV(disks[].guest_latency.paced) with C(goes_on) beside it. With V(true) there, the streams keep
        their speed at the end of the look.
    type: dict
seealso:
  - module: virtops.qmp.block_stream_info
  - module: virtops.qmp.image_info
  - name: Boot now, populate later
    link: https://example.org/virtops/qmp/blob/main/docs/docsite/rst/guide_populate.rst
    description: The main story, from making an overlay to running the role.
  - name: Golden images behind a slow link
    link: https://example.org/virtops/qmp/blob/main/docs/docsite/rst/guide_slow_links.rst
    description: What read_ahead gains, and where it is not done.
  - name: When may I delete the golden image?
    link: https://example.org/virtops/qmp/blob/main/docs/docsite/rst/guide_delete.rst
    description: What is proven, and what is not.
author:
  - The virtops.qmp authors (@virtops)
"""

EXAMPLES = r"""
- name: Give a VM's first disk its own data
  virtops.qmp.block_stream:
    monitor: /run/vms/web01.qmp
    disk: vda
  become: true

- name: The same for one of libvirt's guests
  virtops.qmp.block_stream:
    domain: web01
    disk: vda
  become: true

- name: The same for every disk of every VM on the hypervisor, at 200 MiB per second
  virtops.qmp.block_stream:
    monitors: /run/vms/*.qmp
    disks: "*"
    speed: 200M
  become: true

- name: Populate the web servers, all but their scratch disks
  virtops.qmp.block_stream:
    monitors: /run/vms/*.qmp
    vms: web*
    disks: "*"
    exclude: [scratch*, /vms/web07-*.qcow2]
  become: true

- name: Populate every disk of every VM, but leave out the database VM
  virtops.qmp.block_stream:
    monitors: /run/vms/*.qmp
    disks: "*"
    exclude: db01
  become: true

- name: Drop the snapshots, and keep the golden image that all VMs share
  virtops.qmp.block_stream:
    monitor: /run/vms/web01.qmp
    disk: /vms/web01.qcow2
    base: /golden/debian-12.qcow2
  become: true

- name: Populate every disk, and call no image free that a VM needs which is off
  virtops.qmp.block_stream:
    monitors: /run/vms/*.qmp
    disks: "*"
    images: /vms
  become: true

- name: Populate disks whose golden images are behind a slow link
  virtops.qmp.block_stream:
    monitors: /run/vms/*.qmp
    disks: "*"
    read_ahead: 8
  become: true

- name: Work for an hour each night
  virtops.qmp.block_stream:
    monitors: /run/vms/*.qmp
    disks: "*"
    wait_timeout: 3600
    on_timeout: stop
  become: true

- name: Work until six in the morning, at 500 MiB per second in all
  virtops.qmp.block_stream:
    monitors: /run/vms/*.qmp
    disks: "*"
    parallel: 4
    total_speed: 500M
    until: "06:00"
    on_timeout: stop
  become: true

- name: Populate every disk, as fast as the guests do not feel it
  virtops.qmp.block_stream:
    monitors: /run/vms/*.qmp
    disks: "*"
    guest_latency: 5ms
  become: true

- name: Stop populating, and keep what was copied
  virtops.qmp.block_stream:
    monitor: /run/vms/web01.qmp
    disk: vda
    state: aborted
  become: true

- name: Go on by 4 GiB at a time, ten times at most
  virtops.qmp.block_stream:
    monitor: /run/vms/web01.qmp
    disk: vda
    increment: 4GiB
  become: true
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
      description: The monitor through which the VM was found; null for one of O(domains).
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
      description: The process that serves the monitor; null over TCP.
      type: int
    started:
      description: When that process was started, in clock ticks since the host was; null where it cannot be told.
      type: int
    uid:
      description: The user that runs that process; null where it cannot be told.
      type: int
disks:
  description:
    - The selected disks, VM by VM, after success and failure alike. Each has all that
      M(virtops.qmp.block_stream_info) tells of a disk, and what was done to it.
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
      populated: true
      reason: null
      snapshots: 0
      same_file: true
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
      proof: map
      cursor: 32212254720
      seconds: 41.3
      clock: 81734.2
      order: null
      grew_by: 13207024640
      guest_latency:
        target: 5.0
        now: 3.91
        measure: p95
        disk: vda
        kind: write
        by_itself: false
        held_back: 21.4
        paced:
          limit: 418381824
          knee: 471859200
          low_for: 0.0
          doubt: 5.0
          again_in: 60.0
          again_after: 60.0
          lifted: []
      ahead: null
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
      filename: /vms/web01-data.qcow2
      format: qcow2
      virtual_size: 32212254720
      read_only: false
      populated: false
      reason: it still needs /golden/data.qcow2
      snapshots: 0
      same_file: true
      stale_header: null
      chain:
        - node_name: "#block519"
          path: /vms/web01-data.qcow2
          filename: /vms/web01-data.qcow2
          format: qcow2
          allocated: 5368709120
        - node_name: "#block733"
          path: /golden/data.qcow2
          filename: /golden/data.qcow2
          format: qcow2
          allocated: 13207024640
      space: {needed: 13207024640, free: 198202670080}
      job:
        id: populate-vdb
        type: stream
        status: running
        cur: 13207863296
        end: 32212254720
        percent: 41.0
        speed: 0
        paused: false
        io_status: ok
        error: null
      action: started
      finished: false
      proof: null
      cursor: 13207863296
      seconds: 41.3
      clock: 81734.2
      order: null
      grew_by: 5368512512
      guest_latency: null
      ahead: null
      released: []
      error: >-
        web01: disk vdb: not populated when wait_timeout was over. The job populate-vdb is running at 13207863296 of
        32212254720 bytes and goes on in QEMU; run the task again to join it
      error_kind: TimeIsUp
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
        - Whether the disk needs no other image. With O(base), V(false), because it needs the base.
        - Null where it cannot be told, such as when the header cannot be read, nothing tells any more whether a stream
          has copied everything, or the VM does not answer when it is asked again.
      type: bool
    reason:
      description:
        - Why the disk is not populated, or why it cannot be told.
        - Null where RV(disks[].populated) is V(true), and where RV(disks[].error) alone says why it cannot be told.
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
        - The VM's next start needs that image. RV(disks[].error) says what to do.
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
            - How much populating down to O(base) may still write, at most, in bytes; compressed and finely scattered
              images may take more than that, which QEMU does not tell.
            - A block device, and an image that does not tell (NBD), counts with its virtual size.
          type: int
        free:
          description:
            - What the file system of the active image has left, or that of its external data file, in bytes.
            - Null where that is no regular file of this host.
          type: int
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
    action:
      description:
        - What was done to the disk. V(none), nothing; V(started), a stream was started; V(joined), one that was
          there was followed or finished; V(resumed), one that was held goes on; V(retuned), its speed was changed;
          V(paused); V(stopped).
        - Of several actions the most telling one. In check mode, the one that would come first; with O(wait=false),
          V(none) for a stream that would wait for its turn.
      type: str
    finished:
      description: Whether this disk is populated, down to O(base), and nothing went wrong on the way.
      type: bool
    proof:
      description:
        - What it rests on that everything is copied; null if RV(disks[].finished) is V(false).
        - V(map), after the flush and before the link was removed, the map of the chain showed that nothing that the
          disk needs was left in the old images.
        - V(job), the job said so, and the VM had neither migrated nor had its state saved meanwhile. The map was no
          proof, because C(qemu-img) is missing or cannot look into an image (a protocol, an encrypted image, whose key
          only QEMU has, a monitor on TCP), or because somebody else finished the job.
        - V(chain), nothing was streamed in this run. Chain and header need no more images, and QEMU has flushed them.
          What was copied before, this run does not know.
      type: str
    cursor:
      description: Where the next increment begins, in bytes; the virtual size when the disk is populated.
      type: int
    seconds:
      description:
        - How long the stream was waited for, in seconds by the clock of the hypervisor, from where this task began or
          joined it until its end was seen.
      type: float
    clock:
      description:
        - When that was over, in seconds since the hypervisor was started; null if no stream was waited for.
      type: float
    order:
      description:
        - In check mode, the place of the disk among those whose streams would begin, or go on, from 1; null if there
          would be none. With O(parallel) so many are streamed at a time, and one that is through early lets the next
          one begin.
        - Null outside of check mode.
      type: int
    grew_by:
      description:
        - By how many bytes the active image grew meanwhile, which is what was copied and what the guest wrote to new
          places; null where QEMU does not know it.
      type: int
    guest_latency:
      description:
        - What the guest felt of the stream, with O(guest_latency); null without it, and where no stream was followed.
      type: dict
      contains:
        target:
          description: The most that its requests may take, in milliseconds.
          type: float
        now:
          description:
            - What the slowest of its requests took in the last seconds, over all of its disks, in milliseconds. As a
              percentile it is told up to 64 times the target.
            - Null where it made none.
          type: float
        measure:
          description: Whether that is V(p95), the 95th percentile, or the V(mean), where another tool has a histogram.
          type: str
        disk:
          description: The disk that these requests were for.
          type: str
        kind:
          description: What they were, V(read), V(write) or V(flush).
          type: str
        by_itself:
          description: Whether the guest is slower than the target although the streams hardly copy.
          type: bool
        held_back:
          description: For how many seconds the stream could have been faster, and was not for the sake of the guests.
          type: float
        paced:
          description:
            - What the next look of the same task goes on from, in the option O(paced).
          type: dict
          contains:
            limit:
              description: The limit of all streams together, in bytes per second.
              type: int
            knee:
              description: The limit at which the guests were slowed last, in bytes per second; null if there was none.
              type: int
            low_for:
              description: For how many seconds the streams were near their least speed, with guests that were too slow.
              type: float
            doubt:
              description: After how many such seconds the streams stand nearly still, to see if they are to blame.
              type: float
            again_in:
              description: In how many seconds a guest that is slow by itself is looked at again.
              type: float
            again_after:
              description: How many seconds there are between two such looks.
              type: float
            lifted:
              description:
                - Guests that are slow by themselves, each by monitor, device, kind of requests, and a place among the
                  boundaries of the histograms, from which on its requests count as too slow.
              type: list
              elements: list
    ahead:
      description:
        - How many requests at a time were found worth it to read ahead of the stream, of the O(read_ahead) that were
          allowed; V(0) on a link that the stream fills by itself, and null where that was not found out.
      type: int
    released:
      description:
        - The images that left the chain, with what is known of who needs them.
        - C(free) is V(true) only where the kernel grants a lease on the file, because nobody on this host has it open,
          by whatever name; V(false) where something is known to need it; and null where it cannot be known, such as on
          a file system that other hosts may have mounted, or for a user who may not ask the kernel. It is V(false) also
          as long as this disk is not populated, or its active image has internal snapshots. With O(images) it is
          V(true) only where all headers there were read, and none of them names the image; with O(domains) only where
          no definition of any domain, running or off, names it as a disk, and no snapshot of libvirt's needs it.
      type: list
      elements: dict
      contains: &image
        path:
          description: The image, by its absolute path where it is a file of this host.
          type: str
        free:
          description: Whether nothing is known to need the image; null where that cannot be known.
          type: bool
        reason:
          description: Why it is not free, or why that is unknown; null only where C(free) is V(true).
          type: str
        pids:
          description: The processes that have it open; null where that cannot be told.
          type: list
          elements: int
        device:
          description: The device number of the file that was judged, which QEMU had open; null where that was not seen.
          type: int
        inode:
          description:
            - The inode number of that file; null where it was not seen.
            - Compare both before you act on C(path), as M(virtops.qmp.image_access) does.
          type: int
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
  contains: *image
  sample:
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
    - path: nbd+unix:///golden?socket=/run/golden.sock
      free: null
      reason: it is reached over a protocol, and only its server can know who uses it
      pids: null
      device: null
      inode: null
deadline:
  description: When the wait ends by the clock, as O(until) says; null without that option.
  returned: unless an option was refused
  type: dict
  sample: {at: 1764345600, left: 3127.4}
  contains:
    at:
      description: The moment, in seconds since 1970.
      type: int
    left:
      description: How many seconds there were still left at the end of the task.
      type: float
summary:
  description:
    - What was done, in the lines that the task prints. A table with a row for each disk, a row for all together, and a
      line for each old image. With C(-v), disks to which nothing was done have rows, too; else they are counted in a
      line.
    - In check mode, what would be done. C(WOULD BE) is RV(disks[].action), C(ORDER) is RV(disks[].order), C(TO COPY)
      and C(FREE) are RV(disks[].space).
  returned: unless an option was refused, or the task runs under C(async)
  type: list
  elements: str
  sample:
    - "VM     DISK     ACTION   NOW         GREW BY       TIME        RATE  RELEASED"
    - "web01  vda      started  populated   320 MiB  0:00:05.0  64.0 MiB/s  /golden/debian-12.qcow2"
    - "total  3 disks           3 finished  320 MiB  0:00:05.0  64.0 MiB/s"
    - "and 2 disks untouched, finished (-v shows each)"
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
      domain: null
      key: /machine/peripheral/vda/virtio-backend
  contains:
    kind:
      description:
        - V(WrongRequest), an option, a name or a disk is invalid, and nothing was started; or there is no room for this
          disk.
        - V(MonitorMissing), nobody serves the monitor. V(MonitorSilent), it does not answer in time. V(MonitorLost),
          the connection ended. V(MonitorUnusable), it is no QMP monitor, may not be used, or belongs to another VM.
          V(AnswersDiffer), two answers of QEMU contradict each other.
        - V(HostSilent), the storage of the hypervisor does not answer in time.
        - V(CommandRefused), QEMU answered a command with an error.
        - V(StreamFailed), the disk still needs other images, or it cannot be told. V(DiskGone), it was unplugged.
          V(JobHangs), its storage does not answer. V(WriteBackFailed), what was written did not reach the storage.
        - V(TimeIsUp), O(wait_timeout) is over, or O(until) has come, and the job goes on.
        - V(Defect), an error of this collection, which its authors want to know of.
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
    domain:
      description: The name of the domain, where the VM was reached by O(domains); null otherwise.
      type: str
    key:
      description: The disk that it is about, as in RV(disks[].key); null if it is not about one disk.
      type: str
"""

from ansible.module_utils.basic import AnsibleModule

from ..module_utils._module import run
from ..module_utils._module_stream import populate
from ..module_utils._options import STREAM_OPTIONS


def main() -> None:
    module = AnsibleModule(argument_spec=STREAM_OPTIONS, supports_check_mode=True)
    run(module, populate, takes_turns=not module.check_mode)


if __name__ == "__main__":
    main()
