# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import pytest
from ansible_collections.virtops.qmp.plugins.module_utils._decide._schedule import (
    Turn,
    done_monitors,
    lanes,
    leave_out_crowded,
    turn,
)
from ansible_collections.virtops.qmp.plugins.module_utils._model._disk import Disk
from ansible_collections.virtops.qmp.plugins.module_utils._model._errors import WrongRequest
from ansible_collections.virtops.qmp.plugins.module_utils._model._files import FreeSpace, FreeSpaces
from ansible_collections.virtops.qmp.plugins.module_utils._model._job import Job
from ansible_collections.virtops.qmp.plugins.module_utils._model._target import Target
from ansible_collections.virtops.qmp.tests.unit.builders import (
    HELD,
    asking,
    disk,
    identity,
    image,
    job,
    recorded_vm,
    target,
    vm,
)


@pytest.mark.parametrize(
    ("subject", "running", "state", "expected"),
    [
        pytest.param(disk(), None, "populated", Turn.WAITS, id="a stream would begin"),
        pytest.param(disk(), job("paused"), "populated", Turn.WAITS, id="a paused one would go on"),
        pytest.param(disk(), HELD, "populated", Turn.WAITS, id="a held one would go on"),
        pytest.param(disk(), job("concluded"), "populated", Turn.WAITS, id="one is over, the next would begin"),
        pytest.param(disk(), job("running"), "populated", Turn.COUNTS, id="one runs"),
        pytest.param(disk(), job("pending"), "populated", Turn.COUNTS, id="one is pending"),
        pytest.param(disk("top"), None, "populated", Turn.NEEDS_NONE, id="populated"),
        pytest.param(disk("top"), job(type="mirror"), "populated", Turn.NEEDS_NONE, id="populated, another job"),
        pytest.param(disk(), job("running"), "paused", Turn.NEEDS_NONE, id="to pause"),
        pytest.param(disk(), job("running"), "aborted", Turn.NEEDS_NONE, id="to abort"),
        pytest.param(disk(), None, "aborted", Turn.NEEDS_NONE, id="nothing to abort"),
    ],
)
def test_turn(subject: Disk, running: Job | None, state: str, expected: Turn) -> None:
    """Only what would add a stream waits for a place; one that runs already counts."""
    assert turn(target(subject, running), asking(state=state)) is expected


@pytest.mark.parametrize(
    ("own", "state", "expected"),
    [
        pytest.param([(disk("top"), None)], "populated", True, id="done"),
        pytest.param([(disk("top"), None), (disk("top", qdev="vdb"), None)], "populated", True, id="both done"),
        pytest.param([(disk("top"), None), (disk(qdev="vdb"), None)], "populated", False, id="one to do"),
        pytest.param([(disk(), job("running"))], "populated", False, id="a stream runs"),
        pytest.param([(disk("top"), job(type="mirror"))], "populated", False, id="done, another job"),
        pytest.param([(disk("top"), None)], "paused", False, id="nothing to make sure of"),
    ],
)
def test_done_monitors(own: list[tuple[Disk, Job | None]], state: str, expected: bool) -> None:
    """Those of the VMs on whose disks there is nothing to do, whatever there is to do on others."""
    other = target(disk(), identity=identity(monitor="/vms/other.qmp"))
    done = done_monitors([other, *(target(*each) for each in own)], asking(state=state))
    assert done == ({"/vms/vm0.qmp"} if expected else set())


def over(number: int, *bases: str) -> Disk:
    return disk(image(f"top{number}"), *bases, qdev=f"vd{number}")


def labels(groups: list[list[Target]]) -> list[list[str]]:
    return [[each.disk.label for each in group] for group in groups]


