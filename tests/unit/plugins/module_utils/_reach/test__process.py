# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
from ansible_collections.virtops.qmp.plugins.module_utils._model._errors import MonitorLost, MonitorUnusable
from ansible_collections.virtops.qmp.plugins.module_utils._model._peer import Peer
from ansible_collections.virtops.qmp.plugins.module_utils._reach._process import Turn, find_guest
from ansible_collections.virtops.qmp.tests.unit.fake_libvirt import Processes

UUID = "68818bf6-0908-4fed-b8af-6973d7c40ab5"
OTHER = "00000000-0908-4fed-b8af-6973d7c40ab5"
REST = ["-S", "-machine", "pc", "-uuid", UUID, "-display", "none"]


# -- The process of a guest --------------------------------------------------------------------------------------------


def test_the_process_of_a_guest(processes: Processes) -> None:
    """It is told with its user and its start; that root made it a monitor is not held against it."""
    processes.add(7, "-name", "guest=web01,debug-threads=on", *REST)
    assert find_guest("web01", UUID) == Peer(7, 64055, 64056, 70, "qemu-system-x86_64", 0, True)


@pytest.mark.parametrize(
    ("name", "words", "found"),
    [
        pytest.param("web01", ["-name", "guest=web01", *REST], True, id="libvirt without threads' names"),
        pytest.param(
            "web01", ["-name", "guest=web01,process=qemu:web01,debug-threads=on", *REST], True, id="set_process_name"
        ),
        pytest.param("a,b", ["-name", "guest=a,,b,debug-threads=on", *REST], True, id="a comma"),
        pytest.param(
            "a,debug-threads=x", ["-name", "guest=a,,debug-threads=x,debug-threads=on", *REST], True, id="worse"
        ),
        pytest.param("a=\"b' c", ["-name", "guest=a=\"b' c,debug-threads=on", *REST], True, id="quotes and blanks"),
        pytest.param("größe-日本", ["-name", "guest=größe-日本,debug-threads=on", *REST], True, id="unicode"),
        pytest.param(
            "web01",
            ["-name", "guest=web01,x=y", *REST, "-name", "own", "-uuid", OTHER],
            True,
            id="and words of the user",
        ),
        pytest.param("web0", ["-name", "guest=web01,debug-threads=on", *REST], False, id="a longer name"),
        pytest.param("web01", ["-name", "guest=web01", "-uuid", OTHER], False, id="another UUID"),
        pytest.param("web01", ["-name", "guest=web01"], False, id="no UUID"),
        pytest.param("web01", REST, False, id="no name"),
        pytest.param("web01", [*REST[:-2], "-name"], False, id="a name that is none"),
        pytest.param("web01", [], False, id="no words"),
    ],
)
def test_find_guest(processes: Processes, name: str, words: list[str], found: bool) -> None:
    """A guest's QEMU is the one that was started with its name and its UUID."""
    processes.add(7, *words)
    processes.add(8)
    assert (find_guest(name, UUID) is not None) is found


def test_what_only_has_the_words(processes: Processes) -> None:
    """A program that is no QEMU is not the guest's, whatever words it was started with."""
    words = ["-name", "guest=web01", *REST]
    processes.add(7, *words, program="/bin/sh")
    assert find_guest("web01", UUID) is None
    processes.add(8, *words)
    peer = find_guest("web01", UUID)
    assert peer is not None
    assert peer.pid == 8


def test_two_that_have_the_words(processes: Processes) -> None:
    """Which of two is the guest's nobody can tell."""
    for pid in (7, 8):
        processes.add(pid, "-name", "guest=web01", *REST)
    assert find_guest("web01", UUID) is None


def test_a_process_that_has_just_ended(processes: Processes) -> None:
    """A process that goes away meanwhile is none."""
    (processes.add(7, "-name", "guest=web01", *REST) / "cmdline").unlink()
    assert find_guest("web01", UUID) is None


# -- The turn, with the real kernel ------------------------------------------------------------------------------------


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    """A process that lives as long as we let it."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def test_one_has_the_turn(child: subprocess.Popen[bytes]) -> None:
    """The second waits, is told who has it, and gets it when the first has left."""
    with Turn(child.pid) as second:
        with Turn(child.pid) as first:
            assert (first.try_to_take(), second.try_to_take(), first.try_to_take()) == (True, False, True)
            assert f"(pid {os.getpid()})" in second.holder()
        assert second.try_to_take()
    assert not any(f"/proc/{child.pid}/" in os.readlink(link) for link in descriptors()), "a descriptor was left open"


def descriptors() -> list[str]:
    return [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{name}")]


def test_the_turns_on_two_guests(child: subprocess.Popen[bytes]) -> None:
    """Each guest has a turn of its own."""
    with Turn(child.pid) as one, Turn(os.getpid()) as other:
        assert (one.try_to_take(), other.try_to_take()) == (True, True)


def test_a_turn_that_was_never_tried() -> None:
    """There is nothing to give back."""
    with Turn(1):
        pass


def test_the_turn_on_a_process_that_has_ended(child: subprocess.Popen[bytes]) -> None:
    """It is told as the end of the guest, and nobody has that turn."""
    child.kill()
    child.wait()
    with Turn(child.pid) as turn:
        with pytest.raises(MonitorLost, match="has just ended"):
            turn.try_to_take()
        assert turn.holder() == "nobody knows which"


def test_the_holder_among_others(processes: Processes) -> None:
    """Of all locks of the host it is the one on this very file that tells."""
    status = (processes.add(7) / "environ").stat()
    place = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    others = [f"1: POSIX  ADVISORY  WRITE 8 {place} 0 EOF", "2: FLOCK  ADVISORY  WRITE 8 00:00:1 0 EOF"]
    lines = [*others, f"3: FLOCK  ADVISORY  WRITE 7 {place} 0 EOF", ""]
    (processes.folder / "locks").write_text("\n".join(lines))
    assert "(pid 7)" in Turn(7).holder()


def test_a_turn_that_nobody_has(child: subprocess.Popen[bytes]) -> None:
    """Whoever had it may have left in the meantime."""
    with Turn(child.pid) as turn:
        assert turn.holder() == "nobody knows which"


def test_the_turn_on_a_process_that_must_not_be_looked_at(
    processes: Processes, without_rights: Callable[[], contextlib.AbstractContextManager[None]]
) -> None:
    """Who may not trace QEMU is told to ask for the right."""
    (processes.add(7) / "environ").chmod(0)
    processes.folder.chmod(0o755)
    refused = pytest.raises(MonitorUnusable, match=r"Permission denied\). Run the task with")
    turn = Turn(7)
    with without_rights(), turn, refused:
        turn.try_to_take()
