# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""The least that populates a disk by QMP: start the job, and return at its event. It flushes and verifies nothing.

python raw_listener.py MONITOR NODE
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from qemu.qmp import EventListener, QMPClient


async def main(monitor: str, node: str) -> None:
    client = QMPClient()
    await client.connect(monitor)
    completed = EventListener("BLOCK_JOB_COMPLETED")
    with client.listen(completed):
        await client.execute("block-stream", {"job-id": "raw", "device": node})
        event = await completed.get()
    data: Any = event["data"]
    print(data.get("error", "completed"), flush=True)
    await client.disconnect()


asyncio.run(main(*sys.argv[1:]))
