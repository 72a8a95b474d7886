# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""A monitor with a witness: what the product and QEMU say to each other, and a hand that acts between two words."""

from __future__ import annotations

import codecs
import contextlib
import json
import os
import socket
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


def _documents(source: socket.socket, descriptors: list[int]) -> Iterator[dict[str, Any]]:
    """The JSON documents of a stream; a client need not end them with a line feed. Open files go to `descriptors`."""
    decoder, text = json.JSONDecoder(), ""
    utf8 = codecs.getincrementaldecoder("utf-8")()
    while True:
        chunk, passed, _flags, _address = socket.recv_fds(source, 1 << 16, 4)
        descriptors += passed
        if not chunk:
            return
        text += utf8.decode(chunk)
        while text := text.lstrip():
            try:
                message, end = decoder.raw_decode(text)
            except ValueError:
                break  # not complete yet
            yield message
            text = text[end:]


class Proxy:
    """Passes each message on between the clients of `path` and a real monitor, and keeps their names in `said`.

    A name is `command job-finalize`, `return job-finalize`, `error job-finalize`, `event BLOCK_JOB_PENDING` or
    `greeting`. `before` is called with the name before the message is passed on: it may kill either side.
    Open files are passed on if that is wanted, and dropped otherwise. The pid that a client sees at its end of the
    socket is that of the tests.
    """

    def __init__(
        self,
        monitor: str,
        path: Path,
        before: Callable[[str], None] = lambda _name: None,
        *,
        passes_files: bool = False,
    ) -> None:
        self._passes_files = passes_files
        self.path = str(path)
        self.said: list[str] = []
        self.messages: list[dict[str, Any]] = []
        self._monitor, self._before = monitor, before
        self._asked: list[str] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen(8)
        self._thread = threading.Thread(target=self._serve)

    @property
    def commands(self) -> list[str]:
        """The commands that were sent, in order."""
        return [name.split()[1] for name in self.said if name.startswith("command ")]

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _address = self._listener.accept()
                with client, socket.socket(socket.AF_UNIX) as qemu, contextlib.suppress(OSError):
                    qemu.connect(self._monitor)
                    back = threading.Thread(target=self._pass_on, args=(qemu, client, self._answer))
                    back.start()
                    self._pass_on(client, qemu, self._command)
                    back.join()

    def _pass_on(self, source: socket.socket, sink: socket.socket, name: Callable[[dict[str, Any]], str]) -> None:
        """Message by message until either side is gone, which the other side then learns."""
        files: list[int] = []
        with contextlib.suppress(OSError):
            for message in _documents(source, files):
                said = name(message)
                self.said.append(said)
                self.messages.append(message)
                self._before(said)
                if self._passes_files and files:
                    socket.send_fds(sink, [b" "], files)
                while files:
                    os.close(files.pop())
                sink.sendall(json.dumps(message).encode() + b"\r\n")
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _command(self, message: dict[str, Any]) -> str:
        self._asked.append(message.get("execute", message.get("exec-oob", "?")))
        return f"command {self._asked[-1]}"

    def _answer(self, message: dict[str, Any]) -> str:
        if "event" in message:
            return f"event {message['event']}"
        if "QMP" in message:
            return "greeting"
        return f"{'error' if 'error' in message else 'return'} {self._asked[-1] if self._asked else '?'}"

    def __enter__(self) -> Proxy:
        self._thread.start()
        return self

    def __exit__(self, *_unused: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()
