"""Verify after an erasure: what stands is recomputed from its facts, and an erasure hides nothing."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from erasure_world import (
    FILES,
    PHASES,
    Erasing,
    asked,
    breached,
    changed,
    done,
    erasing,
    finish,
    granted,
    held,
    pay,
    quarantined,
)
from world import agent_key, policy_files

from sluicegate.processors.control_recall import PAYLOAD_ERASED
from sluicegate.schemas.events import (
    ApprovalRequest,
    Closed,
    Command,
    Decision,
    Granted,
    Held,
    Quarantined,
    Refused,
    Result,
)
from sluicegate.schemas.sealing import AES_256_GCM
from sluicegate.streams.key_store import KeyStore, StoreKeyring


@pytest.fixture
def world(tmp_path: Path) -> Erasing:
    return erasing(tmp_path)


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("whose", ["job", "agent"])
def test_what_stands_in_the_log_is_verified_after_an_erasure(world: Erasing, phase: Any, whose: str) -> None:
    """In every phase: decisions are recomputed from their facts, and counted apart."""
    phase(world)
    assert world.verified().clean
    world.erase("j1") if whose == "job" else world.erase(agent="deployer")
    report = world.verified()
    assert report.faults == []
    if phase is not held:
        assert report.erased["Decision"] == 1
        assert "Decision" not in report.recomputed


@pytest.mark.parametrize(
    ("choice", "word"), [("release", "approve"), ("release_redacted", "approve"), ("destroy", "deny")]
)
def test_what_people_released_is_verified_after_an_erasure(world: Erasing, choice: str, word: Any) -> None:
    """What left stands as it left; destroying asks for no key, before or after."""
    quarantined(world)
    world.decide("j1", word, choice=choice)
    world.erase("j1")
    assert world.verified().faults == []


@pytest.mark.parametrize(
    ("choice", "word"), [("release", "approve"), ("release_redacted", "approve"), ("destroy", "deny"), ("", "")]
)
def test_an_output_held_for_a_breach_is_verified_after_an_erasure(world: Erasing, choice: str, word: Any) -> None:
    """That an attempt broke a constraint stands in events of their own: no content is needed to hold its output."""
    breached(world)
    if word:
        world.decide("j1", word, choice=choice)
    world.erase("j1")
    assert world.verified().faults == []
    report = changed(world, Quarantined, lambda event: msgspec.structs.replace(event, rule="other", reason="x"))
    assert any("`rule`, `reason`" in fault.message for fault in report.faults)


def test_a_breach_that_no_event_tells_of_is_found(world: Erasing) -> None:
    """What is held for a breach was held by one that stands in the log."""
    quarantined(world)
    world.erase("j1")
    report = changed(world, Quarantined, lambda event: msgspec.structs.replace(event, rule="breach"))
    assert any(fault.kind == "differs" and "`rule`" in fault.message for fault in report.faults)


@pytest.mark.parametrize("released", [False, True])
def test_what_left_stands_under_the_key_of_its_job(world: Erasing, released: bool) -> None:
    """An envelope in a result under another key would not have gone with the job."""
    if released:
        quarantined(world)
        world.decide("j1", "approve", choice="release")
    else:
        done(world)
    world.erase("j1")

    def moved(event: Result) -> Result:
        assert event.output is not None
        key_id = event.output.key_id[:-10] + "0" * 10
        return msgspec.structs.replace(event, output=msgspec.structs.replace(event.output, key_id=key_id))

    assert any("`output`" in fault.message for fault in changed(world, Result, moved).faults)


def test_an_output_that_was_not_what_its_worker_said_is_the_journals_word(world: Erasing) -> None:
    """Whether hash and size were those of the output only the output could tell."""
    granted(world)
    grant = world.grants("j1")[-1]
    world.start(grant)
    world.finish(grant, b'{"ok":true}', output_hash="0" * 64)
    assert world.last("job.results", Refused).code == "hash_mismatch"
    world.erase("j1")
    report = world.verified()
    assert (report.faults, report.as_recorded) == ([], {"Refused": 1})


def test_a_repeated_answer_and_a_used_id_are_verified_after_an_erasure(world: Erasing) -> None:
    """What rests on hashes alone is recomputed though the content is gone."""
    asked(world)
    pay(world)
    pay(world, amount=7)
    assert world.last("job.decisions", Refused).code == "id_reused"
    world.erase("j1")
    report = world.verified()
    assert report.faults == []
    assert report.erased["Repeated"] == 1


@pytest.mark.parametrize("before", [True, False])
def test_an_edited_job_that_is_held_is_verified(world: Erasing, before: bool) -> None:
    """Its hash stands in the journal; erased before it is granted it ends, erased afterwards it stands."""
    asked(world)
    sealed = world.keys.seal(b'{"amount":40}', bytes(16), world.request("j1").payload.key_id)
    world.command("pause", "agent:deployer")
    world.decide("j1", "approve", edits=sealed, edited=["amount"])
    assert world.last("job.decisions", Held).job_hash != world.request("j1").job_hash
    if before:
        world.erase("j1")
        assert world.verified().faults == []
    world.command("resume", "agent:deployer")
    world.advance(6)
    if before:
        assert (world.last("job.decisions", Closed).reason or "").startswith(PAYLOAD_ERASED)
    else:
        assert world.grants("j1")
        world.erase("j1")
    assert world.verified().faults == []


def test_edits_that_could_not_be_applied_are_the_journals_word(world: Erasing) -> None:
    """Why a person's edit found nothing only the payload could tell; that it ended so is compared."""
    asked(world)
    sealed = world.keys.seal(b'["amount"]', bytes(16), world.request("j1").payload.key_id)
    world.decide("j1", "approve", edits=sealed, edited=["amount"])
    assert world.last("job.decisions", Closed).outcome == "denied"
    world.erase("j1")
    report = world.verified()
    assert (report.faults, report.as_recorded) == ([], {"Closed": 1})


