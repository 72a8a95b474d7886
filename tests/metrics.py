# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""How dense the code of plugins/ is, in figures that can be set beside those of other packages.

python tests/metrics.py                             the collection: module_utils, plugin_utils and action
python tests/metrics.py --against h11 ../src/trio   beside it packages that are installed, or folders

token             one of Python's own, without comments, docstrings, line ends and indentation; an f-string is one
line              a line that holds such a token: no blank one, no comment, no docstring
complexity        1 for each function and lambda, and for each if, elif, for, while, except, assert, `and`, `or` and
                  ternary; in a comprehension 1 for each `for` and `if`; by 1000 tokens, so that layout changes nothing
comprehension     also a generator expression
nested            a comprehension with a second `for`, a ternary or another comprehension in it; by 1000 lines
comment           a line of its own behind the file's header; no directive to a tool (noqa, type, pragma); by 100 lines
function          the lines of its body and one for its head
worst class       the one with most attributes: fields of its body, and what its methods assign to `self`; reassigned
                  are those that a method other than __init__ assigns
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import io
import re
import statistics
import sys
import tokenize
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

PLUGINS = Path(__file__).resolve().parents[1] / "plugins"
# What else is in plugins/ is documentation.
OURS = ("module_utils", "plugin_utils", "action")
LAYOUT = {tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
# From Python 3.12 on the parts of an f-string are tokens, too.
FSTRING = (getattr(tokenize, "FSTRING_START", None), getattr(tokenize, "FSTRING_END", None))
DIRECTIVE = re.compile(r"#\s*(noqa|type:|pragma|pylint|mypy|fmt|pyright)")

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
BRANCHES = (*FUNCTIONS, ast.If, ast.IfExp, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.Assert, ast.Lambda)


@dataclass
class Count:
    """What was counted in some files."""

    tokens: int = 0
    lines: int = 0
    comments: int = 0
    complexity: int = 0
    comprehensions: int = 0
    nested: int = 0
    ternaries: int = 0
    functions: list[int] = field(default_factory=list)
    worst: tuple[int, int, str] = (0, 0, "")

    def add(self, text: str) -> None:
        """Count one file."""
        tree = ast.parse(text)
        docstrings = {line for node in ast.walk(tree) for line in lines_of_docstring(node)}
        lines = set()
        for token in tokens_of(text):
            if token.type == tokenize.COMMENT:
                self.comments += is_explanation(token)
            elif token.start[0] not in docstrings:
                self.tokens += 1
                lines |= set(range(token.start[0], token.end[0] + 1))
        self.lines += len(lines)
        for node in ast.walk(tree):
            self._add_node(node, lines)

    def _add_node(self, node: ast.AST, lines: set[int]) -> None:
        self.complexity += complexity_of(node)
        self.ternaries += isinstance(node, ast.IfExp)
        if isinstance(node, COMPREHENSIONS):
            self.comprehensions += 1
            self.nested += is_nested(node)
        elif isinstance(node, FUNCTIONS):
            body = range(node.body[0].lineno, node.body[-1].end_lineno or 0)
            self.functions.append(1 + len(lines.intersection([*body, body.stop])))
        elif isinstance(node, ast.ClassDef):
            self.worst = max(self.worst, attributes_of(node))

    def rows(self) -> Iterator[tuple[str, str]]:
        """The figures, each with its name."""
        attributes, reassigned, name = self.worst
        yield "lines", str(self.lines)
        yield "complexity per 1000 tokens", f"{1000 * self.complexity / self.tokens:.1f}"
        yield "comprehensions per 1000 tokens", f"{1000 * self.comprehensions / self.tokens:.1f}"
        yield "ternaries per 1000 tokens", f"{1000 * self.ternaries / self.tokens:.1f}"
        yield "nested per 1000 lines", f"{1000 * self.nested / self.lines:.1f}"
        yield "comments per 100 lines", f"{100 * self.comments / self.lines:.1f}"
        yield "function: median, longest", f"{statistics.median(self.functions):.0f}, {max(self.functions)}"
        yield "worst class: attributes (reassigned)", f"{attributes} ({reassigned}) {name}"


def tokens_of(text: str) -> Iterator[tokenize.TokenInfo]:
    """The tokens without layout, f-strings as one each."""
    depth = 0
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == FSTRING[1]:
            depth -= 1
        elif depth == 0 and token.type not in LAYOUT:
            yield token
        if token.type == FSTRING[0]:
            depth += 1


def is_explanation(comment: tokenize.TokenInfo) -> bool:
    """Whether a comment stands on a line of its own and speaks to the reader."""
    stands_alone = comment.line.lstrip().startswith("#")
    is_header = comment.start[0] <= 2
    return stands_alone and not is_header and DIRECTIVE.match(comment.string) is None


def lines_of_docstring(node: ast.AST) -> range:
    if isinstance(node, (ast.Module, ast.ClassDef, *FUNCTIONS)) and ast.get_docstring(node) is not None:
        return range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1)
    return range(0)


