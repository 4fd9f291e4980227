"""Exactly once on Kafka: one pure step over several topics, run by Quix Streams.

What is promised
----------------
For each input record, in partition order: the step sees the state that all records before it left behind; its
outputs, its state changes and the record's offset become visible together or not at all. This holds over
``kill -9`` of the process or the broker, over rebalances, and for a process that was suspended and wakes as a
zombie.

How
---
All inputs of an application are concatenated into one frame, so one store per partition serves every topic
(the topics are co-partitioned, and the ``range`` strategy keeps equal partition numbers together). Records reach
the step as bytes and leave it as bytes: no serialiser of Quix runs. A checkpoint is one Kafka transaction over

    outputs, the store's changelog, the group's offsets

and only after it commits does the store's change reach the local RocksDB. So the local files may be behind the
changelog but never ahead of it; a process that finds them behind, or missing, replays the changelog.

Where it would break, and what is done
--------------------------------------
*Alignment.* ``concat`` makes Quix merge its inputs by timestamp, and then a writer that hangs in an open transaction
on one input stops all of them. Order comes from the journal here, so alignment is switched off after the frame is
built. The switch is private to Quix: its version is pinned and a conformance test holds the effect.

*Indeterminate commits.* librdkafka has no client half of KIP-890. An EndTxn request that was delayed on its way may
reach the broker when the same producer, in the same epoch, has already begun its next transaction, and commit half
of it. Two ways lead there. A request that gets no answer: a commit that takes longer than ``transaction.timeout.ms``
(less than librdkafka's request time-out, so it sent no second one) ends the process. And a connection that breaks:
librdkafka then sends the request again, succeeds, and tells nobody but its log; so the log is listened to
(`sluicegate.streams.connection.LossLog`), and a producer that ever lost a connection ends the process after its
transaction. The next process takes the same transactional id; ``init_transactions`` raises the epoch, which finishes
what was open and fences whatever is still on its way.

*Lost partitions.* A process that slept past its session finds its partitions lost. Quix forgets their state but keeps
the open checkpoint, and would commit it after joining again, as a valid member, though others have done that work
since. So a loss ends the process. (A revocation is no loss: there the checkpoint is committed first.)

*Identity.* The transactional id is stable per instance, so that a restart finishes its predecessor's transaction at
once instead of leaving readers to wait for the time-out, and so that an ACL can name it. The member id is static, so
that a restart takes its partitions back without a rebalance. Two processes must not share an instance name: the
younger one fences the older.

*State keys.* Quix joins key and entry name with ``|``. A key is chosen by whoever writes an input, so ``a|b`` with
entry ``c`` could meet ``a`` with entry ``b|c``. Here the key is written with its length before it. Values carry a
first byte that no time stamp has, since Quix guesses from the bytes of a store whether they carry its TTL stamps.

*Expired inputs.* Where an input keeps records for a limited time (raw outputs), a committed offset may lie below the
oldest record that is left, if only because the marker of the last transaction expired too. Quix would delete the
partition's state, or refuse to start. Here the group's offset moves up to the oldest record and the state stays. For
topics kept for ever the same finding means that someone deleted records: the process ends.

*Time.* A step waits at most 8 s for fresh control, less than ``transaction.timeout.ms``, less than the poll interval
after which the group would take its partitions away.

What is private to Quix and touched all the same stands in `sluicegate.streams.quix_application`, and nowhere else.
"""

from __future__ import annotations

import logging
import threading
import time
from hashlib import sha256
from typing import Any, Final, Generic, TypeVar

import msgspec
from confluent_kafka import KafkaError, KafkaException, Message
from quixstreams.dataframe import StreamingDataFrame
from quixstreams.exceptions import PartitionAssignmentError
from quixstreams.models import Topic
from quixstreams.state import PartitionTransaction

from sluicegate.schemas.errors import IndeterminateCommit, InvariantBroken, LoginRefused, StaleControl
from sluicegate.streams.connection import LOGIN_ERRORS, await_broker, login_message
from sluicegate.streams.engine import ControlSource, EngineStatus, Record, Step, check_out, check_state, check_writer
from sluicegate.streams.messages import record_of
from sluicegate.streams.quix_application import EngineConfig, StepApplication
from sluicegate.streams.topics import physical

__all__ = ["EngineConfig", "QuixEngine"]

C = TypeVar("C")

log = logging.getLogger(__name__)

STATUS_INTERVAL_SEC: Final = 1.0
_STATE_FORMAT: Final = b"\xfe"
KEY_BYTES_MAX: Final = 1_024


