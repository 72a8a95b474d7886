# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whose libvirt it is: root's own with its defaults, and that of a plain user."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
from lab import images, product
from lab.holders import READS
from lab.libvirt import Libvirt, SystemLibvirt

if TYPE_CHECKING:
    from pathlib import Path


def test_roots_own_daemon(folder: Path) -> None:
    """Guests run as another user in mounts of their own, a comma in a name or not, and nothing is lost."""
    if os.geteuid() != 0:
        pytest.skip("only root can start it")
    chain = images.chain(folder, layers=2)
    with SystemLibvirt(folder / "libvirt").running() as libvirt, libvirt.domain("web,01", [chain.top]) as guest:
        arguments: dict[str, Any] = {
            "domains": ["*"],
            "uri": libvirt.address,
            "disks": ["vda"],
            "monitor_owner": "64055",
        }
        result = product.module("block_stream", **arguments)
        assert (result.failed, result["finished"], guest.view()) == (False, True, [str(chain.top)]), result
        assert [(vm["pid"], vm["uid"]) for vm in result["vms"]] == [(guest.pid, 64055)]
        assert [image["free"] for image in result["released"]] == [True, True]
        guest.kill()
    chain.take_away()
    assert images.differences(chain.expected, images.content(chain.top)) == []


def test_a_plain_users_daemon(libvirt: Libvirt, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`qemu:///session` leads to the guests of who runs the module, and nothing is lost."""
    if isinstance(libvirt, SystemLibvirt):
        pytest.skip("the daemon of this run is root's")
    chain = images.chain(folder, layers=2)
    for variable, place in libvirt.variables.items():
        monkeypatch.setenv(variable, str(place))
    with libvirt.domain("own", [chain.top]) as guest:
        arguments: dict[str, Any] = {"domains": ["own"], "uri": "qemu:///session", "disks": ["vda"]}
        under = READS if os.geteuid() == 0 else ()
        result = product.module("block_stream", under=under, **arguments)
        assert (result.failed, result["finished"], guest.view()) == (False, True, [str(chain.top)]), result
        guest.kill()
    chain.take_away()
    assert images.differences(chain.expected, images.content(chain.top)) == []
