from __future__ import annotations

import hashlib
import json
from typing import Final

from fixtures_clickhouse import SECRET, project, record, rows, sample

from sluicegate.infra.clickhouse import VIEWS, ddl
from sluicegate.schemas.events import EVENT_TYPES
from sluicegate.streams.clickhouse import ReadingRoom
from sluicegate.streams.tables import table_name, tables
from sluicegate.streams.topics import TOPICS

TABLE_NAMES: Final = """
    acknowledged approval_requests attempt_ended attempt_opened closed commands dead_letters decisions ended
    grant_refused granted grants held incidents intents lapsed noted outputs progressed refused repeated
    request_opened request_withdrawn resolutions resolved results snapshot_published started timer_fired
    timer_requests verdict_accepted verdicts withdrawals
""".split()
PAYLOAD: Final = "DE02-TOP-SECRET"


def topic_of(event: str) -> str:
    return next(f"{spec.name}.default" if spec.per else spec.name for spec in TOPICS if event in spec.types)


def test_every_event_class_has_a_table() -> None:
    """Each event class has one typed table, named after it."""
    assert set(TABLE_NAMES) <= {table.name for table in tables().values()}
    assert len({table.name for table in tables().values()}) == len(EVENT_TYPES)


def test_an_event_becomes_a_typed_row_and_a_row_of_events(room: ReadingRoom) -> None:
    """Every class is taken by ClickHouse with all its fields, and its bytes' hash stands in `events`."""
    given = {event: record(topic_of(event), at, sample(event)) for at, event in enumerate(sorted(EVENT_TYPES))}
    project(room, given.values())
    for event, one in given.items():
        found = rows(room, f"SELECT log_topic, log_partition, log_offset FROM {table_name(event)}")
        assert found == [[one.topic, 0, one.offset]], event
    found = rows(room, "SELECT topic, offset, key, type, hash, size_bytes FROM events ORDER BY offset")
    assert found == [
        [one.topic, one.offset, "agent-1", event, hashlib.sha256(one.value).hexdigest(), len(one.value)]
        for event, one in given.items()
    ]


def test_the_time_of_a_row_is_the_brokers(room: ReadingRoom) -> None:
    """A row's timestamp is the record's append time, to the millisecond, in UTC."""
    project(room, [record("job.intents", 3, sample("Intent"))])
    assert rows(room, "SELECT timestamp FROM events") == [["2026-01-01T00:00:03.000Z"]]
    assert rows(room, "SELECT log_timestamp FROM intents") == [["2026-01-01T00:00:03.000Z"]]


def test_sealed_bytes_are_stored_nowhere(room: ReadingRoom) -> None:
    """Of an envelope algorithm, key id and size are kept, in the columns and in the body, and never its bytes."""
    fields = {
        "Intent": "payload",
        "Grant": "payload",
        "ApprovalRequest": "payload",
        "Output": "output",
        "Result": "output",
    }
    project(room, [record(topic_of(event), 0, sample(event)) for event in fields])
    for event, field in fields.items():
        stored = json.dumps([rows(room, f"SELECT * FROM {table}") for table in ("events", table_name(event))])
        assert PAYLOAD not in stored, event
        assert SECRET.hex() not in stored.lower(), event
        kept = rows(room, f"SELECT {field}_algorithm, {field}_key_id, {field}_sealed_bytes FROM {table_name(event)}")
        assert kept == [["some algorithm", "some key_id", len(SECRET)]], event
        body = json.loads(rows(room, f"SELECT body FROM events WHERE type = '{event}'")[0][0])
        assert body[field] == {"algorithm": "some algorithm", "key_id": "some key_id", "size_bytes": len(SECRET)}, event


def test_a_dead_letter_keeps_no_value(room: ReadingRoom) -> None:
    """A dead letter's row says whose it is and why; what it holds stays in the log."""
    project(room, [record("dead.letters", 0, sample("DeadLetter", key=b"agent-1"))])
    assert rows(room, "SELECT application, reason, value_sealed_bytes FROM dead_letters") == [
        ["some application", "some reason", len(SECRET)]
    ]
    assert PAYLOAD not in rows(room, "SELECT body FROM events")[0][0]


