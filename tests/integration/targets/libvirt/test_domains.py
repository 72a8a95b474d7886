# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""libvirt's guests, by `domains`: what is populated survives a kill, and libvirt's own view is right."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from lab import images, product

from .conftest import Domain

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from lab.libvirt import Libvirt


@pytest.mark.parametrize("persistent", [False, True], ids=["transient", "persistent"])
def test_a_disk_is_populated(define: Callable[..., Domain], *, persistent: bool) -> None:
    """Everything survives a kill without the old images, and libvirt's XML and its tables show the disk alone."""
    domain = define(persistent=persistent)
    result = domain.stream()
    assert domain.depth == 0
    assert str(domain.chain.base) not in domain.virsh("dumpxml")
    assert domain.virsh("domblklist", "--details").split()[-4:] == ["file", "disk", "vda", str(domain.chain.top)]
    assert domain.virsh("blockjob", "vda", "--info").strip() in ("", "No current block job for vda")
    assert [(image["path"], image["free"]) for image in result["released"]] == [
        (str(image), True) for image in domain.chain.images[1:]
    ]
    (disk,) = result["disks"]
    assert (disk["domain"], disk["monitor"], disk["label"], disk["proof"]) == ("web01", None, "vda", "map")
    domain.assert_done(result)


def test_a_rerun_changes_nothing(domain: Domain) -> None:
    """The second run finds the disk populated, and starts no job."""
    domain.stream()
    events = len(domain.vm.job_events())
    result = domain.stream()
    assert (result["changed"], result["finished"], len(domain.vm.job_events())) == (False, True, events)


def test_a_shallow_copy_depends_on_nothing(domain: Domain, folder: Path) -> None:
    """libvirt's own next copy of the disk, which undoes a stream behind its back, has no backing image either."""
    domain.stream()
    copy = images.create(folder / "copy.qcow2", 16 * images.MiB)
    domain.vm.libvirt.own(copy)
    words = ("--shallow", "--reuse-external", "--transient-job", "--wait", "--pivot")
    domain.virsh("blockcopy", "vda", str(copy), *words)
    domain.vm.kill()
    domain.chain.take_away()
    assert images.backing(copy) is None
    assert images.differences(domain.chain.expected, images.content(copy)) == []


@pytest.mark.parametrize("relative", [False, True], ids=["absolute", "relative"])
def test_a_base_stays_as_the_header_called_it(define: Callable[..., Domain], *, relative: bool) -> None:
    """What is below the base is not copied; for libvirt, QEMU and the header the base is the backing image."""
    domain = define(relative=relative)
    base = domain.chain.base
    result = domain.stream(base=str(base))
    assert (result["finished"], domain.depth) == (True, 1), result
    assert domain.vm.view("vda") == [str(domain.chain.top), str(base)]
    domain.vm.kill()
    domain.chain.images[1].unlink()
    assert images.backing(domain.chain.top) == (base.name if relative else str(base))
    assert images.differences(domain.chain.expected, images.content(domain.chain.top)) == []


@pytest.mark.parametrize("name", ["vda", "virtio-disk0", "libvirt-1-format", "path", "*"])
def test_a_disk_answers_to_libvirts_names(domain: Domain, name: str) -> None:
    """The target, the alias, the node and the path mean the disk, and so does the star."""
    result = domain.stream(disks=[str(domain.chain.top) if name == "path" else name])
    assert (result["finished"], domain.depth) == (True, 0), result


@pytest.mark.parametrize("pattern", ["web01", "web*", "*", "uuid"])
def test_guests_are_found(define: Callable[..., Domain], pattern: str) -> None:
    """A name, a pattern, the star and a UUID find the guests that run; of others nothing is told."""
    domain = define("web01")
    named = domain.vm.libvirt.virsh("domuuid", "web01").strip() if pattern == "uuid" else pattern
    found = product.module("block_stream_info", domains=[named], uri=domain.vm.libvirt.address)
    assert [vm["domain"] for vm in found["vms"]] == ["web01"]
    assert [vm["pid"] for vm in found["vms"]] == [domain.vm.pid]
    assert "warnings" not in found


