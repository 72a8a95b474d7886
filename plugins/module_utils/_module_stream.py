# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The border of block_stream: its options as data, and its result."""

from __future__ import annotations

import re
import time
from typing import Any, Mapping

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.common.text.formatters import human_to_bytes

from ._decide._clock import read_until
from ._decide._report_work import deadline_to_result
from ._model._address import DomainName
from ._model._errors import WrongRequest
from ._model._latency import Paced
from ._model._request import EVERY_DISK, BoundVm, BoundVms, Request, Waiting, check_path
from ._model._seams import Host
from ._module import Way, check_range, selection_from
from ._run import _populate

# QEMU keeps sizes and speeds in a signed 64-bit integer.
_MOST_BYTES = 2**63 - 1
# QEMU's NBD server works on so many requests of a client at a time.
_MOST_READ_AHEAD = 16

# Below, QEMU's own time to look is no more small; above, it is no latency of a disk.
_LEAST_LATENCY, _MOST_LATENCY = 100_000, 10_000_000_000
_MICROSECONDS = {"us": 1, "ms": 1000, "s": 1_000_000}


async def populate(module: AnsibleModule, way: Way, host: Host) -> dict[str, Any]:
    """The work of block_stream."""
    params, request = module.params, request_from(module.params)
    check = module.check_mode
    bound = None if params["bound"] is None else bound_from(params["bound"], is_of_domains=bool(params["domains"]))
    done = await _populate.populate(
        way.find,
        selection_from(params),
        request,
        way.open_link,
        host,
        is_check=check,
        bound=bound,
        ask_plans=way.ask_plans,
    )
    return {**done.to_result(), "deadline": deadline_to_result(request.waiting.until, time.time())}


def bound_from(vms: Mapping[str, Any], *, is_of_domains: bool = False) -> BoundVms:
    """Read the option ``bound``, which the action gives to the later looks of a task.

    :raise WrongRequest: it has another form.
    """
    try:
        address = DomainName if is_of_domains else str
        return tuple(_bound_vm(address(name), vm) for name, vm in vms.items())
    except (AttributeError, TypeError, KeyError, ValueError):
        form = "{MONITOR: {pid: NUMBER or null, started: NUMBER or null, name: NAME or null, keys: [KEY, ...]}, ...}"
        raise WrongRequest(f"bound is invalid; it is {form}, from the result of an earlier call") from None


def _bound_vm(monitor: str, vm: Mapping[str, Any]) -> BoundVm:
    ahead = tuple((key, int(number)) for key, number in vm.get("ahead", {}).items())
    pid, started = _int_or_none(vm["pid"]), _int_or_none(vm["started"])
    return BoundVm(monitor, pid, started, tuple(vm["keys"]), vm.get("name"), ahead)


def _int_or_none(value: Any) -> int | None:
    return None if value is None else int(value)


def request_from(params: Mapping[str, Any]) -> Request:
    """Read the options of block_stream.

    :raise WrongRequest: with the option, the reason and the remedy.
    """
    if not params["disks"]:
        raise WrongRequest(f"disks is empty. Name disks, or {EVERY_DISK!r} for every disk that can be populated")
    for folder in params["images"]:
        check_path("images", folder)
    check_range("parallel", params["parallel"], least=1, most=_MOST_BYTES)
    check_range("read_ahead", params["read_ahead"], least=0, most=_MOST_READ_AHEAD)
    check_range("progress", params["progress"], least=0, most=_MOST_BYTES)
    return Request(
        state=params["state"],
        base=params["base"],
        speed=_speed_from(params, "speed"),
        total_speed=_speed_from(params, "total_speed"),
        on_error=params["on_error"],
        parallel=params["parallel"],
        check_space=params["check_space"],
        release=params["release"],
        images=tuple(params["images"]),
        read_ahead=params["read_ahead"],
        guest_latency=_guest_latency_from(params),
        paced=None if params["paced"] is None else paced_from(params["paced"]),
        goes_on=params["paced"] is not None and bool(params["paced"].get("goes_on")),
        waiting=_waiting_from(params),
    )


def _guest_latency_from(params: Mapping[str, Any]) -> int | None:
    """In nanoseconds."""
    if params["guest_latency"] is None:
        return None
    nanoseconds = to_nanoseconds("guest_latency", params["guest_latency"])
    if params["state"] == "populated" and (not params["wait"] or params["poll_interval"]):
        raise WrongRequest(
            "guest_latency goes neither with wait=false nor with poll_interval: somebody must stay at the monitor"
        )
    return nanoseconds


