# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""The parts that look at a QEMU from outside, called by the tests as the modules call them."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from lab import images, product

sys.path.insert(0, str(product.collections_path()))

from ansible_collections.virtops.qmp.plugins.module_utils._decide._bind import bind
from ansible_collections.virtops.qmp.plugins.module_utils._decide._copied import left_below
from ansible_collections.virtops.qmp.plugins.module_utils._model._disk import plain_path
from ansible_collections.virtops.qmp.plugins.module_utils._model._map import Layer, MapTotals, NoMap
from ansible_collections.virtops.qmp.plugins.module_utils._reach import _map
from ansible_collections.virtops.qmp.plugins.module_utils._reach._descriptors import survey
from ansible_collections.virtops.qmp.plugins.module_utils._reach._map import User

if TYPE_CHECKING:
    from pathlib import Path

    from ansible_collections.virtops.qmp.plugins.module_utils._model._files import Bound
    from lab import Vm

__all__ = ["Disk", "NoMap", "User"]


@dataclass(frozen=True)
class Disk:
    """The disk `vda` of a running VM."""

    vm: Vm

    @property
    def layers(self) -> list[dict[str, Any]]:
        """What QEMU says of each image, the top first."""
        image, found = self.vm.inserted("vda").get("image"), []
        while image is not None:
            found.append(image)
            image = image.get("backing-image")
        return found

    def bound(self) -> list[Bound]:
        """The file that is behind each image; the top must be open for writing."""
        names = [plain_path(layer["filename"]) for layer in self.layers]
        fdsets = {each["fdset-id"]: [fd["fd"] for fd in each["fds"]] for each in self.vm.command("query-fdsets")}
        found = bind([names], survey(self.vm.pid, names, fdsets), written=names[:1])
        return [found[name] for name in names]

    def map(self, base_depth: int | None = None, user: User | None = None, data_file: str = "") -> MapTotals | NoMap:
        """Where the data lies; ``data_file`` is the name of the top's external data file."""
        chain = [
            Layer(layer["format"], layer["filename"], layer["virtual-size"], bound)
            for layer, bound in zip(self.layers, self.bound(), strict=False)
        ]
        if data_file:
            found = bind([[data_file]], survey(self.vm.pid, [data_file], {}))
            chain[0] = chain[0]._replace(data_file=found[data_file])

        def ask(most_images: int) -> MapTotals | NoMap:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(_map, "_MOST_IMAGES", most_images)
                asked = _map.read_map(
                    self.vm.pid, chain, base_depth=base_depth, user=user, seconds=60, program=images.qemu_img()
                )
                return asyncio.run(asked)

        whole = ask(most_images=100)
        # A long chain is asked for in pieces, to the same end.
        assert ask(most_images=1) == whole
        return whole

    def left(self, base_depth: int | None = None, **options: Any) -> int:
        """How many bytes are left below, as the map tells; it must tell."""
        found = self.map(base_depth, **options)
        assert isinstance(found, MapTotals), found
        return left_below(found, base_depth)

    def flush(self) -> None:
        assert self.vm.hmp(f'qemu-io {self.vm.inserted("vda")["node-name"]} "flush"') == ""

    def start(self, speed: int = 0, **options: Any) -> None:
        node = self.vm.inserted("vda")["node-name"]
        self.vm.command("block-stream", job_id="job", device=node, auto_finalize=False, speed=speed, **options)

    def stream_to_pending(self, **options: Any) -> None:
        self.start(**options)
        self.vm.wait_event("BLOCK_JOB_PENDING", id="job")

    def finalize(self) -> None:
        self.vm.command("job-finalize", id="job")
        self.vm.wait_event("BLOCK_JOB_COMPLETED", device="job")


def identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino
