# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""A slow link in front of an NBD server: each request takes its time, and answers come no faster than it carries."""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_CHUNK = 1 << 18
_POLL_SECONDS = 0.1


class SlowLink:
    """Passes on what is said between the clients of `path` and the server at `behind`; `address` is for a header.

    `delay` is in seconds, for what clients say; `bandwidth` is in bytes per second, for what the server says, 0 without
    limit. `answered` counts the bytes of all answers.
    """

    def __init__(self, path: Path, behind: Path, *, delay: float = 0.0, bandwidth: int = 0) -> None:
        self.address = f"nbd+unix:///?socket={path}"
        self.delay, self.bandwidth = delay, bandwidth
        self.answered = 0
        self._behind = behind
        self._is_open = True
        self._ends: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._path = path
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(16)
        self._listener.settimeout(_POLL_SECONDS)
        self._run(self._accept)

    def close(self) -> None:
        """Hang up on everybody, as a host that dies."""
        self._is_open = False
        self._threads[0].join()  # so that nobody comes in any more: QEMU does at once, if it may
        self._listener.close()
        self._path.unlink(missing_ok=True)
        for end in self._ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for end in self._ends:
            end.close()

    def __enter__(self) -> SlowLink:
        return self

    def __exit__(self, *_unused: object) -> None:
        self.close()

    def _run(self, target: object, *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while self._is_open:
            with contextlib.suppress(OSError):
                client, _address = self._listener.accept()
                client.settimeout(None)
                server = socket.socket(socket.AF_UNIX)
                self._ends += [client, server]
                server.connect(str(self._behind))
                self._pass_on(client, server, is_answer=False)
                self._pass_on(server, client, is_answer=True)

    def _pass_on(self, source: socket.socket, sink: socket.socket, *, is_answer: bool) -> None:
        line: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()
        self._run(self._receive, source, line, is_answer)
        self._run(self._deliver, line, sink)

    def _receive(self, source: socket.socket, line: queue.SimpleQueue[tuple[float, bytes]], is_answer: bool) -> None:
        due = 0.0
        chunk = b"-"
        while chunk:
            try:
                chunk = source.recv(_CHUNK)
            except OSError:
                chunk = b""
            due = max(due, time.monotonic() + (0.0 if is_answer else self.delay))
            if is_answer:
                self.answered += len(chunk)
                due += len(chunk) / self.bandwidth if self.bandwidth else 0.0
            line.put((due, chunk))
            while line.qsize() > 64 and self._is_open:
                time.sleep(0.001)

    def _deliver(self, line: queue.SimpleQueue[tuple[float, bytes]], sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                due, chunk = line.get()
                time.sleep(max(0.0, due - time.monotonic()))
                if not chunk:
                    break
                sink.sendall(chunk)
            sink.shutdown(socket.SHUT_RDWR)
