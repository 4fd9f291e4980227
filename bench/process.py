"""What is measured against or with, each as a process like a processor.

The baselines are ``noop`` (our engine, no step) and ``relay`` (no engine). Both write for each intent as many records
of the same sizes as the gate, and do nothing else. The first one carries the input's place in its last twelve bytes, so
that latencies can be matched. What to write stands in ``BENCH_OUTS``: a list of [topic, bytes of the value, bytes of
the headers]. ``flooder`` is an agent without measure, which tries to write ``BENCH_FLOOD_PER_SEC`` intents; of the
workers, ``worker`` ends each job at once, ``patient`` when it is told to stop, and ``stand_in`` takes and ends them
without running anything.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import struct
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from confluent_kafka import Consumer, Producer, TopicPartition

from sluicegate.clients.call import Call, Handler
from sluicegate.clients.worker import Worker
from sluicegate.infra.supervisor import die_with_parent, ready_file
from sluicegate.streams.engine import Headers, Out, Record, Store
from sluicegate.streams.logins import ADMIN, kafka_config
from sluicegate.streams.quix import EngineConfig, QuixEngine
from sluicegate.streams.settings import Settings
from sluicegate.streams.topics import APPLICATIONS, physical

PLACE: Final = struct.Struct(">iq")
MARK: Final = b"bench"
"""How the first record begins, which carries the input's place at its end."""
RELAY_GROUP: Final = "bench-relay"
RECORDS_PER_POLL_MAX: Final = 500
HEADER_COUNT: Final = 5
PATIENCE_SEC: Final = 120.0
_ANSWER_SEC: Final = 10.0


class Pattern:
    """What is written for an intent."""

    def __init__(self, outs: Sequence[tuple[str, int, int]]) -> None:
        self.outs = [(topic, bytes(size), _headers(header_size)) for topic, size, header_size in outs]
        self._first = MARK + self.outs[0][1][len(MARK) + PLACE.size :]

    def first(self, partition: int, offset: int) -> bytes:
        """The first value, with the input's place."""
        return self._first + PLACE.pack(partition, offset)


