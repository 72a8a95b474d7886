# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Nothing blocks the event loop: storage that hangs must not keep the other VMs, and the deadlines, from their turn."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import os
import selectors
import struct
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils import basic
from ansible_collections.virtops.qmp.plugins.module_utils._reach import _peer
from ansible_collections.virtops.qmp.plugins.module_utils._reach._process import Turn
from ansible_collections.virtops.qmp.plugins.module_utils._reach._threads import away
from ansible_collections.virtops.qmp.tests.unit import clock
from ansible_collections.virtops.qmp.tests.unit.fake_libvirt import FakeLibvirt, Guest
from ansible_collections.virtops.qmp.tests.unit.fake_qemu import FakeQemu
from ansible_collections.virtops.qmp.tests.unit.qmp_server import acting_as, serving

blockbuster = pytest.importorskip("blockbuster", reason="blockbuster watches the event loop, and is not installed")

MODULES = "ansible_collections.virtops.qmp.plugins.modules"
PRODUCT = "ansible_collections.virtops.qmp.plugins.module_utils"
# What blockbuster does not watch by itself.
ALSO = ("builtins.open", "os.open", "os.lstat", "os.path.realpath", "os.path.isfile", "glob.glob")
# How much faster than usual the event loop's time goes by.
FASTER = 20


@pytest.fixture
def watched() -> Iterator[None]:
    """Every call that could wait for storage raises while the product's code runs in an event loop."""
    with blockbuster.blockbuster_ctx(PRODUCT), contextlib.ExitStack() as stack:
        for name in ALSO:
            function = blockbuster.BlockBusterFunction(None, name, scanned_modules=PRODUCT)
            stack.callback(function.activate().deactivate)
        yield


class HurryingSelector(selectors.DefaultSelector):
    """Wait for a twentieth of the time. It is real time: a thread would not jump with a clock that does."""

    def select(self, timeout: float | None = None) -> Any:
        return super().select(timeout and timeout / FASTER)


class HurryingLoop(asyncio.SelectorEventLoop):
    def time(self) -> float:
        return FASTER * super().time()


def run_hurrying(work: Coroutine[Any, Any, Any]) -> Any:
    """Like `asyncio.run`, with timers that are as much shorter."""
    loop = HurryingLoop(HurryingSelector())
    try:
        return loop.run_until_complete(work)
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


# A qcow2 header, version 3, of an image that stands on its own.
HEADER = (
    struct.pack(">4sIQIIQ", b"QFI\xfb", 3, 0, 0, 16, 64 << 20) + bytes(68) + struct.pack(">II", 4, 104) + bytes(512)
)


@pytest.fixture
def qemu(folder: Path) -> Iterator[FakeQemu]:
    """A VM with a disk `vda` over two files, which this process serves and has open as a QEMU would."""
    qemu = FakeQemu()
    qemu.add("vda", "top.qcow2", "base.qcow2")
    with contextlib.ExitStack() as stack:
        for node in qemu.nodes.values():
            node.filename = node.filename.replace("/vms", str(folder))
            Path(node.filename).write_bytes(HEADER)
            stack.enter_context(open(node.filename, "rb"))
        qemu.address = str(folder / "vm0.qmp")
        yield qemu


def run_module(name: str, arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a module as Ansible does."""
    own = {"_ansible_module_name": f"virtops.qmp.{name}"}
    monkeypatch.setattr(basic, "_ANSIBLE_ARGS", json.dumps({"ANSIBLE_MODULE_ARGS": {**arguments, **own}}).encode())
    monkeypatch.setattr(basic, "_ANSIBLE_PROFILE", "legacy", raising=False)
    with pytest.raises(SystemExit):
        importlib.import_module(f"{MODULES}.{name}").main()


@pytest.mark.usefixtures("watched")
@pytest.mark.parametrize("name", ["block_stream_info", "block_stream"])
def test_no_call_waits_for_storage_on_the_event_loop(
    name: str, folder: Path, qemu: FakeQemu, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A VM is observed and populated without one open, stat, readlink, realpath or statvfs on the loop's thread."""

    async def beside_the_server(work: Any) -> Any:
        async with serving(acting_as(qemu), qemu.address):
            return await work

    arguments = {"monitors": [f"{folder}/*.qmp"], "disks": ["vda"]}
    monkeypatch.setattr(_peer, "_program", lambda pid: "qemu-system-x86_64")
    monkeypatch.setattr(asyncio, "run", lambda work: run_hurrying(beside_the_server(work)))
    run_module(name, arguments, monkeypatch)
    printed = json.loads(capsys.readouterr().out)
    # What is said of the files is no matter here: QEMU never wrote to them.
    assert [disk["vm"] for disk in printed["disks"]] == ["vm0"], printed
    assert (len(qemu.chain()) == 1) == (name == "block_stream"), printed


@pytest.mark.usefixtures("watched")
def test_no_call_of_libvirt_waits_on_the_event_loop(
    libvirt: FakeLibvirt,
    guest: Guest,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A guest is found, waited for and populated without one call of libvirt's, or of /proc, on the loop's thread."""
    libvirt.tells_in_threads = False  # the daemon's loop is watched, too: it is the same
    # This process has the images open.
    (folder / str(guest.qemu.pid)).rename(folder / str(os.getpid()))
    guest.qemu.pid = os.getpid()

    async def beside_the_daemon(work: Any) -> Any:
        libvirt.serve()
        with Turn(guest.qemu.pid) as other:
            assert await away(other.try_to_take, seconds=60)
            asyncio.get_running_loop().call_later(2, other.__exit__, None, None, None)
            return await work

    with contextlib.ExitStack() as stack:
        for node in guest.qemu.nodes.values():
            node.filename = node.filename.replace("/vms", str(folder))
            Path(node.filename).write_bytes(HEADER)
            stack.enter_context(open(node.filename, "rb"))
        monkeypatch.setattr(clock, "_REAL_SECONDS", 30)
        monkeypatch.setattr(asyncio, "run", lambda work: clock.run(beside_the_daemon(work)))
        run_module("block_stream", {"domains": ["*"], "disks": ["vda"], "connect_timeout": 600}, monkeypatch)
    printed = json.loads(capsys.readouterr().out)
    assert [disk["domain"] for disk in printed["disks"]] == ["web01"], printed
    assert (libvirt.log[1:], len(guest.qemu.chain())) == ([("blockPull", "vda", 0, 0)], 1), printed
