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
from ..module_utils._decide._released import each_once, unanswered, weigh
from ..module_utils._decide._report import in_one_message
from ..module_utils._model._errors import StreamFailed, WrongRequest

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


def call_arguments(arguments: Mapping[str, Any], part: Slice, bound: Mapping[str, Any] | None) -> dict[str, Any]:
    """What the module is called with: the user's options, and after the first slice only the disks still watched."""
    call = {**arguments, "wait_timeout": part.wait_timeout, "on_timeout": part.on_timeout}
    return call if bound is None else {**call, "bound": bound}


def bind(told: Result, watched: Sequence[Disk]) -> dict[str, Any]:
    """The option ``bound`` of the next slice: the watched disks, each of the very QEMU that this slice has seen."""
    processes = {vm["monitor"]: {"pid": vm["pid"], "started": vm["started"]} for vm in told["vms"]}
    bound: dict[str, Any] = {}
    for disk in watched:
        monitor = disk["monitor"]
        bound.setdefault(monitor, {**processes[monitor], "keys": []})["keys"].append(disk["key"])
    return bound


def key_of(disk: Disk) -> tuple[str, str]:
    """What stays the same over all slices: the monitor, and what the disk is called there."""
    return disk["monitor"], disk["key"]


def still_watched(told: Result) -> list[Disk]:
    """The disks to go on with after a slice: neither finished nor failed, nor stopped where their increment ends."""
    if any(error["kind"] == WrongRequest.__name__ for error in told["errors"]):
        return []  # the module refused to begin at all
    return [
        disk for disk in told["disks"] if not disk["finished"] and disk["error"] is None and disk["action"] != "stopped"
    ]


def settle(told: Result, watched: Sequence[Disk] | None, part: Slice) -> Result:
    """Say of a slice what it means for the whole wait.

    :param watched: the disks as the slice before told of them.
    """
    if "disks" not in told:  # the module did not get to speak: it was refused, or killed
        nothing: Result = {"vms": [], "disks": [], "released": []}
        return {**told, **nothing, "errors": errors_of(told), "warnings": [*told.get("warnings", [])]}
    ran = {key_of(disk) for disk in watched or () if disk["job"] is not None}
    disks: list[Disk] = []
    errors, warnings = errors_of(told), [*told.get("warnings", [])]
    for disk in told["disks"]:
        if disk["action"] in _CONTRADICTIONS and key_of(disk) in ran:
            warnings.append(f"{disk['vm']}: disk {disk['label']}: {_CONTRADICTIONS[disk['action']]}")
        error = None if part.is_last else _pause_by_somebody(disk)
        errors += [error] if error else []
        disks.append({**disk, "error": error["msg"], "error_kind": error["kind"]} if error else disk)
    settled = {**told, "disks": [*disks, *_lost(told, watched or ())], "errors": errors, "warnings": warnings}
    # The module's own copy of its message would be shown in place of that of the whole wait.
    settled.pop("exception", None)
    return settled


def _pause_by_somebody(disk: Disk) -> dict[str, Any] | None:
    if disk["error"] is not None or disk["job"] is None or not disk["job"]["paused"]:
        return None
    return {
        "kind": StreamFailed.__name__,
        "msg": f"{disk['vm']}: disk {disk['label']}: somebody paused its stream during the task. "
        "Run the task again to resume it",
        "vm": disk["vm"],
        "disk": disk["label"],
        "monitor": disk["monitor"],
        "key": disk["key"],
    }


def errors_of(told: Result) -> list[dict[str, Any]]:
    """What went wrong, also where the module could not say it itself; ``kind`` is null then."""
    if "errors" in told or not told.get("failed", False):
        return [*told.get("errors", [])]
    about = dict.fromkeys(("kind", "vm", "disk", "monitor", "key"))
    return [{**about, "msg": told.get("msg", "the module failed")}]


