# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Images and chains of known content, and the guest-visible bytes of an image that nobody runs."""

from __future__ import annotations

import json
import random
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .process import run, tool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

KiB = 1024
MiB = 1024 * KiB


def qemu_img() -> str:
    return tool("QEMU_IMG", "qemu-img")


@dataclass(frozen=True)
class Write:
    """A range of an image filled with pseudo-random bytes that follow from the seed alone."""

    offset: int
    size: int
    seed: int

    @property
    def content(self) -> bytes:
        return random.Random(self.seed).randbytes(self.size)


def create(  # noqa: PLR0913  # each has a default, and a test names the one or two that it is about
    path: Path,
    size: int | None = None,
    *,
    format: str = "qcow2",
    backing: str | Path | None = None,
    backing_format: str = "qcow2",
    writes: Iterable[Write] = (),
    options: str = "",
) -> Path:
    """Create an image; `backing` is written into its header as it is given, relative names included.

    `options` are those of the format, such as `cluster_size=2M`.
    """
    command: list[str | Path] = [qemu_img(), "create", "-q", "-f", format, *(["-o", options] if options else [])]
    if backing is not None:
        command += ["-b", backing, "-F", backing_format]
    command.append(path)
    if size is not None:
        command.append(str(size))
    run(command)
    write(path, writes, format=format)
    return path


def write(path: Path, writes: Iterable[Write], *, format: str = "qcow2") -> None:
    """Write ranges into an image that nobody runs."""
    with tempfile.TemporaryDirectory(prefix="qmp-") as folder:
        command: list[str | Path] = [tool("QEMU_IO", "qemu-io"), "-f", format]
        for number, each in enumerate(writes):
            source = Path(folder, str(number))
            source.write_bytes(each.content)
            command += ["-c", f"write -s {source} {each.offset} {each.size}"]
        if len(command) > 3:
            run([*command, path])


def info(path: Path) -> dict[str, Any]:
    """What `qemu-img info` says of one image."""
    found: dict[str, Any] = json.loads(run([qemu_img(), "info", "--output=json", path]))
    return found


def map_of(path: Path) -> list[dict[str, Any]]:
    """The extents of an image that nobody runs, as `qemu-img map` sees them."""
    extents: list[dict[str, Any]] = json.loads(run([qemu_img(), "map", "--output=json", path]))
    return extents


def read_from_below(path: Path, end: int) -> list[dict[str, Any]]:
    """The extents among the first `end` bytes whose data an image that nobody runs reads from its backing images."""
    return [extent for extent in map_of(path) if extent["data"] and extent["depth"] > 0 and extent["start"] < end]


def last_data_sector(path: Path) -> int:
    """The sector of an image *file* that holds the end of the guest's data: a read of it is a good one to fail."""
    extents = [extent for extent in map_of(path) if extent["data"] and extent["depth"] == 0]
    return (int(extents[-1]["offset"]) + int(extents[-1]["length"])) // 512 - 1


def backing(path: Path) -> str | None:
    """The backing file that the header of an image names; None for an image that stands on its own."""
    name: str | None = info(path).get("backing-filename")
    return name


def is_linked(path: Path, offset: int = 0) -> bool:
    """Whether the header at this place of a file names a backing image, as it is on the storage; QEMU may have it open.

    Only QEMU's next start reads that.
    """
    with path.open("rb") as file:
        file.seek(offset)
        header = file.read(MiB)
    if header[:4] == b"QED\0":
        return bool(header[16] & 1)
    if header[:4] == b"QFI\xfb":
        return any(header[8:16])
    return b'parentFileNameHint="' in header  # vmdk


def snapshot_content(path: Path, snapshot: str) -> bytes:
    """The guest-visible bytes of an internal snapshot of an image that nobody runs."""
    with tempfile.TemporaryDirectory(prefix="qmp-") as folder:
        raw = Path(folder, "raw")
        run([qemu_img(), "convert", "-l", f"snapshot.name={snapshot}", "-O", "raw", path, raw])
        return raw.read_bytes()


