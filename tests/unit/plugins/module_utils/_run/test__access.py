# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from ansible_collections.virtops.qmp.plugins.module_utils._model._access import (
    AskedImage,
    FoundImage,
    Revoked,
    Rights,
    WantedRights,
)
from ansible_collections.virtops.qmp.plugins.module_utils._model._errors import (
    ImageInUse,
    ImageRefused,
    QmpError,
    RightsNotSet,
    UseUnknown,
)
from ansible_collections.virtops.qmp.plugins.module_utils._model._files import FileId, Granted, Lease, Users
from ansible_collections.virtops.qmp.plugins.module_utils._run._access import revoke

FILE = FileId(1, 2)
ASKED = AskedImage("/g/a", ("/g",), FILE)
BEFORE, AFTER = Rights(107, 108, 0o644), Rights(0, 0, 0o400)
WANTED = WantedRights(owner=0, group=0, mode=lambda _before: 0o400)
IMAGE, REFUSED = FoundImage(FILE, 1, BEFORE), Lease(Granted.NO)
STEPS = [Rights(107, 108, 0o400), Rights(0, 0, 0o400)]


@dataclass
class FakeImage:
    """An image in memory; its rights are set only while the lease is held, and it remembers how."""

    found: FoundImage = IMAGE
    leases: list[Granted] = field(default_factory=list)  # the answers to come; then it is granted
    awaited: list[bool] = field(default_factory=list)  # the same
    refuses: list[Rights] = field(default_factory=list)  # what cannot be set
    ignores: bool = False
    found_held: FoundImage | None = None  # what it has become by the time that it is held
    set: list[Rights] = field(default_factory=list)
    held: int = 0
    lease: Lease = REFUSED

    @contextlib.contextmanager
    def open(self, asked: AskedImage) -> Iterator[FakeImage]:
        yield self

    def look(self) -> FoundImage:
        return self.found

    @contextlib.contextmanager
    def hold(self) -> Iterator[FakeImage]:
        self.held += 1
        self.lease = Lease(self.leases.pop(0) if self.leases else Granted.YES, "ext4", "so")
        self.found = self.found_held or self.found
        yield self
        self.lease = Lease(Granted.NO)

    def find_users(self) -> Users:
        assert self.lease.granted is Granted.NO
        return Users({7: "qemu"})

    def set_rights(self, old: Rights, new: Rights) -> None:
        assert self.lease.granted is Granted.YES
        assert self.ignores or old == self.found.rights
        if new in self.refuses:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))
        self.set.append(new)
        self.found = self.found if self.ignores else self.found._replace(rights=new)

    def is_awaited(self) -> bool:
        return self.awaited.pop(0) if self.awaited else False


def run(image: FakeImage, *, is_check: bool = False) -> Revoked:
    return revoke(ASKED, WANTED, image.open, is_check=is_check)


def test_the_rights_are_set_step_by_step() -> None:
    """The rights are changed over the steps that let nobody in, while the lease is held, and told."""
    image = FakeImage()
    assert run(image) == Revoked("/g/a", FILE, BEFORE, AFTER)
    assert image.set == STEPS


def test_check_mode_changes_nothing() -> None:
    """In check mode the same is told, the kernel is asked, and nothing is set."""
    image = FakeImage()
    assert run(image, is_check=True) == Revoked("/g/a", FILE, BEFORE, AFTER)
    assert (image.set, image.held) == ([], 1)


def test_nothing_is_to_be_done() -> None:
    """An image whose rights are as wanted is not asked for, open or not."""
    image = FakeImage(FoundImage(FILE, 1, AFTER), leases=[Granted.NO])
    revoked = run(image)
    assert (revoked.to_result()["changed"], image.held) == (False, 0)


def test_somebody_else_has_just_done_it() -> None:
    """The rights count that the image has once it is held."""
    image = FakeImage(found_held=FoundImage(FILE, 1, AFTER))
    assert (run(image).to_result()["changed"], image.set) == (False, [])


@pytest.mark.parametrize(
    ("image", "kind", "words"),
    [
        pytest.param(
            FakeImage(FoundImage(FileId(1, 3), 1, BEFORE)),
            ImageRefused,
            "another file has its name now",
            id="another file",
        ),
        pytest.param(
            FakeImage(found_held=FoundImage(FILE, 2, BEFORE)), ImageRefused, "it has 2 names", id="linked meanwhile"
        ),
        pytest.param(FakeImage(leases=[Granted.NO]), ImageInUse, "it is still open in qemu (pid 7)", id="open"),
        pytest.param(
            FakeImage(leases=[Granted.UNKNOWN]), UseUnknown, "whether it is open cannot be told: so", id="unknown"
        ),
        pytest.param(
            FakeImage(refuses=STEPS[:1]),
            RightsNotSet,
            "cannot be set: Operation not permitted. They are as they were",
            id="the first step is refused",
        ),
        pytest.param(
            FakeImage(refuses=STEPS[1:]),
            RightsNotSet,
            "cannot be set: Operation not permitted. They are as they were",
            id="the second step is refused",
        ),
        pytest.param(FakeImage(ignores=True), RightsNotSet, "did not keep the rights", id="a file system that forgets"),
        pytest.param(
            FakeImage(awaited=[True] * 3), ImageInUse, "somebody opens it at this moment, again", id="always awaited"
        ),
        pytest.param(
            FakeImage(awaited=[True], leases=[Granted.YES, Granted.NO]),
            ImageInUse,
            "it is still open in qemu (pid 7)",
            id="somebody came to open it",
        ),
    ],
)
def test_a_failure_changes_nothing(image: FakeImage, kind: type[QmpError], words: str) -> None:
    """After every failure the rights are what they were, and the failure says why."""
    with pytest.raises(kind) as refused:
        run(image)
    assert refused.value.__class__ is kind
    assert words in str(refused.value)
    assert image.found.rights == BEFORE


def test_who_only_asked_the_same_question_is_no_user() -> None:
    """Somebody came to open the file, and was gone when it was asked for again: then the rights are set."""
    image = FakeImage(awaited=[True])
    assert run(image).after == AFTER
    assert image.set == [*STEPS, STEPS[0], BEFORE, *STEPS]


def test_what_cannot_be_set_back() -> None:
    """Where the way back is barred, too, the failure says what the rights are now."""
    image = FakeImage(awaited=[True], refuses=[BEFORE])
    with pytest.raises(
        RightsNotSet, match=r"nor set back: Operation not permitted\. Now it has uid 107, gid 108, mode 0"
    ):
        run(image)
