"""Does trust keep what it promises? Agents whose error rate is known, through the very code that moves levels.

Everything is seeded: the same table comes out again. What each row says:

- promotion: agents at level 1 act, each action is labelled by a person, and either the article's criteria alone or the
  evidence, too, must ask for level 2. An agent at the tested rate must get there in at most 5 % of the cases.
- demotion: an agent at level 3 goes wrong; how many actions pass until it loses a level.
- watched: an agent that errs only where it expects no look, under a draw that it can foresee and one that it cannot.
- coverage: how often the exact interval of an audit holds the truth, by stratum and joined.
- size: how many actions pass until a defect is drawn once in 95 of 100 cases.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final

import msgspec

from sluicegate.bench.figures import Findings, Text
from sluicegate.policies.autonomy import AutonomyTerms, Happened, Job, Score
from sluicegate.policies.documents import AutonomyDocument
from sluicegate.policies.sampling import drawn
from sluicegate.policies.statistics import Sampled, actions_to_find, estimate, wrong_in

SURE: Final = Fraction(95, 100)
TESTED: Final = 0.02
EVIDENCE: Final = {
    "levels": [2, 3],
    "error_rate_ruled_out": TESTED,
    "error_rate_expected": 0.005,
    "confidence": 0.95,
}
DRIFT: Final = {"drift": {"usual_error_rate": 0.01, "feared_error_rate": 0.05, "threshold": 4.0}}
RATE_TRIGGER: Final = {"error_rate_above": 0.05}
ACTIONS_A_DAY: Final = 100
DAY_MICROS: Final = 86_400_000_000
RATES: Final = (0.001, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2)
STRATA: Final = (("prod", "0.3", 300, 0.02), ("write", "0.2", 600, 0.01), ("read", "0.05", 2_000, 0.002))
"""Stratum, inclusion probability, jobs, error rate."""


WATCHED: Final = 200_000


class Size(msgspec.Struct, frozen=True):
    """How many agents at the tested rate, how many at each other one, actions at most, and audits."""

    agents: int
    others: int
    actions: int
    falls: int
    audits: int


WHOLE: Final = Size(agents=20_000, others=1_000, actions=1_000, falls=1_000, audits=1_000)
QUICK: Final = Size(agents=300, others=30, actions=600, falls=60, audits=60)
TINY: Final = Size(agents=20, others=5, actions=300, falls=5, audits=5)


class Promotion(msgspec.Struct, frozen=True):
    """Of agents with one error rate: how many were asked about, and after how many actions (the median)."""

    rate: float
    agents: int
    promoted: int
    actions_median: float | None


def terms(evidence: dict[str, Any] | None, triggers: Sequence[Any] = ()) -> AutonomyTerms:
    """The article's criteria, with or without evidence."""
    rules = [{"match": {"topics": ["*"]}, "decision": "allow"}]
    criteria = {
        "min_successful_actions": 50,
        "max_error_rate": 0.02,
        "review_period_days": 7,
        "requires_human_sign_off": True,
        "evidence": evidence,
    }
    levels = {f"level_{number}": {"name": "a level", "rules": rules} for number in range(4)}
    document = {"autonomy_levels": levels, "promotion_criteria": criteria, "demotion_triggers": list(triggers)}
    return AutonomyTerms(AutonomyDocument.model_validate(document))


def promotion(rate: float, agents: int, actions_max: int, *, evidence: bool, seed: int) -> Promotion:
    """How many of these agents level 2 is asked for within so many labelled actions."""
    wanted, chance = terms(EVIDENCE if evidence else None), _chance(f"promotion/{rate}/{evidence}/{seed}")
    after = [found for _ in range(agents) if (found := _asked_after(wanted, rate, actions_max, chance)) is not None]
    return Promotion(rate, agents, len(after), statistics.median(after) if after else None)


def _asked_after(wanted: AutonomyTerms, rate: float, actions_max: int, chance: random.Random) -> int | None:
    score, at = Score(level=1), 0
    for action in range(1, actions_max + 1):
        at += DAY_MICROS // ACTIONS_A_DAY
        job = Job()
        wrong = chance.random() < rate
        changes = wanted.weigh(score, Happened(at, "succeeded"), job)
        # The label comes before anybody is asked: a success that nobody has looked at yet is none here.
        changes = wanted.weigh(score, Happened(at, "found_wrong" if wrong else "found_correct"), job) or changes
        if changes and not wrong:
            return action
        if changes:
            score.asked = None
    return None


def demotion(rate: float, runs: int, *, drift: bool, seed: int, actions_max: int = 5_000) -> list[int | None]:
    """After how many actions an agent at level 3 loses a level once its error rate is this; None for not in time."""
    wanted = terms(None, [DRIFT] if drift else [RATE_TRIGGER])
    chance = _chance(f"demotion/{rate}/{drift}/{seed}")
    return [_lost_after(wanted, rate, actions_max, chance) for _ in range(runs)]


