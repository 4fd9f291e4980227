"""The Avro schemas are the contract; the classes are their image. Nothing may stand in one and not in the other."""

from __future__ import annotations

import json
import re
import types
import typing
from importlib import resources
from typing import Any

import msgspec
import pytest

from sluicegate.schemas.codec import schema_json
from sluicegate.schemas.events import EVENT_TYPES
from sluicegate.streams.topics import TOPICS

SIMPLE = {str: "string", int: "long", float: "double", bool: "boolean", bytes: "bytes"}
UNITS = ("ms", "sec", "min", "bytes", "usd", "count", "percent")
NAMES = sorted(EVENT_TYPES)


def image_of(kind: Any) -> Any:
    """What a Python type looks like in Avro, with records and enumerations spelt out and without prose."""
    if kind in SIMPLE:
        return SIMPLE[kind]
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        (inner,) = [part for part in parts if part is not type(None)]
        return ["null", image_of(inner)]
    if origin is typing.Literal:
        return {"enum": list(parts)}
    if origin is list:
        return {"array": image_of(parts[0])}
    if origin is dict:
        assert parts[0] is str
        return {"map": image_of(parts[1])}
    return record_image(kind)


def record_image(cls: type[msgspec.Struct]) -> dict[str, Any]:
    fields = [
        {"name": field.encode_name, "type": image_of(field.type), **default_of(field)}
        for field in msgspec.structs.fields(cls)
    ]
    return {"record": cls.__name__, "fields": fields}


def default_of(field: msgspec.structs.FieldInfo) -> dict[str, Any]:
    if field.default is not msgspec.NODEFAULT:
        return {"default": field.default}
    if field.default_factory is not msgspec.NODEFAULT:
        return {"default": field.default_factory()}
    return {}


def plain(schema: Any, known: dict[str, Any]) -> Any:
    """An Avro schema in the same form; a name stands for what was spelt out before."""
    if isinstance(schema, str):
        return known.get(schema.rsplit(".", 1)[-1], schema)
    if isinstance(schema, list):
        return [plain(part, known) for part in schema]
    kind = schema["type"]
    if kind == "array":
        return {"array": plain(schema["items"], known)}
    if kind == "map":
        return {"map": plain(schema["values"], known)}
    if kind == "enum":
        known[schema["name"]] = {"enum": schema["symbols"]}
        return known[schema["name"]]
    assert kind == "record", f"`{kind}` is no kind we use"
    fields = [
        {"name": field["name"], "type": plain(field["type"], known)}
        | ({"default": field["default"]} if "default" in field else {})
        for field in schema["fields"]
    ]
    known[schema["name"]] = {"record": schema["name"], "fields": fields}
    return known[schema["name"]]


def named_parts(schema: Any) -> list[dict[str, Any]]:
    """Every record and enumeration in a schema, itself first."""
    found: list[dict[str, Any]] = []
    if isinstance(schema, list):
        for part in schema:
            found += named_parts(part)
    elif isinstance(schema, dict):
        if schema["type"] in ("record", "enum"):
            found.append(schema)
        for inner in (
            schema.get("items"),
            schema.get("values"),
            *(field["type"] for field in schema.get("fields", ())),
        ):
            found += named_parts(inner)
    return found


def test_every_event_has_its_schema_and_every_schema_its_event() -> None:
    """No file without a class, no class without a file."""
    files = {path.name for path in resources.files("sluicegate.schemas").joinpath("avro").iterdir()}
    assert files == {f"{name}.avsc" for name in EVENT_TYPES}


@pytest.mark.parametrize("name", NAMES)
def test_class_and_schema_are_equal(name: str) -> None:
    """Names, order, types, nullability and defaults are the same in both, nested records too."""
    assert plain(schema_json(name), {}) == record_image(EVENT_TYPES[name])


@pytest.mark.parametrize("name", NAMES)
def test_every_part_of_a_schema_says_what_it_means(name: str) -> None:
    """A `doc` on every record, enumeration and field."""
    for part in named_parts(schema_json(name)):
        assert part.get("doc", "").strip(), part["name"]
        for field in part.get("fields", ()):
            assert field.get("doc", "").strip(), f"{part['name']}.{field['name']}"


@pytest.mark.parametrize("name", NAMES)
def test_a_nullable_field_comes_with_null_as_its_default(name: str) -> None:
    """So that a writer may leave it out and a later schema may add one."""
    for part in named_parts(schema_json(name)):
        for field in part.get("fields", ()):
            if isinstance(field["type"], list):
                assert field["type"][0] == "null"
                assert field["default"] is None, f"{part['name']}.{field['name']}"


@pytest.mark.parametrize("name", NAMES)
def test_units_stand_last_in_names(name: str) -> None:
    """`start_by_ms`, never `ms_start_by`; a time or a size that says no unit is none."""
    for part in named_parts(schema_json(name)):
        for field in part.get("fields", ()):
            words = field["name"].split("_")
            assert not set(words[:-1]) & set(UNITS), f"{part['name']}.{field['name']}"
            measured = re.search(r"since the epoch|in seconds|milliseconds|in bytes", field["doc"])
            if measured:
                assert words[-1] in UNITS, f"{part['name']}.{field['name']}: {field['doc']}"


def test_a_nested_record_is_the_same_wherever_it_stands() -> None:
    """One name, one shape: `Sealed` in an intent is `Sealed` in a dead letter, prose and all."""
    seen: dict[str, str] = {}
    for name in NAMES:
        for part in named_parts(schema_json(name)):
            text = json.dumps(part, sort_keys=True)
            if part["type"] == "enum" or not any("." in str(field["type"]) for field in part["fields"]):
                assert seen.setdefault(part["name"], text) == text, f"{part['name']} in {name}"


def test_the_topic_table_names_events_that_exist_and_all_of_them() -> None:
    """An event that stands on no topic, or a topic with an unknown event, is a mistake in one of the two."""
    assert {kind for topic in TOPICS for kind in topic.types} == set(EVENT_TYPES)
