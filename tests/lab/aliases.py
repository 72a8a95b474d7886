# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Other names of one file; what must be taken back is left to the stack."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import host

if TYPE_CHECKING:
    from contextlib import ExitStack
    from pathlib import Path


def hard_link(file: Path, _stack: ExitStack) -> Path:
    link = file.with_name("hard-link")
    link.hardlink_to(file)
    return link


def symbolic_link(file: Path, _stack: ExitStack) -> Path:
    link = file.with_name("symbolic-link")
    link.symlink_to(file.name)
    return link


def by_bind_mount(file: Path, stack: ExitStack) -> Path:
    return stack.enter_context(host.bind_mount(file.parent, file.with_name("mounted"))) / file.name
