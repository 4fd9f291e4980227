"""The text of a document as a tree that remembers where each thing stands, so that a fault can point at it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Final

from sluicegate.policies.faults import Fault

DOCUMENT_CHARS_MAX: Final = 4_000_000
"""The longest document read, in characters."""
DEPTH_MAX: Final = 32
"""How deep lists and mappings may stand in one another."""
NODES_MAX: Final = 1_000_000
"""How many values and keys one document may hold."""
ALIAS_NODES_MAX: Final = 1_000
"""How many values the aliases of one document may add, once written out."""
INTEGER_MAX: Final = 2**53 - 1
"""The largest whole number that every JSON reader holds exactly."""

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]
"""A parsed document, plain."""


class Node:
    """One value of a document: ``value`` is a scalar, a list of nodes, or a list of (key node, value node)."""

    __slots__ = ("column", "kind", "line", "size", "text", "value")

    def __init__(self, kind: str, value: Any, line: int, column: int, text: str = "") -> None:
        self.kind = kind  # "scalar", "list" or "map"
        self.value = value
        self.line = line
        self.column = column
        self.text = text
        self.size = 1

    def plain(self) -> Json:
        """The value without positions."""
        if self.kind == "map":
            return {key.value: value.plain() for key, value in self.value}
        if self.kind == "list":
            return [item.plain() for item in self.value]
        return self.value  # type: ignore[no-any-return]

    def child(self, step: str | int) -> tuple[Node | None, Node] | None:
        """The (key, value) under a key, or (None, item) at an index; None when there is none."""
        if self.kind == "map":
            return next(((key, value) for key, value in self.value if key.value == step), None)
        if self.kind == "list" and isinstance(step, int) and 0 <= step < len(self.value):
            return None, self.value[step]
        return None


class Source:
    """One file: its tree, or none when the text cannot be read, and the faults met so far."""

    __slots__ = ("_misread", "above", "faults", "file", "root")

    def __init__(self, file: str, above: int = 0) -> None:
        """``above`` is how many lines of the file stand above this text, where it is one of many in it."""
        self.file = file
        self.above = above
        self.root: Node | None = None
        self.faults: list[Fault] = []
        self._misread: set[tuple[int, int]] = set()

    def fault(
        self,
        path: Sequence[str | int],
        message: str,
        fix: str,
        *,
        at_key: bool = False,
        severity: Any = "error",
    ) -> None:
        """Record a fault where ``path`` leads, as far as it leads; ``at_key`` points at the key, not its value."""
        node = self.root or Node("scalar", None, 0, 0)
        key: Node | None = None
        for step in path:
            found = node.child(step)
            if found is not None:
                key, node = found
        spot = key if at_key and key is not None else node
        if (spot.line, spot.column) in self._misread:
            return  # what stands here could not be read, so what it means is not known either
        text = spot.text or (key.text if key is not None else "")
        line = spot.line + self.above
        self.faults.append(Fault(self.file, line, spot.column, text, message, fix, severity))

    def line_of(self, path: Sequence[str | int]) -> int:
        """The line, from 1, where ``path`` leads, as far as it leads; 0 where the document has no text any more."""
        node = self.root or Node("scalar", None, 0, 0)
        for step in path:
            found = node.child(step)
            node = found[1] if found is not None else node
        return node.line

    def fault_at(self, line: int, column: int, text: str, message: str, fix: str) -> None:
        """Record that what stands at a position of the text cannot be read."""
        if line:
            self._misread.add((line, column))
        self.faults.append(Fault(self.file, line + self.above, column, text, message, fix))


def source_of_document(file: str, document: Any) -> Source:
    """The same tree from a parsed document, which has no positions."""
    source = Source(file)
    if not isinstance(document, dict):
        source.fault_at(0, 0, "", "a document is a mapping of keys", "publish the parsed file")
        return source
    source.root = _node_of(source, document, 1)
    return source


def position_of(text: str, index: int) -> tuple[int, int]:
    """Line and column, from 1, of the character at ``index``."""
    before = text[:index]
    return before.count("\n") + 1, index - (before.rfind("\n") + 1) + 1


def _node_of(source: Source, value: Any, depth: int) -> Node:
    if depth > DEPTH_MAX:
        source.fault_at(0, 0, "", f"nested deeper than {DEPTH_MAX}", "flatten it")
        return Node("scalar", None, 0, 0)
    if isinstance(value, dict):
        pairs = [
            (Node("scalar", key, 0, 0, str(key)), _node_of(source, each, depth + 1)) for key, each in value.items()
        ]
        return Node("map", pairs, 0, 0)
    if isinstance(value, list):
        return Node("list", [_node_of(source, each, depth + 1) for each in value], 0, 0)
    node = Node("scalar", value, 0, 0, "" if value is None else str(value))
    check_value(source, node)
    return node


def check_value(source: Source, node: Node) -> None:
    """What JSON and RFC 8785 cannot hold: huge or infinite numbers, broken text."""
    value = node.value
    message = ""
    if isinstance(value, bool) or value is None:
        return
    if isinstance(value, int) and abs(value) > INTEGER_MAX:
        message = f"`{node.text[:40]}` is beyond {INTEGER_MAX}, the largest whole number that JSON holds exactly"
    elif isinstance(value, float) and not math.isfinite(value):
        message = f"`{node.text[:40]}` is not a finite number"
    elif isinstance(value, str) and any("\ud800" <= letter <= "\udfff" for letter in value):
        message = "the text holds half a surrogate pair"
    elif not isinstance(value, int | float | str):
        message = f"`{node.text[:40]}` is nothing that JSON can hold"
    if message:
        node.value = None
        source.fault_at(node.line, node.column, node.text, message, "write a number or text that JSON can hold")


class Builder:
    """Puts a tree together from a flat series of scalars, starts and ends, without recursion."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.root: Node | None = None
        self.stack: list[tuple[Node, list[Node]]] = []
        self.nodes = 0
        self.full = False

    def start(self, kind: str, line: int, column: int) -> Node:
        node = Node(kind, [], line, column)
        if len(self.stack) >= DEPTH_MAX:
            self._stop(node, f"nested deeper than {DEPTH_MAX}")
        self.stack.append((node, []))
        return node

    def end(self) -> Node:
        node, items = self.stack.pop()
        node.size = 1 + sum(item.size for item in items)
        node.value = items if node.kind == "list" else self._pairs(items)
        self.add(node)
        return node

    def add(self, node: Node) -> None:
        self.nodes += 1
        if self.nodes > NODES_MAX:
            self._stop(node, f"more than {NODES_MAX} values")
        if self.stack:
            self.stack[-1][1].append(node)
        else:
            self.root = node

    def _stop(self, node: Node, message: str) -> None:
        if not self.full:
            self.source.fault_at(node.line, node.column, node.text, message, "make the document smaller")
        self.full = True

    def _pairs(self, items: list[Node]) -> list[tuple[Node, Node]]:
        pairs: list[tuple[Node, Node]] = []
        seen: dict[str, Node] = {}
        for key, value in zip(items[::2], items[1::2], strict=False):
            if key.kind != "scalar" or not isinstance(key.value, str):
                self.source.fault_at(
                    key.line, key.column, key.text, f"the key `{key.text}` is not text", "put it in quotes"
                )
            elif key.value in seen:
                first = seen[key.value]
                where = f"the first one stands in line {first.line}"
                self.source.fault_at(
                    key.line, key.column, key.text, f"the key `{key.value}` stands twice", f"keep one of them; {where}"
                )
            else:
                seen[key.value] = key
                pairs.append((key, value))
        return pairs


def mapping_of(value: Any) -> dict[str, Any]:
    """The value where it is a mapping, else an empty one: that it is none is a fault that others say."""
    return value if isinstance(value, dict) else {}


def mappings_in(value: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    """The mappings of a list, each with its index."""
    for index, item in enumerate(value if isinstance(value, list) else ()):
        if isinstance(item, dict):
            yield index, item


def texts_in(value: Any) -> Iterator[tuple[int, str]]:
    """The texts of a list, each with its index."""
    for index, item in enumerate(value if isinstance(value, list) else ()):
        if isinstance(item, str):
            yield index, item
