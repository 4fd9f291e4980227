"""Verify can fail: every altered field of every event class is found, and so is another meaning of a rule."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from world import CODEC, World

from sluicegate.policies import evaluate
from sluicegate.processors.verify_report import Report
from sluicegate.schemas.events import EVENT_TYPES, Acknowledged, TimerFired
from sluicegate.streams.engine import Record
from sluicegate.streams.memory import Faults
from sluicegate.streams.partitioner import partition_for

JOURNALED = ("job.decisions", "job.results", "approval.events")
ALTERED = (
    "job.decisions",
    "job.grants.default",
    "job.results",
    "approval.requests",
    "approval.events",
    "approval.resolutions",
)


@pytest.fixture(scope="module")
def world() -> World:
    """One log with every event class that the steps write."""
    world = World()
    world.submit("read", "job.crm.read")
    world.submit("read", "job.crm.read")
    world.submit("read", "job.crm.read", b'{"n":2}')
    grant = world.grants("read")[0]
    world.start(grant)
    world.finish(grant)
    world.submit("deploy", "job.deploy.web", confidence=0.5)
    world.decide("deploy", "approve", approver_id=None)
    world.decide("deploy", "approve", constraints='{"max_runtime_sec":300}')
    world.log.advance(3 * 3_600_000)
    world.command("pause", "agent:deployer")
    world.submit("held", "job.crm.list")
    world.command("resume", "agent:deployer")
    world.advance(5)
    world.start(world.grants("held")[0])
    world.advance(31)
    world.log.produce("job.intents", b"deployer", b"rubbish")
    world.run()
    return world


def other(value: Any) -> Any:
    """Another value of the same kind."""
    match value:
        case bool():
            return not value
        case int():
            return value + 1
        case float():
            return value + 0.125
        case str():
            return value + "x"
        case bytes():
            return value + b"x"
        case None:
            return "x"
        case list():
            return value[1:] if value else ["x"]
        case dict():
            return {**value, "x": b"x"}
    return msgspec.structs.replace(
        value, **{value.__struct_fields__[0]: other(getattr(value, value.__struct_fields__[0]))}
    )


WORDS = {
    "decision": ("ALLOW", "DENY"),
    "outcome": {"Closed": ("failed", "denied"), "Resolved": ("expired", "denied"), "Resolution": ("expired", "denied")},
    "verdict": ("deny", "approve"),
    "kind": ("lost_attempt", "intent"),
    "output_safety_decision": ("QUARANTINE", "REDACT"),
}


def altered(record: Record, field: str) -> Record | None:
    """The record with one field changed, or None where no other value fits the schema."""
    event = CODEC.decode(record.value)
    value = getattr(event, field)
    choices: Any = WORDS.get(field, ())
    if isinstance(choices, dict):
        choices = choices.get(type(event).__name__, ("lapsed", "lost") if value else ())
    candidates = [word for word in choices if word != value] or [other(value), "ALLOW", 1, 0.5, True]
    for candidate in candidates:
        try:
            encoded = CODEC.encode(msgspec.structs.replace(event, **{field: candidate}))
        except (ValueError, TypeError, AttributeError):
            continue
        if encoded != record.value:
            return msgspec.structs.replace(record, value=encoded)
    return None


def samples(world: World) -> Iterator[tuple[Record, str]]:
    seen = set()
    for topic in ALTERED:
        for record in world.log.records(topic):
            event = CODEC.decode(record.value)
            for field in event.__struct_fields__:
                name = (topic, type(event).__name__, field)
                if name not in seen:
                    seen.add(name)
                    yield record, field


def with_one(world: World, changed: Record) -> Report:
    place = (changed.topic, changed.partition, changed.offset)
    return world.verified(
        [changed if (item.topic, item.partition, item.offset) == place else item for item in world.records()]
    )


def test_the_untouched_log_is_clean(world: World) -> None:
    """Everything is recomputed, and how many of each is said."""
    report = world.verified()
    assert report.clean, report.faults
    assert {"Decision", "Granted", "Grant", "Resolution", "Result", "Closed", "Held", "Repeated", "Refused"} <= set(
        report.recomputed
    )
    assert report.recomputed["Decision"] == 3


def test_every_altered_field_is_found(world: World) -> None:
    """One field of one record, for every field of every class on every topic that steps write."""
    checked = 0
    for record, field in samples(world):
        changed = altered(record, field)
        if changed is None:
            continue
        checked += 1
        report = with_one(world, changed)
        where = [(fault.topic, fault.partition, fault.offset) for fault in report.faults]
        name = type(CODEC.decode(record.value)).__name__
        assert not report.clean, f"`{field}` of `{name}` was altered and nothing was found"
        if record.topic in JOURNALED and field not in ("seq", "cause"):
            assert (record.topic, record.partition, record.offset) in where, f"`{field}` of `{name}`: named {where}"
    assert checked > 150


@pytest.mark.parametrize(
    "topic", ["job.intents", "approval.verdicts", "job.outputs", "control.commands", "policy.snapshots"]
)
def test_an_altered_input_is_found(world: World, topic: str) -> None:
    """A step would have answered another input differently: its signature or its hash no longer fits."""
    record = world.log.records(topic)[0]
    value = bytearray(record.value)
    value[-1] ^= 1
    assert not with_one(world, msgspec.structs.replace(record, value=bytes(value))).clean


@pytest.mark.parametrize("topic", ALTERED)
def test_a_missing_record_is_found(world: World, topic: str) -> None:
    """Whatever is cut out of a topic that steps write leaves a gap."""
    record = world.log.records(topic)[0]
    assert not world.verified([item for item in world.records() if item is not record]).clean


@pytest.mark.parametrize("topic", ["job.grants.default", "approval.resolutions", "approval.requests"])
def test_a_foreign_record_is_found(world: World, topic: str) -> None:
    """A second copy of a true grant is a grant that nobody wrote."""
    record = world.log.records(topic)[0]
    copy = msgspec.structs.replace(record, offset=1000)
    report = world.verified([*world.records(), copy])
    assert ("foreign", 1000) in [(fault.kind, fault.offset) for fault in report.faults if fault.topic == topic]


def test_a_firing_that_nobody_asked_for_is_found(world: World) -> None:
    """Time is told by the watch and only on request; the same firing a second time means nothing and is no fault."""
    records = world.records()
    asked = next(record for record in records if record.topic.startswith("timer.fired."))
    event = CODEC.decode(asked.value)
    assert isinstance(event, TimerFired)
    made_up = CODEC.encode(msgspec.structs.replace(event, timer_id="lease/nobody/1"))
    again = msgspec.structs.replace(asked, offset=1000)
    forged = msgspec.structs.replace(asked, offset=1001, value=made_up)
    faults = world.verified([*records, again, forged]).faults
    assert [(fault.kind, fault.offset) for fault in faults] == [("foreign", 1001)]


def test_a_forged_snapshot_is_a_fault_until_a_gate_has_refused_it(world: World) -> None:
    """A refusal stands in the gate's journal, or the record is named; a false refusal is named as well."""
    records = world.records()
    real = world.log.records("policy.snapshots")[0]
    forged = msgspec.structs.replace(real, offset=1000, headers=())
    faults = world.verified([*records, forged]).faults
    assert [(fault.kind, fault.topic, fault.offset) for fault in faults] == [("snapshot", "policy.snapshots", 1000)]
    digest = real.key.decode()
    for code, kinds in (("unsigned", []), ("stale", ["acknowledgement", "snapshot"])):
        said = Acknowledged(
            instance="0", control_offset=1000, command_id=digest, accepted=False, code=code, topic="policy.snapshots"
        )
        spoken = Record(
            "job.decisions", partition_for(b"gate/0", 3), 1000, b"gate/0", CODEC.encode(said), (), forged.timestamp_ms
        )
        assert [fault.kind for fault in world.verified([*records, forged, spoken]).faults] == kinds