def to_nanoseconds(option: str, text: str) -> int:
    """Read a time: a number with a unit."""
    words = re.match(r"(\d+(?:\.\d+)?) ?(us|ms|s)$", text.strip(), re.ASCII)
    if words is None:
        raise WrongRequest(f"{option} is {text!r}, which is no time. Write a number with us, ms or s: 5ms, 0.5s")
    # In whole microseconds, so that every boundary of a histogram is a whole number of nanoseconds.
    nanoseconds = round(float(words[1]) * _MICROSECONDS[words[2]]) * 1000
    if not _LEAST_LATENCY <= nanoseconds <= _MOST_LATENCY:
        raise WrongRequest(f"{option} is {text!r}; it must be from 100us to 10s")
    return nanoseconds


def paced_from(told: Mapping[str, Any]) -> Paced | None:
    """Read the option ``paced``, which the action gives to the looks of a task; None where it knows of none before.

    :raise WrongRequest: it has another form.
    """
    if not told.get("limit"):
        return None
    try:
        return Paced(
            limit=int(told["limit"]),
            knee=_int_or_none(told["knee"]),
            low_for=float(told["low_for"]),
            doubt=float(told["doubt"]),
            again_in=float(told["again_in"]),
            again_after=float(told["again_after"]),
            lifted=tuple(
                (str(monitor), str(qdev), str(kind), max(0, int(rung))) for monitor, qdev, kind, rung in told["lifted"]
            ),
        )
    except (TypeError, KeyError, ValueError, OverflowError):
        raise WrongRequest(
            "paced is invalid; it is disks[].guest_latency.paced of an earlier call, with goes_on beside it"
        ) from None


def _speed_from(params: Mapping[str, Any], option: str) -> int | None:
    return None if params[option] is None else to_bytes(option, params[option], "/s")


def _minute_of_day(time_: float) -> int:
    local = time.localtime(time_)
    return local.tm_hour * 60 + local.tm_min


def _waiting_from(params: Mapping[str, Any]) -> Waiting:
    check_range("wait_timeout", params["wait_timeout"], least=0, most=_MOST_BYTES)
    check_range("poll_interval", params["poll_interval"], least=0, most=86400)
    check_range("cursor", params["cursor"], least=0, most=_MOST_BYTES)
    return Waiting(
        wait=params["wait"],
        timeout=params["wait_timeout"],
        until=None if params["until"] is None else read_until(params["until"], time.time(), _minute_of_day),
        on_timeout=params["on_timeout"],
        poll_interval=params["poll_interval"],
        increment=_increment_from(params),
        cursor=params["cursor"] or 0,
    )


def _increment_from(params: Mapping[str, Any]) -> int | None:
    if params["increment"] is None:
        return None
    increment = to_bytes("increment", params["increment"])
    if increment == 0:
        raise WrongRequest(
            "increment is 0. Give the bytes to go, such as 1GiB, or leave it out to populate the whole disk"
        )
    if params["state"] != "populated" or not params["wait"]:
        raise WrongRequest(
            "increment goes with state populated and with wait only: it stops the stream once it has gone so far"
        )
    return increment


def to_bytes(option: str, text: str, per: str = "") -> int:
    """Read a size: plain bytes, or a number with a unit as ansible-core knows it or its IEC name: all powers of 1024.

    :param per: what may stand behind it, ``/s``.
    """
    words = re.match(rf"(\d+(?:\.\d+)?) ?(?:([KMGTPE])(?:i?B)?|([kmgtpe])|B)?(?:{per})?$", text.strip(), re.ASCII)
    unit = "" if words is None else words[2] or words[3] or ""
    if words is None or ("." in words[1] and not unit):
        raise WrongRequest(
            f"{option} is {text!r}, which is no size. Write bytes, or a number with K, M, G or T: 512M, 1.5GiB"
        )
    size = int(human_to_bytes(words[1] + unit)) if unit else int(words[1])
    if size > _MOST_BYTES or (size == 0 and float(words[1])):
        raise WrongRequest(f"{option} is {text!r}, which is out of range: from 1 byte to {_MOST_BYTES}, or 0")
    return size
