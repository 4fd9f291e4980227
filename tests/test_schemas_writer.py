"""Our writers against fastavro's: the same bytes for every event, and an error where a field does not fit."""

from __future__ import annotations

import io
from typing import Any

import fastavro
import msgspec
import pytest
from test_schemas_codec import events_of

from sluicegate.schemas.codec import parsed_schema, schema_json
from sluicegate.schemas.events import EVENT_TYPES, Cause, TimerFired
from sluicegate.schemas.writer import writer_of

NAMES = sorted(EVENT_TYPES)


@pytest.mark.parametrize("name", NAMES)
def test_the_bytes_are_those_of_fastavro(name: str) -> None:
    """Whoever reads with any Avro library reads what fastavro would have written."""
    write = writer_of(name, schema_json(name))
    for event in events_of(name, 200):
        out = io.BytesIO()
        fastavro.schemaless_writer(out, parsed_schema(name), msgspec.to_builtins(event, builtin_types=(bytes,)))
        assert write(event) == out.getvalue()


@pytest.mark.parametrize(
    "changes",
    [
        {"owner": 1},
        {"owner": None},
        {"owner": b"bytes"},
        {"owner": "\ud800"},
        {"fire_at_ms": 1.0},
        {"fire_at_ms": "1"},
        {"fire_at_ms": None},
        {"fire_at_ms": True},
        {"fire_at_ms": 1 << 63},
        {"fire_at_ms": -(1 << 63) - 1},
    ],
)
def test_a_field_that_does_not_fit_is_an_error(changes: dict[str, Any]) -> None:
    """A mistake in a step shows where it is made, whichever field and however it is wrong."""
    fields: dict[str, Any] = {"owner": "desk", "key": "k", "timer_id": "t", "fire_at_ms": 1, **changes}
    with pytest.raises(ValueError, match="TimerFired"):
        writer_of("TimerFired", schema_json("TimerFired"))(TimerFired(**fields))


@pytest.mark.parametrize(
    "changes",
    [
        {"decision": "PERHAPS"},
        {"risk_tags": None},
        {"risk_tags": ["a", 1]},
        {"cause": None},
        {"rules": [Cause(topic="t", partition=0, offset=0)]},
        {"facts": ""},
        {"retry_safe": "yes"},
    ],
)
def test_nested_parts_that_do_not_fit_are_an_error(changes: dict[str, Any]) -> None:
    """An unknown symbol, a missing list, a record of another kind: none of them becomes bytes."""
    decision = msgspec.structs.replace(events_of("Decision", 1)[0], **changes)
    with pytest.raises(ValueError, match="Decision"):
        writer_of("Decision", schema_json("Decision"))(decision)
