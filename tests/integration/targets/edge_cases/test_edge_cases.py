# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""The corners of streaming: odd chains, other jobs, things that happen meanwhile, and devices of every kind."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import pytest
from lab import MonitorError, Scene, Vm, disks, images, product, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Boot = Callable[..., Vm]

KiB, MiB = images.KiB, images.MiB


@pytest.fixture
def disk(folder: Path, boot: Boot) -> Scene:
    """`vda` over two layers."""
    chain = images.chain(folder, layers=2)
    return Scene(boot(*disks.drive(chain.top, id="drive0", qdev="vda")), chain)


def assert_done(disk: Scene, result: product.Result) -> None:
    """Populated, and every byte survives a kill without the images below."""
    assert (result.failed, result["changed"], result["finished"]) == (False, True, True), result
    disk.assert_safe_after_kill()


# -- Odd chains --------------------------------------------------------------------------------------------------------


def odd_chain(folder: Path, *layers: tuple[int, list[images.Write]]) -> images.Chain:
    """A chain of images of different sizes, the base first; what a guest reads is computed here, not by QEMU."""
    model = b""
    made: list[Path] = []
    for number, (size, writes) in enumerate(layers):
        backing = made[0] if made else None
        made.insert(0, images.create(folder / f"{number}.qcow2", size, backing=backing, writes=writes))
        # What is behind the end of a layer reads as zeros through all above it, whatever is further down.
        layer = bytearray(model[:size].ljust(size, b"\0"))
        for write in writes:
            layer[write.offset : write.offset + write.size] = write.content
        model = bytes(layer)
    return images.Chain(tuple(made), model)


ODD = [
    pytest.param([(4 * MiB, [(0, 4 * MiB)]), (16 * MiB, [(12 * MiB, MiB)])], id="smaller base"),
    pytest.param([(4 * MiB + 3 * 512, [(4 * MiB, 3 * 512)]), (16 * MiB, [])], id="base that ends within a cluster"),
    pytest.param([(16 * MiB, [(0, 16 * MiB)]), (6 * MiB, [(MiB, MiB)])], id="larger base"),
    pytest.param([(16 * MiB, [(0, 16 * MiB)]), (4 * MiB, [(MiB, MiB)]), (16 * MiB, [])], id="short middle layer"),
    pytest.param(
        [(16 * MiB, [(0, 16 * MiB)]), (4 * MiB, []), (2 * MiB, [(0, MiB)]), (16 * MiB, [(9 * MiB, KiB)])],
        id="two short middle layers",
    ),
]


def build(folder: Path, layers: list[tuple[int, list[tuple[int, int]]]]) -> images.Chain:
    return odd_chain(
        folder,
        *(
            (size, [images.Write(offset, length, seed=number) for offset, length in writes])
            for number, (size, writes) in enumerate(layers)
        ),
    )


@pytest.mark.parametrize("layers", ODD)
def test_images_of_different_sizes(folder: Path, boot: Boot, layers: list[tuple[int, list[tuple[int, int]]]]) -> None:
    """What is behind the end of a shorter image reads as zeros before and after, and nothing below shines through."""
    chain = build(folder, layers)
    disk = Scene(boot(*disks.drive(chain.top, id="drive0", qdev="vda")), chain)
    assert images.differences(chain.expected, disk.vm.content("vda")) == []
    assert_done(disk, disk.stream())


@pytest.mark.parametrize(
    "sizes",
    [
        pytest.param((16, 4, 16), id="right below the top"),
        pytest.param((8, 4, 16), id="right below the top, base shorter than the top"),
        pytest.param((16, 4, 2, 16), id="two of them"),
        pytest.param((16, 2, 4, 16), id="two of them, the lower one shorter"),
        pytest.param((16, 4, 16, 16), id="further down"),
        pytest.param((4, 4, 16), id="as short as the base"),
    ],
)
def test_a_short_middle_layer_over_a_base_that_stays(folder: Path, boot: Boot, sizes: tuple[int, ...]) -> None:
    """With `base` the zeros behind the end of a dropped image stay zeros, or the disk is refused: no base shows."""
    chain = build(folder, [(size * MiB, [(0, size * MiB)] if n == 0 else []) for n, size in enumerate(sizes)])
    disk = Scene(boot(*disks.drive(chain.top, id="drive0", qdev="vda")), chain)
    result = disk.stream(base=str(chain.base))
    disk.vm.kill()
    if not result.failed:
        for image in chain.images[1:-1]:
            image.unlink()
    assert images.differences(chain.expected, images.content(chain.top)) == []


