"""`confidence report`: stated confidence against outcome, equal to a second computation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from functools import cache

import msgspec
import pytest
import second_audit as second
from audit_world import audit_world, lived
from test_audits import find, run
from world import CODEC

from sluicegate.processors.confidence_report import Calibration, ConfidenceReport, report_of_log
from sluicegate.streams.engine import Record

EVER = (0, 2**60)


@cache
def whole() -> tuple[Record, ...]:
    return tuple(lived(150).records())


def reported(records: Sequence[Record] | None = None, agent: str | None = None) -> ConfidenceReport:
    return report_of_log(list(whole()) if records is None else records, CODEC, EVER, agent)


def told(job: second.Job) -> tuple[bool | None, Fraction]:
    """Whether it was an error, None where nobody knows, and what an error counts."""
    event, finding = job
    if event.outcome == "failed":
        return True, Fraction(1)
    if finding is not None:
        return finding.finding != "correct", 1 / second.chance_of(job)
    return (False if event.approved_by else None), Fraction(1)


def exact(number: float | None) -> Fraction:
    """The number as it is written."""
    return Fraction(str(number))


def expected(jobs: Sequence[second.Job]) -> dict[str, object]:
    """A calibration, straight from the events."""
    stated = [(exact(each[0].confidence), *told(each)) for each in jobs if each[0].confidence is not None]
    labelled = [each for each in stated if each[1] is not None]
    bins = []
    for low, high in ((0.0, 0.5), (0.5, 0.7), (0.7, 0.9), (0.9, 1.0)):
        mine = [each for each in stated if exact(low) <= each[0] and (each[0] < exact(high) or high == 1.0)]
        known = [each for each in mine if each[1] is not None]
        errors = sum(bool(each[1]) for each in known)
        bounds = second.binomial_bounds(errors, len(known)) if known else (0.0, 1.0)
        mean = sum((each[0] for each in known), Fraction(0)) / len(known) if known else Fraction(0)
        bins.append(
            {
                "from_confidence": low,
                "to_confidence": high,
                "jobs": len(mine),
                "labelled": len(known),
                "errors": errors,
                "error_rate": round(errors / len(known), 6) if known else None,
                "low": bounds[0],
                "high": bounds[1],
                "confidence_mean": float(round(mean, 6)) if known else None,
                "gap": pytest.approx(float(mean) - 1 + errors / len(known), abs=2e-6) if known else None,
            }
        )
    squares = [(each[0] - (0 if each[1] else 1)) ** 2 for each in labelled]
    return {
        "jobs": len(stated),
        "labelled": len(labelled),
        "errors": sum(bool(each[1]) for each in labelled),
        "too_few": len(labelled) < 20,
        "brier": float(round(sum(squares, Fraction(0)) / len(squares), 6)) if squares else None,
        "bins": bins,
        "thresholds": [_threshold(stated, below) for below in (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)],
    }


def _threshold(stated: Sequence[tuple[Fraction, bool | None, Fraction]], below: float) -> dict[str, object]:
    held = [each for each in stated if each[0] < exact(below)]
    missed = [each for each in stated if each[0] >= exact(below) and each[1]]
    every = sum((each[2] for each in stated if each[1]), Fraction(0))
    return {
        "below": below,
        "held": len(held),
        "held_share": round(len(held) / len(stated), 6),
        "missed": len(missed),
        "missed_share": float(round(sum((each[2] for each in missed), Fraction(0)) / every, 6)) if every else None,
    }


def plain(found: Calibration) -> dict[str, object]:
    said: dict[str, object] = msgspec.to_builtins(found)
    del said["agent_id"], said["topic"]
    return said


def test_the_world_has_all_kinds_of_labels() -> None:
    """Else what follows would hold nothing."""
    stated = [each for each in second.jobs_of(whole(), *EVER) if each[0].confidence is not None]
    kinds = {(told(each)[0], each[0].outcome, each[1] is None, bool(each[0].approved_by)) for each in stated}
    assert {each[0] for each in kinds} == {True, False, None}
    assert (False, "succeeded", True, True) in kinds  # approved, and nobody looked
    assert any(told(each)[1] > 1 and told(each)[0] for each in stated)  # an error that stands for several


def test_all_jobs_are_those_of_a_second_computation() -> None:
    """Bins, exact bounds, means, gaps, Brier score, thresholds with weights."""
    jobs = second.jobs_of(whole(), *EVER)
    assert plain(reported().whole) == expected(jobs)
    assert reported().silent == sum(each[0].confidence is None for each in jobs) > 0


def test_each_agent_and_topic_is_that_of_a_second_computation() -> None:
    """None is left out."""
    jobs = [each for each in second.jobs_of(whole(), *EVER) if each[0].confidence is not None]
    names = sorted({(each[0].agent_id, each[0].topic) for each in jobs})
    assert [(each.agent_id, each.topic) for each in reported().groups] == names
    assert len(names) > 10
    for found, name in zip(reported().groups, names, strict=True):
        assert plain(found) == expected([each for each in jobs if (each[0].agent_id, each[0].topic) == name])


def test_a_report_of_one_agent_has_its_jobs_only() -> None:
    """In every count."""
    jobs = [each for each in second.jobs_of(whole(), *EVER) if each[0].agent_id == "reader"]
    assert plain(reported(agent="reader").whole) == expected(jobs)


def test_a_job_that_failed_is_an_error_of_weight_one_whatever_a_sample_says() -> None:
    """That it failed is known of every job that failed: it stands for no other."""
    world = audit_world()
    for number in range(40):
        drawn = run(world, f"j{number}", "job.x", confidence=0.9, succeeded=number > 2)
        if drawn.drawn:
            find(world, drawn.job_id, "wrong" if number == 39 else "correct", "mia")
    found = reported(world.records()).whole
    assert found.errors >= 3
    jobs = second.jobs_of(world.records(), *EVER)
    assert plain(found) == expected(jobs)


def test_what_is_not_labelled_counts_in_the_share_held_only() -> None:
    """A job nobody looked at, nobody approved and that did not fail says nothing of the agent."""
    world = audit_world()
    for number in range(10):
        run(world, f"j{number}", "job.x", confidence=0.4)
    found = reported(world.records()).whole
    assert (found.jobs, found.labelled, found.brier, found.too_few) == (10, 0, None, True)
    assert (found.thresholds[0].held_share, found.thresholds[0].missed_share) == (1.0, None)
    assert {each.error_rate for each in found.bins} == {None}


def test_the_edges_of_the_bins_belong_above() -> None:
    """A confidence of 0.5 is not below 0.5; 1 is in the last bin."""
    world = audit_world()
    for number, confidence in enumerate((0.0, 0.5, 0.7, 0.9, 1.0)):
        run(world, f"j{number}", "job.deploy", confidence=confidence)
    found = reported(world.records()).whole
    assert [each.jobs for each in found.bins] == [1, 1, 1, 2]
    assert [each.held for each in found.thresholds] == [1, 2, 2, 3, 3, 4]
    assert math.isclose(found.thresholds[0].held_share, 0.2)


def test_twenty_labels_are_enough_to_tell() -> None:
    """Fewer are said to be too few."""
    world = audit_world()
    for number in range(20):
        run(world, f"j{number}", "job.ask.x", confidence=0.8)
        assert reported(world.records()).whole.too_few == (number < 19)
