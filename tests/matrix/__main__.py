# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Run the integration targets against each QEMU and through each Python, and print the table of what passed.

python -m matrix --python 3.8:3.10:2.17 --python 3.13:3.13:2.21 [--jobs 2] [--target info]... [5.2 11.1]

A --python names the target's Python, the controller's, and the ansible-core of the controller; Python 3.14 is fetched
from Debian where it is not installed. A --target is a folder of tests/integration/targets, or one of its files
(faults/test_storage.py). Everything that is made is kept: trees in .ansible/qemu, environments in .nox/matrix-*; the
output of each run is in build/matrix.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO
from xml.etree import ElementTree

from .trees import ROOT, SUITES, Qemu, Unavailable, libvirt_tree, python, qemu

TARGETS = ROOT / "tests" / "integration" / "targets"
REPORTS = ROOT / "build" / "matrix"
TARGET_SECONDS = 1800
# The exit code where no QEMU could be had at all: neither a success nor the failure of a test.
NOTHING_RUN = 77


@dataclass(frozen=True)
class Pair:
    """The Python that runs the modules, and the Python and ansible-core that send them."""

    target: str
    controller: str
    core: str

    @classmethod
    def parse(cls, text: str) -> Pair:
        return cls(*text.split(":"))

    @property
    def label(self) -> str:
        return f"Python {self.target}, ansible-core {self.core}"

    def make(self) -> tuple[Path, Path]:
        """The controller's and the target's interpreter, each in an environment with what it needs and nothing else."""
        # A core that is not out yet is named in full, such as 2.22.0rc1; it gives way to its release.
        core = self.core if self.core.count(".") > 1 else f"{self.core}.0"
        needed = [f"ansible-core~={core}", "-r", str(ROOT / "tests" / "integration" / "requirements.txt")]
        controller = _environment(f"matrix-controller-{self.controller}-{self.core}", self.controller, needed)
        target = _environment(f"matrix-target-{self.target}", self.target, ["-r", str(ROOT / "requirements.txt")])
        return controller, target


def _environment(name: str, version: str, requirements: list[str]) -> Path:
    folder = ROOT / ".nox" / name
    complete = folder / "complete"
    if not complete.exists():
        subprocess.run([python(version), "-m", "venv", "--clear", str(folder)], check=True)
        install = [str(folder / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check", *requirements]
        subprocess.run(install, check=True)
        complete.touch()
    return folder / "bin" / "python"


@dataclass
class Cell:
    """One QEMU with one pair of Pythons: what its tests came to."""

    qemu: Qemu
    pair: Pair
    counts: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0

    @property
    def words(self) -> str:
        return f"{self.counts['passed']} passed, {self.counts['failed']} failed, {self.counts['skipped']} skipped"

    def run(self, targets: dict[Path, list[str]]) -> Cell:
        began = time.monotonic()
        controller, target = self.pair.make()
        for folder, files in targets.items():
            self._run_target(folder, files, controller, target)
        self.seconds = time.monotonic() - began
        print(f"QEMU {self.qemu.version}, {self.pair.label}: {self.words}, {self.seconds:.0f} s", flush=True)
        return self

    def _run_target(self, folder: Path, files: list[str], controller: Path, target: Path) -> None:
        stem = REPORTS / f"{self.qemu.name}-{self.pair.target}-{folder.name}"
        report, log = stem.with_name(f"{stem.name}.xml"), stem.with_name(f"{stem.name}.log")
        report.unlink(missing_ok=True)
        command = [
            str(controller),
            "-m",
            "pytest",
            "--confcutdir=../..",
            f"--junit-xml={report}",
            "-o",
            "junit_family=xunit1",
            *files,
        ]
        environ = {**os.environ, **self.qemu.environ, "LAB_TARGET_PYTHON": str(target), "PYTHONDONTWRITEBYTECODE": "1"}
        if folder.name == "libvirt" and not self.qemu.is_installed:
            environ["LAB_LIBVIRT_TREE"] = str(libvirt_tree(self.qemu.name))
        with log.open("wb") as output:
            code = self._wait(command, folder, environ, output)
        if not report.exists():
            self.counts["failed"] += 1
            self.notes.append(f"{folder.name}: no report, exit {code}: {log}")
            return
        for case in ElementTree.parse(report).iter("testcase"):
            found = next((child for child in case if child.tag in ("failure", "error", "skipped")), None)
            outcome = "passed" if found is None else "skipped" if found.tag == "skipped" else "failed"
            self.counts[outcome] += 1
            if found is not None:
                reason = (found.get("message") or "").splitlines()[:1]
                self.notes.append(f"{outcome}: {folder.name}::{case.get('name')}: {' '.join(reason)[:160]}")

    @staticmethod
    def _wait(command: list[str], folder: Path, environ: dict[str, str], output: IO[bytes]) -> int | str:
        try:
            return subprocess.run(
                command,
                cwd=folder,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=TARGET_SECONDS,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            return f"killed after {TARGET_SECONDS} s"


def table(cells: list[Cell], pairs: list[Pair], missing: dict[str, str]) -> str:
    """QEMUs down, Pythons across; below them why a QEMU or a Python could not be had."""
    rows = [["QEMU", *(pair.label for pair in pairs)]]
    for name in dict.fromkeys(cell.qemu.name for cell in cells):
        own = [cell for cell in cells if cell.qemu.name == name]
        rows.append([own[0].qemu.version, *(cell.words for cell in own)])
    rows += [[name, *["NOT RUN: " + reason] * len(pairs)] for name, reason in missing.items()]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]])


def targets_named(names: list[str]) -> dict[Path, list[str]]:
    """The folders of targets, each with what to run there: everything, unless files of it are named."""
    there = [script.parent for script in sorted(TARGETS.glob("*/runme.sh")) if any(script.parent.glob("test_*.py"))]
    chosen: dict[Path, list[str]] = {}
    for name in names or [folder.name for folder in there]:
        folder, _slash, file = name.partition("/")
        if TARGETS / folder not in there or not (TARGETS / name).exists():
            raise ValueError(f"no such target: {name}")
        chosen.setdefault(TARGETS / folder, []).append(file or ".")
    return chosen


def main() -> int:
    parser = argparse.ArgumentParser(prog="matrix", description="The integration targets on every QEMU and Python.")
    parser.add_argument("qemu", nargs="*", help=f"which QEMUs: {', '.join(SUITES)}; all of them if none is named")
    parser.add_argument("--python", type=Pair.parse, action="append", required=True, metavar="TARGET:CONTROLLER:CORE")
    parser.add_argument("--target", action="append", help="only these targets or files of them")
    parser.add_argument("--jobs", type=int, default=1, help="so many at a time")
    options = parser.parse_args()
    if unknown := sorted(set(options.qemu) - set(SUITES)):
        parser.error(f"no such QEMU: {', '.join(unknown)}; there are {', '.join(SUITES)}")
    try:
        targets = targets_named(options.target or [])
    except ValueError as error:
        parser.error(str(error))
    REPORTS.mkdir(parents=True, exist_ok=True)
    qemus: list[Qemu] = []
    missing: dict[str, str] = {}
    for name in options.qemu or SUITES:
        try:
            qemus.append(qemu(name))
        except Unavailable as reason:
            missing[name] = str(reason)
            print(f"SKIPPED [QEMU {name}] {reason}", flush=True)
    pairs: list[Pair] = []
    for pair in options.python if qemus else []:
        try:
            pair.make()
            pairs.append(pair)
        except Unavailable as reason:
            missing[pair.label] = str(reason)
            print(f"SKIPPED [{pair.label}] {reason}", flush=True)
    with ThreadPoolExecutor(options.jobs) as pool:
        cells = list(pool.map(lambda cell: cell.run(targets), [Cell(q, p) for q in qemus for p in pairs]))
    for cell in cells:
        print(
            f"\nQEMU {cell.qemu.version}, {cell.pair.label}",
            *(cell.notes or ["nothing failed or was skipped"]),
            sep="\n  ",
        )
    result = table(cells, pairs or options.python, missing)
    (REPORTS / "table.md").write_text(result + "\n")
    print(f"\n{result}")
    if not cells:
        return NOTHING_RUN
    return 1 if any(cell.counts["failed"] for cell in cells) else 0


if __name__ == "__main__":
    sys.exit(main())
