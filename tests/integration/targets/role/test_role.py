# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""The role, through its playbook: what it selects, refuses, verifies and revokes. QEMU and the files are the judges."""

from __future__ import annotations

import os
import re
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from lab import Vm, disks, images, product
from lab.monitor import Monitor
from lab.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Callable

PLAYBOOK = product.COLLECTION / "playbooks" / "populate.yml"
NEW, DONE = 2, 0  # how many images lie below a disk


@pytest.fixture
def vms(folder: Path, boot: Callable[..., Vm]) -> list[Vm]:
    """Two VMs with the disks vda and vdb, each on a snapshot of its own, on the golden image that all share."""
    golden = images.create(folder / "golden.qcow2", 16 * images.MiB, writes=images.layer_writes(0, 16 * images.MiB, 1))
    started = []
    for vm in ("web01", "web02"):
        words = []
        for disk in ("vda", "vdb"):
            snapshot = images.create(folder / f"{vm}-{disk}-snapshot.qcow2", backing=golden)
            top = images.create(folder / f"{vm}-{disk}.qcow2", backing=snapshot)
            words += disks.drive(top, id=f"drive-{disk}", qdev=disk)
        started.append(boot(*words, *disks.empty_cdrom(), name=vm))
    return started


def depths(vms: list[Vm]) -> list[int]:
    return [vm.inserted(disk)["backing_file_depth"] for vm in vms for disk in ("vda", "vdb")]


def play(folder: Path, *options: str, **variables: Any) -> product.AnsibleRun:
    """Run the playbook over all VMs in the folder."""
    extra = {"populate_hosts": "all", "populate_monitors": [f"{folder}/*.qmp"], "populate_progress": 0}
    return product.playbook(PLAYBOOK, *options, extra={**extra, **variables})


def populate(folder: Path, *options: str, **variables: Any) -> dict[str, Any]:
    """Run the playbook over all VMs in the folder; return `populate_result`, which the exit code must agree with."""
    return result_of(play(folder, *options, **variables))


def result_of(run: product.AnsibleRun) -> dict[str, Any]:
    left: dict[str, Any] = run.result("virtops.qmp.populate : Leave the result")["ansible_facts"]["populate_result"]
    assert set(left) == {"changed", "finished", "failures", "disks", "released", "free", "revoked", "summary"}
    assert (run.code == 0) == (left["failures"] == []), run.stdout + run.stderr
    return left


def table_of(run: product.AnsibleRun) -> list[list[str]]:
    """The cells of the table that the role ends with, as it stands on stderr, in one piece and without quotes."""
    lines = result_of(run)["summary"]
    assert "\n".join(["localhost:", *lines]) in run.stderr, run.stderr
    return [re.split(r" {2,}", line.strip()) for line in lines]


def in_bytes(cell: str) -> float:
    """The figure in a cell such as "1.5 MiB/s"."""
    number, unit = cell.removesuffix("/s").split()
    return float(number) * {"B": 1, "KiB": images.KiB, "MiB": images.MiB}[unit]


def test_every_disk_and_again(folder: Path, vms: list[Vm]) -> None:
    """Check mode changes nothing, a run populates every disk, the next one changes nothing."""
    run = play(folder, "--check", "--diff")
    assert (run.stats["localhost"]["changed"], result_of(run)["finished"], depths(vms)) == (1, False, [NEW] * 4)
    left = populate(folder)
    assert (left["changed"], left["finished"], depths(vms)) == (True, True, [DONE] * 4)
    run = play(folder)
    left = result_of(run)
    assert (run.stats["localhost"]["changed"], left["changed"], left["finished"]) == (0, False, True)


@pytest.mark.parametrize(
    ("exclude", "expected"),
    [
        pytest.param("vdb", [DONE, NEW, DONE, NEW], id="qdev id"),
        pytest.param("/machine/peripheral/vdb/virtio-backend", [DONE, NEW, DONE, NEW], id="qdev"),
        pytest.param("drive-vda", [NEW, DONE, NEW, DONE], id="device"),
        pytest.param("FOLDER/web01-vda.qcow2", [NEW, DONE, DONE, DONE], id="path"),
        pytest.param("FOLDER/web0?-vda.qcow2", [NEW, DONE, NEW, DONE], id="a pattern of paths"),
        pytest.param("web02", [DONE, DONE, NEW, NEW], id="VM"),
    ],
)
def test_excluded_disks_stay_as_they_are(folder: Path, vms: list[Vm], exclude: str, expected: list[int]) -> None:
    """An excluded disk is left alone, by whichever name; a path means the disk of one VM only."""
    left = populate(folder, populate_exclude=[exclude.replace("FOLDER", str(folder))])
    assert (depths(vms), left["finished"]) == (expected, True)


