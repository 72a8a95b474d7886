# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Reads the header of an image through the descriptor that QEMU has of it, whatever the file is called by now."""

from __future__ import annotations

import os

from .._model._files import Bound
from .._model._header import HEADER_BYTES, NoHeader, Reading, parse_header
from ._descriptors import reopen


def read_header(pid: int | None, bound: Bound, format: str) -> Reading:
    """What the header of an image says now; it may block where storage hangs: call it through ``_threads.away``.

    :param bound: the file that QEMU (process ``pid``) has open behind the image.
    :param format: the format as QEMU reports it. A raw image has no header, and that is known without a look.
    """
    if format == "raw":
        return parse_header(format, b"")
    if pid is None or bound.inode is None:
        return NoHeader(f"its file is not known: {bound.why}")
    try:
        descriptor = reopen(pid, bound)
    except OSError as error:
        return NoHeader(f"its file cannot be read: {error.strerror}")
    try:
        return parse_header(format, read_head(descriptor))
    except OSError as error:
        return NoHeader(f"its file cannot be read: {error.strerror}")
    finally:
        os.close(descriptor)


def read_head(descriptor: int) -> bytes:
    """So much of a file as a header may take; less only where the file is shorter."""
    head = b""
    # A read may give fewer bytes than were asked for, also before the end.
    while len(head) < HEADER_BYTES:
        part = os.pread(descriptor, HEADER_BYTES - len(head), len(head))
        if not part:
            break
        head += part
    return head
