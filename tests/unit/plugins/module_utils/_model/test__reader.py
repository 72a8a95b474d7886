# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.virtops.qmp.plugins.module_utils._model._errors import MonitorUnusable
from ansible_collections.virtops.qmp.plugins.module_utils._model._reader import (
    MESSAGE,
    MOST_BYTES,
    NAME,
    Members,
    is_sendable,
    items_of,
    text_of,
)

NAN = float("nan")


def read(kind: str, value: Any, *arguments: Any) -> Any:
    """The member `m` of a reply, read as this kind."""
    found = getattr(Members({"m": value}, "query-x"), kind)("m", *arguments)
    if isinstance(found, Members):
        return "members"
    return len(found) if isinstance(found, list) else found


@pytest.mark.parametrize(
    ("kind", "value", "arguments", "expected"),
    [
        pytest.param("text", "vda", (), "vda", id="text"),
        pytest.param("text", "", (), "", id="empty text"),
        pytest.param("text", "a\nb\x1bü€\u202e\U0001f600", (), "a\nb\x1bü€\u202e\U0001f600", id="whatever a name is"),
        pytest.param("text", "x" * NAME, (), "x" * NAME, id="the longest name"),
        pytest.param("text", "xyz", (3,), "xyz", id="the longest that was asked for"),
        pytest.param("optional_text", "vda", (), "vda", id="text that is there"),
        pytest.param("size", 0, (), 0, id="nothing"),
        pytest.param("size", MOST_BYTES, (), MOST_BYTES, id="the largest size"),
        pytest.param("optional_size", 7, (), 7, id="a size that is there"),
        pytest.param("sizes", [], (2,), (), id="an empty list of sizes"),
        pytest.param("sizes", [0, 7], (2,), (0, 7), id="the longest list of sizes"),
        pytest.param("flag", True, (), True, id="true"),
        pytest.param("flag", False, (), False, id="false"),
        pytest.param("members", {}, (), "members", id="an object"),
        pytest.param("optional_members", {}, (), "members", id="an object that is there"),
        pytest.param("items", [], (2,), 0, id="an empty list"),
        pytest.param("items", [{}, {}], (2,), 2, id="the longest list"),
        pytest.param("optional_items", [{}], (2,), 1, id="a list that is there"),
    ],
)
def test_what_fits(kind: str, value: Any, arguments: tuple[Any, ...], expected: Any) -> None:
    """A member that has the type and the size that was asked for is taken as it is."""
    assert read(kind, value, *arguments) == expected


@pytest.mark.parametrize(
    ("kind", "arguments", "expected"),
    [
        pytest.param("optional_text", (), None, id="text"),
        pytest.param("optional_size", (), None, id="size"),
        pytest.param("optional_members", (), None, id="object"),
        pytest.param("optional_items", (2,), [], id="list"),
    ],
)
def test_what_may_be_left_out(kind: str, arguments: tuple[Any, ...], expected: Any) -> None:
    """A member that QEMU leaves out where there is nothing to tell is nothing."""
    assert getattr(Members({}, "query-x"), kind)("m", *arguments) == expected


