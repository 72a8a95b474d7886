# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import os
from pathlib import Path
from typing import Any, Callable  # noqa: UP035  # Python 3.8

import pytest
from ansible.module_utils import basic
from ansible_collections.virtops.qmp.plugins.module_utils import _module
from ansible_collections.virtops.qmp.plugins.module_utils._model._errors import WrongRequest
from ansible_collections.virtops.qmp.plugins.module_utils._model._files import FreeSpace
from ansible_collections.virtops.qmp.plugins.module_utils._model._request import Request
from ansible_collections.virtops.qmp.plugins.module_utils._module import request_from, to_bytes
from ansible_collections.virtops.qmp.plugins.module_utils._reach._host import LinuxHost
from ansible_collections.virtops.qmp.tests.unit import clock
from ansible_collections.virtops.qmp.tests.unit.builders import asking
from ansible_collections.virtops.qmp.tests.unit.fake_qemu import MIB, SIZE, FakeQemu
from ansible_collections.virtops.qmp.tests.unit.qmp_server import acting_as, serving

MODULES = "ansible_collections.virtops.qmp.plugins.modules"
RunModule = Callable[..., "dict[str, Any]"]


class Lab:
    """VMs behind real sockets in a folder; the rest is the product."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.qemus: list[FakeQemu] = []

    def vm(self, name: str = "vm0", *files: str) -> FakeQemu:
        """A VM with a disk `vda` over files of the folder."""
        qemu = FakeQemu(name)
        qemu.add("vda", *(files or (f"{name}-top.qcow2", f"{name}-base.qcow2")))
        for node in qemu.nodes.values():
            node.filename = node.filename.replace("/vms", str(self.folder))
            Path(node.filename).write_text("")
        qemu.address = str(self.folder / f"{name}.qmp")
        self.qemus.append(qemu)
        return qemu

    def run(self, coroutine: Any) -> Any:
        """Serve the VMs while the module's own work is done, in time that jumps."""

        async def work() -> Any:
            async with contextlib.AsyncExitStack() as stack:
                for qemu in self.qemus:
                    await stack.enter_async_context(serving(acting_as(qemu), qemu.address))
                return await coroutine

        return clock.run(work())


