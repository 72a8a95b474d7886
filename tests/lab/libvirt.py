# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""libvirt as a plain user runs it: a daemon of our own in a folder of our own, and nothing of the host's is touched."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from pathlib import Path
from typing import TYPE_CHECKING

from . import LabError, Monitor, kill, wait_until
from .process import run, start, tool

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

NEEDED = ("virsh", "libvirtd", "virtlogd", "setpriv")
_NOBODY = 65534

_DOMAIN = """\
<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>{name}</name><memory unit='MiB'>32</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <devices>
    <emulator>{emulator}</emulator>{disks}
    <controller type='usb' model='none'/><memballoon model='none'/>
  </devices>
  <qemu:commandline><qemu:arg value='-qmp'/><qemu:arg value='unix:{judge},server=on,wait=off'/></qemu:commandline>
</domain>
"""
_DISK = """
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2'/><source file='{file}'/><target dev='{device}' bus='virtio'/>
    </disk>"""


def what_is_missing() -> str | None:
    """The reason why libvirt cannot be measured here; None if it can."""
    path = f"{os.environ['PATH']}:/usr/sbin"
    missing = [program for program in NEEDED if shutil.which(program, path=path) is None]
    return f"{', '.join(missing)} not installed" if missing else None


class Libvirt:
    """A session daemon; as root it runs as nobody, for root's own daemon keeps its state in the host's folders."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pids: tuple[int, ...] = ()
        self.address = f"qemu+unix:///session?socket={folder}/run/libvirt/libvirt-sock"

    @contextlib.contextmanager
    def running(self) -> Iterator[Libvirt]:
        """Start the daemons, and end them."""
        self.folder.mkdir()
        self._own(self.folder)
        variables = {"HOME": "home", "XDG_RUNTIME_DIR": "run", "XDG_CONFIG_HOME": "conf", "XDG_CACHE_HOME": "cache"}
        places = [f"{variable}={self.folder / place}" for variable, place in variables.items()]
        for place in variables.values():
            (self.folder / place).mkdir()
            self._own(self.folder / place)
        as_nobody = ["setpriv", f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups"]
        path = f"PATH={os.environ['PATH']}:/usr/sbin"
        started = []
        try:
            for daemon in ("virtlogd", "libvirtd"):
                words = [*(as_nobody if os.geteuid() == 0 else []), "env", path, *places, daemon]
                started.append(start(words, self.folder / f"{daemon}.log", linger=True))
            self._wait()
            self.pids = tuple(process.pid for process in started)
            yield self
        finally:
            for process in reversed(started):
                kill(process.pid, signal.SIGTERM)
                process.wait()

    def _wait(self) -> None:
        said = ""

        def answers() -> bool:
            nonlocal said
            try:
                self.virsh("list")
            except LabError as error:
                said = str(error)
                return False
            return True

        try:
            wait_until(answers, "libvirtd answers")
        except AssertionError as error:
            raise LabError(f"{error}: {said}") from None

    @staticmethod
    def _own(path: Path) -> None:
        if os.geteuid() == 0:
            os.chown(path, _NOBODY, _NOBODY)

    def virsh(self, *words: str) -> str:
        return run(["virsh", "-c", self.address, *words])

    @contextlib.contextmanager
    def domain(self, name: str, tops: Sequence[Path]) -> Iterator[Monitor]:
        """A guest with these disks, vda and on; yields a monitor of the judge's own."""
        for top in tops:
            self._own(top)
        disks = "".join(_DISK.format(file=top, device=f"vd{chr(97 + place)}") for place, top in enumerate(tops))
        emulator = shutil.which(tool("QEMU_SYSTEM", "qemu-system-x86_64"))
        judge = self.folder / f"{name}.judge"
        description = self.folder / f"{name}.xml"
        description.write_text(_DOMAIN.format(name=name, emulator=emulator, disks=disks, judge=judge))
        self.virsh("create", "--paused", str(description))
        monitor = Monitor(judge)
        try:
            yield monitor
        finally:
            monitor.close()
            self.virsh("destroy", name)
