# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Every shape of chain in every style of disk: populated, killed, compared byte by byte, and run twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from lab import NbdServer, Scene, Vm, disks, images, product

if TYPE_CHECKING:
    from pathlib import Path

Boot = Callable[..., Vm]


@dataclass(frozen=True)
class Shape:
    """One row of the table."""

    id: str
    layers: int
    style: str
    base_format: str = "qcow2"
    relative: bool = False
    over_nbd: bool = False


SHAPES = [
    *(Shape(f"{style}-{layers}", layers, style) for layers in (1, 2, 5) for style in ("drive", "blockdev", "named")),
    Shape("drive-relative", 2, "drive", relative=True),
    Shape("blockdev-relative", 2, "blockdev", relative=True),
    Shape("drive-raw-base", 1, "drive", base_format="raw"),
    Shape("named-raw-base", 2, "named", base_format="raw"),
    Shape("drive-nbd-base", 1, "drive", base_format="raw", over_nbd=True),
    Shape("blockdev-nbd-base", 2, "blockdev", base_format="raw", over_nbd=True),
]


@dataclass(frozen=True)
class Shaped(Scene):
    """The disk `vda` of one shape, and an empty CD-ROM and a read-only disk beside it."""

    read_only: images.Chain
    server: NbdServer | None

    def take_away_what_is_below(self) -> None:
        if self.server:
            self.server.kill()
        self.chain.take_away()

    def assert_untouched(self) -> None:
        """No job, and the chain as it was made."""
        assert self.vm.jobs() == {}
        assert self.depth == len(self.chain.images) - 1


@pytest.fixture(params=SHAPES, ids=lambda shape: shape.id)
def scene(request: pytest.FixtureRequest, folder: Path, boot: Boot) -> Iterator[Shaped]:
    shape: Shape = request.param
    servers: list[NbdServer] = []
    with ExitStack() as stack:

        def serve(base: Path) -> str:
            servers.append(stack.enter_context(NbdServer(base, folder / "nbd")))
            return servers[0].address

        chain = images.chain(
            folder,
            layers=shape.layers,
            base_format=shape.base_format,
            relative=shape.relative,
            serve=serve if shape.over_nbd else None,
        )
        read_only = images.chain(folder, layers=1, prefix="ro-", seed=2)
        name = chain.top.name if shape.relative else chain.top
        if shape.style == "drive":
            words = disks.drive(name, id="drive0", qdev="vda")
        elif shape.style == "blockdev":
            words = disks.node(name, node_name="top", qdev="vda")
        else:
            names = ["top", *(f"below{number}" for number in range(1, shape.layers + 1))]
            words = disks.named_nodes(chain.images, names=names, qdev="vda")
        words += disks.drive(read_only.top, id="golden", qdev="vdb", read_only="on")
        words += disks.empty_cdrom()
        vm = boot(*words, cwd=folder if shape.relative else None)
        yield Shaped(vm, chain, read_only, servers[0] if servers else None)


def test_survives_a_kill_right_after_the_task(scene: Shaped) -> None:
    """When the task has returned, a SIGKILL loses nothing and the top needs no other image."""
    before = scene.vm.content("vda")
    assert images.differences(scene.chain.expected, before) == []

    result = scene.stream()
    scene.vm.kill()
    assert not result.failed, result
    scene.take_away_what_is_below()
    assert images.backing(scene.chain.top) is None
    assert images.differences(before, images.content(scene.chain.top)) == []


def test_check_run_and_second_run(scene: Shaped) -> None:
    """Check mode tells the change and makes none; the run makes it; a second run, checked or real, changes nothing."""
    vm = scene.vm
    arguments: dict[str, Any] = {"monitors": [vm.monitor], "disks": ["*"]}
    before = vm.content("vda")

    plan = product.module("block_stream", check=True, diff=True, **arguments)
    scene.assert_untouched()
    assert (plan.failed, plan["changed"]) == (False, True)
    assert scene.chain.base.name in str(plan["diff"]["before"]) or scene.server
    assert scene.chain.base.name not in str(plan["diff"]["after"])

    result = product.module("block_stream", diff=True, **arguments)
    assert (result.failed, result["changed"], result["finished"]) == (False, True, True), result
    assert [(disk["action"], disk["populated"]) for disk in result["disks"]] == [("started", True)]
    assert result["diff"] == plan["diff"]
    assert vm.inserted("vda")["backing_file_depth"] == 0
    assert vm.jobs() == {}
    assert not set(scene.chain.images[1:]) & vm.open_files()
    assert vm.inserted("golden")["backing_file_depth"] == 1

    for check in (True, False):
        again = product.module("block_stream", check=check, diff=True, **arguments)
        assert (again.failed, again["changed"], again["finished"]) == (False, False, True), again
        assert again["diff"]["before"] == again["diff"]["after"]
    scene.take_away_what_is_below()
    assert images.differences(before, vm.content("vda")) == []
