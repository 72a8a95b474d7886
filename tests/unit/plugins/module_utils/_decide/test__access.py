# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import Any, Callable  # noqa: UP035  # Python 3.8

import pytest
from ansible_collections.virtops.qmp.plugins.module_utils._decide._access import (
    check_image,
    check_lease,
    refusal,
    rights_after,
    steps_between,
)
from ansible_collections.virtops.qmp.plugins.module_utils._model._access import (
    AskedImage,
    FoundImage,
    Rights,
    WantedRights,
)
from ansible_collections.virtops.qmp.plugins.module_utils._model._errors import ImageInUse, ImageRefused, UseUnknown
from ansible_collections.virtops.qmp.plugins.module_utils._model._files import FileId, Granted, Lease, Users
from hypothesis import given
from hypothesis import strategies as st

FILE, OTHER = FileId(1, 2), FileId(1, 3)
RIGHTS = Rights(owner=107, group=108, mode=0o640)
CONTEXT = "system_u:object_r:virt_content_t:s0:c1,c2"


@pytest.mark.parametrize(
    ("asked", "found", "words"),
    [
        pytest.param(FILE, FoundImage(FILE, 1, RIGHTS), None, id="the file that was judged"),
        pytest.param(None, FoundImage(OTHER, 1, RIGHTS), None, id="whatever has the name"),
        pytest.param(FILE, FoundImage(OTHER, 1, RIGHTS), "another file has its name now", id="another file"),
        pytest.param(FILE, FoundImage(OTHER, 1, RIGHTS, "a link"), "another file has its name now", id="a link"),
        pytest.param(None, FoundImage(FILE, 1, RIGHTS, "a FIFO"), "it is no regular file, but a FIFO", id="a FIFO"),
        pytest.param(FILE, FoundImage(FILE, 2, RIGHTS), "it has 2 names (hard links)", id="a hard link"),
        pytest.param(FILE, FoundImage(FILE, 0, RIGHTS), "somebody has just removed it", id="removed"),
    ],
)
def test_only_the_image_that_is_meant(asked: FileId | None, found: FoundImage, words: str | None) -> None:
    """An image is the very file that was judged, regular, and has one name only."""
    if words is None:
        check_image(AskedImage("/g/a", ("/g",), asked), found)
        return
    with pytest.raises(ImageRefused) as refused:
        check_image(AskedImage("/g/a", ("/g",), asked), found)
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("lease", "words"),
    [
        pytest.param(Lease(Granted.YES, "ext4"), None, id="granted"),
        pytest.param(Lease(Granted.YES, "overlay"), "it lies on an overlay file system", id="granted on an overlay"),
        pytest.param(Lease(Granted.YES, "ceph"), "it lies on ceph, and other hosts may use it", id="granted on ceph"),
        pytest.param(
            Lease(Granted.UNKNOWN, "nfs4", "nfs4 grants no leases"),
            "whether it is open cannot be told: nfs4 grants no leases",
            id="unknown",
        ),
    ],
)
def test_what_a_lease_proves(lease: Lease, words: str | None) -> None:
    """Only a lease on a file system of this host alone proves that nobody has the image open."""
    if words is None:
        check_lease(lease)
        return
    with pytest.raises(UseUnknown) as refused:
        check_lease(lease)
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("file_system", "users", "kind", "words"),
    [
        pytest.param("ext4", Users({7: "qemu"}, ("loop0",)), ImageInUse, "open in qemu (pid 7), loop0", id="found"),
        pytest.param("ext4", Users(), ImageInUse, "it is still open somewhere", id="not found"),
        pytest.param("nfs4", Users(), UseUnknown, "which on nfs4 does not tell whether it is open", id="nfs4"),
    ],
)
def test_what_a_refused_lease_means(file_system: str, users: Users, kind: type[ImageRefused], words: str) -> None:
    """A refused lease is somebody who has the image open, with names where they are known, but for NFS."""
    error = refusal(Lease(Granted.NO, file_system), users)
    assert error.__class__ is kind
    assert words in str(error)


def constant(mode: int) -> Callable[[int], int]:
    return lambda _before: mode


