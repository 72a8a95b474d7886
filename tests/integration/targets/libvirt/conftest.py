# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""A real libvirtd of our own, and guests whose disks the modules populate through it."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from lab import Scene, images, lab_folder, product, wait_until
from lab.libvirt import Guest, Libvirt, SystemLibvirt, distribution_python, what_is_missing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(scope="session", autouse=True)
def python() -> Iterator[str]:
    """Modules run in the distribution's own Python, which has libvirt's bindings, and no qemu.qmp."""
    found = distribution_python()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAB_TARGET_PYTHON", found)
        yield found


@pytest.fixture(scope="session")
def libvirt() -> Iterator[Libvirt]:
    """One daemon for all tests, for its first start takes long: a plain user's, or root's of LAB_LIBVIRT_TREE."""
    missing = what_is_missing()
    if missing is not None:
        pytest.skip(missing)
    tree = os.environ.get("LAB_LIBVIRT_TREE")
    with lab_folder() as path:
        path.chmod(0o755)
        daemon = SystemLibvirt(path / "libvirt", Path(tree)) if tree else Libvirt(path / "libvirt")
        with daemon.running():
            yield daemon


@pytest.fixture
def folder(folder: Path) -> Path:
    """QEMU runs as another user than who makes the images."""
    folder.chmod(0o755)
    return folder


@dataclass(frozen=True)
class Domain(Scene):
    """A guest of libvirt with the disk `vda`, and the modules pointed at it."""

    vm: Guest  # type: ignore[assignment]  # one that libvirt has started

    @property
    def options(self) -> dict[str, Any]:
        """How the modules find the guest."""
        return {"domains": [self.vm.name], "uri": self.vm.libvirt.address}

    def stream(self, **options: Any) -> product.Result:
        """Run block_stream on the disk."""
        return product.module("block_stream", **{**self.options, "disks": ["vda"], **options})

    def begin(self, **options: Any) -> product.Running:
        """A task that waits for a stream of which QEMU has copied one step, and copies hardly more by itself."""
        task = product.Running("block_stream", {**self.options, "disks": ["vda"], "speed": "1", **options})
        wait_until(lambda: any(job["offset"] for job in self.vm.jobs().values()), "the stream copies")
        return task

    def info(self) -> dict[str, Any]:
        """What block_stream_info says of the disk."""
        result = product.module("block_stream_info", **self.options, disks=["vda"])
        assert not result.failed, result
        (disk,) = result["disks"]
        return dict(disk)

    def virsh(self, command: str, *words: str) -> str:
        """A command of virsh on the guest."""
        return self.vm.libvirt.virsh(command, self.vm.name, *words)

    def pull(self, *words: str) -> None:
        """libvirt's own pull of the disk, so slow that it copies one step, and hardly more."""
        self.virsh("blockpull", "vda", "--bandwidth", "1", "--bytes", *words)
        wait_until(lambda: any(job["offset"] for job in self.vm.jobs().values()), "libvirt's pull copies")

    @property
    def depth(self) -> int:
        """How many images are below the top, for QEMU and for libvirt, which agree."""
        depth = len(self.vm.chain("vda")) - 1
        assert len(self.vm.view("vda")) - 1 == depth, (self.vm.view("vda"), self.vm.chain("vda"))
        return depth


@pytest.fixture
def define(libvirt: Libvirt, folder: Path) -> Iterator[Callable[..., Domain]]:
    """Start guests that end with the test: `define(name, layers=...)`."""
    with ExitStack() as stack:

        def start(name: str = "web01", *, persistent: bool = False, **options: Any) -> Domain:
            chain = images.chain(folder, prefix=f"{name}-", **{"layers": 2, **options})
            return Domain(stack.enter_context(libvirt.domain(name, [chain.top], persistent=persistent)), chain)

        yield start


@pytest.fixture
def domain(define: Callable[..., Domain]) -> Domain:
    """`web01`, with `vda` over two layers."""
    return define()
