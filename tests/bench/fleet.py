# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""A hundred hypervisors with two VMs each: what a host of a fleet costs the controller, and what is printed of it."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lab.images import KiB

from .measure import Figure
from .ways import environment, golden, must_be_populated, plain_vm

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from .tasks import Bench

HOSTS, VMS = 100, 2
FEW, MORE = 10, 40
ROLE = """
- hosts: all
  gather_facts: false
  serial: {serial}
  roles:
    - role: virtops.qmp.populate
      throttle: {throttle}
      populate_monitors: "{{{{ vms }}}}"
"""
TASK = """
- hosts: all
  gather_facts: false
  tasks:
    - virtops.qmp.block_stream:
        monitors: "{{ vms }}"
        disks: "*"
"""
# As the guide advises for a fleet.
QUIET = {
    "ANSIBLE_CALLBACKS_ENABLED": "virtops.qmp.fleet",
    "ANSIBLE_DISPLAY_OK_HOSTS": "false",
    "ANSIBLE_DISPLAY_SKIPPED_HOSTS": "false",
}


@dataclass(frozen=True)
class Cost:
    """What a playbook took for each of its hosts; all hosts are this one, so that its processors do all the work."""

    seconds: float
    cpu: float
    lines: float
    megabytes: float


def fleet(bench: Bench) -> Iterator[Figure]:
    """The role over hosts whose VMs it populates, and again when there is nothing to do; all once."""
    folder = bench.folder / "fleet"
    folder.mkdir()
    costs: dict[str, Cost] = {}
    with contextlib.ExitStack() as stack:
        vms = [
            [stack.enter_context(plain_vm(folder, base, name=f"h{host:03}v{vm}")) for vm in range(VMS)]
            for host, base in enumerate(_golden_of_each(bench.folder, folder))
        ]
        inventory = [
            f"h{host:03} ansible_connection=local vms={','.join(vm.monitor for vm in own)}"
            for host, own in enumerate(vms)
        ]
        (folder / "hosts").write_text("\n".join(inventory))
        costs["the role populates"] = _cost(folder, _role(), HOSTS)
        for own in vms:
            for vm in own:
                must_be_populated(vm.judge)
        costs["again, 5 forks"] = _cost(folder, _role(), HOSTS)
        costs["again, 25 forks"] = _cost(folder, _role(), HOSTS, forks=25)
        costs["again, with the callback"] = _cost(folder, _role(), HOSTS, environ=QUIET)
        costs["again, one task"] = _cost(folder, TASK, HOSTS)
        few = f"{FEW} hosts"
        by_size = {
            few: _cost(folder, _role(), FEW),
            f"{few}, throttle: 1": _cost(folder, _role(throttle=1), FEW),
            f"{few}, serial: 2": _cost(folder, _role(serial=2), FEW),
            f"{MORE} hosts": _cost(folder, _role(), MORE),
            f"{HOSTS} hosts": costs["again, 5 forks"],
        }
    title = f"{HOSTS} hosts with {VMS} VMs each"
    first = "again, 5 forks"
    yield _figure("fleet-cpu", f"{title}: processor time of both sides", "seconds per host", first, costs, "cpu")
    yield _figure("fleet-seconds", f"{title}: time", "seconds per host", first, costs, "seconds")
    yield _figure("fleet-lines", f"{title}: lines printed", "lines per host", first, costs, "lines")
    yield _figure("fleet-memory", f"{title}: memory of the controller", "MiB", first, costs, "megabytes")
    yield _figure("fleet-size", "The role again, with nothing to do", "seconds per host", few, by_size, "seconds")


def _golden_of_each(source: Path, folder: Path) -> Iterator[Path]:
    """A golden image for each host: no hypervisor finds its own open in the VMs of all others."""
    for host in range(HOSTS):
        yield Path(shutil.copy(golden(source, 64 * KiB), folder / f"h{host:03}-golden.qcow2"))


def _role(*, throttle: int = 0, serial: int = HOSTS) -> str:
    return ROLE.format(throttle=throttle, serial=serial)


def _figure(name: str, title: str, unit: str, baseline: str, costs: Mapping[str, Cost], member: str) -> Figure:
    return Figure(name, title, unit, baseline, {way: [getattr(cost, member)] for way, cost in costs.items()})


def _cost(folder: Path, book: str, hosts: int, *, forks: int = 5, environ: Mapping[str, str] | None = None) -> Cost:
    (folder / "play.yml").write_text(book)
    words = ["-i", "hosts", "-f", str(forks), "-l", f"all[0:{hosts - 1}]", "play.yml"]
    began = time.monotonic()
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "ansible.cli.playbook", *words],
            cwd=folder,
            env=environment(**environ or {}),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        _pid, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    printed = (folder / "output").read_text()
    assert process.returncode == 0, printed
    cpu = used.ru_utime + used.ru_stime
    lines = len(printed.splitlines())
    return Cost((time.monotonic() - began) / hosts, cpu / hosts, lines / hosts, used.ru_maxrss / 1024)
