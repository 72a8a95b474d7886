# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any, Awaitable, Callable  # noqa: UP035  # Python 3.8

import pytest
from ansible_collections.virtops.qmp.plugins.module_utils._model._errors import CommandRefused, ReadAheadFailed
from ansible_collections.virtops.qmp.plugins.module_utils._model._serving import LOCK
from ansible_collections.virtops.qmp.plugins.module_utils._reach import _ahead
from ansible_collections.virtops.qmp.plugins.module_utils._reach._nbd import NbdClient
from ansible_collections.virtops.qmp.plugins.module_utils._reach._qemu import QemuLink
from ansible_collections.virtops.qmp.tests.unit import clock
from ansible_collections.virtops.qmp.tests.unit.descriptors import open_files
from ansible_collections.virtops.qmp.tests.unit.fake_qemu import MIB, FakeConnection, FakeQemu, Node

Work = Callable[[QemuLink], Awaitable[object]]


def at(qemu: FakeQemu, *works: Work) -> None:
    """Do these things at one VM, at the same time."""

    async def work() -> None:
        link = QemuLink(FakeConnection(qemu))
        await asyncio.gather(*(each(link) for each in works))

        if qemu.nbd is not None:
            qemu.nbd.close()

    clock.run(work())
    assert not qemu.harm


async def copy_one(link: QemuLink) -> None:
    async with link.read_ahead("top") as ahead:
        await ahead.copy(0, MIB)
        await asyncio.sleep(1.0)


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def test_an_export_comes_and_goes(temporary: Path) -> None:
    """The server, then the export, then the client; and back. Of the socket there is no name any more meanwhile."""
    qemu, before = FakeQemu(), open_files()
    names: list[str] = []
    qemu.act_before("nbd-server-start", lambda: names.extend(os.listdir(temporary)))
    qemu.gives_images_away = True
    at(qemu, copy_one)
    acts = ["getfd", "nbd-server-start", "block-export-add", "block-export-del", "nbd-server-stop", "blockdev-del"]
    assert qemu.acts == acts
    assert (qemu.ahead.copied, qemu.exports, qemu.nbd, names) == ([(0, MIB)], {}, None, [])
    assert not open_files() - before


def test_several_disks_share_the_server() -> None:
    """QEMU has one NBD server at most: it starts with the first export, and stops after the last one."""
    qemu = FakeQemu()
    at(qemu, copy_one, copy_one, copy_one)
    assert [qemu.acts.count(act) for act in ("nbd-server-start", "block-export-add", "nbd-server-stop")] == [
        1,
        6,
        1,
    ]  # two for each, as an old QEMU has it
    assert qemu.acts[-2:] == ["nbd-server-stop", "blockdev-del"]


@pytest.mark.parametrize("disks", [1, 2])
def test_an_old_qemu_cannot_migrate_meanwhile(disks: int) -> None:
    """Before 10.0 QEMU dies if it gives its images away meanwhile: it refuses to, from before the first request on."""
    qemu, seen = FakeQemu(), []

    async def copy(link: QemuLink) -> None:
        async with link.read_ahead("top") as ahead:
            seen.append(LOCK in qemu.nodes)
            await ahead.copy(0, MIB)
        seen.append(LOCK in qemu.nodes)

    at(qemu, *(disks * [copy]))
    assert seen[:disks] == disks * [True]
    assert seen[-1] is False
    assert (qemu.acts.count("blockdev-add"), qemu.acts[-1], qemu.descriptors) == (1, "blockdev-del", {})


def test_a_migration_under_way() -> None:
    """While such a QEMU migrates nothing is read ahead, and nothing is left of the attempt."""
    qemu = FakeQemu()
    qemu.migration = {"status": "active"}

    async def work(link: QemuLink) -> None:
        with pytest.raises(CommandRefused, match="migration/snapshot in progress"):
            async with link.read_ahead("top"):
                raise AssertionError

    at(qemu, work)
    assert (qemu.exports, qemu.nbd, qemu.descriptors, LOCK in qemu.nodes) == ({}, None, {}, False)