class QuixEngine(Generic[C]):
    """Runs one step in this process until it is told to stop or must end."""

    def __init__(self, config: EngineConfig, step: Step[C], control: ControlSource[C]) -> None:
        self._config = config
        self._step = step
        self._control = control
        self._physical = _Names(config)
        self._logical = {physical(config.tenant, name): name for name in config.application.inputs}
        self._app: StepApplication | None = None
        self._frame: StreamingDataFrame | None = None
        self._stopping = threading.Event()
        self._ended_by: Exception | None = None
        self._processed_count = 0
        self._status = EngineStatus()
        self._status_due = 0.0

    @property
    def status(self) -> EngineStatus:
        """The latest snapshot; safe to read from any thread."""
        return self._status

    def stop(self) -> None:
        """Asks for a clean end: what was processed is committed. Safe from any thread."""
        self._stopping.set()
        if self._app is not None:
            self._app.stop()

    def run(self) -> None:
        """Processes until `stop`, SIGTERM or SIGINT; returns after a clean end.

        Raises what made it end: LoginRefused, Unavailable, StaleControl, IndeterminateCommit, RecordTooLarge, an
        exception of the step, or one of Quix. Nothing uncommitted is left behind; the caller ends the process and
        a supervisor begins it anew under the same instance name. Never call `run` twice.
        """
        await_broker(self._config.connection)
        app = self._app = StepApplication(self._config, self._on_error)
        self._frame = self._build(app)
        if self._stopping.is_set():
            return
        try:
            app.run()
        except Exception as exc:
            if self._ended_by is not None:
                raise self._ended_by from exc
            if isinstance(exc, StaleControl) and app.asked_to_stop:
                return
            reason = exc.__cause__ if isinstance(exc, PartitionAssignmentError) and exc.__cause__ else exc
            if isinstance(reason, KafkaException) and reason.args[0].fatal():
                said = reason.args[0].str()
                raise IndeterminateCommit(
                    f"the producer of `{self._config.member}` ended ({said}); begin anew"
                ) from exc
            raise reason from None
        finally:
            self._status = msgspec.structs.replace(self._status, ready=False)
        if self._ended_by is not None:
            raise self._ended_by

    def _build(self, app: StepApplication) -> StreamingDataFrame:
        frame: StreamingDataFrame | None = None
        for name in self._logical:
            topic = app.topic(name, value_deserializer="bytes", key_deserializer="bytes")
            topic.row_deserialize = _RowReader(self._logical[name], topic)  # type: ignore[assignment]
            read = app.dataframe(topic)
            frame = read if frame is None else frame.concat(read)
        if frame is None:
            raise InvariantBroken(f"application `{self._config.application.name}` reads nothing")
        frame.register_store()
        frame.update(self._process)
        app.begin_unaligned(self._tick)
        return frame

    def _process(self, record: Record) -> None:
        """One record through the step; everything it does belongs to the open transaction."""
        control = self._control.current()
        app, frame = self._app, self._frame
        assert app is not None
        assert frame is not None
        state = frame.processing_context.checkpoint.get_store_transaction(frame.stream_id, record.partition)
        for out in self._step(_QuixStore(state, record.key), record, control):
            check_out(out)
            app.produce(self._physical[out.topic], out)
        self._processed_count += 1

    def _tick(self) -> None:
        """Runs in every turn of Quix's loop, so it must cost nothing most of the time."""
        now = time.monotonic()
        if now < self._status_due:
            return
        self._status_due = now + STATUS_INTERVAL_SEC
        app = self._app
        assert app is not None
        if self._stopping.is_set() or app.asked_to_stop:
            app.stop()  # once more: Quix forgets a stop that came before its loop began
        if not app.settled:
            self._status_due = 0.0
            return
        self._status = EngineStatus(
            ready=True,
            processed_count=self._processed_count,
            commit_count=app.commits.count,
            committed_at_ms=app.commits.last_at_ms,
            lag_records={f"{self._logical[topic]}/{at}": lag for (topic, at), lag in app.lags(self._logical).items()},
        )

    def _on_error(self, error: KafkaError) -> None:
        """Librdkafka's reports: most heal by themselves, a refused login does not; fatal errors are raised instead."""
        if error.code() not in LOGIN_ERRORS:
            log.warning("kafka: %s", error.str())
            return
        self._ended_by = LoginRefused(login_message(self._config.connection))
        if self._app is not None:
            self._app.stop(fail=True)


class _Names(dict[str, str]):
    """Logical to physical output names; the first use of each is checked against the topic table."""

    def __init__(self, config: EngineConfig) -> None:
        super().__init__()
        self._config = config

    def __missing__(self, name: str) -> str:
        check_writer(self._config.application.name, name)
        found = self[name] = physical(self._config.tenant, name)
        return found


class _QuixStore:
    """One key's entries in the open checkpoint; lives for one call of the step."""

    __slots__ = ("_prefix", "_state")

    def __init__(self, state: PartitionTransaction[bytes, Any], key: bytes) -> None:
        self._state = state
        # A key is chosen by whoever writes an input; one too long for a changelog record is known by its hash.
        self._prefix = len(key).to_bytes(4, "big") + (key if len(key) <= KEY_BYTES_MAX else sha256(key).digest())

    def get(self, name: str) -> bytes | None:
        found = self._state.get_bytes(self._prefix + name.encode(), b"")
        return None if found is None else found[1:]

    def set(self, name: str, value: bytes) -> None:
        check_state(name, value)
        self._state.set_bytes(self._prefix + name.encode(), _STATE_FORMAT + value, b"")

    def delete(self, name: str) -> None:
        self._state.delete(self._prefix + name.encode(), b"")


class _Row(msgspec.Struct):
    """What Quix's loop asks of a consumed record; the frame sees only ``value``."""

    value: Record
    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None = None
    headers: None = None
    context: None = None


class _RowReader:
    """Turns a message into a row without Quix's serialisers and contexts, which cost more than a small step."""

    def __init__(self, logical: str, topic: Topic) -> None:
        self._logical = logical
        self._physical = topic.name

    def __call__(self, message: Message) -> _Row:
        record = record_of(self._logical, message)
        return _Row(record, self._physical, record.partition, record.offset, record.timestamp_ms)
