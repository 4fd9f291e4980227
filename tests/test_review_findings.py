"""What an adversarial review found, each as the rule that holds now."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from world import CODEC, MASTER, OPERATORS, TENANT, World, agent_key, ids, policy_files

from sluicegate.processors.control import Control
from sluicegate.processors.plane import KEY_BYTES_MAX
from sluicegate.schemas.events import (
    Ask,
    AttemptEnded,
    Closed,
    Decision,
    Grant,
    GrantRefused,
    Progressed,
    Refused,
    RequestOpened,
    Resolution,
    Result,
)
from sluicegate.streams.engine import RECORD_BYTES_MAX, Out, size_bytes
from sluicegate.streams.identity import sign

DENY_DEPLOYS = """
rules:
  - id: never-deploy
    match: { topics: ["job.deploy.*", "job.crm.*"] }
    decision: deny
    reason: "frozen"
"""


@pytest.fixture
def world() -> World:
    return World()


def delay(world: World, *topics: str, ms: int) -> None:
    """What stands on these topics reaches its readers only so much later: topics have no order between them."""
    for (topic, _), entries in world.log._entries.items():
        for entry in entries if topic in topics else ():
            entry.visible_at_ms = world.log.clock_ms + ms


# --- poison: no record may stop the plane that reads it


@pytest.mark.parametrize("key", [b"k" * 600_000, b"k" * (KEY_BYTES_MAX + 1), b"\xff" * 400_000])
@pytest.mark.parametrize("readable", [True, False])
def test_a_huge_key_stops_no_gate(world: World, key: bytes, readable: bool) -> None:
    """An agent chooses its records' keys: one too long is journaled under a short one, and nothing stops."""
    value = CODEC.encode(world.intent("j1", "job.crm.read")) if readable else b"rubbish"
    world.log.produce("job.intents", key, value)
    world.run()
    assert world.last("job.decisions", Refused).code == ("misrouted" if readable else "malformed")
    world.submit("j2", "job.crm.read")
    assert len(world.grants("j2")) == 1
    assert world.verified().clean


@pytest.mark.parametrize("name", ["traceparent", "tracestate", "ce_subject"])
@pytest.mark.parametrize("readable", [True, False])
def test_a_huge_header_stops_no_gate(world: World, name: str, readable: bool) -> None:
    """Headers are not signed and not bounded by the payload's limit; what is too long is not passed on."""
    value = CODEC.encode(world.intent("j1", "job.crm.read")) if readable else b"rubbish"
    headers = sign(agent_key("deployer"), "job.intents", "r1", world.log.clock_ms, b"deployer", value)
    world.log.produce("job.intents", b"deployer", value, (*headers, (name, b"x" * 985_000)))
    world.run()
    world.submit("j2", "job.crm.read")
    assert (len(world.grants("j1")), len(world.grants("j2"))) == (int(readable), 1)
    assert world.verified().clean


def test_a_huge_job_id_of_a_worker_stops_no_outputs(world: World) -> None:
    """No job has an id of more than 200 characters, so nothing of one is parked."""
    grant = Grant(**{**grant_fields(world), "job_id": "j" * 600_000})
    world.start(grant, granted_seq=10_000)
    assert world.last("job.results", Refused).code in ("malformed", "oversize")
    assert world.verified().clean


def grant_fields(world: World) -> dict[str, Any]:
    world.submit("j1", "job.crm.list")
    return {name: getattr(world.grants("j1")[0], name) for name in Grant.__struct_fields__}


def test_an_entry_too_large_for_the_state_changes_none_of_it(world: World) -> None:
    """What the changelog could not carry is refused before anything of the turn is written."""
    context = msgspec.structs.replace(world.intent("x", "t").payload, content=b"c" * 900_000)
    world.submit("j1", "job.deploy.web", context=context)
    assert world.events("job.decisions", Decision) == []
    assert world.last("job.decisions", Refused).job_id == "j1"
    assert world.verified().clean


# --- keys: a journal belongs to one key and its numbers do not repeat


