"""Thin, engine-free wrappers over confluent-kafka for clients and the command line.

A producer's call waits for the broker's word; a tail reads partitions by hand, without a consumer group; every error
becomes a `SluicegateError` that says what to do. Records are read committed (librdkafka's default).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from sluicegate.schemas.errors import LoginRefused, RecordTooLarge, SluicegateError, Unavailable
from sluicegate.schemas.events import Event
from sluicegate.streams.connection import LOGGER, LOGIN_ERRORS, await_broker
from sluicegate.streams.engine import Headers, Record
from sluicegate.streams.identity import RECORD_ID, Signer, sign
from sluicegate.streams.logins import kafka_config
from sluicegate.streams.messages import record_of
from sluicegate.streams.partitioner import partition_for
from sluicegate.streams.topics import MESSAGE_BYTES_MAX, logical, physical

if TYPE_CHECKING:
    from sluicegate.schemas.codec import Codec
    from sluicegate.streams.settings import Settings

PARTITIONER: Final = "murmur2_random"
"""Java's partitioner; the client's own default would put a key elsewhere than the gate expects it."""
DELIVERY_TIMEOUT_SEC: Final = 30.0
METADATA_TIMEOUT_SEC: Final = 10.0
POLL_SEC: Final = 0.05
RECORDS_PER_POLL_MAX: Final = 500

_REFUSED: Final = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
}
_NO_TOPIC: Final = {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION}
_TOO_LARGE: Final = {KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_MSG_SIZE}


class NotPermitted(SluicegateError):
    """The broker's access control lists do not let this login do this."""


def error_for(error: KafkaError, user: str, what: str) -> SluicegateError:
    """The exception that says what a Kafka error means for ``user`` doing ``what`` (``write `job.intents```)."""
    code = error.code()
    if code in LOGIN_ERRORS:
        return LoginRefused(f"the broker refused the login `{user}`; check its password in the run folder")
    if code in _REFUSED:
        return NotPermitted(f"the broker refuses `{user}` to {what}; use a login that may, or ask an operator")
    if code in _NO_TOPIC:
        return Unavailable(
            f"`{user}` cannot {what}: no such topic for this login; start `sluicegate up`, which makes it"
        )
    if code in _TOO_LARGE:
        return RecordTooLarge(f"`{user}` cannot {what}: the record is over {MESSAGE_BYTES_MAX} bytes; send less")
    return Unavailable(f"`{user}` cannot {what}: {error.str()}; check that the broker runs and try again")


class BrokerErrors:
    """An ``error_cb``: keeps the first error after which waiting is pointless (a wrong password fails nothing else)."""

    def __init__(self, user: str) -> None:
        self.user = user
        self.failure: SluicegateError | None = None

    def __call__(self, error: KafkaError) -> None:
        if self.failure is None and (error.code() in LOGIN_ERRORS or error.fatal()):
            self.failure = error_for(error, self.user, "reach the broker")

    def check(self) -> None:
        """Raise the failure, if there is one."""
        if self.failure is not None:
            raise self.failure


def event_headers(event: Event | type[Event], source: str, record_id: str, extra: Headers = ()) -> Headers:
    """The CloudEvents headers (Kafka binding, binary mode) of an event, then ``extra`` such as ``traceparent``."""
    name = event.__name__ if isinstance(event, type) else type(event).__name__
    return (
        ("ce_specversion", b"1.0"),
        (RECORD_ID, record_id.encode()),
        ("ce_source", source.encode()),
        ("ce_type", f"sluicegate.{name}.v1".encode()),
        ("content-type", b"application/avro"),
        *extra,
    )


def signed_headers(
    signer: Signer,
    topic: str,
    event: Event,
    record_id: str,
    issued_at_ms: int,
    key: bytes,
    value: bytes,
    extra: Headers = (),
) -> Headers:
    """`event_headers` with the signer as source, and its signature. ``topic`` is the Kafka name."""
    signature = sign(signer, topic, record_id, issued_at_ms, key, value)
    return event_headers(event, signer.key_id, record_id, extra) + tuple(
        pair for pair in signature if pair[0] != RECORD_ID
    )


class Published(NamedTuple):
    """Where the broker put a record, and its append time."""

    partition: int
    offset: int
    timestamp_ms: int


