"""Taking things out of a parsed document, and writing it again. Pure; what is given is changed in place.

Entries of lists are emptied first and dropped at the end, so that every place stays that of the original document
while several passes work on it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from sluicegate.policies.places import Place
from sluicegate.schemas.errors import InvariantBroken

REDACTED: Final = "[REDACTED]"
REPLACED: Final = f"replaced with {REDACTED}"
REMOVED: Final = "field removed"
HELD: Final = "held"

Span = tuple[int, int]


class _Spelled(float):
    """A number that remembers how it was written: `10.00` leaves as `10.00`."""

    __slots__ = ("text",)
    text: str


def _spelled(text: str) -> _Spelled:
    number = _Spelled(text)
    number.text = text
    return number


_DECODER: Final = json.JSONDecoder(parse_float=_spelled)
_TEXT: Final = json.JSONEncoder(ensure_ascii=False).encode


class Working:
    """A document of its own in which to take things out. ``content`` has passed `parse_strict`."""

    def __init__(self, content: bytes) -> None:
        self._box: list[Any] = [_DECODER.decode(content.decode("utf-8"))]
        self._emptied: set[Place] = set()

    @property
    def document(self) -> Any:
        """The document as it is now; a list still has an empty entry where one was removed."""
        return self._box[0]

    def remove(self, place: Place) -> None:
        """Take a key with its value, or an entry, out; nothing where it is gone already."""
        parent, step = self._at(place)
        if isinstance(parent, dict):
            parent.pop(step, None)
        elif isinstance(parent, list) and isinstance(step, int) and step < len(parent):
            parent[step] = None
            if place:
                self._emptied.add(place)

    def replace(self, place: Place, spans: Sequence[Span] | None) -> None:
        """Put `[REDACTED]` in the place of these characters, or of the whole value when ``spans`` is None."""
        parent, step = self._at(place)
        if not isinstance(parent, dict | list):
            return
        value = parent[step]
        parent[step] = masked(value, spans) if spans is not None and isinstance(value, str) else REDACTED

    def written(self) -> bytes:
        """The document as JSON: no spaces, keys in their order, numbers as they were written."""
        parts: list[str] = []
        _write(_without(self._box[0], _tree(self._emptied)), parts)
        return "".join(parts).encode("utf-8")

    def _at(self, place: Place) -> tuple[Any, Any]:
        """What holds a place, and the last step to it."""
        parent: Any = self._box
        step: str | int = 0
        for following in place:
            parent = _child(parent, step)
            step = following
        return (parent, step) if _child(parent, step, _NOTHING) is not _NOTHING else (None, step)


_NOTHING: Final = object()


def _child(parent: Any, step: str | int, missing: Any = None) -> Any:
    if isinstance(parent, dict):
        return parent.get(step, missing)
    if isinstance(parent, list) and isinstance(step, int) and step < len(parent):
        return parent[step]
    return missing


def masked(text: str, spans: Iterable[Span]) -> str:
    """The text with `[REDACTED]` for each span; those that touch or overlap are one."""
    parts: list[str] = []
    at = 0
    for start, end in joined(spans):
        parts += (text[at:start], REDACTED)
        at = end
    return "".join([*parts, text[at:]])


def joined(spans: Iterable[Span]) -> list[Span]:
    """The spans in order, those that touch or overlap made one."""
    found: list[Span] = []
    for start, end in sorted(spans):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return found


def _tree(places: Iterable[Place]) -> dict[Any, Any]:
    """Places as nested mappings, by their steps; what is to be dropped holds the mark `_NOTHING`."""
    tree: dict[Any, Any] = {}
    for place in places:
        here = tree
        for step in place:
            here = here.setdefault(step, {})
        here[_NOTHING] = None
    return tree


def _without(value: Any, dropped: Mapping[Any, Any]) -> Any:
    """The value without the entries that ``dropped`` leads to."""
    if not dropped:
        return value
    if isinstance(value, list):
        gone = {step for step, rest in dropped.items() if rest and _NOTHING in rest}
        return [_without(item, dropped.get(index, {})) for index, item in enumerate(value) if index not in gone]
    if isinstance(value, dict):
        return {key: _without(item, dropped.get(key, {})) for key, item in value.items()}
    return value


def _write(value: Any, parts: list[str]) -> None:
    if isinstance(value, str):
        parts.append(_TEXT(value))
    elif isinstance(value, dict):
        for index, (key, item) in enumerate(value.items()):
            parts.append(("," if index else "{") + _TEXT(key) + ":")
            _write(item, parts)
        parts.append("}" if value else "{}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            parts.append("," if index else "[")
            _write(item, parts)
        parts.append("]" if value else "[]")
    elif isinstance(value, _Spelled):
        parts.append(value.text)
    elif value is None or isinstance(value, bool | int):
        parts.append(_TEXT(value))
    else:
        raise InvariantBroken(f"`{type(value).__name__}` stands in a parsed document; run `sluicegate verify`")
