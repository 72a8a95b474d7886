# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The judge: ask QEMU itself, with nothing of this collection. Prints a list of what it answers.

ask.py SOCKET COMMAND...   a command is a name, or JSON with "execute" and "arguments"
"""

import json
import socket
import sys


def main(path: str, *commands: str) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(path)
        lines = client.makefile("rw")
        answers = []
        for command in ("qmp_capabilities", *commands):
            print(command if command.startswith("{") else json.dumps({"execute": command}), file=lines, flush=True)
            answer = {}
            while "return" not in answer:  # greeting and events come in between
                answer = json.loads(next(lines))
                if "error" in answer:
                    sys.exit(f"{command}: {answer['error']['desc']}")
            answers.append(answer["return"])
        print(json.dumps(answers[1:]))


main(*sys.argv[1:])
