# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""The work ends with its reader, over every kind of connection, and with nothing else."""

from __future__ import annotations

import asyncio
import os
import pty
import socket
import sys
import threading
from typing import Any, Callable  # noqa: UP035  # Python 3.8

import pytest
from ansible_collections.virtops.qmp.plugins.module_utils._reach import _reader
from ansible_collections.virtops.qmp.plugins.module_utils._reach._reader import NobodyReads, unless_unread
from ansible_collections.virtops.qmp.tests.unit.descriptors import open_files

# Turns of the event loop, in which a thread that has something to tell does so.
MANY = 1000


async def turn() -> dict[str, Any]:
    """Work that takes a while."""
    for _turn in range(MANY):
        await asyncio.sleep(0)
    return {"a": 1}


def a_pipe() -> Any:
    """Our end, and what closes the other one."""
    reads, writes = os.pipe()
    return writes, lambda: os.close(reads)


def a_socket() -> Any:
    ours, theirs = socket.socketpair()
    return ours.detach(), theirs.close


def a_terminal() -> Any:
    theirs, ours = pty.openpty()
    return ours, lambda: os.close(theirs)


def run(descriptor: int, work: Any) -> Any:
    """The result of the work; every wait of it has an end."""
    try:
        return asyncio.run(asyncio.wait_for(unless_unread(work, descriptor), 30))
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("connection", [a_pipe, a_socket, a_terminal])
def test_the_work_ends_with_its_reader(connection: Callable[[], Any]) -> None:
    """What would take for ever is cancelled, and may still put in order what it holds."""
    descriptor, close = connection()
    ends: list[str] = []

    async def work() -> dict[str, Any]:
        close()
        try:
            await asyncio.Event().wait()
        finally:
            ends.append("in order")
        return {}

    with pytest.raises(NobodyReads):
        run(descriptor, work())
    assert ends == ["in order"]


@pytest.mark.parametrize("connection", [a_pipe, a_socket, a_terminal])
def test_the_work_ends_by_itself(connection: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its result is returned, and nothing is left behind that waits."""
    descriptor, close = connection()
    pipe, made = os.pipe, []

    def remembered() -> tuple[int, int]:
        ends = pipe()
        made.append(os.fstat(ends[0]).st_ino)
        return ends

    monkeypatch.setattr(os, "pipe", remembered)
    assert run(descriptor, turn()) == {"a": 1}
    close()
    for thread in threading.enumerate():
        if thread.name == "reader":
            thread.join(30)
    assert "reader" not in [thread.name for thread in threading.enumerate()]
    assert made
    assert {f"pipe:[{inode}]" for inode in made}.isdisjoint(open_files())


async def in_a_thread(function: Callable[..., Any], *args: Any) -> Any:
    return await asyncio.get_running_loop().run_in_executor(None, function, *args)


def test_the_connection_is_not_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty lines are sent while the work goes on, and nothing any more once its result can be printed."""
    monkeypatch.setattr(_reader, "BEAT_SECONDS", 0.001)
    reads, writes = os.pipe()

    async def work() -> dict[str, Any]:
        return {"sent": [await in_a_thread(os.read, reads, 1) for _each in range(3)]}

    assert asyncio.run(asyncio.wait_for(unless_unread(work(), writes), 30)) == {"sent": [b"\n"] * 3}
    os.write(writes, b"the result")
    os.close(writes)
    with open(reads, "rb") as rest:
        assert rest.read().lstrip(b"\n") == b"the result"


def reminded(*, is_over: bool) -> bytes:
    """What is sent when it is time to, while the work goes on or right after it."""
    reads, writes = os.pipe()
    with _reader._Reader(writes) as reader:
        if not is_over:
            reader._remind()
    if is_over:
        reader._remind()
    os.close(writes)
    os.close(reader._wakes)
    with open(reads, "rb") as rest:
        return rest.read()


def test_no_line_comes_into_the_result() -> None:
    """Who was about to send one when the work ended sends none."""
    assert (reminded(is_over=False), reminded(is_over=True)) == (b"\n", b"")


def test_no_line_goes_to_what_has_the_number_of_stdout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python was started without a stdout: its number may be that of a monitor by now."""
    monkeypatch.setattr(sys, "__stdout__", None)
    assert reminded(is_over=False) == b""


def test_a_line_that_cannot_be_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """It disturbs nobody: if the reader is gone, the kernel tells."""
    monkeypatch.setattr(_reader, "BEAT_SECONDS", 0.001)
    tried = threading.Semaphore(0)

    def refuse(_descriptor: int, _text: bytes) -> int:
        tried.release()
        raise BlockingIOError

    monkeypatch.setattr(os, "write", refuse)
    descriptor, close = a_pipe()

    async def work() -> dict[str, Any]:
        return {"tried": [await in_a_thread(tried.acquire) for _each in range(2)]}

    assert run(descriptor, work()) == {"tried": [True, True]}
    close()


def test_what_is_typed_is_no_end() -> None:
    """Input on a terminal, which nobody reads here, does not stop the work."""
    theirs, ours = pty.openpty()

    async def work() -> dict[str, Any]:
        os.write(theirs, b"y\n")
        return await turn()

    assert run(ours, work()) == {"a": 1}
    os.close(theirs)


def test_a_stdout_that_was_never_open_has_no_reader_to_lose() -> None:
    """Who starts a program with a closed stdout wants its work, not its words."""
    assert asyncio.run(unless_unread(turn(), 10**6)) == {"a": 1}


def test_a_cancellation_for_another_reason_stays_one() -> None:
    """Ctrl-C is told as such."""
    descriptor, close = a_pipe()

    async def main() -> None:
        task = asyncio.ensure_future(unless_unread(asyncio.sleep(30, {}), descriptor))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    close()
    os.close(descriptor)
