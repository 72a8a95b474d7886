# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from ansible_collections.virtops.qmp.plugins.module_utils._model._address import (
    Address,
    TcpAddress,
    UnixAddress,
    read_address,
)
from ansible_collections.virtops.qmp.plugins.module_utils._model._errors import WrongRequest
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("text", "place", "plain"),
    [
        pytest.param("/run/vm.qmp", UnixAddress("/run/vm.qmp"), "/run/vm.qmp", id="path"),
        pytest.param("vm.qmp", UnixAddress("vm.qmp"), "vm.qmp", id="relative path"),
        pytest.param("/run/a,b.qmp", UnixAddress("/run/a,b.qmp"), "/run/a,b.qmp", id="a path with a comma"),
        pytest.param("localhost:4444", TcpAddress("localhost", 4444), "localhost:4444", id="host and port"),
        pytest.param("127.0.0.1:1", TcpAddress("127.0.0.1", 1), "127.0.0.1:1", id="IPv4"),
        pytest.param("[::1]:4444", TcpAddress("::1", 4444), "[::1]:4444", id="IPv6"),
        pytest.param("::1:4444", TcpAddress("::1", 4444), "[::1]:4444", id="IPv6 without brackets"),
        pytest.param("[fe80::1%eth0]:1", TcpAddress("fe80::1%eth0", 1), "[fe80::1%eth0]:1", id="IPv6 with its link"),
        pytest.param("[0-9]:4444", UnixAddress("[0-9]:4444"), "[0-9]:4444", id="brackets of a glob"),
        pytest.param("vm*:4444", UnixAddress("vm*:4444"), "vm*:4444", id="a glob with a colon"),
        pytest.param("a:b:4444", UnixAddress("a:b:4444"), "a:b:4444", id="two colons, and no IPv6"),
        pytest.param(":4444", UnixAddress(":4444"), ":4444", id="no host"),
        pytest.param("./vm:4444", UnixAddress("./vm:4444"), "./vm:4444", id="a path with a colon"),
        pytest.param("/run/vm:1", UnixAddress("/run/vm:1"), "/run/vm:1", id="an absolute path with a colon"),
        pytest.param("host:name", UnixAddress("host:name"), "host:name", id="no number"),
        pytest.param("host:123456", UnixAddress("host:123456"), "host:123456", id="too many digits"),
        pytest.param("@vm", UnixAddress("\0vm"), "@vm", id="abstract"),
        pytest.param("\0vm", UnixAddress("\0vm"), "@vm", id="abstract, as the kernel has it"),
        pytest.param("unix:@vm", UnixAddress("\0vm", is_literal=True), "@vm", id="unix: and abstract"),
        pytest.param("unix:/run/vm", UnixAddress("/run/vm", is_literal=True), "/run/vm", id="unix:"),
        pytest.param("unix:tcp:x", UnixAddress("tcp:x", is_literal=True), "./tcp:x", id="unix: and an odd name"),
        pytest.param("unix:vm:1", UnixAddress("vm:1", is_literal=True), "./vm:1", id="unix: and a name like a host"),
        pytest.param(
            "unix:/run/vm,server=on,wait=off", UnixAddress("/run/vm", is_literal=True), "/run/vm", id="unix: options"
        ),
        pytest.param(
            "unix:/run/vm,server,nowait", UnixAddress("/run/vm", is_literal=True), "/run/vm", id="old options"
        ),
        pytest.param("unix:/a,,b,server", UnixAddress("/a,b", is_literal=True), "/a,b", id="a doubled comma"),
        pytest.param("unix:/a,,,b", UnixAddress("/a,", is_literal=True), "/a,", id="three commas"),
        pytest.param("unix:vm,abstract=on", UnixAddress("\0vm", is_literal=True), "@vm", id="the option abstract"),
        pytest.param("unix:/v,server,abstract", UnixAddress("\0/v", is_literal=True), "@/v", id="abstract alone"),
        pytest.param("tcp:h:1", TcpAddress("h", 1), "h:1", id="tcp:"),
        pytest.param("tcp:h:1,server=on,wait=off", TcpAddress("h", 1), "h:1", id="tcp: options"),
        pytest.param("tcp:[::1]:1,server", TcpAddress("::1", 1), "[::1]:1", id="tcp: and IPv6"),
        pytest.param("tcp::4444,server", TcpAddress("localhost", 4444), "localhost:4444", id="tcp: every address"),
    ],
)
def test_read_address(text: str, place: Address, plain: str) -> None:
    """Every spelling that people have leads to one place, which has one plain form that leads back to it."""
    found = read_address(text)
    assert (found, str(found)) == (place, plain)
    assert str(read_address(plain)) == plain


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("", "'' names no socket", id="nothing"),
        pytest.param("@", "names no socket", id="an abstract name of nothing"),
        pytest.param("unix:", "names no socket", id="unix: alone"),
        pytest.param("unix:,server=on", "names no socket", id="unix: and options"),
        pytest.param("/run/\0.qmp", "has a NUL character within", id="NUL"),
        pytest.param("@a\0b", "has a NUL character within", id="NUL in an abstract name"),
        pytest.param("unix:a,abstract=on,tight=off", "tight=off", id="a padded name"),
        pytest.param("tcp:host", "is no TCP address", id="no port"),
        pytest.param("tcp:/run/vm", "is no TCP address", id="a path"),
        pytest.param("tcp:h:123456", "is no TCP address", id="too many digits"),
        pytest.param("h:0", "port 0 is out of range", id="port 0"),
        pytest.param("tcp:h:65536", "port 65536 is out of range", id="a port too large"),
    ],
)
def test_an_address_that_none_can_be(text: str, words: str) -> None:
    """What no monitor can be at is refused with the reason, and is no traceback."""
    with pytest.raises(WrongRequest, match=words):
        read_address(text)


@pytest.mark.parametrize(
    ("text", "may_be"),
    [
        pytest.param("/run/*.qmp", True, id="star"),
        pytest.param("/run/vm?.qmp", True, id="question mark"),
        pytest.param("/run/web[0].qmp", True, id="brackets"),
        pytest.param("/run/vm.qmp", False, id="path"),
        pytest.param("[::1]:4444", False, id="IPv6"),
        pytest.param("@vm*", False, id="abstract"),
        pytest.param("unix:/run/web[0].qmp", False, id="QEMU's option"),
    ],
)
def test_may_be_glob(text: str, may_be: bool) -> None:
    """Only what is given as a path can be a glob; to QEMU none is."""
    assert read_address(text).may_be_glob is may_be


@given(st.text(alphabet="a*[]:@,./1\0unixtcp%"))
def test_whatever_is_given(text: str) -> None:
    """Any text is an address or is refused, and the plain form of an address leads to the same place."""
    try:
        plain = str(read_address(text))
    except WrongRequest:
        return
    assert str(read_address(plain)) == plain
