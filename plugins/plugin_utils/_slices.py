# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A long wait in slices: how long each is, what it is asked for, and one result out of all of theirs.

A slice is a run of the module with a short ``wait_timeout`` that leaves the jobs to QEMU. Nothing is kept between two
slices but the result so far: a controller that dies loses nothing that the next run of the task needs.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible.module_utils.common.validation import check_type_bool, check_type_int

from ..module_utils._decide._plan import weightier

# A slice lasts a tenth of the time that was watched already, and no longer than this unless the user wants fewer lines.
_SHARE = 10
_LONGEST_SECONDS = 300

# What a slice does to a stream that ran when the slice before ended, against what somebody else did meanwhile.
_CONTRADICTIONS = {
    "started": "its stream was gone when the task looked again: it failed, or was cancelled. It was started anew",
    "resumed": "its stream was held when the task looked again. It was resumed",
}

Result = dict[str, Any]
Disk = Mapping[str, Any]


@dataclass(frozen=True)
class Watch:
    """The waiting that the user asked for; times are seconds."""

    progress: int
    wait_timeout: int | None
    on_timeout: str

    @classmethod
    def from_arguments(cls, arguments: Mapping[str, Any]) -> Watch | None:
        """The waiting of a task; None where one run of the module does it: no long wait, or an option it refuses."""
        given = {name: value for name, value in arguments.items() if value is not None}
        try:
            progress = check_type_int(given.get("progress", 10))
            wait_timeout = check_type_int(given["wait_timeout"]) if "wait_timeout" in given else None
            waits = check_type_bool(given.get("wait", True))
        except TypeError:
            return None
        on_timeout = given.get("on_timeout", "fail")
        if not waits or given.get("state", "populated") != "populated" or on_timeout not in ("fail", "leave", "stop"):
            return None
        if progress <= 0 or (wait_timeout is not None and wait_timeout <= progress):
            return None
        return cls(progress, wait_timeout, on_timeout)


@dataclass(frozen=True)
class Slice:
    """One run of the module: how long it waits, what happens then, and whether another one may follow."""

    wait_timeout: int
    on_timeout: str
    is_last: bool


def next_slice(watch: Watch, age: float) -> Slice:
    """The slice that begins when the watch is ``age`` seconds old."""
    seconds = max(watch.progress, min(int(age / _SHARE), _LONGEST_SECONDS))
    if watch.wait_timeout is None or age + seconds < watch.wait_timeout:
        return Slice(seconds, "leave", is_last=False)
    return Slice(max(0, math.ceil(watch.wait_timeout - age)), watch.on_timeout, is_last=True)


def call_arguments(arguments: Mapping[str, Any], part: Slice, watched: Sequence[Disk] | None) -> dict[str, Any]:
    """What the module is called with: the user's options, and after the first slice only the disks still watched."""
    call = {**arguments, "wait_timeout": part.wait_timeout, "on_timeout": part.on_timeout}
    if watched is None:
        return call
    names = {"monitors": [disk["monitor"] for disk in watched], "disks": [_unmistakable_name(disk) for disk in watched]}
    for option, values in names.items():
        call.pop(option[:-1], None)  # its alias
        call[option] = list(dict.fromkeys(values))
    return call


def _unmistakable_name(disk: Disk) -> str:
    """A file belongs to one disk of one VM, whatever else is called ``vda``. It is the last of the names."""
    file: str = disk["names"][-1]
    return file if file.startswith("/") else key_of(disk)[1]


def key_of(disk: Disk) -> tuple[str, str]:
    """What stays the same over all slices: the monitor, and the qdev, else the device, else the node."""
    return disk["monitor"], disk["qdev"] or disk["device"] or disk["node_name"]


def still_watched(told: Result) -> list[Disk]:
    """The disks to go on with after a slice: neither finished nor failed, nor stopped where their increment ends."""
    disks = told["disks"]
    if told.get("failed") and all(disk["action"] == "none" and disk["error"] is None for disk in disks):
        return []  # the module refused to begin at all
    return [disk for disk in disks if not disk["finished"] and disk["error"] is None and disk["action"] != "stopped"]


