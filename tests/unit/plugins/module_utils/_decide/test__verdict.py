# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from ansible_collections.virtops.qmp.plugins.module_utils._decide._verdict import Verdict, judge
from ansible_collections.virtops.qmp.plugins.module_utils._model._disk import Image
from ansible_collections.virtops.qmp.plugins.module_utils._model._files import Traces
from ansible_collections.virtops.qmp.tests.unit.builders import disk, identity, image, vm

PATH = "/vms/base.qcow2"
REMOTE = image("base", path="nbd://host/base", file=None)


@pytest.mark.parametrize(
    ("subject", "traces", "verdict"),
    [
        pytest.param(image("base"), Traces(True, "ext4", {}), Verdict(PATH, (), None), id="free"),
        pytest.param(
            REMOTE,
            None,
            Verdict("nbd://host/base", None, "it is reached over a protocol, and only its server can know who uses it"),
            id="no local file",
        ),
        pytest.param(
            image("base"),
            None,
            Verdict(PATH, None, "there is no such file any more, or it is not the one that QEMU had open"),
            id="gone",
        ),
        pytest.param(
            image("base"),
            Traces(False, "devtmpfs", {}),
            Verdict(PATH, None, "it is not a regular file, and who uses a device cannot be told"),
            id="a device",
        ),
        pytest.param(
            image("base"),
            Traces(True, "ext4", None),
            Verdict(PATH, None, "only root can see the files that all processes have open"),
            id="not root",
        ),
        pytest.param(
            image("base"),
            Traces(True, "ext4", {200: "qemu-nbd", 100: "qemu"}, ["loop0"]),
            Verdict(PATH, (100, 200), "it is still open in VM vm0 (pid 100), qemu-nbd (pid 200), loop0"),
            id="open in a VM, a process and a loop device",
        ),
        pytest.param(
            image("base"),
            Traces(True, "ext4", {}, ["loop7"]),
            Verdict(PATH, (), "it is still open in loop7"),
            id="a loop device alone",
        ),
        pytest.param(
            image("base"),
            Traces(True, "nfs4", {7: "x"}),
            Verdict(PATH, (7,), "it is still open in x (pid 7)"),
            id="open on NFS",
        ),
        *[
            pytest.param(
                image("base"),
                Traces(True, kind, {}),
                Verdict(PATH, (), f"it lies on {kind}, and other hosts may use it"),
                id=kind,
            )
            for kind in ("nfs", "nfs4", "cifs", "ceph", "ocfs2", "gfs2", "fuse", "fuse.glusterfs")
        ],
        *[
            pytest.param(image("base"), Traces(True, kind, {}), Verdict(PATH, (), None), id=kind)
            for kind in ("xfs", "btrfs", "tmpfs", "zfs", "overlay")
        ],
    ],
)
def test_judge(subject: Image, traces: Traces | None, verdict: Verdict) -> None:
    """An image is free only where it is proven that nobody has it open, and else there is a reason."""
    assert judge(subject, traces, [vm(disk(), identity=identity(pid=100))], is_finished=True) == verdict
    assert verdict.is_free == (verdict.reason is None)


def test_a_vm_over_tcp_lends_its_name_to_no_process() -> None:
    """A VM whose process is unknown is no user of anything."""
    found = judge(
        image("base"), Traces(True, "ext4", {5: "qemu"}), [vm(disk(), identity=identity(pid=None))], is_finished=True
    )
    assert found.reason == "it is still open in qemu (pid 5)"


def test_what_an_unfinished_disk_has_left_is_not_free() -> None:
    """A chain that QEMU dropped from memory proves nothing while the disk is not populated."""
    found = judge(image("base"), Traces(True, "ext4", {}), [], is_finished=False)
    assert (found.is_free, found.reason) == (False, "the disk that it has left is not populated")
