# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
import io
import json
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.virtops.qmp.plugins.module_utils._model._errors import HostSilent
from ansible_collections.virtops.qmp.plugins.module_utils._model._files import Bound, FileId, Inode
from ansible_collections.virtops.qmp.plugins.module_utils._model._map import Layer, MapTotals, NoMap, Piece, total
from ansible_collections.virtops.qmp.plugins.module_utils._reach import _map
from ansible_collections.virtops.qmp.plugins.module_utils._reach._descriptors import read_inode
from ansible_collections.virtops.qmp.plugins.module_utils._reach._map import User, read_map, user_of
from ansible_collections.virtops.qmp.tests.unit.descriptors import open_files

SIZE = 1 << 20
WHOLE = [{"start": 0, "length": SIZE, "depth": 0, "zero": False, "data": True}]
PRINT_WHOLE = f"echo '{json.dumps(WHOLE)}'"


def qcow2(features: int = 0) -> bytes:
    head = struct.pack(">4sIQIIQ", b"QFI\xfb", 3, 0, 0, 16, SIZE)
    return head + bytes(72 - len(head)) + struct.pack(">QQQII", features, 0, 0, 4, 104) + bytes(64)


@pytest.fixture
def opened(folder: Path) -> Iterator[Callable[..., Bound]]:
    """Makes files and opens them, as QEMU would."""
    with ExitStack() as stack:

        def make(name: str, content: bytes) -> Bound:
            (folder / name).write_bytes(content)
            number = os.open(str(folder / name), os.O_RDWR)
            stack.callback(os.close, number)
            return Bound(read_inode(os.fstat(number)), (number,))

        yield make


@pytest.fixture
def chain(opened: Callable[..., Bound]) -> list[Layer]:
    """A qcow2 image over a raw one."""
    return [
        Layer("qcow2", "/vms/top", SIZE, opened("top", qcow2())),
        Layer("raw", "/vms/base", SIZE, opened("base", b"")),
    ]


