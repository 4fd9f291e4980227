"""The embedded ClickHouse of the tests: one store for the run (a process opens one path), a database for each test."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec
import pytest

from sluicegate.infra.clickhouse import ddl
from sluicegate.processors.projection import Batch
from sluicegate.schemas.codec import Codec, schema_json
from sluicegate.schemas.events import EVENT_TYPES, Event
from sluicegate.streams.clickhouse import ReadingRoom
from sluicegate.streams.engine import Record
from sluicegate.streams.registry import FileRegistry

CODEC: Final = Codec(FileRegistry())
SECRET: Final = b"0123456789abcdef" + b'{"iban": "DE02-TOP-SECRET"}'
"""What sealed bytes of a sample hold: a salt, and a payload that must be found nowhere."""
_NUMBERS: Final = itertools.count(1)


@pytest.fixture(scope="session")
def chdb_dsn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The run's one embedded store, kept open so that no test waits for its start."""
    dsn = f"chdb://{tmp_path_factory.mktemp('reading-room')}"
    keeper = ReadingRoom(dsn, "default")
    yield dsn
    keeper.close()


@pytest.fixture
def room(chdb_dsn: str) -> Iterator[ReadingRoom]:
    """An empty database with all tables and views."""
    database = f"sluicegate_t{next(_NUMBERS)}"
    found = ReadingRoom(chdb_dsn, database)
    found.prepare(ddl(database))
    yield found
    found.close()


def sample(name: str, **given: Any) -> Event:
    """An event of a class with every field filled, as its schema asks, and the given fields as told."""
    named: dict[str, Any] = {}
    body = _sample_of(schema_json(name), name, named)
    return msgspec.convert({**body, **msgspec.to_builtins(given, builtin_types=(bytes,))}, EVENT_TYPES[name])


def _sample_of(kind: Any, name: str, named: dict[str, Any]) -> Any:
    if isinstance(kind, list):
        return _sample_of(next(branch for branch in kind if branch != "null"), name, named)
    if isinstance(kind, str):
        plain = {"string": f"some {name}", "long": 7, "double": 0.5, "boolean": True, "bytes": SECRET}
        return plain[kind] if kind in plain else _sample_of(named[kind.rsplit(".", 1)[-1]], name, named)
    named[kind.get("name", "")] = kind
    if kind["type"] == "record":
        return {field["name"]: _sample_of(field["type"], field["name"], named) for field in kind["fields"]}
    if kind["type"] == "enum":
        return kind["symbols"][0]
    if kind["type"] == "array":
        return [_sample_of(kind["items"], name, named)]
    return {"name": b"value"}


def record(topic: str, offset: int, event: Event | bytes, *, key: str = "agent-1", partition: int = 0) -> Record:
    """A record of the log, appended at second ``offset`` of the year 2026."""
    value = event if isinstance(event, bytes) else CODEC.encode(event)
    return Record(topic, partition, offset, key.encode(), value, (), 1_767_225_600_000 + offset * 1000)


def project(room: ReadingRoom, records: Iterable[Record], *, until: int | None = None) -> None:
    """Do with records what the projector does, from resuming to writing; ``until`` breaks off after so many writes."""
    resume = room.resume()
    batch = Batch(resume.ahead)
    for one in records:
        if one.offset >= resume.next_offsets.get((one.topic, one.partition), 0):
            batch.add(one, CODEC)
    for table, names, columns in batch.writes()[:until]:
        room.insert(table, names, columns)


def rows(room: ReadingRoom, sql: str) -> list[list[Any]]:
    """The rows of a SELECT."""
    return room.read(sql).rows
