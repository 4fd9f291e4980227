"""What a crash may have done to levels: every finished job and every finding counts once in its agent's score.

The history of each agent is read from the log in the order of the gate's journal and counted once more by
`policies.autonomy`, outside of any step. It must give the changes of level that the log has, with what was counted at
each of them, the level of each decision, and the score that the gate has left in its state.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import msgspec
from crash_findings import Expect
from crash_load import AUTONOMY, first_levels
from crash_review import Entry, Place

from sluicegate.policies.autonomy import AutonomyTerms, Change, Happened, Job, Score, Word, counts
from sluicegate.policies.documents import AutonomyDocument
from sluicegate.processors.trust import ENTRY, Trust
from sluicegate.schemas.codec import Codec
from sluicegate.schemas.errors import Undecodable
from sluicegate.schemas.events import (
    AttemptEnded,
    Closed,
    Decision,
    Finding,
    LevelChanged,
    Noted,
    Quarantined,
    Resolution,
    Result,
)
from sluicegate.schemas.records import Cause
from sluicegate.streams.engine import Record
from sluicegate.streams.registry import registry_for

BEYOND: Final = ("overran", "exceeded")
"""Ends of an attempt that break a constraint."""


def _place(cause: Cause) -> Place:
    return cause.topic, cause.partition, cause.offset


class _Book:
    """Each agent's journal, and what its events were caused by."""

    def __init__(self, records: Iterable[Record]) -> None:
        codec = Codec(registry_for(""))
        self.journal: dict[str, list[Decision | Closed | Noted]] = defaultdict(list)
        self.inputs: dict[Place, Any] = {}
        self.findings: dict[Place, Finding] = {}
        self.changes: dict[str, list[LevelChanged]] = defaultdict(list)
        for record in sorted(records, key=lambda each: (each.topic, each.partition, each.offset)):
            try:
                event: Any = codec.decode(record.value)
            except Undecodable:
                continue
            if record.topic == "job.decisions" and isinstance(event, (Decision, Closed, Noted)):
                self.journal[record.key.decode()].append(event)
            elif isinstance(event, (Result, AttemptEnded, Quarantined, Resolution)):
                self.inputs[record.topic, record.partition, record.offset] = event
            elif isinstance(event, Finding):
                self.findings[_place(event.cause)] = event
            elif isinstance(event, LevelChanged):
                self.changes[event.agent_id].append(event)


class _Replay:
    """One agent's history, counted once more."""

    def __init__(self, book: _Book, agent: str, terms: AutonomyTerms) -> None:
        self._book, self._terms = book, terms
        self._said = book.changes[agent]
        self._jobs: dict[str, Job] = defaultdict(Job)
        self._violated: set[str] = set()
        self._moves: dict[str, int] = {}
        """How often the level had moved when a job ended: found right at another level it is no evidence."""
        self._open: str | None = None
        """The request in which a promotion is asked for now."""
        self.score = Score(level=first_levels()[agent])
        self.changes: list[Change] = []
        self.found = 0
        self.other_levels: list[tuple[str, int | None, int]] = []
        for event in book.journal[agent]:
            if isinstance(event, Decision) and event.level != self.score.level:
                self.other_levels.append((event.job_id, event.level, self.score.level))
            for word, job_id in self._words(event):
                self._happened(event.at_ms, word, job_id)
            if isinstance(event, Closed):
                self._moves[event.job_id] = self.score.moves

    def _happened(self, at_ms: int, word: Word, job_id: str | None) -> None:
        job = None if job_id is None else self._jobs[job_id]
        for change in self._terms.weigh(self.score, Happened(at_ms * 1_000, word), job):
            self.changes.append(change)
            number = len(self.changes)
            asked = change.change == "requested" and number <= len(self._said)
            self._open = self._said[number - 1].request_id if asked else None

    def _words(self, event: Decision | Closed | Noted) -> Iterator[tuple[Word, str | None]]:
        """What an event of the journal says of the agent: by what caused it, not by what the gate made of that."""
        cause = self._book.inputs.get(_place(event.cause))
        if isinstance(event, Closed) and isinstance(cause, Result):
            yield from self._result(cause)
        elif isinstance(event, Closed) and isinstance(cause, AttemptEnded) and cause.outcome in BEYOND:
            yield "policy_violation", event.job_id
        elif isinstance(event, Noted) and isinstance(cause, Quarantined) and event.kind == "breach":
            self._violated.add(cause.job_id)
            yield "policy_violation", cause.job_id
        elif isinstance(event, Noted) and event.kind == "finding" and isinstance(cause, Resolution):
            if _place(event.cause) in self._book.findings:
                self.found += 1
                words: dict[str | None, Word] = {"correct": "found_correct", "wrong": "found_wrong"}
                if cause.choice != "correct" or self._moves.get(cause.job_id) == self.score.moves:
                    yield words.get(cause.choice, "found_harmful"), cause.job_id
        elif isinstance(event, Noted) and isinstance(cause, Resolution) and cause.kind == "level":
            is_open = cause.request_id == self._open
            self._open = None if is_open else self._open
            if is_open and cause.outcome != "withdrawn":
                yield "signed_off" if cause.outcome == "approved" else "sign_off_refused", None

    def _result(self, result: Result) -> Iterator[tuple[Word, str]]:
        if result.job_id in self._violated:
            return
        if not result.succeeded or result.choice == "destroy":
            yield "failed", result.job_id
        elif result.output is not None:  # what nobody decided upon says nothing
            yield "succeeded", result.job_id


