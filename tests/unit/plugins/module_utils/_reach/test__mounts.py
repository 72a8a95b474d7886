# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ansible_collections.virtops.qmp.plugins.module_utils._reach import _mounts
from ansible_collections.virtops.qmp.plugins.module_utils._reach._mounts import Mount, file_system_of, read_mounts

MOUNTS = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:44 / /vms rw - nfs4 server:/vms rw
32 22 0:46 / /with\\040blank rw shared:9 master:2 - fuse.sshfs x rw
40 22 0:50 / /merged rw - overlay overlay rw,lowerdir=/a\\040b:/b:relative,upperdir=/up,workdir=/work
41 22 0:51 / /new-way rw - overlay overlay rw,lowerdir+=/a,lowerdir+=/b,datadir+=/c
"""


@pytest.fixture
def proc(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Files in the place of those of /proc."""
    files = {"/proc/self/mountinfo": MOUNTS}
    monkeypatch.setattr(_mounts, "read_text", lambda path: files.get(path, ""))
    return files


def test_mounts(proc: dict[str, str]) -> None:
    """Every mount is read: its point, its type, and of an overlay the folders that it shows, the upper one first."""
    assert list(read_mounts()) == [
        Mount("/", "ext4", device=os.makedev(8, 1)),
        Mount("/vms", "nfs4", device=os.makedev(0, 44)),
        Mount("/with blank", "fuse.sshfs", device=os.makedev(0, 46)),
        Mount("/merged", "overlay", ["/up", "/a b", "/b"], os.makedev(0, 50)),
        Mount("/new-way", "overlay", ["/a", "/b", "/c"], os.makedev(0, 51)),
    ]


@pytest.mark.parametrize(
    ("fdinfo", "kind"),
    [
        pytest.param("pos:\t0\nflags:\t012\nmnt_id:\t32\nino:\t5\n", "fuse.sshfs", id="a mount"),
        pytest.param("mnt_id:\t2\n", "unknown", id="a mount that is not seen: no number but the whole one counts"),
        pytest.param("pos:\t0\n", "unknown", id="an old kernel"),
        pytest.param("", "unknown", id="no /proc"),
    ],
)
def test_the_file_system_of_an_open_file(proc: dict[str, str], fdinfo: str, kind: str) -> None:
    """The type of the file system is that of the mount by which the file was opened."""
    proc["/proc/self/fdinfo/7"] = fdinfo
    assert file_system_of(7) == kind


def test_of_this_host(folder: Path) -> None:
    """A real file lies on a file system that this host lists."""
    descriptor = os.open(str(folder), os.O_PATH)
    try:
        assert file_system_of(descriptor) in {mount.file_system for mount in read_mounts()}
    finally:
        os.close(descriptor)


def test_what_cannot_be_read_is_empty(folder: Path) -> None:
    """A file of /proc that is not there, or may not be read, says nothing."""
    assert _mounts.read_text(str(folder / "nosuch")) == ""
