"""What `verify` found: how much of each kind was recomputed, and everything that did not fit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from sluicegate.schemas.codec import Codec
from sluicegate.schemas.errors import Undecodable
from sluicegate.streams.engine import Record

FAULTS_MAX: Final = 1000
"""How many faults are kept; all are counted."""
Place = tuple[str, int, int]


class FaultFound(msgspec.Struct, frozen=True):
    """One thing that is not as it must be. ``kind`` is one word for machines; the place is of the record meant."""

    kind: str
    topic: str
    partition: int
    offset: int
    message: str


class Report(msgspec.Struct):
    """What was verified: how many of each event class were recomputed, and everything that did not fit.

    ``recomputed`` are byte for byte what their inputs give. ``erased`` are so, too, but for facts that rest on a
    payload whose key is erased: those were taken from the journal. ``as_recorded`` could not be recomputed whole: what
    was made of an erased payload itself stands in them (a review, an edit, a fault of its content), and only the rest
    was compared.
    """

    recomputed: dict[str, int]
    records: int
    pending: int
    faults: list[FaultFound]
    faults_count: int
    erased: dict[str, int] = {}
    as_recorded: dict[str, int] = {}

    @property
    def clean(self) -> bool:
        """Whether everything fits."""
        return self.faults_count == 0

    def fault(self, kind: str, place: Place, message: str) -> None:
        """Count something that does not fit."""
        self.faults_count += 1
        if len(self.faults) < FAULTS_MAX:
            self.faults.append(FaultFound(kind, *place, message))


RECOMPUTED: Final = "recomputed"
ERASED: Final = "erased"
AS_RECORDED: Final = "as_recorded"


def counted(report: Report, how: str, name: str) -> None:
    """Count an event that fits, by how that is known."""
    found: dict[str, int] = getattr(report, how)
    found[name] = found.get(name, 0) + 1


def place_of(record: Record) -> Place:
    """Where a record stands."""
    return record.topic, record.partition, record.offset


def class_name(codec: Codec, record: Record) -> str:
    """The class of the event that a record holds."""
    try:
        return type(codec.decode(record.value)).__name__
    except Undecodable:
        return "undecodable"


def differing(a: Any, b: Any) -> str:
    """The fields in which two events differ, in words."""
    if type(a) is not type(b):
        return f"its class (recomputed: `{type(a).__name__}`)"
    names = [name for name in a.__struct_fields__ if getattr(a, name) != getattr(b, name)]
    return ", ".join(f"`{name}`" for name in names) or "its bytes"


Identity = tuple[str, bytes, bytes]
"""Topic, key and value: what makes two records the same."""


class Expected:
    """The records that must stand in the log, and how that is known of each."""

    def __init__(self) -> None:
        self._counts: Counter[Identity] = Counter()
        self._how: dict[Identity, str] = {}

    def add(self, identity: Identity, how: str = RECOMPUTED) -> None:
        """One more such record."""
        self._counts[identity] += 1
        if how != RECOMPUTED:
            self._how[identity] = how

    def count(self, identity: Identity) -> int:
        """How many such records there must be."""
        return self._counts[identity]

    def how(self, identity: Identity) -> str:
        """How it is known that it must be there."""
        return self._how.get(identity, RECOMPUTED)

    def __iter__(self) -> Iterator[tuple[Identity, int]]:
        return iter(self._counts.items())
