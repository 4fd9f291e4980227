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
from collections.abc import Mapping
from decimal import Decimal
from fractions import Fraction
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

    def inclusion(self, topic: str, tags: frozenset[str], facts: Mapping[str, FactValue]) -> Inclusion:
        """How likely a job with these tags and facts is looked at.

        A mandatory match whose declared fact is absent counts: what is not known must not spare a job.
        """
        stratum, weight = self._weight(tags) if self.stratified else (ALL, _ONE)
        mandatory = any(match.fits(topic, tags) and _holds(tests, facts) for match, tests in self._mandatory)
        return Inclusion(stratum, _ONE if mandatory else min(_ONE, self.rate * weight), mandatory)

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
    return number < Fraction(probability) * _SPACE


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
