"""The pooled baseline: made from the log, carried by the bundle, asked for those who have learned nothing."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import msgspec
import pytest
import rfc8785
import yaml
from world import CODEC, World, policy_files

from sluicegate.cli.main import run
from sluicegate.policies.anomaly import COLD_START_EVENTS, SKETCH_BYTES
from sluicegate.policies.compile import compile_bundle
from sluicegate.policies.faults import PolicyFaults
from sluicegate.policies.load import parse_bundle
from sluicegate.processors.baseline import Learned, baseline_of
from sluicegate.processors.impact_replay import impact_of_log
from sluicegate.schemas.events import Decision, Result
from sluicegate.streams.engine import Record
from sluicegate.streams.logcopy import write_copy

ACTIONS = {"actions": [{"topics": ["job.pay"], "facts": {"amount_usd": "total_usd"}, "target": "to"}]}
STRANGE = """
rules:
  - { id: strange, match: { anomaly_score_above: 0.8 }, decision: require_approval }
  - { id: pass, match: { topics: ["*"] }, decision: allow }
"""


def files(**extra: str) -> dict[str, str]:
    base = policy_files()
    del base["safety-policy.yaml"]
    return {**base, "actions.yaml": yaml.safe_dump(ACTIONS), "layer.yaml": STRANGE, **extra}


def pay(world: World, job: str, agent: str, payload: dict[str, Any], topic: str = "job.pay") -> Decision:
    world.submit(job, topic, json.dumps(payload).encode(), agent=agent)
    return world.last("job.decisions", Decision)


def odd() -> dict[str, Any]:
    """A payment of another size, shape and amount than any before."""
    return {"total_usd": 90_000, "to": "x", "note": "now" * 900, "lines": [1], "urgent": True}


def score(decision: Decision) -> tuple[float | None, str]:
    (found,) = [fact for fact in decision.facts if fact.name == "anomaly_score"]
    return found.value, found.source


def learn(count: int) -> World:
    """A world in which the deployer paid some usual bills, each with a clean result."""
    world = World(files())
    for number in range(count):
        pay(world, f"j{number}", "deployer", {"total_usd": 20 + number % 7, "to": f"t{number % 5}"})
        (grant,) = world.grants(f"j{number}")
        world.start(grant)
        world.finish(grant)
        world.log.advance(600_000)
    return world


@pytest.fixture(scope="module")
def world() -> World:
    """Just as many results as a sketch needs, and a topic with one."""
    world = learn(COLD_START_EVENTS)
    pay(world, "seldom", "deployer", {}, "job.seldom")
    (grant,) = world.grants("seldom")
    world.start(grant)
    world.finish(grant)
    return world


@pytest.fixture(scope="module")
def learned(world: World) -> Learned:
    return baseline_of(world.records(), CODEC)


def test_an_agent_that_is_new_is_judged_by_the_baseline_of_all(world: World, learned: Learned) -> None:
    """Its first strange intent is held, the score says that it is pooled, and verify recomputes it."""
    assert score(pay(world, "before", "reader", odd())) == (0.0, "cold_start")
    world.activate(files(**{"baseline.json": rfc8785.dumps(learned.document).decode()}))
    usual = pay(world, "usual", "other", {"total_usd": 22, "to": "t1"})
    strange = pay(world, "strange", "reader", odd())
    assert (usual.decision, score(usual)[1]) == ("ALLOW", "pooled")
    assert (strange.decision, score(strange)[1]) == ("REQUIRE_APPROVAL", "pooled")
    assert world.verified().faults == []


def test_one_log_gives_one_baseline(world: World, learned: Learned) -> None:
    """The same bytes, in whatever order the partitions were read."""
    records = world.records()
    random.Random(7).shuffle(records)
    assert rfc8785.dumps(baseline_of(records, CODEC).document) == rfc8785.dumps(learned.document)


def test_a_topic_with_too_few_results_is_left_out_and_named(learned: Learned) -> None:
    """Fewer than 300 events would never be asked."""
    assert learned.topics == {"job.pay": COLD_START_EVENTS}
    assert learned.too_few == {"job.seldom": 1}


def test_what_ended_before_the_time_is_not_learned(world: World) -> None:
    """A baseline of last week knows nothing of last year."""
    assert baseline_of(world.records(), CODEC, world.log.clock_ms + 1).too_few == {}


def test_a_result_that_was_not_clean_is_not_learned() -> None:
    """What review kept back, and what has no result, says nothing of what is usual."""
    world = learn(3)
    pay(world, "unfinished", "deployer", {})

    def kept_back(record: Record) -> Record:
        result = CODEC.decode(record.value)
        if not isinstance(result, Result) or result.job_id != "j1":
            return record
        quarantined = msgspec.structs.replace(result, output_safety_decision="QUARANTINE")
        return msgspec.structs.replace(record, value=CODEC.encode(quarantined))

    assert baseline_of(map(kept_back, world.records()), CODEC).too_few == {"job.pay": 2}


def test_jobs_whose_decision_holds_no_features_are_counted() -> None:
    """Nothing asked for the score then, so nothing is known of them."""
    world = World({**files(), "layer.yaml": 'rules: [{ match: { topics: ["*"] }, decision: allow }]\n'})
    pay(world, "j1", "deployer", {})
    (grant,) = world.grants("j1")
    world.start(grant)
    world.finish(grant)
    found = baseline_of(world.records(), CODEC)
    assert (found.featureless, found.topics, found.too_few) == (1, {}, {})


def test_impact_knows_the_anomaly_score_that_the_gate_would_have_had(world: World) -> None:
    """Replaying the log teaches the same sketch: the own score of a strange payment is the one that was recorded."""
    before_ms = world.log.clock_ms
    decision = pay(world, "own", "deployer", odd())
    assert (decision.decision, score(decision)[1]) == ("REQUIRE_APPROVAL", "own")
    report = impact_of_log(world.records(), CODEC, compile_bundle(parse_bundle(files())), before_ms)
    assert (report.widened, report.tightened_count) == ([], 0)
    assert report.after.held == 1


def test_a_damaged_baseline_is_a_fault_with_its_place(learned: Learned) -> None:
    """Whoever edits a sketch, or brings one of another format, is told where, before it is published."""
    document = json.loads(rfc8785.dumps(learned.document))
    document["topics"]["job.pay"]["n"] += 1
    document["topics"]["other"] = {"n": 1, "sketch": "AAAA"}
    with pytest.raises(PolicyFaults) as refused:
        parse_bundle({"baseline.json": json.dumps(document, indent=1)})
    again = "compute the baseline again with `sluicegate policy baseline`"
    assert [str(fault) for fault in refused.value.faults] == [
        f"baseline.json:4:3: error: baseline of `job.pay`: `n` says `301`, the sketch 300; {again}",
        f"baseline.json:8:3: error: baseline of `other`: a sketch has {SKETCH_BYTES} bytes, this one `3`; {again}",
    ]
    with pytest.raises(PolicyFaults, match=r"baseline\.json:1:21: error: format `2` is not 1"):
        parse_bundle({"baseline.json": '{"baseline_format": 2, "topics": {}}'})


def test_the_command_writes_canonical_bytes(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twice the same file from one copy of the log, under the name that a bundle reads."""
    monkeypatch.chdir(tmp_path)
    write_copy(tmp_path / "log", "default", 3, {}, world.records())
    wanted = baseline_of(world.records(), CODEC)
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        assert run(["policy", "baseline", "--log", "log", "--out", f"{folder}/baseline.json"]) == 0
        assert (tmp_path / folder / "baseline.json").read_bytes() == rfc8785.dumps(wanted.document) + b"\n"
    assert "left out job.seldom: 1 results, fewer than 300" in capsys.readouterr().out
    assert run(["policy", "baseline", "--log", "log", "--out", "other.json"]) == 2
