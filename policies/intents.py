"""Intents and facts as people write them in files: for the offline verbs and for cases. Strict, like the documents."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from sluicegate.policies.checks import validated
from sluicegate.policies.evaluate import FactValue
from sluicegate.policies.faults import PolicyFaults
from sluicegate.policies.fields import FACT, PATTERN_WORDS, Confidence, Strict
from sluicegate.policies.reading import read_source
from sluicegate.policies.source import Source

CHARS_MAX: Final = 200
"""How long a job id, an agent's name or a topic may be, in characters; the gate refuses longer ones, too."""
TAGS_MAX: Final = 64
TAG_CHARS_MAX: Final = 100
"""How many tags an intent may add, and how long each may be, in characters."""

_FACT: Final = re.compile(FACT)


def _check_name(text: str) -> str:
    if not 0 < len(text) <= CHARS_MAX:
        said = "an empty text names nothing" if not text else f"the text has {len(text)} characters"
        raise PydanticCustomError("length", "{said}", {"said": said, "fix": f"write 1 to {CHARS_MAX} characters"})
    return text


def _check_tags(tags: list[str]) -> list[str]:
    if len(tags) > TAGS_MAX or not all(0 < len(tag) <= TAG_CHARS_MAX for tag in tags):
        fix = f"write at most {TAGS_MAX} tags of 1 to {TAG_CHARS_MAX} characters each"
        raise PydanticCustomError("tags", "{said}", {"said": "the gate refuses these tags", "fix": fix})
    return tags


Named = Annotated[str, AfterValidator(_check_name)]
IntentTags = Annotated[list[str], AfterValidator(_check_tags)]


class IntentDocument(Strict):
    """An intent before it is submitted. ``payload`` is the job's JSON, ``confidence`` the agent's own, 0 to 1."""

    job_id: Named
    agent_id: Named
    topic: Named
    risk_tags: IntentTags = Field(default=[])
    payload: dict[str, Any] = Field(default={})
    confidence: Confidence | None = None


def read_intent(file: str, text: str) -> IntentDocument:
    """The intent of a file's text, JSON where ``file`` ends in `.json`, else YAML. Raises PolicyFaults."""
    source = read_source(file, text)
    intent = validated(source, IntentDocument)
    if intent is None or source.faults:
        raise PolicyFaults(source.faults)
    return intent


def read_facts(file: str, text: str) -> dict[str, FactValue]:
    """The facts of a file's text: name to number, true, false, or null for a declared fact that is absent.

    Raises PolicyFaults.
    """
    source = read_source(file, text)
    facts = facts_in(source)
    if source.faults:
        raise PolicyFaults(source.faults)
    return facts


def facts_in(source: Source, path: tuple[str | int, ...] = ()) -> dict[str, FactValue]:
    """The facts that stand at ``path`` of a source, which must be a mapping; what is no fact is recorded as a fault."""
    node = source.root
    for step in path:
        found = node.child(step) if node is not None else None
        node = found[1] if found is not None else None
    facts: dict[str, FactValue] = {}
    for key, value in node.value if node is not None and node.kind == "map" else ():
        name = str(key.value)
        if not _FACT.fullmatch(name):
            message = f"`{name}` is no name of a fact"
            source.fault((*path, name), message, f"use {PATTERN_WORDS[FACT]}", at_key=True)
        elif not (value.value is None or isinstance(value.value, bool | int | float)):
            message = f"the fact `{name}` is neither a number nor true or false"
            source.fault((*path, name), message, "write a number, `true`, `false`, or `null` where it is absent")
        else:
            facts[name] = value.value
    return facts
