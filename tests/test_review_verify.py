"""What an adversarial review found that verify did not notice, each as the rule that holds now."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from world import CODEC, World

from sluicegate.schemas.events import (
    Acknowledged,
)
from sluicegate.streams.partitioner import partition_for


@pytest.fixture
def world() -> World:
    return World()


def rekeyed(world: World, topic: str, key: bytes, new: bytes) -> Any:
    return world.verified(
        [
            msgspec.structs.replace(record, key=new) if (record.topic, record.key) == (topic, key) else record
            for record in world.records()
        ]
    )


@pytest.mark.parametrize("topic", ["job.decisions", "job.results"])
def test_verify_finds_a_journal_under_another_key(world: World, topic: str) -> None:
    """Whoever moves a whole journal to another key hides it from its agent."""
    world.submit("j1", "job.crm.read")
    assert not rekeyed(world, topic, b"deployer", b"other").clean


@pytest.mark.parametrize("topic", ["job.decisions", "job.grants.default", "timer.requests"])
def test_verify_finds_a_record_on_a_foreign_partition(world: World, topic: str) -> None:
    """Readers look for a key on its own partition only."""
    world.command("pause", "job:j1")
    world.submit("j1", "job.crm.read")
    world.command("resume", "job:j1")
    world.advance(5)
    moved = [
        msgspec.structs.replace(record, partition=(record.partition + 1) % 3, offset=record.offset + 1000)
        if record.topic == topic
        else record
        for record in world.records()
    ]
    assert not world.verified(moved).clean


def test_verify_finds_a_judgement_under_a_control_that_was_long_past(world: World) -> None:
    """A gate that goes on for hours as if nobody had paused it is found out."""
    world.command("pause", "everything")
    world.log.advance(5 * 3_600_000)
    stale = world.state()
    world.fold = lambda _state, _record: stale  # type: ignore[assignment]
    world._states = {}
    world.submit("j1", "job.crm.read")
    assert world.verified().clean
    records = world.records()
    paused = [record for record in records if record.topic == "control.commands"][-1]
    moved = msgspec.structs.replace(paused, offset=paused.offset + 2)
    world2 = [moved if record is paused else record for record in records]
    assert any(fault.kind == "control_offset" for fault in world.verified(world2).faults)


def test_verify_finds_an_input_that_was_passed_over_for_hours(world: World) -> None:
    """One partition that nobody judges while others are judged is no queue any more."""
    agents = {partition_for(name.encode(), 3): name for name in ("deployer", "reader", "other")}
    assert len(agents) > 1
    first, second = list(agents.values())[:2]
    world.submit("j1", "job.crm.read", agent=first)
    unjudged = [record for record in world.records() if record.key != first.encode() or record.topic == "job.intents"]
    world.log.advance(5 * 3_600_000)
    world.submit("j2", "job.crm.read", agent=second)
    later = [record for record in world.records() if record not in unjudged and record.key != first.encode()]
    keep = [r for r in [*unjudged, *later] if _job_of(r) != "j1" or r.topic == "job.intents"]
    assert any(fault.kind == "skipped" for fault in world.verified(keep).faults)


def _job_of(record: Any) -> Any:
    try:
        return getattr(CODEC.decode(record.value), "job_id", None)
    except Exception:  # noqa: BLE001  # no event of ours
        return None


@pytest.mark.parametrize(
    ("changes", "clean"),
    [
        ({}, True),
        ({"policy_snapshot": "v1:000000"}, False),
        ({"accepted": False}, False),
        ({"control_offset": 9}, False),
    ],
)
def test_verify_checks_what_a_gate_acknowledged(world: World, changes: dict[str, Any], clean: bool) -> None:
    """An acknowledgement says what the command at its offset did, and which snapshot is active after it."""
    state = world.state()
    assert state.active is not None
    assert state.last is not None
    said = Acknowledged(
        instance="0",
        control_offset=state.offset,
        command_id=state.last.command_id,
        accepted=True,
        policy_snapshot=state.active.name,
    )
    world.plain("job.decisions", "gate/0", msgspec.structs.replace(said, **changes))
    assert world.verified().clean is clean