def test_a_denial_by_schema_is_the_journals_word(world: Erasing) -> None:
    """What does not fit its schema no facts tell: it is counted apart, and what follows from it is compared."""
    pay(world, amount="x", final=False)
    world.submit("j2", "job.pay.out", b'{"amount":"x"}')
    assert "payload is not as" in world.last("job.decisions", Decision).reason
    world.erase("j2")
    report = world.verified()
    assert (report.faults, report.as_recorded) == ([], {"Decision": 1})


@pytest.mark.parametrize("payload", [b"{", b'{"amount":1,"amount":2}'])
def test_a_refused_content_is_the_journals_word(world: Erasing, payload: bytes) -> None:
    """What was wrong with it nobody can see any more."""
    world.submit("j1", "job.pay.out", payload)
    assert world.last("job.decisions", Refused).code == "malformed"
    world.erase("j1")
    report = world.verified()
    assert (report.faults, report.as_recorded) == ([], {"Refused": 1})


def test_an_edited_job_is_verified_after_an_erasure(world: Erasing) -> None:
    """The edited payload's hash is the journal's word; who let it run, under what, is recomputed."""
    asked(world)
    key_id = world.request("j1").payload.key_id
    sealed = world.keys.seal(b'{"amount":40}', bytes(16), key_id)
    world.decide("j1", "approve", edits=sealed, edited=["amount"])
    assert world.last("job.decisions", Granted).submitted_hash
    world.erase("j1")
    report = world.verified()
    assert report.faults == []
    assert report.as_recorded["Granted"] == 1


@pytest.mark.parametrize("payload", [{"amount": 950}, {"final": True}, {"amount": True}, {"amount": "x"}, {"final": 1}])
def test_every_kind_of_fact_is_recomputed_from(world: Erasing, payload: dict[str, Any]) -> None:
    """Numbers, truths, what is absent or of the wrong kind: a fact of 1 was true where only that fits."""
    pay(world, **payload)
    world.erase("j1")
    report = world.verified()
    assert report.faults == []
    assert "Decision" not in report.recomputed


