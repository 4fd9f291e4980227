"""Reading YAML and JSON strictly: what two readers could understand differently is a fault with its position.

What is accepted is the part on which YAML 1.1, YAML 1.2 and JSON agree. Refused are tags, merge keys, duplicate keys,
aliases that grow or refer to themselves, `no` for false, `010` and `1:30` for numbers, numbers that JSON cannot hold.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from typing import Any, Final

import yaml

from sluicegate.policies.source import (
    ALIAS_NODES_MAX,
    DEPTH_MAX,
    DOCUMENT_CHARS_MAX,
    Builder,
    Node,
    Source,
    check_value,
    position_of,
)

# `y` and `n` are booleans in the letter of YAML 1.1 only; readers in use take them for text.
_AMBIGUOUS_BOOLEANS: Final = frozenset({"yes", "no", "on", "off"})
_NUMBER: Final = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+([eE][-+][0-9]+)?)?")
_LIKE_A_NUMBER: Final = re.compile(
    r"[-+]?(0b[01_]+|0o?[0-7_]+|0x[0-9a-fA-F_]+|[0-9][0-9_]*(\.[0-9_]*)?([eE][-+]?[0-9]+)?"
    r"|\.[0-9_]+([eE][-+]?[0-9]+)?|[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?)"
)
_NOT_FINITE: Final = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_BREAK: Final = re.compile(r"\r\n|[\r\n\x85\u2028\u2029]")
"""What ends a line of YAML; lines are counted by these."""
_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}([Tt \t].*)?")
_JSON_PIECE: Final = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s{}\[\],:"]+', re.DOTALL)
_ROOT_WORDS: Final = {
    "map": ("a document is a mapping of keys", "begin with `key: value`"),
    "list": ("this is no list", "write `- ` before each entry, or use `[` and `]`"),
}
_NULLS: Final = frozenset({"", "~", "null", "Null", "NULL"})
_TRUTHS: Final = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}

_LOADER: Final[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
DIGITS_MAX: Final = 40
"""Whole numbers with more digits are out of range however they read; int() itself refuses thousands of them."""


def read_source(file: str, text: str, root_kind: str = "map") -> Source:
    """Read a file's text as YAML, or as JSON where the name ends in `.json`. Never raises for bad text.

    ``root_kind`` is what the whole must be: a `map`, as all documents are, or a `list`.
    """
    source = Source(file)
    _read(source, text, _read_json if file.endswith(".json") else _read_yaml, root_kind)
    return source


def read_lines(file: str, text: str) -> Iterator[Source]:
    """Read JSON Lines: one source for each line that is not blank. Never raises for bad text."""
    for above, line in enumerate(text.split("\n")):
        if line.strip():
            source = Source(file, above)
            _read(source, line, _read_json, "map")
            yield source


def _read(source: Source, text: str, reader: Callable[[Source, str], Node | None], root_kind: str) -> None:
    if len(text) > DOCUMENT_CHARS_MAX:
        source.fault_at(1, 1, "", f"the text has more than {DOCUMENT_CHARS_MAX} characters", "split it")
        return
    try:
        text.encode()
    except UnicodeEncodeError as problem:
        line, column = position_of(text, problem.start)
        source.fault_at(line, column, "", "the text is not valid Unicode here", "save the file as UTF-8")
        return
    root = reader(source, text)
    if root is None and not source.faults:
        source.fault_at(1, 1, "", "the document is empty", "write something or remove the file")
    elif root is not None and root.kind != root_kind:
        source.fault_at(root.line, root.column, root.text, *_ROOT_WORDS[root_kind])
        root = None
    source.root = root


def line_of(text: str, line: int) -> str:
    """The text of a line, shortened, without the space around it."""
    lines = _BREAK.split(text)
    return lines[line - 1].strip()[:80] if 0 < line <= len(lines) else ""


class _YamlReader:
    """One pass over the events of a YAML text; no recursion, so depth costs nothing before it is refused."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.builder = Builder(source)
        self.anchors: dict[str, Node | None] = {}
        self.open_anchors: list[str | None] = []
        self.alias_nodes = 0
        self.documents = 0

    def take(self, event: Any) -> bool:
        """Take one event; False when there is no use in reading on."""
        line, column = event.start_mark.line + 1, event.start_mark.column + 1
        if isinstance(event, yaml.DocumentStartEvent):
            self.documents += 1
            if self.documents > 1:
                fix = "give it a file of its own"
                self.source.fault_at(line, column, "---", "a second document in one file", fix)
                return False
        elif isinstance(event, yaml.AliasEvent):
            return self._take_alias(event, line, column)
        elif isinstance(event, yaml.ScalarEvent):
            scalar = _yaml_scalar(self.source, event, line, column)
            if event.anchor:
                self.anchors[event.anchor] = scalar
            self.builder.add(scalar)
        elif isinstance(event, yaml.CollectionStartEvent):
            _refuse_tag(self.source, event, line, column)
            self.builder.start("map" if isinstance(event, yaml.MappingStartEvent) else "list", line, column)
            self.open_anchors.append(event.anchor)
            if event.anchor:
                self.anchors[event.anchor] = None
        elif isinstance(event, yaml.CollectionEndEvent):
            node = self.builder.end()
            anchor = self.open_anchors.pop()
            if anchor:
                self.anchors[anchor] = node
        return not self.builder.full

    def _take_alias(self, event: Any, line: int, column: int) -> bool:
        node = self.anchors.get(event.anchor)
        self.alias_nodes += node.size if node is not None else 0
        if node is not None and self.alias_nodes <= ALIAS_NODES_MAX:
            self.builder.add(node)
            return not self.builder.full
        message = f"the alias `*{event.anchor}` stands for itself or for nothing"
        if node is not None:
            message = f"aliases add more than {ALIAS_NODES_MAX} values"
        self.source.fault_at(line, column, f"*{event.anchor}", message, "write the value out")
        return False


