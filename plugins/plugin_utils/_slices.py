# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A long wait in slices: how long each is, what it is asked for, and one result out of all of theirs.

A slice is a run of the module with a short ``wait_timeout`` that leaves the jobs to QEMU. Nothing is kept between two
slices but the result so far: a controller that dies loses nothing that the next run of the task needs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ansible.module_utils.common.validation import check_type_bool, check_type_int

from ..module_utils._decide._actions import weightier
from ..module_utils._decide._failures import failure_to_result, in_one_message
from ..module_utils._decide._released import each_once, unanswered, weigh
from ..module_utils._model._address import DomainName
from ..module_utils._model._errors import Failure, StreamFailed, WrongRequest

# A slice lasts a tenth of the time that was watched already, and no longer than this unless the user wants fewer lines.
_SHARE = 10
_LONGEST_SECONDS = 600

# What a slice does to a stream that ran when the slice before ended, against what somebody else did meanwhile.
_CONTRADICTIONS = {
    "started": "its stream was gone when the task looked again: it failed, or was cancelled. It was started anew",
    "resumed": "its stream was held when the task looked again. It was resumed",
}

Result = dict[str, Any]
Disk = Mapping[str, Any]


def without_empty(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The options that are given: an empty string is as if it were not there, such as the answer to a survey."""
    given: dict[str, Any] = {}
    for name, value in arguments.items():
        is_empty = value is None or (isinstance(value, str) and not value.strip())
        if not is_empty:
            given[name] = value
    return given


class Watch(NamedTuple):
    """The waiting that the user asked for; times are seconds."""

    progress: int
    wait_timeout: int | None
    on_timeout: str

    @classmethod
    def from_arguments(cls, arguments: Mapping[str, Any]) -> Watch | None:
        """The waiting of a task; None where one run of the module does it: no long wait, or an option it refuses."""
        given = without_empty(arguments)
        try:
            progress = check_type_int(given.get("progress", 10))
            wait_timeout = None
            if "wait_timeout" in given:
                wait_timeout = check_type_int(given["wait_timeout"])
            waits = check_type_bool(given.get("wait", True))
        except TypeError:
            # What is invalid the module refuses, in its own words.
            return None
        on_timeout = given.get("on_timeout", "fail")
        is_populating = given.get("state", "populated") == "populated"
        if not waits or not is_populating or on_timeout not in ("fail", "leave", "stop"):
            return None
        is_short = wait_timeout is not None and wait_timeout <= progress
        if progress <= 0 or is_short:
            return None
        return cls(progress, wait_timeout, on_timeout)


class Slice(NamedTuple):
    """One run of the module: how long it waits, what happens then, and whether another one may follow."""

    wait_timeout: int
    on_timeout: str
    is_last: bool


def next_slice(watch: Watch, age: float, left: float | None = None) -> Slice:
    """The slice that begins when the watch is ``age`` seconds old.

    :param left: how many seconds the clock of the hypervisor leaves; None where no end by the clock is known.
    """
    seconds = max(watch.progress, min(int(age / _SHARE), _LONGEST_SECONDS))
    if watch.wait_timeout is not None and age + seconds >= watch.wait_timeout:
        return Slice(max(0, math.ceil(watch.wait_timeout - age)), watch.on_timeout, is_last=True)
    if left is not None and left <= seconds:
        # A little more than what is left, so that it is the clock that ends it.
        return Slice(math.ceil(left) + 1, watch.on_timeout, is_last=True)
    return Slice(seconds, "leave", is_last=False)


def call_arguments(
    arguments: Mapping[str, Any],
    part: Slice,
    bound: Mapping[str, Any] | None,
    deadline: Mapping[str, Any] | None,
    watched: Sequence[Disk] = (),
) -> dict[str, Any]:
    """What the module is called with: the user's options, and after the first slice only the disks still watched.

    :param watched: the disks as the slice before told of them.
    :param deadline: as the first slice has found it: by now the next such time may be that of another day.
    """
    call = {**arguments, "wait_timeout": part.wait_timeout, "on_timeout": part.on_timeout}
    if bound is not None:
        call["bound"] = bound
    if deadline is not None:
        call["until"] = f"@{deadline['at']}"
    if "guest_latency" in arguments:
        # What the user is shown of the first call has it, and needs no explanation of its own.
        call["paced"] = {**_paced(watched), "goes_on": not part.is_last}
    return call


def _paced(watched: Sequence[Disk]) -> Mapping[str, Any]:
    """How fast the streams were at the end of the slice before: all of them know it."""
    for disk in watched:
        if disk["guest_latency"] is not None:
            paced: Mapping[str, Any] = disk["guest_latency"]["paced"]
            return paced
    return {}


def bind(vms: Sequence[Mapping[str, Any]], watched: Sequence[Disk]) -> dict[str, Any]:
    """The option ``bound`` of the next slice: the watched disks, each of the very QEMU that the last slice has seen.

    :param vms: all that any slice has seen, the last look last. Those without a watched disk are named as well, for one
        of them may have open what a disk gives up.
    """
    bound: dict[str, Any] = {}
    for vm in vms:
        address = address_of(vm)
        own = [disk for disk in watched if address_of(disk) == address]
        keys = [disk["key"] for disk in own]
        ahead = {disk["key"]: disk["ahead"] for disk in own if disk.get("ahead") is not None}
        bound[address] = {
            "pid": vm["pid"],
            "started": vm["started"],
            "name": vm["name"],
            "keys": keys,
            "ahead": ahead,
        }
    return bound


def address_of(told: Mapping[str, Any]) -> str:
    """The monitor or the domain that a VM, a disk or an error is of; empty for an error that is of none."""
    return told["monitor"] or "" if told["domain"] is None else DomainName(told["domain"])


def key_of(disk: Disk) -> tuple[str, str]:
    """What stays the same over all slices: the monitor or domain, and what the disk is called there."""
    return address_of(disk), disk["key"]


def still_watched(told: Result) -> list[Disk]:
    """The disks to go on with after a slice: neither finished nor failed, nor stopped where their increment ends."""
    kinds = [error["kind"] for error in told["errors"]]
    # Then the module refused to begin at all.
    if WrongRequest.__name__ in kinds:
        return []
    watched: list[Disk] = []
    for disk in told["disks"]:
        has_ended = disk["finished"] or disk["error"] is not None or disk["action"] == "stopped"
        if not has_ended:
            watched.append(disk)
    return watched


def settle(told: Result, watched: Sequence[Disk] | None, part: Slice) -> Result:
    """Say of a slice what it means for the whole wait.

    :param watched: the disks as the slice before told of them.
    """
    errors = errors_of(told)
    warnings = [*told.get("warnings", [])]
    # The module did not get to speak: it was refused, or killed.
    if "disks" not in told:
        return {**told, "vms": [], "disks": [], "released": [], "errors": errors, "warnings": warnings}
    ran = {key_of(disk) for disk in watched or () if disk["job"] is not None}
    disks: list[Disk] = []
    for disk in told["disks"]:
        if disk["action"] in _CONTRADICTIONS and key_of(disk) in ran:
            warnings.append(f"{disk['vm']}: disk {disk['label']}: {_CONTRADICTIONS[disk['action']]}")
        error = _pause_by_somebody(disk)
        # In the last one the user's own `on_timeout` says what becomes of a stream that stands still.
        if error is None or part.is_last:
            disks.append(disk)
            continue
        errors.append(error)
        disks.append({**disk, "error": error["msg"], "error_kind": error["kind"]})
    settled = {**told, "disks": [*disks, *_lost(told, watched or ())], "errors": errors, "warnings": warnings}
    # The module's own copy of its message would be shown in place of that of the whole wait.
    settled.pop("exception", None)
    return settled


def _pause_by_somebody(disk: Disk) -> dict[str, Any] | None:
    if disk["error"] is not None or disk["job"] is None or not disk["job"]["paused"]:
        return None
    subject = f"{disk['vm']}: disk {disk['label']}"
    message = f"{subject}: somebody paused its stream during the task. Run the task again to resume it"
    failure = failure_to_result(Failure(StreamFailed.__name__, message, *key_of(disk)))
    return {**failure, "vm": disk["vm"], "disk": disk["label"]}


def errors_of(told: Result) -> list[dict[str, Any]]:
    """What went wrong, also where the module could not say it itself; ``kind`` is null then."""
    if "errors" in told or not told.get("failed", False):
        return [*told.get("errors", [])]
    about = dict.fromkeys(("kind", "vm", "disk", "monitor", "domain", "key"))
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
            unknown["clock"] = unknown["guest_latency"] = None
            lost.append({**disk, **unknown, "error": reason["msg"], "error_kind": reason["kind"]})
    return lost


def _reason(errors: Sequence[Mapping[str, Any]], disk: Disk) -> Mapping[str, Any] | None:
    for error in errors:
        # Without a key it is about the whole VM.
        if address_of(error) == address_of(disk) and error["key"] in (disk["key"], None):
            return error
    return None


def next_cursor(told: Result) -> int:
    """Where the next attempt of an ``until`` loop goes on: at the first of the disks that are not finished."""
    unfinished = [disk["cursor"] for disk in told.get("disks", []) if not disk["finished"]]
    return min(unfinished, default=0)


def merge(so_far: Result, told: Result) -> Result:
    """Add the result of one more slice: nothing that was done, found or said is lost."""
    errors = _each_once([*so_far["errors"], *told["errors"]])
    disks = _merge_disks(so_far["disks"], told["disks"])
    disks = _judged_last(disks, told, unanswered(errors))
    return {
        **so_far,
        **told,
        "invocation": so_far.get("invocation", {"module_args": {}}),
        "changed": so_far.get("changed", False) or told.get("changed", False),
        "finished": not errors and all(disk["finished"] for disk in disks),
        "released": each_once(_all_released(disks)),
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
    # No set: they are dicts, which cannot be in one.
    found: list[Any] = []
    for each in values:
        if each not in found:
            found.append(each)
    return found


def _all_released(disks: Sequence[Disk]) -> list[dict[str, Any]]:
    """The verdicts on the images that the disks gave up: several on one image, where several disks had it."""
    released: list[dict[str, Any]] = []
    for disk in disks:
        released += disk["released"]
    return released


def _judged_last(disks: Sequence[Disk], told: Result, silent: Sequence[str]) -> list[Disk]:
    """Judge an image that several disks gave up when the last of them has, and is populated.

    :param silent: the monitors of the VMs that any slice could not ask: a later slice does not look at them any more.
    """
    finished = [disk for disk in told["disks"] if disk["finished"]]
    latest = {image["path"]: image for image in _all_released(finished)}
    judged: list[Disk] = []
    for disk in disks:
        verdicts = disk["released"]
        if disk["finished"]:
            verdicts = [latest.get(image["path"], image) for image in verdicts]
        judged.append({**disk, "released": weigh(verdicts, {}, silent)})
    return judged


def _merge_disks(earlier: Sequence[Disk], later: Sequence[Disk]) -> list[Disk]:
    """What two slices told of the same disk, as one; a disk that only one of them told of stays as it is."""
    merged = _by_key(earlier)
    for key, disk in _by_key(later).items():
        if key in merged:
            merged[key] = _merge_disk(merged[key], disk)
        else:
            merged[key] = disk
    return list(merged.values())


def _by_key(disks: Sequence[Disk]) -> dict[tuple[str, str], Disk]:
    return {key_of(disk): disk for disk in disks}


def _merge_disk(earlier: Disk, later: Disk) -> Disk:
    ran_on = earlier["job"] is not None
    seconds = earlier["seconds"] + later["seconds"]
    if ran_on:
        seconds += _unwatched(earlier, later)
    return {
        **later,
        "clock": earlier["clock"] if later["clock"] is None else later["clock"],
        "action": weightier(earlier["action"], later["action"]),
        "seconds": seconds,
        "grew_by": _growth(earlier, later, ran_on=ran_on),
        "guest_latency": _felt(earlier["guest_latency"], later["guest_latency"]),
        "released": _all_released([earlier, later]),
    }


def _felt(earlier: Mapping[str, Any] | None, later: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    if earlier is None or later is None:
        return earlier if later is None else later
    return {**later, "held_back": earlier["held_back"] + later["held_back"]}


def _unwatched(earlier: Disk, later: Disk) -> float:
    """The seconds between two slices by the hypervisor's own clock, which no slow connection holds up."""
    if earlier["clock"] is None or later["clock"] is None:
        return 0.0
    # A hypervisor that was started anew begins to count anew.
    gap: float = max(0.0, later["clock"] - later["seconds"] - earlier["clock"])
    return gap


def _growth(earlier: Disk, later: Disk, *, ran_on: bool) -> int | None:
    before, since = earlier["grew_by"], later["grew_by"]
    if before is None or since is None:
        return None
    if ran_on:
        # Between two slices the image grew as well: the first size and the last one tell.
        since = later["chain"][0]["allocated"] - earlier["chain"][0]["allocated"]
    total: int = before + since
    return total


def _chains(result: Result, moment: str) -> Mapping[str, Any]:
    chains: Mapping[str, Any] = result.get("diff", {}).get(moment, {})
    return chains


def as_asked(merged: Result, watch: Watch) -> Result:
    """The result as one run of the module gives it: with the user's own wait, and no empty list of warnings."""
    shown = dict(merged)
    if not merged.get("warnings"):
        shown.pop("warnings", None)
    if merged["errors"]:
        message = in_one_message([error["msg"] for error in merged["errors"]])
        shown = {**shown, "failed": True, "finished": False, "msg": message}
    if "invocation" in merged:
        own = {"wait_timeout": watch.wait_timeout, "on_timeout": watch.on_timeout}
        shown["invocation"] = {"module_args": {**merged["invocation"]["module_args"], **own}}
    return shown