def test_another_meaning_of_a_rule_is_found(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A build in which DENY is weaker than ALLOW recomputes other decisions, and says which."""
    from sluicegate.processors import control

    control._compiled.cache_clear()
    monkeypatch.setattr(evaluate, "_WORDS", ("ALLOW_WITH_CONSTRAINTS", "ALLOW", "REQUIRE_APPROVAL", "DENY"))
    report = world.verified()
    monkeypatch.undo()
    control._compiled.cache_clear()
    assert any("`Decision` differs" in fault.message and "`decision`" in fault.message for fault in report.faults)


def test_records_deleted_from_the_front_are_found(world: World) -> None:
    """A topic that is kept for ever begins at offset 0."""
    from world import MASTER, OPERATORS

    from sluicegate.processors.verify import Verifier

    report = Verifier(CODEC, "default", 3, MASTER, OPERATORS, {("job.decisions", 0): 5}).run(world.records())
    assert [fault.kind for fault in report.faults] == ["truncated"]


def test_every_class_of_the_steps_is_in_the_sample(world: World) -> None:
    """The log that the tests above alter holds each event class that a step writes, but for those named."""
    found = {type(CODEC.decode(record.value)).__name__ for topic in ALTERED for record in world.log.records(topic)}
    by_steps = {"Decision", "Granted", "Repeated", "Refused", "Held", "Closed", "Noted", "Grant", "AttemptOpened"}
    by_steps |= {
        "AttemptEnded",
        "Result",
        "ApprovalRequest",
        "RequestOpened",
        "VerdictAccepted",
        "Resolved",
        "Resolution",
    }
    assert by_steps <= found <= set(EVENT_TYPES)


@pytest.mark.parametrize("seed", range(30))
def test_faults_of_every_kind_leave_a_log_that_verifies(seed: int) -> None:
    """Crashes between any two effects, duplicates, delays, reordering, rebalances, stale control and clock jumps."""
    world = World()
    world.log._faults = Faults(seed=seed, rates={"duplicate": 0.1, "delay": 0.1})
    rates = {"crash": 0.02, "rebalance": 0.02, "stale_control": 0.02, "clock_jump": 0.005}
    for number, engine in enumerate(world.engines):
        engine._faults = Faults(seed=seed * 10 + number, rates=rates, shuffled=True)  # type: ignore[arg-type]
    for number in range(6):
        world.submit(f"r{number}", "job.crm.read")
        world.submit(f"d{number}", "job.deploy.web")
    for number in range(6):
        world.decide(f"d{number}", "approve" if number % 2 else "deny")
        for job_id in (f"r{number}", f"d{number}"):
            for grant in world.grants(job_id):
                world.start(grant)
                world.finish(grant)
    world.advance(100)
    report = world.verified()
    assert report.clean, report.faults[:3]
    for job_id in [f"r{number}" for number in range(6)]:
        assert len({grant.grant_id for grant in world.grants(job_id)}) == len(world.grants(job_id))
