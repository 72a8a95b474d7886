# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""VMs that lie, one member of one answer at a time, beside a VM that does not; and the judge of what comes of it.

A lie is told from the first answer on, or in the middle, once the VM has been looked at. It must cost the other VM
neither its stream nor its result, and must make no disk of the liar's own populated that is not.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
import random
import re
import time
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Callable, Tuple  # noqa: UP035  # Python 3.8

from ansible_collections.virtops.qmp.plugins.module_utils._model._errors import QmpError
from ansible_collections.virtops.qmp.plugins.module_utils._model._files import Bound, Descriptor, Survey
from ansible_collections.virtops.qmp.plugins.module_utils._model._header import Header, Reading
from ansible_collections.virtops.qmp.plugins.module_utils._model._peer import Peer
from ansible_collections.virtops.qmp.plugins.module_utils._model._request import Selection
from ansible_collections.virtops.qmp.plugins.module_utils._model._seams import OtherRuns
from ansible_collections.virtops.qmp.plugins.module_utils._model._text import presentable
from ansible_collections.virtops.qmp.plugins.module_utils._reach._qemu import QemuLink
from ansible_collections.virtops.qmp.plugins.module_utils._run import _inform, _populate
from ansible_collections.virtops.qmp.tests.unit import clock
from ansible_collections.virtops.qmp.tests.unit.builders import REPLIES, asking, recorded
from ansible_collections.virtops.qmp.tests.unit.fake_qemu import FakeHost, FakeQemu, in_vms, inode_of, named

RECORDINGS = sorted(path.stem for path in REPLIES.glob("qemu-*.json"))
Path = Tuple[Any, ...]  # noqa: UP006  # Python 3.8

# The answers that the product asks for, and an event, in one object: its members are where lies are told.
EVENT = "an event"
QUESTIONS = (
    "query-name",
    "query-uuid",
    "query-version",
    "query-chardev",
    "query-status",
    "query-block-jobs",
    "x-debug-query-block-graph",
    "query-block",
    "query-iothreads",
    "query-block-exports",
    EVENT,
)
MISSING = object()


def nested(depth: int, key: str | None = None) -> Any:
    """A list of lists, or an object of objects, as deep as no recursion gets."""
    found: Any = [] if key is None else {}
    for _floor in range(depth):
        found = [found] if key is None else {key: found}
    return found


def dag(depth: int) -> Any:
    """A graph of few nodes in which there are 2^depth ways."""
    names = ["top", *(f"n{floor}" for floor in range(depth))]  # a disk of `named-nodes` stands on the first one
    nodes = [{"id": floor, "type": "block-driver", "name": name} for floor, name in enumerate(names)]
    edges: list[dict[str, Any]] = [
        {"parent": floor, "child": floor + 1, "name": role, "perm": [], "shared-perm": []}
        for floor in range(depth)
        for role in ("a", "b")
    ]
    return {"nodes": nodes, "edges": edges}


LIES: Mapping[str, Callable[[], Any]] = {
    "missing": lambda: MISSING,
    "null": lambda: None,
    "true": lambda: True,
    "a number": lambda: 7,
    "a negative number": lambda: -1,
    "2^63": lambda: 2**63,
    "2^60": lambda: 2**60,
    "a number of 4000 digits": lambda: 10**4000,
    "a fraction": lambda: 1.5,
    "not a number": lambda: float("nan"),
    "infinity": lambda: float("inf"),
    "no text": lambda: "",
    "text": lambda: "x",
    "2,000,000 characters": lambda: "x" * 2_000_000,
    "control characters": lambda: "a\nfatal: [hv1]\x1b[2J\x9b\u202e\u2028",
    "NUL": lambda: "a\0b",
    "half a character": lambda: "a\ud800b",
    "path of a device": lambda: "/dev/zero",
    "a json: name of 1000 floors": lambda: "json:" + "[" * 1000,
    "inmigrate": lambda: "inmigrate",
    "pending": lambda: "pending",
    "charmonitor": lambda: "charmonitor",
    "no list": list,
    "no object": dict,
    "100,000 empty objects": lambda: [{}] * 100_000,
    "lists of 100,000 floors": lambda: nested(100_000),
    "objects of 5,000 floors": lambda: nested(5_000, "backing-image"),
    "a graph of 2^40 ways": lambda: dag(40),
}


@dataclass(frozen=True)
class Lie:
    """One lie: what stands in the place of a member of a recording, from the so-many-th answer on (0: the first)."""

    recording: str
    path: Path
    lie: str
    since: int

    def __str__(self) -> str:
        return f"{self.recording}: {'.'.join(map(str, self.path))}: {self.lie}, from answer {self.since} on"


