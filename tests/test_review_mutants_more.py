"""Rules of outputs, desk, control, identity and verify at their exact bounds; see `test_review_mutants.py`."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from world import CODEC, OPERATOR, PEOPLE, TENANT, World, agent_key, ids

from sluicegate.processors.plane import JUDGE
from sluicegate.processors.verify import Verifier
from sluicegate.schemas.events import (
    AttemptEnded,
    AttemptOpened,
    Command,
    DeadLetter,
    Ended,
    Grant,
    Granted,
    Lapsed,
    Noted,
    Progressed,
    Refused,
    RequestWithdrawn,
    Resolution,
    Result,
    TimerFired,
    TimerRequest,
)
from sluicegate.streams.control_state import ControlState
from sluicegate.streams.identity import AHEAD_MAX_MS, STALE_AFTER_MS, check, sign


@pytest.fixture
def world() -> World:
    return World()


def started(world: World, job_id: str = "j1", topic: str = "job.crm.list") -> Grant:
    world.submit(job_id, topic)
    grant = world.grants(job_id)[-1]
    world.start(grant)
    return grant


# --- outputs


def test_an_old_lease_ends_no_new_attempt(world: World) -> None:
    """The lease of attempt 1 fires again while attempt 2 runs."""
    started(world, "j1", "job.crm.read")
    world.advance(30)
    second = world.grants("j1")[1]
    world.start(second)
    world.advance(20)
    first = world.events("timer.fired.outputs", TimerFired)[0]
    world.plain("timer.fired.outputs", "deployer", first)
    world.run()
    assert [event.attempt for event in world.events("job.results", AttemptEnded)] == [1]
    world.finish(second)
    assert world.last("job.results", Result).attempt == 2


def test_a_lease_of_a_job_nobody_started_is_not_armed(world: World) -> None:
    """Neither for an unknown job nor for an open attempt."""
    world.submit("j1", "job.crm.list")
    for job_id in ("j1", "j2"):
        fired = TimerFired(owner="outputs", key="deployer", timer_id=f"lease/{job_id}/1", fire_at_ms=1)
        world.plain("timer.fired.outputs", "deployer", fired)
    world.run()
    assert [event.detail for event in world.events("job.results", Noted)] == ["not armed", "not armed"]


def test_what_an_older_attempt_sends_is_late(world: World) -> None:
    """It is refused, and not as an attack."""
    first = started(world, "j1", "job.crm.read")
    world.advance(30)
    world.finish(first)
    refused = world.events("job.results", Refused)
    assert {(event.code, event.incident) for event in refused} == {("late", False)}
    assert len(refused) == 2


def test_a_worker_speaks_for_its_own_attempt_only(world: World) -> None:
    """Another's sign of life renews nothing, and another's end ends nothing."""
    grant = started(world)
    world.advance(20)
    world.plain("job.starts", grant.agent_id, Progressed(**ids(grant), worker_id="w2"))
    world.plain("job.starts", grant.agent_id, Ended(**ids(grant), worker_id="w2", outcome="lapsed"))
    world.run()
    assert world.events("job.results", AttemptEnded) == []
    world.advance(10)
    assert world.last("job.results", AttemptEnded).outcome == "lost"


def test_a_started_attempt_cannot_lapse(world: World) -> None:
    """Nor one that has ended; both are incidents."""
    grant = started(world)
    event = Lapsed(**ids(grant), worker_id="w1", granted_seq=grant.granted_seq, start_by_ms=grant.start_by_ms)
    world.plain("job.starts", grant.agent_id, event)
    world.run()
    world.finish(grant)
    world.plain("job.starts", grant.agent_id, event)
    world.run()
    refused = world.events("job.results", Refused)
    assert [(event.code, event.incident) for event in refused] == [("already_started", True)] * 2


@pytest.mark.parametrize("changes", [{"output_size_bytes": 12}, {"output_hash": "0" * 64}])
def test_hash_and_size_must_both_fit(world: World, changes: dict[str, Any]) -> None:
    """Either alone is not enough; the true output is taken afterwards."""
    grant = started(world)
    world.finish(grant, **changes)
    assert world.last("job.results", Refused).code == "hash_mismatch"
    world.finish(grant)
    assert world.last("job.results", Result).succeeded


def test_what_was_parked_makes_room_again() -> None:
    """The count goes down when the start comes, and when the wait is over."""
    world = World(None, parked_max=2)
    for number in range(4):
        world.submit(f"j{number}", "job.crm.list")
        grant = world.grants(f"j{number}")[0]
        world.finish(grant)
        world.start(grant)
        made_up = msgspec.structs.replace(grant, job_id=f"none-{number}")
        world.start(made_up, granted_seq=10_000)
        world.advance(30)
        world.advance(30)
    assert {event.code for event in world.events("job.results", Refused)} == {"no_grant"}
    assert len(world.events("job.results", Result)) == 4


# --- the desk


def test_a_desks_records_stand_under_its_key(world: World) -> None:
    """A verdict and a request under another key than their desk are misrouted."""
    world.submit("j1", "job.deploy.web")
    verdict = world.verdict("j1", "approve")
    world.signed(PEOPLE["ken"], "approval.verdicts", "elsewhere", verdict)
    world.plain("approval.requests", "elsewhere", world.request("j1"))
    world.run()
    assert [event.code for event in world.events("approval.events", Refused)] == ["misrouted", "misrouted"]
    assert world.events("approval.resolutions", Resolution) == []


def test_a_resolved_request_cannot_be_withdrawn(world: World) -> None:
    """Nor one that nobody asked; there is one resolution."""
    world.submit("j1", "job.deploy.web")
    request = world.request("j1")
    world.decide("j1", "deny")
    for request_id in (request.request_id, "request-none"):
        withdrawn = RequestWithdrawn(request_id=request_id, desk="desk", origin="gate")
        world.plain("approval.requests", "desk", withdrawn)
    world.run()
    assert [event.kind for event in world.events("approval.events", Noted)] == ["withdrawal", "withdrawal"]
    assert len(world.events("approval.resolutions", Resolution)) == 1


def test_an_expired_request_expires_once(world: World) -> None:
    """The firing again, and one for a request that nobody knows, find nothing."""
    world.submit("j1", "job.deploy.web")
    world.advance(3600)
    fired = world.last("timer.fired.desk", TimerFired)
    world.plain("timer.fired.desk", "desk", fired)
    world.plain("timer.fired.desk", "desk", msgspec.structs.replace(fired, timer_id="expire/none"))
    world.run()
    assert [event.outcome for event in world.events("approval.resolutions", Resolution)] == ["expired"]


def test_a_refused_verdict_says_whether_a_person_signed_it(world: World) -> None:
    """`authenticated` is for those whose signature was verified, whatever they said."""
    world.submit("j1", "job.deploy.web")
    world.plain("approval.verdicts", "desk", world.verdict("j1", "approve"))
    world.decide("j1", "approve", person="rosa")
    refused = world.events("approval.events", Refused)
    assert [(event.code, event.authenticated, event.incident) for event in refused] == [
        ("unsigned", False, True),
        ("own_agent", True, False),
    ]


# --- control


@pytest.mark.parametrize(
    ("key", "changes", "code"),
    [
        ("everything", {}, None),
        ("agent:x", {}, "misrouted"),
        ("room:x", {"scope": "room:x"}, "bad_scope"),
        ("agent:", {"scope": "agent:"}, "bad_scope"),
        ("topic:job.?", {"scope": "topic:job.?"}, "bad_scope"),
        ("everything", {"by": "operator/someone"}, "wrong_signer"),
        ("everything", {"command_id": "command-1"}, None),
        ("everything", {"kind": "activate", "policy_digest": "0" * 64}, "unknown_snapshot"),
        ("everything", {"kind": "activate", "settings": '{"attempts_max":"three"}'}, "bad_settings"),
        ("everything", {"kind": "activate", "settings": '{"no_such_limit":1}'}, "bad_settings"),
    ],
)
def test_each_command_counts_or_is_refused_by_name(
    world: World, key: str, changes: dict[str, Any], code: str | None
) -> None:
    """A refused command changes nothing but the offset."""
    before = world.state()
    assert before.active is not None
    fields = {"command_id": "new", "kind": "pause", "scope": "everything", "by": OPERATOR.key_id, **changes}
    name = before.active.name
    active = {"policy_snapshot": name, "policy_digest": before.active.digest, "previous": name}
    command = Command(**{**active, **fields})
    world.signed(OPERATOR, "control.commands", key, command)
    after = world.state()
    assert after.last is not None
    assert (after.last.accepted, after.last.code, after.offset) == (code is None, code, before.offset + 1)
    assert after.pauses == (("everything",) if code is None else ())


def test_a_command_counts_once(world: World) -> None:
    """A pause that is repeated after its resume pauses nothing."""
    command = Command(command_id="p", kind="pause", scope="everything", by=OPERATOR.key_id)
    world.signed(OPERATOR, "control.commands", "everything", command)
    world.command("resume")
    world.signed(OPERATOR, "control.commands", "everything", command)
    state = world.state()
    assert state.last is not None
    assert (state.last.code, state.pauses) == ("repeated", ())


@pytest.mark.parametrize(
    ("scope", "covers"),
    [
        ("everything", True),
        ("agent:a", True),
        ("agent:b", False),
        ("topic:job.*", True),
        ("topic:crm.*", False),
        ("tag:prod", True),
        ("tag:pro", False),
        ("job:j", True),
        ("job:a", False),
    ],
)
def test_a_pause_covers_what_it_names_and_nothing_else(scope: str, covers: bool) -> None:
    """Kind and value must both fit."""
    state = ControlState(pauses=(scope,))
    assert state.paused("a", "job.x", ["prod"], "j") == (scope if covers else None)


# --- identity


@pytest.mark.parametrize(
    ("ago_ms", "code"),
    [(STALE_AFTER_MS, None), (STALE_AFTER_MS + 1, "stale"), (-AHEAD_MAX_MS, None), (-AHEAD_MAX_MS - 1, "ahead")],
)
def test_the_age_of_a_signature_has_exact_bounds(ago_ms: int, code: str | None) -> None:
    """24 hours back and 5 minutes ahead are still good."""
    key = agent_key("a")
    headers = sign(key, "t", "r", 10**12 - ago_ms, b"k", b"v")
    assert check(headers, "t", b"k", b"v", 10**12, lambda _: key).code == code


@pytest.mark.parametrize("at", ["topic", "key", "value"])
def test_a_signature_covers_topic_key_and_value(at: str) -> None:
    """Each of them altered is a bad signature."""
    key = agent_key("a")
    headers = sign(key, "t", "r", 10**12, b"k", b"v")
    seen: dict[str, Any] = {"topic": "t", "key": b"k", "value": b"v"}
    seen[at] += "x" if at == "topic" else b"x"
    assert check(headers, seen["topic"], seen["key"], seen["value"], 10**12, lambda _: key).code == "bad_signature"


# --- verify


def replaced(world: World, place: tuple[str, int], **changes: Any) -> list[str]:
    topic, number = place
    chosen = world.log.records(topic)[number]
    event = CODEC.decode(chosen.value)
    value = CODEC.encode(msgspec.structs.replace(event, **changes))
    return [
        fault.kind
        for fault in world.verified(
            [msgspec.structs.replace(item, value=value) if item is chosen else item for item in world.records()]
        ).faults
    ]


def test_verify_names_what_is_wrong(world: World) -> None:
    """Each kind of fault by its own word."""
    world.command("pause", "job:other")
    world.log.advance(30_000)
    world.submit("j1", "job.crm.read")
    assert "seq" in replaced(world, ("job.decisions", 1), seq=7)
    assert "judge" in replaced(world, ("job.decisions", 0), judge=JUDGE + 1)
    assert "control_offset" in replaced(world, ("job.decisions", 1), control_offset=0)
    assert "control_offset" in replaced(world, ("job.decisions", 0), control_offset=99)


def test_verify_finds_a_command_of_the_future(world: World) -> None:
    """What was appended hours after a judgement cannot have been known to it; before that, clocks may differ."""
    world.submit("j1", "job.crm.read")
    for hours, kinds in ((1, set()), (5, {"control_offset"})):
        moved = [
            msgspec.structs.replace(item, timestamp_ms=item.timestamp_ms + hours * 3_600_000)
            if item.topic == "control.commands"
            else item
            for item in world.records()
        ]
        found = {fault.kind for fault in world.verified(moved).faults if "was appended after" in fault.message}
        assert found == kinds


def test_verify_needs_every_cause(world: World) -> None:
    """An input that is gone is named by whoever answered it."""
    world.submit("j1", "job.crm.read")
    left = [item for item in world.records() if item.topic != "job.intents"]
    assert "missing_input" in {fault.kind for fault in world.verified(left).faults}


@pytest.mark.parametrize(
    ("topic", "start", "kinds"),
    [("job.decisions", 1, ["truncated"]), ("job.decisions", 0, []), ("job.grants.default", 5, [])],
)
def test_only_topics_kept_for_ever_must_begin_at_0(world: World, topic: str, start: int, kinds: list[str]) -> None:
    """Grants are kept for seven days; their beginning may be gone."""
    from world import MASTER, OPERATORS

    world.submit("j1", "job.crm.read")
    verifier = Verifier(CODEC, TENANT, 3, MASTER, OPERATORS, {(topic, 0): start})
    assert [fault.kind for fault in verifier.run(world.records()).faults] == kinds


@pytest.mark.parametrize(("start", "kinds"), [(0, ["missing"]), (1, [])])
def test_a_grant_may_be_missing_only_where_grants_have_expired(world: World, start: int, kinds: list[str]) -> None:
    """Its terms stand in the journal for ever."""
    from world import MASTER, OPERATORS

    world.submit("j1", "job.crm.read")
    left = [item for item in world.records() if item.topic != "job.grants.default"]
    verifier = Verifier(CODEC, TENANT, 3, MASTER, OPERATORS, {("job.grants.default", 0): start})
    assert [fault.kind for fault in verifier.run(left).faults] == kinds


def test_an_input_at_the_tail_is_pending(world: World) -> None:
    """It waits its turn and is no fault; one in front of an answered one is."""
    world.submit("j1", "job.crm.read")
    world.signed(agent_key("deployer"), "job.intents", "deployer", world.intent("j2", "job.crm.read"))
    report = world.verified()
    assert (report.clean, report.pending) == (True, 1)


def test_a_grant_counts_only_in_the_gates_journal(world: World) -> None:
    """A worker that writes the terms of a grant on its own topic has granted nothing."""
    world.submit("j1", "job.crm.list")
    granted = msgspec.structs.replace(world.last("job.decisions", Granted), job_id="j2", grant_id="grant-own")
    for topic in ("job.starts", "job.outputs"):
        world.plain(topic, "deployer", granted)
    world.run()
    assert [event.code for event in world.events("job.results", Refused)] == ["wrong_topic", "wrong_topic"]
    assert [event.job_id for event in world.events("job.results", AttemptOpened)] == ["j1"]


def test_what_waits_for_its_grant_waits_the_whole_time(world: World) -> None:
    """Two halves, the second counted from the first's firing."""
    world.submit("j1", "job.crm.list")
    made_up = msgspec.structs.replace(world.grants("j1")[0], job_id="none")
    world.start(made_up, granted_seq=10_000)
    for sec in (15, 14.5):
        world.advance(sec)
        assert world.events("job.results", Refused) == []
    world.advance(2)
    assert [event.code for event in world.events("job.results", Refused)] == ["no_grant"]


