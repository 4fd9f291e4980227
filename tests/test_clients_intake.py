from __future__ import annotations

import random

import pytest
from clients_events import grant

from sluicegate.clients.intake import WAITING_MAX, Intake, Waiting
from sluicegate.schemas.errors import InvariantBroken
from sluicegate.streams.engine import Record


def at(offset: int) -> Waiting:
    return Waiting(Record("job.grants.default", 0, offset, b"j1", b"", (), 0), grant(grant_id=f"g{offset}"))


def test_position_passes_what_is_taken_in_order() -> None:
    """Grants taken in order move the position and need no metadata."""
    intake = Intake(5)
    intake.arrive(at(5))
    assert intake.commit_of([5]) == (6, "")


def test_position_stays_at_a_waiting_grant() -> None:
    """A grant of a paused scope keeps the position, and those behind it are taken all the same."""
    intake = Intake(5)
    for offset in (5, 6, 7):
        intake.arrive(at(offset))
    position, metadata = intake.commit_of([6])
    assert position == 5
    anew = Intake(position, metadata)
    assert [offset for offset in (5, 6, 7) if anew.arrive(at(offset))] == [5, 7]


def test_commit_while_the_window_is_read_again_forgets_nothing() -> None:
    """A worker that restarts and commits before it has read its window whole takes no grant twice and loses none."""
    first = Intake(0)
    for offset in range(6):
        first.arrive(at(offset))
    again = Intake(*first.commit_of([1, 2, 4]))  # 0, 3 and 5 wait
    again.arrive(at(0))
    third = Intake(*again.commit_of([0]))
    assert [offset for offset in range(6) if third.arrive(at(offset))] == [3, 5]


def test_record_met_twice_is_not_judged_twice() -> None:
    """A record that comes again after a seek is passed over."""
    intake = Intake(5)
    assert intake.arrive(at(5))
    assert not intake.arrive(at(5))


def test_metadata_of_the_fullest_window_fits_the_broker() -> None:
    """Kafka takes at most 4,096 bytes of metadata with an offset."""
    intake = Intake(10**15)
    for offset in range(WAITING_MAX):
        intake.arrive(at(10**15 + offset * 10**9))
    assert len(intake.commit_of([10**15 + 10**9])[1]) < 4_096


def test_metadata_of_another_hand_ends_the_worker() -> None:
    """Who cannot read which grants are taken must not guess."""
    with pytest.raises(InvariantBroken, match="did not write"):
        Intake(5, "something else")


def test_any_order_of_taking_and_restarting_takes_each_grant_once() -> None:
    """Whatever waits, whatever restarts (seeded): each grant is taken exactly once."""
    for seed in range(200):
        chance = random.Random(seed)
        log = sorted(chance.sample(range(100), 30))
        position, metadata, taken = 0, "", list[int]()
        while len(taken) < len(log):
            intake = Intake(position, metadata)
            for offset in (found for found in log if found >= position):
                if intake.arrive(at(offset)) and chance.random() < 0.5:
                    some = [found for found in intake.waiting if chance.random() < 0.4]
                    if some:
                        position, metadata = intake.commit_of(some)
                        intake.take(some)
                        taken += some
                if chance.random() < 0.1:
                    break
        assert sorted(taken) == log, f"seed {seed}"
