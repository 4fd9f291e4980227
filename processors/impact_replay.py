"""Judges again, under a new bundle, what the log or a file holds, with the facts that the gate would have had. Pure.

Each agent's journal is gone through in its order. The first decision of each job is judged anew; what the gate learned
from results, at the time when it learned it, is learned here: so windows, retries, first times and the anomaly score
stand as they would online, had everything run that did run. What cannot be known (an intent that is gone, a payload
sealed with a key that is not here) is left out, counted, and teaches nothing.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, Final, TypeVar

import msgspec
import rfc8785

from sluicegate.policies.compile import CompiledPolicy
from sluicegate.policies.evaluate import Judgement
from sluicegate.policies.recorded import RecordedIntent
from sluicegate.processors.gate import CLEAN
from sluicegate.processors.gate_facts import Past, facts_of, learned_of
from sluicegate.processors.gate_judge import with_ask
from sluicegate.processors.gate_state import GateCard, Job
from sluicegate.processors.impact import Ending, Glass, Judged, Report, Said, names_of, report_of
from sluicegate.schemas.codec import Codec
from sluicegate.schemas.errors import BadPayload, KeyErased, SealingError
from sluicegate.schemas.events import (
    Cause,
    Closed,
    Command,
    Decision,
    Held,
    Intent,
    LevelChanged,
    Noted,
    Resolution,
    Result,
)
from sluicegate.schemas.payload import SALT_BYTES, parse_strict, seal
from sluicegate.schemas.sealing import Keyring, NoKeyring
from sluicegate.streams.engine import Record

NEEDED: Final = (
    "job.intents",
    "job.decisions",
    "job.results",
    "agent.autonomy",
    "approval.resolutions",
    "control.commands",
)
"""The topics that are read for this."""
GONE: Final = "the intent is gone from the log"
SEALED: Final = "the payload is sealed with a key that is not here"
ERASED: Final = "the key of the payload was erased"
UNREADABLE: Final = "the intent cannot be read"
NO_TIME: Final = "its time is not known"
_NOT_ENROLLED: Final = "the bundle does not enrol the agent"
_NO_ROOM: Final = "open_requests_max"


S = TypeVar("S")


class _Agent:
    """What one agent's past is under the new bundle."""

    __slots__ = ("card", "entries", "jobs")

    def __init__(self) -> None:
        self.card = GateCard()
        self.entries: dict[str, Any] = {}
        self.jobs: dict[str, Job] = {}

    def past(self, policy: CompiledPolicy, at_ms: int, level: int | None = None) -> Past:
        self.card.at_ms = max(self.card.at_ms, at_ms)
        return Past(policy, self.card, self.card.at_ms, self, level)

    def get(self, name: str, cls: type[S]) -> S | None:
        """As the gate's state."""
        found: S | None = self.entries.get(name)
        return found

    def keep(self, name: str, entry: msgspec.Struct, *, queue: str, new: bool) -> None:
        """As the gate's state, but that nothing is deleted: a replay ends."""
        self.entries[name] = entry


class Ahead(msgspec.Struct, frozen=True):
    """A level that an agent does not have, in a domain."""

    agent_id: str
    level: int
    domain: str


