"""A world that seals, an operator who erases in it, and a job in each of its phases."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import yaml
from world import CODEC, TENANT, World, policy_files

from sluicegate.processors.verify_report import Report
from sluicegate.schemas.events import Held, Quarantined, Refused, Result
from sluicegate.schemas.sealing import AES_256_GCM
from sluicegate.streams.engine import Record
from sluicegate.streams.key_store import KeyStore, StoreKeyring

SSN = "536-90-4399"
TOKEN = "ghp_" + "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8"
RULES = {
    "rules": [
        {"id": "storm", "match": {"topics": ["job.*"], "retry_count_above": 5}, "decision": "deny", "reason": "storm"},
        {"id": "odd", "match": {"topics": ["job.*"], "anomaly_score_above": 0.99}, "decision": "deny", "reason": "odd"},
        {
            "id": "sum",
            "match": {"topics": ["job.pay.*"], "amount_usd_24h_above": 5000},
            "decision": "deny",
            "reason": "too much in a day",
        },
        {
            "id": "too-much",
            "match": {"topics": ["job.pay.*"], "amount_usd_above": 900},
            "decision": "deny",
            "reason": "too much",
        },
        {"id": "final", "match": {"topics": ["job.pay.*"], "final": True}, "decision": "deny", "reason": "it is final"},
        {
            "id": "paid",
            "match": {"topics": ["job.pay.*"]},
            "decision": "require_approval",
            "reason": "a person decides",
            "editable": ["amount"],
        },
    ]
}
SCHEMA = {"type": "object", "properties": {"amount": {"type": "number"}}}
ACTIONS = {
    "actions": [
        {
            "topics": ["job.pay.*"],
            "risk_tags": ["money"],
            "facts": {"amount_usd": "amount", "final": "final"},
            "target": "to",
            "payload_schema": SCHEMA,
        }
    ]
}
FILES = {"pay.yaml": yaml.safe_dump(RULES), "actions.yaml": yaml.safe_dump(ACTIONS)}


class Erasing(World):
    """A world that seals, and an operator who erases."""

    store: KeyStore

    def erase(self, job: str = "", *, agent: str = "", said: bool = True) -> None:
        """The keys go, then the log is told."""
        if job:
            self.store.erase_job(TENANT, None, job, "asked to", "operator/olga")
        else:
            self.store.erase_agent(TENANT, agent, "asked to", "operator/olga")
        if said:
            self.command("erase", f"job:{job}" if job else f"agent:{agent}", reason="asked to")


def erasing(folder: Path) -> Erasing:
    """A world whose key store stands in a folder."""

    class Sealing(Erasing):
        store = KeyStore(folder / "keystore.db", make=True)
        keys = StoreKeyring(store, creates=True)

    return Sealing(policy_files(**FILES), sealing=AES_256_GCM)


def pay(world: Erasing, job_id: str = "j1", **payload: Any) -> None:
    world.submit(job_id, "job.pay.out", json.dumps({"amount": 100, "to": "c-1", "final": False, **payload}).encode())


def held(world: Erasing) -> None:
    world.command("pause", "agent:deployer")
    pay(world)
    assert world.last("job.decisions", Held).job_id == "j1"


def asked(world: Erasing) -> None:
    pay(world)
    assert world.request("j1").kind == "intent"


def granted(world: Erasing) -> None:
    pay(world)
    world.decide("j1", "approve")
    assert world.grants("j1")


def quarantined(world: Erasing) -> None:
    granted(world)
    finish(world, {"token": TOKEN, "ssn": SSN})
    assert world.last("job.results", Quarantined).job_id == "j1"


def done(world: Erasing) -> None:
    granted(world)
    finish(world, {"ssn": SSN, "ok": True})
    assert world.last("job.results", Result).output_safety_decision == "REDACT"


def finish(world: Erasing, value: Any, job_id: str = "j1") -> None:
    grant = world.grants(job_id)[-1]
    world.start(grant)
    world.finish(grant, json.dumps(value).encode())


def breached(world: Erasing) -> None:
    granted(world)
    grant = world.grants("j1")[-1]
    world.start(grant)
    world.finish(grant, b'{"ok":true}', breached=["network_allowlist"])
    assert world.last("job.results", Quarantined).rule == "breach"


PHASES = (held, asked, granted, quarantined, done)


def incidents(world: Erasing) -> list[Any]:
    return [
        event
        for topic in ("job.decisions", "job.results")
        for event in world.events(topic, Refused)
        if event.incident or event.code == "step_failed"
    ]


def changed(world: Erasing, cls: type[Any], change: Callable[[Any], Any]) -> Report:
    """Verified with the last event of a class as somebody altered it, wherever that class stands in the journals."""
    found: list[Record] = []
    for record in world.records():
        event = CODEC.decode_or_none(record.value)
        if isinstance(event, cls) and not isinstance(event, Refused):
            found.append(record)
    last = found[-1]
    altered = msgspec.structs.replace(last, value=CODEC.encode(change(CODEC.decode(last.value))))
    assert altered.value != last.value
    return world.verified([altered if record is last else record for record in world.records()])
