# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""QEMU's block graph: which node stands on which, and what a job works on.

Read with ``x-debug-query-block-graph``, which every QEMU since 4.0 has. ``query-named-block-nodes`` says more, but it
kills QEMU 7.2 while any stream job is concluded and not dismissed, and holds QEMU for seconds on deep chains: it is
never sent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Iterator, Mapping


@dataclass(frozen=True)
class Graph:
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
    def from_qmp(cls, reply: Mapping[str, Any]) -> Graph:
        """Read the reply of ``x-debug-query-block-graph``."""
        members = {member["id"]: member for member in reply["nodes"]}
        below: dict[str, dict[str, str]] = {m["name"]: {} for m in members.values() if m["type"] == "block-driver"}
        users: dict[str, list[str]] = {name: [] for name in below}
        jobs: dict[str, list[tuple[str, str]]] = {m["name"]: [] for m in members.values() if m["type"] == "block-job"}
        for edge in reply["edges"]:
            parent, child = members[edge["parent"]], members[edge["child"]]["name"]
            users.setdefault(child, []).append(_in_words(parent["type"], parent["name"]))
            if parent["type"] == "block-driver":
                below[parent["name"]][edge["name"]] = child
            elif parent["type"] == "block-job":
                jobs[parent["name"]].append((edge["name"], child))
        roles = [dict(nodes) for nodes in jobs.values()]
        return cls(
            below=below,
            users={name: tuple(sorted(set(words))) for name, words in users.items()},
            jobs={job_id: _written_first(nodes) for job_id, nodes in jobs.items()},
            inserted=frozenset(nodes["main node"] for nodes in roles if {"main node", "active node"} <= nodes.keys()),
        )

    def child(self, node: str | None, role: str) -> str | None:
        """The node that ``node`` uses as ``role``, if there is one, under what QEMU inserted."""
        found = self.below.get(node, {}).get(role) if node is not None else None
        return self.child(found, "file") if found in self.inserted else found

    def descendants(self, node: str) -> Iterator[str]:
        """The nodes that make up the image of ``node``: all below it but its backing chain, top down."""
        for role, child in self.below.get(node, {}).items():
            if role != "backing":
                yield child
                yield from self.descendants(child)


def _written_first(uses: list[tuple[str, str]]) -> tuple[str, ...]:
    """QEMU 5.2 calls the written node "main node". Later ones put a filter there, and call it "active node"."""
    return tuple(node for _role, node in sorted(uses, key=lambda use: use[0] != "active node"))


def _in_words(kind: str, name: str) -> str:
    """Name a member of the graph for people."""
    if kind == "block-driver":
        return f"node {name}"
    if kind == "block-job":
        return f"job {name}"
    return f"device or export {name}".rstrip()
