"""What a step meets of its engine: one record in, records out, a small keyed store. Nothing else.

Two engines keep this contract: `sluicegate.streams.quix` (Kafka, exactly once) and `sluicegate.streams.memory`
(tests, simulation, the offline verbs). One conformance suite holds both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Protocol, TypeVar

import msgspec

from sluicegate.schemas.errors import InvariantBroken, RecordTooLarge
from sluicegate.streams.topics import MESSAGE_BYTES_MAX, spec_of

Headers = tuple[tuple[str, bytes], ...]

RECORD_BYTES_MAX: Final = MESSAGE_BYTES_MAX - 2_048
"""What key, value and headers of one `Out` may weigh; the rest is the framing of Kafka's record batch."""
STATE_BYTES_MAX: Final = MESSAGE_BYTES_MAX - 8_192
"""What one state entry may weigh: it travels through a changelog record that carries offsets besides."""
_HEADER_FRAMING_BYTES: Final = 10


class Record(msgspec.Struct, frozen=True):
    """One record as the log holds it. ``topic`` is the logical name; ``timestamp_ms`` the broker's append time."""

    topic: str
    partition: int
    offset: int
    key: bytes
    value: bytes
    headers: Headers
    timestamp_ms: int


class Out(msgspec.Struct, frozen=True):
    """One record to be written, in the transaction that commits the input's offset. ``topic`` is the logical name."""

    topic: str
    key: bytes
    value: bytes
    headers: Headers = ()


class Store(Protocol):
    """The state of one key. Names are short strings; values are bytes."""

    def get(self, name: str) -> bytes | None: ...

    def set(self, name: str, value: bytes) -> None: ...

    def delete(self, name: str) -> None: ...


C_co = TypeVar("C_co", covariant=True)
C = TypeVar("C")


class ControlSource(Protocol[C_co]):
    """Hands out the control state a judgement may rest on."""

    def current(self) -> C_co:
        """The state folded from `control.commands`, confirmed fresh; waits for it.

        Raises StaleControl when it cannot be confirmed in time: the process then ends.
        """
        ...


class EngineStatus(msgspec.Struct, frozen=True):
    """What an engine says of itself, for health checks and metrics; a snapshot, at most a second old.

    ``lag_records`` counts per ``topic/partition`` (logical name) to the log's end; the marker that closes a
    writer's last transaction counts as one record, so an idle partition may show 1. ``committed_at_ms`` is wall
    time, 0 before the first commit.
    """

    ready: bool = False
    processed_count: int = 0
    commit_count: int = 0
    committed_at_ms: int = 0
    lag_records: dict[str, int] = {}


Step = Callable[[Store, Record, C], Sequence[Out]]
"""A step: pure, total, keyed by ``record.key``. What it raises ends the process before anything is committed."""


def size_bytes(out: Out) -> int:
    """What an output weighs against `RECORD_BYTES_MAX`; a step that may exceed it asks before it returns."""
    size = len(out.key) + len(out.value)
    for name, value in out.headers:
        size += len(name) + len(value) + _HEADER_FRAMING_BYTES
    return size


def check_out(out: Out) -> None:
    """Raises RecordTooLarge, so that nothing is produced which the broker would refuse after the fact."""
    if (size := size_bytes(out)) > RECORD_BYTES_MAX and size > (most := _bytes_max(out.topic)):
        raise RecordTooLarge(f"an output to `{out.topic}` weighs {size} bytes, at most {most} fit; divert it")


def _bytes_max(topic: str) -> int:
    return RECORD_BYTES_MAX + int(spec_of(topic).config()["max.message.bytes"]) - MESSAGE_BYTES_MAX


def check_state(name: str, value: bytes) -> None:
    """Raises RecordTooLarge for a state entry that its changelog could not carry."""
    if len(value) > STATE_BYTES_MAX:
        raise RecordTooLarge(
            f"the state entry `{name}` weighs {len(value)} bytes, at most {STATE_BYTES_MAX} fit; the step must bound it"
        )


def check_writer(application: str, topic: str) -> None:
    """Raises InvariantBroken unless the topic table lets this application write there."""
    try:
        writers: frozenset[str] = frozenset(spec_of(topic).writers)
    except KeyError:
        raise InvariantBroken(f"`{application}` writes to `{topic}`, which is not in the topic table") from None
    if application not in writers:
        raise InvariantBroken(f"`{application}` writes to `{topic}`, where the topic table does not let it write")
