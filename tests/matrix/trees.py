# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""QEMUs of other Debian releases, side by side with the installed one.

Each lives in a tree of its own, made by debootstrap and kept. Its programs run without chroot, through the tree's own
dynamic loader: paths and /proc look as usual to the tests, and the pid that is started is QEMU's.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TREES = ROOT / ".ansible" / "qemu"
MIRROR = os.environ.get("MATRIX_MIRROR", "http://deb.debian.org/debian")

# The releases of Debian that carry each version. The last one moves: what is run is what the binary itself says.
SUITES = {"5.2": "bullseye", "7.2": "bookworm", "10.0": "trixie", "11.1": "sid"}
PROGRAMS = {
    "QEMU_SYSTEM": "qemu-system-x86_64",
    "QEMU_IMG": "qemu-img",
    "QEMU_NBD": "qemu-nbd",
    "QEMU_IO": "qemu-io",
}
LIBRARIES = ("usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu/pulseaudio", "usr/lib")
FIRMWARE = ("usr/share/qemu", "usr/share/seabios", "usr/share")


class Unavailable(Exception):
    """This QEMU cannot be had here; the reason is for the table."""


@dataclass(frozen=True)
class Qemu:
    """A QEMU of one version, and the environment in which the laboratory runs it."""

    name: str
    version: str
    environ: dict[str, str]


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
        _make(suite, tree)
    environ = {variable: str(_wrapper(tree, program)) for variable, program in PROGRAMS.items()}
    return Qemu(name, _version(environ), environ)


def _version(environ: dict[str, str]) -> str:
    done = subprocess.run([environ["QEMU_SYSTEM"], "--version"], capture_output=True, text=True, check=False)
    found = re.search(r"version (\d+\.\d+\.\d+)", done.stdout)
    if found is None:
        raise Unavailable(f"{environ['QEMU_SYSTEM']} does not run: {done.stderr.strip()}")
    return found[1]


def _make(suite: str, tree: Path) -> None:
    """Make a tree; it gets its name when it is complete, so that a broken attempt is never taken for one."""
    if platform.machine() != "x86_64":
        raise Unavailable(f"the trees are for x86_64, this is {platform.machine()}")
    if os.geteuid() != 0:
        raise Unavailable("making the tree needs root")
    if shutil.which("debootstrap") is None:
        raise Unavailable("debootstrap is not installed (apt-get install debootstrap)")
    attempt = tree.with_suffix(".incomplete")
    shutil.rmtree(attempt, ignore_errors=True)
    attempt.parent.mkdir(parents=True, exist_ok=True)
    print(f"Making a tree of Debian {suite} with its QEMU in {tree}", flush=True)
    _run(["debootstrap", "--variant=minbase", suite, str(attempt), MIRROR], suite)
    install = ["apt-get", "install", "--yes", "--no-install-recommends", "qemu-system-x86", "qemu-utils"]
    _run(["chroot", str(attempt), "env", "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C", *install], suite)
    shutil.rmtree(attempt / "var" / "cache" / "apt", ignore_errors=True)
    attempt.rename(tree)


def _run(command: list[str], suite: str) -> None:
    log = TREES / f"{suite}.log"
    with log.open("ab") as output:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, check=False)
    if done.returncode != 0:
        last = log.read_text(errors="replace").strip().splitlines()[-1:]
        raise Unavailable(f"{command[0]} failed for {suite}: {' '.join(last)} (all of it: {log})")


def _wrapper(tree: Path, program: str) -> Path:
    """A script that runs a program of the tree with the tree's own loader and libraries."""
    loader = tree / "lib64" / "ld-linux-x86-64.so.2"
    if loader.is_symlink() and loader.readlink().is_absolute():  # a link that would lead out of the tree
        loader = tree / str(loader.readlink()).lstrip("/")
    words = [loader, "--library-path", ":".join(f"{tree}/{folder}" for folder in LIBRARIES), tree / "usr/bin" / program]
    if program.startswith("qemu-system"):
        words += [word for folder in FIRMWARE for word in ("-L", tree / folder)]
    script = tree.with_suffix(".bin") / program
    script.parent.mkdir(exist_ok=True)
    command = " ".join(f"'{word}'" for word in words)
    script.write_text(
        f"#!/bin/sh\nexport QEMU_MODULE_DIR='{tree}/usr/lib/x86_64-linux-gnu/qemu'\nexec {command} \"$@\"\n"
    )
    script.chmod(0o755)
    return script
