"""The broker that is measured on, its tenants, and input that becomes visible all at once.

Intents are written into one open transaction while the processes wait, and committed when all are written: so what
is measured is neither the processes' start nor the writer.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
import psutil
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition
from confluent_kafka import Message as KafkaMessage

from sluicegate.bench.material import INTENTS, NO_LIMIT, PARTITIONS, Message, Scribe, write_policy
from sluicegate.cli.configuration import shipped_policies
from sluicegate.cli.prepare import prepare
from sluicegate.infra.broker import EmbeddedBroker
from sluicegate.infra.supervisor import Supervisor
from sluicegate.schemas.codec import Codec
from sluicegate.schemas.errors import InvariantBroken, Unavailable
from sluicegate.schemas.payload import NONE
from sluicegate.schemas.sealing import Keyring, NoKeyring
from sluicegate.streams.connection import LOGGER
from sluicegate.streams.key_store import KeyStore, StoreKeyring, key_store_path
from sluicegate.streams.keys import load_master
from sluicegate.streams.logins import ADMIN, kafka_config
from sluicegate.streams.registry import registry_for
from sluicegate.streams.settings import Settings
from sluicegate.streams.topics import physical

INTERVAL_MS: Final = 5
"""The commit interval of everything that is measured, the relay too, where nothing else is said."""
ROUND_SEC_MAX: Final = 120.0
WARM_UP_SHARE: Final = 0.1
DECISIONS: Final = "job.decisions"
_ANSWER_SEC: Final = 10.0
_LOOK_SEC: Final = 0.05
_HELD_MS_MAX: Final = 60_000
"""The embedded broker's own limit."""


class Stage:
    """An embedded broker in a folder of its own; close it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._broker: EmbeddedBroker | None = None
        self.codec = Codec(registry_for(""))

    def tenant(self, name: str, interval_ms: int = INTERVAL_MS, rules: int = 0, **more: Any) -> Settings:
        """A new tenant whose policy, with so many more rules, is active; its processes commit in this interval.

        ``more`` are other settings than those that measurements have.
        """
        policy = self._folder / f"policy-{rules}"
        write_policy(shipped_policies(), policy, rules)
        found: dict[str, Any] = {
            "tenant": name,
            "run_dir": self._folder / "run",
            "partitions": PARTITIONS,
            "commit_interval_ms": interval_ms,
            "control_age_ms_max": 2_000,
            "intents_per_min_max": NO_LIMIT,
            "in_flight_max": NO_LIMIT,
            "sealing": "none",  # what it costs is measured apart
            **more,
        }
        if self._broker is not None:
            found["bootstrap"] = self._broker.bootstrap
        prepared = prepare(Settings(**found), policy)
        self._broker = self._broker or prepared.broker
        return prepared.settings

    def scribe(self, settings: Settings) -> Scribe:
        """Who signs a tenant's intents."""
        keys: Keyring = NoKeyring()
        if settings.sealing != NONE:
            keys = StoreKeyring(KeyStore(key_store_path(settings)), creates=True)
        return Scribe(self.codec, settings.tenant, load_master(settings), keys)

    @property
    def broker_pid(self) -> int:
        """The process id of the broker; 0 before the first tenant."""
        return 0 if self._broker is None else self._broker.pid

    def close(self) -> None:
        """Stop the broker."""
        if self._broker is not None:
            self._broker.stop()


def now_ms() -> int:
    """Wall time."""
    return time.time_ns() // 1_000_000


@contextmanager
def running(
    settings: Settings,
    name: str,
    processes: int = 1,
    outs: Iterable[tuple[str, int, int]] = (),
    flood_per_sec: int = 0,
) -> Iterator[Supervisor]:
    """Processes under the supervisor, ready: the real `gate`, or those of `sluicegate.bench.process`."""
    command = {} if name == "gate" else {"command": (sys.executable, "-m", "sluicegate.bench.process")}
    supervisor = Supervisor(
        settings,
        (name,),
        instances={name: processes},
        environment={
            "BENCH_OUTS": msgspec.json.encode(list(outs)).decode(),
            "BENCH_FLOOD_PER_SEC": str(flood_per_sec),
        },
        **command,
    )
    with supervisor:
        supervisor.start()
        supervisor.wait_ready()
        yield supervisor


