# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Who is at a monitor: VMs that take another's place, launchers, proxies, owners, queues of clients that left."""

from __future__ import annotations

import contextlib
import os
import pwd
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from lab import Monitor, Proxy, Vm, disks, images, product, wait_until
from lab.process import run, tool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Boot = Callable[..., Vm]

UUID = "5bd0c5a9-6c57-4e4c-8d0f-6f4a3c1f7a11"
OTHER_UUID = "7f0f4b1e-93b0-4d4c-8a53-1f3b2a9c5d22"
LOADER = "/lib64/ld-linux-x86-64.so.2"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can look into other users' processes")

needs_loader = pytest.mark.skipif(
    not Path(LOADER).exists() or "QEMU_SYSTEM" in os.environ,
    reason="needs glibc's loader, and a QEMU that is a program",
)


def words_of(result: product.Result) -> str:
    return "".join(map(str, result.get("warnings", ()))) + str(result.get("msg", ""))


def depth(vm: Vm) -> int:
    """How many images stand below the disk `vda`, as QEMU says."""
    below: int = vm.inserted("vda")["backing_file_depth"]
    return below


# -- A monitor that changes hands --------------------------------------------------------------------------------------


def has_clients(monitor: str) -> bool:
    """Whether somebody is connected to a monitor: the socket that listens is a line of /proc/net/unix, too."""
    with open("/proc/net/unix", encoding="utf-8") as table:
        return sum(line.rstrip().endswith(monitor) for line in table) > 1


@pytest.mark.parametrize("uuids", [(), (UUID, OTHER_UUID), (UUID, UUID)], ids=["no UUID", "two UUIDs", "one UUID"])
def test_another_vm_takes_the_place_in_mid_stream(folder: Path, boot: Boot, uuids: tuple[str, ...]) -> None:
    """QEMU dies, and another VM of the same name, whose disk needs nothing, serves at the same socket.

    That is no success of the first one, and the other is left alone.
    """
    chain = images.chain(folder)
    whole = folder / "whole.qcow2"
    images.create(whole, images.MiB)
    options = [["-uuid", uuid] for uuid in uuids] or [[], []]
    first = boot(*disks.drive(chain.top, id="drive0", qdev="vda"), *options[0], name="web01")
    arguments = {"monitors": [first.monitor], "disks": ["vda"], "speed": "1", "poll_interval": 5}
    running = product.Running("block_stream", arguments)
    first.wait_event("JOB_STATUS_CHANGE", status="running")
    wait_until(lambda: not has_clients(first.monitor), "the task leaves the monitor between two looks")
    first.kill()
    second = boot(*disks.drive(whole, id="drive0", qdev="vda"), *options[1], name="web01")
    result = running.result(timeout=60)
    assert result.failed, result
    assert result["finished"] is False
    assert f"another {'VM' if len(set(uuids)) == 2 else 'process'}, " in result["msg"]
    assert second.job_events() == []
    assert images.backing(chain.top) == str(chain.base)


# -- Launchers and proxies ---------------------------------------------------------------------------------------------


class Launcher:
    """This very process makes the sockets of monitors, and passes them on to QEMUs."""

    def __init__(self, stack: contextlib.ExitStack, folder: Path) -> None:
        self._stack, self._folder = stack, folder

    def boot(self, folder: str, *sockets: str, name: str = "web01") -> Vm:
        """A VM with a folder and a disk `vda` of its own, which serves these sockets."""
        own = self._folder / folder
        own.mkdir()
        words: list[str] = [*disks.drive(images.chain(own).top, id="drive0", qdev="vda"), "-uuid", UUID]
        with contextlib.ExitStack() as passed_on:
            descriptors = []
            for number, path in enumerate(sockets):
                listener = passed_on.enter_context(socket.socket(socket.AF_UNIX))
                listener.bind(path)
                listener.listen(1)
                descriptors.append(listener.fileno())
                words += ["-chardev", f"socket,id=made{number},fd={listener.fileno()},server=on,wait=off"]
                words += ["-mon", f"chardev=made{number},mode=control"]
            return self._stack.enter_context(Vm(own, *words, name=name, descriptors=descriptors))


@pytest.fixture
def launcher(folder: Path) -> Iterator[Launcher]:
    with contextlib.ExitStack() as stack:
        yield Launcher(stack, folder)


