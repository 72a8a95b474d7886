# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""A task that runs beside the test, and the processes that it consists of."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import product
from .process import descendants, is_alive, kill, parents, wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

LINE = re.compile(r"^localhost (?P<vm>\S+) (?P<disk>\S+)  (?P<words>.+)$")
LOCALLY = ("-c", "local")
# A test run in the background of a shell ignores SIGINT, and so do its children.
_HEEDING = (
    "-c",
    "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); "
    "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])",
)


class Task:
    """`ansible -m virtops.qmp.block_stream` in a process of its own; its output goes to two files."""

    def __init__(
        self,
        folder: Path,
        arguments: Mapping[str, Any],
        *,
        reach: Sequence[str] = LOCALLY,
        name: str = "task",
        in_terminal: bool = False,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        """Start it.

        :param reach: the words of the command that say how the host is reached.
        :param in_terminal: whether it leads a process group and heeds Ctrl-C, as a command in a terminal does.
        """
        self._out, self._err = folder / f"{name}.out", folder / f"{name}.err"
        self._orphans: list[int] = []
        command = [sys.executable, *(_HEEDING if in_terminal else ()), "-m", "ansible.cli.adhoc"]
        command += ["-i", "localhost,", *reach]
        command += ["-e", f"ansible_python_interpreter={product.target_python()}"]
        command += ["-m", f"{product.NAME}.block_stream", "-a", json.dumps(arguments), "localhost"]
        with self._out.open("w") as out, self._err.open("w") as err:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=product.environment(**(environ or {})),
                start_new_session=in_terminal,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def module(self) -> int | None:
        """The pid of the Python that runs the module now, unless that is on another host."""
        for pid in descendants(self.pid):
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
        self._orphans = descendants(self.pid)
        self._process.kill()
        self._process.wait()

    def interrupt(self) -> None:
        """Ctrl-C in its terminal: SIGINT for the whole group of processes."""
        self._orphans = descendants(self.pid)
        os.killpg(self.pid, signal.SIGINT)
        self._process.wait(60)

    @property
    def is_over(self) -> bool:
        return self._process.poll() is not None

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
        for pid in [*descendants(self.pid), self.pid] if self._process.poll() is None else []:
            kill(pid)
        self._process.wait()
        wait_until(lambda: not any(is_alive(pid) for pid in self._orphans), "end of the orphans")

    def clear_away(self) -> None:
        """Leave nothing behind at once: what a killed controller left is killed, too."""
        for pid in [*self._orphans, *descendants(self.pid), self.pid]:
            kill(pid)
        self._process.wait()
