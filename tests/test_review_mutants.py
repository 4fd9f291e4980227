"""Rules at their exact bounds: each test here fails for a comparison that was turned round in a copy of the build."""

from __future__ import annotations

import msgspec
import pytest
from world import CODEC, OPERATOR, World, agent_key, ids, policy_files

from sluicegate.policies.intents import CHARS_MAX, TAG_CHARS_MAX, TAGS_MAX
from sluicegate.processors.gate_limits import INTENT_REST_BYTES_MAX
from sluicegate.processors.plane import KEY_BYTES_MAX
from sluicegate.schemas.events import (
    Ask,
    AttemptEnded,
    Closed,
    DeadLetter,
    Decision,
    Grant,
    Incident,
    Noted,
    Progressed,
    Refused,
    Repeated,
    Resolution,
    Result,
    TimerFired,
    TimerRequest,
    Withdrawal,
)

FREEZE = """
rules:
  - id: never-deploy
    match: { topics: ["job.deploy.*"] }
    decision: deny
    reason: "frozen"
"""


@pytest.fixture
def world() -> World:
    return World()


def gate_refusals(world: World) -> list[str]:
    return [event.code for event in world.events("job.decisions", Refused)]


def started(world: World, job_id: str = "j1", topic: str = "job.crm.list") -> Grant:
    world.submit(job_id, topic)
    grant = world.grants(job_id)[-1]
    world.start(grant)
    return grant


# --- the gate


@pytest.mark.parametrize(
    ("confidence", "code"),
    [(0.0, None), (1.0, None), (-0.001, "malformed"), (1.001, "malformed"), (float("nan"), "malformed")],
)
def test_confidence_is_from_0_to_1(world: World, confidence: float, code: str | None) -> None:
    """Both ends belong to it."""
    world.submit("j1", "job.crm.read", confidence=confidence)
    assert gate_refusals(world) == ([] if code is None else [code])


@pytest.mark.parametrize(
    ("job_id", "topic", "tags", "code"),
    [
        ("j" * CHARS_MAX, "job.crm.read", [], None),
        ("j" * (CHARS_MAX + 1), "job.crm.read", [], "malformed"),
        ("", "job.crm.read", [], "malformed"),
        ("j1", "t" * CHARS_MAX, [], None),
        ("j1", "t" * (CHARS_MAX + 1), [], "malformed"),
        ("j1", "", [], "malformed"),
        ("j1", "job.crm.read", ["t" * TAG_CHARS_MAX], None),
        ("j1", "job.crm.read", [f"t{number}" for number in range(TAGS_MAX)], None),
    ],
)
def test_names_have_bounds(world: World, job_id: str, topic: str, tags: list[str], code: str | None) -> None:
    """The largest that is allowed is judged, one more is refused."""
    world.submit(job_id, topic, risk_tags=tags)
    assert gate_refusals(world) == ([] if code is None else [code])


@pytest.mark.parametrize(("more", "codes"), [(0, []), (1, ["payload_bytes_max"])])
def test_the_payload_limit_is_exact(more: int, codes: list[str]) -> None:
    """The limit counts the envelope's bytes, salt and all."""
    world = World(None, payload_bytes_max=100)
    world.submit("j1", "job.crm.read", b'"' + b"x" * (100 - 16 - 2 + more) + b'"')
    assert gate_refusals(world) == codes


@pytest.mark.parametrize(("more", "codes"), [(0, []), (1, ["intent_bytes_max"])])
def test_the_limit_of_the_whole_intent_is_exact(more: int, codes: list[str]) -> None:
    """Context and names have room besides the payload, and no more."""
    world = World(None, payload_bytes_max=100)
    bare = world.intent("j1", "job.crm.read")
    room = 100 + INTENT_REST_BYTES_MAX - len(CODEC.encode(bare)) - 2 + more
    intent = msgspec.structs.replace(bare, agent_version="1" * (room + 1))
    assert len(CODEC.encode(intent)) == 100 + INTENT_REST_BYTES_MAX + more
    world.signed(agent_key("deployer"), "job.intents", "deployer", intent)
    world.run()
    assert gate_refusals(world) == codes


