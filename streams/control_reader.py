"""Reads `policy.snapshots` and `control.commands` beside the step, and says whether what it read is still fresh.

A judgement may rest on control state only while this process has confirmed, within ``age_ms_max``, that it is at
the end of `control.commands`. The confirmation is a question to the broker (the partition's end, not cached), asked
every `CONFIRM_INTERVAL_SEC` and dated at the moment of asking: whoever had a command acknowledged by then finds it
folded here. End-of-partition events cannot serve as confirmation, since one comes per offset and a quiet topic gives
no more; they only tell that the reader is past a transaction's marker, which no record shows.

A command may activate a snapshot that stands in the other topic; until ``complete`` says that the state holds all it
names, nothing is confirmed.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Final, Generic, TypeVar

import msgspec
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from sluicegate.schemas.errors import InvariantBroken, LoginRefused, SluicegateError, StaleControl, Unavailable
from sluicegate.streams.connection import LOGGER, LOGIN_ERRORS, await_broker, login_message
from sluicegate.streams.engine import Out, Record
from sluicegate.streams.messages import produce_out, record_of
from sluicegate.streams.topics import DEFAULT_TENANT, logical, physical

S = TypeVar("S")

log = logging.getLogger(__name__)

COMMANDS: Final = "control.commands"
SNAPSHOTS: Final = "policy.snapshots"
CONFIRM_INTERVAL_SEC: Final = 0.1
CONFIRM_SEC_MAX: Final = 1.0
CONTROL_WAIT_SEC_MAX: Final = 8.0
"""How long a step waits for fresh control; below the engine's transaction time-out of 10 s."""
_POLL_SEC: Final = 0.02
_FETCH_WAIT_MS_MAX: Final = 20
_BATCH_RECORDS: Final = 500


class ControlConfig(msgspec.Struct, frozen=True):
    """Who reads. ``group`` is only named to the broker: the reader assigns itself, joins and commits nothing."""

    connection: Mapping[str, str]
    group: str
    instance: str
    tenant: str = DEFAULT_TENANT
    age_ms_max: int = 500
    wait_sec_max: float = CONTROL_WAIT_SEC_MAX


