# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Relative names, names that QEMU and this host read differently, and several names of one file."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from lab import Scene, Vm, aliases, disks, images

from .conftest import assert_opens, assert_populated, assert_told, free_paths, needs_root

if TYPE_CHECKING:
    from collections.abc import Callable

    Boot = Callable[..., Vm]


# -- The name that a header gets ---------------------------------------------------------------------------------------


def link(folder: Path, *layers: tuple[str, str | None]) -> images.Chain:
    """A chain below `folder`, the base first: the place of each image, and the name by which it knows the one below."""
    size, model = 16 * images.MiB, bytearray(16 * images.MiB)
    made: list[Path] = []
    for layer, (place, name) in enumerate(layers):
        (folder / place).parent.mkdir(exist_ok=True, parents=True)
        writes = images.layer_writes(layer, size, seed=1)
        made.insert(0, images.create(folder / place, size, backing=name, writes=writes))
        for each in writes:
            model[each.offset : each.offset + each.size] = each.content
    return images.Chain(tuple(made), bytes(model))


RELATIVE = [
    pytest.param(
        [("pool/base.qcow2", None), ("pool/mid.qcow2", "base.qcow2"), ("pool/top.qcow2", "mid.qcow2")],
        "base.qcow2",
        id="one folder",
    ),
    pytest.param(
        [("golden/base.qcow2", None), ("pool/mid.qcow2", "../golden/base.qcow2"), ("pool/top.qcow2", "mid.qcow2")],
        "../golden/base.qcow2",
        id="another folder",
    ),
    pytest.param(
        [
            ("golden/base.qcow2", None),
            ("layers/deep/mid.qcow2", "../../golden/base.qcow2"),
            ("pool/top.qcow2", "../layers/deep/mid.qcow2"),
        ],
        "../golden/base.qcow2",
        id="from another folder than the layer's",
    ),
]


@pytest.mark.parametrize(("layers", "name"), RELATIVE)
@pytest.mark.parametrize("given", ["{folder}/pool/top.qcow2", "pool/top.qcow2"], ids=["absolute", "relative"])
def test_a_relative_name_stays_relative(
    folder: Path, boot: Boot, layers: list[tuple[str, str | None]], name: str, given: str
) -> None:
    """The base keeps a name relative to the top's folder: the chain opens where it is, and after it was moved."""
    chain = link(folder / "place", *layers)
    words = disks.drive(given.format(folder=folder / "place"), id="drive0", qdev="vda")
    disk = Scene(boot(*words, cwd=folder / "place"), chain)
    result = disk.stream(base=str(chain.base))
    disk.vm.kill()
    assert_opens(chain)
    (folder / "place").rename(folder / "moved")
    assert images.backing(folder / "moved" / "pool" / "top.qcow2") == name
    assert_opens(chain, top=folder / "moved" / "pool" / "top.qcow2")
    assert (result.failed, result["finished"]) == (False, True), result.get("msg")


def test_an_absolute_name_stays_absolute(folder: Path, boot: Boot) -> None:
    """What was not relative does not become so."""
    chain = images.chain(folder, layers=2)
    disk = Scene(boot(*disks.drive(chain.top, id="drive0", qdev="vda")), chain)
    result = disk.stream(base=str(chain.base))
    disk.vm.kill()
    assert (result.failed, images.backing(chain.top)) == (False, str(chain.base)), result
    assert_opens(chain)


# -- Relative names on QEMU's command line -----------------------------------------------------------------------------


@pytest.fixture(params=["in the foreground", "daemonize"])
def relative(request: pytest.FixtureRequest, folder: Path, boot: Boot) -> Scene:
    """`vda` by relative names. With -daemonize the working directory is / once the images are open."""
    if request.param == "daemonize" and os.geteuid() != 0:
        pytest.skip("only root can see what QEMU has open")
    chain = images.chain(folder, layers=2, relative=True)
    more = ["-daemonize"] if request.param == "daemonize" else []
    return Scene(boot(*disks.drive("top.qcow2", id="drive0", qdev="vda"), *more, cwd=folder), chain)


def test_paths_are_absolute(relative: Scene) -> None:
    """Every path is absolute and leads to the file; QEMU's own spelling is beside it."""
    said = relative.info()
    assert_told(relative, said)
    assert said["space"]["free"] is not None
    assert (said["filename"], said["same_file"]) == ("top.qcow2", True)
    assert [image["filename"] for image in said["chain"]] == ["top.qcow2", "mid1.qcow2", "base.qcow2"]


def test_a_relative_disk_is_populated_by_its_path(relative: Scene) -> None:
    """The absolute path names the disk, every byte is there, and what it needed is free by its absolute path."""
    result = relative.stream(disks=[str(relative.chain.top)])
    assert_populated(result)
    assert result["disks"][0]["path"] == str(relative.chain.top)
    assert free_paths(result) == [str(image) for image in relative.chain.images[1:]]
    relative.assert_safe_after_kill()


def test_a_relative_chain_has_a_base_by_its_path(relative: Scene) -> None:
    """`base` by its absolute path; the image between is free by its own."""
    result = relative.stream(base=str(relative.chain.base))
    assert (result.failed, result["finished"]) == (False, True), result.get("msg")
    assert free_paths(result) == [str(relative.chain.images[1])]
    relative.vm.kill()
    assert_opens(relative.chain)


# -- Several names of one file -----------------------------------------------------------------------------------------


def renamed(image: Path, _stack: contextlib.ExitStack) -> Path:
    return image.rename(image.with_name("renamed"))


@needs_root
@pytest.mark.parametrize("name", [aliases.hard_link, aliases.symbolic_link, aliases.by_bind_mount, renamed])
@pytest.mark.parametrize("what", ["disk", "base"])
def test_any_name_of_a_file_names_it(
    folder: Path, boot: Boot, name: Callable[[Path, contextlib.ExitStack], Path], what: str
) -> None:
    """A disk and a base are found by another name of the very file that QEMU has open."""
    chain = images.chain(folder, layers=2)
    disk = Scene(boot(*disks.drive(chain.top, id="drive0", qdev="vda")), chain)
    with contextlib.ExitStack() as stack:
        other = str(name(chain.top if what == "disk" else chain.base, stack))
        result = disk.stream(disks=[other]) if what == "disk" else disk.stream(base=other)
    assert (result.failed, result["finished"]) == (False, True), result.get("msg")
    assert disk.depth == (0 if what == "disk" else 1)
