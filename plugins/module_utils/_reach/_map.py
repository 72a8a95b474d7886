# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Asks qemu-img where the data of a running disk lies.

qemu-img opens whatever names the headers of images tell it, and reads what a guest may have made. So it gets the whole
chain spelled out, a long one in pieces, each file as a descriptor that it inherits, and runs as QEMU's own user under
limits.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import sys
import weakref
from typing import Any, Iterator, NamedTuple, Sequence

from .._model._files import Bound, Kind
from .._model._header import NoHeader, parse_header
from .._model._map import Layer, MapTotals, NoMap, Piece, Source, describe, fault_of, total
from ._children import Child
from ._descriptors import reopen
from ._header import read_head
from ._threads import away

# The kernel takes no longer word on a command line: 128 KiB less the NUL.
_LONGEST_WORD = 131_071
# 65,536 groups, the most that Linux has, of eleven characters each.
_LONGEST_STATUS = 1024 * 1024
_MOST_OUTPUT = 64 * 1024 * 1024
_MOST_MEMORY = 4 * 1024 * 1024 * 1024
# What qemu-img takes to open a chain grows with the square of its length and more: 0.06 s for 32 images, 2.7 s for 200.
_MOST_IMAGES = 32

# Takes the limits and the user on itself before it becomes qemu-img. Python's own `preexec_fn` runs between fork and
# exec, where a process with threads may hang.
_LAUNCHER = """
import json, os, resource, sys
limits, groups, gid, uid, words = json.loads(sys.argv[1])
for name, value in limits.items():
    resource.setrlimit(getattr(resource, name), (value, value))
os.chdir("/")
if uid is not None:
    os.setgroups(groups)
    os.setgid(gid)
    os.setuid(uid)
os.execv(words[0], words)
"""


class User(NamedTuple):
    """Whom a process runs as, and what it may therefore open."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()


class _Opaque(Exception):
    """An image cannot be looked into; the text says why."""


def user_of(pid: int) -> User | None:
    """Whom a process runs as; None where that is whom we run as ourselves, or where we may not become anybody else.

    :raise OSError: it has ended.
    """
    with open(f"/proc/{pid}/status", errors="replace") as status:
        ids = _read_ids(status.read(_LONGEST_STATUS))
    # The second number is the effective one, by which the kernel decides what may be opened.
    user = User(ids["Uid:"][1], ids["Gid:"][1], tuple(ids["Groups:"]))
    if os.geteuid() != 0 or user.uid == 0:
        return None
    return user


def _read_ids(status: str) -> dict[str, list[int]]:
    """The lines with user and group numbers: ``Uid: REAL EFFECTIVE SAVED FILE-SYSTEM``."""
    ids: dict[str, list[int]] = {}
    for line in status.splitlines():
        if line.startswith(("Uid:", "Gid:", "Groups:")):
            title, *numbers = line.split()
            ids[title] = list(map(int, numbers))
    return ids


async def read_map(
    pid: int,
    layers: Sequence[Layer],
    *,
    base_depth: int | None,
    user: User | None,
    seconds: float,
    program: str = "qemu-img",
) -> MapTotals | NoMap:
    """Where the data of the disk lies, as the files are now: whoever streams flushes first.

    An image that cannot be opened by QEMU's own descriptor, that is reached by a protocol or has a format whose header
    may name further files, is not looked into, nor is any below it (``MapTotals.opaque``).

    :param layers: the chain, the top first, all of it.
    :param base_depth: the place of the image that stays; what is below it need not be opened.
    :param user: whom qemu-img runs as, if not as this process: QEMU's own user.
    :raise HostSilent: the storage does not answer.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    found = await away(shutil.which, program, seconds=seconds, what="the storage of the host's programs")
    if found is None:
        return NoMap(f"there is no {program} on this host")
    if not layers:
        return NoMap("the disk has no image")
    base_size = 0
    if base_depth is not None:
        base_size = layers[base_depth].virtual_size
    chain = await away(_Chain, pid, layers, base_depth, seconds=seconds)
    try:
        if chain.opaque == 0:
            return NoMap(f"the image {layers[0].filename} cannot be looked into: {chain.why}")
        if chain.fault:
            return NoMap(chain.fault)
        pieces: list[Piece] = []
        for sources, piece in chain.pieces:
            words = [found, "map", "-U", "--output=json", f"json:{json.dumps(describe(sources))}"]
            most = _MOST_OUTPUT - sum(len(each.text) for each in pieces)
            text = await _run(words, chain.numbers, user, max(0.0, deadline - loop.time()), most)
            pieces.append(piece._replace(text=text))
    except _Opaque as error:
        return NoMap(str(error))
    finally:
        chain.close()
    try:
        # A map has millions of extents: in a thread, so that the jobs are still watched meanwhile.
        totals = await away(total, pieces, base_size, seconds=max(1.0, deadline - loop.time()))
    except (ValueError, RecursionError) as error:
        return NoMap(f"{program} said what it never says: {error}")
    return MapTotals(totals, chain.opaque, chain.why)


