"""Writes events as Avro bodies, byte for byte as fastavro does, from writers that are composed once per schema.

Encoding is the largest part of a step's work: an intent that is allowed leaves three events. fastavro looks at the
schema and validates every union anew for each record; here each schema becomes a tree of small functions over the
struct's attributes, without a dictionary in between. Reading stays with fastavro: hostile bytes are its work.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import lru_cache
from operator import attrgetter, call
from typing import Any, Final, cast

import msgspec

from sluicegate.schemas import records
from sluicegate.schemas.events import EVENT_TYPES, Event

Write = Callable[[Any], bytes]

_CONTINUES: Final = 0x80
_BITS: Final = 0x7F
_TABLE_SIZE: Final = 8_192
_NULL: Final = b"\x00"
_PRESENT: Final = b"\x02"
_CLASSES: Final[dict[str, type[msgspec.Struct]]] = {
    **{
        name: found
        for name, found in vars(records).items()
        if isinstance(found, type) and issubclass(found, msgspec.Struct)
    },
    **EVENT_TYPES,
}


def _zigzag(value: int) -> bytes:
    """A long: zigzag, then seven bits a byte, the lowest first."""
    if not -(1 << 63) <= value < 1 << 63:
        raise OverflowError(f"`{value}` does not fit into 64 bits")
    rest = (value << 1) ^ (value >> 63)
    found = bytearray()
    while rest > _BITS:
        found.append((rest & _BITS) | _CONTINUES)
        rest >>= 7
    found.append(rest)
    return bytes(found)


_LONGS: Final = tuple(_zigzag(number) for number in range(_TABLE_SIZE))
_large: Final = lru_cache(maxsize=_TABLE_SIZE)(_zigzag)
"""Times repeat within a batch; the cache is asked only for what is an int."""


def _long(value: Any) -> bytes:
    if value.__class__ is not int:
        raise TypeError(f"`{value!r}` is no int")
    return _LONGS[value] if 0 <= value < _TABLE_SIZE else _large(value)


def _text(value: Any) -> bytes:
    found: bytes = value.encode()
    size = len(found)
    return (_LONGS[size] if size < _TABLE_SIZE else _zigzag(size)) + found


def _bytes(value: Any) -> bytes:
    size = len(value)
    return (_LONGS[size] if size < _TABLE_SIZE else _zigzag(size)) + cast(bytes, value)


_SIMPLE: Final[dict[str, Write]] = {
    "string": _text,
    "bytes": _bytes,
    "long": _long,
    "double": struct.Struct("<d").pack,
    "boolean": {False: b"\x00", True: b"\x01"}.__getitem__,
}


def writer_of(name: str, schema: dict[str, Any]) -> Callable[[Event], bytes]:
    """The function that writes events of this name. It raises ValueError when a field does not fit its schema."""
    write = _writer(schema, {})

    def checked(event: Event) -> bytes:
        try:
            return write(event)
        except (AttributeError, LookupError, OverflowError, TypeError, ValueError, struct.error) as error:
            raise ValueError(f"`{name}` does not fit its schema ({type(error).__name__}: {error})") from error

    return checked


def _writer(schema: Any, known: dict[str, Write]) -> Write:
    if isinstance(schema, str):
        return _SIMPLE[schema] if schema in _SIMPLE else known[schema.rsplit(".", 1)[-1]]
    if isinstance(schema, list):
        null, inner = schema
        if null != "null":
            raise TypeError(f"a union must be of null and one type, not {schema}")
        return _optional(_writer(inner, known))
    kind = schema["type"]
    if kind == "array":
        return _array(_writer(schema["items"], known))
    if kind == "map":
        return _map(_writer(schema["values"], known))
    name = schema["name"].rsplit(".", 1)[-1]
    if kind == "enum":
        known[name] = {symbol: _zigzag(at) for at, symbol in enumerate(schema["symbols"])}.__getitem__
    else:
        known[name] = _record(schema, _CLASSES[name], known)
    return known[name]


def _optional(write: Write) -> Write:
    return lambda value: _NULL if value is None else _PRESENT + write(value)


def _array(write: Write) -> Write:
    def array(values: Any) -> bytes:
        if not values:
            if values.__class__ is not list:
                raise TypeError(f"`{values!r}` is no list")
            return _NULL
        return b"".join([_long(len(values)), *map(write, values), _NULL])

    return array


def _map(write: Write) -> Write:
    def mapping(values: Any) -> bytes:
        if not values:
            if values.__class__ is not dict:
                raise TypeError(f"`{values!r}` is no dict")
            return _NULL
        return b"".join([_long(len(values)), *[_text(name) + write(value) for name, value in values.items()], _NULL])

    return mapping


def _record(schema: dict[str, Any], cls: type[msgspec.Struct], known: dict[str, Write]) -> Write:
    attribute = {field.encode_name: field.name for field in msgspec.structs.fields(cls)}
    names = [attribute[field["name"]] for field in schema["fields"]]
    writes = tuple(_writer(field["type"], known) for field in schema["fields"])
    if len(names) < 2:
        return lambda value: b"".join([write(getattr(value, name)) for name, write in zip(names, writes, strict=True)])
    values = attrgetter(*names)
    return lambda value: b"".join(map(call, writes, values(value)))
