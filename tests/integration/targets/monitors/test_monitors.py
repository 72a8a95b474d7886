# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Monitors that are busy, missing, mute, no monitors, or gone: a clear error within the time-out, never a traceback."""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from lab import Monitor, Vm, disks, images, peers, product, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Boot = Callable[..., Vm]

MODULES = [
    pytest.param("block_stream", {"disks": ["*"]}, id="block_stream"),
    pytest.param("block_stream_info", {}, id="block_stream_info"),
]


def fails_in_time(module: str, seconds: float, **arguments: Any) -> str:
    """Run a module that has to fail, with `connect_timeout` of `seconds`, and return its message."""
    began = time.monotonic()
    result = product.module(module, connect_timeout=seconds, timeout=20, **arguments)
    spent = time.monotonic() - began
    assert result.failed, result
    assert spent < seconds + 4, f"{spent:.1f} s with a time-out of {seconds:g} s"
    message: str = result["msg"]
    return message


@pytest.fixture
def vm(folder: Path, boot: Boot) -> Vm:
    return boot(*disks.drive(images.chain(folder).top, id="drive0", qdev="vda"), name="web01")


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        pytest.param("missing", ["no such"], id="missing"),
        pytest.param("directory", ["directory"], id="directory"),
        pytest.param("file", ["not a socket"], id="regular file"),
        pytest.param("left", ["refused"], id="socket that nobody serves"),
        pytest.param("127.0.0.1:1", ["refused"], id="port that nobody serves"),
    ],
)
@pytest.mark.parametrize(("module", "arguments"), MODULES)
def test_what_is_no_monitor(module: str, arguments: dict[str, Any], kind: str, words: list[str], folder: Path) -> None:
    """A path or port that leads to no monitor is named with the reason, at once."""
    (folder / "directory").mkdir()
    (folder / "file").write_text("")
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(folder / "left"))
    monitor = kind if ":" in kind else str(folder / kind)
    message = fails_in_time(module, 5, monitors=[monitor], **arguments).lower()
    assert monitor.lower() in message
    for word in words:
        assert word in message


def greets_and_sticks(client: socket.socket) -> None:
    client.sendall(peers.GREETING + b"\r\n")
    peers.silence(client)


@pytest.mark.parametrize(
    ("talk", "seconds"),
    [
        pytest.param(peers.silence, 1, id="mute"),
        pytest.param(peers.guest_agent, 1, id="guest agent"),
        pytest.param(peers.says(b"HTTP/1.1 400 Bad Request"), 5, id="no JSON"),
        pytest.param(peers.says(b'{"hello": "world"}'), 5, id="no greeting"),
        pytest.param(peers.says(b"[1, 2]"), 5, id="no object"),
        pytest.param(peers.says(), 5, id="hangs up at once"),
        pytest.param(peers.says(peers.GREETING), 5, id="dies after the greeting"),
        pytest.param(peers.says(peers.GREETING, b'{"return": {}, "id": 0}'), 5, id="dies in the negotiation"),
        pytest.param(greets_and_sticks, 1, id="stuck"),
    ],
)
@pytest.mark.parametrize(("module", "arguments"), MODULES)
def test_what_speaks_no_qmp(
    module: str, arguments: dict[str, Any], talk: Callable[[socket.socket], None], seconds: float, folder: Path
) -> None:
    """Something else behind the socket, or something that dies, is named within the time-out."""
    with peers.Peer(folder / "peer.qmp", talk) as peer:
        message = fails_in_time(module, seconds, monitors=[peer.path], **arguments)
    assert peer.path in message


@pytest.mark.parametrize(("module", "arguments"), MODULES)
def test_a_busy_monitor_names_who_holds_it(module: str, arguments: dict[str, Any], vm: Vm, folder: Path) -> None:
    """The error of a busy monitor tells the pid of QEMU and of its client; once free, the monitor serves at once."""
    holder = Monitor(folder / "web01.qmp")
    message = fails_in_time(module, 1, monitors=[vm.monitor], **arguments)
    holder.close()
    for word in (vm.monitor, "one client", f"pid {vm.pid}", f"pid {os.getpid()}"):
        assert word in message
    assert not product.module(module, monitors=[vm.monitor], **arguments).failed