def level_findings(records: Iterable[Record], gates: Sequence[Entry]) -> tuple[dict[str, int], dict[str, list[str]]]:
    """What was counted, and every broken promise. ``gates`` are the entries that the gate has left in its state."""
    book, expect = _Book(records), Expect()
    terms = AutonomyTerms(AutonomyDocument.model_validate(AUTONOMY))
    left = {key: msgspec.msgpack.decode(value, type=Trust) for key, name, value in gates if name == ENTRY}
    agents = {agent for agent, found in book.journal.items() if any(isinstance(each, Decision) for each in found)}
    replays = {agent: _Replay(book, agent, terms) for agent in sorted(agents)}
    expect("an agent's level moved otherwise", [
        (agent, *_first_difference(replay, book.changes[agent]))
        for agent, replay in replays.items()
        if [_moved(each) for each in replay.changes] != [_said(each) for each in book.changes[agent]]
    ])  # fmt: skip
    expect("a number of levels has a gap", [
        agent for agent, found in book.changes.items() if [each.number for each in found] != [*range(1, len(found) + 1)]
    ])  # fmt: skip
    expect("a level moved of nobody's agent", book.changes.keys() - agents)
    expect(
        "a decision was taken at another level", [each for replay in replays.values() for each in replay.other_levels]
    )
    found = sum(replay.found for replay in replays.values())
    expect("a finding did not count once", [(len(book.findings), found)] if len(book.findings) != found else [])
    expect("agents have no trust, or nobody has", agents ^ left.keys())
    expect("an agent's score is another", [
        (agent, _score(left[agent]), _score(replay.score))
        for agent, replay in replays.items()
        if agent in left and _score(left[agent]) != _score(replay.score)
    ])  # fmt: skip
    words = Counter(event.change for found in book.changes.values() for event in found)
    refused = [
        event
        for event in book.inputs.values()
        if isinstance(event, Resolution) and event.kind == "level" and event.outcome == "denied"
    ]
    ends = {"promotions refused": len(refused)} if refused else {}
    return {**{f"levels {word}": count for word, count in sorted(words.items())}, **ends}, expect.broken


def _moved(change: Change) -> tuple[Any, ...]:
    before = change.before
    return change.change, before.level, change.level, before.successes, before.errors, before.right, before.wrong


def _said(event: LevelChanged) -> tuple[Any, ...]:
    counted = (event.successes_count, event.errors_count, event.labelled_correct_count, event.labelled_wrong_count)
    return event.change, event.level_before, event.level, *counted


def _first_difference(replay: _Replay, said: list[LevelChanged]) -> tuple[Any, ...]:
    """Where the two part: which change, as counted here and as the log has it."""
    here, there = [_moved(each) for each in replay.changes], [_said(each) for each in said]
    at = next((at for at, (one, other) in enumerate(zip(here, there, strict=False)) if one != other), None)
    at = min(len(here), len(there)) if at is None else at
    return at + 1, here[at : at + 1], there[at : at + 1]


def _score(score: Score) -> tuple[Any, ...]:
    """What of a score does not depend on how finely time is sliced."""
    return *msgspec.structs.astuple(counts(score)), score.asked, score.drift, score.begun, score.moves
