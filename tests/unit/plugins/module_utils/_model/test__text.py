# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import time
import unicodedata
from typing import Any

import pytest
from ansible_collections.virtops.qmp.plugins.module_utils._model._text import MOST_SHOWN, presentable, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        pytest.param("web01", "web01", id="a name"),
        pytest.param("", "", id="nothing"),
        pytest.param("Müller €/日本/\U0001f600", "Müller €/日本/\U0001f600", id="names of the world"),
        pytest.param("\U0001f468\u200d\U0001f469", "\U0001f468\u200d\U0001f469", id="a joiner"),
        pytest.param("a b\\c", "a b\\c", id="blank and backslash"),
        pytest.param("a\nb\r\tc", "a\\x0ab\\x0d\\x09c", id="line feed, carriage return, tabulator"),
        pytest.param("\x1b[31mred", "\\x1b[31mred", id="an escape"),
        pytest.param("\x9b31m\x85\x7f", "\\x9b31m\\x85\\x7f", id="C1 and DEL"),
        pytest.param("\u202egnp.exe\u2066x\u2069", "\\u202egnp.exe\\u2066x\\u2069", id="bidirectional overrides"),
        pytest.param("a\u2028b\u2029", "a\\u2028b\\u2029", id="separators"),
        pytest.param("\udcff\ud800", "\\udcff\\ud800", id="half characters"),
        pytest.param("\ufeffa\u200b\uffff", "\\ufeffa\\u200b\\uffff", id="shown as nothing"),
        pytest.param("\0", "\\x00", id="NUL"),
    ],
)
def test_printable(text: str, shown: str) -> None:
    """Characters stay, and what would act on a terminal or be shown as nothing is escaped."""
    assert printable(text) == shown


def test_what_is_printable_stays_so() -> None:
    """To escape twice changes nothing: the controller escapes again what a module has escaped."""
    every = "".join(map(chr, range(0x3000)))
    once = printable(every, most=len(every))
    assert printable(once, most=len(once)) == once


def test_no_control_character_is_left() -> None:
    """Of all characters of the first plane none that controls a terminal comes through, and all can be encoded."""
    for code in range(0x10000):
        shown = printable(chr(code))
        assert all(unicodedata.category(each) not in ("Cc", "Cs", "Zl", "Zp") for each in shown)
        assert all(unicodedata.bidirectional(each) not in ("LRO", "RLO", "LRE", "RLE", "PDF") for each in shown)
        shown.encode()


@pytest.mark.parametrize(
    ("text", "most", "shown"),
    [
        pytest.param("x" * MOST_SHOWN, MOST_SHOWN, "x" * MOST_SHOWN, id="the longest"),
        pytest.param("abcdef", 3, "abc... (3 more characters)", id="longer"),
        pytest.param("\n\n\n", 2, "\\x0a\\x0a... (1 more characters)", id="counted before it is escaped"),
    ],
)
def test_a_long_text_is_cut(text: str, most: int, shown: str) -> None:
    """And it shows that it was."""
    assert printable(text, most) == shown


def test_a_huge_text_takes_no_time() -> None:
    """Two million characters are cut, not searched."""
    began = time.process_time()
    assert len(printable("\x1b" * 2_000_000)) < 5 * MOST_SHOWN
    assert time.process_time() - began < 0.5


@pytest.mark.parametrize(
    ("value", "presented"),
    [
        pytest.param({"a\n": "b\n"}, {"a\\x0a": "b\\x0a"}, id="keys and values"),
        pytest.param([("\x1b",), {"x": ["\x1b"]}], [["\\x1b"], {"x": ["\\x1b"]}], id="nested"),
        pytest.param([1, 2**63 - 1, True, None, 1.5], [1, 2**63 - 1, True, None, 1.5], id="what is no text"),
        pytest.param([float("nan"), float("inf"), -float("inf")], [None, None, None], id="what JSON does not have"),
    ],
)
def test_presentable(value: Any, presented: Any) -> None:
    """Everything in a result is treated, however deep it lies."""
    assert presentable(value) == presented