def test_a_full_queue_is_a_busy_monitor(vm: Vm, folder: Path) -> None:
    """Clients that wait in the queue of a busy monitor, dead ones too, do not turn the error into another one."""
    holder = Monitor(folder / "web01.qmp")
    waiting = fill_queue(vm.monitor)
    began = time.monotonic()
    message = fails_in_time("block_stream_info", 2, monitors=[vm.monitor])
    assert time.monotonic() - began > 2, "connect_timeout is to be waited for"
    holder.close()
    for client in waiting:
        client.close()
    assert "one client" in message
    assert "Invalid argument" not in message


def fill_queue(monitor: str) -> list[socket.socket]:
    """Clients that wait to be served, more than there is room for."""
    waiting = [socket.socket(socket.AF_UNIX) for _number in range(4)]
    for client in waiting:
        client.setblocking(False)
        client.connect_ex(monitor)
    return waiting


def test_a_monitor_that_becomes_free_in_time_serves(vm: Vm, folder: Path) -> None:
    """A client that leaves within `connect_timeout` makes room, and the task succeeds."""
    holder = Monitor(folder / "web01.qmp")
    waiter = product.Running("block_stream", {"monitors": [vm.monitor], "disks": ["vda"], "connect_timeout": 20})
    wait_for_second_client(vm)
    holder.close()
    result = waiter.result()
    assert (result.failed, result["finished"]) == (False, True), result


@pytest.fixture
def follower(vm: Vm) -> Iterator[product.Running]:
    """A run that follows a slow stream and holds the monitor."""
    options = {"monitors": [vm.monitor], "disks": ["vda"], "speed": "64K"}
    running = product.Running("block_stream", options)
    wait_until(lambda: any(job["offset"] for job in vm.jobs().values()), "the stream copies, and the task waits for it")
    yield running
    if running.is_alive:
        os.kill(running.pid, signal.SIGCONT)
        running.kill()


def test_a_run_that_follows_a_stream_gives_way(vm: Vm, follower: product.Running) -> None:
    """Whoever else comes is served at once, again and again, and has the last word on the speed; both see the end."""
    for speed in ("96K", "128K"):
        arguments: dict[str, Any] = {"monitors": [vm.monitor], "connect_timeout": 2}
        assert not product.module("block_stream_info", **arguments).failed
        retuned = product.module("block_stream", disks=["vda"], speed=speed, wait=False, **arguments)
        assert (retuned.failed, retuned["disks"][0]["action"]) == (False, "retuned"), retuned
    again = product.module("block_stream", disks=["vda"], speed="0", **arguments)
    assert (again.failed, again["finished"], vm.jobs()) == (False, True, {}), again
    first = follower.result()
    assert (first.failed, first["finished"], first["disks"][0]["action"]) == (False, True, "started"), first


def test_clients_that_gave_up_do_not_keep_the_next_one_out(vm: Vm, follower: product.Running) -> None:
    """A queue that they have filled is cleared by the run that holds the monitor."""
    for client in fill_queue(vm.monitor):
        client.close()
    result = product.module("block_stream_info", monitors=[vm.monitor], connect_timeout=4)
    assert (result.failed, follower.is_alive, len(vm.jobs())) == (False, True, 1), result


def test_a_run_that_is_stopped_is_named(vm: Vm, follower: product.Running) -> None:
    """It cannot give way: the error says which process it is, and what to do; let go on, it gives way."""
    os.kill(follower.pid, signal.SIGSTOP)
    message = fails_in_time("block_stream", 1, monitors=[vm.monitor], disks=["vda"])
    for word in (f"(pid {follower.pid})", "an earlier run of this collection that is stopped", f"-CONT {follower.pid}"):
        assert word in message
    os.kill(follower.pid, signal.SIGCONT)
    assert not product.module("block_stream_info", monitors=[vm.monitor], connect_timeout=4).failed


