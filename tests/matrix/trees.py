# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""QEMUs and Pythons of other Debian releases, side by side with the installed ones.

Each lives in a tree of its own, which is kept: its packages and those that they depend on, fetched by apt and unpacked,
nothing installed. Its programs run without chroot, through the tree's own dynamic loader: paths and /proc look as usual
to the tests, and the pid that is started is QEMU's or Python's. None of this needs root.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).resolve().parents[2]
TREES = ROOT / ".ansible" / "qemu"
PACKAGES = ("qemu-system-x86", "qemu-utils")
# libvirt runs in a chroot, so its tree has all that a start-up needs.
LIBVIRT = (
    *PACKAGES,
    "libvirt-daemon",
    "libvirt-daemon-driver-qemu",
    "libvirt-clients",
    "dash",
    "coreutils",
    "libc-bin",
)
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
FETCH_SECONDS = 600
MIRROR = os.environ.get("MATRIX_MIRROR", "http://deb.debian.org/debian")

# The releases of Debian that carry each version. The last one moves: what is run is what the binary itself says.
SUITES = {"5.2": "bullseye", "7.2": "bookworm", "10.0": "trixie", "11.1": "sid"}
# The Pythons that are fetched where they are not installed.
PYTHON_SUITES = {"3.14": "sid"}
PROGRAMS = {
    "QEMU_SYSTEM": "qemu-system-x86_64",
    "QEMU_IMG": "qemu-img",
    "QEMU_NBD": "qemu-nbd",
    "QEMU_IO": "qemu-io",
}
LIBRARIES = ("usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu/pulseaudio", "usr/lib")
FIRMWARE = ("usr/share/qemu", "usr/share/seabios", "usr/share")


class Unavailable(Exception):
    """This QEMU or Python cannot be had here; the reason is for the table."""


@dataclass(frozen=True)
class Qemu:
    """A QEMU of one version, and the environment in which the laboratory runs it."""

    name: str
    version: str
    environ: dict[str, str]

    @property
    def is_installed(self) -> bool:
        """Whether it is the host's own, and not one of a tree."""
        return not self.environ["QEMU_SYSTEM"].startswith(str(TREES))


def qemu(name: str) -> Qemu:
    """The installed QEMU where it has this version, else that of a tree, which is made unless it is there."""
    installed = {variable: shutil.which(program) for variable, program in PROGRAMS.items()}
    if all(installed.values()):
        environ = {variable: str(path) for variable, path in installed.items()}
        if (version := _version(environ)).startswith(f"{name}."):
            return Qemu(name, version, environ)
    suite = SUITES[name]
    tree = TREES / suite
    if not tree.is_dir():
        _make(suite, tree, PACKAGES)
    environ = {variable: str(_wrapper(tree, program)) for variable, program in PROGRAMS.items()}
    return Qemu(name, _version(environ), environ)


def libvirt_tree(name: str) -> Path:
    """The tree of the libvirt of the release that carries this QEMU, for root to start in a chroot."""
    tree = TREES / f"{SUITES[name]}-libvirt"
    if not tree.is_dir():
        _make(SUITES[name], tree, LIBVIRT)
    return tree


def python(name: str) -> str:
    """The program of this Python: the installed one, else that of a tree, which is made unless it is there."""
    if name not in PYTHON_SUITES or shutil.which(f"python{name}"):
        return f"python{name}"
    tree = TREES / f"python{name}"
    if not tree.is_dir():
        _make(PYTHON_SUITES[name], tree, (f"python{name}", f"python{name}-venv"))
    # Debian keeps pip's wheel beside Python, in a place that is not in the tree by that name.
    wheels = "/usr/share/python-wheels/"
    for settings in (tree / "usr" / "lib" / f"python{name}").glob("_sysconfigdata__*.py"):
        settings.write_text(settings.read_text().replace(f"'{wheels}'", f"'{tree}{wheels}'"))
    # Python finds its library from where the name lies that it was called by, in a virtual environment too. So the
    # script has the place of the program.
    script, program = (tree / "usr" / folder / f"python{name}" for folder in ("bin", "libexec"))
    if not program.exists():
        program.parent.mkdir(exist_ok=True)
        script.rename(program)
    _write_script(script, f"exec {_loaded(tree, program, '--argv0', '$0')}")
    return str(script)


def _version(environ: dict[str, str]) -> str:
    done = subprocess.run([environ["QEMU_SYSTEM"], "--version"], capture_output=True, text=True, check=False)
    found = re.search(r"version (\d+\.\d+\.\d+)", done.stdout)
    if found is None:
        raise Unavailable(f"{environ['QEMU_SYSTEM']} does not run: {done.stderr.strip()}")
    return found[1]


