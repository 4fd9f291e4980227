"""Stated confidence against outcome: what agents said of themselves, and what became of it. Pure.

A job is labelled where it is known how it came out: it failed, people judged a sample of it, or a person approved it
and nobody found it wrong. What is not labelled is counted in what a rule would have held, and in nothing else.

Error rates of bins have exact bounds (Clopper and Pearson, 1934); the Brier score is the mean squared distance of the
stated confidence from the outcome (Brier, Verification of forecasts expressed in terms of probability, 1950).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Final

import msgspec

from sluicegate.policies.statistics import interval
from sluicegate.processors.audit_log import Drawn, read_audits
from sluicegate.schemas.codec import Codec
from sluicegate.streams.engine import Record

CONFIDENCE: Final = Fraction(95, 100)
BINS: Final = tuple(Fraction(edge) for edge in ("0", "0.5", "0.7", "0.9", "1"))
"""Edges of the bins: each holds its lower edge, the last its upper one, too."""
THRESHOLDS: Final = tuple(Fraction(edge) for edge in ("0.5", "0.6", "0.7", "0.8", "0.9", "0.95"))
LABELS_MIN: Final = 20
"""With fewer labels nothing can be told."""
DIGITS: Final = 6


class Bin(msgspec.Struct, frozen=True, kw_only=True):
    """Jobs of a range of stated confidence. Mean and gap are of labelled jobs; None where there are none.

    ``gap`` is the mean confidence less the share that came out well: above 0 the agent promises too much.
    """

    from_confidence: float
    to_confidence: float
    jobs: int
    labelled: int
    errors: int
    error_rate: float | None
    low: float
    high: float
    confidence_mean: float | None
    gap: float | None


class Threshold(msgspec.Struct, frozen=True, kw_only=True):
    """What a rule `confidence_below: below` would have held, and the errors it would have let through.

    ``missed_share`` is of all labelled errors, each error that only a sample shows counted 1/p times; None without one.
    """

    below: float
    held: int
    held_share: float
    missed: int
    missed_share: float | None


class Calibration(msgspec.Struct, frozen=True, kw_only=True):
    """The jobs of one agent on one topic that stated a confidence; both None: all of them."""

    agent_id: str | None
    topic: str | None
    jobs: int
    labelled: int
    errors: int
    too_few: bool
    """Whether there are fewer than `LABELS_MIN` labels."""
    brier: float | None
    bins: list[Bin]
    thresholds: list[Threshold]


class ConfidenceReport(msgspec.Struct, frozen=True, kw_only=True):
    """Everything. ``silent`` are finished jobs that stated no confidence."""

    from_ms: int
    to_ms: int
    agent_id: str | None
    silent: int
    labels_min: int
    whole: Calibration
    groups: list[Calibration]


class _Told(msgspec.Struct, frozen=True):
    """A job with its confidence; ``error`` is None where it is not labelled, ``weight`` what an error counts."""

    confidence: Fraction
    """The number as it was stated: exact sums round the same on every machine."""
    error: bool | None
    weight: Fraction


def report_of_log(
    records: Sequence[Record], codec: Codec, period: tuple[int, int], agent_id: str | None = None
) -> ConfidenceReport:
    """The report on the jobs that ended from the first time on, before the second."""
    begins, ends = period
    finished = [
        each
        for each in read_audits(records, codec).drawn
        if begins <= each.event.at_ms < ends and agent_id in (None, each.event.agent_id)
    ]
    groups: defaultdict[tuple[str, str], list[_Told]] = defaultdict(list)
    silent = 0
    for each in finished:
        confidence = each.event.confidence
        if confidence is None:
            silent += 1
        else:
            groups[each.event.agent_id, each.event.topic].append(_told(each, Fraction(repr(confidence))))
    return ConfidenceReport(
        from_ms=begins,
        to_ms=ends,
        agent_id=agent_id,
        silent=silent,
        labels_min=LABELS_MIN,
        whole=_calibration(None, None, [each for told in groups.values() for each in told]),
        groups=[_calibration(agent, topic, told) for (agent, topic), told in sorted(groups.items())],
    )


def _told(each: Drawn, confidence: Fraction) -> _Told:
    """A failure is known of every job that failed; what only a sample shows stands for 1/p jobs."""
    event = each.event
    if event.outcome == "failed":
        return _Told(confidence, True, Fraction(1))
    if each.judged:
        return _Told(confidence, each.wrong, 1 / Fraction(each.probability))
    return _Told(confidence, False if event.approved_by else None, Fraction(1))


def _calibration(agent_id: str | None, topic: str | None, told: Sequence[_Told]) -> Calibration:
    labelled = [each for each in told if each.error is not None]
    squares = [(each.confidence - (not each.error)) ** 2 for each in labelled]
    return Calibration(
        agent_id=agent_id,
        topic=topic,
        jobs=len(told),
        labelled=len(labelled),
        errors=sum(each.error is True for each in labelled),
        too_few=len(labelled) < LABELS_MIN,
        brier=_rounded(_mean(squares)),
        bins=[_bin(low, high, told) for low, high in pairwise(BINS)],
        thresholds=[_threshold(below, told) for below in THRESHOLDS],
    )


def _bin(low: Fraction, high: Fraction, told: Sequence[_Told]) -> Bin:
    # A claim outside 0 and 1 is still a claim: it falls into the bin at its end.
    mine = [
        each
        for each in told
        if (low == BINS[0] or each.confidence >= low) and (high == BINS[-1] or each.confidence < high)
    ]
    labelled = [each for each in mine if each.error is not None]
    errors = sum(each.error is True for each in labelled)
    bounds = interval(errors, len(labelled), CONFIDENCE) if labelled else (0, 1)
    mean = _mean([each.confidence for each in labelled])
    wrong = Fraction(errors, len(labelled)) if labelled else None
    return Bin(
        from_confidence=float(low),
        to_confidence=float(high),
        jobs=len(mine),
        labelled=len(labelled),
        errors=errors,
        error_rate=_rounded(wrong),
        low=float(bounds[0]),
        high=float(bounds[1]),
        confidence_mean=_rounded(mean),
        gap=None if mean is None or wrong is None else _rounded(mean - 1 + wrong),
    )


def _threshold(below: Fraction, told: Sequence[_Told]) -> Threshold:
    errors = [each for each in told if each.error]
    missed = [each for each in errors if each.confidence >= below]
    held = sum(each.confidence < below for each in told)
    weight = sum((each.weight for each in errors), Fraction(0))
    share = sum((each.weight for each in missed), Fraction(0)) / weight if weight else None
    return Threshold(
        below=float(below),
        held=held,
        held_share=float(round(Fraction(held, len(told)), DIGITS)) if told else 0.0,
        missed=len(missed),
        missed_share=_rounded(share),
    )


def _mean(numbers: Sequence[Fraction]) -> Fraction | None:
    return sum(numbers, Fraction(0)) / len(numbers) if numbers else None


def _rounded(number: Fraction | None) -> float | None:
    return None if number is None else float(round(number, DIGITS))
