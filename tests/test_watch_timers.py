"""The pure half of the watch: requests folded to due firings, and what survives a crash between any two writes."""

from __future__ import annotations

import random

import pytest

from sluicegate.processors.timers import Timer, TimerBook, Write, partition_of
from sluicegate.schemas.errors import InvariantBroken


def request(offset: int, fire_at_ms: int, timer_id: str = "t", key: str = "k", owner: str = "desk") -> Timer:
    return Timer(owner, key.encode(), key, timer_id, fire_at_ms, 0, offset)


def store(entries: dict[bytes, bytes], writes: list[Write]) -> None:
    for name, value in writes:
        if value is None:
            entries.pop(name, None)
        else:
            entries[name] = value


def test_a_timer_is_due_from_its_time_on() -> None:
    """Not one millisecond early, and at its time it is."""
    book = TimerBook(0)
    book.fold(request(0, 1_000))
    assert book.due(999) == []
    assert book.due(1_000) == [request(0, 1_000)]


def test_due_timers_come_earliest_first_and_bounded() -> None:
    """A turn takes at most its limit, the most overdue of all."""
    book = TimerBook(0)
    for offset in range(10):
        book.fold(request(offset, 1_000 - offset, timer_id=str(offset)))
    assert [timer.fire_at_ms for timer in book.due(2_000, limit=3)] == [991, 992, 993]


@pytest.mark.parametrize("second_ms", [500, 2_000])
def test_the_same_timer_again_replaces_the_earlier(second_ms: int) -> None:
    """Earlier or later: only the younger request fires."""
    book = TimerBook(0)
    book.fold(request(0, 1_000))
    book.fold(request(1, second_ms))
    assert book.due(10_000) == [request(1, second_ms)]
    assert len(book) == 1


@pytest.mark.parametrize("other", [{"owner": "gate"}, {"key": "l"}, {"timer_id": "u"}])
def test_owner_key_and_id_tell_timers_apart(other: dict[str, str]) -> None:
    """A timer of another owner, key or id replaces nothing."""
    book = TimerBook(0)
    book.fold(request(0, 1_000))
    book.fold(request(1, 1_000, **other))
    assert len(book.due(1_000)) == 2


def test_a_request_read_again_changes_nothing() -> None:
    """What is at or below the folded offset is skipped: nothing to store, nothing to fire twice."""
    book = TimerBook(0)
    book.fold(request(5, 1_000))
    assert book.fold(request(5, 1_000)) == []
    assert book.fold(request(4, 900, timer_id="older")) == []
    assert len(book.due(2_000)) == 1


def test_a_fired_timer_read_again_after_a_restart_does_not_fire_again() -> None:
    """The mark is stored before the deletion, so an old request is known to be old even when its entry is gone."""
    entries: dict[bytes, bytes] = {}
    book = TimerBook(0)
    store(entries, book.fold(request(7, 1_000)))
    store(entries, book.settle(book.due(1_000)))
    again = TimerBook(0)
    again.restore(entries)
    assert again.fold(request(7, 1_000)) == []
    assert again.due(5_000) == []


def test_no_crash_while_settling_makes_a_fired_timer_new() -> None:
    """After any number of the writes of a settlement a request read again is open already, or known to be old."""
    for done in range(4):
        entries: dict[bytes, bytes] = {}
        book = TimerBook(0)
        for offset in range(2):
            store(entries, book.fold(request(offset, 1_000, timer_id=str(offset))))
        writes = book.settle(book.due(1_000))
        assert len(writes) == 3
        store(entries, writes[:done])
        again = TimerBook(0)
        again.restore(entries)
        assert [again.fold(request(offset, 1_000, timer_id=str(offset))) for offset in range(2)] == [[], []]


def test_a_firing_replaced_meanwhile_leaves_the_younger_open() -> None:
    """Settling a firing closes the request it came from, never a younger one of the same timer."""
    book = TimerBook(0)
    book.fold(request(0, 1_000))
    fired = book.due(1_000)
    book.fold(request(1, 2_000))
    assert book.settle(fired) == []
    assert book.due(2_000) == [request(1, 2_000)]


