"""Sampled audit: how likely each job is looked at, and which are drawn."""

from __future__ import annotations

import hashlib
import hmac
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from sluicegate.cli.main import run
from sluicegate.policies.compile import CompiledPolicy, compile_bundle
from sluicegate.policies.histories import read_jobs
from sluicegate.policies.load import parse_bundle
from sluicegate.policies.sampling import Inclusion, drawn
from sluicegate.policies.subject import finished_subject

ARTICLE = Path(__file__).parent / "corpus" / "article" / "audit-policy.yaml"
ACTIONS = """actions:
  - { topics: ["job.pay.*"], risk_tags: [prod], category: financial_actions, facts: { amount_usd: total } }
"""
KEY = bytes(range(32))


def _policy(audit: str | None = None, **files: str) -> CompiledPolicy:
    text = ARTICLE.read_text() if audit is None else audit
    return compile_bundle(parse_bundle({"audit.yaml": text, **{f"{name}.yaml": each for name, each in files.items()}}))


def _inclusion(policy: CompiledPolicy, **job: Any) -> Inclusion:
    line = json.dumps({"job_id": "j", "agent_id": "a", "topic": "job.x", **job})
    ((found, facts),) = read_jobs("jobs.jsonl", line)
    assert policy.audit is not None
    subject = finished_subject(policy, found, facts)
    return policy.audit.inclusion(found.topic, frozenset(subject.risk_tags), subject.facts)


@pytest.mark.parametrize(
    ("tags", "stratum", "probability"),
    [
        (["prod"], "prod", "0.3"),
        (["write", "prod"], "prod", "0.3"),
        (["read", "write"], "write", "0.2"),
        (["read"], "read", "0.05"),
        (["read", "spare"], "read", "0.05"),
        (["spare"], "other", "0.1"),
        ([], "other", "0.1"),
    ],
)
def test_the_largest_weight_of_its_tags_counts(tags: list[str], stratum: str, probability: str) -> None:
    """The article's weights: the rate times the largest, 1.0 for a job without a tag that has one."""
    assert _inclusion(_policy(), risk_tags=tags) == Inclusion(stratum, Decimal(probability), mandatory=False)


@pytest.mark.parametrize(
    ("facts", "mandatory"),
    [
        ({"amount_usd": 5000}, False),
        ({"amount_usd": 5000.01}, True),
        ({"affected_users": 101}, True),
        ({"first_time_action": True}, True),
        ({"first_time_action": False}, False),
        ({}, False),
        ({"amount_usd": None}, True),
    ],
)
def test_what_must_be_looked_at_has_probability_one(facts: dict[str, Any], mandatory: bool) -> None:
    """Any mandatory match; one whose declared fact is absent counts, and a computed fact not given is false."""
    found = _inclusion(_policy(), facts=facts)
    assert found.mandatory is mandatory
    assert found.probability == (1 if mandatory else Decimal("0.1"))


def test_tags_and_facts_come_from_the_actions_too() -> None:
    """Leaving a tag out does not help, and amounts are read from the payload."""
    policy = _policy(actions=ACTIONS)
    assert _inclusion(policy, topic="job.pay.bill", payload={"total": 1}).stratum == "prod"
    assert _inclusion(policy, topic="job.pay.bill", payload={"total": 9000}).mandatory
    assert _inclusion(policy, topic="job.pay.bill").mandatory  # the declared amount is not there


def test_no_probability_is_above_one_and_ties_go_by_the_order_of_the_file() -> None:
    """min(1, rate times weight); of equal weights the first names the stratum."""
    policy = _policy(
        "audit: { sampling: { rate: 0.5, strategy: stratified, weights: { risk_tags: { b: 3, a: 3.0, c: 1 } } } }"
    )
    assert _inclusion(policy, risk_tags=["a", "b"]) == Inclusion("b", Decimal(1), mandatory=False)


