# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What this collection needs of the world. ``_reach`` provides it, and tests provide fakes."""

from __future__ import annotations

from typing import (
    Any,
    AsyncContextManager,
    Callable,
    Collection,
    ContextManager,
    Mapping,
    Protocol,
    Sequence,
)

from ._files import FileId, FreeSpace, KnownFile, Lease, Users


class Events(Protocol):
    """The events of one job."""

    async def next(self, timeout: float) -> Mapping[str, Any] | None:
        """Wait for the next event, at most ``timeout`` seconds; None when there was none.

        :raise MonitorLost: at once when the connection ends.
        """


class Monitor(Protocol):
    """An open connection to a QMP monitor. ``pid`` is that of the QEMU behind it, None where it cannot be told."""

    address: str
    pid: int | None

    async def execute(self, command: str, arguments: Mapping[str, Any] | None = None) -> Any:
        """Send a command and return what QEMU returns.

        :raise CommandRefused: QEMU answered with an error.
        :raise MonitorLost: the connection ended.
        :raise MonitorSilent: no answer in time.
        """

    def listen(self, job_id: str) -> ContextManager[Events]:
        """Collect the events of a job from now on."""


class Host(Protocol):
    """What the hypervisor knows beside its monitors."""

    def expand(self, pattern: str) -> Sequence[str] | None:
        """The sockets that a glob finds, sorted; None where ``pattern`` is no glob."""

    def working_directory(self, pid: int | None) -> str | None:
        """The directory from which a process resolves relative names; None where it cannot be told."""

    def real_path(self, path: str, directory: str | None) -> str | None:
        """The absolute path without links; None for a relative path from an unknown directory."""

    def header_backing(self, file: str) -> str | None:
        """The backing image that the header of a qcow2 file names, empty for none; None where it cannot be read."""

    def free_space(self, file: str) -> FreeSpace | None:
        """The file system that a file lies on; None where ``file`` is no regular file."""

    async def write_out(self, file: str) -> bool:
        """Have the kernel write what it holds back of a file to the storage; False if that does not come to an end."""

    def who_serves(self, address: str) -> str:
        """The process that owns a monitor's socket and the client that it serves, in words; may be empty."""

    def opened_files(self, pid: int | None, files: Collection[str]) -> Mapping[str, FileId]:
        """What the files are, whatever they are called; those that the process is not seen to have open are missing."""

    def leases(self, files: Collection[KnownFile]) -> Mapping[KnownFile, Lease]:
        """What the kernel says of files, whether anybody on this host has them open; an answer for each."""

    def users(self, files: Collection[KnownFile]) -> Mapping[KnownFile, Users]:
        """Who has the files open, as far as it can be found; those that were never identified may be missing."""


OpenMonitor = Callable[[str], AsyncContextManager[Monitor]]
