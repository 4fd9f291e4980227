"""Reads the whole log as the auditor: every topic of the tenant that stands on the broker, read committed."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

import msgspec

from sluicegate.cli.configuration import READER
from sluicegate.schemas.errors import Unavailable
from sluicegate.streams.connection import LOGGER
from sluicegate.streams.engine import Record
from sluicegate.streams.kafka import METADATA_TIMEOUT_SEC, BrokerErrors, Tail, error_for, plain_consumer
from sluicegate.streams.topics import BY_NAME, logical, physical, spec_of

if TYPE_CHECKING:
    from sluicegate.streams.settings import Settings

POLL_SEC: Final = 0.2
STALL_SEC_MAX: Final = 30.0
"""How long reading to the ends may make no progress (an open transaction is aborted after 10 s)."""
KEYED: Final = "job.decisions"
Place = tuple[str, int]


class Log(msgspec.Struct, frozen=True):
    """The whole log up to the ends of the moment it was read."""

    tenant: str
    partitions: int
    starts: dict[Place, int]
    records: list[Record]


def log_topics(settings: Settings, user: str = READER) -> dict[str, int]:
    """Each logical topic of the tenant on the broker, families spelt out, and its number of partitions.

    Raises Unavailable when there is none: no `up` ran here yet.
    """
    from confluent_kafka import KafkaException

    errors = BrokerErrors(user)
    consumer = plain_consumer(settings, user, user, errors)
    try:
        found = consumer.list_topics(timeout=METADATA_TIMEOUT_SEC).topics
    except KafkaException as error:
        raise error_for(error.args[0], user, "list the topics") from None
    finally:
        consumer.close()
    topics: dict[str, int] = {}
    for kafka, metadata in found.items():
        name = _ours(settings.tenant, kafka)
        if name is not None:
            topics[name] = len(metadata.partitions)
    if KEYED not in topics:
        raise Unavailable(
            f"`{user}` sees no topic of tenant `{settings.tenant}`; start `sluicegate up` once, which makes them"
        )
    return topics


def _ours(tenant: str, kafka: str) -> str | None:
    try:
        name = logical(tenant, kafka)
        spec = spec_of(name)
    except (ValueError, KeyError):
        return None
    return None if spec.per and name in BY_NAME else name


def read_log(settings: Settings, progress: Callable[[int], Any] = int, only: Collection[str] | None = None) -> Log:
    """Read everything that is committed now. ``progress`` is told how many records were read so far.

    ``only`` names the topics that are wanted, where not all are.
    Raises NotPermitted, LoginRefused or Unavailable, also when a writer keeps a transaction open for too long.
    """
    topics = log_topics(settings)
    wanted = {topic: count for topic, count in topics.items() if only is None or topic in only}
    places = [(topic, partition) for topic, count in wanted.items() for partition in range(count)]
    starts, ends = spans(settings, places)
    tail = Tail(settings, READER, (), group=READER, start=starts)
    try:
        records = list(_to_ends(tail, ends, progress))
    finally:
        tail.close()
    return Log(settings.tenant, topics[KEYED], starts, records)


def spans(settings: Settings, places: Iterable[Place], user: str = READER) -> tuple[dict[Place, int], dict[Place, int]]:
    """The first offset kept and the end of the log of each place, in two requests.

    (A consumer that is reading answers such questions one by one, each behind a fetch that waits for records.)
    """
    from confluent_kafka import KafkaException, TopicPartition
    from confluent_kafka.admin import AdminClient, OffsetSpec

    from sluicegate.streams.logins import kafka_config

    client = AdminClient(kafka_config(settings, user), logger=LOGGER)
    wanted = {place: TopicPartition(physical(settings.tenant, place[0]), place[1]) for place in places}
    found = []
    try:
        for spec in (OffsetSpec.earliest(), OffsetSpec.latest()):
            asked = client.list_offsets(dict.fromkeys(wanted.values(), spec), request_timeout=METADATA_TIMEOUT_SEC)
            answers = {(each.topic, each.partition): future.result().offset for each, future in asked.items()}
            found.append({place: answers[each.topic, each.partition] for place, each in wanted.items()})
    except KafkaException as error:
        raise error_for(error.args[0], user, "ask where the log ends") from None
    return found[0], found[1]


def _to_ends(tail: Tail, ends: dict[Place, int], progress: Callable[[int], Any]) -> Iterator[Record]:
    count, moved_at = 0, time.monotonic()
    before = tail.positions()
    while any(at < ends[place] for place, at in before.items()):
        for record in tail.poll(POLL_SEC):
            # Behind the ends the log is younger than its oldest part that was read: a cause could be missing.
            if record.offset < ends[record.topic, record.partition]:
                count += 1
                yield record
        progress(count)
        now = tail.positions()
        if now != before:
            before, moved_at = now, time.monotonic()
        elif time.monotonic() - moved_at > STALL_SEC_MAX:
            raise Unavailable(
                f"the log could not be read to its ends: nothing came for {STALL_SEC_MAX:g} s, perhaps a writer keeps "
                "a transaction open; try again"
            )
