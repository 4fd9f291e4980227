"""The log as sentences."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from msgspec import inspect

from sluicegate.cli.sentences import sentence
from sluicegate.cli.visible import visible
from sluicegate.schemas.events import EVENT_TYPES, Decision, Event, Intent, Resolution, Result

ESCAPE = "\x1b[2Jwiped"
PLAIN: dict[type[inspect.Type], Any] = {
    inspect.IntType: 1_700_000_000_000,
    inspect.FloatType: 0.5,
    inspect.BoolType: True,
    inspect.BytesType: b"0123456789abcdef",
}
BIDI = "abc\u202egpj.exe\u200b"


def sample(kind: inspect.Type, text: str, *, whole: bool) -> Any:
    """A value of a type; ``whole`` fills what may be absent, else it is left absent."""
    if type(kind) in PLAIN:
        return PLAIN[type(kind)]
    match kind:
        case inspect.StrType():
            return text
        case inspect.LiteralType():
            return kind.values[0]
        case inspect.ListType():
            return [sample(kind.item_type, text, whole=whole)] if whole else []
        case inspect.DictType():
            return {}
        case inspect.UnionType():
            some = next(each for each in kind.types if not isinstance(each, inspect.NoneType))
            return sample(some, text, whole=whole) if whole else None
        case inspect.StructType():
            return sample_struct(kind.cls, text, whole=whole)
    raise AssertionError(kind)


def sample_struct(cls: type, text: str, *, whole: bool = True) -> Any:
    """An instance with every text field set to ``text``; fields of JSON text hold an object with it."""
    found = inspect.type_info(cls)
    assert isinstance(found, inspect.StructType)
    values = {field.name: sample(field.type, text, whole=whole) for field in found.fields}
    if "constraints" in values:
        values["constraints"] = msgspec.json.encode({text: [text], "max_runtime_sec": 60} if whole else {}).decode()
    return cls(**values)


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("name", EVENT_TYPES)
def test_every_event_class_is_one_plain_sentence(name: str, whole: bool) -> None:
    """Each event class has a sentence: one line, no full stop, nothing of Python in it, whatever is absent."""
    said = sentence(sample_struct(EVENT_TYPES[name], "thing", whole=whole))
    assert len(said) > 10
    assert said.isprintable()
    assert not said.endswith(".")
    for trace in ("None", "Sealed(", "b'", "{}", "  "):
        assert trace not in said


@pytest.mark.parametrize("name", EVENT_TYPES)
def test_no_text_of_others_steers_a_terminal(name: str) -> None:
    """Escape sequences, line ends, bidirectional and zero-width signs are spelt out in every sentence."""
    for hostile in (ESCAPE, BIDI, "two\nlines", "\x9b2J"):
        said = sentence(sample_struct(EVENT_TYPES[name], hostile))
        assert said.isprintable()
        assert "\u202e" not in said
        assert "\u200b" not in said


def test_every_outcome_has_its_own_words() -> None:
    """Denied, expired and withdrawn never read the same."""
    for name in EVENT_TYPES:
        cls = EVENT_TYPES[name]
        found = inspect.type_info(cls)
        assert isinstance(found, inspect.StructType)
        for field in found.fields:
            if isinstance(field.type, inspect.LiteralType):
                said = set()
                for word in field.type.values:
                    event = msgspec.structs.replace(sample_struct(cls, "thing"), **{field.name: word})
                    said.add(sentence(event))
                assert len(said) == len(field.type.values), (name, field.name)


def test_a_sentence_never_shows_sealed_bytes() -> None:
    """A payload's bytes stand in no sentence."""
    for cls in EVENT_TYPES.values():
        assert "0123456789abcdef" not in sentence(sample_struct(cls, "thing"))


def test_a_decision_names_rule_and_reason() -> None:
    """A decision says what was decided, of which job, why, and by which rule."""
    event: Event = sample_struct(Decision, "thing")
    assert isinstance(event, Decision)
    event.decision, event.job_id, event.reason = "REQUIRE_APPROVAL", "job-1", "a person decides"
    event.rules = [msgspec.structs.replace(event.rules[0], layer="change-control", id="hold")]
    said = sentence(event)
    for word in ("REQUIRE_APPROVAL", "job-1", "a person decides", "change-control/hold"):
        assert word in said


def test_a_result_says_whether_it_leaves() -> None:
    """A result that review kept back does not read as delivered."""
    event = sample_struct(Result, "thing")
    assert sentence(event).endswith("goes to the agent")
    assert sentence(msgspec.structs.replace(event, output=None)).endswith("is kept back")


def test_people_stand_in_a_resolution() -> None:
    """Whoever decided is named."""
    event = sample_struct(Resolution, "thing")
    event.verdicts = [msgspec.structs.replace(event.verdicts[0], approver_id="rosa")]
    assert "by rosa" in sentence(event)


def test_long_text_is_cut_with_a_sign_of_it() -> None:
    """A line stays a line: long texts end in three dots."""
    said = sentence(msgspec.structs.replace(sample_struct(Intent, "thing"), job_id="x" * 10_000))
    assert len(said) < 1_000
    assert "xxx..." in said


def test_visible_keeps_other_alphabets() -> None:
    """Text in any language is shown as it is."""
    assert visible("Füße, 日本語, привет, ❤") == "Füße, 日本語, привет, ❤"
