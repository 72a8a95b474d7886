# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What went wrong, as Ansible gets it back. The controller reads it as well, so it stands on little."""

from __future__ import annotations

from typing import Any, Sequence

from .._model._address import DomainName
from .._model._errors import Failure


def failure_to_result(failure: Failure) -> dict[str, Any]:
    """One element of ``errors``; what it is not about is null."""
    return {
        "kind": failure.kind,
        "msg": failure.message,
        "vm": None,
        "disk": None,
        **address_to_result(failure.monitor),
        "key": failure.key,
    }


def address_to_result(address: str | None) -> dict[str, str | None]:
    """How a VM was reached: one of the two is null, and both are where no VM is meant."""
    if isinstance(address, DomainName):
        return {"monitor": None, "domain": str(address)}
    return {"monitor": address, "domain": None}


def in_one_message(messages: Sequence[str]) -> str:
    """The ``msg`` of a task with these failures."""
    if len(messages) == 1:
        return messages[0]
    return f"{len(messages)} failures:\n" + "\n".join(f"- {message}" for message in messages)