@pytest.mark.parametrize(
    "writes",
    [
        pytest.param(([], []), id="nothing in any image"),
        pytest.param(([(0, 8 * MiB)], [(0, 8 * MiB)]), id="everything in the top"),
    ],
)
def test_nothing_to_copy(folder: Path, boot: Boot, writes: tuple[list[tuple[int, int]], ...]) -> None:
    """A stream that has nothing to copy still takes the base off the chain, safely."""
    chain = build(folder, [(8 * MiB, layer) for layer in writes])
    disk = Scene(boot(*disks.drive(chain.top, id="drive0", qdev="vda")), chain)
    assert_done(disk, disk.stream())


def test_a_base_right_below_is_nothing_to_do(disk: Scene) -> None:
    """`base` as the image right below the top is done before it begins: no job, no change."""
    result = disk.stream(base=str(disk.chain.images[1]))
    assert (result.failed, result["changed"], result["finished"]) == (False, False, True), result
    disk.vm.command("query-status")
    assert [event for event in disk.vm.judge.events if "JOB" in event["event"]] == []


# -- Other jobs --------------------------------------------------------------------------------------------------------


@pytest.fixture
def deep(folder: Path, boot: Boot) -> Scene:
    """`vda` over four images."""
    chain = images.chain(folder, layers=4)
    return Scene(boot(*disks.drive(chain.top, id="drive0", qdev="vda")), chain)


def node_of(disk: Scene, place: int) -> str:
    """The node of an image of the chain, 0 for the top; this query is safe while no job is concluded."""
    nodes = disk.vm.command("query-named-block-nodes", flat=True)
    names = (n["node-name"] for n in nodes if (n["file"], n["drv"]) == (str(disk.chain.images[place]), "qcow2"))
    return str(next(names))


def test_disks_in_parallel(folder: Path, boot: Boot) -> None:
    """Four disks over one base *file*, all at once: each has its own nodes, and each ends whole."""
    base = images.chain(folder, layers=0)
    tops = [images.create(folder / f"{number}.qcow2", backing=base.base) for number in range(4)]
    words = [word for n, top in enumerate(tops) for word in disks.drive(top, id=f"drive{n}", qdev=f"vd{n}")]
    vm = boot(*words)
    result = product.module("block_stream", monitors=[vm.monitor], disks=["*"], parallel=4, speed="16M")
    assert (result.failed, result["finished"]) == (False, True), result
    vm.kill()
    base.base.unlink()
    for top in tops:
        assert images.differences(base.expected, images.content(top)) == []


def test_a_stream_into_a_middle_image(deep: Scene) -> None:
    """A stream of somebody else further down the chain refuses ours; it is not disturbed, and the rerun is done."""
    deep.vm.command("block-stream", job_id="lower-down", device=node_of(deep, 1), speed=1)
    result = deep.stream()
    assert (result.failed, result["finished"]) == (True, False), result
    for word in ("vda", "busy", "stream"):
        assert word in result["msg"]
    assert (list(deep.vm.jobs()), deep.depth) == (["lower-down"], 4)
    finish(deep, "lower-down")
    assert_done(deep, deep.stream())


def finish(disk: Scene, job: str) -> None:
    disk.vm.command("block-job-set-speed", device=job, speed=0)
    disk.vm.wait_event("BLOCK_JOB_COMPLETED", device=job)
    wait_until(lambda: disk.vm.jobs() == {}, "the job is gone")


def test_a_stream_above_a_base_does_not_touch_a_job_below(deep: Scene) -> None:
    """A stream down to `base` and a stream of somebody else below that base do not meet: both are done."""
    deep.vm.command("block-stream", job_id="lower-down", device=node_of(deep, 3), speed=1)
    result = deep.stream(base=str(deep.chain.images[2]))
    assert (result.failed, result["finished"]) == (False, True), result
    assert list(deep.vm.jobs()) == ["lower-down"]
    finish(deep, "lower-down")
    assert_done(deep, deep.stream())


