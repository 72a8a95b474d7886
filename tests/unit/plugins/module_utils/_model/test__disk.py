# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.virtops.qmp.plugins.module_utils._model._disk import (
    Disk,
    Image,
    is_local,
    plain_path,
)
from ansible_collections.virtops.qmp.plugins.module_utils._model._errors import AnswersDiffer, MonitorUnusable
from ansible_collections.virtops.qmp.plugins.module_utils._model._files import Bound, Named
from ansible_collections.virtops.qmp.plugins.module_utils._model._graph import Graph
from ansible_collections.virtops.qmp.plugins.module_utils._model._reader import FILENAME, LAYERS, Members
from ansible_collections.virtops.qmp.tests.unit.builders import (
    EMPTY,
    NO_GRAPH,
    bound_to,
    disk,
    image,
    recorded,
    recorded_vm,
)
from ansible_collections.virtops.qmp.tests.unit.fake_qemu import inode_of, named

MIB = 1024 * 1024
QDEV = "/machine/peripheral/vda/virtio-backend"


def read_disk(entry: Any, graph: Graph = NO_GRAPH) -> Disk:
    return Disk.from_qmp(Members(entry, "query-block"), graph)


def find(name: str, label: str) -> Disk:
    return next(each for each in recorded_vm(name).disks if each.label == label)


@pytest.mark.parametrize(
    ("name", "label", "chain"),
    [
        pytest.param(
            "qemu-7.2-drive",
            "vda",
            [("/vms/a-top.qcow2", "qcow2"), ("/vms/a-mid1.qcow2", "qcow2"), ("/vms/a-base.qcow2", "qcow2")],
            id="-drive",
        ),
        pytest.param("qemu-7.2-drive", "cd0", [], id="empty drive"),
        pytest.param(
            "qemu-7.2-blockdev", "sda", [("/vms/b-top.qcow2", "qcow2"), ("/vms/b-base.qcow2", "qcow2")], id="-blockdev"
        ),
        pytest.param(
            "qemu-7.2-filters",
            "vda",
            [("/vms/a-top.qcow2", "qcow2"), ("/vms/a-base.qcow2", "qcow2")],
            id="copy-on-read over throttle",
        ),
        pytest.param(
            "qemu-7.2-filters", "vdb", [("/vms/b-top.qcow2", "qcow2"), ("/vms/b-base.qcow2", "qcow2")], id="throttle"
        ),
        pytest.param("qemu-7.2-raw-over-chain", "vda", [("/vms/top.qcow2", "raw")], id="raw over qcow2"),
        pytest.param("qemu-7.2-raw-over-chain", "vdb", [("/vms/alone.raw", "raw")], id="raw"),
        pytest.param(
            "qemu-7.2-json-names", "vda", [("/vms/top.qcow2", "qcow2"), ("/vms/base.qcow2", "qcow2")], id="json:"
        ),
        pytest.param(
            "qemu-7.2-nbd",
            "vda",
            [("/vms/top.qcow2", "qcow2"), ("nbd+unix://?socket=/vms/nbd.sock", "raw")],
            id="base over NBD",
        ),
        pytest.param(
            "qemu-7.2-relative-names",
            "vda",
            [("top.qcow2", "qcow2"), ("mid1.qcow2", "qcow2"), ("base.qcow2", "qcow2")],
            id="relative names",
        ),
        pytest.param(
            "qemu-7.2-pending",
            "vda",
            [("/vms/top.qcow2", "qcow2"), ("/vms/mid1.qcow2", "qcow2"), ("/vms/base.qcow2", "qcow2")],
            id="the chain is whole while a stream is pending",
        ),
        pytest.param("qemu-7.2-concluded", "vda", [("/vms/top.qcow2", "qcow2")], id="alone once it is concluded"),
    ],
)
def test_the_chain_lists_images_top_first(name: str, label: str, chain: list[tuple[str, str]]) -> None:
    """Whatever way a disk was given to QEMU, its chain is the list of its images, as people name them."""
    assert [(each.path, each.format) for each in find(name, label).chain] == chain


