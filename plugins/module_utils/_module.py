# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The border to Ansible: options in, one result out. Nothing else here knows ``AnsibleModule``."""

from __future__ import annotations

import asyncio
import functools
import re
from typing import Any, Callable, Coroutine, Mapping, Sequence

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible.module_utils.common.text.formatters import human_to_bytes

from ._decide._outcome import Outcome, forecast, untouched
from ._decide._report import FreeSpaces, diff_of, disk_to_result, has_changed, outcome_to_result, vm_to_result
from ._decide._schedule import refuse_crowded
from ._decide._select import EVERY_DISK, refuse_unfit, select
from ._model._errors import QmpError, WrongRequest
from ._model._request import Request
from ._model._seams import Host, OpenMonitor
from ._model._target import Target
from ._model._vm import Vm
from ._reach._host import LinuxHost
from ._reach._qmp import QEMU_QMP_IMPORT_ERROR, open_monitor
from ._run._fleet import bring_all_about
from ._run._observe import Sighting, observe, resolver
from ._run._release import judge_all

# QEMU keeps sizes and speeds in a signed 64-bit integer.
_MOST_BYTES = 2**63 - 1

MONITOR_OPTIONS: dict[str, Any] = {
    "monitors": {"type": "list", "elements": "str", "required": True, "aliases": ["monitor"]},
    "connect_timeout": {"type": "float", "default": 10.0},
}


def run(
    module: AnsibleModule, work: Callable[[AnsibleModule, OpenMonitor, Host], Coroutine[Any, Any, dict[str, Any]]]
) -> None:
    """Do the work of a module and exit. ``work`` returns the result; its ``errors`` and ``warnings`` are told here."""
    if QEMU_QMP_IMPORT_ERROR is not None:
        module.fail_json(
            msg=missing_required_lib("qemu.qmp", url="https://pypi.org/project/qemu.qmp/"),
            exception=QEMU_QMP_IMPORT_ERROR,
        )
    try:
        if not module.params["monitors"]:
            raise WrongRequest("monitors is empty. Name the QMP monitors of the VMs, or a glob that finds them")
        _check_range("connect_timeout", module.params["connect_timeout"], least=0.001, most=86400)
        opener = functools.partial(open_monitor, timeout=module.params["connect_timeout"])
        host = LinuxHost(functools.partial(module.run_command, handle_exceptions=False))
        result = asyncio.run(work(module, opener, host))
    except QmpError as error:
        module.fail_json(msg=str(error))
    for warning in result.pop("warnings"):
        module.warn(warning)
    errors: list[str] = result.pop("errors")
    if errors:
        module.fail_json(
            msg=errors[0]
            if len(errors) == 1
            else f"{len(errors)} failures:\n" + "\n".join(f"- {error}" for error in errors),
            **result,
        )
    module.exit_json(**result)


async def inform(module: AnsibleModule, opener: OpenMonitor, host: Host) -> dict[str, Any]:
    """The work of block_stream_info."""
    sighting = await observe(module.params["monitors"], opener, host)
    errors = [failure.message for failure in sighting.failures]
    names: list[str] | None = module.params["disks"]
    disks: list[tuple[Vm, Any]] = [(vm, disk) for vm in sighting.vms for disk in vm.disks]
    if names is not None and (sighting.vms or not errors):
        try:
            disks = [(target.vm, target.disk) for target in select(sighting.vms, names, None, _resolve_for(host))]
        except WrongRequest as error:
            errors.append(str(error))
            disks = []
    free_spaces = _free_spaces([disk for _vm, disk in disks], host)
    return {
        "changed": False,
        "vms": [vm_to_result(vm) for vm in sighting.vms],
        "disks": [disk_to_result(vm, disk, free_spaces) for vm, disk in disks],
        "warnings": list(sighting.skipped),
        "errors": errors,
    }


