"""From a record of the log to rows: pure, so that a test or an offline verb can do without Kafka and ClickHouse."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from sluicegate.schemas.codec import Codec
from sluicegate.schemas.errors import Undecodable
from sluicegate.streams.engine import Record
from sluicegate.streams.tables import (
    EVENT_COLUMNS,
    EVENTS,
    PLACE_COLUMNS,
    UNDECODABLE,
    Table,
    tables,
    text_of,
    unsealed_body,
)

ROW_BYTES_OVERHEAD: Final = 500
"""What a row counts beside its value, for the limit on a batch."""
EVENT_NAMES: Final = tuple(name for name, _, _ in EVENT_COLUMNS)
_JSON: Final = msgspec.json.Encoder()


class Rows(msgspec.Struct, frozen=True):
    """What one record becomes: its row in `events`, and the row of its class's table unless it is undecodable."""

    event: tuple[Any, ...]
    table: Table | None = None
    typed: tuple[Any, ...] = ()


def rows_of(record: Record, codec: Codec) -> Rows:
    """The rows of one record; never raises for what the record says: what cannot be decoded is a row too."""
    try:
        event = codec.decode(record.value)
    except Undecodable as error:
        return Rows(_event_row(record, UNDECODABLE, {"undecodable": str(error)}))
    name = type(event).__name__
    body = unsealed_body(msgspec.to_builtins(event, builtin_types=(bytes,)))
    table = tables()[name]
    place = (record.topic, record.partition, record.offset, record.timestamp_ms)
    return Rows(_event_row(record, name, body), table, (*place, *[column.read(body) for column in table.columns]))


def _event_row(record: Record, kind: str, body: dict[str, Any]) -> tuple[Any, ...]:
    return (
        record.topic,
        record.partition,
        record.offset,
        record.timestamp_ms,
        text_of(record.key),
        kind,
        body.get("job_id") or "",
        body.get("agent_id") or "",
        body.get("request_id") or "",
        _JSON.encode(body).decode(),
        hashlib.sha256(record.value).hexdigest(),
        len(record.value),
    )


class Batch:
    """Rows waiting to be written together: the typed ones by table, and those of `events`, which go last."""

    def __init__(self, ahead: Mapping[str, set[tuple[str, int, int]]]) -> None:
        """``ahead`` holds, by table, the places whose typed rows a crash has left written."""
        self._ahead = ahead
        self.events: list[tuple[Any, ...]] = []
        self.typed: dict[str, tuple[Table, list[tuple[Any, ...]]]] = {}
        self.size_bytes = 0
        self.undecodable = 0

    def add(self, record: Record, codec: Codec) -> None:
        """Add one record, once: a typed row that is already in its table is left out."""
        rows = rows_of(record, codec)
        self.events.append(rows.event)
        self.size_bytes += len(record.value) + ROW_BYTES_OVERHEAD
        if rows.table is None:
            self.undecodable += 1
            return
        if (record.topic, record.partition, record.offset) in self._ahead.get(rows.table.name, ()):
            return
        self.typed.setdefault(rows.table.name, (rows.table, []))[1].append(rows.typed)

    def writes(self) -> list[tuple[str, list[str], list[tuple[Any, ...]]]]:
        """(table, column names, columns) in the order they must be written: `events` last, or not at all."""
        found: list[tuple[str, list[str], list[tuple[Any, ...]]]] = []
        for name, (table, rows) in sorted(self.typed.items()):
            names = [column for column, _, _ in PLACE_COLUMNS] + [column.name for column in table.columns]
            found.append((name, names, list(zip(*rows, strict=True))))
        if self.events:
            found.append((EVENTS, list(EVENT_NAMES), list(zip(*self.events, strict=True))))
        return found
