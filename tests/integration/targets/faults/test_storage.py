# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Storage that fails in the middle of a stream, above and below, while a guest writes."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest
from lab import NbdServer, disks, host, images

from .conftest import Busy, assert_failed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def server(folder: Path) -> Iterator[NbdServer]:
    """The NBD server of the base; whoever uses it starts it with `images.chain(serve=...)`."""
    server = NbdServer(folder / "base.raw", folder / "base.nbd")
    yield server
    server.kill()


@pytest.fixture
def remote(folder: Path, server: NbdServer) -> images.Chain:
    """A chain whose base is behind NBD."""
    return images.chain(folder, base_format="raw", serve=lambda image: server.start().address)


def test_the_server_of_the_base_dies_and_comes_back(
    busy: Callable[..., Busy], remote: images.Chain, server: NbdServer
) -> None:
    """The task fails with the reason and leaves no job; once the server is back, a VM started anew is populated."""
    disk = busy(remote)
    with disk.guest():
        task = disk.begin()
        server.kill()
        disk.unleash()
        assert_failed(task.result(), "Input/output error", "still needs its backing images")
        assert (disk.vm.jobs(), disk.depth) == ({}, 1)
    disk.vm.kill()
    server.start()
    found = images.content(remote.top)
    assert disk.model.losses(found, crashed=True) == []
    disk.model.settle(found)
    again = busy(remote, name="again", model=disk.model)
    with again.guest():
        result = again.stream()
        assert (result.failed, result["finished"]) == (False, True), result
    again.assert_nothing_is_lost()


def test_a_node_that_reconnects_needs_no_restart(
    busy: Callable[..., Busy], remote: images.Chain, server: NbdServer
) -> None:
    """With `reconnect-delay` the same VM goes on by itself: the server dies and is back before the delay is over."""
    address = {"type": "unix", "path": str(server.path)}
    words = disks.blockdev("nbd", "base-nbd", server=address, reconnect_delay=60, read_only=True)
    words += disks.blockdev("raw", "base", file="base-nbd", read_only=True)
    words += disks.blockdev("file", "top-file", filename=str(remote.top))
    words += disks.blockdev("qcow2", "top", file="top-file", backing="base")
    disk = busy(remote, *words, *disks.frontend("virtio-blk-pci", "vda", drive="top"))
    with disk.guest():
        task = disk.begin()
        server.kill()
        disk.unleash()
        server.start()
        result = task.result()
        assert (result.failed, result["finished"]) == (False, True), result
    disk.assert_nothing_is_lost()


def test_the_server_of_the_base_stops_answering_for_a_while(
    busy: Callable[..., Busy], remote: images.Chain, server: NbdServer
) -> None:
    """A base that does not answer ends the patience of the task, not the stream; when it answers, a rerun finishes."""
    disk = busy(remote)
    with disk.guest():
        task = disk.begin(wait_timeout=1)
        os.kill(server.pid, signal.SIGSTOP)
        disk.unleash()
        assert_failed(task.result(), "not populated within 1 s", "goes on in QEMU")
        assert [job["status"] for job in disk.vm.jobs().values()] == ["running"]
        told = disk.stream(wait=False)
        assert (told.failed, told["finished"]) == (False, False), told
        os.kill(server.pid, signal.SIGCONT)
        result = disk.stream()
        assert (result.failed, result["finished"], result["disks"][0]["action"]) == (False, True, "joined"), result
    disk.assert_nothing_is_lost()


@pytest.fixture
def small(folder: Path) -> Iterator[host.FileSystem]:
    """A file system that the stream will fill."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a file system")
    with host.file_system(folder / "small", 2 * images.MiB) as mounted:
        yield mounted


def test_the_file_system_of_the_top_fills_up(
    busy: Callable[..., Busy], folder: Path, small: host.FileSystem, request: pytest.FixtureRequest
) -> None:
    """No space left: the task says so, the guest's own clusters stay writable, and with room a rerun finishes."""
    chain = images.chain(folder)
    top = small.path / "top.qcow2"
    top.write_bytes(chain.top.read_bytes())
    disk = busy(images.Chain((top, *chain.images[1:]), chain.expected))
    request.addfinalizer(disk.vm.kill)  # before the file system goes
    with disk.guest():
        assert_failed(disk.stream(check_space=False), "No space left on device", "still needs its backing images")
        assert (disk.vm.jobs(), disk.depth) == ({}, 1)
        small.resize(64 * images.MiB)
        result = disk.stream()
        assert (result.failed, result["finished"]) == (False, True), result
    disk.assert_nothing_is_lost()


@pytest.mark.parametrize(("policy", "left"), [("report", []), ("stop", ["paused"])])
def test_a_sector_of_the_base_cannot_be_read_once(
    busy: Callable[..., Busy], folder: Path, policy: str, left: list[str]
) -> None:
    """An I/O error in the middle: the task says so, holds the stream if it was told to, and a rerun finishes."""
    chain = images.chain(folder)
    words = disks.failing_reads(chain.base, node_name="bad", sector=images.last_data_sector(chain.base), once=True)
    words += disks.blockdev("qcow2", "top", file={"driver": "file", "filename": str(chain.top)}, backing="bad")
    disk = busy(chain, *words, *disks.frontend("virtio-blk-pci", "vda", drive="top"))
    with disk.guest():
        assert_failed(disk.stream(on_error=policy), "error")
        assert [job["status"] for job in disk.vm.jobs().values()] == left
        result = disk.stream(on_error=policy)
        assert (result.failed, result["finished"]) == (False, True), result
    disk.assert_nothing_is_lost()
