# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What this collection needs of the world. ``_reach`` provides it, and tests provide fakes."""

from __future__ import annotations

from typing import (
    TYPE_CHECKING,
    Any,
    AsyncContextManager,
    Awaitable,
    Callable,
    Collection,
    ContextManager,
    Mapping,
    NamedTuple,
    Protocol,
    Sequence,
)

from ._disk import Disk, Image
from ._errors import Failure
from ._files import Bound, FreeSpace, KnownFile, Lease, Survey, Users
from ._header import Reading
from ._job import Job, JobEvent, Stream
from ._latency import GuestDevice
from ._peer import Peer
from ._serving import Serving
from ._vm import Identity, Migration, Sight

if TYPE_CHECKING:
    # What most calls have no need of.
    from ._domain import Listed, Plans
    from ._images import Search
    from ._map import Layer, MapTotals, NoMap


class OtherRuns(Protocol):
    """Other runs of this collection that come to a monitor. It stays useful when the own connection is closed."""

    def is_waiting(self) -> bool:
        """Whether one waits for the monitor, or one that gave up is in the way of those who come."""

    def is_there(self) -> bool:
        """Whether one waits for the monitor or is served."""


class Connection(Protocol):
    """A QMP session. ``peer`` is who serves it, None over TCP; ``runs`` is None where nobody can tell."""

    address: str
    peer: Peer | None
    runs: OtherRuns | None

    async def execute(
        self, command: str, arguments: Mapping[str, Any] | None = None, descriptor: int | None = None
    ) -> Any:
        """Send a command and return what QEMU returns.

        :param descriptor: an open file that goes with it, to a QEMU of this host.
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


class Pull(Protocol):
    """libvirt's own way to remove a backing link."""

    async def __call__(self, disk: Disk, base: Image | None) -> None:
        """Have libvirt stream a disk in which everything is copied already, and wait until it is done.

        :param base: the image that stays as the backing image.
        :raise CommandRefused: libvirt does not do it, or its stream failed.
        """


class Ahead(Protocol):
    """An image of a VM, of which QEMU copies by itself what it is told to; many requests may be under way."""

    async def copy(self, offset: int, length: int) -> None:
        """Have QEMU copy a range into the image, as far as it is not there.

        :raise ReadAheadFailed: it could not, or nothing can be told to it any more.
        """

    async def depths(self, offset: int, length: int) -> Sequence[tuple[int, int]]:
        """Lengths and depths of what lies in a range, or in the first part of it: 1 is the image itself, 0 is nowhere.

        :raise ReadAheadFailed: as above.
        """


class Link(Protocol):
    """An open way to one VM, in verbs. Each raises what ``Connection.execute`` raises."""

    address: str
    peer: Peer | None
    runs: OtherRuns | None

    @property
    def pull(self) -> Pull | None:
        """How the backing link is removed; None where a job of ours may do it by itself, as ``finish`` has it."""

    async def identify(self) -> tuple[Identity, Sight]:
        """Who the VM is, and what it looks like now."""

    async def look(self) -> Sight:
        """The disks and jobs of the VM as they are now, the images by the names that QEMU has for them."""

    async def jobs(self) -> tuple[Job, ...]:
        """The block jobs alone: as cheap as QMP gets, however deep the chains are."""

    def listen(self, job_id: str) -> ContextManager[JobEvents]:
        """Collect the events of a job from now on."""

    async def status(self) -> str:
        """The run state of the VM alone."""

    async def migration(self) -> Migration:
        """The last migration of the VM, or saving of its state."""

    async def start(self, stream: Stream) -> None:
        """Start a stream. When all is copied it waits to be told to finish."""

    async def set_speed(self, job_id: str, speed: int) -> None:
        """Limit a job to so many bytes per second; 0 is no limit."""

    async def guest_devices(self) -> tuple[GuestDevice, ...]:
        """The devices of the guest, and how long its requests took so far."""

    async def set_histograms(self, qdev: str, boundaries: Sequence[int]) -> None:
        """Count how many requests of a device take how long, in nanoseconds; no longer where none are given.

        :raise CommandRefused: it has no such device, or cannot.
        """

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

    async def flush(self, node: str, beneath: Sequence[str]) -> bool:
        """Have QEMU write out what it holds of an image, and tell whether the storage took it.

        :param beneath: the nodes that the image stands on: its files.
        :return: False where QEMU does not tell, which it may not beside a job.
        :raise WriteBackFailed: QEMU tells that this flush failed, or one before it since it opened the file.
        """

    async def delete_node(self, node: str) -> None:
        """Close a block node that nothing uses."""

    async def leave_mark(self, node: str) -> None:
        """Leave an empty node of this name, which stays until the VM is restarted, unless there is one."""

    async def serving(self) -> Serving:
        """What QEMU serves to others, and whether it has iothreads."""

    def read_ahead(self, node: str) -> AsyncContextManager[Ahead]:
        """Let a format node be read ahead of its stream. At the end QEMU serves nothing of it any more.

        :raise ReadAheadFailed: it cannot be.
        """

    async def end_exports_but_own(self, exports: Sequence[str]) -> None:
        """Have QEMU end exports of ours that this link does not use, and its NBD server if none is left.

        :raise ReadAheadFailed: one does not end.
        """