def publish(
    producer: Producer,
    topic: str,
    key: bytes,
    value: bytes,
    headers: Headers,
    *,
    errors: BrokerErrors,
    timeout_sec: float = DELIVERY_TIMEOUT_SEC,
) -> Published:
    """Write one record and wait for the delivery report. ``topic`` is the Kafka name.

    Raises NotPermitted, LoginRefused, RecordTooLarge or Unavailable; after Unavailable the record may still be there.
    """
    what = f"write `{topic}`"
    reported = threading.Event()
    answer: list[tuple[KafkaError | None, Message]] = []

    def report(error: KafkaError | None, message: Message) -> None:
        answer.append((error, message))
        reported.set()

    try:
        producer.produce(topic, value, key, on_delivery=report, headers=list(headers))
    except KafkaException as error:
        raise error_for(error.args[0], errors.user, what) from None
    except BufferError:
        raise Unavailable(f"`{errors.user}` cannot {what}: too many records wait for the broker; try again") from None
    deadline = time.monotonic() + timeout_sec
    while not reported.is_set():
        producer.poll(POLL_SEC)
        errors.check()
        if time.monotonic() > deadline:
            raise Unavailable(
                f"`{errors.user}` cannot {what}: no answer in {timeout_sec:g} s; check that the broker runs"
            )
    failed, message = answer[0]
    if failed is not None:
        raise error_for(failed, errors.user, what)
    return Published(message.partition() or 0, message.offset() or 0, message.timestamp()[1])


class Publisher:
    """One login's producer: idempotent, all replicas, the gate's partitioner. Safe to share between threads."""

    def __init__(self, settings: Settings, user: str) -> None:
        self._tenant = settings.tenant
        self._errors = BrokerErrors(user)
        connection = kafka_config(settings, user)
        await_broker(connection)
        self._producer = Producer(
            {
                **connection,
                "partitioner": PARTITIONER,
                "enable.idempotence": True,
                "linger.ms": 1,
                "message.max.bytes": MESSAGE_BYTES_MAX,
                "message.timeout.ms": int(DELIVERY_TIMEOUT_SEC * 1000),
                "error_cb": self._errors,
            },
            logger=LOGGER,
        )

    def publish(self, topic: str, key: bytes, value: bytes, headers: Headers) -> Published:
        """As `publish`; ``topic`` is the logical name."""
        return publish(self._producer, physical(self._tenant, topic), key, value, headers, errors=self._errors)

    def publish_signed(
        self,
        signer: Signer,
        codec: Codec,
        topic: str,
        key: bytes,
        event: Event,
        record_id: str,
        issued_at_ms: int | None = None,
    ) -> Published:
        """As `publish`, an event signed by whoever says it; issued now where no time in ms is given."""
        value = codec.encode(event)
        issued_at_ms = time.time_ns() // 1_000_000 if issued_at_ms is None else issued_at_ms
        headers = signed_headers(signer, physical(self._tenant, topic), event, record_id, issued_at_ms, key, value)
        return self.publish(topic, key, value, headers)

    def close(self) -> None:
        """Wait for what is still under way, at most the delivery time-out."""
        self._producer.flush(DELIVERY_TIMEOUT_SEC)


Start = Literal["beginning", "end"] | Mapping[tuple[str, int], int]
"""Where a tail begins: at one end of the log, or at offsets by (logical topic, partition), and there only."""


def plain_consumer(settings: Settings, user: str, group: str, errors: BrokerErrors, **extra: Any) -> Consumer:
    """A consumer that commits nothing by itself. Keyword ``a_b`` sets librdkafka's ``a.b``."""
    connection = kafka_config(settings, user)
    await_broker(connection)
    return Consumer(
        {
            **connection,
            "group.id": group,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "earliest",
            "fetch.wait.max.ms": 100,
            "error_cb": errors,
            **{name.replace("_", "."): value for name, value in extra.items()},
        },
        logger=LOGGER,
    )


def partition_count(consumer: Consumer, topic: str, user: str) -> int:
    """How many partitions a topic has (Kafka name). Raises NotPermitted or Unavailable."""
    try:
        found = consumer.list_topics(topic, timeout=METADATA_TIMEOUT_SEC).topics[topic]
    except KafkaException as error:
        raise error_for(error.args[0], user, f"read `{topic}`") from None
    if found.error is not None:
        raise error_for(found.error, user, f"read `{topic}`")
    return len(found.partitions)


def tail_consumer(settings: Settings, user: str, topics: Iterable[str], group: str, start: Start) -> Consumer:
    """A consumer of every partition of some logical topics, from ``start``. Joins no group, commits nothing."""
    return Tail(settings, user, topics, group=group, start=start).consumer


