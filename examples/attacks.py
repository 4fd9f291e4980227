"""The demo's last scene: what must not work is tried for real, and each line says who refused it.

A refusal by an access control list is read from the broker's own authorizer log; every other one from the event
that the refusing party wrote.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from sluicegate.clients.agent import Agent, build_intent
from sluicegate.examples.stage import Stage
from sluicegate.schemas.events import Event, Grant, Output, Refused, Repeated, Started
from sluicegate.schemas.payload import SALT_BYTES, seal
from sluicegate.streams.engine import Headers
from sluicegate.streams.kafka import NotPermitted, Publisher, Tail, event_headers, signed_headers
from sluicegate.streams.keys import agent_signer
from sluicegate.streams.logins import kafka_config
from sluicegate.streams.settings import Settings
from sluicegate.streams.topics import physical

DENIED = re.compile(r"Principal = User:(\S+) is Denied operation = (\S+) .* on resource = (\S+)")
LOG_SEC = 10.0
ATTACKER = "researcher"
FORGED_JOB = "nobody-asked"


class Denials:
    """Follows the broker's authorizer log."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._from = path.stat().st_size

    def expect(self, stage: Stage, what: str, login: str, resource: str) -> None:
        """Print the broker's denial of this login at this topic, or remember that there was none."""
        deadline = time.monotonic() + LOG_SEC
        while time.monotonic() < deadline:
            with self._path.open("rb") as file:
                file.seek(self._from)
                text = file.read().decode(errors="replace")
            for match in DENIED.finditer(text):
                if match[1] == login and match[3].endswith(f":{resource}"):
                    said = f"{login} is denied {match[2]} on {resource}"
                    stage.line("broker's authorizer log", f"refused by the broker's ACL: {what} ({said})")
                    return
            time.sleep(0.1)
        stage.miss(f"the broker did not deny {login} at {resource}")


def _must_fail(stage: Stage, what: str, attempt: Callable[[], object]) -> None:
    try:
        attempt()
    except (NotPermitted, KafkaException):
        return
    stage.miss(f"{what} was not refused")


def play(stage: Stage, broker_log: Path, worked: str) -> None:
    """Every attack, one after the other. ``worked`` is a job that ran, whose grant is copied."""
    stage.title("The attacks: each is tried for real, each line says who refused")
    denials = Denials(broker_log)
    _write_a_grant(stage, denials, worked)
    _write_as_another(stage)
    _use_an_id_again(stage)
    _alter_a_grant(stage, worked)
    _work_without_a_grant(stage, worked)
    _read_raw_outputs(stage, denials)
    _delete_records(stage, denials)


def _publish(settings: Settings, user: str, topic: str, key: bytes, value: bytes, headers: Headers) -> None:
    publisher = Publisher(settings, user)
    try:
        publisher.publish(topic, key, value, headers)
    finally:
        publisher.close()


def _plain(stage: Stage, user: str, topic: str, key: str, event: Event) -> None:
    headers = event_headers(event, user, f"attack-{key}")
    _publish(stage.settings, user, topic, key.encode(), stage.codec.encode(event), headers)


def _grant_of(stage: Stage, job_id: str) -> Grant | None:
    found = stage.find(Grant, lambda event: event.job_id == job_id)
    return None if found is None else found[1]


def _write_a_grant(stage: Stage, denials: Denials, worked: str) -> None:
    grant = _grant_of(stage, worked)
    if grant is None:
        stage.miss(f"no grant of `{worked}` to copy")
        return
    user = f"agent.{ATTACKER}"
    _must_fail(stage, "a grant by an agent", lambda: _plain(stage, user, "job.grants.default", worked, grant))
    denials.expect(stage, "the agent writes a grant itself", user, "job.grants.default")


