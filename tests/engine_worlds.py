"""One face for both engines, so that one conformance suite holds them to the same behaviour."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition

from sluicegate.streams.engine import ControlSource, Headers, Out, Record, Step, Store
from sluicegate.streams.memory import ForeignTransaction, MemoryEngine, MemoryLog
from sluicegate.streams.messages import record_of
from sluicegate.streams.quix import EngineConfig, QuixEngine
from sluicegate.streams.topics import APPLICATIONS, Application, physical

DESK: Final = APPLICATIONS["desk"]
REQUESTS, VERDICTS, FIRED = DESK.inputs
EVENTS: Final = "approval.events"
RESOLUTIONS: Final = "approval.resolutions"
WAIT_SEC_MAX: Final = 60.0
POLL_SEC: Final = 0.1


class NoControl:
    """A control state that is always fresh and empty."""

    def current(self) -> None:
        return None


def counting_step(store: Store, record: Record, control: object) -> Sequence[Out]:
    """Numbers a key's inputs over all topics and says so in two topics, under the key and under another one."""
    seq = int(store.get("seq") or 0) + 1
    store.set("seq", b"%d" % seq)
    body = {"seq": seq, "cause": [record.topic, record.partition, record.offset], "value": record.value.decode()}
    value = json.dumps(body).encode()
    return [
        Out(EVENTS, record.key, value, (("seq", b"%d" % seq), *record.headers)),
        Out(RESOLUTIONS, b"reply-" + record.key, value),
    ]


def bodies(records: Sequence[Record]) -> dict[bytes, list[dict[str, Any]]]:
    """What `counting_step` said, by key, in the order of each partition."""
    found: dict[bytes, list[dict[str, Any]]] = {}
    for record in sorted(records, key=lambda one: (one.partition, one.offset)):
        found.setdefault(record.key, []).append(json.loads(record.value))
    return found


def assert_exactly_once(records: Sequence[Record], inputs: int) -> None:
    """Each input was counted once: no seq missing or doubled in any key, no cause met twice."""
    said = bodies(records)
    for key, found in said.items():
        assert [body["seq"] for body in found] == list(range(1, len(found) + 1)), key
    causes = [tuple(body["cause"]) for found in said.values() for body in found]
    assert len(causes) == len(set(causes))
    assert len(causes) == inputs


class World(Protocol):
    """A log, one application on it and what may befall them. Instances end and begin; the log stays."""

    def produce(self, topic: str, key: bytes, value: bytes, headers: Headers = ()) -> None: ...

    def open_transaction(self, topic: str, key: bytes, value: bytes) -> Callable[[bool], None]:
        """A foreign writer's record that is not committed; call with True to commit it, False to abort."""
        ...

    def start(
        self, step: Step[Any] = counting_step, *, instance: str = "0", control: ControlSource[Any] | None = None
    ) -> None: ...

    def failure(self, instance: str = "0") -> Exception:
        """What ended an instance; waits for it."""
        ...

    def stop(self, instance: str = "0") -> None:
        """A clean end."""
        ...

    def forget(self, instance: str = "0") -> None:
        """Deletes what an ended instance kept on its own disk."""
        ...

    def outputs(self, topic: str, count: int) -> list[Record]:
        """The committed records of a topic once there are at least so many."""
        ...


class MemoryWorld:
    """The engine in memory; nothing runs until somebody waits for something."""

    def __init__(self) -> None:
        self.log = MemoryLog()
        self._engines: dict[str, MemoryEngine[Any]] = {}

    def produce(self, topic: str, key: bytes, value: bytes, headers: Headers = ()) -> None:
        self.log.produce(topic, key, value, headers)

    def open_transaction(self, topic: str, key: bytes, value: bytes) -> Callable[[bool], None]:
        transaction: ForeignTransaction = self.log.begin()
        transaction.produce(topic, key, value)
        return lambda commit: transaction.commit() if commit else transaction.abort()

    def start(
        self, step: Step[Any] = counting_step, *, instance: str = "0", control: ControlSource[Any] | None = None
    ) -> None:
        self._engines[instance] = MemoryEngine(self.log, DESK, step, control or NoControl(), instance=instance)

    def failure(self, instance: str = "0") -> Exception:
        engine = self._engines[instance]
        try:
            while engine.run_once():
                pass
        except Exception as exc:  # noqa: BLE001  # whatever ended it is what was asked for
            self.stop(instance)
            return exc
        raise AssertionError(f"instance {instance} did not end")

    def stop(self, instance: str = "0") -> None:
        engine = self._engines.pop(instance)
        if not engine.dead:
            while engine.run_once():
                pass
        engine.leave()

    def forget(self, instance: str = "0") -> None:
        assert instance not in self._engines

    def outputs(self, topic: str, count: int) -> list[Record]:
        while any(engine.run_once() for engine in self._engines.values()):
            pass
        found = self.log.records(topic)
        assert len(found) >= count
        return found

    def close(self) -> None:
        self._engines.clear()


