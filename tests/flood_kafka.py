"""A tenant on the real broker whose gates run while one agent floods it and others write at an even pace."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Self, TypeVar

from confluent_kafka import Producer
from fixtures_kafka import RunningBroker

from sluicegate.cli.log_reading import read_log
from sluicegate.cli.prepare import prepare
from sluicegate.cli.verify import verify_copy
from sluicegate.clients.agent import build_intent
from sluicegate.infra.supervisor import Supervisor
from sluicegate.schemas.codec import Codec
from sluicegate.schemas.events import Decision, Event, Noted, Refused, Repeated
from sluicegate.streams.engine import Headers
from sluicegate.streams.kafka import Tail, signed_headers
from sluicegate.streams.keys import agent_signer
from sluicegate.streams.logcopy import write_copy
from sluicegate.streams.logins import kafka_config
from sluicegate.streams.partitioner import partition_for
from sluicegate.streams.registry import registry_for
from sluicegate.streams.settings import Settings
from sluicegate.streams.topics import physical

PARTITIONS: Final = 3
FLOOD_PER_SEC: Final = 4_000
OTHERS_PER_SEC: Final = 20
GATES: Final = 2
DISTINCT: Final = 1_200
"""Intents that the flooder has signed beforehand, and writes again and again."""
BIG_BYTES: Final = 3_000
LIMITS: Final[Mapping[str, int]] = {
    "payload_bytes_max": 2_000,
    "intents_per_min_max": 2_000,
    "topics_per_day_max": 40,
    "open_requests_max": 50,
    "in_flight_max": 600,  # no worker runs here, so the others' jobs add up as well
    # The broker's quota is what another test is about: here the gate has to take all of it.
    "agent_bytes_per_sec_max": 1_000_000_000,
}
DOCUMENTS: Final[Mapping[str, Any]] = {
    "bundle.yaml": {"default": "deny"},
    "reviewers.yaml": {"people": [{"id": "rosa", "name": "Rosa"}]},
    "rules.yaml": {
        "rules": [
            {"id": "held", "match": {"topics": ["job.flood.held"]}, "decision": "require_approval"},
            {"id": "reads", "match": {"topics": ["job.flood.*"]}, "decision": "allow"},
        ]
    },
}
T = TypeVar("T")
Ready = tuple[bytes, Headers]
Answer = Decision | Refused | Repeated | Noted
"""Each intent has exactly one of them in the journal."""


def agent_names() -> list[str]:
    """One for each partition, and one more on that of the first, which floods."""
    found: dict[int, list[str]] = {at: [] for at in range(PARTITIONS)}
    for number in range(1_000):
        name = f"agent-{number}"
        names = found[partition_for(name.encode(), PARTITIONS)]
        if len(names) < 2:
            names.append(name)
    return [found[0][0], *(names[-1] for names in found.values())]


class Flood:
    """Use it in a ``with`` block; ``run`` once."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.flooder, *self.others = agent_names()
        self.submitted: set[str] = set()
        """Jobs of the others."""
        self.intents_in_log = 0
        """Of the flooder, as the broker took them."""
        self.events: list[Event] = []
        self._intents, self._answers = 0, 0
        self._codec = Codec(registry_for(""))
        self._topic = physical(settings.tenant, "job.intents")
        self._signers = {name: agent_signer(settings, name) for name in agent_names()}
        self._producers = {name: self._producer(name) for name in agent_names()}
        self._gates = Supervisor(settings, ("gate",), instances={"gate": GATES})
        topics = ("job.intents", "job.decisions", "approval.requests")
        self._tail = Tail(settings, "auditor", topics, group="auditor", start="beginning")

    def _producer(self, agent: str) -> Producer:
        connection = kafka_config(self.settings, f"agent.{agent}")
        return Producer({**connection, "partitioner": "murmur2_random", "linger.ms": 5, "message.timeout.ms": 0})

    def __enter__(self) -> Self:
        self._gates.start()
        self._gates.wait_ready()
        return self

    def __exit__(self, *_: object) -> None:
        self._gates.stop()
        self._tail.close()

    def _ready(self, agent: str, job_id: str, topic: str, payload: Any) -> Ready:
        signer = self._signers[agent]
        intent = build_intent(
            signer, self.settings.tenant, agent, "1", topic, payload, payload_bytes_max=2 * BIG_BYTES, job_id=job_id
        )
        value = self._codec.encode(intent)
        now_ms = time.time_ns() // 1_000_000
        return value, signed_headers(signer, self._topic, intent, job_id, now_ms, agent.encode(), value)

    def _flooded(self, number: int) -> Ready:
        """Held topics, fresh topics, big payloads, what is allowed; all again in the next round."""
        topic, payload = (
            ("job.flood.held", {"n": number}),
            (f"job.flood.fresh-{number}", {"n": number}),
            ("job.flood.read", {"n": "x" * BIG_BYTES}),
            ("job.flood.read", {"n": number}),
        )[number % 4]
        return self._ready(self.flooder, f"flooded-{number}", topic, payload)

    def run(self, seconds: float, timeout_sec: float) -> None:
        """Flood for so long, then until all is answered. Raises AssertionError when that takes too long."""
        ready = [self._flooded(number) for number in range(DISTINCT)]
        began, sent, submitted = time.monotonic(), 0, 0
        while (passed := time.monotonic() - began) < seconds:
            for _ in range(min(int(passed * FLOOD_PER_SEC) - sent, 500)):
                self._write(self.flooder, ready[sent % DISTINCT])
                sent += 1
            while submitted < int(passed * OTHERS_PER_SEC):
                agent = self.others[submitted % len(self.others)]
                job_id = f"{agent}-{submitted}"
                self._write(agent, self._ready(agent, job_id, "job.flood.read", {"n": submitted}))
                self.submitted.add(job_id)
                submitted += 1
            self._follow(0.002)
        for producer in self._producers.values():
            assert producer.flush(30) == 0
        while not (self._tail.at_end() and self._intents == sent + submitted == self._answers):
            self._follow(0.2)
            said = f"{self._answers} answers to {self._intents} intents of {sent + submitted}"
            assert time.monotonic() - began < timeout_sec, said

    def _write(self, agent: str, ready: Ready) -> None:
        value, headers = ready
        self._producers[agent].produce(self._topic, value, agent.encode(), headers=list(headers))
        self._producers[agent].poll(0)

    def _follow(self, wait_sec: float) -> None:
        for record in self._tail.poll(wait_sec):
            if record.topic == "job.intents":
                self._intents += 1
                self.intents_in_log += record.key == self.flooder.encode()
                continue
            event = self._codec.decode(record.value)
            self.events.append(event)
            self._answers += isinstance(event, Answer)

    def found(self, cls: type[T]) -> list[T]:
        """The events of a kind, in the order in which they were read."""
        return [event for event in self.events if isinstance(event, cls)]

    def answers(self) -> list[Answer]:
        """Each intent's answer."""
        return [event for event in self.events if isinstance(event, Answer)]

    def verified(self) -> list[Any]:
        """The faults that our own verification finds."""
        log = read_log(self.settings)
        copy = self.settings.run_dir / f"{self.settings.tenant}.jsonl"
        write_copy(copy, log.tenant, log.partitions, log.starts, log.records)
        return verify_copy(self.settings, copy).faults


def prepared_flood(name: str, broker: RunningBroker, kafka_dir: Path, folder: Path) -> Flood:
    """A tenant of its own on the run's broker; its gates start with the ``with`` block."""
    settings = Settings(
        tenant=name,
        run_dir=folder / "run",
        bootstrap=broker.bootstrap,
        logins_file=kafka_dir / "logins.json",
        control_age_ms_max=2_000,
        partitions=PARTITIONS,
        sealing="none",  # the limits are met before anything is opened
        **LIMITS,
    )
    policies = folder / "policies"
    policies.mkdir()
    agents = [{"id": name, "owner": "rosa", "version": "1", "key": {"kind": "hmac"}} for name in agent_names()]
    for file, document in {**DOCUMENTS, "agents.yaml": {"agents": agents}}.items():
        (policies / file).write_text(json.dumps(document))  # JSON is YAML
    return Flood(prepare(settings, policies).settings)
