# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from ansible_collections.virtops.qmp.plugins.module_utils._decide._failures import (
    address_to_result,
    failure_to_result,
    in_one_message,
)
from ansible_collections.virtops.qmp.plugins.module_utils._model._address import DomainName
from ansible_collections.virtops.qmp.plugins.module_utils._model._errors import Failure


def test_a_failure_about_nothing() -> None:
    """What a failure is not about is null."""
    nothing = dict.fromkeys(("vm", "disk", "monitor", "domain", "key"))
    assert failure_to_result(Failure("X", "y")) == {"kind": "X", "msg": "y", **nothing}


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        pytest.param(["why"], "why", id="one is told as it is"),
        pytest.param(["why", "how"], "2 failures:\n- why\n- how", id="several are counted, each in a line"),
    ],
)
def test_failures_in_one_message(messages: list[str], message: str) -> None:
    """All failures are in the message of the task."""
    assert in_one_message(messages) == message


@pytest.mark.parametrize(
    ("address", "monitor", "domain"),
    [
        pytest.param("/vms/vm0.qmp", "/vms/vm0.qmp", None, id="a monitor"),
        pytest.param(DomainName("web01"), None, "web01", id="a domain"),
        pytest.param(None, None, None, id="none"),
    ],
)
def test_an_address(address: str | None, monitor: str | None, domain: str | None) -> None:
    """A VM was reached by its monitor or as a domain, never by both."""
    assert address_to_result(address) == {"monitor": monitor, "domain": domain}
    assert type(address_to_result(address)["domain"]) in (str, type(None))
