"""Sampled audit: which finished jobs people look at, and how likely that was. Pure.

Each job has an inclusion probability of its own, the rate times the largest weight among its tags, and is drawn by
HMAC-SHA256 over its agent and id below that probability: independent draws (Poisson sampling; Hájek, Sampling from a
finite population, 1981) that nobody without the epoch's key can foresee and everybody with it can check. What must be
looked at has probability 1. `uniform` draws each job with the rate alone, by the same means: every Nth job could be
counted on (article, "Pattern 4: Sampled audit at scale").
"""

from __future__ import annotations

import hashlib
import hmac
import math
from collections.abc import Mapping
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import msgspec

from sluicegate.policies.evaluate import FactValue, absent_facts
from sluicegate.policies.facts import FactTest, tests_of
from sluicegate.policies.matching import StaticMatch
from sluicegate.schemas.payload import framed

if TYPE_CHECKING:
    from sluicegate.policies.documents import AuditDocument

OTHER: Final = "other"
"""The stratum of jobs without a tag that has a weight."""
ALL: Final = "all"
"""The one stratum of a uniform sample."""
DEFAULT_ROUTE: Final = "default"
SCALE_DIGITS: Final = 6
"""Digits of a scale behind the point."""
_ONE: Final = Decimal(1)
_SPACE: Final = 2**64


class Inclusion(msgspec.Struct, frozen=True):
    """How likely a job is looked at. ``stratum`` is the tag that gave the weight."""

    stratum: str
    probability: Decimal
    mandatory: bool


class AuditTerms:
    """What the audit document says, ready to be asked."""

    def __init__(self, document: AuditDocument) -> None:
        sampling = document.audit.sampling
        self.rate = Decimal(repr(sampling.rate))
        self.stratified = sampling.strategy == "stratified"
        weights = sampling.weights.risk_tags if sampling.weights is not None else {}
        self.weights: Mapping[str, Decimal] = {tag: Decimal(repr(weight)) for tag, weight in weights.items()}
        self._mandatory = [
            (StaticMatch.of(each.match), tests_of(each.match.fact_tests())) for each in document.audit.mandatory
        ]
        self.facts_asked = frozenset(test.fact for _, tests in self._mandatory for test in tests)
        """The facts that make a job's audit mandatory."""
        self._routing = document.audit.routing
        self.normalised = sampling.normalise
        self.due_sec = int(document.audit.due_sec)
        self.escalation = document.audit.escalation or self.queue(None)
        """The queue of samples that are overdue."""

    def inclusion(
        self, topic: str, tags: frozenset[str], facts: Mapping[str, FactValue], scale: Decimal = _ONE
    ) -> Inclusion:
        """How likely a job with these tags and facts is looked at; ``scale`` counts where rates are normalised.

        A mandatory match whose declared fact is absent counts: what is not known must not spare a job.
        """
        stratum, weight = self._weight(tags) if self.stratified else (ALL, _ONE)
        mandatory = any(match.fits(topic, tags) and _holds(tests, facts) for match, tests in self._mandatory)
        return Inclusion(stratum, _ONE if mandatory else self.probability(weight, scale), mandatory)

    def probability(self, weight: Decimal, scale: Decimal = _ONE) -> Decimal:
        """How likely a job of this weight is looked at."""
        return min(_ONE, self.rate * weight * (scale if self.normalised else _ONE))

    def scale(self, mix: Mapping[str, int]) -> Decimal:
        """What rates are scaled with, so that a mix of jobs, each stratum with its count, is looked at with the rate.

        The share that is looked at rises with the scale, in straight pieces that end where a stratum's probability
        reaches 1; so it is solved exactly, and rounded up to `SCALE_DIGITS`. 1 where nothing is known of the mix.
        """
        counts: dict[Fraction, int] = {}
        for stratum, count in mix.items():
            weight = Fraction(self.rate * self.weights.get(stratum, _ONE))
            counts[weight] = counts.get(weight, 0) + count
        whole, wanted = 0, Fraction(self.rate) * sum(counts.values())
        for weight in sorted(counts, reverse=True):
            rising = sum(each * count for each, count in counts.items() if each <= weight)
            if rising and (wanted - whole) / rising * weight <= 1:
                return _rounded_up((wanted - whole) / rising)
            whole += counts[weight]  # all of these are looked at
        return _ONE

    def _weight(self, tags: frozenset[str]) -> tuple[str, Decimal]:
        found: tuple[str, Decimal] | None = None
        for tag, weight in self.weights.items():
            if tag in tags and (found is None or weight > found[1]):
                found = tag, weight
        return found or (OTHER, _ONE)

    def queue(self, category: str | None) -> str:
        """Who looks at jobs of a category."""
        found = None if category is None else self._routing.get(category)
        return found or self._routing.get(DEFAULT_ROUTE, DEFAULT_ROUTE)


def _holds(tests: tuple[FactTest, ...], facts: Mapping[str, FactValue]) -> bool:
    return absent_facts(tests, facts) is not None


def drawn(key: bytes, agent_id: str, job_id: str, probability: Decimal) -> bool:
    """Whether a job is drawn under an epoch's key: 8 bytes of the HMAC, over 2^64, lie below its probability."""
    number = int.from_bytes(hmac.digest(key, framed(_encoded(agent_id), _encoded(job_id)), hashlib.sha256)[:8])
    return number < _limit(probability)


@lru_cache(maxsize=1_024)
def _limit(probability: Decimal) -> int:
    """The least whole number that is not below a probability's share of the space."""
    return math.ceil(Fraction(probability) * _SPACE)


def probability_text(probability: Decimal) -> str:
    """A probability as it stands in events: the same number is always the same text."""
    return format(probability.normalize(), "f")


def _rounded_up(number: Fraction) -> Decimal:
    return Decimal(math.ceil(number * 10**SCALE_DIGITS)).scaleb(-SCALE_DIGITS)


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