def _write_as_another(stage: Stage) -> None:
    signer = agent_signer(stage.settings, ATTACKER)
    tenant = stage.settings.tenant
    payload = b'{"customer":"c-1"}'
    limit = stage.settings.payload_bytes_max
    intent = build_intent(
        signer, tenant, "cleaner", "2.0", "job.crm.read", payload, payload_bytes_max=limit, job_id="as-another"
    )
    value, key = stage.codec.encode(intent), b"cleaner"
    now_ms = time.time_ns() // 1_000_000
    topic = physical(tenant, "job.intents")
    headers = signed_headers(signer, topic, intent, "attack-as-another", now_ms, key, value)
    _publish(stage.settings, f"agent.{ATTACKER}", "job.intents", key, value, headers)
    stage.expect(
        "the gate's refusal of an intent in another's name",
        Refused,
        lambda event: event.job_id == "as-another" and event.code == "agent_mismatch",
    )


def _use_an_id_again(stage: Stage) -> None:
    with Agent(stage.settings, ATTACKER) as agent:
        agent.submit("job.crm.read", {"customer": "c-1042"}, job_id="read-customer")
        stage.expect("the gate's repeated answer", Repeated, lambda event: event.job_id == "read-customer")
        agent.submit("job.crm.read", {"customer": "everyone"}, job_id="read-customer")
    stage.expect(
        "the gate's refusal of other content",
        Refused,
        lambda event: event.job_id == "read-customer" and event.code == "id_reused",
    )


def _alter_a_grant(stage: Stage, worked: str) -> None:
    grant = _grant_of(stage, worked)
    if grant is None:
        stage.miss(f"no grant of `{worked}` to alter")
        return
    altered = msgspec.structs.replace(grant, payload=seal(b'{"customer":"everyone"}', bytes(SALT_BYTES)))
    _plain(stage, "admin", "job.grants.default", worked, altered)
    stage.expect(
        "the worker's refusal of an altered grant",
        Refused,
        lambda event: event.subject == "grant" and event.code == "grant_unsigned" and event.job_id == worked,
    )


def _work_without_a_grant(stage: Stage, worked: str) -> None:
    grant = _grant_of(stage, worked)
    if grant is None:
        stage.miss(f"no grant of `{worked}` to imitate")
        return
    content = b'{"stolen":true}'
    ids: dict[str, Any] = {"job_id": FORGED_JOB, "agent_id": grant.agent_id, "grant_id": "grant-made-up", "attempt": 1}
    started = Started(**ids, pool="default", worker_id="rogue", job_hash=grant.job_hash, granted_seq=grant.granted_seq)
    output = Output(
        **ids,
        worker_id="rogue",
        succeeded=True,
        output=seal(content, bytes(SALT_BYTES)),
        output_hash=hashlib.sha256(content).hexdigest(),
        output_size_bytes=len(content),
    )
    for topic, event in (("job.starts", started), ("job.outputs", output)):
        _plain(stage, "worker.default", topic, grant.agent_id, event)
    for subject in ("start", "output"):
        stage.expect(
            f"outputs' refusal of a {subject} without a grant",
            Refused,
            lambda event, subject=subject: event.job_id == FORGED_JOB and event.subject == subject,  # type: ignore[misc]
        )


def _read_raw_outputs(stage: Stage, denials: Denials) -> None:
    user = f"agent.{ATTACKER}"

    def read() -> None:
        tail = Tail(stage.settings, user, ["job.outputs"], group=f"{user}.reader", start="beginning")
        try:
            for _ in range(20):
                tail.poll(0.1)
        finally:
            tail.close()

    _must_fail(stage, "reading raw outputs as an agent", read)
    denials.expect(stage, "the agent reads raw outputs", user, "job.outputs")


def _delete_records(stage: Stage, denials: Denials) -> None:
    client = AdminClient(kafka_config(stage.settings, "auditor"))
    topic = physical(stage.settings.tenant, "job.decisions")

    def delete() -> None:
        for future in client.delete_records([TopicPartition(topic, 0, 1)]).values():
            future.result(10)

    _must_fail(stage, "deleting records of the log", delete)
    denials.expect(stage, "someone deletes records of the log", "auditor", topic)