def _lost_after(wanted: AutonomyTerms, rate: float, actions_max: int, chance: random.Random) -> int | None:
    score, at = Score(level=3), 0
    for _ in range(200):  # it was good before: one error in a hundred
        at += DAY_MICROS // ACTIONS_A_DAY
        wanted.weigh(score, Happened(at, "failed" if chance.random() < 0.01 else "succeeded"))
        score.level = 3
    for action in range(1, actions_max + 1):
        at += DAY_MICROS // ACTIONS_A_DAY
        if wanted.weigh(score, Happened(at, "failed" if chance.random() < rate else "succeeded")):
            return action
    return None


def watched(rate: float, jobs: int, seed: int) -> tuple[Decimal, Decimal]:
    """The error rate found of an agent that errs where it expects no look: by every tenth job, and by the HMAC."""
    chance, key = _chance(f"watched/{seed}"), seed.to_bytes(32)
    wrong = [number % 10 != 0 and chance.random() < rate / 0.9 for number in range(jobs)]
    tenth = [number for number in range(jobs) if number % 10 == 0]
    taken = [number for number in range(jobs) if drawn(key, "agent", f"job-{number}", Decimal("0.1"))]
    found = [Decimal(sum(wrong[number] for number in each)) / len(each) for each in (tenth, taken)]
    return found[0], found[1]


def coverage(audits: int, seed: int) -> dict[str, int]:
    """In how many of these audits the interval holds the truth, by stratum and for all together."""
    held = dict.fromkeys([*(name for name, *_ in STRATA), "together"], 0)
    for audit in range(audits):
        chance, key = _chance(f"coverage/{seed}/{audit}"), (seed * 1_000_003 + audit).to_bytes(32)
        sets, truth = [], 0
        for name, probability, jobs, rate in STRATA:
            wrong = {number for number in range(jobs) if chance.random() < rate}
            taken = [n for n in range(jobs) if drawn(key, "agent", f"{name}-{n}", Decimal(probability))]
            sampled = Sampled(jobs, len(taken), sum(number in wrong for number in taken))
            least, most = wrong_in(sampled, SURE)
            held[name] += least <= len(wrong) <= most
            truth += len(wrong)
            sets.append((Decimal(probability), sampled))
        found = estimate(sets, SURE)
        held["together"] += found.low <= Decimal(truth) / found.population + Decimal("0.000001") and (
            Decimal(truth) / found.population <= found.high + Decimal("0.000001")
        )
    return held


def measure(findings: Findings, size: Size, seed: int = 1) -> None:
    """Everything, as one table of the findings."""
    findings.texts.append(Text("trust", list(table(size, seed))))


def table(size: Size, seed: int) -> list[str]:
    """The lines that stand in the README."""
    lines = ["promotion to level 2: asked for, of agents with this error rate (median of actions until then)"]
    lines.append(f"{'error rate':>12} {'agents':>8} {'criteria alone':>22} {'with evidence':>22}")
    for rate in RATES:
        agents = size.agents if rate == TESTED else size.others
        found = [promotion(rate, agents, size.actions, evidence=each, seed=seed) for each in (False, True)]
        lines.append(f"{rate:>12.1%} {agents:>8} " + " ".join(f"{_share(each):>22}" for each in found))
    lines += ["", "demotion from level 3: median of actions until then (not within 5,000 actions)"]
    lines.append(f"{'error rate':>12} {'runs':>8} {'error_rate_above 5 %':>22} {'drift 1 % to 5 %':>22}")
    for rate in (0.01, 0.05, 0.1, 0.2):
        delays = [demotion(rate, size.falls, drift=each, seed=seed) for each in (False, True)]
        lines.append(f"{rate:>12.1%} {size.falls:>8} " + " ".join(f"{_delay(each):>22}" for each in delays))
    tenth, hmac_rate = watched(0.05, WATCHED, seed)
    lines += ["", f"an agent that errs in 5 % of its actions, but never where it expects a look ({WATCHED:,} actions)"]
    lines.append(f"  found by every 10th action: {tenth:.2%}; by the HMAC at 10 %: {hmac_rate:.2%}")
    lines += ["", f"coverage of the 95 % intervals in {size.audits:,} audits"]
    for name, count in coverage(size.audits, seed).items():
        lines.append(f"  {name:<10} {count / size.audits:.1%}")
    lines += ["", "actions until a defect is drawn at least once, at 95 %"]
    lines.append(f"{'defect':>12} {'sampled 5 %':>14} {'10 %':>10} {'30 %':>10}")
    for defect in ("0.01", "0.05", "0.10"):
        counts = [actions_to_find(Fraction(defect), Fraction(rate), SURE) for rate in ("0.05", "0.1", "0.3")]
        lines.append(f"{float(defect):>12.0%} {counts[0]:>14,} {counts[1]:>10,} {counts[2]:>10,}")
    return lines


def _chance(seed: str) -> random.Random:
    return random.Random(seed)  # noqa: S311  # the same figures each time


def _share(found: Promotion) -> str:
    share = f"{found.promoted / found.agents:.1%}"
    return share if found.actions_median is None else f"{share} ({found.actions_median:,.0f})"


def _delay(delays: Sequence[int | None]) -> str:
    there = [each for each in delays if each is not None]
    missed = len(delays) - len(there)
    found = "-" if len(there) * 2 < len(delays) else f"{statistics.median(there):,.0f}"
    return f"{found} ({missed / len(delays):.0%})"
