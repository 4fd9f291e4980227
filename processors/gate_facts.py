"""What the gate computes of an intent from the log: first times, retries, windows, the anomaly score. Pure.

Only what some rule of the active snapshot asks for is remembered, in two places: the agent's card, written with every
intent anyway, holds what must count at once (windows, retries, how many intents lately); an entry per topic, written
only when a job's result comes, holds what is learned from finished work. So an intent costs no entry more than its own.

Nothing here asks where that is kept: the gate keeps it in its state, `impact` in a replay under another snapshot.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final, Protocol, TypeVar

import msgspec
import rfc8785

from sluicegate.policies.actions import Action
from sluicegate.policies.anomaly import Sketch, bins_of, score
from sluicegate.policies.compile import CompiledPolicy
from sluicegate.policies.evaluate import FactValue, Subject
from sluicegate.policies.features import Observation, shape_of, target_of
from sluicegate.policies.paths import MISSING, read_path
from sluicegate.policies.subject import alone, declared_facts, own_share, subject_of
from sluicegate.policies.windows import COUNT, Slices, Window, add, oldest_of, sum_of, value_of
from sluicegate.processors import trust
from sluicegate.processors.control_recall import Recalled
from sluicegate.processors.gate_state import GateCard, Job, Profile, Tries
from sluicegate.processors.plane import Turn
from sluicegate.schemas.errors import KeyErased
from sluicegate.schemas.events import Fact, Intent

WINDOWS_MAX: Final = 64
"""How many windows an agent's card holds; what comes after them shares one for each length, which only counts more."""
RETRY_MS: Final = 3_600_000
"""After an hour without another try an identity is forgotten."""
RATE_MS: Final = 600_000
"""The span over which an agent's rate is taken."""
PROFILE_REMEMBERED_MS: Final = 90 * 86_400_000
"""A topic on which an agent had no result for so long is new to it again."""
TRIES: Final = "tries"
TOPICS: Final = "topics"
S = TypeVar("S", bound=msgspec.Struct)
_NO_VALUE: Final = "\x00"


class Memory(Protocol):
    """Where entries are kept between the inputs of an agent: the step's state, or a replay's."""

    def get(self, name: str, cls: type[S]) -> S | None:
        """The entry of this name, one that may be forgotten too, or None."""

    def keep(self, name: str, entry: msgspec.Struct, *, queue: str, new: bool) -> None:
        """Write an entry that is forgotten at its ``forget_at_ms``."""


class Past(msgspec.Struct, frozen=True):
    """What an agent did, at the time of one of its inputs, and the policy that asks for it."""

    policy: CompiledPolicy
    card: GateCard
    at_ms: int
    memory: Memory
    level: int | None = None
    """The agent's level; None for the one that it begins at."""
    recalled: Recalled | None = None
    """What the log says of facts that rest on a payload whose key is erased by now."""

    def profile(self, topic: str) -> Profile | None:
        """What is known of the agent on a topic; None before its first result there, and after 90 days without one."""
        found = self.memory.get(_profile_name(topic), Profile)
        return None if found is None or found.forget_at_ms <= self.at_ms else found


class Computed(msgspec.Struct, frozen=True):
    """What a judgement rests on: the subject, and its facts as the decision records them."""

    subject: Subject
    facts: list[Fact]
    features: list[int]
    level: int | None
    """The agent's level, where it was asked for."""


def compute(turn: Turn, intent: Intent, job: Job, payload: Any) -> Computed:
    """The subject of the gate's intent."""
    return facts_of(_past_of(turn, trust.level(turn, intent.topic)), intent, job, payload)