class Replay:
    """One policy over the pasts of many agents."""

    def __init__(self, policy: CompiledPolicy) -> None:
        self.policy = policy
        self._agents: defaultdict[str, _Agent] = defaultdict(_Agent)

    def judge(self, intent: Intent, payload: Any, at_ms: int | None, level: int | None = None) -> Judgement | str:
        """The judgement of an intent, or why it would have been refused. Without a time it is a first intent.

        ``level`` is what the agent had earned; without it that which the policy gives it.
        """
        policy = self.policy
        if policy.agents and policy.agent(intent.agent_id) is None:
            return _NOT_ENROLLED
        agent = _Agent() if at_ms is None else self._agents[intent.agent_id]
        job = agent.jobs.setdefault(intent.job_id, Job(phase="held", job_hash=intent.job_hash))
        return policy.judge(facts_of(agent.past(policy, at_ms or 0, level), intent, job, payload).subject)

    def learn(self, result: Result, at_ms: int) -> None:
        """Take up a finished job, as the gate did."""
        agent = self._agents[result.agent_id]
        job = agent.jobs.get(result.job_id)
        if job is not None:
            clean = result.output_safety_decision in CLEAN
            past = agent.past(self.policy, at_ms)
            learned_of(past, result.topic, job, clean=clean, succeeded=result.succeeded)

    def forget(self, agent_id: str, job_id: str) -> None:
        """A job is over; its id may come again."""
        self._agents[agent_id].jobs.pop(job_id, None)


# --- from the log


def impact_of_log(
    records: Iterable[Record], codec: Codec, policy: CompiledPolicy, since_ms: int = 0, keys: Keyring | None = None
) -> Report:
    """What a policy would have done since a time to what stands in the log. What lies before teaches, uncounted.

    ``keys`` opens payloads. It believes the journal; whether the journal is true, `verify` says. Raises Unavailable
    when the key store cannot be read.
    """
    return _impact(records, codec, policy, since_ms, keys)


def impact_of_level(
    records: Iterable[Record],
    codec: Codec,
    policy: CompiledPolicy,
    agent_id: str,
    level: int,
    since_ms: int = 0,
    keys: Keyring | None = None,
    *,
    domain: str = "",
) -> Report:
    """What one agent's intents would have been at another level, in a domain; otherwise as `impact_of_log`."""
    return _impact(records, codec, policy, since_ms, keys, Ahead(agent_id, level, domain))


def _impact(
    records: Iterable[Record],
    codec: Codec,
    policy: CompiledPolicy,
    since_ms: int,
    keys: Keyring | None,
    ahead: Ahead | None = None,
) -> Report:
    log = _Log(codec, records, NoKeyring() if keys is None else keys)
    skipped: Counter[str] = Counter()
    judged: list[Judged] = []
    for key, events in log.journals:
        if ahead is None or key == ahead.agent_id.encode():
            judged += _Journal(log, Replay(policy), skipped, since_ms, ahead).run(events)
    return report_of(judged, policy, skipped)


class _Log:
    """The records that are needed, where they can be found."""

    def __init__(self, codec: Codec, records: Iterable[Record], keys: Keyring) -> None:
        self._codec, self._keys = codec, keys
        self._inputs: dict[tuple[str, int, int], Record] = {}
        self.requests: dict[str, Ending] = {}
        self.reviews: dict[tuple[str, str], Ending] = {}
        self.glasses: dict[str, Glass] = {}
        self.moved_ms: dict[str, int] = {}
        """Since when an agent's level is another than that which a policy gives it."""
        journals: defaultdict[bytes, list[Any]] = defaultdict(list)
        for record in records:
            if record.topic in ("job.intents", "job.results"):
                self._inputs[record.topic, record.partition, record.offset] = record
            elif record.topic == "job.decisions":
                event = self._codec.decode_or_none(record.value)
                if isinstance(event, (Decision, Held, Closed, Noted)):
                    journals[record.key].append(event)
            elif record.topic == "approval.resolutions":
                event = self._codec.decode_or_none(record.value)
                if isinstance(event, Resolution) and event.origin == "gate":
                    self.requests[event.request_id] = event.outcome
                    if event.kind == "break_glass":
                        self.reviews[event.agent_id, event.job_id] = event.outcome
            elif record.topic == "agent.autonomy":
                event = self._codec.decode_or_none(record.value)
                if isinstance(event, LevelChanged) and event.change != "requested":
                    self.moved_ms.setdefault(event.agent_id, event.at_ms)
            elif record.topic == "control.commands":
                event = self._codec.decode_or_none(record.value)
                if isinstance(event, Command) and event.kind == "break_glass":
                    self.glasses[event.command_id] = Glass(event.by, event.reason or "")
        self.journals = [(key, sorted(events, key=lambda event: event.seq)) for key, events in sorted(journals.items())]

    def intent(self, cause: Cause | None) -> tuple[Intent, Any] | str:
        """The intent at a place and its payload, or why there is none."""
        record = None if cause is None else self._inputs.get((cause.topic, cause.partition, cause.offset))
        if record is None:
            return GONE
        event = self._codec.decode_or_none(record.value)
        if not isinstance(event, Intent):
            return UNREADABLE
        try:
            return event, parse_strict(self._keys.open(event.payload)[0])
        except KeyErased:
            return ERASED
        except SealingError:
            return SEALED
        except BadPayload:
            return UNREADABLE

    def result(self, cause: Cause) -> Result | None:
        """The result at a place, or None."""
        record = self._inputs.get((cause.topic, cause.partition, cause.offset))
        event = None if record is None else self._codec.decode_or_none(record.value)
        return event if isinstance(event, Result) else None