@pytest.fixture
def qemu_img(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts a script in the place of qemu-img."""
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def put(script: str) -> None:
        program = folder / "qemu-img"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)

    return put


def ask(chain: list[Layer], **options: Any) -> MapTotals | NoMap:
    given = {"base_depth": None, "user": None, "seconds": 60, **options}
    before = open_files()
    found: MapTotals | NoMap = asyncio.run(read_map(os.getpid(), chain, **given), debug=True)
    assert not open_files() - before
    return found


def test_a_whole_map(chain: list[Layer], qemu_img: Callable[[str], None]) -> None:
    """What qemu-img prints is added up."""
    qemu_img(PRINT_WHOLE)
    assert ask(chain) == MapTotals({(0, True): SIZE})


def test_what_qemu_img_is_told(chain: list[Layer], qemu_img: Callable[[str], None]) -> None:
    """Its words are fixed but for the chain, whose files are descriptors that it inherits, of the very images."""
    seen: dict[str, Any] = {}

    def listen(pieces: list[Piece], base_size: int) -> Any:
        (piece,) = pieces
        seen["said"] = piece.text.splitlines()
        return total([piece._replace(text=json.dumps(WHOLE))], base_size)

    qemu_img(
        'for word; do echo "$word"; done; ulimit -c; ulimit -t; pwd; echo "$LC_ALL";'
        ' for n in /proc/self/fd/*; do readlink "$n"; done; sed -n 1p /proc/self/fd/0'
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_map, "total", listen)
        assert ask(chain, seconds=7) == MapTotals({(0, True): SIZE})
    said = seen["said"]
    assert said[:3] == ["map", "-U", "--output=json"]
    told = json.loads(said[3][len("json:") :])
    assert (told["driver"], told["backing"]["driver"]) == ("qcow2", "raw")
    assert said[4:8] in (["0", "7", "/", "C"], ["0", "8", "/", "C"])
    files = [told["file"]["filename"], told["backing"]["file"]["filename"]]
    assert all(file.startswith("/proc/self/fd/") for file in files)
    opened = [os.readlink(f"/proc/self/fd/{layer.bound.descriptors[0]}") for layer in chain]
    assert set(opened) <= set(said[8:])


@pytest.mark.parametrize(
    ("changes", "base_depth", "opaque", "why"),
    [
        pytest.param({}, 1, 1, "it stays", id="a base that stays"),
        pytest.param({"bound": Bound(why="a protocol")}, None, 1, "a protocol", id="a base over a protocol"),
        pytest.param({"format": "vmdk"}, None, 1, "its format is vmdk", id="a base of a format that names files"),
        pytest.param(
            {"bound": Bound(Inode(FileId(1, 2), "regular"), (0,))},
            None,
            1,
            "its file cannot be opened: QEMU has closed it",
            id="a base that was closed",
        ),
        pytest.param(
            {"format": "qcow2"}, None, 1, "its header is cut off", id="a base without the header that it should have"
        ),
    ],
)
def test_images_that_are_not_looked_into(
    chain: list[Layer],
    qemu_img: Callable[[str], None],
    changes: dict[str, Any],
    base_depth: int | None,
    opaque: int,
    why: str,
) -> None:
    """For what cannot be looked into an empty image of its size stands, and the totals say from which depth on."""
    qemu_img(PRINT_WHOLE)
    given = [chain[0], chain[1]._replace(**changes)]
    assert ask(given, base_depth=base_depth) == MapTotals({(0, True): SIZE}, opaque, why)


def test_the_stand_in_has_the_size_of_the_image(chain: list[Layer], opened: Callable[..., Bound]) -> None:
    """The image that stands for others is as large as the first of them, and has no data."""
    found = _map._Chain(os.getpid(), [chain[0], chain[1]._replace(bound=Bound(why="a protocol"))], None)
    status = os.fstat(found.numbers[-1])
    found.close()
    assert (status.st_size, status.st_blocks) == (SIZE, 0)


def test_a_long_chain_is_asked_for_in_pieces(
    chain: list[Layer],
    opened: Callable[..., Bound],
    qemu_img: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
) -> None:
    """Each piece has an empty image of the size of what follows below it, and their output has one limit."""
    monkeypatch.setattr(_map, "_MOST_IMAGES", 2)
    upper = [Layer("qcow2", f"/vms/{name}", 2 * SIZE, opened(name, qcow2())) for name in ("first", "second", "third")]
    layers = [*upper, *chain]
    found = _map._Chain(os.getpid(), layers, None)
    stand_ins = [os.fstat(sources[-1].file).st_size for sources, piece in found.pieces if len(sources) > piece.images]
    found.close()
    assert [piece for _sources, piece in found.pieces] == [
        Piece("", 0, 2, 2 * SIZE),
        Piece("", 2, 2, 2 * SIZE),
        Piece("", 4, 1, SIZE),
    ]
    assert stand_ins == [2 * SIZE, SIZE]
    # The second half is not in the first piece, half of it not in the second, and the rest without data in the third.
    maps = {
        "first": [(0, SIZE, 0, True), (SIZE, SIZE, 2, False)],
        "third": [(0, SIZE, 2, False), (SIZE, SIZE // 2, 0, True), (SIZE * 3 // 2, SIZE // 2, 1, False)],
        "base": [(0, SIZE, 0, False)],
    }
    for name, extents in maps.items():
        said = [{"start": at, "length": length, "depth": depth, "data": data} for at, length, depth, data in extents]
        (folder / f"map-of-{name}").write_text(json.dumps(said))
    number = '$(printf %s "$4" | sed "s,[^/]*/proc/self/fd/\\([0-9]*\\).*,\\1,")'
    qemu_img(f'cat "{folder}/map-of-$(basename "$(readlink "/proc/self/fd/{number}")")"')
    assert ask(layers) == MapTotals({(0, True): SIZE, (2, True): SIZE // 2, (3, False): SIZE // 2})
    monkeypatch.setattr(_map, "_MOST_OUTPUT", len((folder / "map-of-first").read_text()) + 20)
    assert ask(layers) == NoMap(f"the map has more than {_map._MOST_OUTPUT} bytes")


@pytest.mark.parametrize(
    ("features", "is_given", "why"),
    [
        pytest.param(4, True, None, id="given"),
        pytest.param(4, False, "the external data file of the image is not known", id="not given"),
        pytest.param(0, True, None, id="given, and not used"),
    ],
)
def test_an_external_data_file(
    opened: Callable[..., Bound], qemu_img: Callable[[str], None], features: int, is_given: bool, why: str | None
) -> None:
    """A data file is given where the header uses one; where it is not known, qemu-img would open what a name says."""
    qemu_img(
        f'case "$4" in *data-file*) said=yes;; *) said=no;; esac; test $said = {"yes" if features else "no"} &&'
        f" {PRINT_WHOLE}"
    )
    data_file = opened("data", b"")
    layer = Layer("qcow2", "/vms/top", SIZE, opened("top", qcow2(features)), data_file if is_given else None)
    found = ask([layer])
    if why is None:
        assert found == MapTotals({(0, True): SIZE})
    else:
        assert found == NoMap(f"the image /vms/top cannot be looked into: {why}")


def test_a_data_file_that_is_not_bound(chain: list[Layer], opened: Callable[..., Bound]) -> None:
    """A data file of which QEMU's descriptor is not known is not known."""
    layer = Layer("qcow2", "/vms/top", SIZE, opened("top", qcow2(4)), Bound(why="it was not found"))
    found = _map._Chain(os.getpid(), [layer], None)
    found.close()
    assert (found.opaque, found.why) == (0, "the external data file of the image is not known")


@pytest.mark.parametrize(
    ("script", "why"),
    [
        pytest.param("echo 'qemu-img: no' >&2; exit 1", "qemu-img could not tell: qemu-img: no", id="an error"),
        pytest.param('echo "bad $4" >&2; exit 1', "qemu-img could not tell: bad the chain", id="without the chain"),
        pytest.param("exit 3", "qemu-img could not tell: it ended with 3", id="an error without a word"),
        pytest.param("kill -9 $$", "qemu-img could not tell: it ended with -9", id="killed"),
        pytest.param(
            "echo []", f"qemu-img said what it never says: the map is of 0 bytes, the image has {SIZE}", id="none"
        ),
        pytest.param("echo >/tmp/x", None, id="a file is written"),
        pytest.param("while :; do echo; done", "the map has more than 1000 bytes", id="no end"),
    ],
)
def test_what_is_no_map(
    chain: list[Layer],
    qemu_img: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    script: str,
    why: str | None,
) -> None:
    """Whatever goes wrong, it is not known where the data lies, and why is told."""
    monkeypatch.setattr(_map, "_MOST_OUTPUT", 1000)
    qemu_img(script.replace("/tmp/x", str(folder / "x")))
    found = ask(chain)
    assert isinstance(found, NoMap)
    if why is None:
        assert (folder / "x").stat().st_size == 0
    else:
        assert found == NoMap(why)


def test_qemu_img_hangs(chain: list[Layer], qemu_img: Callable[[str], None]) -> None:
    """A qemu-img that does not end is ended."""
    qemu_img("while :; do :; done")
    assert ask(chain, seconds=2) == NoMap("qemu-img does not end in time")


def test_without_qemu_img(chain: list[Layer]) -> None:
    """A host without qemu-img cannot tell."""
    assert ask(chain, program="no-such-qemu-img") == NoMap("there is no no-such-qemu-img on this host")


def test_no_chain(qemu_img: Callable[[str], None]) -> None:
    """A disk without an image has no map."""
    qemu_img(PRINT_WHOLE)
    assert ask([]) == NoMap("the disk has no image")


def test_a_chain_that_is_too_long(
    chain: list[Layer], qemu_img: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chain whose description the kernel would not take is not known."""
    qemu_img(PRINT_WHOLE)
    monkeypatch.setattr(_map, "_LONGEST_WORD", 100)
    assert ask(chain) == NoMap("the chain is too long to be told")


def test_storage_that_hangs(
    chain: list[Layer], qemu_img: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Storage that does not answer when the images are opened is told as that."""
    qemu_img(PRINT_WHOLE)

    async def away(*words: object, **options: object) -> None:
        raise HostSilent("the storage does not answer")

    monkeypatch.setattr(_map, "away", away)
    with pytest.raises(HostSilent):
        ask(chain)


def test_another_user(chain: list[Layer], qemu_img: Callable[[str], None]) -> None:
    """qemu-img runs as the user that it is told, with this user's groups only; who may not do that knows nothing."""
    qemu_img(f"test \"$(id -u) $(id -g) $(id -G)\" = '65534 65533 65533 65532' && {PRINT_WHOLE}")
    (Path(os.readlink(f"/proc/self/fd/{chain[0].bound.descriptors[0]}")).parent).chmod(0o755)
    found = ask(chain, user=User(65534, 65533, (65532,)))
    if os.geteuid() == 0:
        assert found == MapTotals({(0, True): SIZE})
    else:
        assert isinstance(found, NoMap)
        assert "Operation not permitted" in found.why


def test_a_size_that_no_file_has(chain: list[Layer], qemu_img: Callable[[str], None]) -> None:
    """Where a VM claims an impossible size, nothing is known."""
    qemu_img(PRINT_WHOLE)
    for size in (-1, 1 << 70):
        found = ask([chain[0], chain[1]._replace(bound=Bound(why="a protocol"), virtual_size=size)])
        assert isinstance(found, NoMap)
        assert found.why.startswith(f"an image of {size} bytes is not possible: ")


@pytest.mark.parametrize(
    ("euid", "uid", "expected"),
    [
        pytest.param(0, 107, User(107, 36, (36, 107)), id="QEMU's own user"),
        pytest.param(0, 0, None, id="root"),
        pytest.param(1000, 107, None, id="we are not root"),
    ],
)
def test_whom_a_process_runs_as(monkeypatch: pytest.MonkeyPatch, euid: int, uid: int, expected: User | None) -> None:
    """qemu-img runs as QEMU's effective user, with its groups, where we may and need to become that."""
    status = f"Name:\tqemu\nUid:\t0\t{uid}\t0\t0\nGid:\t0\t36\t0\t0\nFDSize:\t64\nGroups:\t36 107 \n"
    monkeypatch.setattr(os, "geteuid", lambda: euid)
    monkeypatch.setattr(_map, "open", lambda path, **words: io.StringIO(status), raising=False)
    assert user_of(4321) == expected


def test_whom_this_process_runs_as() -> None:
    """The file of a real process is understood; of one that has ended there is none."""
    assert user_of(os.getpid()) is None
    with pytest.raises(FileNotFoundError):
        user_of(2**22 + 1)
