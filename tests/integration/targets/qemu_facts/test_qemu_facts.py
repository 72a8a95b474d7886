# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the product builds on, measured again on the QEMU at hand: no product code runs here.

Where versions differ, the test asks for the difference that was measured on 5.2, 7.2, 10.0 and 11.1.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from lab import Monitor, MonitorError, NbdServer, Vm, disks, images, wait_until

Boot = Callable[..., Vm]


@pytest.fixture
def chain(folder: Path) -> images.Chain:
    return images.chain(folder, layers=2)


@pytest.fixture
def vm(boot: Boot, chain: images.Chain) -> Vm:
    """A VM with the disk `vda` in the -drive style, which holds a stream that waits to be finalized."""
    vm = boot(*disks.drive(chain.top, id="drive0", qdev="vda"))
    vm.command("block-stream", job_id="job", device="drive0", auto_finalize=False)
    vm.wait_event("BLOCK_JOB_PENDING", id="job")
    return vm


def test_a_pending_job_has_changed_nothing_that_is_visible(vm: Vm, chain: images.Chain) -> None:
    """At `pending` the chain still stands, in memory and in the header, and every image is open."""
    assert vm.chain("vda") == [str(path) for path in chain.images]
    assert "backing-filename" in vm.inserted("vda")["image"]
    assert set(chain.images) <= vm.open_files()


def test_a_pending_job_survives_its_client(vm: Vm) -> None:
    """A job that waits to be finalized is still there when its client has gone and another one comes."""
    vm.ask_anew()
    assert vm.jobs()["job"]["status"] == "pending"


def test_completed_is_not_durable(vm: Vm, chain: images.Chain) -> None:
    """A VM killed at BLOCK_JOB_COMPLETED without a flush has lost its link to the base, up to 7.2 its data too."""
    vm.command("job-finalize", id="job")
    vm.wait_event("BLOCK_JOB_COMPLETED", device="job")
    version = vm.version
    vm.kill()
    assert images.backing(chain.top) is None
    if version < (8, 0):
        assert images.differences(chain.expected, images.content(chain.top)) != []


def test_flush_before_finalize_keeps_everything(vm: Vm, chain: images.Chain) -> None:
    """Pending, flush, finalize, completed: a VM killed at once has every byte, and needs no other image."""
    assert vm.hmp(f"qemu-io {vm.inserted('vda')['node-name']} flush") == ""
    vm.command("job-finalize", id="job")
    vm.wait_event("BLOCK_JOB_COMPLETED", device="job")
    vm.kill()
    chain.take_away()
    assert images.differences(chain.expected, images.content(chain.top)) == []


def test_flush_of_an_unknown_node_says_so_in_text(vm: Vm) -> None:
    """The human monitor reports a wrong node as text in a successful reply, while success is an empty reply."""
    assert "nosuch" in vm.hmp("qemu-io nosuch flush")


def test_a_finished_job_closes_the_old_images(vm: Vm, chain: images.Chain) -> None:
    """Unnamed nodes are closed at the latest when QEMU has answered one more command after the end of the job."""
    vm.command("job-finalize", id="job")
    vm.wait_event("BLOCK_JOB_COMPLETED", device="job")
    assert vm.jobs() == {}
    assert not set(chain.images[1:]) & vm.open_files()
    assert vm.chain("vda") == [str(chain.top)]


def test_the_graph_names_the_disk_of_a_job(vm: Vm) -> None:
    """The debug graph ties a job to its disk: by the edge `active node`, before 6.0 had the filter by `main node`."""
    graph = vm.command("x-debug-query-block-graph")
    names = {node["id"]: node["name"] for node in graph["nodes"]}
    edges = {edge["name"]: names[edge["child"]] for edge in graph["edges"] if names[edge["parent"]] == "job"}
    active = edges["active node" if vm.version >= (6, 0) else "main node"]
    assert active == vm.inserted("vda")["node-name"]


def test_query_block_hides_the_filter_of_a_job(vm: Vm, chain: images.Chain) -> None:
    """A stream without `filter-node-name` leaves the node of the disk where it was for `query-block`."""
    medium = vm.inserted("vda")
    assert (medium["drv"], medium["file"], medium["backing_file_depth"]) == ("qcow2", str(chain.top), 2)


