# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Processes that never outlive their test, and what /proc says about them."""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

Seen = TypeVar("Seen")

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)


class LabError(Exception):
    """The laboratory itself failed: a test that meets it says nothing about the product."""


def tool(variable: str, default: str) -> str:
    """A QEMU binary: the one that the environment variable names, so that a matrix can set another version."""
    return os.environ.get(variable, default)


def _die_with_parent() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def start(
    command: Sequence[str | Path],
    log: Path,
    *,
    cwd: Path | None = None,
    linger: bool = False,
    descriptors: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Start a server process that inherits these open files; its output goes to `log`.

    The kernel kills it when the thread that started it ends, unless it is to `linger`: then it has its own session.
    """
    with log.open("wb") as output:
        return subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            pass_fds=tuple(descriptors),
            start_new_session=linger,
            preexec_fn=None if linger else _die_with_parent,
        )


def kill(pid: int, number: int = signal.SIGKILL, timeout: float = 10) -> None:
    """Signal one process by its pid and wait until it has ended; one that is gone already is fine."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        signal.pidfd_send_signal(descriptor, number)
        if not select.select([descriptor], [], [], timeout)[0]:
            raise LabError(f"process {pid} did not end within {timeout:g} s of signal {number}")
    except ProcessLookupError:
        pass
    finally:
        os.close(descriptor)


def wait_until(look: Callable[[], Seen | None], what: str, timeout: float = 30) -> Seen:
    """Look again and again for something that has no event, and return the first true thing that is seen."""
    deadline = time.monotonic() + timeout
    while True:
        seen = look()
        if seen:
            return seen
        assert time.monotonic() < deadline, f"not within {timeout:g} s: {what}"
        time.sleep(0.005)


def wait_for_server(process: subprocess.Popen[bytes], log: Path, look: Callable[[], Seen | None]) -> Seen:
    """The first answer of a server that was just started; one that ends, or stays silent, fails with its log."""

    def answer() -> Seen | None:
        answered = look()
        assert answered or not process.poll(), f"exit {process.returncode}"  # one that becomes a daemon ends with 0
        return answered

    try:
        return wait_until(answer, "the first answer")
    except AssertionError as error:
        raise LabError(f"{process.args!r}: {error}\n{log.read_text()}") from None


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


def descendants(pid: int) -> list[int]:
    """The children of a process, and theirs, parents before children."""
    tree = parents()
    found = [pid]
    for each in found:
        found += [child for child, parent in tree.items() if parent == each]
    return found[1:]


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def run(command: Sequence[str | Path], *, timeout: float = 60) -> str:
    """Run a tool to its end and return what it printed; its failure is an error of the laboratory."""
    words = [str(word) for word in command]
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout, check=False)
    if done.returncode != 0:
        raise LabError(f"{' '.join(words)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def open_files(pid: int) -> set[Path]:
    """The files that a process holds open, as absolute paths; the file of a deleted path ends in ` (deleted)`."""
    found = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            target = entry.readlink()
            if target.is_absolute():
                found.add(target)
    return found


@contextlib.contextmanager
def lab_folder() -> Iterator[Path]:
    """A folder with a short name (the path of a UNIX socket holds 107 bytes), removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="qmp-")).resolve()
    try:
        yield folder
    finally:
        shutil.rmtree(folder)
