# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""The judge's own monitor: plain QMP over a socket, so that it shares nothing with the code under test."""

from __future__ import annotations

import json
import socket
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class MonitorError(Exception):
    """QEMU refused a command."""

    def __init__(self, command: str, error: dict[str, str]) -> None:
        super().__init__(f"{command}: {error['class']}: {error['desc']}")
        self.desc = error["desc"]


class Monitor:
    """One client of a monitor; it keeps every event that it saw in `events`."""

    def __init__(self, path: Path, timeout: float = 10) -> None:
        self.timeout = timeout
        self.events: list[dict[str, Any]] = []
        self._unread = b""
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            self._socket.settimeout(timeout)
            self._socket.connect(str(path))
            self.greeting: dict[str, Any] = self._next(time.monotonic() + timeout)
            self.command("qmp_capabilities")
        except BaseException:
            self._socket.close()
            raise

    def close(self) -> None:
        self._socket.close()

    def _next(self, deadline: float) -> dict[str, Any]:
        while b"\n" not in self._unread:
            self._socket.settimeout(max(0.001, deadline - time.monotonic()))
            received = self._socket.recv(1 << 20)
            if not received:
                raise ConnectionResetError("the monitor closed the connection")
            self._unread += received
        line, _newline, self._unread = self._unread.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        return message

    def command(self, execute: str, /, **arguments: Any) -> Any:
        """Execute a command; an underscore in the name of an argument stands for a hyphen."""
        values = {key.replace("_", "-"): value for key, value in arguments.items()}
        self._socket.sendall(json.dumps({"execute": execute, "arguments": values}).encode() + b"\n")
        deadline = time.monotonic() + self.timeout
        while True:
            message = self._next(deadline)
            if "event" in message:
                self.events.append(message)
            elif "error" in message:
                raise MonitorError(execute, message["error"])
            else:
                return message["return"]

    def wait_event(
        self, name: str, matches: Callable[[dict[str, Any]], bool] = lambda _data: True, *, timeout: float = 20
    ) -> dict[str, Any]:
        """The data of the first event of this name that matches, whether it came already or comes in time."""
        deadline = time.monotonic() + timeout
        seen = 0
        while True:
            for event in self.events[seen:]:
                if event["event"] == name and matches(event.get("data", {})):
                    found: dict[str, Any] = event.get("data", {})
                    return found
            seen = len(self.events)
            try:
                self.events.append(self._next(deadline))
            except TimeoutError:
                names = [event["event"] for event in self.events]
                raise AssertionError(f"no event {name} within {timeout:g} s; seen: {names}") from None
