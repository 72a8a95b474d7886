# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from ansible_collections.virtops.qmp.plugins.module_utils._model._disk import Disk
from ansible_collections.virtops.qmp.plugins.module_utils._model._domain import (
    DomainDisk,
    as_libvirt_knows,
    index_of_node,
    is_behind,
    read_domain,
    sources_in,
    target_of_job,
)
from ansible_collections.virtops.qmp.plugins.module_utils._model._errors import MonitorUnusable
from ansible_collections.virtops.qmp.tests.unit.builders import EMPTY, disk

# As libvirt 9.0 writes it, without what nobody reads.
VDA = """
<disk type='file' device='disk'>
  <driver name='qemu' type='qcow2'/>
  <source file='/vms/top.qcow2' index='1'/>
  <backingStore type='file' index='2'>
    <format type='qcow2'/>
    <source file='/vms/mid &amp; more.qcow2'/>
    <backingStore type='file' index='3'>
      <format type='qcow2'/>
      <source file='/vms/base.qcow2'/>
      <backingStore/>
    </backingStore>
  </backingStore>
  <target dev='vda' bus='virtio'/>
  <alias name='virtio-disk0'/>
</disk>"""


def domain(*disks: str) -> str:
    return f"<domain type='qemu' id='1'><name>web01</name><devices>{''.join(disks)}</devices></domain>"


def one(*inside: str) -> str:
    return domain("<disk type='file'>", *inside, "</disk>")


@pytest.mark.parametrize(
    ("text", "known"),
    [
        pytest.param(
            domain(VDA),
            [DomainDisk("vda", "virtio-disk0", "1", ("/vms/mid & more.qcow2", "/vms/base.qcow2"))],
            id="a chain",
        ),
        pytest.param(domain(), [], id="no disk"),
        pytest.param("<domain/>", [], id="no devices"),
        pytest.param(
            one("<target dev='sda'/><alias name='sata0-0-0'/>"),
            [DomainDisk("sda", "sata0-0-0", "", ())],
            id="no medium",
        ),
        pytest.param(one(), [DomainDisk("", "", "", ())], id="an element without a word"),
        pytest.param(
            one("<source index='1'/><backingStore/>"), [DomainDisk("", "", "1", ())], id="the end of a chain at once"
        ),
        pytest.param(
            one("<backingStore type='network'><source protocol='rbd' name='pool/base'/></backingStore>"),
            [DomainDisk("", "", "", ("pool/base",))],
            id="a network source, and no end",
        ),
        pytest.param(
            one("<backingStore type='block'><source dev='/dev/base'/><backingStore/></backingStore>"),
            [DomainDisk("", "", "", ("/dev/base",))],
            id="a block device",
        ),
        pytest.param(
            one("<backingStore type='volume'><source pool='p' volume='base'/></backingStore>"),
            [DomainDisk("", "", "", ("base",))],
            id="a volume",
        ),
        pytest.param(
            one("<backingStore type='file'/>"), [DomainDisk("", "", "", ("an image without a name",))], id="no source"
        ),
        pytest.param(
            one("<mirror><source file='/vms/copy' index='7'/></mirror><source file='/vms/top' index='1'/>"),
            [DomainDisk("", "", "1", ())],
            id="the target of a copy is not the source",
        ),
    ],
)
def test_read_domain(text: str, known: list[DomainDisk]) -> None:
    """Names, number and chain of every disk are read, and what is left out is empty."""
    assert read_domain(text) == tuple(known)


@pytest.mark.parametrize("text", ["", "no XML", "<domain>", "<domain>&evil;</domain>", "\0"])
def test_what_is_no_xml(text: str) -> None:
    """What cannot be read is told, and is no traceback."""
    with pytest.raises(MonitorUnusable, match="libvirt's description of the domain cannot be read"):
        read_domain(text)
    with pytest.raises(MonitorUnusable, match="libvirt's description of the domain cannot be read"):
        sources_in(text)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        pytest.param(domain(VDA), ("/vms/top.qcow2", "/vms/mid & more.qcow2", "/vms/base.qcow2"), id="a chain"),
        pytest.param(domain(), (), id="no disk"),
        pytest.param(
            "<domainsnapshot><name>s</name><disks><disk name='vda'><source file='/vms/new'/></disk></disks>"
            "<domain><devices><disk><source file='/vms/then'/></disk></devices></domain><inactiveDomain><devices>"
            "<disk><source dev='/dev/x'/></disk></devices></inactiveDomain></domainsnapshot>",
            ("/vms/new", "/vms/then", "/dev/x"),
            id="a snapshot",
        ),
        pytest.param(one("<source pool='p' volume='base.qcow2'/>"), ("base.qcow2",), id="a volume"),
        pytest.param(one("<source protocol='rbd' name='pool/x'/>"), (), id="a network source"),
        pytest.param(one("<source file='/vms/x'/>", "<source file='/vms/x'/>"), ("/vms/x",), id="each once"),
    ],
)
def test_sources_in(text: str, names: tuple[str, ...]) -> None:
    """All that a start, or a revert, would open on this host is found."""
    assert sources_in(text) == names


