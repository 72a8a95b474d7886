# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""When is an image that left a chain free? Only where the kernel grants a lease on it, and nothing speaks against it.

What speaks against it makes it *not free*; what cannot be seen, read or asked makes it *unknown*.
"""

from __future__ import annotations

import posixpath
from typing import Collection, Mapping, NamedTuple, Sequence

from .._model._disk import Image
from .._model._domain import Needed, Plans
from .._model._files import FileId, Granted, KnownFile, Lease, Users
from .._model._images import Search
from .._model._vm import Vm
from ._names import why_named, why_names_unknown

# File systems that only this host has mounted, so that its kernel knows all who have a file open. One that is missing
# here may be shared: that is unknown, and never free.
_LOCAL = frozenset(
    {
        *("bcachefs", "btrfs", "erofs", "ext2", "ext3", "ext4", "f2fs", "jfs"),
        *("ramfs", "squashfs", "tmpfs", "xfs", "zfs"),
    }
)

NO_PLANS = Plans()

# A golden image may be open in hundreds of VMs. The pids of all are in the result beside these words.
_MOST_NAMES = 5

_NOBODY_FOUND = (
    "it is still open somewhere: the kernel says so, and neither the processes in /proc nor the loop devices and swap "
    "files tell where (another container, an export, a descriptor on its way through a socket)"
)
_NOT_ALL_SEEN = (
    "it is still open somewhere: the kernel says so, and not all processes may be looked at here to tell where; root "
    "on the host (with CAP_SYS_PTRACE) sees more"
)


class LeftImage(NamedTuple):
    """An image that left a chain, and the disk that it has left.

    ``id`` is the file that QEMU had open; None where that is not proven. ``top`` is the active image of the disk, and
    ``snapshots`` counts its internal snapshots; None where it cannot be told. ``is_finished`` tells whether the disk is
    populated, safe over a crash.
    """

    image: Image
    id: FileId | None
    top: str
    snapshots: int | None
    is_finished: bool

    @property
    def file(self) -> KnownFile | None:
        """The file to ask the kernel about; None where the image is no file of this host."""
        if self.image.file is None:
            return None
        return KnownFile(self.image.file, self.id)


class Verdict(NamedTuple):
    """The verdict on one image.

    ``free`` is None for unknown, and ``reason`` is None only where ``free`` is true. ``pids`` are the processes that
    have it open, None where that cannot be told. ``device`` and ``inode`` are the file that was judged. ``notes`` are
    what the user should know of an image that is free.
    """

    path: str
    free: bool | None
    reason: str | None
    pids: tuple[int, ...] | None = None
    device: int | None = None
    inode: int | None = None
    notes: tuple[str, ...] = ()


def judge(  # noqa: PLR0913  # all that may speak against it
    left: LeftImage,
    lease: Lease | None,
    users: Users | None,
    labels: Mapping[int, str],
    off: Sequence[str] = (),
    search: Search | None = None,
    plans: Plans = NO_PLANS,
) -> Verdict:
    """Say whether an image may be archived or deleted, as far as this host can know.

    :param lease: the kernel's answer; None where it was not asked.
    :param users: who was found to have it open; None where nobody looked.
    :param labels: what the VMs are called, by their processes.
    :param off: the sockets or domains of VMs that are off: an overlay of theirs may name the image.
    :param search: what headers say of it; None where no folder was named to be searched.
    :param plans: what libvirt would start, or revert to.
    """
    free, reason = _is_free(left, lease, users, labels)
    # What is open or unknown has a reason already, and a header that names it outweighs what is unknown.
    if search is not None and free is not False and left.file is not None:
        free, reason = _weigh_names(free, reason, left.file, search)
    path = left.image.file or left.image.path
    if left.file is not None:
        free, reason = weigh_plans(free, reason, {path, left.image.path}, left.id, plans)
    verdict = Verdict(path, free, reason, _pids(lease, users))
    if left.id is not None:
        verdict = verdict._replace(device=left.id.device, inode=left.id.inode)
    # A warning for who may delete it; what is not free has a stronger word against it.
    if free and off and search is None:
        verdict = verdict._replace(notes=(_note_on(off),))
    return verdict


def weigh_plans(
    free: bool | None, reason: str | None, paths: Collection[str], file: FileId | None, plans: Plans
) -> tuple[bool | None, str | None]:
    """What is left of a verdict when libvirt's plans are known.

    :param paths: the names of the file.
    """
    # What is open has a reason already, and what libvirt needs outweighs what is unknown.
    if free is False:
        return free, reason
    for needed in plans.needed:
        if _is_meant(needed, paths, file):
            return False, needed.why
    if free and plans.unknown:
        return None, f"what libvirt's domains and snapshots need cannot be told: {plans.unknown}"
    return free, reason


def _is_meant(needed: Needed, paths: Collection[str], file: FileId | None) -> bool:
    if file is not None and needed.file == file:
        return True
    # Of a volume only the name is known here.
    if "/" not in needed.path:
        return needed.path in map(posixpath.basename, paths)
    return needed.path in paths


def _weigh_names(
    free: bool | None, reason: str | None, file: KnownFile, search: Search
) -> tuple[bool | None, str | None]:
    named = why_named(search.asked[file])
    if named is not None:
        return False, named
    if free is None:
        return free, reason
    unknown = why_names_unknown(search)
    return (True, None) if unknown is None else (None, unknown)


def _is_free(
    left: LeftImage, lease: Lease | None, users: Users | None, labels: Mapping[int, str]
) -> tuple[bool | None, str | None]:
    """Whether an image is free, None for unknown, and why it is not, or is unknown."""
    # What is seen to speak against it outweighs what cannot be seen.
    against = _why_not_free(left, lease, users, labels)
    if against is not None:
        return False, against
    unknown = _why_unknown(left, lease)
    if unknown is not None:
        return None, unknown
    return True, None


def _why_not_free(left: LeftImage, lease: Lease | None, users: Users | None, labels: Mapping[int, str]) -> str | None:
    if not left.is_finished:
        return "the disk that it has left is not populated"
    # An internal snapshot keeps its own map of the image, with holes that only the backing image fills.
    if left.snapshots == 1:
        return f"the internal snapshot of {left.top} still needs it"
    if left.snapshots:
        return f"the {left.snapshots} internal snapshots of {left.top} still need it"
    return why_open(lease, users, labels)


def why_open(lease: Lease | None, users: Users | None, labels: Mapping[int, str] | None = None) -> str | None:
    """Say that somebody has a file open, and who; None where that is not known."""
    names = _names(users, labels or {})
    if names:
        return f"it is still open in {', '.join(names)}"
    if not _proves_use(lease):
        return None
    if users is not None and not users.saw_all:
        return _NOT_ALL_SEEN
    return _NOBODY_FOUND


def _why_unknown(left: LeftImage, lease: Lease | None) -> str | None:
    if left.file is None:
        return "it is reached over a protocol, and only its server can know who uses it"
    if lease is None:
        return "the kernel was not asked whether it is open"
    # Where there is no file, there is none to speak of.
    if left.id is None and lease.granted is not Granted.GONE:
        return "it was not seen that QEMU had the file of this name open (only root sees that, and not over TCP)"
    unknown = why_unknown(lease)
    if unknown is None and left.snapshots is None:
        return f"whether internal snapshots of {left.top} still need it cannot be read"
    return unknown


def why_unknown(lease: Lease) -> str | None:
    """Say why it is not known from a lease that a file is not open; None where it is granted and proof."""
    if lease.granted is Granted.GONE:
        return "there is no such file any more"
    if lease.granted is Granted.OTHER:
        return "another file has its name now"
    if lease.granted is Granted.NOT_REGULAR:
        return "it is not a regular file, and who uses a device cannot be told"
    if lease.granted is Granted.UNKNOWN:
        return f"whether it is open cannot be told: {lease.why}"
    return why_not_proven(lease)


def why_not_proven(lease: Lease) -> str | None:
    """Say why a lease, granted or refused, tells nothing on this file system; None where a granted one is proof."""
    kind = lease.file_system
    # NFS 4 and SMB refuse where the server has not given them the file.
    if lease.granted is Granted.NO:
        return f"the kernel refuses a lease on it, which on {kind} does not tell whether it is open"
    if kind in _LOCAL:
        return None
    # Measured on Linux 6.18: the lease is granted while the layer's own file is open.
    if kind == "overlay":
        return "it lies on an overlay file system, and the file of the layer below may be open"
    if kind == "unknown":
        return "it cannot be told on which file system it lies, and other hosts may use it"
    return f"it lies on {kind}, and other hosts may use it"


def _proves_use(lease: Lease | None) -> bool:
    """Whether a lease was refused, where that has one reason only: somebody has the file open."""
    if lease is None or lease.granted is not Granted.NO:
        return False
    kind = lease.file_system
    return kind in _LOCAL or kind == "overlay" or kind.startswith("fuse")


def proves_no_use(lease: Lease | None) -> bool:
    """Whether a lease was granted, where that means that nobody on this host has the file open."""
    if lease is None or lease.granted is not Granted.YES:
        return False
    return lease.file_system != "overlay"


def _names(users: Users | None, labels: Mapping[int, str]) -> list[str]:
    """Who has it open; a VM by its label, for the processes of all of them have one name."""
    if users is None:
        return []
    names = []
    for pid, process in sorted(users.processes.items()):
        name = f"VM {labels[pid]}" if pid in labels else process
        names.append(f"{name} (pid {pid})")
    names += users.kernel
    if len(names) > _MOST_NAMES:
        return [*names[:_MOST_NAMES], f"and {len(names) - _MOST_NAMES} more"]
    return names


def labels_of(vms: Sequence[Vm], known: Mapping[int, str] | None = None) -> Mapping[int, str]:
    """What the VMs are called, by their processes.

    :param known: what an earlier look of the same task has called them.
    """
    labels = dict(known or {})
    for vm in vms:
        if vm.identity.pid is not None:
            labels[vm.identity.pid] = vm.identity.label
    return labels


def _pids(lease: Lease | None, users: Users | None) -> tuple[int, ...] | None:
    if users is not None and users.are_known:
        return tuple(sorted(users.processes))
    if proves_no_use(lease):
        return ()
    return None


def _note_on(off: Sequence[str]) -> str:
    return (
        f"What is free may still be the base of a VM that is off: {', '.join(off)}. Before you delete or "
        "archive an image, name the folders of all images, as images (in the role populate_images) or to image_info"
    )
