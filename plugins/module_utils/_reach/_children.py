# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Programs that do in a process of their own what may hang or fail: if the storage hangs, only they hang with it."""

from __future__ import annotations

import asyncio
import os
from typing import Collection, Mapping, Sequence, cast

_PIPE, _NOTHING = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL


class _Collector(asyncio.SubprocessProtocol):
    """Keeps what a process prints, up to a limit, and ends the process that prints more."""

    def __init__(self, most: int):
        self.ended = asyncio.get_running_loop().create_future()
        self.printed = {1: bytearray(), 2: bytearray()}
        self.is_cut = False
        self._most = most
        self._transport: asyncio.SubprocessTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.SubprocessTransport", transport)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        kept = self.printed[fd]
        kept += data[: self._most - len(kept)]
        # Kept and ended as soon as it is full: who prints without end must not fill the memory.
        if len(kept) == self._most and self._transport is not None:
            self.is_cut = True
            self._transport.close()

    def connection_lost(self, _exc: Exception | None) -> None:
        """The process has ended, and so have its pipes."""
        self.ended.set_result(None)


class Child:
    """A process that was started; its output is collected while it runs. Close it in any case."""

    def __init__(self, transport: asyncio.SubprocessTransport, collector: _Collector):
        self._transport = transport
        self._collector = collector

    @classmethod
    async def start(
        cls,
        words: Sequence[str],
        *,
        stdout: int = _PIPE,
        pass_fds: Collection[int] = (),
        most: int = 65_536,
        environment: Mapping[str, str] | None = None,
    ) -> Child:
        """Start a program, found by PATH, without a shell, in the C locale.

        :param stdout: a descriptor that it writes to, in place of being collected.
        :param most: so many bytes of each stream may be printed; who prints more is ended.
        :raise OSError: there is no such program, or it cannot be started.
        """
        transport, collector = await asyncio.get_running_loop().subprocess_exec(
            lambda: _Collector(most),
            *words,
            # No program may take what Ansible sends to the module.
            stdin=_NOTHING,
            stdout=stdout,
            stderr=_PIPE,
            pass_fds=tuple(pass_fds),
            env={**os.environ, "LC_ALL": "C", **(environment or {})},
        )
        return cls(transport, collector)

    async def wait(self, seconds: float | None = None) -> bool:
        """Wait for its end; False if that takes longer. It goes on meanwhile, also when the waiter is cancelled."""
        await asyncio.wait({self._collector.ended}, timeout=seconds)
        # `wait_for` would cancel the future at its timeout, and nobody could wait for it again.
        return self._collector.ended.done()

    @property
    def code(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        return self._transport.get_returncode()

    @property
    def output(self) -> bytes:
        return bytes(self._collector.printed[1])

    @property
    def errors(self) -> str:
        return self._collector.printed[2].decode(errors="replace")

    @property
    def is_cut(self) -> bool:
        """Whether it printed more than it may, and was ended for it."""
        return self._collector.is_cut

    def close(self) -> None:
        """End it if it still runs, and do not wait for that: where storage hangs, no signal reaches it."""
        self._transport.close()

    async def end(self) -> None:
        """The same, with a moment for its end to be seen."""
        self.close()
        await self.wait(1)
