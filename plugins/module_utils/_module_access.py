# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The border to Ansible of image_access, which asks no QEMU: it works where qemu.qmp is not installed."""

from __future__ import annotations

import grp
import pwd
import re
import stat
from types import SimpleNamespace
from typing import Any, Callable, Mapping

from ansible.module_utils.basic import AnsibleModule

from . import _archive  # noqa: F401  # pylint: disable=unused-import  # before all others
from ._decide._failures import failure_to_result
from ._model._access import AskedImage, WantedRights
from ._model._errors import Failure, QmpError, RightsNotSet, WrongRequest
from ._model._files import FileId
from ._model._request import check_image_path, check_path
from ._model._text import presentable
from ._reach._access import open_image
from ._run._access import revoke

# The highest number means "as it is" to the kernel.
_MOST_ID = 2**32 - 2
_MOST_MODE = 0o7777
_SYMBOLIC = re.compile(r"[ugoa]*([-+=][rwxXstugo]*)+(,[ugoa]*([-+=][rwxXstugo]*)+)*")


def run(module: AnsibleModule) -> None:
    """Do the work of image_access and exit."""
    path = module.params["path"]
    try:
        wanted, asked = wanted_from(module.params), asked_from(module.params)
        result = revoke(asked, wanted, open_image, is_check=module.check_mode).to_result()
    except (WrongRequest, RightsNotSet) as error:
        _fail(module, error, f"{path}: {error}")
    except QmpError as error:
        _fail(module, error, f"{path}: its rights stay as they are: {error}")
    else:
        module.exit_json(**presentable(result))


def _fail(module: AnsibleModule, error: QmpError, message: str) -> None:
    failure = failure_to_result(Failure.of(error, message))
    module.fail_json(**presentable({"msg": message, "errors": [failure]}))


def asked_from(params: Mapping[str, Any]) -> AskedImage:
    """Read which image is meant.

    :raise WrongRequest: with the option, the reason and the remedy.
    """
    path, below = params["path"], tuple(filter(None, map(str.lstrip, params["below"])))
    if not below:
        raise WrongRequest("below is empty. Name the folders in which the rights of images may be changed")
    check_image_path("path", path)
    for folder in below:
        check_path("below", folder)
    device, inode = params["device"], params["inode"]
    return AskedImage(path, below, None if device is None else FileId(device, inode))


def wanted_from(params: Mapping[str, Any]) -> WantedRights:
    """Read what the rights shall be.

    :raise WrongRequest: with the option, the reason and the remedy.
    """
    setype = params["setype"]
    if setype is not None and not re.fullmatch(r"[A-Za-z][\w.]*", setype, re.ASCII):
        raise WrongRequest(f"setype is {setype!r}, which is no type. Write its name alone, such as container_file_t")
    return WantedRights(
        owner=_number_of("owner", params["owner"], lambda name: pwd.getpwnam(name).pw_uid),
        group=_number_of("group", params["group"], lambda name: grp.getgrnam(name).gr_gid),
        mode=_mode_from(params["mode"]),
        setype=setype,
    )


def _number_of(option: str, name: str | None, find: Callable[[str], int]) -> int | None:
    if name is None:
        return None
    if re.fullmatch("[0-9]+", name):
        number = int(name)
        if number > _MOST_ID:
            raise WrongRequest(f"{option} is {name}; it must be from 0 to {_MOST_ID}, or a name")
        return number
    try:
        return find(name)
    except (KeyError, ValueError):
        raise WrongRequest(f"{option} is {name!r}, which nobody on this host is called") from None


def _mode_from(mode: Any) -> Callable[[int], int] | None:
    """What the permissions become, from those that there are, in the words of ``ansible.builtin.file``."""
    if mode is None:
        return None
    if isinstance(mode, str) and re.fullmatch("(0o)?[0-7]{1,5}", mode):
        return _constant(mode, int(mode, 8))
    if isinstance(mode, int) and not isinstance(mode, bool):
        return _constant(mode, mode)
    if isinstance(mode, str) and _SYMBOLIC.fullmatch(mode):
        return _symbolic(mode)
    raise WrongRequest(f"mode is {mode!r}, which is neither octal, as '0400', nor symbolic, as 'u=r,go='")


def _constant(option: Any, mode: int) -> Callable[[int], int]:
    if not 0 <= mode <= _MOST_MODE:
        raise WrongRequest(f"mode is {option!r}, which has more than permissions in it. Write it as '0400'")
    return lambda _before: mode


def _symbolic(mode: str) -> Callable[[int], int]:
    """Ansible's own reading of symbolic permissions, which wants no more of a file than what it is."""

    def after(before: int) -> int:
        read: int = AnsibleModule._symbolic_mode_to_octal(SimpleNamespace(st_mode=stat.S_IFREG | before), mode)
        return read

    try:
        after(0)
    except ValueError as error:
        raise WrongRequest(f"mode is {mode!r}: {error}") from None
    return after