def test_guests_that_are_off(define: Callable[..., Domain]) -> None:
    """Under a pattern they are told and left alone; one that is named is a failure, beside others that are done."""
    on, off = define("web01"), define("web02", persistent=True)
    off.virsh("destroy")
    found = product.module("block_stream_info", domains=["web*"], uri=on.vm.libvirt.address)
    assert [vm["name"] for vm in found["vms"]] == ["web01"]
    assert "these domains are off: web02" in str(found["warnings"])
    named = on.stream(domains=["web01", "web02", "nowhere"])
    assert named.failed
    assert [(error["kind"], error["domain"]) for error in named["errors"]] == [
        ("MonitorMissing", "web02"),
        ("MonitorMissing", "nowhere"),
    ]
    assert on.depth == 0


def test_many_disks_of_one_guest(libvirt: Libvirt, folder: Path) -> None:
    """Four streams at once in one guest: it lives, each ends by a pull of its own, and a kill loses nothing."""
    chains = [images.chain(folder, prefix=f"{number}-", seed=number) for number in range(4)]
    with libvirt.domain("many", [chain.top for chain in chains]) as guest:
        result = product.module("block_stream", domains=["many"], uri=libvirt.address, disks=["*"], parallel=4)
        assert result["finished"], result
        assert [guest.view(f"vd{letter}") for letter in "abcd"] == [[str(chain.top)] for chain in chains]
        guest.kill()
    for chain in chains:
        chain.take_away()
        assert images.differences(chain.expected, images.content(chain.top)) == []


def test_check_mode_starts_nothing(domain: Domain) -> None:
    """The chain that would be is told, and no job runs."""
    result = domain.stream(check=True)
    assert (result["changed"], domain.depth, domain.vm.job_events()) == (True, 2, [])
    assert result["diff"]["after"] == {"web01 vda": [str(domain.chain.top)]}


def test_through_a_monitor_a_guest_stays_refused(domain: Domain) -> None:
    """A monitor of its own does not make it ours; the refusal says how it is done."""
    result = domain.stream(domains=[], monitors=[str(domain.vm.judge_path)], connect_timeout=1)
    assert (result.failed, domain.depth) == (True, 2)


def test_the_guest_is_tainted(define: Callable[..., Domain]) -> None:
    """libvirt's log says so from the first look on, as the documentation does."""
    domain = define("untainted")
    assert "custom-monitor" not in domain.vm.log.read_text()
    domain.info()
    assert "custom-monitor" in domain.vm.log.read_text()


def test_increments(domain: Domain) -> None:
    """An increment stops where it ends, the next goes on from there, and at last the disk is populated."""
    cursor, steps = 0, 0
    while True:
        result = domain.stream(increment="4M", cursor=cursor, speed="4M")
        assert not result.failed, result
        cursor, steps = result["disks"][0]["cursor"], steps + 1
        if result["finished"]:
            break
        assert (domain.vm.jobs(), steps < 5) == ({}, True)
    assert steps > 1
    domain.assert_safe_after_kill()


REFUSED = [
    pytest.param({"uri": "qemu+ssh://hv2/system"}, ["uri", "another host"], id="another host"),
    pytest.param({"uri": "test:///default"}, ["uri", "qemu:///system"], id="no QEMU"),
    pytest.param({"uri": "qemu+unix:///session?socket=/nowhere"}, ["/nowhere", "libvirtd"], id="nobody there"),
    pytest.param({"monitors": ["/run/a.qmp"]}, ["monitors and domains", "one of them"], id="both"),
    pytest.param({"domains": [""]}, ["neither monitors nor domains"], id="neither"),
    pytest.param({"domains": ["nowhere"]}, ["nowhere", "no such domain"], id="no such guest"),
    pytest.param({"disks": ["vdz"]}, ["vdz", "vda", "virtio-disk0"], id="no such disk"),
    pytest.param({"base": "/nowhere"}, ["/nowhere", "backing chain"], id="no such base"),
    pytest.param({"monitor_owner": "root"}, ["monitor_owner is root", "which runs as uid"], id="another owner"),
]


@pytest.mark.parametrize(("options", "words"), REFUSED)
def test_what_is_wrong_is_said(domain: Domain, options: dict[str, Any], words: list[str]) -> None:
    """A clear error before anything is started."""
    result = domain.stream(**options)
    assert (result.failed, domain.depth, domain.vm.job_events()) == (True, 2, [])
    assert [word for word in words if word not in result["msg"]] == []


def test_without_bindings_the_package_is_named(domain: Domain, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Python without libvirt's bindings is told which package has them, and which role installs it."""
    monkeypatch.delenv("LAB_TARGET_PYTHON")
    result = domain.stream()
    assert result.failed
    assert [word for word in ("python3-libvirt", "qemu_qmp") if word not in result["msg"]] == []
