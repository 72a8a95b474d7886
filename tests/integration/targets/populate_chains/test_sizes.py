# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Chains whose images differ in size, and chains in which there is nothing to copy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from lab import Scene, Vm, disks, images

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Boot = Callable[..., Vm]

KiB, MiB = images.KiB, images.MiB


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
    disk.assert_done(disk.stream())


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
    disk.assert_done(disk.stream())


def test_a_base_right_below_is_nothing_to_do(disk: Scene) -> None:
    """`base` as the image right below the top is done before it begins: no job, no change."""
    result = disk.stream(base=str(disk.chain.images[1]))
    assert (result.failed, result["changed"], result["finished"]) == (False, False, True), result
    disk.vm.command("query-status")
    assert [event for event in disk.vm.judge.events if "JOB" in event["event"]] == []