def test_nothing_is_changed_while_a_client_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    """QEMU 11.1 stands still if it is told to begin another stream at that moment: the command waits."""
    qemu = FakeQemu()
    qemu.add("vda", "top.qcow2", "base.qcow2")
    connect = NbdClient.connect

    async def work(link: QemuLink) -> None:
        qemu.stream("top", "job")

        async def come(*arguments: Any) -> NbdClient:
            telling = asyncio.ensure_future(link.pause("job"))
            await asyncio.sleep(1.0)
            assert "job-pause" not in qemu.acts
            client = await connect(*arguments)
            link_told.append(telling)
            return client

        link_told: list[asyncio.Future[None]] = []
        monkeypatch.setattr(NbdClient, "connect", come)
        async with link.read_ahead("top"):
            await link_told[0]
        assert "job-pause" in qemu.acts
        qemu.jobs.clear()

    at(qemu, work)


def test_a_qemu_that_stands_still_is_left() -> None:
    """If it does so for what somebody else has told it, the client leaves at once, by which QEMU goes on."""
    qemu = FakeQemu()

    class Still(FakeConnection):
        async def execute(self, command: str, *arguments: Any) -> Any:
            while qemu.nbd is not None and any(talk.is_open and talk.export for talk in qemu.nbd.talks):
                await asyncio.sleep(0.1)
            return await super().execute(command, *arguments)

    async def work() -> None:
        link = QemuLink(Still(qemu))
        with pytest.raises(ReadAheadFailed, match="stood still"):
            async with link.read_ahead("top"):
                raise AssertionError
        assert asyncio.get_running_loop().time() < 3.0

    clock.run(work())
    assert (qemu.exports, qemu.nbd) == ({}, None)


def test_a_foreign_server_is_left_alone() -> None:
    """A server of somebody else is neither used nor stopped, and the descriptor that QEMU got is closed again."""
    qemu = FakeQemu()
    qemu.refuses["nbd-server-start"] = "NBD server already running"

    async def work(link: QemuLink) -> None:
        with pytest.raises(CommandRefused, match="already running"):
            async with link.read_ahead("top"):
                raise AssertionError

    at(qemu, work)
    assert (qemu.acts, qemu.descriptors) == (["getfd", "nbd-server-start", "closefd"], {})


def test_no_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no socket can be made QEMU is told nothing."""
    monkeypatch.setattr("tempfile.tempdir", "/proc/nowhere")
    qemu = FakeQemu()

    async def work(link: QemuLink) -> None:
        with pytest.raises(ReadAheadFailed, match="no socket can be made"):
            async with link.read_ahead("top"):
                raise AssertionError

    at(qemu, work)
    assert qemu.acts == []


def test_what_is_left_behind_is_ended() -> None:
    """What a task left that was killed goes, and its server; what this one uses stays, and what is not ours."""
    qemu = FakeQemu()
    qemu.exports.update({"populate-ahead-5": "nbd", "theirs": "vhost-user-blk"})

    async def work(link: QemuLink) -> None:
        async with link.read_ahead("top"):
            await link.end_exports_but_own((await link.serving()).ours)
            assert set(qemu.exports) == {"populate-ahead-0", "theirs"}
            assert qemu.nbd is not None

    async def last(link: QemuLink) -> None:
        qemu.exports = {"populate-ahead-7": "nbd"}
        qemu.nodes[LOCK] = Node(LOCK, "vdi", "/dev/fdset/0")
        await link.end_exports_but_own(["populate-ahead-7"])

    at(qemu, work)
    assert qemu.acts.count("nbd-server-stop") == 1
    at(qemu, last)
    assert (qemu.exports, qemu.acts.count("nbd-server-stop"), LOCK in qemu.nodes) == ({}, 2, False)


def test_an_export_that_does_not_end() -> None:
    """QEMU stands still in nbd-server-stop until all requests are through: it is not told to stop while one hangs."""
    qemu = FakeQemu()
    qemu.stuck.add("populate-ahead-0")

    async def work(link: QemuLink) -> None:
        with pytest.raises(ReadAheadFailed, match="populate-ahead-0 does not end within 60 s"):
            await copy_one(link)
        assert asyncio.get_running_loop().time() > _ahead._END_SECONDS

    at(qemu, work)
    assert "nbd-server-stop" not in qemu.acts


def test_before_5_2_there_are_no_exports() -> None:
    """A QEMU that does not know the question has none."""
    qemu = FakeQemu()
    qemu.refuses["query-block-exports"] = "The command query-block-exports has not been found"
    qemu.iothreads = ["io0"]

    async def work(link: QemuLink) -> None:
        serving = await link.serving()
        assert (serving.exports, serving.has_iothreads) == ((), True)

    at(qemu, work)
