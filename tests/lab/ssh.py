# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""An SSH server of its own on loopback, through which Ansible reaches this host as it reaches a hypervisor.

Keys, configuration and what the clients keep lie in a folder of its own. The host's server, its users' keys and
`~/.ssh` are neither read nor changed; whoever runs the tests logs in as himself.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from .process import LabError, descendants, kill, run, start, wait_for_server

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

SERVER = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
# Where a server that root starts puts its unprivileged part. The distribution's service makes it, too.
_EMPTY = Path("/run/sshd")


def _can_log_in_without_pam() -> bool:
    """Whether the account is not locked; PAM lets a key open one that is."""
    try:
        rows = [line.split(":") for line in Path("/etc/shadow").read_text().splitlines()]
    except OSError:
        return True
    return not any(row[0] == getpass.getuser() and row[1].startswith("!") for row in rows)


# Ansible leaves sudo out where who logs in is who the task becomes.
ROOT_BY_SUDO = {"ANSIBLE_BECOME_ALLOW_SAME_USER": "1"}


class Sshd:
    """The server, and how Ansible is told to use it. It ends with everything that was started through it."""

    def __init__(self, folder: Path) -> None:
        if SERVER is None:
            raise LabError("there is no sshd: .ci/setup installs openssh-server")
        self._folder = folder / "ssh"
        self._folder.mkdir(mode=0o700)
        for name in ("host_key", "key"):
            run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", self._folder / name])
        shutil.copy(self._folder / "key.pub", self._folder / "authorized_keys")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        settings = {
            "ListenAddress": f"127.0.0.1:{self.port}",
            "HostKey": self._folder / "host_key",
            "AuthorizedKeysFile": self._folder / "authorized_keys",
            "PidFile": "none",
            "StrictModes": "no",  # the folder may lie in one that others can write to
            "UsePAM": "no" if _can_log_in_without_pam() else "yes",
            "PermitRootLogin": "prohibit-password",
            "PasswordAuthentication": "no",
            "KbdInteractiveAuthentication": "no",
            "PermitUserRC": "no",
            "SetEnv": f"HOME={self._folder}",  # a login reads no file of the user, such as .bashrc
            "PrintMotd": "no",
            "Subsystem": "sftp internal-sftp",
        }
        self._config = self._folder / "sshd_config"
        self._config.write_text("".join(f"{name} {value}\n" for name, value in settings.items()))

    def __enter__(self) -> Self:
        if os.geteuid() == 0:
            _EMPTY.mkdir(mode=0o755, exist_ok=True)
        log = self._folder / "sshd.log"
        self._process = start([str(SERVER), "-D", "-e", "-f", self._config], log)
        wait_for_server(self._process, log, self._answers)
        return self

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
            return True
        return False

    def __exit__(self, *_unused: object) -> None:
        for pid in [*self.clients(), *descendants(self._process.pid), self._process.pid]:
            kill(pid)
        self._process.wait()

    def reach(self, variables: Mapping[str, object], *, controller: str = "one", port: int | None = None) -> list[str]:
        """The words of an `ansible` command that reach the host `localhost` through this server.

        :param variables: more of the host, such as `ansible_pipelining`.
        :param controller: the clients of one controller share a connection, those of another one do not.
        :param port: where to connect in place of the server's own port, such as that of something in between.
        """
        place = f"[127.0.0.1]:{port or self.port}"
        known = self._folder / f"known_hosts-{port or self.port}"
        known.write_text(f"{place} {(self._folder / 'host_key.pub').read_text()}")
        options = {
            "UserKnownHostsFile": known,
            "GlobalKnownHostsFile": "/dev/null",
            "IdentitiesOnly": "yes",
            "IdentityAgent": "none",
        }
        own = {
            "ansible_host": "127.0.0.1",
            "ansible_port": port or self.port,
            "ansible_user": getpass.getuser(),
            "ansible_ssh_private_key_file": str(self._folder / "key"),
            "ansible_ssh_common_args": " ".join(
                ["-F", "none", *[f"-o {name}={value}" for name, value in options.items()]]
            ),
            "ansible_control_path_dir": str(self._control(controller)),
        }
        return ["-c", "ssh", "-e", json.dumps({**own, **variables})]

    def _control(self, controller: str) -> Path:
        return self._folder / controller

    def clients(self, controller: str = "") -> list[int]:
        """The `ssh` processes of a controller, that which keeps the connection for the next ones included; of all."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                words = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if words.startswith("ssh") and f"{self._control(controller)}" in words:
                    found.append(int(path.parent.name))
        return found

    def sessions(self) -> list[int]:
        """The server's own processes for the connections that there are: not those that run in them."""
        return [pid for pid in descendants(self._process.pid) if _name_of(pid).startswith("sshd")]

    def kill_sessions(self) -> None:
        """End every connection from the server's side, as a crash of it would."""
        for pid in self.sessions():
            kill(pid)

    def stop_clients(self, controller: str) -> None:
        """Have the connections of a controller hang: it reads and writes nothing any more, and is not gone."""
        for pid in self.clients(controller):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)


def _name_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text()
    except OSError:
        return ""


def with_sudo(*, pipelining: bool) -> dict[str, object] | None:
    """Variables with which a task becomes root by sudo; None where that is not to be had.

    In the environment `ROOT_BY_SUDO` from root, too.
    """
    words = ["sudo", "-n", "true"]
    with contextlib.suppress(FileNotFoundError):
        if subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, check=False).returncode == 0:
            return {"ansible_pipelining": pipelining, "ansible_become": True, "ansible_become_method": "sudo"}
    return None
