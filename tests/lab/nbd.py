# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""An image served over NBD on a UNIX socket, as a remote golden image would be."""

from __future__ import annotations

import signal
import socket
from typing import TYPE_CHECKING

from .process import LabError, kill, start, tool, wait_for_server

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path
    from types import TracebackType


class NbdServer:
    """A `qemu-nbd` process; `address` is what goes into the header of an overlay."""

    def __init__(self, image: Path, path: Path, *, format: str = "raw", read_only: bool = True) -> None:
        self.path = path
        self.address = f"nbd+unix:///?socket={path}"
        self.log = path.with_suffix(".log")
        self.pid = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._command = [
            tool("QEMU_NBD", "qemu-nbd"),
            "--persistent",
            "--shared=16",  # QEMU 5.2 has no word for "any number"
            f"--socket={path}",
            f"--format={format}",
        ]
        self._command += ["--read-only"] if read_only else []
        self._command += [str(image)]

    def start(self) -> NbdServer:
        """Start the server and wait for its greeting."""
        self._process = start(self._command, self.log)
        self.pid = self._process.pid
        try:
            wait_for_server(self._process, self.log, self._greets)
        except LabError:
            self.kill()
            raise
        return self

    def _greets(self) -> bool:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(2)
            try:
                client.connect(str(self.path))
                return client.recv(8) == b"NBDMAGIC"
            except OSError:
                return False

    def kill(self, number: int = signal.SIGKILL) -> None:
        if self.pid:
            kill(self.pid, number)
            self.pid = 0
        if self._process is not None:
            self._process.wait()
            self._process = None
        self.path.unlink(missing_ok=True)

    def __enter__(self) -> NbdServer:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
