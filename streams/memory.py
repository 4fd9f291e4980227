"""The second engine: the same steps over the same topic table, in memory, in one thread, under injected faults.

It keeps what a step may rely on from Kafka and nothing more: order per partition (with gaps in the offsets, where
transaction markers lie), murmur2 partitioning, append times from the log's own clock, readers that stop at the first
record of an open transaction, and outputs, state and offsets that appear together or not at all. Everything is
decided by the caller, a script or a seed; two runs with the same seed give the same bytes.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import Any, Final, Generic, Literal, TypeVar

import msgspec

from sluicegate.schemas.errors import InvariantBroken, SluicegateError, StaleControl
from sluicegate.streams.engine import (
    ControlSource,
    Headers,
    Out,
    Record,
    Step,
    check_out,
    check_state,
    check_writer,
)
from sluicegate.streams.partitioner import partition_for
from sluicegate.streams.topics import Application, spec_of

C = TypeVar("C")

Fault = Literal["crash", "rebalance", "stale_control", "clock_jump", "duplicate", "delay"]
"""``crash``, ``rebalance``, ``stale_control`` and ``clock_jump`` strike an engine between two effects;
``duplicate`` and ``delay`` strike a record that a producer outside the engines appends."""

EPOCH_MS: Final = 1_767_225_600_000
"""Where the log's clock begins unless told otherwise: 2026-01-01T00:00:00Z."""
JUMP_MS_MAX: Final = 3_600_000
DELAY_MS_MAX: Final = 5_000
TURNS_MAX: Final = 1_000_000


class Crashed(SluicegateError):
    """An injected crash: what the engine had not committed is gone; `MemoryEngine.restart` begins anew."""


class Faults:
    """Says at each effect, numbered from 0, whether something goes wrong there.

    ``script`` names single effects; ``rates`` are probabilities drawn from ``seed``. ``shuffled`` lets the engine
    meet its topics in any order that keeps each partition's own.
    """

    def __init__(
        self,
        *,
        script: Mapping[int, Fault] | None = None,
        seed: int = 0,
        rates: Mapping[Fault, float] | None = None,
        shuffled: bool = False,
    ) -> None:
        self._script = dict(script or {})
        self._rates = dict(rates or {})
        self._random = random.Random(seed)  # noqa: S311  # seeded, so that a run comes again
        self._shuffled = shuffled
        self.effects = 0
        self.struck: list[tuple[int, Fault]] = []

    def strike(self, *possible: Fault) -> Fault | None:
        """Counts one effect; the fault that strikes it, if any."""
        effect, self.effects = self.effects, self.effects + 1
        found = self._script.get(effect)
        if found not in possible:
            found = next((f for f in possible if f in self._rates and self._random.random() < self._rates[f]), None)
        if found is not None:
            self.struck.append((effect, found))
        return found

    def amount(self, most: int) -> int:
        return self._random.randint(1, most)

    def jump_ms(self) -> int:
        return self._random.choice((-1, 1)) * self.amount(JUMP_MS_MAX)

    def choose(self, count: int) -> int:
        """Which of so many readable partitions comes next; the one with the oldest record is number 0."""
        return self._random.randrange(count) if self._shuffled else 0


class _Entry(msgspec.Struct):
    """One offset of a partition: a record, or (``record`` None) a marker or an aborted record."""

    order: int
    record: Record | None
    visible_at_ms: int = 0
    open: bool = False


class _Group:
    """What Kafka keeps of a consumer group, and the state its changelog keeps."""

    def __init__(self) -> None:
        self.generation = 0
        self.members: list[str] = []
        self.offsets: dict[tuple[str, int], int] = {}
        self.state: dict[tuple[int, bytes], dict[str, bytes]] = {}

    def owner(self, partition: int, partitions: int) -> str:
        """Equal partition numbers of all topics have one owner; every rebalance shifts the ranges by one member."""
        at = partition * len(self.members) // partitions
        return self.members[(at + self.generation) % len(self.members)]


