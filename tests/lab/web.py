# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""An image on a web server, which tells any part of it, each after some time."""

from __future__ import annotations

import http.server
import re
import threading
import time
from typing import TYPE_CHECKING

from . import images
from .process import LabError, run

if TYPE_CHECKING:
    from pathlib import Path


class WebServer:
    """Serves one file on loopback; `address` is for a header, `answered` counts the bytes of the file told so far."""

    def __init__(self, path: Path, *, delay: float = 0.0) -> None:
        self.answered = 0
        web = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_HEAD(self) -> None:
                self._begin(200, path.stat().st_size)

            def do_GET(self) -> None:
                begin, end = 0, path.stat().st_size - 1
                found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
                if found is not None:
                    begin, end = int(found[1]), min(end, int(found[2] or end))
                time.sleep(delay)
                with path.open("rb") as file:
                    file.seek(begin)
                    content = file.read(end - begin + 1)
                self._begin(206 if found is not None else 200, len(content))
                self.wfile.write(content)
                web.answered += len(content)

            def _begin(self, code: int, length: int) -> None:
                self.send_response(code)
                self.send_header("Accept-Ranges", "bytes")
                self.send_header("Content-Length", str(length))
                self.end_headers()

            def log_message(self, *_unused: object) -> None:
                """Nothing of it is for the terminal."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}/{path.name}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def __enter__(self) -> WebServer:
        return self

    def __exit__(self, *_unused: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def can_qemu_read_it(server: WebServer) -> bool:
    """Whether this QEMU has its driver for HTTP, which distributions keep in a package of its own."""
    try:
        run([images.qemu_img(), "info", server.address])
    except LabError:
        return False
    return True