def test_a_concluded_job_is_a_mine_on_7_2(boot: Boot, chain: images.Chain) -> None:
    """A concluded job that nobody dismissed holds the base; `query-named-block-nodes` then kills QEMU 7.2."""
    vm = boot(*disks.drive(chain.top, id="drive0", qdev="vda"))
    vm.command("block-stream", job_id="job", device="drive0", auto_dismiss=False)
    vm.wait_event("JOB_STATUS_CHANGE", id="job", status="concluded")
    assert vm.jobs()["job"]["status"] == "concluded"
    assert chain.base in vm.open_files()
    if vm.version == (7, 2):
        with pytest.raises(ConnectionError):
            vm.command("query-named-block-nodes", flat=True)
    else:
        vm.command("query-named-block-nodes", flat=True)


@pytest.mark.parametrize("policy", ["report", "ignore", "stop"])
def test_how_a_failing_stream_ends(boot: Boot, folder: Path, policy: str) -> None:
    """A failed job *completes*, with `error`, ignored errors too, at 100 %; `stop` shows in io-status alone."""
    chain = images.chain(folder, layers=1)
    vm = boot(
        *disks.failing_reads(chain.base, node_name="bad", sector=images.last_data_sector(chain.base)),
        *disks.blockdev("qcow2", "top", file={"driver": "file", "filename": str(chain.top)}, backing="bad"),
        *disks.frontend("virtio-blk-pci", "vda", drive="top"),
    )
    vm.command("block-stream", job_id="job", device="top", on_error=policy)
    if policy == "stop":
        vm.wait_event("BLOCK_JOB_ERROR", device="job", action="stop")
        vm.wait_event("JOB_STATUS_CHANGE", id="job", status="paused")
        job = vm.jobs()["job"]
        assert (job["status"], job["paused"], job["io-status"]) == ("paused", True, "failed")
        return
    data = vm.wait_event("BLOCK_JOB_COMPLETED", device="job")
    assert data["error"] == "Input/output error"
    assert (data["offset"] == data["len"]) == (policy == "ignore")
    assert vm.inserted("vda")["backing_file_depth"] == 1


def held(boot: Boot, folder: Path) -> Vm:
    """A VM whose stream is slow enough to be caught running."""
    chain = images.chain(folder, layers=1)
    vm = boot(*disks.drive(chain.top, id="drive0", qdev="vda"))
    vm.command("block-stream", job_id="job", device="drive0", speed=1, auto_finalize=False)
    return vm


def test_cancel_of_a_paused_job(boot: Boot, folder: Path) -> None:
    """A user's pause has io-status `ok`; block-job-cancel is refused without force, job-cancel keeps the chain."""
    vm = held(boot, folder)
    vm.command("job-pause", id="job")
    job = vm.jobs()["job"]
    assert (job["paused"], job["io-status"]) == (True, "ok")
    with pytest.raises(MonitorError, match="paused"):
        vm.command("block-job-cancel", device="job")
    vm.command("job-cancel", id="job")
    vm.wait_event("BLOCK_JOB_CANCELLED", device="job")
    assert vm.inserted("vda")["backing_file_depth"] == 1


def test_a_flush_waits_for_reads_that_hang(boot: Boot, folder: Path) -> None:
    """While the storage below leaves a stream without an answer, a flush does not end, and QEMU answers nobody."""
    server = NbdServer(folder / "base.raw", folder / "base.nbd")
    chain = images.chain(folder, base_format="raw", serve=lambda _image: server.start().address)
    with contextlib.ExitStack() as stack:
        stack.callback(server.kill)
        vm = boot(*disks.drive(chain.top, id="drive0", qdev="vda"))
        vm.command("block-stream", job_id="job", device="drive0", speed=1)
        wait_until(lambda: bool(vm.jobs()["job"]["offset"]), "the stream copies")
        os.kill(server.pid, signal.SIGSTOP)
        vm.command("block-job-set-speed", device="job", speed=0)
        vm.command("job-cancel", id="job")
        assert vm.jobs()["job"]["status"] == "running"
        flush = f"qemu-io {vm.inserted('vda')['node-name']} flush"
        other = Monitor(Path(vm.monitor), timeout=0.5)
        stack.callback(other.close)
        with pytest.raises(TimeoutError):
            other.command("human-monitor-command", command_line=flush)
        vm.judge.timeout = 0.5
        with pytest.raises(TimeoutError):
            vm.command("query-status")


