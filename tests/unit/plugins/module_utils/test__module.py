# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Callable  # noqa: UP035  # Python 3.8

import pytest
from ansible.module_utils import basic
from ansible_collections.virtops.qmp.plugins.module_utils import _module
from ansible_collections.virtops.qmp.plugins.module_utils._decide._outcome import Outcome
from ansible_collections.virtops.qmp.plugins.module_utils._decide._verdict import Verdict
from ansible_collections.virtops.qmp.plugins.module_utils._model._errors import WrongRequest
from ansible_collections.virtops.qmp.plugins.module_utils._model._files import Bound, FreeSpace
from ansible_collections.virtops.qmp.plugins.module_utils._model._latency import Paced
from ansible_collections.virtops.qmp.plugins.module_utils._model._peer import read_start
from ansible_collections.virtops.qmp.plugins.module_utils._model._request import Request
from ansible_collections.virtops.qmp.plugins.module_utils._module_stream import request_from, to_bytes
from ansible_collections.virtops.qmp.plugins.module_utils._reach import _libvirt, _peer
from ansible_collections.virtops.qmp.plugins.module_utils._reach._host import LinuxHost
from ansible_collections.virtops.qmp.plugins.module_utils._reach._process import Turn
from ansible_collections.virtops.qmp.plugins.module_utils._reach._reader import NobodyReads
from ansible_collections.virtops.qmp.plugins.module_utils._run import _release
from ansible_collections.virtops.qmp.tests.unit import clock
from ansible_collections.virtops.qmp.tests.unit.builders import asking, qcow2
from ansible_collections.virtops.qmp.tests.unit.fake_libvirt import FakeLibvirt, Guest
from ansible_collections.virtops.qmp.tests.unit.fake_qemu import MIB, SIZE, FakeHost, FakeQemu, Node, inode_of
from ansible_collections.virtops.qmp.tests.unit.qmp_server import acting_as, serving

MODULES = "ansible_collections.virtops.qmp.plugins.modules"
RunModule = Callable[..., "dict[str, Any]"]


class LabHost(FakeHost):
    """The host of VMs behind real sockets, which are found as the real one does."""

    expand = LinuxHost.expand


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
        qemu.pid = os.getpid()  # this process serves it
        qemu.started = read_start(Path("/proc/self/stat").read_text()) or 0
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

    # Threads and other processes do not jump with the time of this one.
    monkeypatch.setattr(_module, "LinuxHost", lambda run_command: LabHost(*own.qemus))
    monkeypatch.setattr(_peer, "_program", lambda pid: "qemu-system-x86_64")
    return own


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> RunModule:
    """Run a module as Ansible does, and return what it prints, with its warnings."""
    # Where they end up depends on what else of Ansible is loaded in this process.
    warned: list[str] = []
    monkeypatch.setattr(basic.AnsibleModule, "warn", lambda self, text, **_options: warned.append(text))

    def run(name: str, *, check: bool = False, **arguments: Any) -> dict[str, Any]:
        # Without a word to the syslog of this host: some Pythons refuse to write a NUL there.
        own = {"check_mode": check, "module_name": f"virtops.qmp.{name}", "no_log": True}
        values = {**arguments, **{f"_ansible_{name}": value for name, value in own.items()}}
        monkeypatch.setattr(basic, "_ANSIBLE_ARGS", json.dumps({"ANSIBLE_MODULE_ARGS": values}).encode())
        monkeypatch.setattr(basic, "_ANSIBLE_PROFILE", "legacy", raising=False)
        with pytest.raises(SystemExit) as ended:
            importlib.import_module(f"{MODULES}.{name}").main()
        text = capsys.readouterr().out
        printed: dict[str, Any] = json.loads(text) if text else {"exit code without a word": ended.value.code}
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


ALL_OF_TWO = ["vm1 vda", "vm1 vdb", "vm2 vda"]