def facts_of(past: Past, intent: Intent, job: Job, payload: Any) -> Computed:
    """The subject of an intent, and what is to be remembered of it. A job that is judged again counts once."""
    policy = past.policy
    action = policy.action(intent.topic)
    erased = payload if isinstance(payload, Recalled) else None
    declared = declared_facts(action, payload) if erased is None else erased.declared(action.facts)
    computed: dict[str, FactValue] = {}
    sources: dict[str, str] = {}
    asked = policy.facts_asked
    if "first_time_action" in asked or "anomaly_score" in asked:
        profile = past.profile(intent.topic)
        computed["first_time_action"] = profile is None
        if "anomaly_score" in asked:
            computed["anomaly_score"], sources["anomaly_score"] = _anomaly(
                past, intent, job, payload, declared, profile
            )
    if "retry_count" in asked:
        computed["retry_count"] = _retry_count(past, intent, job, payload, action)
    if policy.windows:
        computed.update(_windows(past, job, action, declared))
    if past.recalled is not None:
        computed.update(past.recalled.computed(computed))
    subject = subject_of(
        policy,
        topic=intent.topic,
        agent_id=intent.agent_id,
        risk_tags=intent.risk_tags,
        payload=payload,
        confidence=intent.confidence,
        level=past.level,
        computed=computed,
        given=None if erased is None else declared,
    )
    if erased is not None:
        tags = erased.tags(policy.output_policy.phrase_classes) if action.phrases else set()
        risk_tags = tuple(sorted({*subject.risk_tags, *tags}))
        subject = msgspec.structs.replace(subject, fault=erased.schema_fault, risk_tags=risk_tags)
    return Computed(subject, _recorded(subject.facts, action, computed, sources), job.features, past.level)


def learn(turn: Turn, topic: str, job: Job, *, clean: bool, succeeded: bool) -> None:
    """Take up a finished job of the gate."""
    learned_of(_past_of(turn), topic, job, clean=clean, succeeded=succeeded)


def learned_of(past: Past, topic: str, job: Job, *, clean: bool, succeeded: bool) -> None:
    """Take up a finished job: it is no first time any more, and what left clean is what is normal."""
    if succeeded and clean and job.retry_key:
        tries = past.memory.get(_tries_name(job.retry_key), Tries)
        if tries is not None:
            tries.count = 0
            past.memory.keep(_tries_name(job.retry_key), tries, queue=TRIES, new=False)
    asked = past.policy.facts_asked
    if not ("first_time_action" in asked or "anomaly_score" in asked):
        return
    known = past.memory.get(_profile_name(topic), Profile)
    profile = past.profile(topic) or Profile()
    if job.features and clean:
        sketch = Sketch.from_bytes(profile.sketch) if profile.sketch else Sketch()
        sketch.learn(job.features)
        profile.sketch = sketch.to_bytes()
    profile.forget_at_ms = past.at_ms + PROFILE_REMEMBERED_MS
    past.memory.keep(_profile_name(topic), profile, queue=TOPICS, new=known is None)


def payload_of(turn: Turn, intent: Intent) -> Any:
    """The payload of an intent that was checked when it came, or what `verify` recalls of it. Raises KeyErased."""
    try:
        return json.loads(turn.control.keys.open(intent.payload)[0])
    except KeyErased:
        if turn.control.recalled is None:
            raise
        return turn.control.recalled


def _past_of(turn: Turn, level: int | None = None) -> Past:
    return Past(turn.control.policy, turn.card, turn.at_ms, turn, level, turn.control.recalled)


def _profile_name(topic: str) -> str:
    return f"topic/{topic}"


def _tries_name(key: str) -> str:
    return f"tries/{key}"


def _anomaly(
    past: Past, intent: Intent, job: Job, payload: Any, facts: Mapping[str, FactValue], profile: Profile | None
) -> tuple[float, str]:
    policy = past.policy
    own = Sketch.from_bytes(profile.sketch) if profile is not None and profile.sketch else None
    if not job.features:
        action = policy.action(intent.topic)
        shape, target = _seen(payload, action)
        observation = Observation(
            at_ms=past.at_ms,
            recent_count=_recent(past.card, past.at_ms),
            amount_usd=_number(facts.get("amount_usd")),
            affected_users=_number(facts.get("affected_users")),
            payload_bytes=len(intent.payload.content),
            shape=shape,
            target=target,
        )
        job.features = list(bins_of(own, observation))
    found = score(own, policy.baseline(intent.topic), job.features)
    return found.value, found.source


def _seen(payload: Any, action: Action) -> tuple[int, int | None]:
    """The shape of a payload and what it is aimed at."""
    if isinstance(payload, Recalled):
        return payload.shape, payload.target
    target = MISSING if action.target is None else read_path(payload, action.target)
    return shape_of(payload), None if target is MISSING else target_of(target)


