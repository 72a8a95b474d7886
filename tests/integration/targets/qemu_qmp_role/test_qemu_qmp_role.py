# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""The role that installs qemu.qmp: where it comes from, and that the modules then run with it."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from lab import Vm, host, product
from lab.libvirt import distribution_python
from lab.process import run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PLAY = """
- hosts: localhost
  gather_facts: false
  vars:
    ansible_pipelining: true  # so that no file need be seen where the Python is
    ansible_python_interpreter: {venv}/bin/python  # as an inventory has it, before there is such a thing
  roles:
    - role: virtops.qmp.qemu_qmp
      qemu_qmp_python: {python}
      qemu_qmp_venv: {venv}
      qemu_qmp_libvirt: {libvirt}
  tasks:
    - name: Ask the VM
      virtops.qmp.block_stream_info:
        monitors: {monitor}
      when: not ansible_check_mode and {asks}
"""
TELL = "virtops.qmp.qemu_qmp : Tell which Python it is"


@pytest.fixture
def bare(folder: Path) -> str:
    """A Python without qemu.qmp: that of the tests may have it, and the one that it was made of has not."""
    python = folder / "bare" / "bin" / "python"
    run([sys.executable, "-m", "venv", "--without-pip", folder / "bare"])
    assert not has_qemu_qmp(python)
    return str(python)


def has_qemu_qmp(python: Path) -> bool:
    return subprocess.run([python, "-c", "import qemu.qmp"], stderr=subprocess.DEVNULL, check=False).returncode == 0


def play(*options: str, python: str, venv: Path, monitor: str = "", libvirt: bool = False) -> product.AnsibleRun:
    words: dict[str, Any] = {"python": python, "venv": venv, "monitor": monitor, "asks": bool(monitor)}
    words["libvirt"] = str(libvirt).lower()
    done = product.playbook(PLAY.format(**words), *options, timeout=300)
    assert done.code == 0, done.stdout + done.stderr
    return done


def chosen(done: product.AnsibleRun) -> str:
    """The Python that the role tells to use."""
    told: str = done.result(TELL)["msg"]
    return told.rpartition(" ")[2]


def test_a_virtual_environment(folder: Path, boot: Callable[..., Vm], bare: str) -> None:
    """Check mode makes nothing; a run makes what the modules of the same play need; a rerun changes nothing."""
    venv, monitor = folder / "venv", boot().monitor
    done = play("--check", python=bare, venv=venv)
    assert (done.stats["localhost"]["changed"], venv.exists()) == (1, False)
    done = play(python=bare, venv=venv, monitor=monitor)
    assert chosen(done) == f"{venv}/bin/python"
    assert [vm["monitor"] for vm in done.result("Ask the VM")["vms"]] == [monitor]
    assert done.stats["localhost"]["changed"] > 0
    assert (has_qemu_qmp(venv / "bin/python"), has_qemu_qmp(Path(bare))) == (True, False)
    done = play(python=bare, venv=venv, monitor=monitor)
    assert (chosen(done), done.stats["localhost"]["changed"]) == (f"{venv}/bin/python", 0)

    # The Python below a virtual environment changes with the distribution, and then its packages are not found.
    for package in venv.glob("lib/python3*/site-packages/qemu*"):
        shutil.rmtree(package)
    assert not has_qemu_qmp(venv / "bin/python")
    done = play(python=bare, venv=venv, monitor=monitor)
    assert has_qemu_qmp(venv / "bin/python")
    assert done.result("Ask the VM")["vms"]

    # And a Python that has it is taken as it is.
    done = play(python=f"{venv}/bin/python", venv=folder / "none", monitor=monitor)
    assert (chosen(done), done.stats["localhost"]["changed"]) == (f"{venv}/bin/python", 0)
    assert not (folder / "none").exists()


