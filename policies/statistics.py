"""Exact bounds for small counts. Pure; integers and decimals only, so that every machine gives the same digits.

A normal approximation says nothing at no, one or two errors, which is where audits live.

- Binomial: Clopper and Pearson (The use of confidence or fiducial limits, 1934), by bisection on the tail.
- Hypergeometric: jobs of one inclusion probability that were drawn are, given how many, a simple random sample of all
  of them; the bounds invert both tails (Wright, Exact confidence bounds when sampling from small finite universes,
  1991).
- Joined: the sets' totals add up, each at a confidence of 1 - (1 - c) / k of k sets (Bonferroni).
- Drift: a CUSUM of log-likelihood ratios (Page, Continuous inspection schemes, 1954).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from decimal import Context, Decimal
from fractions import Fraction
from typing import Final

import msgspec

DIGITS: Final = 6
"""Digits of a bound behind the point; a lower one is rounded down, an upper one up."""
_UNIT: Final = 10**DIGITS
_EXACT: Final = Context(prec=60)
NATS: Final = 1_000_000
"""CUSUMs count in millionths of a nat."""


def upper_bound(errors: int, count: int, confidence: Fraction) -> Decimal:
    """The smallest rate, rounded up, that so few errors leave no room for: one-sided, exact. 1 where nothing was seen.

    Raises ValueError when there are more errors than actions.
    """
    _check(errors, count)
    if errors == count:
        return Decimal(1)
    alpha = _decimal(1 - confidence)
    return _least(lambda rate: _at_most(errors, count, rate) <= alpha)


def lower_bound(errors: int, count: int, confidence: Fraction) -> Decimal:
    """The largest rate, rounded down, that so many errors rule out from below: one-sided, exact."""
    _check(errors, count)
    if errors == 0:
        return Decimal(0)
    return 1 - upper_bound(count - errors, count, confidence)


def interval(errors: int, count: int, confidence: Fraction) -> tuple[Decimal, Decimal]:
    """Both bounds of a rate, each at half the risk."""
    each = 1 - (1 - confidence) / 2
    return lower_bound(errors, count, each), upper_bound(errors, count, each)


def _check(errors: int, count: int) -> None:
    if not 0 <= errors <= count:
        raise ValueError(f"{errors} errors of {count} actions")


def _decimal(number: Fraction) -> Decimal:
    return _EXACT.divide(Decimal(number.numerator), Decimal(number.denominator))


def _least(holds: Callable[[Decimal], bool]) -> Decimal:
    """The least rate on the grid at which this holds; it holds from there on, and at 1."""
    low, high = 0, _UNIT
    while low < high:
        middle = (low + high) // 2
        if holds(Decimal(middle).scaleb(-DIGITS)):
            high = middle
        else:
            low = middle + 1
    return Decimal(low).scaleb(-DIGITS)


def _at_most(errors: int, count: int, rate: Decimal) -> Decimal:
    """The chance of at most so many errors of independent actions at this rate."""
    if rate == 0:
        return Decimal(1)
    if rate == 1:
        return Decimal(int(errors >= count))
    odds = _EXACT.divide(rate, 1 - rate)
    term = total = _EXACT.power(1 - rate, count)
    for number in range(1, errors + 1):
        term = _EXACT.divide(_EXACT.multiply(_EXACT.multiply(term, odds), count - number + 1), Decimal(number))
        total = _EXACT.add(total, term)
    return total


class Sampled(msgspec.Struct, frozen=True):
    """Jobs of one inclusion probability: all of them, those looked at, those found wrong, those still to be judged."""

    population: int
    judged: int
    wrong: int
    waiting: int = 0
    """Drawn, and nobody has said yet: they may be right or wrong."""


def wrong_in(sampled: Sampled, confidence: Fraction) -> tuple[int, int]:
    """The least and the most wrong jobs there can be among all, at this confidence: exact, two-sided.

    What is still to be judged counts as right below and as wrong above. Raises ValueError for impossible counts.
    """
    size = sampled.judged + sampled.waiting
    if not 0 <= sampled.wrong <= sampled.judged or size > sampled.population:
        raise ValueError(f"{sampled.wrong} wrong of {sampled.judged} judged of {sampled.population}")
    alpha = (1 - confidence) / 2
    low = _fewest(sampled.population, size, sampled.wrong, alpha)
    right = sampled.judged - sampled.wrong
    return low, sampled.population - _fewest(sampled.population, size, right, alpha)


def _fewest(population: int, size: int, found: int, alpha: Fraction) -> int:
    """The fewest marked jobs of a population at which a sample holds so many with a chance above ``alpha``."""
    low, high = found, population - (size - found)
    while low < high:
        middle = (low + high) // 2
        if _at_least(population, size, middle, found, alpha):
            high = middle
        else:
            low = middle + 1
    return low


def _at_least(population: int, size: int, marked: int, found: int, alpha: Fraction) -> bool:
    """Whether a sample holds at least ``found`` of the ``marked`` with a chance above ``alpha``."""
    first = max(0, size - (population - marked))
    whole = math.comb(population, size)
    below = 0
    if found > first:
        term = math.comb(marked, first) * math.comb(population - marked, size - first)
        for number in range(first, found):
            below += term
            if (whole - below) * alpha.denominator <= whole * alpha.numerator:
                return False
            term = term * (marked - number) * (size - number)
            term //= (number + 1) * (population - marked - size + number + 1)
    return True


class Estimate(msgspec.Struct, frozen=True):
    """An error rate with its bounds: estimated by Horvitz and Thompson, bounded exactly."""

    population: int
    judged: int
    wrong: int
    waiting: int
    rate: Decimal | None
    """None where nothing was looked at."""
    low: Decimal
    high: Decimal


def estimate(sets: Sequence[tuple[Decimal, Sampled]], confidence: Fraction) -> Estimate:
    """The error rate of all jobs in these sets, each with its inclusion probability.

    Horvitz and Thompson (A generalization of sampling without replacement from a finite universe, 1952): each wrong job
    stands for 1/p jobs. What was drawn and is not judged yet carries no weight in the rate, and widens the bounds; a
    set of which nobody has judged anything yet is left out of the rate, which is then that of the others.
    """
    population = sum(each.population for _, each in sets)
    judged = sum(each.judged for _, each in sets)
    low = high = 0
    told, answered_for = Fraction(0), 0
    for probability, each in sets:
        share = 1 - (1 - confidence) / len(sets)
        least, most = wrong_in(each, share)
        low, high = low + least, high + most
        answered_for += each.population if each.judged or not each.waiting else 0
        if each.judged:
            answered = Fraction(each.judged, each.judged + each.waiting)
            told += Fraction(each.wrong) / (Fraction(probability) * answered)
    rate = None if not judged else _rounded(min(Fraction(1), told / answered_for))
    return Estimate(
        population=population,
        judged=judged,
        wrong=sum(each.wrong for _, each in sets),
        waiting=sum(each.waiting for _, each in sets),
        rate=rate,
        low=_rounded(Fraction(low, population)) if population else Decimal(0),
        high=_rounded(Fraction(high, population)) if population else Decimal(1),
    )


def _rounded(number: Fraction) -> Decimal:
    return Decimal(round(number * _UNIT)).scaleb(-DIGITS)


def actions_to_find(defect: Fraction, probability: Fraction, confidence: Fraction) -> int | None:
    """How many actions pass until a defect of this rate is drawn at least once, at this confidence; None for never."""
    hit = defect * probability
    if hit <= 0:
        return None
    if hit >= 1:
        return 1
    wanted = _EXACT.divide(_EXACT.ln(_decimal(1 - confidence)), _EXACT.ln(_decimal(1 - hit)))
    return int(wanted.to_integral_value("ROUND_CEILING"))


class Cusum:
    """A sequential test for drift: from the usual error rate to one that is feared."""

    def __init__(self, usual: Fraction, feared: Fraction, threshold: Fraction) -> None:
        """``threshold`` is in nats: 4 lets about 2,300 good actions pass between false alarms at 1 % against 5 %."""
        self.wrong = _nats(feared / usual)
        self.right = _nats((1 - feared) / (1 - usual))
        self.threshold = round(threshold * NATS)

    def next(self, value: int, *, wrong: bool) -> int:
        """The sum after one more action, in millionths of a nat; never below 0."""
        return max(0, value + (self.wrong if wrong else self.right))


def _nats(ratio: Fraction) -> int:
    return int((_EXACT.ln(_decimal(ratio)) * NATS).to_integral_value())
