# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Running the product: a module as Ansible runs it on the target, and Ansible itself.

`module` starts the module file in a Python process of its own, which takes a third of the time of a task; nothing of
the product is loaded into the process of the tests.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

COLLECTION = Path(__file__).resolve().parents[2]
NAME = "virtops.qmp"

# What AnsiballZ does before it runs a module. Before ansible-core 2.19 there was no profile; naming one harms nothing.
_LAUNCHER = """
import runpy, sys, types
sys.modules["ansible"] = package = types.ModuleType("ansible")
# The controller's ansible-core, also for a Python in which it is not installed.
package.__path__, package.__file__ = [sys.argv[2]], sys.argv[2] + "/__init__.py"
from ansible.module_utils import basic
basic._ANSIBLE_ARGS, basic._ANSIBLE_PROFILE = sys.stdin.buffer.read(), "legacy"
runpy.run_module(sys.argv[1], run_name="__main__", alter_sys=True)
"""


def collections_path() -> Path:
    """The folder that holds `ansible_collections/virtops/qmp`; a plain checkout gets one, as a link, in `.ansible`."""
    if COLLECTION.parts[-3:] == ("ansible_collections", "virtops", "qmp"):
        return COLLECTION.parents[2]
    root = COLLECTION / ".ansible" / "collections"
    link = root / "ansible_collections" / "virtops" / "qmp"
    link.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        link.symlink_to("../../../..")
    return root


def target_python() -> str:
    """The Python that runs modules: that of the tests, unless LAB_TARGET_PYTHON or ansible-test names another one."""
    inventory = os.environ.get("INVENTORY_PATH")
    written = re.search(r"ansible_python_interpreter='?([^'\s]+)", Path(inventory).read_text()) if inventory else None
    return os.environ.get("LAB_TARGET_PYTHON") or (written.group(1) if written else sys.executable)


def _ansible_folder() -> str:
    """Where the controller's ansible-core is."""
    found = importlib.util.find_spec("ansible")
    assert found is not None
    assert found.origin is not None
    return str(Path(found.origin).parent)


def environment(**more: str) -> dict[str, str]:
    """The environment in which this checkout of the collection is found, by Ansible and by Python."""
    path = collections_path()
    python = [str(path), *filter(None, [os.environ.get("PYTHONPATH")])]
    own = {"ANSIBLE_COLLECTIONS_PATH": str(path), "PYTHONPATH": os.pathsep.join(python), "PYTHONDONTWRITEBYTECODE": "1"}
    return {**os.environ, **own, **_homes(), "ANSIBLE_NOCOLOR": "1", "ANSIBLE_LOCALHOST_WARNING": "0", **more}


def _homes() -> dict[str, str]:
    """Where Ansible puts what it usually puts into the user's home, as controller and as target.

    As a target it knows two homes where HOME is not the one in the list of users: a background job is then written to
    one of them and looked for in the other.
    """
    home = COLLECTION / ".ansible" / "home"
    temporary = home / "tmp"
    temporary.mkdir(parents=True, exist_ok=True)
    places = {"ANSIBLE_HOME": home, "ANSIBLE_REMOTE_TEMP": temporary, "ANSIBLE_ASYNC_DIR": home / "async"}
    return {name: str(place) for name, place in places.items()}


class Result(dict[str, Any]):
    """What a module printed; a member that is missing fails with all that is there."""

    def __missing__(self, key: str) -> Any:
        raise AssertionError(f"the result has no {key!r}: {json.dumps(self, indent=1)}")

    @property
    def failed(self) -> bool:
        return bool(self.get("failed", False))


def command_of(module: str, /, *, check: bool = False, diff: bool = False, **arguments: Any) -> tuple[list[str], str]:
    """The command that runs a module in `environment()`, and what it reads from stdin."""
    ansible = {"check_mode": check, "diff": diff, "module_name": f"{NAME}.{module}"}
    values = {**arguments, **{f"_ansible_{name}": value for name, value in ansible.items()}}
    path = f"ansible_collections.{NAME}.plugins.modules.{module}"
    command = [target_python(), "-c", _LAUNCHER, path, _ansible_folder()]
    return command, json.dumps({"ANSIBLE_MODULE_ARGS": values})


