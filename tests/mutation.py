"""Mutants of a module: each comparison turned once, each `any` and `all`, each `and` and `or`.

Run as a program it takes mutants as JSON on its standard input and says of each which way it ended. A mutant exists in
memory alone: the process forks, and in the child the importer gives the changed source for one module, so that nothing
of the checkout is touched.
"""

from __future__ import annotations

import ast
import contextlib
import importlib.abc
import importlib.util
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

TURNED: Final[dict[type[ast.cmpop], type[ast.cmpop]]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
SIGNS: Final[dict[type[Any], str]] = {
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.Eq: "==",
    ast.NotEq: "!=",
    ast.Is: "is",
    ast.IsNot: "is not",
    ast.In: "in",
    ast.NotIn: "not in",
    ast.And: "and",
    ast.Or: "or",
}
QUANTIFIERS: Final = {"any": "all", "all": "any"}
BASELINE: Final = ""
"""The module of the mutant that changes nothing."""
KILLED, SURVIVED, TIMED_OUT, BROKEN = "killed", "survived", "timed out", "broken"


@dataclass(frozen=True)
class Mutant:
    """One change: where it is (no line, so that it outlives edits elsewhere), and the whole changed source."""

    file: str
    function: str
    text: str
    change: str
    source: str

    @property
    def key(self) -> tuple[str, str, str, str]:
        return self.file, self.function, self.text, self.change


def mutants_of(file: str, source: str) -> list[Mutant]:
    """All mutants of a module. Equal changes of equal texts in one function are told apart by a number behind them."""
    found: list[Mutant] = []
    seen: Counter[tuple[str, str, str]] = Counter()
    tree = ast.parse(source)
    for function, node in _places(tree, ""):
        for change, undo in _changes(node):
            # The text is that of the code before the change, so it is taken with the change undone.
            changed = ast.unparse(tree)
            undo()
            text = ast.unparse(node)
            seen[function, text, change] += 1
            number = seen[function, text, change]
            found.append(Mutant(file, function, text, change if number == 1 else f"{change} #{number}", changed))
    return found


def _places(node: ast.AST, function: str) -> Iterator[tuple[str, ast.AST]]:
    for child in ast.iter_child_nodes(node):
        inside = function
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            inside = f"{function}.{child.name}".lstrip(".")
        yield inside or "module", child
        yield from _places(child, inside)


def _changes(node: ast.AST) -> Iterator[tuple[str, Any]]:
    """The changes of one node: each is made, yielded with what undoes it, and undone by the caller."""
    if isinstance(node, ast.Compare):
        for index, before in enumerate(list(node.ops)):
            node.ops[index] = TURNED[type(before)]()
            sign = f"{SIGNS[type(before)]} to {SIGNS[TURNED[type(before)]]}"
            where = f" ({index + 1})" if len(node.ops) > 1 else ""
            yield sign + where, lambda index=index, before=before: node.ops.__setitem__(index, before)
    elif isinstance(node, ast.BoolOp):
        was = node.op
        node.op = ast.Or() if isinstance(was, ast.And) else ast.And()
        yield f"{SIGNS[type(was)]} to {SIGNS[type(node.op)]}", lambda: setattr(node, "op", was)
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in QUANTIFIERS:
        name, called = node.func.id, node.func
        called.id = QUANTIFIERS[name]
        yield f"{name} to {called.id}", lambda: setattr(called, "id", name)


class _InMemory(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Gives one module from a text instead of its file."""

    def __init__(self, module: str, source: str) -> None:
        self._module, self._source = module, source

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:
        return importlib.util.spec_from_loader(fullname, self) if fullname == self._module else None

    def exec_module(self, module: Any) -> None:
        exec(compile(self._source, f"<mutant of {self._module}>", "exec"), module.__dict__)  # noqa: S102


def _judge_in_child(package: str, mutant: dict[str, str], tests: Sequence[str]) -> None:
    """The child's whole life: import the mutant, run the tests, end with pytest's exit code."""
    silence = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(silence, stream)
    if mutant["file"] != BASELINE:
        sys.meta_path.insert(0, _InMemory(f"{package}.{Path(mutant['file']).stem}", mutant["source"]))
    import pytest

    options = ["-x", "-q", "--noconftest", "-p", "no:cacheprovider", "-m", "not campaign"]
    # File by file: what a later one prepares when it is collected costs nothing where an earlier one has failed.
    for test in tests:
        code = int(pytest.main([*options, test]))
        if code not in {0, 5}:
            os._exit(code)
    os._exit(0)


def _outcome(package: str, mutant: dict[str, str], tests: Sequence[str], timeout_sec: float) -> str:
    child = os.fork()
    if child == 0:
        try:
            _judge_in_child(package, mutant, tests)
        finally:
            os._exit(3)
    ends = time.monotonic() + timeout_sec
    while time.monotonic() < ends:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            return {0: SURVIVED, 1: KILLED, 2: KILLED}.get(code, BROKEN)
        time.sleep(0.02)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return TIMED_OUT


def main() -> None:
    """Read ``{package, preload, tests, timeout_sec, mutants}``; write ``[index, outcome]``, one a line."""
    task = json.load(sys.stdin)
    for name in task["preload"]:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    if any(name.startswith(task["package"]) for name in sys.modules):
        raise SystemExit(f"`{task['package']}` is loaded already; take out of `preload` what imports it")
    for index, mutant in enumerate(task["mutants"]):
        outcome = _outcome(task["package"], mutant, task["tests"], task["timeout_sec"])
        sys.stdout.write(json.dumps([index, outcome]) + "\n")
        sys.stdout.flush()


def task_of(
    package: str, preload: Sequence[str], tests: Sequence[str], timeout_sec: float, mutants: Sequence[Mutant]
) -> str:
    """What `main` reads."""
    return json.dumps(
        {
            "package": package,
            "preload": list(preload),
            "tests": list(tests),
            "timeout_sec": timeout_sec,
            "mutants": [asdict(mutant) for mutant in mutants],
        }
    )


if __name__ == "__main__":
    main()