@pytest.fixture
def distribution(folder: Path) -> Iterator[Path]:
    """A copy of this host, whose distribution has the packages python3-qemu-qmp and python3-libvirt, not installed."""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        pytest.skip("only root can make a copy of this host, and only Debian's tools make the package")
    library = Path("usr/lib/python3/dist-packages")
    qmp, bindings = folder / "qmp" / library, folder / "bindings" / library
    run([product.target_python(), "-m", "pip", "install", "--quiet", "--no-deps", "--target", qmp, "qemu.qmp"])
    bindings.mkdir(parents=True)
    for name in ("libvirt", "libvirt_qemu"):  # this is about the package, not about what is in it
        (bindings / f"{name}.py").touch()
    with host.copy_of_host(folder / "copy") as root:
        if (root / library / "libvirt.py").exists():
            run(["chroot", root, "dpkg", "--purge", "python3-libvirt"])
        archive = root / "archive"
        archive.mkdir()
        listings = [
            package(folder / "qmp", "python3-qemu-qmp", archive),
            package(folder / "bindings", "python3-libvirt", archive),
        ]
        (archive / "Packages").write_text("\n".join(listings))
        (root / "etc/apt/sources.list.d/own.list").write_text("deb [trusted=yes] file:/archive ./\n")
        yield root


def package(parts: Path, name: str, archive: Path) -> str:
    """Make a package of a folder, for an archive; return its entry there."""
    about = f"Package: {name}\nVersion: 99\nArchitecture: all\nMaintainer: nobody\nDescription: for a test\n"
    (parts / "DEBIAN").mkdir()
    (parts / "DEBIAN/control").write_text(about)
    made = archive / f"{name}.deb"
    run(["dpkg-deb", "--build", "--root-owner-group", parts, made])
    digest = hashlib.sha256(made.read_bytes()).hexdigest()
    return f"{about}Filename: ./{made.name}\nSize: {made.stat().st_size}\nSHA256: {digest}\n"


def within(distribution: Path, folder: Path) -> Path:
    """The distribution's Python in a copy of this host."""
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nexec chroot {distribution} /usr/bin/python3 "$@"\n')
    python.chmod(0o755)
    return python


def test_libvirts_bindings(folder: Path, distribution: Path) -> None:
    """Asked for, they are installed; a rerun changes nothing. Where they cannot be had, the role says so."""
    python = within(distribution, folder)
    done = play("--check", python=str(python), venv=Path("/opt/not-made"), libvirt=True)
    assert installed(distribution, "python3-libvirt") == ""
    done = play(python=str(python), venv=Path("/opt/not-made"), libvirt=True)
    assert chosen(done) == "/usr/bin/python3"
    assert installed(distribution, "python3-libvirt") == "99"
    done = play(python=str(python), venv=Path("/opt/not-made"), libvirt=True)
    assert (chosen(done), done.stats["localhost"]["changed"]) == ("/usr/bin/python3", 0)


def installed(distribution: Path, name: str) -> str:
    """The version of a package that is installed; empty where it is not."""
    listing = run(["chroot", distribution, "dpkg-query", "--show", "--showformat=${Package} ${Version}\n", "*"])
    return dict(line.split() for line in listing.splitlines() if " " in line.strip()).get(name, "")


def test_libvirts_bindings_beside_a_virtual_environment(folder: Path) -> None:
    """A virtual environment that is made with the distribution's Python has both."""
    python = distribution_python()
    if subprocess.run([python, "-c", "import libvirt_qemu"], check=False).returncode != 0:
        pytest.skip("python3-libvirt is not installed here")
    done = play(python=python, venv=folder / "venv", libvirt=True)
    run([chosen(done), "-c", "import libvirt, libvirt_qemu, qemu.qmp"])


def test_the_package_of_the_distribution(folder: Path, distribution: Path) -> None:
    """Where the distribution has a package it is installed, and no virtual environment is made."""
    python = within(distribution, folder)
    venv = Path("/opt/not-made")
    done = play(python=str(python), venv=venv)
    assert chosen(done) == "/usr/bin/python3"
    status = run(["chroot", distribution, "dpkg-query", "--show", "python3-qemu-qmp"])
    assert status.split() == ["python3-qemu-qmp", "99"]
    assert not (distribution / "opt/not-made").exists()
    done = play(python=str(python), venv=venv)
    assert (chosen(done), done.stats["localhost"]["changed"]) == ("/usr/bin/python3", 0)
