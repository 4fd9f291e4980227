"""Where the next samples should be drawn: as many in all as now, allocated by what was found. Pure.

Neyman (On the two different aspects of the representative method, 1934): samples go to strata in proportion to their
jobs times the standard deviation of what is found there, so a stratum's rate is in proportion to its deviation alone.
The deviation is that of an error share of (wrong + 1) / (judged + 2) (Laplace), never 0, so that a stratum in which
nothing was found keeps its samples. Rates end at 1; what that leaves over goes to the others in the same proportion.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Context, Decimal
from typing import Final

import msgspec

from sluicegate.policies.sampling import ALL, OTHER, AuditTerms
from sluicegate.processors.audit_log import Drawn

_EXACT: Final = Context(prec=40)
DIGITS: Final = 6
"""Digits of a rate and of a weight behind the point."""
_ONE: Final = Decimal(1)


class Share(msgspec.Struct, frozen=True, kw_only=True):
    """One stratum in the allocation, without its mandatory jobs; ``expected`` are samples a period like this one."""

    stratum: str
    jobs: int
    judged: int
    wrong: int
    deviation: float
    rate: float
    expected: float
    suggested: float
    suggested_expected: float
    weight: float | None = None
    """What would have to stand under ``audit.sampling.weights.risk_tags``; None where none can."""


class Allocation(msgspec.Struct, frozen=True, kw_only=True):
    """The rates in force beside those that would find the error rate best with as many samples.

    ``sampling_rate`` and ``weights`` are what would have to be written into `audit.sampling`, tags without jobs in the
    period at the rates they have; None where the active bundle does not draw by strata.
    """

    expected: float
    mandatory: int
    shares: list[Share]
    stratified: bool
    normalised: bool
    """Whether rates are scaled by the bundle: then only the ratios of weights count, and the rate stays."""
    sampling_rate: float | None = None
    weights: dict[str, float] | None = None


def rates_in_force(terms: AuditTerms | None, scale: Decimal, drawn: Sequence[Drawn]) -> dict[str, Decimal]:
    """How likely a job of each stratum is looked at now: by the active policy, else as its last job was."""
    rates: dict[str, Decimal] = {}
    for each in drawn:
        if not each.event.mandatory and (each.event.epoch or each.event.stratum not in rates):
            rates[each.event.stratum] = each.probability
    if terms is None:
        return dict(sorted(rates.items()))
    if not terms.stratified:
        rates[ALL] = terms.probability(_ONE, scale)
    else:
        rates.update({tag: terms.probability(weight, scale) for tag, weight in terms.weights.items()})
        rates[OTHER] = terms.probability(_ONE, scale)
    return dict(sorted(rates.items()))


def neyman(jobs: Mapping[str, int], deviations: Mapping[str, Decimal], samples: Decimal) -> dict[str, Decimal]:
    """The rate of each stratum, unrounded, at which so many samples are expected of all. Strata have jobs."""
    rates: dict[str, Decimal] = {}
    left, over = samples, dict(jobs)
    while over:
        weight = sum((deviations[name] * count for name, count in over.items()), Decimal(0))
        factor = _EXACT.divide(left, weight)
        full = [name for name in over if factor * deviations[name] >= 1]
        if not full:
            return {**rates, **{name: factor * deviations[name] for name in over}}
        for name in full:
            rates[name] = _ONE
            left -= over.pop(name)
    return rates


def deviation(wrong: int, judged: int) -> Decimal:
    """The standard deviation of a finding, wrong or not, in a stratum with so many found."""
    share = _EXACT.divide(Decimal(wrong + 1), Decimal(judged + 2))
    return _EXACT.sqrt(_EXACT.multiply(share, 1 - share))


def allocation_of(drawn: Sequence[Drawn], terms: AuditTerms | None, rates: Mapping[str, Decimal]) -> Allocation:
    """The allocation over the strata that had jobs that need not be looked at anyway."""
    free = [each for each in drawn if not each.event.mandatory]
    jobs, judged, wrong = (dict.fromkeys(sorted({each.event.stratum for each in free}), 0) for _ in range(3))
    for each in free:
        jobs[each.event.stratum] += 1
        judged[each.event.stratum] += each.judged
        wrong[each.event.stratum] += each.wrong
    deviations = {name: deviation(wrong[name], judged[name]) for name in jobs}
    samples = sum((rates[name] * count for name, count in jobs.items()), Decimal(0))
    found = neyman(jobs, deviations, samples) if samples else {name: Decimal(0) for name in jobs}
    suggested = {name: _rounded(rate) for name, rate in found.items()}
    stratified = terms is not None and terms.stratified
    rate, weights = _written(terms, rates, suggested) if terms is not None and stratified and samples else (None, None)
    return Allocation(
        expected=float(_rounded(samples)),
        mandatory=len(drawn) - len(free),
        shares=[
            Share(
                stratum=name,
                jobs=jobs[name],
                judged=judged[name],
                wrong=wrong[name],
                deviation=float(_rounded(deviations[name])),
                rate=float(rates[name]),
                expected=float(_rounded(rates[name] * jobs[name])),
                suggested=float(suggested[name]),
                suggested_expected=float(_rounded(found[name] * jobs[name])),
                weight=None if weights is None else weights.get(name),
            )
            for name in jobs
        ],
        stratified=stratified,
        normalised=terms is not None and terms.normalised,
        sampling_rate=rate,
        weights=weights,
    )


def _written(
    terms: AuditTerms, rates: Mapping[str, Decimal], suggested: Mapping[str, Decimal]
) -> tuple[float, dict[str, float]] | tuple[None, None]:
    """The rate and the weights that give the suggested rates.

    Jobs without a weighted tag have weight 1 and no key to write another under: what is suggested of them is the rate.
    """
    base = suggested.get(OTHER) or terms.rate
    if not base:
        return None, None
    weights = {
        tag: float(_rounded(_EXACT.divide(suggested.get(tag, rates[tag]), base))) for tag in sorted(terms.weights)
    }
    return float(terms.rate if terms.normalised else base), weights


def _rounded(number: Decimal) -> Decimal:
    return number.quantize(Decimal(1).scaleb(-DIGITS))
