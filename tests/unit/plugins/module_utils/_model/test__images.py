# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible_collections.virtops.qmp.plugins.module_utils._model._images import Naming, names_in
from ansible_collections.virtops.qmp.tests.unit.builders import extension, qcow2, qed
from hypothesis import given
from hypothesis import strategies as st

DATA_FILE = 0x44415441


def data_file(name: bytes) -> bytes:
    return qcow2(b"", extension(DATA_FILE, name), features=4)


@pytest.mark.parametrize(
    ("head", "names"),
    [
        pytest.param(b"", [], id="an empty file"),
        pytest.param(b"QF", [], id="two bytes"),
        pytest.param(bytes(4096), [], id="a raw image"),
        pytest.param(b"# a comment\nand no version=1\n", [], id="a text"),
        pytest.param(qcow2(), [], id="qcow2 on its own"),
        pytest.param(qcow2(b"/g/a"), ["/g/a"], id="qcow2"),
        pytest.param(qcow2(b"/g/a:b"), ["/g/a:b"], id="a colon behind a slash"),
        pytest.param(qcow2(b"../g/a", version=2), ["../g/a"], id="relative, version 2"),
        pytest.param(qcow2(b"/g/" + bytes([255])), ["/g/\udcff"], id="no UTF-8"),
        pytest.param(qed(b"a"), ["a"], id="qed"),
        pytest.param(data_file(b"/g/a.raw"), ["/g/a.raw"], id="a data file"),
        pytest.param(
            qcow2(b"/g/a", extension(DATA_FILE, b"/g/b"), features=4), ["/g/b", "/g/a"], id="a data file and a base"
        ),
        pytest.param(qcow2(b"file:/g/a"), ["/g/a"], id="file:"),
        pytest.param(qcow2(b"host_device:/dev/a"), ["/dev/a"], id="host_device:"),
        *[
            pytest.param(qcow2(f"{name}:x".encode()), [], id=name)
            for name in ("nbd", "nbd+unix", "nbd+tcp", "rbd", "iscsi", "https", "ssh", "gluster+unix", "nfs")
        ],
    ],
)
def test_names(head: bytes, names: list[str]) -> None:
    """A header that is understood tells all the files that it names; what is behind a protocol is no file."""
    assert names_in(head) == Naming(tuple(names))


FILE: dict[str, Any] = {"driver": "file", "filename": "/g/a"}


@pytest.mark.parametrize(
    ("node", "names"),
    [
        pytest.param({"driver": "qcow2", "file": FILE}, ["/g/a"], id="nested"),
        pytest.param({"driver": "qcow2", "file.driver": "file", "file.filename": "/g/a"}, ["/g/a"], id="dotted"),
        pytest.param({"file.filename": "/g/a"}, ["/g/a"], id="without drivers"),
        pytest.param(
            {"file": FILE, "backing": None, "driver": "qcow2", "lazy-refcounts": True}, ["/g/a"], id="options"
        ),
        pytest.param({"file": FILE, "backing": {"file": {**FILE, "filename": "/b"}}}, ["/g/a", "/b"], id="two levels"),
        pytest.param({"driver": "raw", "file": {"driver": "nbd", "server": {"path": "/s"}}}, [], id="a server"),
    ],
)
def test_names_in_json(node: dict[str, Any], names: list[str]) -> None:
    """A description of nodes that stands on plain files is understood."""
    assert names_in(qcow2(f"json:{json.dumps(node)}".encode())) == Naming(tuple(names))


@pytest.mark.parametrize(
    ("head", "names", "why"),
    [
        pytest.param(b"QFI\xfb\0\0\0\1" + bytes(100), [], "qcow image of version 1", id="qcow"),
        pytest.param(qcow2(version=4), [], "its qcow2 header is invalid", id="qcow2 of a version to come"),
        pytest.param(b"QFI\xfb", [], "its header is cut off", id="cut off"),
        pytest.param(qcow2(b"x", length=1 << 32 - 1), [], "is too long", id="a name of gigabytes"),
        pytest.param(qcow2(b"x" * 1024), [], "is too long", id="a name of one byte too many"),
        pytest.param(qed(b"a", features=99), [], "features that are not known", id="qed"),
        pytest.param(b"KDMV" + bytes(100), [], "it is a vmdk image", id="vmdk"),
        pytest.param(b"COWD" + bytes(100), [], "it is a vmdk image", id="an old vmdk"),
        pytest.param(b"# Disk DescriptorFile\r\n \r\nversion=1\r\n", [], "it is a vmdk image", id="vmdk, a text"),
        pytest.param(qcow2(b"a", snapshots=1), ["a"], "its internal snapshots may need", id="a snapshot"),
        pytest.param(qcow2(snapshots=2), [], "its internal snapshots may need", id="snapshots of a populated disk"),
        pytest.param(data_file(b""), [], "does not tell the name of its data file", id="a data file without name"),
        pytest.param(data_file(b"a"), ["a"], "from its own working directory", id="a relative data file"),
        pytest.param(data_file(b"odd:a"), [], "what that leads to is not known", id="a data file by a protocol"),
        pytest.param(qcow2(b"file:a"), [], "from its own working directory", id="file: relative"),
        pytest.param(qcow2(b"blkdebug:/c:/a"), [], "what that leads to is not known", id="a filter"),
        pytest.param(qcow2(b"fat:/a"), [], "what that leads to is not known", id="a folder as a disk"),
        pytest.param(qcow2(b"json:{"), [], "not understood", id="no JSON"),
        pytest.param(qcow2(b"json:" + b"[" * 1000), [], "not understood", id="deep JSON"),
        pytest.param(qcow2(b"json:[1]"), [], "not understood", id="a list"),
        pytest.param(qcow2(b"json:{'driver':'raw'}"), [], "not understood", id="QEMU's own quotes"),
        pytest.param(qcow2(b'json:{"file":"node0"}'), [], "not understood", id="another node"),
        pytest.param(qcow2(b'json:{"driver":"quorum","children":[]}'), [], "not understood", id="a driver"),
        pytest.param(qcow2(b'json:{"driver":7}'), [], "not understood", id="a driver that is none"),
        pytest.param(qcow2(b'json:{"children":["/a"]}'), [], "not understood", id="a list within"),
        pytest.param(qcow2(b'json:{"filename":"a"}'), [], "not understood", id="a relative name in JSON"),
        pytest.param(qcow2(b'json:{"filename":7}'), [], "not understood", id="a number for a name"),
        pytest.param(
            qcow2(b'json:{"filename":"/a","x":{"file":"n"}}'), ["/a"], "not understood", id="understood in part"
        ),
    ],
)
def test_what_is_not_known(head: bytes, names: list[str], why: str) -> None:
    """What is not understood says why, and what is understood of it counts."""
    found = names_in(head)
    assert found.names == tuple(names)
    assert why in found.why


def test_all_doubts_are_told() -> None:
    """One doubt hides no other."""
    found = names_in(qcow2(b"file:a", snapshots=1))
    assert "working directory; its internal snapshots" in found.why


@given(st.binary(max_size=300), st.sampled_from([b"", b"QFI\xfb\0\0\0\3", b"QED\0", b"KDMV"]))
def test_no_bytes_do_harm(tail: bytes, magic: bytes) -> None:
    """Whatever a guest writes there: an answer, and short names."""
    assert all(len(name) <= 4095 for name in names_in(magic + tail).names)