def _clock() -> float:
    """Seconds that pass also while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class ControlReader(Generic[S]):
    """A `ControlSource` over the two control topics.

    ``fold`` is pure: state and record to state. ``acknowledge`` makes the record that tells the world what became of
    a command or a snapshot here; it is called once per record in its topic's order. Its answers are written when the
    state is complete; of those to what was there at the start only the one to the last command.
    """

    def __init__(
        self,
        config: ControlConfig,
        fold: Callable[[S, Record], S],
        initial: S,
        *,
        complete: Callable[[S], bool] | None = None,
        acknowledge: Callable[[S, Record], Out | None] | None = None,
    ) -> None:
        self._config = config
        self._fold = fold
        self._folded = initial
        self._complete = complete or (lambda _: True)
        self._acknowledge = acknowledge
        self._state = initial
        self._fresh_until = 0.0
        self._reached: dict[str, int] = {COMMANDS: 0, SNAPSHOTS: 0}
        self._waiting: list[Record] = []
        self._owed: list[tuple[str, Out]] = []
        self._caught_up = False
        self._failure: SluicegateError | None = None
        self._stopping = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="control-reader", daemon=True)

    def start(self) -> None:
        """Begins to read; raises LoginRefused or Unavailable when the broker cannot be used."""
        await_broker(self._config.connection)
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread; whoever waits in `current` gets StaleControl."""
        self._stopping = True
        with self._changed:
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join()

    @property
    def age_ms(self) -> float:
        """How long ago the state was last confirmed, in milliseconds; infinite before the first time."""
        if not self._fresh_until:
            return float("inf")
        return max(0.0, (_clock() - self._fresh_until) * 1000 + self._config.age_ms_max)

    def current(self) -> S:
        """The confirmed state; waits for it up to ``wait_sec_max``, then raises StaleControl."""
        if time.clock_gettime(time.CLOCK_BOOTTIME) < self._fresh_until:
            return self._state
        return self._wait()

    @property
    def latest(self) -> S:
        """The state as last confirmed, however long ago: good for what may only stop something, never to start it.

        Raises what ended the reader; after that no command would ever be heard.
        """
        if self._failure is not None:
            raise self._failure
        return self._state

    def _wait(self) -> S:
        deadline = _clock() + self._config.wait_sec_max
        with self._changed:
            while True:
                now = _clock()
                if now < self._fresh_until:
                    return self._state
                if self._failure is not None:
                    raise self._failure
                if self._stopping or now >= deadline:
                    raise StaleControl(
                        f"`{COMMANDS}` was not confirmed for {self._config.wait_sec_max:g} s ({self._why()}); "
                        f"begin anew when the broker answers"
                    )
                self._changed.wait(min(_POLL_SEC, deadline - now))

    def _why(self) -> str:
        if not self._caught_up:
            return "never read to its end"
        return "the broker does not answer" if self._complete(self._folded) else "the active snapshot has not arrived"

    def _run(self) -> None:
        try:
            self._read()
        except SluicegateError as exc:
            self._failure = exc
        except Exception as exc:
            log.exception("the control reader failed")
            self._failure = StaleControl(f"the control reader failed: {exc}")
        finally:
            self._fresh_until = 0.0
            with self._changed:
                self._changed.notify_all()

    def _read(self) -> None:
        consumer = self._consumer()
        producer = self._producer() if self._acknowledge else None
        try:
            ends: dict[str, int | None] = {SNAPSHOTS: None, COMMANDS: None}
            confirm_at = 0.0
            while not self._stopping:
                messages = consumer.consume(_BATCH_RECORDS, _POLL_SEC)
                for message in messages:
                    self._take(message)
                now = _clock()
                if self._waiting:
                    self._fold_waiting(consumer)
                if not self._caught_up:
                    ends = {name: self._end(consumer, name) if end is None else end for name, end in ends.items()}
                    self._catch_up(ends)
                elif messages or now >= confirm_at:
                    confirm_at = now + CONFIRM_INTERVAL_SEC
                    self._ask(consumer, producer, now)
        finally:
            consumer.close()
            if producer is not None:
                producer.flush(1.0)

    def _ask(self, consumer: Consumer, producer: Producer | None, now: float) -> None:
        end = self._end(consumer, COMMANDS)
        if end is None or self._waiting:
            return
        if end < self._reached[COMMANDS]:
            raise InvariantBroken(f"`{COMMANDS}` ends at {end}, before what was read of it: someone deleted records")
        if self._reached[COMMANDS] == end and self._complete(self._folded):
            self._confirm(now)
            self._pay(producer)

    def _take(self, message: Message) -> None:
        error = message.error()
        topic, offset = message.topic(), message.offset()
        if error is not None:
            if error.code() == KafkaError._PARTITION_EOF and topic is not None and offset is not None:
                self._advance(logical(self._config.tenant, topic), offset)
            elif error.code() in LOGIN_ERRORS:
                raise LoginRefused(login_message(self._config.connection))
            elif error.code() in (KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.UNKNOWN_TOPIC_OR_PART):
                raise Unavailable(f"`{topic}` cannot be read: {error.str()}; create the topics and their ACLs first")
            return
        record = record_of(logical(self._config.tenant, topic or ""), message)
        if record.topic == COMMANDS:
            self._waiting.append(record)
            return
        self._fold_one(record)

    def _fold_one(self, record: Record) -> None:
        self._folded = self._fold(self._folded, record)
        self._advance(record.topic, record.offset + 1)
        out = self._acknowledge(self._folded, record) if self._acknowledge is not None else None
        if out is not None:
            self._owed.append((record.topic, out))

    def _fold_waiting(self, consumer: Consumer) -> None:
        """Folds commands once every snapshot published before them is known: the topics have no common order."""
        end = self._end(consumer, SNAPSHOTS)
        if end is None or self._reached[SNAPSHOTS] < end:
            return
        waiting, self._waiting = self._waiting, []
        for record in waiting:
            self._fold_one(record)

    def _advance(self, topic: str, offset: int) -> None:
        self._reached[topic] = max(self._reached[topic], offset)

    def _catch_up(self, ends: dict[str, int | None]) -> None:
        """Finds whether the first full read is done: both topics to where they ended when the reader began."""
        read = all(end is not None and self._reached[name] >= end for name, end in ends.items())
        self._caught_up = read and not self._waiting
        if self._caught_up:
            self._owed = [owed for owed in self._owed if owed[0] == COMMANDS][-1:]

    def _confirm(self, asked_at: float) -> None:
        self._state = self._folded
        self._fresh_until = asked_at + self._config.age_ms_max / 1000
        with self._changed:
            self._changed.notify_all()

    def _pay(self, producer: Producer | None) -> None:
        """Acknowledges what now holds; an answer is owed until its acknowledgement is in the log."""
        if producer is None:
            return
        owed, self._owed = self._owed, []
        for _, out in owed:
            produce_out(producer, physical(self._config.tenant, out.topic), out)
        producer.poll(0)

    def _end(self, consumer: Consumer, name: str) -> int | None:
        """Where a topic ends for readers of committed records; None when the broker does not answer."""
        at = TopicPartition(physical(self._config.tenant, name), 0)
        try:
            begin, end = consumer.get_watermark_offsets(at, timeout=CONFIRM_SEC_MAX, cached=False)
        except KafkaException as exc:
            if exc.args[0].code() in LOGIN_ERRORS:
                raise LoginRefused(login_message(self._config.connection)) from exc
            log.warning("the end of `%s` is unknown: %s", name, exc.args[0].str())
            return None
        if begin > 0:
            raise InvariantBroken(f"`{name}` begins at offset {begin}, not 0: someone deleted records of it")
        return int(end)

    def _consumer(self) -> Consumer:
        consumer = Consumer(
            {
                **self._config.connection,
                "client.id": f"{self._config.group}.{self._config.instance}.control",
                "group.id": self._config.group,
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "isolation.level": "read_committed",
                # A connection answers in order: the question for the end waits behind an idle fetch.
                "fetch.wait.max.ms": _FETCH_WAIT_MS_MAX,
                "auto.offset.reset": "earliest",
            },
            logger=LOGGER,
        )
        topics = (SNAPSHOTS, COMMANDS)
        consumer.assign([TopicPartition(physical(self._config.tenant, name), 0, OFFSET_BEGINNING) for name in topics])
        return consumer

    def _producer(self) -> Producer:
        return Producer(
            {
                **self._config.connection,
                "client.id": f"{self._config.group}.{self._config.instance}.control",
                "enable.idempotence": True,
                "partitioner": "murmur2_random",
                "linger.ms": 0,
            },
            logger=LOGGER,
        )
