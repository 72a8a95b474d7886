# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""The fake is as honest as these tests: it shows what a recorded QEMU shows in the same state."""

from __future__ import annotations

import re
from typing import Any, Callable  # noqa: UP035  # Python 3.8

import pytest
from ansible_collections.virtops.qmp.plugins.module_utils._model._errors import CommandRefused
from ansible_collections.virtops.qmp.tests.unit import clock
from ansible_collections.virtops.qmp.tests.unit.builders import recorded
from ansible_collections.virtops.qmp.tests.unit.fake_qemu import FakeQemu

Act = Callable[[FakeQemu], object]
START = {"job-id": "job0", "device": "top"}


def pend(qemu: FakeQemu) -> None:
    qemu.stream("top", "job0", base_node="base", auto_finalize=False)
    qemu._end(qemu.jobs["job0"])


def conclude(qemu: FakeQemu) -> None:
    qemu.stream("top", "job0", auto_dismiss=False)
    qemu._end(qemu.jobs["job0"])


def after(act: Act) -> FakeQemu:
    """A chain of named nodes as the recordings have it, after this."""

    async def work() -> FakeQemu:
        qemu = FakeQemu()
        qemu.add("vda", "top.qcow2", "mid.qcow2", "base.qcow2", named=True)
        act(qemu)
        return qemu

    qemu: FakeQemu = clock.run(work())
    return qemu


def edges(graph: dict[str, Any]) -> set[tuple[str, str, str]]:
    """Who uses whom as what; names that QEMU or the fake made up are one."""
    names = {node["id"]: re.sub(r"^#.*", "#", node["name"]) for node in graph["nodes"]}
    found = {(names[edge["parent"]], edge["name"], names[edge["child"]]) for edge in graph["edges"]}
    return {edge for edge in found if edge[0]}  # the job's own device has no name


@pytest.mark.parametrize(
    ("name", "act"),
    [
        pytest.param("qemu-7.2-named-nodes", lambda qemu: None, id="no job"),
        pytest.param("qemu-7.2-pending", pend, id="a stream is pending"),
        pytest.param("qemu-7.2-concluded", conclude, id="a stream is concluded"),
    ],
)
def test_the_graph_is_qemus(name: str, act: Act) -> None:
    """Nodes, jobs and devices hang together as in QEMU 7.2."""
    assert edges(after(act)._x_debug_query_block_graph({})) == edges(recorded(name)["x-debug-query-block-graph"])


@pytest.mark.parametrize(
    ("name", "act"),
    [
        pytest.param("qemu-7.2-pending", pend, id="pending"),
        pytest.param("qemu-7.2-concluded", conclude, id="concluded"),
    ],
)
def test_a_job_has_qemus_members(name: str, act: Act) -> None:
    """A job tells the same members as in QEMU 7.2, and the same state."""
    (theirs,) = recorded(name)["query-block-jobs"]
    (ours,) = after(act)._query_block_jobs({})
    same = ("status", "paused", "io-status", "auto-finalize", "auto-dismiss", "type", "device")
    assert set(ours) == set(theirs)
    assert {key: ours[key] for key in same} == {key: theirs[key] for key in same}


def test_a_disk_has_no_member_that_qemu_has_not() -> None:
    """What the fake tells of a disk QEMU 7.2 tells, too."""
    (theirs,) = recorded("qemu-7.2-named-nodes")["query-block"]
    (ours,) = after(lambda qemu: None)._query_block({})
    assert set(ours) <= set(theirs)
    assert set(ours["inserted"]) <= set(theirs["inserted"])
    assert set(ours["inserted"]["image"]) <= set(theirs["inserted"]["image"])


@pytest.mark.parametrize(
    ("first", "command", "arguments", "reason"),
    [
        pytest.param(None, "block-stream", {**START, "device": "x"}, "Cannot find device='x'", id="no such node"),
        pytest.param(
            None, "block-stream", {**START, "bottom": "x"}, "'bottom' is unexpected", id="an unknown argument"
        ),
        pytest.param(None, "block-stream", {**START, "job-id": "1"}, "Invalid job ID '1'", id="a bad id"),
        pytest.param(None, "block-stream", {**START, "device": "top-file"}, "Permission conflict", id="no format node"),
        pytest.param(
            None, "block-stream", {**START, "base-node": "x"}, "is not a backing image", id="a base elsewhere"
        ),
        pytest.param(pend, "block-stream", {**START, "job-id": "j"}, "is busy: block device is in use", id="busy"),
        pytest.param(None, "job-finalize", {"id": "job0"}, "Job not found", id="no job to finalize"),
        pytest.param(conclude, "job-cancel", {"id": "job0"}, "cannot accept command verb 'cancel'", id="too late"),
        pytest.param(pend, "job-dismiss", {"id": "job0"}, "cannot accept command verb 'dismiss'", id="too early"),
        pytest.param(None, "blockdev-del", {"node-name": "mid"}, "is in use", id="a node in use"),
        pytest.param(None, "blockdev-del", {"node-name": "x"}, "Failed to find node", id="no node to delete"),
        pytest.param(None, "query-named-block-nodes", {}, "has not been found", id="what nobody may ask"),
    ],
)
def test_it_refuses_what_qemu_refuses(first: Act | None, command: str, arguments: dict[str, Any], reason: str) -> None:
    """A client that does wrong is told so, as by QEMU."""

    def act(qemu: FakeQemu) -> None:
        if first is not None:
            first(qemu)
        with pytest.raises(CommandRefused, match=reason):
            qemu.serve(command, arguments)

    after(act)


def test_it_knows_what_a_crash_would_cost() -> None:
    """Finalized without a flush, what was copied is lost; so the tests can see who does that."""

    def act(qemu: FakeQemu) -> None:
        pend(qemu)
        qemu.only_in_memory["top"] = "copied clusters"
        qemu.serve("job-finalize", {"id": "job0"})

    qemu = after(act)
    assert (len(qemu.harm), list(qemu.only_in_memory)) == (1, ["top"])
    assert qemu.serve("human-monitor-command", {"command-line": "qemu-io nosuch flush"}).startswith("Error:")
    assert qemu.serve("human-monitor-command", {"command-line": "qemu-io top flush"}) == ""
    assert not qemu.only_in_memory