def test_speed_changes_a_running_job(boot: Boot, folder: Path) -> None:
    """A slow job ends at once when its limit is taken away."""
    vm = held(boot, folder)
    vm.command("block-job-set-speed", device="job", speed=0)
    vm.wait_event("BLOCK_JOB_PENDING", id="job")


def test_a_second_client_gets_no_greeting(boot: Boot, chain: images.Chain) -> None:
    """The second client of a monitor is connected and hears nothing until the first one leaves."""
    vm = boot(*disks.drive(chain.top, id="drive0", qdev="vda"))
    with socket.socket(socket.AF_UNIX) as first, socket.socket(socket.AF_UNIX) as second:
        first.settimeout(10)
        first.connect(vm.monitor)
        assert b"QMP" in first.recv(4096)
        second.connect(vm.monitor)
        second.settimeout(0.3)
        with pytest.raises(TimeoutError):
            second.recv(4096)
        first.close()
        second.settimeout(10)
        assert b"QMP" in second.recv(4096)


def test_named_nodes_stay_open_until_they_are_deleted(boot: Boot, folder: Path) -> None:
    """Named backing nodes outlive the stream; deleting format and file node, top down, closes the files."""
    chain = images.chain(folder, layers=2)
    vm = boot(*disks.named_nodes(chain.images, names=["top", "mid", "base"], qdev="vda"))
    vm.command("block-stream", job_id="job", device="top")
    vm.wait_event("BLOCK_JOB_COMPLETED", device="job")
    assert vm.jobs() == {}
    assert vm.chain("vda") == [str(chain.top)]
    assert set(chain.images) <= vm.open_files()
    for node in ("mid", "mid-file", "base", "base-file"):
        vm.command("blockdev-del", node_name=node)
    vm.jobs()
    assert not set(chain.images[1:]) & vm.open_files()


def test_qemu_takes_a_read_only_disk(boot: Boot, chain: images.Chain) -> None:
    """QEMU itself rewrites the image of a read-only disk: the product has to refuse."""
    vm = boot(*disks.drive(chain.top, id="drive0", qdev="vda", read_only="on"))
    vm.command("block-stream", job_id="job", device="drive0")
    assert "error" not in vm.wait_event("BLOCK_JOB_COMPLETED", device="job")
    assert vm.inserted("vda")["backing_file_depth"] == 0


def test_a_raw_node_over_a_chain_is_a_false_success(boot: Boot, chain: images.Chain) -> None:
    """A stream into a raw format node above a qcow2 chain completes with 0 of 0 and changes nothing."""
    vm = boot(
        *disks.node(chain.top, node_name="inner", device=None),
        *disks.blockdev("raw", "outer", file="inner"),
        *disks.frontend("virtio-blk-pci", "vda", drive="outer"),
    )
    vm.command("block-stream", job_id="job", device="outer")
    data = vm.wait_event("BLOCK_JOB_COMPLETED", device="job")
    assert (data["len"], data.get("error")) == (0, None)
    vm.kill()
    assert images.backing(chain.top) is not None


def test_job_ids_begin_with_a_letter(boot: Boot, chain: images.Chain) -> None:
    """QEMU wants a letter first in a job id, and refuses the id before it does anything."""
    vm = boot(*disks.drive(chain.top, id="drive0", qdev="vda"))
    with pytest.raises(MonitorError, match="Invalid job ID"):
        vm.command("block-stream", job_id="#block1", device="drive0")
    assert vm.jobs() == {}


def test_guest_writes_during_a_stream_win(boot: Boot, folder: Path) -> None:
    """What a guest writes while a stream runs is never overwritten by older data of the chain."""
    vm = held(boot, folder)
    before = bytearray(vm.content("vda"))
    vm.guest_write("vda", 5 * images.MiB + 4096, 8192, 0xA5)
    before[5 * images.MiB + 4096 : 5 * images.MiB + 4096 + 8192] = b"\xa5" * 8192
    vm.command("block-job-set-speed", device="job", speed=0)
    vm.wait_event("BLOCK_JOB_PENDING", id="job")
    vm.command("job-finalize", id="job")
    vm.wait_event("BLOCK_JOB_COMPLETED", device="job")
    assert images.differences(bytes(before), vm.content("vda")) == []
