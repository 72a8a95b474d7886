# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""A real guest: Debian's kernel and busybox, run from memory, at work on the file system of its disk.

Nothing is installed on this host. The packages are downloaded and unpacked once, into `.ansible/guest_system` of the
checkout. What the guest does is in `guest_init.sh`.
"""

from __future__ import annotations

import functools
import lzma
import os
import platform
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from .process import LabError, lab_folder, run, wait_until
from .vm import Vm

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

# ansible-test runs a copy that lies within the checkout: what is kept is kept in the outermost one.
CHECKOUT = next(
    parent for parent in reversed(Path(__file__).resolve().parents) if (parent / "tests" / "lab" / "vm.py").is_file()
)
KEPT = CHECKOUT / ".ansible" / "guest_system"
INIT = Path(__file__).with_name("guest_init.sh")
# The orders that are programs in C.
LOADS = {name: Path(__file__).with_name(f"guest_{name}.c") for name in ("load", "phases")}

KERNEL, BUSYBOX = "linux-image-cloud-amd64", "busybox-static"
# In the order in which they need each other; what is not there is built into the kernel, as ext4 is.
MODULES = ("virtio_ring", "virtio", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci", "virtio_blk")
BOOT_SECONDS = 120  # without KVM, on a busy machine


class Unavailable(Exception):
    """There can be no such guest on this host; the reason is for whoever reads of the skipped test."""


# The packages


def prepare() -> None:
    """Download and unpack what the guest consists of, unless that was done before."""
    if platform.machine() != "x86_64":
        raise Unavailable(f"the guest is made for x86_64, this is {platform.machine()}")
    if KEPT.is_dir():
        return
    if missing := [tool for tool in ("apt-get", "apt-cache", "dpkg-deb") if shutil.which(tool) is None]:
        raise Unavailable(f"the guest comes from Debian's packages, and there is no {missing[0]}")
    KEPT.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="guest_system-", dir=KEPT.parent) as attempt:
        unpacked, complete = Path(attempt, "unpacked"), Path(attempt, "complete")
        for package in _download(Path(attempt)):
            _run(Path(attempt), "dpkg-deb", "--extract", str(package), str(unpacked))
        _choose(unpacked, complete)
        if not KEPT.is_dir():  # another process may have been faster
            complete.rename(KEPT)


def _download(folder: Path) -> list[Path]:
    """Let apt-get fetch the packages, with lists of its own: those of the system may be old, or not there at all."""
    for place in ("lists", "archives"):
        (folder / place / "partial").mkdir(parents=True)
    # apt-get would otherwise download as a user who may not write here.
    places = {"Dir::State::Lists": "lists", "Dir::Cache::Archives": "archives"}
    options = ["APT::Sandbox::User=root", "Dir::Cache::pkgcache=", "Dir::Cache::srcpkgcache="]
    options += ["Acquire::Retries=1", "Acquire::http::Timeout=20", "Acquire::https::Timeout=20"]
    options += [f"{option}={folder / place}" for option, place in places.items()]
    words = [word for option in options for word in ("-o", option)]
    _run(folder, "apt-get", *words, "update")
    depends = _run(folder, "apt-cache", *words, "depends", KERNEL)
    kernels = re.findall(r"Depends: (linux-image-\S+)", depends)
    _run(folder, "apt-get", *words, "download", *kernels, BUSYBOX)
    return sorted(folder.glob("*.deb"))


def _choose(unpacked: Path, complete: Path) -> None:
    """Copy what is needed: the kernel, its modules as they are loaded, busybox."""
    kernels = sorted(unpacked.glob("boot/vmlinuz-*"))
    programs = sorted(unpacked.glob("**/bin/busybox"))
    if not kernels or not programs:
        raise Unavailable(f"the packages of {KERNEL} and {BUSYBOX} hold no kernel or no busybox")
    (complete / "modules").mkdir(parents=True)
    shutil.copy(kernels[0], complete / "kernel")
    shutil.copy(programs[0], complete / "busybox")
    for number, name in enumerate(MODULES):
        for module in unpacked.glob(f"**/{name}.ko*"):
            read = lzma.open if module.suffix == ".xz" else open
            with read(module, "rb") as file:
                (complete / "modules" / f"{number}-{name}.ko").write_bytes(file.read())


def _run(folder: Path, *command: str) -> str:
    """Run a tool in the folder; if it fails, there can be no guest here."""
    try:
        return run(["env", f"--chdir={folder}", "LC_ALL=C", *command], timeout=180)
    except (LabError, subprocess.TimeoutExpired) as error:
        last = str(error).strip().splitlines()[-1]
        raise Unavailable(
            f"no {KERNEL} and {BUSYBOX} from the archives that apt-get reaches: {command[0]}: {last}"
        ) from error


# The guest


def _archive(members: Mapping[str, bytes], programs: tuple[str, ...], folders: tuple[str, ...]) -> bytes:
    """An initramfs: a cpio archive in the only format that Linux takes."""
    entries = [(name, 0o040755, b"") for name in folders]
    entries += [(name, 0o100755 if name in programs else 0o100644, content) for name, content in members.items()]
    entries += [("bin/sh", 0o120777, b"busybox"), ("TRAILER!!!", 0, b"")]
    archive = bytearray()
    for number, (name, mode, content) in enumerate(entries, 1):
        path = name.encode() + b"\0"
        numbers = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(path), 0)
        archive += b"070701" + b"".join(b"%08X" % value for value in numbers)
        for part in (path, content):
            archive += part
            archive += bytes(-len(archive) % 4)
    return bytes(archive)


def _program(source: Path) -> bytes:
    """A program in C, compiled; it needs nothing else of a system."""
    if shutil.which("gcc") is None:
        raise Unavailable("the guest's load is compiled by gcc, which is not installed")
    with tempfile.TemporaryDirectory() as folder:
        _run(Path(folder), "gcc", "-O2", "-static", "-o", "program", str(source))
        return Path(folder, "program").read_bytes()


def _initramfs(expected: Mapping[str, str], order: str) -> bytes:
    """What the guest runs from; `expected` are the checksums of files of its disk."""
    members = {f"modules/{module.name}": module.read_bytes() for module in sorted((KEPT / "modules").iterdir())}
    members |= {"bin/busybox": (KEPT / "busybox").read_bytes(), "init": INIT.read_bytes()}
    members["expected"] = "".join(f"{checksum}  {path}\n" for path, checksum in expected.items()).encode()
    name = order.split()[0]
    if name in LOADS:
        members[f"bin/{name}"] = _program(LOADS[name])
    return _archive(
        members,
        ("bin/busybox", "bin/load", "bin/phases", "init"),
        ("bin", "dev", "disk", "modules", "proc", "sys"),
    )


class Guest:
    """A VM with the guest system in it, and what that said on its console; started and ended as a context manager."""

    def __init__(
        self,
        folder: Path,
        order: str,
        *disk: str,
        accel: str,
        name: str = "guest",
        expected: Mapping[str, str] | None = None,
    ) -> None:
        """`order` is one of those of `guest_init.sh`, `expected` has a checksum for each path."""
        self._console = folder / f"{name}.console"
        initramfs = folder / f"{name}.initramfs"
        initramfs.write_bytes(_initramfs(expected or {}, order))
        words = ["-kernel", str(KEPT / "kernel"), "-initrd", str(initramfs)]
        words += ["-append", f"console=ttyS0 quiet -- {order}", "-serial", f"file:{self._console}"]
        self.vm = Vm(folder, *words, *disk, name=name, running=True, accel=accel, memory=256)

    def __enter__(self) -> Guest:
        self.vm.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.vm.kill()

    @property
    def said(self) -> list[str]:
        """The lines of the console; the last one may still be on its way."""
        text = self._console.read_text(errors="replace") if self._console.exists() else ""
        if "Kernel panic" in text:
            raise LabError(f"the guest's kernel panicked:\n{text[-4000:]}")
        return text.replace("\r", "").split("\n")[:-1]

    def wait_until(self, look: Callable[[], bool], what: str, timeout: float = BOOT_SECONDS) -> None:
        """Wait for something that the guest says; what it said instead is told."""
        try:
            wait_until(look, what, timeout)
        except AssertionError as error:
            raise AssertionError("\n".join([str(error), "the last lines of the console:", *self.said[-20:]])) from None

    def wait_for(self, line: str, timeout: float = BOOT_SECONDS) -> None:
        self.wait_until(lambda: line in self.said, f"the guest says {line}", timeout)

    def waits(self, since: int = 0) -> dict[str, list[float]]:
        """The milliseconds that each read and each write took, by the guest's clock, from a line of what it said on."""
        found: dict[str, list[float]] = {"read": [], "write": []}
        for line in self.said[since:]:
            match line.split():
                case ["read" | "write" as kind, microseconds] if microseconds.isdigit():
                    found[kind].append(int(microseconds) / 1000)
        return found

    @property
    def rounds(self) -> int:
        """How often it wrote and verified."""
        return sum(line.startswith("round ") for line in self.said)

    def files_from(self, given: Mapping[str, str]) -> dict[str, str]:
        """The checksums of the files on its disk: those that it was given, and what it said since that it synced.

        A file that it may be overwriting is left out.
        """
        files = dict(given)
        for line in self.said:
            match line.split():
                case ["next", path]:
                    files.pop(path, None)
                case ["synced", checksum, path]:
                    files[path] = checksum
        return files

    @property
    def complaints(self) -> list[str]:
        """What it found that is not as it must be, and what its kernel complains of."""
        return [line for line in self.said if "bad " in line or "I/O error" in line or "EXT4-fs error" in line]


@functools.cache
def accelerator() -> str:
    """KVM where a guest really runs under it, else TCG: there are hosts that have /dev/kvm and no use of it."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "tcg"
    try:
        with lab_folder() as folder, Guest(folder, "hello", accel="kvm") as guest:
            guest.wait_for("hello", timeout=5)
    except (AssertionError, LabError):
        return "tcg"
    return "kvm"