def test_two_vms_of_one_name_and_one_launcher(launcher: Launcher, folder: Path) -> None:
    """A VM cannot hide another one by its name and UUID: both are looked at, both are populated, and that is told."""
    vms = [launcher.boot(letter, str(folder / f"{letter}.made")) for letter in "ab"]
    result = product.module("block_stream", monitors=[str(folder / "*.made")], disks=["*"])
    assert [depth(vm) for vm in vms] == [0, 0]
    assert (result.failed, result["finished"], len(result["disks"])) == (False, True, 2), result
    assert f"a.made and {folder}/b.made answer with the same name and UUID (web01, {UUID})" in words_of(result)


def test_two_monitors_of_one_vm_and_one_launcher(launcher: Launcher, folder: Path) -> None:
    """One QEMU serves both sockets, whoever made them: its second monitor is left out, and told."""
    vm = launcher.boot("a", str(folder / "1.made"), str(folder / "2.made"))
    result = product.module("block_stream", monitors=[str(folder / "*.made")], disks=["*"])
    assert depth(vm) == 0
    assert (result.failed, result["finished"], len(result["disks"])) == (False, True, 1), result
    assert "2.made is another monitor of web01" in words_of(result)


def test_behind_a_launcher_qemu_is_found(launcher: Launcher, folder: Path) -> None:
    """The process that is told is QEMU, and not the one that made the socket."""
    vm = launcher.boot("a", str(folder / "a.made"))
    result = product.module("block_stream_info", monitors=[str(folder / "a.made")])
    assert [(each["pid"], each["uid"]) for each in result["vms"]] == [(vm.pid, os.geteuid())]
    assert "not QEMU" not in words_of(result)