def _read_yaml(source: Source, text: str) -> Node | None:
    reader = _YamlReader(source)
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            if not reader.take(event):
                return None
    except yaml.MarkedYAMLError as problem:
        mark = problem.problem_mark or problem.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        said = problem.problem or problem.context or "this is not YAML"
        source.fault_at(line, column, line_of(text, line), said, "mend the YAML here")
        return None
    except yaml.YAMLError as problem:
        # The position is one of bytes: what stands before it counts in characters.
        before = text.encode()[: getattr(problem, "position", 0) or 0].decode(errors="ignore")
        lines = _BREAK.split(before)
        line, column = len(lines), len(lines[-1]) + 1
        reason = getattr(problem, "reason", "") or "this is not YAML"
        source.fault_at(line, column, line_of(text, line), reason, "mend the YAML here")
        return None
    return reader.builder.root


def _refuse_tag(source: Source, event: Any, line: int, column: int) -> None:
    # "!" alone is the non-specific tag that a quoted scalar has by itself in some writers.
    if event.tag is not None and event.tag != "!":
        shown = event.tag.replace("tag:yaml.org,2002:", "!!")
        source.fault_at(line, column, shown, f"the tag `{shown}` is not accepted", "remove it; quotes make text")


def _yaml_scalar(source: Source, event: Any, line: int, column: int) -> Node:
    _refuse_tag(source, event, line, column)
    text: str = event.value
    node = Node("scalar", text, line, column, text)
    if not event.implicit[0]:
        check_value(source, node)
        return node
    if text == "<<":
        source.fault_at(line, column, text, "merge keys are not accepted", "write the keys out")
    elif text.lower() in _AMBIGUOUS_BOOLEANS:
        meant = "true" if text.lower() in {"yes", "on"} else "false"
        message = f"`{text}` is read as {meant} by some YAML readers and as text by others"
        source.fault_at(line, column, text, message, f'write `{meant}`, or `"{text}"` for the text')
    elif text in _TRUTHS:
        node.value = _TRUTHS[text]
    elif text in _NULLS:
        node.value = None
    elif _NUMBER.fullmatch(text):
        node.value = _number(text)
        check_value(source, node)
    elif _LIKE_A_NUMBER.fullmatch(text) or _NOT_FINITE.fullmatch(text):
        message = f"`{text}` is a number to some YAML readers and something else to others"
        source.fault_at(line, column, text, message, "write it in plain decimal digits, or in quotes for the text")
    elif _DATE.fullmatch(text) or text == "=":
        message = f"`{text}` is text to some YAML readers and something else to others"
        source.fault_at(line, column, text, message, f'write `"{text}"`')
    return node


def _number(text: str) -> int | float:
    if "." in text or "e" in text or "E" in text:
        return float(text)
    return int(text) if len(text) < DIGITS_MAX else math.inf


def _read_json(source: Source, text: str) -> Node | None:
    if not text.strip():
        return None
    try:
        json.loads(text, parse_int=_number, parse_constant=lambda _: None)
    except json.JSONDecodeError as problem:
        shown = line_of(text, problem.lineno)
        message = f"this is not JSON: {problem.msg.lower()}"
        source.fault_at(problem.lineno, problem.colno, shown, message, "mend it here")
        return None
    except RecursionError:
        source.fault_at(1, 1, "", f"nested deeper than {DEPTH_MAX}", "make the document smaller")
        return None
    builder = Builder(source)
    for piece, line, column in _json_pieces(text):
        if piece in "{[":
            builder.start("map" if piece == "{" else "list", line, column)
        elif piece in "}]":
            builder.end()
        elif piece not in ",:":
            builder.add(_json_scalar(source, piece, line, column))
        if builder.full:
            return None
    return builder.root


def _json_pieces(text: str) -> Iterator[tuple[str, int, int]]:
    """The pieces of a text that is known to be JSON, with line and column."""
    line, line_start = 1, 0
    before = 0
    for found in _JSON_PIECE.finditer(text):
        breaks = text.count("\n", before, found.start())
        if breaks:
            line += breaks
            line_start = text.rfind("\n", before, found.start()) + 1
        before = found.start()
        yield found.group(), line, found.start() - line_start + 1


def _json_scalar(source: Source, piece: str, line: int, column: int) -> Node:
    if piece in {"NaN", "Infinity", "-Infinity"}:
        node = Node("scalar", math.nan, line, column, piece)
    else:
        value = json.loads(piece, parse_int=_number)
        node = Node("scalar", value, line, column, value if isinstance(value, str) else piece)
    check_value(source, node)
    return node