def wait_for_second_client(vm: Vm) -> None:
    """Until a client waits in the queue of the product's monitor: its connections are lines of /proc/net/unix."""

    def is_there() -> bool:
        # The socket that listens, the served connection, and one that waits to be accepted.
        lines = Path("/proc/net/unix").read_text(encoding="utf-8").splitlines()
        return sum(line.endswith(vm.monitor) for line in lines) >= 3

    wait_until(is_there, "a second client waits")


@pytest.fixture
def stopped(vm: Vm) -> Iterator[Vm]:
    """A QEMU that is stopped (SIGSTOP): it accepts nothing and answers nothing."""
    os.kill(vm.pid, signal.SIGSTOP)
    yield vm
    os.kill(vm.pid, signal.SIGCONT)


@pytest.mark.parametrize(("module", "arguments"), MODULES)
def test_a_stopped_qemu(module: str, arguments: dict[str, Any], stopped: Vm) -> None:
    """A QEMU that does not run says nothing; the error comes within the time-out and names its pid."""
    message = fails_in_time(module, 1, monitors=[stopped.monitor], **arguments)
    assert stopped.monitor in message
    assert str(stopped.pid) in message


def test_a_qemu_that_dies_while_we_wait(vm: Vm) -> None:
    """QEMU killed under a waiting task: the task fails soon, names disk and monitor, and claims nothing."""
    waiter = product.Running("block_stream", {"monitors": [vm.monitor], "disks": ["vda"], "speed": "1"})
    vm.wait_event("JOB_STATUS_CHANGE", status="running")
    vm.kill()
    result = waiter.result(timeout=20)
    assert result.failed
    assert result.get("finished") is not True
    assert "web01" in result["msg"]


def test_a_glob_that_finds_nothing(folder: Path) -> None:
    """A glob without a match changes nothing, and is told with the glob."""
    result = product.module("block_stream", monitors=[str(folder / "*.qmp")], disks=["*"])
    assert result.get("changed", False) is False
    assert str(folder / "*.qmp") in result.get("msg", "") + str(result.get("warnings", ""))


@pytest.mark.usefixtures("vm")
def test_a_glob_skips_what_is_off(folder: Path) -> None:
    """A socket that a glob found and nobody serves is told and skipped; the VM beside it is done."""
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(folder / "off.qmp"))
    result = product.module("block_stream", monitors=[str(folder / "*.qmp")], disks=["*"])
    assert (result.failed, len(result["disks"])) == (False, 1), result
    assert "off.qmp" in str(result.get("warnings", "")) + str(result)


def test_a_monitor_by_host_and_port(folder: Path, boot: Boot) -> None:
    """`host:port` reaches a monitor on TCP."""
    vm = boot(
        *disks.drive(images.chain(folder).top, id="drive0", qdev="vda"),
        *("-chardev", "socket,id=tcp,host=127.0.0.1,port=0,server=on,wait=off", "-mon", "chardev=tcp,mode=control"),
    )
    (chardev,) = [entry for entry in vm.command("query-chardev") if entry["label"] == "tcp"]
    port = chardev["filename"].split(":")[3].split(",")[0]
    result = product.module("block_stream", monitors=[f"127.0.0.1:{port}"], disks=["vda"])
    assert (result.failed, result["finished"]) == (False, True), result
    assert vm.inserted("vda")["backing_file_depth"] == 0


def test_the_alias_of_one_monitor(vm: Vm) -> None:
    """`monitor` and `disk` are the singular names of the options."""
    result = product.module("block_stream", monitor=vm.monitor, disk="vda")
    assert (result.failed, result["finished"]) == (False, True), result


def test_one_vm_by_two_names_is_one_vm(vm: Vm, folder: Path) -> None:
    """A monitor that a path and a glob both name is visited once: it serves one client at a time."""
    result = product.module("block_stream", monitors=[vm.monitor, str(folder / "*.qmp")], disks=["*"])
    assert (result.failed, len(result["disks"])) == (False, 1), result