@needs_loader
def test_a_qemu_that_the_loader_started_is_qemu(boot: Boot, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who brings his own libraries starts QEMU by the dynamic loader, whose name is then that of the executable."""
    monkeypatch.setenv("QEMU_SYSTEM", run(["which", tool("QEMU_SYSTEM", "qemu-system-x86_64")]).strip())
    for modules in Path("/usr").glob("lib*/**/qemu/accel-tcg-x86_64.so"):  # it looks for them beside its executable
        monkeypatch.setenv("QEMU_MODULE_DIR", str(modules.parent))
    vm = boot("-M", "none", under=[LOADER])  # which needs no firmware
    assert "ld" in os.path.basename(os.readlink(f"/proc/{vm.pid}/exe"))
    result = product.module("block_stream_info", monitors=[vm.monitor])
    assert ([each["pid"] for each in result["vms"]], words_of(result)) == ([vm.pid], "")


def test_behind_a_proxy_nothing_is_proven(folder: Path, boot: Boot) -> None:
    """A proxy is no QEMU: its folder and its files say nothing of the VM's, and the user is told why."""
    images.chain(folder, relative=True)
    vm = boot(*disks.drive("top.qcow2", id="drive0", qdev="vda"), cwd=folder)
    with Proxy(vm.monitor, folder / "proxy.qmp") as proxy:
        found = product.module("block_stream_info", monitors=[proxy.path])
        populated = product.module("block_stream", monitors=[proxy.path], disks=["vda"])
    assert [disk["path"] for disk in found["disks"]] == ["top.qcow2"]
    assert [each["pid"] for each in found["vms"]] == [os.getpid()]
    for result in (found, populated):
        assert "which is not QEMU by its name" in words_of(result)
        assert "nothing can be proven of its files" in words_of(result)
    assert (depth(vm), populated.failed) == (0, False), populated


# -- The owner of a monitor --------------------------------------------------------------------------------------------


@pytest.fixture
def vm(folder: Path, boot: Boot) -> Vm:
    """`vda`, with a monitor on TCP beside the usual one."""
    return boot(
        *disks.drive(images.chain(folder).top, id="drive0", qdev="vda"),
        *("-chardev", "socket,id=tcp,host=127.0.0.1,port=0,server=on,wait=off", "-mon", "chardev=tcp,mode=control"),
        name="web01",
    )


def port_of(vm: Vm) -> str:
    (chardev,) = [entry for entry in vm.command("query-chardev") if entry["label"] == "tcp"]
    port: str = chardev["filename"].split(":")[3].split(",")[0]
    return port


@pytest.mark.parametrize("owner", [str(os.geteuid()), pwd.getpwuid(os.geteuid()).pw_name], ids=["uid", "name"])
def test_the_owner_of_a_monitor(vm: Vm, owner: str) -> None:
    """A QEMU of the user that was named is used."""
    result = product.module("block_stream", monitors=[vm.monitor], disks=["vda"], monitor_owner=owner)
    assert depth(vm) == 0
    assert (result.failed, result["finished"]) == (False, True), result


@pytest.mark.parametrize("over_tcp", [False, True], ids=["another user", "TCP"])
def test_a_monitor_that_is_not_the_owners(vm: Vm, over_tcp: bool) -> None:
    """A QEMU of another user is refused with what was found; over TCP that cannot be told, and is refused as well."""
    monitor = f"127.0.0.1:{port_of(vm)}" if over_tcp else vm.monitor
    result = product.module("block_stream", monitors=[monitor], disks=["vda"], monitor_owner="65533")
    assert vm.job_events() == []
    assert (result.failed, result["errors"][0]["kind"]) == (True, "MonitorUnusable")
    assert "monitor_owner is 65533" in result["msg"]
    assert ("over TCP nobody can tell" if over_tcp else f"uid {os.geteuid()}") in result["msg"]


@needs_root
def test_a_qemu_that_gave_up_roots_rights(boot: Boot) -> None:
    """A QEMU that root started and that runs as another user is that user's, and not root's."""
    nobody = pwd.getpwnam("nobody")
    has_runas = "-runas" in run([tool("QEMU_SYSTEM", "qemu-system-x86_64"), "-help"])
    vm = boot(*(("-runas", "nobody") if has_runas else ("-run-with", "user=nobody")))
    found = product.module("block_stream_info", monitors=[vm.monitor], monitor_owner="nobody")
    assert (found.failed, [each["uid"] for each in found["vms"]]) == (False, [nobody.pw_uid]), found
    refused = product.module("block_stream_info", monitors=[vm.monitor], monitor_owner="root")
    assert refused.failed
    assert f"runs as uid {nobody.pw_uid}" in refused["msg"]


# -- Queues ------------------------------------------------------------------------------------------------------------


def fill_with_the_dead(monitor: str) -> int:
    """Clients that come and go while the monitor is busy, until its queue takes no more; returns how many it took."""
    for number in range(99):
        with socket.socket(socket.AF_UNIX) as client:
            client.setblocking(False)
            try:
                client.connect(monitor)
            except BlockingIOError:
                return number
    raise AssertionError("the queue has no end")


def test_a_full_queue_is_waited_for(vm: Vm, folder: Path) -> None:
    """While a client is served and two dead ones fill the queue, a task waits for its turn, and then has it."""
    holder = Monitor(folder / "web01.qmp")
    assert fill_with_the_dead(vm.monitor) == 2
    arguments = {"monitors": [vm.monitor], "disks": ["vda"], "connect_timeout": 20}
    waiter = product.Running("block_stream", arguments)
    time.sleep(3)  # many times what it takes to be turned away
    assert waiter.is_alive
    holder.close()
    result = waiter.result()
    assert depth(vm) == 0
    assert (result.failed, result["finished"]) == (False, True), result


def test_who_gave_up_is_in_nobodys_way(vm: Vm, folder: Path) -> None:
    """Tasks that gave up fill the queue of a busy monitor; as soon as it is free the next task is served."""
    holder = Monitor(folder / "web01.qmp")
    for words in ("no greeting", "no greeting", "the queue of the clients that wait for it was full"):
        result = product.module("block_stream_info", monitors=[vm.monitor], connect_timeout=1)
        assert result.failed
        assert words in result["msg"]
        assert f"(pid {os.getpid()})" in result["msg"]
    holder.close()
    result = product.module("block_stream_info", monitors=[vm.monitor], connect_timeout=1)
    assert (result.failed, len(result["vms"])) == (False, 1), result


# -- Sockets of QEMU that are no QMP monitors --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "told"),
    [
        pytest.param(("-monitor", "unix:{path},server=on,wait=off"), "human monitor (HMP)", id="human monitor"),
        pytest.param(
            ("-serial", "unix:{path},server=on,wait=off"), "accepted the connection and says nothing", id="serial"
        ),
    ],
)
def test_another_socket_of_qemu(folder: Path, boot: Boot, words: tuple[str, str], told: str) -> None:
    """It is told from a monitor that is busy, and called what it is."""
    path = str(folder / "other")
    boot(*(word.format(path=path) for word in words))
    result = product.module("block_stream_info", monitors=[path], connect_timeout=1)
    assert result.failed
    assert told in result["msg"]
    assert "serves one client" not in result["msg"]
