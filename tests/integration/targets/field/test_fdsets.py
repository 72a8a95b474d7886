# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Images that QEMU got as open files, `/dev/fdset/N`, as launchers such as Incus hand them over.

The name means nothing outside of this QEMU process: not to this host, and not to the VM's next start.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from lab import Scene, Vm, disks, images

from .conftest import assert_opens, assert_populated, assert_told, free_paths, needs_root

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Boot = Callable[..., Vm]

pytestmark = needs_root  # to see what QEMU has open


def boot_from_sets(boot: Boot, files: Sequence[Path]) -> Vm:
    """A VM whose disk `vda` is a chain of open files, the top first: node `n1` in set 1, and so on."""
    # One descriptor to a set: with one to read and one to write QEMU's own locks refuse the stream.
    opened = [os.open(file, os.O_RDONLY if place else os.O_RDWR) for place, file in enumerate(files)]
    try:
        words = [w for place, each in enumerate(opened, 1) for w in ("-add-fd", f"fd={each},set={place}")]
        for place in reversed(range(1, len(files) + 1)):
            file = {"driver": "file", "filename": f"/dev/fdset/{place}", "read-only": place > 1}
            backing = {"backing": f"n{place + 1}"} if place < len(files) else {}
            words += disks.blockdev("qcow2", f"n{place}", file=file, read_only=place > 1, **backing)
        return boot(*words, *disks.frontend("virtio-blk-pci", "vda", drive="n1"), descriptors=opened)
    finally:
        for each in opened:
            os.close(each)


@pytest.fixture
def top_only(folder: Path, boot: Boot) -> Scene:
    """Only the top is handed over; its header names the others."""
    chain = images.chain(folder, layers=2)
    return Scene(boot_from_sets(boot, chain.images[:1]), chain)


@pytest.fixture
def whole_chain(folder: Path, boot: Boot) -> Scene:
    """Every image is handed over."""
    chain = images.chain(folder, layers=2)
    return Scene(boot_from_sets(boot, chain.images), chain)


def test_what_is_told_of_a_top(top_only: Scene) -> None:
    """Its path is that of the file, with QEMU's own name beside it, and its file system is that of the file."""
    said = top_only.info()
    assert_told(top_only, said)
    assert said["space"]["free"] is not None
    assert (said["filename"], said["same_file"]) == ("/dev/fdset/1", True)
    assert said["chain"][0]["filename"] == "/dev/fdset/1"


def test_a_top_is_populated(top_only: Scene) -> None:
    """Named by its path; every byte is there, and what it needed is free."""
    result = top_only.stream(disks=[str(top_only.chain.top)])
    assert_populated(result)
    assert free_paths(result) == [str(image) for image in top_only.chain.images[1:]]
    top_only.assert_safe_after_kill()


def test_a_top_is_held_against_its_header(top_only: Scene) -> None:
    """QEMU's own name for a file leads to no header here; the descriptor does."""
    result = top_only.stream()
    assert_populated(result)
    assert not images.is_linked(top_only.chain.top)
    assert result["disks"][0].get("same_file") is True


def test_images_that_qemu_still_holds_are_not_free(whole_chain: Scene) -> None:
    """The set keeps the file open when the node is gone; the reason names the VM, and the path is that of the file."""
    result = whole_chain.stream()
    assert_populated(result)
    released = result["disks"][0]["released"]
    still_open = whole_chain.vm.open_files()
    assert [each["path"] for each in released] == [str(image) for image in whole_chain.chain.images[1:]]
    for each in released:
        assert (each["free"] is True) == (Path(each["path"]) not in still_open), each
    for each in released:
        if not each["free"]:
            assert f"pid {whole_chain.vm.pid}" in each["reason"]
    whole_chain.assert_safe_after_kill()


@pytest.mark.parametrize("base", ["n3", "/dev/fdset/3", "{path}"], ids=["node name", "QEMU's name", "path"])
def test_a_base_in_a_set(whole_chain: Scene, base: str) -> None:
    """The header gets a name that leads to the base, by whatever name it was meant; or nothing is begun."""
    vm, chain = whole_chain.vm, whole_chain.chain
    result = whole_chain.stream(base=base.format(path=chain.base))
    depth = whole_chain.depth
    vm.kill()
    named = images.backing(chain.top)
    assert named is not None
    assert "fdset" not in named
    assert_opens(chain)
    assert (result.failed, depth) in ((False, 1), (True, 2)), result
    if result.failed:
        assert "fdset" in result["msg"]
        assert "not in the backing chain" not in result["msg"]


def test_a_base_in_a_set_after_a_restart(whole_chain: Scene, boot: Boot) -> None:
    """The same VM started anew from the top's path alone, as its header says, and populated to the end."""
    whole_chain.stream(base="n3")
    whole_chain.vm.kill()
    again = Scene(boot(*disks.drive(whole_chain.chain.top, id="drive0", qdev="vda"), name="again"), whole_chain.chain)
    assert_populated(again.stream())
    again.assert_safe_after_kill()
