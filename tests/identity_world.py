"""A running tenant under attack: real processes, honest jobs first, then every forgery published with confluent-kafka.

Each attack says who must notice it and by what event; all are published before anything is read.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from confluent_kafka import KafkaError, Message, Producer

from sluicegate.schemas.codec import Codec
from sluicegate.schemas.errors import Undecodable
from sluicegate.schemas.events import Acknowledged, Event
from sluicegate.streams.engine import Headers, Record
from sluicegate.streams.identity import Signer, sign
from sluicegate.streams.kafka import Tail, event_headers
from sluicegate.streams.logins import kafka_config
from sluicegate.streams.partitioner import partition_for
from sluicegate.streams.registry import registry_for
from sluicegate.streams.settings import Settings
from sluicegate.streams.topics import names, physical

WAIT_SEC = 60.0
Place = tuple[str, int, int]


def now_ms() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


class Sign(NamedTuple):
    """What must stand in the log: by whom, which event on which topic, with which fields.

    ``caused`` means that it names the attack as its cause (an acknowledgement: its offset). The party `verify`
    writes no event: it names the record in its report.
    """

    party: str
    topic: str = ""
    event: str = ""
    fields: tuple[tuple[str, Any], ...] = ()
    caused: bool = True

    def shown_by(self, record: Record, event: Any, place: Place) -> bool:
        """Whether this record is it."""
        if record.topic != self.topic or type(event).__name__ != self.event:
            return False
        if self.caused and isinstance(event, Acknowledged):
            if (event.topic, 0, event.control_offset) != place:
                return False
        elif self.caused and (event.cause.topic, event.cause.partition, event.cause.offset) != place:
            return False
        return all(getattr(event, name) == value for name, value in self.fields)


VERIFY = Sign("verify")


def refused(party: str, code: str, **more: Any) -> Sign:
    """The party's refusal in its journal."""
    journal = {"gate": "job.decisions", "outputs": "job.results", "desk": "approval.events"}[party]
    return Sign(party, journal, "Refused", (("code", code), *more.items()))


def noted(party: str, detail: str) -> Sign:
    """The party took note, and nothing changed."""
    return refused(party, "")._replace(event="Noted", fields=(("detail", detail),))


def acknowledged(topic: str, code: str) -> Sign:
    """The gate says that it did not obey."""
    return Sign("gate", "job.decisions", "Acknowledged", (("accepted", False), ("code", code), ("topic", topic)))


def buried(party: str) -> tuple[Sign, Sign]:
    """A dead letter and the party's journaled refusal."""
    return Sign(party, "dead.letters", "DeadLetter", (("application", party),)), refused(party, "malformed")


class Attack:
    """One record that must not count, and what must show that it did not."""

    def __init__(self, topic: str, kind: str, what: str, expected: tuple[Sign, ...]) -> None:
        self.topic, self.kind, self.what, self.expected = topic, kind, what, expected
        self.error: KafkaError | None = None
        self.place: Place = (topic, -1, -1)

    def delivered(self, error: KafkaError | None, message: Message) -> None:
        """The broker's word."""
        self.error = error
        self.place = (self.topic, message.partition() or 0, -1 if error else message.offset() or 0)

    def __str__(self) -> str:
        return f"{self.topic}: {self.kind}, {self.what} at {self.place}"


