# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Awaitable, Callable  # noqa: UP035  # Python 3.8

import pytest
from ansible_collections.virtops.qmp.plugins.module_utils._model._errors import CommandRefused, ReadAheadFailed
from ansible_collections.virtops.qmp.plugins.module_utils._model._serving import LOCK
from ansible_collections.virtops.qmp.plugins.module_utils._reach import _ahead
from ansible_collections.virtops.qmp.plugins.module_utils._reach._qemu import QemuLink
from ansible_collections.virtops.qmp.tests.unit import clock
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


def open_files() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


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
    assert open_files() == before


def test_one_disk_at_a_time() -> None:
    """While one disk is read ahead another one of the VM is not; afterwards it is."""
    qemu = FakeQemu()

    async def too_early(link: QemuLink) -> None:
        with pytest.raises(ReadAheadFailed, match="another disk"):
            await copy_one(link)

    async def later(link: QemuLink) -> None:
        await asyncio.sleep(5.0)
        await copy_one(link)

    at(qemu, copy_one, too_early, later)
    assert [qemu.acts.count(act) for act in ("nbd-server-start", "nbd-server-stop")] == [2, 2]


def test_an_old_qemu_cannot_migrate_meanwhile() -> None:
    """Before 10.0 QEMU dies if it gives its images away meanwhile: it refuses to, from before the first request on."""
    qemu, seen = FakeQemu(), []

    async def copy(link: QemuLink) -> None:
        async with link.read_ahead("top") as ahead:
            seen.append(LOCK in qemu.nodes)
            await ahead.copy(0, MIB)
        seen.append(LOCK in qemu.nodes)

    at(qemu, copy)
    assert seen == [True, False]
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
    """What a task left that was killed goes, and its server with it, but for what others export by now."""
    qemu = FakeQemu()
    qemu.exports.update({"populate-ahead": "nbd", "theirs": "nbd"})
    qemu.nodes[LOCK] = Node(LOCK, "vdi", "/dev/fdset/0")
    at(qemu, lambda link: link.end_stale_export())
    assert (qemu.exports, LOCK in qemu.nodes, qemu.acts) == (
        {"theirs": "nbd"},
        False,
        ["block-export-del", "blockdev-del"],
    )


def test_what_is_used_is_not_left_behind() -> None:
    """The visit of a second disk does not end what the first one uses."""
    qemu = FakeQemu()

    async def work(link: QemuLink) -> None:
        async with link.read_ahead("top"):
            await link.end_stale_export()
            assert "populate-ahead" in qemu.exports

    at(qemu, work)


def test_an_export_that_does_not_end() -> None:
    """QEMU stands still in nbd-server-stop until all requests are through: it is not told to stop while one hangs."""
    qemu = FakeQemu()
    qemu.stuck.add("populate-ahead")

    async def work(link: QemuLink) -> None:
        with pytest.raises(ReadAheadFailed, match="populate-ahead does not end within 60 s"):
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