def answers_of(recording: str) -> dict[str, Any]:
    """A recording, with an event that tells of the end of a stream."""
    details = {"device": "populate-vda", "type": "stream", "len": 1, "offset": 1, "speed": 0}
    event = {"event": "BLOCK_JOB_COMPLETED", "data": details, "timestamp": {"seconds": 1, "microseconds": 2}}
    return {**recorded(recording), EVENT: event}


def places(reply: Any, path: Path = ()) -> Iterator[Path]:
    """The path of every member and every entry of a reply."""
    members = reply.items() if isinstance(reply, dict) else enumerate(reply) if isinstance(reply, list) else ()
    for key, value in members:
        yield (*path, key)
        yield from places(value, (*path, key))


def told(answers: Any, path: Path, value: Any) -> Any:
    """The same answers with the lie in them."""
    changed = copy.deepcopy(answers)
    at = changed
    for key in path[:-1]:
        at = at[key]
    if value is MISSING:
        del at[path[-1]]
    else:
        at[path[-1]] = value
    return changed


def every_lie() -> Iterator[Lie]:
    """All of them: at every place of every recording."""
    for recording in RECORDINGS:
        for path in places(answers_of(recording)):
            for lie in LIES:
                for since in (0, 1):
                    yield Lie(recording, path, lie, since)


def one_of_each(seed: int) -> list[Lie]:
    """Every lie at every member that there is, each in one of the recordings that have it."""
    lies = list(every_lie())
    random.Random(seed).shuffle(lies)
    kinds = {(tuple(key for key in lie.path if isinstance(key, str)), lie.lie, lie.since): lie for lie in lies}
    return list(kinds.values())


def some_lies(seed: int, number: int) -> Iterator[Lie]:
    """So many of them, by chance."""
    chance = random.Random(seed)
    for _lie in range(number):
        recording = chance.choice(RECORDINGS)
        path = chance.choice(list(places(answers_of(recording))))
        yield Lie(recording, path, chance.choice(sorted(LIES)), chance.randrange(2))


def strings(value: Any) -> Iterator[str]:
    """Every text in a result, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, each in value.items():
            yield key
            yield from strings(each)
    elif isinstance(value, list):
        for each in value:
            yield from strings(each)


class Liar:
    """A QMP session, as `_seams.Connection`, with a QEMU that takes every command and does nothing."""

    peer: Peer | None = Peer(200, 64055, 64055, 7, "qemu-system-x86_64", 64055, True)
    address = "/vms/liar.qmp"
    runs: OtherRuns | None = None

    def __init__(self, honest: Mapping[str, Any], lying: Mapping[str, Any], since: int):
        self._honest, self._lying, self._since = honest, lying, since
        self._asked: dict[str, int] = {}

    async def execute(
        self, command: str, arguments: Mapping[str, Any] | None = None, descriptor: int | None = None
    ) -> Any:
        if command not in QUESTIONS:
            return "" if command == "human-monitor-command" else {}
        return self.answer(command)

    def answer(self, command: str) -> Any:
        number = self._asked[command] = self._asked.get(command, -1) + 1
        return (self._lying if number >= self._since else self._honest).get(command)

    @contextlib.contextmanager
    def listen(self, job_id: str) -> Iterator[LyingEvents]:
        yield LyingEvents(self)


class LyingEvents:
    """One event after the other, as `_seams.RawEvents`, with nothing between them but the wait that was asked for."""

    def __init__(self, liar: Liar):
        self._liar = liar
        self._is_told = False

    async def next(self, timeout: float) -> Any:
        if timeout > 0:
            await asyncio.sleep(timeout)
            return None
        self._is_told = not self._is_told
        return self._liar.answer(EVENT) if self._is_told else None


class LiarsHost(FakeHost):
    """A host on which the liar has every file open that it names, and no header gives it away."""

    def __init__(self, liar: Liar, good: FakeQemu):
        super().__init__(good)
        self._liar = liar

    @contextlib.asynccontextmanager
    async def open_link(self, address: str) -> AsyncIterator[QemuLink]:
        if address == self._liar.address:
            yield QemuLink(self._liar)
        else:
            async with super().open_link(address) as link:
                yield link

    async def survey(self, pid: int | None, names: Collection[str], fdsets: Mapping[int, Sequence[int]]) -> Survey:
        if self._liar.peer is None or pid != self._liar.peer.pid:
            return await super().survey(pid, names, fdsets)
        paths = [path for path in map(in_vms, names) if path is not None]
        opened = [Descriptor(10 + n, inode_of(path), path, here=path, writable=True) for n, path in enumerate(paths)]
        return Survey(tuple(opened), {name: named(name) for name in names})

    async def headers(self, pid: int | None, images: Sequence[tuple[Bound, str]]) -> Sequence[Reading]:
        if self._liar.peer is None or pid != self._liar.peer.pid:
            return await super().headers(pid, images)
        return [Header() for _image in images]


@dataclass(frozen=True)
class Told:
    """What the modules made of two VMs."""

    info: Mapping[str, Any]
    stream: Mapping[str, Any]
    good: FakeQemu
    seconds: float


def run(honest: Mapping[str, Any], lying: Mapping[str, Any], since: int) -> Told:
    """Both modules on both VMs, in time that jumps."""
    began = time.process_time()
    good = FakeQemu("good", 100)
    good.add("vda", "good-top.qcow2", "good-base.qcow2")
    monitors = [Liar.address, good.address]
    request = asking(wait_timeout=60, parallel=64)

    async def work() -> tuple[Any, Any]:
        host = LiarsHost(Liar(honest, lying, since), good)
        seen = await _inform.inform(host.finds(monitors), Selection(None), host.open_link, host)
        host = LiarsHost(Liar(honest, lying, since), good)
        done = await _populate.populate(
            host.finds(monitors), Selection(("*",)), request, host.open_link, host, is_check=False
        )
        return presentable(seen.to_result()), presentable(done.to_result())

    info, stream = clock.run(work())
    return Told(info, stream, good, time.process_time() - began)


def told_honestly(recording: str) -> Told:
    """What the modules make of the recording as it is."""
    answers = answers_of(recording)
    return run(answers, answers, 0)


def populated(disks: Sequence[Mapping[str, Any]], key: str) -> list[str]:
    """The liar's disks of which a result says that they are populated, or finished."""
    return sorted(key_of(disk) for disk in disks if disk["monitor"] == Liar.address and disk[key] is True)


