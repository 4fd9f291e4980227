"""The shell around a step: what cannot be processed is kept whole, is answered, and changes no state."""

from __future__ import annotations

import msgspec
import pytest
from world import CODEC, World

from sluicegate.processors import gate
from sluicegate.processors.plane import OUT_BYTES_MAX
from sluicegate.schemas.errors import InvariantBroken
from sluicegate.schemas.events import DeadLetter, Decision, Refused, Result
from sluicegate.schemas.payload import SALT_BYTES


@pytest.fixture
def world() -> World:
    return World()


def letter(world: World) -> DeadLetter:
    return world.last("dead.letters", DeadLetter)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (b"", "no Confluent wire format"),
        (b"rubbish", "no Confluent wire format"),
        (b"\0\x7f\xff\xff\xff" + b"x" * 20, "is not of this build"),
    ],
)
def test_poison_becomes_a_dead_letter_with_its_bytes(world: World, value: bytes, why: str) -> None:
    """A tombstone, rubbish and an unknown schema: kept whole with key, headers and time, and journaled."""
    record = world.log.produce("job.intents", b"deployer", value, (("traceparent", b"00-1-2-01"),))
    world.run()
    found = letter(world)
    assert found.value.content[SALT_BYTES:] == value
    assert (found.key, found.headers, found.appended_at_ms) == (
        b"deployer",
        {"traceparent": b"00-1-2-01"},
        record.timestamp_ms,
    )
    assert (found.application, found.reason) == ("gate", "malformed")
    assert why in found.message
    assert world.last("job.decisions", Refused).code == "malformed"
    assert world.verified().clean


def test_a_record_with_bytes_left_over_is_refused(world: World) -> None:
    """An intent with something behind it is no intent."""
    value = CODEC.encode(world.intent("j1", "job.crm.read")) + b"more"
    world.log.produce("job.intents", b"deployer", value)
    world.run()
    assert "left over" in letter(world).message


def test_a_key_that_is_no_text_is_answered_under_itself(world: World) -> None:
    """The journal spells such a key out; nothing is lost and nothing collides."""
    key = b"\xff\xfe"
    world.log.produce("job.intents", key, b"rubbish")
    world.run()
    record = world.log.records("job.decisions")[-1]
    assert record.key == key
    assert world.last("job.decisions", Refused).agent_id == "\\xff\\xfe"
    assert world.verified().clean


def test_an_output_too_large_for_a_record_keeps_its_cause(world: World) -> None:
    """What a step may not write is caught before it is produced; the input is a dead letter and the job stays open."""
    world.submit("j1", "job.crm.read")
    grant = world.grants("j1")[0]
    world.start(grant)
    world.finish(grant, b'"' + b"x" * (OUT_BYTES_MAX - 200) + b'"')
    assert world.events("job.results", Result) == []
    assert (letter(world).application, letter(world).reason) == ("outputs", "oversize")
    assert world.last("job.results", Refused).code == "oversize"
    world.finish(grant)
    assert world.last("job.results", Result).succeeded
    assert world.verified().clean


def test_a_fault_of_ours_is_a_dead_letter_and_changes_no_state(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that raises closes nothing down: the input is kept, the fault is named, the next input is judged."""

    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("in a test")

    monkeypatch.setattr(gate, "judge", broken)
    world.submit("j1", "job.crm.read")
    assert (letter(world).reason, letter(world).message) == ("step_failed", "ZeroDivisionError in `broken`")
    assert world.last("job.decisions", Refused).code == "step_failed"
    monkeypatch.undo()
    world.submit("j1", "job.crm.read")
    assert world.last("job.decisions", Decision).decision == "ALLOW"


def test_a_broken_invariant_ends_the_process_before_anything_is_written(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """State that contradicts itself is no outcome: nothing is committed."""

    def broken(*_: object, **__: object) -> None:
        raise InvariantBroken("in a test")

    monkeypatch.setattr(gate, "judge", broken)
    with pytest.raises(InvariantBroken):
        world.submit("j1", "job.crm.read")
    assert world.log.records("job.decisions") == []


def test_time_never_goes_back_for_a_key(world: World) -> None:
    """A step's now is the larger of the key's last now and the append time."""
    world.submit("j1", "job.crm.read")
    world.log.advance(-3_600_000)
    world.submit("j2", "job.crm.read")
    first, second = world.events("job.decisions", Decision)
    assert second.at_ms == first.at_ms + 2 or second.at_ms >= first.at_ms
    assert second.seq > first.seq


def test_trace_context_is_passed_on(world: World) -> None:
    """`traceparent` of the intent stands on what it causes."""
    from world import agent_key

    from sluicegate.streams.identity import sign

    value = CODEC.encode(world.intent("j1", "job.crm.read"))
    headers = sign(agent_key("deployer"), "job.intents", "r1", world.log.clock_ms, b"deployer", value)
    world.log.produce("job.intents", b"deployer", value, (*headers, ("traceparent", b"00-aa-bb-01")))
    world.run()
    for topic in ("job.decisions", "job.grants.default"):
        assert ("traceparent", b"00-aa-bb-01") in world.log.records(topic)[0].headers


def test_every_record_has_its_cloud_events_headers(world: World) -> None:
    """The Kafka binding of CloudEvents 1.0, with an id that is the same at every replay."""
    world.submit("j1", "job.crm.read")
    headers = dict(world.log.records("job.decisions")[0].headers)
    assert headers["ce_specversion"] == b"1.0"
    assert headers["ce_type"] == b"sluicegate.Decision.v1"
    assert headers["ce_id"] == b"gate/deployer/1"
    assert headers["content-type"] == b"application/avro"


def test_state_holds_two_entries_per_open_job(world: World) -> None:
    """A card per agent and an entry per job, whatever came before."""
    for number in range(5):
        world.submit(f"j{number}", "job.crm.read")
    entries = next(iter(world.engines[0]._group.state.values()))
    assert sorted(entries) == ["card", *[f"job/j{number}" for number in range(5)]]
    card = msgspec.msgpack.decode(entries["card"])
    assert (card["in_flight"], card.get("open_requests", 0)) == (5, 0)


def test_what_is_over_leaves_the_state(world: World) -> None:
    """Closed jobs, attempts and requests are deleted once nobody may ask for them: disk follows what is open."""
    for day in range(5):
        for number in range(4):
            name = f"d{day}n{number}"
            world.submit(name, "job.crm.read")
            world.start(world.grants(name)[0])
            world.finish(world.grants(name)[0])
            world.submit(f"ask-{name}", "job.deploy.web")
            world.decide(f"ask-{name}", "deny")
        world.advance(31 * 24 * 3600)
    for engine, bound in zip(world.engines, (20, 12, 12), strict=True):
        entries = [name for names in engine._group.state.values() for name in names]
        assert len(entries) <= bound, entries
    assert world.verified().clean
