"""The columns of the reading room: `events`, and one typed table per event class, made from the Avro schemas.

A record's place in the log (topic, partition, offset) is the identity of every row. What is sealed never gets
here: an envelope leaves its algorithm, its key id and its size, the same in the columns as in the JSON body.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from sluicegate.schemas.codec import schema_json
from sluicegate.schemas.events import EVENT_TYPES

EVENTS: Final = "events"
LOG_ENDS: Final = "log_ends"
LOG_IDENTITY: Final = "log_identity"
UNDECODABLE: Final = "undecodable"
"""The type of a record that is no event of ours; its place, key and hash are kept all the same."""

SEALED: Final = "Sealed"
_PRIMITIVES: Final = {
    "string": "String",
    "bytes": "String",
    "long": "Int64",
    "int": "Int64",
    "double": "Float64",
    "float": "Float64",
    "boolean": "Bool",
}


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its name, its ClickHouse type, what it means, and how its value is read from an event's body."""

    name: str
    type: str
    doc: str
    read: Callable[[dict[str, Any]], Any]


@dataclass(frozen=True, slots=True)
class Table:
    """The typed table of one event class."""

    name: str
    event: str
    columns: tuple[Column, ...]


EVENT_COLUMNS: Final[tuple[tuple[str, str, str], ...]] = (
    ("topic", "LowCardinality(String)", "logical name of the topic"),
    ("partition", "Int32", "partition of the topic"),
    ("offset", "Int64", "offset in the partition"),
    ("timestamp", "DateTime64(3, 'UTC')", "append time, by the broker's clock"),
    ("key", "String", "the record's key as text"),
    ("type", "LowCardinality(String)", "event class, or `undecodable`"),
    ("job_id", "String", "the job it is about, empty if none"),
    ("agent_id", "String", "the agent it is about, empty if none"),
    ("request_id", "String", "the approval request it is about, empty if none"),
    ("body", "String", "the event as JSON; of sealed bytes only algorithm, key id and size"),
    ("hash", "String", "SHA-256 in hex over the record's exact value bytes"),
    ("size_bytes", "Int64", "length of the value"),
)
"""The columns of `events`: name, type, meaning."""

PLACE_COLUMNS: Final[tuple[tuple[str, str, str], ...]] = (
    ("log_topic", "LowCardinality(String)", "logical name of the topic the record stands on"),
    ("log_partition", "Int32", "its partition"),
    ("log_offset", "Int64", "its offset"),
    ("log_timestamp", "DateTime64(3, 'UTC')", "its append time, by the broker's clock"),
)
"""What every typed table begins with."""


def table_name(event: str) -> str:
    """The typed table of an event class: `ApprovalRequest` is `approval_requests`, `Granted` stays `granted`."""
    snake = re.sub(r"(?<!^)(?=[A-Z])", "_", event).lower()
    return snake if re.search(r"(ed|eld|wn)$", snake) else f"{snake}s"


def text_of(value: bytes) -> str:
    """Bytes as text; what is not UTF-8 is shown as escapes, so that two different keys never look the same."""
    return value.decode("utf-8", "backslashreplace")


