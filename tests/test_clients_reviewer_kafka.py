from __future__ import annotations

import ast
import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from clients_events import approval_request, journal, place, request_opened, verdict_accepted
from clients_world import WAIT_SEC, Hand, now_ms
from fixtures_kafka import TenantFactory

from sluicegate.clients.reviewer import AsyncReviewer, Reviewer
from sluicegate.schemas.codec import Codec
from sluicegate.schemas.errors import BadInput
from sluicegate.schemas.events import Event, Refused, Verdict
from sluicegate.streams import keys
from sluicegate.streams.engine import Record
from sluicegate.streams.identity import check, public_key
from sluicegate.streams.kafka import Tail
from sluicegate.streams.logins import password_of
from sluicegate.streams.registry import registry_for
from sluicegate.streams.settings import Settings

ROOT = Path(__file__).parents[1]


@pytest.fixture
def settings(tenant: TenantFactory) -> Settings:
    found = tenant()
    keys.new_person(found, "rosa")
    return found


@pytest.fixture
def desk(settings: Settings) -> Hand:
    hand = Hand(settings, "desk")
    gate = Hand(settings, "gate")
    gate.write("approval.requests", "desk", approval_request())
    hand.write("approval.events", "desk", request_opened())
    return hand


@pytest.fixture
def reviewer(settings: Settings, desk: Hand) -> Iterator[Reviewer]:
    with Reviewer(settings, "rosa") as found:
        yield found


Answering = Callable[[Callable[[Record, Verdict], Event]], list[Record]]


@pytest.fixture
def answering(settings: Settings, desk: Hand) -> Iterator[Answering]:
    """Answers the next verdict as the test says; returns the list that the verdict's record will be in."""
    threads: list[threading.Thread] = []

    def begin(answer: Callable[[Record, Verdict], Event]) -> list[Record]:
        seen: list[Record] = []

        def run() -> None:
            tail = Tail(settings, "desk", ("approval.verdicts",), group="desk", start="beginning")
            while not seen:
                seen.extend(tail.poll(0.05))
            verdict = Codec(registry_for("")).decode(seen[0].value)
            assert isinstance(verdict, Verdict)
            desk.write("approval.events", "desk", answer(seen[0], verdict))
            tail.close()

        threads.append(threading.Thread(target=run, daemon=True))
        threads[-1].start()
        return seen

    yield begin
    for thread in threads:
        thread.join(WAIT_SEC)


def accept(record: Record, _: Verdict) -> Event:
    return verdict_accepted(place("approval.verdicts", record.offset, record.partition))


def refuse(record: Record, verdict: Verdict) -> Event:
    return Refused(
        **journal(place("approval.verdicts", record.offset, record.partition)),
        job_id="j1",
        agent_id="a",
        subject="verdict",
        code="decided",
        message="ben had decided first",
        incident=False,
        authenticated=True,
        ref=verdict.verdict_id,
        winner="ben",
        winner_at_ms=77,
    )


def test_open_request_is_listed_and_shown(reviewer: Reviewer) -> None:
    """A reviewer sees the open requests, and one of them whole."""
    assert [found.request_id for found in reviewer.requests()] == ["r1"]
    assert json.loads(reviewer.show("r1").payload) == {"n": 1}


def test_request_that_comes_later_is_listed(reviewer: Reviewer, settings: Settings, desk: Hand) -> None:
    """Each list is as of its call."""
    reviewer.requests()
    Hand(settings, "gate").write("approval.requests", "desk", approval_request("r2"))
    desk.write("approval.events", "desk", request_opened("r2"))
    assert [found.request_id for found in reviewer.requests()] == ["r1", "r2"]


def test_verdict_is_signed_and_carries_its_evidence(
    reviewer: Reviewer, settings: Settings, answering: Answering
) -> None:
    """A verdict names who, when, the snapshot and the hash that were shown, and its signature is the person's."""
    seen, before_ms = answering(accept), now_ms()
    answer = reviewer.approve("r1", "looks right", {"rows_max": 5})
    assert answer.status == "accepted"
    record = seen[0]
    verdict = Codec(registry_for("")).decode(record.value)
    assert isinstance(verdict, Verdict)
    shown = approval_request()
    assert (verdict.approver_id, verdict.policy_snapshot, verdict.job_hash) == (
        "rosa",
        shown.policy_snapshot,
        shown.job_hash,
    )
    assert before_ms <= (verdict.decision_ts_ms or 0) <= now_ms()
    assert verdict.constraints == '{"rows_max":5}'
    verifier = public_key(keys.new_person(settings, "rosa"))
    topic = f"{settings.tenant}.approval.verdicts"
    found = check(record.headers, topic, record.key, record.value, record.timestamp_ms, lambda _: verifier)
    assert found.code is None


def test_second_verdict_learns_who_won(reviewer: Reviewer, answering: Answering) -> None:
    """The loser of a race is told the code, the winner and the time."""
    answering(refuse)
    answer = reviewer.deny("r1", "no")
    assert (answer.status, answer.code, answer.winner, answer.winner_at_ms) == ("refused", "decided", "ben", 77)


def test_silent_desk_is_no_answer(reviewer: Reviewer) -> None:
    """When the desk does not answer in time the reviewer is told so, and that the verdict stands."""
    assert reviewer.approve("r1", timeout_sec=0).status == "unanswered"


def test_denial_needs_a_reason(reviewer: Reviewer) -> None:
    """The agent is told why: an empty reason is refused before anything is written."""
    with pytest.raises(BadInput, match="needs a reason"):
        reviewer.deny("r1", " ")


def test_unknown_request_is_named(reviewer: Reviewer) -> None:
    """Nobody can decide what is not there."""
    with pytest.raises(BadInput, match="no request `r9`"):
        reviewer.approve("r9")


def test_asyncio_reviewer_decides(settings: Settings, answering: Answering) -> None:
    """The asyncio form does the same."""
    answering(accept)

    async def story() -> str:
        async with AsyncReviewer(settings, "rosa") as reviewer:
            return (await reviewer.approve("r1")).status

    assert asyncio.run(story()) == "accepted"


@pytest.mark.parametrize(("answer", "code"), [(accept, 0), (refuse, 2)])
def test_service_without_our_code_decides(
    settings: Settings, answering: Answering, answer: Callable[[Record, Verdict], Event], code: int
) -> None:
    """`docs/reviewer_service.py`, with nothing of ours but the schemas, signs a verdict that verifies."""
    seen = answering(answer)
    command = [sys.executable, "-I", str(ROOT / "docs" / "reviewer_service.py"), "--bootstrap", settings.servers]
    command += ["--prefix", f"{settings.tenant}.", "--person", "rosa"]
    command += ["--key-file", str(keys.keys_dir(settings) / "person.rosa.key"), "--schemas", str(ROOT / "schemas/avro")]
    command += ["deny", "r1", "--reason", "not on a Friday"]
    secret = {"KAFKA_PASSWORD": password_of(settings, "reviewer")}
    done = subprocess.run(
        command, env={**os.environ, **secret}, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == code, done.stderr
    record = seen[0]
    verifier = public_key(keys.new_person(settings, "rosa"))
    topic = f"{settings.tenant}.approval.verdicts"
    found = check(record.headers, topic, record.key, record.value, record.timestamp_ms, lambda _: verifier)
    assert found.code is None


def test_service_imports_nothing_of_ours() -> None:
    """What the service needs is the contract, not our package."""
    tree = ast.parse((ROOT / "docs" / "reviewer_service.py").read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    ours = {name for name in imported if name.startswith("sluicegate")}
    assert ours == set()
