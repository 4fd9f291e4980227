"""`audit report`: equal to a second computation, with its edges, and first what nobody must overlook."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal
from functools import cache

import msgspec
import pytest
import second_audit as second
from audit_world import audit_world, broken, drawn_in, lived, of_log, place_of, replaced, with_time_out
from test_audits import AUDIT, begin_epoch, files, find, reveal, run
from test_control_world import say
from world import CODEC, World

from sluicegate.processors.audit_allocation import deviation, neyman
from sluicegate.schemas.events import AuditDrawn, Command
from sluicegate.streams.control_epochs import REVEAL_AFTER_MS
from sluicegate.streams.engine import Record


@cache
def whole() -> tuple[Record, ...]:
    return tuple(lived().records())


def log() -> list[Record]:
    return list(whole())


def test_the_world_has_all_that_a_report_tells() -> None:
    """Else what follows would hold nothing: three strata, mandatory ones, jobs that were not drawn, all findings."""
    drawn = drawn_in(log())
    assert {each.stratum for each in drawn} == {"read", "prod", "other"}
    assert {(each.mandatory, each.drawn) for each in drawn} == {(True, True), (False, True), (False, False)}
    assert {each.probability for each in drawn} == {"0.25", "0.5", "1"}
    found = [each[1] for each in second.jobs_of(log(), 0, 2**60)]
    assert {each.finding for each in found if each is not None} == {"correct", "wrong", "harmful"}
    assert second.overdue_in(log())


@pytest.mark.parametrize("share", [(0, 1), (0, 0.5), (0.3, 0.7)])
def test_rates_are_those_of_a_second_computation(share: tuple[float, float]) -> None:
    """Of all, by agent, by topic, by stratum: counts, Horvitz-Thompson, exact bounds; of any part of the time."""
    times = [each.at_ms for each in drawn_in(log())]
    begins, ends = (int(min(times) + part * (max(times) + 1 - min(times))) for part in share)
    report = of_log(log(), begins, ends)
    jobs = second.jobs_of(log(), begins, ends)
    assert {"name": "all", **second.rate_of(jobs)} == msgspec.to_builtins(report.whole)
    for rates, name_of in (
        (report.agents, lambda each: each.agent_id),
        (report.topics, lambda each: each.topic),
        (report.strata, lambda each: each.stratum),
    ):
        expected = second.rates_by(jobs, name_of)
        assert [{"name": name, **rate} for name, rate in expected.items()] == msgspec.to_builtins(rates)
    assert len(report.agents) == 3


def test_a_report_of_one_agent_has_its_jobs_only() -> None:
    """In every count; rates in force are everybody's."""
    report = of_log(log(), agent="reader")
    jobs = [each for each in second.jobs_of(log(), 0, 2**60) if each[0].agent_id == "reader"]
    assert {"name": "all", **second.rate_of(jobs)} == msgspec.to_builtins(report.whole)
    assert {each.agent_id for each in report.errors} == {"reader"}
    assert report.detection == of_log(log()).detection


def test_detection_is_counted_job_by_job() -> None:
    """Of a defect of 1, 5 and 10 %, at the rate of each stratum."""
    found = {each.stratum: each for each in of_log(log()).detection}
    assert {name: each.rate for name, each in found.items()} == {"read": 0.25, "prod": 1.0, "other": 0.5}
    for each in found.values():
        counted = {str(defect): second.until_found(defect, each.rate) for defect in (0.01, 0.05, 0.1)}
        assert each.jobs_by_defect == counted


