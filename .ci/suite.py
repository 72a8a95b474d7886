# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run every nox session side by side, and close with what was skipped, what failed and how many passed.

nox prints one line per session with its seconds; what is added here are the tests that were skipped inside a
session, and the sessions that are not part of the everyday run: nothing is left out in silence. What failed is
said once more in the last lines, for many a CI service shows only those.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NOX = [sys.executable, "-m", "nox", "--noxfile", str(ROOT / "noxfile.py")]
REPORT = ROOT / "build" / "report.json"
# pytest's and ansible-test's own words for what they leave out.
SKIPPED_INSIDE = re.compile(r"^(SKIPPED \[|WARNING: (Skipping|Excluding|Skipped|Unable|Required))")
# pytest's and ansible-test's own words for what failed.
FAILED_INSIDE = re.compile(r"^(FAILED |ERROR:? )")


def run(arguments: list[str]) -> tuple[int, set[str], list[str]]:
    """Run nox, pass its output on; return its exit code, the lines about something skipped, and about failures."""
    skipped: set[str] = set()
    failures: list[str] = []
    with subprocess.Popen(
        [*NOX, "--allow-parallel", "--report", str(REPORT), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "NO_COLOR": "1"},
        text=True,
        errors="backslashreplace",
    ) as nox:
        for line in nox.stdout or ():
            print(line, end="", flush=True)
            if SKIPPED_INSIDE.match(line):
                skipped.add(line.strip())
            elif FAILED_INSIDE.match(line):
                failures.append(line.strip())
    return nox.returncode, skipped, failures


def on_request() -> list[str]:
    """Return the sessions that run only when asked for by name."""
    listing = subprocess.run([*NOX, "--list"], check=True, capture_output=True, text=True).stdout
    return re.findall(r"^- (\S+)", listing, flags=re.MULTILINE)


def main() -> int:
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.unlink(missing_ok=True)
    code, skipped, failures = run(sys.argv[1:])
    if not REPORT.exists():
        print("nox did not run to its end.")
        return code or 1
    sessions = json.loads(REPORT.read_text())["sessions"]
    print("\nSkipped inside sessions:", *(sorted(skipped) or ["nothing"]), sep="\n  ")
    print("Sessions that run only when asked for by name:", *on_request(), sep="\n  ")
    results = Counter(session["result"] for session in sessions)
    failed = [session["name"] for session in sessions if session["result"] not in ("success", "skipped")]
    if failed or failures:
        print("\nWhat failed:", *failed, *failures, sep="\n  ")
    print(f"\nSessions: {results['success']} passed, {len(failed)} failed, {results['skipped']} skipped")
    return 0 if code == 0 and not failed and results["success"] else 1


if __name__ == "__main__":
    sys.exit(main())
