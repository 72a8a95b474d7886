# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Who has an image open, and whose headers name it: real images in real folders, VMs that run and that are off.

The judges are qemu-img, /proc, and the file system: what a header leads to, who holds a file, what is still there.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from lab import Vm, disks, host, images, product
from lab.holders import NOBODY, holder, opening, who_has_open
from lab.images import MiB
from lab.process import run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NEVER_BLOCKS = 20  # seconds: no test waits so long unless the module hangs
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root makes devices and mounts")


@pytest.fixture
def golden(folder: Path) -> Path:
    """An image that is asked about, beside the folder of the VMs' images."""
    for name in ("golden", "vms"):
        (folder / name).mkdir()
    return images.create(folder / "golden" / "base.qcow2", 4 * MiB, writes=[images.Write(0, 64 * 1024, 1)])


@pytest.fixture
def vms(golden: Path) -> Path:
    return golden.parents[1] / "vms"


def info(*paths: Path | str, **options: Any) -> product.Result:
    """What the module tells; it must not fail."""
    result = product.module("image_info", paths=list(map(str, paths)), timeout=NEVER_BLOCKS, **options)
    assert not result.failed, result
    assert not result["changed"]
    return result


def look(golden: Path, **options: Any) -> dict[str, Any]:
    """What it tells of one image, with the folder of the VMs' images searched."""
    (image,) = info(golden, search=[str(golden.parents[1] / "vms")], **options)["images"]
    found: dict[str, Any] = image
    return found


def reasons(golden: Path) -> dict[str, str]:
    """Why what was not read, by its name."""
    result = info(golden, search=[str(golden.parents[1] / "vms")])
    return {Path(each["path"]).name: each["reason"] for each in result["unread"]}


def named_by_qemu(overlay: Path) -> str:
    """The file that QEMU itself would open below an overlay."""
    name: str = images.info(overlay)["full-backing-filename"]
    return os.path.realpath(name)


# -- A fleet -----------------------------------------------------------------------------------------------------------


def test_a_vm_that_is_off(golden: Path, vms: Path) -> None:
    """Nobody has the image open, and it is needed: the header of an overlay names it, as QEMU reads it."""
    overlay = images.create(vms / "db01.qcow2", backing=golden)
    assert (who_has_open(golden), named_by_qemu(overlay)) == (set(), str(golden))
    found = look(golden)
    assert (found["free"], found["users"], found["needed_by"]) == (True, [], [str(overlay)])
    overlay.unlink()
    assert look(golden)["needed_by"] == []


def test_a_vm_that_runs(golden: Path, vms: Path, boot: Callable[..., Vm]) -> None:
    """The process is named by its VM where a monitor tells it; the kernel's word needs no monitor."""
    overlay = images.create(vms / "web01.qcow2", backing=golden)
    vm = boot(*disks.drive(overlay, id="vda", qdev="vda"), name="web01")
    assert vm.pid in who_has_open(golden)
    found = look(golden, monitors=[f"{vm.folder}/*.qmp"])
    assert (found["free"], found["needed_by"]) == (False, [str(overlay)])
    assert [(user["pid"], user["vm"]) for user in found["users"]] == [(vm.pid, "web01")]
    assert "VM web01" in found["reason"]
    without = look(golden)
    assert [(user["pid"], user["vm"]) for user in without["users"]] == [(vm.pid, None)]
    vm.kill()
    assert look(golden)["free"] is True


def test_a_disk_with_an_internal_snapshot(golden: Path, vms: Path, boot: Callable[..., Vm]) -> None:
    """A populated disk names nothing any more, and its snapshot still reads the old image: that is not known."""
    overlay = images.create(vms / "web01.qcow2", backing=golden)
    run([images.qemu_img(), "snapshot", "-c", "before", overlay])
    content = images.snapshot_content(overlay, "before")
    vm = boot(*disks.drive(overlay, id="vda", qdev="vda"))
    assert not product.module("block_stream", monitors=[vm.monitor], disks=["vda"]).failed
    vm.kill(signal.SIGTERM)
    assert images.backing(overlay) is None
    found = look(golden)
    assert (found["free"], found["needed_by"]) == (True, None)
    assert "internal snapshots" in reasons(golden)["web01.qcow2"]
    # What would be lost: the snapshot reads zeros without the image.
    assert images.snapshot_content(overlay, "before") != content
    run([images.qemu_img(), "snapshot", "-d", "before", overlay])
    assert look(golden)["needed_by"] == []


