from __future__ import annotations

import pytest
from fixtures_clickhouse import project, record, rows, sample

from sluicegate.streams.clickhouse import ReadingRoom
from sluicegate.streams.engine import Record

LOG = [
    *[record("job.intents", at, sample("Intent", job_id=f"j{at}")) for at in range(5)],
    *[record("job.decisions", at, sample("Decision", job_id=f"j{at}")) for at in (0, 2, 4)],
    *[record("job.decisions", at, sample("Granted", job_id=f"j{at}")) for at in (1, 3)],
    *[record("job.intents", at, sample("Intent", job_id=f"p{at}"), partition=1) for at in range(3)],
    record("job.intents", 5, b"junk"),
]


def counts(room: ReadingRoom) -> list[int]:
    """Plain counts, no FINAL: events, intents, decisions, granted."""
    return [rows(room, f"SELECT count() FROM {table}")[0][0] for table in ("events", "intents", "decisions", "granted")]


@pytest.mark.parametrize("written", [0, 1, 2, 3, 4])
def test_a_crash_between_any_two_writes_doubles_and_loses_nothing(room: ReadingRoom, written: int) -> None:
    """Whatever of a batch was written when the process died, the next one brings every count to the log's."""
    project(room, LOG, until=written)
    project(room, LOG)
    assert counts(room) == [len(LOG), 8, 3, 2]


def test_a_second_crash_in_the_same_place_is_no_different(room: ReadingRoom) -> None:
    """Dying twice before `events` is written leaves single rows all the same."""
    project(room, LOG, until=2)
    project(room, LOG, until=3)
    project(room, LOG)
    assert counts(room) == [len(LOG), 8, 3, 2]


def test_a_crash_in_a_later_batch_spares_the_earlier(room: ReadingRoom) -> None:
    """Typed rows ahead of `events` are known by their place; those below it are never asked about again."""
    half = [one for one in LOG if one.offset < 2]
    project(room, half)
    project(room, LOG, until=2)
    assert {table: len(places) for table, places in room.resume().ahead.items()} == {"decisions": 2, "granted": 1}
    project(room, LOG)
    assert counts(room) == [len(LOG), 8, 3, 2]


def test_the_whole_log_again_changes_nothing(room: ReadingRoom) -> None:
    """Projecting what is projected writes no row."""
    project(room, LOG)
    project(room, LOG)
    assert counts(room) == [len(LOG), 8, 3, 2]
    assert room.resume().next_offsets == {("job.intents", 0): 6, ("job.intents", 1): 3, ("job.decisions", 0): 5}


def test_places_are_told_apart_by_topic_partition_and_offset(room: ReadingRoom) -> None:
    """The same offset in another partition or topic is another record."""

    def at(partition: int, topic: str) -> Record:
        return record(topic, 0, sample("Noted"), partition=partition)

    project(room, [at(0, "job.decisions")], until=1)
    project(room, [at(0, "job.decisions"), at(1, "job.decisions"), at(0, "job.results")])
    assert rows(room, "SELECT count() FROM noted") == [[3]]