@pytest.mark.parametrize(
    ("disks", "expected"),
    [
        pytest.param([], [], id="none"),
        pytest.param([over(1, "a"), over(2, "b")], [["vd1"], ["vd2"]], id="apart"),
        pytest.param([over(1, "a"), over(2, "a")], [["vd1", "vd2"]], id="one base"),
        pytest.param(
            [over(1, "a"), over(2, "b"), over(3, "a")], [["vd2"], ["vd1", "vd3"]], id="the first and the last"
        ),
        pytest.param(
            [over(1, "a"), over(2, "b"), over(3, "a", "b")], [["vd1", "vd2", "vd3"]], id="one joins two groups"
        ),
        pytest.param([over(1), over(2)], [["vd1"], ["vd2"]], id="without a chain"),
        pytest.param([over(1, "x", "a"), over(2, "y", "a")], [["vd1", "vd2"]], id="shared further down"),
    ],
)
def test_lanes(disks: list[Disk], expected: list[list[str]]) -> None:
    """Disks of one VM that share a node below their tops are in one lane, and no others."""
    owner = vm(*disks)
    assert labels(lanes([Target(owner, each, len(each.chain)) for each in disks])) == expected


def test_lanes_are_of_one_vm() -> None:
    """Nodes of the same name in two VMs are two nodes."""
    one, other = vm(over(1, "a")), vm(over(2, "a"), identity=identity(monitor="/vms/other.qmp"))
    assert labels(lanes([Target(each, each.disks[0], 2) for each in (one, other)])) == [["vd1"], ["vd2"]]


def test_lanes_of_a_real_vm() -> None:
    """Two disks over one named base of QEMU 7.2 share a lane; opened twice by QEMU itself, a file is no shared node."""
    shared, own = recorded_vm("qemu-7.2-shared-base"), recorded_vm("qemu-7.2-blockdev")
    assert labels(lanes([Target(shared, each, 2) for each in shared.disks])) == [["vda", "vdb"]]
    assert labels(lanes([Target(own, each, 2) for each in own.disks])) == [["vda"], ["sda"], ["node-c"]]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=lambda order: "".join(map(str, order)))
def test_a_disk_with_a_job_comes_first_in_its_lane(order: tuple[int, ...]) -> None:
    """In whatever order disks are named, the one whose stream runs goes first."""
    disks = [over(number, "a") for number in range(3)]
    owner = vm(*disks, jobs=(job(),))
    lane = lanes([Target(owner, disks[number], 2) for number in order])[0]
    assert lane[0].disk.label == "vd0"


def crowd(*disks: Disk, running: Job | None = None) -> list[Target]:
    owner = vm(*disks, jobs=(running,) if running else ())
    return [Target(owner, each, len(each.chain)) for each in disks]


def starry(targets: Sequence[Target]) -> list[Target]:
    """The same disks, chosen by the star only."""
    return [each._replace(is_named=False) for each in targets]


def free_space(free: int, *numbers: int, device: int = 1) -> FreeSpaces:
    return {("/vms/vm0.qmp", f"vd{number}"): FreeSpace(device, free) for number in numbers}


@pytest.mark.parametrize(
    ("targets", "free_spaces"),
    [
        pytest.param(crowd(over(1, "a")), free_space(100, 1), id="just enough"),
        pytest.param(
            crowd(over(1, "a"), over(2, "b")),
            {**free_space(100, 1), **free_space(100, 2, device=2)},
            id="two file systems",
        ),
        pytest.param(crowd(over(1)), free_space(0, 1), id="nothing to copy on a full one"),
        pytest.param(crowd(over(1, "a"), running=job()), free_space(0, 1), id="a stream runs already"),
        pytest.param(crowd(over(1, "a")), {}, id="no local file"),
        pytest.param(crowd(over(1, "a")), {"/vms/top1.qcow2": None}, id="a device"),
        pytest.param(crowd(disk(image(file=None), "base")), {}, id="no file at all"),
        pytest.param([], {}, id="no disk"),
    ],
)
def test_there_is_room(targets: list[Target], free_spaces: FreeSpaces) -> None:
    """What fits, or cannot be judged, is not refused, whether it was named outright or not."""
    assert leave_out_crowded(targets, free_spaces) == (tuple(targets), {})
    starred = starry(targets)
    assert leave_out_crowded(starred, free_spaces) == (tuple(starred), {})


