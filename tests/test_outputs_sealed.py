"""With payloads sealed nothing detected is readable anywhere but under the key of what holds it, and all verifies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from world import World, agent_key, policy_files

from sluicegate.schemas.events import Grant, Quarantined, Refused, Result
from sluicegate.schemas.key_ids import parse_key_id
from sluicegate.schemas.payload import seal
from sluicegate.schemas.sealing import AES_256_GCM
from sluicegate.streams.key_store import KeyStore, StoreKeyring

SSN = "536-90-4399"
TOKEN = "ghp_" + "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8"


@pytest.fixture
def world(tmp_path: Path) -> World:
    class Sealing(World):
        keys = StoreKeyring(KeyStore(tmp_path / "keystore.db", make=True), creates=True)

    return Sealing(policy_files(), sealing=AES_256_GCM)


def ran(world: World, value: Any, job_id: str = "j1") -> Grant:
    world.submit(job_id, "job.crm.list", json.dumps({"who": SSN}).encode())
    grant = world.grants(job_id)[-1]
    world.start(grant)
    world.finish(grant, json.dumps(value).encode())
    return grant


def everything(world: World) -> bytes:
    """All that the log and the state of every step hold."""
    held = [part for record in world.records() for part in (record.key, record.value, *dict(record.headers).values())]
    for topic in ("job.outputs", "dead.letters", "approval.requests"):
        held += [record.value for record in world.log.records(topic)]
    for engine in world.engines:
        held += [value for store in engine._group.state.values() for value in store.values()]
    return b"\0".join(held)


def test_what_was_redacted_stands_nowhere(world: World) -> None:
    """Payload, raw output, result, state, headers: what is sealed is not readable, what leaves holds no finding."""
    ran(world, {"ssn": SSN, "ok": True})
    found = world.last("job.results", Result)
    assert found.output is not None
    assert json.loads(world.keys.open(found.output)[0]) == {"ssn": "[REDACTED]", "ok": True}
    assert SSN.encode() not in everything(world)
    assert world.verified().clean


@pytest.mark.parametrize(
    ("choice", "word"), [("release", "approve"), ("release_redacted", "approve"), ("destroy", "deny")]
)
def test_a_held_output_is_readable_nowhere_while_and_after_it_is_held(world: World, choice: str, word: Any) -> None:
    """The raw output stands under a key of its own; not even its masked form is in the clear."""
    ran(world, {"token": TOKEN, "ssn": SSN})
    request = world.request("j1")
    assert request.raw is not None
    assert parse_key_id(request.raw.key_id).request
    assert not parse_key_id(request.payload.key_id).request
    world.decide("j1", word, choice=choice)
    for secret in (TOKEN, SSN):
        assert secret.encode() not in everything(world)
    found = world.last("job.results", Result)
    if found.output is not None:
        assert not parse_key_id(found.output.key_id).request
        assert (TOKEN.encode() in world.keys.open(found.output)[0]) == (choice == "release")
    assert world.verified().clean


def test_what_is_not_sealed_is_refused_where_sealing_is_wanted(world: World) -> None:
    """An agent cannot choose to leave its payload in the clear; nor can a worker its output."""
    grant = ran(world, {"ok": True})
    intent = world.intent("j2", "job.crm.list")
    intent.payload = seal(b'{"n":1}', agent_key("deployer").salt("j2"))
    world.signed(agent_key("deployer"), "job.intents", "deployer", intent)
    world.run()
    assert world.last("job.decisions", Refused).code == "unsealed"
    world.submit("j3", "job.crm.list")
    third = world.grants("j3")[-1]
    world.start(third)
    world.finish(third, b"{}", output=seal(b"{}", bytes(16)))
    assert world.last("job.results", Refused).code == "malformed"
    assert grant.payload.algorithm == AES_256_GCM


def test_another_jobs_key_is_refused(world: World) -> None:
    """An envelope under another job's key would be erased, or kept, with that one."""
    ran(world, {"ok": True})
    intent = world.intent("j2", "job.crm.list")
    intent.payload.key_id = world.intent("j3", "job.crm.list").payload.key_id
    world.signed(agent_key("deployer"), "job.intents", "deployer", intent)
    world.run()
    assert world.last("job.decisions", Refused).code == "malformed"


def test_a_held_job_says_which_classes_were_found_and_no_value(world: World) -> None:
    """What auditors read in the clear are classes and places."""
    ran(world, {"token": TOKEN})
    held = world.last("job.results", Quarantined)
    assert (held.classes, held.redaction_details[0].field) == (["credential"], "token")
