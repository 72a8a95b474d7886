# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""libvirt as a plain user runs it: a daemon of our own in a folder of our own, and nothing of the host's is touched."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from .monitor import Monitor
from .process import LabError, kill, run, start, tool, wait_until
from .vm import Judged

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
  <qemu:commandline>{words}</qemu:commandline>
</domain>
"""
_DISK = """
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2'/><source file='{file}'/><target dev='{device}' bus='virtio'/>
    </disk>"""


def distribution_python() -> str:
    """The Python for which the distribution has libvirt's bindings."""
    return shutil.which("python3", path="/usr/bin:/bin") or "python3"


def what_is_missing() -> str | None:
    """The reason why libvirt cannot be measured here; None if it can."""
    path = f"{os.environ['PATH']}:/usr/sbin"
    missing = [program for program in NEEDED if shutil.which(program, path=path) is None]
    return f"{', '.join(missing)} not installed" if missing else None


class Guest(Judged):
    """A guest of libvirt; the judge has a monitor of its own in it, beside libvirt's."""

    def __init__(self, libvirt: Libvirt, name: str) -> None:
        self.libvirt, self.folder, self.name = libvirt, libvirt.folder, name
        self.log = libvirt.logs / f"{name}.log"
        self._judge_path = self.judge_path = libvirt.folder / f"{name.replace(',', '-')}.judge"

    def meet(self) -> None:
        """Learn what libvirt has started."""
        self._leave()
        self._judge = Monitor(self._judge_path)
        self.pid = int((self.libvirt.state / f"{self.name}.pid").read_text())

    def _leave(self) -> None:
        if self._judge is not None:
            self._judge.close()
            self._judge = None

    def kill(self) -> None:
        """SIGKILL, without a chance to flush anything; and libvirt has seen it."""
        kill(self.pid)
        wait_until(lambda: self.state != "running", "libvirt sees that the guest is gone")

    @property
    def state(self) -> str:
        """`running`, whatever its processor does, or `off`."""
        names = self.libvirt.virsh("list", "--name").split()
        return "running" if self.name in names else "off"

    def end(self) -> None:
        """Shut it off, if it is not."""
        self._leave()
        if self.state == "running":
            self.libvirt.virsh("destroy", self.name)

    def disk(self, disk: str) -> dict[str, Any]:
        """The `query-block` entry of a disk, which may be named by its target."""
        return super().disk(f"virtio-disk{ord(disk[2]) - ord('a')}" if disk.startswith("vd") else disk)

    def view(self, target: str = "vda") -> list[str]:
        """The files of a disk's chain as libvirt's own XML has them, the top first."""
        (disk,) = ElementTree.fromstring(self.libvirt.virsh("dumpxml", self.name)).findall(
            f"./devices/disk/target[@dev='{target}']/.."
        )
        layer: ElementTree.Element | None = disk
        names = []
        while layer is not None and layer.find("source") is not None:
            names.append(layer.find("source").get("file"))  # type: ignore[union-attr]
            layer = layer.find("backingStore")
        return [name for name in names if name is not None]


