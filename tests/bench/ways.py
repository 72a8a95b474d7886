# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is populated in the measurements, and the ways to do it: ours, and what people do without it."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab import Monitor, Vm, disks, images, product
from lab.images import KiB, MiB
from lab.process import run

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from lab.libvirt import Libvirt

GiB = 1024 * MiB
PLAY = "- hosts: all\n  gather_facts: false\n  tasks: {tasks}\n"


def golden(folder: Path, size: int) -> Path:
    """An image full of data that nobody could compress, made once for each size in bytes."""
    path = folder / f"golden-{size}.qcow2"
    if not path.exists():
        raw = folder / "golden.raw"
        with raw.open("wb") as file:
            for _part in range(0, size, 64 * KiB):
                file.write(os.urandom(64 * KiB))
        run([images.qemu_img(), "convert", "-f", "raw", "-O", "qcow2", raw, path])
        raw.unlink()
    return path


def overlay(path: Path, backing: Path) -> Path:
    path.unlink(missing_ok=True)
    return images.create(path, backing=backing)


@contextlib.contextmanager
def plain_vm(folder: Path, backing: Path, *, count: int = 1, name: str = "vm0") -> Iterator[Vm]:
    """A VM with thin disks vda, vdb and on; their device names are the same."""
    names = [f"vd{chr(97 + place)}" for place in range(count)]
    words = [
        word
        for disk in names
        for word in disks.drive(overlay(folder / f"{name}-{disk}.qcow2", backing), id=disk, qdev=disk)
    ]
    with Vm(folder, *words, name=name) as vm:
        yield vm


@dataclass
class Done:
    """A command at its end: times are seconds since the epoch, as in QEMU's events."""

    began: float
    spoke: float
    ended: float
    output: str

    @property
    def seconds(self) -> float:
        return self.ended - self.began


def timed(command: Sequence[str | Path], *, stdin: str = "", environ: Mapping[str, str] | None = None) -> Done:
    """Run a command to its end; its failure ends the measurement."""
    began = time.time()
    with subprocess.Popen(
        [str(word) for word in command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=dict(environ or os.environ),
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(stdin.encode())
        process.stdin.close()
        output = process.stdout.read(1)
        spoke = time.time()
        output += process.stdout.read()
        process.wait()
    done = Done(began, spoke, time.time(), output.decode(errors="replace"))
    assert process.returncode == 0, f"{command}: exit {process.returncode}\n{done.output}"
    return done


# -- Ways: each is a command -------------------------------------------------------------------------------------------


def raw(monitor: str) -> list[str]:
    return [sys.executable, str(Path(__file__).with_name("raw_listener.py")), monitor, "vda"]


def timeline(monitor: str) -> list[str]:
    return [sys.executable, str(Path(__file__).with_name("timeline.py")), monitor]


def play(folder: Path, *tasks: Mapping[str, Any]) -> list[str]:
    """A playbook of these tasks."""
    book = folder / "play.yml"
    book.write_text(PLAY.format(tasks=json.dumps(list(tasks))))
    return playbook(book)


def playbook(book: Path, **variables: Any) -> list[str]:
    inventory = ["-i", "localhost,", "-c", "local", "-e", json.dumps(variables)]
    return [sys.executable, "-m", "ansible.cli.playbook", *inventory, str(book)]


def ours(module: str = "block_stream", **options: Any) -> dict[str, Any]:
    """A task."""
    return {f"{product.NAME}.{module}": options}


def by_socat(monitor: str, **arguments: Any) -> list[dict[str, Any]]:
    """The tasks of somebody who has a shell: start the job, then ask every second whether it is still there."""

    def ask(*messages: Mapping[str, Any]) -> str:
        words = " ".join(f"'{json.dumps(message)}'" for message in ({"execute": "qmp_capabilities"}, *messages))
        return f"printf '%s\\n' {words} | socat -t 0.2 - UNIX-CONNECT:{monitor}"

    start = ask({"execute": "block-stream", "arguments": {"job-id": "shell", "device": "vda", **arguments}})
    look = ask({"execute": "query-block-jobs"}) + " | jq -s 'last.return | length'"
    return [
        {"ansible.builtin.shell": start},
        {
            "ansible.builtin.shell": look,
            "register": "jobs",
            "until": "jobs.stdout == '0'",
            "retries": 600,
            "delay": 1,
        },
    ]


def virsh(libvirt: Libvirt, name: str = "vm0", disk: str = "vda") -> list[str]:
    return ["virsh", "-c", libvirt.address, "blockpull", name, disk, "--wait"]


def by_virsh(libvirt: Libvirt, name: str = "vm0", disk: str = "vda") -> dict[str, Any]:
    return {"ansible.builtin.command": {"argv": virsh(libvirt, name, disk)}}


def environment(**more: str) -> dict[str, str]:
    """Modules run in the Python of this process unless told otherwise."""
    return product.environment(**{"ANSIBLE_PYTHON_INTERPRETER": sys.executable, **more})


# -- Judging -----------------------------------------------------------------------------------------------------------


def must_be_populated(judge: Monitor) -> None:
    """A way that did not do it is not measured."""
    for entry in judge.command("query-block"):
        depth = entry.get("inserted", {}).get("backing_file_depth", 0)
        assert depth == 0, f"not populated: {entry['qdev']} has {depth} images below it"


def moment_of(judge: Monitor, name: str, **members: str) -> float:
    """When QEMU last told an event with these members, in seconds since the epoch."""
    judge.wait_event(name, lambda data: members.items() <= data.items())
    told = [each for each in judge.events if each["event"] == name and members.items() <= each["data"].items()]
    stamp = told[-1]["timestamp"]
    return float(stamp["seconds"] + stamp["microseconds"] / 1e6)


class MeteredPython:
    """An interpreter for modules that notes what each of them costs: the target's share of a run."""

    def __init__(self, folder: Path) -> None:
        self.path, self._cpu, self._bytes = folder / "python", folder / "cpu", folder / "bytes"
        # The module's code comes on stdin, with pipelining: what goes over an SSH connection, but for compression.
        self.path.write_text(
            f"""#!/bin/sh
tee -a {self._bytes} | {{
    {sys.executable} "$@"
    echo $? >{folder}/code$$
    times >>{self._cpu}
}} | tee -a {self._bytes}
code=$(cat {folder}/code$$)
rm {folder}/code$$
exit "$code"
"""
        )
        self.path.chmod(0o755)
        self.forget()

    def forget(self) -> None:
        for path in (self._cpu, self._bytes):
            path.write_bytes(b"")

    @property
    def environ(self) -> dict[str, str]:
        return {"ANSIBLE_PYTHON_INTERPRETER": str(self.path), "ANSIBLE_PIPELINING": "1"}

    @property
    def cpu_seconds(self) -> float:
        # Of two lines the first is of the shell itself.
        return sum(_shell_seconds(word) for line in self._cpu.read_text().splitlines()[1::2] for word in line.split())

    @property
    def bytes(self) -> int:
        return self._bytes.stat().st_size


def _shell_seconds(text: str) -> float:
    minutes, rest = text.rstrip("s").split("m")
    return 60 * float(minutes) + float(rest)


def cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