def test_a_new_minute_is_a_new_count() -> None:
    """The limit is of a minute since the epoch; the next one begins at none."""
    world = World(None, intents_per_min_max=2)
    for number in range(3):
        world.submit(f"a{number}", "job.crm.read")
    world.log.advance(60_000)
    for number in range(3):
        world.submit(f"b{number}", "job.crm.read")
    assert gate_refusals(world) == ["intents_per_min_max"] * 2


def test_room_comes_back_with_each_end() -> None:
    """Results make room in flight, resolutions make room for requests; nothing is counted twice."""
    world = World(None, in_flight_max=1, open_requests_max=1)
    for number in range(3):
        grant = started(world, f"r{number}")
        world.finish(grant)
        world.submit(f"d{number}", "job.deploy.web")
        world.decide(f"d{number}", "deny")
    assert gate_refusals(world) == []
    world.submit("one", "job.crm.list")
    world.submit("two", "job.crm.list")
    assert gate_refusals(world) == ["in_flight_max"]


def test_a_held_job_waits_for_room_among_the_requests() -> None:
    """A resume opens no more requests than the limit lets stand open."""
    world = World(None, open_requests_max=1)
    world.command("pause", "agent:deployer")
    world.submit("d0", "job.deploy.web")
    world.submit("d1", "job.deploy.web")
    world.command("resume", "agent:deployer")
    world.advance(5)
    asked = [event.job_id for event in world.events("job.decisions", Decision)]
    assert asked == ["d0"]
    world.decide("d0", "deny")
    world.advance(60)
    assert [event.job_id for event in world.events("job.decisions", Decision)] == ["d0", "d1"]
    assert world.verified().clean


def test_a_repetition_of_a_held_job_says_so(world: World) -> None:
    """There is no answer yet that could be repeated."""
    world.command("pause", "everything")
    intent = world.submit("j1", "job.crm.read")
    world.signed(agent_key("deployer"), "job.intents", "deployer", intent)
    world.run()
    assert world.last("job.decisions", Noted).kind == "repeated"
    assert world.events("job.decisions", Repeated) == []


def test_a_repetition_of_a_job_held_after_its_decision_gets_it(world: World) -> None:
    """Held on its way back from a person: the decision stands and is repeated."""
    intent = world.submit("j1", "job.deploy.web")
    world.command("pause", "everything")
    world.decide("j1", "approve")
    world.signed(agent_key("deployer"), "job.intents", "deployer", intent)
    world.run()
    assert world.last("job.decisions", Repeated).decision == "REQUIRE_APPROVAL"


@pytest.mark.parametrize("when", ["unknown", "granted", "closed"])
def test_what_cannot_be_withdrawn_is_told(world: World, when: str) -> None:
    """Too late is an answer; it changes nothing."""
    if when != "unknown":
        grant = started(world)
        if when == "closed":
            world.finish(grant)
    world.withdraw("j1")
    assert world.last("job.decisions", Noted).kind == "not_withdrawn"
    assert [event.outcome for event in world.events("job.decisions", Closed)] == (
        ["succeeded"] if when == "closed" else []
    )


def test_a_held_job_is_withdrawn_at_once(world: World) -> None:
    """No desk is asked; its timer finds nothing."""
    world.command("pause", "everything")
    world.submit("j1", "job.crm.read")
    world.withdraw("j1")
    world.command("resume", "everything")
    world.advance(5)
    assert (world.last("job.decisions", Closed).outcome, world.grants("j1")) == ("withdrawn", [])


@pytest.mark.parametrize("changes", [{"request_id": "request-none"}, {"job_hash": "0" * 64}, {"job_id": "j2"}])
def test_only_the_open_requests_resolution_counts(world: World, changes: dict[str, str]) -> None:
    """A resolution of another request, of other content or of another job grants nothing."""
    world.submit("j1", "job.deploy.web")
    world.submit("j3", "job.deploy.web")
    world.decide("j3", "approve")
    true = world.last("approval.resolutions", Resolution)
    request = world.request("j1")
    named = {"request_id": request.request_id, "job_id": "j1", "job_hash": request.job_hash}
    world.plain("approval.resolutions", "deployer", msgspec.structs.replace(true, **{**named, **changes}))
    world.run()
    assert world.grants("j1") == []
    assert world.last("job.decisions", Noted).kind == "resolution"


