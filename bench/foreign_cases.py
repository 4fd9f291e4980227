"""Cases that we did not write: read out of the test modules of detect-secrets and presidio-analyzer, none copied.

A folder (`SLUICEGATE_CASES`, else `.peers/cases`) holds checkouts of their repositories, since neither package ships
its tests. The modules are parsed, never run: of each `pytest.mark.parametrize` the table is evaluated as far as it
consists of literals, names of the module, `+`, `*`, `str.format`, f-strings and slices. What is not understood is
counted and named.

- detect-secrets (`tests/plugins/*_test.py`): lines, each flagged by its plugin or not. That it is not says nothing of
  other plugins: a key too short for its provider may stand beside the word `secret`.
- presidio-analyzer (`presidio-analyzer/tests/test_*_recognizer.py`): texts with the spans that are to be found.
"""

from __future__ import annotations

import ast
import operator
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, product
from pathlib import Path
from typing import Any, Final

from sluicegate.schemas.errors import BadInput

CASES_VARIABLE: Final = "SLUICEGATE_CASES"
"""Names the folder; `make peers` fills one."""
DEFAULT_FOLDER: Final = Path(".peers/cases")
DETECT_SECRETS: Final = "tests/plugins"
PRESIDIO: Final = "presidio-analyzer/tests"
PRESIDIO_MODULES: Final = {
    "test_credit_card_recognizer.py": "card",
    "test_iban_recognizer.py": "iban",
    "test_us_ssn_recognizer.py": "ssn",
    "test_email_recognizer.py": "email",
    "test_phone_recognizer.py": "phone",
    "test_ip_recognizer.py": "ip",
}
"""The class that each module is about; the others are about what we have no class for."""
KINDS: Final = {
    "keyword_test.py": "beside a word",
    "high_entropy_strings_test.py": "random alone",
    "ip_public_test.py": "public",
}
"""Of detect-secrets: what the cases of a module are about; the others are about one provider's form each."""
PROVIDER: Final = "a provider's form"
REPEATS_MAX: Final = 100_000
"""Of a text by `*` in a table."""

Span = tuple[int, int]


@dataclass(frozen=True)
class Case:
    """A text, and where values of the class stand in it: ``count`` of them, ``spans`` where that is known."""

    source: str
    """The module it is from."""
    klass: str
    text: str
    count: int
    spans: tuple[Span, ...] = ()
    kind: str = ""
    """What gives the value away, where a class has several kinds."""


@dataclass
class ForeignCases:
    """What was read from one repository."""

    name: str
    cases: list[Case] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    """Of each table, or case of one, that was not understood: the module, the line and why."""


class _NotUnderstoodError(Exception):
    """An expression that is more than a literal."""


def folder_named() -> Path | None:
    """The folder with the checkouts, None where there is none. Raises BadInput where one is named and is not there."""
    named = os.environ.get(CASES_VARIABLE)
    if named and not Path(named).is_dir():
        raise BadInput(f"there is no folder `{named}`, which {CASES_VARIABLE} names; fill one: `make peers`")
    folder = Path(named) if named else DEFAULT_FOLDER
    return folder if folder.is_dir() else None


def read_cases(folder: Path) -> list[ForeignCases]:
    """The cases of every checkout in the folder that is one of the two."""
    found = []
    for checkout in sorted(each for each in folder.iterdir() if each.is_dir()):
        if (checkout / PRESIDIO).is_dir():
            found.append(_presidio(checkout))
        elif (checkout / DETECT_SECRETS).is_dir():
            found.append(_detect_secrets(checkout))
    return found


def _detect_secrets(checkout: Path) -> ForeignCases:
    read = ForeignCases("detect-secrets")
    for path in sorted((checkout / DETECT_SECRETS).glob("*_test.py")):
        klass = "ip" if path.name == "ip_public_test.py" else "credential"
        for where, row in _rows(path, read.left_out):
            line = flagged = None
            if {"format", "should_be_caught", "secret", "non_secret"} <= row.keys():
                line = str(row["format"]).format(secret=row["secret"], non_secret=row["non_secret"])
                flagged = row["should_be_caught"]
            elif len(row) == 1 and row.keys() <= {"file_content", "line", "payload"}:
                # A table with nothing beside the texts: the test wants each of them flagged.
                line, flagged = next(iter(row.values())), True
            elif "should_flag" in row:
                line, flagged = row.get("payload", row.get("line")), row["should_flag"]
            elif "expected_secret" in row:
                line, flagged = row.get("line"), row["expected_secret"] is not None
            if isinstance(line, str) and isinstance(flagged, bool):
                kind = KINDS.get(path.name, PROVIDER)
                read.cases.append(Case(path.name, klass, line, int(flagged), kind=kind))
            else:
                read.left_out.append(f"{where}: `{', '.join(row)}` is not about finding in a text")
    read.cases = list(dict.fromkeys(read.cases))
    return read


def _presidio(checkout: Path) -> ForeignCases:
    read = ForeignCases("presidio-analyzer")
    for name, klass in PRESIDIO_MODULES.items():
        path = checkout / PRESIDIO / name
        if not path.is_file():
            read.left_out.append(f"{name}: is not there")
            continue
        for where, row in _rows(path, read.left_out):
            text, count = row.get("text", row.get("iban")), row.get("expected_len")
            spans = row.get("expected_positions", row.get("expected_res", ()))
            if not isinstance(text, str) or not isinstance(count, int):
                read.left_out.append(f"{where}: `{', '.join(row)}` is not about finding in a text")
            elif "leniency" in row:
                read.left_out.append(f"{where}: asks for another leniency than presidio's own")
            else:
                read.cases.append(Case(name, klass, text, count, tuple(spans) if len(spans) == count else ()))
    read.cases = list(dict.fromkeys(read.cases))
    return read