def test_a_uniform_sample_has_one_stratum() -> None:
    """Weights say nothing under `uniform`."""
    policy = _policy("audit: { sampling: { rate: 0.25, strategy: uniform, weights: { risk_tags: { prod: 3 } } } }")
    assert _inclusion(policy, risk_tags=["prod"]) == Inclusion("all", Decimal("0.25"), mandatory=False)


def test_a_draw_is_the_hmac_below_the_probability() -> None:
    """The first 8 bytes of HMAC-SHA256 over length-prefixed agent and job, over 2^64, strictly below."""
    for number in range(300):
        job = f"jöb-{number}"
        message = b"".join(len(part.encode()).to_bytes(4, "big") + part.encode() for part in ("agent", job))
        share = int.from_bytes(hmac.new(KEY, message, hashlib.sha256).digest()[:8], "big")
        assert drawn(KEY, "agent", job, Decimal("0.3")) is (share / 2**64 < 0.3)
    assert all(drawn(KEY, "a", str(number), Decimal(1)) for number in range(100))
    assert not any(drawn(KEY, "a", str(number), Decimal(0)) for number in range(100))


def test_the_share_that_is_drawn_is_the_probability() -> None:
    """20,000 jobs at 0.1: within four standard deviations of 2,000."""
    count = sum(drawn(KEY, "a", f"job-{number}", Decimal("0.1")) for number in range(20_000))
    assert abs(count - 2_000) < 4 * (20_000 * 0.1 * 0.9) ** 0.5


def test_the_verb_says_it_of_each_job_in_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One object a line, with exactly these keys; the queue by category, only of what is drawn."""
    (tmp_path / "actions.yaml").write_text(ACTIONS)
    jobs = tmp_path / "jobs.jsonl"
    lines = [
        {"job_id": "1", "agent_id": "a", "topic": "job.pay.x", "payload": {"total": 9000}},
        {"job_id": "2", "agent_id": "a", "topic": "job.y", "risk_tags": ["read"], "facts": {"amount_usd": 1}},
        {"job_id": "3", "agent_id": "a", "topic": "job.y", "facts": {"first_time_action": True}},
    ]
    jobs.write_text("\n".join(map(json.dumps, lines)) + "\n")
    options = ["--policies", str(ARTICLE), "--policies", str(tmp_path / "actions.yaml"), "--key", KEY.hex()]
    assert run(["audit", "draw", *options, "--json", str(jobs)]) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    whole = {"probability": 1.0, "mandatory": True, "drawn": True}
    assert answers[0] == {"job_id": "1", "stratum": "prod", **whole, "queue": "finance-approvers"}
    assert answers[2] == {"job_id": "3", "stratum": "other", **whole, "queue": "ops-review"}
    assert answers[1]["probability"] == 0.05
    assert not answers[1]["mandatory"]
    assert answers[1]["queue"] == ("ops-review" if answers[1]["drawn"] else None)
    assert run(["audit", "draw", *options[:-1], "xyz", str(jobs)]) == 2
    assert "not in hex" in capsys.readouterr().err
    jobs.write_text('{"job_id": "1"}\n')
    assert run(["audit", "draw", *options, str(jobs)]) == 2


def test_the_verb_scores_a_history(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One object a line with at, agent, level, change and reason; faults of a history end with 2."""
    events = tmp_path / "events.jsonl"
    line = {"at": "2026-11-01T00:00:00Z", "agent_id": "a"}
    events.write_text(json.dumps({**line, "event": "level_set", "level": 2}) + "\n")
    bundle = ["--policies", str(ARTICLE.parent / "graduated-autonomy.yaml")]
    assert run(["autonomy", "score", *bundle, "--json", str(events)]) == 0
    assert json.loads(capsys.readouterr().out) == {**line, "level": 2, "change": "set", "reason": "set by a person"}
    assert run(["autonomy", "score", "--policies", str(ARTICLE), str(events)]) == 2
    assert "autonomy_levels" in capsys.readouterr().err
    events.write_text("{}\n")
    assert run(["autonomy", "score", *bundle, "--json", str(events)]) == 2
    assert capsys.readouterr().out == ""
