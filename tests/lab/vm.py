# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Real VMs: QEMU processes with a monitor for the product and a second one for the judge."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import images
from .monitor import Monitor, MonitorError
from .process import LabError, kill, open_files, start, tool, wait_for_server, wait_until

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Sequence
    from types import TracebackType


class Judged:
    """What the laboratory sees of a VM over a monitor of its own, and has QEMU do."""

    folder: Path
    name: str
    log: Path
    pid: int = 0
    _judge: Monitor | None = None
    _judge_path: Path

    @property
    def judge(self) -> Monitor:
        if self._judge is None:
            raise LabError(f"{self.name} does not run")
        return self._judge

    def ask_anew(self) -> None:
        """Have the judge leave its monitor, and come back to it as another client."""
        self.judge.close()
        self._judge = Monitor(self._judge_path)

    @property
    def version(self) -> tuple[int, int]:
        """QEMU's major and minor version."""
        numbers = self.judge.greeting["QMP"]["version"]["qemu"]
        return numbers["major"], numbers["minor"]

    def hmp(self, line: str) -> str:
        """A command of the human monitor, and its text."""
        reply: str = self.command("human-monitor-command", command_line=line)
        return reply

    def command(self, execute: str, /, **arguments: Any) -> Any:
        return self.judge.command(execute, **arguments)

    def wait_event(self, name: str, /, **members: Any) -> dict[str, Any]:
        """The first event of this name whose data has these members."""
        return self.judge.wait_event(name, lambda data: members.items() <= data.items())

    @property
    def status(self) -> str:
        """The state of the VM, in QEMU's word: `running`, `postmigrate` …"""
        status: str = self.command("query-status")["status"]
        return status

    @property
    def is_alive(self) -> bool:
        """Whether QEMU answers."""
        try:
            return bool(self.status)
        except OSError:
            return False

    @property
    def can_be_saved_while_streaming(self) -> bool:
        """QEMU 5.2 refuses to save a VM while one of its disks is streamed."""
        return self.version >= (6, 0)

    def save(self) -> Path:
        """Write the state of the VM to a file, as `virsh save` does; it stays in `postmigrate` until it gets `cont`."""
        path = self.folder / f"{self.name}.state"
        self.migrate(f"exec:cat > {path}")
        self.wait_migration("completed")
        return path

    def migrate(self, uri: str, *capabilities: str) -> None:
        """Begin a migration; what it comes to is for `wait_migration`."""
        wanted = [{"capability": name, "state": True} for name in capabilities]
        if wanted:
            self.command("migrate-set-capabilities", capabilities=wanted)
        self.command("migrate", uri=uri)

    def wait_migration(self, status: str) -> None:
        """Wait until the latest migration has come to this status."""

        def has_come() -> bool:
            found = self.command("query-migrate").get("status")
            if found == "failed" != status:
                raise LabError(f"the migration failed: {self.log.read_text()}")
            return bool(found == status)

        wait_until(has_come, f"the migration is {status}")

    def job_events(self) -> list[dict[str, Any]]:
        """What QEMU has told of jobs; empty as long as nobody has started one."""
        self.command("query-status")  # all events that there are come before its answer
        return [event for event in self.judge.events if "JOB" in event["event"]]

    def jobs(self) -> dict[str, dict[str, Any]]:
        """The block jobs by id."""
        return {job["device"]: job for job in self.command("query-block-jobs")}

    def hasten(self) -> None:
        """Take the speed limit from every block job."""
        for job in self.jobs():
            self.command("block-job-set-speed", device=job, speed=0)

    def flush_error(self, disk: str) -> str | None:
        """What QEMU says when it flushes a disk on which there is no job; None where the flush succeeds.

        It flushes an image before it takes a snapshot, and tells if that fails; the snapshot itself cannot be taken.
        """
        overlay = "no-such-node"
        try:
            self.command("blockdev-snapshot", node=self.inserted(disk)["node-name"], overlay=overlay)
        except MonitorError as error:
            return None if overlay in error.desc else error.desc
        raise LabError("QEMU took a snapshot into a node that does not exist")

    def disk(self, disk: str) -> dict[str, Any]:
        """The `query-block` entry of a disk, named by its drive id, node name or qdev id."""
        entries: list[dict[str, Any]] = self.command("query-block")
        for entry in entries:
            path = entry.get("qdev", "").split("/")
            if disk in (entry["device"], entry.get("inserted", {}).get("node-name"), path[0], *path[3:4]):
                return entry
        raise LabError(f"{self.name} has no disk {disk}")

    def inserted(self, disk: str) -> dict[str, Any]:
        """What `query-block` says of the medium of a disk."""
        medium: dict[str, Any] = self.disk(disk).get("inserted", {})
        return medium

    def chain(self, disk: str) -> list[str]:
        """The file names of a disk's backing chain, the top first."""
        image: dict[str, Any] | None = self.inserted(disk).get("image")
        names = []
        while image is not None:
            names.append(image["filename"])
            image = image.get("backing-image")
        return names

    def open_files(self) -> set[Path]:
        return open_files(self.pid)

    def guest_write(self, disk: str, offset: int, size: int, pattern: int) -> None:
        """Write as a guest would, through the block backend of the disk's device."""
        reply = self.hmp(f'qemu-io -d {self.disk(disk)["qdev"]} "write -P {pattern} {offset} {size}"')
        if reply:
            raise LabError(f"qemu-io: {reply}")

    def content(self, disk: str) -> bytes:
        """The guest-visible bytes of a running disk, read over an NBD export that is gone afterwards.

        Do not use it between an act whose durability is judged and the kill.
        """
        path = self.folder / f"{self.name}.nbd"
        self.command("nbd-server-start", addr={"type": "unix", "data": {"path": str(path)}})
        try:
            node = self.inserted(disk)["node-name"]
            self.command("block-export-add", type="nbd", id="judge", node_name=node, name="judge")
            return images.content(f"nbd+unix:///judge?socket={path}", "raw")
        finally:
            self.command("nbd-server-stop")