def unsealed_body(value: Any) -> Any:
    """A body fit for storing: each envelope reduced to algorithm, key id and size, other bytes as text."""
    if isinstance(value, dict):
        if "nonce" in value and "bytes" in value and "key_id" in value and "algorithm" in value:
            return {"algorithm": value["algorithm"], "key_id": value["key_id"], "size_bytes": len(value["bytes"])}
        return {key: unsealed_body(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [unsealed_body(inner) for inner in value]
    return text_of(value) if isinstance(value, bytes) else value


@cache
def tables() -> dict[str, Table]:
    """Every typed table, by event class."""
    return {event: _table(event) for event in EVENT_TYPES}


def _table(event: str) -> Table:
    named: dict[str, Any] = {}
    schema = schema_json(event)
    columns: list[Column] = []
    for field in schema["fields"]:
        columns.extend(_columns(field["name"], field["type"], field.get("doc", ""), _getter(field["name"]), named))
    return Table(table_name(event), event, tuple(columns))


Read = Callable[[dict[str, Any]], Any]


def _getter(name: str) -> Read:
    return lambda body: body[name]


def _inner(outer: Read, name: str) -> Read:
    def read(body: dict[str, Any]) -> Any:
        holder = outer(body)
        return None if holder is None else holder[name]

    return read


def _each(outer: Read, name: str) -> Read:
    return lambda body: [item[name] for item in outer(body) or ()]  # a record that may be null has none


def _resolved(kind: Any, named: dict[str, Any]) -> tuple[Any, bool]:
    """A field's type with references followed, and whether it may be null."""
    nullable = False
    if isinstance(kind, list):
        nullable = "null" in kind
        (kind,) = [branch for branch in kind if branch != "null"]
    if isinstance(kind, dict) and "name" in kind:
        named[kind["name"]] = kind
    if isinstance(kind, str) and kind not in _PRIMITIVES:
        kind = named[kind.rsplit(".", 1)[-1]]
    return kind, nullable


def _columns(name: str, kind: Any, doc: str, read: Read, named: dict[str, Any], optional: bool = False) -> list[Column]:
    """The columns of one field: records are spread as ``name_field``, arrays of records as Nested ``name.field``."""
    kind, nullable = _resolved(kind, named)
    nullable = nullable or optional
    if isinstance(kind, dict) and kind["type"] == "record":
        if kind["name"] == SEALED:
            return _sealed_columns(name, read, nullable)
        return [
            column
            for field in kind["fields"]
            for column in _columns(
                f"{name}_{field['name']}", field["type"], field["doc"], _inner(read, field["name"]), named, nullable
            )
        ]
    if isinstance(kind, dict) and kind["type"] == "array":
        return _array_columns(name, kind["items"], doc, read, named)
    if isinstance(kind, dict) and kind["type"] == "map":
        return [Column(name, "Map(String, String)", doc, read)]
    plain = "String" if isinstance(kind, dict) else _PRIMITIVES[kind]
    if isinstance(kind, dict):
        return [Column(name, f"LowCardinality({'Nullable(String)' if nullable else 'String'})", doc, read)]
    return [Column(name, f"Nullable({plain})" if nullable else plain, doc, read)]


def _array_columns(name: str, items: Any, doc: str, read: Read, named: dict[str, Any]) -> list[Column]:
    items, _ = _resolved(items, named)
    if not isinstance(items, dict) or items["type"] != "record":
        plain = "String" if isinstance(items, dict) else _PRIMITIVES[items]
        return [Column(name, f"Array({plain})", doc, read)]
    found: list[Column] = []
    for field in items["fields"]:
        kind, nullable = _resolved(field["type"], named)
        if isinstance(kind, dict) and kind["type"] != "enum":
            raise TypeError(f"field `{name}.{field['name']}` nests deeper than a table can; flatten the schema")
        plain = "String" if isinstance(kind, dict) else _PRIMITIVES[kind]
        inner = f"Array(Nullable({plain}))" if nullable else f"Array({plain})"
        found.append(Column(f"{name}.{field['name']}", inner, field["doc"], _each(read, field["name"])))
    return found


def _sealed_columns(name: str, read: Read, nullable: bool) -> list[Column]:
    text, size = ("Nullable(String)", "Nullable(Int64)") if nullable else ("String", "Int64")
    return [
        Column(f"{name}_algorithm", text, "how it is sealed", _inner(read, "algorithm")),
        Column(f"{name}_key_id", text, "erasure unit of its key", _inner(read, "key_id")),
        Column(f"{name}_sealed_bytes", size, "length of the sealed bytes", _inner(read, "size_bytes")),
    ]
