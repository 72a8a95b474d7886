# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the tests of this target ask of every result: that it claims nothing which the world does not bear out."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
from lab import images

if TYPE_CHECKING:
    from pathlib import Path

    from lab import Scene, Vm, product

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount, and look into other processes")


def free_paths(result: product.Result) -> list[str]:
    """The released images that somebody may delete, on the product's word."""
    return [each["path"] for disk in result["disks"] for each in disk["released"] if each["free"]]


def warnings_of(result: product.Result) -> str:
    return str(result.get("warnings", ""))


def assert_refused(result: product.Result, vm: Vm, *words: str) -> None:
    """The task failed before anything was started, and its message has these words."""
    assert vm.job_events() == []
    assert (result.failed, result["changed"], result["finished"]) == (True, False, False), result.get("msg")
    for word in words:
        assert word in result["msg"]


def assert_left_out(result: product.Result, vm: Vm, label: str, depth: int) -> None:
    """`"*"` did not fail for a disk that cannot be populated rightly: it is as it was, and a warning names it."""
    assert len(vm.chain(label)) - 1 == depth
    assert not result.failed, result["msg"]
    assert label in warnings_of(result)
    assert [disk["populated"] for disk in result["disks"] if label in disk["names"] and disk["populated"]] == []


def assert_claims_nothing(result: product.Result) -> None:
    """Neither populated nor free, and the task does not say that it finished."""
    assert free_paths(result) == []
    assert [disk["populated"] for disk in result["disks"] if disk["populated"]] == []
    assert not result["finished"], result


def assert_populated(result: product.Result) -> None:
    assert not result.failed, result["msg"]
    (disk,) = result["disks"]
    assert (result["finished"], disk["populated"]) == (True, True), result


def assert_opens(chain: images.Chain, *, top: Path | None = None) -> None:
    """An image that nobody runs opens with what its header names, and reads as it must."""
    assert images.differences(chain.expected, images.content(top or chain.top)) == []


def assert_told(disk: Scene, told: dict[str, Any]) -> None:
    """The paths of a disk and of its chain are those of the files, and absolute."""
    assert [image["path"] for image in told["chain"]] == [str(image) for image in disk.chain.images]
    assert told["path"] == str(disk.chain.top)
