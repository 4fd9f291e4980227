"""The project's own sources, read as text: which files there are, what each imports, how long each part is."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent
NAMESPACE: Final = "sluicegate"


@cache
def pyproject() -> dict[str, Any]:
    """The parsed pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def rooms() -> list[str]:
    """The top-level folders that are import packages, as the package-dir mapping names them."""
    return sorted(pyproject()["tool"]["setuptools"]["package-dir"].values())


def python_files(root: Path = ROOT) -> Iterator[Path]:
    """Every Python file of the project below ``root``, links and what tools made left out."""
    for folder in sorted(path for path in root.iterdir() if path.is_dir() and not path.is_symlink()):
        if folder.name.startswith(".") or folder.name in {"build", "dist"} or folder.name.endswith(".egg-info"):
            continue
        yield from sorted(folder.rglob("*.py"))  # rglob follows no link to a folder


@dataclass(frozen=True)
class Import:
    """One import statement: the module that stands in it (``a.b``; of ``from a import b`` both) and its line."""

    module: str
    line: int
    relative: bool = False


def named_in(node: ast.Import | ast.ImportFrom) -> Iterator[Import]:
    """What one import statement asks for."""
    if isinstance(node, ast.Import):
        for name in node.names:
            yield Import(name.name, node.lineno)
        return
    base = node.module or ""
    yield Import(base, node.lineno, relative=node.level > 0)
    for name in node.names:
        yield Import(f"{base}.{name.name}" if base else name.name, node.lineno, relative=node.level > 0)


def imports(source: str) -> Iterator[Import]:
    """Every import of a source text, inside functions too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from named_in(node)


def room_of(module: str) -> str:
    """``streams`` for ``sluicegate.streams.topics``; empty for what is not ours."""
    parts = module.split(".")
    return parts[1] if parts[0] == NAMESPACE and len(parts) > 1 else ""


def file_of(module: str, root: Path = ROOT) -> Path | None:
    """The file of one of our modules, None where the name is no module (a class, a function) or not ours."""
    parts = module.split(".")
    if parts[0] != NAMESPACE or len(parts) < 2:
        return None
    path = root.joinpath(*parts[1:])
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


def eager_imports(source: str) -> Iterator[Import]:
    """The imports that happen when the module is loaded: those outside functions and outside TYPE_CHECKING blocks."""
    pending: list[ast.AST] = [ast.parse(source)]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from named_in(node)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            pending.extend(node.orelse)
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            pending.extend(ast.iter_child_nodes(node))


def reached(start: Path, root: Path = ROOT, *, eager: bool = False) -> set[str]:
    """Every module that is loaded when our modules are loaded which a file asks for, from one to the next.

    Our own modules are followed into functions too, unless ``eager``: then only what loading the file itself loads.
    """
    found: set[str] = set()
    pending = [start]
    done: set[Path] = set()
    while pending:
        path = pending.pop()
        if path in done:
            continue
        done.add(path)
        source = path.read_text()
        loaded = {asked.module for asked in eager_imports(source)}
        found |= loaded
        ours = loaded if eager else {asked.module for asked in imports(source)}
        pending.extend(inner for module in ours if (inner := file_of(module, root)) is not None)
    return found