class Libvirt:
    """A session daemon; as root it runs as nobody, for root's own daemon keeps its state in the host's folders."""

    user = _NOBODY

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._words: list[str] = []
        self._started: dict[str, subprocess.Popen[bytes]] = {}
        self.variables = {
            "HOME": folder / "home",
            "XDG_RUNTIME_DIR": folder / "run",
            "XDG_CONFIG_HOME": folder / "config",
            "XDG_CACHE_HOME": folder / "cache",
        }

    @property
    def address(self) -> str:
        """The URI by which anybody reaches it."""
        return f"qemu+unix:///session?socket={self.folder}/run/libvirt/libvirt-sock"

    @property
    def state(self) -> Path:
        """Where it writes the pids of its guests."""
        return self.folder / "run" / "libvirt" / "qemu" / "run"

    @property
    def logs(self) -> Path:
        """Where it writes what its guests say."""
        return self.folder / "cache" / "libvirt" / "qemu" / "log"

    @contextlib.contextmanager
    def running(self) -> Iterator[Libvirt]:
        """Start the daemons, and end them."""
        self.folder.mkdir()
        self.own(self.folder)
        for place in self.variables.values():
            place.mkdir()
            self.own(place)
        places = [f"{variable}={place}" for variable, place in self.variables.items()]
        as_nobody = ["setpriv", f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups"]
        path = f"PATH={os.environ['PATH']}:/usr/sbin"
        self._words = [*(as_nobody if os.geteuid() == 0 else []), "env", path, *places]
        try:
            for daemon in ("virtlogd", "libvirtd"):
                self._start(daemon)
            self._wait()
            yield self
        finally:
            for process in reversed(self._started.values()):
                kill(process.pid, signal.SIGTERM)
                process.wait()

    def _start(self, daemon: str) -> None:
        self._started[daemon] = start([*self._words, daemon], self.folder / f"{daemon}.log", linger=True)

    @property
    def pids(self) -> tuple[int, ...]:
        """The daemons, libvirtd last."""
        return tuple(process.pid for process in self._started.values())

    def restart(self) -> None:
        """End libvirtd, if it runs, and start another one; the guests live on."""
        process = self._started["libvirtd"]
        kill(process.pid, signal.SIGTERM)
        process.wait()
        self._start("libvirtd")
        self._wait()

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
            wait_until(answers, "libvirtd answers", timeout=120)
        except AssertionError as error:
            raise LabError(f"{error}: {said}") from None

    def own(self, path: Path) -> None:
        """Give a file to the user who runs the guests."""
        if os.geteuid() == 0:
            os.chown(path, self.user, self.user)

    @property
    def emulator(self) -> str:
        """The QEMU that it starts."""
        return shutil.which(tool("QEMU_SYSTEM", "qemu-system-x86_64")) or "qemu-system-x86_64"

    def virsh(self, *words: str) -> str:
        return run(["virsh", "-c", self.address, *words])

    @contextlib.contextmanager
    def domain(
        self, name: str, tops: Sequence[Path], *, persistent: bool = False, words: Sequence[str] = ()
    ) -> Iterator[Guest]:
        """A guest with these disks, vda and on, that is defined or only created; it does not run its processor."""
        for top in tops:
            self.own(top)
        disks = "".join(_DISK.format(file=top, device=f"vd{chr(97 + place)}") for place, top in enumerate(tops))
        guest = Guest(self, name)
        description = self.folder / f"{name}.xml"
        words = ["-qmp", f"unix:{guest.judge_path},server=on,wait=off", *words]
        own = "".join(f"<qemu:arg value='{word}'/>" for word in words)
        description.write_text(_DOMAIN.format(name=name, emulator=self.emulator, disks=disks, words=own))
        if persistent:
            self.virsh("define", str(description))
        else:
            self.virsh("create", "--paused", str(description))
        try:
            if persistent:
                self.virsh("start", "--paused", name)
            guest.meet()
            yield guest
        finally:
            guest.end()
            if persistent:
                self.virsh("undefine", name)


# What root's daemon writes to lies in a namespace of mounts of its own, in memory. Debian's package makes the user.
_SETUP = """\
set -e
tree=$1 own=$2 user=$3
mount --make-rprivate /
for name in dev proc sys tmp; do [ -z "$tree" ] || { mkdir -p $tree/$name; mount --rbind /$name $tree/$name; }; done
for name in bin lib lib64 sbin; do [ -e $tree/$name ] || ln -s usr/$name $tree/$name; done
mkdir -p $tree/run $tree/etc $tree/var
mount -t tmpfs tmpfs $own
for name in etc var; do
    mkdir $own/$name $own/$name.work
    mount -t overlay -o lowerdir=$tree/$name,upperdir=$own/$name,workdir=$own/$name.work overlay $tree/$name
done
mount -t tmpfs tmpfs $tree/run
for name in passwd group nsswitch.conf; do [ -e $tree/etc/$name ] || cat /etc/$name >$tree/etc/$name; done
grep -q ^libvirt-qemu: $tree/etc/passwd ||
    echo libvirt-qemu:x:$user:$user::/nonexistent:/bin/false >>$tree/etc/passwd
for name in kvm libvirt-qemu; do grep -q ^$name: $tree/etc/group || echo $name:x:$user: >>$tree/etc/group; done
echo "127.0.0.1 localhost $(uname -n)" >$tree/etc/hosts # libvirt asks for the host's own name, and must not wait for it
mkdir -p $tree/etc/libvirt $tree/var/log/libvirt
printf '%s\\n' 'security_driver = "none"' 'cgroup_controllers = []' >$tree/etc/libvirt/qemu.conf
printf '%s\\n' 'auth_unix_rw = "none"' 'auth_unix_ro = "none"' >$tree/etc/libvirt/libvirtd.conf
# In a chroot libvirt cannot make a namespace for a guest.
[ -z "$tree" ] || echo 'namespaces = []' >>$tree/etc/libvirt/qemu.conf
chroot $tree/ /usr/sbin/virtlogd --daemon
exec chroot $tree/ /usr/sbin/libvirtd
"""


class SystemLibvirt(Libvirt):
    """Root's daemon with its defaults: guests run as another user, in mounts of their own, and it owns their images.

    With a `tree` it is the one, and its QEMU, of another release of Debian, unpacked there.
    """

    user = 64055

    def __init__(self, folder: Path, tree: Path | None = None) -> None:
        super().__init__(folder)
        self._tree = tree

    @property
    def address(self) -> str:
        return f"qemu+unix:///system?socket={self._root}/run/libvirt/libvirt-sock"

    @property
    def state(self) -> Path:
        return self._root / "run" / "libvirt" / "qemu"

    @property
    def logs(self) -> Path:
        return self._root / "var" / "log" / "libvirt" / "qemu"

    @property
    def _root(self) -> Path:
        return Path(f"/proc/{self.pids[-1]}/root")

    @property
    def emulator(self) -> str:
        return super().emulator if self._tree is None else "/usr/bin/qemu-system-x86_64"

    @contextlib.contextmanager
    def running(self) -> Iterator[SystemLibvirt]:
        """Start it, and end it with all that it has started."""
        self.folder.mkdir()
        self.own(self.folder)
        (self.folder / "own").mkdir()
        words = [str(self._tree or ""), str(self.folder / "own"), str(self.user)]
        self._words = ["unshare", "--mount", "sh", "-c", _SETUP, "sh", *words]
        self._start("libvirtd")
        try:
            self._wait()
            with open(f"/proc/{self.pids[-1]}/ns/mnt") as mounts:  # they stay when the daemon is started anew
                where = f"--mount=/proc/{os.getpid()}/fd/{mounts.fileno()}"
                self._words = ["nsenter", where, "chroot", f"{self._tree or ''}/", "env", "PATH=/usr/sbin:/usr/bin"]
                yield self
        finally:
            process = self._started["libvirtd"]
            with contextlib.suppress(FileNotFoundError):
                kill(int((self._root / "run" / "virtlogd.pid").read_text()))
            kill(process.pid)
            process.wait()