@pytest.mark.parametrize(
    "keys",
    [
        (b"\xff", b"\\xff"),
        (b"misrouted/0/x", b"x"),
        (b"misrouted/1/x", b"x"),
        (b"misrouted/2/x", b"x"),
    ],
)
def test_no_choice_of_keys_makes_verify_find_a_fault(world: World, keys: tuple[bytes, ...]) -> None:
    """Two keys never share a journal, whichever partitions an agent writes them to."""
    for key in keys:
        for partition in range(3):
            world.log.produce("job.intents", key, b"rubbish", partition=partition)
    world.run()
    report = world.verified()
    assert report.clean, report.faults[:3]


def test_unknown_key_ids_are_not_remembered(world: World) -> None:
    """Whoever writes a record chooses its key id: what nobody is enrolled under leaves no trace in memory."""
    control = Control(world.state(), TENANT, MASTER, OPERATORS)
    for number in range(1000):
        assert control.key(f"agent/stranger-{number}") is None
    assert control.key("agent/deployer") is not None
    assert len(control._keys) < 10


# --- limits


def test_an_intent_of_another_tenant_is_refused(world: World) -> None:
    """A worker would refuse its grant and nobody would end the job."""
    intent = msgspec.structs.replace(world.intent("j1", "job.crm.read"), tenant="elsewhere")
    world.signed(agent_key("deployer"), "job.intents", "deployer", intent)
    world.run()
    assert (world.last("job.decisions", Refused).code, world.grants("j1")) == ("malformed", [])


@pytest.mark.parametrize("tags", [["t" * 101], [f"t{number}" for number in range(65)], [""]])
def test_tags_are_bounded(world: World, tags: list[str]) -> None:
    """Tags are remembered with each settled judgement, so their number and length are limited."""
    world.submit("j1", "job.crm.read", risk_tags=tags)
    assert (world.last("job.decisions", Refused).code, world.grants("j1")) == ("malformed", [])


def test_a_pause_is_no_way_past_the_limits() -> None:
    """Held jobs count as in flight: a resume does not set free more than the limit lets through."""
    world = World(None, in_flight_max=3)
    world.command("pause", "agent:deployer")
    for number in range(5):
        world.submit(f"j{number}", "job.crm.read")
    world.command("resume", "agent:deployer")
    world.advance(60)
    assert [len(world.grants(f"j{number}")) for number in range(5)] == [1, 1, 1, 0, 0]
    assert {event.code for event in world.events("job.decisions", Refused)} == {"in_flight_max"}
    for number in range(3):
        world.start(world.grants(f"j{number}")[0])
        world.finish(world.grants(f"j{number}")[0])
    world.submit("next", "job.crm.read")
    assert len(world.grants("next")) == 1
    assert world.verified().clean


# --- job ids that come again after 48 hours


def test_a_job_id_that_comes_again_gets_a_request_of_its_own(world: World) -> None:
    """The desk knows request ids for ever, so one is never used twice: no job waits for a request that is not open."""
    for _ in range(2):
        world.submit("j1", "job.deploy.web")
        world.decide("j1", "deny")
        world.advance(48 * 3600 + 1)
    closed = world.events("job.decisions", Closed)
    assert [event.outcome for event in closed] == ["denied", "denied"]
    assert len({event.request_id for event in world.events("approval.events", RequestOpened)}) == 2


@pytest.mark.parametrize("sec", [1, 100, 299, 600])
def test_a_job_id_that_comes_again_gets_its_result(world: World, sec: int) -> None:
    """Gate and outputs forget at different moments; the second job's grant is another one, whatever the first left."""
    for _ in range(2):
        world.submit("j1", "job.crm.read")
        world.start(world.grants("j1")[-1])
        world.finish(world.grants("j1")[-1])
        world.advance(48 * 3600 + sec)
    assert [event.outcome for event in world.events("job.decisions", Closed)] == ["succeeded", "succeeded"]
    assert len({grant.grant_id for grant in world.grants("j1")}) == 2
    assert world.verified().clean


@pytest.mark.parametrize("hours", [1, 49, 150])
def test_a_grant_that_waited_for_days_still_lapses(world: World, hours: int) -> None:
    """Outputs forgets no attempt that has not ended: a pool may be down for longer than ids are remembered."""
    world.submit("j1", "job.crm.read")
    world.advance(hours * 3600)
    world.lapse(world.grants("j1")[0])
    assert [grant.attempt for grant in world.grants("j1")] == [1, 2]