class MemoryLog:
    """Topics, partitions, consumer groups and the append clock."""

    def __init__(self, *, partitions: int = 3, clock_ms: int = EPOCH_MS, faults: Faults | None = None) -> None:
        self.partitions = partitions
        self.clock_ms = clock_ms
        self._faults = faults or Faults()
        self._entries: dict[tuple[str, int], list[_Entry]] = {}
        self._order = 0
        self._groups: dict[str, _Group] = {}

    def advance(self, ms: int) -> None:
        """Moves the clock; a negative amount is a clock that was set back."""
        self.clock_ms += ms

    def produce(
        self, topic: str, key: bytes, value: bytes, headers: Headers = (), *, partition: int | None = None
    ) -> Record:
        """Appends as a producer outside the engines; ``partition`` misroutes on purpose. Returns what was appended."""
        fault = self._faults.strike("duplicate", "delay")
        out = Out(topic, key, value, headers)
        visible_at_ms = self.clock_ms + self._faults.amount(DELAY_MS_MAX) if fault == "delay" else 0
        record = self._append(out, partition, visible_at_ms=visible_at_ms)
        if fault == "duplicate":
            self._append(out, partition)
        return record

    def begin(self) -> ForeignTransaction:
        """An open transaction of some other writer; readers stop at its first record until it ends."""
        return ForeignTransaction(self)

    def records(self, topic: str) -> list[Record]:
        """All committed records of a topic, in the order of their appending."""
        found = [
            entry
            for at, entries in self._entries.items()
            if at[0] == topic
            for entry in entries
            if entry.record is not None and not entry.open
        ]
        return [entry.record for entry in sorted(found, key=lambda entry: entry.order) if entry.record is not None]

    def read(self, topic: str, partition: int, offset: int) -> Record | None:
        """The first readable record at or after an offset."""
        found = self._next(topic, partition, offset)
        return None if found is None else found.record

    def group(self, application: Application) -> _Group:
        return self._groups.setdefault(application.name, _Group())

    def next_visible_ms(self) -> int | None:
        """When the first delayed record appears, if one is on its way."""
        waiting = [
            entry.visible_at_ms
            for entries in self._entries.values()
            for entry in entries
            if entry.visible_at_ms > self.clock_ms
        ]
        return min(waiting, default=None)

    def count_of(self, topic: str) -> int:
        return 1 if spec_of(topic).single else self.partitions

    def _next(self, topic: str, partition: int, offset: int) -> _Entry | None:
        entries = self._entries.get((topic, partition), [])
        for at in range(offset, len(entries)):
            entry = entries[at]
            if entry.open or entry.visible_at_ms > self.clock_ms:
                return None
            if entry.record is not None:
                return entry
        return None

    def _append(
        self, out: Out, partition: int | None = None, *, visible_at_ms: int = 0, is_open: bool = False
    ) -> Record:
        check_out(out)
        at = partition_for(out.key, self.count_of(out.topic)) if partition is None else partition
        entries = self._entries.setdefault((out.topic, at), [])
        self.clock_ms += 1
        record = Record(out.topic, at, len(entries), out.key, out.value, out.headers, self.clock_ms)
        entries.append(_Entry(self._order, record, visible_at_ms, is_open))
        self._order += 1
        return record

    def _close(self, written: list[Record], *, committed: bool) -> None:
        """Ends a transaction: its records appear or vanish, and each partition it touched gets a marker."""
        for record in written:
            entry = self._entries[record.topic, record.partition][record.offset]
            entry.open = False
            entry.record = entry.record if committed else None
        for topic, partition in dict.fromkeys((record.topic, record.partition) for record in written):
            self._entries[topic, partition].append(_Entry(self._order, None))


class ForeignTransaction:
    """Records of a writer that has not yet committed."""

    def __init__(self, log: MemoryLog) -> None:
        self._log = log
        self._written: list[Record] = []

    def produce(self, topic: str, key: bytes, value: bytes, headers: Headers = ()) -> Record:
        record = self._log._append(Out(topic, key, value, headers), is_open=True)
        self._written.append(record)
        return record

    def commit(self) -> None:
        self._log._close(self._written, committed=True)
        self._written = []

    def abort(self) -> None:
        self._log._close(self._written, committed=False)
        self._written = []


class _Pending:
    """What a transaction will make visible."""

    def __init__(self, generation: int) -> None:
        self.generation = generation
        self.outs: list[Out] = []
        self.offsets: dict[tuple[str, int], int] = {}
        self.state: dict[tuple[int, bytes], dict[str, bytes | None]] = {}


class _MemoryStore:
    """One key's entries: the transaction's changes over what is committed."""

    def __init__(self, committed: Mapping[str, bytes], changes: dict[str, bytes | None]) -> None:
        self._committed = committed
        self._changes = changes

    def get(self, name: str) -> bytes | None:
        return self._changes[name] if name in self._changes else self._committed.get(name)

    def set(self, name: str, value: bytes) -> None:
        check_state(name, value)
        self._changes[name] = bytes(value)

    def delete(self, name: str) -> None:
        self._changes[name] = None