class World:
    """Writes under any login of the tenant with plain producers, and reads everything as the auditor."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.codec = Codec(registry_for(settings.registry_url))
        self.attacks: list[Attack] = []
        self.log: list[tuple[Record, Any]] = []
        self._producers: dict[str, Producer] = {}
        self._tail = Tail(settings, "auditor", names(settings.pools), group="auditor", start="beginning")

    def close(self) -> None:
        """Let the connections go."""
        self._tail.close()
        self._producers.clear()

    def kafka(self, topic: str) -> str:
        """The broker's name of a topic."""
        return physical(self.settings.tenant, topic)

    def wrong_partition(self, key: str) -> int:
        """A partition on which a key has no business."""
        return (partition_for(key.encode(), self.settings.partitions) + 1) % self.settings.partitions

    def _producer(self, user: str) -> Producer:
        if user not in self._producers:
            more = {"partitioner": "murmur2_random", "enable.idempotence": True, "linger.ms": 5, "log_level": 0}
            self._producers[user] = Producer({**kafka_config(self.settings, user), **more})
        return self._producers[user]

    def write(
        self,
        user: str,
        topic: str,
        key: str,
        value: bytes,
        headers: Headers = (),
        *,
        partition: int = -1,
        report: Callable[[KafkaError | None, Message], None] | None = None,
    ) -> None:
        """Hand one record to the login's producer; records of a login keep their order."""
        producer = self._producer(user)
        producer.produce(
            self.kafka(topic), value, key.encode(), partition=partition, headers=list(headers), on_delivery=report
        )

    def flush(self) -> None:
        """Wait until the broker has answered for everything."""
        for user, producer in self._producers.items():
            assert producer.flush(WAIT_SEC) == 0, user

    def attack(
        self,
        user: str,
        topic: str,
        kind: str,
        what: str,
        record: tuple[str, bytes, Headers],
        *expected: Sign,
        partition: int = -1,
    ) -> None:
        """Publish a record that must not count."""
        found = Attack(topic, kind, what, expected)
        self.attacks.append(found)
        self.write(user, topic, *record, partition=partition, report=found.delivered)

    def plain(self, key: str, event: Event, source: str = "attacker") -> tuple[str, bytes, Headers]:
        """A record without a signature."""
        return key, self.codec.encode(event), event_headers(event, source, f"attack-{len(self.attacks)}")

    def signed(
        self, signer: Signer, topic: str, key: str, event: Event, *, age_ms: int = 0, kafka: str = ""
    ) -> tuple[str, bytes, Headers]:
        """A signed record, issued ``age_ms`` ago; ``kafka`` signs it for another topic than it is meant for."""
        value, record_id = self.codec.encode(event), f"attack-{len(self.attacks)}"
        signature = sign(signer, kafka or self.kafka(topic), record_id, now_ms() - age_ms, key.encode(), value)
        return key, value, (*event_headers(event, signer.key_id, record_id), *signature[1:])

    # --- reading

    def read(self) -> None:
        """Take in what has come."""
        for record in self._tail.poll(0.1):
            try:
                event = self.codec.decode(record.value)
            except Undecodable:
                event = None
            self.log.append((record, event))

    def until(self, what: str, enough: Callable[[], bool]) -> None:
        """Read on until it is enough; says what was missing after a minute."""
        deadline = time.monotonic() + WAIT_SEC
        while not enough():
            assert time.monotonic() < deadline, f"{what} did not come"
            self.read()

    def events(self, name: str, **fields: Any) -> list[Any]:
        """Every event of a class with these fields, as far as it was read."""
        return [event for _, event in self.records(name, **fields)]

    def records(self, name: str, **fields: Any) -> list[tuple[Record, Any]]:
        """As `events`, with their records."""
        return [
            (record, event)
            for record, event in self.log
            if type(event).__name__ == name and all(getattr(event, field) == fields[field] for field in fields)
        ]

    def unanswered(self, attacks: Iterable[Attack]) -> list[str]:
        """What was expected of these attacks and does not stand in the log."""
        answers: dict[str, list[tuple[Record, Any]]] = {}
        for record, event in self.log:
            answers.setdefault(f"{record.topic} {type(event).__name__}", []).append((record, event))
        return [
            f"{attack}: no {sign.event} by {sign.party} with {dict(sign.fields)}"
            for attack in attacks
            for sign in attack.expected
            if sign is not VERIFY
            and not any(
                sign.shown_by(record, event, attack.place)
                for record, event in answers.get(f"{sign.topic} {sign.event}", [])
            )
        ]


def copied(record: Record) -> tuple[str, bytes, Headers]:
    """The same bytes again."""
    return record.key.decode(), record.value, record.headers
