# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""`make demo`: a running VM is given its own data, the golden image is taken away, and every byte is there.

It shows the main job as a user would do it, on a real QEMU, and judges by what QEMU and the images say themselves. It
fails with a message and exit code 1 if anything is not so.
"""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path[0] = str(Path(__file__).resolve().parents[1])

from lab import LabError, NbdServer, Vm, disks, images, lab_folder, product  # noqa: E402
from lab.images import KiB, MiB  # noqa: E402
from lab.process import run  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SIZE = 512 * MiB
BLOCK = 64 * KiB
# Where the golden image holds data; 320 MiB in all.
DATA = ((0, 128 * MiB), (192 * MiB, 128 * MiB), (448 * MiB, 64 * MiB))
DISKS = ("vda", "vdb")
INVENTORY = """\
hypervisors:
  hosts:
    hv1:
      ansible_connection: local
      ansible_python_interpreter: "{{{{ ansible_playbook_python }}}}"
  vars:
    populate_monitors: ["{folder}/*.qmp"]
    populate_speed: 64M     # so that there is something to watch
    populate_progress: 1
"""


class NotSo(Exception):
    """Something is not as the product promises."""


def say(text: str = "") -> None:
    print(text, flush=True)


def heading(text: str) -> None:
    say(f"\n{text}\n{'-' * len(text)}\n")


def command(text: str) -> None:
    say(f"    $ {text}\n")


def must(is_so: bool, otherwise: str) -> None:
    if not is_so:
        raise NotSo(otherwise)


def in_mib(size: int) -> str:
    return f"{size / MiB:.1f} MiB"


# -- What the disks must hold -----------------------------------------------------------------------------------------

Model = dict[int, bytes]  # the checksum of every block


def digest(block: bytes) -> bytes:
    return hashlib.sha256(block).digest()


def checksums(raw: Path) -> Model:
    with raw.open("rb") as file:
        return {offset: digest(file.read(BLOCK)) for offset in range(0, SIZE, BLOCK)}


def make_golden(path: Path) -> Model:
    """Make the golden image, of data that nobody could guess."""
    raw = path.with_suffix(".raw")
    with raw.open("wb") as file:
        file.truncate(SIZE)
        for offset, length in DATA:
            for place in range(offset, offset + length, MiB):
                file.seek(place)
                file.write(os.urandom(MiB))
    model = checksums(raw)
    run([images.qemu_img(), "convert", "-f", "raw", "-O", "qcow2", raw, path])
    raw.unlink()
    return model


def content_of(image: Path) -> Model:
    """What a VM that boots from the image would read."""
    raw = image.with_suffix(".raw")
    try:
        run([images.qemu_img(), "convert", "-f", "qcow2", "-O", "raw", image, raw])
        must(raw.stat().st_size == SIZE, f"{image.name} has another size than the golden image")
        return checksums(raw)
    finally:
        raw.unlink(missing_ok=True)


@contextmanager
def guest_at_work(vm: Vm, models: dict[str, Model]) -> Iterator[list[str]]:
    """Write to the disks as long as they are being populated, and note it in the models; yields the disks written to.

    Each write is flushed, as a guest's database would do: what is not, a killed VM may lose. Nothing is written to a
    disk that is done, so that none of these flushes makes the copied data durable in the product's stead.
    """
    written: list[str] = []
    over = threading.Event()

    def write_on() -> None:
        while not over.wait(0.02):
            for disk in DISKS:
                is_copied = any(job["status"] == "pending" and disk in name for name, job in vm.jobs().items())
                if vm.inserted(disk)["backing_file_depth"] and not is_copied:
                    offset, pattern = random.randrange(0, SIZE, BLOCK), random.randrange(1, 256)
                    vm.guest_write(disk, offset, BLOCK, pattern)
                    vm.hmp(f"qemu-io -d {vm.disk(disk)['qdev']} flush")
                    models[disk][offset] = digest(bytes([pattern]) * BLOCK)
                    written.append(disk)

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write_on)
        try:
            yield written
        finally:
            over.set()
        writing.result()  # raises what went wrong in it


# -- The parts of the story --------------------------------------------------------------------------------------------


def show_disks(vm: Vm) -> None:
    """What QEMU says of the disks."""
    rows = [("DISK", "IMAGE", "OCCUPIES", "NEEDS")]
    for disk in DISKS:
        image: dict[str, Any] = vm.inserted(disk)["image"]
        rows.append((disk, Path(image["filename"]).name, in_mib(image["actual-size"]), ", ".join(vm.chain(disk)[1:])))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for row in rows:
        say("    " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip())


def run_playbook(folder: Path, *, quietly: bool = False) -> str:
    """Run the playbook as a user would; return what it printed, if it did so quietly."""
    environment = product.environment()
    if sys.stdout.isatty():
        del environment["ANSIBLE_NOCOLOR"]
    playbook = Path(sys.executable).with_name("ansible-playbook")
    done = subprocess.run(
        [str(playbook), "-i", "hosts.yml", "virtops.qmp.populate"],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE if quietly else None,
        stderr=subprocess.STDOUT if quietly else None,
        text=True,
        timeout=300,
        check=False,
    )
    output = done.stdout or ""
    must(done.returncode == 0, f"ansible-playbook ended with exit code {done.returncode}\n{output}")
    return output


def play(folder: Path) -> None:
    words = [word for disk in DISKS for word in disks.drive(folder / f"web01-{disk}.qcow2", id=disk, qdev=disk)]
    golden = folder / "golden.qcow2"

    heading("1. There is a golden image, served read-only over NBD")
    model = make_golden(golden)
    with NbdServer(golden, folder / "golden.nbd", format="qcow2") as server:
        command(f"qemu-nbd --read-only --socket={server.path} {golden}")
        say(f"    {in_mib(SIZE)}, {in_mib(sum(length for _offset, length in DATA))} of it random data")

        heading("2. A VM boots from two thin overlays on it, at once")
        for disk in DISKS:
            images.create(folder / f"web01-{disk}.qcow2", SIZE, backing=server.address, backing_format="raw")
        with Vm(folder, *words, name="web01", running=True) as vm:
            say(f"    QEMU {'.'.join(map(str, vm.version))}, pid {vm.pid}, monitor {vm.monitor}.")
            say("    No operating system is installed in it: this demo writes to its disks, as a guest would.\n")
            show_disks(vm)
            must(all(len(vm.chain(disk)) == 2 for disk in DISKS), "a disk does not stand on the golden image")

            heading("3. The role populates both disks, and all the while something writes to them")
            command("cat hosts.yml")
            (folder / "hosts.yml").write_text(INVENTORY.format(folder=folder))
            say("".join(f"    {line}\n" for line in INVENTORY.format(folder=folder).splitlines()))
            command("ansible-playbook -i hosts.yml virtops.qmp.populate")
            models = {disk: dict(model) for disk in DISKS}
            with guest_at_work(vm, models) as written:
                run_playbook(folder)
            counts = {disk: written.count(disk) for disk in DISKS}
            must(all(counts.values()), "the disks were populated before anything could be written to them")
            each = " and ".join(f"{counts[disk]} to {disk}" for disk in DISKS)
            say(f"    Meanwhile {len(written)} blocks of 64 KiB were written to the disks, {each}.")

            heading("4. The disks stand on their own")
            show_disks(vm)
            must(all(len(vm.chain(disk)) == 1 for disk in DISKS), "a disk still needs the golden image")
            must(vm.jobs() == {}, f"there are jobs left: {vm.jobs()}")

            heading("5. The NBD server is stopped, the golden image deleted, and the VM killed")
            server.kill()
            golden.unlink()
            vm.kill()
            say("    QEMU had no chance to write anything more: it got SIGKILL.\n")
    for disk in DISKS:
        found = content_of(folder / f"web01-{disk}.qcow2")
        wrong = [offset for offset, expected in models[disk].items() if found[offset] != expected]
        must(
            not wrong, f"{disk}: {len(wrong)} of {len(found)} blocks are not as they must be, the first at {wrong[:1]}"
        )
        say(f"    {disk}: {in_mib(SIZE)} compared, block by block: every byte of the golden image and of the")
        say(f"         {counts[disk]} writes is there.")

    heading("6. The VM boots again, from its own disks alone; a second run has nothing to do")
    with Vm(folder, *words, name="web01", running=True) as vm:
        show_disks(vm)
        say()
        command("ansible-playbook -i hosts.yml virtops.qmp.populate | tail -1")
        recap = run_playbook(folder, quietly=True).strip().splitlines()[-1]
        say(f"    {recap}")
        must(" changed=0 " in recap, "the second run changed something")


def show_to_the_end(play: Callable[[Path], None]) -> int:
    """Play a story in a folder of its own, and say how it ended; the exit code."""
    began = time.monotonic()
    try:
        with lab_folder() as folder:
            play(folder)
    except (LabError, NotSo, OSError, AssertionError, subprocess.TimeoutExpired) as error:
        print(f"\nThe demo failed: {error}", file=sys.stderr)
        return 1
    say(f"\nAll is as it should be, after {time.monotonic() - began:.0f} seconds. What was made for it is removed.")
    return 0


if __name__ == "__main__":
    sys.exit(show_to_the_end(play))