@pytest.mark.parametrize(
    ("options", "vms", "disks"),
    [
        pytest.param({"vms": "vm1"}, ["vm1"], ["vm1 vda", "vm1 vdb"], id="a string is a list"),
        pytest.param({"vms": "no, vm1"}, ["vm1"], ["vm1 vda", "vm1 vdb"], id="so is one with commas and blanks"),
        pytest.param({"vms": "", "disks": "", "exclude": " "}, ["vm1", "vm2"], ALL_OF_TWO, id="empty strings"),
        pytest.param({"vms": ["vm?"], "exclude": ["vm2", ""]}, ["vm1"], ["vm1 vda", "vm1 vdb"], id="all but a VM"),
        pytest.param({"disks": [""], "vms": [""]}, ["vm1", "vm2"], ["vm1 vda", "vm1 vdb", "vm2 vda"], id="left out"),
        pytest.param({"disks": ["vda", ""], "exclude": "vm2*"}, ["vm1"], ["vm1 vda"], id="a VM and names"),
        pytest.param({"exclude": "*.qcow2"}, ["vm1", "vm2"], [], id="every file"),
    ],
)
def test_info_of_a_selection(
    lab: Lab, module: RunModule, options: dict[str, Any], vms: list[str], disks: list[str]
) -> None:
    """VMs and disks are chosen by names and patterns, and an empty string is as if it were not there."""
    one, other = lab.vm("vm1"), lab.vm("vm2")
    one.add("vdb", "b.qcow2")
    found = module("block_stream_info", monitors=[one.address, other.address, ""], **options)
    assert not found.get("failed"), found
    assert [vm["name"] for vm in found["vms"]] == vms
    assert [f"{disk['vm']} {disk['label']}" for disk in found["disks"]] == disks


@pytest.mark.parametrize("name", ["block_stream", "block_stream_info"])
def test_what_fits_nothing_is_a_warning(lab: Lab, module: RunModule, name: str) -> None:
    """Filters that leave nothing are no failure, and are not passed over in silence."""
    found = module(name, monitors=[lab.vm().address], disks=["vda"], vms=["x*"], exclude=["y"])
    assert not found.get("failed")
    assert (found["disks"], found["changed"]) == ([], False)
    assert len(found["warnings"]) == 2


def test_empty_options_are_left_out(lab: Lab, module: RunModule) -> None:
    """An option that a survey or a template left empty is as if it were not there."""
    qemu = lab.vm()
    empty = {"base": "", "speed": " ", "increment": "", "monitor_owner": "", "images": "", "vms": "", "exclude": ""}
    found = module("block_stream", monitors=qemu.address, disks="vda", **empty)
    assert (found.get("failed"), found["finished"], qemu.chain()) == (None, True, ["vm0-top.qcow2"]), found


def test_what_is_excluded_is_not_populated(lab: Lab, module: RunModule) -> None:
    """An excluded disk keeps its chain."""
    qemu = lab.vm()
    qemu.add("vdb", "b.qcow2", "b-base.qcow2")
    found = module("block_stream", monitors=[qemu.address], disks=["*"], exclude=["vdb"])
    assert [disk["label"] for disk in found["disks"]] == ["vda"]
    assert (len(qemu.chain("vda")), len(qemu.chain("vdb"))) == (1, 2)


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


def test_check_mode_knows_the_part_of_each_stream(lab: Lab, module: RunModule) -> None:
    """With `total_speed` a stream that runs at another speed would be retuned, and one at its part would not."""
    qemu = lab.vm()
    qemu.add("vdb", "b.qcow2", "b-base.qcow2")
    module("block_stream", monitors=[qemu.address], disks=["vda"], wait=False, speed="4M")
    for parallel, action in ((1, "retuned"), (2, "joined")):
        options = {"total_speed": "8M", "parallel": parallel}
        found = module("block_stream", check=True, monitors=[qemu.address], disks=["*"], **options)
        assert [disk["action"] for disk in found["disks"]] == [action, "started"]


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


def test_who_is_not_read_any_more_ends(lab: Lab, monkeypatch: pytest.MonkeyPatch, module: RunModule) -> None:
    """Nothing is printed where nobody reads, and it is no success."""

    async def unless_unread(work: Any) -> Any:
        work.close()
        raise NobodyReads

    monkeypatch.setattr(_module, "unless_unread", unless_unread)
    found = module("block_stream", monitors=[lab.vm().address], disks=["vda"])
    assert found == {"exit code without a word": 1, "warnings": []}


