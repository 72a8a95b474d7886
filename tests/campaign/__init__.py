# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""A campaign of faults: whoever takes part in a stream is struck, again and again, while a guest writes.

QEMU, the task and its controller are killed; the VM is saved and goes on, or leaves; the storage has no room.

Judged by content, byte by byte, against a model of what the guest wrote. `python -m campaign --help` tells the rest.
"""
