# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
import errno
import gc
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ansible_collections.virtops.qmp.plugins.module_utils._model._errors import HostSilent, WriteBackFailed
from ansible_collections.virtops.qmp.plugins.module_utils._model._files import Bound, FileId, Inode
from ansible_collections.virtops.qmp.plugins.module_utils._reach._descriptors import read_inode
from ansible_collections.virtops.qmp.plugins.module_utils._reach._writeback import WriteBack

LOST = r"^what was written to vda did not reach the storage: "


@pytest.fixture
def image(folder: Path) -> Iterator[int]:
    """A descriptor of an image, as QEMU has it."""
    descriptor = os.open(str(folder / "image"), os.O_RDWR | os.O_CREAT)
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def held(image: int) -> Iterator[WriteBack]:
    found = WriteBack.open(os.getpid(), Bound(read_inode(os.fstat(image)), (image,)), "vda")
    yield found
    found.close()


@pytest.fixture
def dd(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts a script in the place of the system's own `dd`; before it is called there is no such program."""
    monkeypatch.setenv("PATH", str(folder))

    def put(script: str) -> None:
        program = folder / "dd"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)

    return put


def flush(held: WriteBack, seconds: float = 60) -> None:
    asyncio.run(held.flush(seconds), debug=True)


def test_the_real_program(held: WriteBack) -> None:
    """The system's own dd takes the words and is content with a file that can be written out."""
    flush(held)
    flush(held)


def test_what_is_asked(held: WriteBack, image: int, folder: Path, dd: Callable[[str], None]) -> None:
    """The program is asked to fsync its output, which is the image, open for reading only."""
    dd(f"""
        echo "$@" >{folder}/called
        read x </proc/self/fd/1; echo "$x" >{folder}/read
        echo no || echo no >{folder}/refused
    """)
    os.write(image, b"the image\n")
    flush(held)
    assert (folder / "called").read_text() == "if=/dev/null conv=fsync\n"
    assert (folder / "read").read_text() == "the image\n"
    assert (folder / "refused").exists()
    assert os.fstat(image).st_size == len("the image\n")


@pytest.mark.parametrize(
    ("script", "why"),
    [
        pytest.param(
            "echo \"dd: fsync failed for 'standard output': No space left on device\" >&2; echo 0+0 >&2; exit 1",
            "No space left on device$",
            id="coreutils",
        ),
        pytest.param('echo "dd: standard output: Input/output error" >&2; exit 1', "Input/output error$", id="busybox"),
        pytest.param("exit 7", "dd ended with 7$", id="without a word"),
        pytest.param("kill -9 $$", "dd ended with -9$", id="killed, with what it may have been told"),
    ],
)
def test_an_error_stays_known(held: WriteBack, dd: Callable[[str], None], script: str, why: str) -> None:
    """The kernel tells an error once; whoever asks later is told, too."""
    dd(script)
    with pytest.raises(WriteBackFailed, match=LOST + why):
        flush(held)
    dd("exit 0")
    with pytest.raises(WriteBackFailed, match=LOST + why):
        flush(held)


@pytest.mark.parametrize("code", [0, 1])
def test_a_flush_that_was_given_up_is_waited_for(
    held: WriteBack, folder: Path, dd: Callable[[str], None], code: int
) -> None:
    """What a flush is told after its deadline is not lost: the next one waits for it, and then asks again."""
    os.mkfifo(folder / "go")
    dd(f"echo asked >>{folder}/asked; read x <{folder}/go; echo dd: late >&2; exit {code}")

    async def work() -> None:
        for _each in range(2):
            with pytest.raises(HostSilent, match=r"^the storage of vda does not write out within 0\.01 s$"):
                await held.flush(0.01)
        again = asyncio.ensure_future(held.flush(60))
        await asyncio.sleep(0)
        go = await asyncio.get_running_loop().run_in_executor(None, lambda: (folder / "go").open("w"))
        dd(f"echo asked >>{folder}/asked")
        go.close()
        await again

    if code:
        with pytest.raises(WriteBackFailed, match="late"):
            asyncio.run(work(), debug=True)
    else:
        asyncio.run(work(), debug=True)
    assert (folder / "asked").read_text() == "asked\n" * (1 if code else 2)


def test_two_who_flush(held: WriteBack, folder: Path, dd: Callable[[str], None]) -> None:
    """Two at the same time each have a flush that began after they asked."""
    dd(f"echo asked >>{folder}/asked")

    async def work() -> None:
        await asyncio.gather(held.flush(60), held.flush(60))

    asyncio.run(work(), debug=True)
    assert (folder / "asked").read_text() == "asked\nasked\n"


def test_a_flush_that_hangs_is_left(held: WriteBack, folder: Path, dd: Callable[[str], None]) -> None:
    """A process that hangs is told to end when nobody needs its answer any more."""
    os.mkfifo(folder / "pid")
    dd(f"echo $$ >{folder}/pid; while :; do :; done")

    async def work() -> None:
        asked = asyncio.ensure_future(held.flush(60))
        pid = int(await asyncio.get_running_loop().run_in_executor(None, (folder / "pid").read_text))
        asked.cancel()
        await asyncio.wait({asked})
        held.close()
        while (
            Path(f"/proc/{pid}").exists()
            or any(each.name.startswith("waitpid") for each in threading.enumerate())  # asyncio before Python 3.12
            or len(asyncio.all_tasks()) > 1
        ):
            await asyncio.sleep(0)
        for _each in range(3):
            await asyncio.sleep(0)  # the loop takes the process's end from the thread

    asyncio.run(work())


@pytest.mark.parametrize("code", [0, errno.ENOSPC])
def test_without_dd(held: WriteBack, dd: object, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """Where there is no such program a thread calls fsync, on the same open file."""
    asked = []

    def fsync(descriptor: int) -> None:
        asked.append((descriptor, threading.current_thread() is threading.main_thread()))
        if code:
            raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fsync)
    if code:
        with pytest.raises(WriteBackFailed, match=LOST + "No space left on device$"):
            flush(held)
    else:
        flush(held)
    assert asked == [(held._descriptor, False)]


def test_a_thread_that_hangs(held: WriteBack, dd: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that hangs in fsync is given up like a process."""
    answers, has_answered = threading.Event(), threading.Event()

    def fsync(descriptor: int) -> None:
        answers.wait()
        has_answered.set()

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(HostSilent):
        flush(held, 0.01)
    answers.set()
    has_answered.wait()


def test_the_file_is_let_go(image: int) -> None:
    """The open file is closed by whoever closes it, or when nobody has it any more."""
    bound = Bound(read_inode(os.fstat(image)), (image,))
    closed, dropped = (WriteBack.open(os.getpid(), bound, "vda") for _each in range(2))
    numbers = [closed._descriptor, dropped._descriptor]
    closed.close()
    closed.close()
    del dropped
    gc.collect()
    for number in numbers:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(number)


def test_a_file_that_cannot_be_opened() -> None:
    """A file that QEMU does not have open any more is an error."""
    with pytest.raises(OSError, match="QEMU has closed it"):
        WriteBack.open(os.getpid(), Bound(Inode(FileId(1, 2), "regular"), (0,)), "vda")