@pytest.mark.parametrize(
    ("kind", "value", "arguments", "words"),
    [
        pytest.param("text", 7, (), "is an integer, not text", id="text: integer"),
        pytest.param("text", None, (), "is null, not text", id="text: null"),
        pytest.param("text", ["vda"], (), "is a list, not text", id="text: list"),
        pytest.param("text", "x" * (NAME + 1), (), "is longer than 1024 characters", id="text: long"),
        pytest.param("text", "xyz", (2,), "is longer than 2 characters", id="text: longer than asked for"),
        pytest.param("text", "a\0b", (), "is text with a NUL", id="text: NUL"),
        pytest.param("text", "a\ud800b", (), "is text with a NUL or half a character", id="text: surrogate"),
        pytest.param("text", "a\udcffb", (), "is text with a NUL or half a character", id="text: half a byte"),
        pytest.param("optional_text", None, (), "is null, not text", id="optional text: null is not left out"),
        pytest.param("size", "7", (), "is text, not a size", id="size: text"),
        pytest.param("size", True, (), "is true or false, not a size", id="size: true is no number"),
        pytest.param("size", 7.0, (), "is a fraction, not a size", id="size: fraction"),
        pytest.param("size", NAN, (), "is a fraction, not a size", id="size: not a number"),
        pytest.param("size", float("inf"), (), "is a fraction, not a size", id="size: infinite"),
        pytest.param("size", -1, (), "is out of range", id="size: negative"),
        pytest.param("size", 2**63, (), "is out of range", id="size: more than QEMU holds"),
        pytest.param("size", 10**4000, (), "is out of range", id="size: that cannot be printed"),
        pytest.param("optional_size", None, (), "is null, not a size", id="optional size: null"),
        pytest.param("flag", 1, (), "is an integer, not true or false", id="flag: one is not true"),
        pytest.param("flag", "true", (), "is text, not true or false", id="flag: text"),
        pytest.param("members", [], (), "is a list, not an object", id="object: list"),
        pytest.param("optional_members", None, (), "is null, not an object", id="optional object: null"),
        pytest.param("items", {}, (2,), "is an object, not a list", id="list: object"),
        pytest.param("items", [{}] * 3, (2,), "has more than 2 entries", id="list: long"),
        pytest.param("optional_items", None, (2,), "is null, not a list", id="optional list: null"),
    ],
)
def test_what_does_not_fit(kind: str, value: Any, arguments: tuple[Any, ...], words: str) -> None:
    """It is told with the command, the member and the reason."""
    with pytest.raises(MonitorUnusable, match=f"query-x brings what no QEMU since 4.0 sends: 'm' {words}"):
        read(kind, value, *arguments)


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [("text", ()), ("size", ()), ("flag", ()), ("members", ()), ("items", (2,))],
)
def test_what_is_missing(kind: str, arguments: tuple[Any, ...]) -> None:
    """A member that every QEMU sends cannot be left out."""
    with pytest.raises(MonitorUnusable, match="'m' is missing"):
        getattr(Members({}, "query-x"), kind)("m", *arguments)


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        pytest.param({}, "an object, not a list", id="object"),
        pytest.param([{}] * 3, "a list of more than 2 entries", id="long"),
        pytest.param([[]], "a list, not an object", id="a list of lists"),
        pytest.param(7, "an integer, not a list", id="integer"),
        pytest.param(object(), "of no kind that JSON has, not a list", id="no JSON"),
    ],
)
def test_a_reply_that_is_no_list(reply: Any, words: str) -> None:
    """A reply that shall be a list of objects is one, and not too long."""
    with pytest.raises(MonitorUnusable, match=f"query-x brings what no QEMU since 4.0 sends: {words}"):
        items_of(reply, "query-x", 2)


def test_a_reply_that_is_a_list() -> None:
    """Each entry is read by itself."""
    assert [entry.text("m") for entry in items_of([{"m": "a"}, {"m": "b"}], "query-x", 2)] == ["a", "b"]


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        pytest.param({}, "an object, not text", id="object"),
        pytest.param("x" * (MESSAGE + 1), "longer than", id="long"),
        pytest.param("\0", "text with a NUL", id="NUL"),
    ],
)
def test_a_reply_that_is_no_text(reply: Any, words: str) -> None:
    """A reply that shall be text is one, and not too long."""
    with pytest.raises(MonitorUnusable, match=words):
        text_of(reply, "query-x")


def test_a_reply_that_is_text() -> None:
    """It is taken as it is."""
    assert text_of("Error\r\n", "query-x") == "Error\r\n"


def test_a_message_stays_short_whatever_was_sent() -> None:
    """What was sent is not repeated: it may be as large as an answer can be."""
    with pytest.raises(MonitorUnusable) as refusal:
        read("size", "x" * 10_000_000)
    assert len(str(refusal.value)) < 200


@pytest.mark.parametrize(("text", "sendable"), [("a\nb", True), ("a\0b", False), ("\udfff", False), ("\ue000", True)])
def test_is_sendable(text: str, sendable: bool) -> None:
    """QEMU's strings are C's, and UTF-8 on the wire."""
    assert is_sendable(text) is sendable
