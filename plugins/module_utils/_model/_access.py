# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The rights to an image, as they are and as they shall be."""

from __future__ import annotations

from typing import Any, Callable, ContextManager, NamedTuple, Protocol

from ._files import FileId, Lease, Users


class Rights(NamedTuple):
    """Who may open a file. ``context`` is its SELinux context, empty where it has none; None where SELinux is off."""

    owner: int
    group: int
    mode: int
    context: str | None = None

    def to_result(self) -> dict[str, Any]:
        """The rights in a result, and in a diff."""
        return {"uid": self.owner, "gid": self.group, "mode": f"{self.mode:04o}", "secontext": self.context or None}


class WantedRights(NamedTuple):
    """What the rights shall be; None for what stays. ``mode`` tells the permissions from those that there are."""

    owner: int | None = None
    group: int | None = None
    mode: Callable[[int], int] | None = None
    setype: str | None = None


class AskedImage(NamedTuple):
    """The image that is meant: below one of the folders, and the very file ``id`` unless that is None."""

    path: str
    below: tuple[str, ...]
    id: FileId | None = None


class FoundImage(NamedTuple):
    """What is under the name. ``links`` are its names in its file system, ``kind`` says what it is, in words."""

    id: FileId
    links: int
    rights: Rights
    kind: str = "a regular file"


class Revoked(NamedTuple):
    """What was done, or in check mode would be."""

    path: str
    id: FileId
    before: Rights
    after: Rights

    def to_result(self) -> dict[str, Any]:
        """The result of the module. It has no ``path``: Ansible would add the rights of what is under that name now."""
        before, after = self.before.to_result(), self.after.to_result()
        return {
            "changed": before != after,
            "device": self.id.device,
            "inode": self.id.inode,
            "before": before,
            "after": after,
            "diff": {"before_header": self.path, "after_header": self.path, "before": before, "after": after},
            "errors": [],
        }


class HeldImage(Protocol):
    """An image for which a lease was asked; only while that is granted may its rights be set."""

    @property
    def lease(self) -> Lease:
        """What the kernel answered."""

    def set_rights(self, old: Rights, new: Rights) -> None:
        """Set what differs.

        :raise OSError: the kernel, or the file system, refuses.
        """

    def is_awaited(self) -> bool:
        """Whether somebody waits to open the file, who has passed the check of its rights before they were changed."""


class OpenImage(Protocol):
    """An image that was found. Whatever is put under its name now, this stays the same file."""

    def look(self) -> FoundImage:
        """What it is at this moment."""

    def hold(self) -> ContextManager[HeldImage]:
        """Try to have it for this process alone, until the block ends."""

    def find_users(self) -> Users:
        """Who has it open, as far as /proc tells."""


class OpenImages(Protocol):
    """The images of this host."""

    def __call__(self, asked: AskedImage) -> ContextManager[OpenImage]:
        """Find an image without following a link.

        :raise ImageRefused: there is none of this name, it is reached over a link, or it lies in no folder of those.
        """
