# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""What libvirt would start or revert to later: nobody has it open, no header names it, and it is not free."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from lab import images, product

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from lab.libvirt import Libvirt

    from .conftest import Domain


TEMPLATE = """\
<domain type='qemu'>
  <name>template</name><memory unit='MiB'>32</memory>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <devices><disk type='file' device='disk'>
    <driver name='qemu' type='qcow2'/><source file='{file}'/><target dev='vda' bus='virtio'/>
  </disk></devices>
</domain>
"""


def verdicts(domain: Domain) -> dict[str, tuple[bool | None, str | None]]:
    """Populate the disk, and tell what is said of each image that it gave up."""
    result = domain.stream()
    assert (result.failed, result["finished"]) == (False, True), result
    return {image["path"]: (image["free"], image["reason"]) for image in result["released"]}


def seen(domain: Domain, path: Path) -> tuple[bool | None, str | None]:
    """What image_info says of an image."""
    result = product.module("image_info", paths=[str(path)], **domain.options)
    assert not result.failed, result
    (image,) = result["images"]
    return image["free"], image["reason"]


@pytest.mark.parametrize("persistent", [True, False], ids=["persistent", "transient"])
def test_an_external_snapshot_needs_its_image(define: Callable[..., Domain], persistent: bool) -> None:
    """What was the active image when the snapshot was taken, and nothing else brings it back."""
    domain = define(layers=1, persistent=persistent)
    overlay = domain.chain.top.with_name("after.qcow2")
    domain.vm.libvirt.own(overlay.parent)  # libvirt makes the overlay
    domain.virsh("snapshot-create-as", "before", "--disk-only", "--diskspec", f"vda,snapshot=external,file={overlay}")
    try:
        told = verdicts(domain)
        shown = seen(domain, domain.chain.top)
    finally:
        domain.virsh("snapshot-delete", "before", "--metadata")
    free, reason = told[str(domain.chain.top)]
    assert (free, "snapshot before of domain web01" in (reason or "")) == (False, True), told
    assert shown == (free, reason)
    domain.vm.kill()
    assert images.backing(overlay) is None


def test_a_template_is_not_free(define: Callable[..., Domain], libvirt: Libvirt, folder: Path) -> None:
    """The golden image is the disk of a domain that is off, which the overlays were made from."""
    domain = define(layers=2)
    template = folder / "template.qcow2"
    template.symlink_to(domain.chain.base)  # it may be called otherwise
    description = folder / "template.xml"
    description.write_text(TEMPLATE.format(file=template))
    libvirt.virsh("define", str(description))
    try:
        told = verdicts(domain)
        shown = seen(domain, domain.chain.base)
    finally:
        libvirt.virsh("undefine", "template")
    needed = (False, "the definition of domain template names it as a disk")
    assert (told[str(domain.chain.base)], shown) == (needed, needed)
    (other,) = [each for path, each in told.items() if path != str(domain.chain.base)]
    assert other == (True, None)
    assert seen(domain, domain.chain.base) == (True, None)
