# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from ansible_collections.virtops.qmp.plugins.module_utils._decide._domains import meant_domains
from ansible_collections.virtops.qmp.plugins.module_utils._model._address import DomainName
from ansible_collections.virtops.qmp.plugins.module_utils._model._domain import Listed
from ansible_collections.virtops.qmp.plugins.module_utils._model._errors import WrongRequest

ONE, TWO, THREE, FOUR = (f"{number}f3a0c1e-5d0c-4c59-9d4e-6c1c6f0e7a51" for number in (1, 2, 3, 4))
GUESTS = [Listed("db[1]", THREE, True), Listed("web01", ONE, True), Listed("web02", TWO, False)]


@pytest.mark.parametrize(
    ("patterns", "wanted", "off", "skipped"),
    [
        pytest.param(["*"], {"db[1]": False, "web01": False}, ["web02"], ["domains are off: web02"], id="all that run"),
        pytest.param(["web*"], {"web01": False}, ["web02"], ["domains are off: web02"], id="a glob"),
        pytest.param(["web01"], {"web01": True}, [], [], id="a name"),
        pytest.param(["web02"], {"web02": True}, [], [], id="the name of one that is off"),
        pytest.param([ONE], {"web01": True}, [], [], id="a UUID"),
        pytest.param([ONE.upper()], {"web01": True}, [], [], id="a UUID in capitals"),
        pytest.param(
            [ONE, "web*", "web01"], {"web01": True}, ["web02"], ["are off: web02"], id="one guest by all names"
        ),
        pytest.param(
            ["w*", "*b02"], {"web01": False}, ["web02"], ["are off: web02"], id="one that is off by two globs"
        ),
        pytest.param(["db[1]"], {"db[1]": True}, [], [], id="a name that looks like a glob"),
        pytest.param(["nosuch"], {"nosuch": True}, [], [], id="a name that nobody has"),
        pytest.param(["no*"], {}, [], ["no* matches no domain"], id="a glob that nobody fits"),
        pytest.param(["WEB*"], {}, [], ["WEB* matches no domain"], id="in capitals"),
    ],
)
def test_meant(patterns: list[str], wanted: dict[str, bool], off: list[str], skipped: list[str]) -> None:
    """Each guest is found once, by name, UUID or glob, and those that are off and were not named are told."""
    found = meant_domains(patterns, GUESTS)
    assert all(isinstance(name, DomainName) for name in found.wanted)
    assert (found.wanted, found.off, found.failures) == (wanted, tuple(off), ())
    assert len(found.skipped) == len(skipped)
    assert all(words in note for words, note in zip(skipped, found.skipped))  # noqa: B905  # Python 3.8


def test_no_guest() -> None:
    """A name is wanted all the same: who visits it tells that it is not there."""
    assert meant_domains(["web01", "*"], []).wanted == {"web01": True}


def test_a_name_that_is_the_uuid_of_another() -> None:
    """Who names a guest after another one's UUID does not get into its place."""
    with pytest.raises(WrongRequest, match=f"{ONE} is the name of one domain and the UUID of another"):
        meant_domains([ONE], [*GUESTS, Listed(ONE, FOUR, True)])
