# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Words of a QEMU command line for disks, in each of the styles that people use."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

Words = list[str]


def _escaped(text: str | Path) -> str:
    """QEMU's option syntax doubles a comma."""
    return str(text).replace(",", ",,")


def drive(
    file: str | Path | None,
    *,
    id: str,
    qdev: str | None = None,
    device: str | None = "virtio-blk-pci",
    format: str = "qcow2",
    **options: str,
) -> Words:
    """A disk in the `-drive` style; no `file` is an empty drive, no `device` a drive that no device uses."""
    values = {"if": "none", "id": id, **({} if file is None else {"file": str(file), "format": format}), **options}
    words = ["-drive", ",".join(f"{key.replace('_', '-')}={_escaped(value)}" for key, value in values.items())]
    return words if device is None else words + frontend(device, qdev, drive=id)


def frontend(device: str, qdev: str | None, **properties: str) -> Words:
    """A device; `drive` names the drive or node that it shows to the guest."""
    values = [
        device,
        *([f"id={qdev}"] if qdev else []),
        *(f"{key.replace('_', '-')}={value}" for key, value in properties.items()),
    ]
    return ["-device", ",".join(values)]


def blockdev(driver: str, node_name: str, **options: Any) -> Words:
    """One node in the `-blockdev` style; an underscore in the name of an option stands for a hyphen."""
    values = {"driver": driver, "node-name": node_name} | {
        key.replace("_", "-"): value for key, value in options.items()
    }
    return ["-blockdev", json.dumps(values)]


def node(
    file: str | Path,
    *,
    node_name: str,
    qdev: str | None = None,
    device: str | None = "virtio-blk-pci",
    format: str = "qcow2",
    read_only: bool = False,
) -> Words:
    """A disk in the `-blockdev` style whose backing images QEMU finds by itself: only the top has a name."""
    inner = {"driver": "file", "filename": str(file), "read-only": read_only}
    words = blockdev(format, node_name, file=inner, read_only=read_only)
    return words if device is None else words + frontend(device, qdev, drive=node_name)


def named_nodes(
    files: Sequence[str | Path], *, names: Sequence[str], qdev: str | None = None, device: str | None = "virtio-blk-pci"
) -> Words:
    """A disk whose every node is named, as libvirt does: `NAME` is the format node, `NAME-file` the one below it.

    The top comes first. QEMU keeps such nodes open until somebody deletes them.
    """
    words: Words = []
    below: str | None = None
    for depth in reversed(range(len(files))):
        name, file = names[depth], Path(files[depth])
        words += blockdev("file", f"{name}-file", filename=str(file), read_only=depth > 0)
        format = "raw" if file.suffix == ".raw" else "qcow2"
        backing = {"backing": below} if format == "qcow2" else {}
        words += blockdev(format, name, file=f"{name}-file", read_only=depth > 0, **backing)
        below = name
    return words if device is None else words + frontend(device, qdev, drive=names[0])


def empty_cdrom(qdev: str = "cd0") -> Words:
    """A CD-ROM drive without a medium."""
    return frontend("ide-cd", qdev)


def failing_reads(file: str | Path, *, node_name: str, sector: int, errno: int = 5, once: bool = False) -> Words:
    """A named qcow2 node over blkdebug: a read that covers this sector of the *file* fails with `errno`."""
    fault = {"event": "none", "iotype": "read", "errno": errno, "once": once, "sector": sector}
    inner = {"driver": "file", "filename": str(file), "read-only": True}
    words = blockdev("blkdebug", f"{node_name}-faults", image=inner, inject_error=[fault], read_only=True)
    return words + blockdev(
        "qcow2" if Path(file).suffix == ".qcow2" else "raw", node_name, file=f"{node_name}-faults", read_only=True
    )