def test_only_some_vms(folder: Path, vms: list[Vm]) -> None:
    """`populate_vms` leaves the other VMs alone; what fits no VM, or no disk, is a warning and no failure."""
    run = play(folder, populate_vms=["*1", "db01"], populate_exclude=["", "scratch0"])
    assert (depths(vms), result_of(run)["finished"]) == ([DONE, DONE, NEW, NEW], True)
    warnings = "\n".join(run.result("virtops.qmp.populate : Populate the disks")["warnings"])
    assert ("'db01' fits no VM" in warnings, "'scratch0' fits no disk and no VM" in warnings) == (True, True)


def test_names_as_strings(folder: Path, vms: list[Vm]) -> None:
    """What a survey asks for comes as strings: with commas between names and patterns, and blanks behind them."""
    chosen = {
        "populate_vms": "web0?, db01",
        "populate_disks": "vda, vdb",
        "populate_exclude": f"{folder}/*-vdb.*, web02",
    }
    left = populate(folder, populate_monitors=f"{folder}/web01.qmp, {folder}/web02.qmp", **chosen)
    assert (depths(vms), left["finished"]) == ([DONE, NEW, NEW, NEW], True)


def test_empty_strings_are_left_out(folder: Path, vms: list[Vm]) -> None:
    """What a survey leaves empty is as if nobody had asked for it, be it a list, a text or a number."""
    empty = ("vms", "exclude", "base", "wait_timeout", "speed", "monitor_owner", "images", "revoke_below")
    left = populate(folder, **{f"populate_{name}": "" for name in empty})
    assert (depths(vms), left["finished"]) == ([DONE] * 4, True)


@pytest.mark.parametrize("name", ["db01", "FOLDER/db01-vda.qcow2", "FOLDER/db01-*"])
def test_a_vm_that_is_off_may_be_excluded(folder: Path, boot: Callable[..., Vm], vms: list[Vm], name: str) -> None:
    """A nightly run that spares a VM or its disk, by name, path or pattern, is no failure on the day the VM is off."""
    golden = folder / "golden.qcow2"
    top = images.create(folder / "db01-vda.qcow2", backing=golden)
    off = boot(*disks.drive(top, id="drive-db", qdev="vda"), name="db01")
    off.kill()
    run = play(folder, populate_exclude=[name.replace("FOLDER", str(folder))])
    left = result_of(run)
    assert (depths(vms), left["finished"], images.backing(top)) == ([DONE] * 4, True, str(golden))
    warnings = "\n".join(run.result("virtops.qmp.populate : Populate the disks")["warnings"])
    assert ("db01.qmp belongs to a VM that is off" in warnings, "fits no disk and no VM" in warnings) == (True, True)


