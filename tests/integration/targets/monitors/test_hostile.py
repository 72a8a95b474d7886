# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Peers that speak QMP badly, on purpose or because they are broken: a clear failure, in time, in little memory."""

from __future__ import annotations

import json
import os
import random
import select
import socket
import time
from typing import TYPE_CHECKING, Any

import pytest
from lab import disks, images, peers, product

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from lab import Vm

    Talk = Callable[[socket.socket], None]

SECONDS = 3
# A module uses about 30 MiB. Whoever has no more than this ends with a traceback, which `product` does not let pass.
UNDER = ("prlimit", f"--data={384 << 20}")
MODULES = [
    pytest.param("block_stream", {"disks": ["*"]}, id="block_stream"),
    pytest.param("block_stream_info", {}, id="block_stream_info"),
]
EVENT = b'{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "RESUME", "data": {}}\r\n'


def noise(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def replies(*lines: Callable[[Any], bytes], hangs_up: bool = False) -> Talk:
    """Greet, take the negotiation, and answer every command with all of these, which are made from the command's id.

    With `hangs_up` it says no more after the first one: who waits for an answer would wait for the whole deadline.
    """

    def talk(client: socket.socket) -> None:
        client.sendall(peers.GREETING + b"\r\n")
        is_negotiated = False
        for message in peers.messages(client):
            makers = lines if is_negotiated else (lambda id: as_json({"return": {}, "id": id}),)
            for make in makers:
                client.sendall(make(message.get("id")) + b"\r\n")
            if is_negotiated and hangs_up:
                return
            is_negotiated = True

    return talk


def as_json(message: Any) -> bytes:
    return json.dumps(message).encode()


def returns(content: Any) -> Talk:
    """Answer every command with this."""
    return replies(lambda id: as_json({"return": content, "id": id}))


def endless(start: bytes, more: bytes) -> Talk:
    """Begin to speak, and go on for ever as fast as the client reads."""

    def talk(client: socket.socket) -> None:
        client.sendall(start)
        while True:
            client.sendall(more)

    return talk


def drop_by_drop(client: socket.socket) -> None:
    """A greeting that makes progress all the time, and has no end."""
    while not select.select([client], [], [], 0.02)[0]:
        client.sendall(b" ")


PEERS = [
    pytest.param(peers.says(noise(4096)), id="noise"),
    pytest.param(peers.says(peers.GREETING, noise(4096)), id="noise in the negotiation"),
    pytest.param(peers.says(b'{"QMP": {"ver'), id="truncated greeting"),
    pytest.param(replies(lambda _id: b'{"return": {"na', lambda _id: b'{"return"'), id="truncated replies"),
    pytest.param(peers.says(b'{"QMP": {"version": "' + b"x" * (32 << 20) + b'"}}'), id="oversized greeting"),
    pytest.param(replies(lambda id: as_json({"return": "x" * (32 << 20), "id": id})), id="oversized replies"),
    pytest.param(endless(b"", b"x" * 65536), id="endless noise"),
    pytest.param(endless(b'{"QMP": "', b"x" * 65536), id="endless greeting"),
    pytest.param(endless(b"", EVENT * 100), id="endless events"),
    pytest.param(drop_by_drop, id="drop by drop"),
    pytest.param(peers.says(b"[" * 100_000), id="deep greeting"),
    pytest.param(replies(lambda _id: b'{"return": ' + b"[" * 100_000), id="deep replies"),
    pytest.param(peers.says(EVENT + peers.GREETING), id="event before the greeting"),
    pytest.param(peers.says(b'{"QMP": {}}'), id="empty greeting"),
    pytest.param(peers.says(peers.GREETING, b'{"return": {}, "error": {}}'), id="both return and error"),
    pytest.param(returns({}), id="empty objects"),
    pytest.param(returns([]), id="empty lists"),
    pytest.param(returns([{}]), id="lists of empty objects"),
    pytest.param(returns(None), id="null"),
    pytest.param(returns("text"), id="text"),
    pytest.param(returns(1e999), id="no JSON number"),
    pytest.param(returns([{"device": 1, "inserted": {"image": {}}}]), id="half an image"),
    pytest.param(replies(lambda _id: b'{"return": ' + b"9" * 10_000 + b"}"), id="a number of 10,000 digits"),
    pytest.param(replies(lambda id: as_json({"id": id})), id="neither return nor error"),
    pytest.param(replies(lambda id: as_json({"id": id, "error": {}})), id="empty errors"),
    pytest.param(replies(lambda id: as_json({"id": id, "error": "no"})), id="errors that are text"),
    pytest.param(
        replies(lambda _id: as_json({"id": "other", "return": {}}), hangs_up=True), id="replies to somebody else"
    ),
    pytest.param(replies(lambda _id: as_json({"return": {}}), hangs_up=True), id="replies without an id"),
    pytest.param(replies(lambda _id: b"\xff\xfe\x00"), id="no UTF-8"),
    pytest.param(replies(lambda _id: as_json({"event": None}), hangs_up=True), id="an event without a name"),
    pytest.param(replies(lambda _id: as_json(["event"])), id="a list in place of a message"),
    pytest.param(
        replies(lambda _id: EVENT * 100_000, lambda id: as_json({"id": id, "error": {"class": "X", "desc": "no"}})),
        id="100,000 events before each reply",
    ),
]


@pytest.mark.parametrize("talk", PEERS)
@pytest.mark.parametrize(("module", "arguments"), MODULES)
def test_a_hostile_peer(module: str, arguments: dict[str, Any], talk: Talk, folder: Path) -> None:
    """One failure that names the monitor, no traceback, no success, within the deadlines and a bound of memory."""
    began = time.monotonic()
    with peers.Peer(folder / "peer.qmp", talk) as peer:
        running = product.Running(
            module, {"monitors": [peer.path], "connect_timeout": SECONDS, **arguments}, under=UNDER
        )
        result = running.result(timeout=60)
    spent = time.monotonic() - began
    assert result.failed
    assert peer.path in result["msg"]
    assert len(result["msg"]) < 2000, result["msg"][:2000]
    assert "exception" not in result
    assert result.get("finished", False) is False
    assert spent < 25, f"{spent:.1f} s"


# -- A VM that lies, beside one that does not --------------------------------------------------------------------------

MOST = 4 << 20
DAG = {
    "nodes": [{"id": floor, "type": "block-driver", "name": f"n{floor}"} for floor in range(41)],
    "edges": [
        {"parent": floor, "child": floor + 1, "name": role, "perm": [], "shared-perm": []}
        for floor in range(40)
        for role in ("a", "b")
    ],
}


def vm_of(path: Path, **changed: Any) -> dict[str, Any]:
    """The answers of a VM with one disk over one base; `changed` are members of its top image, or whole answers."""
    base = {"filename": f"{path}.base", "format": "qcow2", "virtual-size": 1 << 30, "actual-size": 1 << 20}
    members = {key.replace("_", "-"): value for key, value in changed.items()}
    whole = {key: members.pop(key) for key in list(members) if key.startswith(("query-", "x-debug-"))}
    image = {**base, "filename": str(path), "backing-image": base, **members}
    inserted = {"node-name": "n0", "drv": "qcow2", "ro": False, "file": str(path), "image": image}
    return {
        "query-name": {"name": "liar"},
        "query-uuid": {"UUID": "00000000-0000-0000-0000-000000000000"},
        "query-version": {"qemu": {"major": 7, "minor": 2, "micro": 0}, "package": ""},
        "query-chardev": [],
        "query-status": {"status": "running", "running": True},
        "query-block-jobs": [],
        "query-iothreads": [],
        "query-block-exports": [],
        "x-debug-query-block-graph": {"nodes": [], "edges": []},
        "query-block": [{"device": "", "qdev": "/machine/peripheral/vda/virtio-backend", "inserted": inserted}],
        "human-monitor-command": "",
        **whole,
    }


LIES = [
    pytest.param({"virtual_size": "x"}, "'virtual-size' is text, not a size", id="a size in words"),
    pytest.param({"virtual_size": float("nan")}, "'virtual-size' is a fraction", id="not a number"),
    pytest.param({"virtual_size": True}, "'virtual-size' is true or false", id="true for a number"),
    pytest.param({"actual_size": -1}, "'actual-size' is out of range", id="less than nothing"),
    pytest.param({"filename": "x" * 2_000_000}, "'filename' is longer than 4096", id="a path of 2 MB"),
    pytest.param({"filename": "/vms/a\ud800"}, "'filename' is text with a NUL or half", id="half a character"),
    pytest.param({"filename": "/vms/a\0"}, "'filename' is text with a NUL or half", id="a NUL"),
    pytest.param({"query-name": {"name": "n" * 2_000_000}}, "'name' is longer than 1024", id="a name of 2 MB"),
    pytest.param({"x-debug-query-block-graph": DAG}, "liar: disk vda: ", id="a graph of 2^40 ways"),
    pytest.param({"query-block": b"[" * 100_000 + b"]" * 100_000}, "nested too deep", id="100,000 floors"),
    pytest.param({"query-block": "x" * MOST}, "a message of more than 4 MiB", id="a line that is too long"),
    pytest.param({"query-status": {"status": "inmigrate"}}, "was left out: the VM waits for", id="inmigrate"),
    pytest.param({"query-chardev": [{"label": "charmonitor"}]}, "was left out: libvirt manages", id="charmonitor"),
    pytest.param(
        {"query-name": {"name": "a\nfatal: [hv1]: done\x1b[2J\u202e"}},
        "a\\x0afatal: [hv1]: done\\x1b[2J\\u202e: disk vda",
        id="a name that would be lines",
    ),
]


@pytest.fixture
def good(folder: Path, boot: Callable[..., Vm]) -> tuple[Vm, images.Chain]:
    chain = images.chain(folder)
    return boot(*disks.drive(chain.top, id="drive0", qdev="vda"), name="web01"), chain


def texts(value: Any) -> Iterator[str]:
    """Every text in a result, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, each in value.items():
            yield from (key, *texts(each))
    elif isinstance(value, list):
        for each in value:
            yield from texts(each)


def beside(good: tuple[Vm, images.Chain], talk: Talk, folder: Path) -> product.Result:
    """Populate all disks of a liar and of a real VM; judge the real one by its image."""
    vm, chain = good
    began = time.monotonic()
    with peers.Peer(folder / "liar.qmp", talk) as liar:
        arguments = {"monitors": [liar.path, str(vm.monitor)], "disks": ["*"], "connect_timeout": SECONDS}
        running = product.Running("block_stream", {**arguments, "parallel": 4, "wait_timeout": 60}, under=UNDER)
        result = running.result(timeout=60)
    spent = time.monotonic() - began
    assert spent < 25, f"{spent:.1f} s"
    assert "exception" not in result
    (disk,) = [disk for disk in result["disks"] if disk["vm"] == "web01"]
    assert (disk["finished"], disk["error"]) == (True, None)
    assert not [disk for disk in result["disks"] if disk["vm"] != "web01" and (disk["finished"] or disk["populated"])]
    assert len(json.dumps(result)) < 100_000
    own_lines = len(result.get("errors", ())) + 1
    for text in texts({**result, "msg": result.get("msg", "").replace("\n", "", own_lines), "invocation": {}}):
        assert text.isprintable(), repr(text)
    vm.kill()
    chain.take_away()
    assert images.backing(chain.top) is None
    assert images.differences(chain.expected, images.content(chain.top)) == []
    return result


@pytest.mark.parametrize(("changed", "words"), LIES)
def test_a_vm_that_lies(good: tuple[Vm, images.Chain], folder: Path, changed: dict[str, Any], words: str) -> None:
    """It is told as an error or a warning of this VM, and the other one is populated, complete and told of."""
    result = beside(good, peers.answers(vm_of(folder / "liar.qcow2", **changed)), folder)
    told = [*texts(result.get("errors", [])), *texts(result.get("warnings", []))]
    assert any(words in each for each in told), told


def test_a_vm_that_claims_all_the_room(good: tuple[Vm, images.Chain], folder: Path) -> None:
    """What one VM claims to need takes the room from no other."""
    image = folder / "liar.qcow2"
    images.create(image, size=64 << 20)
    base = {"filename": f"{image}.base", "format": "qcow2", "virtual-size": 1 << 60, "actual-size": 1 << 60}
    lie = vm_of(image, virtual_size=1 << 60, backing_image=base)
    with image.open("r+b"):  # as its QEMU has it
        result = beside(good, peers.answers(lie), folder)
    assert "liar: disk vda: not started: populating may write up to 1152921504606846976 bytes" in result["msg"]


def test_a_vm_whose_image_is_a_pipe(good: tuple[Vm, images.Chain], folder: Path) -> None:
    """Nothing is opened that would wait for a writer."""
    os.mkfifo(folder / "liar.qcow2")
    result = beside(good, peers.answers(vm_of(folder / "liar.qcow2")), folder)
    assert all(error["msg"].startswith("liar: ") for error in result["errors"])


LISTS = ("query-chardev", "query-block-jobs", "x-debug-query-block-graph", "query-block")


@pytest.mark.parametrize("filler", [b"[]", b"{}", b'{"":0}', b'"ab"', b"1.5"], ids=bytes.decode)
def test_answers_that_take_much_memory(good: tuple[Vm, images.Chain], folder: Path, filler: bytes) -> None:
    """Every answer as large as is taken at all, and made of what takes most memory: still a bound that holds."""
    many = (MOST - 100) // (len(filler) + 1)
    large = b"[" + b",".join([filler] * many) + b"]"
    lie = {**vm_of(folder / "liar.qcow2"), **dict.fromkeys(LISTS, large)}
    beside(good, peers.answers(lie), folder)