@pytest.mark.parametrize(
    ("name", "label", "nodes"),
    [
        pytest.param(
            "qemu-7.2-named-nodes",
            "vda",
            [("top", "top-file"), ("mid", "mid-file"), ("base", "base-file")],
            id="named nodes",
        ),
        pytest.param(
            "qemu-7.2-filters",
            "vda",
            [("cor-a", "slow-a", "node-a", "#block006"), ("#block004", "#block005")],
            id="filters belong to the image below them",
        ),
        pytest.param(
            "qemu-7.2-json-names", "vda", [("top", "#block001"), ("base", "base-faults", "#block002")], id="blkdebug"
        ),
        pytest.param(
            "qemu-7.2-pending",
            "vda",
            [("top", "top-file"), ("mid", "mid-file"), ("base", "base-file")],
            id="without the filter of a stream",
        ),
    ],
)
def test_an_image_knows_its_nodes(name: str, label: str, nodes: list[tuple[str, ...]]) -> None:
    """Each image has the names of its nodes, top down."""
    assert [each.nodes for each in find(name, label).chain] == nodes


@pytest.mark.parametrize(
    ("name", "label", "node"),
    [
        pytest.param("qemu-7.2-filters", "vda", "node-a", id="under two filters"),
        pytest.param("qemu-7.2-filters", "vdb", "node-b", id="under one filter"),
        pytest.param("qemu-7.2-named-nodes", "vda", "top", id="no filter"),
    ],
)
def test_the_node_of_the_top_is_the_format_node(name: str, label: str, node: str) -> None:
    """QEMU 5.2 dies of a stream to a filter, so what is streamed is the node below all filters."""
    assert find(name, label).top.node_name == node


@pytest.mark.parametrize(
    ("name", "label", "sizes"),
    [
        pytest.param(
            "qemu-7.2-drive", "vda", [(16 * MIB, 987136), (16 * MIB, 987136), (16 * MIB, 4132864)], id="files"
        ),
        pytest.param("qemu-7.2-nbd", "vda", [(16 * MIB, 987136), (16 * MIB, None)], id="NBD tells no allocation"),
    ],
)
def test_sizes(name: str, label: str, sizes: list[tuple[int, int | None]]) -> None:
    """The sizes are QEMU's, and None where it has none."""
    assert [(each.virtual_size, each.allocated) for each in find(name, label).chain] == sizes


@pytest.mark.parametrize(
    ("name", "label", "files"),
    [
        pytest.param(
            "qemu-7.2-relative-names", "vda", ["/vms/top.qcow2", "/vms/mid1.qcow2", "/vms/base.qcow2"], id="relative"
        ),
        pytest.param("qemu-7.2-nbd", "vda", ["/vms/top.qcow2", None], id="NBD"),
        pytest.param("qemu-7.2-json-names", "vda", ["/vms/top.qcow2", "/vms/base.qcow2"], id="json:"),
    ],
)
def test_files_are_absolute(name: str, label: str, files: list[str | None]) -> None:
    """A local image has the absolute path of its file, another one has none."""
    assert [each.file for each in find(name, label).chain] == files


@pytest.mark.parametrize(
    ("name", "read_only"),
    [pytest.param("vda", False, id="writable"), pytest.param("vdb", True, id="read-only")],
)
def test_read_only(name: str, read_only: bool) -> None:
    """A disk is read-only if QEMU says so."""
    assert find("qemu-7.2-drive", name).read_only is read_only


def test_under_filters_a_running_stream_changes_no_node() -> None:
    """QEMU puts a filter of the job between the user's filters and the image: the nodes are read as without it."""
    running, before = find("qemu-7.2-running-under-filters", "vda"), find("qemu-7.2-filters", "vda")
    assert (running.top.node_name, running.hidden_backing) == (before.top.node_name, None)
    assert running.chain[1].node_name is not None