def test_only_the_live_grants_end_counts(world: World) -> None:
    """A result or an end of another grant closes nothing."""
    grant = started(world)
    world.finish(grant)
    result = world.last("job.results", Result)
    other = started(world, "j2")
    false = msgspec.structs.replace(result, job_id="j2", grant_id="grant-none")
    world.plain("job.results", "deployer", false)
    fields = {name: getattr(false, name) for name in ("cause", "at_ms", "seq", "control_offset", "judge")}
    end = AttemptEnded(**fields, **{**ids(other), "grant_id": "grant-none"}, outcome="lost")
    world.plain("job.results", "deployer", end)
    world.run()
    assert [event.job_id for event in world.events("job.decisions", Closed)] == ["j1"]
    assert len(world.grants("j2")) == 1


@pytest.mark.parametrize(("asked", "sec"), [(None, 3600), (60, 60), (0, 1), (-5, 1), (7200, 3600)])
def test_a_submitter_may_only_shorten_the_wait(world: World, asked: int | None, sec: int) -> None:
    """`ask` lengthens nothing, and a second is the least."""
    world.submit("j1", "job.deploy.web", ask=Ask(reason="please", timeout_sec=asked))
    request = world.request("j1")
    assert request.expires_at_ms - request.created_at_ms == sec * 1000


def test_a_firing_of_another_time_or_too_early_judges_nothing(world: World) -> None:
    """A hold ends by the firing it armed, at its time."""
    world.command("pause", "everything")
    world.submit("j1", "job.crm.read")
    world.command("resume", "everything")
    timer = world.last("timer.requests", TimerRequest)
    for fire_at_ms in (timer.fire_at_ms, timer.fire_at_ms - 1, world.log.clock_ms):
        fired = TimerFired(owner="gate", key="deployer", timer_id="hold/j1", fire_at_ms=fire_at_ms)
        world.plain("timer.fired.gate", "deployer", fired)
    world.run()
    notes = [event.detail for event in world.events("job.decisions", Noted) if event.kind == "timer"]
    assert (notes, world.grants("j1")) == (["early", "not armed", "not armed"], [])
    world.advance(5)
    assert len(world.grants("j1")) == 1


def test_a_key_of_the_greatest_length_is_a_key(world: World) -> None:
    """1,024 bytes have a journal of their own."""
    world.log.produce("job.intents", b"k" * KEY_BYTES_MAX, b"rubbish")
    world.run()
    assert world.log.records("job.decisions")[-1].key == b"k" * KEY_BYTES_MAX


# --- what does not belong


@pytest.mark.parametrize("topic", ["job.intents", "approval.resolutions", "agent.incidents", "timer.fired.gate"])
def test_the_gate_refuses_what_does_not_belong_on_a_topic(world: World, topic: str) -> None:
    """Class and topic must both fit: a start is no intent, resolution, incident or firing."""
    world.plain(topic, "deployer", _sign_of_life(world))
    world.run()
    refused = world.last("job.decisions", Refused)
    assert (refused.code, refused.incident) == ("wrong_topic", True)
    assert {fault.kind for fault in world.verified().faults} <= {"foreign"}


@pytest.mark.parametrize("topic", ["job.starts", "job.outputs", "timer.fired.outputs"])
def test_outputs_refuses_what_does_not_belong_on_a_topic(world: World, topic: str) -> None:
    """An intent is nothing a worker sends, and a start is no output."""
    world.plain(topic, "deployer", world.intent("j1", "job.crm.read"))
    if topic == "job.outputs":
        world.plain(topic, "deployer", _sign_of_life(world))
    world.run()
    assert {event.code for event in world.events("job.results", Refused)} == {"wrong_topic"}


@pytest.mark.parametrize("topic", ["approval.requests", "approval.verdicts", "timer.fired.desk"])
def test_the_desk_refuses_what_does_not_belong_on_a_topic(world: World, topic: str) -> None:
    """Nothing of an agent is a request, a verdict or a firing."""
    world.plain(topic, "desk", world.intent("j1", "job.crm.read"))
    world.run()
    assert world.last("approval.events", Refused).code == "wrong_topic"


