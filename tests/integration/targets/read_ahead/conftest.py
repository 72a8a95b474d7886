# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Disks whose base is behind a link that takes its time, and a guest that writes to them."""

from __future__ import annotations

import contextlib
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from campaign.guest import Guest, monitor_words
from campaign.model import Model
from lab import NbdServer, Scene, SlowLink, disks, images, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from lab import Vm, product

# Before this version QEMU aborts when an export ends while there are iothreads.
SAFE_WITH_IOTHREADS = (10, 0)
# And when it migrates while it is to copy something.
SAFE_TO_MIGRATE = (10, 0)


@dataclass(frozen=True)
class Far(Scene):
    """A scene whose base is behind a slow link, with a guest: all is judged against the model of what it wrote."""

    link: SlowLink
    guest_path: Path
    model: Model

    @contextlib.contextmanager
    def guest(self) -> Iterator[Guest]:
        """Write all the while, everywhere."""
        with Guest(self.guest_path, self.vm.disk("vda")["qdev"], self.model, seed=self.vm.name) as guest:
            yield guest
        assert guest.writes > 0

    def read_ahead(self, **options: Any) -> product.Result:
        """Populate the disk, and read ahead."""
        return self.stream(**{"read_ahead": 8, **options})

    @property
    def exports(self) -> list[str]:
        """What QEMU serves now."""
        return [export["id"] for export in self.vm.command("query-block-exports")]

    @property
    def was_read_ahead(self) -> bool:
        """Whether QEMU has told of the end of an export of ours."""
        self.vm.command("query-status")  # all events that there are come before its answer
        ended = [event["data"]["id"] for event in self.vm.judge.events if event["event"] == "BLOCK_EXPORT_DELETED"]
        return any(name.startswith("populate-ahead") for name in ended)

    def assert_clean(self) -> None:
        """QEMU serves nothing, and has no NBD server any more: it takes another one."""
        assert self.exports == []
        self.vm.command("nbd-server-start", addr={"type": "unix", "data": {"path": str(self.vm.folder / "free.nbd")}})
        self.vm.command("nbd-server-stop")

    def assert_populated(self, result: product.Result) -> None:
        """The task says so, it was read ahead, nothing is left in QEMU, and a kill loses nothing of the content."""
        assert (result.failed, result["finished"], result.get("warnings")) == (False, True, None), result
        assert self.was_read_ahead
        self.assert_clean()
        self.assert_nothing_is_lost()

    def assert_nothing_is_lost(self) -> None:
        """QEMU killed, everything below the top taken away: every byte that the guest may count on is there."""
        self.vm.kill()
        self.chain.take_away()
        assert images.backing(self.chain.top) is None
        assert self.model.losses(images.content(self.chain.top), crashed=True) == []

    def wait_until_read_ahead(self) -> None:
        """More is on its way than a job asks for at a time."""
        wait_until(lambda: self.exports and self.link.answered > 2 * images.MiB, "it is read ahead")

    def is_still(self, seconds: float = 1.0) -> bool:
        """Whether nothing comes over the link, once what was asked for has come."""
        seen = -1
        while seen != self.link.answered:
            seen = self.link.answered
            time.sleep(0.4)  # not to make time pass: an answer on its way takes as long
        time.sleep(seconds)  # in which something could come
        return seen == self.link.answered


@pytest.fixture
def far(folder: Path, boot: Callable[..., Vm]) -> Iterator[Callable[..., Far]]:
    """Boot a VM over a chain whose base is far: `far(layers=..., delay=..., words=...)`."""
    with ExitStack() as stack:

        def serve(image: Path, link: list[SlowLink], delay: float, bandwidth: int) -> str:
            server = stack.enter_context(NbdServer(image, folder / "base.nbd"))
            path = folder / "slow.nbd"
            link.append(stack.enter_context(SlowLink(path, server.path, delay=delay, bandwidth=bandwidth)))
            return link[0].address

        def make(
            *words: str,
            delay: float = 0.003,
            bandwidth: int = 0,
            dense: int = 0,
            **options: Any,
        ) -> Far:
            """`dense` bytes of data are in the base beside what is in every chain."""
            link: list[SlowLink] = []
            options = {"base_format": "raw", **options}
            if dense:
                chain = _dense(folder, dense, lambda image: serve(image, link, delay, bandwidth))
            else:
                chain = images.chain(folder, serve=lambda image: serve(image, link, delay, bandwidth), **options)
            path = folder / "vm0.guest"
            vm = boot(
                *disks.drive(chain.top, id="drive0", qdev="vda"),
                *monitor_words(path),
                *words,
                name="vm0",
            )
            return Far(vm, chain, link[0], path, Model(chain.expected))

        yield make


def _dense(folder: Path, size: int, serve: Callable[[Path], str]) -> images.Chain:
    """A thin top over a raw base full of data."""
    content = images.Write(0, size, 7)
    base = images.create(folder / "base.raw", size, format="raw", writes=[content])
    top = images.create(folder / "top.qcow2", size, backing=serve(base), backing_format="raw")
    return images.Chain((top, base), content.content)