@pytest.mark.parametrize(
    ("node", "index"),
    [
        pytest.param("libvirt-12-format", "12", id="format"),
        pytest.param("libvirt-1-storage", "1", id="raw has no format node"),
        pytest.param("libvirt-1-slice-sto", "", id="another layer"),
        pytest.param("libvirt-x-format", "", id="no number"),
        pytest.param("a-libvirt-1-format", "", id="of somebody else"),
        pytest.param("#block123", "", id="of QEMU"),
        pytest.param(None, "", id="none"),
    ],
)
def test_index_of_node(node: str | None, index: str) -> None:
    """libvirt's number of an image stands in the name of its node."""
    assert index_of_node(node) == index


@pytest.mark.parametrize(
    ("job_id", "target"),
    [
        pytest.param("pull-vda-libvirt-1-format", "vda", id="pull"),
        pytest.param("commit-sdaa-libvirt-12-format", "sdaa", id="commit"),
        pytest.param("copy-vdb-libvirt-3-storage", "vdb", id="copy of a raw image"),
        pytest.param("populate-vda", "", id="ours"),
        pytest.param("populate-vda.completed-17-2", "", id="ours after a migration"),
        pytest.param("pull-vda", "", id="of somebody who likes the name"),
        pytest.param("job0", "", id="of somebody else"),
    ],
)
def test_target_of_job(job_id: str, target: str) -> None:
    """libvirt's own jobs are told from all others by their names, which have the disk's in them."""
    assert target_of_job(job_id) == target


THREE = disk("libvirt-1-format", "libvirt-2-format", "libvirt-3-format")
FIRST = DomainDisk("vda", "virtio-disk0", "1", ("/vms/mid", "/vms/base"))


@pytest.mark.parametrize(
    ("subject", "known", "target", "stale"),
    [
        pytest.param(THREE, FIRST, "vda", None, id="both see the same chain"),
        pytest.param(disk("libvirt-1-format", "libvirt-3-format"), FIRST, "vda", "/vms/mid", id="one image too many"),
        pytest.param(disk("libvirt-1-format"), FIRST, "vda", "/vms/mid", id="the whole chain too many"),
        pytest.param(THREE, DomainDisk("vda", "", "1", ()), "vda", None, id="libvirt knows less"),
        pytest.param(THREE, DomainDisk("vdb", "vda", "4", ("x",)), "", None, id="another image of the same alias"),
        pytest.param(disk("top"), DomainDisk("vda", "vda", "1", ()), "", None, id="a node that libvirt has not made"),
        pytest.param(disk("top"), DomainDisk("sdq", "vda", "", ()), "sdq", None, id="by the alias"),
        pytest.param(disk("top", qdev=""), DomainDisk("sdq", "", "", ()), "", None, id="two that have no name"),
        pytest.param(EMPTY, DomainDisk("sda", "cd0", "", ("x",)), "sda", None, id="no medium, by the alias"),
        pytest.param(EMPTY, DomainDisk("sda", "cd0", "5", ("x",)), "sda", None, id="a medium that was just ejected"),
    ],
)
def test_as_libvirt_knows(subject: Disk, known: DomainDisk, target: str, stale: str | None) -> None:
    """A disk is libvirt's by the number of its top image, else by its device, and what libvirt has too much is told."""
    (told,) = as_libvirt_knows([subject], [DomainDisk("vdz", "virtio-disk9", "99", ()), known])
    assert (told.target, told.stale_view, is_behind([told])) == (target, stale, stale is not None)
    if target:
        assert (told.label, told.names[0]) == (target, target)