def _make(suite: str, tree: Path, wanted: Sequence[str]) -> None:
    """Make a tree; it gets its name when it is complete, so that a broken attempt is never taken for one."""
    if platform.machine() != "x86_64":
        raise Unavailable(f"the trees are for x86_64, this is {platform.machine()}")
    for program in ("apt-get", "dpkg-deb"):
        if shutil.which(program) is None:
            raise Unavailable(f"there is no {program} to fetch it from Debian {suite} with")
    if not KEYRING.exists():
        raise Unavailable(f"there is no {KEYRING} (apt-get install debian-archive-keyring)")
    attempt, packages = tree.with_suffix(".incomplete"), tree.with_suffix(".packages")
    for folder in (attempt, packages):
        shutil.rmtree(folder, ignore_errors=True)
    print(f"Fetching {wanted[0]} of Debian {suite} to {tree}", flush=True)
    apt = _apt(suite, packages)
    _run([*apt, "update", "--error-on=any"], suite)
    _run([*apt, "install", "--yes", "--no-install-recommends", "--download-only", *wanted], suite)
    for package in sorted(packages.glob("archives/*.deb")):
        _run(["dpkg-deb", "--extract", str(package), str(attempt)], suite)
    shutil.rmtree(packages)
    attempt.rename(tree)


def _apt(suite: str, folder: Path) -> list[str]:
    """The words of an apt-get that knows this release alone, takes nothing for installed and keeps all to a folder."""
    for name in ("lists/partial", "archives/partial"):
        (folder / name).mkdir(parents=True)
    (folder / "status").touch()
    (folder / "sources.list").write_text(f"deb [arch=amd64 signed-by={KEYRING}] {MIRROR} {suite} main\n")
    places = {
        "Dir::Etc::SourceList": folder / "sources.list",
        "Dir::Etc::SourceParts": "/dev/null",
        "Dir::Etc::Preferences": "/dev/null",
        "Dir::Etc::PreferencesParts": "/dev/null",
        "Dir::State::Lists": folder / "lists",
        "Dir::State::Status": folder / "status",
        "Dir::Cache": folder,
        "APT::Architecture": "amd64",
        "APT::Architectures": "amd64",
        "APT::Sandbox::User": "root",  # its own user may not look into the checkout
        "Acquire::Languages": "none",
        "Acquire::Retries": "2",
        "Acquire::http::Timeout": "20",
    }
    return ["apt-get", "--quiet", *(word for key, value in places.items() for word in ("-o", f"{key}={value}"))]


def _run(command: list[str], suite: str) -> None:
    log = TREES / f"{suite}.log"
    with log.open("ab") as output:
        before = output.tell()
        done = subprocess.run(
            ["timeout", str(FETCH_SECONDS), *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if done.returncode != 0:
        said = log.read_bytes()[before:].decode(errors="replace").strip().splitlines()
        reason = next((line for line in said if line.startswith("E:")), "".join(said[-1:]))
        raise Unavailable(f"{command[0]} failed for {suite}: {reason} (all of it: {log})")


def _wrapper(tree: Path, program: str) -> Path:
    """A script that runs a program of the tree with the tree's own loader and libraries."""
    command = _loaded(tree, tree / "usr" / "bin" / program)
    if program.startswith("qemu-system"):
        command += "".join(f" -L '{tree / folder}'" for folder in FIRMWARE)
    script = tree.with_suffix(".bin") / program
    script.parent.mkdir(exist_ok=True)
    _write_script(script, f"export QEMU_MODULE_DIR='{tree}/usr/lib/x86_64-linux-gnu/qemu'\nexec {command}")
    return script


def _loaded(tree: Path, program: Path, *options: str) -> str:
    """The shell's words that run a program through the loader of its tree, with these options of the loader."""
    places = [tree / folder / "ld-linux-x86-64.so.2" for folder in ("lib64", "usr/lib64")]
    loader = next(place for place in places if place.is_symlink() or place.exists())
    if loader.is_symlink() and loader.readlink().is_absolute():  # a link that would lead out of the tree
        loader = tree / str(loader.readlink()).lstrip("/")
    libraries = ":".join(f"{tree}/{folder}" for folder in LIBRARIES)
    quoted = "".join(f' "{option}"' for option in options)
    return f"'{loader}' --library-path '{libraries}'{quoted} '{program}'"


def _write_script(script: Path, command: str) -> None:
    script.write_text(f'#!/bin/sh\n{command} "$@"\n')
    script.chmod(0o755)
