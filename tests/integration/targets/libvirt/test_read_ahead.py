# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""A guest of libvirt whose base is behind a slow link."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from lab import LabError, NbdServer, SlowLink, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from .conftest import Domain

# Before this version QEMU aborts when it is saved while it is to copy something, so it refuses that.
SAFE_TO_SAVE = (10, 0)


@pytest.fixture
def far(folder: Path, define: Callable[..., Domain]) -> Iterator[tuple[Domain, SlowLink]]:
    """A guest, and the link to its base."""
    with ExitStack() as stack:
        links: list[SlowLink] = []

        def serve(image: Path) -> str:
            server = stack.enter_context(NbdServer(image, folder / "near.nbd"))
            links.append(stack.enter_context(SlowLink(folder / "far.nbd", server.path, delay=0.02)))
            (folder / "far.nbd").chmod(0o777)  # QEMU runs as another user
            return links[0].address

        yield define(persistent=True, layers=1, base_format="raw", serve=serve), links[0]


def exports_ended(domain: Domain) -> list[str]:
    domain.vm.command("query-status")  # all events that there are come before its answer
    return [event["data"]["id"] for event in domain.vm.judge.events if event["event"] == "BLOCK_EXPORT_DELETED"]


def test_a_guest_is_read_ahead(far: tuple[Domain, SlowLink]) -> None:
    """libvirt passes QEMU the socket; all is as without, and QEMU serves nothing afterwards."""
    domain, _link = far
    result = domain.stream(read_ahead=8)
    assert (result.failed, result["finished"], result.get("warnings")) == (False, True, None), result
    assert exports_ended(domain) == ["populate-ahead-0"]
    assert domain.vm.command("query-block-exports") == []
    assert domain.depth == 0
    domain.assert_safe_after_kill()


def test_a_guest_is_saved_meanwhile(far: tuple[Domain, SlowLink]) -> None:
    """An old QEMU refuses `virsh save`, goes on, and is populated; a new one is saved, and populated when restored."""
    domain, link = far
    task = domain.begin(read_ahead=8)
    wait_until(lambda: domain.vm.command("query-block-exports"), "it is read ahead")
    state = domain.vm.folder / "state"
    if domain.vm.version < SAFE_TO_SAVE:
        with pytest.raises(LabError, match="populate-ahead-no-migration"):
            domain.virsh("save", str(state), "--paused")
        link.delay = 0.003
        domain.vm.hasten()
        result = task.result()
    else:
        domain.virsh("save", str(state), "--paused")
        assert task.result().failed
        link.delay = 0.003
        domain.vm.libvirt.virsh("restore", str(state), "--paused")
        domain.vm.meet()
        result = domain.stream()
    assert (result.failed, result["finished"]) == (False, True), result
    assert domain.vm.command("query-block-exports") == []
    domain.assert_safe_after_kill()