def test_a_missing_envelope_is_null(room: ReadingRoom) -> None:
    """A result without an output has null where the envelope would be described."""
    project(room, [record("job.results", 0, sample("Result", output=None))])
    assert rows(room, "SELECT output_algorithm, output_sealed_bytes FROM results") == [[None, None]]


def test_a_missing_record_is_null_and_its_lists_are_empty(room: ReadingRoom) -> None:
    """A decision of which nothing is only observed has null and empty lists where that would be described."""
    project(room, [record("job.decisions", 0, sample("Decision", observed=None))])
    assert rows(room, "SELECT observed_decision, `observed_rules.id` FROM decisions") == [[None, []]]


def test_what_cannot_be_decoded_is_an_event_too(room: ReadingRoom) -> None:
    """Undecodable bytes keep their place, key and hash in `events`, and get no typed row."""
    project(room, [record("job.intents", 0, b"\x00not avro", key="agent-1"), record("job.intents", 1, b"")])
    found = rows(room, "SELECT offset, type, key, hash FROM events ORDER BY offset")
    assert [row[:3] for row in found] == [[0, "undecodable", "agent-1"], [1, "undecodable", "agent-1"]]
    assert found[0][3] == hashlib.sha256(b"\x00not avro").hexdigest()
    assert rows(room, "SELECT count() FROM intents") == [[0]]


def test_hostile_text_survives(room: ReadingRoom) -> None:
    """Quotes, backslashes, tabs, line ends, zero bytes and emoji come back as they were."""
    text = "'; DROP TABLE events; -- \\ \t \n \x00 \u202e \U0001f512"
    project(room, [record("job.decisions", 0, sample("Decision", reason=text), key="k\xff")])
    assert rows(room, "SELECT reason FROM decisions") == [[text]]


def test_the_ddl_may_run_again(room: ReadingRoom) -> None:
    """Preparing a store that is in use keeps what it holds."""
    project(room, [record("job.decisions", 0, sample("Decision"))])
    room.prepare(ddl(room.database))
    assert rows(room, "SELECT count() FROM decisions") == [[1]]


def test_a_field_that_is_new_gets_its_column(room: ReadingRoom) -> None:
    """A store made before a schema had a field takes it: old rows have the default, new ones the value."""
    project(room, [record("job.decisions", 0, sample("Decision"))])
    for column in ("reason", "on_behalf_of", "facts.source"):
        room._writer.command(f"ALTER TABLE `{room.database}`.decisions DROP COLUMN `{column}`")
    room.prepare(ddl(room.database))
    project(room, [record("job.decisions", 1, sample("Decision"))])
    found = rows(room, "SELECT reason, on_behalf_of, `facts.source` FROM decisions ORDER BY log_offset")
    assert found == [["", None, [""]], ["some reason", "some on_behalf_of", ["some source"]]]


def test_look_ups_by_job_have_a_skip_index(room: ReadingRoom) -> None:
    """Every table that names a job has a bloom filter of one in a thousand, granularity 1, on it."""
    found = room.ask_engine(
        "SELECT table, type_full, granularity FROM system.data_skipping_indices "
        f"WHERE database = '{room.database}' AND expr = 'job_id'"
    )
    named = {table.name for table in tables().values() if any(column.name == "job_id" for column in table.columns)}
    assert {(kind, granularity) for _, kind, granularity in found} == {("bloom_filter(0.001)", 1)}
    assert {table for table, _, _ in found} == named | {"events"}


def test_views_answer_on_an_empty_store(room: ReadingRoom) -> None:
    """A view over nothing is empty and has its columns."""
    for view in VIEWS:
        found = room.read(f"SELECT * FROM {view}")
        assert found.rows == [], view
        assert found.columns, view