@pytest.mark.parametrize("style", ["relative", "linked"])
def test_excluded_disks_of_namesakes(folder: Path, boot: Callable[..., Vm], style: str) -> None:
    """VMs whose images have the same name in other folders, or are reached by links, are told apart by their files."""
    golden = images.create(folder / "golden.qcow2", 16 * images.MiB, writes=images.layer_writes(0, 16 * images.MiB, 1))
    started = []
    for name in ("web01", "web02"):
        home = folder / name
        home.mkdir()
        words = []
        for disk in ("vda", "vdb"):
            top = images.create(home / f"{disk}.qcow2", backing=golden)
            (home / f"{disk}.link").symlink_to(top)
            words += disks.drive(top.name if style == "relative" else home / f"{disk}.link", id=disk, qdev=disk)
        started.append(boot(*words, name=name, cwd=home))
    watched = {"populate_progress": 1, "populate_speed": "2M", "populate_parallel": 3}
    left = populate(folder, populate_exclude=[f"{folder}/web02/vda.qcow2"], **watched)
    assert (depths(started), left["finished"]) == ([DONE, DONE, 1, DONE], True)


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        pytest.param({"populate_disks": ["vda", "vdc"]}, "vdc", id="disk"),
        pytest.param({"populate_disks": ["vda", "cd0"]}, "cd0", id="empty drive"),
        pytest.param({"populate_disks": [""]}, "disks is empty", id="no disk"),
        pytest.param({"populate_monitors": []}, "neither monitors nor domains", id="no monitor"),
        pytest.param({"populate_speed": "fast"}, "speed is 'fast'", id="an option"),
        pytest.param({"populate_base": "/no/such.qcow2"}, "/no/such.qcow2", id="base"),
    ],
)
def test_what_is_wrong_starts_nothing(folder: Path, vms: list[Vm], variables: dict[str, Any], told: str) -> None:
    """A name that fits nothing fails the role before any disk is touched, and is told."""
    left = populate(folder, **variables)
    assert told in "\n".join(left["failures"])
    assert "said to be populated" not in "\n".join(left["failures"])
    assert (depths(vms), [vm.jobs() for vm in vms]) == ([NEW] * 4, [{}, {}])


@pytest.mark.parametrize("progress", [0, 1])
def test_the_table_tells_what_took_place(folder: Path, vms: list[Vm], progress: int) -> None:
    """GREW BY is what the files grew by, RATE is that by TIME, and a disk that nothing was done to has none of them."""
    tops = [folder / f"{vm.name}-{disk}.qcow2" for vm in vms for disk in ("vda", "vdb")]
    before = [top.stat().st_blocks * 512 for top in tops]
    rows = table_of(play(folder, populate_speed="2M", populate_parallel=4, populate_progress=progress))
    assert rows[0] == ["VM", "DISK", "ACTION", "NOW", "GREW BY", "TIME", "RATE", "RELEASED"]
    for row, top, size in zip(rows[1:5], tops, before, strict=True):
        assert row[:4] == [top.name[:5], top.name[6:9], "started", "populated"]
        hours, minutes, seconds = map(float, row[5].split(":"))
        assert in_bytes(row[4]) == pytest.approx(top.stat().st_blocks * 512 - size, rel=0.1)
        assert in_bytes(row[6]) == pytest.approx(in_bytes(row[4]) / (hours * 3600 + minutes * 60 + seconds), rel=0.1)
    total = rows[5]
    assert total[:3] == ["total", "4 disks", "4 finished"]
    assert in_bytes(total[3]) == pytest.approx(sum(in_bytes(row[4]) for row in rows[1:5]), rel=0.1)
    assert "localhost: 4 disks untouched, finished (-v shows each)" in play(folder).stderr.splitlines()
    again = table_of(play(folder, "-v"))[1:5]
    assert [row[2:] for row in again] == [["none", "populated", "-", "-", "-", "-"]] * 4


