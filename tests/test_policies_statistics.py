"""Exact bounds: known values, and coverage by going through every case there is."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction

import pytest

from sluicegate.policies.statistics import (
    NATS,
    Cusum,
    Sampled,
    actions_to_find,
    estimate,
    interval,
    lower_bound,
    upper_bound,
    wrong_in,
)

SURE = Fraction(95, 100)


@pytest.mark.parametrize(("count", "errors", "bound"), [(50, 0, "0.0582"), (50, 1, "0.0914"), (149, 0, "0.0199")])
def test_one_sided_bounds_are_those_of_the_tables(count: int, errors: int, bound: str) -> None:
    """Clopper and Pearson's bounds, to the digits that are published."""
    assert abs(upper_bound(errors, count, SURE) - Decimal(bound)) < Decimal("0.00006")


@pytest.mark.parametrize(("errors", "wanted"), [(0, 149), (1, 236), (2, 313)])
def test_as_many_actions_as_it_takes_for_two_percent(errors: int, wanted: int) -> None:
    """At most 2 % at 95 %: the first count at which the bound is there."""
    assert upper_bound(errors, wanted, SURE) <= Decimal("0.02") < upper_bound(errors, wanted - 1, SURE)


def test_bounds_at_the_ends() -> None:
    """No error bounds nothing from below, only errors nothing from above, and nothing seen says nothing."""
    assert interval(0, 10, SURE)[0] == 0
    assert interval(10, 10, SURE)[1] == 1
    assert interval(0, 0, SURE) == (Decimal(0), Decimal(1))
    assert lower_bound(10, 10, SURE) == 1 - upper_bound(0, 10, SURE)
    with pytest.raises(ValueError, match="3 errors of 2"):
        upper_bound(3, 2, SURE)


def _chance(population: int, size: int, marked: int, found: int) -> Fraction:
    return Fraction(
        math.comb(marked, found) * math.comb(population - marked, size - found), math.comb(population, size)
    )


@pytest.mark.parametrize("population", [1, 2, 7, 16, 24])
def test_the_bounds_of_a_sample_cover_every_truth(population: int) -> None:
    """Whatever the sample's size and however many are wrong, the interval holds the truth in 95 % of the samples."""
    for size in range(population + 1):
        bounds = [wrong_in(Sampled(population, size, found), SURE) for found in range(size + 1)]
        for marked in range(population + 1):
            seen = range(max(0, size - population + marked), min(size, marked) + 1)
            covered = [found for found in seen if bounds[found][0] <= marked <= bounds[found][1]]
            assert sum((_chance(population, size, marked, found) for found in covered), Fraction(0)) >= SURE


def test_who_looked_at_all_knows_all() -> None:
    """A whole sample has no doubt, and none at all has every doubt; what is not judged yet may be either."""
    assert wrong_in(Sampled(50, 50, 3), SURE) == (3, 3)
    assert wrong_in(Sampled(50, 0, 0), SURE) == (0, 50)
    assert wrong_in(Sampled(50, 45, 3, waiting=5), SURE) == (3, 8)
    with pytest.raises(ValueError, match="4 wrong of 3"):
        wrong_in(Sampled(50, 3, 4), SURE)


def test_sets_join_by_their_probabilities() -> None:
    """Each wrong job stands for 1/p jobs; the bounds of the sets add up, each at its share of the risk."""
    sets = [(Decimal("0.5"), Sampled(100, 50, 5)), (Decimal(1), Sampled(10, 10, 2))]
    found = estimate(sets, SURE)
    assert found.rate == Decimal("0.109091")  # (5 / 0.5 + 2) / 110
    low, high = wrong_in(Sampled(100, 50, 5), Fraction(975, 1000))
    assert (found.low, found.high) == (
        Decimal(round((low + 2) * 10**6 / 110)).scaleb(-6),
        Decimal(round((high + 2) * 10**6 / 110)).scaleb(-6),
    )
    assert estimate([(Decimal("0.1"), Sampled(9, 0, 0))], SURE).rate is None


def test_what_nobody_has_judged_yet_is_no_sign_of_being_right() -> None:
    """A set with samples and no judgement is left out of the rate; one of which nothing was drawn is in it."""
    judged = (Decimal("0.5"), Sampled(100, 50, 5))
    assert estimate([judged, (Decimal("0.1"), Sampled(900, 0, 0, waiting=90))], SURE).rate == Decimal("0.1")
    assert estimate([judged, (Decimal("0.001"), Sampled(900, 0, 0))], SURE).rate == Decimal("0.01")
    half = estimate([(Decimal("0.5"), Sampled(100, 25, 5, waiting=25))], SURE)
    assert half.rate == Decimal("0.2")


@pytest.mark.parametrize(
    ("defect", "probability", "wanted"),
    [("0.01", "0.1", 2_995), ("0.1", "0.1", 299), ("1", "1", 1), ("0", "0.5", None)],
)
def test_how_long_a_defect_stays_unseen(defect: str, probability: str, wanted: int | None) -> None:
    """So many actions until one of its jobs is drawn in 95 of 100 cases."""
    assert actions_to_find(Fraction(defect), Fraction(probability), SURE) == wanted


def test_drift_is_a_sum_that_never_falls_below_nothing() -> None:
    """1 % against 5 %: an error adds ln 5, a right action takes ln(0.95/0.99) of it, and 0 is the floor."""
    drift = Cusum(Fraction(1, 100), Fraction(5, 100), Fraction(4))
    assert drift.threshold == 4 * NATS
    assert drift.next(0, wrong=True) == 1_609_438
    assert drift.next(0, wrong=False) == 0
    assert drift.next(1_609_438, wrong=False) == 1_609_438 - 41_243
