# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""A guest that does nothing but write, as fast as QEMU answers, and keeps the model of its disk."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from typing import TYPE_CHECKING

from lab import Monitor

from .model import BLOCK

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import TracebackType

    from .model import Model


def monitor_words(path: Path) -> list[str]:
    """The words of a QEMU command line for the monitor that a guest writes through."""
    return ["-qmp", f"unix:{path},server=on,wait=off"]


class Guest:
    """Writes from `with` on, in a thread of its own, until QEMU dies or the block ends.

    :param flush_every: flush after so many writes; 0: never.
    :param within: keep to this range, from byte to byte.
    """

    def __init__(
        self,
        monitor: Path,
        qdev: str,
        model: Model,
        *,
        seed: object,
        flush_every: int = 50,
        within: tuple[int, int] | None = None,
    ) -> None:
        self.writes = 0
        self._monitor = Monitor(monitor, timeout=120)
        self._qdev, self._model, self._flush_every = qdev, model, flush_every
        self._random = random.Random(str(seed))
        self._first, self._last = (edge // BLOCK for edge in within or (0, len(model.latest)))
        self._is_over = threading.Event()
        self._is_held = threading.Event()
        self._turn = threading.Lock()
        self._thread = threading.Thread(target=self._live)

    def _live(self) -> None:
        try:
            while not self._is_over.is_set():
                if self._is_held.is_set():
                    time.sleep(0.001)
                    continue
                with self._turn:
                    self._act()
        except OSError:
            pass  # QEMU died

    def _act(self) -> None:
        self._write()
        if self._flush_every and self.writes % self._flush_every == 0:
            self._io("flush")
            self._model.flushed()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """The guest stands still, as it does while a VM is saved."""
        self._is_held.set()
        try:
            with self._turn:
                yield
        finally:
            self._is_held.clear()

    def _write(self) -> None:
        blocks = self._random.randint(1, 16)
        first = self._random.randrange(self._first, self._last - blocks)
        offset, size, pattern = first * BLOCK, blocks * BLOCK, self._random.randint(1, 255)
        self._model.write(offset, size, pattern)
        self._io(f"write -q -P {pattern} {offset} {size}")
        self.writes += 1

    def _io(self, words: str) -> None:
        line = f'qemu-io -d {self._qdev} "{words}"'
        reply = self._monitor.command("human-monitor-command", command_line=line)
        assert reply == "", f"{line}: {reply}"

    def __enter__(self) -> Guest:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_over.set()
        self._thread.join()
        self._monitor.close()