@pytest.mark.parametrize(
    ("top", "base"), [pytest.param(1, 2, id="in the middle"), pytest.param(0, 1, id="of the active image")]
)
def test_a_commit_by_somebody_else(deep: Scene, top: int, base: int) -> None:
    """A commit job that works on the chain is left alone, and the disk is refused with what holds it."""
    nodes = {"top_node": node_of(deep, top), "base_node": node_of(deep, base)}
    deep.vm.command("block-commit", job_id="nightly", device="drive0", speed=1, **nodes)
    result = deep.stream()
    assert (result.failed, result["finished"]) == (True, False), result
    for word in ("vda", "commit"):
        assert word in result["msg"]
    assert list(deep.vm.jobs()) == ["nightly"]
    deep.vm.command("job-cancel", id="nightly")
    wait_until(lambda: deep.vm.jobs() == {}, "the commit is gone")
    assert_done(deep, deep.stream())


# -- Meanwhile ---------------------------------------------------------------------------------------------------------


def waiting(disk: Scene) -> product.Running:
    """A task that waits for a stream that runs, slowly."""
    waiter = product.Running("block_stream", {"monitors": [disk.vm.monitor], "disks": ["vda"], "speed": "1"})
    disk.vm.wait_event("JOB_STATUS_CHANGE", status="running")
    return waiter


def let_go(disk: Scene) -> None:
    (job,) = disk.vm.jobs()
    disk.vm.command("block-job-set-speed", device=job, speed=0)


def test_the_guest_writes_meanwhile(disk: Scene) -> None:
    """What the guest writes before, at and behind the cursor is there at the end."""
    waiter = waiting(disk)
    model = bytearray(disk.chain.expected)
    for number, offset in enumerate((0, 256 * KiB, 5 * MiB, 9 * MiB, 16 * MiB - 64 * KiB)):
        disk.vm.guest_write("vda", offset, 64 * KiB, number + 1)
        model[offset : offset + 64 * KiB] = bytes([number + 1]) * (64 * KiB)
    let_go(disk)
    assert_done(Scene(disk.vm, images.Chain(disk.chain.images, bytes(model))), waiter.result())


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        pytest.param("block_resize", {"device": "drive0", "size": 32 * MiB}, id="resize"),
        pytest.param("blockdev-snapshot-sync", {"device": "drive0", "snapshot_file": "snapshot.qcow2"}, id="snapshot"),
    ],
)
def test_resize_or_snapshot_in_a_stream(disk: Scene, command: str, arguments: dict[str, Any], folder: Path) -> None:
    """QEMU refuses both while a stream runs or is pending; ours is not disturbed and ends populated."""
    values = {key: str(folder / value) if key == "snapshot_file" else value for key, value in arguments.items()}
    waiter = waiting(disk)
    with pytest.raises(MonitorError, match=r"busy|in use"):
        disk.vm.command(command, **values)
    let_go(disk)
    assert_done(disk, waiter.result())


def test_a_disk_grows_between_two_runs(disk: Scene) -> None:
    """A disk that is resized after an aborted stream is populated over its new size."""
    disk.start()
    disk.stream(state="aborted")
    disk.vm.command("block_resize", device="drive0", size=24 * MiB)
    grown = images.Chain(disk.chain.images, disk.chain.expected + bytes(8 * MiB))
    assert_done(Scene(disk.vm, grown), disk.stream())


def test_a_snapshot_between_two_runs(disk: Scene, folder: Path) -> None:
    """A snapshot after an aborted stream is a new top; the rerun gives it all data, the old top's included."""
    disk.start()
    disk.stream(state="aborted")
    new = folder / "snapshot.qcow2"
    disk.vm.command("blockdev-snapshot-sync", device="drive0", snapshot_file=str(new), format="qcow2")
    disk.vm.guest_write("vda", 9 * MiB, 64 * KiB, 7)
    model = bytearray(disk.chain.expected)
    model[9 * MiB : 9 * MiB + 64 * KiB] = b"\7" * (64 * KiB)
    assert_done(Scene(disk.vm, images.Chain((new, *disk.chain.images), bytes(model))), disk.stream())


@pytest.fixture
def guest(folder: Path, boot: Boot) -> Callable[..., Scene]:
    """A VM whose processor runs, in the firmware."""

    def make(*words: str) -> Scene:
        chain = images.chain(folder, layers=2)
        return Scene(boot(*disks.drive(chain.top, id="drive0", qdev="vda"), *words, running=True), chain)

    return make