def test_what_comes_after_an_erased_job_is_still_recomputed(world: Erasing) -> None:
    """Windows and scores go on; only how often the same was tried rests on what is gone, and is the journal's word."""
    counts = []
    for number in range(6):
        pay(world, f"j{number}", n=number // 5)
        facts = world.last("job.decisions", Decision).facts
        counts += [fact.value for fact in facts if fact.name == "retry_count"]
        if number in (1, 2):
            world.decide(f"j{number}", "approve")
            finish(world, {"ok": True}, f"j{number}")
    assert counts == [0, 1, 0, 0, 1, 0]
    world.erase("j1")
    assert world.verified().faults == []
    world.erase("j0")
    assert world.verified().faults == []
    world.erase(agent="deployer")
    assert world.verified().faults == []


def test_a_job_that_was_judged_and_waits_for_room_is_verified(world: Erasing) -> None:
    """Its decision is not written yet, or stands further on: nothing is called a fault for it."""
    world.activate(
        policy_files(**{**FILES, "bundle.yaml": "version: v9"}),
        sealing=AES_256_GCM,
        open_requests_max=1,
    )
    world.command("pause", "agent:deployer")
    for number in range(3):
        pay(world, f"j{number}", amount=100 + number)
    world.command("resume", "agent:deployer")
    world.advance(6)
    assert world.last("job.decisions", Held).scope == "open_requests_max"
    world.erase("j1")
    assert world.verified().faults == []
    world.decide("j0", "deny")
    world.advance(61)
    assert world.last("approval.requests", ApprovalRequest).job_id == "j2"
    world.erase("j2")
    report = world.verified()
    assert report.faults == []
    assert report.as_recorded["Held"] == 1
    assert report.erased["Held"] == 3


# --- what an erasure hides nothing of


@pytest.mark.parametrize("payload", [{"amount": 950}, {"amount": 100}])
def test_a_decision_that_its_facts_do_not_give_is_found_after_an_erasure(
    world: Erasing, payload: dict[str, Any]
) -> None:
    """Whoever turns a decision around cannot hide behind an erasure: the recorded facts say otherwise."""
    pay(world, **payload)
    world.erase("j1")
    assert world.verified().clean
    other = "ALLOW" if payload["amount"] == 950 else "DENY"
    report = changed(world, Decision, lambda event: msgspec.structs.replace(event, decision=other))
    assert any(fault.kind == "differs" and "`decision`" in fault.message for fault in report.faults)


@pytest.mark.parametrize(
    ("cls", "field", "value"),
    [
        (Decision, "constraints", '{"max_runtime_sec":1}'),
        (Decision, "reason", "x"),
        (Decision, "job_hash", "0" * 64),
        (Granted, "constraints", '{"max_runtime_sec":1}'),
        (Granted, "start_by_ms", 1),
        (Quarantined, "output_hash", "0" * 64),
        (Quarantined, "expires_at_ms", 1),
        (Quarantined, "output_safety_decision", "ALLOW"),
    ],
)
def test_what_does_not_need_the_content_is_compared(world: Erasing, cls: type[Any], field: str, value: Any) -> None:
    """An altered field is a fault after an erasure as before it."""
    quarantined(world)
    world.erase("j1")
    report = changed(world, cls, lambda event: msgspec.structs.replace(event, **{field: value}))
    assert not report.clean


@pytest.mark.parametrize("field", ["output_hash", "result_hash", "output"])
def test_an_output_that_was_let_through_whole_is_bound_by_its_hash(world: Erasing, field: str) -> None:
    """What review changed nothing in is the output itself, whether or not it can be read."""
    granted(world)
    finish(world, {"ok": True})
    world.erase("j1")
    assert world.verified().clean
    value = None if field == "output" else "0" * 64
    report = changed(world, Result, lambda event: msgspec.structs.replace(event, **{field: value}))
    assert not report.clean


@pytest.mark.parametrize("phase", PHASES)
def test_an_erasure_without_a_word_in_the_log_is_a_fault(world: Erasing, phase: Any) -> None:
    """Keys that are gone with nobody saying so are no erasure."""
    phase(world)
    world.erase("j1", said=False)
    assert [fault.kind for fault in world.verified().faults if "without a word" in fault.message] == ["erased"]
    world.command("erase", "job:another")
    assert not world.verified().clean
    world.command("erase", "job:j1")
    assert world.verified().faults == []


@pytest.mark.parametrize("topic", ["job.decisions", "job.results"])
def test_what_was_judged_after_its_key_was_gone_is_found(world: Erasing, topic: str) -> None:
    """A gate that could not read what it judged made its facts up."""
    done(world)
    world.erase("j1")
    later_ms = time.time_ns() // 1_000_000 + 3 * 3_600_000
    records = [
        msgspec.structs.replace(record, timestamp_ms=later_ms) if record.topic == topic else record
        for record in world.records()
    ]
    assert any("after it was erased" in fault.message for fault in world.verified(records).faults)


def test_a_word_that_no_operator_signed_is_none(world: Erasing) -> None:
    """Whoever deletes keys and writes the command without a signature has not erased."""
    asked(world)
    world.erase("j1", said=False)
    word = Command(command_id="c-x", kind="erase", scope="job:j1", by="operator/olga", reason="x")
    world.plain("control.commands", "job:j1", word)
    assert [fault.kind for fault in world.verified().faults] == ["erased"]


def test_a_word_of_an_erasure_hides_nothing_while_the_key_is_there(world: Erasing) -> None:
    """A command alone makes nothing unreadable: what can be opened is recomputed whole."""
    pay(world, amount=950)
    world.command("erase", "job:j1", reason="x")
    report = changed(world, Decision, lambda event: msgspec.structs.replace(event, facts=[]))
    assert not report.clean
    assert world.verified().recomputed["Decision"] == 1


def test_a_refusal_as_erased_of_what_can_be_opened_is_found(world: Erasing) -> None:
    """A gate cannot say that something is erased which is not."""
    intent = world.submit("j1", "job.pay.out", b'{"amount":100,"final":false}')
    world.erase("j1")
    world.signed(agent_key("deployer"), "job.intents", "deployer", intent)
    world.run()
    there = KeyStore(world.store._file.path.parent / "other.db", make=True)
    type(world).keys = StoreKeyring(there, creates=True)
    assert not world.verified().clean
