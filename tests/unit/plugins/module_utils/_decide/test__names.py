# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from ansible_collections.virtops.qmp.plugins.module_utils._decide._names import (
    needed_by,
    why_named,
    why_names_unknown,
)
from ansible_collections.virtops.qmp.plugins.module_utils._model._images import Asked, Search, Unread

VMDK = Unread("/v/x.vmdk", "it is a vmdk image")
SEARCHED, NOTHING = Search(("/v",), {}), Search((), {})


def in_part(count: int = 1) -> Search:
    return Search(("/v",), {}, (VMDK,), count)


@pytest.mark.parametrize(
    ("asked", "search", "expected"),
    [
        pytest.param(Asked(), SEARCHED, [], id="nobody"),
        pytest.param(Asked(), in_part(), None, id="nobody, but not all were read"),
        pytest.param(Asked(), NOTHING, None, id="nobody was looked for"),
        pytest.param(Asked(is_link=True), SEARCHED, None, id="a link"),
        pytest.param(Asked(named_by=("/v/a",)), SEARCHED, ["/v/a"], id="one"),
        pytest.param(Asked(named_by=("/v/a", "/v/b")), in_part(), ["/v/a", "/v/b"], id="two, and not all were read"),
    ],
)
def test_needed_by(asked: Asked, search: Search, expected: list[str] | None) -> None:
    """Only where all was read and understood does nobody need an image."""
    assert needed_by(asked, search) == expected


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ((), None),
        (("a",), "a names it in its header"),
        (("a", "b", "c"), "a, b, c name it in their headers"),
        (("a", "b", "c", "d", "e"), "a, b, c and 2 more name it in their headers"),
    ],
)
def test_who_names_it_in_words(names: tuple[str, ...], words: str | None) -> None:
    """Some of them, and how many more."""
    assert why_named(Asked(named_by=names)) == words


@pytest.mark.parametrize(
    ("search", "words"),
    [
        pytest.param(SEARCHED, None, id="all were read"),
        pytest.param(NOTHING, "no folder was searched for images that name it", id="nothing was searched"),
        pytest.param(
            in_part(),
            "whether an image names it in its header cannot be told: /v/x.vmdk: it is a vmdk image",
            id="one was not read",
        ),
        pytest.param(
            in_part(3),
            "whether an image names it in its header cannot be told: /v/x.vmdk: it is a vmdk image, and 2 more",
            id="three were not read",
        ),
    ],
)
def test_why_it_is_not_known_in_words(search: Search, words: str | None) -> None:
    """The first of the reasons, and how many more there are."""
    assert why_names_unknown(search) == words
