"""What a new bundle would have done to intents that were judged: held share, requests an hour, what widens. Pure.

Two judgements of one intent are compared. Where the log enforced, what acts is compared with what would act; where it
only observed, what would have acted with what would: so a log recorded in observe mode is the "before" of a bundle
that enforces, and a bundle that stops enforcing shows all that it lets through.

A decision widens where it is less strict than before (DENY, REQUIRE_APPROVAL, ALLOW_WITH_CONSTRAINTS, ALLOW), or as
strict with a constraint gone or loosened. Where it is stricter, what becomes of constraints does not count.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal

import msgspec

from sluicegate.policies.compile import CompiledPolicy
from sluicegate.policies.evaluate import RANKS
from sluicegate.schemas.records import DecisionWord, RuleRef

HELD_SHARE: Final = (0.05, 0.10)
"""The share of intents that people should see at most in a well-calibrated system, by the article."""
LISTED_MAX: Final = 10_000
"""How many changes a report lists one by one; all of them are counted."""
HOUR_MS: Final = 3_600_000

Word = DecisionWord | Literal["REFUSED"]
"""What is said of an intent. REFUSED is no judgement: the gate would not have taken the intent."""
Place = Literal["below", "within", "above"]
Ending = Literal["approved", "denied", "expired", "withdrawn", "open", "nobody_asked"]
_HELD: Final = "REQUIRE_APPROVAL"


class Said(msgspec.Struct, frozen=True):
    """What one policy says of one intent; ``rules`` are the determining ones as `layer/id`."""

    decision: Word
    rules: tuple[str, ...] = ()
    constraints: Mapping[str, Any] = {}
    why: str = ""


class Glass(msgspec.Struct, frozen=True):
    """Who broke the glass for a job, and why."""

    by: str
    reason: str


class Judged(msgspec.Struct, kw_only=True):
    """One intent that both policies have judged, and what became of it. ``at_ms`` is None where nobody knows when."""

    agent_id: str
    job_id: str
    topic: str
    at_ms: int | None
    before: Said | None
    after: Said
    only_observed: bool = False
    """Whether the new policy would hold or deny it, but only observes."""
    asked: Ending = "nobody_asked"
    """What people said of the request that was opened for it."""
    glass: Glass | None = None
    review: Ending = "open"
    failed: bool = False
    """Whether it ran and its result was a failure."""
    incident: bool = False


class GlassRun(msgspec.Struct, frozen=True, kw_only=True):
    """A job that ran without the people whom it should have waited for."""

    at_ms: int | None
    job_id: str
    agent_id: str
    topic: str
    by: str
    reason: str
    rules: tuple[str, ...]
    review: Ending
    after: Word


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """A decision that widens. ``loosened`` are the constraints that are gone or looser."""

    at_ms: int | None
    job_id: str
    agent_id: str
    topic: str
    before: Word
    after: Word
    rules_before: tuple[str, ...]
    rules_after: tuple[str, ...]
    loosened: tuple[str, ...] = ()
    asked: Ending = "nobody_asked"


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """All that one policy says. Requests an hour are None where the times of the intents are not known."""

    decisions: dict[str, int]
    held: int
    held_share: float
    held_place: Place
    requests_per_hour_mean: float | None
    requests_busiest_hour: int | None
    busiest_hour_ms: int | None
    """When that hour began."""


class RuleShare(msgspec.Struct, frozen=True, kw_only=True):
    """How many intents a rule holds, before and after; ``place`` is that of the share after."""

    rule: str
    before: int
    after: int
    share_before: float
    share_after: float
    place: Place


class Refusals(msgspec.Struct, frozen=True, kw_only=True):
    """The intents of one agent that the new policy would not have taken, and why."""

    agent_id: str
    why: str
    intents: int


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What a new bundle would have done. Break-glass comes first, as in every report."""

    break_glass_count: int
    break_glass: list[GlassRun]
    policy_snapshot: str
    intents: int
    agents: int
    new: int
    """Intents of which nothing was said before."""
    from_ms: int | None
    to_ms: int | None
    span_hours: float | None
    skipped: dict[str, int]
    """Why, and how many: what cannot be known is not guessed."""
    without_time: int
    only_observed: int
    enrols_nobody: bool
    before: Side | None
    after: Side
    held_rules: list[RuleShare]
    widened_count: int
    widened: list[Change]
    listed_max: int = LISTED_MAX
    tightened_count: int
    tightened: dict[str, int]
    """By the rule that now determines."""
    newly_spared: dict[str, int]
    """Intents that would wait no more, by what people had said."""
    newly_asked: dict[str, int]
    """Intents that would now wait, and how many of them failed or were an incident without anybody asked."""
    refused: list[Refusals]


def names_of(rules: Iterable[RuleRef]) -> tuple[str, ...]:
    """Rules as `layer/id`."""
    return tuple(f"{rule.layer}/{rule.id}" for rule in rules)