class Vm(Judged):
    """A QEMU process, started and ended as a context manager.

    `monitor` is the path for the product. `judge` is the laboratory's own connection, on a monitor of its own, so that
    it neither takes the product's place nor hides anything from it. `under` are words before QEMU's own, such as those
    of unshare, which must end in an exec. `descriptors` are open files that QEMU inherits. With `-daemonize` among the
    arguments QEMU leaves the process that started it.
    """

    def __init__(  # noqa: PLR0913  # each has a default, and a test names the one or two that it is about
        self,
        folder: Path,
        *arguments: str,
        name: str = "vm0",
        cwd: Path | None = None,
        running: bool = False,
        accel: str = "tcg",
        memory: int = 32,
        under: Sequence[str] = (),
        descriptors: Sequence[int] = (),
    ) -> None:
        self.descriptors = descriptors
        self.folder, self.name, self.cwd = folder, name, cwd
        self.monitor = str(folder / f"{name}.qmp")
        self.log = folder / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._judge_path = folder / f"{name}.judge"
        self._command = [*under, tool("QEMU_SYSTEM", "qemu-system-x86_64")]
        self._command += ["-name", name, "-accel", accel, "-m", str(memory)]
        self._command += ["-nodefaults", "-display", "none", "-pidfile", str(self._pid_file)]
        self._command += [] if running else ["-S"]
        self._command += ["-qmp", f"unix:{self.monitor},server=on,wait=off"]
        self._command += ["-qmp", f"unix:{self._judge_path},server=on,wait=off", *arguments]

    @property
    def _pid_file(self) -> Path:
        return self.folder / f"{self.name}.pid"

    # Life

    def start(self) -> Vm:
        """Start QEMU and wait until it answers; its sockets exist before it listens."""
        self._process = process = start(self._command, self.log, cwd=self.cwd, descriptors=self.descriptors)
        self.pid = process.pid
        try:
            if "-daemonize" in self._command and process.wait(20) == 0:
                self.pid = int(self._pid_file.read_text())
            self._judge = wait_for_server(process, self.log, self._answer)
        except LabError:
            self.kill()
            raise
        return self

    def _answer(self) -> Monitor | None:
        try:
            return Monitor(self._judge_path)
        except (OSError, ValueError):
            return None

    def kill(self, number: int = signal.SIGKILL) -> None:
        """End QEMU by a signal and wait until it is gone: without a chance to flush anything, unless told otherwise."""
        if self.pid:
            kill(self.pid, number)
            self.pid = 0
        if self._process is not None:
            self._process.wait()
            self._process = None
        if self._judge is not None:
            self._judge.close()
            self._judge = None

    def __enter__(self) -> Vm:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