def cpu_sec(supervisor: Supervisor) -> float:
    """Seconds of processor time that its processes have taken so far, user and system."""
    times = [psutil.Process(pid).cpu_times() for pid in supervisor.pids().values()]
    return sum(float(each.user + each.system) for each in times)


class Held:
    """Intents in an open transaction. ``release`` makes them visible; ``ends`` says up to where they reach."""

    def __init__(self, settings: Settings, messages: Iterable[Message]) -> None:
        self._producer = Producer(
            {
                **kafka_config(settings, ADMIN),
                "transactional.id": f"bench.{settings.tenant}",
                "transaction.timeout.ms": _HELD_MS_MAX,
                "partitioner": "murmur2_random",
                "queue.buffering.max.messages": 500_000,
                "linger.ms": 20,
            },
            logger=LOGGER,
        )
        self._producer.init_transactions(_ANSWER_SEC)
        self._producer.begin_transaction()
        self.ends: dict[int, int] = {}
        topic = physical(settings.tenant, INTENTS)
        for message in messages:
            headers = list(message.headers)
            self._producer.produce(topic, message.value, message.key, headers=headers, on_delivery=self._written)
            self._producer.poll(0)
        self._producer.flush(ROUND_SEC_MAX)

    def _written(self, error: KafkaError | None, message: KafkaMessage) -> None:
        if error is None:
            self.ends[message.partition() or 0] = (message.offset() or 0) + 1

    def release(self) -> None:
        """Commit."""
        self._producer.commit_transaction(_ANSWER_SEC)


class Watcher:
    """Looks from outside, as the admin: ends of topics, a group's progress, what was written."""

    def __init__(self, settings: Settings, group: str) -> None:
        self._settings = settings
        self._consumer = Consumer(
            {
                **kafka_config(settings, ADMIN),
                "group.id": physical(settings.tenant, group),
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "isolation.level": "read_committed",
            },
            logger=LOGGER,
        )

    def close(self) -> None:
        """Let the connection go."""
        self._consumer.close()

    def ends(self, topic: str) -> dict[int, int]:
        """Where each partition ends for readers of committed records."""
        name = physical(self._settings.tenant, topic)
        places = [TopicPartition(name, partition) for partition in range(PARTITIONS)]
        return {
            each.partition: int(self._consumer.get_watermark_offsets(each, timeout=_ANSWER_SEC, cached=False)[1])
            for each in places
        }

    def wait(self, topic: str, ends: Mapping[int, int]) -> None:
        """Until the group has committed all records below these ends."""
        places = [TopicPartition(physical(self._settings.tenant, topic), partition) for partition in ends]
        deadline = time.monotonic() + ROUND_SEC_MAX
        while any(each.offset < ends[each.partition] for each in self._consumer.committed(places, _ANSWER_SEC)):
            if time.monotonic() > deadline:
                raise Unavailable(f"not done after {ROUND_SEC_MAX:g} s; measure fewer, or on a quieter machine")
            time.sleep(_LOOK_SEC)

    def appended(self, topic: str, starts: Mapping[int, int], expected: int) -> list[int]:
        """Append times (ms) of what steps wrote from these offsets on, sorted; acknowledgements are left out.

        The group's offsets show before a transaction's marker stands everywhere, so it reads until all is there,
        and on to the end, where something doubled would show.
        """
        name = physical(self._settings.tenant, topic)
        self._consumer.assign([TopicPartition(name, partition, start) for partition, start in starts.items()])
        left, found = set(starts), list[int]()
        deadline = time.monotonic() + _ANSWER_SEC
        while (left or len(found) < expected) and time.monotonic() < deadline:
            for message in self._consumer.consume(2_000, 0.2):
                if message.error() is not None:
                    left.discard(message.partition() or 0)
                elif not (message.key() or b"").startswith(b"gate/"):
                    left.add(message.partition() or 0)
                    found.append(message.timestamp()[1])
        self._consumer.unassign()
        return sorted(found)


def per_second(appended: list[int], expected: int) -> float:
    """Outputs a second after the warm-up. Raises InvariantBroken when an output is missing or doubled."""
    if len(appended) != expected:
        raise InvariantBroken(f"{len(appended)} outputs where {expected} were due; nothing is measured of that")
    first = int(expected * WARM_UP_SHARE)
    return (expected - first) * 1000 / max(appended[-1] - appended[first], 1)