@pytest.mark.parametrize(
    ("targets", "free_spaces", "lines"),
    [
        pytest.param(
            crowd(over(1, "a")),
            free_space(99, 1),
            ["up to 100 bytes and the file system has 99 free (vm0: disk vd1 up to 100)"],
            id="one byte too much",
        ),
        pytest.param(
            crowd(over(1, "a"), over(2, "b"), over(3)),
            free_space(199, 1, 2, 3),
            ["up to 200 bytes and the file system has 199 free (vm0: disk vd1 up to 100; vm0: disk vd2 up to 100)"],
            id="both together",
        ),
        pytest.param(
            crowd(over(1, "a"), over(2, "b")),
            {**free_space(9, 1), **free_space(8, 2, device=2)},
            ["has 9 free (vm0: disk vd1", "has 8 free (vm0: disk vd2"],
            id="two full file systems",
        ),
        pytest.param(
            crowd(over(1, "a"), over(2, "b")),
            {**free_space(99, 1), **free_space(100, 2, device=2)},
            ["has 99 free (vm0: disk vd1"],
            id="one of two",
        ),
    ],
)
def test_there_is_no_room(targets: list[Target], free_spaces: FreeSpaces, lines: list[str]) -> None:
    """All that would start counts together, by file system, and the figures are told."""
    with pytest.raises(WrongRequest) as refusal:
        leave_out_crowded(targets, free_spaces)
    found = str(refusal.value).splitlines()
    assert len(found) == len(lines)
    for line, words in zip(found, lines):  # noqa: B905  # Python 3.8
        assert words in line
        assert "check_space" in line


def claiming(number: int, size: int, *, is_named: bool = False) -> Target:
    """A disk that may need so many bytes."""
    layers = [image(f"{name}{number}", virtual_size=size, allocated=size) for name in ("top", "base")]
    subject = disk(*layers, qdev=f"vd{number}")
    return Target(vm(subject), subject, 2, is_named=is_named)


@pytest.mark.parametrize(
    ("targets", "free", "fit", "words"),
    [
        pytest.param([claiming(1, 60), claiming(2, 40)], 100, ["vd1", "vd2"], {}, id="all of it fits"),
        pytest.param(
            [claiming(1, 2**60), claiming(2, 40), claiming(3, 60)],
            100,
            ["vd2", "vd3"],
            {"vd1": "up to 1152921504606846976 bytes and the file system has 0 free (beside the other disks"},
            id="one claims 2^60",
        ),
        pytest.param(
            [claiming(1, 100), claiming(2, 40), claiming(3, 60)],
            100,
            ["vd2", "vd3"],
            {"vd1": "up to 100 bytes and the file system has 0 free"},
            id="one claims just what there is: those that need less come first",
        ),
        pytest.param(
            [claiming(1, 50), claiming(2, 50), claiming(3, 50)],
            100,
            ["vd1", "vd2"],
            {"vd3": "up to 50 bytes and the file system has 0 free"},
            id="equal claims, in the order of the disks",
        ),
        pytest.param(
            [claiming(1, 10), claiming(2, 95, is_named=True)],
            100,
            ["vd2"],
            {"vd1": "up to 10 bytes and the file system has 5 free"},
            id="one named outright comes before those that need less",
        ),
        pytest.param(
            [claiming(1, 101)], 100, [], {"vd1": "up to 101 bytes and the file system has 100 free"}, id="none fits"
        ),
    ],
)
def test_who_claims_much_takes_the_room_from_no_other(
    targets: list[Target], free: int, fit: list[str], words: Mapping[str, str]
) -> None:
    """Of the disks that nobody named those that need least are done, and each of the others is told why not."""
    done, crowded = leave_out_crowded(targets, free_space(free, 1, 2, 3))
    assert [each.disk.label for each in done] == fit
    assert {key for _monitor, key in crowded} == set(words)
    for (_monitor, key), reason in crowded.items():
        assert words[key] in reason
        assert "check_space" in reason


def test_named_disks_that_do_not_fit_start_nothing() -> None:
    """What was asked for by its name is done or refused, whatever the star would add."""
    with pytest.raises(WrongRequest, match=r"up to 101 bytes .* 100 free \(vm0: disk vd1 up to 101\)"):
        leave_out_crowded([claiming(1, 101, is_named=True), claiming(2, 10)], free_space(100, 1, 2))


def test_two_looks_at_one_file_system_may_differ() -> None:
    """While its free space changes the smaller figure holds."""
    spaces = {**free_space(100, 1), **free_space(50, 2)}
    assert [key for _monitor, key in leave_out_crowded([claiming(1, 40), claiming(2, 40)], spaces)[1]] == ["vd2"]
