# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which monitors lead to one VM: only those that are proven to. A VM that says it is another one hides nothing."""

from __future__ import annotations

from typing import Sequence

from .._model._vm import Vm


def tell_apart(seen: Sequence[Vm]) -> tuple[tuple[Vm, ...], tuple[str, ...]]:
    """Keep one monitor of each VM, the first.

    :return: the VMs, and what the user must know: doubles, VMs that look alike, and monitors that QEMU does not serve.
    """
    kept: list[Vm] = []
    notes: list[str] = []
    for vm in seen:
        double = next((other for other in kept if vm.is_same_vm(other)), None)
        if double is not None:
            notes.append(f"{vm.identity.monitor} is another monitor of {double.identity.label}")
            continue
        notes += [_alike(other, vm) for other in kept if _looks_like(other, vm)]
        notes += _unproven(vm)
        kept.append(vm)
    return tuple(kept), tuple(notes)


def _looks_like(one: Vm, other: Vm) -> bool:
    """Whether two VMs claim to be one. Many names are given twice; a UUID, or a name at one process, is not."""
    who, whose = one.identity, other.identity
    if (who.name, who.uuid) != (whose.name, whose.uuid):
        return False
    is_one_process = who.process is not None and who.process == whose.process
    return who.uuid is not None or is_one_process


def _alike(one: Vm, other: Vm) -> str:
    who, whose = one.identity, other.identity
    return (
        f"{who.monitor} and {whose.monitor} answer with the same name and UUID ({who.label}, {who.uuid or 'no UUID'}), "
        "and nothing proves that they are one VM: each is taken for a VM of its own. If they are one, name one of them"
    )


def _unproven(vm: Vm) -> list[str]:
    """A monitor that a proxy or a launcher serves. What must not be seen is no news: that is so for all VMs then."""
    peer = vm.identity.peer
    if peer is None or peer.is_qemu or peer.program is None:
        return []
    why = "made its socket and does not serve it" if peer.serves is False else "serves it"
    return [
        f"{vm.identity.label}: {peer} {why} ({vm.identity.monitor}), which is not QEMU by its name: what QEMU has open "
        "cannot be seen, and nothing can be proven of its files"
    ]
