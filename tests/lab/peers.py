# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Things behind a socket that are no QEMU, or no longer one."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from typing import TYPE_CHECKING, Any

from .monitor import Monitor
from .process import kill, start, tool, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

GREETING = json.dumps(
    {"QMP": {"version": {"qemu": {"micro": 0, "minor": 2, "major": 7}, "package": ""}, "capabilities": []}}
).encode()


class Peer:
    """A server on a UNIX socket that gives each client, one after the other, to `talk` and then hangs up."""

    def __init__(self, path: Path, talk: Callable[[socket.socket], None]) -> None:
        self.path = str(path)
        self._talk = talk
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen(8)
        self._thread = threading.Thread(target=self._serve)

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _address = self._listener.accept()
                with client, contextlib.suppress(OSError):
                    self._talk(client)

    def __enter__(self) -> Peer:
        self._thread.start()
        return self

    def __exit__(self, *_unused: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()


def silence(client: socket.socket) -> None:
    """Say nothing until the client leaves: a monitor that is busy, and a guest agent that understands no word."""
    while client.recv(4096):
        pass


def guest_agent(client: socket.socket) -> None:
    """No greeting, as a guest agent; every line gets its answer."""
    while client.recv(4096):
        client.sendall(b'{"error": {"class": "CommandNotFound", "desc": "The command has not been found"}}\n')


def says(*lines: bytes) -> Callable[[socket.socket], None]:
    """Send the first line; each following line answers one more message of the client; then hang up."""

    def talk(client: socket.socket) -> None:
        for number, line in enumerate(lines):
            if number and not client.recv(4096):
                return
            client.sendall(line + b"\r\n")

    return talk


def answers(replies: Mapping[str, Any], otherwise: Any = None) -> Callable[[socket.socket], None]:
    """Speak QMP, and answer each command as it is told to; all others with `otherwise`, or with nothing in particular.

    A reply that is bytes goes out as it is.
    """

    def talk(client: socket.socket) -> None:
        client.sendall(GREETING + b"\r\n")
        for message in messages(client):
            client.sendall(_reply(message, replies, {} if otherwise is None else otherwise))

    return talk


def messages(client: socket.socket) -> Iterator[Any]:
    """What a client says, message by message, until it leaves."""
    text = ""
    while received := client.recv(1 << 16):
        text += received.decode()
        with contextlib.suppress(ValueError):
            while text := text.lstrip():
                message, end = json.JSONDecoder().raw_decode(text)
                text = text[end:]
                yield message


def _reply(message: Mapping[str, Any], replies: Mapping[str, Any], otherwise: Any) -> bytes:
    found = {} if message["execute"] == "qmp_capabilities" else replies.get(message["execute"], otherwise)
    content = found if isinstance(found, bytes) else json.dumps(found).encode()
    own = b', "id": ' + json.dumps(message["id"]).encode() if "id" in message else b""
    return b'{"return": ' + content + own + b"}\r\n"


@contextlib.contextmanager
def storage_daemon(path: Path, image: Path) -> Iterator[str]:
    """A qemu-storage-daemon with this image and a monitor at `path`."""
    node = {"driver": "file", "node-name": "image", "filename": str(image)}
    words = ["--chardev", f"socket,id=qmp,path={path},server=on,wait=off", "--monitor", "chardev=qmp"]
    command = [tool("QEMU_STORAGE_DAEMON", "qemu-storage-daemon"), *words, "--blockdev", json.dumps(node)]
    process = start(command, path.with_suffix(".log"))

    def answers() -> bool:
        try:
            Monitor(path).close()
        except OSError:
            return False
        return True

    try:
        wait_until(answers, "the monitor of the storage daemon answers")
        yield str(path)
    finally:
        kill(process.pid)
        process.wait()
