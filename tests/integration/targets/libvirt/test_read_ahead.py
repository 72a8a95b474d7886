# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""A guest of libvirt whose base is behind a slow link."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from lab import NbdServer, SlowLink

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .conftest import Domain


def test_a_guest_is_read_ahead(folder: Path, define: Callable[..., Domain]) -> None:
    """libvirt passes QEMU the socket; all is as without, and QEMU serves nothing afterwards."""
    with ExitStack() as stack:

        def serve(image: Path) -> str:
            server = stack.enter_context(NbdServer(image, folder / "near.nbd"))
            link = stack.enter_context(SlowLink(folder / "far.nbd", server.path, delay=0.02))
            (folder / "far.nbd").chmod(0o777)  # QEMU runs as another user
            return link.address

        domain = define(layers=1, base_format="raw", serve=serve)
        result = domain.stream(read_ahead=8)
        assert (result.failed, result["finished"], result.get("warnings")) == (False, True, None), result
        domain.vm.command("query-status")  # all events that there are come before its answer
        ended = [event["data"]["id"] for event in domain.vm.judge.events if event["event"] == "BLOCK_EXPORT_DELETED"]
        assert ended == ["populate-ahead-0"]
        assert domain.vm.command("query-block-exports") == []
        assert domain.depth == 0
        domain.assert_safe_after_kill()