class Running:
    """A module that runs in a process of its own; `result` waits for its end."""

    def __init__(
        self,
        module: str,
        arguments: Mapping[str, Any],
        *,
        check: bool = False,
        diff: bool = False,
        under: Sequence[str] = (),
    ) -> None:
        """Start it; `under` are the first words of the command, such as those of setpriv."""
        command, stdin = command_of(module, check=check, diff=diff, **arguments)
        self._process = subprocess.Popen(
            [*under, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(),
            text=True,
        )
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(stdin)
            self._process.stdin.close()
        self._process.stdin = None

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def hang_up(self) -> None:
        """Read nothing of it any more, as when the connection is gone over which it was started."""
        assert self._process.stdout is not None
        self._process.stdout.close()

    def wait(self, timeout: float = 60) -> int:
        """The exit code of one that nobody reads."""
        with self._process as process:
            return process.wait(timeout)

    def stop(self) -> None:
        """SIGSTOP: it lives, and does nothing."""
        self._process.send_signal(signal.SIGSTOP)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self._process.kill()
        self._process.communicate()

    def result(self, timeout: float = 60) -> Result:
        """The one JSON document on stdout; a traceback, a word on stderr or a second document fails the test."""
        try:
            stdout, stderr = self._process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"the module did not end within {timeout:g} s") from None
        assert stderr == "", f"the module wrote to stderr:\n{stderr}"
        try:
            found = Result(json.loads(stdout))
        except ValueError as error:
            raise AssertionError(f"the module printed no single JSON document: {error}\n{stdout}") from error
        assert (self._process.returncode != 0) == found.failed, f"exit {self._process.returncode} with {found}"
        return found


def module(
    name: str,
    /,
    *,
    check: bool = False,
    diff: bool = False,
    under: Sequence[str] = (),
    timeout: float = 60,
    **arguments: Any,
) -> Result:
    """Run a module to its end and return what it said, whether it failed or not."""
    return Running(name, arguments, check=check, diff=diff, under=under).result(timeout)


@dataclass
class AnsibleRun:
    """A finished run of the real Ansible: its exit code, its output, and the results by task name and host."""

    code: int
    stdout: str
    stderr: str
    results: dict[str, dict[str, Result]] = field(default_factory=dict)
    stats: dict[str, dict[str, int]] = field(default_factory=dict)

    def result(self, task: str, host: str = "localhost") -> Result:
        assert task in self.results, f"no task {task!r} ran:\n{self.stdout}\n{self.stderr}"
        return self.results[task][host]


_LOCALLY = ("-i", "localhost,", "-c", "local")


def _ansible(command: list[str], timeout: float, environ: Mapping[str, str]) -> AnsibleRun:
    done = subprocess.run(
        [sys.executable, "-m", *command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        # Not as a variable: a play may set one of its own.
        env=environment(ANSIBLE_PYTHON_INTERPRETER=target_python(), **environ),
        check=False,
    )
    assert "Traceback" not in done.stdout + done.stderr, done.stdout + done.stderr
    return AnsibleRun(done.returncode, done.stdout, done.stderr)


def playbook(
    book: str | Path, *options: str, timeout: float = 120, extra: Mapping[str, Any] | None = None
) -> AnsibleRun:
    """Run a playbook, given as a file or as its text, on localhost and read its results task by task."""
    with tempfile.TemporaryDirectory(prefix="qmp-") as folder:
        results = Path(folder, "results")
        path = book if isinstance(book, Path) else Path(folder, "play.yml")
        if isinstance(book, str):
            path.write_text(book)
        command = ["ansible.cli.playbook", *_LOCALLY, "-e", json.dumps(dict(extra or {})), *options, str(path)]
        plugins = {
            "ANSIBLE_CALLBACK_PLUGINS": str(Path(__file__).parent / "callback_plugins"),
            "ANSIBLE_CALLBACKS_ENABLED": "lab_results",
        }
        run = _ansible(command, timeout, {**plugins, "LAB_RESULTS": str(results), "ANSIBLE_RETRY_FILES_ENABLED": "0"})
        for text in results.read_text().splitlines() if results.exists() else []:
            line = json.loads(text)
            if "stats" in line:
                run.stats = line["stats"]
            else:
                run.results.setdefault(line["task"], {})[line["host"]] = Result(line["result"])
    return run


def adhoc(name: str, /, *options: str, timeout: float = 120, **arguments: Any) -> AnsibleRun:
    """Run one module by the `ansible` command; its only result is that of the task named after the module."""
    command = [
        "ansible.cli.adhoc",
        *_LOCALLY,
        "-m",
        f"{NAME}.{name}",
        "-a",
        json.dumps(arguments),
        *options,
        "localhost",
    ]
    return _ansible(command, timeout, {})
