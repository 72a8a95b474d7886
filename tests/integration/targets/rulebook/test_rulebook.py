# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""The rulebook, run by ansible-rulebook itself: the disks and the jobs are the judges of what its rules do."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from lab import Scene, Vm, disks, images, product, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [
    pytest.mark.skipif(shutil.which("java") is None, reason="ansible-rulebook needs Java"),
    pytest.mark.skipif(
        importlib.util.find_spec("ansible_rulebook") is None, reason="ansible-rulebook is not installed"
    ),
]


class Rulebook:
    """ansible-rulebook with the rulebook of the collection, and what it printed."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "rulebook.log"
        host = {"ansible_connection": "local", "ansible_python_interpreter": product.target_python()}
        (folder / "hosts.yml").write_text(json.dumps({"all": {"hosts": {"localhost": host}}}))
        (folder / "vars.yml").write_text(json.dumps({"events_monitors": [f"{folder}/*.events"]}))
        words = [f"--inventory={folder / 'hosts.yml'}", f"--vars={folder / 'vars.yml'}"]
        command = [sys.executable, "-m", "ansible_rulebook", "--rulebook=virtops.qmp.streams", *words]
        # It starts ansible-playbook by its name.
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        with self.log.open("w") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env=product.environment(PATH=path),
            )

    def wait_until(self, look: Callable[[], bool], what: str) -> None:
        def seen() -> bool:
            assert self._process.poll() is None, self.log.read_text()
            return look()

        try:
            wait_until(seen, what, timeout=60)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log.read_text()}") from None

    def wait_for_words(self, words: str) -> None:
        self.wait_until(lambda: words in self.log.read_text(), words)

    def stop(self) -> None:
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(30)
        finally:
            self._process.kill()
            self._process.wait()


@pytest.fixture
def rulebook(folder: Path) -> Iterator[Callable[[], Rulebook]]:
    started: list[Rulebook] = []

    def start() -> Rulebook:
        started.append(Rulebook(folder))
        return started[-1]

    yield start
    for each in started:
        each.stop()


def events_of(folder: Path, name: str) -> list[str]:
    return ["-qmp", f"unix:{folder / name}.events,server=on,wait=off"]


def test_what_its_rules_do(folder: Path, boot: Callable[..., Vm], rulebook: Callable[[], Rulebook]) -> None:
    """What waits to be finalized is finished, and its images are told as free; a failure is told, and all else stopped.

    One test, for ansible-rulebook takes long to start.
    """
    chain = images.chain(folder, layers=2)
    scene = Scene(boot(*disks.drive(chain.top, id="drive0", qdev="vda"), *events_of(folder, "vm0")), chain)
    failing, slow = images.chain(folder, layers=1, prefix="f-"), images.chain(folder, layers=1, prefix="s-")
    words = disks.failing_reads(failing.base, node_name="base", sector=images.last_data_sector(failing.base))
    words += disks.blockdev("qcow2", "top", file={"driver": "file", "filename": str(failing.top)}, backing="base")
    words += disks.frontend("virtio-blk-pci", "vda", drive="top")
    words += disks.drive(slow.top, id="drive1", qdev="vdb")
    other = boot(*words, *events_of(folder, "vm1"), name="vm1")

    scene.start_pending()
    other.command("block-stream", job_id="slow", device=other.inserted("vdb")["node-name"], speed=1)
    running = rulebook()
    running.wait_until(lambda: scene.depth == 0, "the stream that waited is finished")
    # One source listens to both.
    other.command("block-stream", job_id="fails", device="top")
    running.wait_for_words(f"Free: {chain.images[1]}, {chain.images[2]}")
    scene.assert_safe_after_kill()

    running.wait_for_words("vm1: job fails: failed: Input/output error")
    running.wait_until(lambda: other.jobs() == {}, "what is left of the VM whose storage fails is stopped")
    assert len(other.chain("vdb")) == 2
