# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a disk must read: the golden data under all that the guest wrote. A crash may undo what nobody flushed."""

from __future__ import annotations

BLOCK = 4096
SECTOR = 512


class Model:
    """The content of a disk by blocks.

    `latest` is what a guest reads while QEMU lives. After a crash each sector of a block that was written since the
    last flush may be any that it has been since then; every other one must be the latest. Nothing else is ever right.
    """

    def __init__(self, golden: bytes) -> None:
        self.latest = bytearray(golden)
        self._earlier: dict[int, list[bytes]] = {}

    def write(self, offset: int, size: int, pattern: int) -> None:
        """Note a write of whole blocks, before QEMU is told of it: a crash may come between."""
        for start in range(offset, offset + size, BLOCK):
            self._earlier.setdefault(start, []).append(bytes(self.latest[start : start + BLOCK]))
        self.latest[offset : offset + size] = bytes([pattern]) * size

    def flushed(self) -> None:
        """QEMU has answered a flush: all that it answered before is durable."""
        self._earlier.clear()

    def losses(self, found: bytes, *, crashed: bool) -> list[str]:
        """The blocks that read what they must not, in words."""
        if len(found) != len(self.latest):
            return [f"{len(found)} bytes in place of {len(self.latest)}"]
        return [
            f"block at {start}: {_kind(found[start : start + BLOCK])}"
            for start in range(0, len(found), BLOCK)
            if found[start : start + BLOCK] != self.latest[start : start + BLOCK]
            and not (crashed and self._may_read(start, found[start : start + BLOCK]))
        ]

    def _may_read(self, start: int, found: bytes) -> bool:
        candidates = [*self._earlier.get(start, []), bytes(self.latest[start : start + BLOCK])]
        return all(
            any(found[place : place + SECTOR] == each[place : place + SECTOR] for each in candidates)
            for place in range(0, BLOCK, SECTOR)
        )

    def settle(self, found: bytes) -> None:
        """After a crash: what was found, and judged, is what the next QEMU begins with."""
        self.latest[:] = found
        self._earlier.clear()


def _kind(block: bytes) -> str:
    return "zeros" if not any(block) else "other data"
