"""One Kafka transaction at a time over {records, consumed offsets}, for clients that run no engine.

The same rule as in `sluicegate.streams.quix` holds: a producer that lost a connection, or whose commit did not get a
clean answer, is never used again; here another one takes its place, unless the outcome is unknown. A worker that
starts a job commits its start here first and runs the job only after `Transactor.commit` returned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from confluent_kafka import KafkaError, KafkaException, Message, Producer, TopicPartition

from sluicegate.schemas.errors import IndeterminateCommit, LoginRefused, SluicegateError
from sluicegate.streams.connection import LOGGER, LOGIN_ERRORS, LossLog, await_broker, login_message
from sluicegate.streams.engine import Out, check_out
from sluicegate.streams.kafka import NotPermitted, error_for
from sluicegate.streams.topics import DEFAULT_TENANT, MESSAGE_BYTES_MAX, physical

TRANSACTION_MS_MAX: Final = 10_000
COMMIT_SEC_MAX: Final = 10.0
START_SEC_MAX: Final = 30.0


class NothingWritten(SluicegateError):
    """A transaction that was aborted: nothing of it is in the log, and the same `Transactor` may try again."""


class Written(msgspec.Struct, frozen=True):
    """Where one output stands in the log; ``timestamp_ms`` is the broker's append time."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int


class Transactor:
    """A transactional producer under a stable id; not for use from several threads at once.

    Making one fences any other with the same id and finishes what that one had left open. A lost connection costs it
    no more than a new producer, made when the next commit is asked for.
    """

    def __init__(
        self,
        connection: Mapping[str, str],
        transactional_id: str,
        *,
        tenant: str = DEFAULT_TENANT,
        transaction_timeout_ms: int = TRANSACTION_MS_MAX,
    ) -> None:
        """Raises LoginRefused or Unavailable when the broker cannot be used."""
        await_broker(connection)
        self._connection = connection
        self._tenant = tenant
        self._id = transactional_id
        self._timeout_ms = transaction_timeout_ms
        self._undelivered: KafkaError | None = None
        self._ended: SluicegateError | None = None
        self._begin_anew()

    def _begin_anew(self) -> None:
        """Takes a new producer under the same id: the broker fences the old one and whatever it has on its way."""
        self._losses = LossLog(LOGGER)
        self._producer = Producer(
            {
                **self._connection,
                "client.id": self._id,
                "transactional.id": self._id,
                "transaction.timeout.ms": self._timeout_ms,
                "partitioner": "murmur2_random",
                "retry.backoff.ms": 5,
                "message.max.bytes": MESSAGE_BYTES_MAX,
                "error_cb": self._observe,
            },
            logger=self._losses,
        )
        try:
            self._producer.init_transactions(START_SEC_MAX)
        except KafkaException as exc:
            self._ended = IndeterminateCommit(f"`{self._id}` cannot begin: {exc.args[0].str()}; begin anew")
            raise self._ended from exc
        self._producer.poll(0)
        self._losses.lost = False

    def close(self) -> None:
        """Give the connection up; nothing may be committed afterwards."""
        del self._producer

    def commit(
        self,
        outs: Sequence[Out],
        offsets: Sequence[TopicPartition] = (),
        group: Any = None,
    ) -> list[Written]:
        """Writes all outputs and moves the group's offsets (the next to read), or does neither.

        ``group`` is the consumer's ``consumer_group_metadata()``, needed with offsets: the broker refuses the
        commit of a member that has lost its partitions, if (and only if) its consumer has a static id. Topics of
        outputs are logical, of offsets physical.

        Raises RecordTooLarge before anything is written; NothingWritten when the transaction was aborted (NotPermitted
        when the broker's access control lists were the reason, and trying again is in vain); IndeterminateCommit when
        its outcome is unknown or the id belongs to a younger process: end and begin anew.
        """
        if self._ended is not None:
            raise self._ended
        for out in outs:
            check_out(out)
        written: list[Written | None] = [None] * len(outs)
        self._undelivered = None
        self._producer.poll(0)
        if self._losses.lost:
            self._begin_anew()
        try:
            self._producer.begin_transaction()
            for at, out in enumerate(outs):
                self._produce(out, at, written)
            if offsets:
                self._producer.send_offsets_to_transaction(list(offsets), group, COMMIT_SEC_MAX)
            self._producer.flush(COMMIT_SEC_MAX)
        except KafkaException as exc:
            self._abort(exc.args[0])
        self._end_transaction()
        found = [at for at in written if at is not None]
        if len(found) != len(outs):
            self._ended = IndeterminateCommit(f"a commit of `{self._id}` gave no delivery report; begin anew")
            raise self._ended
        return found

    def _produce(self, out: Out, at: int, written: list[Written | None]) -> None:
        def report(error: KafkaError | None, message: Message) -> None:
            if error is not None:
                self._undelivered = self._undelivered or error
            else:
                written[at] = Written(
                    out.topic, message.partition() or 0, message.offset() or 0, message.timestamp()[1]
                )

        name = physical(self._tenant, out.topic)
        while True:
            try:
                self._producer.produce(name, out.value, out.key, headers=list(out.headers), on_delivery=report)
                return
            except BufferError:
                self._producer.poll(0.1)

    def _end_transaction(self) -> None:
        try:
            self._producer.commit_transaction(COMMIT_SEC_MAX)
        except KafkaException as exc:
            if exc.args[0].txn_requires_abort():
                self._abort(exc.args[0])
            self._ended = IndeterminateCommit(f"a commit of `{self._id}` was not confirmed: {exc.args[0].str()}")
            raise self._ended from exc

    def _abort(self, error: KafkaError) -> None:
        """Always raises: NothingWritten or NotPermitted after a clean abort, else IndeterminateCommit."""
        try:
            self._producer.abort_transaction(COMMIT_SEC_MAX)
        except KafkaException as exc:
            self._ended = IndeterminateCommit(f"`{self._id}` must end: {error.str()}; {exc.args[0].str()}")
            raise self._ended from exc
        refused = error_for(self._undelivered or error, self._id, "write what it was told to")
        if isinstance(refused, NotPermitted):
            raise refused
        raise NothingWritten(f"the transaction of `{self._id}` was aborted: {error.str()}; try again")

    def _observe(self, error: KafkaError) -> None:
        if error.code() in LOGIN_ERRORS:
            self._ended = LoginRefused(login_message(self._connection))
