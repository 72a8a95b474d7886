# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The options of the modules, each once: for the modules themselves, the action plugin and the role's test."""

from __future__ import annotations

from typing import Any, Dict, get_args

from ._model._request import OnError, OnTimeout, State

Spec = Dict[str, Dict[str, Any]]

MONITOR_OPTIONS: Spec = {
    "monitors": {"type": "list", "elements": "str", "aliases": ["monitor"]},
    "domains": {"type": "list", "elements": "str", "aliases": ["domain"]},
    "uri": {"type": "str", "default": "qemu:///system"},
    "connect_timeout": {"type": "float", "default": 10.0},
    "monitor_owner": {"type": "str"},
}

COMMON_OPTIONS: Spec = {
    **MONITOR_OPTIONS,
    "vms": {"type": "list", "elements": "str", "aliases": ["vm"]},
    "exclude": {"type": "list", "elements": "str"},
}

INFO_OPTIONS: Spec = {
    **COMMON_OPTIONS,
    "disks": {"type": "list", "elements": "str", "aliases": ["disk"]},
}

STREAM_OPTIONS: Spec = {
    **COMMON_OPTIONS,
    "disks": {"type": "list", "elements": "str", "required": True, "aliases": ["disk"]},
    "state": {"type": "str", "choices": list(get_args(State)), "default": "populated"},
    "base": {"type": "str"},
    "wait": {"type": "bool", "default": True},
    "wait_timeout": {"type": "int"},
    "until": {"type": "str"},
    "on_timeout": {"type": "str", "choices": list(get_args(OnTimeout)), "default": "fail"},
    "poll_interval": {"type": "int", "default": 0},
    "increment": {"type": "str"},
    "cursor": {"type": "int"},
    "speed": {"type": "str"},
    "total_speed": {"type": "str"},
    "guest_latency": {"type": "str"},
    "on_error": {"type": "str", "choices": list(get_args(OnError)), "default": "report"},
    "parallel": {"type": "int", "default": 1},
    "check_space": {"type": "bool", "default": True},
    "release": {"type": "bool", "default": True},
    "images": {"type": "list", "elements": "path"},
    "read_ahead": {"type": "int", "default": 0},
    "progress": {"type": "int", "default": 10},
    "bound": {"type": "dict"},
    "paced": {"type": "dict"},
}

IMAGES_OPTIONS: Spec = {
    **MONITOR_OPTIONS,
    # No paths: those would expand a $ in a name that a VM has chosen.
    "paths": {"type": "list", "elements": "str", "required": True, "aliases": ["path"]},
    "search": {"type": "list", "elements": "path"},
}

ACCESS_OPTIONS: Spec = {
    # No path: that would expand a $ in a name that a VM has chosen.
    "path": {"type": "str", "required": True},
    "below": {"type": "list", "elements": "path", "required": True},
    "state": {"type": "str", "choices": ["revoked"], "default": "revoked"},
    "owner": {"type": "str"},
    "group": {"type": "str"},
    "mode": {"type": "raw"},
    "setype": {"type": "str"},
    "device": {"type": "int"},
    "inode": {"type": "int"},
}
