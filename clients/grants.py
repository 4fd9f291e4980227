"""A worker's consumer of `job.grants.<pool>`: assignment, what waits, and which offsets a transaction commits."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from sluicegate.clients.intake import WAITING_MAX, Intake, Waiting
from sluicegate.schemas.codec import Codec
from sluicegate.schemas.errors import Undecodable
from sluicegate.schemas.events import Grant
from sluicegate.streams.engine import Record
from sluicegate.streams.identity import Verifier, check_signature
from sluicegate.streams.kafka import METADATA_TIMEOUT_SEC, BrokerErrors, error_for, plain_consumer
from sluicegate.streams.messages import record_of
from sluicegate.streams.partitioner import partition_for
from sluicegate.streams.topics import physical

if TYPE_CHECKING:
    from sluicegate.streams.settings import Settings

POLL_INTERVAL_MS_MAX: Final = 60_000
_LOGGER: Final = logging.getLogger("sluicegate.worker")
_PASSING: Final = {KafkaError._PARTITION_EOF, KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN}


def signature_fault(record: Record, tenant: str, gates: Mapping[str, Verifier]) -> tuple[str, str] | None:
    """(code, message) when a grant does not carry the signature of a gate that this worker trusts, else None."""
    topic = physical(tenant, record.topic)
    checked = check_signature(record.headers, topic, record.key, record.value, gates.get)
    if checked.code is None and checked.principal is not None and checked.principal.kind == "gate":
        return None
    return "grant_unsigned", f"no gate that this worker trusts has signed it ({checked.code or 'wrong_signer'})"


class Grants:
    """The grants of a pool that this worker is assigned; for one thread."""

    def __init__(self, settings: Settings, user: str, group: str, member: str, pool: str, codec: Codec) -> None:
        self._codec, self._user = codec, user
        self._name = f"job.grants.{pool}"
        self._topic = physical(settings.tenant, self._name)
        self._errors = BrokerErrors(user)
        self._consumer: Consumer = plain_consumer(
            settings,
            user,
            group,
            self._errors,
            group_instance_id=member,
            session_timeout_ms=settings.session_timeout_ms,
            heartbeat_interval_ms=settings.session_timeout_ms // 3,
            max_poll_interval_ms=POLL_INTERVAL_MS_MAX,
            partition_assignment_strategy="range",
        )
        self._intakes: dict[int, Intake] = {}
        self._partitions = 0
        self._paused = self._was_assigned = False
        self._consumer.subscribe([self._topic], on_assign=self._assign, on_revoke=self._revoke, on_lost=self._revoke)

    @property
    def assigned(self) -> bool:
        """Whether a first assignment has come; it may hold no partition."""
        return self._was_assigned

    def _assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        committed = consumer.committed(partitions, timeout=METADATA_TIMEOUT_SEC) if partitions else []
        self._partitions = len(consumer.list_topics(self._topic, METADATA_TIMEOUT_SEC).topics[self._topic].partitions)
        for place in committed:
            if place.error is not None:
                raise KafkaException(place.error)
            if place.offset < 0:  # nothing committed yet: begin where the log begins
                place.offset = consumer.get_watermark_offsets(place, timeout=METADATA_TIMEOUT_SEC, cached=False)[0]
                self._intakes[place.partition] = Intake(place.offset)
            else:
                self._intakes[place.partition] = Intake(place.offset, place.metadata or "")
        consumer.assign([TopicPartition(place.topic, place.partition, place.offset) for place in committed])
        self._was_assigned, self._paused = True, False

    def _revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        for place in partitions:
            self._intakes.pop(place.partition, None)

    @property
    def waiting(self) -> list[Waiting]:
        """What is read and not taken, in order of each partition."""
        return [found for intake in self._intakes.values() for found in intake.waiting.values()]

    def poll(self, timeout_sec: float) -> None:
        """Read on, as far as there is room; serves rebalances. Raises LoginRefused, NotPermitted or Unavailable."""
        room = WAITING_MAX - len(self.waiting)
        self._keep_paused(room <= 0)
        try:
            message = self._consumer.poll(timeout_sec)
            messages = [] if message is None else [message]
            if message is not None and room > 1:
                messages += self._consumer.consume(room - 1, 0)
        except KafkaException as error:
            raise error_for(error.args[0], self._user, f"read `{self._topic}`") from None
        for message in messages:
            fault = message.error()
            if fault is None:
                self._arrive(message)
            elif fault.code() not in _PASSING and not fault.retriable():
                raise error_for(fault, self._user, f"read `{self._topic}`")
        self._errors.check()

    def _keep_paused(self, paused: bool) -> None:
        if paused != self._paused:
            places = self._consumer.assignment()
            self._consumer.pause(places) if paused else self._consumer.resume(places)
            self._paused = paused

    def _arrive(self, message: Any) -> None:
        record = record_of(self._name, message)
        intake = self._intakes.get(record.partition)
        if intake is None:
            return
        try:
            event = self._codec.decode(record.value)
            grant = event if isinstance(event, Grant) else None
        except Undecodable as error:
            _LOGGER.warning("record %d of %s is no grant and is passed over: %s", record.offset, self._topic, error)
            grant = None
        intake.arrive(Waiting(record, grant, partition_for(record.key, self._partitions) != record.partition))

    def offsets(self, taken: Iterable[Waiting]) -> list[TopicPartition]:
        """What to commit when these are taken."""
        grouped: dict[int, list[int]] = {}
        for found in taken:
            grouped.setdefault(found.record.partition, []).append(found.record.offset)
        places: list[TopicPartition] = []
        for partition, offsets in grouped.items():
            position, metadata = self._intakes[partition].commit_of(offsets)
            places.append(TopicPartition(self._topic, partition, position, metadata))
        return places

    def metadata(self) -> Any:
        """The group's metadata, by which the broker refuses the commit of a member that was replaced."""
        return self._consumer.consumer_group_metadata()

    def take(self, taken: Iterable[Waiting]) -> None:
        """These are taken: their transaction stands."""
        for found in taken:
            self._intakes[found.record.partition].take([found.record.offset])

    def close(self) -> None:
        """Leave; a static member keeps its partitions until its session ends."""
        self._consumer.close()