@pytest.fixture
def lab(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    own = Lab(folder)
    monkeypatch.setattr(asyncio, "run", own.run)

    async def write_out(_host: LinuxHost, file: str) -> bool:
        return True

    # Another process does not jump with the time of this one.
    monkeypatch.setattr(LinuxHost, "write_out", write_out)
    return own


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> RunModule:
    """Run a module as Ansible does, and return what it prints, with its warnings."""
    # Where they end up depends on what else of Ansible is loaded in this process.
    warned: list[str] = []
    monkeypatch.setattr(basic.AnsibleModule, "warn", lambda self, text, **_options: warned.append(text))

    def run(name: str, *, check: bool = False, **arguments: Any) -> dict[str, Any]:
        values = {**arguments, "_ansible_check_mode": check, "_ansible_module_name": f"virtops.qmp.{name}"}
        monkeypatch.setattr(basic, "_ANSIBLE_ARGS", json.dumps({"ANSIBLE_MODULE_ARGS": values}).encode())
        monkeypatch.setattr(basic, "_ANSIBLE_PROFILE", "legacy", raising=False)
        with pytest.raises(SystemExit):
            importlib.import_module(f"{MODULES}.{name}").main()
        printed: dict[str, Any] = json.loads(capsys.readouterr().out)
        return {**printed, "warnings": list(warned)}

    return run


# -- block_stream_info -------------------------------------------------------------------------------------------------


def test_info_tells_vms_and_disks(lab: Lab, module: RunModule) -> None:
    """All VMs and all their disks are told, and nothing is changed."""
    one, other = lab.vm("vm1"), lab.vm("vm2")
    found = module("block_stream_info", monitors=[one.address, other.address])
    assert not found.get("failed")
    assert found["changed"] is False
    assert [vm["name"] for vm in found["vms"]] == ["vm1", "vm2"]
    assert [(disk["vm"], disk["path"]) for disk in found["disks"]] == [
        ("vm1", f"{lab.folder}/vm1-top.qcow2"),
        ("vm2", f"{lab.folder}/vm2-top.qcow2"),
    ]
    assert found["disks"][0]["space"]["free"] >= 0
    assert one.acts == []


def test_info_of_some_disks(lab: Lab, module: RunModule) -> None:
    """Only the disks that were asked for are told."""
    qemu = lab.vm()
    qemu.add("vdb", "b.qcow2")
    found = module("block_stream_info", monitors=[qemu.address], disks=["vdb"])
    assert [disk["qdev"] for disk in found["disks"]] == ["/machine/peripheral/vdb/virtio-backend"]


def test_info_of_a_disk_that_is_not_there(lab: Lab, module: RunModule) -> None:
    """A name that fits no disk fails with the names that there are, and the VMs are told all the same."""
    found = module("block_stream_info", monitors=[lab.vm().address], disks=["nosuch"])
    assert found["failed"]
    assert "'nosuch' names no disk" in found["msg"]
    assert ([vm["name"] for vm in found["vms"]], found["disks"]) == (["vm0"], [])


def test_what_a_glob_did_not_find_is_a_warning(lab: Lab, module: RunModule) -> None:
    """A glob without a socket is told, and is no failure."""
    found = module("block_stream_info", monitors=[f"{lab.folder}/*.none"])
    assert not found.get("failed")
    assert "matches no socket" in json.dumps(found["warnings"])


# -- block_stream ------------------------------------------------------------------------------------------------------


def test_check_mode_then_a_run_then_another(lab: Lab, module: RunModule) -> None:
    """Check mode tells what a run does and starts nothing; the run does it; the next one finds it done."""
    qemu = lab.vm()
    top, base = f"{lab.folder}/vm0-top.qcow2", f"{lab.folder}/vm0-base.qcow2"
    diff = {"before": {"vm0 vda": [top, base]}, "after": {"vm0 vda": [top]}}

    forecast = module("block_stream", check=True, monitors=[qemu.address], disks=["vda"])
    assert (forecast["changed"], forecast["finished"], forecast["diff"]) == (True, False, diff)
    assert (forecast["disks"][0]["action"], qemu.acts) == ("started", [])

    run = module("block_stream", monitors=[qemu.address], disks=["vda"])
    assert not run.get("failed"), run
    assert (run["changed"], run["finished"], run["diff"]) == (True, True, diff)
    assert (run["disks"][0]["action"], run["disks"][0]["cursor"], run["disks"][0]["error"]) == ("started", SIZE, None)
    assert [released["path"] for released in run["disks"][0]["released"]] == [base]
    assert not qemu.only_in_memory

    again = module("block_stream", monitors=[qemu.address], disks=["vda"])
    assert (again["changed"], again["finished"], again["disks"][0]["action"]) == (False, True, "none")


def test_a_bad_disk_starts_nothing(lab: Lab, module: RunModule) -> None:
    """If one of the disks cannot be streamed none is, and all are told as they are."""
    qemu = lab.vm()
    qemu.add("vdb", "ro.qcow2", "ro-base.qcow2", read_only=True)
    for check in (True, False):
        found = module("block_stream", check=check, monitors=[qemu.address], disks=["vda", "vdb"])
        assert found["failed"]
        assert "disk vdb: the disk is read-only" in found["msg"]
        assert ([disk["action"] for disk in found["disks"]], found["changed"]) == (["none", "none"], False)
    assert qemu.acts == []


def test_a_bad_name_starts_nothing(lab: Lab, module: RunModule) -> None:
    """If one of the names fits no disk nothing is started."""
    qemu = lab.vm()
    found = module("block_stream", monitors=[qemu.address], disks=["vda", "nosuch"])
    assert found["failed"]
    assert (found["disks"], found["finished"], qemu.acts) == ([], False, [])


def test_a_vm_that_is_off_stops_no_other(lab: Lab, module: RunModule) -> None:
    """One failure is told as itself, and the other VM is populated."""
    qemu = lab.vm()
    found = module("block_stream", monitors=[f"{lab.folder}/off.qmp", qemu.address], disks=["*"])
    assert found["failed"]
    assert found["msg"].startswith(f"{lab.folder}/off.qmp: there is no such socket")
    assert (found["finished"], [disk["finished"] for disk in found["disks"]]) == (False, [True])


@pytest.mark.parametrize("name", ["block_stream", "block_stream_info"])
def test_where_no_vm_answers_no_name_is_blamed(lab: Lab, module: RunModule, name: str) -> None:
    """A monitor that nobody serves is the one thing that is told, for no name can fit then."""
    found = module(name, monitors=[f"{lab.folder}/off.qmp"], disks=["vda"])
    assert found["failed"]
    assert found["msg"].startswith(f"{lab.folder}/off.qmp: there is no such socket")
    assert "vda" not in found["msg"]
    assert found["disks"] == []


def test_several_failures_are_told_together(lab: Lab, module: RunModule) -> None:
    """All that failed is told once, each in a line of its own."""
    qemu = lab.vm()
    qemu.refuses["block-stream"] = "why"
    found = module("block_stream", monitors=[f"{lab.folder}/off.qmp", qemu.address], disks=["vda"])
    lines = found["msg"].splitlines()
    assert lines[0] == "2 failures:"
    assert lines[1].startswith(f"- {lab.folder}/off.qmp: ")
    assert lines[2] == "- vm0: disk vda: QEMU refused block-stream: why"
    assert found["disks"][0]["error"] == lines[2][2:]


def test_without_room_nothing_starts(lab: Lab, module: RunModule, monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not fit is refused with the figures, unless the user knows better or only wants to stop something."""
    qemu = lab.vm()
    monkeypatch.setattr(_module.LinuxHost, "free_space", lambda self, file: FreeSpace(1, 2 * MIB))
    crowded = module("block_stream", monitors=[qemu.address], disks=["vda"])
    assert crowded["failed"]
    assert f"up to {10 * MIB} bytes and the file system has {2 * MIB} free" in crowded["msg"]
    assert qemu.acts == []
    assert not module("block_stream", monitors=[qemu.address], disks=["vda"], state="paused").get("failed")
    assert module("block_stream", monitors=[qemu.address], disks=["vda"], check_space=False)["finished"]


def test_what_is_kept_is_a_warning(lab: Lab, module: RunModule) -> None:
    """The notes of a disk are told as warnings."""
    qemu = FakeQemu("kept")
    qemu.add("vda", "top.qcow2", "base.qcow2", named=True)
    qemu.refuses["blockdev-del"] = "why not"
    qemu.address = str(lab.folder / "kept.qmp")
    lab.qemus.append(qemu)
    found = module("block_stream", monitors=[qemu.address], disks=["vda"])
    assert found["finished"]
    assert "QEMU keeps these nodes" in json.dumps(found["warnings"])


def test_a_released_file_is_judged(lab: Lab, module: RunModule) -> None:
    """Who has a released file open is told: here it is the very process that made the socket."""
    qemu = lab.vm()
    with (lab.folder / "vm0-base.qcow2").open():
        found = module("block_stream", monitors=[qemu.address], disks=["vda"])
    (released,) = found["disks"][0]["released"]
    assert released["free"] is False
    assert released["reason"]


@pytest.mark.parametrize("name", ["block_stream", "block_stream_info"])
def test_without_the_library(module: RunModule, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Without qemu.qmp the module says what is missing and where it is found."""
    monkeypatch.setattr(_module, "QEMU_QMP_IMPORT_ERROR", "ImportError: no qemu.qmp")
    found = module(name, monitors=["/m.qmp"], disks=["vda"])
    assert found["failed"]
    assert "qemu.qmp" in found["msg"]
    assert "https://pypi.org/project/qemu.qmp/" in found["msg"]


@pytest.mark.parametrize("name", ["block_stream", "block_stream_info"])
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param({"monitors": []}, "monitors is empty", id="no monitor"),
        pytest.param({"connect_timeout": 0}, "connect_timeout is 0.0; it must be from 0.001", id="no time"),
        pytest.param({"connect_timeout": -1}, "connect_timeout is -1", id="less than no time"),
        pytest.param({"connect_timeout": "nan"}, "connect_timeout is nan", id="not a number"),
        pytest.param({"connect_timeout": "inf"}, "connect_timeout is inf", id="for ever"),
    ],
)
def test_options_of_both_modules(module: RunModule, name: str, arguments: dict[str, Any], words: str) -> None:
    """An option that cannot be right is refused before any monitor is opened."""
    found = module(name, **{"monitors": ["/m.qmp"], "disks": ["vda"], **arguments})
    assert found["failed"]
    assert words in found["msg"]


