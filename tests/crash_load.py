"""The tenant of the crash tests and what its agents write: signed intents, as fast as they are decided."""

from __future__ import annotations

import json
import time
from collections import Counter, deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from confluent_kafka import KafkaError, Message, Producer

from sluicegate.cli.prepare import Prepared, prepare
from sluicegate.clients.agent import build_intent
from sluicegate.schemas.codec import Codec
from sluicegate.schemas.payload import NONE
from sluicegate.schemas.sealing import Keyring, NoKeyring
from sluicegate.streams.kafka import signed_headers
from sluicegate.streams.key_store import KeyStore, StoreKeyring, key_store_path
from sluicegate.streams.keys import agent_signer
from sluicegate.streams.logins import kafka_config
from sluicegate.streams.partitioner import partition_for
from sluicegate.streams.registry import registry_for
from sluicegate.streams.settings import Settings
from sluicegate.streams.topics import physical

PARTITIONS: Final = 3
AGENTS_PER_PARTITION: Final = 2
OPEN_MAX: Final = 120
"""Intents of one agent that may wait for their decision at once: so there is always work, and never a heap of it."""
AGAIN_EVERY: Final = 40
"""Each so-manieth intent is written twice, as an agent does that got no answer."""
FAST: Final[Mapping[str, Any]] = {
    "control_age_ms_max": 2_000,
    "attempt_lease_sec": 5,
    "attempts_max": 50,  # a lost attempt of a job that may run again never becomes a question to people here
    "start_within_sec": 900,
    "handlers_max": 32,
    "request_timeout_sec": 10,
    "sealing": "none",  # a leak shows in the bytes of any record, and the second checker has no keys
    # The limits on one agent are what other tests are about.
    "in_flight_max": 1_000_000,
    "intents_per_min_max": 1_000_000,
}
TOPICS: Final = ("read", "read", "call", "read", "forbidden", "read", "call", "read", "read", "read")
FORBIDDEN: Final = "forbidden"
FATES: Final = ("release", "destroy", "release_redacted", "expire")
"""What becomes of a held output, in turn: a person's word, or nobody's."""
ROWS_MAX: Final = 3
"""What a call may spend."""
PEOPLE: Final = ("ken", "mia")
"""Who decides; the agents are rosa's, so she may not."""
DOCUMENTS: Final[Mapping[str, Any]] = {
    "bundle.yaml": {"version": "v1", "default": "deny"},
    "actions.yaml": {"version": "v1", "actions": [{"topics": ["job.crash.*"], "risk_tags": ["read"], "retry": "safe"}]},
    "rules.yaml": {
        "version": "v1",
        "rules": [
            {
                "id": "calls",
                "match": {"topics": ["job.crash.call"]},
                "decision": "allow_with_constraints",
                "reason": "Calls are fenced",
                "constraints": {"max_runtime_sec": 60, "max_affected_rows": ROWS_MAX},
            },
            {
                "id": "reads",
                "match": {"topics": ["job.crash.read"]},
                "decision": "allow",
                "reason": "Reading changes nothing",
            },
        ],
    },
}


def returns_of(number: int) -> str:
    """What the handler of a job returns: `clean`, `redact` (a person's number), `hold` (a key), or `breach`.

    The last is clean, too, but the handler has tried to spend more than it may.
    """
    if number % 10 == 3:
        return "redact"
    return {5: "hold", 26: "breach"}.get(number % 40, "clean")