class _Journal:
    """One pass through the journal of one agent."""

    def __init__(
        self, log: _Log, replay: Replay, skipped: Counter[str], since_ms: int, ahead: Ahead | None = None
    ) -> None:
        self._log = log
        self._replay = replay
        self._skipped = skipped
        self._since_ms = since_ms
        self._ahead = ahead
        self._came: dict[str, Cause] = {}
        self._decided: set[str] = set()
        self._entries: dict[str, Judged] = {}
        self._found: list[Judged] = []

    def run(self, events: Sequence[Any]) -> list[Judged]:
        """The jobs that were judged since, each once."""
        for event in events:
            if isinstance(event, Held):
                self._held(event)
            elif isinstance(event, Decision):
                self._decision(event)
            elif isinstance(event, Closed):
                self._closed(event)
            elif event.kind == "incident" and event.job_id in self._entries:
                self._entries[event.job_id].incident = True
        return self._found

    def _held(self, event: Held) -> None:
        if event.cause.topic == "job.intents":
            self._came[event.job_id] = event.cause
        if event.scope == _NO_ROOM and event.job_id not in self._decided:
            # It was judged, and counted, though the decision waits until people have room for one more request.
            found = self._log.intent(self._came.get(event.job_id))
            if not isinstance(found, str):
                self._replay.judge(*found, event.at_ms)

    def _decision(self, event: Decision) -> None:
        if event.job_id not in self._decided:  # else it is judged again, after an approval or a lapse
            self._decided.add(event.job_id)
            self._first(event)
        if event.decision == "DENY":
            self._over(event.agent_id, event.job_id)

    def _first(self, event: Decision) -> None:
        came = event.cause if event.cause.topic == "job.intents" else self._came.get(event.job_id)
        found = self._log.intent(came)
        since = event.at_ms >= self._since_ms
        if isinstance(found, str):
            self._skipped[found] += since
            return
        intent, payload = found
        after = self._replay.judge(intent, payload, event.at_ms, self._level(event))
        entry = _judged(event.at_ms, intent, after, event.observed is not None)
        entry.before = _before(event, intent)
        self._people(event, entry)
        self._entries[event.job_id] = entry
        if since:
            self._found.append(entry)

    def _level(self, event: Decision) -> int | None:
        """The level that the agent had when it was judged, once it had moved: until then any policy gives its own."""
        if self._ahead is not None and self._replay.policy.domain(event.topic) == self._ahead.domain:
            return self._ahead.level
        moved_ms = self._log.moved_ms.get(event.agent_id)
        return None if moved_ms is None or moved_ms > event.at_ms else event.level

    def _people(self, event: Decision, entry: Judged) -> None:
        if event.request_id is not None:
            entry.asked = self._log.requests.get(event.request_id, "open")
        if event.break_glass is not None:
            entry.glass = self._log.glasses.get(event.break_glass, Glass("unknown", "the command is gone from the log"))
            entry.review = self._log.reviews.get((event.agent_id, event.job_id), "open")

    def _closed(self, event: Closed) -> None:
        entry = self._entries.get(event.job_id)
        if entry is not None:
            entry.failed = event.outcome == "failed"
        if event.cause.topic == "job.results":
            result = self._log.result(event.cause)
            if result is not None:
                self._replay.learn(result, event.at_ms)
        self._over(event.agent_id, event.job_id)

    def _over(self, agent_id: str, job_id: str) -> None:
        self._decided.discard(job_id)
        self._came.pop(job_id, None)
        self._replay.forget(agent_id, job_id)


