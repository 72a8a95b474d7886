# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Every lie that a VM can tell, one at a time, to both modules, beside a VM that tells the truth.

The lies are those of `tests/unit/lies.py`: nothing here starts a QEMU.
"""

from __future__ import annotations

import random
import resource
import sys
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

COLLECTIONS = Path(__file__).resolve().parents[2] / ".ansible" / "collections"
MOST_MEMORY = 100 * 2**20
LONGEST_SECONDS = 5.0


def lies_module() -> Any:
    """The lies, by the name under which Ansible finds this checkout."""
    sys.path.insert(0, str(COLLECTIONS))
    from ansible_collections.virtops.qmp.tests.unit import lies

    return lies


def chosen(lies: Any, seed: int, *, all_places: bool) -> list[Any]:
    """What is tried, in an order that follows from the seed."""
    if not all_places:
        return list(lies.one_of_each(seed))
    every = list(lies.every_lie())
    random.Random(seed).shuffle(every)
    return every


def play(seed: int, *, all_places: bool, seconds: float | None, most: int | None) -> int:
    """Tell the lies, print what came of them, and return how many did harm."""
    lies = lies_module()
    tried = chosen(lies, seed, all_places=all_places)[:most]
    honest = {recording: lies.told_honestly(recording) for recording in lies.RECORDINGS}
    began, done, longest = time.monotonic(), 0, 0.0
    harm: Counter[str] = Counter()
    for lie in tried:
        if seconds is not None and time.monotonic() - began > seconds:
            break
        start = time.process_time()
        for complaint in judged(lies, lie, honest[lie.recording]):
            harm[lie.lie] += 1
            print(f"{lie}: {complaint}", flush=True)
        longest = max(longest, time.process_time() - start)
        done += 1
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    spent = time.monotonic() - began
    print(f"\nseed {seed}: {done} of {len(tried)} lies in {spent:.0f} s, {sum(harm.values())} did harm {dict(harm)}")
    print(f"the longest took {longest:.2f} s of {LONGEST_SECONDS:g}, memory {memory >> 20} MiB of {MOST_MEMORY >> 20}")
    return sum(harm.values()) + (longest > LONGEST_SECONDS) + (memory > MOST_MEMORY)


def judged(lies: Any, lie: Any, honest: Any) -> Iterator[str]:
    """What is wrong with what came of a lie; a traceback is."""
    try:
        yield from lies.complaints(lie, honest)
    except Exception:  # noqa: BLE001  # whatever comes out of the product is what is looked for
        yield traceback.format_exc()[-2000:]
