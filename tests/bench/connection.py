# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a slice of a long wait sends over a real SSH connection, beside the least that a task of Ansible sends."""

from __future__ import annotations

import contextlib
import re
import socket
import sys
import threading
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from lab import Sshd, lab_folder, ssh
from lab.images import MiB

from .measure import Figure, in_turn
from .ways import environment, golden, ours, plain_vm, play, timed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from .tasks import Bench

# The same every time but for what is random and compressed, so a few samples do.
_ROUNDS = 3
_PINGS, _SECONDS = 6, 9


class Meter:
    """Passes TCP connections on to a port of this host, and counts the bytes of both directions."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open = [self._listener]
        self._lock = threading.Lock()
        self.port: int = self._listener.getsockname()[1]
        self.bytes = 0

    def __enter__(self) -> Self:
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_unused: object) -> None:
        for each in self._open:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _address = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
                self._open += [client, server]
                for source, sink in ((client, server), (server, client)):
                    threading.Thread(target=self._pass_on, args=(source, sink), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(1 << 16):
                with self._lock:
                    self.bytes += len(piece)
                sink.sendall(piece)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)


def connection(bench: Bench) -> Iterator[Figure]:
    """A task in the middle of others, without what the first one sends to make the connection."""
    for pipelining, words in ((True, "with pipelining"), (False, "without pipelining")):
        name, title = f"ssh-{'pipelining' if pipelining else 'files'}", f"A task over SSH, {words}: sent and received"
        ways = {
            "ping": partial(_of_a_ping, pipelining),
            "a slice of block_stream": partial(_of_a_slice, bench, pipelining),
        }
        if ssh.SERVER is None:
            yield Figure(name, title, "KiB", "ping", {}, dict.fromkeys(ways, "there is no sshd"))
            continue
        yield Figure(name, title, "KiB", "ping", in_turn(ways, min(bench.rounds, _ROUNDS)))


def _of_a_ping(pipelining: bool) -> float:
    ping: dict[str, object] = {"ansible.builtin.ping": {}}
    one, many = (_sent(pipelining, *[ping] * count)[0] for count in (1, _PINGS + 1))
    return (many - one) / _PINGS / 1024


def _of_a_slice(bench: Bench, pipelining: bool) -> float:
    with plain_vm(bench.folder, golden(bench.folder, 64 * MiB)) as vm:
        task: dict[str, Any] = {
            "monitors": [vm.monitor],
            "disks": ["vda"],
            "speed": "1",
            "progress": 1,
            "on_timeout": "leave",
        }
        one, none = _sent(pipelining, ours(**task, wait_timeout=1))
        many, lines = _sent(pipelining, ours(**task, wait_timeout=_SECONDS))
    assert none == 0, "one slice has no line"
    return (many - one) / lines / 1024


def _sent(pipelining: bool, *tasks: Mapping[str, object]) -> tuple[int, int]:
    """The bytes that a play of these tasks sends and receives, and the progress lines that it prints."""
    with lab_folder() as folder, Sshd(folder) as sshd, Meter(sshd.port) as meter:
        reach = sshd.reach(
            {"ansible_pipelining": pipelining, "ansible_python_interpreter": sys.executable}, port=meter.port
        )
        done = timed([*play(folder, *tasks), *reach], environ=environment())
        return meter.bytes, len(re.findall(r"^localhost vm0 vda  ", done.output, re.MULTILINE))
