"""The agent without measure: it writes what it signed beforehand again and again, as fast as it is let."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Final

from confluent_kafka import Producer

from sluicegate.bench.material import INTENTS, PARTITIONS, Message, Scribe, agents
from sluicegate.bench.stage import now_ms
from sluicegate.schemas.codec import Codec
from sluicegate.streams.connection import LOGGER
from sluicegate.streams.keys import load_master
from sluicegate.streams.logins import kafka_config
from sluicegate.streams.partitioner import partition_for
from sluicegate.streams.registry import registry_for
from sluicegate.streams.settings import Settings
from sluicegate.streams.topics import physical

DISTINCT: Final = 2_000
"""Intents that the flooder has signed beforehand, and writes again and again."""
_SETTLE_SEC: Final = 1.0


def flooder() -> str:
    """The agent that floods: one of partition 0."""
    return next(name for name in agents() if partition_for(name.encode(), PARTITIONS) == 0)


def signed(settings: Settings) -> Sequence[Message]:
    """What the flooder writes."""
    scribe, names = Scribe(Codec(registry_for("")), settings.tenant, load_master(settings)), agents()
    first = names.index(flooder())
    return [scribe.message("flood", first + number * len(names), now_ms()) for number in range(DISTINCT)]


def flood(settings: Settings, messages: Sequence[Message], stop: threading.Event, per_sec: int) -> None:
    """Write these again and again until told to stop, at most ``per_sec``."""
    producer = Producer(
        {
            **kafka_config(settings, f"agent.{flooder()}"),
            "partitioner": "murmur2_random",
            "linger.ms": 5,
            "queue.buffering.max.messages": 50_000,
        },
        logger=LOGGER,
    )
    topic, began, sent = physical(settings.tenant, INTENTS), time.monotonic(), 0
    while not stop.is_set():
        due = int((time.monotonic() - began) * per_sec)
        for _ in range(min(due - sent, 1_000)):
            message = messages[sent % len(messages)]
            try:
                producer.produce(topic, message.value, message.key, headers=list(message.headers))
            except BufferError:  # the broker holds it back
                break
            sent += 1
        producer.poll(0.005)
    producer.purge()
    producer.flush(_SETTLE_SEC)
