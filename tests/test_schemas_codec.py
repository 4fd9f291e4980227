"""Events to bytes and back: what is written is read, and nothing else is."""

from __future__ import annotations

import contextlib
import random
import struct
import types
import typing
from typing import Any

import msgspec
import pytest

from sluicegate.schemas.codec import MAGIC, Codec
from sluicegate.schemas.errors import Undecodable
from sluicegate.schemas.events import EVENT_TYPES, Event, TimerFired
from sluicegate.schemas.ids import derived_id
from sluicegate.streams.registry import FileRegistry, registry_for

NAMES = sorted(EVENT_TYPES)
CODEC = Codec(registry_for(""))
TEXTS = ("", "a", "deploy", "job.deploy.prod", "{}", "Größe", "日本", "\u202e", "\x00", "x" * 300)
PINNED_INTENT = 1654804637
PINNED_TIMER = 1617197302
PINNED_GRANT_ID = "grant-b7bed21fba8a7a9c27b7ff08b122abe3"
NUMBERS = (0, 1, -1, 63, 64, 2**31, -(2**31), 2**63 - 1, -(2**63))


def some(kind: Any, rng: random.Random) -> Any:
    """A value of a Python type, with the awkward ones among them."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        inner = [part for part in parts if part is not type(None)]
        return None if rng.random() < 0.3 else some(inner[0], rng)
    if origin is typing.Literal:
        return rng.choice(parts)
    if origin is list:
        return [some(parts[0], rng) for _ in range(rng.randint(0, 3))]
    if origin is dict:
        return {some(str, rng): some(parts[1], rng) for _ in range(rng.randint(0, 3))}
    simple: dict[Any, Any] = {
        str: lambda: rng.choice(TEXTS),
        int: lambda: rng.choice(NUMBERS),
        float: lambda: rng.choice((0.0, -0.0, 0.5, 1e300, float("inf"))),
        bool: lambda: rng.random() < 0.5,
        bytes: lambda: rng.randbytes(rng.choice((0, 1, 64, 300))),
    }
    return simple[kind]() if kind in simple else some_struct(kind, rng)


def some_struct(cls: type[msgspec.Struct], rng: random.Random) -> Any:
    return cls(**{field.name: some(field.type, rng) for field in msgspec.structs.fields(cls)})


def events_of(name: str, count: int = 30) -> list[Event]:
    rng = random.Random(name)
    return [some_struct(EVENT_TYPES[name], rng) for _ in range(count)]


@pytest.mark.parametrize("name", NAMES)
def test_what_is_encoded_is_decoded(name: str) -> None:
    """Every field of every event type survives, the empty, the huge and the absent ones too."""
    for event in events_of(name):
        assert CODEC.decode(CODEC.encode(event)) == event


@pytest.mark.parametrize("name", NAMES)
def test_the_same_event_gives_the_same_bytes(name: str) -> None:
    """A replay writes what was written before, byte for byte, in another process as well."""
    fresh = Codec(FileRegistry())
    for event in events_of(name):
        assert fresh.encode(event) == CODEC.encode(event)


@pytest.mark.parametrize("name", NAMES)
def test_a_byte_left_over_is_refused(name: str) -> None:
    """Trailing bytes could smuggle a second reading past whoever checked the first."""
    for event in events_of(name, 5):
        with pytest.raises(Undecodable, match="left over"):
            CODEC.decode(CODEC.encode(event) + b"\x00")


@pytest.mark.parametrize("name", NAMES)
def test_hostile_bytes_raise_undecodable_and_nothing_else(name: str) -> None:
    """Cut, flipped and invented bodies either are an event or are refused by one error."""
    rng = random.Random(name)
    for event in events_of(name, 10):
        good = CODEC.encode(event)
        cases = [good[: rng.randrange(len(good))] for _ in range(10)]
        for _ in range(20):
            bad = bytearray(good)
            bad[rng.randrange(5, max(len(bad), 6)) % len(bad)] = rng.randrange(256)
            cases.append(bytes(bad))
        cases += [good[:5] + rng.randbytes(rng.randrange(60)) for _ in range(20)]
        for case in cases:
            with contextlib.suppress(Undecodable):
                CODEC.decode(case)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\x00",
        b"\x00\x00\x00\x00",
        b"hello, world",
        b'{"job_id": "j"}',
        struct.pack(">bI", MAGIC, 1) + b"x",
        b"\x01" + bytes(20),
        bytes(5),
    ],
    ids=["empty", "one byte", "short", "text", "JSON", "unknown id", "another magic", "id zero"],
)
def test_what_is_no_wire_format_of_ours_is_refused(value: bytes) -> None:
    """Without the zero byte and a schema id of ours there is no event."""
    with pytest.raises(Undecodable):
        CODEC.decode(value)


def test_a_length_that_promises_more_than_there_is_costs_nothing() -> None:
    """A string of 2^60 bytes in a body of a few is refused before memory is taken for it."""
    prefix = CODEC.encode(events_of("Intent", 1)[0])[:5]
    huge = b"\xfe\xff\xff\xff\xff\xff\xff\xff\x3f"  # the length 2^60 - 1 or so, as a zigzag varint
    with pytest.raises(Undecodable):
        CODEC.decode(prefix + huge + b"abc")


def test_a_field_of_the_wrong_kind_is_not_encoded() -> None:
    """A mistake in a step shows where it is made, not at the reader."""
    with pytest.raises((ValueError, TypeError)):
        CODEC.encode(TimerFired(owner="desk", key="k", timer_id="t", fire_at_ms="soon"))  # type: ignore[arg-type]


def test_ids_follow_from_the_schemas_content() -> None:
    """An id on the wire means the same for ever: a changed schema gets another, an unchanged one keeps its own."""
    registry = FileRegistry()
    pinned = {"Intent": PINNED_INTENT, "TimerFired": PINNED_TIMER}
    assert {name: registry.id_of(name) for name in pinned} == pinned
    assert len({registry.id_of(name) for name in NAMES}) == len(NAMES)


def test_a_derived_id_tells_its_parts_apart() -> None:
    """The same cause gives the same id; parts that only join to the same text do not."""
    assert derived_id("grant", "job", 1) == derived_id("grant", "job", 1)
    assert derived_id("grant", "job", 1) == PINNED_GRANT_ID
    others = {derived_id("grant", "jo", "b1"), derived_id("grant", "job1"), derived_id("request", "job", 1)}
    assert derived_id("grant", "job", 1) not in others
    assert len(others) == 3
