# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where a monitor is, in the spellings that people have for it: one plain form for each place."""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple, Sequence, Union

from ._errors import WrongRequest

# A host has no slash, which tells it from a path, and nothing that a glob has.
_HOST_AND_PORT = re.compile(r"(?:\[(?P<bracketed>[^\[\]]+)\]|(?P<host>[^/\[\]*?\s]*)):(?P<port>\d{1,5})", re.ASCII)
# In QEMU's options a comma of a value is doubled.
_PATH_AND_OPTIONS = re.compile(r"((?:[^,]|,,)*)(?:,(.*))?", re.DOTALL)
# What makes a path a glob for Python's module of that name.
_MAGIC = re.compile(r"[*?[]")


class UnixAddress(NamedTuple):
    """A UNIX socket; ``path`` is as the kernel has it: the name of an abstract one is behind a NUL.

    ``is_literal``: it was said to be a path, and stands for nothing else.
    """

    path: str
    is_literal: bool = False

    def __str__(self) -> str:
        if self.is_abstract:
            return f"@{self.path[1:]}"
        return f"./{self.path}" if _reads_otherwise(self.path) else self.path

    @property
    def is_abstract(self) -> bool:
        """Whether it has no file."""
        return self.path.startswith("\0")

    @property
    def may_be_glob(self) -> bool:
        """Whether it can stand for several sockets; where there is one of this very name, it means that one."""
        return not self.is_abstract and not self.is_literal and may_be_pattern(self.path)


class TcpAddress(NamedTuple):
    """A host, without the brackets of an IPv6 address, and a port."""

    host: str
    port: int

    @property
    def may_be_glob(self) -> bool:
        """It stands for itself only."""
        return False

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def may_be_pattern(text: str) -> bool:
    """Whether a name can stand for several, as in the shell."""
    return _MAGIC.search(text) is not None


Address = Union[UnixAddress, TcpAddress]


class DomainName(str):
    """The name of one of libvirt's guests: what stands in the place of a monitor's address for a VM reached so."""


def read_address(text: str) -> Address:
    """Read a path, ``@name``, ``host:port``, or one of QEMU's ``unix:...`` and ``tcp:...`` with or without options.

    The plain form of what it returns, ``str``, leads back to the same place.

    :raise WrongRequest: nothing can be at such an address.
    """
    kind, colon, rest = text.partition(":")
    if colon and kind == "unix":
        return _read_unix_option(text, rest)
    if colon and kind == "tcp":
        return _read_tcp_option(text, rest)
    return _read_host_and_port(text) or _unix(text, text)


def _read_unix_option(text: str, option: str) -> UnixAddress:
    path, options = _split_options(option)
    if "tight=off" in options:
        raise WrongRequest(
            f"monitor {text!r}: an abstract socket with tight=off has a name padded with NULs, which is not supported. "
            "Leave tight=off out of QEMU's option"
        )
    is_abstract = not {"abstract=on", "abstract"}.isdisjoint(options)
    return _unix(text, f"@{path}" if is_abstract else path, is_literal=True)  # to QEMU it is no glob, either


def _read_tcp_option(text: str, option: str) -> TcpAddress:
    place, _options = _split_options(option)
    # QEMU serves every address of its host where none is named.
    address = _read_host_and_port(f"localhost{place}" if place.startswith(":") else place)
    if address is None:
        raise WrongRequest(f"monitor {text!r} is no TCP address. Write host:port, or [address]:port for IPv6")
    return address


def _split_options(option: str) -> tuple[str, Sequence[str]]:
    """Cut off ``,server=on,wait=off`` and the like; a comma of the path itself is doubled, as QEMU reads it."""
    words = _PATH_AND_OPTIONS.fullmatch(option)
    path, options = words.groups("") if words else (option, "")
    return path.replace(",,", ","), options.split(",")


def _read_host_and_port(text: str) -> TcpAddress | None:
    found = _host_and_port(text)
    if found is not None and not 0 < found[1] < 65536:
        raise WrongRequest(f"monitor {text!r}: port {found[1]} is out of range: from 1 to 65535")
    return None if found is None else TcpAddress(*found)


def _host_and_port(text: str) -> tuple[str, int] | None:
    words = _HOST_AND_PORT.fullmatch(text)
    if words is None:
        return None
    host = words["host"] if words["bracketed"] is None else words["bracketed"]
    if not host or ((host == words["bracketed"] or ":" in host) and not _is_ipv6(host)):
        return None  # [0-9]:1 is a glob, and a:b:1 may be a file
    return host, int(words["port"])


def _is_ipv6(host: str) -> bool:
    try:
        ipaddress.IPv6Address(host.split("%")[0])
    except ValueError:
        return False
    return True


def _unix(text: str, path: str, *, is_literal: bool = False) -> UnixAddress:
    if path.startswith("@"):
        path = f"\0{path[1:]}"
    if path in ("", "\0"):
        raise WrongRequest(f"monitor {text!r} names no socket")
    if "\0" in path[1:]:
        raise WrongRequest(f"monitor {text!r} has a NUL character within, which no path can have")
    return UnixAddress(path, is_literal)


def _reads_otherwise(path: str) -> bool:
    """Whether a relative path would be read as something else."""
    return path.startswith(("@", "unix:", "tcp:")) or _host_and_port(path) is not None
