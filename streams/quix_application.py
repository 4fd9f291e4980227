"""Quix's application and producer with our settings: the one place that touches what is private to Quix.

The reasons stand in `sluicegate.streams.quix`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
from confluent_kafka import KafkaError, KafkaException, TopicPartition
from quixstreams import Application as QuixApplication
from quixstreams.kafka import ConnectionConfig
from quixstreams.kafka import Producer as QuixProducer

from sluicegate.schemas.errors import IndeterminateCommit
from sluicegate.streams.connection import LossLog
from sluicegate.streams.engine import Out
from sluicegate.streams.messages import produce_out
from sluicegate.streams.topics import DEFAULT_TENANT, FOR_EVER, LETTER_BYTES_MAX, Application, physical, spec_of

log = logging.getLogger(__name__)

FETCH_WAIT_MS_MAX: Final = 50
BROKER_AWAY_SEC_MAX: Final = 30.0
POLL_INTERVAL_MS_MAX: Final = 30_000


class EngineConfig(msgspec.Struct, frozen=True):
    """How one instance of one application runs.

    ``connection`` holds librdkafka's connection settings (servers, login); ``state_dir`` belongs to this instance
    alone (``<run_dir>/state/<application>/<instance>``); ``interval_ms`` is both the longest wait for a record and
    the time between commits, so twice of it bounds what the engine adds to an input's way. A commit that takes longer
    than ``transaction_timeout_ms`` counts as indeterminate.
    """

    application: Application
    instance: str
    connection: Mapping[str, str]
    state_dir: Path
    tenant: str = DEFAULT_TENANT
    interval_ms: int = 50
    session_timeout_ms: int = 6_000
    transaction_timeout_ms: int = 10_000

    @property
    def group(self) -> str:
        """The consumer group; ACLs and the changelog's name are made from it."""
        return physical(self.tenant, self.application.name)

    @property
    def member(self) -> str:
        """The transactional id and the static member id: stable for an instance."""
        return f"{self.group}.{self.instance}"


class Commits:
    """How many transactions were committed, and when the last one was (wall time)."""

    __slots__ = ("count", "last_at_ms")

    def __init__(self) -> None:
        self.count = 0
        self.last_at_ms = 0


class _Producer(QuixProducer):
    """A transactional producer that is dead after the first commit without a clean answer."""

    def __init__(self, app: StepApplication, wait_sec: float) -> None:
        self._app = app
        self._wait_sec = wait_sec
        self._losses = LossLog(log)
        self._dead = False
        super().__init__(
            broker_address=app.config.broker_address,
            logger=self._losses,  # type: ignore[arg-type]  # librdkafka needs no more of a logger than its `log`
            extra_config=app.config.producer_extra_config,
            flush_timeout=app.config.flush_timeout,
            transactional=True,
            error_callback=app.report,
        )

    def begin_transaction(self) -> None:
        begun = self.instantiated
        super().begin_transaction()
        if not begun:  # what was lost while connecting, say to an address that nobody serves, is no loss
            self.poll(0)
            self._losses.lost = False

    def commit_transaction(self, timeout: float | None = None) -> None:
        try:
            super().commit_transaction(self._wait_sec if timeout is None else min(timeout, self._wait_sec))
        except KafkaException as exc:
            self._dead = True
            raise IndeterminateCommit(f"a commit was not confirmed: {exc.args[0].str()}; begin anew") from exc
        except BaseException:
            self._dead = True
            raise
        self._end_if_lost()
        self._app.commits.count += 1
        self._app.commits.last_at_ms = time.time_ns() // 1_000_000

    def condemn(self) -> None:
        """Nothing more is committed with this producer."""
        self._dead = True

    def _end_if_lost(self) -> None:
        self.poll(0)
        if self._losses.lost:
            self._dead = True
            raise IndeterminateCommit("a connection was lost, and what is committed stands; begin anew")

    def poll(self, timeout: float = 0) -> Any:
        """Serves callbacks; raises a fatal error, of which a dead producer has nothing new to tell."""
        return 0 if self._dead else super().poll(timeout)

    def abort_transaction(self, timeout: float | None = None) -> None:
        """Does nothing for a dead producer. When the application ends by an error, that error is what counts."""
        if self._dead:
            return
        try:
            super().abort_transaction(timeout)
        except KafkaException as exc:
            self._dead = True
            if not self._app.failed:
                raise
            log.warning("the open transaction was not aborted (%s); the next process does it", exc.args[0].str())
            return
        if not self._app.failed:
            self._end_if_lost()


