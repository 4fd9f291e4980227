"""The pure half of the watch: requests folded to open timers, and which of them are due. No clock, no I/O.

One `TimerBook` holds the open timers of one partition of `timer.requests`. What it must not forget is a list of
entries, each under a key that names the very request it came from (partition and offset), so state and source offset
are stored together by construction, writing an entry twice changes nothing, and deleting one can never delete a
younger request of the same timer. A firing deletes its entry; before that, the mark (how far the partition has been
folded) is written, so that a request which is read again after a crash is known to be old.
"""

from __future__ import annotations

import heapq
import struct
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from sluicegate.schemas.errors import InvariantBroken

TURN_TIMERS_MAX: Final = 500
"""How many timers one turn of the watch fires at most."""
_ENTRY: Final = struct.Struct(">cIQ")
_MARK: Final = struct.Struct(">cI")
_ENTRY_KIND: Final = b"r"
_MARK_KIND: Final = b"m"
_HEAP_SLACK: Final = 64

TimerName = tuple[str, bytes, str]
"""Owner, key and timer id: the same name again replaces what was asked before."""
Write = tuple[bytes, bytes | None]
"""One entry to be stored (key, value), or deleted (key, None). They are stored in the order given."""


class Timer(msgspec.Struct, frozen=True, array_like=True):
    """One open timer. ``record_key`` is the key of the request's record, under which the firing is written."""

    owner: str
    record_key: bytes
    key: str
    timer_id: str
    fire_at_ms: int
    partition: int
    offset: int

    @property
    def name(self) -> TimerName:
        """What identifies it among all timers."""
        return (self.owner, self.record_key, self.timer_id)

    @property
    def entry(self) -> bytes:
        """The key its entry is stored under."""
        return _ENTRY.pack(_ENTRY_KIND, self.partition, self.offset)


def partition_of(entry: bytes) -> int:
    """The partition that a stored entry belongs to; raises InvariantBroken for a key that is none of ours."""
    if len(entry) == _ENTRY.size and entry[:1] == _ENTRY_KIND:
        return int(_ENTRY.unpack(entry)[1])
    if len(entry) == _MARK.size and entry[:1] == _MARK_KIND:
        return int(_MARK.unpack(entry)[1])
    raise InvariantBroken(f"the timers' store holds the key `{entry.hex()}`, which no watch wrote; find out who did")


class TimerBook:
    """The open timers of one partition. Every method that changes it returns what must be stored."""

    def __init__(self, partition: int) -> None:
        self.partition = partition
        self.folded = -1
        """The highest offset folded here."""
        self._stored_mark = -1
        self._open: dict[TimerName, Timer] = {}
        self._heap: list[tuple[int, int, TimerName]] = []

    def __len__(self) -> int:
        return len(self._open)

    @property
    def heap_size(self) -> int:
        """How many places the heap takes; bounded by twice the open timers and a little."""
        return len(self._heap)

    def fold(self, timer: Timer) -> list[Write]:
        """Take a request in; nothing to store when it is old. Raises InvariantBroken for another partition's."""
        if timer.partition != self.partition:
            raise InvariantBroken(f"a request of partition {timer.partition} came to the book of {self.partition}")
        if timer.offset <= self.folded:
            return []
        self.folded = timer.offset
        replaced = self._put(timer)
        writes: list[Write] = [(timer.entry, msgspec.msgpack.encode(timer))]
        if replaced is not None:
            writes.append((replaced.entry, None))
        return writes

    def restore(self, entries: Mapping[bytes, bytes]) -> list[Write]:
        """Take over what was stored for this partition; of two entries of one timer the younger counts.

        Returns the deletions that a crash left undone.
        """
        leftovers: list[Write] = []
        for entry in sorted(entries):  # by offset, so that the younger comes later
            value = entries[entry]
            if entry[:1] == _MARK_KIND:
                self._stored_mark = int.from_bytes(value, "big", signed=True)
                self.folded = max(self.folded, self._stored_mark)
                continue
            timer = msgspec.msgpack.decode(value, type=Timer)
            if timer.entry != entry:
                raise InvariantBroken(f"the entry `{entry.hex()}` holds the timer of another; find out who wrote it")
            self.folded = max(self.folded, timer.offset)
            replaced = self._put(timer)
            if replaced is not None:
                leftovers.append((replaced.entry, None))
        return leftovers

    def due(self, now_ms: int, limit: int = TURN_TIMERS_MAX) -> list[Timer]:
        """The timers whose time has come, earliest first. They stay open until `settle`."""
        found: list[Timer] = []
        while self._heap and len(found) < limit and self._heap[0][0] <= now_ms:
            _, offset, name = heapq.heappop(self._heap)
            timer = self._open.get(name)
            if timer is not None and timer.offset == offset:
                found.append(timer)
        return found

    def again(self, timer: Timer, at_ms: int) -> None:
        """Let a timer that `due` handed out come again at ``at_ms``: its firing was appended before its time."""
        if self._open.get(timer.name) == timer:
            heapq.heappush(self._heap, (at_ms, timer.offset, timer.name))

    def settle(self, fired: Iterable[Timer]) -> list[Write]:
        """Close timers whose firing is in the log: first the mark, then their deletions."""
        deletions: list[Write] = []
        for timer in fired:
            if self._open.get(timer.name) == timer:
                del self._open[timer.name]
                deletions.append((timer.entry, None))
        if not deletions or self._stored_mark == self.folded:
            return deletions
        self._stored_mark = self.folded
        mark = (_MARK.pack(_MARK_KIND, self.partition), self.folded.to_bytes(8, "big", signed=True))
        return [mark, *deletions]

    def next_at_ms(self) -> int | None:
        """When to look again; None when nothing is open. It may be too early, never too late."""
        return self._heap[0][0] if self._heap else None

    def _put(self, timer: Timer) -> Timer | None:
        replaced = self._open.get(timer.name)
        self._open[timer.name] = timer
        heapq.heappush(self._heap, (timer.fire_at_ms, timer.offset, timer.name))
        if len(self._heap) > 2 * len(self._open) + _HEAP_SLACK:
            self._heap = [(other.fire_at_ms, other.offset, name) for name, other in self._open.items()]
            heapq.heapify(self._heap)
        return replaced
