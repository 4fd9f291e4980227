"""Events to bytes and back: Avro behind the Confluent wire format (a zero byte, the schema's id, the body)."""

from __future__ import annotations

import io
import json
import struct
from functools import cache
from importlib import resources
from typing import Any, Final, Protocol, cast

import fastavro
import msgspec

from sluicegate.schemas.errors import Undecodable
from sluicegate.schemas.events import EVENT_TYPES, Event

MAGIC: Final = 0
_PREFIX: Final = struct.Struct(">bI")


class Registry(Protocol):
    """Gives each schema its id, and each id its schema."""

    def id_of(self, name: str) -> int:
        """The id under which we write events of this name."""
        ...

    def schema_of(self, schema_id: int) -> dict[str, Any]:
        """The writer's schema of an id; raises Undecodable when nobody knows it."""
        ...


@cache
def schema_json(name: str) -> dict[str, Any]:
    """The Avro schema of an event as it stands in `avro/`; raises KeyError for an unknown name."""
    if name not in EVENT_TYPES:
        raise KeyError(name)
    text = resources.files("sluicegate.schemas").joinpath("avro", f"{name}.avsc").read_text("utf-8")
    return cast(dict[str, Any], json.loads(text))


@cache
def parsed_schema(name: str) -> dict[str, Any]:
    """The same, parsed by fastavro."""
    return cast(dict[str, Any], fastavro.parse_schema(schema_json(name)))


class Codec:
    """Encodes and decodes events by one registry. Keeps parsed schemas; safe to share between threads for reading."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._writers: dict[type[Event], tuple[bytes, dict[str, Any]]] = {}
        self._readers: dict[int, tuple[type[Event], dict[str, Any], dict[str, Any] | None]] = {}

    def encode(self, event: Event) -> bytes:
        """The wire bytes of an event. Raises ValueError when a field does not fit its schema."""
        cls = type(event)
        known = self._writers.get(cls)
        if known is None:
            name = cls.__name__
            known = (_PREFIX.pack(MAGIC, self._registry.id_of(name)), parsed_schema(name))
            self._writers[cls] = known
        prefix, schema = known
        out = io.BytesIO()
        out.write(prefix)
        fastavro.schemaless_writer(out, schema, msgspec.to_builtins(event, builtin_types=(bytes,)))
        return out.getvalue()

    def decode(self, value: bytes) -> Event:
        """The event in wire bytes. Raises Undecodable, saying why, for anything else."""
        if len(value) < _PREFIX.size or value[0] != MAGIC:
            raise Undecodable("no Confluent wire format: write Avro behind a zero byte and a schema id")
        schema_id = _PREFIX.unpack_from(value)[1]
        known = self._readers.get(schema_id)
        if known is None:
            known = self._reader(schema_id)
        cls, writer, reader = known
        source = io.BytesIO(value)
        source.seek(_PREFIX.size)
        try:
            body = fastavro.schemaless_reader(source, writer, reader)
            event = msgspec.convert(body, cls)
        except Exception as error:  # noqa: BLE001  # fastavro raises many kinds on hostile bytes; all mean the same here
            raise Undecodable(
                f"the body does not fit schema `{cls.__name__}` ({type(error).__name__}: {error})"
            ) from None
        if source.tell() != len(value):
            raise Undecodable(f"`{len(value) - source.tell()}` bytes left over after `{cls.__name__}`")
        return event

    def decode_or_none(self, value: bytes) -> Event | None:
        """As `decode`, for readers that go on without what is no event."""
        try:
            return self.decode(value)
        except Undecodable:
            return None

    def _reader(self, schema_id: int) -> tuple[type[Event], dict[str, Any], dict[str, Any] | None]:
        schema = self._registry.schema_of(schema_id)
        name = str(schema.get("name", "")).rsplit(".", 1)[-1]
        if name not in EVENT_TYPES:
            raise Undecodable(f"schema id `{schema_id}` is `{name}`, which is no event of ours")
        # Resolving a schema against itself changes nothing and costs as much as reading.
        reader = None if schema == schema_json(name) else parsed_schema(name)
        known = (EVENT_TYPES[name], cast(dict[str, Any], fastavro.parse_schema(schema)), reader)
        self._readers[schema_id] = known
        return known