def _sign_of_life(_: World) -> Progressed:
    return Progressed(job_id="j1", agent_id="deployer", grant_id="g", attempt=1, worker_id="w1")


def test_an_incident_stands_under_its_agents_key(world: World) -> None:
    """Signed by an operator, and still misrouted."""
    incident = Incident(incident_id="i1", agent_id="deployer", kind="leak", note="seen")
    world.signed(OPERATOR, "agent.incidents", "other", incident)
    world.run()
    refused = world.last("job.decisions", Refused)
    assert (refused.code, refused.incident, refused.ref) == ("misrouted", True, "i1")


def test_a_result_closes_its_job_once(world: World) -> None:
    """The same result again finds the job closed."""
    world.finish(started(world))
    world.plain("job.results", "deployer", world.last("job.results", Result))
    world.run()
    assert len(world.events("job.decisions", Closed)) == 1
    assert world.last("job.decisions", Noted).kind == "result"


@pytest.mark.parametrize("reason", ["not needed", None])
def test_a_withdrawal_needs_no_reason_and_keeps_one(world: World, reason: str | None) -> None:
    """With or without it the gate remembers that the job is withdrawn, also when an approval comes in between."""
    world.submit("j1", "job.deploy.web")
    gate, outputs, desk = world.engines
    event = Withdrawal(job_id="j1", agent_id="deployer", reason=reason)
    world.signed(agent_key("deployer"), "job.intents", "deployer", event)
    world.engines = [gate]
    verdict = world.verdict("j1", "approve")
    world.run()
    approved = Resolution(
        request_id=verdict.request_id,
        kind="intent",
        origin="gate",
        job_id="j1",
        agent_id="deployer",
        outcome="approved",
        job_hash=verdict.job_hash or "",
        policy_snapshot="",
        policy_digest="",
        attempt=0,
        resolved_at_ms=0,
        desk_seq=1,
    )
    world.plain("approval.resolutions", "deployer", approved)
    world.engines = [gate, outputs, desk]
    world.run()
    closed = world.last("job.decisions", Closed)
    assert (closed.outcome, closed.reason, world.grants("j1")) == ("withdrawn", reason, [])


def test_an_end_of_an_attempt_that_is_over_changes_nothing(world: World) -> None:
    """The loss of a closed job, of a job that people are asked about, and of no job at all: noted, and no more."""
    grant = started(world, "j1", "job.crm.list")
    world.advance(31)
    lost = world.last("job.results", AttemptEnded)
    world.plain("job.results", "deployer", lost)
    world.plain("job.results", "deployer", msgspec.structs.replace(lost, job_id="none"))
    world.run()
    world.decide("j1", "deny")
    world.plain("job.results", "deployer", msgspec.structs.replace(lost, outcome="lapsed"))
    world.run()
    notes = [event.detail for event in world.events("job.decisions", Noted) if event.kind == "attempt"]
    assert notes == ["not the live attempt"] * 3
    assert len(world.grants("j1")) == grant.attempt == 1
    assert world.events("dead.letters", DeadLetter) == []


def test_a_withdrawal_through_the_desk_keeps_its_reason(world: World) -> None:
    """The agent gets its own word back."""
    world.submit("j1", "job.deploy.web")
    world.withdraw("j1")
    closed = world.last("job.decisions", Closed)
    assert (closed.outcome, closed.reason) == ("withdrawn", "not needed")


@pytest.mark.parametrize(("topic", "subject"), [("job.intents", "intent"), ("approval.resolutions", "input")])
def test_rubbish_is_called_what_it_was_meant_for(world: World, topic: str, subject: str) -> None:
    """Only what stands among the intents was meant as one."""
    world.log.produce(topic, b"deployer", b"rubbish")
    world.run()
    assert world.last("job.decisions", Refused).subject == subject


def test_a_denial_by_policy_is_one_event(world: World) -> None:
    """The decision is the answer; a job that was lost and is permitted again is not closed by that."""
    world.activate(policy_files(**{"freeze.yaml": FREEZE}))
    world.submit("j0", "job.deploy.web")
    started(world, "j1", "job.crm.list")
    world.advance(31)
    world.activate(policy_files())
    world.decide("j1", "approve")
    assert len(world.grants("j1")) == 2
    assert world.events("job.decisions", Closed) == []