def test_the_allocation_is_neymans_with_as_many_samples() -> None:
    """By a factor found by halving; no mandatory job is in it, and what is expected stays."""
    allocation = of_log(log()).allocation
    free = [each for each in second.jobs_of(log(), 0, 2**60) if not each[0].mandatory]
    rates = {"read": 0.25, "prod": 1.0, "other": 0.5}
    strata = {}
    for name, rate in rates.items():
        mine = [each for each in free if each[0].stratum == name]
        judged = sum(each[1] is not None for each in mine)
        strata[name] = (len(mine), judged, sum(map(second.is_wrong, mine)), rate)
    expected = second.neyman(strata)
    for each in allocation.shares:
        assert (each.jobs, each.judged, each.wrong, each.rate) == strata[each.stratum]
        assert each.suggested == pytest.approx(expected[each.stratum], abs=2e-6)
    assert sum(each.suggested_expected for each in allocation.shares) == pytest.approx(allocation.expected, abs=1e-4)
    assert allocation.expected == sum(jobs * rate for jobs, _, _, rate in strata.values())
    assert allocation.mandatory == sum(each.mandatory for each in drawn_in(log()))


def test_the_weights_give_what_is_suggested_when_they_are_written() -> None:
    """A bundle with the rate and the weights of the report has the suggested rates in force."""
    allocation = of_log(log()).allocation
    assert allocation.weights is not None
    weights = ", ".join([f"{tag}: {weight}" for tag, weight in allocation.weights.items()])
    sampling = f"rate: {allocation.sampling_rate}, strategy: stratified, weights: {{ risk_tags: {{ {weights} }} }}"
    world = audit_world(
        **{"audit-policy.yaml": AUDIT.replace(AUDIT[AUDIT.index("rate:") : AUDIT.index(" }\n")], sampling)}
    )
    run(world, "j", "job.x")
    after = {each.stratum: each.rate for each in of_log(world.records()).detection}
    assert after == pytest.approx({each.stratum: each.suggested for each in allocation.shares}, abs=1e-5)


def test_a_rate_ends_at_certainty_and_the_others_get_the_rest() -> None:
    """Capped strata give what they cannot use to the others."""
    strata = {"few": (2, 0, 0, 1.0), "many": (100, 98, 0, 0.2), "more": (50, 40, 3, 0.76)}
    found = neyman(
        {name: each[0] for name, each in strata.items()},
        {name: deviation(each[2], each[1]) for name, each in strata.items()},
        Decimal(60),
    )
    assert {name: float(rate) for name, rate in found.items()} == pytest.approx(second.neyman(strata), abs=1e-9)
    assert found["few"] == 1
    assert sum(found[name] * each[0] for name, each in strata.items()) == pytest.approx(Decimal(60))


def test_errors_stand_one_by_one_and_counted() -> None:
    """With class, severity, note and who found it; none is left out."""
    report = of_log(log())
    wrong = [each for each in second.jobs_of(log(), 0, 2**60) if second.is_wrong(each)]
    assert report.errors_count == len(report.errors) == len(wrong) > 5
    told = {(each.at_ms, each.agent_id, each.job_id, each.error_class, each.note, each.by) for each in report.errors}
    findings = [each[1] for each in wrong if each[1] is not None]
    assert told == {(e.at_ms, e.agent_id, e.job_id, e.error_class, e.note, e.by) for e in findings}
    assert report.errors_by_class == {"wrong-customer": len(wrong)}
    assert report.errors_by_severity == Counter(each.severity for each in findings)


def test_samples_that_wait_say_how_long_and_how_often_overdue() -> None:
    """Up to the newest record; the share of samples judged is told."""
    report = of_log(log())
    newest = max(each.timestamp_ms for each in log())
    overdue = second.overdue_in(log())
    waiting = [each[0] for each in second.jobs_of(log(), 0, 2**60) if each[0].drawn and each[1] is None]
    assert {(each.job_id, each.waited_ms, each.overdue) for each in report.waiting} == {
        (each.job_id, newest - each.at_ms, overdue[each.request_id or ""]) for each in waiting
    }
    assert report.waiting_count == len(waiting) > report.waiting_overdue == len({*overdue}) > 3
    drawn = sum(each.drawn for each in drawn_in(log()))
    assert report.judged_share == round((drawn - len(waiting)) / drawn, 4)


# --- the edges of the period


