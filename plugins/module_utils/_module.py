# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The border to Ansible: options in, one result out. Nothing else here knows ``AnsibleModule``."""

from __future__ import annotations

import asyncio
import functools
import re
import time
from dataclasses import dataclass
from typing import Any, Callable, Coroutine, Dict, Mapping

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible.module_utils.common.text.formatters import human_to_bytes

from ._decide._clock import read_until
from ._decide._report import deadline_to_result, failure_to_result, in_one_message
from ._model._address import DomainName
from ._model._errors import Failure, QmpError, WrongRequest
from ._model._request import (
    EVERY_DISK,
    BoundVm,
    BoundVms,
    Request,
    Selection,
    Waiting,
    check_image_path,
    check_path,
)
from ._model._seams import Find, Host, OpenLink
from ._model._text import presentable
from ._reach._host import LinuxHost
from ._reach._libvirt import LIBVIRT_IMPORT_ERROR, Domains, check_uri
from ._reach._peer import find_owner
from ._reach._qemu import open_link
from ._reach._qmp import QEMU_QMP_IMPORT_ERROR
from ._reach._reader import NobodyReads, unless_unread
from ._run import _images, _work
from ._run._observe import find_monitors

_NO_QEMU_QMP = "to speak to QEMU. The role virtops.qmp.qemu_qmp installs it"
_NO_LIBVIRT = (
    "for domains. It is the distribution's package python3-libvirt, for the distribution's own Python; the role "
    "virtops.qmp.qemu_qmp installs it, also for its virtual environment (qemu_qmp_libvirt)"
)

# QEMU keeps sizes and speeds in a signed 64-bit integer.
_MOST_BYTES = 2**63 - 1
# QEMU's NBD server works on so many requests of a client at a time.
_MOST_READ_AHEAD = 16

# Options that are lists of names.
_LISTS = frozenset({"monitors", "domains", "disks", "vms", "exclude", "images", "search"})

Work = Callable[[AnsibleModule, "Way", Host], Coroutine[Any, Any, Dict[str, Any]]]


def run(module: AnsibleModule, work: Work, *, needs_vms: bool = True, takes_turns: bool = False) -> None:
    """Do the work of a module and exit. ``work`` returns the result; its ``errors`` and ``warnings`` are told here.

    :param needs_vms: whether there is no work without VMs.
    :param takes_turns: whether to be alone at one of libvirt's guests, as who holds a monitor is.
    """
    _leave_out_empty(module.params)
    try:
        by = _vms_by(module.params, is_needed=needs_vms)
        _require_library(module, by)
        _check_range("connect_timeout", module.params["connect_timeout"], least=0.001, most=86400)
        host = LinuxHost(functools.partial(module.run_command, handle_exceptions=False))
        result = asyncio.run(unless_unread(work(module, _way(module.params, by, host, takes_turns=takes_turns), host)))
    except NobodyReads:
        # Without a word. QEMU goes on with its jobs, and the monitors are free for the next run.
        raise SystemExit(1) from None
    except QmpError as error:
        result = {"warnings": [], "errors": [failure_to_result(Failure.of(error, str(error)))]}
    result = presentable(result)
    for warning in result.pop("warnings"):
        module.warn(warning)
    if result["errors"]:
        module.fail_json(msg=in_one_message([error["msg"] for error in result["errors"]]), **result)
    module.exit_json(**result)


def _vms_by(params: Mapping[str, Any], *, is_needed: bool) -> str:
    """Which of the two options names the VMs.

    :raise WrongRequest: none or both are given.
    """
    given = [option for option in ("monitors", "domains") if params[option]]
    if len(given) > 1:
        raise WrongRequest("monitors and domains are both given. Name the VMs by one of them")
    if not given and is_needed:
        raise WrongRequest(
            "neither monitors nor domains names a VM. Name QMP monitors, a glob that finds them, or libvirt's domains"
        )
    return given[0] if given else ""


def _require_library(module: AnsibleModule, by: str) -> None:
    """Fail unless there is what the VMs are reached with."""
    if by == "monitors" and QEMU_QMP_IMPORT_ERROR is not None:
        module.fail_json(
            msg=missing_required_lib("qemu.qmp", reason=_NO_QEMU_QMP, url="https://pypi.org/project/qemu.qmp/"),
            exception=QEMU_QMP_IMPORT_ERROR,
        )
    if by == "domains" and LIBVIRT_IMPORT_ERROR is not None:
        module.fail_json(
            msg=missing_required_lib("libvirt", reason=_NO_LIBVIRT, url="https://pypi.org/project/libvirt-python/"),
            exception=LIBVIRT_IMPORT_ERROR,
        )


