# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the user asked for, as the rest of the collection reads it."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Request:
    """What the user asked for, of every selected disk. Sizes are bytes, times are seconds.

    ``state`` is ``populated``, ``paused`` or ``aborted``; ``stopped`` is what the end of a maintenance window turns
    ``populated`` into: no stream runs, but one that has copied everything is finished rather than cancelled.
    """

    state: str = "populated"
    base: str | None = None
    wait: bool = True
    wait_timeout: int | None = None
    on_timeout: str = "fail"
    poll_interval: int = 0
    increment: int | None = None
    cursor: int = 0
    speed: int | None = None
    on_error: str = "report"
    parallel: int = 1
    check_space: bool = True
    release: bool = True

    def stopped(self) -> Request:
        """The wish of somebody whose time is over."""
        return replace(self, state="stopped")

    @property
    def mark(self) -> int | None:
        """Where the cursor must arrive before an increment is over."""
        return None if self.increment is None else self.cursor + self.increment
