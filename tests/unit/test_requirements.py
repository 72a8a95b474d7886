# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""The oldest qemu.qmp that will do is named in several files, for each is read by another tool."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# With 0.0.2 the module cannot connect through a socket of its own.
OLDEST = "0.0.3"
NAMED = {
    "requirements.txt": r"^qemu\.qmp>=(\S+)$",
    "tests/unit/requirements.txt": r"^qemu\.qmp>=(\S+)$",
    "tests/integration/requirements.txt": r"^qemu\.qmp>=(\S+)$",
    "plugins/doc_fragments/monitor.py": r"qemu\.qmp (\S+) or newer",
    "roles/qemu_qmp/vars/main.yml": r"^__qemu_qmp_oldest: (\S+)$",
}


def test_the_oldest_qemu_qmp_is_the_same_everywhere() -> None:
    """Documentation, requirements and the role that installs it agree."""
    found = {name: re.findall(pattern, (ROOT / name).read_text(), re.MULTILINE) for name, pattern in NAMED.items()}
    assert found == {name: [OLDEST] for name in NAMED}