class Tail:
    """Reads partitions by hand from a place on; for one thread at a time."""

    def __init__(
        self,
        settings: Settings,
        user: str,
        topics: Iterable[str],
        *,
        group: str,
        start: Start,
        key: bytes | None = None,
    ) -> None:
        """``topics`` are logical names; with ``key`` only the partition of that key is read.

        Raises LoginRefused, NotPermitted or Unavailable.
        """
        self._tenant = settings.tenant
        self._errors = BrokerErrors(user)
        self._settings, self._group = settings, group
        self.consumer = self._open()
        self._next: dict[tuple[str, int], int] = dict(start) if not isinstance(start, str) else {}
        self._at_end: set[tuple[str, int]] = set()
        try:
            for topic in topics if isinstance(start, str) else ():
                count = self.partition_count(topic)
                for partition in range(count) if key is None else (partition_for(key, count),):
                    low, high = self.span(topic, partition)
                    self._next[topic, partition] = low if start == "beginning" else high
        except SluicegateError:
            self.consumer.close()
            raise
        self._assign()

    def _open(self) -> Consumer:
        return plain_consumer(self._settings, self._errors.user, self._group, self._errors, enable_partition_eof=True)

    def _assign(self) -> None:
        self._at_end.clear()
        self.consumer.assign([TopicPartition(self._kafka(topic), part, at) for (topic, part), at in self._next.items()])

    def _kafka(self, topic: str) -> str:
        return physical(self._tenant, topic)

    def partition_count(self, topic: str) -> int:
        """Partitions of a logical topic."""
        return partition_count(self.consumer, self._kafka(topic), self._errors.user)

    def span(self, topic: str, partition: int) -> tuple[int, int]:
        """The first offset kept and the end of the log, asked of the broker now."""
        where = TopicPartition(self._kafka(topic), partition)
        try:
            found = self.consumer.get_watermark_offsets(where, timeout=METADATA_TIMEOUT_SEC, cached=False)
        except KafkaException as error:
            raise error_for(error.args[0], self._errors.user, f"read `{where.topic}`") from None
        if found is None:
            raise Unavailable(f"the broker does not say where `{where.topic}` ends; try again")
        return int(found[0]), int(found[1])

    def poll(self, timeout_sec: float) -> list[Record]:
        """The next records, perhaps none after ``timeout_sec``. Raises NotPermitted or Unavailable."""
        records: list[Record] = []
        for message in self.consumer.consume(RECORDS_PER_POLL_MAX, timeout_sec):
            error = message.error()
            if error is None:
                record = record_of(logical(self._tenant, message.topic() or ""), message)
                records.append(record)
                self._next[record.topic, record.partition] = record.offset + 1
                self._at_end.discard((record.topic, record.partition))
            elif error.code() == KafkaError._PARTITION_EOF:
                place = (logical(self._tenant, message.topic() or ""), message.partition() or 0)
                self._next[place] = max(self._next[place], message.offset() or 0)
                self._at_end.add(place)
            elif error.code() in _REFUSED - {KafkaError.GROUP_AUTHORIZATION_FAILED} or error.code() in _NO_TOPIC:
                # A tail joins no group, so that the login has no right to one does not matter.
                raise error_for(error, self._errors.user, f"read `{message.topic()}`")
        self._errors.check()
        return records

    def at_end(self) -> bool:
        """Whether every partition was read to its last committed record; true again after each arrival was polled."""
        return len(self._at_end) == len(self._next)

    def positions(self) -> dict[tuple[str, int], int]:
        """The next offset to be read, by logical topic and partition."""
        return dict(self._next)

    def rewind(self, topic: str, partition: int, offset: int) -> None:
        """Read this partition again from ``offset`` on, if that is before where it is now."""
        if offset < self._next[topic, partition]:
            self._next[topic, partition] = offset
            # A seek fails while a partition is still being opened, and assigning one anew in that moment trips an
            # assertion in librdkafka that aborts the process: a consumer of its own is the sure way.
            old, self.consumer = self.consumer, self._open()
            old.close()
            self._assign()

    def rewind_to(self, at_ms: int) -> None:
        """Read every partition again from the first record that was appended at or after a time. Raises Unavailable."""
        wanted = [TopicPartition(self._kafka(topic), partition, at_ms) for topic, partition in self._next]
        try:
            found = self.consumer.offsets_for_times(wanted, timeout=METADATA_TIMEOUT_SEC)
        except KafkaException as error:
            raise error_for(error.args[0], self._errors.user, "ask for the records since a time") from None
        for each in found:
            if each.offset >= 0:
                self.rewind(logical(self._tenant, each.topic), each.partition, each.offset)

    def close(self) -> None:
        """Let the connection go."""
        self.consumer.close()