@pytest.mark.parametrize(
    ("before", "wanted", "after"),
    [
        pytest.param({}, {}, {}, id="nothing"),
        pytest.param({}, {"owner": 0}, {"owner": 0}, id="owner"),
        pytest.param({}, {"group": 0}, {"group": 0}, id="group"),
        pytest.param({}, {"mode": constant(0o400)}, {"mode": 0o400}, id="mode"),
        pytest.param({}, {"mode": lambda before: before & 0o700}, {"mode": 0o600}, id="a mode by the one before"),
        pytest.param({"mode": 0o6755}, {}, {"mode": 0o6755}, id="set-user-ID stays"),
        pytest.param({"mode": 0o6755}, {"owner": 107}, {"mode": 0o6755}, id="set-user-ID stays with its owner"),
        pytest.param({"mode": 0o6755}, {"owner": 0}, {"owner": 0, "mode": 0o755}, id="set-user-ID goes"),
        pytest.param({"mode": 0o6755}, {"group": 0}, {"group": 0, "mode": 0o755}, id="set-group-ID goes"),
        pytest.param(
            {"mode": 0o755},
            {"owner": 0, "mode": constant(0o4700)},
            {"owner": 0, "mode": 0o4700},
            id="set-user-ID that is wanted",
        ),
        pytest.param({}, {"setype": "x_t"}, {}, id="no SELinux"),
        pytest.param({"context": CONTEXT}, {}, {"context": CONTEXT}, id="a context stays"),
        pytest.param(
            {"context": CONTEXT},
            {"setype": "x_t"},
            {"context": "system_u:object_r:x_t:s0:c1,c2"},
            id="the type of a context",
        ),
        pytest.param({"context": "u:r:t"}, {"setype": "x_t"}, {"context": "u:r:x_t"}, id="a context without level"),
    ],
)
def test_what_the_rights_shall_be(before: dict[str, Any], wanted: dict[str, Any], after: dict[str, Any]) -> None:
    """What is wanted is set, all else stays; a new owner does not inherit set-user-ID and set-group-ID."""
    was, shall_be = ({"owner": 107, "group": 108, "mode": 0o640, **each} for each in (before, {**before, **after}))
    assert rights_after(Rights(**was), WantedRights(**wanted)) == Rights(**shall_be)


@pytest.mark.parametrize("context", ["", "unlabeled"])
def test_a_type_needs_a_context(context: str) -> None:
    """Where SELinux is on and the file has no context, its type cannot be set, which is told."""
    with pytest.raises(ImageRefused, match="it has no SELinux context"):
        rights_after(Rights(0, 0, 0o600, context), WantedRights(setype="x_t"))


@pytest.mark.parametrize(
    ("before", "after", "steps"),
    [
        pytest.param(RIGHTS, RIGHTS, [RIGHTS], id="nothing"),
        pytest.param(RIGHTS, Rights(107, 108, 0o400), [RIGHTS, Rights(107, 108, 0o400)], id="fewer permissions"),
        pytest.param(
            Rights(107, 108, 0o640),
            Rights(0, 0, 0o604),
            [Rights(107, 108, 0o640), Rights(107, 108, 0o600), Rights(0, 0, 0o600), Rights(0, 0, 0o604)],
            id="others, and another owner",
        ),
        pytest.param(
            Rights(107, 108, 0o6755),
            Rights(0, 108, 0o4700),
            [Rights(107, 108, 0o6755), Rights(107, 108, 0o700), Rights(0, 108, 0o700), Rights(0, 108, 0o4700)],
            id="set-user-ID is never the new owner's unless wanted",
        ),
        pytest.param(
            Rights(107, 108, 0o644, "u:r:a_t"),
            Rights(0, 108, 0o644, "u:r:b_t"),
            [
                Rights(107, 108, 0o644, "u:r:a_t"),
                Rights(0, 108, 0o644, "u:r:a_t"),
                Rights(0, 108, 0o644, "u:r:b_t"),
            ],
            id="owner and type",
        ),
    ],
)
def test_the_way(before: Rights, after: Rights, steps: list[Rights]) -> None:
    """First permissions are taken, then the file is given away, then labelled, and only then permissions are given."""
    assert list(steps_between(before, after)) == steps


rights = st.builds(
    Rights, st.integers(0, 2), st.integers(0, 2), st.integers(0, 0o7777), st.sampled_from(["u:r:a_t", "u:r:b_t"])
)


def allowed(has: Rights, user: int, group: int) -> int:
    """What a process may do to a file: read, write and execute in three bits."""
    if user == has.owner:
        return has.mode >> 6 & 7
    return has.mode >> 3 & 7 if group == has.group else has.mode & 7


@given(rights, rights, st.integers(0, 3), st.integers(0, 3))
def test_nobody_is_let_in_on_the_way(before: Rights, after: Rights, user: int, group: int) -> None:
    """At every step, whoever it is may do no more than before, or no more than after."""
    steps = steps_between(before, after)
    assert (steps[0], steps[-1]) == (before, after)
    ends = [allowed(each, user, group) for each in (before, after)]
    for step in steps:
        now = allowed(step, user, group)
        assert any(now & end == now for end in ends)
    for place, other in enumerate(steps[1:]):
        one = steps[place]
        owned = [(each.owner, each.group) for each in (one, other)]
        assert sum([one.mode != other.mode, owned[0] != owned[1], one.context != other.context]) == 1