@dataclass(frozen=True)
class Way:
    """How the VMs of a call are found and reached."""

    find: Find
    open_link: OpenLink


def _way(params: Mapping[str, Any], by: str, host: Host, *, takes_turns: bool) -> Way:
    name, timeout = params["monitor_owner"], params["connect_timeout"]
    owner = None if name is None else find_owner(name)
    if by == "domains":
        check_uri(params["uri"])
        domains = Domains(params["uri"], params["domains"], timeout, owner, takes_turns=takes_turns)
        return Way(domains.find, domains.open)
    find = functools.partial(find_monitors, params["monitors"] or (), host)
    return Way(find, functools.partial(open_link, timeout=timeout, owner=owner))


def _leave_out_empty(params: dict[str, Any]) -> None:
    """An empty string is as if it were not there, such as what a template or a survey leaves of an unset variable."""
    for name, value in params.items():
        if name in _LISTS:
            # Ansible splits a string at its commas, and leaves the blanks that people write behind them.
            names = [each.lstrip() for each in value or ()]
            params[name] = [each for each in names if each]
        elif isinstance(value, str) and not value.strip():
            params[name] = None


def selection_from(params: Mapping[str, Any]) -> Selection:
    """Read which disks are meant."""
    return Selection(disks=tuple(params["disks"]) or None, vms=tuple(params["vms"]), exclude=tuple(params["exclude"]))


async def inform(module: AnsibleModule, way: Way, host: Host) -> dict[str, Any]:
    """The work of block_stream_info."""
    params = module.params
    return (await _work.inform(way.find, selection_from(params), way.open_link, host)).to_result()


async def populate(module: AnsibleModule, way: Way, host: Host) -> dict[str, Any]:
    """The work of block_stream."""
    params, request = module.params, request_from(module.params)
    check = module.check_mode
    bound = None if params["bound"] is None else bound_from(params["bound"], is_of_domains=bool(params["domains"]))
    done = await _work.populate(
        way.find, selection_from(params), request, way.open_link, host, is_check=check, bound=bound
    )
    return {**done.to_result(), "deadline": deadline_to_result(request.waiting.until, time.time())}


async def inform_of_images(module: AnsibleModule, way: Way, host: Host) -> dict[str, Any]:
    """The work of image_info."""
    paths, folders = module.params["paths"], module.params["search"]
    for path in paths:
        check_image_path("paths", path)
    for folder in folders:
        check_path("search", folder)
    return (await _images.inform_of_images(paths, folders, way.find, way.open_link, host)).to_result()


def bound_from(vms: Mapping[str, Any], *, is_of_domains: bool = False) -> BoundVms:
    """Read the option ``bound``, which the action gives to the later looks of a task.

    :raise WrongRequest: it has another form.
    """
    try:
        address = DomainName if is_of_domains else str
        return tuple(_bound_vm(address(name), vm) for name, vm in vms.items())
    except (TypeError, KeyError, ValueError):
        form = "{MONITOR: {pid: NUMBER or null, started: NUMBER or null, name: NAME or null, keys: [KEY, ...]}, ...}"
        raise WrongRequest(f"bound is invalid; it is {form}, from the result of an earlier call") from None


def _bound_vm(monitor: str, vm: Mapping[str, Any]) -> BoundVm:
    return BoundVm(monitor, _int_or_none(vm["pid"]), _int_or_none(vm["started"]), tuple(vm["keys"]), vm.get("name"))


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
    _check_range("parallel", params["parallel"], least=1, most=_MOST_BYTES)
    _check_range("read_ahead", params["read_ahead"], least=0, most=_MOST_READ_AHEAD)
    _check_range("progress", params["progress"], least=0, most=_MOST_BYTES)
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
        waiting=_waiting_from(params),
    )


def _speed_from(params: Mapping[str, Any], option: str) -> int | None:
    return None if params[option] is None else to_bytes(option, params[option], "/s")


def _minute_of_day(time_: float) -> int:
    local = time.localtime(time_)
    return local.tm_hour * 60 + local.tm_min


def _waiting_from(params: Mapping[str, Any]) -> Waiting:
    _check_range("wait_timeout", params["wait_timeout"], least=0, most=_MOST_BYTES)
    _check_range("poll_interval", params["poll_interval"], least=0, most=86400)
    _check_range("cursor", params["cursor"], least=0, most=_MOST_BYTES)
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


def _check_range(option: str, value: float | None, *, least: float, most: float) -> None:
    if value is not None and not least <= value <= most:
        raise WrongRequest(f"{option} is {value}; it must be from {least} to {most}")
