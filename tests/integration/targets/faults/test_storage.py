# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Storage that fails in the middle of a stream, above and below, while a guest writes."""

from __future__ import annotations

import errno
import os
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from lab import NbdServer, Proxy, disks, host, images, product, wait_until

from .conftest import Busy, assert_failed, assert_idle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def server(folder: Path) -> Iterator[NbdServer]:
    """The NBD server of the base; whoever uses it starts it with `images.chain(serve=...)`."""
    server = NbdServer(folder / "base.raw", folder / "base.nbd")
    yield server
    server.kill()


@pytest.fixture
def remote(folder: Path, server: NbdServer) -> images.Chain:
    """A chain whose base is behind NBD."""
    return images.chain(folder, base_format="raw", serve=lambda _image: server.start().address)


def test_the_server_of_the_base_dies_and_comes_back(
    busy: Callable[..., Busy], remote: images.Chain, server: NbdServer
) -> None:
    """The task fails with the reason and leaves no job; once the server is back, a VM started anew is populated."""
    disk = busy(remote)
    with disk.guest():
        task = disk.begin()
        server.kill()
        disk.vm.hasten()
        assert_failed(task.result(), "Input/output error", "still needs its backing images")
        assert_idle(disk)
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
        disk.vm.hasten()
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
        disk.vm.hasten()
        assert_failed(task.result(), "not populated when wait_timeout was over", "goes on in QEMU")
        assert (disk.info()["job"]["status"], disk.info()["populated"]) == ("running", False)
        told = disk.stream(wait=False)
        assert (told.failed, told["finished"]) == (False, False), told
        os.kill(server.pid, signal.SIGCONT)
        result = disk.stream()
        assert (result.failed, result["finished"], result["disks"][0]["action"]) == (False, True, "joined"), result
    disk.assert_nothing_is_lost()


def test_the_server_of_the_base_stops_answering_for_ever(
    busy: Callable[..., Busy], remote: images.Chain, server: NbdServer, folder: Path
) -> None:
    """`aborted` waits for the read that is under way, but not the VM: once the server is gone, it is done."""
    disk = busy(remote)
    told = threading.Event()

    def listen(name: str) -> None:
        if name == "return job-cancel":
            told.set()

    disk.start()
    os.kill(server.pid, signal.SIGSTOP)
    with Proxy(disk.vm.monitor, folder / "proxy.qmp", listen) as proxy:
        with disk.guest() as guest:
            disk.vm.hasten()
            task = product.Running("block_stream", {"monitors": [proxy.path], "disks": ["vda"], "state": "aborted"})
            assert told.wait(20), "the job was not cancelled"
            writes = guest.writes
            wait_until(lambda: guest.writes > writes, "the guest writes on")
        # Without the guest: a QEMU 5.2 whose human monitor writes to the disk just then hangs when the job ends.
        assert [job["status"] for job in disk.vm.jobs().values()] == ["running"]
        assert task.is_alive
        server.kill()
        result = task.result()
    assert (result.failed, result["disks"][0]["action"]) == (False, "stopped"), result
    assert_idle(disk)
    disk.vm.kill()
    server.start()
    assert disk.model.losses(images.content(remote.top), crashed=True) == []


def test_a_job_that_hangs_is_told_after_a_minute(
    busy: Callable[..., Busy], remote: images.Chain, server: NbdServer
) -> None:
    """The task neither waits for ever nor has the VM wait for the storage: QEMU answers, and a rerun cleans up."""
    disk = busy(remote)
    disk.start()
    os.kill(server.pid, signal.SIGSTOP)
    disk.vm.hasten()
    told = disk.stream(state="aborted", timeout=100)
    assert_failed(told, "does not end within 60 s", "Does the storage of its images answer?")
    assert (disk.info()["job"]["status"], disk.info()["populated"]) == ("running", False)
    os.kill(server.pid, signal.SIGCONT)
    result = disk.stream(state="aborted")
    assert not result.failed, result
    assert_idle(disk)


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
    with disk.guest_while_writes_fail:
        assert_failed(disk.stream(check_space=False), "No space left on device", "still needs its backing images")
        assert_idle(disk)
    with disk.guest():
        small.resize(64 * images.MiB)
        result = disk.stream()
        assert (result.failed, result["finished"]) == (False, True), result
    disk.assert_nothing_is_lost()


def need_loop_devices() -> None:
    if not host.has_loop_devices():
        pytest.skip("this host gives us no loop devices")