def test_the_guest_is_reset(guest: Callable[..., Scene]) -> None:
    """A reset in the middle of a stream disturbs nothing."""
    disk = guest()
    waiter = waiting(disk)
    disk.vm.command("system_reset")
    disk.vm.wait_event("RESET")
    let_go(disk)
    assert_done(disk, waiter.result())


def test_the_guest_is_powered_off_and_qemu_stays(guest: Callable[..., Scene]) -> None:
    """A guest that is off in a QEMU that stays (`-no-shutdown`) is populated all the same."""
    disk = guest("-no-reboot", "-no-shutdown")
    waiter = waiting(disk)
    disk.vm.command("system_reset")
    disk.vm.wait_event("SHUTDOWN")
    wait_until(lambda: bool(disk.vm.command("query-status")["status"] == "shutdown"), "the guest is off")
    let_go(disk)
    assert_done(disk, waiter.result())


def test_the_guest_is_powered_off_and_qemu_ends(guest: Callable[..., Scene], boot: Boot) -> None:
    """A QEMU that ends with its guest fails the task, which claims nothing; started again, the rerun is done."""
    disk = guest("-no-reboot")
    waiter = waiting(disk)
    disk.vm.command("system_reset")
    result = waiter.result(timeout=20)
    assert result.failed
    assert result.get("finished", False) is False
    for word in ("vm0", "vda", "QEMU"):
        assert word in result["msg"]
    disk.vm.kill()
    assert images.backing(disk.chain.top) is not None
    again = Scene(boot(*disks.drive(disk.chain.top, id="drive0", qdev="vda"), name="again"), disk.chain)
    assert_done(again, again.stream())


def test_the_disk_is_unplugged(folder: Path, boot: Boot) -> None:
    """A disk that is taken out of the VM in the middle of its stream is told as gone, never as populated."""
    chain = images.chain(folder)
    vm = boot(
        *disks.frontend("virtio-scsi-pci", "scsi0"),
        *disks.node(chain.top, node_name="top", qdev="sda", device="scsi-hd"),
    )
    waiter = product.Running("block_stream", {"monitors": [vm.monitor], "disks": ["sda"], "speed": "1"})
    job = vm.wait_event("JOB_STATUS_CHANGE", status="running")["id"]
    vm.command("device_del", id="sda")
    vm.wait_event("DEVICE_DELETED", device="sda")
    vm.command("block-job-set-speed", device=job, speed=0)
    result = waiter.result()
    assert (result.failed, result["finished"]) == (True, False), result
    for word in ("sda", "gone", job):
        assert word in result["msg"]


# -- Devices and filters -----------------------------------------------------------------------------------------------


def throttled_drive(chain: images.Chain) -> list[str]:
    return disks.drive(chain.top, id="drive0", qdev="vda", **{"throttling.bps-total": str(64 * MiB)})


def throttle_group(chain: images.Chain) -> list[str]:
    words = ["-object", f"throttle-group,id=slow,x-bps-total={64 * MiB}"]
    words += disks.blockdev("qcow2", "top", file={"driver": "file", "filename": str(chain.top)})
    words += disks.blockdev("throttle", "limit", throttle_group="slow", file="top")
    return words + disks.frontend("virtio-blk-pci", "vda", drive="limit")


def copy_on_read_drive(chain: images.Chain) -> list[str]:
    return disks.drive(chain.top, id="drive0", qdev="vda", copy_on_read="on")


def copy_on_read_filter(chain: images.Chain) -> list[str]:
    words = disks.blockdev("qcow2", "top", file={"driver": "file", "filename": str(chain.top)})
    words += disks.blockdev("copy-on-read", "cor", file="top")
    return words + disks.frontend("virtio-blk-pci", "vda", drive="cor")


def two_filters(chain: images.Chain) -> list[str]:
    words = ["-object", f"throttle-group,id=slow,x-bps-total={64 * MiB}"]
    words += disks.blockdev("qcow2", "top", file={"driver": "file", "filename": str(chain.top)})
    words += disks.blockdev("copy-on-read", "cor", file="top")
    words += disks.blockdev("throttle", "limit", throttle_group="slow", file="cor")
    return words + disks.frontend("virtio-blk-pci", "vda", drive="limit")


def iothread(chain: images.Chain) -> list[str]:
    words = ["-object", "iothread,id=io0"]
    return words + [
        word.replace("virtio-blk-pci,", "virtio-blk-pci,iothread=io0,")
        for word in disks.drive(chain.top, id="drive0", qdev="vda")
    ]


