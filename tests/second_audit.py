"""An audit report computed a second time, straight from the events: fractions, and every tail by brute force.

It shares no code with `policies.statistics` or `processors`: what both say is likely true.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

from world import CODEC

from sluicegate.schemas.events import AuditDrawn, Finding, RequestEscalated
from sluicegate.streams.engine import Record

Job = tuple[AuditDrawn, Finding | None]


def jobs_of(records: Sequence[Record], begins: int, ends: int) -> list[Job]:
    """Each draw of the period with its finding, whenever that came."""
    events = [CODEC.decode_or_none(each.value) for each in records]
    findings = {each.request_id: each for each in events if isinstance(each, Finding)}
    found = [each for each in events if isinstance(each, AuditDrawn) and begins <= each.at_ms < ends]
    return [(each, findings.get(each.request_id or "")) for each in found]


def overdue_in(records: Sequence[Record]) -> Counter[str]:
    """How often each request was overdue."""
    events = [CODEC.decode_or_none(each.value) for each in records]
    return Counter(each.request_id for each in events if isinstance(each, RequestEscalated))


def chance_of(job: Job) -> Fraction:
    return Fraction(1) if job[0].epoch == 0 else Fraction(job[0].probability)


def is_wrong(job: Job) -> bool:
    return job[1] is not None and job[1].finding in ("wrong", "harmful")


def rates_by(jobs: Sequence[Job], name_of: Callable[[AuditDrawn], str]) -> dict[str, dict[str, Any]]:
    """The rate of each name."""
    names = sorted({name_of(each[0]) for each in jobs})
    return {name: rate_of([each for each in jobs if name_of(each[0]) == name]) for name in names}


def rate_of(jobs: Sequence[Job]) -> dict[str, Any]:
    """Counts, the Horvitz-Thompson estimate of the rate, and its exact 95 % bounds."""
    chances = sorted({chance_of(each) for each in jobs})
    told, low, high, answered_for = Fraction(0), 0, 0, 0
    for chance in chances:
        group = [each for each in jobs if chance_of(each) == chance]
        judged = sum(each[1] is not None for each in group)
        wrong = sum(map(is_wrong, group))
        waiting = sum(each[0].drawn and each[1] is None for each in group)
        each_risk = Fraction(5, 100) / len(chances) / 2
        possible = range(len(group) + 1)
        size = judged + waiting
        # As right as can be below, as wrong as can be above: a count is possible where its tail is not too small.
        low += min(each for each in possible if tail_above(len(group), each, size, wrong) > each_risk)
        high += max(each for each in possible if tail_below(len(group), each, size, wrong + waiting) > each_risk)
        answered_for += len(group) if judged or not waiting else 0
        if judged:
            told += wrong / chance * Fraction(size, judged)
    judged = sum(each[1] is not None for each in jobs)
    return {
        "jobs": len(jobs),
        "mandatory": sum(each[0].mandatory for each in jobs),
        "drawn": sum(each[0].drawn for each in jobs),
        "judged": judged,
        "waiting": sum(each[0].drawn and each[1] is None for each in jobs),
        "wrong": sum(map(is_wrong, jobs)),
        "harmful": sum(each[1] is not None and each[1].finding == "harmful" for each in jobs),
        "rate": rounded(min(Fraction(1), told / answered_for)) if judged else None,
        "low": rounded(Fraction(low, len(jobs))),
        "high": rounded(Fraction(high, len(jobs))),
    }


def tail_above(population: int, marked: int, size: int, found: int) -> Fraction:
    """The chance that a sample of this size holds at least so many of the marked."""
    return sum((chance(population, marked, size, each) for each in range(found, size + 1)), Fraction(0))


def tail_below(population: int, marked: int, size: int, found: int) -> Fraction:
    """The chance that it holds at most so many."""
    return sum((chance(population, marked, size, each) for each in range(found + 1)), Fraction(0))


def chance(population: int, marked: int, size: int, found: int) -> Fraction:
    ways = math.comb(marked, found) * math.comb(population - marked, size - found) if size >= found else 0
    return Fraction(ways, math.comb(population, size))


def until_found(rate: float, chance_drawn: float, at: float = 0.95) -> int:
    """How many jobs pass until one that is wrong is drawn with this chance, counted one by one."""
    missed, count = 1.0, 0
    while 1 - missed < at - 1e-12:
        missed, count = missed * (1 - rate * chance_drawn), count + 1
    return count


def neyman(strata: dict[str, tuple[int, int, int, float]]) -> dict[str, float]:
    """Rates for (jobs, judged, wrong, rate in force) of each stratum: the factor is found by halving."""
    spread = {}
    for name, (_, judged, wrong, _) in strata.items():
        share = (wrong + 1) / (judged + 2)
        spread[name] = math.sqrt(share * (1 - share))
    wanted = sum(jobs * rate for jobs, _, _, rate in strata.values())
    low, high = 0.0, 1 / min(spread.values())
    for _ in range(200):
        factor = (low + high) / 2
        if sum(jobs * min(1.0, factor * spread[name]) for name, (jobs, _, _, _) in strata.items()) < wanted:
            low = factor
        else:
            high = factor
    return {name: min(1.0, high * spread[name]) for name in strata}


def binomial_bounds(errors: int, count: int) -> tuple[float, float]:
    """Clopper and Pearson's 95 % bounds on a grid of millionths: the low one down, the high one up."""
    risk = Fraction(25, 1000)

    def at_most(wrong: int, rate: Fraction) -> Fraction:
        each = [math.comb(count, k) * rate**k * (1 - rate) ** (count - k) for k in range(wrong + 1)]
        return sum(each, Fraction(0))

    def least(holds: Callable[[Fraction], bool]) -> int:
        low, high = 0, 10**6
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if holds(Fraction(middle, 10**6)) else (middle + 1, high)
        return low

    above = 10**6 if errors == count else least(lambda rate: at_most(errors, rate) <= risk)
    below = 0 if errors == 0 else 10**6 - least(lambda rate: at_most(count - errors, rate) <= risk)
    return below / 10**6, above / 10**6


def rounded(number: Fraction) -> float:
    return round(number * 10**6) / 10**6
