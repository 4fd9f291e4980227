"""An agent's history and its finished jobs as people write them in files, one JSON object a line. Strict."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, Final

from pydantic import AfterValidator, AwareDatetime, Field, TypeAdapter, model_validator
from pydantic_core import PydanticCustomError

from sluicegate.policies.autonomy import AutonomyTerms, Change, Happened, Job, Score, Word
from sluicegate.policies.checks import validated
from sluicegate.policies.evaluate import FactValue
from sluicegate.policies.faults import PolicyFaults
from sluicegate.policies.fields import Strict
from sluicegate.policies.intents import IntentDocument, Named, facts_in
from sluicegate.policies.reading import read_lines

RFC_3339: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?([Zz]|[+-][0-9]{2}:[0-9]{2})"
)
LEVEL_MAX: Final = 3
_TIMES: Final = TypeAdapter(AwareDatetime)
_EPOCH: Final = _TIMES.validate_python("1970-01-01T00:00:00Z")
_FIX: Final = "write it as RFC 3339 has it, such as `2026-11-24T18:00:00Z`"


def micros_of(text: str) -> int:
    """A time of RFC 3339 in µs since the epoch; what is finer is dropped. Raises ValueError."""
    if not RFC_3339.fullmatch(text):
        raise ValueError("no time of RFC 3339")
    since = _TIMES.validate_python(text.upper()) - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def _check_time(text: str) -> str:
    try:
        micros_of(text)
    except (ValueError, OverflowError):
        raise PydanticCustomError("time", "`{text}` is no time", {"text": text[:40], "fix": _FIX}) from None
    return text


class EventLine(Strict):
    """One event of an agent. ``level`` stands with `level_set`, and with nothing else."""

    at: Annotated[str, AfterValidator(_check_time)]
    agent_id: Named
    event: Word
    level: Annotated[int, Field(ge=0, le=LEVEL_MAX)] | None = None
    job_id: Named | None = None

    @model_validator(mode="after")
    def _check_level(self) -> EventLine:
        if (self.event == "level_set") != (self.level is not None):
            said = "`level_set` needs a `level`" if self.level is None else f"`{self.event}` has no `level`"
            fix = "write the level, 0 to 3" if self.level is None else "remove it"
            raise PydanticCustomError("level", "{said}", {"said": said, "fix": fix})
        return self


class JobLine(IntentDocument):
    """A finished job: an intent's keys and the facts that are known of it."""

    facts: dict[str, Any] = Field(default={})


def read_events(file: str, text: str) -> list[EventLine]:
    """The events of a file's text. Raises PolicyFaults, also for a time before the one above it."""
    events: list[EventLine] = []
    faults = []
    latest = None
    for source in read_lines(file, text):
        event = validated(source, EventLine)
        if event is not None:
            at = micros_of(event.at)
            if latest is not None and at < latest:
                source.fault(("at",), f"`{event.at}` lies before the event above", "put the events in order of time")
            latest = at
            events.append(event)
        faults += source.faults
    if faults:
        raise PolicyFaults(faults)
    return events


def read_jobs(file: str, text: str) -> list[tuple[JobLine, dict[str, FactValue]]]:
    """The jobs of a file's text, each with its facts. Raises PolicyFaults."""
    jobs: list[tuple[JobLine, dict[str, FactValue]]] = []
    faults = []
    for source in read_lines(file, text):
        job = validated(source, JobLine)
        facts = facts_in(source, ("facts",))
        if job is not None:
            jobs.append((job, facts))
        faults += source.faults
    if faults:
        raise PolicyFaults(faults)
    return jobs


def scored(terms: AutonomyTerms, events: list[EventLine]) -> Iterator[tuple[EventLine, Change]]:
    """Every change of level that these events make, in order; all agents begin at level 0."""
    scores: dict[str, Score] = {}
    jobs: dict[tuple[str, str], Job] = {}
    for event in events:
        score = scores.setdefault(event.agent_id, Score())
        job = None if event.job_id is None else jobs.setdefault((event.agent_id, event.job_id), Job())
        happened = Happened(micros_of(event.at), event.event, event.level or 0)
        for change in terms.weigh(score, happened, job):
            yield event, change
