# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from ansible_collections.virtops.qmp.plugins.module_utils._decide._forecast import forecast, plan
from ansible_collections.virtops.qmp.plugins.module_utils._model._job import Job
from ansible_collections.virtops.qmp.plugins.module_utils._model._request import Request
from ansible_collections.virtops.qmp.plugins.module_utils._model._target import Target
from ansible_collections.virtops.qmp.tests.unit.builders import HELD, asking, disk, identity, image, job, target

AS_IT_IS = ("/vms/top.qcow2", "/vms/mid.qcow2", "/vms/base.qcow2")
ALONE = AS_IT_IS[:1]
LONG = disk("top", "mid", "base")


@pytest.mark.parametrize(
    ("subject", "asked", "action", "chain"),
    [
        pytest.param(target(LONG), asking(), "started", ALONE, id="populate"),
        pytest.param(
            target(LONG, base_index=2), asking(base="b"), "started", (AS_IT_IS[0], AS_IT_IS[2]), id="down to a base"
        ),
        pytest.param(target(LONG, base_index=1), asking(base="b"), "none", AS_IT_IS, id="down to the base that it has"),
        pytest.param(target(disk("top")), asking(), "none", ALONE, id="populated"),
        pytest.param(target(LONG, job()), asking(), "joined", ALONE, id="a stream runs"),
        pytest.param(target(LONG, job("pending")), asking(), "joined", ALONE, id="a stream is pending"),
        pytest.param(target(LONG, HELD), asking(), "resumed", ALONE, id="a stream is held"),
        pytest.param(target(LONG, job()), asking(speed=9), "retuned", ALONE, id="another speed"),
        pytest.param(target(LONG), asking(wait=False), "started", AS_IT_IS, id="without waiting the chain stays"),
        pytest.param(target(LONG, job()), asking(state="paused"), "paused", AS_IT_IS, id="to pause"),
        pytest.param(target(LONG), asking(state="paused"), "none", AS_IT_IS, id="nothing to pause"),
        pytest.param(target(LONG, job()), asking(state="aborted"), "stopped", AS_IT_IS, id="to abort"),
        pytest.param(target(LONG), asking(state="aborted"), "none", AS_IT_IS, id="nothing to abort"),
        pytest.param(target(LONG, job(type="mirror")), asking(), "none", ALONE, id="another job"),
    ],
)
def test_forecast(subject: Target, asked: Request, action: str, chain: tuple[str, ...]) -> None:
    """Check mode tells the first action and the chain that a run would leave; the disk itself is told as it is."""
    outcome = forecast(subject, asked)
    assert (outcome.action, outcome.chain_after) == (action, chain)
    assert outcome.disk is subject.disk


def of(name: str, running: Job | None = None) -> Target:
    """The disk of a VM of its own."""
    return target(disk(), running, identity=identity(monitor=f"/vms/{name}.qmp"))


def keyed(name: str, base: str) -> Target:
    """One of several disks of one VM over one node."""
    subject = disk(image(f"{name}-top"), base, qdev=name)
    return target(subject)


@pytest.mark.parametrize(
    ("targets", "asked", "told"),
    [
        pytest.param([of("a"), of("b")], asking(), [("started", 1), ("started", 2)], id="one after the other"),
        pytest.param([of("a"), of("b", job())], asking(), [("started", 2), ("joined", 1)], id="one runs already"),
        pytest.param([of("a"), of("b", HELD)], asking(), [("started", 2), ("resumed", 1)], id="one is held"),
        pytest.param(
            [keyed("a", "x"), keyed("b", "x"), of("c")],
            asking(),
            [("started", 1), ("started", 3), ("started", 2)],
            id="two share a node: the second goes behind who waits already",
        ),
        pytest.param([target(disk("top")), of("b")], asking(), [("none", None), ("started", 1)], id="one is done"),
        pytest.param([of("a"), of("b")], asking(wait=False), [("started", 1), ("none", 2)], id="no wait: one begins"),
        pytest.param(
            [of("a"), of("b")],
            asking(wait=False, parallel=2),
            [("started", 1), ("started", 2)],
            id="no wait: two begin",
        ),
        pytest.param([of("a", job())], asking(state="paused"), [("paused", None)], id="nothing begins"),
        pytest.param([of("a", job(speed=50))], asking(total_speed=50), [("joined", 1)], id="at its part"),
        pytest.param(
            [of("a", job(speed=50)), of("b")],
            asking(total_speed=50, parallel=2),
            [("retuned", 1), ("started", 2)],
            id="its part gets smaller",
        ),
    ],
)
def test_plan(targets: list[Target], asked: Request, told: list[tuple[str, int | None]]) -> None:
    """Each disk is told with what would be done first, and with its place among the streams."""
    assert [(outcome.action, outcome.order) for outcome in plan(targets, asked)] == told


def test_what_is_in_the_way_is_told() -> None:
    """Where another job uses the disk now a run would fail, which check mode says beforehand."""
    (outcome,) = plan([target(LONG, job(type="mirror"))], asking())
    assert len(outcome.notes) == 1
    assert outcome.notes[0].startswith("vm0: disk vda: a run would fail: mirror job populate-vda")