def fate_of(number: int, intents: int) -> str | None:
    """What people do with the output of a job that is held; nothing is left to expire at the end of the load."""
    if returns_of(number) not in ("hold", "breach"):
        return None
    turns = FATES if number * 2 < intents else FATES[:-1]
    return turns[number // 40 % len(turns)]


def agent_names() -> list[str]:
    """As many agents for each partition, so that every gate always has work."""
    found: dict[int, list[str]] = {at: [] for at in range(PARTITIONS)}
    number = 0
    while any(len(names) < AGENTS_PER_PARTITION for names in found.values()):
        name, number = f"crasher-{number}", number + 1
        names = found[partition_for(name.encode(), PARTITIONS)]
        if len(names) < AGENTS_PER_PARTITION:
            names.append(name)
    return sorted(name for names in found.values() for name in names)


def prepared(settings: Settings, folder: Path) -> Prepared:
    """The tenant with the crash test's policy and agents; with an embedded broker where the settings name none."""
    folder.mkdir(parents=True)
    agents = [
        {
            "id": name,
            "owner": "rosa",
            "version": "1",
            "key": {"kind": "hmac"},
            "class": "automation",
            "initial_level": {"level": 0, "reason": "for tests", "signer": "rosa"},
        }
        for name in agent_names()
    ]
    people = [{"id": name, "name": name.title(), "roles": ["approver", "operator"]} for name in ("rosa", *PEOPLE)]
    documents = {**DOCUMENTS, "agents.yaml": {"agents": agents}, "reviewers.yaml": {"people": people, "queues": {}}}
    for name, document in documents.items():
        (folder / name).write_text(json.dumps({"version": "v1", **document}))  # JSON is YAML
    return prepare(settings, folder)


class Load:
    """Writes signed intents of several agents, as fast as they are decided."""

    def __init__(self, settings: Settings, intents: int) -> None:
        self._settings, self._codec = settings, Codec(registry_for(settings.registry_url))
        self._topic = physical(settings.tenant, "job.intents")
        self.intents = intents
        self.submitted: dict[str, bool] = {}
        """Whether policy permits it, by job."""
        self.numbers: dict[str, int] = {}
        """Which one of the load it is, by job."""
        self.undelivered: list[str] = []
        self.open: Counter[str] = Counter()
        self._agents: deque[str] = deque(agent_names())
        self._keys: Keyring = NoKeyring()
        if settings.sealing != NONE:
            self._keys = StoreKeyring(KeyStore(key_store_path(settings)), creates=True)
        self._signers = {name: agent_signer(settings, name) for name in self._agents}
        self._producers = {name: self._producer(name) for name in self._agents}

    def _producer(self, agent: str) -> Producer:
        connection = kafka_config(self._settings, f"agent.{agent}")
        more: dict[str, Any] = {"enable.idempotence": True, "message.timeout.ms": 0, "linger.ms": 2}
        return Producer({**connection, "partitioner": "murmur2_random", **more})

    def write(self, up_to: int) -> None:
        """Write what may be written now, at most so many in all."""
        for _ in range(len(self._agents)):
            agent = self._agents[0]
            self._agents.rotate(-1)
            room = min(OPEN_MAX - self.open[agent], up_to - len(self.submitted), 20)
            for _ in range(room):
                self._write_next(agent)
            self._producers[agent].poll(0)

    def _write_next(self, agent: str) -> None:
        number = len(self.submitted)
        kind = TOPICS[number % len(TOPICS)]
        job_id = f"{agent}-{number}"
        signer = self._signers[agent]
        intent = build_intent(
            signer,
            self._settings.tenant,
            agent,
            "1",
            f"job.crash.{kind}",
            {"number": number, "returns": returns_of(number), "fate": fate_of(number, self.intents)},
            payload_bytes_max=10_000,
            job_id=job_id,
            keys=self._keys,
            now_ms=time.time_ns() // 1_000_000,
        )
        self.submitted[job_id] = kind != FORBIDDEN
        self.numbers[job_id] = number
        self.open[agent] += 1
        key, value = agent.encode(), self._codec.encode(intent)
        for copy in range(2 if number % AGAIN_EVERY == 0 else 1):
            now_ms = time.time_ns() // 1_000_000
            headers = signed_headers(signer, self._topic, intent, f"{job_id}/{copy}", now_ms, key, value)
            self._producers[agent].produce(self._topic, value, key, headers=list(headers), on_delivery=self._delivered)

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self.undelivered.append(error.str())

    def finish(self) -> None:
        for producer in self._producers.values():
            if producer.flush(30):
                self.undelivered.append("not written after 30 s")
