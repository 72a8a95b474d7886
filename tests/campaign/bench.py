# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""The files and processes of a round, and what they come to."""

from __future__ import annotations

import contextlib
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab import NbdServer, SlowLink, Vm, disks, images, product, thin
from lab.process import run

from .guest import Guest, monitor_words
from .model import Model

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lab.vm import Judged

    from .rounds import Round

END_SECONDS = 120
FAR_SECONDS = 0.005
DEVICE_SIZE = 64 * images.MiB


@dataclass
class Report:
    """What came of a round. `lost` and `wrong` must be empty."""

    round: Round
    seconds: float = 0
    writes: int = 0
    first: str = "killed"
    lost: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    @property
    def line(self) -> str:
        each = self.round
        tried = f"{each.victim} at {each.moment} + {each.delay * 1000:.1f} ms"
        base = f"{each.base}, {each.read_ahead} ahead" if each.base == "nbd" else f"{each.base} base"
        scene = f"{each.layers} below, {each.style}, {base}, speed {each.speed}"
        judged = f"lost {len(self.lost)}, wrong {len(self.wrong)}"
        line = f"{each.number:5} {tried:42} {scene:48} {self.first:8} {self.writes:5} writes {self.seconds:5.1f} s"
        return "\n".join([f"{line}  {judged}", *(f"        {words}" for words in [*self.lost[:5], *self.wrong])])


class Bench:
    """The files and processes of a round."""

    def __init__(self, round: Round, folder: Path, stack: contextlib.ExitStack) -> None:
        self._round, self._folder, self._stack, self._boots = round, folder, stack, 0
        serve = self._serve if round.base == "nbd" else None
        base_format = "qcow2" if round.base == "qcow2" else "raw"
        self.chain = images.chain(
            folder, layers=round.layers, base_format=base_format, serve=serve, seed=round.seed * 1000 + round.number
        )
        self.storage: thin.Thin | None = None
        if round.storage:
            self.storage = stack.enter_context(thin.device(folder, DEVICE_SIZE))
            self.chain = images.Chain((self._top_on(self.storage), *self.chain.images[1:]), self.chain.expected)
            self.storage.leave(round.room)
        self.model = Model(self.chain.expected)
        self.report = Report(round)

    def _top_on(self, storage: thin.Thin) -> Path:
        """The top, on the device itself or in a file on it."""
        top = self.chain.top
        if self._round.storage == "device":
            run(["dd", f"if={top}", f"of={storage.device}", "bs=64k", "conv=fsync", "status=none"])
            return Path(storage.device)
        mounted = self._stack.enter_context(thin.ext4(storage, self._folder / "ext4"))
        moved = Path(shutil.copy(top, mounted.path))
        mounted.sync()
        mounted.trim()
        return moved

    def repair_storage(self) -> None:
        """What an administrator does before the VM starts anew.

        An error that nobody was told yet is told to whoever flushes next, even if all is well by then: not to QEMU. And
        ext4 (Linux 6.18) takes a cached page that it could not write for one that has its place: what is written to it
        later is lost, and no flush fails. That would be the guest's loss, and the round is about the stream's.
        """
        if self.storage is None:
            return
        self.storage.make_room()
        with contextlib.suppress(OSError), self.chain.top.open("rb") as top:
            os.fsync(top.fileno())
        self.forget_cache()

    def forget_cache(self) -> None:
        """What is judged is what the storage has."""
        if self.storage is not None:
            thin.forget_cache(self.chain.top)

    def _serve(self, image: Path) -> str:
        server = self._stack.enter_context(NbdServer(image, self._folder / "base.nbd"))
        if not self._is_far:
            return server.address
        return self._stack.enter_context(SlowLink(self._folder / "far.nbd", server.path, delay=FAR_SECONDS)).address

    def boot(self, *words: str) -> Vm:
        self._boots += 1
        own = (*self._disk(), *monitor_words(self._guest_path), *words)
        return self._stack.enter_context(Vm(self._folder, *own, name=f"vm{self._boots}"))

    def _disk(self) -> list[str]:
        top = self.chain.top
        if self._round.style == "named" and self._round.base != "nbd":
            # Whoever names every node takes the chain from the header, as it is now.
            files = self.chain.images if images.backing(top) else (top,)
            return disks.named_nodes(files, names=[f"n{number}" for number in range(len(files))], qdev="vda")
        if self._round.style == "drive":
            return disks.drive(top, id="drive0", qdev="vda")
        return disks.node(top, node_name="top", qdev="vda")

    @property
    def _guest_path(self) -> Path:
        return self._folder / f"vm{self._boots}.guest"

    @contextlib.contextmanager
    def guest(self, vm: Judged) -> Iterator[Guest]:
        seed = f"{self._round.seed}/{self._round.number}/{self._boots}"
        qdev = vm.disk("vda")["qdev"]
        with Guest(self._guest_path, qdev, self.model, seed=seed, flush_every=self._round.flush_every) as guest:
            yield guest
        self.report.writes += guest.writes

    def options(self, vm: Any) -> dict[str, Any]:
        """How the modules find the VM."""
        return {"monitors": [vm.monitor]}

    def second_run(self, vm: Judged) -> None:
        """The same task again: it must succeed, whatever the first one left."""
        # A module whose controller was killed goes on and holds the monitor until its slice is over.
        arguments = {**self.options(vm), **self.ahead, "disks": ["vda"], "speed": "0", "connect_timeout": 60}
        result = product.module("block_stream", timeout=END_SECONDS, **arguments)
        if left := self._left_of_reading_ahead(vm):
            self.report.wrong.append(f"after the second run QEMU has {left}")
        if result.failed or not result["finished"]:
            self.report.wrong.append(f"the second run did not finish: {result.get('msg')}")

    @property
    def ahead(self) -> dict[str, int]:
        """The option for reading ahead."""
        return {"read_ahead": self._round.read_ahead} if self._is_far else {}

    @property
    def _is_far(self) -> bool:
        """Whether the base is behind a link with a delay, and is read ahead."""
        return self._round.base == "nbd" and self._round.read_ahead > 0

    def _left_of_reading_ahead(self, vm: Judged) -> list[str]:
        """What no run may leave in QEMU."""
        exports = [export["id"] for export in vm.command("query-block-exports")]
        nodes = [node["name"] for node in vm.command("x-debug-query-block-graph")["nodes"]]
        return [name for name in (*exports, *nodes) if name.startswith("populate-ahead")]

    def judge_after_a_crash(self, when: str) -> None:
        self.forget_cache()
        found = images.content(self.chain.top)
        self.report.lost += [f"{when}: {words}" for words in self.model.losses(found, crashed=True)]
        self.model.settle(found)
