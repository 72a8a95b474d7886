# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""A task that runs beside the test, and the processes that it consists of."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from lab import Vm, disks, images, kill, product, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LINE = re.compile(r"^localhost (?P<vm>\S+) (?P<disk>\S+)  (?P<words>.+)$")


def parents() -> dict[int, int]:
    """The parent of every process."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            words = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it ended just now
            continue
        found[int(stat.parent.name)] = int(words[1])
    return found


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Task:
    """`ansible -m virtops.qmp.block_stream` in a process of its own; its output goes to two files."""

    def __init__(self, folder: Path, arguments: dict[str, Any], **environ: str) -> None:
        self._out, self._err = folder / "task.out", folder / "task.err"
        self._orphans: list[int] = []
        command = [sys.executable, "-m", "ansible.cli.adhoc", "-i", "localhost,", "-c", "local"]
        command += ["-e", f"ansible_python_interpreter={product.target_python()}"]
        command += ["-m", f"{product.NAME}.block_stream", "-a", json.dumps(arguments), "localhost"]
        with self._out.open("w") as out, self._err.open("w") as err:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=product.environment(**environ)
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def _descendants(self) -> list[int]:
        tree = parents()
        found = [self.pid]
        for pid in found:
            found += [child for child, parent in tree.items() if parent == pid]
        return found[1:]

    def module(self) -> int | None:
        """The pid of the Python that runs the module now."""
        for pid in self._descendants():
            try:
                words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
            except OSError:
                continue
            if "python" in words[0] and any("AnsiballZ_block_stream" in word for word in words[1:3]):
                return pid
        return None

    def worker(self) -> int:
        """The pid of the controller's process for this host."""
        return next(pid for pid, parent in parents().items() if parent == self.pid)

    def has_children(self, pid: int) -> bool:
        """Whether a process has children that run."""
        return any(parent == pid and is_alive(child) for child, parent in parents().items())

    def kill_controller(self) -> None:
        """SIGKILL for the process that somebody started, and for no other."""
        self._orphans = self._descendants()
        self._process.kill()
        self._process.wait()

    def kill_module(self) -> None:
        """SIGKILL for the module, or for that of the next slice if this one has just ended by itself."""

        def is_over() -> bool:
            pid = self.module()
            if pid is not None:
                kill(pid)
            return self._process.poll() is not None

        wait_until(is_over, "the end of the task")

    @property
    def lines(self) -> list[re.Match[str]]:
        """The lines about streams so far, on stderr."""
        return [match for match in map(LINE.match, self.stderr.splitlines()) if match]

    @property
    def stdout(self) -> str:
        return self._out.read_text()

    @property
    def stderr(self) -> str:
        return self._err.read_text()

    def wait(self, timeout: float = 120) -> None:
        """Wait for the end."""
        self._process.wait(timeout)

    def end(self, timeout: float = 120) -> tuple[str, product.Result]:
        """Wait for the end: Ansible's word (CHANGED, FAILED!) and the result, with which stdout ends."""
        self.wait(timeout)
        text = self.stdout
        match = re.search(r"^localhost \| (\S+) => (\{.*\})\s*\Z", text, flags=re.DOTALL | re.MULTILINE)
        assert match, f"stdout does not end with the result:\n{text}\n{self.stderr}"
        return match[1], product.Result(json.loads(match[2]))

    def stop(self) -> None:
        """Leave nothing behind. What a killed controller left ends by itself."""
        for pid in [*self._descendants(), self.pid] if self._process.poll() is None else []:
            kill(pid)
        self._process.wait()
        wait_until(lambda: not any(is_alive(pid) for pid in self._orphans), "end of the orphans")


@pytest.fixture
def watch(folder: Path) -> Iterator[Callable[..., Task]]:
    """Start tasks that end with the test."""
    tasks: list[Task] = []

    def start(vm: Vm, **arguments: Any) -> Task:
        environ = arguments.pop("environ", {})
        tasks.append(Task(folder, {"monitors": [vm.monitor], "disks": ["*"], "progress": 1, **arguments}, **environ))
        return tasks[-1]

    yield start
    for task in tasks:
        task.stop()


@pytest.fixture
def chain(folder: Path) -> images.Chain:
    return images.chain(folder, layers=2)


@pytest.fixture
def vm(chain: images.Chain, boot: Callable[..., Vm]) -> Vm:
    return boot(*disks.drive(chain.top, id="drive0", qdev="vda"), name="web01")