def _split(connection: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """What Quix takes as a connection, and librdkafka's other settings, which it takes beside it."""
    known = {name.replace("_", ".") for name in ConnectionConfig.model_fields}
    login = {name: value for name, value in connection.items() if name in known}
    return login, {name: value for name, value in connection.items() if name not in known}


class StepApplication(QuixApplication):
    """Quix's application with our settings, and the one place that touches its private parts."""

    def __init__(self, config: EngineConfig, report: Callable[[KafkaError], None]) -> None:
        self.report = report
        self.commits = Commits()
        self.asked_to_stop = False
        self._assigned_once = False
        self._begun_at: dict[tuple[str, int], int] = {}
        self._expiring = {
            physical(config.tenant, name)
            for name in config.application.inputs
            if spec_of(name).retention_ms != FOR_EVER
        }
        interval_sec = config.interval_ms / 1000
        login, more = _split(config.connection)
        super().__init__(
            broker_address=ConnectionConfig.from_librdkafka_dict(login),
            consumer_group=config.group,
            auto_offset_reset="earliest",
            commit_interval=interval_sec,
            consumer_poll_timeout=interval_sec,
            consumer_extra_config={
                **more,
                "client.id": config.member,
                "group.instance.id": config.member,
                "session.timeout.ms": config.session_timeout_ms,
                "heartbeat.interval.ms": config.session_timeout_ms // 3,
                "max.poll.interval.ms": max(POLL_INTERVAL_MS_MAX, config.session_timeout_ms),
                "isolation.level": "read_committed",
                # A connection answers in order: what is asked during an assignment waits behind an idle fetch.
                "fetch.wait.max.ms": FETCH_WAIT_MS_MAX,
            },
            producer_extra_config={
                **more,
                "client.id": config.member,
                "transactional.id": config.member,
                "transaction.timeout.ms": config.transaction_timeout_ms,
                "partitioner": "murmur2_random",
                "retry.backoff.ms": 5,
                "message.max.bytes": LETTER_BYTES_MAX,
            },
            state_dir=config.state_dir,
            loglevel=None,
            auto_create_topics=False,
            auto_recover_from_source_offset_out_of_range=False,
            processing_guarantee="exactly-once",
            broker_availability_timeout=BROKER_AWAY_SEC_MAX,
        )
        self._producer._producer = self._transactional = _Producer(self, config.transaction_timeout_ms / 1000)
        self._consumer._user_error_cb = report

    def begin_unaligned(self, tick: Callable[[], None]) -> None:
        """To be called once the frame is built: no merging by time; ``tick`` runs in every turn of the loop."""
        self._dataframe_registry._requires_time_alignment = False
        self._dataframe_registry.register_periodic_task(tick)

    def produce(self, topic: str, out: Out) -> None:
        """Adds an output to the open transaction.

        No delivery report is asked for: a record that cannot be delivered makes the transaction uncommittable.
        """
        produce_out(self._transactional._producer, topic, out)

    @property
    def failed(self) -> bool:
        """Whether it ends by an error, so that nothing more is committed."""
        return self._failed

    @property
    def settled(self) -> bool:
        """Whether partitions were assigned (perhaps none) and their state is recovered."""
        return self._assigned_once and not self._state_manager.recovery_required

    def lags(self, topics: Mapping[str, str]) -> dict[tuple[str, int], int]:
        """How far each assigned input partition is from the log's end, as last heard from the broker."""
        found: dict[tuple[str, int], int] = {}
        assigned = [at for at in self._consumer.assignment() if at.topic in topics]
        for at in self._consumer.position(assigned) if assigned else ():
            _, end = self._consumer.get_watermark_offsets(at, cached=True)
            begun = self._begun_at.get((at.topic, at.partition), 0)
            found[at.topic, at.partition] = max(0, end - max(at.offset, begun))
        return found

    def stop(self, fail: bool = False) -> None:
        self.asked_to_stop = self.asked_to_stop or not fail
        super().stop(fail)

    def _setup_signal_handlers(self) -> None:
        if threading.current_thread() is threading.main_thread():
            super()._setup_signal_handlers()  # type: ignore[no-untyped-call]

    def _on_assign(self, consumer: Any, topic_partitions: list[TopicPartition]) -> None:
        super()._on_assign(consumer, topic_partitions)
        self._assigned_once = True

    def _on_lost(self, consumer: Any, topic_partitions: list[TopicPartition]) -> None:
        """The group went on without this member, perhaps long ago: what is in the checkpoint is somebody else's.

        Quix would keep it, and commit it once this member has joined again and looks valid.
        """
        self._transactional.condemn()
        raise IndeterminateCommit("the group took this member's partitions away; begin anew")

    def _assign_partitions(self, topic_partitions: list[TopicPartition]) -> None:
        inputs = [at for at in topic_partitions if at.topic in self._topic_manager.non_changelog_topics]
        moved = []
        for at in self._consumer.committed(inputs, timeout=30):
            self._begun_at[at.topic, at.partition] = max(0, at.offset)
            if at.topic not in self._expiring:
                continue
            low, _ = self._consumer.get_watermark_offsets(TopicPartition(at.topic, at.partition), timeout=30)
            if 0 <= at.offset < low:
                log.warning("%s/%d: offsets %d to %d have expired unread", at.topic, at.partition, at.offset, low - 1)
                moved.append(TopicPartition(at.topic, at.partition, low))
        if moved:
            self._consumer.commit(offsets=moved, asynchronous=False)
        super()._assign_partitions(topic_partitions)
