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

from ._files import FileId, FreeSpace, Traces
from ._job import Job, JobEvent, Stream
from ._peer import Peer
from ._vm import Identity, Sight


class Connection(Protocol):
    """A QMP session. ``peer`` is who serves it, None over TCP."""

    address: str
    peer: Peer | None

    async def execute(self, command: str, arguments: Mapping[str, Any] | None = None) -> Any:
        """Send a command and return what QEMU returns.

        :raise CommandRefused: QEMU answered with an error.
        :raise MonitorLost: the connection ended.
        :raise MonitorSilent: no answer in time.
        """

    def listen(self, job_id: str) -> ContextManager[RawEvents]:
        """Collect the events of a job from now on."""


class RawEvents(Protocol):
    """The events of one job as QEMU sends them."""

    async def next(self, timeout: float) -> Mapping[str, Any] | None:
        """Wait for the next event, at most ``timeout`` seconds; None when there was none.

        :raise MonitorLost: at once when the connection ends.
        """


class JobEvents(Protocol):
    """The events of one job, from the moment of ``Link.listen``."""

    async def next(self, timeout: float) -> JobEvent | None:
        """Wait for the next event, at most ``timeout`` seconds; None when there was none.

        :raise MonitorLost: at once when the connection ends.
        """


class Link(Protocol):
    """An open way to one VM, in verbs. Each raises what ``Connection.execute`` raises."""

    address: str
    peer: Peer | None

    async def identify(self) -> tuple[Identity, Sight]:
        """Who the VM is, and what it looks like now."""

    async def look(self) -> Sight:
        """The disks and jobs of the VM as they are now, the images by the names that QEMU has for them."""

    async def jobs(self) -> tuple[Job, ...]:
        """The block jobs alone: as cheap as QMP gets, however deep the chains are."""

    def listen(self, job_id: str) -> ContextManager[JobEvents]:
        """Collect the events of a job from now on."""

    async def start(self, stream: Stream) -> None:
        """Start a stream. When all is copied it waits to be told to finish."""

    async def set_speed(self, job_id: str, speed: int) -> None:
        """Limit a job to so many bytes per second; 0 is no limit."""

    async def pause(self, job_id: str) -> None:
        """Hold a job."""

    async def resume(self, job_id: str) -> None:
        """Let a held job go on."""

    async def cancel(self, job_id: str) -> None:
        """Stop a job; what it copied is kept."""

    async def finish(self, job_id: str) -> None:
        """Let a job that has copied everything remove the backing link."""

    async def dismiss(self, job_id: str) -> None:
        """Let go of a job that is over."""

    async def flush(self, node: str) -> None:
        """Have QEMU write out what it holds of an image. It does not tell whether the storage took it."""

    async def delete_node(self, node: str) -> None:
        """Close a block node that nothing uses."""


class Host(Protocol):
    """What the hypervisor knows beside its monitors."""

    async def expand(self, pattern: str) -> Sequence[str] | None:
        """The sockets that a glob finds, sorted; None where there is a file of this very name.

        :raise HostSilent: the folder does not answer.
        """

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

    async def who_serves(self, address: str) -> str:
        """The process that owns a monitor's socket and the client that it serves, in words; may be empty."""

    def opened_files(self, pid: int | None, files: Collection[str]) -> Mapping[str, FileId]:
        """What the files are, whatever they are called; those that the process does not have open are missing."""

    def traces(self, files: Mapping[str, FileId]) -> Mapping[str, Traces]:
        """What is known of files, by their name; one that is no longer what it was is missing."""


OpenLink = Callable[[str], AsyncContextManager[Link]]
