# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.virtops.qmp.plugins.module_utils._model._errors import MonitorUnusable
from ansible_collections.virtops.qmp.plugins.module_utils._model._graph import Graph
from ansible_collections.virtops.qmp.tests.unit.builders import recorded

# Made by hand after QEMU 5.2, which has no recording here: there the job's main node is the top itself.
QEMU_5_2 = {
    "nodes": [
        {"id": 1, "type": "block-backend", "name": "drive0"},
        {"id": 2, "type": "block-driver", "name": "top"},
        {"id": 3, "type": "block-driver", "name": "mid"},
        {"id": 4, "type": "block-driver", "name": "base"},
        {"id": 5, "type": "block-job", "name": "job0"},
    ],
    "edges": [
        {"parent": 2, "child": 3, "name": "backing", "perm": [], "shared-perm": []},
        {"parent": 3, "child": 4, "name": "backing", "perm": [], "shared-perm": []},
        {"parent": 5, "child": 2, "name": "main node", "perm": [], "shared-perm": []},
        {"parent": 5, "child": 3, "name": "intermediate node", "perm": [], "shared-perm": []},
        {"parent": 1, "child": 2, "name": "root", "perm": [], "shared-perm": []},
    ],
}


def graph(name: str) -> Graph:
    return Graph.from_qmp(recorded(name)["x-debug-query-block-graph"])


@pytest.mark.parametrize(
    ("reply", "nodes"),
    [
        pytest.param(QEMU_5_2, ("top", "mid"), id="5.2: the main node is the top"),
        pytest.param(
            "qemu-7.2-pending", ("top", "#block001", "mid"), id="7.2: the main node is a filter above the top"
        ),
        pytest.param(
            "qemu-7.2-concluded", ("top", "#block001", "mid", "base"), id="7.2: a concluded job keeps its nodes"
        ),
        pytest.param("qemu-7.2-held", ("top", "#block001", "base"), id="7.2: held by an error"),
    ],
)
def test_the_first_node_of_a_job_is_the_one_it_writes_to(reply: Any, nodes: tuple[str, ...]) -> None:
    """However a QEMU draws a stream, the node that it writes to comes first."""
    answer = recorded(reply)["x-debug-query-block-graph"] if isinstance(reply, str) else reply
    assert Graph.from_qmp(answer).jobs == {"job0": nodes}


@pytest.mark.parametrize(
    ("name", "node", "users"),
    [
        pytest.param("qemu-7.2-named-nodes", "mid", ("node top",), id="a node"),
        pytest.param(
            "qemu-7.2-named-nodes", "top", ("device or export /machine/peripheral/vda/virtio-backend",), id="a device"
        ),
        pytest.param("qemu-7.2-concluded", "mid", ("job job0",), id="a job"),
        pytest.param("qemu-7.2-shared-base", "base", ("node top-a", "node top-b"), id="two nodes"),
        pytest.param(
            "qemu-7.2-held",
            "#block001",
            ("device or export", "device or export /machine/peripheral/vda/virtio-backend", "job job0"),
            id="a device without a name",
        ),
    ],
)
def test_users_are_told_in_words(name: str, node: str, users: tuple[str, ...]) -> None:
    """Everything that uses a node is named for people, each once."""
    assert graph(name).users[node] == users


@pytest.mark.parametrize(
    ("node", "role", "child"),
    [
        pytest.param("top", "backing", "mid", id="backing"),
        pytest.param("top", "file", "top-file", id="file"),
        pytest.param("base", "backing", None, id="no such child"),
        pytest.param("nosuch", "backing", None, id="no such node"),
        pytest.param(None, "backing", None, id="no node"),
    ],
)
def test_child(node: str | None, role: str, child: str | None) -> None:
    """A child is found by its role, and one that is not there is None."""
    assert graph("qemu-7.2-named-nodes").child(node, role) == child


@pytest.mark.parametrize(
    ("name", "node", "below"),
    [
        pytest.param("qemu-7.2-named-nodes", "top", ["top-file"], id="without the backing chain"),
        pytest.param("qemu-7.2-json-names", "base", ["base-faults", "#block002"], id="through blkdebug"),
        pytest.param("qemu-7.2-raw-over-chain", "above", ["below", "#block005"], id="through a raw node"),
        pytest.param("qemu-7.2-named-nodes", "nosuch", [], id="no such node"),
    ],
)
def test_descendants(name: str, node: str, below: list[str]) -> None:
    """The nodes that make up one image, and none of another image of the chain."""
    assert list(graph(name).descendants(node)) == below


def test_a_node_that_many_stand_on_counts_once() -> None:
    """In a graph of 40 floors, each standing on the next by two ways, the nodes are told at once, and each once."""
    below = {f"n{floor}": {"a": f"n{floor + 1}", "b": f"n{floor + 1}"} for floor in range(40)}
    assert Graph(below, {}, {}).descendants("n0") == tuple(f"n{floor}" for floor in range(1, 41))


def test_a_circle_has_an_end() -> None:
    """Nodes that stand on each other are told once, and a circle of inserted filters leads to no node."""
    circle = Graph({"a": {"file": "b"}, "b": {"file": "a"}}, {}, {}, inserted=frozenset({"a", "b"}))
    assert circle.descendants("a") == ("b", "a")
    assert circle.child("a", "file") is None


def test_what_is_known_is_left_out() -> None:
    """The nodes that belong to an image above are none of this one."""
    assert Graph({"a": {"x": "b", "y": "c"}, "b": {"x": "d"}}, {}, {}).descendants("a", {"b"}) == ("c",)


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        pytest.param([], "a list, not an object", id="no object"),
        pytest.param({"nodes": {}, "edges": []}, "'nodes' is an object, not a list", id="nodes that are no list"),
        pytest.param({"nodes": [7], "edges": []}, "an integer, not an object", id="a node that is none"),
        pytest.param({"nodes": [{"id": "1"}], "edges": []}, "'id' is text, not a size", id="an id in words"),
        pytest.param(
            {"nodes": [], "edges": [{"parent": 1, "child": 2, "name": "file"}]},
            "'parent' of an edge is none of the nodes",
            id="an edge of no node",
        ),
        pytest.param({"nodes": [{}] * 32769, "edges": []}, "'nodes' has more than 32768 entries", id="too many"),
    ],
)
def test_a_graph_that_no_qemu_draws(reply: Any, words: str) -> None:
    """What does not fit is told with the command, the member and the reason."""
    with pytest.raises(MonitorUnusable, match=f"x-debug-query-block-graph brings what no QEMU .* sends: {words}"):
        Graph.from_qmp(reply)
