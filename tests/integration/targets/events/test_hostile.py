# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""A guest that broke out into its QEMU: it costs neither the other VMs their events, nor anybody else anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from lab import Listener, Scene, disks, images, peers, product

from .conftest import monitor_of, ready, stream

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from lab import Vm

    Listen = Callable[..., Listener]

HONEST: dict[str, Any] = {
    "query-name": {"name": "liar"},
    "query-uuid": {"UUID": "00000000-0000-0000-0000-000000000000"},
    "query-block-jobs": [],
    "query-block": [],
    "x-debug-query-block-graph": {"nodes": [], "edges": []},
}
EVENT = {"timestamp": {"seconds": 1, "microseconds": 2}, "event": "BLOCK_JOB_COMPLETED"}
ENDED = {**EVENT, "data": {"device": "x", "type": "stream", "len": 0, "offset": 0, "speed": 0}}


def endless(event: Any) -> Callable[[socket.socket], None]:
    """Answer well, then tell the same event as fast as it is read."""
    line = json.dumps(event).encode() + b"\r\n"

    def talk(client: socket.socket) -> None:
        client.sendall(peers.GREETING + b"\r\n")
        for number, message in enumerate(peers.messages(client)):
            client.sendall(peers._reply(message, HONEST, {}))
            while number >= len(HONEST) - 1:
                client.sendall(line * 100)

    return talk


LIARS = {
    "not QMP": peers.says(b"SSH-2.0-OpenSSH_9.2"),
    "too long": lambda client: client.sendall(peers.GREETING + b"\r\n" + b"x" * (16 << 20)),
    "too deep": peers.says(peers.GREETING, b'{"return": ' + b"[" * 100_000),
    "too many": peers.says(peers.GREETING, b'{"return": [' + b"{}," * 400_000 + b"{}]}"),
    "wrong types": peers.answers({**HONEST, "query-block": [{"device": 1}]}),
    "a chain without end": peers.answers({**HONEST, "query-block": {"x": [1] * 1000}}),
    "endless events": endless(ENDED),
    "events of no kind": endless({**EVENT, "data": {"device": 7, "type": ["stream"]}}),
    "no time": endless({"event": "SHUTDOWN", "timestamp": {"seconds": "now"}}),
}


@pytest.mark.parametrize("talk", LIARS.values(), ids=LIARS)
def test_another_vm_is_heard(listen: Listen, folder: Path, scene: Scene, talk: Callable[[socket.socket], None]) -> None:
    """Beside a VM that lies the other is told as ever, in little memory, and the source goes on."""
    with peers.Peer(folder / "liar.events", talk):
        listener = ready(listen(), scene)
        stream(scene.vm)
        listener.wait("completed", job="j1", vm="vm0")
        assert listener.is_alive
        status = Path(f"/proc/{listener.pid}/status").read_text()
        assert int(status.split("VmHWM:")[1].split()[0]) < 200 << 10
        listener.kill()


def test_names_are_no_templates(listen: Listen, folder: Path, boot: Callable[..., Vm]) -> None:
    """A name with a template in it, and an escape, is text to Ansible and on a terminal."""
    owned = folder / "owned"
    name = f"{{{{ lookup('pipe', 'touch {owned}') }}}}\x1b[2J"
    chain = images.chain(folder, layers=1)
    vm = boot(
        *disks.drive(chain.top, id="drive0", qdev="vda"), *monitor_of(folder, "vm0"), "-name", name.replace(",", ",,")
    )
    listener = listen()
    stream(vm, speed=1)
    listener.wait(job="j1")
    vm.hasten()
    told = listener.wait("completed", job="j1")
    shown = told["vm"]
    assert "touch" in shown
    assert "\x1b" not in shown
    play = """
- hosts: localhost
  gather_facts: false
  tasks:
    - name: Say it
      ansible.builtin.debug:
        msg: "{{ ansible_eda.event.stream.vm }}"
"""
    run = product.playbook(play, extra={"ansible_eda": {"event": {"stream": told}}})
    assert run.result("Say it")["msg"] == shown
    assert not owned.exists()