def test_check_mode_is_a_true_plan(folder: Path, boot: Callable[..., Vm]) -> None:
    """It shows what is done, in which order, and down to the base the bytes that are copied when it is done."""
    golden = images.create(folder / "golden.qcow2", 16 * images.MiB, writes=images.layer_writes(0, 16 * images.MiB, 1))
    started, snapshots = [], []
    for name in ("web01", "web02"):
        words = []
        for number, disk in enumerate(("vda", "vdb"), start=1):
            own = [images.Write(0, number * images.MiB, number)]
            snapshots.append(images.create(folder / f"{name}-{disk}-snapshot.qcow2", backing=golden, writes=own))
            top = images.create(folder / f"{name}-{disk}.qcow2", backing=snapshots[-1])
            words += disks.drive(top, id=f"drive-{disk}", qdev=disk)
        started.append(boot(*words, name=name))
    options = {"populate_base": str(golden), "populate_check_space": False}
    run = play(folder, "--check", **options)
    planned = result_of(run)["disks"]
    rows = table_of(run)
    assert rows[0] == ["VM", "DISK", "NOW", "WOULD BE", "ORDER", "TO COPY", "FREE"]
    assert [row[:5] for row in rows[1:5]] == [
        ["web01", "vda", "not populated", "started", "1"],
        ["web01", "vdb", "not populated", "started", "2"],
        ["web02", "vda", "not populated", "started", "3"],
        ["web02", "vdb", "not populated", "started", "4"],
    ]
    assert rows[5][:4] == ["total", "4 disks", "0 finished", "4"]
    assert in_bytes(rows[5][4]) == pytest.approx(sum(map(size_of, snapshots)), rel=0.02)
    assert [disk["space"]["needed"] for disk in planned] == [size_of(snapshot) for snapshot in snapshots]
    assert [vm.jobs() for vm in started] == [{}, {}]
    done = result_of(play(folder, **options))["disks"]
    assert [disk["space"]["needed"] for disk in done] == [0] * 4
    for number, disk in zip((1, 2, 1, 2), done, strict=True):
        assert disk["grew_by"] == pytest.approx(number * images.MiB, abs=images.MiB // 2)
    begun = sorted((when, vm.name, disk) for vm in started for disk in ("vda", "vdb") for when in beginnings(vm, disk))
    assert [(name, disk) for _when, name, disk in begun] == [(disk["vm"], disk["label"]) for disk in planned]


def size_of(path: Path) -> int:
    """What a file takes up."""
    return path.stat().st_blocks * 512


def beginnings(vm: Vm, disk: str) -> list[float]:
    """When streams of a disk began, in QEMU's own time."""
    vm.jobs()  # so that every event has come
    events = [each for each in vm.judge.events if each.get("data", {}).get("status") == "created"]
    own = [each["timestamp"] for each in events if disk in each["data"]["id"]]
    return [stamp["seconds"] + stamp["microseconds"] / 1e6 for stamp in own]


def test_a_window_that_ends_by_the_clock(folder: Path, vms: list[Vm]) -> None:
    """`populate_until` and `populate_total_speed`: all streams are stopped when that minute comes, none is hurried."""
    at = time.time() + 75  # the minute begins in 15 to 75 seconds
    until = time.strftime("%H:%M", time.localtime(at - at % 60))
    options = {"populate_until": until, "populate_on_timeout": "stop", "populate_progress": 1, "populate_parallel": 4}
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(populate, folder, populate_total_speed="64K", **options)
        vms[1].wait_event("JOB_STATUS_CHANGE", status="running")
        speeds = [job["speed"] for vm in vms for job in vm.jobs().values()]
        left = run.result()
    ended = time.time()
    assert (left["finished"], left["failures"], depths(vms)) == (False, [], [NEW] * 4)
    assert max(speeds) == 16384
    assert [vm.jobs() for vm in vms] == [{}, {}]
    assert at - at % 60 <= ended <= at - at % 60 + 30


def test_the_monitor_is_left_between_two_looks(folder: Path, vms: list[Vm]) -> None:
    """With `populate_poll_interval` another client is served while a stream runs, and the disks get populated."""
    with ThreadPoolExecutor(1) as pool:
        watched = {"populate_disks": ["vda"], "populate_speed": "4M", "populate_poll_interval": 1}
        run = pool.submit(populate, folder, **watched)
        vms[0].wait_event("JOB_STATUS_CHANGE", status="running")
        Monitor(Path(vms[0].monitor)).close()  # raises if it is not greeted within ten seconds
        status = [job["status"] for job in vms[0].jobs().values()]
        assert run.result()["finished"]
    assert (status, depths(vms)) == (["running"], [DONE, NEW, DONE, NEW])


def test_base_stays(folder: Path, vms: list[Vm]) -> None:
    """With a base the snapshots go and the golden image stays; the second run changes nothing; golden is not free."""
    golden = f"{folder}/golden.qcow2"
    left = populate(folder, populate_base=golden)
    assert [vm.chain(disk)[1:] for vm in vms for disk in ("vda", "vdb")] == [[golden]] * 4
    assert sorted(left["free"]) == sorted(
        f"{folder}/{vm.name}-{disk}-snapshot.qcow2" for vm in vms for disk in ("vda", "vdb")
    )
    left = populate(folder, populate_base=golden)
    assert (left["changed"], left["finished"]) == (False, True)


@pytest.mark.usefixtures("vms")
def test_rights_are_revoked_of_free_images_only(folder: Path) -> None:
    """Of the released images, those that nothing needs lose their rights, and the shared one keeps them."""
    before = (folder / "golden.qcow2").stat().st_mode
    snapshot = folder / "web01-vda-snapshot.qcow2"
    revoke = {"populate_revoke": {"mode": "0000"}, "populate_revoke_below": [str(folder)]}
    left = populate(folder, populate_disks=[f"{folder}/web01-vda.qcow2"], **revoke)
    assert (left["free"], left["revoked"]) == ([str(snapshot)], [str(snapshot)])
    assert (snapshot.stat().st_mode & 0o777, (folder / "golden.qcow2").stat().st_mode) == (0, before)


@pytest.mark.usefixtures("vms")
def test_folders_as_a_string(folder: Path) -> None:
    """`populate_revoke_below` as one string with commas means those folders, and no other."""
    snapshot = folder / "web01-vda-snapshot.qcow2"
    mode = snapshot.stat().st_mode
    revoke = {"populate_revoke": {"mode": "0000"}, "populate_disks": [f"{folder}/web01-vda.qcow2"]}
    left = populate(folder, populate_revoke_below="/no/such, /usr", **revoke)
    assert (left["revoked"], left["failures"], snapshot.stat().st_mode) == ([], [], mode)
    left = populate(folder, populate_revoke_below=f"/usr, {folder}", **{**revoke, "populate_disks": ["vda"]})
    other = folder / "web02-vda-snapshot.qcow2"
    assert (left["revoked"], left["failures"], other.stat().st_mode & 0o777) == ([str(other)], [], 0)


@pytest.mark.usefixtures("vms")
def test_rights_elsewhere_are_not_revoked(folder: Path) -> None:
    """An image that lies in none of `populate_revoke_below` keeps its rights, though it is free."""
    snapshot = folder / "web01-vda-snapshot.qcow2"
    mode = snapshot.stat().st_mode
    revoke = {"populate_revoke": {"mode": "0000"}, "populate_revoke_below": ["/no/such", f"{folder}/web01-vda"]}
    left = populate(folder, populate_disks=[f"{folder}/web01-vda.qcow2"], **revoke)
    assert (left["free"], left["revoked"], snapshot.stat().st_mode) == ([str(snapshot)], [], mode)


@pytest.mark.usefixtures("vms")
def test_an_image_whose_rights_cannot_be_revoked(folder: Path) -> None:
    """It fails the role once, at the end, by its name; the others lose their rights, and a rerun is no failure."""
    linked, other = (folder / f"{vm}-vda-snapshot.qcow2" for vm in ("web01", "web02"))
    (folder / "elsewhere").hardlink_to(linked)
    mode = linked.stat().st_mode
    revoke = {"populate_revoke": {"mode": "u=r,go="}, "populate_revoke_below": ["/no/such/", f"{folder}/"]}
    left = populate(folder, populate_disks=["vda"], **revoke)
    (failure,) = left["failures"]
    assert failure.startswith(f"{linked}: its rights stay as they are: it has 2 names (hard links)")
    assert (sorted(left["free"]), left["revoked"], left["finished"]) == ([f"{linked}", f"{other}"], [f"{other}"], False)
    assert (linked.stat().st_mode, other.stat().st_mode & 0o7777) == (mode, 0o400)
    left = populate(folder, populate_disks=["vda"], **revoke)
    assert (left["changed"], left["failures"], left["revoked"]) == (False, [], [])


@pytest.mark.usefixtures("vms")
def test_an_image_that_a_vm_needs_which_is_off(folder: Path) -> None:
    """With `populate_images` an old image that a header names is not free, keeps its rights, and a line says so."""
    needed, other = (folder / f"{vm}-vda-snapshot.qcow2" for vm in ("web01", "web02"))
    overlay = images.create(folder / "db01.qcow2", backing=needed)
    mode = needed.stat().st_mode
    revoke = {"populate_revoke": {"mode": "0400"}, "populate_revoke_below": [f"{folder}"], "populate_disks": ["vda"]}
    run = play(folder, **revoke, populate_images=[f"{folder}"])
    left = result_of(run)
    assert (left["free"], left["revoked"], left["finished"]) == ([f"{other}"], [f"{other}"], True)
    assert (needed.stat().st_mode, other.stat().st_mode & 0o7777) == (mode, 0o400)
    lines = result_of(run)["summary"]
    assert f"{needed}: not free, {overlay} names it in its header" in lines
    assert f"{other}: free, no process of this host has it open" in lines


@pytest.mark.usefixtures("vms")
def test_images_that_cannot_be_understood(folder: Path) -> None:
    """Where it is not known what a file below `populate_images` needs, nothing is free and nothing is revoked."""
    images.create(folder / "old.vmdk", images.MiB, format="vmdk")
    snapshots = [folder / f"{vm}-vda-snapshot.qcow2" for vm in ("web01", "web02")]
    modes = [path.stat().st_mode for path in snapshots]
    revoke = {"populate_revoke": {"mode": "0400"}, "populate_revoke_below": [f"{folder}"], "populate_disks": ["vda"]}
    left = populate(folder, **revoke, populate_images=[f"{folder}"], populate_progress=1)
    assert (left["free"], left["revoked"], left["finished"]) == ([], [], True)
    assert [path.stat().st_mode for path in snapshots] == modes
    assert {image["free"] for image in left["released"] if image["path"] in map(str, snapshots)} == {None}


def test_nothing_is_revoked_without_bounds(folder: Path, vms: list[Vm]) -> None:
    """`populate_revoke` alone fails before any disk is touched, and says what is missing."""
    run = play(folder, populate_revoke={"mode": "0000"})
    assert (run.code != 0, "populate_revoke needs populate_revoke_below" in run.stdout) == (True, True)
    assert depths(vms) == [NEW] * 4


def test_a_silent_vm(folder: Path, vms: list[Vm]) -> None:
    """A VM that does not answer stops no other; the role fails, and nothing is free, as it may need anything."""
    mode = (folder / "web01-vda-snapshot.qcow2").stat().st_mode
    os.kill(vms[1].pid, signal.SIGSTOP)
    revoke = {"populate_revoke": {"mode": "0000"}, "populate_revoke_below": [str(folder)]}
    left = populate(folder, populate_connect_timeout=1, **revoke)
    assert depths(vms[:1]) == [DONE, DONE]
    assert "web02.qmp" in "\n".join(left["failures"])
    assert (left["free"], left["revoked"]) == ([], [])
    assert (folder / "web01-vda-snapshot.qcow2").stat().st_mode == mode


def test_a_maintenance_window(folder: Path, vms: list[Vm]) -> None:
    """With `on_timeout: stop` the role succeeds with work left, and the next run goes on to the end."""
    window = {"populate_speed": "1M", "populate_wait_timeout": 1, "populate_on_timeout": "stop"}
    left = populate(folder, **window)
    assert (left["finished"], [vm.jobs() for vm in vms], NEW in depths(vms)) == (False, [{}, {}], True)
    left = populate(folder)
    assert (left["finished"], depths(vms)) == (True, [DONE] * 4)


@pytest.mark.parametrize("what", ["snapshot", "death"])
def test_a_claim_is_not_believed(folder: Path, vms: list[Vm], what: str) -> None:
    """What QEMU, asked again, does not show, or cannot be asked for, makes the role fail, and no image is free."""
    web01 = vms[0]
    greetings: list[str] = []

    def act(name: str) -> None:
        """The first look, the streams, the second look: before this one somebody else acts."""
        greetings.extend([name] if name == "greeting" else [])
        if (name, len(greetings)) != ("greeting", 3):
            return
        if what == "death":
            web01.kill()
        else:
            file = str(folder / "late.qcow2")
            web01.command("blockdev-snapshot-sync", device="drive-vda", snapshot_file=file, format="qcow2")

    with Proxy(web01.monitor, folder / "proxy", act) as proxy:
        left = populate(folder, populate_monitors=[proxy.path], populate_disks=["vda"])
    (message,) = left["failures"]
    assert "web01: disk vda: said to be populated, but QEMU, asked again, does not" in message
    assert (left["finished"], left["free"], left["disks"][0]["populated"]) == (
        False,
        [],
        None if what == "death" else False,
    )