def complexity_of(node: ast.AST) -> int:
    if isinstance(node, ast.BoolOp):
        return len(node.values) - 1
    if isinstance(node, ast.comprehension):
        return 1 + len(node.ifs)
    return int(isinstance(node, BRANCHES))


def is_nested(node: ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp) -> bool:
    inner = [each for each in ast.walk(node) if each is not node]
    return len(node.generators) > 1 or any(isinstance(each, (ast.IfExp, *COMPREHENSIONS)) for each in inner)


def attributes_of(node: ast.ClassDef) -> tuple[int, int, str]:
    """How many attributes a class has, and how many of them change after __init__."""
    fields = {
        each.target.id for each in node.body if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name)
    }
    methods = [each for each in node.body if isinstance(each, FUNCTIONS)]
    first = {name for each in methods if each.name == "__init__" for name in assigned_in(each)}
    later = {name for each in methods if each.name != "__init__" for name in assigned_in(each)}
    return len(fields | first | later), len(later), node.name


def assigned_in(method: ast.AST) -> Iterator[str]:
    for node in ast.walk(method):
        if isinstance(node, ast.Attribute) and not isinstance(node.ctx, ast.Load) and ast.unparse(node.value) == "self":
            yield node.attr


def counted(files: Iterable[Path]) -> Count:
    count = Count()
    for file in sorted(files):
        count.add(file.read_text(encoding="utf-8"))
    return count


def files_of(package: str) -> list[Path]:
    """The files of a folder, or of a package that can be imported; without its tests."""
    folder = Path(package)
    if not folder.is_dir():
        found = importlib.util.find_spec(package)
        if found is None or not found.submodule_search_locations:
            sys.exit(f"{package} is neither a folder nor a package that is installed")
        folder = Path(found.submodule_search_locations[0])
    files = folder.rglob("*.py")
    return [file for file in files if not {"tests", "_tests", "test"} & set(file.relative_to(folder).parts)]


def main() -> None:
    parser = argparse.ArgumentParser(prog="metrics", description="How dense the code is, in figures.")
    parser.add_argument("--plugins", type=Path, default=PLUGINS, help="the plugins/ of another checkout")
    parser.add_argument("--against", nargs="+", default=[], metavar="PATH", help="packages or folders to count, too")
    options = parser.parse_args()
    columns = {"ours": counted(file for folder in OURS for file in (options.plugins / folder).rglob("*.py"))}
    columns.update((Path(package).name, counted(files_of(package))) for package in options.against)
    print(f"{'':37}", *(f"{name:>20}" for name in columns))
    for row in zip(*(count.rows() for count in columns.values()), strict=True):
        print(f"{row[0][0]:37}", *(f"{value:>20}" for _name, value in row))


if __name__ == "__main__":
    main()
