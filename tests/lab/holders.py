# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Processes that have an image open, each in a way of its own, and the judge's look at what a task said of it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .process import kill

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .product import Result

NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
# Nobody who may read every file: Python and this checkout can lie where only root looks.
READS = (*NOBODY, "--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search")

OPENS = "import sys, time; held = open(sys.argv[1], 'rb'); print('ready', flush=True); time.sleep(1000)"

# Python's own mmap keeps a descriptor.
MAPS = """
import ctypes, os, sys, time
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
descriptor = os.open(sys.argv[1], os.O_RDONLY)
assert libc.mmap(None, 4096, 1, 1, descriptor, 0) != ctypes.c_void_p(-1).value
os.close(descriptor)
print("ready", flush=True)
time.sleep(1000)
"""

SENDS = """
import array, os, socket, sys, time
descriptor = os.open(sys.argv[1], os.O_RDONLY)
ends = socket.socketpair()
ends[0].sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))])
os.close(descriptor)
print("ready", flush=True)
time.sleep(1000)
"""

# The first thread ends by the system call itself, which ends no other; its number by machine.
OUTLIVES = """
import ctypes, os, platform, sys, threading, time
held = open(sys.argv[1], "rb")
def stay():
    while "Z (zombie)" not in open(f"/proc/self/task/{os.getpid()}/status").read():
        time.sleep(0.01)
    print("ready", flush=True)
    time.sleep(1000)
threading.Thread(target=stay).start()
ctypes.CDLL(None).syscall({"x86_64": 60, "aarch64": 93}[platform.machine()], 0)
"""

NAMES = """
import os, sys, time
held = os.open(sys.argv[1], os.O_PATH)
print("ready", flush=True)
time.sleep(1000)
"""


@contextlib.contextmanager
def holder(*command: str | Path, stdin: Path | None = None) -> Iterator[int]:
    """A process that is ready when it has printed a line, and ends with the block; its pid."""
    words = command or ("sh", "-c", "echo ready; exec sleep 1000")
    with contextlib.ExitStack() as stack:
        with stdin.open("rb") if stdin else open(os.devnull, "rb") as source:
            process = stack.enter_context(subprocess.Popen(words, stdin=source, stdout=subprocess.PIPE))
        stack.callback(kill, process.pid)
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield process.pid


def opening(path: Path, *under: str, program: str = OPENS) -> contextlib.AbstractContextManager[int]:
    """A process that opens a file by this very name; `under` are the first words of its command."""
    return holder(*under, sys.executable, "-c", program, path)


def who_has_open(file: Path) -> set[int]:
    """The processes that have a file open, by its inode: the judge's own look at /proc."""
    wanted, found = file.stat(), set()
    for process in (entry for entry in os.scandir("/proc") if entry.name.isdigit()):
        with contextlib.suppress(OSError):
            for descriptor in os.scandir(f"{process.path}/fd"):
                with contextlib.suppress(OSError):
                    status = os.stat(descriptor.path)
                    if (status.st_dev, status.st_ino) == (wanted.st_dev, wanted.st_ino):
                        found.add(int(process.name))
    return found


def released(result: Result, place: int = 0) -> dict[str, dict[str, Any]]:
    """The released files of one disk by the last part of their names, after a task that populated it."""
    assert not result.failed, result
    assert result["disks"][place]["populated"] is True
    return {each["path"].rpartition("/")[2]: each for each in result["disks"][place]["released"]}


def assert_in_use(file: dict[str, Any], pids: set[int] | None, *words: str) -> None:
    """It was told as not free, with these processes (None: it could not be told which), and why."""
    told = None if file["pids"] is None else set(file["pids"])
    assert (file["free"], told) == (False, pids), file
    for word in words:
        assert word in file["reason"]


def assert_unknown(file: dict[str, Any], *words: str) -> None:
    """It was told as neither free nor in use, and why."""
    assert file["free"] is None, file
    for word in words:
        assert word in file["reason"], file
