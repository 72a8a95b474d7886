# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Play rounds and print what was tried and what was lost.

python -m campaign --rounds 200 --seed 1
python -m campaign --seconds 3600 --jobs 2
python -m campaign --seed 1 --only 17
python -m campaign --leave [--rounds 50]   # cut a task off from its controller, and run it again
python -m campaign --libvirt --rounds 100   # guests of libvirt
python -m campaign --fuzz [--all-places] [--seconds 600]   # lies in place of kills
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import sys
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from itertools import count, takewhile
from typing import TYPE_CHECKING

from lab import lab_folder
from lab.libvirt import Libvirt, distribution_python

from . import domains, leaving, lying
from .bench import Report
from .control import CONTROLS
from .rounds import Round, play

if TYPE_CHECKING:
    from collections.abc import Callable


def summary(reports: list[Report], seconds: float) -> str:
    """A table: who was killed when, in how many rounds, and what that cost."""
    groups: defaultdict[tuple[str, str], list[Report]] = defaultdict(list)
    for report in reports:
        groups[report.round.victim, report.round.moment].append(report)
    lines = ["struck      at              rounds  writes  blocks lost  wrong"]
    lines += [
        f"{victim:<11} {moment:<15} {len(own):6} {sum(report.writes for report in own):7} "
        f"{sum(len(report.lost) for report in own):12} {sum(len(report.wrong) for report in own):6}"
        for (victim, moment), own in sorted(groups.items())
    ]
    lost, wrong = sum(len(report.lost) for report in reports), sum(len(report.wrong) for report in reports)
    writes = sum(report.writes for report in reports)
    lines.append(f"{'all':<27} {len(reports):6} {writes:7} {lost:12} {wrong:6}   in {seconds:.0f} s")
    return "\n".join(lines)


def can_judge() -> bool:
    """Whether the judge still sees each kind of loss where there is one."""
    seen = [control() for control in CONTROLS]
    print("The judge, on what is lost on purpose:")
    print("\n".join(f"  {each.line}" for each in seen), end="\n\n")
    return not any(each.is_blind for each in seen)


def main() -> int:
    parser = argparse.ArgumentParser(prog="campaign", description="Strike whoever takes part in a stream, and judge.")
    parser.add_argument("--rounds", type=int, help="play so many rounds (200 unless --seconds is given)")
    parser.add_argument("--seconds", type=float, help="begin rounds for so long")
    parser.add_argument("--seed", type=int, default=1, help="what is tried follows from it (1)")
    parser.add_argument("--only", type=int, help="play this round alone")
    parser.add_argument("--jobs", type=int, default=2, help="so many rounds at a time (2)")
    parser.add_argument("--fuzz", action="store_true", help="kill nobody: let a VM lie, --rounds times at most")
    parser.add_argument("--libvirt", action="store_true", help="on guests of libvirt, one round at a time")
    parser.add_argument("--all-places", action="store_true", help="with --fuzz: in every place of every recording")
    parser.add_argument("--leave", action="store_true", help="cut SSH connections, --rounds times (50)")
    options = parser.parse_args()
    if options.leave:
        return 1 if leaving.play(options.seed, options.rounds or 50, options.only) else 0
    if options.fuzz:
        seconds, most = options.seconds, options.rounds
        return 1 if lying.play(options.seed, all_places=options.all_places, seconds=seconds, most=most) else 0
    if not can_judge():
        print(
            "None may be 0: the judge does not see such a loss, so what it says of the rounds would be worth nothing."
        )
        return 2
    rounds = options.rounds or (None if options.seconds else 200)
    with contextlib.ExitStack() as stack:
        begin: Callable[[int], Report] = functools.partial(_on_qemu, options.seed)
        if options.libvirt:
            # libvirt's bindings are only made for that Python; and a daemon that is struck serves nobody else.
            os.environ["LAB_TARGET_PYTHON"] = distribution_python()
            folder = stack.enter_context(lab_folder())
            folder.chmod(0o755)
            daemon = stack.enter_context(Libvirt(folder / "libvirt").running())
            begin = functools.partial(_on_libvirt, options.seed, daemon)
            options.jobs = 1
        return _play(options, rounds, begin)


def _on_qemu(seed: int, number: int) -> Report:
    return play(Round.of(seed, number))


def _on_libvirt(seed: int, daemon: Libvirt, number: int) -> Report:
    return domains.play(domains.round_of(seed, number), daemon)


def _play(options: argparse.Namespace, rounds: int | None, begin: Callable[[int], Report]) -> int:
    """Play the rounds, and print them; 1 if anything was lost."""
    began = time.monotonic()

    def is_time_left(number: int) -> bool:
        return (rounds is None or number < rounds) and time.monotonic() - began < (options.seconds or float("inf"))

    def one(number: int) -> Report | None:
        if not is_time_left(number):
            return None
        report = begin(number)
        print(report.line, flush=True)
        return report

    if options.only is not None:
        reports = [begin(options.only)]
        print(reports[0].line)
    else:
        reports = []
        with ThreadPoolExecutor(options.jobs) as pool:
            batches = (range(start, start + options.jobs * 4) for start in count(0, options.jobs * 4))
            for batch in takewhile(lambda numbers: is_time_left(numbers[0]), batches):
                reports += [report for report in pool.map(one, batch) if report is not None]
    print(f"\nseed {options.seed}\n{summary(reports, time.monotonic() - began)}")
    return 1 if any(report.lost or report.wrong for report in reports) else 0


if __name__ == "__main__":
    sys.exit(main())
