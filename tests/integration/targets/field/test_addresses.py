# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Addresses of monitors as people have them: IPv6, paths with brackets, and words copied from QEMU's command line."""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from lab import Vm, disks, images, peers, product

from .conftest import warnings_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Boot = Callable[..., Vm]


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as server:
            server.bind(("::1", 0))
    except OSError:
        return False
    return True


def boot_on_tcp(folder: Path, boot: Boot, host: str) -> tuple[Vm, str]:
    """A VM with the disk `vda` and a monitor on TCP, and the port of that."""
    vm = boot(
        *disks.drive(images.chain(folder).top, id="drive0", qdev="vda"),
        *("-chardev", f"socket,id=tcp,host={host},port=0,server=on,wait=off", "-mon", "chardev=tcp,mode=control"),
    )
    (chardev,) = [entry for entry in vm.command("query-chardev") if entry["label"] == "tcp"]
    found = re.search(r":(\d+),", chardev["filename"])
    assert found is not None
    return vm, found[1]


def stream(*monitors: str) -> product.Result:
    return product.module("block_stream", monitors=list(monitors), disks=["*"], connect_timeout=5)


def assert_done(vm: Vm, result: product.Result) -> None:
    """The one disk of this VM was populated, as QEMU says."""
    assert vm.inserted("vda")["backing_file_depth"] == 0
    assert (result.failed, result["finished"], len(result["disks"])) == (False, True, 1), result.get("msg")


# -- TCP ---------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not has_ipv6(), reason="this host has no IPv6 loopback")
@pytest.mark.parametrize(
    "address",
    ["[::1]:{port}", "tcp:[::1]:{port}", "tcp:[::1]:{port},server=on,wait=off"],
    ids=["plain", "prefix", "prefix and options"],
)
def test_an_ipv6_address(folder: Path, boot: Boot, address: str) -> None:
    """Brackets around an address are no glob: the VM behind it is populated, and its absence is no success."""
    vm, port = boot_on_tcp(folder, boot, "::1")
    assert_done(vm, stream(address.format(port=port)))
    vm.kill()
    assert stream(address.format(port=port)).failed


@pytest.mark.parametrize(
    "address",
    ["tcp:127.0.0.1:{port}", "tcp:127.0.0.1:{port},server=on,wait=off"],
    ids=["prefix", "prefix and options"],
)
def test_a_tcp_address_of_the_command_line(folder: Path, boot: Boot, address: str) -> None:
    """What stands behind -qmp may be given as it is."""
    vm, port = boot_on_tcp(folder, boot, "127.0.0.1")
    assert_done(vm, stream(address.format(port=port)))


# -- Paths -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def pair(folder: Path, boot: Boot) -> tuple[Vm, Vm]:
    """A VM whose socket is called `web[0].qmp`, and one with the name that this means as a glob."""
    chains = [images.chain(folder, prefix=f"{letter}-") for letter in "ab"]
    one, other = (
        boot(*disks.drive(chain.top, id="drive0", qdev="vda"), name=name)
        for chain, name in zip(chains, ("web[0]", "web0"), strict=True)
    )
    return one, other


def test_a_path_with_brackets(pair: tuple[Vm, Vm]) -> None:
    """A socket that exists is meant by its own name, and no other VM is touched."""
    result = stream(pair[0].monitor)
    assert (pair[1].job_events(), pair[1].inserted("vda")["backing_file_depth"]) == ([], 1)
    assert_done(pair[0], result)


def test_a_path_with_brackets_of_a_vm_that_is_off(pair: tuple[Vm, Vm]) -> None:
    """Nobody serves the socket: that is a failure as with any other name, and no other VM is touched."""
    pair[0].kill()
    result = stream(pair[0].monitor)
    assert (pair[1].job_events(), pair[1].inserted("vda")["backing_file_depth"]) == ([], 1)
    assert result.failed, result
    assert pair[0].monitor in result["msg"]


def test_a_glob_with_brackets_is_one(pair: tuple[Vm, Vm], folder: Path) -> None:
    """Where no such socket exists, brackets are a glob as ever."""
    assert_done(pair[1], stream(str(folder / "web[0-9].qmp")))
    assert pair[0].job_events() == []


@pytest.fixture
def vm(folder: Path, boot: Boot) -> Vm:
    """`vda`, with a monitor that indents its answers and one on an abstract socket beside the usual one."""
    return boot(
        *disks.drive(images.chain(folder).top, id="drive0", qdev="vda"),
        *("-qmp-pretty", f"unix:{folder}/pretty.qmp,server=on,wait=off"),
        *("-qmp", f"unix:{folder}/hidden.qmp,abstract=on,server=on,wait=off"),
    )


@pytest.mark.parametrize(
    "address",
    ["unix:{path}", "unix:{path},server=on,wait=off", "unix:{path},server,nowait"],
    ids=["prefix", "prefix and options", "options of old"],
)
def test_a_path_of_the_command_line(vm: Vm, address: str) -> None:
    """What stands behind -qmp may be given as it is."""
    assert_done(vm, stream(address.format(path=vm.monitor)))


def test_two_spellings_of_a_path_are_one_monitor(vm: Vm) -> None:
    """It serves one client at a time, and so is visited once."""
    assert_done(vm, stream(vm.monitor, f"unix:{vm.monitor}", f"unix:{vm.monitor},server=on,wait=off"))


def test_a_monitor_that_indents(vm: Vm, folder: Path) -> None:
    """-qmp-pretty is QMP, too."""
    assert_done(vm, stream(str(folder / "pretty.qmp")))


@pytest.mark.parametrize(
    "address", ["@{path}", "\0{path}", "unix:{path},abstract=on,server=on,wait=off"], ids=["at", "NUL", "option"]
)
def test_an_abstract_socket(vm: Vm, folder: Path, address: str) -> None:
    """It serves, or the message says what it is; a traceback and "no such socket" say neither."""
    address = address.format(path=folder / "hidden.qmp")
    result = stream(address)
    assert vm.inserted("vda")["backing_file_depth"] == int(result.failed)
    if result.failed:
        assert "abstract" in result["msg"].replace(address, "")


# -- No monitors of VMs ------------------------------------------------------------------------------------------------


def test_a_path_that_no_file_can_have(vm: Vm) -> None:
    """A NUL within a path is named, and no traceback."""
    result = stream(f"{vm.monitor}\0.qmp")
    assert result.failed
    assert "NUL" in result["msg"]
    assert vm.job_events() == []


@pytest.fixture
def storage_daemon(folder: Path) -> Iterator[str]:
    """The monitor of a qemu-storage-daemon, which has block nodes and no VM."""
    with peers.storage_daemon(folder / "storage.qmp", images.chain(folder, prefix="daemon-").top) as path:
        yield path


@pytest.mark.parametrize("module", ["block_stream", "block_stream_info"])
def test_a_storage_daemon(storage_daemon: str, module: str) -> None:
    """It is called what it is."""
    more: dict[str, Any] = {"disks": ["*"]} if module == "block_stream" else {}
    result = product.module(module, monitors=[storage_daemon], **more)
    assert result.failed
    assert "qemu-storage-daemon" in result["msg"]


@pytest.mark.usefixtures("storage_daemon")
def test_a_storage_daemon_among_vms(vm: Vm, folder: Path) -> None:
    """A glob that finds it as well does the VM, and tells what it passed by."""
    result = stream(str(folder / "[sv]*.qmp"))
    assert vm.inserted("vda")["backing_file_depth"] == 0
    assert "qemu-storage-daemon" in warnings_of(result) + result.get("msg", "")