def _recent(card: GateCard, at_ms: int) -> int:
    """Count this intent, and say how many the agent had within the last 10 minutes: whole spans, in proportion."""
    span = at_ms // RATE_MS
    if span != card.rate_span:
        card.rate_before = card.rate_now if span == card.rate_span + 1 else 0
        card.rate_span, card.rate_now = span, 0
    card.rate_now += 1
    return card.rate_now + card.rate_before * (RATE_MS - at_ms % RATE_MS) // RATE_MS


def _retry_count(past: Past, intent: Intent, job: Job, payload: Any, action: Action) -> int:
    """How often the same was tried before: since its last success, each try within an hour of the one before.

    Each identity has an entry of its own, since a bounded table could be flooded until it forgets.
    """
    if isinstance(payload, Recalled):
        job.tries = payload.retry_count
        return job.tries
    if not job.retry_key:
        job.retry_key = _identity(intent.topic, payload, action)
    name = _tries_name(job.retry_key)
    known = past.memory.get(name, Tries)
    count = known.count if known is not None and known.forget_at_ms > past.at_ms else 0
    if job.tries >= 0:  # judged again: it counts once, and what it was the n-th of it stays
        return max(job.tries, count - 1)
    job.tries = count
    past.memory.keep(name, Tries(count + 1, past.at_ms + RETRY_MS), queue=TRIES, new=known is None)
    return count


def _identity(topic: str, payload: Any, action: Action) -> str:
    """What makes two intents tries of one thing: the values at the entry's paths, else topic and whole payload."""
    paths = action.retry_identity
    found = [read_path(payload, steps) for steps in paths] if paths else [payload]
    values = [_NO_VALUE if value is MISSING else value for value in found]
    whole = [action.retry_group or topic, values]
    try:
        text = rfc8785.dumps(whole)  # 7 and 7.0 are one number
    except rfc8785.CanonicalizationError:
        text = json.dumps(whole, sort_keys=True).encode()
    return hashlib.sha256(text).hexdigest()[:16]


def _windows(past: Past, job: Job, action: Action, facts: Mapping[str, FactValue]) -> dict[str, FactValue]:
    """The windows that this intent stands in, itself included. A share that is unknown leaves the window unknown.

    A job that is judged again counts once in each window, and again where the window has left it behind.
    """
    policy, at_ms = past.policy, past.at_ms
    kept: dict[str, Slices] = past.card.windows
    _forget_windows(past.card, policy.windows, at_ms)
    found: dict[str, FactValue] = {}
    for window in policy.windows:
        if window.fact != COUNT and window.fact not in facts:
            continue
        share = own_share(window.fact, facts)
        if share is None:
            found[window.name] = None
            continue
        name = f"{action.groups.get(window.fact, '')}/{window.name}"
        if name not in kept and len(kept) >= WINDOWS_MAX:
            name = f"*/{window.name}"
        slices = kept.get(name, {})
        if job.windowed.get(window.name, -1) < oldest_of(window, at_ms):
            slices = kept[name] = add(slices, window, at_ms, share)
            job.windowed[window.name] = at_ms // window.slice_ms
        total = sum_of(slices, window, at_ms)
        found[window.name] = alone(window.fact, facts) if total <= share else value_of(total)
    return found


def _forget_windows(card: GateCard, windows: tuple[Window, ...], at_ms: int) -> None:
    """Drop what no rule asks for any more, and what every slice of has been left behind."""
    asked = {window.name: window for window in windows}
    for name in list(card.windows):
        window = asked.get(name.rpartition("/")[2])
        if window is None or max(card.windows[name]) < oldest_of(window, at_ms):
            del card.windows[name]


def _number(value: FactValue) -> float | None:
    return None if value is None or isinstance(value, bool) else float(value)


def _recorded(
    facts: Mapping[str, FactValue], action: Action, computed: Mapping[str, FactValue], sources: Mapping[str, str]
) -> list[Fact]:
    """The facts as the decision records them; computed ones only where a rule asks for them."""
    found = []
    for name, value in facts.items():
        if name in computed:
            source = sources.get(name, "computed")
        elif name in action.facts:
            source = "payload"
        elif name == "confidence":
            source = "claimed"
        else:
            continue
        found.append(Fact(name=name, value=None if value is None else float(value), source=source))
    return found