def test_a_job_counts_by_when_it_ended_and_the_end_is_not_in_the_period() -> None:
    """From its own time on, not from the next millisecond; its finding counts whenever it came."""
    world = audit_world()
    run(world, "d", "job.deploy")
    (at_ms,) = [each.at_ms for each in drawn_in(world.records())]
    world.log.advance(5_000)
    find(world, "d", "wrong")
    records = world.records()
    assert of_log(records, at_ms, at_ms + 1).whole.wrong == 1
    assert of_log(records, at_ms + 1).whole.jobs == 0
    assert of_log(records, 0, at_ms).whole.jobs == 0


def test_without_a_finding_nothing_is_known() -> None:
    """No rate, and bounds from nothing to everything."""
    world = audit_world()
    run(world, "d", "job.deploy")
    found = of_log(world.records()).whole
    assert (found.rate, found.low, found.high) == (None, 0.0, 1.0)


def test_none_found_is_a_bound() -> None:
    """A rate of nothing has an upper bound above nothing, as long as not all was judged."""
    world = audit_world()
    for number in range(12):
        if run(world, f"j{number}", "job.x").drawn:
            find(world, f"j{number}", "correct")
    found = of_log(world.records()).whole
    assert (found.rate, found.low) == (0.0, 0.0)
    assert 0 < found.high < 1


def test_jobs_without_a_key_count_as_looked_at_for_certain() -> None:
    """Epoch 0: probability 1, whatever else the event says; evidence counts them."""
    world = World({**files(), "audit-policy.yaml": AUDIT})
    for job, choice in (("j", "wrong"), ("k", "correct")):
        run(world, job, "job.x")
        find(world, job, choice)
    records = world.records()
    spoilt = replaced(records, place_of(records, AuditDrawn), probability="0.5")
    report = of_log(spoilt)
    assert report.evidence.without_key == 2
    assert (report.whole.rate, report.whole.low, report.whole.high) == (0.5, 0.5, 0.5)
    assert {"name": "all", **second.rate_of(second.jobs_of(spoilt, 0, 2**60))} == msgspec.to_builtins(report.whole)


def test_where_no_policy_audits_any_more_the_last_draw_says_the_rate() -> None:
    """Of everybody's jobs, whichever agent is asked about; there is no weight to write then."""
    world = audit_world()
    run(world, "a", "job.x")
    run(world, "b", "job.deploy", agent="reader")
    world.activate({name: text for name, text in files().items() if name != "audit-policy.yaml"})
    report = of_log(world.records(), agent="reader")
    assert {each.stratum: each.rate for each in report.detection} == {"other": 0.5, "prod": 1.0}
    assert (report.allocation.stratified, report.allocation.weights) == (False, None)


# --- what nobody must overlook


def test_a_broken_glass_is_told_with_the_jobs_under_it_and_their_reviews() -> None:
    """Who, over what, why, until when; which jobs it let run; what people said afterwards."""
    (glass,) = of_log(log()).break_glass
    assert (glass.by, glass.scope, glass.reason, glass.counted) == ("person/rosa", "topic:job.ask.*", "fire", True)
    assert glass.at_ms is not None
    assert glass.until_ms is not None
    assert glass.at_ms < glass.until_ms <= glass.at_ms + 60_000
    assert [(each.job_id, each.review) for each in glass.jobs] == [("g1", "denied"), ("g2", "open")]


def test_a_glass_under_which_nothing_ran_is_told_too() -> None:
    """And is told of every time in which it stood open, and of no other."""
    world = audit_world()
    say(world, "rosa", "break_glass", reason="drill", until_ms=world.log.clock_ms + 60_000)
    run(world, "j", "job.x")
    (glass,) = of_log(world.records()).break_glass
    assert (glass.reason, glass.jobs) == ("drill", [])
    assert glass.at_ms is not None
    assert glass.until_ms is not None
    records = world.records()
    assert len(of_log(records, glass.until_ms - 1, glass.until_ms).break_glass) == 1
    assert of_log(records, glass.until_ms, glass.until_ms + 1).break_glass == []
    assert of_log(records, 0, glass.at_ms).break_glass == []


