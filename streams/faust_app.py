"""Faust as we run it: at least once, and never with its own idea of exactly once.

Faust's ``exactly_once`` loses and doubles on current brokers, so it is never set. What makes an application right
is its own order of work: state and source offset stored together, what is at or below it skipped, and every send
awaited before anything rests on it. `ChangelogTable` is the part of that which belongs to Faust: its writes name
their partition, and return when the broker has them.

What is private to Faust or aiokafka and touched here (both are pinned exactly; a test holds each effect): the consumer
reads committed records only, which Faust offers with its transactions alone, though our inputs are written in
transactions; the holes that transactions leave do not hold up commits; no record is lost at the end of a recovery; it
waits for records 0.5 s at a time instead of 1.5; the producer is idempotent, so that a send which is tried again leaves
one record.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Final

import faust
import msgspec
from aiokafka import AIOKafkaConsumer  # type: ignore[import-untyped]  # published without types
from faust.transport.consumer import RecordMap
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread
from faust.transport.drivers.aiokafka import Consumer as FaustConsumer
from faust.transport.drivers.aiokafka import Producer as FaustProducer
from faust.transport.drivers.aiokafka import Transport as FaustTransport
from faust.types import TP, Message

from sluicegate.schemas.errors import InvariantBroken
from sluicegate.streams.partitioner import partition_for
from sluicegate.streams.topics import DEFAULT_TENANT, Application, physical

SESSION_TIMEOUT_SEC: Final = 6.0
HEARTBEAT_SEC: Final = 2.0
COMMIT_INTERVAL_SEC: Final = 1.0
SEND_SEC_MAX: Final = 30.0
"""How long a send may take before the process gives up and begins anew."""
FETCH_WAIT_MS_MAX: Final = 500


class FaustConfig(msgspec.Struct, frozen=True):
    """How one instance of a Faust application runs.

    ``bootstrap`` is a list of ``host:port`` joined by commas; ``credentials`` come from
    `sluicegate.streams.logins` (None on a broker without logins); ``state_dir`` belongs to this instance alone
    (``<run_dir>/state/<application>/<instance>``).
    """

    application: Application
    instance: str
    bootstrap: str
    state_dir: Path
    credentials: Any = None
    tenant: str = DEFAULT_TENANT

    @property
    def group(self) -> str:
        """The consumer group, which is also Faust's id of the application."""
        return physical(self.tenant, self.application.name)


def _set_private(owner: object, name: str, value: object) -> None:
    if not hasattr(owner, name):
        raise InvariantBroken(f"`{type(owner).__name__}` has no `{name}` any more; pin the version that was tested")
    setattr(owner, name, value)


class _ConsumerThread(AIOKafkaConsumerThread):
    def _create_worker_consumer(self, transport: FaustTransport) -> AIOKafkaConsumer:
        consumer = super()._create_worker_consumer(transport)
        # aiokafka reads both when the consumer starts, which it has not done yet.
        _set_private(consumer, "_isolation_level", "read_committed")
        _set_private(consumer, "_fetch_max_wait_ms", FETCH_WAIT_MS_MAX)
        return consumer

    async def getmany(self, active_partitions: set[TP] | None, timeout: float) -> RecordMap:  # noqa: ASYNC109  # Faust's
        """What was fetched for these partitions, as Faust's; ``timeout`` in seconds.

        Faust hands over the very set it goes on changing. When a recovery ends the set is empty for a moment, which
        aiokafka takes for all partitions: it hands out records that Faust then throws away. A copy never empties.
        """
        return await super().getmany(None if active_partitions is None else set(active_partitions), timeout)


class _Consumer(FaustConsumer):
    """Faust's consumer with its account of offsets mended.

    Markers and aborted records are holes that nobody will deliver. Faust counts the record after a hole as part of
    it, which lets a commit pass one hole only; and it overlooks a hole behind offset 0, which ends all commits of that
    partition. After a rebalance it goes back to what was committed, but not where nothing was, so records that it had
    taken and thrown away were lost.
    """

    def _new_consumer_thread(self) -> AIOKafkaConsumerThread:
        return _ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    async def perform_seek(self) -> None:
        """Go back to the committed offsets, and to the beginning of partitions that have none."""
        await super().perform_seek()
        fresh = [tp for tp in self.assignment() if self._committed_offset[tp] is None and not self._is_changelog_tp(tp)]
        if fresh:
            await self.seek_wait(await self.earliest_offsets(*fresh))

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        await super()._add_gap(tp, offset_from, offset_to - 1)

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, Message]]:  # noqa: ASYNC109  # the name is Faust's
        """Each record with its partition, as Faust's; ``timeout`` in seconds."""
        async for tp, message in super().getmany(timeout):
            if self._read_offset[tp] == 0 and message.offset > 1:
                await self._add_gap(tp, 1, message.offset)
            yield tp, message


class _Producer(FaustProducer):
    def _settings_extra(self) -> Mapping[str, Any]:
        return {"acks": "all", "enable_idempotence": True}