class Held(Protocol):
    """The files of an image, open since before a stream began."""

    async def flush(self) -> None:
        """Have the kernel bring all that was written to the storage.

        :raise WriteBackFailed: it could not, now or ever since the files were opened.
        :raise HostSilent: the storage does not answer.
        """

    def forget(self) -> None:
        """Have the kernel drop what it keeps in its memory of the files."""

    def close(self) -> None:
        """Let go of the files."""


class Host(Protocol):
    """What the hypervisor knows beside its monitors."""

    def make_ready(self) -> None:
        """Load what the end of a stream takes, so that nobody waits for it then."""

    async def expand(self, pattern: str) -> Sequence[str] | None:
        """The sockets that a glob finds, sorted; None where there is a file of this very name.

        :raise HostSilent: the folder does not answer.
        """

    async def survey(self, pid: int | None, names: Collection[str], fdsets: Mapping[int, Sequence[int]]) -> Survey:
        """What a process has open, and what file names mean to it and to this host.

        :raise HostSilent: the storage does not answer.
        """

    async def headers(self, pid: int | None, images: Sequence[tuple[Bound, str]]) -> Sequence[Reading]:
        """What the headers of images say, each given by its file and its format.

        :raise HostSilent: the storage does not answer.
        """

    async def free_space(self, pid: int | None, bound: Bound) -> FreeSpace | None:
        """The file system that a file lies on; None where it is no regular file, or cannot be told."""

    async def hold(self, pid: int | None, files: Sequence[Bound], name: str) -> Held | None:
        """Open the files of an image, to be told whether what is written to them reaches the storage.

        :return: None where they cannot be opened: then that cannot be told.
        """

    async def read_map(self, pid: int | None, layers: Sequence[Layer], base_depth: int | None) -> MapTotals | NoMap:
        """In which image of a chain the data lies, as the files are now.

        :param base_depth: the place of the image that stays as the backing image; None where none does.
        :raise HostSilent: the storage does not answer.
        """

    async def remote_devices(self) -> Collection[int]:
        """The file systems that are other hosts', each by its device number (``st_dev``)."""

    async def who_serves(self, address: str) -> str:
        """The process that owns a monitor's socket and the client that it serves, in words; may be empty."""

    async def leases(self, files: Collection[KnownFile]) -> Mapping[KnownFile, Lease]:
        """What the kernel says of files, whether anybody on this host has them open; an answer for each."""

    async def users(self, files: Collection[KnownFile]) -> Mapping[KnownFile, Users]:
        """Who has the files open, as far as it can be found; those that were never identified may be missing."""

    async def search(self, files: Collection[KnownFile], folders: Sequence[str]) -> Search:
        """Which images in some folders name the files in their headers; of each file what has its name now, too."""


OpenLink = Callable[[str], AsyncContextManager[Link]]


class Found(NamedTuple):
    """The VMs that a call is about.

    ``wanted``: their addresses, and whether each was named outright, so that a VM that is off is a failure. ``skipped``
    tells, in words, of what was not found. ``off`` are addresses of VMs that are known to be off.
    """

    wanted: Mapping[str, bool] = {}
    skipped: tuple[str, ...] = ()
    failures: tuple[Failure, ...] = ()
    off: tuple[str, ...] = ()


Find = Callable[[], Awaitable[Found]]
# What libvirt would start, or revert to, of all its domains; it raises nothing.
AskPlans = Callable[[], Awaitable["Plans"]]

ListDomains = Callable[[], Awaitable[Sequence["Listed"]]]
