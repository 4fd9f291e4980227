"""An agent that floods: others are judged as without it, the desk is not buried, and everything refused is counted."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
import pytest
import yaml
from fixtures_kafka import RunningBroker
from flood_kafka import Answer, Flood, prepared_flood
from world import World, agent_key, policy_files

from sluicegate.schemas.events import ApprovalRequest, Decision, Granted, Intent, Refused, Repeated
from sluicegate.streams.memory import EPOCH_MS
from sluicegate.streams.partitioner import partition_for
from sluicegate.streams.topics import APPLICATIONS

FLOODER: Final = "flooder"
OTHERS: Final = ("other-0", "other-1", "other-2", "other-3", "other-4")
FLOODED: Final = 3_000
EVERY: Final = 100
"""After each so-manieth intent of the flooder, every other agent has two of its own."""
LIMITS: Final = {"payload_bytes_max": 2_000, "intents_per_min_max": 2_000}
MINUTE_MS: Final = 60_000
T = TypeVar("T")

REQUESTS_BIND: Final = {**LIMITS, "topics_per_day_max": 40, "open_requests_max": 50, "in_flight_max": 1_000}
JOBS_BIND: Final = {**LIMITS, "topics_per_day_max": 500, "open_requests_max": 1_000, "in_flight_max": 60}
ALWAYS: Final = {"payload_bytes_max", "intents_per_min_max"}


def files() -> dict[str, str]:
    agents = [{"id": name, "owner": "rosa", "version": "1", "key": {"kind": "hmac"}} for name in (FLOODER, *OTHERS)]
    return policy_files(**{"agents.yaml": yaml.safe_dump({"agents": agents})})


def flooded_intent(world: World, number: int) -> Intent:
    """Held topics, fresh topics, big payloads, and what was sent before, in turn."""
    kind = number % 4
    if kind == 0:
        return world.intent(f"held-{number}", "job.deploy.web", agent=FLOODER)
    if kind == 1:
        return world.intent(f"fresh-{number}", f"job.made-up-{number}.read", agent=FLOODER)
    if kind == 2:
        return world.intent(f"big-{number}", "job.crm.read", b'"%s"' % (b"x" * 3_000), agent=FLOODER)
    return flooded_intent(world, number // 4)


def run(limits: dict[str, int], *, flooded: bool) -> World:
    """One minute: the others as ever, with the flood or without it."""
    world = World(files(), **limits)
    for number in range(FLOODED):
        if flooded:
            world.signed(agent_key(FLOODER), "job.intents", FLOODER, flooded_intent(world, number))
        if number % EVERY == 0:
            for agent in OTHERS:
                for topic in ("job.crm.read", "job.deploy.web"):
                    world.signed(
                        agent_key(agent), "job.intents", agent, world.intent(f"{topic}-{number}", topic, agent=agent)
                    )
    world.run()
    return world


@pytest.fixture(scope="module", params=[REQUESTS_BIND, JOBS_BIND], ids=["requests bind", "jobs bind"])
def limits(request: pytest.FixtureRequest) -> dict[str, int]:
    found: dict[str, int] = request.param
    return found


@pytest.fixture(scope="module")
def world(limits: dict[str, int]) -> World:
    """After the flood; everything is still in the first minute."""
    found = run(limits, flooded=True)
    assert found.log.clock_ms < EPOCH_MS + MINUTE_MS
    return found


def of_flooder(world: World, cls: type[T], topic: str = "job.decisions") -> list[T]:
    return [event for event in world.events(topic, cls) if getattr(event, "agent_id", None) == FLOODER]


def judged(world: World) -> dict[tuple[str, str], dict[str, Any]]:
    """What was decided of the others, but for where and when it stands in the log."""
    return {
        (each.agent_id, each.job_id): {**msgspec.structs.asdict(each), "cause": None, "at_ms": 0}
        for each in world.events("job.decisions", Decision)
        if each.agent_id in OTHERS
    }


def test_the_others_are_on_every_partition() -> None:
    """The flooder's own among them, or nothing would be shown."""
    assert {partition_for(name.encode(), 3) for name in OTHERS} == {0, 1, 2}


def test_others_are_judged_as_without_the_flood(world: World, limits: dict[str, int]) -> None:
    """Every field of every decision and the number of grants and requests, as in a world without the flooder."""
    quiet = run(limits, flooded=False)
    assert judged(world) == judged(quiet)
    assert {each["decision"] for each in judged(world).values()} == {"ALLOW", "REQUIRE_APPROVAL"}
    granted = [each for each in world.events("job.decisions", Granted) if each.agent_id in OTHERS]
    requests = [each for each in world.events("approval.requests", ApprovalRequest) if each.agent_id in OTHERS]
    assert len(granted) == len(quiet.events("job.decisions", Granted))
    assert len(requests) == len(quiet.events("approval.requests", ApprovalRequest))


