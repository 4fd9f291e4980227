"""The tenant of the crash tests and what its agents write: signed intents, as fast as they are decided."""

from __future__ import annotations

import hashlib
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
from sluicegate.schemas.events import FindingWord
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
RATE: Final = 0.3
WEIGHTS: Final[Mapping[str, float]] = {"read": 1.0, "egress": 2.0}
"""Reads carry the first tag, calls both: how much likelier a job is looked at."""
AMOUNT_MAX: Final = 48
"""A job of a larger amount is always looked at."""
AUDIT: Final[Mapping[str, Any]] = {
    "sampling": {"rate": RATE, "strategy": "stratified", "weights": {"risk_tags": WEIGHTS}, "normalise": True},
    "mandatory": [{"match": {"amount_usd_above": AMOUNT_MAX}}],
}
_LEVEL: Final = {"rules": [{"match": {"topics": ["job.crash.call", "job.crash.read"]}, "decision": "allow"}]}
AUTONOMY: Final[Mapping[str, Any]] = {
    # All levels permit the same: what moves them is the matter here. Where the load is in a run they rise and fall.
    "autonomy_levels": {f"level_{number}": {"name": f"level {number}", **_LEVEL} for number in range(4)},
    "promotion_criteria": {
        "min_successful_actions": 8,
        "max_error_rate": 0.25,
        "review_period_days": 1,
        "requires_human_sign_off": True,
        "evidence": {
            "levels": [2, 3],
            "error_rate_ruled_out": 0.5,
            "error_rate_expected": 0.1,
            "confidence": 0.9,
        },
    },
    "demotion_triggers": [
        "policy_violation",
        {"error_rate_above": 0.12, "levels_down": 1},
        {"drift": {"usual_error_rate": 0.05, "feared_error_rate": 0.4, "threshold": 3.0}},
    ],
}
DOCUMENTS: Final[Mapping[str, Any]] = {
    "bundle.yaml": {"version": "v1", "default": "deny"},
    "actions.yaml": {
        "version": "v1",
        "actions": [
            {"topics": ["job.crash.*"], "risk_tags": ["read"], "retry": "safe", "facts": {"amount_usd": "amount"}},
            {"topics": ["job.crash.call"], "risk_tags": ["egress"]},
        ],
    },
    "audit-policy.yaml": {"audit": AUDIT},
    "autonomy.yaml": AUTONOMY,
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


def amount_of(number: int) -> int:
    """What the payload of a job says that it costs."""
    return number % 50


def finding_of(job_id: str) -> FindingWord:
    """What people find a sampled job to be, whoever looks at it and whenever."""
    chance = hashlib.sha256(job_id.encode()).digest()[0]
    return "correct" if chance < 205 else "wrong" if chance < 235 else "harmful"


def is_signed_off(request_id: str) -> bool:
    """Whether people sign a promotion off that is asked for in this request."""
    return hashlib.sha256(request_id.encode()).digest()[0] < 205


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


def first_levels() -> dict[str, int]:
    """The level that each agent begins at: so there is one to lose from the first job on."""
    return {name: number % 2 for number, name in enumerate(agent_names())}


def said_of(kind: str, request_id: str, job_id: str) -> dict[str, Any]:
    """What people say of a sample or a promotion: the fields of their verdict that do not follow from the request."""
    finding = finding_of(job_id) if kind == "audit" else None
    good = is_signed_off(request_id) if finding is None else finding == "correct"
    error = {} if finding is None or good else {"error_class": "by-its-id", "severity": "high"}
    reason = None if good else "its id says so"
    return {"verdict": "approve" if good else "deny", "choice": finding, "reason": reason, **error}


def documents() -> dict[str, Any]:
    """The tenant's policy and agents, by file; people without keys."""
    agents = [
        {
            "id": name,
            "owner": "rosa",
            "version": "1",
            "key": {"kind": "hmac"},
            "class": "automation",
            "initial_level": {"level": level, "reason": "for tests", "signer": "rosa"},
        }
        for name, level in first_levels().items()
    ]
    people = [{"id": name, "name": name.title(), "roles": ["approver", "operator"]} for name in ("rosa", *PEOPLE)]
    found = {**DOCUMENTS, "agents.yaml": {"agents": agents}, "reviewers.yaml": {"people": people, "queues": {}}}
    return {name: {"version": "v1", **document} for name, document in found.items()}


def payload_of(number: int, intents: int) -> dict[str, Any]:
    """The payload of a job of the load."""
    return {
        "number": number,
        "amount": amount_of(number),
        "returns": returns_of(number),
        "fate": fate_of(number, intents),
    }


def prepared(settings: Settings, folder: Path) -> Prepared:
    """The tenant with the crash test's policy and agents; with an embedded broker where the settings name none."""
    folder.mkdir(parents=True)
    for name, document in documents().items():
        (folder / name).write_text(json.dumps(document))  # JSON is YAML
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
            payload_of(number, self.intents),
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