def test_a_chain(golden: Path, vms: Path) -> None:
    """Each image is needed by those that stand on it directly."""
    middle = images.create(vms / "middle.qcow2", backing=golden)
    top = images.create(vms / "top.qcow2", backing=middle)
    result = info(golden, middle, top, search=[str(vms)])
    assert [image["needed_by"] for image in result["images"]] == [[str(middle)], [str(top)], []]


def test_it_changes_nothing(golden: Path, vms: Path) -> None:
    """Run and check mode tell the same, and no file is another one, or has another content, after them."""
    images.create(vms / "a.qcow2", backing=golden)

    def state() -> dict[Path, tuple[int, int, int, bytes]]:
        files = [path for path in golden.parents[1].rglob("*") if path.is_file()]
        status = {path: path.stat() for path in files}
        return {path: (each.st_ino, each.st_mode, each.st_mtime_ns, path.read_bytes()) for path, each in status.items()}

    before = state()
    results = [look(golden, check=check) for check in (True, False, False)]
    assert results[0] == results[1] == results[2]
    assert state() == before


def test_another_process(golden: Path) -> None:
    """Whoever has the image open is told; and where nobody searched, it is not known who needs it."""
    with opening(golden) as pid:
        (found,) = info(golden)["images"]
        assert (found["free"], [user["pid"] for user in found["users"]]) == (False, [pid])
    (found,) = info(golden)["images"]
    assert (found["free"], found["needed_by"]) == (True, None)


@needs_root
def test_a_loop_device(golden: Path) -> None:
    """The kernel's own users have no process."""
    if not host.has_loop_devices():
        pytest.skip("this host gives no loop device")
    with host.loop_device(golden) as device:
        found = look(golden)
        user = {"pid": None, "process": device.removeprefix("/dev/"), "vm": None}
        assert (found["free"], found["users"]) == (False, [user])


# -- Ways to name an image ---------------------------------------------------------------------------------------------


def by_its_path(golden: Path, _vms: Path) -> str:
    return str(golden)


def by_a_relative_path(golden: Path, vms: Path) -> str:
    """To a name of its own: a name that leads nowhere would be enough if it only ended as the image does."""
    (vms.parent / "relative.qcow2").hardlink_to(golden)
    return "../relative.qcow2"


def over_a_link(golden: Path, vms: Path) -> str:
    (vms.parent / "linked").symlink_to(golden.parent)
    return f"{vms.parent}/linked/base.qcow2"


def by_a_hard_link(golden: Path, vms: Path) -> str:
    (vms.parent / "other.qcow2").hardlink_to(golden)
    return f"{vms.parent}/other.qcow2"


def in_json(golden: Path, _vms: Path) -> str:
    return "json:" + json.dumps({"driver": "qcow2", "file": {"driver": "file", "filename": str(golden)}})


def in_dotted_json(golden: Path, _vms: Path) -> str:
    return "json:" + json.dumps({"driver": "qcow2", "file.driver": "file", "file.filename": str(golden)})


def by_a_protocol(golden: Path, _vms: Path) -> str:
    return f"file:{golden}"