def _lost(told: Result, watched: Sequence[Disk]) -> list[Disk]:
    """The watched disks of which a slice told nothing but an error: of the disk, or of its whole VM."""
    seen = {key_of(disk) for disk in told["disks"]}
    lost: list[Disk] = []
    for disk in watched:
        reason = _reason(told["errors"], disk)
        if key_of(disk) not in seen and reason is not None:
            # Nothing was done to it that is known, and its job may be there or not.
            unknown: Result = {"job": None, "action": "none", "seconds": 0.0, "grew_by": None, "released": []}
            lost.append({**disk, **unknown, "error": reason["msg"], "error_kind": reason["kind"]})
    return lost


def _reason(errors: Sequence[Mapping[str, Any]], disk: Disk) -> Mapping[str, Any] | None:
    own = [error for error in errors if error["monitor"] == disk["monitor"] and error["key"] in (disk["key"], None)]
    return own[0] if own else None


def next_cursor(told: Result) -> int:
    """Where the next attempt of an ``until`` loop goes on: at the first of the disks that are not finished."""
    return min((disk["cursor"] for disk in told.get("disks", []) if not disk["finished"]), default=0)


def merge(so_far: Result, told: Result, gap: float = 0.0) -> Result:
    """Add the result of one more slice: nothing that was done, found or said is lost.

    :param gap: the seconds between the two slices, in which the streams went on.
    """
    earlier = {key_of(disk): disk for disk in so_far["disks"]}
    later = {key_of(disk): disk for disk in told["disks"]}
    errors = _each_once([*so_far["errors"], *told["errors"]])
    disks = [_merge_disk(earlier.get(key), later.get(key), gap) for key in {**earlier, **later}]
    disks = _judged_last(disks, told, unanswered(errors))
    return {
        **so_far,
        **told,
        "invocation": so_far.get("invocation", {"module_args": {}}),
        "changed": so_far.get("changed", False) or told.get("changed", False),
        "finished": not errors and all(disk["finished"] for disk in disks),
        "released": each_once(image for disk in disks for image in disk["released"]),
        "vms": _each_once([*so_far["vms"], *told["vms"]]),
        "disks": disks,
        "diff": {
            "before": {**_chains(told, "before"), **_chains(so_far, "before")},
            "after": {**_chains(so_far, "after"), **_chains(told, "after")},
        },
        "errors": errors,
        "warnings": _each_once([*so_far["warnings"], *told["warnings"]]),
    }


def _each_once(values: Sequence[Any]) -> list[Any]:
    return [each for place, each in enumerate(values) if each not in values[:place]]


def _judged_last(disks: Sequence[Disk], told: Result, silent: Sequence[str]) -> list[Disk]:
    """Judge an image that several disks gave up when the last of them has, and is populated.

    :param silent: the monitors of the VMs that any slice could not ask: a later slice does not look at them any more.
    """
    latest = {image["path"]: image for disk in told["disks"] if disk["finished"] for image in disk["released"]}
    judged: list[Disk] = []
    for disk in disks:
        verdicts = disk["released"]
        if disk["finished"]:
            verdicts = [latest.get(image["path"], image) for image in verdicts]
        judged.append({**disk, "released": weigh(verdicts, {}, silent)})
    return judged


def _merge_disk(earlier: Disk | None, later: Disk | None, gap: float) -> Disk:
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
        "released": [image for disk in known for image in disk["released"]],
    }


def _chains(result: Result, moment: str) -> Mapping[str, Any]:
    chains: Mapping[str, Any] = result.get("diff", {}).get(moment, {})
    return chains


def as_asked(merged: Result, watch: Watch) -> Result:
    """The result as one run of the module gives it: with the user's own wait, and no empty list of warnings."""
    shown = {name: value for name, value in merged.items() if name != "warnings" or value}
    if merged["errors"]:
        message = in_one_message([error["msg"] for error in merged["errors"]])
        shown = {**shown, "failed": True, "finished": False, "msg": message}
    if "invocation" in merged:
        own = {"wait_timeout": watch.wait_timeout, "on_timeout": watch.on_timeout}
        shown["invocation"] = {"module_args": {**merged["invocation"]["module_args"], **own}}
    return shown