def _before(event: Decision, intent: Intent) -> Said:
    observed = event.observed
    if observed is None:
        return Said(event.decision, names_of(event.rules), json.loads(event.constraints))
    constraints = json.loads(observed.constraints)
    judgement = Judgement(observed.decision, tuple(observed.rules), constraints, (), (), observed.reason)
    return _said(intent, judgement)


# --- from a file


def impact_of_intents(
    intents: Iterable[RecordedIntent],
    policy: CompiledPolicy,
    against: CompiledPolicy | None,
    since_ms: int | None = None,
) -> Report:
    """What a policy would do to recorded intents, in the order of their times, compared with another one, if any.

    There are no results, so every action is a first time and nothing is learned; an intent without a time stands alone.
    """
    new = Replay(policy)
    old = None if against is None else Replay(against)
    skipped: Counter[str] = Counter()
    judged: list[Judged] = []
    for recorded in sorted(intents, key=lambda each: each.at_ms or 0):
        if recorded.at_ms is None and since_ms is not None:
            skipped[NO_TIME] += 1
            continue
        intent = _intent(recorded)
        before = None if old is None else old.judge(intent, recorded.payload, recorded.at_ms)
        after = new.judge(intent, recorded.payload, recorded.at_ms)
        # Where nothing stood before, what would act is what its author wants to see of a bundle that only observes.
        observed = before is None or (isinstance(before, Judgement) and before.observed is not None)
        entry = _judged(recorded.at_ms, intent, after, observed)
        if isinstance(before, Judgement):
            entry.before = _said(intent, before.observed or before)
        elif before is not None:
            entry.before = Said("REFUSED", why=before)
        if since_ms is None or (recorded.at_ms or 0) >= since_ms:
            judged.append(entry)
    return report_of(judged, policy, skipped)


def _intent(recorded: RecordedIntent) -> Intent:
    return Intent(
        job_id=recorded.job_id,
        agent_id=recorded.agent_id,
        agent_version="",
        topic=recorded.topic,
        risk_tags=recorded.risk_tags,
        payload=seal(rfc8785.dumps(recorded.payload), bytes(SALT_BYTES)),
        job_hash="",
        confidence=recorded.confidence,
        tenant="",
    )


# --- what is said


def _judged(at_ms: int | None, intent: Intent, after: Judgement | str, before_observed: bool) -> Judged:
    """An intent with what the new policy says, compared as the module `impact` says."""
    only_observed = False
    if isinstance(after, str):
        said = Said("REFUSED", why=after)
    else:
        whole = after.observed
        said = _said(intent, whole if before_observed and whole is not None else after)
        acts = ("ALLOW", "ALLOW_WITH_CONSTRAINTS")
        only_observed = whole is not None and whole.decision not in acts and after.decision in acts
    return Judged(
        agent_id=intent.agent_id,
        job_id=intent.job_id,
        topic=intent.topic,
        at_ms=at_ms,
        before=None,
        after=said,
        only_observed=only_observed,
    )


def _said(intent: Intent, judgement: Judgement) -> Said:
    asked, rules = with_ask(intent, judgement)
    return Said(asked.decision, names_of(rules), asked.constraints)
