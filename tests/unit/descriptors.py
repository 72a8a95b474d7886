# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What this process has open, for tests that nothing is left open."""

from __future__ import annotations

import collections
import contextlib
import os


def open_files() -> collections.Counter[str]:
    """How often each file, socket and pipe is open; what was left open is ``open_files() - before``.

    Without the files of /proc: a thread that an earlier test gave up may read there at any moment.
    """
    found: collections.Counter[str] = collections.Counter()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # that of the listing itself
            found[os.readlink(f"/proc/self/fd/{name}")] += 1
    return collections.Counter({link: count for link, count in found.items() if not link.startswith("/proc/")})