async def _run(words: Sequence[str], numbers: Sequence[int], user: User | None, seconds: float, most: int) -> str:
    """Run qemu-img under limits, and return what it printed, of so many bytes at most."""
    # Half of it, for it is quoted once more for the launcher.
    if len(words[-1].encode()) > _LONGEST_WORD // 2:
        raise _Opaque("the chain is too long to be told")
    limits = {"RLIMIT_AS": _MOST_MEMORY, "RLIMIT_CPU": int(seconds) + 1, "RLIMIT_CORE": 0, "RLIMIT_FSIZE": 0}
    who: list[Any] = [None, None, None]
    if user is not None:
        who = [user.groups, user.gid, user.uid]
    order = json.dumps([limits, *who, words])
    launcher = [sys.executable, "-I", "-S", "-c", _LAUNCHER, order]
    child = await Child.start(launcher, pass_fds=numbers, most=most)
    try:
        if not await child.wait(seconds):
            raise _Opaque("qemu-img does not end in time")
        if child.is_cut:
            raise _Opaque(f"the map has more than {_MOST_OUTPUT} bytes")
        if child.code != 0:
            said = child.errors.strip().splitlines() or [f"it ended with {child.code}"]
            # It repeats the whole chain where it cannot open it.
            last = said[-1].replace(words[-1], "the chain")
            raise _Opaque(f"qemu-img could not tell: {last[:500]}")
        return child.output.decode(errors="replace")
    finally:
        await child.end()


class _Chain:
    """Our own descriptors of the images that can be looked into, from the top down to the first that cannot.

    From there on, which is ``opaque``, an empty image of the same size stands in. It may block where storage hangs.
    """

    def __init__(self, pid: int, layers: Sequence[Layer], base_depth: int | None):
        self.numbers: list[int] = []
        self.sources: list[Source] = []
        self.opaque: int | None = None
        self.why = ""
        self.fault = ""
        # Also when the thread that opened them came too late for anybody to take them.
        self.close = weakref.finalize(self, _close, self.numbers)
        for depth, layer in enumerate(layers):
            try:
                if depth == base_depth:
                    raise _Opaque("it stays")
                self.sources.append(self._open(pid, layer, is_last=depth == len(layers) - 1))
            except _Opaque as error:
                self.why = str(error)
            except OSError as error:
                self.why = f"its file cannot be opened: {error.strerror}"
            if self.why:
                self.opaque = depth
                self.sources.append(self._stand_in(layer.virtual_size))
                break
        self.pieces = list(self._cut(layers))

    def _cut(self, layers: Sequence[Layer]) -> Iterator[tuple[Sequence[Source], Piece]]:
        """The images in pieces that qemu-img opens at once; an empty one stands for those of the further pieces."""
        for depth in range(0, len(self.sources), _MOST_IMAGES):
            end = depth + _MOST_IMAGES
            sources = self.sources[depth:end]
            piece = Piece("", depth, len(sources), layers[depth].virtual_size)
            if end < len(self.sources):
                sources.append(self._stand_in(layers[end].virtual_size))
            yield sources, piece

    def _stand_in(self, size: int) -> Source:
        """An image in memory that has no data."""
        number = os.memfd_create("stand-in")
        self.numbers.append(number)
        try:
            os.truncate(number, size)
        # A VM may claim what it likes of the size of its disk.
        except (OSError, OverflowError) as error:
            self.fault = f"an image of {size} bytes is not possible: {error}"
        return Source("raw", number)

    def _open(self, pid: int, layer: Layer, *, is_last: bool) -> Source:
        fault = fault_of(layer, is_last=is_last)
        if fault:
            raise _Opaque(fault)
        file = self._keep(pid, layer.bound)
        # qemu-img would open the data file by the name in the header if it were not given, and refuses one too many.
        header = parse_header(layer.format, read_head(file))
        if isinstance(header, NoHeader):
            raise _Opaque(header.why)
        if header.data_file is None:
            return Source(layer.format, file, _kind(layer.bound))
        if layer.data_file is None or layer.data_file.inode is None:
            raise _Opaque("the external data file of the image is not known")
        data_file = self._keep(pid, layer.data_file)
        return Source(layer.format, file, _kind(layer.bound), data_file, _kind(layer.data_file))

    def _keep(self, pid: int, bound: Bound) -> int:
        self.numbers.append(reopen(pid, bound))
        return self.numbers[-1]


def _kind(bound: Bound) -> Kind:
    return "regular" if bound.inode is None else bound.inode.kind


def _close(numbers: Sequence[int]) -> None:
    for number in numbers:
        with contextlib.suppress(OSError):
            os.close(number)