def key_of(disk: Mapping[str, Any]) -> str:
    """What stays the same of a disk."""
    return str(disk["qdev"] or disk["device"] or disk["node_name"])


# With a raw node above a chain `query-block` is silent about the chain, and the graph is its only witness.
ONLY_WITNESS = ("qemu-7.2-raw-over-chain", "x-debug-query-block-graph")
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u2028\u2029\ud800-\udfff]")


def complaints(lie: Lie, honest: Told) -> list[str]:
    """What is wrong with what the modules make of a lie; nothing where all is well."""
    answers = answers_of(lie.recording)
    try:
        found = run(answers, told(answers, lie.path, LIES[lie.lie]()), lie.since)
    except QmpError as error:
        return [f"an error of one VM is all that comes back: {error}"]
    return [*_about_the_good(found), *_about_the_liar(lie, found, honest), *_about_the_result(found)]


def _about_the_good(found: Told) -> Iterator[str]:
    info = [disk for disk in found.info["disks"] if disk["vm"] == "good"]
    stream = [disk for disk in found.stream["disks"] if disk["vm"] == "good"]
    if len(info) != 1 or len(info[0]["chain"]) != 2:
        yield "the other VM is not told of"
    if len(stream) != 1 or not stream[0]["finished"] or stream[0]["populated"] is not True or stream[0]["error"]:
        yield f"the other VM is not populated: {stream}"
    if found.good.harm or found.good.jobs:
        yield f"the other VM is harmed: {found.good.harm}"


def _about_the_liar(lie: Lie, found: Told, honest: Told) -> Iterator[str]:
    if (lie.recording, lie.path[0]) == ONLY_WITNESS:
        return
    before = set(populated(honest.info["disks"], "populated"))
    for result in (found.info, found.stream):
        after = populated(result["disks"], "populated")
        known = {key_of(disk) for disk in honest.info["disks"]}
        if len(after) > len(before) or {key for key in after if key in known} - before:
            yield f"populated: {after}, and without the lie {sorted(before)}"
    finished = populated(found.stream["disks"], "finished")
    if len(finished) > len(before):
        yield f"finished: {finished}, and without the lie {sorted(before)}"
    if any(error["kind"] == "Defect" for result in (found.info, found.stream) for error in result["errors"]):
        yield f"a defect: {found.info['errors']} {found.stream['errors']}"


def _about_the_result(found: Told) -> Iterator[str]:
    for result in (found.info, found.stream):
        size = len(json.dumps(result, allow_nan=False))
        if any(UNPRINTABLE.search(text) for text in strings(result)):
            yield "a character that acts on a terminal"
        if size > 1_000_000:
            yield f"a result of {size} characters"
    if found.seconds > 5:
        yield f"{found.seconds:.1f} s"