def test_a_job_may_run_for_longer_than_ids_are_remembered(world: World) -> None:
    """A worker that reports for three days gets its result through."""
    world.submit("j1", "job.crm.list")
    grant = world.grants("j1")[0]
    world.start(grant)
    for _ in range(72 * 3):
        world.log.advance(1_200_000)
        world.plain("job.starts", grant.agent_id, Progressed(**ids(grant), worker_id="w1"))
        world.run()
    world.finish(grant)
    assert world.last("job.results", Result).grant_id == grant.grant_id
    assert world.last("job.decisions", Closed).outcome == "succeeded"


# --- withdrawal, approval, loss


def test_a_withdrawn_job_does_not_run_though_a_person_approves_in_the_meantime(world: World) -> None:
    """The gate has the withdrawal before it grants: the approval comes too late, whatever the desk met first."""
    world.submit("j1", "job.deploy.web")
    gate, outputs, desk = world.engines
    world.engines = [desk]
    world.decide("j1", "approve")
    delay(world, "approval.resolutions", ms=5_000)
    world.engines = [gate]
    world.withdraw("j1")
    world.engines = [gate, outputs, desk]
    world.run()
    assert [event.outcome for event in world.events("approval.resolutions", Resolution)] == ["approved"]
    assert (world.grants("j1"), world.last("job.decisions", Closed).outcome) == ([], "withdrawn")
    assert world.verified().clean


@pytest.mark.parametrize("end", ["lapsed", "withdrawn", "denied", "policy"])
def test_what_may_have_run_is_never_said_not_to_have_run(end: str) -> None:
    """Once a worker vanished with a job, every end without a result is `unknown`, not lapsed, withdrawn or denied."""
    world = World(None, attempts_max=2)
    topic = "job.crm.read" if end == "lapsed" else "job.crm.list"
    world.submit("j1", topic)
    world.start(world.grants("j1")[0])
    if end in ("withdrawn", "policy"):
        world.advance(31)
        world.command("pause", "agent:deployer")
        world.decide("j1", "approve")
        if end == "withdrawn":
            world.withdraw("j1")
        else:
            world.activate(policy_files(**{"freeze.yaml": DENY_DEPLOYS}))
            world.command("resume", "agent:deployer")
            world.advance(60)
    elif end == "denied":
        world.advance(31)
        world.decide("j1", "deny")
    else:
        world.advance(31)
        world.lapse(world.grants("j1")[1])
    assert world.last("job.decisions", Closed).outcome == "unknown"
    assert world.verified().clean


def test_a_job_that_only_lapsed_is_still_lapsed() -> None:
    """Nothing ran, and it is told so."""
    world = World(None, attempts_max=1)
    world.submit("j1", "job.crm.read")
    world.lapse(world.grants("j1")[0])
    assert world.last("job.decisions", Closed).outcome == "lapsed"


def test_a_wish_for_a_person_is_fulfilled_by_any_approval(world: World) -> None:
    """Who approved a job has also answered the submitter's `ask`: nobody is asked a second time for it."""
    world.submit("j1", "job.deploy.web", ask=Ask(reason="look at it"))
    rules = {rule.layer for rule in world.request("j1").rules}
    assert rules == {"safety-policy", "ask"}
    world.activate(
        policy_files(**{"safety-policy.yaml": "rules:\n  - id: all\n    match: {topics: ['*']}\n    decision: allow\n"})
    )
    world.decide("j1", "approve")
    assert len(world.grants("j1")) == 1


# --- outputs: what workers do wrong, and backlogs


def test_a_grant_that_no_handler_takes_ends(world: World) -> None:
    """The worker has used the grant up: nothing ran, the attempt is over, and nobody is accused."""
    world.submit("j1", "job.crm.read")
    for _ in range(3):
        grant = world.grants("j1")[-1]
        refused = GrantRefused(
            **ids(grant), worker_id="w1", granted_seq=grant.granted_seq, code="no_handler", message="none"
        )
        world.plain("job.starts", grant.agent_id, refused)
        world.run()
    assert not any(event.incident for event in world.events("job.results", Refused))
    assert [event.outcome for event in world.events("job.results", AttemptEnded)] == ["lapsed"] * 3
    assert world.last("job.decisions", Closed).outcome == "lapsed"
    assert world.verified().clean