def test_the_desk_is_not_buried(world: World, limits: dict[str, int]) -> None:
    """A flooder has at most so many open requests, and at most so many jobs in flight."""
    requests = of_flooder(world, ApprovalRequest, "approval.requests")
    granted = of_flooder(world, Granted)
    assert 0 < len(requests) <= limits["open_requests_max"]
    assert 0 < len(granted) <= limits["in_flight_max"]
    bound = len(requests) if limits is REQUESTS_BIND else len(granted)
    assert bound == limits["open_requests_max" if limits is REQUESTS_BIND else "in_flight_max"]


def test_everything_is_answered_once_and_what_is_refused_is_counted(world: World, limits: dict[str, int]) -> None:
    """One answer in the journal for each intent; decisions, repetitions and refusals by code are all that was sent."""
    answers = [each for each in of_flooder(world, object) if isinstance(each, Answer)]
    assert set(Counter((each.cause.partition, each.cause.offset) for each in answers).values()) == {1}
    refused = Counter(each.code for each in of_flooder(world, Refused))
    decided, repeated = of_flooder(world, Decision), of_flooder(world, Repeated)
    assert refused.total() + len(decided) + len(repeated) == FLOODED
    bound = {"open_requests_max", "topics_per_day_max"} if limits is REQUESTS_BIND else {"in_flight_max"}
    assert refused.keys() == ALWAYS | bound
    assert repeated


def test_what_is_refused_leaves_no_entry(world: World, limits: dict[str, int]) -> None:
    """The state holds the flooder's card and one entry per job that was taken, however many were refused."""
    states = world.log.group(APPLICATIONS["gate"]).state
    entries = states[partition_for(FLOODER.encode(), 3), FLOODER.encode()]
    taken = {each.job_id for each in of_flooder(world, Decision)}
    jobs = {name.removeprefix("job/") for name in entries if name.startswith("job/")}
    assert jobs == taken
    refused = {each.job_id for each in of_flooder(world, Refused)} - taken
    assert refused
    assert not refused & jobs
    assert len(entries) <= len(taken) + 1
    assert sum(len(value) for value in entries.values()) < 2_000 * (len(taken) + 1)


def test_the_flood_reads_as_any_log(world: World) -> None:
    """It is recomputed from the log, refusals and all."""
    assert world.verified().faults == []


def test_the_next_minute_is_the_flooders_again() -> None:
    """A limit is no punishment: once people have answered and the minute is over it is judged as ever."""
    world = World(files(), **{**REQUESTS_BIND, "intents_per_min_max": 5})
    for number in range(8):
        world.submit(f"j{number}", "job.crm.read", agent=FLOODER)
    assert [each.code for each in of_flooder(world, Refused)] == ["intents_per_min_max"] * 3
    world.log.advance(MINUTE_MS)
    world.submit("next", "job.crm.read", agent=FLOODER)
    assert of_flooder(world, Decision)[-1].job_id == "next"


# --- over Kafka


def assert_withstood(flood: Flood, seconds: float, timeout_sec: float) -> dict[str, Any]:
    """Run it, and hold the log against what is promised; the figures."""
    flood.run(seconds, timeout_sec)
    others = [each for each in flood.found(Decision) if each.agent_id != flood.flooder]
    assert {each.code for each in flood.found(Refused) if each.agent_id != flood.flooder} == set()
    assert Counter(each.decision for each in others) == {"ALLOW": len(flood.submitted)}
    assert {each.job_id for each in others} == flood.submitted
    answers = flood.answers()
    assert set(Counter((each.cause.partition, each.cause.offset) for each in answers).values()) == {1}
    mine = [each for each in answers if each.agent_id == flood.flooder]
    accepted = [each for each in mine if not isinstance(each, Refused)]
    refused = Counter(each.code for each in mine if isinstance(each, Refused))
    assert len(mine) == flood.intents_in_log
    assert refused.total() == flood.intents_in_log - len(accepted)
    assert {"payload_bytes_max", "topics_per_day_max"} <= refused.keys()
    requests = [each for each in flood.found(ApprovalRequest) if each.agent_id == flood.flooder]
    assert 0 < len(requests) <= flood.settings.open_requests_max
    granted = [each for each in flood.found(Granted) if each.agent_id == flood.flooder]
    assert 0 < len(granted) <= flood.settings.in_flight_max
    return {
        "seconds": seconds,
        "flooded": flood.intents_in_log,
        "accepted": len(accepted),
        "refused": dict(refused),
        "requests": len(requests),
        "others": len(others),
    }


def test_a_flood_over_kafka_is_refused_and_counted(broker: RunningBroker, kafka_dir: Path, tmp_path: Path) -> None:
    """Thousands of intents a second, on the broker: all others are allowed, the log adds up, the desk has its limit."""
    with prepared_flood("flood", broker, kafka_dir, tmp_path) as flood:
        assert_withstood(flood, 6, 50)


@pytest.mark.campaign
def test_the_campaign_of_floods(
    broker: RunningBroker, kafka_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The long form: more than a minute of it, over the end of one, and the log recomputed."""
    with prepared_flood("floods", broker, kafka_dir, tmp_path) as flood:
        figures = assert_withstood(flood, 70, 400)
        assert flood.verified() == []
    with capsys.disabled():
        sys.stdout.write(f"\n{json.dumps(figures, indent=1)}\n")
