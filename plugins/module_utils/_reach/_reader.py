# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The connection that this process was started over: whether anybody still reads there, and that it is not forgotten.

A firewall forgets a connection on which nothing was sent for a while (some after four minutes), and does not tell.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import sys
import threading
from types import TracebackType
from typing import Any, Coroutine

_STDOUT = 1

# How often something is sent to the reader. Ansible passes over empty lines before a result.
BEAT_SECONDS = 60.0


class NobodyReads(Exception):
    """The other end of stdout was closed before the work was done."""


async def unless_unread(work: Coroutine[Any, Any, dict[str, Any]], descriptor: int = _STDOUT) -> dict[str, Any]:
    """Do the work, and stop in the middle of it when nobody can read its result any more.

    :raise NobodyReads: the reader is gone. The work was cancelled, which is no worse for it than SIGKILL.
    """
    loop = asyncio.get_running_loop()
    task = loop.create_task(work)
    with _Reader(descriptor) as reader:
        reader.when_gone(loop, task)
        try:
            return await task
        except asyncio.CancelledError:
            if reader.is_gone:
                raise NobodyReads from None
            raise


class _Reader:
    """Who reads what is written to a descriptor; the other end of a pipe, a socket or a terminal.

    The kernel tells a writer that its reader is gone without being asked for anything else, so a thread sleeps until
    then. The event loop would have to ask for input, too, and would wake up for each key on a terminal.
    """

    def __init__(self, descriptor: int):
        self._descriptor = descriptor
        self._wakes, self._wake = os.pipe()
        self._printing = threading.Lock()
        self._is_over = False
        self.is_gone = False

    def __enter__(self) -> _Reader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Whatever is printed from now on is the result, and nothing comes into it.
        with self._printing:
            self._is_over = True
        os.close(self._wake)

    def when_gone(self, loop: asyncio.AbstractEventLoop, task: asyncio.Task[Any]) -> None:
        """Cancel a task once the reader is gone, and remind the reader of us until the task is done."""

        def cancel() -> None:
            self.is_gone = not task.done()
            task.cancel()

        def wait() -> None:
            waits = select.poll()
            waits.register(self._wakes, 0)
            waits.register(self._descriptor, 0)
            events: dict[int, int] = {}
            while not events:
                events = dict(waits.poll(1000 * BEAT_SECONDS))
                if not events:
                    self._remind()
            os.close(self._wakes)
            # Once the work is done the loop may be closed. A descriptor that was never open has lost no reader.
            if self._wakes not in events and events[self._descriptor] & (select.POLLERR | select.POLLHUP):
                loop.call_soon_threadsafe(cancel)

        threading.Thread(target=wait, name="reader", daemon=True).start()

    def _remind(self) -> None:
        # Where Python was started without a stdout, something else has its number by now. Where nothing can be sent the
        # reader may be gone, which the kernel tells.
        with self._printing, contextlib.suppress(OSError):
            if not self._is_over and sys.__stdout__ is not None:
                os.write(self._descriptor, b"\n")
