# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.virtops.qmp.plugins.module_utils._reach._children import Child


def script(text: str) -> tuple[str, ...]:
    return "sh", "-c", text


def with_child(words: tuple[str, ...], use: Callable[[Child], Awaitable[Any]], **options: Any) -> Any:
    """Start a program, use it, and close it."""

    async def work() -> Any:
        child = await Child.start(words, **options)
        try:
            return await use(child)
        finally:
            child.close()

    return asyncio.run(work(), debug=True)


async def to_its_end(child: Child) -> tuple[bool, int | None, bytes, str]:
    return await child.wait(60), child.code, child.output, child.errors


def test_what_a_program_prints() -> None:
    """The output, the errors and the exit code are told, in words that no language changes."""
    words = script('echo "$LC_ALL $MORE"; echo bad >&2; cat; exit 3')
    found = with_child(words, to_its_end, environment={"MORE": "more"})
    assert found == (True, 3, b"C more\n", "bad\n")


def test_no_such_program() -> None:
    """A program that is not there is an error at once."""
    with pytest.raises(FileNotFoundError):
        with_child(("no-such-program",), to_its_end)


def test_descriptors(folder: Path) -> None:
    """A program gets a descriptor as its output, and others by their number."""
    with (folder / "out").open("wb") as out, (folder / "in").open("w+b", buffering=0) as given:
        given.write(b"given")
        number = given.fileno()
        words = script(f"cat /proc/self/fd/{number}")
        found = with_child(words, to_its_end, stdout=out.fileno(), pass_fds=[number])
    assert found == (True, 0, b"", "")
    assert (folder / "out").read_bytes() == b"given"


@pytest.mark.parametrize("stream", [1, 2])
def test_output_has_an_end(stream: int) -> None:
    """A program that prints without end is ended, and what it printed first is kept."""

    async def use(child: Child) -> tuple[bool, bool, int, int]:
        ended, *_rest = await to_its_end(child)
        return ended, child.is_cut, len(child.output), len(child.errors)

    found = with_child(script(f"while :; do echo x >&{stream}; done"), use, most=1000)
    assert found == (True, True, *((1000, 0) if stream == 1 else (0, 1000)))


def test_a_program_that_does_not_end() -> None:
    """Waiting has an end, the program goes on meanwhile, and closing ends it."""

    async def use(child: Child) -> tuple[bool, int | None, bool, int | None]:
        early, code = await child.wait(0), child.code
        await child.end()
        return early, code, await child.wait(60), child.code

    assert with_child(script("while :; do :; done"), use) == (False, None, True, -9)


def test_who_gives_up(folder: Path) -> None:
    """A waiter that is cancelled does not end the program, and another one can wait for it."""
    os.mkfifo(folder / "go")

    async def use(child: Child) -> tuple[bool, int | None]:
        waiting = asyncio.ensure_future(child.wait())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait({waiting})
        (folder / "go").write_text("")
        return await child.wait(60), child.code

    assert with_child(script(f"read x <{folder}/go; exit 4"), use) == (True, 4)
