# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Explicitly named nodes: deleted top down when only this chain used them, else left and named."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from lab import Proxy, Scene, Vm, disks, host, images, product

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NAMES = ("top", "upper", "lower", "golden")


@pytest.fixture
def named(folder: Path, boot: Callable[..., Vm]) -> Scene:
    """`vda` over three images whose every node is named."""
    chain = images.chain(folder, layers=3)
    return Scene(boot(*disks.named_nodes(chain.images, names=NAMES, qdev="vda")), chain)


def nodes(vm: Vm) -> set[str]:
    """The named nodes that there are; this query is safe while no job is concluded."""
    found = {node["node-name"] for node in vm.command("query-named-block-nodes", flat=True)}
    return {name for name in found if not name.startswith("#")}


def warnings(result: product.Result) -> str:
    """All warnings as one text; ansible-core 2.19 has an object for each, older ones a string.

    That a witness stands before the monitor, and hides QEMU, is always told.
    """
    told = [str(warning) for warning in result.get("warnings", [])]
    return "\n".join(warning for warning in told if "which is not QEMU by its name" not in warning)


def test_nodes_are_deleted_top_down(named: Scene, folder: Path) -> None:
    """Format node, then file node, from the upper image to the lowest: the one order that QEMU takes without error."""
    with Proxy(named.vm.monitor, folder / "witness") as witness:
        result = product.module("block_stream", monitors=[witness.path], disks=["vda"])
    assert (result.failed, warnings(result)) == (False, ""), result
    deleted = [message["arguments"]["node-name"] for message in witness.messages if is_deletion(message)]
    assert deleted == ["upper", "upper-file", "lower", "lower-file", "golden", "golden-file"]
    assert "error blockdev-del" not in witness.said
    assert nodes(named.vm) == {"top", "top-file"}
    assert not set(named.chain.images[1:]) & named.vm.open_files()
    named.assert_safe_after_kill()


def is_deletion(message: dict[str, object]) -> bool:
    return message.get("execute") == "blockdev-del"


def test_with_a_base_only_what_is_above_it_goes(named: Scene) -> None:
    """The nodes of the base and of what is below it are in use and stay, without a warning."""
    result = named.stream(base="lower")
    assert (result.failed, result["changed"], warnings(result)) == (False, True, ""), result
    assert nodes(named.vm) == {f"{name}{end}" for name in ("top", "lower", "golden") for end in ("", "-file")}
    assert named.chain.images[1] not in named.vm.open_files()


def test_nodes_that_are_to_stay_stay(named: Scene) -> None:
    """`release: false` deletes nothing; the images are told as left, open, and not free."""
    before = nodes(named.vm)
    result = named.stream(release=False)
    assert (result.failed, result["finished"], named.depth) == (False, True, 0), result
    assert nodes(named.vm) == before
    assert set(named.chain.images) <= named.vm.open_files()
    assert [(each["path"], each["free"], each["pids"]) for each in result["disks"][0]["released"]] == [
        (str(image), False, host.told_pids(named.vm.pid)) for image in named.chain.images[1:]
    ]


def test_a_node_that_an_export_uses_stays_and_is_named(named: Scene, folder: Path) -> None:
    """A node that somebody exports stays with all below it, in a warning; what is above it goes; nobody is cut off."""
    named.vm.command("nbd-server-start", addr={"type": "unix", "data": {"path": str(folder / "nbd")}})
    named.vm.command("block-export-add", type="nbd", id="backup", node_name="lower", name="backup")
    before = images.content(f"nbd+unix:///backup?socket={folder}/nbd", "raw")
    result = named.stream()
    assert (result.failed, result["finished"]) == (False, True), result
    assert nodes(named.vm) == {f"{name}{end}" for name in ("top", "lower", "golden") for end in ("", "-file")}
    for word in ("vda", "lower", "golden"):
        assert word in warnings(result)
    assert "upper" not in warnings(result)
    assert images.content(f"nbd+unix:///backup?socket={folder}/nbd", "raw") == before


def test_a_base_of_two_disks_stays_until_the_second_is_done(folder: Path, boot: Callable[..., Vm]) -> None:
    """The node that another disk's chain needs stays and is named with who uses it; the other disk's run deletes it."""
    base = images.chain(folder, layers=0).base
    tops = [images.create(folder / f"{letter}.qcow2", backing=base) for letter in "ab"]
    words = disks.named_nodes([base], names=["golden"], device=None)
    for letter, top in zip("ab", tops, strict=True):
        inner = {"driver": "file", "filename": str(top)}
        words += disks.blockdev("qcow2", f"top-{letter}", file=inner, backing="golden")
        words += disks.frontend("virtio-blk-pci", f"vd{letter}", drive=f"top-{letter}")
    vm = boot(*words)
    first = product.module("block_stream", monitors=[vm.monitor], disks=["vda"])
    assert (first.failed, first["finished"]) == (False, True), first
    assert {"golden", "golden-file"} <= nodes(vm)
    for word in ("golden", "top-b"):
        assert word in warnings(first)
    (left,) = first["disks"][0]["released"]
    assert (left["free"], left["pids"]) == (False, host.told_pids(vm.pid))

    second = product.module("block_stream", monitors=[vm.monitor], disks=["vdb"])
    assert (second.failed, warnings(second)) == (False, ""), second
    assert nodes(vm) == {"top-a", "top-b"}
    assert base not in vm.open_files()
    (left,) = second["disks"][0]["released"]
    assert (left["path"], left["pids"]) == (str(base), host.told_pids())
    assert left["free"] == (left["reason"] is None) == (left["pids"] is not None)


def test_a_stopped_stream_releases_nothing(named: Scene) -> None:
    """Where the chain is still needed, no node is touched."""
    before = nodes(named.vm)
    for options in ({"state": "aborted"}, {"wait_timeout": 0, "on_timeout": "stop"}):
        named.start()
        result = named.stream(**options)
        assert (result.failed, result["disks"][0]["released"], nodes(named.vm)) == (False, [], before), result