class _Transport(FaustTransport):
    Consumer = _Consumer
    Producer = _Producer


class _App(faust.App):
    def _new_transport(self) -> FaustTransport:
        return _Transport(self.conf.broker_consumer, self)

    def _new_producer_transport(self) -> FaustTransport:
        return _Transport(self.conf.broker_producer, self)


def murmur2_partitioner(key: bytes | None, all_partitions: list[int], _available: list[int]) -> int:
    """The hook of aiokafka, filled by the one partitioner of the project. Raises InvariantBroken without a key."""
    if key is None:
        raise InvariantBroken("a record without a key has no partition; every topic of ours is keyed")
    return sorted(all_partitions)[partition_for(key, len(all_partitions))]


def make_app(config: FaustConfig) -> faust.App:
    """The Faust application of an instance, not started. No web server, no leader topic, no topic is created."""
    config.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    app = _App(
        config.group,
        broker=[f"aiokafka://{server.strip()}" for server in config.bootstrap.split(",")],
        broker_credentials=config.credentials,
        broker_client_id=f"{config.group}.{config.instance}",
        broker_session_timeout=SESSION_TIMEOUT_SEC,
        broker_heartbeat_interval=HEARTBEAT_SEC,
        broker_commit_interval=COMMIT_INTERVAL_SEC,
        consumer_group_instance_id=f"{config.group}.{config.instance}",
        consumer_auto_offset_reset="earliest",
        processing_guarantee="at_least_once",
        producer_acks=-1,
        producer_partitioner=murmur2_partitioner,
        producer_request_timeout=SEND_SEC_MAX,
        store="memory://",
        datadir=str(config.state_dir),
        stream_wait_empty=False,  # with it a stop waits for ever for what a failed turn never acknowledged
        table_standby_replicas=0,
        topic_allow_declare=False,
        topic_disable_leader=True,
        web_enabled=False,
        autodiscover=False,
    )
    app.in_worker = True  # without it an embedded application never starts its consumer
    return app


class ChangelogTable(faust.Table):  # type: ignore[type-arg]  # bytes to bytes; Faust's class is not generic at run time
    """A table of bytes under bytes in memory, backed by a compacted topic that exists beforehand.

    Faust's own writes need an event to take the partition from, and nobody waits for them. Here the caller names the
    partition and waits.
    """

    active_partitions: frozenset[int] = frozenset()

    def entries(self, partition: int) -> dict[bytes, bytes]:
        """What is stored for a partition; complete once the table has recovered."""
        owners = self._owners()
        return {key: value for key, value in self.data.items() if owners.get(key) == partition}

    async def write(self, partition: int, writes: list[tuple[bytes, bytes | None]]) -> None:
        """Store and delete in this order; returns when the broker has all of it. Raises what the broker answers."""
        sends = []
        for key, value in writes:
            sends.append(
                await self.changelog_topic.send(
                    key=key, value=value, partition=partition, key_serializer="raw", value_serializer="raw"
                )
            )
        for send in sends:
            await send
        owners = self._owners()
        for key, value in writes:
            if value is None:
                self.data.pop(key, None)
                owners.pop(key, None)
            else:
                self.data[key] = value
                owners[key] = partition

    def _owners(self) -> dict[bytes, int]:
        # Faust notes the partition of what it recovers and forgets by it; what we write is noted in the same place.
        found: dict[bytes, int] = self.data._key_partition  # type: ignore[attr-defined]  # noqa: SLF001  # as the line above says
        return found

    async def on_rebalance(
        self, assigned: set[TP], revoked: set[TP], newly_assigned: set[TP], generation_id: int = 0
    ) -> None:
        """Forget what went to another instance: it may delete there, and compaction may hide that from us."""
        gone = {tp.partition for tp in revoked if tp.topic == self.changelog_topic_name}
        for partition in gone:
            for key in self.entries(partition):
                self.data.pop(key, None)
                self._owners().pop(key, None)
        await super().on_rebalance(assigned, revoked, newly_assigned, generation_id)

    async def on_recovery_completed(self, active_tps: set[TP], standby_tps: set[TP]) -> None:
        """Note what is ours before the callbacks run."""
        self.active_partitions = frozenset(tp.partition for tp in active_tps)
        await super().on_recovery_completed(active_tps, standby_tps)


def changelog_table(app: faust.App, name: str, topic: str) -> ChangelogTable:
    """A table of the application whose changelog is exactly ``topic`` (a Kafka name)."""
    changelog = app.topic(
        topic,
        key_type=bytes,
        value_type=bytes,
        key_serializer="raw",
        value_serializer="raw",
        compacting=True,
        acks=False,
        internal=True,
        maxsize=131_072,
        allow_empty=True,
    )
    table = ChangelogTable(app, name=name, key_type=bytes, value_type=bytes, changelog_topic=changelog)
    app.tables.add(table)
    return table