def content(source: Path | str, format: str | None = None) -> bytes:
    """The guest-visible bytes of an image, or of an NBD address: what a VM that starts from it would read."""
    with tempfile.TemporaryDirectory(prefix="qmp-") as folder:
        raw = Path(folder, "raw")
        run([qemu_img(), "convert", *(["-f", format] if format else []), "-O", "raw", source, raw])
        return raw.read_bytes()


def differences(expected: bytes, found: bytes, limit: int = 8) -> list[str]:
    """The first blocks of 64 KiB in which two contents differ, in words; empty when they are equal."""
    words = [] if len(expected) == len(found) else [f"{len(expected)} bytes expected, {len(found)} found"]
    if expected == found:
        return words
    block = 64 * KiB
    for offset in range(0, min(len(expected), len(found)), block):
        part = found[offset : offset + block]
        if part != expected[offset : offset + block]:
            words.append(f"{offset // KiB} KiB: {'zeros' if not any(part) else 'other data'}")
    return words[:limit]


@dataclass(frozen=True)
class Chain:
    """A backing chain on disk, the top first, and what a guest reads from it."""

    images: tuple[Path, ...]
    expected: bytes = field(repr=False)

    @property
    def top(self) -> Path:
        return self.images[0]

    @property
    def base(self) -> Path:
        return self.images[-1]

    def take_away(self) -> None:
        """Move every image below the top to another folder: what still needs one fails from now on."""
        for image in self.images[1:]:
            aside = image.parent / "taken-away"
            aside.mkdir(exist_ok=True)
            image.rename(aside / image.name)


def layer_writes(layer: int, size: int, seed: int) -> list[Write]:
    """The ranges that one layer holds; 0 is the base. Layers overlap in part, and each has ranges of its own."""
    if layer == 0:
        spans = [(0, 2 * MiB), (5 * MiB, 1536 * KiB), (size - 192 * KiB, 192 * KiB)]
    else:
        spans = [
            (layer * 384 * KiB, 512 * KiB),
            (3 * MiB + layer * 192 * KiB, 64 * KiB),
            (5 * MiB + layer * 320 * KiB, 128 * KiB),
        ]
    return [
        Write(offset, length, seed * 10_000 + layer * 100 + number) for number, (offset, length) in enumerate(spans)
    ]


def chain(  # noqa: PLR0913  # each has a default, and a test names the one or two that it is about
    folder: Path,
    *,
    layers: int = 1,
    size: int = 16 * MiB,
    base_format: str = "qcow2",
    relative: bool = False,
    serve: Callable[[Path], str] | None = None,
    prefix: str = "",
    seed: int = 1,
    options: str = "",
) -> Chain:
    """A top over `layers` backing images: `top.qcow2`, `mid1.qcow2` …, `base.qcow2` (or `base.raw`).

    `serve` makes the base available to the image above it under another address, over NBD for instance. `options` are
    those of the images above the base.
    """
    model = bytearray(size)
    made: list[Path] = []
    for layer in range(layers + 1):
        is_base = layer == 0
        format = base_format if is_base else "qcow2"
        name = "base" if is_base else "top" if layer == layers else f"mid{layers - layer}"
        path = folder / f"{prefix}{name}.{format}"
        writes = layer_writes(layer, size, seed)
        below = made[0] if made else None
        backing: str | Path | None = below
        if below and layer == 1 and serve:
            backing = serve(below)
        elif below and relative:
            backing = below.name
        create(
            path,
            size,
            format=format,
            backing=backing,
            backing_format=below.suffix[1:] if below else "",
            writes=writes,
            options="" if is_base else options,
        )
        for each in writes:
            model[each.offset : each.offset + each.size] = each.content
        made.insert(0, path)
    return Chain(tuple(made), bytes(model))