def test_a_graph_that_does_not_show_the_disk_gives_no_names_below_the_top() -> None:
    """Without the graph a chain is read all the same; only node names are missing."""
    entry = recorded("qemu-7.2-filters")["query-block"][0]
    read = read_disk(entry)
    assert [(each.path, each.node_name) for each in read.chain] == [
        ("/vms/a-top.qcow2", None),
        ("/vms/a-base.qcow2", None),
    ]


def test_filters_whose_nodes_are_unknown_are_passed_over() -> None:
    """Two filters in the image and none in the graph: the chain still lists images only."""
    layer = {"format": "qcow2", "filename": "/vms/top.qcow2", "virtual-size": 1}
    inner = {"format": "throttle", "filename": "json:{}", "virtual-size": 1, "backing-image": layer}
    outer = {"format": "copy-on-read", "filename": "json:{}", "virtual-size": 1, "backing-image": inner}
    entry = {"device": "", "inserted": {"node-name": "cor", "ro": False, "image": outer}}
    read = read_disk(entry)
    assert [(each.path, each.nodes) for each in read.chain] == [("/vms/top.qcow2", ("cor",))]


def layers(number: int, **members: Any) -> dict[str, Any]:
    """The nested `image` of a chain."""
    found: dict[str, Any] = {}
    for place in range(number):
        below = {"backing-image": found} if found else {}
        found = {"format": "qcow2", "filename": f"/vms/{place}", "virtual-size": 1, **below, **members}
    return found


def inserted(image: Any, node: str = "top") -> dict[str, Any]:
    return {"device": "d", "inserted": {"node-name": node, "ro": False, "image": image}}


def test_a_chain_of_any_depth_that_qemu_opens_is_read() -> None:
    """Chains are walked, not descended: none is too deep for Python."""
    assert len(read_disk(inserted(layers(LAYERS))).chain) == LAYERS


@pytest.mark.parametrize(
    ("image", "words"),
    [
        pytest.param(layers(LAYERS + 1), f"a chain of more than {LAYERS} images", id="too deep"),
        pytest.param(layers(1, format="throttle"), "a filter above no image", id="a filter alone"),
        pytest.param(layers(1, filename="x" * (FILENAME + 1)), "'filename' is longer than 4096", id="a long name"),
        pytest.param(layers(1, **{"virtual-size": "x"}), "'virtual-size' is text, not a size", id="a size in words"),
        pytest.param(layers(1, **{"actual-size": -1}), "'actual-size' is out of range", id="less than nothing"),
        pytest.param(layers(1, snapshots=7), "'snapshots' is an integer, not a list", id="no list of snapshots"),
    ],
)
def test_a_chain_that_no_qemu_shows(image: Any, words: str) -> None:
    """What does not fit is told with the command, the member and the reason."""
    with pytest.raises(MonitorUnusable, match=f"query-block brings what no QEMU since 4.0 sends: {words}"):
        read_disk(inserted(image))


@pytest.mark.parametrize(
    ("image", "below"),
    [
        pytest.param(layers(1), {"top": {"backing": "base"}, "base": {}}, id="below the image"),
        pytest.param(
            {**layers(2, format="throttle"), "backing-image": layers(1)},
            {"top": {"file": "x", "backing": "base"}, "x": {}, "base": {}},
            id="below a filter",
        ),
    ],
)
def test_a_backing_image_that_only_the_graph_shows(image: Any, below: Any) -> None:
    """No disk is alone because its chain was left out of one of two answers."""
    with pytest.raises(AnswersDiffer, match="query-block shows no image below node top, and the block graph does"):
        read_disk(inserted(image), Graph(below, {}, {}))


def test_a_node_is_part_of_one_image_of_a_chain() -> None:
    """Where a graph makes all images stand on the same nodes, they count once."""
    below = {"top": {"backing": "mid", "file": "hub"}, "mid": {"file": "hub"}, "hub": {"a": "x", "b": "y"}}
    chain = read_disk(inserted(layers(2)), Graph(below, {}, {})).chain
    assert [each.nodes for each in chain] == [("top", "hub", "x", "y"), ("mid",)]