def test_an_early_firing_comes_again() -> None:
    """What the broker appended before its time stays open and is handed out once more."""
    book = TimerBook(0)
    book.fold(request(0, 1_000))
    (timer,) = book.due(1_000)
    book.again(timer, 1_040)
    assert book.due(1_039) == []
    assert book.due(1_040) == [timer]


def test_the_heap_is_bounded_by_the_open_timers() -> None:
    """Ten thousand renewals of one timer leave no ten thousand places behind."""
    book = TimerBook(0)
    for offset in range(10_000):
        book.fold(request(offset, 1_000 + offset))
    assert len(book) == 1
    assert book.heap_size < 100


def test_another_partitions_request_is_refused() -> None:
    """A book never mixes partitions."""
    with pytest.raises(InvariantBroken):
        TimerBook(3).fold(request(0, 1_000))


def test_a_foreign_entry_is_named() -> None:
    """A key in the store that no watch wrote ends the process instead of being guessed at."""
    with pytest.raises(InvariantBroken, match="no watch wrote"):
        partition_of(b"something else")


def test_an_entry_under_the_key_of_another_is_refused() -> None:
    """Stored state that contradicts itself is not used."""
    entries: dict[bytes, bytes] = {}
    store(entries, TimerBook(0).fold(request(1, 1_000)))
    (value,) = entries.values()
    with pytest.raises(InvariantBroken, match="another"):
        TimerBook(0).restore({request(2, 1_000).entry: value})


class World:
    """A log of requests, a store, and a watch that may die between any two effects and begin anew."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.log: list[Timer] = []
        self.entries: dict[bytes, bytes] = {}
        self.committed = 0
        self.fired: list[Timer] = []
        self.now_ms = 0
        self.crashes = 0
        self.begin()

    def begin(self) -> None:
        self.book = TimerBook(0)
        self.position = self.committed
        for write in self.book.restore(self.entries):
            store(self.entries, [write])

    def dies(self) -> bool:
        if self.rng.random() < 0.05:
            self.crashes += 1
            self.begin()
            return True
        return False

    def stored(self, writes: list[Write]) -> bool:
        for write in writes:
            if self.dies():
                return False
            store(self.entries, [write])
        return not self.dies()

    def turn(self) -> None:
        taken = self.log[self.position : self.position + self.rng.randint(0, 4)]
        writes = [write for timer in taken for write in self.book.fold(timer)]
        if not self.stored(writes):
            return
        self.position += len(taken)
        if self.rng.random() < 0.3:
            self.committed = self.position
        due = self.book.due(self.now_ms, limit=3)
        for timer in due:
            if self.dies():
                return
            assert timer.fire_at_ms <= self.now_ms
            self.fired.append(timer)
        self.stored(self.book.settle(due))


@pytest.mark.parametrize("seed", range(60))
def test_no_timer_is_lost_and_only_a_crash_repeats_one(seed: int) -> None:
    """Over crashes between any two effects: the last request of each timer fires, and never before its time."""
    world = World(seed)
    for step in range(200):
        world.now_ms += world.rng.randint(0, 20)
        if step < 120:
            at_ms = world.now_ms + world.rng.randint(-20, 300)
            world.log.append(request(len(world.log), at_ms, timer_id=str(world.rng.randint(0, 20))))
        world.turn()
    world.now_ms += 1_000
    while world.position < len(world.log) or len(world.book):
        world.turn()
    last = {timer.timer_id: timer for timer in world.log}
    assert {timer.timer_id for timer in world.fired} == set(last)
    for timer_id, timer in last.items():
        assert timer in world.fired, timer_id
    repeats = len(world.fired) - len({timer.offset for timer in world.fired})
    assert repeats <= 3 * world.crashes
    assert world.crashes
    marks = [name for name in world.entries if len(name) == 5]
    assert len(world.entries) == len(marks) == 1
