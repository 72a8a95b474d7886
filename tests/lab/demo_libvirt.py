# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""`make demo-libvirt`: two guests of libvirt are populated, by virsh and by the role, and killed right after.

It starts a libvirt of its own, judges by what QEMU, libvirt and the images say, and fails if the role's guest has lost
anything. What virsh's guest has lost is shown, for newer QEMUs may lose less.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

from lab import images  # noqa: E402
from lab.demo import BLOCK, NotSo, checksums, command, heading, make_golden, must, run_playbook, say, show_to_the_end  # noqa: E402
from lab.libvirt import Guest, Libvirt, distribution_python, what_is_missing  # noqa: E402
from lab.process import run  # noqa: E402

INVENTORY = """\
hypervisors:
  hosts:
    hv1:
      ansible_connection: local
      ansible_python_interpreter: {python}     # it has libvirt's bindings
  vars:
    populate_domains: [web02]
    populate_uri: {uri}
"""


def show(guest: Guest) -> None:
    say(f"    {guest.name}: libvirt's XML has {' over '.join(Path(each).name for each in guest.view())}")


def lost(top: Path, model: dict[int, bytes]) -> int:
    """How many blocks of a disk are not as the guest saw them, with nothing but the disk's own image."""
    if images.backing(top):
        raise NotSo(f"{top.name} still needs the golden image")
    raw = top.with_suffix(".raw")
    run([images.qemu_img(), "convert", "-f", "qcow2", "-O", "raw", top, raw])
    found = checksums(raw)
    raw.unlink()
    return sum(found[offset] != expected for offset, expected in model.items())


def play(folder: Path) -> None:
    folder.chmod(0o755)  # libvirt's guests belong to somebody else
    golden = folder / "golden.qcow2"
    heading("1. Two guests of libvirt stand on one golden image")
    model = make_golden(golden)
    names = ("web01", "web02")
    tops = [images.create(folder / f"{name}.qcow2", backing=golden) for name in names]
    with (
        Libvirt(folder / "libvirt").running() as libvirt,
        libvirt.domain(names[0], tops[:1]) as first,
        libvirt.domain(names[1], tops[1:]) as second,
    ):
        show(first)
        show(second)

        heading("2. virsh populates the first one, and its QEMU is killed right after")
        command("virsh blockpull web01 vda --wait")
        libvirt.virsh("blockpull", "web01", "vda", "--wait")
        show(first)
        first.kill()

        heading("3. The role populates the second one, and its QEMU is killed right after")
        (folder / "hosts.yml").write_text(INVENTORY.format(python=distribution_python(), uri=libvirt.address))
        command("cat hosts.yml")
        say("".join(f"    {line}\n" for line in (folder / "hosts.yml").read_text().splitlines()))
        command("ansible-playbook -i hosts.yml virtops.qmp.populate")
        run_playbook(folder)
        show(second)
        must(second.view() == [str(tops[1])], "libvirt still has another image in its view")
        second.kill()

    heading("4. The golden image is deleted, and both disks are compared with what their guests saw")
    golden.unlink()
    for name, top in zip(names, tops, strict=True):
        say(f"    {name}: {lost(top, model)} of {len(model)} blocks of {BLOCK // 1024} KiB are lost")
    must(lost(tops[1], model) == 0, "the guest that the role populated has lost data")


def main() -> int:
    missing = what_is_missing()
    if missing is not None:
        print(f"The demo needs libvirt: {missing}", file=sys.stderr)
        return 1
    return show_to_the_end(play)


if __name__ == "__main__":
    sys.exit(main())