@pytest.mark.parametrize("name", ["block_stream", "block_stream_info"])
def test_an_owner_that_is_nobody(module: RunModule, name: str) -> None:
    """A user that this host does not have is refused before any monitor is opened."""
    found = module(name, monitors=["/m.qmp"], disks=["vda"], monitor_owner="no such user")
    assert found["failed"]
    assert "monitor_owner is 'no such user', which is no user of this host" in found["msg"]


def test_the_owner_of_a_monitor(lab: Lab, module: RunModule) -> None:
    """Every monitor is held to the owner, and a VM is told with the user who runs it."""
    qemu = lab.vm()
    found = module("block_stream_info", monitors=[qemu.address], monitor_owner=str(os.geteuid()))
    assert ([vm["uid"] for vm in found["vms"]], found["vms"][0]["pid"]) == ([os.geteuid()], os.getpid())
    refused = module("block_stream_info", monitors=[qemu.address], monitor_owner="65533")
    assert refused["failed"]
    assert (refused["errors"][0]["kind"], refused["vms"]) == ("MonitorUnusable", [])


def test_options_of_block_stream_are_read_first(module: RunModule) -> None:
    """A bad option of block_stream is a failure with its remedy, and no traceback."""
    found = module("block_stream", monitors=["/m.qmp"], disks=["vda"], speed="fast")
    assert found["failed"]
    assert found["msg"].startswith("speed is 'fast', which is no size")