def report_of(judged: Iterable[Judged], policy: CompiledPolicy, skipped: Mapping[str, int]) -> Report:
    """The report on intents, in their order in time (those without one first), then by agent."""
    whole = sorted(judged, key=lambda each: (each.at_ms or 0, each.agent_id))
    times = [each.at_ms for each in whole if each.at_ms is not None]
    timed = len(times) == len(whole) > 0
    compared = [each for each in whole if each.before is not None]
    changes, stricter = [], []
    for each in compared:
        change = _widening(each, policy)
        if change is not None:
            changes.append(change)
        elif _tightens(each):
            stricter.append(each)
    glass = [_glass_run(each) for each in whole if each.glass is not None]
    return Report(
        break_glass_count=len(glass),
        break_glass=glass[:LISTED_MAX],
        policy_snapshot=policy.snapshot_name,
        intents=len(whole),
        agents=len({each.agent_id for each in whole}),
        new=len(whole) - len(compared),
        from_ms=min(times, default=None),
        to_ms=max(times, default=None),
        span_hours=round((max(times) - min(times)) / HOUR_MS, 3) if times else None,
        skipped=dict(sorted(skipped.items())),
        without_time=len(whole) - len(times),
        only_observed=sum(each.only_observed for each in whole),
        enrols_nobody=not policy.agents,
        before=_side([(each.at_ms, each.before) for each in compared if each.before], timed) if compared else None,
        after=_side([(each.at_ms, each.after) for each in whole], timed),
        held_rules=_held_rules(whole, len(compared)),
        widened_count=len(changes),
        widened=changes[:LISTED_MAX],
        tightened_count=len(stricter),
        tightened=ranked(Counter(rule for each in stricter for rule in each.after.rules)),
        newly_spared=_spared(compared),
        newly_asked=_asked(compared),
        refused=_refused(whole),
    )


def _strictness(word: Word) -> int:
    return RANKS["DENY" if word == "REFUSED" else word]


def _tightens(each: Judged) -> bool:
    """Whether a decision that does not widen is stricter than before, or its constraints are tighter."""
    before, after = each.before, each.after
    if before is None or after.decision == "REFUSED":
        return False
    if before.decision == after.decision:
        return before.constraints != after.constraints
    return _strictness(after.decision) > _strictness(before.decision)


def _widening(each: Judged, policy: CompiledPolicy) -> Change | None:
    before, after = each.before, each.after
    if before is None or after.decision == "REFUSED":
        return None
    less = _strictness(before.decision) - _strictness(after.decision)
    loosened: set[str] = set()
    if less == 0:
        loosened = {*before.constraints} - {*after.constraints}
        loosened.update(policy.is_tighter_or_equal(after.constraints, before.constraints))
    if less < 0 or (less == 0 and not loosened):
        return None
    return Change(
        at_ms=each.at_ms,
        job_id=each.job_id,
        agent_id=each.agent_id,
        topic=each.topic,
        before=before.decision,
        after=after.decision,
        rules_before=before.rules,
        rules_after=after.rules,
        loosened=tuple(sorted(loosened)),
        asked=each.asked,
    )


def _glass_run(each: Judged) -> GlassRun:
    assert each.glass is not None
    return GlassRun(
        at_ms=each.at_ms,
        job_id=each.job_id,
        agent_id=each.agent_id,
        topic=each.topic,
        by=each.glass.by,
        reason=each.glass.reason,
        rules=() if each.before is None else each.before.rules,
        review=each.review,
        after=each.after.decision,
    )


def _side(said: Sequence[tuple[int | None, Said]], timed: bool) -> Side:
    held = [at_ms for at_ms, each in said if each.decision == _HELD]
    share = _share(len(held), len(said))
    mean: float | None = None
    busiest: tuple[int | None, int | None] = (None, None)
    if timed:
        times = [at_ms for at_ms, _ in said if at_ms is not None]
        # Over less than an hour a mean would promise more than was seen.
        mean = round(len(held) * HOUR_MS / max(HOUR_MS, max(times) - min(times)), 2)
        hours = Counter(at_ms // HOUR_MS for at_ms in held if at_ms is not None)
        hour, most = max(hours.items(), key=lambda item: (item[1], -item[0]), default=(None, 0))
        busiest = (None if hour is None else hour * HOUR_MS, most)
    return Side(
        decisions=ranked(Counter(each.decision for _, each in said)),
        held=len(held),
        held_share=share,
        held_place=_place(share),
        requests_per_hour_mean=mean,
        requests_busiest_hour=busiest[1],
        busiest_hour_ms=busiest[0],
    )


def _share(part: int, whole: int) -> float:
    return round(part / whole, 4) if whole else 0.0


def _place(share: float) -> Place:
    low, high = HELD_SHARE
    return "below" if share < low else "above" if share > high else "within"


def _held_rules(whole: Sequence[Judged], compared: int) -> list[RuleShare]:
    before = Counter(
        rule
        for each in whole
        if each.before is not None and each.before.decision == _HELD
        for rule in each.before.rules
    )
    after = Counter(rule for each in whole if each.after.decision == _HELD for rule in each.after.rules)
    names = sorted({*before, *after}, key=lambda rule: (-after[rule], -before[rule], rule))
    return [
        RuleShare(
            rule=rule,
            before=before[rule],
            after=after[rule],
            share_before=_share(before[rule], compared),
            share_after=_share(after[rule], len(whole)),
            place=_place(_share(after[rule], len(whole))),
        )
        for rule in names
    ]


def ranked(counts: Counter[str]) -> dict[str, int]:
    """Counts by name, the most first."""
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _spared(compared: Sequence[Judged]) -> dict[str, int]:
    spared = [
        each
        for each in compared
        if each.before is not None and each.before.decision == _HELD and _strictness(each.after.decision) < RANKS[_HELD]
    ]
    return {"intents": len(spared), **ranked(Counter(each.asked for each in spared))}


def _asked(compared: Sequence[Judged]) -> dict[str, int]:
    asked = [
        each
        for each in compared
        if each.before is not None and each.before.decision != _HELD and each.after.decision == _HELD
    ]
    return {
        "intents": len(asked),
        "failed": sum(each.failed for each in asked),
        "incidents": sum(each.incident for each in asked),
    }


def _refused(whole: Sequence[Judged]) -> list[Refusals]:
    counts = Counter((each.agent_id, each.after.why) for each in whole if each.after.decision == "REFUSED")
    return [
        Refusals(agent_id=agent_id, why=why, intents=count)
        for (agent_id, why), count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    ]
