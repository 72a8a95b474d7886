# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""The same file at the other end of a command, and nothing left there when the source ends, however it ends."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from lab import LabError, Listener, Monitor, Scene, kill, product, wait_until
from lab.process import run, start

from .conftest import ready, stream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Listen = Callable[..., Listener]

SSHD = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/usr/bin")


def through_a_shell() -> dict[str, object]:
    return {"via": ["sh", "-c"], "python": product.target_python(), "host": "hv1"}


@pytest.fixture
def sshd(folder: Path) -> Iterator[dict[str, object]]:
    """A real sshd on the loopback, with keys of its own; the options that lead through it."""
    if SSHD is None or os.geteuid() != 0:
        pytest.skip("openssh-server is not installed, or this is not root")
    folder.chmod(0o755)
    for name in ("host", "user"):
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name])
    port = _free_port()
    settings = {
        "ListenAddress": f"127.0.0.1:{port}",
        "HostKey": folder / "host",
        "AuthorizedKeysFile": folder / "user.pub",
        "PidFile": "none",
        "UsePAM": "no",
        "StrictModes": "no",
        "PermitRootLogin": "prohibit-password",
    }
    (folder / "sshd_config").write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
    insisted = Path("/run/sshd")  # sshd does, on this folder
    is_made = not insisted.exists()
    insisted.mkdir(mode=0o755, exist_ok=True)
    daemon = start([SSHD, "-D", "-e", "-f", folder / "sshd_config"], folder / "sshd.log")
    words = ["ssh", "-F", "none", "-oBatchMode=yes", "-oIdentitiesOnly=yes", "-oStrictHostKeyChecking=no"]
    words += [f"-oUserKnownHostsFile={folder}/known", f"-i{folder}/user", f"-p{port}", "root@127.0.0.1"]
    try:
        wait_until(lambda: _succeeds([*words, "true"]), "sshd lets us in")
        yield {"via": words, "python": product.target_python(), "host": "hv1"}
    finally:
        kill(daemon.pid)
        daemon.wait()
        if is_made:
            insisted.rmdir()


def _free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


def _succeeds(words: list[str]) -> bool:
    try:
        run(words)
    except (LabError, subprocess.TimeoutExpired):
        return False
    return True


def other_ends(scene: Scene) -> list[int]:
    """The processes that hold the VM's monitor for events, beside QEMU."""
    listing = run(["ss", "-xpnH"])
    path = str(scene.vm.folder / "vm0.events")
    peers = {line.split()[7] for line in listing.splitlines() if line.split()[4] == path and line.split()[1] == "ESTAB"}
    found = []
    for line in listing.splitlines():
        if line.split()[5] in peers and "pid=" in line:
            found.append(int(line.split("pid=")[1].split(",")[0]))
    return found


def assert_hears(listener: Listener, scene: Scene) -> None:
    ready(listener, scene)
    (other,) = other_ends(scene)
    assert other != listener.pid
    stream(scene.vm)
    done = listener.wait("completed", job="j1")
    assert (done["vm"], done["host"], done["meta"]) == ("vm0", "hv1", {"hosts": ["hv1"]})


def assert_nothing_left(scene: Scene, pids: list[int]) -> None:
    def is_gone() -> bool:
        return not any(Path(f"/proc/{pid}").exists() for pid in pids)

    wait_until(is_gone, "the other end is gone")
    Monitor(scene.vm.folder / "vm0.events").close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_through_a_shell(listen: Listen, scene: Scene, number: signal.Signals) -> None:
    """It hears what is there, and leaves nothing, also when it is killed."""
    listener = listen(**through_a_shell())
    assert_hears(listener, scene)
    pids = other_ends(scene)
    listener.kill(number)
    assert_nothing_left(scene, pids)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=lambda number: number.name)
def test_through_ssh(listen: Listen, scene: Scene, sshd: dict[str, object], number: signal.Signals) -> None:
    """The same over a connection, to a host on which nothing is installed for it."""
    listener = listen(**sshd)
    assert_hears(listener, scene)
    pids = other_ends(scene)
    listener.kill(number)
    assert_nothing_left(scene, pids)


def test_what_ends_while_the_connection_is_down(listen: Listen, scene: Scene) -> None:
    """The loss is told, and after it what became of a stream that ended meanwhile."""
    listener = ready(listen(**through_a_shell()), scene)
    stream(scene.vm, speed=1)
    listener.wait("started", job="j1")
    kill(*other_ends(scene))
    lost = listener.wait("monitor_lost")
    assert (lost["monitor"], lost["jobs"]) == (None, ["j1"])
    scene.vm.hasten()
    scene.vm.wait_event("BLOCK_JOB_COMPLETED", device="j1")
    listener.wait("monitor_back")
    done = listener.wait("completed", job="j1")
    assert done["left_chain"] == [str(image) for image in scene.chain.images[1:]]


@pytest.mark.usefixtures("scene")
def test_a_host_that_cannot_be_reached(listen: Listen) -> None:
    """It is told in the words of the command."""
    listener = listen(via=["sh", "-c", "echo Permission denied >&2; exit 255"])
    assert "Permission denied" in listener.wait("monitor_lost")["error"]


@pytest.mark.usefixtures("scene")
def test_a_python_without_qemu_qmp(listen: Listen) -> None:
    """It is told what is missing, and where."""
    listener = listen(**{**through_a_shell(), "python": f"{sys.executable} -S"})
    assert "qemu.qmp is missing" in listener.wait("monitor_lost")["error"]


def test_a_host_that_talks(listen: Listen, scene: Scene) -> None:
    """What is no event, such as a message of the day, and what is not ours, is passed over."""
    lies = ['{"event": "completed"}', "Welcome!", "[[[", '{"stream": 1}', "{{ 7 * 7 }}"]
    words = "; ".join(f"echo '{lie}'" for lie in lies)
    listener = listen(**{**through_a_shell(), "via": ["sh", "-c", f'{words}; eval "$1"', "sh"]})
    ready(listener, scene)
    assert {event["vm"] for event in listener.events} == {"vm0"}
