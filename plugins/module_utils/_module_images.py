# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The border of image_info."""

from __future__ import annotations

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ._model._request import check_image_path, check_path
from ._model._seams import Host
from ._module import Way
from ._run import _images


async def inform_of_images(module: AnsibleModule, way: Way, host: Host) -> dict[str, Any]:
    """The work of image_info."""
    paths, folders = module.params["paths"], module.params["search"]
    for path in paths:
        check_image_path("paths", path)
    for folder in folders:
        check_path("search", folder)
    return (await _images.inform_of_images(paths, folders, way.find, way.open_link, host, way.ask_plans)).to_result()
