# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whoever needs a monitor has it, one session serves all, and none stays open for nobody."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from ansible_collections.virtops.qmp.plugins.module_utils._model._errors import MonitorLost
from ansible_collections.virtops.qmp.plugins.module_utils._reach._qemu import QemuLink
from ansible_collections.virtops.qmp.plugins.module_utils._run import _links
from ansible_collections.virtops.qmp.plugins.module_utils._run._links import Links
from ansible_collections.virtops.qmp.tests.unit import clock
from ansible_collections.virtops.qmp.tests.unit.fake_qemu import FakeHost, FakeQemu

A, B = "/vms/a.qmp", "/vms/b.qmp"


@pytest.fixture
def host() -> FakeHost:
    return FakeHost(FakeQemu("a", 1), FakeQemu("b", 2))


def test_it_is_open_as_long_as_somebody_needs_it(host: FakeHost) -> None:
    """Two at a time share a session; the next one after them has another."""

    async def work() -> None:
        async with Links(host.open_link) as links:
            async with links.borrow(A) as one, links.borrow(A) as other:
                assert one is other
            assert host.open == []
            async with links.borrow(A) as another:
                assert (another is one, links.is_seen(A)) == (False, False)

    clock.run(work())
    assert (host.opened, host.open) == ([A, A], [])


def test_it_is_kept_after_a_look(host: FakeHost) -> None:
    """The first who comes after the look has its session, and whoever comes meanwhile; after them it is closed."""

    async def work() -> None:
        async with Links(host.open_link) as links:
            async with links.look(A) as looked:
                pass
            assert (host.open, links.is_seen(A)) == ([A], True)
            async with links.borrow(A) as one, links.borrow(A) as other:
                assert one is other is looked
                assert links.is_seen(A)
            assert (host.open, links.is_seen(A)) == ([], False)

    clock.run(work())
    assert host.opened == [A]


def test_what_is_not_needed_is_closed(host: FakeHost) -> None:
    """After the selection only some are kept, and after the call none."""

    async def work() -> None:
        async with Links(host.open_link) as links:
            for address in (A, B):
                async with links.look(address):
                    pass
            assert host.open == [A, B]
            await links.keep([B])
            assert (host.open, links.is_seen(A), links.is_seen(B)) == ([B], False, True)
        assert host.open == []

    clock.run(work())


def test_not_too_many_are_kept(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process has only so many descriptors."""
    monkeypatch.setattr(_links, "MOST_KEPT", 1)

    async def work() -> None:
        async with Links(host.open_link) as links:
            for address in (A, B):
                async with links.look(address):
                    pass
            assert (host.open, links.is_seen(B)) == ([A], False)

    clock.run(work())


def test_a_look_that_failed_keeps_nothing(host: FakeHost) -> None:
    """Its session is over."""

    async def work() -> None:
        async with Links(host.open_link) as links:
            with pytest.raises(MonitorLost):
                async with links.look(A):
                    raise MonitorLost("the connection ended")
            assert (host.open, links.is_seen(A)) == ([], False)

    clock.run(work())


class Turns(FakeHost):
    """Whoever comes while another client is there waits until that is gone."""

    def __init__(self, *qemus: FakeQemu):
        super().__init__(*qemus)
        self._turns = {address: asyncio.Lock() for address in self.qemus}

    @contextlib.asynccontextmanager
    async def open_link(self, address: str) -> AsyncIterator[QemuLink]:
        async with self._turns[address], super().open_link(address) as link:
            yield link


def test_two_runs_do_not_wait_for_each_other() -> None:
    """Each keeps what the other one needs next: both let go of it, and keep nothing any more."""

    async def work() -> None:
        host = Turns(FakeQemu("a", 1), FakeQemu("b", 2))

        async def run(*addresses: str) -> list[str]:
            async with Links(host.open_link) as links:
                for address in addresses:
                    async with links.look(address):
                        await asyncio.sleep(0.01)
                return [address for address in addresses if links.is_seen(address)]

        assert [*await asyncio.gather(run(A, B), run(B, A))] == [[], []]
        assert asyncio.get_running_loop().time() < 2

    clock.run(work())


def test_who_does_not_come_in_leaves_the_queue() -> None:
    """A visit that is broken off while another client is there waits no longer."""

    async def work() -> None:
        host = Turns(FakeQemu("a", 1), FakeQemu("b", 2))
        async with Links(host.open_link) as links, host.open_link(A):
            waiting = asyncio.ensure_future(links.look(A).__aenter__())
            await asyncio.sleep(0.1)
            waiting.cancel()
            await asyncio.wait({waiting})
        async with host.open_link(A):
            pass

    clock.run(work())
