"""Agents whose error rate is known: what trust promises, through the very code that moves levels.

Everything is seeded, so a figure is the same each time.
"""

from __future__ import annotations

import statistics

import pytest

from sluicegate.bench.trust import (
    QUICK,
    STRATA,
    TESTED,
    WATCHED,
    WHOLE,
    Size,
    coverage,
    demotion,
    promotion,
    watched,
)

FORMS = [pytest.param(QUICK, id="short"), pytest.param(WHOLE, id="whole", marks=pytest.mark.campaign)]


@pytest.mark.parametrize("size", FORMS)
def test_evidence_promotes_one_in_twenty_at_the_tested_rate(size: Size) -> None:
    """At most 5 % of agents at 2 % get there, within four standard deviations; the criteria alone let most in."""
    with_evidence = promotion(TESTED, size.agents, size.actions, evidence=True, seed=1)
    alone = promotion(TESTED, size.others, size.actions, evidence=False, seed=1)
    assert with_evidence.promoted <= 0.05 * size.agents + 4 * (size.agents * 0.05 * 0.95) ** 0.5
    assert with_evidence.promoted > 0
    assert alone.promoted > 0.8 * size.others


@pytest.mark.parametrize("size", FORMS)
def test_good_agents_get_there(size: Size) -> None:
    """An agent that errs once in a thousand is promoted, and needs at least 198 labelled actions."""
    found = promotion(0.001, size.others, size.actions, evidence=True, seed=1)
    assert found.promoted > 0.95 * size.others
    assert found.actions_median is not None
    assert found.actions_median >= 198


@pytest.mark.parametrize("size", FORMS)
def test_an_agent_gone_wrong_is_demoted_and_drift_sees_it_sooner(size: Size) -> None:
    """At 20 % errors within tens of actions; at 5 % the test for drift is there long before the rate is."""
    at = {drift: [each or 5_000 for each in demotion(0.05, size.falls, drift=drift, seed=1)] for drift in (False, True)}
    assert statistics.median(at[True]) < statistics.median(at[False]) / 3
    assert max(each or 5_000 for each in demotion(0.2, size.falls, drift=True, seed=1)) < 200


def test_an_agent_that_behaves_where_it_is_looked_at_is_found_by_the_draw_alone() -> None:
    """Every tenth job can be counted on, and finds nothing; the HMAC finds the true rate."""
    tenth, drawn = watched(0.05, WATCHED, seed=1)
    assert tenth == 0
    assert abs(float(drawn) - 0.05) < 0.006


@pytest.mark.parametrize("size", FORMS)
def test_intervals_hold_the_truth(size: Size) -> None:
    """In at least 95 % of the audits, in every stratum and together, within three standard deviations."""
    held = coverage(size.audits, seed=1)
    assert set(held) == {*[name for name, *_ in STRATA], "together"}
    least = 0.95 * size.audits - 3 * (size.audits * 0.95 * 0.05) ** 0.5
    assert min(held.values()) >= least