@pytest.mark.parametrize(
    ("subject", "populated"),
    [
        pytest.param(disk("top"), True, id="one image"),
        pytest.param(disk("top", "base"), False, id="two images"),
        pytest.param(EMPTY, False, id="no medium"),
        pytest.param(find("qemu-7.2-raw-over-chain", "vda"), False, id="a chain below a raw node"),
        pytest.param(find("qemu-7.2-raw-over-chain", "vdb"), True, id="raw"),
    ],
)
def test_is_populated(subject: Disk, populated: bool) -> None:
    """A disk is populated when it needs no other image, and never by another sign."""
    assert subject.is_populated is populated


@pytest.mark.parametrize(
    ("listed", "count"),
    [
        pytest.param({}, 0, id="none: QEMU says nothing"),
        pytest.param({"snapshots": [{"id": "1"}, {"id": "2"}]}, 2, id="two"),
    ],
)
def test_snapshots_are_counted(listed: dict[str, Any], count: int) -> None:
    """The internal snapshots of the active image are counted."""
    shown = {"filename": "/vms/top.qcow2", "format": "qcow2", "virtual-size": 1000, **listed}
    entry = {"device": "drive0", "inserted": {"node-name": "top", "ro": False, "image": shown}}
    assert read_disk(entry).snapshots == count


def test_a_chain_below_a_raw_node_is_seen() -> None:
    """QEMU hides the backing chain below a raw node; the graph shows it."""
    assert find("qemu-7.2-raw-over-chain", "vda").hidden_backing == "below"


@pytest.mark.parametrize(
    ("subject", "label", "key"),
    [
        pytest.param(disk(device="drive0"), "vda", QDEV, id="a device with an id"),
        pytest.param(disk(qdev="sda", device="drive0"), "sda", "sda", id="SCSI or IDE"),
        pytest.param(
            disk(qdev="/machine/peripheral/my.disk"), "my.disk", "/machine/peripheral/my.disk", id="no backend"
        ),
        pytest.param(
            disk(qdev="/machine/peripheral-anon/device[0]/virtio-backend", device="drive0"),
            "drive0",
            "/machine/peripheral-anon/device[0]/virtio-backend",
            id="a device without an id, with a drive",
        ),
        pytest.param(
            disk(qdev="/machine/unattached/device[18]", device="ide0-hd0"),
            "ide0-hd0",
            "/machine/unattached/device[18]",
            id="a device that QEMU made itself (-drive if=ide)",
        ),
        pytest.param(
            disk(qdev="/machine/peripheral-anon/device[1]"),
            "top",
            "/machine/peripheral-anon/device[1]",
            id="a device without an id, with a named node",
        ),
        pytest.param(
            disk(qdev="/machine/peripheral-anon/device[1]", node_name="#block1"),
            "/vms/top.qcow2",
            "/machine/peripheral-anon/device[1]",
            id="nothing has a name",
        ),
        pytest.param(
            disk(image(path="a.qcow2", file="/vms/a.qcow2"), qdev="", node_name="#block1"),
            "/vms/a.qcow2",
            "#block1",
            id="nothing has a name, and QEMU knows its image by a relative one",
        ),
        pytest.param(
            disk(image(path="nbd://host/x", file=None), qdev="", node_name="#block1"),
            "nbd://host/x",
            "#block1",
            id="nothing has a name, and its image is no file",
        ),
        pytest.param(
            Disk("", "/machine/peripheral-anon/device[1]", None, False, ()),
            "/machine/peripheral-anon/device[1]",
            "/machine/peripheral-anon/device[1]",
            id="an empty drive without an id",
        ),
        pytest.param(disk(qdev="", device="unused"), "unused", "unused", id="a drive without a device"),
        pytest.param(disk(qdev="", device=""), "top", "top", id="a node only"),
        pytest.param(Disk("", "", None, False, ()), "", "", id="nothing at all"),
    ],
)
def test_label_and_key(subject: Disk, label: str, key: str) -> None:
    """People read the shortest name that somebody gave; the key is what no stream changes."""
    assert (subject.label, subject.key) == (label, key)


