"""From an intent written to its decision visible to a reader of committed records, at fixed rates.

Alone, and while another writer holds transactions open on another input of the gate; the baseline is the plain relay
at the same rate. Both ends are in this process, so one clock measures.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition
from confluent_kafka import Message as KafkaMessage

from sluicegate.bench.figures import Findings, figure
from sluicegate.bench.gate import outs_of_an_intent
from sluicegate.bench.material import INTENTS, PARTITIONS, Message
from sluicegate.bench.process import MARK, PLACE
from sluicegate.bench.stage import DECISIONS, Stage, now_ms, running
from sluicegate.schemas.codec import Codec
from sluicegate.schemas.errors import Unavailable
from sluicegate.schemas.events import Decision
from sluicegate.streams.connection import LOGGER
from sluicegate.streams.logins import ADMIN, kafka_config
from sluicegate.streams.settings import Settings
from sluicegate.streams.topics import physical

HELD_TOPIC: Final = "agent.incidents"
HELD_SEC: Final = 0.5
"""How long each transaction of the other writer stays open."""
LATE_SEC_MAX: Final = 30.0
PERCENTILES: Final = (50, 99)
KINDS: Final = ("gate", "gate, another input held open", "relay")
_PAUSE_SEC: Final = 0.5

Place = tuple[int, int]


def measure(stage: Stage, findings: Findings, *, rounds: int, rates: Sequence[int], seconds: float) -> None:
    """Each round all kinds at all rates, ``seconds`` each."""
    outs = outs_of_an_intent()
    gate, relay = stage.tenant("latency"), stage.tenant("latency-relay")
    found: dict[tuple[str, int], list[list[float]]] = {(kind, rate): [] for kind in KINDS for rate in rates}
    for number in range(rounds):
        with running(gate, "gate"):
            for rate in rates:
                found[KINDS[0], rate].append(_flow(stage, gate, rate, seconds, f"a{number}-{rate}"))
                with held_open(gate):
                    found[KINDS[1], rate].append(_flow(stage, gate, rate, seconds, f"h{number}-{rate}"))
        with running(relay, "relay", 1, outs):
            for rate in rates:
                found[KINDS[2], rate].append(_flow(stage, relay, rate, seconds, f"r{number}-{rate}"))
    for rate in rates:
        for percentile in PERCENTILES:
            base = [percentile_of(each, percentile) for each in found[KINDS[2], rate]]
            for kind in KINDS[:2]:
                values = [percentile_of(each, percentile) for each in found[kind, rate]]
                against = f"p{percentile} through the plain relay at the same rate"
                name = f"intent to decision, {kind}, {rate} intents/s, p{percentile}"
                findings.figures.append(figure(name, "ms", values, against, base))


def percentile_of(values: Sequence[float], percentile: int) -> float:
    """The nearest-rank percentile."""
    ordered = sorted(values)
    return ordered[min(len(ordered) * percentile // 100, len(ordered) - 1)]


@contextmanager
def held_open(settings: Settings) -> Iterator[None]:
    """While it lasts, another writer keeps transactions open on every partition of another input, and aborts them."""
    stop = threading.Event()
    producer = Producer(
        {**kafka_config(settings, ADMIN), "transactional.id": f"bench.holder.{settings.tenant}"}, logger=LOGGER
    )
    producer.init_transactions(LATE_SEC_MAX)

    def hold() -> None:
        while not stop.is_set():
            producer.begin_transaction()
            for partition in range(PARTITIONS):
                producer.produce(physical(settings.tenant, HELD_TOPIC), b"", b"nobody", partition=partition)
            producer.flush(LATE_SEC_MAX)
            stop.wait(HELD_SEC)
            producer.abort_transaction(LATE_SEC_MAX)

    thread = threading.Thread(target=hold, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


class Reader:
    """Notes when each decision became visible."""

    def __init__(self, settings: Settings) -> None:
        self._consumer = Consumer(
            {
                **kafka_config(settings, ADMIN),
                "group.id": "bench-reader",
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "fetch.wait.max.ms": 50,
            },
            logger=LOGGER,
        )
        name = physical(settings.tenant, DECISIONS)
        places = [TopicPartition(name, partition) for partition in range(PARTITIONS)]
        ends = [self._consumer.get_watermark_offsets(place, timeout=10, cached=False)[1] for place in places]
        self._consumer.assign([TopicPartition(name, partition, end) for partition, end in enumerate(ends)])
        self.seen: list[tuple[float, KafkaMessage]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while not self._stop.is_set():
            message = self._consumer.poll(0.1)
            if message is not None and message.error() is None:
                self.seen.append((time.perf_counter(), message))

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self._consumer.close()


def _flow(stage: Stage, settings: Settings, rate: int, seconds: float, series: str) -> list[float]:
    """Latencies in ms of one flow at a fixed rate."""
    messages = list(stage.scribe(settings).messages(series, int(rate * seconds), now_ms()))
    return latencies_of(stage, settings, messages, rate, _PAUSE_SEC)[1]


def latencies_of(
    stage: Stage, settings: Settings, messages: Sequence[Message], rate: int, pause_sec: float
) -> tuple[dict[Place, float], list[float]]:
    """When these were written, at a fixed rate after a pause, and for each the latency of its decision in ms.

    Raises Unavailable when decisions are missing `LATE_SEC_MAX` after the last intent.
    """
    reader = Reader(settings)
    try:
        time.sleep(pause_sec)
        written = write_evenly(settings, messages, rate)
        deadline = time.monotonic() + LATE_SEC_MAX
        while (found := matched(stage.codec, written, reader.seen)) is None:
            if time.monotonic() > deadline:
                raise Unavailable(f"decisions are missing {LATE_SEC_MAX:g} s after the last intent")
            time.sleep(0.1)
        return written, found
    finally:
        reader.close()


def write_evenly(settings: Settings, messages: Sequence[Message], rate: int) -> dict[Place, float]:
    """Writes at an even pace; when each record was handed over, by the place it got."""
    written: dict[Place, float] = {}
    producer = Producer(
        {**kafka_config(settings, ADMIN), "partitioner": "murmur2_random", "linger.ms": 0}, logger=LOGGER
    )
    topic = physical(settings.tenant, INTENTS)
    producer.list_topics(topic, timeout=10)
    began = time.perf_counter()
    for number, message in enumerate(messages):
        while (wait := began + number / rate - time.perf_counter()) > 0:
            producer.poll(0)
            time.sleep(min(wait, 0.005))
        at = time.perf_counter()

        def note(error: KafkaError | None, delivered: KafkaMessage, at: float = at) -> None:
            if error is None:
                written[delivered.partition() or 0, delivered.offset() or 0] = at

        producer.produce(topic, message.value, message.key, headers=list(message.headers), on_delivery=note)
        producer.poll(0)
    producer.flush(LATE_SEC_MAX)
    return written


def matched(
    codec: Codec, written: dict[Place, float], seen: Sequence[tuple[float, KafkaMessage]]
) -> list[float] | None:
    """The latency of each intent in ms, or None while decisions are missing."""
    if len(seen) < len(written):
        return None
    answered = {place: at for at, message in list(seen) if (place := _cause(codec, message)) is not None}
    if not written.keys() <= answered.keys():
        return None
    return [(answered[place] - at) * 1000 for place, at in written.items()]


def _cause(codec: Codec, message: KafkaMessage) -> Place | None:
    """Which intent a record answers; None for what is no decision."""
    value = message.value() or b""
    if value.startswith(MARK):
        place: Place = PLACE.unpack(value[-PLACE.size :])
        return place
    event = codec.decode_or_none(value)
    return (event.cause.partition, event.cause.offset) if isinstance(event, Decision) else None
