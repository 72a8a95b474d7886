# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.virtops.qmp.plugins.module_utils._model._peer import (
    Owner,
    Peer,
    is_loader,
    is_qemus_name,
    read_program,
    read_start,
    read_user,
)
from ansible_collections.virtops.qmp.tests.unit.builders import qemu_process

OWNER = Owner("qemu-vms", 64055)
FIELDS = "S 1 812 812 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 3 0 918273 1 2 3"


@pytest.mark.parametrize(
    ("stat", "start"),
    [
        pytest.param(f"812 (qemu-system-x86) {FIELDS}", 918273, id="usual"),
        pytest.param(f"812 (a b) {FIELDS}", 918273, id="a blank in the name"),
        pytest.param(f"812 (a) S 1 (b) {FIELDS}", 918273, id="a name like more fields"),
        pytest.param(f"812 (()) {FIELDS}", 918273, id="brackets"),
        pytest.param(f"812 (a\nb) {FIELDS}\n", 918273, id="a line feed"),
        pytest.param("", None, id="nothing: it has ended"),
        pytest.param("812 (x) S 1 2", None, id="half of it"),
        pytest.param(f"812 (x) {FIELDS.replace('918273', '-')}", None, id="no number"),
    ],
)
def test_read_start(stat: str, start: int | None) -> None:
    """The start time is found behind any name that a process can give itself."""
    assert read_start(stat) == start


@pytest.mark.parametrize(
    ("status", "user"),
    [
        pytest.param("Name:\tq\nUid:\t0\t64055\t0\t0\nGid:\t0\t100\t0\t0\n", (64055, 100), id="effective ids"),
        pytest.param("Name:\tUid:\t1\t1\t\nGid:\t0\t100\t0\t0\n", None, id="a name like the field"),
        pytest.param("Uid:\t0\t1\t0\t0\n", None, id="half of it"),
        pytest.param("", None, id="nothing: it has ended"),
    ],
)
def test_read_user(status: str, user: tuple[int, int] | None) -> None:
    """The user and group that a process acts as."""
    assert read_user(status) == user


@pytest.mark.parametrize(
    ("name", "is_qemus"),
    [
        pytest.param("qemu-system-x86_64", True, id="QEMU"),
        pytest.param("qemu-system-x86", True, id="cut to 15 bytes"),
        pytest.param("qemu-kvm", True, id="RHEL"),
        pytest.param("kvm", True, id="kvm"),
        pytest.param(".qemu-system-x86_64-wrapped", True, id="NixOS"),
        pytest.param("socat", False, id="proxy"),
        pytest.param("python3.11", False, id="virt-qemu-qmp-proxy runs in Python"),
        pytest.param("qemu-storage-daemon", False, id="storage daemon"),
        pytest.param("qemu-storage-da", False, id="storage daemon, cut to 15 bytes"),
        pytest.param("lkvmtool", False, id="part of a word"),
        pytest.param("libvirtd", False, id="launcher"),
    ],
)
def test_is_qemus_name(name: str, is_qemus: bool) -> None:
    """QEMU is told from proxies and launchers by the names that distributions give it."""
    assert is_qemus_name(name) is is_qemus


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        pytest.param("ld-linux-x86-64.so.2", True, id="glibc"),
        pytest.param("ld-2.31.so", True, id="glibc before 2.34"),
        pytest.param("ld-musl-x86_64.so.1", True, id="musl"),
        pytest.param("ld.so", True, id="plain"),
        pytest.param("ld", False, id="the linker"),
        pytest.param("qemu-kvm", False, id="QEMU"),
    ],
)
def test_is_loader(name: str, is_one: bool) -> None:
    """The dynamic loader is no program, but starts one."""
    assert is_loader(name) is is_one


LOADER = "7f0000000000-7f0000001000 r-xp 00001000 fe:00 11 /lib/ld-linux-x86-64.so.2\n"
QEMU = "7f1000000000-7f1000001000 r-xp 00001000 fe:00 12       /opt/a b/qemu-system-x86_64\n"


@pytest.mark.parametrize(
    ("maps", "program"),
    [
        pytest.param(LOADER + QEMU, "/opt/a b/qemu-system-x86_64", id="behind the loader"),
        pytest.param(QEMU.replace("r-xp", "r--p") + LOADER, None, id="no code"),
        pytest.param(LOADER + "7ff000000000-7ff000001000 r-xp 00000000 00:00 0 [vdso]\n", None, id="the kernel's own"),
        pytest.param("7ff000000000-7ff000001000 r-xp 00000000 00:00 0\n", None, id="no name"),
        pytest.param("", None, id="nothing: it has ended"),
    ],
)
def test_read_program(maps: str, program: str | None) -> None:
    """The program that a loader started is the first code that is no library."""
    assert read_program(maps) == program


@pytest.mark.parametrize(
    ("peer", "words"),
    [
        pytest.param(qemu_process(), "qemu-system-x86_64 (pid 100)", id="known"),
        pytest.param(qemu_process(program=None), "a process (pid 100)", id="not to be seen"),
        pytest.param(Peer(None, 0, 0, None, None, 0, None), "a process of another PID namespace", id="namespace"),
    ],
)
def test_a_peer_in_words(peer: Peer, words: str) -> None:
    """A process is called by its program and its pid."""
    assert str(peer) == words


@pytest.mark.parametrize(
    ("members", "words"),
    [
        pytest.param({}, None, id="the owner"),
        pytest.param({"maker_uid": 0}, None, id="root made the socket: QEMU before -runas, or a launcher"),
        pytest.param(
            {"uid": 0, "maker_uid": 0}, "served by qemu-system-x86_64 (pid 100), which runs as uid 0", id="root"
        ),
        pytest.param({"uid": 1, "maker_uid": 1}, "the socket was made by uid 1", id="another user"),
        pytest.param({"maker_uid": 1}, "the socket was made by uid 1", id="it made the socket as another user"),
        pytest.param({"uid": 1}, "which runs as uid 1", id="it runs as another user now"),
    ],
)
def test_refusal(members: dict[str, Any], words: str | None) -> None:
    """Both who made the socket and who serves it must be the owner; only root may have made it for another."""
    refusal = OWNER.refusal(qemu_process(**members))
    assert (refusal is None) == (words is None)
    assert words is None or (words in str(refusal) and "monitor_owner is qemu-vms (uid 64055)" in str(refusal))


def test_root_is_no_cover_for_others() -> None:
    """A process of another user that turned into a program of root's is not root's."""
    assert "made by uid 1" in str(Owner("root", 0).refusal(qemu_process(uid=0, maker_uid=1)))


def test_over_tcp_no_owner_can_be_told() -> None:
    """Where nobody can be seen, nobody is the owner."""
    assert "over TCP nobody can tell" in str(Owner("0", 0).refusal(None))


@pytest.mark.parametrize(("owner", "words"), [(Owner("root", 0), "root (uid 0)"), (Owner("0", 0), "0")], ids=str)
def test_an_owner_in_words(owner: Owner, words: str) -> None:
    """The owner is told as it was given, with the uid."""
    assert str(owner) == words