@pytest.mark.parametrize(
    ("subject", "names"),
    [
        pytest.param(
            find("qemu-7.2-drive", "vda"), ("vda", QDEV, "drive0", "#block001", "/vms/a-top.qcow2"), id="-drive"
        ),
        pytest.param(
            find("qemu-7.2-filters", "vda"), ("vda", QDEV, "cor-a", "node-a", "/vms/a-top.qcow2"), id="filter and node"
        ),
        pytest.param(
            find("qemu-7.2-relative-names", "vda"),
            ("vda", QDEV, "drive0", "#block001", "top.qcow2", "/vms/top.qcow2"),
            id="both paths",
        ),
        pytest.param(EMPTY, ("cd0",), id="empty drive"),
    ],
)
def test_names(subject: Disk, names: tuple[str, ...]) -> None:
    """Every name of a disk is listed once."""
    assert subject.names == names


@pytest.mark.parametrize(
    ("name", "file", "answers"),
    [
        pytest.param("vda", "/vms/vda", True, id="qdev id"),
        pytest.param(QDEV, QDEV, True, id="qdev path"),
        pytest.param("top", "/vms/top", True, id="node name"),
        pytest.param("link.qcow2", "/vms/top.qcow2", True, id="another name of the file"),
        pytest.param("base", "/vms/base", False, id="a node below the top"),
        pytest.param("/vms/base.qcow2", "/vms/base.qcow2", False, id="an image below the top"),
        pytest.param("", None, False, id="no name"),
        pytest.param("vd", None, False, id="part of a name"),
    ],
)
def test_answers_to(name: str, file: str | None, answers: bool) -> None:
    """A disk answers to its own names and to no other."""
    assert disk().answers_to(name, Named() if file is None else named(file)) is answers


def test_an_empty_drive_answers_to_its_id_only() -> None:
    """Without a medium there is no file to be called by."""
    assert EMPTY.answers_to("cd0", Named())
    assert not EMPTY.answers_to("x", Named())


@pytest.mark.parametrize(
    ("name", "file", "place"),
    [
        pytest.param("/vms/top.qcow2", None, 0, id="top"),
        pytest.param("mid", None, 1, id="node name"),
        pytest.param("./base.qcow2", "/vms/base.qcow2", 2, id="file"),
        pytest.param("other", "/vms/other", None, id="not in the chain"),
    ],
)
def test_find_base(name: str, file: str | None, place: int | None) -> None:
    """An image of the chain is found by its path, its node or its file."""
    assert disk("top", "mid", "base").find_base(name, Named() if file is None else named(file)) == place


def test_an_image_without_a_file_is_not_called_by_none() -> None:
    """A name that is no local path does not mean an image that is no local file."""
    remote = image(path="nbd://host/base", file=None)
    assert not remote.is_called("rbd:pool/other", Named())


@pytest.mark.parametrize(
    ("bound", "meaning", "is_called"),
    [
        pytest.param(bound_to("/vms/x"), Named(inode=inode_of("/vms/x")), True, id="what the name is to QEMU"),
        pytest.param(bound_to("/vms/x"), Named(inode_here=inode_of("/vms/x")), True, id="what this host finds"),
        pytest.param(bound_to("/vms/x"), Named(here="/vms/x", inode_here=inode_of("/y")), False, id="another file"),
        pytest.param(Bound(file="/vms/x"), Named(here="/vms/x"), True, id="only the path is known, and it is the same"),
        pytest.param(Bound(file="/vms/x"), Named(here="/vms/y"), False, id="only the path is known, and it is not"),
        pytest.param(Bound(), Named(), False, id="nothing is known"),
    ],
)
def test_a_file_is_the_same_by_any_name(bound: Bound, meaning: Named, is_called: bool) -> None:
    """What a name leads to decides, not how it reads."""
    assert image(bound=bound).is_called("another", meaning) is is_called


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        pytest.param(image("top"), image("top", path="json:{}"), True, id="a node keeps its name"),
        pytest.param(image("top"), image("base", path="/vms/top.qcow2"), False, id="another node"),
        pytest.param(image(node_name=None), image("top"), True, id="without a node the path tells"),
    ],
)
def test_an_image_at_two_moments(one: Image, other: Image, same: bool) -> None:
    """An image is found again after a stream, which may change how QEMU reports it."""
    assert one.is_same(other) is same


