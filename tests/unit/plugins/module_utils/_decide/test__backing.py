# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from ansible_collections.virtops.qmp.plugins.module_utils._decide._backing import (
    as_qemu_opens,
    choose_name,
    names_for_base,
)
from ansible_collections.virtops.qmp.plugins.module_utils._model._disk import Disk
from ansible_collections.virtops.qmp.plugins.module_utils._model._files import Bound, Named
from ansible_collections.virtops.qmp.tests.unit.builders import disk, image
from ansible_collections.virtops.qmp.tests.unit.fake_qemu import named


def linked(*links: str) -> Disk:
    """A chain of three whose headers have these links."""
    top, mid, base = disk("top", "mid", "base").chain
    return disk(top._replace(backing_name=links[0]), mid._replace(backing_name=links[1]), base)


@pytest.mark.parametrize(
    ("subject", "names"),
    [
        pytest.param(linked("mid.qcow2", "base.qcow2"), ["base.qcow2", "/vms/base.qcow2"], id="relative"),
        pytest.param(linked("a/mid", "../b/base"), ["b/base", "/vms/base.qcow2"], id="each from its own folder"),
        pytest.param(linked("mid", "/golden/base"), ["/golden/base", "/vms/base.qcow2"], id="absolute stays absolute"),
        pytest.param(linked("/x/mid", "base"), ["/x/base", "/vms/base.qcow2"], id="relative to an absolute one"),
        pytest.param(linked("mid", ""), ["/vms/base.qcow2"], id="a header names none"),
        pytest.param(linked("nbd://x", "base"), ["/vms/base.qcow2"], id="over a protocol"),
        pytest.param(linked("/dev/fdset/1", "/dev/fdset/2"), ["/vms/base.qcow2"], id="never a descriptor"),
    ],
)
def test_names_for_base(subject: Disk, names: list[str]) -> None:
    """The links of the headers come first, then the names of the file itself."""
    assert names_for_base(subject, 2) == names


def test_a_base_without_a_name() -> None:
    """QEMU was given descriptors, and this host sees no name for the file."""
    unseen = image("base", path="/dev/fdset/2", bound=Bound(why="unseen"))
    assert names_for_base(disk(image("top", backing_name="/dev/fdset/2"), unseen), 1) == []


def test_the_name_that_leads_to_the_base_is_chosen() -> None:
    """What leads elsewhere, or nowhere, is passed over; a base that is not known is led to by nothing."""
    subject = linked("mid.qcow2", "wrong.qcow2")
    names = names_for_base(subject, 2)
    found = {as_qemu_opens(subject, name): named(as_qemu_opens(subject, name)) for name in names}
    assert choose_name(subject, 2, names, found) == "/vms/base.qcow2"
    assert choose_name(subject, 2, names, {name: Named() for name in found}) is None
    unknown = disk(*subject.chain[:2], image("base", bound=Bound()))
    assert choose_name(unknown, 2, names, found) is None