@pytest.mark.parametrize("format", ["qcow2", "qed"])
@pytest.mark.parametrize(
    "way", [by_its_path, by_a_relative_path, over_a_link, by_a_hard_link, in_json, in_dotted_json, by_a_protocol]
)
def test_every_name_of_an_image(golden: Path, vms: Path, way: Callable[[Path, Path], str], format: str) -> None:
    """By whatever name QEMU finds the image below an overlay, the overlay is found to need it."""
    overlay = images.create(vms / f"a.{format}", format=format, backing=way(golden, vms))
    # QEMU reads the same below it: the name is one that works.
    assert images.content(overlay, format) == images.content(golden)
    found = look(golden)
    assert (found["needed_by"], reasons(golden)) == ([str(overlay)], {})


def test_a_data_file(golden: Path, vms: Path) -> None:
    """An image that is the data file of another one is needed by it."""
    data = golden.with_name("data.raw")
    options = ["-o", f"data_file={data}"]
    run([images.qemu_img(), "create", "-q", "-f", "qcow2", *options, vms / "a.qcow2", str(MiB)])
    assert look(data)["needed_by"] == [f"{vms}/a.qcow2"]


def test_its_other_names(golden: Path, vms: Path) -> None:
    """Hard links in the folders are told, and an overlay that is only a link to one elsewhere leaves it open."""
    (vms / "copy.qcow2").hardlink_to(golden)
    assert look(golden)["same_as"] == [f"{vms}/copy.qcow2"]
    images.create(vms.parent / "store.qcow2", backing=golden)
    (vms / "web01.qcow2").symlink_to("../store.qcow2")
    assert look(golden)["needed_by"] is None
    assert "lies in none of the folders" in reasons(golden)["web01.qcow2"]


@needs_root
def test_an_overlay_on_a_block_device(golden: Path, vms: Path) -> None:
    """A device, and a link to one as LVM makes them, is read."""
    if not host.has_loop_devices():
        pytest.skip("this host gives no loop device")
    overlay = images.create(golden.parent / "volume", backing=golden)
    with host.loop_device(overlay) as device:
        (vms / "lv").symlink_to(device)
        assert look(golden)["needed_by"] == [f"{vms}/lv"]


@pytest.mark.parametrize("name", ["$HOME", "~", "a b", "{{ 7 * 6 }}", "\x1b[31m"])
def test_names_are_literal(golden: Path, vms: Path, name: str) -> None:
    """Whatever an image is called: that one is meant, and shown so that it acts on no terminal."""
    path = golden.rename(golden.with_name(name))
    images.create(vms / "a.qcow2", backing=path)
    found = look(path)
    assert (found["inode"], len(found["needed_by"]), "\x1b" in found["path"]) == (path.stat().st_ino, 1, False)


# -- What a guest can write there --------------------------------------------------------------------------------------


def unopened(path: Path, name: str) -> None:
    """An overlay whose header has this name, whatever it leads to: the name is not followed when it is made."""
    run([images.qemu_img(), "create", "-q", "-u", "-f", "qcow2", "-b", name, "-F", "raw", path, str(MiB)])


