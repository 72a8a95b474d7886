# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""A play of many hosts, most of which are out of order: a line of each, and one table at the end."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from lab import Vm, disks, images, product

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PLAY = """
- hosts: hypervisors
  gather_facts: false
  roles:
    - role: virtops.qmp.populate
      populate_monitors: "{{ monitor }}"
      populate_disks: vda
"""
LOST = [f"hv{place:02}" for place in range(3, 13)]


def run(folder: Path, vms: list[Vm], *options: str) -> subprocess.CompletedProcess[str]:
    """The play over two hosts with a VM each, nine without one, and one that cannot be reached."""
    monitors = {f"hv{place:02}": vm.monitor for place, vm in enumerate(vms, 1)}
    monitors |= dict.fromkeys(LOST, f"{folder}/no-such.qmp")
    here = f"ansible_connection=local ansible_python_interpreter={product.target_python()}"
    lines = [f"{name} monitor={monitor} {here}" for name, monitor in monitors.items()]
    # Nobody listens there.
    lines[-1] = f"{LOST[-1]} monitor=x ansible_connection=ssh ansible_host=127.0.0.1 ansible_port=1"
    (folder / "hosts.ini").write_text("\n".join(["[hypervisors]", *lines]))
    (folder / "play.yml").write_text(PLAY)
    environ = {"DISPLAY_OK_HOSTS": "false", "DISPLAY_SKIPPED_HOSTS": "false", "CALLBACKS_ENABLED": "virtops.qmp.fleet"}
    return subprocess.run(
        [sys.executable, "-m", "ansible.cli.playbook", "-f", "12", "-i", "hosts.ini", "play.yml", *options],
        cwd=folder,
        env=product.environment(**{f"ANSIBLE_{name}": value for name, value in environ.items()}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_table_of_the_fleet(folder: Path, boot: Callable[..., Vm]) -> None:
    """What was populated has a line; who failed or cannot be reached comes first in the table, which counts all."""
    chains = [images.chain(folder, prefix=f"{name}-", seed=number) for number, name in enumerate(("web01", "web02"))]
    vms = [boot(*disks.drive(chain.top, id="d", qdev="vda"), name=f"vm{place}") for place, chain in enumerate(chains)]
    done = run(folder, vms)
    assert [vm.inserted("vda")["backing_file_depth"] for vm in vms] == [0, 0]
    told = done.stderr.splitlines()
    assert sorted(line.split(",")[0] for line in told if line.startswith(("hv01:", "hv02:"))) == [
        "hv01: 1 of 1 disk finished",
        "hv02: 1 of 1 disk finished",
    ]
    table = told[told.index(next(line for line in told if line.startswith("HOST "))) :]
    assert sorted(line.split()[0] for line in table[1:11]) == LOST
    rows = {line.split()[0]: line for line in table[1:]}
    assert "no-such.qmp" in rows["hv03"]
    assert "unreachable: " in rows[LOST[-1]]
    assert rows["total"].split()[1:6] == ["2", "2", "0", "0", "0"]
    assert "12 hosts" in rows["total"]
    assert table[-1] == "and 2 hosts with all finished (-v shows each)"
    shown = [line.split()[0] for line in run(folder, vms, "-v").stderr.splitlines() if line.startswith("hv0")]
    assert {"hv01", "hv02"} < set(shown)