# -- Options -----------------------------------------------------------------------------------------------------------

DEFAULTS: dict[str, Any] = {
    "disks": ["vda"],
    "state": "populated",
    "base": None,
    "wait": True,
    "wait_timeout": None,
    "on_timeout": "fail",
    "increment": None,
    "cursor": 0,
    "speed": None,
    "on_error": "report",
    "parallel": 1,
    "check_space": True,
    "release": True,
    "progress": 10,
    "poll_interval": 0,
}


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        pytest.param({}, asking(), id="defaults"),
        pytest.param({"state": "paused", "wait": False}, asking(state="paused", wait=False), id="paused"),
        pytest.param({"base": "b", "release": False}, asking(base="b", release=False), id="base"),
        pytest.param({"increment": "1GiB", "cursor": 5}, asking(increment=1024**3, cursor=5), id="increment"),
        pytest.param({"speed": "200MB/s"}, asking(speed=200 * MIB), id="speed per second"),
        pytest.param({"speed": "0"}, asking(speed=0), id="unlimited"),
        pytest.param(
            {"wait_timeout": 0, "on_timeout": "stop"}, asking(wait_timeout=0, on_timeout="stop"), id="no time to wait"
        ),
        pytest.param({"on_error": "stop", "parallel": 4}, asking(on_error="stop", parallel=4), id="policy and places"),
        pytest.param({"check_space": False}, asking(check_space=False), id="space"),
        pytest.param({"poll_interval": 60}, asking(poll_interval=60), id="short visits"),
    ],
)
def test_request_from(options: dict[str, Any], asked: Request) -> None:
    """Every option becomes a member of the wish, in bytes and seconds."""
    assert request_from({**DEFAULTS, **options}) == asked


@pytest.mark.parametrize(
    ("options", "words"),
    [
        pytest.param({"disks": []}, "disks is empty", id="no disk"),
        pytest.param({"wait_timeout": -1}, "wait_timeout is -1", id="wait_timeout"),
        pytest.param({"cursor": -1}, "cursor is -1", id="cursor"),
        pytest.param({"parallel": 0}, "parallel is 0; it must be from 1", id="parallel"),
        pytest.param({"progress": -1}, "progress is -1", id="progress"),
        pytest.param({"poll_interval": -1}, "poll_interval is -1", id="poll_interval"),
        pytest.param({"increment": "0"}, "increment is 0", id="an increment of nothing"),
        pytest.param({"increment": "x"}, "increment is 'x', which is no size", id="an increment that is no size"),
        pytest.param(
            {"increment": "1G", "state": "paused"}, "increment goes with state populated", id="increment, paused"
        ),
        pytest.param(
            {"increment": "1G", "wait": False}, "increment goes with state populated", id="increment, no wait"
        ),
        pytest.param({"speed": "-1"}, "speed is", id="less than no speed"),
    ],
)
def test_request_from_refuses(options: dict[str, Any], words: str) -> None:
    """What cannot be right is refused with the option, the reason and the remedy."""
    with pytest.raises(WrongRequest, match=words):
        request_from({**DEFAULTS, **options})


@pytest.mark.parametrize(
    ("text", "size"),
    [
        pytest.param("0", 0, id="nothing"),
        pytest.param("4096", 4096, id="bytes"),
        pytest.param("512M", 512 * MIB, id="M"),
        pytest.param("512MB", 512 * MIB, id="MB"),
        pytest.param("512MiB", 512 * MIB, id="MiB"),
        pytest.param(" 1.5GiB ", 1536 * MIB, id="a fraction, and blanks"),
        pytest.param("1K", 1024, id="K"),
        pytest.param("1T", 1024**4, id="T"),
    ],
)
def test_to_bytes(text: str, size: int) -> None:
    """Sizes are read with all their names, in powers of 1024."""
    assert to_bytes("speed", text) == size


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("fast", id="a word"),
        pytest.param("1X", id="an unknown unit"),
        pytest.param("-1", id="negative"),
        pytest.param("8E", id="beyond what QEMU holds"),
        pytest.param("1Mb", id="bits"),
    ],
)
def test_to_bytes_refuses(text: str) -> None:
    """What is no size, or none that QEMU can hold, is refused."""
    with pytest.raises(WrongRequest, match="speed is"):
        to_bytes("speed", text)


@pytest.mark.parametrize("text", ["nan", "inf"])
def test_to_bytes_refuses_what_is_no_number(text: str) -> None:
    """Words that Python takes for numbers are no sizes either, and no traceback."""
    with pytest.raises(WrongRequest, match="speed is"):
        to_bytes("speed", text)
