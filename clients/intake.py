"""Which grants of one partition are taken, when they are not taken in order. Pure.

A grant of a paused scope waits; those behind it must not. Kafka keeps one position per partition, so the position
stands at the first waiting grant, and the commit's metadata names the waiting ones up to where the worker has read:
all others in between are taken. It is committed in the transaction that takes them, so it is exact after any crash.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

import msgspec

from sluicegate.schemas.errors import InvariantBroken
from sluicegate.schemas.events import Grant
from sluicegate.streams.engine import Record

WAITING_MAX: Final = 64
"""Grants that one worker holds untaken; then it reads no further. Their offsets fit into 4,096 bytes of metadata."""
_VERSION: Final = "1"


class Waiting(msgspec.Struct, frozen=True):
    """One grant that is read and not taken; ``grant`` is None when the record cannot be read.

    ``misplaced``: it stands in another partition than its key's, so that it could be met by two workers of the pool.
    """

    record: Record
    grant: Grant | None
    misplaced: bool = False


class Intake:
    """The window of one partition, from the first waiting grant to where the worker has read."""

    def __init__(self, position: int, metadata: str = "") -> None:
        """``position`` and ``metadata`` as committed. Raises InvariantBroken for metadata of another kind."""
        self._read_to = position
        self._skip_below, self._but = position, frozenset[int]()
        self.waiting: OrderedDict[int, Waiting] = OrderedDict()
        if metadata:
            self._skip_below, self._but = _parsed(position, metadata)

    def arrive(self, waiting: Waiting) -> bool:
        """Take note of a record; False when it was taken before and must not be judged again."""
        offset = waiting.record.offset
        if offset < self._read_to:
            return False
        self._read_to = offset + 1
        if offset < self._skip_below and offset not in self._but:
            return False
        self.waiting[offset] = waiting
        return True

    def commit_of(self, taken: Iterable[int]) -> tuple[int, str]:
        """The position and metadata to commit when these are taken as well."""
        gone = set(taken)
        left = [offset for offset in self.waiting if offset not in gone]
        # After a restart the window may not be read whole again yet: what was left waiting there still is.
        left += [offset for offset in sorted(self._but) if offset >= self._read_to]
        read_to = max(self._read_to, self._skip_below)
        if not left:
            return read_to, ""
        first = min(left)
        return first, ":".join(
            (_VERSION, str(read_to - first), ",".join(str(offset - first) for offset in sorted(left)))
        )

    def take(self, taken: Iterable[int]) -> None:
        """These are taken: their transaction stands."""
        for offset in taken:
            del self.waiting[offset]


def _parsed(position: int, metadata: str) -> tuple[int, frozenset[int]]:
    try:
        version, length, left = metadata.split(":")
        assert version == _VERSION
        return position + int(length), frozenset(position + int(offset) for offset in left.split(","))
    except (ValueError, AssertionError):
        raise InvariantBroken(
            f"the worker's committed offset carries `{metadata[:40]}`, which this build did not write"
        ) from None