def scsi_iothread(chain: images.Chain) -> list[str]:
    words = ["-object", "iothread,id=io0", *disks.frontend("virtio-scsi-pci", "scsi0", iothread="io0")]
    return words + disks.node(chain.top, node_name="top", qdev="vda", device="scsi-hd")


def ide(chain: images.Chain) -> list[str]:
    return disks.drive(chain.top, id="drive0", qdev="vda", device="ide-hd")


def unused(chain: images.Chain) -> list[str]:
    return disks.drive(chain.top, id="vda", device=None)


@pytest.mark.parametrize(
    "words",
    [
        throttled_drive,
        throttle_group,
        copy_on_read_drive,
        copy_on_read_filter,
        two_filters,
        iothread,
        scsi_iothread,
        ide,
        unused,
    ],
)
def test_every_kind_of_device(folder: Path, boot: Boot, words: Callable[[images.Chain], list[str]]) -> None:
    """Under filters, limits and threads of its own: QEMU lives, the disk is populated, and the rerun is unchanged."""
    chain = images.chain(folder, layers=2)
    disk = Scene(boot(*words(chain)), chain)
    result = disk.stream()
    assert (result.failed, result["changed"], result["finished"]) == (False, True, True), result
    assert not set(chain.images[1:]) & disk.vm.open_files()
    again = disk.stream()
    assert (again.failed, again["changed"], again["finished"]) == (False, False, True), again
    disk.assert_safe_after_kill()


@pytest.mark.parametrize("words", [copy_on_read_filter, two_filters, iothread])
def test_a_stream_under_a_filter_is_seen_joined_and_ended(
    folder: Path, boot: Boot, words: Callable[[images.Chain], list[str]]
) -> None:
    """The job under a filter belongs to the disk above: paused, resumed and aborted as any other."""
    disk = Scene(boot(*words(images.chain(folder))), images.chain(folder, prefix="unused-"))
    disk.start()
    for options, action in (
        ({"state": "paused"}, "paused"),
        ({"wait": False}, "resumed"),
        ({"state": "aborted"}, "stopped"),
        ({"state": "aborted"}, "none"),
    ):
        result = disk.stream(**options)
        assert (result.failed, result["disks"][0]["action"]) == (False, action), result
    assert disk.vm.jobs() == {}


def test_disks_with_threads_of_their_own_in_parallel(folder: Path, boot: Boot) -> None:
    """Two disks in two iothreads at once, killed right after the task: nothing is lost."""
    chains = [images.chain(folder, prefix=f"{number}-", seed=number) for number in range(2)]
    words = []
    for number, chain in enumerate(chains):
        words += ["-object", f"iothread,id=io{number}"]
        words += disks.node(chain.top, node_name=f"node{number}", device=None)
        words += disks.frontend("virtio-blk-pci", f"vd{number}", drive=f"node{number}", iothread=f"io{number}")
    vm = boot(*words)
    result = product.module("block_stream", monitors=[vm.monitor], disks=["*"], parallel=2)
    vm.kill()
    assert (result.failed, result["finished"]) == (False, True), result
    for chain in chains:
        chain.take_away()
        assert images.differences(chain.expected, images.content(chain.top)) == []


# -- Dirty bitmaps -----------------------------------------------------------------------------------------------------


def test_dirty_bitmaps_are_kept(disk: Scene) -> None:
    """A persistent bitmap of a backup survives with what the guest wrote and nothing else, in QEMU and in the image."""

    def bitmap() -> dict[str, Any]:
        (found,) = disk.vm.inserted("vda")["dirty-bitmaps"]
        return {key: found[key] for key in ("name", "count", "persistent", "recording")}

    node = disk.vm.inserted("vda")["node-name"]
    disk.vm.command("block-dirty-bitmap-add", node=node, name="nightly", persistent=True)
    disk.vm.guest_write("vda", 9 * MiB, 64 * KiB, 7)
    before = bitmap()
    assert before["count"] == 64 * KiB
    result = disk.stream()
    assert (result.failed, result["finished"]) == (False, True), result
    assert bitmap() == before
    disk.vm.kill(signal.SIGTERM)  # as `quit` does: QEMU writes the bitmap, and ends
    (kept,) = images.info(disk.chain.top)["format-specific"]["data"]["bitmaps"]
    assert (kept["name"], kept["flags"]) == ("nightly", ["auto"])