class KafkaSite:
    """A tenant of its own on the test broker: its topics exist, its logins work."""

    def __init__(self, tenant: str, connection: Callable[[str], Mapping[str, str]], run_dir: Path) -> None:
        self.tenant = tenant
        self.connection = connection
        self.run_dir = run_dir

    def config(self, application: Application = DESK, instance: str = "0", **changes: Any) -> EngineConfig:
        found = EngineConfig(
            application=application,
            instance=instance,
            connection=self.connection(application.name),
            state_dir=self.run_dir / "state" / application.name / instance,
            tenant=self.tenant,
            interval_ms=20,
        )
        return msgspec.structs.replace(found, **changes)

    def producer(self, **changes: Any) -> Producer:
        return Producer({**self.connection("admin"), "partitioner": "murmur2_random", **changes})

    def produce_all(self, inputs: Sequence[tuple[str, bytes, bytes]]) -> None:
        producer = self.producer()
        for topic, key, value in inputs:
            producer.produce(physical(self.tenant, topic), value, key)
            producer.poll(0)
        assert producer.flush(WAIT_SEC_MAX) == 0

    def read(self, topic: str, count: int, wait_sec: float = WAIT_SEC_MAX) -> list[Record]:
        """All committed records of a topic, once there are ``count`` and the end is reached."""
        name = physical(self.tenant, topic)
        consumer = Consumer(
            {
                **self.connection("admin"),
                "group.id": "test",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "fetch.wait.max.ms": 50,
            }
        )
        try:
            partitions = consumer.list_topics(name, timeout=10).topics[name].partitions
            consumer.assign([TopicPartition(name, at, 0) for at in partitions])
            found: list[Record] = []
            ended: set[int] = set()
            deadline = time.monotonic() + wait_sec
            while len(found) < count or len(ended) < len(partitions):
                assert time.monotonic() < deadline, f"{len(found)} of {count} records in {name}"
                for message in consumer.consume(1000, POLL_SEC):
                    error = message.error()
                    if error is None:
                        found.append(record_of(topic, message))
                        ended.discard(message.partition() or 0)
                    elif error.code() == KafkaError._PARTITION_EOF:
                        ended.add(message.partition() or 0)
            return found
        finally:
            consumer.close()


class KafkaWorld:
    """Quix on a real broker; each instance is a thread, which a test ends by its step or by `stop`."""

    def __init__(self, site: KafkaSite) -> None:
        self.site = site
        self._producer = site.producer()
        self._engines: dict[str, QuixEngine[Any]] = {}
        self._threads: dict[str, threading.Thread] = {}
        self._failures: dict[str, Exception] = {}

    def produce(self, topic: str, key: bytes, value: bytes, headers: Headers = ()) -> None:
        self._producer.produce(physical(self.site.tenant, topic), value, key, headers=list(headers))
        assert self._producer.flush(WAIT_SEC_MAX) == 0

    def open_transaction(self, topic: str, key: bytes, value: bytes) -> Callable[[bool], None]:
        producer = self.site.producer(**{"transactional.id": f"foreign-{time.monotonic_ns()}"})
        producer.init_transactions(WAIT_SEC_MAX)
        producer.begin_transaction()
        producer.produce(physical(self.site.tenant, topic), value, key)
        assert producer.flush(WAIT_SEC_MAX) == 0
        return lambda commit: producer.commit_transaction() if commit else producer.abort_transaction()

    def start(
        self, step: Step[Any] = counting_step, *, instance: str = "0", control: ControlSource[Any] | None = None
    ) -> None:
        engine = self._engines[instance] = QuixEngine(self.site.config(instance=instance), step, control or NoControl())

        def run() -> None:
            try:
                engine.run()
            except Exception as exc:  # noqa: BLE001  # kept for `failure`
                self._failures[instance] = exc

        thread = self._threads[instance] = threading.Thread(target=run, name=f"engine-{instance}")
        thread.start()

    def failure(self, instance: str = "0") -> Exception:
        self._threads.pop(instance).join(WAIT_SEC_MAX)
        del self._engines[instance]
        return self._failures.pop(instance)

    def stop(self, instance: str = "0") -> None:
        self._engines.pop(instance).stop()
        self._threads.pop(instance).join(WAIT_SEC_MAX)
        if instance in self._failures:
            raise self._failures.pop(instance)

    def forget(self, instance: str = "0") -> None:
        shutil.rmtree(self.site.config(instance=instance).state_dir)

    def outputs(self, topic: str, count: int) -> list[Record]:
        return self.site.read(topic, count)

    def close(self) -> None:
        for engine in self._engines.values():
            engine.stop()
        for thread in self._threads.values():
            thread.join(WAIT_SEC_MAX)
