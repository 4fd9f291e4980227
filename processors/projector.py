"""From the log to ClickHouse: every record once, whatever dies when.

A plain consumer reads all partitions of all of the tenant's topics, read committed, and keeps no offsets in Kafka:
where to go on is what `events` holds. Typed tables are written first and `events` last, each table at most once a
second, so a crash leaves typed rows ahead of `events` and never behind; on resuming those places are known and left
out. So a plain count equals the log's.

One projector per database: two would write twice. The embedded store allows one process only; a server does not say.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from sluicegate.processors.projection import Batch
from sluicegate.schemas.codec import Codec
from sluicegate.schemas.errors import InvariantBroken, Unavailable
from sluicegate.streams.clickhouse import Place, ReadingRoom
from sluicegate.streams.connection import LOGGER, await_broker
from sluicegate.streams.engine import Record
from sluicegate.streams.tables import LOG_ENDS, LOG_IDENTITY
from sluicegate.streams.topics import logical, physical, spec_of

WRITE_EVERY_SEC: Final = 1.0
"""A table is written at most this often: many small parts would cost ClickHouse more than they are worth."""
DISCOVER_EVERY_SEC: Final = 5.0
BATCH_ROWS_MAX: Final = 50_000
BATCH_BYTES_MAX: Final = 64 * 1024 * 1024
POLL_SEC: Final = 0.05
RECORDS_PER_POLL_MAX: Final = 2_000
BROKER_SEC_MAX: Final = 3.0
"""How long one question to the broker may take; projecting waits for the answer."""
_AGAIN_SEC: Final = 0.1

_LOG: Final = logging.getLogger("sluicegate.projector")


class Status(msgspec.Struct, frozen=True):
    """How the projection stands since it was started.

    ``ready``: it reads, and the broker answers. ``behind`` counts offsets not yet projected; ``expired`` those gone
    before they were read.
    """

    ready: bool
    partitions: int
    events: int
    undecodable: int
    behind: int
    expired: int
    written_at_ms: int | None


class Projector:
    """Projects one tenant's log. `run` belongs to one thread; `status` and `drain` may be called from any."""

    def __init__(self, connection: Mapping[str, str], tenant: str, room: ReadingRoom, codec: Codec) -> None:
        """``connection`` is the librdkafka configuration of the login `projector`; ``room`` must be prepared.

        Raises LoginRefused or Unavailable when the broker does not let it in.
        """
        await_broker(connection)
        self._tenant = tenant
        self._room = room
        self._codec = codec
        self._connection = dict(connection)
        self._admin = AdminClient(self._connection, logger=LOGGER)
        self._consumer = Consumer(
            {
                **connection,
                "group.id": physical(tenant, "projector"),
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "enable.partition.eof": True,
                "auto.offset.reset": "error",
                "isolation.level": "read_committed",
                "queued.max.messages.kbytes": 65_536,
                "fetch.wait.max.ms": 50,
            }
        )
        resume = room.resume()
        self._next = resume.next_offsets
        self._ahead = resume.ahead
        self._batch = Batch(self._ahead)
        self._read: dict[Place, int] = {}
        self._written: dict[Place, int] = {}
        self._recorded: dict[Place, tuple[int, int]] = {}
        self._ends: dict[Place, int] = {}
        self._counts = {"events": 0, "undecodable": 0, "expired": 0}
        self._written_at_ms: int | None = None
        self._broker_answers = True
        self._due = {"discover": 0.0, "write": 0.0, "latest": 0.0, "ends": 0.0, "record": 0.0}
        self._changed = threading.Condition()
        self._ended = False

    def run(self, stop: threading.Event) -> None:
        """Project until ``stop`` is set; what was read by then is written.

        Raises InvariantBroken when the store holds another log, and whatever ClickHouse raises: the outcome of that
        write is then unknown, and a new projector must resume.
        """
        try:
            self._check_identity()
            while not stop.is_set():
                self._turn()
            if self._batch.events:
                self._write()
        finally:
            self._consumer.close()
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def status(self) -> Status:
        """How it stands now."""
        with self._changed:
            behind = sum(max(end - self._written.get(place, 0), 0) for place, end in self._ends.items())
            return Status(
                bool(self._read) and self._broker_answers and not self._ended,
                len(self._read),
                self._counts["events"],
                self._counts["undecodable"],
                behind,
                self._counts["expired"],
                self._written_at_ms,
            )

    def drain(self, timeout_sec: float) -> bool:
        """Wait until everything that is in the log now is in ClickHouse, `coverage` included; False when time runs out.

        Raises Unavailable when the broker does not answer or the projector has ended.
        """
        deadline = time.monotonic() + timeout_sec
        wanted = self._wanted(deadline)
        with self._changed:
            self._due["discover"] = 0.0
            self._changed.wait_for(lambda: self._ended or self._covers(wanted), deadline - time.monotonic())
            if self._ended and not self._covers(wanted):
                raise Unavailable("the projector has ended; start it again")
            return self._covers(wanted)

    def _wanted(self, deadline: float) -> dict[Place, int]:
        """Where the log ends now, asked again until ``deadline``: a broker that has just come back may not know."""
        while True:
            try:
                return self._log_ends(self._places())
            except KafkaException as error:
                self._renew_admin()
                if time.monotonic() + _AGAIN_SEC > deadline:
                    text = error.args[0].str()
                    raise Unavailable(f"the broker does not say where its log ends ({text}); is it running?") from None
            time.sleep(_AGAIN_SEC)

    def _covers(self, wanted: Mapping[Place, int]) -> bool:
        return all(place in self._recorded and self._recorded[place][0] >= end for place, end in wanted.items())

    def _turn(self) -> None:
        """One round: look for partitions, read, write what is due."""
        now = time.monotonic()
        if now >= self._due["discover"]:
            self._due["discover"] = now + DISCOVER_EVERY_SEC
            self._discover()
        batch = self._batch
        full = len(batch.events) >= BATCH_ROWS_MAX or batch.size_bytes >= BATCH_BYTES_MAX
        if full:
            time.sleep(max(min(self._due["write"] - now, POLL_SEC), 0))
            quiet = False
        else:
            quiet = not self._take(self._consumer.consume(RECORDS_PER_POLL_MAX, timeout=POLL_SEC))
        if batch.events and not self._due["latest"]:
            self._due["latest"] = time.monotonic() + WRITE_EVERY_SEC
        now = time.monotonic()
        # What comes together is written together: a batch waits for a quiet moment, but no longer than a second.
        if batch.events and now >= self._due["write"] and (quiet or full or now >= self._due["latest"]):
            self._write()
        elif not batch.events:
            self._reach()
        self._record_ends()

    def _take(self, messages: Sequence[Message]) -> bool:
        """Put records into the batch; whether there was any news."""
        for message in messages:
            error = message.error()
            if error is not None and error.code() != KafkaError._PARTITION_EOF:
                self._note(error)
                continue
            place = (logical(self._tenant, str(message.topic())), int(message.partition() or 0))
            offset = int(message.offset() or 0)
            if error is not None:  # the end of a partition lies behind the last record and its transaction's marker
                self._read[place] = max(self._read[place], offset)
                continue
            record = Record(
                *place, offset, message.key() or b"", message.value() or b"", (), int(message.timestamp()[1])
            )
            self._batch.add(record, self._codec)
            self._read[place] = offset + 1
        return bool(messages)

    def _note(self, error: KafkaError) -> None:
        if error.code() == KafkaError._AUTO_OFFSET_RESET:
            raise InvariantBroken(f"the log no longer holds an offset that comes next ({error.str()}); start again")
        if error.code() == KafkaError.GROUP_AUTHORIZATION_FAILED:
            return  # it joins no group and commits nothing there, so that it has no right to one does not matter
        if error.fatal():
            raise Unavailable(f"the consumer gave up ({error.str()}); start the projector again")
        _LOG.warning("kafka: %s", error.str())

    def _write(self) -> None:
        """Write the batch: typed tables, then `events`."""
        batch = self._batch
        for table, names, columns in batch.writes():
            self._room.insert(table, names, columns)
        self._batch = Batch(self._ahead)
        self._due["write"], self._due["latest"] = time.monotonic() + WRITE_EVERY_SEC, 0.0
        with self._changed:
            self._written_at_ms = int(time.time() * 1000)
            self._counts["events"] += len(batch.events)
            self._counts["undecodable"] += batch.undecodable
        self._reach()

    def _reach(self) -> None:
        """All that was read is written."""
        with self._changed:
            self._written = dict(self._read)

    def _record_ends(self) -> None:
        """Ask where the log ends, and record it beside how far the projection is."""
        now = time.monotonic()
        if now >= self._due["ends"]:
            self._due["ends"] = now + WRITE_EVERY_SEC
            try:
                ends = self._log_ends(list(self._read))
                self._broker_answers = True
            except KafkaException as error:
                self._broker_answers = False
                self._renew_admin()
                _LOG.warning("the broker does not say where its log ends: %s", error.args[0].str())
            else:
                with self._changed:
                    self._ends = ends
        if now < self._due["record"] or self._batch.events:
            return
        state = {place: (written, max(self._ends.get(place, 0), written)) for place, written in self._written.items()}
        fresh = [place for place, pair in state.items() if self._recorded.get(place) != pair]
        if fresh:
            self._due["record"] = time.monotonic() + WRITE_EVERY_SEC
            at_ms = int(time.time() * 1000)
            rows: list[tuple[Any, ...]] = [(*place, *state[place], at_ms) for place in fresh]
            names = ["topic", "partition", "projected_to", "log_end", "measured_at"]
            self._room.insert(LOG_ENDS, names, list(zip(*rows, strict=True)))
        with self._changed:
            self._recorded = state
            self._changed.notify_all()

    def _renew_admin(self) -> None:
        """A new admin client: one that lived through a broker's restart asks by the old leader epochs for ever."""
        self._admin = AdminClient(self._connection, logger=LOGGER)

    def _places(self) -> list[Place]:
        """Every partition of every topic of ours that the broker has."""
        found: list[Place] = []
        for name, topic in self._admin.list_topics(timeout=BROKER_SEC_MAX).topics.items():
            try:
                mine = logical(self._tenant, name)
                spec_of(mine)
            except (ValueError, KeyError):
                continue
            found.extend((mine, partition) for partition in topic.partitions)
        return found

    def _offsets(self, places: Sequence[Place], spec: OffsetSpec) -> dict[Place, int]:
        if not places:
            return {}
        asked = {TopicPartition(physical(self._tenant, topic), partition): spec for topic, partition in places}
        futures = self._admin.list_offsets(
            asked, isolation_level=IsolationLevel.READ_UNCOMMITTED, request_timeout=BROKER_SEC_MAX
        )
        return {
            (logical(self._tenant, asked_for.topic), asked_for.partition): int(future.result().offset)
            for asked_for, future in futures.items()
        }

    def _log_ends(self, places: Sequence[Place]) -> dict[Place, int]:
        return self._offsets(places, OffsetSpec.latest())

    def _discover(self) -> None:
        """Begin to read partitions that are new, each where `events` ends, or at the log's beginning."""
        try:
            new = [place for place in self._places() if place not in self._read]
            if not new:
                return
            lows, ends = self._offsets(new, OffsetSpec.earliest()), self._log_ends(new)
        except KafkaException as error:
            self._broker_answers = False
            self._renew_admin()
            _LOG.warning("the broker does not list its topics: %s", error.args[0].str())
            return
        starts: dict[Place, int] = {}
        for place in new:
            wanted = self._next.get(place, 0)
            if wanted > ends[place]:
                raise InvariantBroken(
                    f"`{place[0]}/{place[1]}` is projected to {wanted} but its log ends at {ends[place]}: "
                    "this is not the log that was projected, or it lost records; keep both and find out"
                )
            if wanted < lows[place] and place in self._next:
                _LOG.warning("%s/%s: offsets %s to %s expired unread", *place, wanted, lows[place] - 1)
                self._counts["expired"] += lows[place] - wanted
            starts[place] = max(wanted, lows[place])
        self._consumer.incremental_assign(
            [
                TopicPartition(physical(self._tenant, topic), partition, start)
                for (topic, partition), start in starts.items()
            ]
        )
        with self._changed:
            self._read.update(starts)
            self._ends.update(ends)

    def _check_identity(self) -> None:
        """A store holds one log; raises InvariantBroken when it holds another, Unavailable when no broker answers."""
        try:
            cluster = str(self._admin.list_topics(timeout=BROKER_SEC_MAX).cluster_id)
        except KafkaException as error:
            raise Unavailable(f"no broker answers the projector ({error.args[0].str()}); is it running?") from None
        known = self._room.identity()
        if not known:
            names = ["cluster_id", "tenant", "recorded_at"]
            self._room.insert(LOG_IDENTITY, names, [[cluster], [self._tenant], [int(time.time() * 1000)]])
        elif known != [(cluster, self._tenant)]:
            raise InvariantBroken(
                f"the reading room holds the log of cluster `{known[0][0]}`, tenant `{known[0][1]}`, and this is "
                f"`{cluster}`, `{self._tenant}`; give another `clickhouse_dsn`, or delete the store to project anew"
            )