class MemoryEngine(Generic[C]):
    """One instance of one application; several instances share its partitions as a consumer group does."""

    def __init__(
        self,
        log: MemoryLog,
        application: Application,
        step: Step[C],
        control: ControlSource[C],
        *,
        instance: str = "0",
        faults: Faults | None = None,
        batch_records: int = 100,
    ) -> None:
        self._log = log
        self._application = application
        self._step = step
        self._control = control
        self._instance = instance
        self._faults = faults or Faults()
        self._batch_records = batch_records
        self._group = log.group(application)
        if instance in self._group.members:
            raise InvariantBroken(f"instance `{instance}` of `{application.name}` already runs; choose another name")
        self._group.members = sorted([*self._group.members, instance])
        self._group.generation += 1
        self.dead = False

    def leave(self) -> None:
        """Leaves the group: the other instances take over from what is committed."""
        self._group.members.remove(self._instance)
        self._group.generation += 1
        self.dead = True

    def restart(self) -> None:
        """A new process under the same name; it begins at what is committed."""
        self.dead = False

    def run_once(self) -> int:
        """One transaction over at most ``batch_records`` records; how many were committed.

        Raises Crashed or StaleControl where a fault strikes, or what the step raised; the engine is then dead
        until `restart`. A transaction that a rebalance overtook is fenced: it commits nothing and returns 0.
        """
        if self.dead:
            raise Crashed(f"instance `{self._instance}` is dead; restart it first")
        try:
            return self._transaction()
        except Exception:
            self.dead = True
            raise

    def run_until_idle(self) -> None:
        """`run_until_idle` for this one engine."""
        run_until_idle(self._log, self)

    @property
    def lag_records(self) -> int:
        """Records that are readable now and not yet committed, over all partitions of the group."""
        return sum(1 for _ in self._readable({}, owned_only=False))

    def _transaction(self) -> int:
        pending = _Pending(self._group.generation)
        count = 0
        while count < self._batch_records:
            readable = sorted(self._readable(pending.offsets), key=lambda entry: entry.order)
            if not readable:
                break
            record = readable[self._faults.choose(len(readable))].record
            assert record is not None
            self._effect()
            self._process(record, pending)
            count += 1
        if not count:
            return 0
        self._effect()
        if pending.generation != self._group.generation:
            return 0
        self._commit(pending)
        self._effect()
        return count

    def _readable(self, read: Mapping[tuple[str, int], int], *, owned_only: bool = True) -> Iterator[_Entry]:
        for topic in self._application.inputs:
            for partition in range(self._log.count_of(topic)):
                if owned_only and self._group.owner(partition, self._log.partitions) != self._instance:
                    continue
                at = topic, partition
                entry = self._log._next(topic, partition, read.get(at, self._group.offsets.get(at, 0)))
                if entry is not None:
                    yield entry

    def _process(self, record: Record, pending: _Pending) -> None:
        key = record.partition, record.key
        store = _MemoryStore(self._group.state.get(key, {}), pending.state.setdefault(key, {}))
        for out in self._step(store, record, self._control.current()):
            check_writer(self._application.name, out.topic)
            check_out(out)
            self._effect()
            pending.outs.append(out)
        pending.offsets[record.topic, record.partition] = record.offset + 1

    def _commit(self, pending: _Pending) -> None:
        self._log._close([self._log._append(out, is_open=True) for out in pending.outs], committed=True)
        for key, changes in pending.state.items():
            entries = {**self._group.state.get(key, {}), **changes}
            self._group.state[key] = {name: value for name, value in entries.items() if value is not None}
        self._group.offsets.update(pending.offsets)

    def _effect(self) -> None:
        fault = self._faults.strike("crash", "rebalance", "stale_control", "clock_jump")
        if fault == "crash":
            raise Crashed(f"instance `{self._instance}` crashed at effect {self._faults.effects - 1}, as injected")
        if fault == "stale_control":
            raise StaleControl("control could not be confirmed, as injected")
        if fault == "rebalance":
            self._group.generation += 1
        elif fault == "clock_jump":
            self._log.advance(self._faults.jump_ms())


def run_until_idle(log: MemoryLog, *engines: MemoryEngine[Any], turns_max: int = TURNS_MAX) -> int:
    """Runs engines in turn, restarts those a fault ended, lets delayed records arrive; the number of restarts.

    Raises what a step raised, and InvariantBroken when the engines do not come to rest in ``turns_max`` turns.
    """
    restarts = 0
    for _ in range(turns_max):
        busy = False
        for engine in engines:
            if engine.dead:
                engine.restart()
            try:
                busy = engine.run_once() > 0 or engine.lag_records > 0 or busy
            except (Crashed, StaleControl):
                restarts += 1
                busy = True
        if busy:
            continue
        later_ms = log.next_visible_ms()
        if later_ms is None:
            return restarts
        log.advance(later_ms - log.clock_ms)
    raise InvariantBroken(f"the engines did not come to rest in {turns_max} turns; a step may answer itself")