def test_a_break_glass_that_nobody_obeyed_is_not_told() -> None:
    """Who has not the role breaks nothing; evidence counts it as refused."""
    world = audit_world()
    say(world, "ken", "break_glass", reason="me too", until_ms=world.log.clock_ms + 60_000)
    report = of_log(world.records())
    assert report.break_glass == []
    assert report.evidence.commands_refused == 1


def test_a_decision_under_a_glass_that_was_never_accepted_is_told() -> None:
    """It must not be overlooked that somebody let a job run by it."""
    world = audit_world()
    broken(world)
    without = [each for each in world.records() if each.topic != "control.commands"]
    (gone,) = of_log(without).break_glass
    assert (gone.counted, gone.at_ms, gone.by) == (False, None, "unknown")
    records = world.records()
    place = next(
        at
        for at, each in enumerate(records)
        if isinstance(event := CODEC.decode_or_none(each.value), Command) and event.kind == "break_glass"
    )
    (forged,) = of_log(replaced(records, place, reason="another")).break_glass
    assert (forged.counted, forged.reason) == (False, "another")
    assert forged.jobs_count == 2


def test_glasses_are_told_whichever_agent_is_asked_about() -> None:
    """Its jobs are that agent's."""
    (glass,) = of_log(log(), agent="reader").break_glass
    assert glass.jobs == []


@pytest.mark.parametrize(("approvers", "by"), [((), "nobody"), (("policy:after-an-hour",), "policy:after-an-hour")])
def test_an_approval_by_time_out_is_told(approvers: tuple[str, ...], by: str) -> None:
    """Approved and no person's verdict; what a person approved is not."""
    assert of_log(log()).timed_out_count == 0
    (found,) = of_log(with_time_out(log(), approvers)).timed_out
    assert (found.by, found.kind) == (by, "intent")
    assert of_log(with_time_out(log(), ("ken",))).timed_out_count == 0


# --- evidence


def test_evidence_names_the_log_that_was_read() -> None:
    """Records, the end of each partition, the control offset, the snapshot that was active at the end."""
    world = audit_world()
    run(world, "j", "job.x")
    records = world.records()
    found = of_log(records).evidence
    assert found.records == len(records)
    ends: Counter[str] = Counter()
    for each in records:
        if each.topic == "agent.audits":
            place = f"agent.audits/{each.partition}"
            ends[place] = max(ends[place], each.offset + 1)
    assert found.ends == ends
    active = world.state().active
    assert active is not None
    assert (found.control_offset, found.policy_snapshot) == (world.state().offset, active.name)
    world.log.advance(10_000)
    changed_ms = world.log.clock_ms
    world.activate({**files(), "audit-policy.yaml": AUDIT.replace("0.5,", "0.25,")})
    assert of_log(world.records(), 0, changed_ms).evidence.policy_snapshot == active.name
    assert of_log(world.records()).evidence.policy_snapshot != active.name


def test_evidence_says_of_each_epoch_whether_its_key_is_told() -> None:
    """And how many jobs it drew."""
    world = audit_world()
    run(world, "j", "job.deploy")
    begin_epoch(world, 2)
    world.log.advance(REVEAL_AFTER_MS)
    reveal(world, 1)
    run(world, "k", "job.deploy")
    first, later = of_log(world.records()).evidence.epochs
    assert (first.epoch.number, first.jobs, first.drawn) == (1, 1, 1)
    assert first.epoch.revealed is not None
    assert first.epoch.ended_at_ms == later.epoch.began_at_ms
    assert (later.epoch.number, later.epoch.revealed, later.jobs) == (2, None, 1)


def test_the_order_of_the_records_changes_nothing() -> None:
    """Partitions have no common order."""
    assert of_log(log()[::-1]) == of_log(log())
