"""Sizes, names and habits that a reviewer should not have to look for."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from house import ROOT, imports, python_files, rooms

FUNCTION_LINES_MAX: Final = 70
MODULE_LINES_MAX: Final = 450
FORBIDDEN_NAMES: Final = frozenset("util utils common helper helpers manager managers misc".split())
UNFINISHED: Final = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
SLEEPS: Final = frozenset({"time.sleep", "sleep", "asyncio.sleep"})
SKIPS: Final = frozenset("skip skipif xfail importorskip".split())

SOURCES: Final = [pytest.param(path, id=path.relative_to(ROOT).as_posix()) for path in python_files()]
TESTS: Final = [
    pytest.param(path, id=path.name) for path in sorted((ROOT / "tests").glob("*.py")) if path.name.startswith("test_")
]


def functions(source: str) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def long_functions(source: str) -> list[str]:
    """Each function over the limit, with its length in lines."""
    sized = ((node.name, (node.end_lineno or node.lineno) - node.lineno + 1) for node in functions(source))
    return [f"{name}: {lines} lines" for name, lines in sized if lines > FUNCTION_LINES_MAX]


def plain_imports(source: str) -> list[str]:
    """Each import of one of our folders by its plain name, and each relative one."""
    folders = {*rooms(), "web"}
    return sorted(
        {
            f"line {asked.line}: {asked.module}"
            for asked in imports(source)
            if asked.relative or asked.module.split(".")[0] in folders
        }
    )


def left_for_later(source: str) -> list[str]:
    """Each comment that puts work off; a string may hold the words."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return [token.string for token in tokens if token.type == tokenize.COMMENT and UNFINISHED.search(token.string)]


def dodges(source: str) -> list[str]:
    """Each sleep and each skip of a test module."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in SLEEPS:
            if ast.unparse(node) != "asyncio.sleep(0)":
                found.append(f"line {node.lineno}: sleeps")
        elif isinstance(node, ast.Attribute) and node.attr in SKIPS and ast.unparse(node).startswith("pytest."):
            found.append(f"line {node.lineno}: skips")
    return found


@pytest.mark.parametrize("path", SOURCES)
def test_a_module_keeps_to_the_sizes(path: Path) -> None:
    """A function fits on a screen or two, a module is one thing, nothing is left for later."""
    source = path.read_text()
    assert long_functions(source) == []
    assert source.count("\n") <= MODULE_LINES_MAX
    assert left_for_later(source) == []


@pytest.mark.parametrize("path", SOURCES)
def test_a_module_is_imported_through_the_namespace(path: Path) -> None:
    """A plain name works in a checkout and fails for everyone who installed the wheel."""
    assert plain_imports(path.read_text()) == []


def test_no_module_is_named_after_nothing() -> None:
    """A name says what a module is about."""
    assert [str(path) for path in python_files() if set(path.stem.split("_")) & FORBIDDEN_NAMES] == []


def test_folders_stay_flat() -> None:
    """Python stands directly in the top-level folders; below them is only data."""
    assert [str(path) for path in python_files() if len(path.relative_to(ROOT).parts) != 2] == []


def test_every_module_says_what_it_is() -> None:
    """The first thing in a module is its docstring; the tests of a part are named after it."""
    modules = [path for path in python_files() if not path.name.startswith("test_")]
    assert [str(path) for path in modules if not ast.get_docstring(ast.parse(path.read_text()))] == []


@pytest.mark.parametrize("path", TESTS)
def test_every_test_names_its_rule_and_runs(path: Path) -> None:
    """The docstring of a test is the rule it holds; no test sleeps, none is skipped."""
    source = path.read_text()
    tests = [node for node in functions(source) if node.name.startswith("test_")]
    assert [test.name for test in tests if not ast.get_docstring(test)] == []
    assert dodges(source) == []


def test_the_checks_can_fail() -> None:
    """Each check above finds a specimen of what it is for."""
    assert long_functions("def f():\n" + "    x = 1\n" * FUNCTION_LINES_MAX) == [f"f: {FUNCTION_LINES_MAX + 1} lines"]
    assert len(plain_imports("import policies.load\nfrom streams import topics\nfrom . import x\n")) >= 3
    assert plain_imports("import sluicegate.policies.load\n") == []
    assert dodges("import time\ntime.sleep(1)\n") == ["line 2: sleeps"]
    assert dodges("@pytest.mark.skip\ndef test_x(): ...\n") == ["line 1: skips"]
    assert left_for_later("x = 1  # TODO later\ny = 'TODO'\n") == ["# TODO later"]
