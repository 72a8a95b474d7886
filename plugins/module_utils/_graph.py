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
    """

    below: Mapping[str, Mapping[str, str]]
    users: Mapping[str, tuple[str, ...]]
    jobs: Mapping[str, tuple[str, ...]]

    @classmethod
    def from_qmp(cls, reply: Mapping[str, Any]) -> Graph:
        """Read the reply of ``x-debug-query-block-graph``."""
        members = {member["id"]: member for member in reply["nodes"]}
        below: dict[str, dict[str, str]] = {m["name"]: {} for m in members.values() if m["type"] == "block-driver"}
        users: dict[str, list[str]] = {name: [] for name in below}
        jobs: dict[str, list[str]] = {m["name"]: [] for m in members.values() if m["type"] == "block-job"}
        for edge in reply["edges"]:
            parent, child = members[edge["parent"]], members[edge["child"]]["name"]
            users.setdefault(child, []).append(_in_words(parent["type"], parent["name"]))
            if parent["type"] == "block-driver":
                below[parent["name"]][edge["name"]] = child
            elif parent["type"] == "block-job":
                # QEMU 5.2 calls the written node "main node"; later ones put a filter there and call it "active node".
                written = edge["name"] == "active node"
                jobs[parent["name"]].insert(0 if written else len(jobs[parent["name"]]), child)
        return cls(
            below=below,
            users={name: tuple(sorted(set(words))) for name, words in users.items()},
            jobs={job_id: tuple(nodes) for job_id, nodes in jobs.items()},
        )

    def child(self, node: str | None, role: str) -> str | None:
        """The node that ``node`` uses as ``role``, if there is one."""
        return self.below.get(node, {}).get(role) if node is not None else None

    def descendants(self, node: str) -> Iterator[str]:
        """The nodes that make up the image of ``node``: all below it but its backing chain, top down."""
        for role, child in self.below.get(node, {}).items():
            if role != "backing":
                yield child
                yield from self.descendants(child)


def _in_words(kind: str, name: str) -> str:
    """Name a member of the graph for people."""
    if kind == "block-driver":
        return f"node {name}"
    if kind == "block-job":
        return f"job {name}"
    return f"device or export {name}".rstrip()