async def stream(module: AnsibleModule, opener: OpenMonitor, host: Host) -> dict[str, Any]:
    """The work of block_stream: nothing is started unless all that was asked for can be right."""
    request = request_from(module.params)
    sighting = await observe(module.params["monitors"], opener, host)
    errors = [failure.message for failure in sighting.failures]
    if errors and not sighting.vms:
        return _told(sighting, [], errors, host)  # no name can fit, and that is not what is wrong
    targets: Sequence[Target] = ()
    outcomes: list[Outcome]
    try:
        targets = select(sighting.vms, module.params["disks"], request.base, _resolve_for(host))
        refuse_unfit(targets, request.base)
        if request.state == "populated" and request.check_space:
            refuse_crowded(targets, _free_spaces([target.disk for target in targets], host))
    except WrongRequest as error:
        errors.append(str(error))
        outcomes = [untouched(target, request) for target in targets]
    else:
        outcomes = (
            [forecast(t, request) for t in targets]
            if module.check_mode
            else await bring_all_about(targets, request, opener, host)
        )
    return _told(sighting, outcomes, errors, host)


def _told(sighting: Sighting, outcomes: Sequence[Outcome], errors: list[str], host: Host) -> dict[str, Any]:
    verdicts = judge_all(outcomes, sighting.vms, host)
    notes = [note for outcome in outcomes for note in outcome.notes]
    notes += dict.fromkeys(note for each in verdicts for verdict in each for note in verdict.notes)
    free_spaces = _free_spaces([outcome.disk for outcome in outcomes], host)
    return {
        "changed": any(has_changed(outcome) for outcome in outcomes),
        "finished": not errors and all(outcome.is_finished for outcome in outcomes),
        "disks": [outcome_to_result(each, free_spaces, judged) for each, judged in zip(outcomes, verdicts)],
        "diff": diff_of(outcomes),
        "warnings": [*sighting.skipped, *notes],
        "errors": errors + [outcome.error for outcome in outcomes if outcome.error is not None],
    }


def request_from(params: Mapping[str, Any]) -> Request:
    """Read the options of block_stream.

    :raise WrongRequest: with the option, the reason and the remedy.
    """
    if not params["disks"]:
        raise WrongRequest(f"disks is empty. Name disks, or {EVERY_DISK!r} for every disk that can be populated")
    _check_range("wait_timeout", params["wait_timeout"], least=0, most=_MOST_BYTES)
    _check_range("poll_interval", params["poll_interval"], least=0, most=86400)
    _check_range("cursor", params["cursor"], least=0, most=_MOST_BYTES)
    _check_range("parallel", params["parallel"], least=1, most=_MOST_BYTES)
    _check_range("progress", params["progress"], least=0, most=_MOST_BYTES)
    increment = None if params["increment"] is None else to_bytes("increment", params["increment"])
    if increment is not None:
        if increment == 0:
            raise WrongRequest(
                "increment is 0. Give the bytes to go, such as 1GiB, or leave it out to populate the whole disk"
            )
        if params["state"] != "populated" or not params["wait"]:
            raise WrongRequest(
                "increment goes with state populated and with wait only: it stops the stream once it has gone so far"
            )
    return Request(
        state=params["state"],
        base=params["base"],
        wait=params["wait"],
        wait_timeout=params["wait_timeout"],
        on_timeout=params["on_timeout"],
        poll_interval=params["poll_interval"],
        increment=increment,
        cursor=params["cursor"] or 0,
        speed=None if params["speed"] is None else to_bytes("speed", params["speed"], "/s"),
        on_error=params["on_error"],
        parallel=params["parallel"],
        check_space=params["check_space"],
        release=params["release"],
    )


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


def _resolve_for(host: Host) -> Callable[[Vm, str], str | None]:
    return lambda vm, name: resolver(vm.identity, host)(name)


def _free_spaces(disks: Sequence[Any], host: Host) -> FreeSpaces:
    files = {disk.top.file for disk in disks if disk.chain and disk.top.file is not None}
    return {file: host.free_space(file) for file in files}