def _rows(path: Path, left_out: list[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Of each parametrised test its cases, by the names of the parameters, and where they stand."""
    module = ast.parse(path.read_text(encoding="utf-8"))
    names: dict[str, ast.expr] = {}
    for statement in module.body:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            names[statement.targets[0].id] = statement.value
    for function, decorators in _tests(module, []):
        where = f"{path.name}:{function.lineno}"
        tables = [_table(each, names, where, left_out) for each in decorators]
        for rows in product(*tables) if tables else ():
            yield where, {name: value for row in rows for name, value in row.items()}


def _tests(node: ast.AST, above: list[ast.Call]) -> Iterator[tuple[ast.FunctionDef, list[ast.Call]]]:
    """Each test function with the `parametrize` calls that stand over it and over its classes."""
    for each in ast.iter_child_nodes(node):
        if isinstance(each, ast.ClassDef | ast.FunctionDef):
            calls = [call for call in each.decorator_list if isinstance(call, ast.Call)]
            own = [call for call in calls if isinstance(call.func, ast.Attribute) and call.func.attr == "parametrize"]
            if isinstance(each, ast.ClassDef):
                yield from _tests(each, above + own)
            elif each.name.startswith("test"):
                yield each, above + own


def _table(call: ast.Call, names: Mapping[str, ast.expr], where: str, left_out: list[str]) -> list[Mapping[str, Any]]:
    """The rows of one `parametrize`, by parameter."""
    try:
        parameters = [each.strip() for each in _value(call.args[0], names).split(",")]
        cells = list(_cells(call.args[1], names))
    except (_NotUnderstoodError, AttributeError) as problem:
        left_out.append(f"{where}: {problem}")
        return []
    rows: list[Mapping[str, Any]] = []
    for cell in cells:
        try:
            value = cell if isinstance(cell, tuple) else _value(cell, names)
        except _NotUnderstoodError as problem:
            left_out.append(f"{where}: {problem}")
            continue
        values = value if len(parameters) > 1 else (value,)
        rows.append(dict(zip(parameters, values, strict=False)))
    return rows


def _cells(table: ast.expr, names: Mapping[str, ast.expr]) -> Iterator[ast.expr | tuple[Any, ...]]:
    """The rows of a table, not evaluated yet, so that one that cannot be leaves the others."""
    if isinstance(table, ast.Name) and table.id in names:
        yield from _cells(names[table.id], names)
    elif isinstance(table, ast.List | ast.Tuple):
        yield from table.elts
    elif isinstance(table, ast.Call) and isinstance(table.func, ast.Name) and table.func.id == "parse_test_cases":
        # detect-secrets' tables of keywords: pairs of a file's ending and its table, which many endings share.
        for pair in _cells(table.args[0], names):
            assert isinstance(pair, ast.Tuple)
            yield from (
                ast.Tuple([pair.elts[0], *row.elts])
                for row in _cells(pair.elts[1], names)
                if isinstance(row, ast.Tuple)
            )
    else:
        raise _NotUnderstoodError(f"the table `{ast.unparse(table)[:60]}` is computed")


def _value(node: ast.expr, names: Mapping[str, ast.expr]) -> Any:
    """What an expression of literals says. Raises _NotUnderstoodError."""
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Tuple(elts=elts) | ast.List(elts=elts):
            return tuple(_value(each, names) for each in elts)
        case ast.Name(id=name) if name in names:
            return _value(names[name], names)
        case ast.Name(id=name) if name[0].isupper():
            # A class of theirs, such as the plugin that a case is about.
            return name
        case ast.JoinedStr(values=values):
            return "".join(str(_value(each, names)) for each in values)
        case ast.FormattedValue(value=value, conversion=-1, format_spec=None):
            return _value(value, names)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _computed(operator.add, _value(left, names), _value(right, names))
        case ast.BinOp(left=left, op=ast.Mult(), right=ast.Constant(value=int(times))) if times <= REPEATS_MAX:
            return _computed(operator.mul, _value(left, names), times)
        case ast.Subscript(value=value, slice=ast.Slice(lower=lower, upper=upper, step=None)):
            ends = [None if each is None else _value(each, names) for each in (lower, upper)]
            return _computed(operator.getitem, _value(value, names), slice(*ends))
        case ast.Call(func=ast.Attribute(value=text, attr="format"), args=args, keywords=keywords):
            given = [_value(each, names) for each in args]
            named = {str(each.arg): _value(each.value, names) for each in keywords}
            return _computed(lambda form: form.format(*given, **named), _value(text, names))
    raise _NotUnderstoodError(f"`{ast.unparse(node)[:60]}` is computed")


def _computed(work: Any, *values: Any) -> Any:
    try:
        return work(*values)
    except (TypeError, ValueError, LookupError, AttributeError):
        raise _NotUnderstoodError("an expression does not fit its values") from None


def counted(every: Sequence[ForeignCases]) -> list[str]:
    """A line for each repository: how much was understood, and how much was left out."""
    return [
        f"{each.name}: {len(each.cases)} cases with {sum(case.count for case in each.cases)} values, "
        f"{len(each.left_out)} left out"
        for each in every
    ] + [f"  left out {line}" for line in sorted(set(chain.from_iterable(each.left_out for each in every)))]
