# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""QEMU's block graph: which node stands on which, and what a job works on.

Read with ``x-debug-query-block-graph``, which every QEMU since 4.0 has. ``query-named-block-nodes`` says more, but it
kills QEMU 7.2 while any stream job is concluded and not dismissed, and holds QEMU for seconds on deep chains: it is
never sent.
"""

from __future__ import annotations

from typing import Any, Collection, Iterable, Mapping, NamedTuple, Sequence

from ._reader import EDGES, NODES, Members, unfit

_COMMAND = "x-debug-query-block-graph"

# Each stream inserts one filter, and an image is written to by one stream: more in a row are a circle, or a lie.
_MOST_INSERTED = 16


class Graph(NamedTuple):
    """The block graph at one moment.

    ``below``: node name to its children by role (``file``, ``backing``...).
    ``users``: node name to all that uses it, in words (``node top``, ``device vda``, ``job j1``).
    ``jobs``: job id to the nodes it works on, the one it writes to first.
    ``inserted``: the filters that QEMU itself put above the nodes that streams write to; ``query-block`` hides them.
    """

    below: Mapping[str, Mapping[str, str]]
    users: Mapping[str, tuple[str, ...]]
    jobs: Mapping[str, tuple[str, ...]]
    inserted: frozenset[str] = frozenset()

    @classmethod
    def from_qmp(cls, reply: Any) -> Graph:
        """Read the reply of ``x-debug-query-block-graph``."""
        graph = Members(reply, _COMMAND)
        members = _members(graph)
        below: dict[str, dict[str, str]] = {}
        users: dict[str, set[str]] = {}
        jobs: dict[str, list[tuple[str, str]]] = {}
        for member in members.values():
            if member.type == "block-driver":
                below[member.name] = {}
                users[member.name] = set()
            elif member.type == "block-job":
                jobs[member.name] = []
        for edge in graph.items("edges", EDGES):
            parent = _end(members, edge, "parent")
            child = _end(members, edge, "child").name
            role = edge.text("name")
            users.setdefault(child, set()).add(_in_words(parent.type, parent.name))
            if parent.type == "block-driver":
                below[parent.name][role] = child
            elif parent.type == "block-job":
                jobs[parent.name].append((role, child))
        return cls(
            below=below,
            users={name: tuple(sorted(words)) for name, words in users.items()},
            jobs={job_id: _written_first(nodes) for job_id, nodes in jobs.items()},
            inserted=_inserted(jobs.values()),
        )

    def child(self, node: str | None, role: str) -> str | None:
        """The node that ``node`` uses as ``role``, if there is one, under what QEMU inserted."""
        found = self._next(node, role)
        for _filter in range(_MOST_INSERTED):
            if found not in self.inserted:
                return found
            found = self._next(found, "file")
        return None

    def descendants(self, node: str | None, but: Collection[str] = ()) -> tuple[str, ...]:
        """The nodes that make up the image of ``node``: all below it but its backing chain, top down, each once.

        :param but: nodes that are known already, which are left out with all below them.
        """
        # A dict, for a set would not keep the order.
        found: dict[str, None] = {}
        todo = self._parts(node)
        while todo:
            each = todo.pop()
            if each not in found and each not in but:
                found[each] = None
                todo += self._parts(each)
        return tuple(found)

    def _next(self, node: str | None, role: str) -> str | None:
        if node is None:
            return None
        return self.below.get(node, {}).get(role)

    def _parts(self, node: str | None) -> list[str]:
        """The children of a node but its backing chain, the first one last."""
        parts: list[str] = []
        if node is None:
            return parts
        for role, child in self.below.get(node, {}).items():
            if role != "backing":
                parts.append(child)
        parts.reverse()
        return parts


class _Member(NamedTuple):
    """What QEMU calls a node of the graph: a block node, a job, or a device or export."""

    id: int
    type: str
    name: str

    @classmethod
    def from_qmp(cls, member: Members) -> _Member:
        return cls(id=member.size("id"), type=member.text("type"), name=member.text("name"))


def _members(graph: Members) -> dict[int, _Member]:
    """The nodes of the graph by their ids, which the edges name them by."""
    members: dict[int, _Member] = {}
    for each in graph.items("nodes", NODES):
        member = _Member.from_qmp(each)
        members[member.id] = member
    return members


def _end(members: Mapping[int, _Member], edge: Members, name: str) -> _Member:
    """The member at an end of an edge."""
    found = members.get(edge.size(name))
    if found is None:
        raise unfit(_COMMAND, f"{name!r} of an edge is none of the nodes")
    return found


def _written_first(uses: list[tuple[str, str]]) -> tuple[str, ...]:
    """QEMU 5.2 calls the written node "main node". Later ones put a filter there, and call it "active node"."""
    written: list[str] = []
    others: list[str] = []
    for role, node in uses:
        if role == "active node":
            written.append(node)
        else:
            others.append(node)
    return (*written, *others)


def _inserted(jobs: Iterable[Sequence[tuple[str, str]]]) -> frozenset[str]:
    """The filters that QEMU put above the nodes that streams write to, which only then are called "active node"."""
    filters: set[str] = set()
    for uses in jobs:
        nodes = dict(uses)
        if "main node" in nodes and "active node" in nodes:
            filters.add(nodes["main node"])
    return frozenset(filters)


def _in_words(kind: str, name: str) -> str:
    """Name a member of the graph for people."""
    if kind == "block-driver":
        return f"node {name}"
    if kind == "block-job":
        return f"job {name}"
    return f"device or export {name}".rstrip()
