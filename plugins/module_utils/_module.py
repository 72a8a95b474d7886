# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The border to Ansible: options in, one result out. Nothing else here knows ``AnsibleModule``."""

from __future__ import annotations

import asyncio
import atexit
import functools
import gc
from typing import Any, Callable, Coroutine, Dict, Mapping, NamedTuple

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

from . import _archive  # noqa: F401  # pylint: disable=unused-import  # before all others
from ._decide._failures import failure_to_result, in_one_message
from ._model._errors import Failure, QmpError, WrongRequest
from ._model._peer import Owner
from ._model._request import Selection
from ._model._seams import AskPlans, Find, Host, OpenLink
from ._model._text import presentable
from ._reach._host import LinuxHost, allow_descriptors
from ._reach._peer import find_owner
from ._reach._qemu import open_link
from ._reach._qmp import QEMU_QMP_IMPORT_ERROR
from ._reach._reader import NobodyReads, unless_unread
from ._run._observe import find_domains, find_monitors

_NO_QEMU_QMP = "to speak to QEMU. The role virtops.qmp.qemu_qmp installs it"
_NO_LIBVIRT = (
    "for domains. It is the distribution's package python3-libvirt, for the distribution's own Python; the role "
    "virtops.qmp.qemu_qmp installs it, also for its virtual environment (qemu_qmp_libvirt)"
)

# Options that are lists of names.
_LISTS = frozenset({"monitors", "domains", "disks", "vms", "exclude", "images", "search"})

Work = Callable[[AnsibleModule, "Way", Host], Coroutine[Any, Any, Dict[str, Any]]]


def run(module: AnsibleModule, work: Work, *, needs_vms: bool = True, takes_turns: bool = False) -> None:
    """Do the work of a module and exit. ``work`` returns the result; its ``errors`` and ``warnings`` are told here.

    :param needs_vms: whether there is no work without VMs.
    :param takes_turns: whether to be alone at one of libvirt's guests, as who holds a monitor is.
    """
    # Before Python ends it would look through all that was loaded, which is a twentieth of what a short call takes.
    atexit.register(gc.freeze)
    _leave_out_empty(module.params)
    try:
        by = _vms_by(module.params, is_needed=needs_vms)
        _require_library(module, by)
        check_range("connect_timeout", module.params["connect_timeout"], least=0.001, most=86400)
        allow_descriptors()
        host = LinuxHost(functools.partial(module.run_command, handle_exceptions=False))
        way = _way(module, by, host, takes_turns=takes_turns)
        result = asyncio.run(unless_unread(work(module, way, host)))
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
    """Fail unless there is what monitors are reached with."""
    if by == "monitors" and QEMU_QMP_IMPORT_ERROR is not None:
        module.fail_json(
            msg=missing_required_lib("qemu.qmp", reason=_NO_QEMU_QMP, url="https://pypi.org/project/qemu.qmp/"),
            exception=QEMU_QMP_IMPORT_ERROR,
        )


class Way(NamedTuple):
    """How the VMs of a call are found and reached, and who tells what libvirt would do with them later."""

    find: Find
    open_link: OpenLink
    ask_plans: AskPlans | None = None


def _way(module: AnsibleModule, by: str, host: Host, *, takes_turns: bool) -> Way:
    params = module.params
    name, timeout = params["monitor_owner"], params["connect_timeout"]
    owner = None if name is None else find_owner(name)
    if by == "domains":
        return _way_to_domains(module, owner, takes_turns=takes_turns)
    find = functools.partial(find_monitors, params["monitors"] or (), host)
    return Way(find, functools.partial(open_link, timeout=timeout, owner=owner))


def _way_to_domains(module: AnsibleModule, owner: Owner | None, *, takes_turns: bool) -> Way:
    # Loaded here, and only here: whoever names monitors need not wait for it.
    from ._reach import _libvirt

    if _libvirt.LIBVIRT_IMPORT_ERROR is not None:
        module.fail_json(
            msg=missing_required_lib("libvirt", reason=_NO_LIBVIRT, url="https://pypi.org/project/libvirt-python/"),
            exception=_libvirt.LIBVIRT_IMPORT_ERROR,
        )
    params = module.params
    _libvirt.check_uri(params["uri"])
    domains = _libvirt.Domains(params["uri"], params["connect_timeout"], owner, takes_turns=takes_turns)
    find = functools.partial(find_domains, params["domains"], params["uri"], domains.list)
    return Way(find, domains.open, domains.plans)


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


def check_range(option: str, value: float | None, *, least: float, most: float) -> None:
    if value is not None and not least <= value <= most:
        raise WrongRequest(f"{option} is {value}; it must be from {least} to {most}")