def settle(told: Result, watched: Sequence[Disk] | None, part: Slice, watch: Watch) -> Result:
    """Say of a slice what it means for the whole wait.

    :param watched: the disks as the slice before told of them.
    """
    if "disks" not in told:  # the module did not get to speak: it was refused, or killed
        return {**told, "disks": [], "warnings": [*told.get("warnings", [])]}
    ran = {key_of(disk) for disk in watched or () if disk["job"] is not None}
    # The module knows the wait of its slice only. Its own copy of the message would show that, in place of `msg`.
    settled = _reworded({name: value for name, value in told.items() if name != "exception"}, part, watch)
    settled["disks"] = disks = [_reworded(disk, part, watch) for disk in told["disks"]]
    settled["warnings"] = [*told.get("warnings", [])]
    for disk in disks:
        label = f"{disk['vm']}: disk {disk['path']}"
        if disk["error"] is None and not part.is_last and disk["job"] is not None and disk["job"]["paused"]:
            error = f"{label}: somebody paused its stream during the task. Run the task again to resume it"
            disk["error"] = error
            settled |= {"failed": True, "msg": f"{settled['msg']}\n{error}" if "msg" in settled else error}
        if disk["action"] in _CONTRADICTIONS and key_of(disk) in ran:
            settled["warnings"].append(f"{label}: {_CONTRADICTIONS[disk['action']]}")
    return settled


def _reworded(told: Mapping[str, Any], part: Slice, watch: Watch) -> Result:
    own, whole = (f"within {seconds} s (wait_timeout)" for seconds in (part.wait_timeout, watch.wait_timeout))
    words = {name: told[name].replace(own, whole) for name in ("msg", "error") if isinstance(told.get(name), str)}
    return {**told, **words}


def next_cursor(told: Result) -> int:
    """Where the next attempt of an ``until`` loop goes on: at the first of the disks that are not finished."""
    return min((disk["cursor"] for disk in told.get("disks", []) if not disk["finished"]), default=0)


def merge(so_far: Result, told: Result, gap: float = 0.0) -> Result:
    """Add the result of one more slice: nothing that was done, found or said is lost.

    :param gap: the seconds between the two slices, in which the streams went on.
    """
    earlier = {key_of(disk): disk for disk in so_far["disks"]}
    later = {key_of(disk): disk for disk in told["disks"]}
    # An image that several disks gave up is judged when the last of them has.
    latest = {each["path"]: each for disk in told["disks"] for each in disk["released"]}
    disks = [_merge_disk(earlier.get(key), later.get(key), latest, gap) for key in {**earlier, **later}]
    warnings = [*so_far["warnings"], *told["warnings"]]
    merged = {
        **so_far,
        **told,
        "invocation": so_far.get("invocation", {"module_args": {}}),
        "changed": so_far.get("changed", False) or told.get("changed", False),
        "disks": disks,
        "diff": {
            "before": {**_chains(told, "before"), **_chains(so_far, "before")},
            "after": {**_chains(so_far, "after"), **_chains(told, "after")},
        },
        "warnings": [each for place, each in enumerate(warnings) if each not in warnings[:place]],
    }
    has_failed = any(each.get("failed", False) for each in (so_far, told))
    if has_failed:
        merged["failed"] = True
    merged["finished"] = not has_failed and all(disk["finished"] for disk in disks)
    messages = [each["msg"] for each in (so_far, told) if "msg" in each]
    if messages:
        merged["msg"] = "\n".join(dict.fromkeys(messages))
    return merged


def _merge_disk(earlier: Disk | None, later: Disk | None, latest: Mapping[str, Any], gap: float) -> Disk:
    known = [disk for disk in (earlier, later) if disk is not None]
    ran_on = len(known) == 2 and known[0]["job"] is not None
    growth = [disk["grew_by"] for disk in known]
    total = None if None in growth else sum(growth)
    if ran_on and total is not None:
        # Between two slices the image grew as well: the first size and the last one tell.
        total = known[1]["chain"][0]["allocated"] - known[0]["chain"][0]["allocated"] + known[0]["grew_by"]
    return {
        **known[-1],
        "action": functools.reduce(weightier, (disk["action"] for disk in known)),
        "seconds": sum(disk["seconds"] for disk in known) + (gap if ran_on else 0.0),
        "grew_by": total,
        "released": [latest.get(each["path"], each) for disk in known for each in disk["released"]],
    }


def _chains(result: Result, moment: str) -> Mapping[str, Any]:
    chains: Mapping[str, Any] = result.get("diff", {}).get(moment, {})
    return chains


def as_asked(merged: Result, watch: Watch) -> Result:
    """The result as one run of the module gives it: with the user's own wait, and no empty list of warnings."""
    shown = {name: value for name, value in merged.items() if name != "warnings" or value}
    if "invocation" in merged:
        own = {"wait_timeout": watch.wait_timeout, "on_timeout": watch.on_timeout}
        shown["invocation"] = {"module_args": {**merged["invocation"]["module_args"], **own}}
    return shown
