# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.virtops.qmp.plugins.module_utils._model._errors import MonitorSilent, WrongRequest
from ansible_collections.virtops.qmp.plugins.module_utils._model._images import Unread
from ansible_collections.virtops.qmp.plugins.module_utils._run._images import inform_of_images
from ansible_collections.virtops.qmp.tests.unit import clock
from ansible_collections.virtops.qmp.tests.unit.fake_qemu import FakeHost, FakeQemu, inode_of


def look(host: FakeHost, *paths: str, monitors: list[str] | None = None) -> dict[str, Any]:
    asked = monitors if monitors is not None else list(host.qemus)
    result: dict[str, Any] = clock.run(
        inform_of_images(paths, ["/vms"], host.finds(asked), host.open_link, host),
    ).to_result()
    return result


def test_a_golden_image() -> None:
    """The very file that was found is what the kernel is asked about; its process is called by its VM."""
    qemu = FakeQemu("web01", 7)
    qemu.add("vda", "top.qcow2", "golden.qcow2")
    host = FakeHost(qemu)
    host.named_by["/free"] = ("/vms/off.qcow2",)
    found = look(host, "/vms/golden.qcow2", "/free")
    assert [(image["path"], image["free"], image["needed_by"]) for image in found["images"]] == [
        ("/vms/golden.qcow2", False, []),
        ("/free", True, ["/vms/off.qcow2"]),
    ]
    assert found["images"][0]["users"] == [{"pid": 7, "process": "qemu", "vm": "web01"}]
    assert found["images"][1]["inode"] == inode_of("/free").id.inode
    assert (host.searched, found["warnings"]) == ([("/vms",)], [])


def test_a_monitor_that_does_not_answer_is_a_warning() -> None:
    """It lends no name, and nothing else depends on it."""
    qemu = FakeQemu("web01", 7)
    host = FakeHost(qemu)
    host.unopenable[qemu.address] = MonitorSilent("no greeting")
    found = look(host, "/golden")
    (warning,) = found["warnings"]
    assert (found["images"][0]["free"], "may not be called by their VM" in warning) == (True, True)


def test_what_was_not_read_leaves_it_open() -> None:
    """Then it is not known who needs an image."""
    host = FakeHost()
    host.unread.append(Unread("/vms/x", "why"))
    (image,) = look(host, "/golden")["images"]
    assert (image["free"], image["needed_by"]) == (True, None)


def test_no_image() -> None:
    """Who asks about nothing has no folder read for it."""
    host = FakeHost()
    assert (look(host)["images"], host.searched) == ([], [()])


def test_an_address_that_is_none() -> None:
    """It is an error of the request."""
    with pytest.raises(WrongRequest):
        look(FakeHost(), "/golden", monitors=["tcp:x"])