@pytest.mark.parametrize(
    ("subject", "size"), [pytest.param(disk(), 1000, id="disk"), pytest.param(EMPTY, 0, id="empty drive")]
)
def test_virtual_size(subject: Disk, size: int) -> None:
    """The size is what the guest sees, and 0 without a medium."""
    assert subject.virtual_size == size


@pytest.mark.parametrize(
    ("path", "local"),
    [
        pytest.param("/vms/top.qcow2", True, id="absolute"),
        pytest.param("top.qcow2", True, id="relative"),
        pytest.param("/vms/a:b.qcow2", True, id="colon behind a slash"),
        pytest.param("./a:b.qcow2", True, id="colon behind a dot"),
        pytest.param("nbd+unix://?socket=/vms/nbd.sock", False, id="NBD"),
        pytest.param("rbd:pool/image", False, id="RBD"),
        pytest.param('json:{"driver":"qcow2"}', False, id="json:"),
        pytest.param("", True, id="empty"),
    ],
)
def test_is_local(path: str, local: bool) -> None:
    """QEMU takes a name for a file unless a protocol stands before the first slash."""
    assert is_local(path) is local


@pytest.mark.parametrize(
    ("reported", "path"),
    [
        pytest.param("/vms/top.qcow2", "/vms/top.qcow2", id="plain"),
        pytest.param('json:{"driver":"file","filename":"/f"}', "/f", id="file"),
        pytest.param('json:{"driver":"host_device","filename":"/dev/sda"}', "/dev/sda", id="device"),
        pytest.param(
            'json:{"backing":{"driver":"file","filename":"/b"},"driver":"qcow2","file":{"driver":"file","filename":"/f"}}',
            "/f",
            id="its own file, not the backing one",
        ),
        pytest.param(
            'json:{"driver":"qcow2","file":{"driver":"blkdebug","image":{"driver":"file","filename":"/f"}}}',
            "/f",
            id="through blkdebug",
        ),
        pytest.param(
            'json:{"driver":"raw","file":{"driver":"nbd","server.path":"/n"}}',
            'json:{"driver":"raw","file":{"driver":"nbd","server.path":"/n"}}',
            id="no file",
        ),
        pytest.param(
            'json:{"driver":"qcow2","file":"node"}', 'json:{"driver":"qcow2","file":"node"}', id="a reference"
        ),
        pytest.param(
            'json:{"driver":"file","filename":7}', 'json:{"driver":"file","filename":7}', id="a name that is no text"
        ),
        pytest.param("json:{broken", "json:{broken", id="no JSON"),
        pytest.param("json:" + "[" * 4000, "json:" + "[" * 4000, id="nested without end"),
        pytest.param(
            'json:{"driver":"file","filename":"\\u0000"}',
            'json:{"driver":"file","filename":"\\u0000"}',
            id="a NUL, which no name has",
        ),
    ],
)
def test_plain_path(reported: str, path: str) -> None:
    """The file is taken out of `json:`; what holds no file stays as QEMU reports it."""
    assert plain_path(reported) == path


def test_image_defaults() -> None:
    """An image may be given without its nodes."""
    assert Image("/p", "raw", 1, None, None).nodes == ()