def patch(path: Path, place: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        file.write(content)


def a_name_that_is_too_long(golden: Path, vms: Path) -> None:
    """1024 bytes, where QEMU takes 1023."""
    overlay = images.create(vms / "bad.qcow2", backing=golden)
    patch(overlay, 16, (1024).to_bytes(4, "big"))


def a_name_of_gigabytes(golden: Path, vms: Path) -> None:
    overlay = images.create(vms / "bad.qcow2", backing=golden)
    patch(overlay, 16, (2**32 - 1).to_bytes(4, "big"))


def a_name_far_away(golden: Path, vms: Path) -> None:
    overlay = images.create(vms / "bad.qcow2", backing=golden)
    patch(overlay, 8, (2**62).to_bytes(8, "big"))


def a_header_that_ends(_golden: Path, vms: Path) -> None:
    (vms / "bad.qcow2").write_bytes(b"QFI\xfb\0\0\0\3")


def features_to_come(golden: Path, vms: Path) -> None:
    overlay = images.create(vms / "bad.qcow2", backing=golden)
    patch(overlay, 72, (2**40).to_bytes(8, "big"))


def a_vmdk(_golden: Path, vms: Path) -> None:
    images.create(vms / "bad.qcow2", MiB, format="vmdk")


def a_filter(golden: Path, vms: Path) -> None:
    unopened(vms / "bad.qcow2", f"blkdebug::{golden}")


def a_file_of_proc(_golden: Path, vms: Path) -> None:
    unopened(vms / "bad.qcow2", "/proc/self/mem")


@pytest.mark.parametrize(
    "make",
    [
        a_name_that_is_too_long,
        a_name_of_gigabytes,
        a_name_far_away,
        a_header_that_ends,
        features_to_come,
        a_vmdk,
        a_filter,
        a_file_of_proc,
    ],
)
def test_what_is_not_understood(golden: Path, vms: Path, make: Callable[[Path, Path], None]) -> None:
    """It is told by its name, nobody calls the image free for it, and little memory is enough."""
    make(golden, vms)
    found = look(golden, under=("prlimit", "--as=1073741824"))
    assert (found["free"], found["needed_by"], list(reasons(golden))) == (True, None, ["bad.qcow2"])
    good = images.create(vms / "good.qcow2", backing=golden)
    assert look(golden)["needed_by"] == [str(good)]


def test_images_that_name_each_other(golden: Path, vms: Path) -> None:
    """A loop, which QEMU cannot open, ends nowhere here: each names the next one."""
    one = images.create(vms / "one.qcow2", backing=golden)
    other = images.create(vms / "other.qcow2", backing=one)
    run([images.qemu_img(), "rebase", "-u", "-b", other, "-F", "qcow2", one])
    result = info(golden, one, other, search=[str(vms)])
    assert [image["needed_by"] for image in result["images"]] == [[], [str(other)], [str(one)]]


@contextlib.contextmanager
def nobody_opens(path: Path) -> Iterator[None]:
    """Fail if anybody opens a file meanwhile: the kernel breaks the lease on it for that."""
    with path.open("rb") as file:
        fcntl.fcntl(file, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        yield
        assert fcntl.fcntl(file, fcntl.F_GETLEASE) == fcntl.F_WRLCK, f"somebody has opened {path}"
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)


def test_what_a_header_names_is_not_opened(golden: Path, vms: Path) -> None:
    """Neither a file, as backing image or as data file, nor one behind a link, is opened by anybody."""
    secret = images.create(vms.parent / "secret.qcow2", MiB)
    images.create(vms / "a.qcow2", backing=secret)
    images.create(vms / "b.qcow2", backing=in_json(secret, vms))
    (vms / "link.qcow2").symlink_to(secret)
    data = vms.parent / "data.raw"
    run([images.qemu_img(), "create", "-q", "-f", "qcow2", "-o", f"data_file={data}", vms / "c.qcow2", str(MiB)])
    with nobody_opens(secret), nobody_opens(data):
        assert look(golden)["needed_by"] is None
    # The judge sees who opens it.
    with (
        pytest.raises(AssertionError, match="somebody has opened"),
        nobody_opens(secret),
        contextlib.suppress(BlockingIOError),
    ):
        os.open(secret, os.O_RDONLY | os.O_NONBLOCK)


SWAPS = """
import os, sys
vms, secret = sys.argv[1:]
aside = f"{vms}/../aside"
print("ready", flush=True)
while True:
    for name, target in (("a.qcow2", secret), ("tenant", os.path.dirname(secret))):
        os.rename(f"{vms}/{name}", aside)
        os.symlink(target, f"{vms}/{name}")
        os.unlink(f"{vms}/{name}")
        os.rename(aside, f"{vms}/{name}")
"""


def test_links_that_come_and_go(golden: Path, vms: Path) -> None:
    """Whoever swaps an image, or its folder, for a link while it is read has nothing opened behind the link."""
    (vms.parent / "secret").mkdir()
    secret = images.create(vms.parent / "secret" / "secret.qcow2", MiB)
    images.create(vms / "a.qcow2", backing=golden)
    (vms / "tenant").mkdir()
    images.create(vms / "tenant" / "secret.qcow2", backing=golden)
    with holder(sys.executable, "-c", SWAPS, vms, secret), nobody_opens(secret):
        for _round in range(20):
            look(golden)


@pytest.mark.parametrize(
    "name",
    [
        "nbd://127.0.0.1:PORT/golden",
        "nbd:127.0.0.1:PORT:exportname=golden",
        "http://127.0.0.1:PORT/golden",
        'json:{"driver": "raw", "file": {"driver": "nbd", "host": "127.0.0.1", "port": "PORT"}}',
        'json:{"file.driver": "http", "file.url": "http://127.0.0.1:PORT/golden"}',
    ],
)
def test_no_server_is_asked(golden: Path, vms: Path, name: str) -> None:
    """A name that leads to a server connects to nobody, and names no file of this host."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        name = name.replace("PORT", str(server.getsockname()[1]))
        unopened(vms / "a.qcow2", name)
        found = look(golden)
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()
    assert found["needed_by"] == []


def test_what_would_block(golden: Path, vms: Path) -> None:
    """A FIFO, a link to one, and a header that names one hold nothing up."""
    os.mkfifo(vms / "fifo")
    (vms / "link").symlink_to("fifo")
    unopened(vms / "a.qcow2", f"{vms}/fifo")
    assert look(golden)["needed_by"] == []
    assert look(vms / "fifo")["free"] is None


def test_links_that_lead_out(golden: Path, vms: Path) -> None:
    """A folder or a file behind a link is not read, and that leaves it open who needs the image."""
    (vms.parent / "elsewhere").mkdir()
    images.create(vms.parent / "elsewhere" / "a.qcow2", backing=golden)
    (vms / "folder").symlink_to("../elsewhere")
    assert (look(golden)["needed_by"], list(reasons(golden))) == (None, ["folder"])
    result = info(golden, search=[str(vms), f"{vms.parent}/elsewhere"])
    assert (result["images"][0]["needed_by"], result["unread"]) == ([f"{vms.parent}/elsewhere/a.qcow2"], [])


def test_a_link_is_no_image(golden: Path) -> None:
    """Of a link nothing is said but that it is one."""
    link = golden.with_name("current.qcow2")
    link.symlink_to(golden)
    found = look(link)
    assert (found["free"], found["needed_by"]) == (None, None)
    assert found["reason"].startswith("it is a link")


@needs_root
def test_without_rights(golden: Path, vms: Path) -> None:
    """A user without rights is told what he may not read."""
    if subprocess.run(
        [*NOBODY, sys.executable, "-c", f"open({__file__!r})"], capture_output=True, check=False
    ).returncode:
        pytest.skip("this checkout, or its Python, lies where only root looks")
    for path in (vms.parent, vms):
        path.chmod(0o755)
    images.create(vms / "a.qcow2", backing=golden).chmod(0o600)
    found = look(golden, under=NOBODY)
    assert (found["free"], found["needed_by"]) == (None, None)


# -- The plays of the guide --------------------------------------------------------------------------------------------

GUIDE = product.COLLECTION / "docs" / "docsite" / "rst" / "guide_delete.rst"


def play_of_guide(name: str, folder: Path) -> str:
    """The play of this name as the guide has it, but for its folders and for who runs it."""
    lines = GUIDE.read_text().splitlines()
    start = lines.index(f"   - name: {name}")
    length = next(place for place, line in enumerate(lines[start:]) if line and not line.startswith("   "))
    play = "\n".join(line[3:] for line in lines[start : start + length])
    play = play.replace("/run/vms/", f"{folder}/").replace("[/vms]", f"[{folder}/vms]")
    play = play.replace("/golden/", f"{folder}/golden/").replace("/archive/", f"{folder}/archive/")
    return play.replace("hosts: hypervisors", "hosts: all").replace("  become: true\n", "")


@pytest.fixture
def fleet(folder: Path, vms: Path, boot: Callable[..., Vm]) -> Iterator[Vm]:
    """web01 runs on two golden images, of which db01, which is off, needs one; web02 runs on a third one by itself."""
    (folder / "archive").mkdir()
    words: list[str] = []
    for name in ("debian-12", "shared"):
        base = images.create(
            folder / "golden" / f"{name}.qcow2", 4 * MiB, writes=[images.Write(0, 64 * 1024, len(words))]
        )
        words += disks.drive(images.create(vms / f"web01-{name}.qcow2", backing=base), id=name, qdev=name)
    images.create(vms / "db01.qcow2", backing=folder / "golden" / "shared.qcow2")
    (folder / "other").mkdir()
    top = images.create(vms / "web02.qcow2", backing=folder / "golden" / "base.qcow2")
    with Vm(folder / "other", *disks.drive(top, id="vda", qdev="vda"), name="web02"):
        yield boot(*words, name="web01")


def images_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("has_snapshot", [False, True], ids=["", "with an internal snapshot"])
def test_the_play_that_archives(folder: Path, fleet: Vm, vms: Path, has_snapshot: bool) -> None:
    """It moves away what nobody needs, and nothing else; the VM starts again without what is gone."""
    if has_snapshot:
        run([images.qemu_img(), "snapshot", "-c", "before", images.create(vms / "old.qcow2", MiB)])
    expected = fleet.content("debian-12")
    done = product.playbook(play_of_guide("Populate, then archive the images that nothing needs any more", folder))
    assert done.code == 0, done.stdout + done.stderr
    gone = [] if has_snapshot else ["debian-12.qcow2"]
    assert images_in(folder / "archive") == gone
    assert images_in(folder / "golden") == sorted({"base.qcow2", "debian-12.qcow2", "shared.qcow2"} - set(gone))
    left = done.result("virtops.qmp.populate : Leave the result")["ansible_facts"]["populate_result"]
    lines = "\n".join(left["summary"])
    assert f"shared.qcow2: not free, {vms}/db01.qcow2 names it in its header" in lines
    fleet.kill()
    assert images.content(vms / "web01-debian-12.qcow2") == expected


def off(folder: Path) -> contextlib.AbstractContextManager[Any]:
    images.create(folder / "vms" / "late.qcow2", backing=folder / "golden" / "debian-12.qcow2")
    return contextlib.nullcontext()


def running_elsewhere(folder: Path) -> contextlib.AbstractContextManager[Any]:
    (folder / "elsewhere").mkdir()
    top = images.create(folder / "elsewhere" / "top.qcow2", backing=folder / "golden" / "debian-12.qcow2")
    return Vm(folder / "elsewhere", *disks.drive(top, id="vda", qdev="vda"), name="web03")


def holding_a_snapshot(folder: Path) -> contextlib.AbstractContextManager[Any]:
    run([images.qemu_img(), "snapshot", "-c", "before", images.create(folder / "vms" / "old.qcow2", MiB)])
    return contextlib.nullcontext()


@pytest.mark.usefixtures("fleet")
@pytest.mark.parametrize("need", [off, running_elsewhere, holding_a_snapshot])
def test_the_play_that_deletes(folder: Path, vms: Path, need: Callable[[Path], Any]) -> None:
    """As long as anybody needs the image, or that is not known, it stays; then it is deleted, and no other."""
    play, image = play_of_guide("Delete a golden image that nobody needs any more", folder), "debian-12.qcow2"
    assert product.playbook(play).code == 0
    assert image in images_in(folder / "golden")
    populated = product.module("block_stream", monitors=[f"{folder}/*.qmp"], disks=["*"])
    assert not populated.failed, populated
    with need(folder):
        assert product.playbook(play).code == 0
        assert image in images_in(folder / "golden")
    for name in ("late.qcow2", "old.qcow2"):
        (vms / name).unlink(missing_ok=True)
    assert product.playbook(play).code == 0
    assert images_in(folder / "golden") == ["base.qcow2", "shared.qcow2"]
