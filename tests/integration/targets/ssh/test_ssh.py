# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""The collection over a real SSH connection, as it reaches every hypervisor: modules, role, and what is cut off."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from campaign.leaving import Leaving, come_back
from lab import Sshd, Vm, disks, images, product, ssh

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

pytestmark = pytest.mark.skipif(ssh.SERVER is None, reason="there is no sshd")

# Every way to be cut off, two of them with pipelining, two with sudo: `nox -Re faults -- --leave` plays more.
ROUNDS = (0, 5, 10, 15)


@pytest.fixture
def sshd(folder: Path) -> Iterator[Sshd]:
    with Sshd(folder) as server:
        yield server


@pytest.fixture
def vms(folder: Path, boot: Callable[..., Vm]) -> list[Vm]:
    """Two VMs with a disk each, over one golden image."""
    golden = images.create(folder / "golden.qcow2", 16 * images.MiB, writes=images.layer_writes(0, 16 * images.MiB, 1))
    tops = {name: images.create(folder / f"{name}.qcow2", backing=golden) for name in ("web01", "web02")}
    return [boot(*disks.drive(top, id="drive0", qdev="vda"), name=name) for name, top in tops.items()]


def way(name: str, pipelining: bool) -> Mapping[str, object]:
    """The variables of a connection; a test is skipped where there is no such way."""
    if name == "login":
        return {"ansible_pipelining": pipelining}
    found = ssh.with_sudo(pipelining=pipelining)
    if found is None:
        pytest.skip("sudo is missing, or asks for a password")
    return found


@pytest.mark.parametrize(
    ("become", "pipelining"),
    [
        pytest.param("login", True, id="pipelining"),
        pytest.param("sudo", False, id="sudo"),
        pytest.param("sudo", True, id="sudo, pipelining"),
    ],
)
def test_a_hypervisor_is_populated(  # a host, how it is reached, and what is on it
    folder: Path, sshd: Sshd, vms: list[Vm], monkeypatch: pytest.MonkeyPatch, become: str, pipelining: bool
) -> None:
    """Look, populate watched, by the module and by the role, ask who uses the golden image: all over one connection."""
    for name, value in ssh.ROOT_BY_SUDO.items():
        monkeypatch.setenv(name, value)
    tasks = [
        {"name": "look", "virtops.qmp.block_stream_info": {}},
        {
            "name": "populate",
            "virtops.qmp.block_stream": {"disks": "vda", "vms": "web01", "speed": "2M", "progress": 1},
        },
        {"name": "role", "include_role": {"name": "virtops.qmp.populate"}},
        {"name": "users", "virtops.qmp.image_info": {"paths": f"{folder}/golden.qcow2"}},
    ]
    monitors = [f"{folder}/*.qmp"]
    defaults = {"group/virtops.qmp.qmp": {"monitors": monitors}}
    play = {"hosts": "all", "gather_facts": False, "module_defaults": defaults, "tasks": tasks}
    extra = {"populate_monitors": monitors}
    run = product.playbook(json.dumps([play]), *sshd.reach(way(become, pipelining)), extra=extra)
    assert run.code == 0, run.stdout + run.stderr
    assert [disk["populated"] for disk in run.result("look")["disks"]] == [False, False]
    assert "localhost web01 vda  " in run.stderr
    assert [vm.inserted("vda")["backing_file_depth"] for vm in vms] == [0, 0]
    assert [image["free"] for image in run.result("users")["images"]] == [True]


@pytest.mark.parametrize("pipelining", [True, False], ids=["pipelining", "a file"])
def test_empty_lines_before_a_result_are_passed_over(folder: Path, sshd: Sshd, vms: list[Vm], pipelining: bool) -> None:
    """So the modules may send some while they wait, for a firewall forgets a connection that is silent."""
    python = folder / "python"
    python.write_text(f'#!/bin/sh\necho\necho\nexec {product.target_python()} "$@"\n')
    python.chmod(0o755)
    look = {"virtops.qmp.block_stream_info": {"monitors": [f"{folder}/*.qmp"]}}
    tasks = [{"name": "look", **look}, {"name": "later", **look, "async": 60, "poll": 1}]
    play = {"hosts": "all", "gather_facts": False, "tasks": tasks}
    variables = {**way("login", pipelining), "ansible_python_interpreter": str(python)}
    run = product.playbook(json.dumps([play]), *sshd.reach(variables))
    assert run.code == 0, run.stdout + run.stderr
    assert "WARNING" not in run.stdout + run.stderr
    assert [len(run.result(name)["disks"]) for name in ("look", "later")] == [len(vms)] * 2


@pytest.mark.parametrize("number", ROUNDS)
def test_whoever_is_cut_off_comes_back_at_once(number: int) -> None:
    """What a lost connection or controller has left behind gives the monitor to the next run, which ends the stream."""
    back = come_back(Leaving.of(1, number))
    assert back.complaint == "", str(back.leaving)
