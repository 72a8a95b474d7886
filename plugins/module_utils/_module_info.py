# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The border of block_stream_info."""

from __future__ import annotations

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ._model._seams import Host
from ._module import Way, selection_from
from ._run import _inform


async def inform(module: AnsibleModule, way: Way, host: Host) -> dict[str, Any]:
    """The work of block_stream_info."""
    params = module.params
    return (await _inform.inform(way.find, selection_from(params), way.open_link, host)).to_result()