def _headers(size: int) -> Headers:
    """As many headers as an event of ours has, of so many bytes together."""
    names = [f"ce_{number}" for number in range(HEADER_COUNT)]
    rest = max(size - sum(map(len, names)), 0)
    sizes = [rest // HEADER_COUNT + (number < rest % HEADER_COUNT) for number in range(HEADER_COUNT)]
    return tuple((name, bytes(length)) for name, length in zip(names, sizes, strict=True))


class _Still:
    """Control that never changes."""

    def current(self) -> None:
        return None


def noop(settings: Settings, instance: str, pattern: Pattern, stop: threading.Event) -> None:
    """The gate's engine with the gate's inputs, and a step that knows its answer beforehand."""

    def step(store: Store, record: Record, control: None) -> list[Out]:
        if record.topic != "job.intents":
            return []
        (topic, _, headers), *more = pattern.outs
        first = Out(topic, record.key, pattern.first(record.partition, record.offset), headers)
        return [first, *[Out(topic, record.key, value, headers) for topic, value, headers in more]]

    config = EngineConfig(
        application=APPLICATIONS["gate"],
        instance=instance,
        connection=kafka_config(settings, "gate"),
        state_dir=settings.run_dir / "state" / "noop" / instance,
        tenant=settings.tenant,
        interval_ms=settings.commit_interval_ms,
        session_timeout_ms=settings.session_timeout_ms,
    )
    engine: QuixEngine[None] = QuixEngine(config, step, _Still())

    def announce() -> None:
        while not stop.wait(0.05):
            if engine.status.ready:
                say_ready(settings, "noop", instance)
                return

    threading.Thread(target=announce, daemon=True).start()
    engine.run()


def relay(settings: Settings, instance: str, pattern: Pattern, stop: threading.Event) -> None:
    """Confluent-kafka alone: consume, produce, commit in transactions."""
    member = physical(settings.tenant, f"{RELAY_GROUP}.{instance}")
    connection = kafka_config(settings, ADMIN)
    consumer = Consumer(
        {
            **connection,
            "group.id": physical(settings.tenant, RELAY_GROUP),
            "group.instance.id": member,
            "session.timeout.ms": settings.session_timeout_ms,
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
            "partition.assignment.strategy": "range",
            "fetch.wait.max.ms": 50,
        }
    )
    producer = Producer(
        {
            **connection,
            "transactional.id": member,
            "transaction.timeout.ms": settings.transaction_timeout_ms,
            "partitioner": "murmur2_random",
            "retry.backoff.ms": 5,
        }
    )
    producer.init_transactions(_ANSWER_SEC)
    assigned = threading.Event()
    inputs = [physical(settings.tenant, name) for name in APPLICATIONS["gate"].inputs]
    consumer.subscribe(inputs, on_assign=lambda *_: assigned.set())
    topics = [physical(settings.tenant, topic) for topic, _, _ in pattern.outs]
    announced = False
    while not stop.is_set():
        if assigned.is_set() and not announced:
            announced = True
            say_ready(settings, "relay", instance)
        _transaction(consumer, producer, topics, pattern, settings.commit_interval_ms / 1000)
    consumer.close()


def _transaction(
    consumer: Consumer, producer: Producer, topics: list[str], pattern: Pattern, interval_sec: float
) -> None:
    """What comes within one interval, relayed and committed."""
    due = time.monotonic() + interval_sec
    reached: dict[tuple[str, int], int] = {}
    while time.monotonic() < due:
        for message in consumer.consume(RECORDS_PER_POLL_MAX, max(due - time.monotonic(), 0)):
            if message.error() is not None:
                continue
            if not reached:
                producer.begin_transaction()
            topic, partition, offset = message.topic() or "", message.partition() or 0, message.offset() or 0
            reached[topic, partition] = offset + 1
            key, value = message.key(), pattern.first(partition, offset)
            for name, (_, constant, headers) in zip(topics, pattern.outs, strict=True):
                producer.produce(name, value or constant, key, headers=list(headers))
                value = b""
        producer.poll(0)
    if reached:
        offsets = [TopicPartition(*place, offset) for place, offset in reached.items()]
        producer.send_offsets_to_transaction(offsets, consumer.consumer_group_metadata(), _ANSWER_SEC)
        producer.commit_transaction(_ANSWER_SEC)


def flooder(settings: Settings, instance: str, stop: threading.Event) -> None:
    """An agent that writes far more than it may; ready once its intents are signed."""
    from sluicegate.bench.flooder import flood, signed

    messages = signed(settings)
    say_ready(settings, "flooder", instance)
    flood(settings, messages, stop, int(os.environ["BENCH_FLOOD_PER_SEC"]))


def worker(settings: Settings, instance: str, stop: threading.Event, handler: Handler, name: str = "worker") -> None:
    """A worker of the default pool."""
    running = Worker(settings, handlers={"*": handler}, instance=instance)
    running.start()
    say_ready(settings, name, instance)
    stop.wait()
    running.stop()


def stand_in(settings: Settings, instance: str, stop: threading.Event) -> None:
    """A worker that runs nothing; ready once it was given partitions."""
    from sluicegate.bench.stand_in import StandIn

    running = StandIn(settings, instance)
    announced = False
    while not stop.is_set():
        running.step()
        if running.ready and not announced:
            announced = True
            say_ready(settings, "stand_in", instance)
    running.close()


def _at_once(call: Call) -> str:
    return call.job_id


def _until_stopped(call: Call) -> None:
    call.stopping.wait(PATIENCE_SEC)
    call.stopping.check()


OTHERS: Final[dict[str, Callable[[Settings, str, threading.Event], None]]] = {
    "flooder": flooder,
    "stand_in": stand_in,
    "worker": lambda settings, instance, stop: worker(settings, instance, stop, _at_once),
    "patient": lambda settings, instance, stop: worker(settings, instance, stop, _until_stopped, "patient"),
}


def say_ready(settings: Settings, name: str, instance: str) -> None:
    """The word the supervisor waits for."""
    path = ready_file(settings.run_dir, name, instance)
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps({"pid": os.getpid(), "health_port": None, "ready": True}))
    draft.replace(path)


def main() -> int:
    """Run one baseline until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=("noop", "relay", *OTHERS))
    parser.add_argument("--instance", default="0")
    parser.add_argument("--with-parent", type=int, default=0)
    options = parser.parse_args()
    if options.with_parent:
        die_with_parent(options.with_parent)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    if options.name in OTHERS:
        OTHERS[options.name](Settings(), options.instance, stop)
        return 0
    outs: list[Any] = json.loads(os.environ["BENCH_OUTS"])
    run = {"noop": noop, "relay": relay}[options.name]
    run(Settings(), options.instance, Pattern([tuple(out) for out in outs]), stop)
    return 0


if __name__ == "__main__":
    sys.exit(main())