def test_no_handler_for_a_grant_that_nobody_gave_ends_nothing(world: World) -> None:
    """A refusal under another grant id leaves the attempt open."""
    world.submit("j1", "job.crm.read")
    grant = world.grants("j1")[0]
    refused = GrantRefused(**ids(grant), worker_id="w1", granted_seq=1, code="no_handler", message="none")
    refused.grant_id = "grant-none"
    world.plain("job.starts", grant.agent_id, refused)
    world.run()
    assert world.events("job.results", AttemptEnded) == []


def test_a_backlog_that_comes_in_another_order_loses_nothing(world: World) -> None:
    """Outputs was away while 200 jobs ran, and meets every output before its start: each gets its result."""
    gate, outputs, desk = world.engines
    world.engines = [gate, desk]
    for number in range(200):
        world.submit(f"j{number}", "job.crm.list")
    for number in range(200):
        world.start(world.grants(f"j{number}")[0])
        world.finish(world.grants(f"j{number}")[0])
    delay(world, "job.starts", "job.decisions", ms=1_000)
    world.engines = [gate, outputs, desk]
    world.run()
    assert len(world.events("job.results", Result)) == 200
    assert world.events("job.results", Refused) == []


def test_a_timer_that_fired_late_ends_no_attempt(world: World) -> None:
    """Outputs was away for a minute: the lease it arms has already passed, and the output is still to be read."""
    gate, outputs, desk = world.engines
    world.submit("j1", "job.crm.list")
    grant = world.grants("j1")[0]
    world.engines = [gate, desk]
    world.start(grant)
    world.finish(grant)
    world.log.advance(60_000)
    delay(world, "job.outputs", ms=5_000)
    fired_before = world.log.clock_ms
    world.engines = [outputs]
    _run_visible(world)
    world.engines = [gate, outputs, desk]
    _fire_due(world)
    assert world.log.clock_ms < fired_before + 5_000
    assert world.events("job.results", AttemptEnded) == []
    world.run()
    assert world.last("job.results", Result).grant_id == grant.grant_id


def test_a_timer_that_fired_late_refuses_nothing_parked(world: World) -> None:
    """The same for what waits for its start."""
    gate, outputs, desk = world.engines
    world.submit("j1", "job.crm.list")
    grant = world.grants("j1")[0]
    world.engines = [gate, desk]
    world.start(grant)
    world.finish(grant)
    world.log.advance(60_000)
    delay(world, "job.starts", ms=5_000)
    world.engines = [outputs]
    _run_visible(world)
    world.engines = [gate, outputs, desk]
    _fire_due(world)
    assert world.events("job.results", Refused) == []
    world.run()
    assert world.last("job.results", Result).grant_id == grant.grant_id


def _run_visible(world: World) -> None:
    """Run the engines over what is there, without waiting for what is on its way."""
    while any(engine.run_once() for engine in world.engines):
        pass


def _fire_due(world: World) -> None:
    run, world.run = world.run, lambda: _run_visible(world)  # type: ignore[method-assign]
    world.advance(0)
    world.run = run  # type: ignore[method-assign]


@pytest.mark.parametrize("number", [b"1e999", b"-1e999", b"1" + b"0" * 5000])
def test_a_number_that_no_reader_holds_is_malformed(world: World, number: bytes) -> None:
    """An infinity under another name is none the less one."""
    world.submit("j1", "job.crm.read", b'{"amount_usd":' + number + b"}")
    assert world.last("job.decisions", Refused).code == "malformed"


def test_a_trace_header_as_large_as_a_record_allows_is_not_passed_on(world: World) -> None:
    """What the step writes weighs more than what it reads, so nothing unbounded may come along."""
    value = CODEC.encode(world.intent("j1", "job.crm.list", payload=b"1"))
    headers = sign(agent_key("deployer"), "job.intents", "r1", world.log.clock_ms, b"deployer", value)
    room = RECORD_BYTES_MAX - size_bytes(Out("job.intents", b"deployer", value, (*headers, ("traceparent", b""))))
    world.log.produce("job.intents", b"deployer", value, (*headers, ("traceparent", b"x" * room)))
    world.run()
    assert len(world.grants("j1")) == 1
