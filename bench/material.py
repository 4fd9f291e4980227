"""What is measured with: a policy, agents whose keys spread evenly over the partitions, signed intents.

Everything is made from numbers, so two runs measure the same bytes (but for issue times and signatures).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec
import yaml

from sluicegate.policies.load import read_folder
from sluicegate.schemas.codec import Codec
from sluicegate.schemas.events import Intent
from sluicegate.schemas.key_ids import job_key
from sluicegate.schemas.payload import job_hash
from sluicegate.schemas.sealing import Keyring, NoKeyring
from sluicegate.streams.engine import Headers, Record
from sluicegate.streams.identity import HmacKey, agent_secret
from sluicegate.streams.kafka import signed_headers
from sluicegate.streams.partitioner import partition_for
from sluicegate.streams.topics import physical

PARTITIONS: Final = 4
"""Of every keyed topic here, so that one process and two have the same work in equal parts."""
AGENTS_PER_PARTITION: Final = 12
TOPIC: Final = "job.bench.read"
"""A topic that the shipped demo policy allows at once: a decision, its granted terms and a grant per intent."""
INTENTS: Final = "job.intents"
NO_LIMIT: Final = 1_000_000_000


def agents() -> tuple[str, ...]:
    """Ids of agents, equally many per partition."""
    found: list[list[str]] = [[] for _ in range(PARTITIONS)]
    number = 0
    while any(len(names) < AGENTS_PER_PARTITION for names in found):
        name = f"agent-{number:03d}"
        names = found[partition_for(name.encode(), PARTITIONS)]
        if len(names) < AGENTS_PER_PARTITION:
            names.append(name)
        number += 1
    return tuple(sorted(name for names in found for name in names))


LEFT_OUT: Final = ("agents.yaml", "support-routine.yaml", "apprenticeship.yaml", "audit-policy.yaml")
"""What is measured first is what it was before there were facts: a policy whose rules ask for none."""


LEVELS: Final = {
    "autonomy_levels": {"level_0": {"name": "all", "rules": [{"match": {"topics": ["*"]}, "decision": "allow"}]}},
    "promotion_criteria": {
        "min_successful_actions": 50,
        "max_error_rate": 0.02,
        "review_period_days": 7,
        "requires_human_sign_off": True,
    },
    "demotion_triggers": ["policy_violation", "safety_incident", {"error_rate_above": 0.05}],
}
AUDIT: Final = {
    "audit": {"sampling": {"rate": 0.1, "strategy": "stratified", "weights": {"risk_tags": {"prod": 3.0, "read": 0.5}}}}
}


def write_policy(shipped: Path, folder: Path, rules: int = 0, *, trust: bool = False) -> None:
    """Write the shipped bundle into a folder, with these agents instead of its own, and ``rules`` more rules.

    The additional rules ask for every fact there is, and decide nothing that is not decided without them; ``trust``
    adds levels, of which the first allows everything, and audits.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = {name: text for name, text in read_folder(shipped).items() if name not in LEFT_OUT}
    if rules:
        files["many.yaml"] = yaml.safe_dump({"rules": list(_more_rules(rules))})
        actions = yaml.safe_load(files["actions.yaml"])
        actions["actions"].append(FACTS)
        files["actions.yaml"] = yaml.safe_dump(actions)
    if trust:
        files["levels.yaml"], files["audit.yaml"] = yaml.safe_dump(LEVELS), yaml.safe_dump(AUDIT)
    enrolled = [{"id": name, "owner": "rosa", "version": "1", "key": {"kind": "hmac"}} for name in agents()]
    files["agents.yaml"] = yaml.safe_dump({"agents": enrolled})
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")


FACTS: Final = {
    "topics": ["job.bench.*"],
    "facts": {"amount_usd": "rows_max", "affected_users": "columns.#"},
    "retry_identity": ["customer"],
    "target": "customer",
}
ASKED: Final = (
    {"amount_usd_above": 5_000},
    {"affected_users_above": 100},
    {"amount_usd_24h_above": 1_000_000_000},
    {"count_1h_above": 1_000_000_000},
    {"retry_count_above": 1_000},
    {"first_time_action": False},
    {"anomaly_score_above": 0.99},
    {"confidence_below": 0.01},
)


def _more_rules(count: int) -> Iterator[dict[str, object]]:
    """First one that asks for each fact of what is measured, then others for topics of other people."""
    for number in range(count):
        topic = "job.bench.*" if number < len(ASKED) else f"job.team-{number}.*"
        match = {"topics": [topic], **ASKED[number % len(ASKED)]}
        yield {"id": f"more-{number}", "match": match, "decision": "allow"}


class Message(msgspec.Struct, frozen=True):
    """One intent, ready to be written."""

    key: bytes
    value: bytes
    headers: Headers


class Scribe:
    """Signs intents as every agent of a tenant."""

    def __init__(
        self,
        codec: Codec,
        tenant: str,
        master: bytes,
        sealed_by: Keyring | None = None,
        agents_count: int | None = None,
    ) -> None:
        self._codec, self._sealed_by = codec, NoKeyring() if sealed_by is None else sealed_by
        self._tenant = tenant
        self._agents = agents()[:agents_count]
        self._keys = {name: HmacKey(f"agent/{name}", agent_secret(master, name)) for name in self._agents}

    def message(self, series: str, number: int, now_ms: int) -> Message:
        """Intent ``number`` of a series; its job id is ``<series>-<number>``."""
        agent = self._agents[number % len(self._agents)]
        key = self._keys[agent]
        job_id = f"{series}-{number:07d}"
        payload = b'{"customer":"c-%07d","table":"orders","columns":["id","state","total"],"rows_max":%d}' % (
            number,
            number % 1000,
        )
        salt = key.salt(job_id)
        intent = Intent(
            job_id=job_id,
            agent_id=agent,
            agent_version="1",
            topic=TOPIC,
            risk_tags=["read"],
            payload=self._sealed_by.seal(payload, salt, job_key(self._tenant, agent, now_ms, job_id).text, job_id),
            job_hash=job_hash(payload, TOPIC, agent, ["read"], salt),
            confidence=0.9,
            tenant=self._tenant,
        )
        value = self._codec.encode(intent)
        kafka = physical(self._tenant, INTENTS)
        return Message(
            agent.encode(),
            value,
            signed_headers(key, kafka, intent, f"record/{job_id}", now_ms, agent.encode(), value),
        )

    def messages(self, series: str, count: int, now_ms: int) -> Iterator[Message]:
        """The first intents of a series."""
        for number in range(count):
            yield self.message(series, number, now_ms)


def as_record(message: Message, offset: int, now_ms: int) -> Record:
    """The record that a step would meet."""
    partition = partition_for(message.key, PARTITIONS)
    return Record(INTENTS, partition, offset, message.key, message.value, message.headers, now_ms)
