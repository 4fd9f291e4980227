"""Verify where keys are erased: what a step can no longer open is recomputed from the facts that the journal keeps.

A claim that a payload is erased counts only where the key store says so and an accepted `erase` command for its agent
or its job stands in the log. Then a turn is run twice: as production would run it now, which refuses what it cannot
open, and, where the log says otherwise, with what the log recalls of the content (`control_recall`). Everything that
does not need the content is compared byte for byte in either case.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

import msgspec

from sluicegate.policies.windows import window_of
from sluicegate.processors.control import Control
from sluicegate.processors.control_recall import Recalled
from sluicegate.processors.plane import GRANTS, Overlay, PlaneStep
from sluicegate.processors.verify_report import AS_RECORDED, ERASED, RECOMPUTED
from sluicegate.schemas.codec import Codec
from sluicegate.schemas.errors import KeyErased, SealingError
from sluicegate.schemas.events import ApprovalRequest, Command, Decision, Event, Grant
from sluicegate.schemas.key_ids import job_digits, parse_key_id
from sluicegate.schemas.records import Sealed
from sluicegate.schemas.sealing import Keyring
from sluicegate.streams.engine import Out, Record, Store

TRUTHS_MAX: Final = 6
"""Facts of one decision whose 0 or 1 may have been false or true, of which all combinations are tried."""
RETRY_COUNT: Final = "retry_count"
Group = Sequence[tuple[Record, Any]]
"""The journal events that one input left, with their records."""


class Memory:
    """The state of one key while it is replayed."""

    def __init__(self) -> None:
        self._entries: dict[str, bytes] = {}

    def get(self, name: str) -> bytes | None:
        return self._entries.get(name)

    def set(self, name: str, value: bytes) -> None:
        self._entries[name] = value

    def delete(self, name: str) -> None:
        self._entries.pop(name, None)


class Noticing:
    """A keyring that remembers which keys it was asked for in vain, because they are erased, and since when."""

    def __init__(self, keys: Keyring) -> None:
        self._keys = keys
        self.erased: dict[str, int | None] = {}

    def leaf(self, key_id: str) -> bytes:
        """As `Keyring.leaf`."""
        with self._noticed(key_id):
            return self._keys.leaf(key_id)

    def seal(self, content: bytes, salt: bytes, key_id: str, event_id: str = "") -> Sealed:
        """As `Keyring.seal`."""
        with self._noticed(key_id):
            return self._keys.seal(content, salt, key_id, event_id)

    def open(self, sealed: Sealed) -> tuple[bytes, bytes]:
        """As `Keyring.open`."""
        with self._noticed(sealed.key_id):
            return self._keys.open(sealed)

    @contextlib.contextmanager
    def _noticed(self, key_id: str) -> Iterator[None]:
        try:
            yield
        except KeyErased as error:
            self.erased[key_id] = error.at_ms
            raise


class Erasures:
    """The accepted `erase` commands of a log."""

    def __init__(self) -> None:
        self._agents: set[str] = set()
        self._jobs: set[str] = set()

    def add(self, command: Command) -> None:
        """One that was accepted."""
        kind, _, value = command.scope.partition(":")
        if kind == "agent":
            self._agents.add(value)
        elif kind == "job":
            self._jobs.add(job_digits(value))

    def speak_of(self, key_id: str) -> bool:
        """Whether the log says that this key was erased."""
        try:
            found = parse_key_id(key_id)
        except SealingError:
            return False
        return found.agent_id in self._agents or found.job in self._jobs


class Turned(msgspec.Struct):
    """One turn, run again: what came out, how that is known, and the state to keep.

    ``erased`` are the keys that it could not have, with the time since when, where that is told.
    """

    outs: list[Out]
    store: Overlay
    how: str
    erased: dict[str, int | None] = {}


class Replayer:
    """Runs the turns of one log again, with what the log recalls where nothing can be opened."""

    def __init__(self, codec: Codec, keys: Noticing, records: Callable[..., Iterable[Record]]) -> None:
        """``records`` gives those of the topics whose names begin with its arguments."""
        self._codec = codec
        self._keys = keys
        self._records: Callable[..., Iterable[Record]] | None = records
        self._requests: dict[str, ApprovalRequest] = {}
        self._payloads: dict[str, Sealed] = {}
        self._decisions: dict[tuple[bytes, str, str], list[Decision]] = defaultdict(list)
        self._unsure: dict[bytes, set[str]] = defaultdict(set)
        """Keys of state to computed facts that rest on what is erased; `*` are the windows, all of them."""

    def _learn(self) -> None:
        """Take up, once and only where something is erased, what of the log may be recalled."""
        if self._records is None:
            return
        for record in self._records(GRANTS, "approval.requests", "job.decisions"):
            event = self._codec.decode_or_none(record.value)
            if isinstance(event, Decision):
                self._decisions[record.key, event.job_id, event.job_hash].append(event)
            elif isinstance(event, ApprovalRequest) and event.kind == "output":
                self._requests[event.request_id] = event
            elif isinstance(event, (ApprovalRequest, Grant)):
                self._payloads[event.job_hash] = event.payload
        self._records = None

    def run(self, step: PlaneStep, store: Store, source: Record, control: Control, group: Group) -> Turned:
        """The turn as it fits the log, or as it comes out nearest to it. Raises what the step raises."""
        self._keys.erased.clear()
        first = self._run(step, store, source, control, RECOMPUTED)
        erased = dict(self._keys.erased)
        unsure = self._unsure.get(source.key, set())
        if _fits(step, first, group) or not (erased or unsure):
            first.erased = erased
            return first
        self._learn()
        found = first
        for recalled in self._recalled(source.key, group, unsure | ({RETRY_COUNT} if erased else set())):
            known = copy.copy(control)
            known.recalled = recalled
            found = self._run(step, store, source, known, ERASED)
            found.erased = erased
            if recalled.taken:
                found.how = AS_RECORDED
            if _fits(step, found, group):
                break
        if recalled.judged:
            self._unsure[source.key] |= {RETRY_COUNT} if recalled.complete else {RETRY_COUNT, "*"}
        return found

    def _run(self, step: PlaneStep, store: Store, source: Record, control: Control, how: str) -> Turned:
        overlay = Overlay(store)
        return Turned(step(overlay, source, control), overlay, how)

    def _recalled(self, key: bytes, group: Group, unsure: set[str]) -> Iterator[Recalled]:
        """What the log recalls of a group: once for each way in which a fact of 0 or 1 can be read."""
        events: list[Event] = [event for _, event in group]
        decision = next((event for event in events if isinstance(event, Decision)), None)
        if decision is None:
            decision = self._later(key, group)
        facts = [] if decision is None else decision.facts
        names = {fact.name for fact in facts if fact.name in unsure or ("*" in unsure and window_of(fact.name))}
        maybe = [fact.name for fact in facts if fact.source == "payload" and fact.value in (0, 1)][:TRUTHS_MAX]
        for count in range(len(maybe) + 1):
            for truths in itertools.combinations(maybe, count):
                yield Recalled(events, decision, self._requests, self._payloads, unsure=names, truths=truths)

    def _later(self, key: bytes, group: Group) -> Decision | None:
        """The decision of a job that was judged and waits: for room, its decision is written when there is some."""
        for _, event in group:
            job_hash = getattr(event, "job_hash", None)
            for decision in self._decisions.get((key, getattr(event, "job_id", "") or "", job_hash or ""), ()):
                if decision.seq > event.seq:
                    return decision
        return None


def _fits(step: PlaneStep, turned: Turned, group: Group) -> bool:
    """Whether the journal events that came out are those that stand in the log."""
    outs = [out for out in turned.outs if out.topic == step.plane.journal_topic]
    return [(out.key, out.value) for out in outs] == [(record.key, record.value) for record, _ in group]
