"""A tenant whose finished jobs are drawn, judged, left waiting and overdue, with a broken glass; and its log."""

from __future__ import annotations

import base64
from typing import Any

import msgspec
import yaml
from test_audits import ACTIONS, AUDIT, RULES, begin_epoch, find, run
from test_control_world import GLASS, say
from world import CODEC, OPERATORS, PEOPLE, TENANT, World, policy_files

from sluicegate.processors.audit_report import AuditReport, report_of_log
from sluicegate.schemas.events import AuditDrawn, Event, Resolution
from sluicegate.schemas.records import VerdictRef
from sluicegate.streams.engine import Record

AGENTS = ("deployer", "reader", "other")
TOPICS = ("job.crm.read", "job.deploy", "job.x", "job.ask.x", "job.pay.bill")
HOSTILE = "<script>alert(1)</script>\x1b[2J\u202e & <b>bold</b>"


def audit_world(**extra: str) -> World:
    """A world with the roles that break a glass, in its first epoch; a sample is overdue after a minute."""
    roles = {"rosa": ["incident-commander"], "ken": [], "mia": []}
    people = [
        {"id": name, "name": name, "public_key": base64.b64encode(key.public()).decode(), "roles": roles[name]}
        for name, key in PEOPLE.items()
    ]
    given = {
        "audit-policy.yaml": AUDIT + "  due_sec: 60\n  escalation: leads\n",
        "rules.yaml": RULES,
        "actions.yaml": ACTIONS,
        "reviewers.yaml": yaml.safe_dump({"people": people}),
        "bundle.yaml": yaml.safe_dump(GLASS),
        **extra,
    }
    found = policy_files(**given)
    del found["safety-policy.yaml"]
    world = World({name: text for name, text in found.items() if text})
    begin_epoch(world)
    return world


def lived(jobs: int = 90) -> World:
    """Three agents on five topics: most samples judged, some wrong, some waiting and overdue, two jobs under glass."""
    world = audit_world()
    taken = []
    for number in range(jobs):
        topic = TOPICS[number % 5]
        payload = b'{"amount":6000}' if number % 10 == 4 else b'{"amount":10}'
        more: dict[str, Any] = {"agent": AGENTS[number % 3], "payload": payload, "succeeded": number % 17 != 3}
        if number % 4:
            more["confidence"] = (0.3, 0.55, 0.72, 0.9, 0.97)[number % 5 - number % 2]
        drawn = run(world, f"j{number}", topic, **more)
        taken += [drawn] if drawn.drawn else []
        world.log.advance(1_000)
    for number, drawn in enumerate(taken):
        if number % 7 != 6:
            choice = ("correct", "correct", "wrong", "correct", "harmful", "correct")[number % 7]
            find(
                world,
                drawn.job_id,
                choice,
                "mia",
                severity=("low", "critical")[number % 2] if choice != "correct" else None,
            )
    world.advance(61)
    world.advance(61)
    broken(world)
    return world


def broken(world: World) -> None:
    """Rosa breaks the glass over `job.ask.*`; two jobs run, and one is found wrong to have run."""
    say(world, "rosa", "break_glass", "topic:job.ask.*", reason="fire", until_ms=world.log.clock_ms + 60_000)
    for name in ("g1", "g2"):
        world.submit(name, "job.ask.now")
        (grant,) = world.grants(name)
        if name == "g1":
            world.decide("g1", "deny", "mia")
        world.start(grant)
        world.finish(grant)


def with_time_out(records: list[Record], approvers: tuple[str, ...] = ()) -> list[Record]:
    """The records and one resolution more: approved, by nobody or by these."""
    place = next(each for each in reversed(records) if isinstance(CODEC.decode_or_none(each.value), Resolution))
    event = CODEC.decode(place.value)
    assert isinstance(event, Resolution)
    verdicts = [
        VerdictRef(
            verdict_id=f"v-{name}",
            approver_id=name,
            verdict="approve",
            decision_ts_ms=1,
            policy_snapshot=event.policy_snapshot,
            job_hash=event.job_hash,
        )
        for name in approvers
    ]
    timed = msgspec.structs.replace(
        event, outcome="approved", verdicts=verdicts, request_id=f"timed-{len(approvers)}", kind="intent"
    )
    return [*records, msgspec.structs.replace(place, value=CODEC.encode(timed), offset=place.offset + 1_000)]


def replaced(records: list[Record], place: int, **changes: Any) -> list[Record]:
    """The records, the fields of one event changed: a log need not be true to be told of."""
    event = msgspec.structs.replace(CODEC.decode(records[place].value), **changes)
    found = msgspec.structs.replace(records[place], value=CODEC.encode(event))
    return [*records[:place], found, *records[place + 1 :]]


def place_of(records: list[Record], cls: type[Event]) -> int:
    """Where the first event of a class stands."""
    return next(at for at, each in enumerate(records) if isinstance(CODEC.decode_or_none(each.value), cls))


def of_log(records: list[Record], begins: int = 0, ends: int | None = None, agent: str | None = None) -> AuditReport:
    """The report on records of the whole tenant."""
    newest = max(each.timestamp_ms for each in records)
    period = (begins, newest + 1 if ends is None else ends)
    return report_of_log(records, CODEC, TENANT, OPERATORS, period, agent)


def drawn_in(records: list[Record]) -> list[AuditDrawn]:
    """Every draw of the records."""
    found = [CODEC.decode_or_none(each.value) for each in records if each.topic == "agent.audits"]
    return [each for each in found if isinstance(each, AuditDrawn)]