def test_firings_that_find_nothing_are_no_dead_letters(world: World) -> None:
    """For requests that are unknown or over the desk notes `not armed`."""
    world.submit("j1", "job.deploy.web")
    world.decide("j1", "deny")
    for request_id in (world.request("j1").request_id, "none"):
        fired = TimerFired(owner="desk", key="desk", timer_id=f"expire/{request_id}", fire_at_ms=1)
        world.plain("timer.fired.desk", "desk", fired)
    world.run()
    assert [event.detail for event in world.events("approval.events", Noted)] == ["not armed", "not armed"]
    assert world.events("dead.letters", DeadLetter) == []


def test_verify_counts_its_faults(world: World) -> None:
    """The count is of all, also where no more are kept."""
    world.submit("j1", "job.crm.read")
    report = world.verified([item for item in world.records() if item.topic != "job.intents"])
    assert report.faults_count == len(report.faults) > 0


def test_the_evidence_is_the_verdicts_own(world: World) -> None:
    """What the resolution keeps of a verdict is what was signed, field by field."""
    world.submit("j1", "job.deploy.web")
    verdict = world.verdict("j1", "approve")
    world.signed(PEOPLE["ken"], "approval.verdicts", "desk", verdict)
    world.run()
    kept = world.last("approval.resolutions", Resolution).verdicts[0]
    for name in kept.__struct_fields__:
        assert getattr(kept, name) == getattr(verdict, name), name


def test_a_wait_that_is_over_to_the_millisecond_is_over(world: World) -> None:
    """A firing at the very time it was asked for counts."""
    world.submit("j1", "job.crm.list")
    made_up = msgspec.structs.replace(world.grants("j1")[0], job_id="none")
    world.start(made_up, granted_seq=10_000)
    for _ in range(2):
        timer = world.last("timer.requests", TimerRequest)
        world.log.clock_ms = timer.fire_at_ms - 1
        fields = {name: getattr(timer, name) for name in timer.__struct_fields__}
        world.plain("timer.fired.outputs", "deployer", TimerFired(**fields))
        world.run()
    assert [event.code for event in world.events("job.results", Refused)] == ["no_grant"]