def test_without_room_nothing_starts(lab: Lab, module: RunModule, monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not fit is refused with the figures, unless the user knows better or only wants to stop something."""
    qemu = lab.vm()

    async def free_space(self: FakeHost, pid: int | None, bound: Bound) -> FreeSpace:
        return FreeSpace(1, 2 * MIB)

    monkeypatch.setattr(FakeHost, "free_space", free_space)
    crowded = module("block_stream", monitors=[qemu.address], disks=["vda"])
    assert crowded["failed"]
    assert f"up to {10 * MIB} bytes and the file system has {2 * MIB} free" in crowded["msg"]
    assert qemu.acts == []
    assert not module("block_stream", monitors=[qemu.address], disks=["vda"], state="paused").get("failed")
    assert module("block_stream", monitors=[qemu.address], disks=["vda"], check_space=False)["finished"]


def test_who_claims_much_takes_the_room_from_no_other(
    lab: Lab, module: RunModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the star, a disk that does not fit is an error of its own, and the others are populated."""
    modest, greedy = lab.vm("modest"), lab.vm("greedy")
    honest = greedy._image

    def boast(name: str) -> dict[str, Any]:
        return {**honest(name), "virtual-size": 2**60, "actual-size": 2**60}

    monkeypatch.setattr(greedy, "_image", boast)

    async def room(self: LinuxHost, pid: int | None, bound: Bound) -> FreeSpace:
        return FreeSpace(1, 100 * MIB)

    monkeypatch.setattr(LinuxHost, "free_space", room)
    found = module("block_stream", monitors=[greedy.address, modest.address], disks=["*"])
    assert found["failed"]
    assert [(disk["vm"], disk["finished"], disk["action"]) for disk in found["disks"]] == [
        ("greedy", False, "none"),
        ("modest", True, "started"),
    ]
    assert found["msg"].startswith("greedy: disk vda: not started: populating may write up to")
    assert [error["kind"] for error in found["errors"]] == ["WrongRequest"]
    assert greedy.acts == []


def test_what_cannot_be_populated_is_left_out_by_the_star(lab: Lab, module: RunModule) -> None:
    """A VM that waits for its migration keeps no other from being populated, and that is told; by its name it does."""
    waiting, other = lab.vm("waiting"), lab.vm("other")
    waiting.status = "inmigrate"
    monitors = [waiting.address, other.address]
    named = module("block_stream", monitors=monitors, disks=["vda"])
    assert named["failed"]
    assert named["msg"].startswith("waiting: disk vda: the VM waits for an incoming migration")
    assert other.acts == []
    found = module("block_stream", monitors=monitors, disks=["*"])
    assert not found.get("failed"), found
    assert [(disk["vm"], disk["finished"]) for disk in found["disks"]] == [("other", True)]
    assert "waiting: disk vda was left out: the VM waits for an incoming migration" in json.dumps(found["warnings"])
    assert waiting.acts == []


EVIL = "evil\nfatal: [hv1]: ok\x1b[2J\u202e"
SHOWN = "evil\\x0afatal: [hv1]: ok\\x1b[2J\\u202e"


@pytest.mark.parametrize("name", ["block_stream", "block_stream_info"])
def test_no_name_acts_on_a_terminal(lab: Lab, module: RunModule, name: str) -> None:
    """Whatever a guest calls itself, no line feed and no escape of it leaves the module: results, errors, warnings."""
    qemu = lab.vm()
    qemu.name = EVIL
    found = module(name, monitors=[qemu.address], disks=["vda"])
    assert found["disks"][0]["vm"] == SHOWN
    if name == "block_stream":
        assert list(found["diff"]["before"]) == [f"{SHOWN} vda"]
    refused = module(name, monitors=[qemu.address], disks=["no1", "no2"])
    assert refused["msg"].splitlines()[0] == "2 failures:"
    assert len(refused["msg"].splitlines()) == 3
    assert len(refused["errors"]) == 2
    assert SHOWN in refused["msg"]
    assert "\x1b" not in refused["msg"]


def test_no_warning_acts_on_a_terminal(lab: Lab, module: RunModule) -> None:
    """A warning is a line of its own."""
    waiting, other = lab.vm("waiting"), lab.vm("other")
    waiting.status, waiting.name = "inmigrate", EVIL
    found = module("block_stream", monitors=[waiting.address, other.address], disks=["*"])
    assert found["warnings"][0].startswith(f"{SHOWN}: disk vda was left out")


def test_what_is_kept_is_a_warning(lab: Lab, module: RunModule) -> None:
    """The notes of a disk are told as warnings."""
    qemu = FakeQemu("kept")
    qemu.add("vda", "top.qcow2", "base.qcow2", named=True)
    qemu.refuses["blockdev-del"] = "why not"
    qemu.address, qemu.pid = str(lab.folder / "kept.qmp"), os.getpid()
    lab.qemus.append(qemu)
    found = module("block_stream", monitors=[qemu.address], disks=["vda"])
    assert found["finished"]
    assert "QEMU keeps these nodes" in json.dumps(found["warnings"])


def test_a_released_file_is_judged(lab: Lab, module: RunModule) -> None:
    """Who has a released file open is told: here it is another disk of the VM."""
    qemu = lab.vm()
    base = str(lab.folder / "vm0-base.qcow2")
    qemu.nodes["theirs"] = Node("theirs", "file", base)
    found = module("block_stream", monitors=[qemu.address], disks=["vda"])
    (released,) = found["disks"][0]["released"]
    assert (released["path"], released["free"], released["pids"]) == (base, False, [os.getpid()])
    assert "VM vm0" in released["reason"]
    assert (released["device"], released["inode"]) == (1, inode_of(base).id.inode)


def test_the_notes_on_free_images_are_warnings(lab: Lab, module: RunModule, monkeypatch: pytest.MonkeyPatch) -> None:
    """What should be known of images that are free is told once, beside what should be known of the disks."""
    note = Verdict("/vms/base.qcow2", True, None, notes=("look at VM web02, too",))

    async def judge_all(outcomes: Sequence[Outcome], *_rest: Any) -> list[list[Verdict]]:
        return [[note, note] for _each in outcomes]

    monkeypatch.setattr(_release, "judge_all", judge_all)
    found = module("block_stream", monitors=[lab.vm().address], disks=["vda"])
    assert found["warnings"].count("look at VM web02, too") == 1


@pytest.mark.parametrize("name", ["block_stream", "block_stream_info"])
def test_without_the_library(module: RunModule, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Without qemu.qmp the module says what is missing, which role installs it, and where it is found."""
    monkeypatch.setattr(_module, "QEMU_QMP_IMPORT_ERROR", "ImportError: no qemu.qmp")
    found = module(name, monitors=["/m.qmp"], disks=["vda"])
    assert found["failed"]
    assert "qemu.qmp" in found["msg"]
    assert "The role virtops.qmp.qemu_qmp installs it." in found["msg"]
    assert "https://pypi.org/project/qemu.qmp/" in found["msg"]


@pytest.mark.parametrize("name", ["block_stream", "block_stream_info"])
def test_without_the_bindings(module: RunModule, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Without libvirt's bindings the module says what is missing and where it is found; qemu.qmp is not needed."""
    monkeypatch.setattr(_libvirt, "LIBVIRT_IMPORT_ERROR", "ImportError: no libvirt")
    monkeypatch.setattr(_module, "QEMU_QMP_IMPORT_ERROR", "ImportError: no qemu.qmp")
    found = module(name, domains=["*"], disks=["vda"])
    assert found["failed"]
    assert [word for word in ("libvirt", "python3-libvirt") if word not in found["msg"]] == []
    assert "(qemu.qmp)" not in found["msg"]


def test_images_need_no_library(lab: Lab, module: RunModule, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a VM neither library is needed."""
    monkeypatch.setattr(_libvirt, "LIBVIRT_IMPORT_ERROR", "ImportError: no libvirt")
    monkeypatch.setattr(_module, "QEMU_QMP_IMPORT_ERROR", "ImportError: no qemu.qmp")
    assert not module("image_info", paths=["/vms/base.qcow2"]).get("failed")


# -- libvirt's guests --------------------------------------------------------------------------------------------------


@pytest.fixture
def daemon(libvirt: FakeLibvirt, monkeypatch: pytest.MonkeyPatch) -> FakeLibvirt:
    """libvirt with the guest `web01`, and the host that its QEMU runs on."""

    async def serving(work: Any) -> Any:
        libvirt.serve()
        return await work

    monkeypatch.setattr(asyncio, "run", lambda work: clock.run(serving(work)))
    monkeypatch.setattr(_module, "LinuxHost", lambda run_command: FakeHost(*(each.qemu for each in libvirt.guests)))
    return libvirt


def test_info_of_domains(daemon: FakeLibvirt, module: RunModule) -> None:
    """A guest is told by its domain, and nobody must wait for its turn to look."""
    with Turn(100) as other:
        assert other.try_to_take()
        found = module("block_stream_info", domain="web*")
    assert not found.get("failed"), found
    assert [(vm["domain"], vm["monitor"], vm["name"], vm["pid"]) for vm in found["vms"]] == [
        ("web01", None, "web01", 100)
    ]
    assert [(disk["domain"], disk["monitor"], disk["label"]) for disk in found["disks"]] == [("web01", None, "vda")]


def test_domains_are_populated(daemon: FakeLibvirt, module: RunModule) -> None:
    """A disk is named by libvirt's target, and a second task changes nothing."""
    first, second = (module("block_stream", domain="web01", disk="vda") for _number in range(2))
    assert [(each.get("failed", False), each["changed"], each["finished"]) for each in (first, second)] == [
        (False, True, True),
        (False, False, True),
    ]
    assert first["diff"]["before"] != first["diff"]["after"]


def test_one_run_works_on_a_domain(daemon: FakeLibvirt, module: RunModule) -> None:
    """A second one is told who is there; a check looks only, and does not wait."""
    with Turn(100) as other:
        assert other.try_to_take()
        assert not module("block_stream", check=True, domain="web01", disk="vda").get("failed")
        found = module("block_stream", domain="web01", disk="vda")
    assert [(error["kind"], error["domain"], error["monitor"]) for error in found["errors"]] == [
        ("MonitorSilent", "web01", None)
    ]
    assert found["msg"].startswith("web01: another run of this collection")


def test_a_later_look_at_domains_is_bound(daemon: FakeLibvirt, module: RunModule) -> None:
    """It works on the guest that the first one selected, and on no other of its name."""
    first = module("block_stream", check=True, domain="web01", disk="vda")
    vm, (disk,) = first["vms"][0], first["disks"]
    bound = {"web01": {"pid": vm["pid"], "started": vm["started"], "keys": [disk["key"]]}}
    refused = module("block_stream", domain="x", disk="x", bound={"web01": {**bound["web01"], "started": 1}})
    assert [(error["kind"], error["domain"]) for error in refused["errors"]] == [("MonitorUnusable", "web01")]
    found = module("block_stream", domain="x", disk="x", bound=bound)
    assert ([disk["domain"] for disk in found["disks"]], found["finished"]) == (["web01"], True)


def test_domains_that_are_off(daemon: FakeLibvirt, module: RunModule) -> None:
    """Found by a pattern they are a warning, and named outright a failure."""
    daemon.guests.append(Guest("web02", "2f3a0c1e-5d0c-4c59-9d4e-6c1c6f0e7a51", is_on=False))
    found = module("block_stream_info", domain="*")
    assert (found.get("failed", False), found["warnings"]) == (False, ["these domains are off: web02"])
    named = module("block_stream_info", domains=["web01", "web02"])
    assert ([error["kind"] for error in named["errors"]], named["msg"]) == (
        ["MonitorMissing"],
        "web02: the domain is off",
    )
    assert [vm["name"] for vm in named["vms"]] == ["web01"]


def test_what_is_free_may_be_of_a_domain_that_is_off(daemon: FakeLibvirt, module: RunModule) -> None:
    """An image is free, and the guest that is off and may need it is told by its name."""
    daemon.guests.append(Guest("web02", "2f3a0c1e-5d0c-4c59-9d4e-6c1c6f0e7a51", is_on=False))
    found = module("block_stream", domain="*", disk="vda")
    assert [image["free"] for image in found["disks"][0]["released"]] == [True, True]
    assert any("a VM that is off: web02" in warning for warning in found["warnings"])


def test_what_a_snapshot_needs_is_not_free(daemon: FakeLibvirt, module: RunModule) -> None:
    """Nobody has it open any more, and libvirt would revert to it."""
    disk = "<domain><devices><disk><source file='/vms/mid.qcow2'/></disk></devices></domain>"
    daemon.guests[0].snapshots = {"before": f"<domainsnapshot>{disk}</domainsnapshot>"}
    found = module("block_stream", domain="web01", disk="vda")
    told = {image["path"]: (image["free"], image["reason"]) for image in found["disks"][0]["released"]}
    needed = (False, "snapshot before of domain web01 needs it")
    assert told == {"/vms/mid.qcow2": needed, "/vms/base.qcow2": (True, None)}
    shown = module("image_info", paths=["/vms/mid.qcow2"], domains=["*"])["images"]
    assert [(image["free"], image["reason"]) for image in shown] == [needed]


def test_images_of_domains(daemon: FakeLibvirt, module: RunModule) -> None:
    """A process that has an image open is called by its guest."""
    found = module("image_info", paths=["/vms/base.qcow2"], domains=["*"])
    assert [user["vm"] for user in found["images"][0]["users"]] == ["web01"]


@pytest.mark.parametrize("name", ["block_stream", "block_stream_info", "image_info"])
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param({"monitors": ["/m.qmp"]}, "monitors and domains are both given", id="both"),
        pytest.param({"uri": "qemu+ssh://hv1/system"}, "which leads to another host", id="elsewhere"),
        pytest.param({"monitor_owner": "no such user"}, "is no user of this host", id="an owner that is nobody"),
        pytest.param({"connect_timeout": 0}, "connect_timeout is 0.0", id="no time"),
    ],
)
def test_options_of_domains(
    daemon: FakeLibvirt, module: RunModule, name: str, arguments: dict[str, Any], words: str
) -> None:
    """What cannot be right is refused before libvirt is asked anything."""
    more = {"paths": ["/x"]} if name == "image_info" else {"disks": ["vda"]}
    found = module(name, **{"domains": ["web01"], **more, **arguments})
    assert found["failed"]
    assert words in found["msg"]
    assert daemon.log == []


def test_an_empty_domain_is_none(module: RunModule) -> None:
    """What a template leaves of an unset variable names no guest."""
    assert "neither monitors nor domains names a VM" in module("block_stream", domains=[""], disks=["vda"])["msg"]


@pytest.mark.parametrize("name", ["block_stream", "block_stream_info"])
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param({"monitors": []}, "neither monitors nor domains names a VM", id="no monitor"),
        pytest.param({"monitors": [""]}, "neither monitors nor domains names a VM", id="an empty string is no monitor"),
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


def bound_to(qemu: FakeQemu, pid: int | None, *names: str) -> dict[str, Any]:
    """The option `bound` for disks of one VM."""
    keys = [f"/machine/peripheral/{name}/virtio-backend" for name in names]
    return {qemu.address: {"pid": pid, "started": qemu.started, "keys": keys}}


def test_a_later_look_is_bound(lab: Lab, module: RunModule) -> None:
    """It works on the disks that the first one selected and on no other, whatever `monitors` and `disks` say."""
    one, other = lab.vm("vm1"), lab.vm("vm2")
    one.add("vdb", "b.qcow2", "b-base.qcow2")
    first = module("block_stream", check=True, monitors=[one.address, other.address], disks=["vda"])
    assert [vm["monitor"] for vm in first["vms"]] == [one.address, other.address]
    pid = first["vms"][0]["pid"]
    found = module("block_stream", monitors=["/no/such.qmp"], disks=["nosuch"], bound=bound_to(one, pid, "vda"))
    assert not found.get("failed"), found
    assert [(disk["vm"], disk["label"], disk["finished"]) for disk in found["disks"]] == [("vm1", "vda", True)]
    assert (one.acts.count("block-stream"), other.acts) == (1, [])


def test_a_bound_vm_that_is_another_now(lab: Lab, module: RunModule) -> None:
    """Another QEMU behind the same monitor is not touched, and the error is that of the VM."""
    qemu = lab.vm()
    for check in (True, False):
        found = module("block_stream", check=check, monitors=["x"], disks=["*"], bound=bound_to(qemu, 1, "vda"))
        assert (found["disks"], qemu.acts) == ([], [])
        assert [(error["kind"], error["monitor"]) for error in found["errors"]] == [("MonitorUnusable", qemu.address)]


@pytest.mark.parametrize(
    "bound",
    [
        pytest.param({"/m.qmp": 7}, id="a number"),
        pytest.param({"/m.qmp": {"pid": 7, "started": 7}}, id="no keys"),
        pytest.param({"/m.qmp": {"pid": 7, "keys": []}}, id="no start"),
        pytest.param({"/m.qmp": {"pid": "x", "started": 7, "keys": []}}, id="a pid that is none"),
        pytest.param({"/m.qmp": {"pid": 7, "started": 7, "keys": [], "ahead": [8]}}, id="no key for a number"),
        pytest.param({"/m.qmp": {"pid": 7, "started": 7, "keys": [], "ahead": {"a": "x"}}}, id="no number"),
    ],
)
def test_a_bound_of_another_form(module: RunModule, bound: dict[str, Any]) -> None:
    """Who writes the option by hand is told its form."""
    found = module("block_stream", monitors=["/m.qmp"], disks=["*"], bound=bound)
    assert found["failed"]
    assert found["msg"].startswith("bound is invalid; it is {MONITOR: ")


# -- image_info --------------------------------------------------------------------------------------------------------


def test_info_of_images(folder: Path, module: RunModule, monkeypatch: pytest.MonkeyPatch) -> None:
    """It looks at real files, and needs no library where no VM is asked."""
    (folder / "vms").mkdir()
    (folder / "golden").write_text("data")
    (folder / "vms" / "top").write_bytes(qcow2(b"../golden"))
    monkeypatch.setattr(_module, "QEMU_QMP_IMPORT_ERROR", "why")
    (image,) = module("image_info", paths=[f"{folder}/golden"] * 2, search=["", f"{folder}/vms"])["images"]
    assert (image["free"], image["users"], image["needed_by"]) == (True, [], [f"{folder}/vms/top"])


def test_info_of_images_of_vms(lab: Lab, module: RunModule) -> None:
    """Who has an image open is called by its VM."""
    qemu = lab.vm("web01")
    found = module("image_info", path=f"{lab.folder}/web01-base.qcow2", monitor=qemu.address)
    assert [user["vm"] for user in found["images"][0]["users"]] == ["web01"]


def test_info_of_images_without_the_library(module: RunModule, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who wants VMs to be asked needs it."""
    monkeypatch.setattr(_module, "QEMU_QMP_IMPORT_ERROR", "why")
    assert "qemu.qmp" in module("image_info", paths=[], monitor="/m.qmp")["msg"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        pytest.param({"paths": ["golden"]}, "paths has 'golden', which is not absolute", id="a relative path"),
        pytest.param({"paths": [""]}, "paths has '', which is not absolute", id="an empty path"),
        pytest.param({"paths": ["/golden/"]}, "paths is '/golden/', which is a folder", id="a folder"),
        pytest.param({"paths": ["/g"], "search": ["/a/../b"]}, "search has '/a/../b', with '..' in it", id="search"),
        pytest.param({"paths": [], "monitor": "tcp:x"}, "is no TCP address", id="a monitor"),
        pytest.param({"paths": [], "connect_timeout": 0}, "connect_timeout is 0", id="connect_timeout"),
    ],
)
def test_info_of_images_refuses(module: RunModule, options: dict[str, Any], words: str) -> None:
    """An option that is invalid is refused with its name."""
    found = module("image_info", **options)
    assert words in found["msg"]
    assert [error["kind"] for error in found["errors"]] == ["WrongRequest"]


# -- Options -----------------------------------------------------------------------------------------------------------

DEFAULTS: dict[str, Any] = {
    "disks": ["vda"],
    "state": "populated",
    "base": None,
    "wait": True,
    "wait_timeout": None,
    "until": None,
    "on_timeout": "fail",
    "increment": None,
    "cursor": 0,
    "speed": None,
    "total_speed": None,
    "guest_latency": None,
    "paced": None,
    "on_error": "report",
    "parallel": 1,
    "check_space": True,
    "release": True,
    "images": [],
    "read_ahead": 0,
    "progress": 10,
    "poll_interval": 0,
}


# What a look leaves to the next one.
PACED = {
    "limit": 9,
    "knee": None,
    "low_for": 1.0,
    "doubt": 5,
    "again_in": 60.0,
    "again_after": 60.0,
    "lifted": [["/m", "vda", "read", 4]],
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
        pytest.param({"until": "@1764345600"}, asking(until=1764345600), id="until"),
        pytest.param({"total_speed": "1G"}, asking(total_speed=1024**3), id="all streams together"),
        pytest.param(
            {"wait_timeout": 0, "on_timeout": "stop"}, asking(wait_timeout=0, on_timeout="stop"), id="no time to wait"
        ),
        pytest.param({"on_error": "stop", "parallel": 4}, asking(on_error="stop", parallel=4), id="policy and places"),
        pytest.param({"images": ["/vms"]}, asking(images=("/vms",)), id="images"),
        pytest.param({"check_space": False}, asking(check_space=False), id="space"),
        pytest.param({"poll_interval": 60}, asking(poll_interval=60), id="short visits"),
        pytest.param({"guest_latency": "5ms"}, asking(guest_latency=5_000_000), id="guests in milliseconds"),
        pytest.param({"guest_latency": " 0.25 s"}, asking(guest_latency=250_000_000), id="guests in seconds"),
        pytest.param({"guest_latency": "100.4us"}, asking(guest_latency=100_000), id="guests in microseconds"),
        pytest.param(
            {"guest_latency": "5ms", "state": "paused", "wait": False},
            asking(guest_latency=5_000_000, state="paused", wait=False),
            id="no stream is paced that is paused",
        ),
        pytest.param(
            {"guest_latency": "5ms", "paced": {"goes_on": True}},
            asking(guest_latency=5_000_000, goes_on=True),
            id="the first of several looks",
        ),
        pytest.param(
            {"guest_latency": "5ms", "paced": {**PACED, "goes_on": False}},
            asking(guest_latency=5_000_000, paced=Paced(9, None, 1.0, 5.0, 60.0, 60.0, (("/m", "vda", "read", 4),))),
            id="the last one",
        ),
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
        pytest.param({"images": ["vms"]}, "images has 'vms', which is not absolute", id="images"),
        pytest.param({"parallel": 0}, "parallel is 0; it must be from 1", id="parallel"),
        pytest.param({"progress": -1}, "progress is -1", id="progress"),
        pytest.param({"read_ahead": -1}, "read_ahead is -1; it must be from 0 to 16", id="read_ahead"),
        pytest.param({"read_ahead": 17}, "read_ahead is 17", id="more than QEMU works on"),
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
        pytest.param({"total_speed": "fast"}, "total_speed is 'fast', which is no size", id="total_speed"),
        pytest.param({"until": "noon"}, "until is 'noon', which is no time of day", id="until"),
        pytest.param({"guest_latency": "5"}, "guest_latency is '5', which is no time", id="a time without a unit"),
        pytest.param({"guest_latency": "-5ms"}, "guest_latency is '-5ms', which is no time", id="less than no time"),
        pytest.param({"guest_latency": "99us"}, "guest_latency is '99us'; it must be from 100us", id="too short"),
        pytest.param({"guest_latency": "10.1s"}, "it must be from 100us to 10s", id="too long"),
        pytest.param({"guest_latency": "5ms", "wait": False}, "goes neither with wait=false", id="nobody looks"),
        pytest.param({"guest_latency": "5ms", "poll_interval": 9}, "nor with poll_interval", id="looks now and then"),
        pytest.param({"paced": {"limit": 1}}, "paced is invalid", id="paced, without the rest"),
        pytest.param({"paced": {**PACED, "lifted": [[1]]}}, "paced is invalid", id="paced, lifted"),
        pytest.param({"paced": {**PACED, "doubt": "x"}}, "paced is invalid", id="paced, no number"),
    ],
)
def test_request_from_refuses(options: dict[str, Any], words: str) -> None:
    """What cannot be right is refused with the option, the reason and the remedy."""
    with pytest.raises(WrongRequest, match=words):
        request_from({**DEFAULTS, **options})


def test_until_a_time_of_the_day(lab: Lab, module: RunModule) -> None:
    """The wait ends at the next such time by this host's clock, and the result says when that is."""
    (told,) = (module("block_stream", check=True, monitors=[lab.vm().address], disks=["vda"], until="06:30"),)
    local = time.localtime(told["deadline"]["at"])
    assert (local.tm_hour, local.tm_min, local.tm_sec) == (6, 30, 0)
    assert 0 <= told["deadline"]["left"] <= 25 * 3600


def test_when_that_time_has_come(lab: Lab, module: RunModule) -> None:
    """The task fails with that reason, and the job goes on in QEMU."""
    qemu = lab.vm()
    found = module("block_stream", monitors=[qemu.address], disks=["vda"], until=f"@{int(time.time()) + 2}")
    assert "not populated when the time had come that until names" in found["msg"]
    assert (found["errors"][0]["kind"], len(qemu.jobs)) == ("TimeIsUp", 1)
    without = module("block_stream", check=True, monitors=[qemu.address], disks=["vda"])
    assert without["deadline"] is None


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
