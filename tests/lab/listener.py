# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""The event source, run by its path as ansible-rulebook runs it, in a process of its own."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from . import product
from .process import kill

if TYPE_CHECKING:
    from types import TracebackType

SOURCE = product.COLLECTION / "extensions" / "eda" / "plugins" / "event_source" / "jobs.py"

# Beside each event, when it was in the queue.
_RUNNER = """
import asyncio, json, runpy, signal, sys, time
# A shell that starts the tests in the background has all that they start ignore it.
signal.signal(signal.SIGINT, signal.default_int_handler)
class Queue:
    async def put(self, event):
        print(json.dumps({"queued": time.time(), "event": event}), flush=True)
options = {**json.loads(sys.argv[2]), "eda_feedback_queue": Queue()}
asyncio.run(runpy.run_path(sys.argv[1])["main"](Queue(), options))
"""


class Listener:
    """The source while it listens; `events` are those that it put into the queue, with the moment as `queued`."""

    def __init__(self, **options: Any) -> None:
        self.events: list[dict[str, Any]] = []
        self._news = threading.Condition()
        self._process = subprocess.Popen(
            [sys.executable, "-c", _RUNNER, str(SOURCE), json.dumps(options)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=product.environment(),
            text=True,
        )
        self.errors = ""
        self._threads = [threading.Thread(target=read) for read in (self._read_events, self._read_errors)]
        for thread in self._threads:
            thread.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def _read_events(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            read = json.loads(line)
            with self._news:
                stream = {**read["event"]["stream"], "queued": read["queued"], "meta": read["event"].get("meta")}
                self.events.append(stream)
                self._news.notify_all()
        with self._news:
            self._news.notify_all()

    def _read_errors(self) -> None:
        assert self._process.stderr is not None
        self.errors = self._process.stderr.read()

    def wait(self, event: str | None = None, *, count: int = 1, timeout: float = 20, **members: Any) -> dict[str, Any]:
        """The so-many-th event (of this name) with these members, whether it came already or comes in time."""
        wanted = {**({"event": event} if event else {}), **members}
        deadline = time.monotonic() + timeout
        with self._news:
            while True:
                found = [each for each in self.events if wanted.items() <= each.items()]
                if len(found) >= count:
                    return found[count - 1]
                left = deadline - time.monotonic()
                assert left > 0, f"no {count} of {wanted} within {timeout:g} s: {self.told}"
                self._news.wait(left)

    @property
    def told(self) -> list[tuple[str, str | None]]:
        """What was told, in order: the events and their jobs."""
        return [(each["event"], each["job"]) for each in self.events]

    def kill(self, number: int = signal.SIGKILL) -> None:
        """End it by a signal, and wait until it is gone."""
        with self._process:
            kill(self.pid, number)
            for thread in self._threads:
                thread.join()

    def __enter__(self) -> Listener:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