@pytest.fixture
def fragile(folder: Path) -> Iterator[host.Ext4]:
    """A file system that can be made to meet an error."""
    need_loop_devices()
    with host.ext4(folder / "ext4", 64 * images.MiB) as mounted:
        if not mounted.can_fail:
            pytest.skip("this kernel's ext4 cannot be told to meet an error")
        yield mounted


def test_the_file_system_of_the_top_turns_read_only(
    busy: Callable[..., Busy], folder: Path, fragile: host.Ext4, request: pytest.FixtureRequest
) -> None:
    """The task says so, a rerun fails and claims nothing, and after the repair a VM started anew is populated."""
    below = images.chain(folder)
    top = fragile.path / "top.qcow2"
    top.write_bytes(below.top.read_bytes())
    fragile.sync()
    chain = images.Chain((top, *below.images[1:]), below.expected)
    disk = busy(chain)
    request.addfinalizer(disk.vm.kill)  # before the file system goes
    with disk.guest():
        task = disk.begin()
    fragile.fail()  # no write succeeds any more, so there is no guest
    disk.vm.hasten()
    assert_failed(task.result(), "Read-only file system", "still needs its backing images")
    assert_idle(disk)
    assert_failed(disk.stream(), "Read-only file system")
    assert_idle(disk)

    disk.vm.kill()
    fragile.repair()
    found = images.content(top)
    assert disk.model.losses(found, crashed=True) == []
    disk.model.settle(found)
    again = busy(chain, name="again", model=disk.model)
    request.addfinalizer(again.vm.kill)
    with again.guest():
        result = again.stream()
        assert (result.failed, result["finished"]) == (False, True), result
    again.assert_nothing_is_lost()


@pytest.fixture
def on_a_device(folder: Path) -> Iterator[images.Chain]:
    """A chain whose top is on a block device, with room to grow, as on a logical volume."""
    need_loop_devices()
    chain = images.chain(folder)
    os.truncate(chain.top, 64 * images.MiB)
    with host.loop_device(chain.top) as device:
        yield images.Chain((Path(device), *chain.images[1:]), chain.expected)


def test_the_device_of_the_top_turns_read_only(
    busy: Callable[..., Busy], on_a_device: images.Chain, request: pytest.FixtureRequest
) -> None:
    """The task says why and leaves no job; once the device can be written again, a rerun finishes."""
    device = str(on_a_device.top)
    disk = busy(on_a_device)
    request.addfinalizer(disk.vm.kill)  # before the device goes
    with disk.guest():
        task = disk.begin()
    host.set_read_only(device, read_only=True)  # no write succeeds, so there is no guest
    disk.vm.hasten()
    assert_failed(task.result(), "Operation not permitted", "still needs its backing images")
    assert_idle(disk)
    host.set_read_only(device, read_only=False)
    with disk.guest():
        result = disk.stream()
        assert (result.failed, result["finished"]) == (False, True), result
    disk.assert_nothing_is_lost()


def test_a_write_to_the_top_is_refused_as_read_only(busy: Callable[..., Busy], folder: Path) -> None:
    """QEMU is refused a write of the stream, and none of the guest's: the task says why, and a rerun finishes."""
    chain = images.chain(folder)
    # A cluster that the stream adds: behind all that the image has, and before the end of what is copied.
    sector = (chain.top.stat().st_size + images.MiB) // 512
    fault = {"event": "none", "iotype": "write", "errno": errno.EROFS, "sector": sector, "once": True}
    words = disks.blockdev("file", "file", filename=str(chain.top))
    words += disks.blockdev("blkdebug", "faults", image="file", inject_error=[fault])
    words += disks.blockdev("qcow2", "top", file="faults")
    disk = busy(chain, *words, *disks.frontend("virtio-blk-pci", "vda", drive="top"))
    with disk.guest_while_writes_fail:
        assert_failed(disk.stream(), "Read-only file system", "still needs its backing images")
        assert_idle(disk)
    with disk.guest():
        result = disk.stream()
        assert (result.failed, result["finished"]) == (False, True), result
    disk.assert_nothing_is_lost()


@pytest.mark.parametrize(("policy", "left"), [("report", []), ("stop", ["failed"])])
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
        said = disk.info()
        assert ([said["job"]["io_status"]] if said["job"] else [], said["populated"]) == (left, False), said
        result = disk.stream(on_error=policy)
        assert (result.failed, result["finished"]) == (False, True), result
    disk.assert_nothing_is_lost()
